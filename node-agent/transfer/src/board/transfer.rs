//! One transfer on the board: what it lacks, who is at work on it, and what its sources have done.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headstart_core::ranges::RangeSet;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Assignment, Host, LEAST_PART, LEAST_SHARE, LOOK_AGAIN, MAX_PAUSE, MAX_REFUSALS, MAX_STRIKES,
    Mode, OUT_OF_TROUBLE, Outcome, Place, Span, TransferId,
};
use crate::engine::{Limits, Progress};
use crate::error::FetchError;
use crate::sink::Sink;
use crate::source::Priority;

pub(super) struct Transfer {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) priority: Priority,
    pub(super) todo: RangeSet,
    pub(super) landed: u64,
    pub(super) lanes: usize,
    pub(super) places: Vec<PlaceState>,
    /// What lanes are at, but for those that read past what is not wanted.
    pub(super) at_work: Vec<AtWork>,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) progress: Arc<Progress>,
    pub(super) cancel: CancellationToken,
    pub(super) trouble: Option<Trouble>,
    pub(super) done: Option<oneshot::Sender<Result<(), FetchError>>>,
}

pub(super) struct AtWork {
    pub(super) place: usize,
    pub(super) span: Arc<Span>,
    pub(super) start: u64,
    pub(super) since: Instant,
}

pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) landed: u64,
    pub(super) last: String,
}

pub(super) struct PlaceState {
    pub(super) place: Arc<Place>,
    pub(super) host: String,
    pub(super) mode: Mode,
    pub(super) lanes: usize,
    pub(super) dead: Option<Dead>,
    pub(super) refusals: u32,
    pub(super) strikes: u32,
    pub(super) failures: u32,
    /// When `failures` last grew: requests under way by then failed of the same cause.
    pub(super) failed_at: Option<Instant>,
    pub(super) pause_until: Option<Instant>,
}

/// What a transfer has for one more lane.
pub(super) enum Work {
    /// The first range that nobody fetches.
    First(Range<u64>),
    /// A share of what a lane is at, by its index.
    Share(usize),
}

pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

impl AtWork {
    /// Bytes per second so far.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let read = self.span.lock().start - self.start;
        read as f64 / seconds.max(0.001)
    }
}

impl Transfer {
    pub(super) fn work(&self, now: Instant, share_beyond: Duration) -> Option<Work> {
        let window = self.sink.window();
        let Some(first) = self.todo.within(window.clone()).first().cloned() else {
            return self.slowest(now, share_beyond).map(Work::Share);
        };
        // A stream's window opens by what its reader takes: not every crumb is worth a request.
        let is_crumb = first.end == window.end
            && window.end < self.size
            && first.end - first.start < LEAST_PART;
        (!is_crumb).then_some(Work::First(first))
    }

    /// The lane that will be at its part for the longest, if that is long enough to help it.
    pub(super) fn slowest(&self, now: Instant, share_beyond: Duration) -> Option<usize> {
        let mut slowest = None;
        let mut longest = share_beyond;
        for (index, at) in self.at_work.iter().enumerate() {
            let (left, time) = (at.span.left(), now.saturating_duration_since(at.since));
            if left < LEAST_SHARE || time < share_beyond {
                continue;
            }
            let seconds = left as f64 / at.rate(now).max(1.0);
            let needs = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            if needs > longest {
                (slowest, longest) = (Some(index), needs);
            }
        }
        slowest
    }

    /// Cuts off what a lane of `rate` bytes per second (zero when unknown) would have read by the
    /// time the lane at `index` has read the rest.
    pub(super) fn share(&self, index: usize, rate: f64, now: Instant) -> RangeSet {
        let at = &self.at_work[index];
        let its = at.rate(now);
        let keeps = if its + rate > 0.0 {
            its / (its + rate)
        } else {
            0.5
        };
        let mut left = at.span.lock();
        let keep = ((left.end - left.start) as f64 * keeps.min(0.5)) as u64;
        let cut = left.start + keep;
        let share = RangeSet::from(cut..left.end);
        left.end = cut;
        share
    }

