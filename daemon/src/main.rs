//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod demo;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
