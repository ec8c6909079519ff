//! The Headstart command line.

use std::process::ExitCode;

use clap::Parser;

mod api;
mod cli;
mod demo;
mod manifest;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
