//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod api;
mod catalog;
mod cli;
mod columns;
mod demo;
mod manifest;
#[allow(dead_code, reason = "its command comes next")]
mod plan;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
