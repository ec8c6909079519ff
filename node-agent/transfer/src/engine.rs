//! The engine: moves blobs from their sources into files or ordered streams, all of them at once,
//! under one set of limits.
//!
//! # Guarantees
//! - A file is handed over only when every byte has landed, is durable and hashes to what was
//!   expected.
//! - Memory is bounded by connections x (two batches of 512 KiB and what a connection buffers)
//!   plus [`Limits::stream_buffer`], whatever the size of the blobs.
//! - Dropping the future of a fetch cancels it; what has landed in a file stays for the next try.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use headstart_core::digest::Sha256;
use headstart_core::pace::Pace;
use headstart_core::quantity::Rate;
use headstart_core::ranges::RangeSet;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bandwidth::Bandwidth;
use crate::blocking::blocking;
use crate::board::{Board, TransferId};
use crate::digesting::Digesting;
use crate::error::FetchError;
use crate::journal::BootId;
use crate::lane::Lane;
use crate::net::{Http, NetError};
use crate::sink::{FileSink, Sink, StreamSink};
use crate::source::{Blob, Source, SourceKind};

/// How often the number of lanes is reconsidered.
const TICK: Duration = Duration::from_millis(50);

/// Most times that the bytes of one blob are fetched when they turn out wrong.
const MAX_TRIES: usize = 4;

/// Least room of a stream, whatever the number of streams.
const LEAST_ROOM: u64 = 4 << 20;

/// What an engine may use and how long it is patient.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections at once, over all hosts.
    pub connections: usize,
    /// Most bytes per second, over all connections.
    pub bandwidth: Option<Rate>,
    /// How long a transfer may be in trouble (failures, and next to nothing landing) before it
    /// fails.
    pub patience: Duration,
    /// How long a connection may send nothing.
    pub stall: Duration,
    /// A connection that brings fewer bytes per second than this over `floor_window`, and clearly
    /// fewer than the others, is replaced.
    pub floor: u64,
    /// See `floor`.
    pub floor_window: Duration,
    /// A part that will keep its connection for longer than this is shared with an idle one.
    pub share_beyond: Duration,
    /// Memory for bytes that arrived before their turn, over all streams.
    pub stream_buffer: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            bandwidth: None,
            patience: Duration::from_secs(300),
            stall: Duration::from_secs(10),
            floor: 64 << 10,
            floor_window: Duration::from_secs(15),
            share_beyond: Duration::from_secs(1),
            stream_buffer: 64 << 20,
        }
    }
}

/// What has happened to one blob so far; read it any time.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that arrived by network in this run.
    pub landed: AtomicU64,
    /// The same by what kind of source they came from, in the order of [`SourceKind::ALL`].
    pub by_kind: [AtomicU64; SourceKind::ALL.len()],
    /// Bytes that were there from an earlier run.
    pub resumed: AtomicU64,
    /// Requests that failed.
    pub faults: AtomicU64,
    /// Times that its bytes were all there and wrong.
    pub mismatches: AtomicU64,
    /// Microseconds that lanes waited for bytes from the network, summed over lanes.
    pub network_wait: AtomicU64,
    /// Microseconds that lanes waited for the disk or the reader, summed over lanes.
    pub disk_wait: AtomicU64,
}

