//! Runs of a benchmark, kept as they come: what was interrupted goes on where it stopped.
//!
//! One line of JSON per run. Only runs of the same two programs count: a program is known by its
//! bytes.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Run;

/// Runs by case and planner, in the order in which they were made.
pub(super) struct Journal {
    file: File,
    programs: String,
    runs: BTreeMap<(String, String), Vec<Run>>,
    /// Greatest load average while a run was made, others' work included.
    busiest: f64,
}

impl Journal {
    /// The runs of these programs that `path` has.
    pub(super) fn open(path: &Path, programs: &[&Path]) -> Result<Self> {
        let known: Vec<String> =
            (programs.iter().map(|program| identity(program))).collect::<Result<_>>()?;
        let programs = known.join(" ");
        let (mut runs, mut busiest) = (BTreeMap::<_, Vec<Run>>::new(), 0.0_f64);
        // A line that was cut off is no run.
        let text = fs::read_to_string(path).unwrap_or_default();
        for value in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            let (Some(case), Some(who), Some(run)) =
                (value["case"].as_str(), value["who"].as_str(), read(&value))
            else {
                continue;
            };
            if value["programs"].as_str() == Some(&programs) {
                busiest = busiest.max(value["load"].as_f64().unwrap_or(0.0));
                let of = runs.entry((case.to_owned(), who.to_owned())).or_default();
                of.push(run);
            }
        }
        let mut options = OpenOptions::new();
        let mut file = options
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file)?;
        }
        Ok(Self {
            file,
            programs,
            runs,
            busiest,
        })
    }

    pub(super) fn runs(&self, case: &str, who: &str) -> &[Run] {
        let key = (case.to_owned(), who.to_owned());
        self.runs.get(&key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn busiest(&self) -> f64 {
        self.busiest
    }

    /// Adds a run, on disk first.
    pub(super) fn add(&mut self, case: &str, who: &str, run: Run) -> Result<()> {
        let load = load();
        self.busiest = self.busiest.max(load);
        let line = json!({
            "case": case, "who": who, "programs": self.programs, "load": load,
            "solve": run.solve, "total": run.total, "wall": run.wall, "peak": run.peak,
            "nodes": run.nodes, "usd": run.usd, "unplaced": run.unplaced,
        });
        writeln!(self.file, "{line}").context("cannot keep a run")?;
        let of = self.runs.entry((case.to_owned(), who.to_owned()));
        of.or_default().push(run);
        Ok(())
    }
}

fn identity(program: &Path) -> Result<String> {
    let bytes = fs::read(program).with_context(|| format!("{} is missing", program.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn read(value: &Value) -> Option<Run> {
    let number = |name: &str| value[name].as_f64();
    let count = |name: &str| usize::try_from(value[name].as_u64()?).ok();
    Some(Run {
        solve: number("solve")?,
        total: number("total")?,
        wall: number("wall")?,
        peak: number("peak")?,
        nodes: count("nodes")?,
        usd: number("usd")?,
        unplaced: count("unplaced")?,
    })
}

/// Processes that ran or wanted to over the last minute; 0 where the kernel does not say.
fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|one| one.parse().ok())
        .unwrap_or(0.0)
}
