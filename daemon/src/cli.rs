//! What can be asked of Headstart on the command line.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use headstart_agent::cli::Own;

use crate::demo::{DemoArgs, StandInArgs};

/// Kubernetes GPU nodes that serve the moment they can run a pod.
#[derive(Debug, Parser)]
#[command(name = "headstart", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Deploy a model twice on this machine, today's way and Headstart's, and compare
    Demo(Box<DemoArgs>),
    Plan(Box<crate::plan::PlanArgs>),
    Explain(Box<crate::explain::ExplainArgs>),
    Top(crate::top::TopArgs),
    Page(Box<crate::page::command::PageArgs>),
    /// Show machine types and prices: what is known, from where, how old
    Catalog(Box<crate::catalog::command::Command>),
    Run(Box<crate::run::RunArgs>),
    Doctor(Box<crate::doctor::DoctorArgs>),
    Crd(crate::crd::CrdArgs),
    #[command(hide = true)]
    Admission(Box<crate::admission::command::AdmissionArgs>),
    /// The node agent; the demo starts it
    #[command(hide = true)]
    Agent(Box<AgentArgs>),
    /// What the demo starts in place of an engine
    #[command(hide = true)]
    StandIn(StandInArgs),
}

/// The agent, as `headstart-agent` is started.
#[derive(Debug, Args)]
struct AgentArgs {
    /// End when standard input does
    #[arg(long)]
    end_with_input: bool,
    #[command(flatten)]
    agent: headstart_agent::cli::Cli,
}

/// How an agent inside this program starts itself again.
const AGENT: Own = Own { prefix: &["agent"] };

/// What was asked for. Under the name `kubectl-headstart` this is a plugin, and calls itself as its
/// user does.
pub(crate) fn parse() -> Cli {
    let name = std::env::args_os().next().map(std::path::PathBuf::from);
    let name = name.as_ref().and_then(|path| path.file_name()?.to_str());
    let command = match name {
        Some(name) if name.starts_with("kubectl-") => Cli::command().bin_name("kubectl headstart"),
        _ => Cli::command(),
    };
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Does what was asked for.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Demo(args) => crate::demo::command(&args),
        Command::Plan(args) => crate::plan::command(&args),
        Command::Explain(args) => crate::explain::command(&args),
        Command::Top(args) => crate::top::command(&args),
        Command::Page(args) => crate::page::command::command(&args),
        Command::Catalog(args) => crate::catalog::command::command(&args),
        Command::Doctor(args) => crate::doctor::command(&args),
        Command::Run(args) => crate::run::command(&args),
        Command::Crd(args) => crate::crd::command(&args),
        Command::Admission(args) => crate::admission::command::command(&args),
        Command::Agent(args) => {
            if args.end_with_input {
                std::thread::spawn(end_with_input);
            }
            headstart_agent::cli::run(args.agent, AGENT)
        }
        Command::StandIn(args) => crate::demo::stand_in(&args),
    }
}

/// Ends this process as SIGTERM would once nobody can write to its standard input any more.
fn end_with_input() {
    // What cannot be read has ended, too.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM);
}
