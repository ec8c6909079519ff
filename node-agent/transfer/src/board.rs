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

use self::transfer::{PlaceState, Settled, Transfer, Trouble, Work, earlier};
use crate::engine::{Limits, Progress};
use crate::error::FetchError;
use crate::sink::Sink;
use crate::source::{Blob, Location, Source};

mod transfer;

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
            priority: blob.priority.clone(),
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
            let Some(work) = transfer.work(now, self.limits.share_beyond) else {
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
            let rank = (share, transfer.priority.rank(), transfer.lanes, left);
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
        let kind = assignment.place.source.kind();
        assignment.progress.note(kind, bytes);
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
