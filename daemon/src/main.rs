//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod admission;
mod catalog;
mod cli;
mod columns;
mod demo;
mod explain;
mod manifest;
mod plan;
#[allow(dead_code, reason = "the control loop that asks it is being joined")]
mod provider;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
