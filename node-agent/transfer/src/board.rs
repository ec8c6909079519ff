//! The board: every transfer in progress, what each still lacks, and who may fetch what next.
//!
//! Lanes come here for an [`Assignment`] and bring it back with an [`Outcome`]. All scheduling
//! happens under one lock and none of it waits. The rules:
//! - a smaller priority first; among equals the transfer with the fewest lanes, then the one with
//!   the most bytes left: many blobs are fetched one lane each, which lets their bytes be hashed
//!   in order, and the largest begins first;
//! - among the sources of a transfer the one whose lanes are expected to deliver soonest, by what
//!   they have delivered so far;
//! - a pause asked for by a host (429, 503) holds for every transfer from it;
//! - when nothing is left to give out, an idle lane takes over the far end of what a slow one is
//!   still at, so that no transfer waits for its slowest connection.

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

/// Least bytes worth a request; a stream's lanes wait for so much room.
const LEAST_PART: u64 = 1 << 20;

/// Least bytes that a slow lane is helped with.
const LEAST_SHARE: u64 = 128 << 10;

/// A part that will keep its lane for longer than this is shared with an idle one.
const SHARE_BEYOND: Duration = Duration::from_secs(1);

/// How often an idle lane looks whether another has become slow.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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
    /// Where its lane is and how far it is to go.
    pub(crate) span: Arc<Span>,
    /// What of `wanted` has landed.
    landed: RangeSet,
    source: usize,
    host: String,
    since: Instant,
}

/// The offsets that a lane has still to read. Others may cut its end off, but never what it has
/// taken: no byte lands twice.
pub(crate) struct Span(Mutex<Range<u64>>);

impl Span {
    fn new(range: Range<u64>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(range)))
    }

    /// Claims the next bytes, at most `most` of them; returns how many are the caller's.
    pub(crate) fn take(&self, most: u64) -> u64 {
        let mut left = self.lock();
        let taken = most.min(left.end - left.start);
        left.start += taken;
        taken
    }

    /// Bytes not taken yet.
    pub(crate) fn left(&self) -> u64 {
        let left = self.lock();
        left.end - left.start
    }

    fn lock(&self) -> MutexGuard<'_, Range<u64>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
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
    /// As `Refused`, but another lane has said so of the same location already.
    Outdated,
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
    /// What lanes are at, but for those that read past what is not wanted.
    at_work: Vec<AtWork>,
    sink: Arc<dyn Sink>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    trouble: Option<Trouble>,
    done: Option<oneshot::Sender<Result<(), FetchError>>>,
}

struct AtWork {
    place: usize,
    span: Arc<Span>,
    start: u64,
    since: Instant,
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
    /// When `failures` last grew: requests under way by then failed of the same cause.
    failed_at: Option<Instant>,
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
            failed_at: None,
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
            at_work: Vec::new(),
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
        let mut best: Option<(TransferId, usize, Work)> = None;
        let mut best_rank = None;
        for (&id, transfer) in &inner.transfers {
            if transfer.done.is_none() {
                continue;
            }
            let Some(work) = transfer.work(now) else {
                if !transfer.at_work.is_empty() {
                    earliest = earlier(earliest, Some(now + LOOK_AGAIN));
                }
                continue;
            };
            let (place, when) = transfer.place(&inner.hosts, now);
            earliest = earlier(earliest, when);
            let Some(place) = place else { continue };
            let share = matches!(work, Work::Share(_));
            let left = u64::MAX - transfer.todo.bytes();
            let rank = (share, transfer.priority, transfer.lanes, left);
            if best_rank.is_none_or(|best| rank < best) {
                (best_rank, best) = (Some(rank), Some((id, place, work)));
            }
        }
        let Some((id, place, work)) = best else {
            return Next::Wait(earliest);
        };
        let transfer = inner
            .transfers
            .get_mut(&id)
            .expect("chosen from the same map");
        let host = inner.hosts.get(&transfer.places[place].host);
        let rate = host.map_or(0.0, |host| host.lane_rate);
        let wanted = match (work, transfer.places[place].mode) {
            (Work::Share(index), _) => transfer.share(index, rate, now),
            (Work::First(_), Mode::Whole) => std::mem::take(&mut transfer.todo),
            (Work::First(first), Mode::Ranges) => {
                let part = transfer.part(part_size(rate as u64, remaining, lanes));
                let end = first.end.min(first.start.saturating_add(part));
                transfer.todo.remove(first.start..end);
                RangeSet::from(first.start..end)
            }
        };
        self.busy.fetch_add(1, Ordering::Relaxed);
        Next::Work(Box::new(transfer.assign(id, place, wanted, now)))
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
            // Whoever asks for longer than anyone waits is asked again after that.
            let until = now + (*wait).min(self.limits.patience);
            host.pause_until = host.pause_until.max(Some(until));
        }
        let Some(transfer) = inner.transfers.get_mut(&assignment.transfer) else {
            return;
        };
        transfer.lanes -= 1;
        transfer
            .at_work
            .retain(|at| !Arc::ptr_eq(&at.span, &assignment.span));
        let mut unlanded = assignment.wanted;
        if assignment.mode == Mode::Ranges {
            // The rest is another lane's by now.
            unlanded.remove(assignment.span.lock().end..u64::MAX);
        }
        assignment
            .landed
            .iter()
            .for_each(|range| unlanded.remove(range));
        unlanded
            .iter()
            .for_each(|range| transfer.todo.insert(range));
        let jitter = 0.75 + (self.jitter.hash_one(assignment.since) % 512) as f64 / 1024.0;
        let settled = Settled {
            source: assignment.source,
            since: assignment.since,
            landed,
            now,
            jitter,
        };
        transfer.take_in(outcome, &settled, &self.limits);
        transfer.end_if_decided();
        self.changed.notify_waiters();
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

