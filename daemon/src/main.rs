//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod catalog;
mod cli;
mod columns;
mod demo;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
