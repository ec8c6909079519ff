//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod api;
mod catalog;
mod cli;
mod columns;
mod demo;
mod explain;
mod manifest;
mod plan;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
