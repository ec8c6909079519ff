//! An image brought into containerd, beside containerd's own pulls and podman's.
//!
//! Builds the agent and the bench for release and starts the bench, which is an example of the
//! testbed: it needs a registry, several containerds and a shaped link, which this crate does not.

use std::path::PathBuf;

use anyhow::Result;

use crate::cargo;

/// How an image reaches containerd; needs root on Debian, and memory of three times the image.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compressed size of the image, in GB
    #[arg(long, default_value = "2.0")]
    gb: f64,
    /// Rounds, all rivals in each; medians are reported
    #[arg(long, default_value = "5")]
    rounds: usize,
    /// A second build of the agent, to compare with
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Passed on to the bench: --part, --only, --cap, --delay, --memory
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    build(&["--package", "headstart-agent"])?;
    let bench = ["--package", "headstart-testbed", "--example", "image-bench"];
    build(&bench)?;
    let target = cargo::target()?;
    let release = target.join("release");
    let mut bench = std::process::Command::new(release.join("examples/image-bench"));
    bench.arg("--agent").arg(release.join("headstart-agent"));
    bench.arg("--cache").arg(target.join("bench"));
    bench.args(["--gb", &args.gb.to_string()]);
    bench.args(["--rounds", &args.rounds.to_string()]);
    if let Some(before) = &args.before {
        bench.arg("--before").arg(before);
    }
    cargo::run(bench.args(&args.rest))
}

fn build(what: &[&str]) -> Result<()> {
    cargo::run(cargo::cargo(&["build", "--locked", "--release"]).args(what))
}
