//! A link of a total rate before a server, until killed; for `cargo xtask bench transfer`.
//!
//! `link ADDRESS:PORT RATE` prints the address that it answers on. The rate is `2Gbit/s` or the like.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use headstart_core::quantity::Rate;
use headstart_testbed::link::{Link, Shape};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [upstream, rate] = arguments.as_slice() else {
        anyhow::bail!("link ADDRESS:PORT RATE");
    };
    let upstream: SocketAddr = upstream.parse().context("the server's address")?;
    let rate: Rate = rate.parse().context("the rate")?;
    let shape = Shape {
        total: Some(rate),
        ..Shape::default()
    };
    let proxy = Link::new(shape).proxy(upstream).await?;
    println!("{}", proxy.address());
    std::io::stdout().flush()?;
    std::future::pending().await
}
