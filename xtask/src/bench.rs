//! Benchmarks beside real peers, in the same run; no part of what CI runs.

use anyhow::Result;

use crate::{cargo, e2e};

pub(crate) mod image;
pub(crate) mod plan;
mod transfer;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// Files over HTTP beside curl, aria2c, hf_transfer and huggingface_hub
    Transfer {
        /// Rounds, of which the median counts
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Size of the large file in MiB; four small ones have an eighth each, or a sixteenth where
        /// the link is limited
        #[arg(long, value_name = "MIB", default_value_t = 4096)]
        large: u64,
    },
    /// An image into containerd beside its own pull and podman's
    Image(image::Args),
    /// Exposed byte time of deploys on a real cluster, beside today's order and a DaemonSet that
    /// fetches once a node is Ready; root on Debian
    Deploy {
        /// Runs of ours; a third as many of each of the others
        #[arg(long, default_value_t = 20)]
        runs: usize,
    },
    /// The planner beside Karpenter's scheduling simulation
    Plan(plan::Args),
}

pub(crate) fn run(bench: &Bench) -> Result<()> {
    match bench {
        Bench::Transfer { rounds, large } => {
            let build = [
                "build",
                "--locked",
                "--release",
                "--package",
                "headstart-transfer",
            ];
            cargo::run(cargo::cargo(&build).args(["--example", "fetch"]))?;
            let build = [
                "build",
                "--locked",
                "--release",
                "--package",
                "headstart-testbed",
            ];
            cargo::run(cargo::cargo(&build).args(["--example", "link"]))?;
            let target = cargo::target()?;
            transfer::run(&transfer::Options {
                fetch: target.join("release/examples/fetch"),
                link: target.join("release/examples/link"),
                target,
                rounds: *rounds,
                large: large << 20,
            })
        }
        Bench::Deploy { runs } => e2e::bench("deploy", &[runs.to_string()]),
        Bench::Image(args) => image::run(args),
        Bench::Plan(args) => plan::run(args),
    }
}