impl Progress {
    /// Notes bytes that landed from a source of that kind.
    pub fn note(&self, kind: SourceKind, bytes: u64) {
        self.landed.fetch_add(bytes, Ordering::Relaxed);
        self.by_kind[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Fetches blobs.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    board: Arc<Board>,
    limits: Limits,
    boot: BootId,
    streams: Mutex<Vec<Weak<StreamSink>>>,
    _stop: DropGuard,
}

impl Engine {
    /// Starts an engine on the present tokio runtime.
    pub fn new(http: &Http, limits: Limits, boot: BootId) -> Result<Self, NetError> {
        let board = Arc::new(Board::new(limits.clone()));
        let bandwidth = Arc::new(Bandwidth::new(limits.bandwidth));
        let lanes = Arc::new(Lanes::new(Pace::new(limits.connections)));
        let stop = CancellationToken::new();
        for index in 0..limits.connections.max(1) {
            let lane = Lane {
                http: http.lane()?,
                board: board.clone(),
                bandwidth: bandwidth.clone(),
                limits: limits.clone(),
            };
            let (lanes, stop) = (lanes.clone(), stop.clone());
            tokio::spawn(async move {
                stop.run_until_cancelled(lanes.run(index, lane)).await;
            });
        }
        tokio::spawn({
            let (board, stop) = (board.clone(), stop.clone());
            async move {
                stop.run_until_cancelled(lanes.conduct(&board)).await;
            }
        });
        Ok(Self {
            shared: Arc::new(Shared {
                board,
                limits,
                boot,
                streams: Mutex::default(),
                _stop: stop.drop_guard(),
            }),
        })
    }

    /// Fetches `blob` into the partial file `partial`, going on where an earlier run left off.
    ///
    /// # Errors
    /// See [`FetchError`]. After a mismatch nothing is left of the file.
    pub async fn file(
        &self,
        blob: &Blob,
        partial: &Path,
        progress: Arc<Progress>,
    ) -> Result<Landed, FetchError> {
        let disk = |operation, source| FetchError::Disk {
            name: blob.name.clone(),
            operation,
            path: partial.to_owned(),
            source,
        };
        let (sink, had) = blocking({
            let (path, blob, boot) = (partial.to_owned(), blob.clone(), self.shared.boot.clone());
            move || FileSink::open(&path, &blob, &boot)
        })
        .await
        .map_err(|source| disk("open", source))?;
        progress.resumed.store(had.bytes(), Ordering::Relaxed);
        let mut todo = RangeSet::whole(blob.size);
        had.iter().for_each(|range| todo.remove(range));
        let mut mismatch = None;
        for sources in tries(&blob.sources) {
            if mismatch.is_some() {
                let reset = sink.clone();
                blocking(move || reset.reset())
                    .await
                    .map_err(|source| disk("reset", source))?;
                todo = RangeSet::whole(blob.size);
            }
            let attempt = Arc::new(sink.attempt());
            let moved = self.transfer(blob, &sources, todo.clone(), attempt, &progress, partial);
            match (moved.await, &mismatch) {
                (Ok(()), _) => {}
                // Of several sources, another may be the one that is alive and honest.
                (
                    Err(
                        FetchError::Sources { .. }
                        | FetchError::Busy { .. }
                        | FetchError::Stalled { .. },
                    ),
                    Some(_),
                ) => continue,
                (Err(error), _) => return Err(error),
            }
            let finishing = sink.clone();
            let finished = blocking(move || finishing.finish()).await;
            let (sha256, found) = match finished {
                Ok(digests) => digests,
                Err(source) => {
                    // After a failed sync nobody knows what is on the disk.
                    let discarded = sink.clone();
                    let _ = blocking(move || discarded.discard()).await;
                    return Err(disk("sync", source));
                }
            };
            if found == blob.expected {
                return Ok(Landed { sha256, sink });
            }
            progress.mismatches.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(blob = %blob.name, %found, "content mismatch, fetched again");
            mismatch = Some(FetchError::Mismatch {
                name: blob.name.clone(),
                expected: blob.expected,
                found,
                from: names(&sources),
            });
        }
        let discarded = sink.clone();
        let _ = blocking(move || discarded.discard()).await;
        Err(mismatch.expect("at least one try is made"))
    }

    /// Fetches `blob` and writes it in order into `reader`, which is returned once every byte is
    /// written and the whole is what was expected. Until then nothing of it may be believed.
    pub async fn stream<W: Write + Send + 'static>(
        &self,
        blob: &Blob,
        mut reader: W,
        progress: Arc<Progress>,
    ) -> Result<W, FetchError> {
        let sink = Arc::new(StreamSink::new(blob.size, LEAST_ROOM));
        self.share_room(Some(&sink));
        let transfer = self.transfer(
            blob,
            &blob.sources,
            RangeSet::whole(blob.size),
            sink.clone(),
            &progress,
            Path::new(""),
        );
        let pump = async {
            let mut digesting = Digesting::new(&blob.expected, blob.size);
            while let Some(pieces) = sink.next().await {
                self.shared.board.changed.notify_waiters();
                let wrote;
                (digesting, reader, wrote) = blocking(move || {
                    let mut wrote = Ok(());
                    for piece in &pieces {
                        digesting.update(piece);
                        wrote = wrote.and_then(|()| reader.write_all(piece));
                    }
                    (digesting, reader, wrote)
                })
                .await;
                wrote.map_err(|source| FetchError::Reader {
                    name: blob.name.clone(),
                    source,
                })?;
            }
            let (_, found) = digesting.finish();
            match found == blob.expected {
                true => Ok(reader),
                false => {
                    progress.mismatches.fetch_add(1, Ordering::Relaxed);
                    Err(FetchError::Mismatch {
                        name: blob.name.clone(),
                        expected: blob.expected,
                        found,
                        from: names(&blob.sources),
                    })
                }
            }
        };
        let result = tokio::try_join!(transfer, pump);
        drop(sink);
        self.share_room(None);
        result.map(|((), reader)| reader)
    }

    /// All bytes that this engine has received.
    pub fn bytes(&self) -> u64 {
        self.shared.board.bytes.load(Ordering::Relaxed)
    }

    async fn transfer(
        &self,
        blob: &Blob,
        sources: &[Arc<dyn Source>],
        todo: RangeSet,
        sink: Arc<dyn Sink>,
        progress: &Arc<Progress>,
        partial: &Path,
    ) -> Result<(), FetchError> {
        let board = &self.shared.board;
        let (id, done) = board.add(blob, sources, todo, sink, progress.clone());
        let on_board = OnBoard { board, id };
        let cancelled = |_: oneshot::error::RecvError| FetchError::Cancelled {
            name: blob.name.clone(),
        };
        let ended = done.await.map_err(cancelled).flatten();
        drop(on_board);
        ended.map_err(|error| match error {
            FetchError::Disk {
                name,
                operation,
                source,
                ..
            } => FetchError::Disk {
                name,
                operation,
                path: partial.to_owned(),
                source,
            },
            other => other,
        })
    }

    /// Divides the stream buffer among the streams that are left, and `new`.
    fn share_room(&self, new: Option<&Arc<StreamSink>>) {
        let mut streams = self
            .shared
            .streams
            .lock()
            .unwrap_or_else(|e| e.into_inner());
        streams.extend(new.map(Arc::downgrade));
        streams.retain(|stream| stream.strong_count() > 0);
        let share = self.shared.limits.stream_buffer / streams.len().max(1) as u64;
        for stream in streams.iter().filter_map(Weak::upgrade) {
            stream.set_room(share.max(LEAST_ROOM));
        }
        drop(streams);
        self.shared.board.changed.notify_waiters();
    }
}

/// A blob whose every byte is on disk, durable and verified, and that nobody sees yet.
pub struct Landed {
    /// The sha256 of the bytes.
    pub sha256: Sha256,
    sink: Arc<FileSink>,
}

impl Landed {
    /// Makes it visible at `to`, on the same file system, durably; what is there is replaced.
    pub async fn publish(self, to: PathBuf) -> io::Result<()> {
        blocking(move || self.sink.publish(&to)).await
    }
}

/// The lanes and how many of them may work.
struct Lanes {
    pace: Mutex<Pace>,
    allowed: AtomicUsize,
    changed: Notify,
}

impl Lanes {
    fn new(pace: Pace) -> Self {
        Self {
            allowed: AtomicUsize::new(pace.lanes()),
            pace: Mutex::new(pace),
            changed: Notify::new(),
        }
    }

