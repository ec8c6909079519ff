//! Where the bytes come from: a Hub and a registry on loopback, with a model and an image made on
//! the spot, behind one shaped link. The link is the node's: both servers share its rate, and each
//! connection has a cap of its own, as a CDN gives it.

use anyhow::{Context, Result};
use headstart_core::quantity::Bytes;
use headstart_testbed::hub::{self, Hub};
use headstart_testbed::image::{self, Image, Layer};
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{self, Model};
use headstart_testbed::registry::{self, Registry};
use headstart_testbed::serve::Door;

use super::scenario::{SHARDS, Scales, Scenario};

/// Each layer's share of an image, in the proportions of a vLLM image: base, tools, Python, CUDA,
/// torch, its libraries, vLLM.
const SHARES: [f64; 7] = [0.01, 0.04, 0.06, 0.31, 0.26, 0.20, 0.12];

/// Bytes of a typical file of an image.
const FILE: u64 = 128 << 10;

/// Everything a node can fetch.
pub(crate) struct Cloud {
    hub: Hub,
    registry: Registry,
    pub(crate) today: Contents,
    pub(crate) headstart: Contents,
    pub(crate) empty: Contents,
}

/// What one deploy needs, as a pod names it.
pub(crate) struct Contents {
    pub(crate) image: String,
    pub(crate) model: String,
}

/// Whether two nodes may be given the same image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Images {
    /// Each has a store of its own.
    Shared,
    /// They share one runtime: what one fetched, the other would find.
    Distinct,
}

impl Cloud {
    /// Makes the bytes of `scenario` and serves them.
    pub(crate) async fn make(
        scenario: &Scenario,
        scales: Scales,
        seed: u64,
        images: Images,
    ) -> Result<Self> {
        let network = scenario.network;
        let link = Link::new(Shape {
            total: Some(scales.rate(network.link)),
            per_connection: Some(scales.rate(network.per_connection)),
            ..Shape::default()
        });
        let door = || Door {
            link: link.clone(),
            ..Door::default()
        };
        let hub = Hub::start(hub::Options {
            hub: door(),
            cdn: door(),
            ..hub::Options::default()
        });
        let hub = hub.await.context("cannot start the local Hub")?;
        let registry = Registry::start(registry::Options {
            registry: door(),
            ..registry::Options::default()
        });
        let registry = registry.await.context("cannot start the local registry")?;
        let (image, weights) = (scales.bytes(scenario.image), scales.bytes(scenario.model));
        let made = tokio::task::spawn_blocking(move || {
            let mut made = vec![
                ("vllm", "1", image_of(image, seed)?),
                ("empty", "1", image_of(Bytes(0), !seed)?),
            ];
            if images == Images::Distinct {
                made.push(("vllm", "2", image_of(image, seed.wrapping_add(1))?));
            }
            std::io::Result::Ok((made, model_of(weights, seed)?, model_of(Bytes(0), seed)?))
        });
        let made = made
            .await
            .context("making the image and the model broke off")?;
        let (images_made, model, few) = made.context("cannot make the image and the model")?;
        hub.commit("demo/model-8b", "main", model.files);
        hub.commit("demo/model-empty", "main", few.files);
        for (name, tag, image) in &images_made {
            registry.put(&format!("demo/{name}"), tag, image);
        }
        let contents = |image: &str, model: &str| Contents {
            image: format!("{}/demo/{image}", registry.host()),
            model: format!("demo/{model}"),
        };
        let second = match images {
            Images::Shared => "vllm:1",
            Images::Distinct => "vllm:2",
        };
        Ok(Self {
            today: contents("vllm:1", "model-8b"),
            headstart: contents(second, "model-8b"),
            empty: contents("empty:1", "model-empty"),
            hub,
            registry,
        })
    }

    /// All images, as pods name them.
    pub(crate) fn images(&self) -> Vec<String> {
        let contents = [&self.today, &self.headstart, &self.empty];
        contents.map(|contents| contents.image.clone()).into()
    }

    /// `HF_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        self.hub.endpoint()
    }

    /// Hosts that speak plain HTTP.
    pub(crate) fn plain_http(&self) -> Vec<String> {
        let host = |origin: String| origin.trim_start_matches("http://").to_owned();
        let hub = [self.hub.endpoint(), self.hub.cdn_endpoint()].map(host);
        hub.into_iter().chain([self.registry.host()]).collect()
    }
}

/// An image of about so many compressed bytes.
fn image_of(bytes: Bytes, seed: u64) -> std::io::Result<Image> {
    let make = |unpacked: f64| {
        let layer = |(number, share): (usize, &f64)| {
            let bytes = (unpacked * share) as u64;
            Layer::Tree {
                seed: seed.wrapping_add((number as u64) << 32),
                bytes,
                files: (bytes / FILE).max(2),
            }
        };
        Image::make(&image::Recipe {
            layers: SHARES.iter().enumerate().map(layer).collect(),
            ..image::Recipe::trees(seed, 0, 0)
        })
    };
    // How well gzip does with these files is known once it has been done.
    let first = make(bytes.0 as f64)?;
    let compressed = first
        .blobs
        .iter()
        .map(|blob| blob.content.len())
        .sum::<u64>();
    make((bytes.0 as f64).powi(2) / compressed as f64)
}

/// A model of about so many bytes.
fn model_of(bytes: Bytes, seed: u64) -> std::io::Result<Model> {
    Model::make(model::Recipe {
        seed,
        bytes: bytes.0,
        shards: SHARDS,
        pickles: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_and_model_have_about_the_bytes_asked_for() {
        let asked = 8_000_000;
        let near = |bytes: u64| (asked * 95 / 100..asked * 105 / 100).contains(&bytes);
        let image = image_of(Bytes(asked), 1).unwrap();
        let compressed = image.blobs.iter().map(|blob| blob.content.len()).sum();
        assert!(near(compressed), "{compressed}");
        let weights = model_of(Bytes(asked), 1).unwrap().safetensors_bytes();
        assert!(near(weights), "{weights}");
    }

    #[test]
    fn two_images_share_no_layer_unless_their_seeds_do() {
        let digests = |seed| {
            let image = image_of(Bytes(100_000), seed).unwrap();
            image
                .blobs
                .into_iter()
                .map(|blob| blob.digest)
                .collect::<Vec<_>>()
        };
        assert_eq!(digests(1), digests(1));
        let other = digests(2);
        assert!(digests(1).iter().all(|digest| !other.contains(digest)));
    }
}
