//! The tables: medians, ratios within rounds, and for each goal whether it was met; where one was
//! not, what bounds it.

use std::fmt::Write as _;
use std::fs;

use crate::layers::Made;
use crate::measure::Sample;
use crate::rivals::Rival;
use crate::{Args, Part};

/// What was measured, as the table names it.
pub(crate) struct Case {
    part: Part,
    title: String,
    compressed: f64,
    binary: u64,
}

/// A goal, and what was found.
struct Goal {
    what: String,
    found: f64,
    limit: f64,
    unit: &'static str,
    /// Whether more is better.
    at_least: bool,
}

impl Case {
    pub(crate) fn new(part: Part, args: &Args, made: &Made) -> Self {
        let title = match part {
            Part::Processor => format!("unpacking into memory, {} rounds", args.rounds),
            Part::Link => format!(
                "{} for each connection, {} ms of delay, {} rounds",
                args.cap, args.delay, args.rounds
            ),
            Part::Disk => "unpacking to a disk".to_owned(),
        };
        Self {
            part,
            title,
            compressed: made.bytes() as f64 / 1e9,
            binary: fs::metadata(&args.agent).map_or(0, |found| found.len()),
        }
    }

    pub(crate) fn table(&self, samples: &[(Rival, Vec<Sample>)]) -> String {
        let mut text = format!(
            "\n{}; {} cores, load {}\n{:24}{:>8}{:>18}{:>8}{:>9}{:>9}{:>7}{:>11}{:>11}{:>9}\n",
            self.title,
            std::thread::available_parallelism().map_or(1, usize::from),
            load(),
            "",
            "wall s",
            "least to most",
            "ratio",
            "CPU s",
            "CPU s/GB",
            "cores",
            "peak, all",
            "largest",
            "written",
        );
        let Some((_, ours)) = samples.iter().find(|(rival, _)| *rival == Rival::Headstart) else {
            return text;
        };
        for (rival, theirs) in samples {
            text += &self.row(*rival, ours, theirs);
        }
        for goal in self.goals(ours, samples) {
            text += &goal.line();
            if !goal.is_met() {
                text += &self.bound(ours);
            }
        }
        text
    }

    fn row(&self, rival: Rival, ours: &[Sample], theirs: &[Sample]) -> String {
        let walls: Vec<f64> = theirs.iter().map(|sample| sample.wall).collect();
        let cpu = median(theirs.iter().map(|sample| sample.cpu));
        let spread = format!(
            "{:.1} to {:.1}",
            walls.iter().copied().fold(f64::INFINITY, f64::min),
            walls.iter().copied().fold(0.0, f64::max)
        );
        let most = |of: fn(&Sample) -> u64| theirs.iter().map(of).max().unwrap_or(0) >> 20;
        let written = match self.part {
            Part::Disk => format!("{:.3}", over_needed(theirs, ours)),
            Part::Processor | Part::Link => "-".to_owned(),
        };
        format!(
            "{:24}{:>8.2}{spread:>18}{:>8.2}{cpu:>9.2}{:>9.2}{:>7.2}{:>7} MiB{:>7} MiB{written:>9}\n",
            rival,
            median(walls),
            ratio(ours, theirs),
            cpu / self.compressed,
            median(theirs.iter().map(|sample| sample.cpu / sample.wall)),
            most(|sample| sample.together),
            most(|sample| sample.largest),
        )
    }

    fn goals(&self, ours: &[Sample], samples: &[(Rival, Vec<Sample>)]) -> Vec<Goal> {
        let ratios: &[(Rival, f64)] = match self.part {
            Part::Processor => &[
                (Rival::Containerd1, 0.35),
                (Rival::Containerd2Best, 0.60),
                (Rival::Podman, 0.25),
            ],
            Part::Link | Part::Disk => &[],
        };
        let of = |rival: Rival| samples.iter().find(|(name, _)| *name == rival);
        let mut goals: Vec<Goal> = ratios
            .iter()
            .filter_map(|(rival, limit)| {
                let what = format!("of the time of {rival}");
                Some(Goal::at_most(
                    what,
                    ratio(ours, &of(*rival)?.1),
                    *limit,
                    "x",
                ))
            })
            .collect();
        match self.part {
            Part::Processor => {
                let cpu = median(ours.iter().map(|sample| sample.cpu)) / self.compressed;
                let peak = ours.iter().map(|sample| sample.together).max().unwrap_or(0);
                goals.extend([
                    Goal::at_most("of processor per GB".into(), cpu, 9.0, " s"),
                    Goal::at_most(
                        "of memory, agent and unpackers together".into(),
                        (peak >> 20) as f64,
                        256.0,
                        " MiB",
                    ),
                    Goal::at_most("of binary".into(), self.binary as f64 / 1e6, 20.0, " MB"),
                ]);
            }
            Part::Link => goals.extend(of(Rival::Containerd2).map(|(rival, theirs)| Goal {
                what: format!("faster than {rival}"),
                found: 1.0 / ratio(ours, theirs),
                limit: 3.0,
                unit: "x",
                at_least: true,
            })),
            Part::Disk => goals.push(Goal::at_most(
                "of the bytes needed are written".into(),
                over_needed(ours, ours),
                1.02,
                "x",
            )),
        }
        goals
    }

    /// What our time went into.
    fn bound(&self, ours: &[Sample]) -> String {
        let each = |of: fn(&Sample) -> f64| median(ours.iter().map(of));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = each(|sample| (sample.cpu + sample.registry) / sample.wall);
        let bound = ours.last().and_then(|sample| sample.bound.as_deref());
        let mut text = format!(
            "        bound by {}; {busy:.2} of {cores} cores were ours and the registry's:",
            bound.unwrap_or("what the agent does not say"),
        );
        let _ = writeln!(
            text,
            " unpacking {:.2} s, fetching and verifying {:.2} s, containerd {:.2} s, registry {:.2} s",
            each(|sample| sample.unpackers),
            each(|sample| sample.cpu - sample.daemon - sample.unpackers),
            each(|sample| sample.daemon),
            each(|sample| sample.registry),
        );
        text
    }
}

impl Goal {
    fn at_most(what: String, found: f64, limit: f64, unit: &'static str) -> Self {
        Self {
            what,
            found,
            limit,
            unit,
            at_least: false,
        }
    }

    fn is_met(&self) -> bool {
        match self.at_least {
            true => self.found >= self.limit,
            false => self.found <= self.limit,
        }
    }

    fn line(&self) -> String {
        let Self {
            what,
            found,
            limit,
            unit,
            ..
        } = self;
        let word = if self.is_met() { "met" } else { "missed" };
        let than = if self.at_least { "at least" } else { "at most" };
        format!("  {word:7} {found:.2}{unit} {what}, goal: {than} {limit:.2}{unit}\n")
    }
}

/// Our time over theirs in the same round; the median of all rounds.
fn ratio(ours: &[Sample], theirs: &[Sample]) -> f64 {
    median(
        ours.iter()
            .zip(theirs)
            .map(|(our, their)| our.wall / their.wall),
    )
}

/// Bytes written over what the unpacked image takes.
fn over_needed(samples: &[Sample], ours: &[Sample]) -> f64 {
    let needed = ours.first().map_or(0, |sample| sample.needed).max(1) as f64;
    median(samples.iter().map(|sample| sample.written as f64 / needed))
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let words: Vec<&str> = load.split_whitespace().take(3).collect();
    words.join(" ")
}
