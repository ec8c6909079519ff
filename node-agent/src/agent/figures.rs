//! What the agent has done and is doing, in numbers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headstart_transfer::source::SourceKind;

use super::queue::Phase;
use super::{Agent, BytesBySource, Kind};

/// What ended items have come to.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) bytes: [[AtomicU64; SourceKind::ALL.len()]; 2],
    pub(super) mismatches: AtomicU64,
    pub(super) ready: Mutex<Vec<(Kind, Duration)>>,
}

impl Agent {
    /// How many items of a kind are in which state, for metrics.
    pub(crate) fn states(&self, kind: Kind) -> [(&'static str, i64); 4] {
        let mut states = [("waiting", 0), ("failed", 0), ("fetching", 0), ("ready", 0)];
        for entry in self.inner.queue().entries.values() {
            let state = match entry.phase {
                _ if entry.wish.kind() != kind => continue,
                Phase::Waiting { .. } if entry.fact.problem.is_empty() => 0,
                Phase::Waiting { .. } => 1,
                Phase::Running { .. } => 2,
                Phase::Ready { .. } | Phase::Looking => 3,
            };
            states[state].1 += 1;
        }
        states
    }

    /// Bytes fetched so far, by kind of item ([`Kind`]'s order) and of source.
    pub(crate) fn bytes(&self) -> (BytesBySource, u64) {
        let mut bytes = BytesBySource::default();
        let counters = &self.inner.counters;
        for (sums, counts) in bytes.iter_mut().zip(&counters.bytes) {
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum = count.load(Ordering::Relaxed);
            }
        }
        let mut mismatches = counters.mismatches.load(Ordering::Relaxed);
        for entry in self.inner.queue().entries.values() {
            if let Some(ticket) = &entry.ticket {
                let sums = ticket.tally.sums();
                let of_kind = &mut bytes[entry.wish.kind() as usize];
                for (sum, more) in of_kind.iter_mut().zip(sums.by_kind) {
                    *sum += more;
                }
                mismatches += sums.mismatches;
            }
        }
        (bytes, mismatches)
    }

    /// How long items took that became ready since this was asked last.
    pub(crate) fn took(&self) -> Vec<(Kind, Duration)> {
        let mut ready = self
            .inner
            .counters
            .ready
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        std::mem::take(&mut ready)
    }

    /// Whether somebody waits for what cannot begin yet.
    pub(crate) fn is_awaited(&self) -> bool {
        let queue = self.inner.queue();
        queue
            .entries
            .values()
            .any(|entry| entry.wants > 0 && !entry.is_running())
    }
}