    async fn run(&self, index: usize, lane: Lane) {
        loop {
            let changed = self.changed.notified();
            let allowed = self.allowed.load(Ordering::Relaxed);
            match index < allowed {
                true => lane.step(allowed).await,
                false => changed.await,
            }
        }
    }

    async fn conduct(&self, board: &Board) {
        let start = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now = Instant::now();
            let before = self.allowed.load(Ordering::Relaxed);
            let bytes = board.bytes.load(Ordering::Relaxed);
            let lanes = {
                let mut pace = self.pace.lock().unwrap_or_else(|e| e.into_inner());
                pace.observe(now - start, bytes, board.load(before))
            };
            self.allowed.store(lanes, Ordering::Relaxed);
            if lanes > before {
                self.changed.notify_waiters();
            }
        }
    }
}

/// Takes the transfer off the board when the future that waits for it goes.
struct OnBoard<'a> {
    board: &'a Board,
    id: TransferId,
}

impl Drop for OnBoard<'_> {
    fn drop(&mut self) {
        self.board.remove(self.id);
    }
}

/// Which sources each try uses: all at first; after a mismatch each on its own, so that the honest
/// one among them is found; never more than [`MAX_TRIES`].
fn tries(sources: &[Arc<dyn Source>]) -> Vec<Vec<Arc<dyn Source>>> {
    let mut tries = vec![sources.to_vec()];
    tries.extend(sources.iter().map(|source| vec![source.clone()]));
    tries.truncate(MAX_TRIES);
    tries
}

fn names(sources: &[Arc<dyn Source>]) -> String {
    let names: Vec<String> = sources.iter().map(|source| source.name()).collect();
    names.join(" and ")
}
