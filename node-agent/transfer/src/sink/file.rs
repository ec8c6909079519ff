//! A partial file: preallocated, written in place by many lanes, hashed while the bytes are in
//! memory, journaled, published by rename.
//!
//! - A byte is written once: lanes get disjoint ranges, and what has landed is never put again.
//!   What was hashed is therefore what is in the file.
//! - Bytes that land at the hash's frontier are hashed from memory by the lane that brought them.
//!   What landed ahead of it is read back from the page cache by one task when the frontier gets
//!   there. Bytes of an earlier run are always read back.
//! - Written data is synced in the background every [`SYNC_EVERY`] bytes, so the last sync is
//!   short, and a failed one fails the transfer: the kernel reports it once only.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headstart_core::digest::{Expected, Sha256};
use headstart_core::ranges::RangeSet;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};

use super::Sink;
use crate::digesting::Digesting;
use crate::journal::{BootId, Journal};
use crate::source::Blob;

/// Bytes between two background syncs.
const SYNC_EVERY: u64 = 64 << 20;

/// Bytes read back at once when the hash catches up.
const READ_BACK: usize = 256 << 10;

/// How long to wait for the lock on a partial file: a transfer that was just cancelled holds it
/// until its last write is over.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// A blob on its way to disk.
pub(crate) struct FileSink {
    data: Flock<File>,
    path: PathBuf,
    expected: Expected,
    size: u64,
    boot: BootId,
    journal: Mutex<Journal>,
    state: Mutex<State>,
    /// Something in `state` that is waited for has changed.
    caught_up: Condvar,
    /// Held while bytes are written. Writes to one file take turns in the kernel, which has those that
    /// wait spin.
    writing: Mutex<()>,
    unsynced: AtomicU64,
}

struct State {
    landed: RangeSet,
    /// Bytes hashed so far, from the first.
    hashed: u64,
    /// Taken by whoever is hashing now.
    digesting: Option<Digesting>,
    /// A sync is under way: its verdict is awaited.
    syncing: bool,
    /// Counts resets.
    attempt: u32,
    /// Writes under way.
    puts: usize,
    /// How many wait for a change. A wake-up is a system call even where nobody does.
    waiting: usize,
    /// What went wrong in a background task.
    failed: Option<io::Error>,
}

impl FileSink {
    /// Opens or makes the partial file of `blob` at `path` (the journal is beside it) and returns
    /// it with what has landed there before. Blocks.
    ///
    /// # Errors
    /// `WouldBlock` when another transfer holds it; `StorageFull` when the blob does not fit.
    pub(crate) fn open(
        path: &Path,
        blob: &Blob,
        boot: &BootId,
    ) -> io::Result<(Arc<Self>, RangeSet)> {
        let data = lock(path)?;
        let found = data.metadata()?.len();
        let journal_path = journal_of(path);
        let opened = Journal::open(&journal_path, &blob.expected, blob.size, boot);
        let (mut journal, mut landed) = opened?;
        if found != blob.size {
            if !landed.is_empty() {
                // Somebody cut or grew the file: nothing in it is known.
                journal.clear(&journal_path, &blob.expected, blob.size, boot)?;
                landed = RangeSet::default();
            }
            if let Err(error) = allocate(&data, blob.size) {
                // What was allocated before the disk was full is room for others.
                let _ = remove(path);
                return Err(error);
            }
        }
        let digesting = Some(Digesting::new(&blob.expected, blob.size));
        let sink = Arc::new(Self {
            data,
            path: path.to_owned(),
            expected: blob.expected,
            size: blob.size,
            boot: boot.clone(),
            journal: Mutex::new(journal),
            state: Mutex::new(State {
                landed: landed.clone(),
                hashed: 0,
                digesting,
                syncing: false,
                attempt: 0,
                puts: 0,
                waiting: 0,
                failed: None,
            }),
            caught_up: Condvar::new(),
            writing: Mutex::default(),
            unsynced: AtomicU64::new(0),
        });
        sink.catch_up_if_behind();
        Ok((sink, landed))
    }

    /// Waits for the hash to reach the end, makes the data durable and says what it is. Blocks.
    /// The caller has seen every byte land.
    pub(crate) fn finish(&self) -> io::Result<(Sha256, Expected)> {
        self.data.sync_all()?;
        let mut state = self.lock();
        loop {
            if let Some(error) = state.failed.take() {
                return Err(error);
            }
            // The kernel tells a failed write-back to one sync only, and that may be the other one.
            if !state.syncing
                && state.hashed == self.size
                && let Some(digesting) = &state.digesting
            {
                return Ok(digesting.clone().finish());
            }
            state = self.change(state);
        }
    }

    /// What lanes write to until the next [`reset`](Self::reset).
    pub(crate) fn attempt(self: &Arc<Self>) -> Attempt {
        Attempt {
            sink: self.clone(),
            number: self.lock().attempt,
        }
    }

    /// Forgets every byte, and whatever lanes still bring of the attempt before. Blocks.
    pub(crate) fn reset(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.attempt += 1;
        while state.puts > 0 || state.syncing || state.digesting.is_none() {
            state = self.change(state);
        }
        state.landed = RangeSet::default();
        state.hashed = 0;
        state.digesting = Some(Digesting::new(&self.expected, self.size));
        drop(state);
        let path = journal_of(&self.path);
        let mut journal = self.journal();
        journal.clear(&path, &self.expected, self.size, &self.boot)
    }

