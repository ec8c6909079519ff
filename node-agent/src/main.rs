//! The node agent's command line.

use std::process::ExitCode;

use clap::Parser;
use headstart_agent::cli::{Cli, Own};

fn main() -> ExitCode {
    headstart_agent::cli::run(Cli::parse(), Own::default())
}
