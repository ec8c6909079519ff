//! A Kubernetes cluster on this machine: `cargo xtask cluster` calls it. What the cluster needs of
//! its own, it calls itself: the relay to its network, the fake GPUs of a node, the Hub.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use headstart_testbed::cluster::{self, Cluster, Gpus, NodeOptions, Options};
use headstart_testbed::hub::{self, Hub};
use headstart_testbed::model::{Model, Recipe};
use headstart_testbed::serve::Door;

/// Where the Hub listens in the cluster.
const HUB: &str = "10.99.0.1:8080";

/// Where its large files come from.
const CDN: &str = "10.99.0.1:8081";

/// A Kubernetes cluster on this machine.
#[derive(Parser)]
struct Cli {
    /// Where the cluster keeps what it has
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Starts a cluster, after ending an earlier one
    Up(Up),
    /// Ends it
    Down,
    /// Prints the path of its kubeconfig
    Kubeconfig,
    /// Carries connections into a machine's network
    #[command(hide = true)]
    Relay { init: u32, targets: Vec<SocketAddr> },
    /// Offers fake GPUs to the kubelet
    #[command(hide = true)]
    Gpus { count: usize, after_ms: u64 },
    /// Answers for the names of services
    #[command(hide = true)]
    Dns { authority: PathBuf },
    /// Serves one small model as the Hub would
    #[command(hide = true)]
    Hub,
}

#[derive(clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=64))]
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
    /// A directory with Kubernetes' programs
    #[arg(long, env = "HEADSTART_KUBERNETES", value_name = "DIRECTORY")]
    programs: PathBuf,
}

fn main() -> Result<()> {
    let Cli { directory, task } = Cli::parse();
    let directory = || directory.clone().context("--directory is not given");
    match task {
        Task::Up(options) => up(directory()?, options),
        Task::Down => Cluster::down(&directory()?),
        Task::Kubeconfig => {
            let path = cluster::kubeconfig(&directory()?);
            anyhow::ensure!(
                path.exists(),
                "no cluster runs: there is no {}",
                path.display()
            );
            println!("{}", path.display());
            Ok(())
        }
        Task::Relay { init, targets } => cluster::relay(init, &targets, |doors| {
            for door in doors {
                println!("{door}");
            }
            // Whoever waits for them reads no further.
            let _ = std::io::stdout().flush();
        }),
        Task::Gpus { count, after_ms } => {
            let after = Duration::from_millis(after_ms);
            runtime()?.block_on(cluster::serve_gpus(Gpus { count, after }))
        }
        Task::Dns { authority } => cluster::serve_names(&authority),
        Task::Hub => runtime()?.block_on(serve_hub()),
    }
}

fn up(directory: PathBuf, up: Up) -> Result<()> {
    let started = Instant::now();
    let after = Duration::try_from_secs_f64(up.gpus_after).context("--gpus-after")?;
    let gpus = (up.gpus > 0).then_some(Gpus {
        count: up.gpus,
        after,
    });
    let node = NodeOptions {
        rate: up.rate,
        gpus,
        ..NodeOptions::default()
    };
    let program = std::env::current_exe().context("this program has no path")?;
    let cluster = Cluster::up(&Options {
        directory,
        programs: up.programs,
        program: program.clone(),
        nodes: vec![node; up.nodes.into()],
    })?;
    cluster
        .control()
        .start("hub", &program, &["hub".to_owned()])?;
    println!("{} nodes ready after {:.1?}", up.nodes, started.elapsed());
    println!("export KUBECONFIG={}", cluster.kubeconfig().display());
    println!(
        "images    push to {}, pull as {}/NAME",
        cluster.registry()?,
        cluster::REGISTRY
    );
    println!("models    HF_ENDPOINT=http://{HUB} (acme/small)");
    cluster.leave();
    Ok(())
}

async fn serve_hub() -> Result<()> {
    let door = |listen: &str| -> Result<Door> {
        Ok(Door {
            listen: listen.parse()?,
            ..Door::default()
        })
    };
    let hub = Hub::start(hub::Options {
        hub: door(HUB)?,
        cdn: door(CDN)?,
        ..hub::Options::default()
    })
    .await?;
    hub.commit("acme/small", "main", Model::make(Recipe::default())?.files);
    std::future::pending().await
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Runtime::new()?)
}
