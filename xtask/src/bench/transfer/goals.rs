//! What a transfer is to reach, and what bounds it where it does not.

use std::collections::BTreeMap;

use super::{CAP, CONNECTIONS, Case, Competitor, Floor, SHAPED, Sample, Shape, median};

/// What a shaped link is never left unused of, in the time that the best peer takes: the resolution of
/// two medians.
const NOISE: f64 = 1.02;

/// The goals of one case.
pub(super) struct Goals<'a> {
    pub(super) case: &'a Case,
    pub(super) competitors: &'a [Competitor],
    pub(super) samples: &'a BTreeMap<usize, Vec<Sample>>,
    pub(super) floor: Floor,
}

/// A figure held against a limit.
struct Goal {
    what: String,
    found: f64,
    limit: f64,
    at_least: bool,
    bound: Bound,
}

/// What a missed goal is explained by.
#[derive(Clone, Copy)]
enum Bound {
    Time,
    Processor,
    Nothing,
}

impl Goals<'_> {
    /// One line for each goal, with what bounds it below one that was missed.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        for goal in self.all() {
            let is_met = match goal.at_least {
                true => goal.found >= goal.limit,
                false => goal.found <= goal.limit,
            };
            let (word, than) = (
                if is_met { "met" } else { "missed" },
                if goal.at_least { "at least" } else { "at most" },
            );
            text += &format!(
                "  {word:7} {:.2} {}, goal: {than} {:.2}\n",
                goal.found, goal.what, goal.limit
            );
            if !is_met {
                text += &self.bound(goal.bound);
            }
        }
        text
    }

    fn all(&self) -> Vec<Goal> {
        let at_most = |what: &str, found: Option<f64>, limit: f64, bound: Bound| {
            let what = what.to_owned();
            found.map(|found| Goal {
                what,
                found,
                limit,
                at_least: false,
                bound,
            })
        };
        let at_least = |what: &str, found: f64, limit: f64| {
            Some(Goal {
                what: what.to_owned(),
                found,
                limit,
                at_least: true,
                bound: Bound::Time,
            })
        };
        let rate = self.case.bytes() as f64 / self.wall(0);
        let cpu = self.of(0, |sample| sample.cpu) / self.gigabytes();
        let of_all = [
            at_most(
                "of the CPU of hf_transfer",
                self.named("hf_transfer")
                    .map(|index| cpu * self.gigabytes() / self.of(index, |sample| sample.cpu)),
                0.7,
                Bound::Processor,
            ),
            at_most(
                "core-seconds per verified GB",
                Some(cpu),
                0.8,
                Bound::Processor,
            ),
            at_most(
                "MiB of memory at most",
                Some(self.of(0, |sample| sample.peak as f64) / f64::from(1 << 20)),
                128.0,
                Bound::Nothing,
            ),
        ];
        let of_case = match self.case.shape {
            Shape::Free => [
                at_most(
                    "of the time of curl and sha256sum",
                    self.time_of("curl"),
                    0.85,
                    Bound::Time,
                ),
                at_most(
                    "of the time of huggingface_hub 2.4, which verifies nothing",
                    self.time_of("huggingface_hub 2.4"),
                    0.67,
                    Bound::Time,
                ),
                at_most(
                    "of the time of huggingface_hub 0.36, which verifies nothing",
                    self.time_of("huggingface_hub 0.36"),
                    1.0,
                    Bound::Time,
                ),
            ],
            Shape::EachConnection => [
                at_most(
                    "of the time of aria2c",
                    self.time_of("aria2c"),
                    NOISE,
                    Bound::Time,
                ),
                at_most(
                    "of the time of hf_transfer",
                    self.time_of("hf_transfer"),
                    NOISE,
                    Bound::Time,
                ),
                at_least(
                    "of what all connections at their cap give",
                    rate / (CAP * CONNECTIONS) as f64,
                    0.9,
                ),
            ],
            Shape::Total => [
                at_least("of the link is used", rate / SHAPED as f64, 0.95),
                at_most(
                    "of the time of the best of the others",
                    (1..self.competitors.len())
                        .map(|index| self.wall(0) / self.wall(index))
                        .reduce(f64::max),
                    NOISE,
                    Bound::Time,
                ),
                None,
            ],
        };
        of_case.into_iter().chain(of_all).flatten().collect()
    }

    fn bound(&self, bound: Bound) -> String {
        let busy = self.of(0, |sample| sample.cpu) / self.wall(0);
        let Floor { hashing, receiving } = self.floor;
        match bound {
            Bound::Nothing => String::new(),
            Bound::Processor => format!(
                "          bound by hashing, {hashing:.2} core-s/GB by itself (openssl), and receiving, {receiving:.2} (curl to nowhere): {:.2} before a byte is written\n",
                hashing + receiving
            ),
            Bound::Time if busy > 0.85 => format!(
                "          bound by its CPU, which is {:.0} % busy; hashing and receiving alone take {:.2} core-s/GB\n",
                busy * 100.0,
                hashing + receiving
            ),
            Bound::Time => format!(
                "          bound by the server, the link or the disk: its CPU is {:.0} % busy\n",
                busy * 100.0
            ),
        }
    }

    fn gigabytes(&self) -> f64 {
        self.case.bytes() as f64 / 1e9
    }

    fn named(&self, name: &str) -> Option<usize> {
        let mut all = self.competitors.iter();
        all.position(|competitor| competitor.name.starts_with(name))
    }

    fn time_of(&self, name: &str) -> Option<f64> {
        let index = self.named(name)?;
        Some(self.wall(0) / self.wall(index))
    }

    fn wall(&self, index: usize) -> f64 {
        self.of(index, |sample| sample.wall)
    }

    fn of(&self, index: usize, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples[&index].iter().map(of))
    }
}
