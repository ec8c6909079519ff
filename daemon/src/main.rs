//! The Headstart command line.

use std::process::ExitCode;

mod admission;
mod catalog;
mod cli;
mod columns;
mod crd;
mod demo;
mod explain;
mod kubectl;
#[allow(
    dead_code,
    unused_imports,
    reason = "the control loop that feeds it is being joined"
)]
mod ledger;
mod manifest;
#[allow(dead_code, reason = "the control loop that feeds it is being joined")]
mod metrics;
mod page;
mod plan;
mod provider;
#[allow(dead_code, reason = "refusals are told by pages that are being joined")]
mod resolve;
mod run;
mod top;

fn main() -> ExitCode {
    cli::run(cli::parse())
}
