//! `headstart demo`: the same deploy twice on this machine, today's order and Headstart's.
//!
//! [`scenario`] says what is deployed and how it is scaled; [`cloud`] makes the bytes and serves
//! them over one shaped link; [`run`] plays a deploy and fills a [`timeline`]; [`report`] is what
//! came out, and [`table`], [`chart`] and [`page`] show it. A third deploy, with next to no bytes,
//! says what of the time to serving is owed to bytes.
//!
//! Whatever happens, nothing is left: children end when the future that waits for them is dropped
//! or when their standard input ends, and the directory goes last.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use headstart_core::quantity::{Bytes, Rate};

use self::cloud::{Cloud, Images};
use self::report::Report;
use self::run::Node;
use self::scenario::{Network, Scales, Scenario, VLLM_8B};
use self::screen::{Screen, paint};
use self::timeline::Order;
use self::workdir::Workdir;

pub(crate) use self::stand_in::{StandInArgs, stand_in};

mod agent;
mod bars;
mod chart;
mod cloud;
mod engine;
mod page;
mod report;
mod run;
mod runtime;
mod scenario;
mod screen;
mod stand_in;
mod table;
mod timeline;
mod workdir;

/// Exit code of a demo that was interrupted, as shells count it.
const INTERRUPTED: u8 = 130;

/// What is deployed, and how it is shown.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Whose boot profile the node has
    #[arg(long, value_enum, default_value = "eks")]
    cloud: scenario::Cloud,
    /// A boot profile of your own: seconds until the network is up, the kubelet is Ready, and the
    /// GPU is allocatable
    #[arg(long, value_name = "NETWORK,READY,GPU", value_parser = boot, conflicts_with = "cloud")]
    boot: Option<[f64; 3]>,
    /// The node's link
    #[arg(long, value_name = "RATE", default_value = "5Gbit/s")]
    link: Rate,
    /// What one connection to the registry or the Hub gives; "a few hundred Mbit/s" is reported
    /// of registries
    #[arg(long, value_name = "RATE", default_value = "400Mbit/s")]
    connection_cap: Rate,
    /// Compressed size of the image in GB; 10.8 is a published vLLM image
    #[arg(long, value_name = "GB", value_parser = gigabytes, default_value = "10.8")]
    image_gb: Bytes,
    /// Size of the weights in GB; 16 is an 8B model
    #[arg(long, value_name = "GB", value_parser = gigabytes, default_value = "16")]
    model_gb: Bytes,
    /// Full-scale seconds per second of the demo; chosen so that it takes a minute and a half
    #[arg(long, value_name = "N", value_parser = scale)]
    time_scale: Option<f64>,
    /// Full-scale bytes per byte of the demo; chosen so that two cores can move them
    #[arg(long, value_name = "N", value_parser = scale)]
    byte_scale: Option<f64>,
    /// containerd's socket; without it images are kept as plain directories
    #[arg(long, value_name = "SOCKET")]
    containerd: Option<PathBuf>,
    /// Where the page goes
    #[arg(long, value_name = "FILE", default_value = "headstart-demo.html")]
    html: PathBuf,
    /// Write no page
    #[arg(long, conflicts_with = "html")]
    no_html: bool,
    /// Write the picture of both timelines, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the result as JSON, and nothing else
    #[arg(long)]
    json: bool,
    /// Directory for the demo's files; one is made inside it, and removed at the end
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Keep the demo's files
    #[arg(long)]
    keep: bool,
    /// What the content of the image and the model is made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Runs `headstart demo`.
