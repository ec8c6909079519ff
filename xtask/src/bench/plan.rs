//! Our planner beside Karpenter's own scheduling simulation, on the same files in the same run.
//!
//! Each planning is a process of its own, pinned to one core, Karpenter with GOMAXPROCS=1; the two
//! alternate, and medians count. Both read a scenario of Kubernetes objects that Karpenter's driver
//! generates as its own benchmark does (`tests/karpenter/`). Our plans are judged by the verifier,
//! which shares no code with the planner. Read ratios, not seconds.
//!
//! Ten runs of every case take three quarters of an hour, nearly all of it Karpenter's: 20,000 pods take
//! it two minutes each time. So each run is kept (`target/karpenter/runs.jsonl`), a command that was
//! interrupted goes on, and cases can be run by themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cargo;
use journal::Journal;

mod journal;
mod oracle;
mod scenarios;

/// Planning beside Karpenter; needs Go, the Go module proxy, and an idle core. Runs of the same
/// programs that were made before count.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Numbers of pods of the diverse mix; 0 to leave it out
    #[arg(long, value_delimiter = ',', default_values_t = [500, 1000, 2000, 5000, 20000])]
    sizes: Vec<u32>,
    /// Number of pods with preferences; 0 to leave that case out
    #[arg(long, default_value_t = 4000)]
    preferences: u32,
    /// Runs of each planner and case
    #[arg(long, default_value_t = 10)]
    repeats: usize,
    /// Core that both are pinned to
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Forget runs that were made before
    #[arg(long)]
    afresh: bool,
    /// Measure nothing: compare what both plan in this many small scenarios
    #[arg(long, value_name = "SCENARIOS")]
    oracle: Option<u64>,
    /// Number of the first of them; one that was printed is run again by it and `--oracle 1`
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    first: u64,
}

/// What one planning printed.
struct Run {
    /// CPU seconds of compiling and planning, reading left out.
    solve: f64,
    /// CPU seconds of the process.
    total: f64,
    wall: f64,
    peak: f64,
    nodes: usize,
    usd: f64,
    unplaced: usize,
}

const KARPENTER: &str = "Karpenter";
const HEADSTART: &str = "Headstart";

struct Case {
    name: String,
    kind: &'static str,
    pods: u32,
    /// Least ratio of CPU time asked for.
    faster: f64,
    /// Greatest ratio of price asked for.
    cheaper: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let target = cargo::target()?;
    let peer = build_peer(&target)?;
    let build = [
        "build",
        "--locked",
        "--release",
        "--package",
        "headstart-core",
    ];
    cargo::run(cargo::cargo(&build).args(["--example", "plan-bench"]))?;
    let own = target.join("release/examples/plan-bench");
    if let Some(count) = args.oracle {
        return oracle::run(args.first, count, &peer, &own, &target.join("karpenter"));
    }
    let kept = target.join("karpenter/runs.jsonl");
    if args.afresh && kept.exists() {
        std::fs::remove_file(&kept).with_context(|| format!("cannot remove {}", kept.display()))?;
    }
    let mut journal = Journal::open(&kept, &[&peer, &own])?;
    let diverse = args
        .sizes
        .iter()
        .filter(|pods| **pods > 0)
        .map(|pods| Case {
            name: format!("{pods} diverse pods"),
            kind: "diverse",
            pods: *pods,
            faster: 20.0,
            cheaper: (*pods <= 2000).then_some(0.85),
        });
    let preferring = (args.preferences > 0).then(|| Case {
        name: format!("{} pods with preferences", args.preferences),
        kind: "preferences",
        pods: args.preferences,
        faster: 50.0,
        cheaper: None,
    });
    println!(
        "Medians of {} alternating runs, one process each, on core {}.",
        args.repeats, args.core
    );
    println!(
        "CPU: seconds of planning; process: start-up and reading included; peak: MiB resident.\n"
    );
    for case in diverse.chain(preferring) {
        compare(&case, args, &peer, &own, &target, &mut journal)?;
    }
    println!(
        "Load average while these ran: at most {:.1}; on an idle machine it is about 1.\n",
        journal.busiest()
    );
    println!("Without a peer:");
    for (case, asked) in [
        ("mixed", "at most 1 s of planning"),
        ("one-pod", "at most 10 ms once the world is compiled"),
    ] {
        let text = cargo::output(pinned(&own, args.core).args(["own", case]))?;
        let figures: Value =
            serde_json::from_str(text.trim()).context("the bench printed no JSON")?;
        let number = |name: &str| figures[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "  {case}: {} pods, {} existing nodes, {} offerings: compiled in {:.3} s, planned in {:.4} s of CPU \
             (goal: {asked}); peak {:.0} MiB (goal: below 500); {} placed, {} nodes bought, {} not served; \
             verifier: {}",
            number("pods"),
            number("existingNodes"),
            number("offerings"),
            number("setup"),
            number("solve"),
            number("peakBytes") / f64::from(1 << 20),
            number("placed"),
            number("nodes"),
            number("unplaced"),
            figures["violations"],
        );
    }
    Ok(())
}