    /// Makes the file visible at `to` and durable there, and removes the journal. Blocks.
    pub(crate) fn publish(&self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        let _ = std::fs::remove_file(journal_of(&self.path));
        match to.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Removes what there is of it. Blocks.
    pub(crate) fn discard(&self) -> io::Result<()> {
        remove(&self.path)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for a change of the state.
    fn change<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self
            .caught_up
            .wait(state)
            .unwrap_or_else(|e| e.into_inner());
        state.waiting -= 1;
        state
    }

    /// The state has changed.
    fn changed(&self, state: MutexGuard<'_, State>) {
        let waiting = state.waiting;
        drop(state);
        if waiting > 0 {
            self.caught_up.notify_all();
        }
    }

    fn write(&self, mut offset: u64, pieces: &[Bytes]) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = slices.as_mut_slice();
        let _turn = self.writing.lock().unwrap_or_else(|e| e.into_inner());
        while !left.is_empty() {
            match nix::sys::uio::pwritev(&*self.data, left, offset as i64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn put(self: &Arc<Self>, offset: u64, pieces: &[Bytes]) -> io::Result<()> {
        let end = offset + pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.write(offset, pieces)?;
        self.hash_from_memory(offset, pieces);
        self.lock().landed.insert(offset..end);
        self.journal().landed(offset..end)?;
        self.catch_up_if_behind();
        self.sync_in_background(end - offset);
        Ok(())
    }

    /// Hashes `pieces` if the hash is exactly there and nobody is at it.
    fn hash_from_memory(&self, offset: u64, pieces: &[Bytes]) {
        let mut digesting = {
            let mut state = self.lock();
            if state.hashed != offset {
                return;
            }
            let Some(digesting) = state.digesting.take() else {
                return;
            };
            digesting
        };
        let mut hashed = offset;
        for piece in pieces {
            digesting.update(piece);
            hashed += piece.len() as u64;
        }
        let mut state = self.lock();
        state.hashed = hashed;
        state.digesting = Some(digesting);
        self.changed(state);
    }

    /// Starts the reader-back if bytes beyond the frontier have landed.
    fn catch_up_if_behind(self: &Arc<Self>) {
        let state = self.lock();
        let behind = state.landed.run_end(state.hashed) > state.hashed;
        if behind && state.digesting.is_some() {
            drop(state);
            let sink = self.clone();
            tokio::task::spawn_blocking(move || sink.catch_up());
        }
    }

    fn catch_up(self: &Arc<Self>) {
        let mut buffer = vec![0; READ_BACK];
        loop {
            let mut state = self.lock();
            let (from, to) = (state.hashed, state.landed.run_end(state.hashed));
            if from == to {
                return;
            }
            let Some(mut digesting) = state.digesting.take() else {
                return;
            };
            drop(state);
            let length = (to - from).min(READ_BACK as u64) as usize;
            let read = self.data.read_exact_at(&mut buffer[..length], from);
            if read.is_ok() {
                digesting.update(&buffer[..length]);
            }
            let mut state = self.lock();
            state.digesting = Some(digesting);
            match read {
                Ok(()) => state.hashed = from + length as u64,
                Err(error) => state.failed = Some(error),
            }
            let failed = state.failed.is_some();
            self.changed(state);
            if failed {
                return;
            }
        }
    }

    fn sync_in_background(self: &Arc<Self>, written: u64) {
        if self.unsynced.fetch_add(written, Ordering::Relaxed) + written < SYNC_EVERY {
            return;
        }
        if std::mem::replace(&mut self.lock().syncing, true) {
            return;
        }
        self.unsynced.store(0, Ordering::Relaxed);
        let sink = self.clone();
        tokio::task::spawn_blocking(move || {
            let covered = sink.journal().lines();
            let synced = sink.data.sync_data();
            let noted = synced.and_then(|()| sink.journal().durable(covered));
            let mut state = sink.lock();
            state.syncing = false;
            if let Err(error) = noted {
                state.failed = Some(error);
            }
            sink.changed(state);
        });
    }
}

/// One try to fill a partial file.
pub(crate) struct Attempt {
    sink: Arc<FileSink>,
    number: u32,
}

impl Sink for Attempt {
    fn put(&self, offset: u64, pieces: Vec<Bytes>) -> io::Result<()> {
        let sink = &self.sink;
        {
            let mut state = sink.lock();
            if let Some(error) = &state.failed {
                return Err(io::Error::new(error.kind(), error.to_string()));
            }
            if state.attempt != self.number {
                return Ok(());
            }
            state.puts += 1;
        }
        let put = sink.put(offset, &pieces);
        let mut state = sink.lock();
        state.puts -= 1;
        sink.changed(state);
        put
    }

    fn window(&self) -> Range<u64> {
        0..self.sink.size
    }
}

/// The journal's path beside the partial file's.
pub(crate) fn journal_of(path: &Path) -> PathBuf {
    path.with_extension("journal")
}

/// Gives the file its size and, where the file system can, its blocks, so that a full disk shows
/// before the first byte is fetched.
fn allocate(file: &File, size: u64) -> io::Result<()> {
    file.set_len(0)?;
    if size == 0 {
        return Ok(());
    }
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, size as i64) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return file.set_len(size),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Opens or makes the partial file at `path` and locks it.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let start = Instant::now();
    let mut file = options.open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) if is_at(&locked, path)? => return Ok(locked),
            // Whoever held the lock has published or removed the file meanwhile.
            Ok(_) => file = options.open(path)?,
            Err((same, Errno::EWOULDBLOCK)) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(20));
                file = same;
            }
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a partial file and its journal.
fn remove(path: &Path) -> io::Result<()> {
    let journal = match std::fs::remove_file(journal_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    std::fs::remove_file(path).and(journal)
}
