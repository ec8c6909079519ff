//! The node agent's command line.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    headstart_agent::cli::run(headstart_agent::cli::Cli::parse())
}