/// Karpenter's driver, built from its Go module by ours.
fn build_peer(target: &Path) -> Result<PathBuf> {
    let peer = target.join("karpenter/karpenter");
    let mut go = Command::new("go");
    go.current_dir(cargo::root().join("tests/karpenter"));
    go.args(["build", "-trimpath", "-o"]).arg(&peer).arg(".");
    cargo::run(&mut go)?;
    Ok(peer)
}

fn compare(
    case: &Case,
    args: &Args,
    peer: &Path,
    own: &Path,
    target: &Path,
    journal: &mut Journal,
) -> Result<()> {
    let folder = target.join("karpenter");
    let file = folder.join(format!("{}-{}.json", case.kind, case.pods));
    let scenario =
        cargo::output(Command::new(peer).args(["generate", case.kind, &case.pods.to_string()]))?;
    std::fs::write(&file, scenario).with_context(|| format!("cannot write {}", file.display()))?;
    let objections = cargo::output(Command::new(own).arg("check").arg(&file))?;
    let repeats = args.repeats.max(1);
    for number in 0..repeats {
        for who in [KARPENTER, HEADSTART] {
            if journal.runs(&case.name, who).len() > number {
                continue;
            }
            let mut command = match who {
                KARPENTER => pinned(peer, args.core),
                _ => pinned(own, args.core),
            };
            let run = solve(command.env("GOMAXPROCS", "1"), &file)?;
            eprintln!(
                "{}, run {} of {repeats}: {who} {:.2} s of CPU",
                case.name,
                number + 1,
                run.total
            );
            journal.add(&case.name, who, run)?;
        }
    }
    let first = |who| {
        let runs = journal.runs(&case.name, who);
        &runs[..repeats.min(runs.len())]
    };
    let (theirs, ours) = (first(KARPENTER), first(HEADSTART));
    println!("{}:", case.name);
    println!("               CPU   process    wall     peak   nodes     USD/h  not placed");
    for (name, runs) in [(KARPENTER, theirs), (HEADSTART, ours)] {
        let of = |what: fn(&Run) -> f64| median(runs, what);
        println!(
            "  {name:<9} {:>7.3} {:>9.3} {:>7.3} {:>8.0} {:>7} {:>9.2} {:>11}",
            of(|r| r.solve),
            of(|r| r.total),
            of(|r| r.wall),
            of(|r| r.peak) / f64::from(1 << 20),
            of(|r| r.nodes as f64),
            of(|r| r.usd),
            of(|r| r.unplaced as f64),
        );
    }
    let ratio = |what: fn(&Run) -> f64| median(theirs, what) / median(ours, what);
    let (solve, total) = (ratio(|r| r.solve), ratio(|r| r.total));
    let price = median(ours, |r| r.usd) / median(theirs, |r| r.usd);
    let met = |holds: bool| if holds { "met" } else { "MISSED" };
    println!(
        "  CPU {solve:.0}x less, {total:.0}x with start-up and reading (goal {:.0}x: {})",
        case.faster,
        met(total >= case.faster)
    );
    match case.cheaper {
        Some(most) => println!(
            "  price {price:.3}x (goal at most {most}x: {})",
            met(price <= most)
        ),
        None => println!("  price {price:.3}x"),
    }
    let unplaced = ours.iter().map(|run| run.unplaced).max().unwrap_or(0);
    let all = theirs.iter().all(|run| run.unplaced >= unplaced);
    println!("  every pod that Karpenter places is placed: {}", met(all));
    println!(
        "  verifier on our plan: {} objections\n",
        objections.lines().count()
    );
    objections
        .lines()
        .take(5)
        .for_each(|line| println!("    {line}"));
    Ok(())
}

fn pinned(program: &Path, core: usize) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn solve(command: &mut Command, file: &Path) -> Result<Run> {
    let text = cargo::output(command.arg("solve").arg(file))?;
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("a planner printed no JSON")?;
    ensure!(
        lines.len() == 2,
        "a planner printed {} lines in place of two",
        lines.len()
    );
    let (outcome, usage) = (&lines[0], &lines[1]);
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let nodes = outcome["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Run {
        solve: number(&outcome["setup"]) + number(&outcome["solve"]),
        total: number(&usage["total"]),
        wall: number(&outcome["solveWall"]),
        peak: number(&usage["peakBytes"]),
        nodes: nodes.len(),
        usd: nodes.iter().map(|node| number(&node["price"])).sum(),
        unplaced: outcome["unplaced"]
            .as_object()
            .map_or(0, serde_json::Map::len),
    })
}

fn median(runs: &[Run], what: fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(what).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}
