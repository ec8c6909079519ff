//! The board: every transfer in progress, what each still lacks, and who may fetch what next.
//!
//! Lanes come here for an [`Assignment`] and bring it back with an [`Outcome`]. All scheduling
//! happens under one lock and none of it waits. The rules:
//! - a smaller priority first; among equals the transfer with the fewest lanes, then the one with
//!   the most bytes left: many blobs are fetched one lane each, which lets their bytes be hashed
//!   in order, and the largest begins first;
//! - among the sources of a transfer the one whose lanes are expected to deliver soonest, by what
//!   they have delivered so far;
//! - a pause asked for by a host (429, 503) holds for every transfer from it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use headstart_core::pace::{Load, part_size};
use headstart_core::ranges::RangeSet;
use http::StatusCode;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::{Limits, Progress};
use crate::error::FetchError;
use crate::sink::Sink;
use crate::source::{Blob, Location, Source};

/// Refusals of one location after another without a byte in between, until a source is given up.
const MAX_REFUSALS: u32 = 3;

/// Answers that break the protocol until a source is given up.
const MAX_STRIKES: u32 = 3;

/// A transfer that lands this much since trouble began is out of it.
const OUT_OF_TROUBLE: u64 = 64 << 10;

/// Longest pause between tries of one source that fails without landing a byte.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// One transfer on the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransferId(u64);

/// What a lane is to fetch.
pub(crate) struct Assignment {
    pub(crate) transfer: TransferId,
    pub(crate) size: u64,
    /// What to fetch. One range, unless the source ignores ranges: then all that is missing.
    pub(crate) wanted: RangeSet,
    pub(crate) mode: Mode,
    pub(crate) place: Arc<Place>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) cancel: CancellationToken,
    /// What of `wanted` has landed.
    pub(crate) landed: RangeSet,
    source: usize,
    host: String,
    since: Instant,
}

/// How a source is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// With Range.
    Ranges,
    /// From the first byte, because it ignores Range; what is not wanted is read past.
    Whole,
}

/// A source and where it last said the blob is, shared by the lanes that fetch from it.
pub(crate) struct Place {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) at: tokio::sync::Mutex<Known>,
}

/// What is known of a place.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) location: Option<Location>,
    /// Counts locations, so that a refusal of an old one does not throw away its successor.
    pub(crate) generation: u64,
    /// The status with which the location of this generation refused.
    pub(crate) refused: Option<StatusCode>,
}

/// How an assignment ended. What has landed of it is kept in every case.
pub(crate) enum Outcome {
    /// All of it landed.
    Done,
    /// The network broke, stalled or answered 5xx; try again.
    Broke(String),
    /// The host asks everybody to wait.
    Busy(Duration, String),
    /// The location no longer serves; ask the source for another.
    Refused(String),
    /// The answer broke the protocol.
    Strike(String),
    /// The source ignores Range.
    NoRanges,
    /// The source is of no use for this blob.
    Dead(String),
    /// The sink failed.
    Sink(std::io::Error),
    /// Nobody wants it any more.
    Cancelled,
}

/// What a lane does next.
pub(crate) enum Next {
    Work(Box<Assignment>),
    /// Nothing until the board changes, or until then.
    Wait(Option<Instant>),
}

struct Transfer {
    name: String,
    size: u64,
    priority: u8,
    todo: RangeSet,
    landed: u64,
    lanes: usize,
    places: Vec<PlaceState>,
    sink: Arc<dyn Sink>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    trouble: Option<Trouble>,
    done: Option<oneshot::Sender<Result<(), FetchError>>>,
}

struct Trouble {
    since: Instant,
    landed: u64,
    last: String,
}

struct PlaceState {
    place: Arc<Place>,
    host: String,
    mode: Mode,
    lanes: usize,
    dead: Option<String>,
    refusals: u32,
    strikes: u32,
    failures: u32,
    pause_until: Option<Instant>,
}

#[derive(Default)]
struct Host {
    pause_until: Option<Instant>,
    /// Bytes per second that one lane got lately; zero when unknown.
    lane_rate: f64,
}

/// The board.
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// Something can be fetched that could not before.
    pub(crate) changed: Notify,
    /// All bytes that ever landed.
    pub(crate) bytes: AtomicU64,
    limits: Limits,
    busy: AtomicUsize,
    jitter: RandomState,
}

#[derive(Default)]
struct Inner {
    transfers: BTreeMap<TransferId, Transfer>,
    hosts: HashMap<String, Host>,
    next_id: u64,
}

