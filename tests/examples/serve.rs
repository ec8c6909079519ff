//! Serves a Hub with a model and a registry with images on loopback, until interrupted.
//!
//! `cargo run -p headstart-testbed --release --example serve -- [hub-port [registry-port [model-bytes
//! [image-bytes [rate]]]]]`; port 0 takes a free one, the rate (`5Gbit/s`) is that of each server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::Context as _;
use headstart_core::quantity::{Bytes, Rate};
use headstart_testbed::hub::{self, Hub};
use headstart_testbed::image::{self, Image};
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::{self, Model};
use headstart_testbed::registry::{self, Registry};
use headstart_testbed::serve::Door;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument =
        |index: usize, or: &str| arguments.get(index).map_or(or, String::as_str).to_owned();
    let hub_port: u16 = argument(0, "0").parse().context("the hub's port")?;
    let registry_port: u16 = argument(1, "0").parse().context("the registry's port")?;
    let Bytes(model_bytes) = argument(2, "3MB").parse().context("the model's size")?;
    let Bytes(image_bytes) = argument(3, "20MB").parse().context("the image's size")?;
    let total = match arguments.get(4) {
        Some(rate) => Some(rate.parse::<Rate>().context("the rate")?),
        None => None,
    };
    let door = |port: u16| Door {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        link: Link::new(Shape {
            total,
            ..Shape::default()
        }),
        ..Door::default()
    };

    let start = Instant::now();
    let model = Model::make(model::Recipe {
        bytes: model_bytes,
        ..model::Recipe::default()
    })?;
    println!(
        "model:    {} in {:.1?}",
        Bytes(model.safetensors_bytes()),
        start.elapsed()
    );
    let (hub_door, cdn) = (door(hub_port), door(0));
    let hub = Hub::start(hub::Options {
        hub: hub_door,
        cdn,
        ..hub::Options::default()
    })
    .await?;
    let commit = hub.commit("headstart/tiny-llama", "main", model.files);

    let start = Instant::now();
    let app = Image::make(&image::Recipe::trees(1, 4, image_bytes))?;
    println!(
        "image:    {} compressed in {:.1?}",
        Bytes(app.bytes()),
        start.elapsed()
    );
    let registry = door(registry_port);
    let registry = Registry::start(registry::Options {
        registry,
        ..registry::Options::default()
    });
    let registry = registry.await?;
    registry.put("headstart/app", "latest", &app);
    registry.put(
        "headstart/edges",
        "latest",
        &Image::make(&image::Recipe::edges())?,
    );

    println!(
        "hub:      HF_ENDPOINT={}  headstart/tiny-llama@{commit}",
        hub.endpoint()
    );
    println!(
        "registry: {0}/headstart/app:latest  {0}/headstart/edges:latest",
        registry.host()
    );
    tokio::signal::ctrl_c()
        .await
        .context("cannot wait for an interrupt")
}
