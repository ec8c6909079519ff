//! The developer's one entry: checks, tests, benchmarks and the demo. CI calls nothing else.
//!
//! Each check is a module with a `run`; none of them knows another. A rule that is written in the
//! style guide and can be checked is checked here.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod cargo;
mod cluster;
mod deny;
mod e2e;
mod generate;
mod images;
mod provision;
mod purity;
mod test;
mod tidy;

/// Checks, tests, benchmarks and the demo of Headstart.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything below but `bench`: what CI runs
    Test(test::Args),
    /// Formatting
    Fmt,
    /// Lints, warnings denied
    Clippy,
    /// Documentation, warnings denied
    Doc,
    /// `core` decides and does nothing else
    Purity,
    /// House rules
    Tidy,
    /// Licences, sources and banned crates of the dependencies
    Deny,
    /// Tests against real programs; root on Debian
    E2e(e2e::Args),
    /// A Kubernetes cluster on this machine; root on Debian
    #[command(subcommand)]
    Cluster(cluster::Task),
    /// Images of both programs, as OCI layouts below `target/images`
    Images(images::Args),
    /// Benchmarks beside real peers
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Committed files that are made from others
    #[command(subcommand)]
    Generate(generate::Generate),
    /// The main job in one command, without root, cluster or network
    Demo {
        /// Passed on to `headstart demo`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test(args) => test::run(&args),
        Task::Fmt => cargo::fmt(),
        Task::Clippy => cargo::clippy(),
        Task::Doc => cargo::doc(),
        Task::Purity => purity::run(),
        Task::Tidy => tidy::run(),
        Task::Deny => deny::run(),
        Task::E2e(args) => e2e::run(&args).map(drop),
        Task::Cluster(task) => cluster::run(&task),
        Task::Images(args) => images::run(&args),
        Task::Bench(bench) => bench::run(&bench),
        Task::Generate(what) => generate::run(&what),
        Task::Demo { args } => cargo::demo(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
