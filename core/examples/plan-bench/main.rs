//! One planning, measured: what `cargo xtask bench plan` runs beside Karpenter, and our own larger
//! cases. No part of the library: it reads files and clocks.
//!
//! ```text
//! plan-bench solve FILE              plans a scenario once; the outcome, then what the process used
//! plan-bench check FILE              plans it and prints what the verifier objects to, a line each
//! plan-bench judge FILE OUTCOME      the same for somebody else's outcome
//! plan-bench compare FILE OUTCOME    our plan and that outcome, judged and compared, as one line of JSON
//! plan-bench own CASE                one of our own cases: figures as one line of JSON
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark reads files and clocks; the library does not"
)]

mod outcome;
mod own;
mod scenario;

use std::process::ExitCode;
use std::time::Instant;

use headstart_core::world::World;
use rustix::time::{ClockId, clock_gettime};

use outcome::Outcome;
use scenario::Error;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["solve", file] => solve(file),
        ["check", file] => check(file),
        ["judge", file, outcome] => judge(file, outcome),
        ["compare", file, outcome] => compare(file, outcome),
        ["own", case] => own::run(case),
        _ => Err("use: solve FILE | check FILE | judge FILE OUTCOME | own CASE".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn solve(file: &str) -> Result<(), Error> {
    let (snapshot, policy) = scenario::read(&std::fs::read_to_string(file)?)?;
    let began = cpu();
    let world = World::new(&snapshot, &policy);
    let setup = cpu() - began;
    let (began, wall) = (cpu(), Instant::now());
    let plan = world.plan();
    let (solve, solve_wall) = (cpu() - began, wall.elapsed().as_secs_f64());
    let outcome = Outcome {
        setup,
        solve,
        solve_wall,
        ..Outcome::of(&plan)
    };
    println!("{}", serde_json::to_string(&outcome)?);
    let (total, peak) = (cpu(), peak());
    println!("{}", serde_json::json!({"total": total, "peakBytes": peak}));
    Ok(())
}

fn check(file: &str) -> Result<(), Error> {
    let (snapshot, policy) = scenario::read(&std::fs::read_to_string(file)?)?;
    let plan = World::new(&snapshot, &policy).plan();
    for violation in outcome::judge(&snapshot, &policy, &plan) {
        println!("{violation}");
    }
    Ok(())
}

fn compare(file: &str, outcome: &str) -> Result<(), Error> {
    let (snapshot, policy) = scenario::read(&std::fs::read_to_string(file)?)?;
    let plan = World::new(&snapshot, &policy).plan();
    let (ours, theirs) = (Outcome::of(&plan), outcome_of(outcome)?);
    let only = |mine: &Outcome, other: &Outcome| -> Vec<String> {
        let missed = other.unplaced.iter();
        missed
            .filter(|(pod, _)| !mine.unplaced.contains_key(*pod))
            .map(|(pod, why)| format!("{pod}: {why}"))
            .collect()
    };
    let found = serde_json::json!({
        "oursWrong": outcome::judge(&snapshot, &policy, &plan),
        "theirsWrong": theirs.judge(&snapshot, &policy)?,
        "oursOnly": only(&ours, &theirs),
        "theirsOnly": only(&theirs, &ours),
        "nodes": [ours.bought(), theirs.bought()],
        "usd": [ours.usd(), theirs.usd()],
    });
    println!("{found}");
    Ok(())
}

fn outcome_of(file: &str) -> Result<Outcome, Error> {
    let text = std::fs::read_to_string(file)?;
    Ok(serde_json::from_str(
        text.lines().next().unwrap_or_default(),
    )?)
}

fn judge(file: &str, outcome: &str) -> Result<(), Error> {
    let (snapshot, policy) = scenario::read(&std::fs::read_to_string(file)?)?;
    for violation in outcome_of(outcome)?.judge(&snapshot, &policy)? {
        println!("{violation}");
    }
    Ok(())
}

/// CPU time of this process so far, in seconds, start-up included.
fn cpu() -> f64 {
    let at = clock_gettime(ClockId::ProcessCPUTime);
    at.tv_sec as f64 + at.tv_nsec as f64 / 1e9
}

/// The most memory that was resident, in bytes; 0 where the kernel does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
