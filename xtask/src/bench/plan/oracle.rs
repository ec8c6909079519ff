//! Karpenter as an oracle: many small scenarios through both planners, and where they differ.
//!
//! Hard: where Karpenter places more pods than we do, the verifier objects to its placement; and the
//! verifier has no objection to our plan or to its refusals. Which pods are left where not all can be
//! placed is nobody's fault. Compared only: nodes and price, over scenarios in which both place the
//! same pods and nothing is objected to.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::scenarios::scenario;
use crate::cargo;

/// How many scenarios one process of Karpenter's plans.
const BATCH: u64 = 100;

/// Sums over scenarios.
#[derive(Default)]
struct Sums {
    scenarios: u64,
    /// Where the verifier objects to Karpenter's placement.
    theirs_wrong: u64,
    /// Where we place more pods than Karpenter does.
    ours_more: u64,
    /// Where each places pods that the other does not, as many.
    others: u64,
    /// Where a hard rule is broken.
    broken: Vec<u64>,
    /// Where both place the same pods without objection.
    alike: u64,
    nodes: [u64; 2],
    usd: [f64; 2],
    dearer: Vec<(f64, u64)>,
}

pub(super) fn run(first: u64, count: u64, peer: &Path, own: &Path, folder: &Path) -> Result<()> {
    let folder = folder.join("oracle");
    std::fs::create_dir_all(&folder)?;
    let mut sums = Sums::default();
    let mut at = first;
    while at < first + count {
        let batch = at..(first + count).min(at + BATCH);
        let mut theirs = Command::new(peer);
        theirs.arg("solve-all");
        for number in batch.clone() {
            let file = folder.join(format!("{number}.json"));
            let text = serde_json::to_string_pretty(&scenario(number))?;
            std::fs::write(&file, text)
                .with_context(|| format!("cannot write {}", file.display()))?;
            theirs.arg(&file).arg(file.with_extension("theirs"));
        }
        cargo::output(&mut theirs)?;
        for number in batch.clone() {
            let file = folder.join(format!("{number}.json"));
            let mut compare = Command::new(own);
            compare
                .arg("compare")
                .arg(&file)
                .arg(file.with_extension("theirs"));
            let text = cargo::output(&mut compare)?;
            let found: Value = serde_json::from_str(&text).context("the bench printed no JSON")?;
            if sums.add(number, &found) {
                println!("scenario {number}:");
                show(&found);
            } else if count > 1 {
                std::fs::remove_file(&file)?;
                std::fs::remove_file(file.with_extension("theirs"))?;
            }
        }
        at = batch.end;
    }
    sums.report(&folder);
    Ok(())
}

fn list<'v>(found: &'v Value, name: &str) -> &'v [Value] {
    found[name].as_array().map_or(&[], Vec::as_slice)
}

fn show(found: &Value) {
    for (name, what) in [
        ("oursWrong", "the verifier objects to our plan"),
        ("theirsOnly", "placed by Karpenter only"),
    ] {
        for line in list(found, name) {
            let text = line.as_str().unwrap_or_default();
            println!("  {what}: {}", text.chars().take(600).collect::<String>());
        }
    }
}

impl Sums {
    /// Counts one scenario; whether a hard rule is broken.
    fn add(&mut self, number: u64, found: &Value) -> bool {
        self.scenarios += 1;
        let theirs_wrong = !list(found, "theirsWrong").is_empty();
        let theirs_only = list(found, "theirsOnly").len();
        let ours_only = list(found, "oursOnly").len();
        let wrong = !list(found, "oursWrong").is_empty();
        let broken = wrong || (theirs_only > ours_only && !theirs_wrong);
        self.theirs_wrong += u64::from(theirs_wrong);
        self.ours_more += u64::from(ours_only > theirs_only);
        self.others += u64::from(ours_only == theirs_only && ours_only > 0);
        if broken {
            self.broken.push(number);
        }
        if !theirs_wrong && !broken && theirs_only + ours_only == 0 {
            self.alike += 1;
            let pair = |name: &str| [0, 1].map(|at| found[name][at].as_f64().unwrap_or(0.0));
            let (nodes, usd) = (pair("nodes"), pair("usd"));
            for at in [0, 1] {
                self.nodes[at] += nodes[at] as u64;
                self.usd[at] += usd[at];
            }
            if usd[0] > usd[1] + 1e-4 {
                self.dearer.push((usd[0] - usd[1], number));
            }
        }
        broken
    }

    fn report(&mut self, folder: &Path) {
        println!("{} scenarios:", self.scenarios);
        println!(
            "  a hard rule is broken in {}: {:?}",
            self.broken.len(),
            self.broken
        );
        println!(
            "  the verifier objects to Karpenter's placement in {}",
            self.theirs_wrong
        );
        println!(
            "  we place more pods than Karpenter does in {}",
            self.ours_more
        );
        println!(
            "  each places as many, but not the same, in {}",
            self.others
        );
        let ([ours, theirs], [usd, their_usd]) = (self.nodes, self.usd);
        println!(
            "  both place the same without objection in {}: nodes {ours} to Karpenter's {theirs}, \
             {usd:.2} USD/h to {their_usd:.2} ({:.3}x)",
            self.alike,
            usd / their_usd
        );
        self.dearer.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!(
            "  we are dearer in {} of them; the most:",
            self.dearer.len()
        );
        for (usd, number) in self.dearer.iter().take(8) {
            println!("    scenario {number}: by {usd:.4} USD/h");
        }
        println!(
            "  scenarios of broken rules, and one that is run alone, are kept in {}",
            folder.display()
        );
    }
}
