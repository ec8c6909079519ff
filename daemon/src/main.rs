//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod admission;
mod catalog;
mod cli;
mod columns;
mod crd;
mod demo;
mod explain;
mod manifest;
mod plan;
mod provider;
#[allow(dead_code, reason = "refusals are told by pages that are being joined")]
mod resolve;
mod run;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
