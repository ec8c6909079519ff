//! An image of AI workloads brought into containerd, beside everything else that brings images:
//! the same bytes from the same registry on loopback, a fresh runtime every time, all rivals in
//! every round, so that what disturbs one disturbs all.
//!
//! Started by `cargo xtask bench image`, as root on Debian. What is compared are medians; on a
//! machine that others use too, processor seconds say more than wall time, and the load is printed.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use headstart_testbed::docker_registry::{Access, DockerRegistry};
use headstart_testbed::link::{Link, Shape};

use crate::layers::Made;
use crate::measure::Sample;
use crate::report::Case;
use crate::rivals::{Bench, Rival};

mod layers;
mod measure;
mod report;
mod rivals;

/// Measures how an image reaches containerd.
#[derive(Debug, Parser)]
struct Args {
    /// The agent, built for release
    #[arg(long)]
    agent: PathBuf,
    /// A second build of the agent, to compare with
    #[arg(long)]
    before: Option<PathBuf>,
    /// Where packages, layers and programs are kept between runs
    #[arg(long)]
    cache: PathBuf,
    /// Compressed size of the image, in GB
    #[arg(long, default_value_t = 2.3)]
    gb: f64,
    /// Rounds; medians are reported
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where runtimes keep what they unpack while the processor is measured: in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,
    /// The cases to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Processor, Part::Link, Part::Disk])]
    part: Vec<Part>,
    /// Only these rivals
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Rival>,
    /// Bytes per second of one connection of the capped link, for example 8MiB/s
    #[arg(long, default_value = "8MiB/s")]
    cap: headstart_core::quantity::Rate,
    /// Delay of the capped link, in milliseconds
    #[arg(long, default_value_t = 30)]
    delay: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Unpacking into memory, bound by the processor
    Processor,
    /// Over a link that caps each connection
    Link,
    /// Unpacking to a disk: bytes written
    Disk,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = Args::parse();
    std::fs::create_dir_all(&args.cache)?;
    // containerd 2 takes no relative paths.
    args.cache = args.cache.canonicalize()?;
    ensure!(args.agent.is_file(), "no agent at {}", args.agent.display());
    let made = tokio::task::block_in_place(|| layers::make(&args.cache, args.gb))?;
    println!("{made}");
    let own = std::process::id();
    let at = args.cache.join(format!("registry-{own}"));
    let registry = tokio::task::block_in_place(|| DockerRegistry::start(at, Access::Open))?;
    let pushed = made.image.push(&registry.host(), "bench", "1").await;
    pushed.context("cannot push the image")?;
    for part in &args.part {
        let samples = measure(&args, *part, &registry, &made).await?;
        print!("{}", Case::new(*part, &args, &made).table(&samples));
    }
    Ok(())
}

/// Every rival once in every round; another one begins each time.
async fn measure(
    args: &Args,
    part: Part,
    registry: &DockerRegistry,
    made: &Made,
) -> Result<Vec<(Rival, Vec<Sample>)>> {
    let link = Link::new(Shape {
        per_connection: Some(args.cap),
        delay: Duration::from_millis(args.delay),
        ..Shape::default()
    });
    let proxy = link.proxy(registry.address()).await?;
    let bench = Bench {
        agent: &args.agent,
        before: args.before.as_deref(),
        registry: registry.id(),
        host: match part {
            Part::Link => proxy.address().to_string(),
            Part::Processor | Part::Disk => registry.host(),
        },
        directory: match part {
            Part::Disk => args.cache.join(format!("disk-{}", std::process::id())),
            Part::Processor | Part::Link => args
                .memory
                .join(format!("headstart-image-bench-{}", std::process::id())),
        },
        image_id: made.image_id(),
    };
    let wanted = |rival: &Rival| args.only.is_empty() || args.only.contains(rival);
    let rivals = Rival::of(part, args.before.is_some());
    let rivals: Vec<Rival> = rivals.into_iter().filter(wanted).collect();
    let mut samples: Vec<_> = rivals.iter().map(|rival| (*rival, Vec::new())).collect();
    let rounds = if part == Part::Disk { 1 } else { args.rounds };
    for round in 0..rounds {
        for offset in 0..rivals.len() {
            let turn = (round + offset) % rivals.len();
            let sample = bench.run(rivals[turn]).await;
            let sample = sample.with_context(|| format!("{}", rivals[turn]))?;
            eprintln!("round {} {}: {sample}", round + 1, rivals[turn]);
            samples[turn].1.push(sample);
        }
    }
    Ok(samples)
}
