//! Pushes a made-up image to an open registry over plain HTTP.
//!
//! `cargo run -p headstart-testbed --example push -- 127.0.0.1:5000 org/app latest [bytes|edges]`

use anyhow::Context as _;
use headstart_core::quantity::Bytes;
use headstart_testbed::image::{Image, Recipe};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, repo, tag, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: push HOST:PORT REPOSITORY TAG [SIZE|edges]");
    };
    let recipe = match rest.first().map(String::as_str) {
        Some("edges") => Recipe::edges(),
        size => {
            let Bytes(bytes) = size.unwrap_or("20MB").parse().context("the image's size")?;
            Recipe::trees(1, 4, bytes)
        }
    };
    let image = Image::make(&recipe)?;
    image.push(host, repo, tag).await?;
    println!("{host}/{repo}@{}", image.digest().prefixed());
    Ok(())
}
