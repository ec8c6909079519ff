//! The one test command: every check and every test, one line each at the end.
//!
//! Where something cannot run it is skipped with the reason. CI (`CI` is set) takes a skip for a
//! failure: there, what is not proven is not done.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{cargo, deny, e2e, generate, purity, tidy};

/// Which part to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the stages with these names
    #[arg(long, value_name = "STAGE")]
    only: Vec<String>,
}

/// How a stage ended.
pub(crate) enum Ended {
    /// It ran, and all of it holds.
    Passed,
    /// It could not run here.
    Skipped(String),
}

type Stage = (&'static str, fn() -> Result<Ended>);

const STAGES: [Stage; 9] = [
    ("fmt", || cargo::fmt().map(passed)),
    ("tidy", || tidy::run().map(passed)),
    ("purity", || purity::run().map(passed)),
    ("deny", || deny::run().map(passed)),
    ("crds", || generate::check().map(passed)),
    ("clippy", || cargo::clippy().map(passed)),
    ("doc", || cargo::doc().map(passed)),
    ("unit", || {
        cargo::run(&mut cargo::cargo(&["test", "--locked", "--workspace"])).map(passed)
    }),
    ("e2e", || e2e::run(&e2e::Args::default())),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let known: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
    for name in &args.only {
        if !known.contains(&name.as_str()) {
            bail!("--only {name}: the stages are {}", known.join(", "));
        }
    }
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut ended: Vec<(&str, Result<Ended>, Duration)> = Vec::new();
    for (name, stage) in STAGES.iter().filter(|(name, _)| wanted(name)) {
        println!("== {name}");
        let started = Instant::now();
        ended.push((name, stage(), started.elapsed()));
    }
    println!();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, result, took) in &ended {
        let seconds = took.as_secs();
        match result {
            Ok(Ended::Passed) => {
                passed += 1;
                println!("passed   {name:<8} {seconds:>4} s");
            }
            Ok(Ended::Skipped(why)) => {
                skipped += 1;
                println!("skipped  {name:<8} {why}");
            }
            Err(error) => {
                failed += 1;
                println!("failed   {name:<8} {seconds:>4} s  {error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    match std::env::var_os("CI") {
        _ if failed > 0 => bail!("{failed} of {} stages failed", ended.len()),
        Some(_) if skipped > 0 => bail!("{skipped} stages were skipped, which CI does not accept"),
        _ => Ok(()),
    }
}

fn passed((): ()) -> Ended {
    Ended::Passed
}