    /// How much of a stream may be asked for at once: several lanes must fit into the room of its
    /// reader.
    pub(super) fn part(&self, part: u64) -> u64 {
        let window = self.sink.window();
        match window.end - window.start < self.size {
            true => part.min(((window.end - window.start) / 3).max(LEAST_PART)),
            false => part,
        }
    }

    pub(super) fn assign(
        &mut self,
        id: TransferId,
        place: usize,
        wanted: RangeSet,
        now: Instant,
    ) -> Assignment {
        let state = &mut self.places[place];
        state.lanes += 1;
        self.lanes += 1;
        let end = wanted.iter().last().map_or(0, |range| range.end);
        let start = match state.mode {
            Mode::Ranges => wanted.first().map_or(0, |range| range.start),
            Mode::Whole => 0,
        };
        let span = Span::new(start..end);
        if state.mode == Mode::Ranges {
            self.at_work.push(AtWork {
                place,
                span: span.clone(),
                start,
                since: now,
            });
        }
        Assignment {
            transfer: id,
            size: self.size,
            wanted,
            mode: state.mode,
            place: state.place.clone(),
            sink: self.sink.clone(),
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
            span,
            landed: RangeSet::default(),
            source: place,
            host: state.host.clone(),
            since: now,
        }
    }

    /// The place to fetch from now, else when one may be usable.
    pub(super) fn place(
        &self,
        hosts: &HashMap<String, Host>,
        now: Instant,
    ) -> (Option<usize>, Option<Instant>) {
        let (mut best, mut earliest) = (None, None);
        for (index, state) in self.places.iter().enumerate() {
            // A source that is read whole gets one lane, and only when nobody else writes.
            if state.dead.is_some() || (state.mode == Mode::Whole && self.lanes > 0) {
                continue;
            }
            let host = hosts.get(&state.host);
            let pause = state
                .pause_until
                .max(host.and_then(|host| host.pause_until));
            if let Some(until) = pause.filter(|until| *until > now) {
                earliest = [earliest, Some(until)].into_iter().flatten().min();
                continue;
            }
            // Seconds for a byte of one more lane. What nobody has measured is tried once.
            let cost = match self.lane_rate(index, host, now) {
                Some(rate) => (state.lanes + 1) as f64 / rate.max(1.0),
                None => state.lanes as f64,
            };
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        (best.map(|(index, _)| index), earliest)
    }

    /// Bytes per second that a lane of the place gets, as far as anyone knows.
    pub(super) fn lane_rate(&self, place: usize, host: Option<&Host>, now: Instant) -> Option<f64> {
        if let Some(host) = host
            && host.lane_rate > 0.0
        {
            return Some(host.lane_rate);
        }
        let at_place = self.at_work.iter().filter(|at| at.place == place);
        let known = at_place.filter(|at| now.saturating_duration_since(at.since) >= LOOK_AGAIN);
        known.map(|at| at.rate(now)).reduce(f64::max)
    }

    pub(super) fn take_in(&mut self, outcome: Outcome, settled: &Settled, limits: &Limits) {
        let state = &mut self.places[settled.source];
        state.lanes -= 1;
        let last = match outcome {
            Outcome::Done => {
                state.failures = 0;
                return;
            }
            Outcome::Cancelled | Outcome::Outdated => return,
            Outcome::NoRanges => {
                state.mode = Mode::Whole;
                return;
            }
            Outcome::Sink(source) => {
                let error = FetchError::Disk {
                    name: self.name.clone(),
                    operation: "write",
                    path: Default::default(),
                    source,
                };
                self.end(Err(error));
                return;
            }
            Outcome::Dead(reason) => {
                state.dead = Some(Dead::of(reason));
                return;
            }
            Outcome::Busy(wait, last) => {
                if wait > limits.patience {
                    state.dead = Some(Dead {
                        reason: format!("{last}, longer than anyone waits here"),
                        wait: Some(wait),
                    });
                }
                last
            }
            Outcome::Refused(last) => {
                state.refusals += 1;
                if state.refusals >= MAX_REFUSALS {
                    let reason = format!("{last}, {MAX_REFUSALS} times in a row");
                    state.dead = Some(Dead::of(reason));
                }
                last
            }
            Outcome::Strike(last) => {
                state.strikes += 1;
                if state.strikes >= MAX_STRIKES {
                    state.dead = Some(Dead::of(format!("{last}, {MAX_STRIKES} times")));
                }
                last
            }
            Outcome::Broke(last) => {
                let since = self.trouble.as_ref().map_or(settled.now, |t| t.since);
                state.failed(settled, since + limits.patience);
                last
            }
        };
        tracing::debug!(blob = %self.name, host = %state.host, reason = %last, "a request failed");
        self.progress.faults.fetch_add(1, Ordering::Relaxed);
        let trouble = self.trouble.get_or_insert(Trouble {
            since: settled.now,
            landed: self.landed,
            last: String::new(),
        });
        trouble.last = last;
        // Judged by failures only: a transfer that waits for its turn or its reader is not stalled.
        let waited = settled.now.saturating_duration_since(trouble.since);
        if waited >= limits.patience {
            let error = FetchError::Stalled {
                name: self.name.clone(),
                waited,
                last: trouble.last.clone(),
            };
            self.end(Err(error));
        }
    }

    pub(super) fn end_if_decided(&mut self) {
        if self.landed == self.size && self.todo.is_empty() {
            self.end(Ok(()));
        } else if self.places.iter().all(|state| state.dead.is_some()) {
            let dead = || self.places.iter().filter_map(|state| state.dead.as_ref());
            let mut reasons: Vec<String> = dead().map(|dead| dead.reason.clone()).collect();
            if reasons.is_empty() {
                reasons.push("none was given".to_owned());
            }
            let name = self.name.clone();
            let error = match dead().filter_map(|dead| dead.wait).min() {
                Some(wait) => FetchError::Busy {
                    name,
                    wait,
                    reasons,
                },
                None => FetchError::Sources { name, reasons },
            };
            self.end(Err(error));
        }
    }

    pub(super) fn end(&mut self, how: Result<(), FetchError>) {
        if let Some(done) = self.done.take() {
            self.cancel.cancel();
            let _ = done.send(how);
        }
    }
}

/// How an assignment went, beside its outcome.
pub(super) struct Settled {
    pub(super) source: usize,
    pub(super) since: Instant,
    pub(super) landed: u64,
    pub(super) now: Instant,
    /// Around 1, so that many agents do not come back together.
    pub(super) jitter: f64,
}

/// Why a place is of no use.
pub(super) struct Dead {
    reason: String,
    /// When it may be of use again, if it said so.
    wait: Option<Duration>,
}

impl Dead {
    fn of(reason: String) -> Self {
        Self { reason, wait: None }
    }
}

impl PlaceState {
    /// Pauses the place for twice as long after each failure without bytes, but not beyond the
    /// end of patience: the last try is made then.
    pub(super) fn failed(&mut self, settled: &Settled, patience_ends: Instant) {
        if settled.landed >= OUT_OF_TROUBLE {
            self.failures = 0;
            return;
        }
        if self.failed_at.is_some_and(|at| settled.since < at) {
            return;
        }
        self.failures += 1;
        self.failed_at = Some(settled.now);
        let pause = 0.1 * f64::from(1 << self.failures.min(10));
        let pause = Duration::from_secs_f64(pause * settled.jitter).min(MAX_PAUSE);
        self.pause_until = Some((settled.now + pause).min(patience_ends));
    }
}
