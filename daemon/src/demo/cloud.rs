//! Where the bytes come from: a Hub and a registry on loopback, with a model and an image made on
//! the spot, behind one shaped link. The link is the node's: both servers share its rate, and each
//! connection has a cap of its own, as a CDN gives it.

use anyhow::{Context, Result};
use headstart_core::quantity::Bytes;
use headstart_testbed::hub::{Hub, Options, RepoFile};
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::serve::Door;

use self::image::Image;
use self::registry::Registry;
use super::scenario::{SHARDS, Scales, Scenario};

mod image;
mod registry;

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
        let hub = Hub::start(Options {
            hub: door(),
            cdn: door(),
            ..Options::default()
        });
        let hub = hub.await.context("cannot start the local Hub")?;
        let (image, weights) = (scales.bytes(scenario.image), scales.bytes(scenario.model));
        let made = tokio::task::spawn_blocking(move || {
            let mut made = vec![
                ("demo/vllm:1".to_owned(), Image::make(image.0, seed)?),
                ("demo/empty:1".to_owned(), Image::make(0, !seed)?),
            ];
            if images == Images::Distinct {
                let other = Image::make(image.0, seed.wrapping_add(1))?;
                made.push(("demo/vllm:2".to_owned(), other));
            }
            anyhow::Ok((made, model(weights, seed)?, model(Bytes(0), seed)?))
        });
        let (made, files, few) = made.await??;
        hub.commit("demo/model-8b", "main", files);
        hub.commit("demo/model-empty", "main", few);
        let registry = Registry::start(made, link).await?;
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

fn model(bytes: Bytes, seed: u64) -> Result<Vec<RepoFile>> {
    let mut files = Vec::new();
    let mut map = serde_json::Map::new();
    for shard in 1..=SHARDS {
        let name = format!("model-{shard:05}-of-{SHARDS:05}.safetensors");
        let size = (bytes.0 / SHARDS as u64).max(256) / 2 * 2;
        let tensor = format!("model.layers.{shard}.{seed}.weight");
        let header = format!(
            r#"{{"{tensor}":{{"dtype":"BF16","shape":[{}],"data_offsets":[0,{size}]}}}}"#,
            size / 2
        );
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.as_bytes());
        let mut x = seed ^ 0x9E37_79B9_7F4A_7C15 ^ shard as u64;
        let end = content.len() + size as usize;
        while content.len() < end {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            content.extend(x.to_le_bytes());
        }
        content.truncate(end);
        map.insert(tensor, name.clone().into());
        files.push(RepoFile::new(
            name,
            headstart_testbed::content::Content::rope([content.into()]),
        )?);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map})
        .to_string()
        .into_bytes();
    files.push(RepoFile::new(
        "model.safetensors.index.json",
        headstart_testbed::content::Content::rope([index.into()]),
    )?);
    files.push(RepoFile::new(
        "config.json",
        headstart_testbed::content::Content::rope([b"{}".to_vec().into()]),
    )?);
    Ok(files)
}
