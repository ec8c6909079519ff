//! A Kubernetes cluster to work with. `headstart-testbed` makes it; this finds what it needs.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{cargo, e2e, provision};

/// What to do with it.
#[derive(clap::Subcommand)]
pub(crate) enum Task {
    /// Starts one, after ending an earlier one
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// What each can receive, as `tc` writes it: 200mbit
        #[arg(long)]
        rate: Option<String>,
        /// GPUs of each node, which are names
        #[arg(long, default_value_t = 0)]
        gpus: usize,
        /// Seconds after a node's start at which they register
        #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
        gpus_after: f64,
        /// A directory with Kubernetes' programs, instead of building them once
        #[arg(long, env = provision::KUBERNETES, value_name = "DIRECTORY")]
        programs: Option<std::path::PathBuf>,
    },
    /// Ends it, and leaves nothing
    Down,
    /// Prints the path of its kubeconfig
    Kubeconfig,
}

pub(crate) fn run(task: &Task) -> Result<()> {
    let target = cargo::target()?;
    let (verb, options) = match task {
        Task::Up {
            nodes,
            rate,
            gpus,
            gpus_after,
            programs,
        } => {
            if let Some(why) = e2e::unfit() {
                bail!("the cluster {why}");
            }
            if let provision::Debian::Missing { packages, why } = provision::debian(&e2e::PACKAGES)?
            {
                bail!("{} cannot be installed: {why}", packages.join(", "));
            }
            let programs = match programs {
                Some(named) => named.clone(),
                None => provision::kubernetes(&cargo::root(), &target)?,
            };
            let mut options = vec![
                format!("--nodes={nodes}"),
                format!("--gpus={gpus}"),
                format!("--gpus-after={gpus_after}"),
                format!("--programs={}", programs.display()),
            ];
            options.extend(rate.iter().map(|rate| format!("--rate={rate}")));
            ("up", options)
        }
        Task::Down => ("down", Vec::new()),
        Task::Kubeconfig => ("kubeconfig", Vec::new()),
    };
    let build = [
        "build",
        "--quiet",
        "--locked",
        "--package=headstart-testbed",
        "--features=e2e",
        "--bin=cluster",
    ];
    cargo::run(&mut cargo::cargo(&build))?;
    let mut cluster = Command::new(target.join("debug/cluster"));
    cluster
        .arg("--directory")
        .arg(target.join("cluster/default"));
    cargo::run(cluster.arg(verb).args(options))
}
