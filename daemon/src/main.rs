//! The Headstart command line.

use std::process::ExitCode;

mod admission;
mod catalog;
mod cli;
mod columns;
mod crd;
mod demo;
mod doctor;
mod explain;
mod kubectl;
mod ledger;
mod manifest;
mod metrics;
mod out;
mod page;
mod plan;
mod provider;
mod resolve;
mod run;
mod top;

fn main() -> ExitCode {
    cli::run(cli::parse())
}