/// What a transfer has for one more lane.
enum Work {
    /// The first range that nobody fetches.
    First(Range<u64>),
    /// A share of what a lane is at, by its index.
    Share(usize),
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

impl AtWork {
    /// Bytes per second so far.
    fn rate(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        let read = self.span.lock().start - self.start;
        read as f64 / seconds.max(0.001)
    }
}

impl Transfer {
    fn work(&self, now: Instant) -> Option<Work> {
        let window = self.sink.window();
        let Some(first) = self.todo.within(window.clone()).first().cloned() else {
            return self.slowest(now).map(Work::Share);
        };
        // A stream's window opens by what its reader takes: not every crumb is worth a request.
        let is_crumb = first.end == window.end
            && window.end < self.size
            && first.end - first.start < LEAST_PART;
        (!is_crumb).then_some(Work::First(first))
    }

    /// The lane that will be at its part for the longest, if that is long enough to help it.
    fn slowest(&self, now: Instant) -> Option<usize> {
        let mut slowest = None;
        let mut longest = SHARE_BEYOND;
        for (index, at) in self.at_work.iter().enumerate() {
            let (left, time) = (at.span.left(), now.saturating_duration_since(at.since));
            if left < LEAST_SHARE || time < SHARE_BEYOND {
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
    fn share(&self, index: usize, rate: f64, now: Instant) -> RangeSet {
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
    fn part(&self, part: u64) -> u64 {
        let window = self.sink.window();
        match window.end - window.start < self.size {
            true => part.min(((window.end - window.start) / 3).max(LEAST_PART)),
            false => part,
        }
    }

    fn assign(
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
    fn lane_rate(&self, place: usize, host: Option<&Host>, now: Instant) -> Option<f64> {
        if let Some(host) = host
            && host.lane_rate > 0.0
        {
            return Some(host.lane_rate);
        }
        let at_place = self.at_work.iter().filter(|at| at.place == place);
        let known = at_place.filter(|at| now.saturating_duration_since(at.since) >= LOOK_AGAIN);
        known.map(|at| at.rate(now)).reduce(f64::max)
    }

    fn take_in(&mut self, outcome: Outcome, settled: &Settled, limits: &Limits) {
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

/// How an assignment went, beside its outcome.
struct Settled {
    source: usize,
    since: Instant,
    landed: u64,
    now: Instant,
    /// Around 1, so that many agents do not come back together.
    jitter: f64,
}

impl PlaceState {
    /// Pauses the place for twice as long after each failure without bytes, but not beyond the
    /// end of patience: the last try is made then.
    fn failed(&mut self, settled: &Settled, patience_ends: Instant) {
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