pub(crate) fn command(args: &DemoArgs) -> ExitCode {
    let scenario_and_scales = args.scenario().and_then(|scenario| {
        let scales = Scales::fitting(&scenario, args.time_scale, args.byte_scale)?;
        Ok((scenario, scales))
    });
    let (scenario, scales) = match scenario_and_scales {
        Ok(both) => both,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let played = play(args, scenario, scales);
    match played.and_then(|played| played.map(|report| args.show(&report)).transpose()) {
        Ok(Some(())) => ExitCode::SUCCESS,
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays everything; nothing when it was interrupted.
fn play(args: &DemoArgs, scenario: Scenario, scales: Scales) -> Result<Option<Report>> {
    let workdir = Workdir::make(args.work_dir.as_deref(), args.keep)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    // Images that a runtime of this machine has to be rid of again.
    let brought = OnceLock::new();
    let played = runtime.block_on(async {
        tokio::select! {
            report = deploys(args, scenario, scales, workdir.path(), &brought) => report.map(Some),
            () = interrupted() => Ok(None),
        }
    });
    if let (Some(socket), Some(images), false) = (&args.containerd, brought.get(), args.keep) {
        runtime.block_on(self::runtime::remove(socket, images));
    }
    // What is being made when it is interrupted is not waited for long.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let Some(kept) = workdir.end() {
        eprintln!("the demo's files are kept in {}", kept.display());
    }
    played
}

async fn deploys(
    args: &DemoArgs,
    scenario: Scenario,
    scales: Scales,
    directory: &Path,
    brought: &OnceLock<Vec<String>>,
) -> Result<Report> {
    let started = Instant::now();
    let axis = scenario.expected_today().max(scenario.expected_headstart());
    let screen = match args.json {
        true => Screen::Quiet,
        false => Screen::for_a_person(axis),
    };
    let real = scales.bytes(Bytes(scenario.image.0 + scenario.model.0));
    let columns = usize::from(console::Term::stderr().size().1);
    for line in [
        format!("Headstart demo: {}.", Report::deployed(&scenario)),
        format!("Scaled: {}.", Report::scaled(&scenario, &scales)),
        format!("Seconds and bytes below are full-scale. Making {real} of image and model ..."),
    ] {
        screen.say(&table::wrap(&line, columns));
    }
    let images = match &args.containerd {
        Some(_) => Images::Distinct,
        None => Images::Shared,
    };
    let cloud = Cloud::make(&scenario, scales, args.seed, images).await?;
    brought.get_or_init(|| cloud.images());
    let program = std::env::current_exe().context("cannot find this program")?;
    let node = |name: &str, contents: &cloud::Contents| Node {
        disk: directory.join(name),
        image: contents.image.clone(),
        model: contents.model.clone(),
        endpoint: cloud.endpoint(),
        plain_http: cloud.plain_http(),
        containerd: args.containerd.clone(),
        program: program.clone(),
    };
    // The run without bytes waits for timers; beside today's it disturbs nothing.
    let (without, quiet) = (scenario.without_bytes(), Screen::Quiet);
    let (today_node, empty_node) = (node("today", &cloud.today), node("empty", &cloud.empty));
    let (today, empty) = tokio::try_join!(
        run::deploy(Order::Today, &scenario, scales, &today_node, &screen),
        run::deploy(Order::Headstart, &without, scales, &empty_node, &quiet),
    )?;
    let headstart_node = node("headstart", &cloud.headstart);
    let order = Order::Headstart;
    let headstart = run::deploy(order, &scenario, scales, &headstart_node, &screen).await?;
    screen.close();
    if !screen.is_live() && !args.json {
        args.print_timelines(&[&today, &headstart]);
    }
    Ok(Report {
        containerd: args.containerd.clone(),
        scenario,
        scales,
        today,
        headstart,
        empty,
        took: started.elapsed(),
    })
}

impl DemoArgs {
    fn scenario(&self) -> Result<Scenario, scenario::Unplayable> {
        Ok(Scenario {
            boot: match self.boot {
                Some(seconds) => scenario::Boot::own(seconds)?,
                None => self.cloud.boot(),
            },
            network: Network {
                link: self.link,
                per_connection: self.connection_cap,
            },
            image: self.image_gb,
            model: self.model_gb,
            engine: VLLM_8B,
        })
    }

    fn print_timelines(&self, deploys: &[&report::Deploy]) {
        let term = console::Term::stdout();
        let columns = usize::from(term.size().1);
        let serving = deploys.iter().map(|deploy| deploy.serving());
        let axis = serving.fold(scenario::Seconds::ZERO, scenario::Seconds::max);
        for deploy in deploys {
            let paint = paint(console::colors_enabled());
            say("");
            for line in bars::lines(&deploy.timeline, deploy.serving(), axis, columns, paint) {
                say(line.trim_end());
            }
        }
    }

    /// Writes and prints what came out.
    fn show(&self, report: &Report) -> Result<()> {
        let write = |path: &Path, text: String| {
            let written = std::fs::write(path, text);
            written.with_context(|| format!("cannot write {}", path.display()))
        };
        let page = (!self.no_html).then_some(&self.html);
        if let Some(path) = page {
            write(path, page::html(report)).context("--html")?;
        }
        if let Some(path) = &self.svg {
            write(path, chart::svg(report)).context("--svg")?;
        }
        if self.json {
            say(&format!("{:#}", report.json(page)));
            return Ok(());
        }
        let columns = usize::from(console::Term::stdout().size().1);
        say(&format!("\n{}", table::table(report)));
        say(&table::wrap(&report.conclusion(), columns));
        say("");
        for line in report.honesty() {
            say(&table::wrap(&format!("- {line}"), columns));
        }
        if let Some(path) = page {
            say(&format!("\nBoth timelines as a page: {}", path.display()));
        }
        Ok(())
    }
}

/// Prints a line of the result.
fn say(line: &str) {
    // A reader that went away has seen what it wanted.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

fn gigabytes(text: &str) -> Result<Bytes, String> {
    match text.parse::<f64>() {
        Ok(gb) if (0.0..=100_000.0).contains(&gb) => Ok(Bytes((gb * 1e9) as u64)),
        _ => Err("expected a number of gigabytes, for example 10.8".to_owned()),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (1.0..=1e6).contains(&scale) => Ok(scale),
        _ => Err("expected a number from 1 to 1000000".to_owned()),
    }
}

fn boot(text: &str) -> Result<[f64; 3], String> {
    let numbers: Option<Vec<f64>> = text
        .split(',')
        .map(|part| part.trim().parse().ok())
        .collect();
    let seconds = numbers.and_then(|numbers| <[f64; 3]>::try_from(numbers).ok());
    let reasonable = |seconds: &[f64; 3]| seconds.iter().all(|s| (0.0..=86_400.0).contains(s));
    seconds
        .filter(reasonable)
        .ok_or_else(|| "expected three numbers of seconds, for example 17,26,90".to_owned())
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(test)]
mod tests;