impl Board {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            inner: Mutex::default(),
            changed: Notify::new(),
            bytes: AtomicU64::new(0),
            limits,
            busy: AtomicUsize::new(0),
            jitter: RandomState::new(),
        }
    }

    /// Adds a transfer of what `blob` still lacks, from `sources`. The receiver hears how it ended.
    pub(crate) fn add(
        &self,
        blob: &Blob,
        sources: &[Arc<dyn Source>],
        todo: RangeSet,
        sink: Arc<dyn Sink>,
        progress: Arc<Progress>,
    ) -> (TransferId, oneshot::Receiver<Result<(), FetchError>>) {
        let (done, receiver) = oneshot::channel();
        let places = sources.iter().map(|source| PlaceState {
            place: Arc::new(Place {
                source: source.clone(),
                at: tokio::sync::Mutex::default(),
            }),
            host: source.name(),
            mode: Mode::Ranges,
            lanes: 0,
            dead: None,
            refusals: 0,
            strikes: 0,
            failures: 0,
            pause_until: None,
        });
        let mut inner = self.lock();
        let id = TransferId(inner.next_id);
        inner.next_id += 1;
        let mut transfer = Transfer {
            name: blob.name.clone(),
            size: blob.size,
            priority: blob.priority,
            landed: blob.size - todo.bytes(),
            todo,
            lanes: 0,
            places: places.collect(),
            sink,
            progress,
            cancel: CancellationToken::new(),
            trouble: None,
            done: Some(done),
        };
        transfer.end_if_decided();
        inner.transfers.insert(id, transfer);
        drop(inner);
        self.changed.notify_waiters();
        (id, receiver)
    }

    /// Takes a transfer off the board; its lanes stop at once.
    pub(crate) fn remove(&self, id: TransferId) {
        let removed = self.lock().transfers.remove(&id);
        if let Some(transfer) = removed {
            transfer.cancel.cancel();
        }
    }

    /// What a lane should fetch now, when `lanes` of them share the work.
    pub(crate) fn next(&self, now: Instant, lanes: usize) -> Next {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let remaining: u64 = inner.transfers.values().map(|t| t.todo.bytes()).sum();
        let mut earliest: Option<Instant> = None;
        let mut best: Option<(TransferId, usize, Range<u64>)> = None;
        let mut best_rank = None;
        for (&id, transfer) in &inner.transfers {
            if transfer.done.is_none() || transfer.todo.is_empty() {
                continue;
            }
            let wanted = transfer.todo.within(transfer.sink.window());
            let Some(first) = wanted.first().cloned() else {
                continue;
            };
            let (place, when) = transfer.place(&inner.hosts, now);
            earliest = [earliest, when].into_iter().flatten().min();
            let Some(place) = place else { continue };
            let rank = (
                transfer.priority,
                transfer.lanes,
                u64::MAX - transfer.todo.bytes(),
            );
            if best_rank.is_none_or(|best| rank < best) {
                (best_rank, best) = (Some(rank), Some((id, place, first)));
            }
        }
        let Some((id, place, first)) = best else {
            return Next::Wait(earliest);
        };
        let transfer = inner
            .transfers
            .get_mut(&id)
            .expect("chosen from the same map");
        let state = &mut transfer.places[place];
        let rate = inner
            .hosts
            .get(&state.host)
            .map_or(0.0, |host| host.lane_rate);
        let wanted = match state.mode {
            Mode::Whole => std::mem::take(&mut transfer.todo),
            Mode::Ranges => {
                let mut part = part_size(rate as u64, remaining, lanes);
                let window = transfer.sink.window();
                if window.end - window.start < transfer.size {
                    // A stream: several lanes must fit into the room of its reader.
                    part = part.min(((window.end - window.start) / 3).max(1 << 20));
                }
                let end = first.end.min(first.start.saturating_add(part));
                transfer.todo.remove(first.start..end);
                let mut wanted = RangeSet::default();
                wanted.insert(first.start..end);
                wanted
            }
        };
        state.lanes += 1;
        transfer.lanes += 1;
        self.busy.fetch_add(1, Ordering::Relaxed);
        Next::Work(Box::new(Assignment {
            transfer: id,
            size: transfer.size,
            wanted,
            mode: state.mode,
            place: state.place.clone(),
            sink: transfer.sink.clone(),
            progress: transfer.progress.clone(),
            cancel: transfer.cancel.clone(),
            landed: RangeSet::default(),
            source: place,
            host: state.host.clone(),
            since: now,
        }))
    }

    /// Notes that bytes of an assignment have landed.
    pub(crate) fn landed(&self, assignment: &mut Assignment, range: Range<u64>) {
        let bytes = range.end - range.start;
        assignment.landed.insert(range);
        assignment
            .progress
            .landed
            .fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut inner = self.lock();
        if let Some(transfer) = inner.transfers.get_mut(&assignment.transfer) {
            transfer.landed += bytes;
            let out = |t: &Trouble| transfer.landed - t.landed >= OUT_OF_TROUBLE;
            if transfer.trouble.as_ref().is_some_and(out) {
                transfer.trouble = None;
            }
            transfer.places[assignment.source].refusals = 0;
            transfer.end_if_decided();
        }
    }

    /// Takes back an assignment.
    pub(crate) fn settle(&self, assignment: Assignment, outcome: Outcome, now: Instant) {
        self.busy.fetch_sub(1, Ordering::Relaxed);
        let landed = assignment.landed.bytes();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let host = inner.hosts.entry(assignment.host.clone()).or_default();
        let seconds = (now - assignment.since).as_secs_f64();
        if landed >= OUT_OF_TROUBLE && seconds > 0.0 {
            let rate = landed as f64 / seconds;
            host.lane_rate = match host.lane_rate {
                0.0 => rate,
                old => 0.7 * old + 0.3 * rate,
            };
        }
        if let Outcome::Busy(wait, _) = &outcome {
            let until = now + *wait;
            host.pause_until = host.pause_until.max(Some(until));
        }
        let Some(transfer) = inner.transfers.get_mut(&assignment.transfer) else {
            return;
        };
        transfer.lanes -= 1;
        let mut unlanded = assignment.wanted;
        assignment
            .landed
            .iter()
            .for_each(|range| unlanded.remove(range));
        unlanded
            .iter()
            .for_each(|range| transfer.todo.insert(range));
        let jitter = 0.75 + (self.jitter.hash_one(assignment.since) % 512) as f64 / 1024.0;
        transfer.take_in(
            assignment.source,
            outcome,
            landed,
            now,
            jitter,
            &self.limits,
        );
        transfer.end_if_decided();
        self.changed.notify_waiters();
    }

    /// Ends transfers that have been in trouble for longer than the limits allow.
    pub(crate) fn end_the_stalled(&self, now: Instant) {
        for transfer in self.lock().transfers.values_mut() {
            if let Some(trouble) = &transfer.trouble
                && now.saturating_duration_since(trouble.since) > self.limits.patience
            {
                let error = FetchError::Stalled {
                    name: transfer.name.clone(),
                    waited: now - trouble.since,
                    last: trouble.last.clone(),
                };
                transfer.end(Err(error));
            }
        }
    }

    /// Whether `lanes` lanes all have work.
    pub(crate) fn load(&self, lanes: usize) -> Load {
        match self.busy.load(Ordering::Relaxed) >= lanes {
            true => Load::Full,
            false => Load::Idle,
        }
    }

    /// What one lane of this assignment's host usually gets, bytes per second; zero when unknown.
    pub(crate) fn usual_rate(&self, assignment: &Assignment) -> f64 {
        let inner = self.lock();
        inner
            .hosts
            .get(&assignment.host)
            .map_or(0.0, |host| host.lane_rate)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Transfer {
    /// The place to fetch from now, else when one may be usable.
    fn place(
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
            let rate = host.map_or(0.0, |host| host.lane_rate).max(1.0);
            let cost = (state.lanes + 1) as f64 / rate;
            // Sources nobody has measured yet are tried as if they were as good as any.
            let cost = if rate == 1.0 {
                state.lanes as f64 * f64::MIN_POSITIVE
            } else {
                cost
            };
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((index, cost));
            }
        }
        (best.map(|(index, _)| index), earliest)
    }

    fn take_in(
        &mut self,
        source: usize,
        outcome: Outcome,
        landed: u64,
        now: Instant,
        jitter: f64,
        limits: &Limits,
    ) {
        let state = &mut self.places[source];
        state.lanes -= 1;
        let last = match outcome {
            Outcome::Done => return,
            Outcome::Cancelled => return,
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
                state.dead = Some(reason);
                return;
            }
            Outcome::Busy(wait, last) => {
                if wait > limits.patience {
                    state.dead = Some(format!("{last}, longer than anyone waits here"));
                }
                last
            }
            Outcome::Refused(last) => {
                state.refusals += 1;
                if state.refusals >= MAX_REFUSALS {
                    state.dead = Some(format!("{last}, {MAX_REFUSALS} times in a row"));
                }
                last
            }
            Outcome::Strike(last) => {
                state.strikes += 1;
                if state.strikes >= MAX_STRIKES {
                    state.dead = Some(format!("{last}, {MAX_STRIKES} times"));
                }
                last
            }
            Outcome::Broke(last) => {
                if landed >= OUT_OF_TROUBLE {
                    state.failures = 0;
                } else {
                    state.failures += 1;
                    let pause = 0.1 * f64::from(1 << state.failures.min(10));
                    let pause = Duration::from_secs_f64(pause * jitter).min(MAX_PAUSE);
                    state.pause_until = Some(now + pause);
                }
                last
            }
        };
        tracing::debug!(blob = %self.name, host = %state.host, reason = %last, "a request failed");
        self.progress.faults.fetch_add(1, Ordering::Relaxed);
        match &mut self.trouble {
            Some(trouble) => trouble.last = last,
            none => {
                *none = Some(Trouble {
                    since: now,
                    landed: self.landed,
                    last,
                });
            }
        }
    }

    fn end_if_decided(&mut self) {
        if self.landed == self.size && self.todo.is_empty() {
            self.end(Ok(()));
        } else if self.places.iter().all(|state| state.dead.is_some()) {
            let reason = |state: &PlaceState| state.dead.clone();
            let mut reasons: Vec<String> = self.places.iter().filter_map(reason).collect();
            if reasons.is_empty() {
                reasons.push("none was given".to_owned());
            }
            let name = self.name.clone();
            self.end(Err(FetchError::Sources { name, reasons }));
        }
    }

    fn end(&mut self, how: Result<(), FetchError>) {
        if let Some(done) = self.done.take() {
            self.cancel.cancel();
            let _ = done.send(how);
        }
    }
}
