//! What a run tells whoever watches: bars and sentences for a person, JSON lines for a program.
//!
//! Everything goes through [`Event`]; both forms are rendered from it, so neither knows more than
//! the other. Progress bars go to standard error, results to standard output.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::Duration;

use headstart_core::quantity::{Bytes, Rate};
pub use headstart_transfer::chain;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

/// Something that happened to an item of a job.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What was asked for is now pinned to content.
    Resolved {
        /// As asked for.
        item: String,
        /// What it is: a digest or a commit.
        pinned: String,
        /// Bytes that make it up.
        total_bytes: u64,
        /// Bytes that have to be fetched.
        missing_bytes: u64,
    },
    /// Bytes arrived. Sent a few times a second.
    Progress {
        /// As asked for.
        item: String,
        /// Bytes there.
        done_bytes: u64,
        /// Bytes of the whole.
        total_bytes: u64,
    },
    /// It is ready to be used.
    Ready(Outcome),
    /// It is not, and will not be in this run.
    Failed {
        /// As asked for.
        item: String,
        /// One line: what was asked, what was found, what to do.
        error: String,
        /// Whether the same command may succeed later.
        transient: bool,
    },
    /// The end of the job.
    Summary(Summary),
}

/// One item that is ready.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// As asked for.
    pub item: String,
    /// A digest or a commit.
    pub pinned: String,
    /// Bytes that make it up.
    pub total_bytes: u64,
    /// Bytes that came over the network in this run.
    pub fetched_bytes: u64,
    /// Bytes that an earlier, interrupted run had fetched.
    pub resumed_bytes: u64,
    /// Seconds from its start to ready.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
    /// What the time went into.
    pub bound: Bound,
    /// Where it is: the value for `HF_HUB_CACHE`, or the runtime that has the image.
    pub place: String,
}

/// What kept an item from being ready sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// Nothing had to be fetched.
    Nothing,
    /// The limit that was asked for.
    Limit,
    /// The network or its far end.
    Link,
    /// Writing.
    Disk,
    /// Inflating and unpacking.
    Inflate,
}

/// The whole job.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Items that are ready.
    pub ready: usize,
    /// Items that failed.
    pub failed: usize,
    /// Bytes that came over the network.
    pub fetched_bytes: u64,
    /// Wall time of the job.
    #[serde(serialize_with = "seconds")]
    pub took: Duration,
}

fn seconds<S: serde::Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Takes events as they happen.
pub trait Report: Send + Sync {
    /// Tells of one.
    fn tell(&self, event: Event);
}

/// Says nothing: whoever wants to know looks.
#[derive(Debug, Default)]
pub struct Quiet;

impl Report for Quiet {
    fn tell(&self, _: Event) {}
}

/// One JSON object per line on standard output.
#[derive(Debug, Default)]
pub struct Lines;

impl Report for Lines {
    fn tell(&self, event: Event) {
        let line = serde_json::to_string(&event).expect("plain data serializes");
        // A reader that went away is no reason to stop fetching.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// Bars while it runs and a table at the end.
pub struct Person {
    bars: MultiProgress,
    by_item: Mutex<HashMap<String, ProgressBar>>,
}

impl Default for Person {
    fn default() -> Self {
        let bars = MultiProgress::new();
        if !std::io::stderr().is_terminal() {
            bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        Self {
            bars,
            by_item: Mutex::default(),
        }
    }
}

impl Person {
    fn bar(&self, item: &str, total: u64) -> ProgressBar {
        let mut by_item = self.by_item.lock().unwrap_or_else(|e| e.into_inner());
        let bar = by_item.entry(item.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template(
                "{prefix:>40!} {bar:30} {binary_bytes:>11}/{binary_total_bytes:<11} {binary_bytes_per_sec:>13} {eta:>4}",
            );
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(style.expect("the template is constant"));
            bar.set_prefix(item.to_owned());
            bar
        });
        bar.clone()
    }

    fn say(&self, line: &str) {
        let said = self
            .bars
            .suspend(|| writeln!(std::io::stdout().lock(), "{line}"));
        let _ = said;
    }
}

impl Report for Person {
    fn tell(&self, event: Event) {
        match event {
            Event::Resolved {
                item,
                total_bytes,
                missing_bytes,
                ..
            } => self
                .bar(&item, total_bytes)
                .set_position(total_bytes - missing_bytes),
            Event::Progress {
                item,
                done_bytes,
                total_bytes,
            } => self.bar(&item, total_bytes).set_position(done_bytes),
            Event::Ready(outcome) => {
                self.bar(&outcome.item, outcome.total_bytes)
                    .finish_and_clear();
                self.say(&sentence(&outcome));
            }
            Event::Failed { item, error, .. } => {
                self.bar(&item, 0).finish_and_clear();
                self.say(&format!("failed  {item}\n        {error}"));
            }
            Event::Summary(summary) => {
                let rate = summary.fetched_bytes as f64 / summary.took.as_secs_f64().max(0.001);
                self.say(&format!(
                    "{} ready, {} failed; fetched {} in {:.1} s ({})",
                    summary.ready,
                    summary.failed,
                    Bytes(summary.fetched_bytes),
                    summary.took.as_secs_f64(),
                    Rate(rate as u64),
                ));
            }
        }
    }
}

fn sentence(outcome: &Outcome) -> String {
    let Outcome {
        item,
        pinned,
        place,
        ..
    } = outcome;
    let how = match outcome.bound {
        Bound::Nothing => "was there already".to_owned(),
        bound => {
            let seconds = outcome.took.as_secs_f64();
            let resumed = match outcome.resumed_bytes {
                0 => String::new(),
                bytes => format!(", {} kept from before", Bytes(bytes)),
            };
            let by = match bound {
                Bound::Limit => "the limit asked for",
                Bound::Disk => "the disk",
                Bound::Inflate => "inflating",
                Bound::Link | Bound::Nothing => "the link",
            };
            format!(
                "{} of {} fetched{resumed} in {seconds:.1} s ({}), bound by {by}",
                Bytes(outcome.fetched_bytes),
                Bytes(outcome.total_bytes),
                Rate((outcome.fetched_bytes as f64 / seconds.max(0.001)) as u64),
            )
        }
    };
    format!("ready   {item}\n        {pinned}\n        {how}\n        {place}")
}
