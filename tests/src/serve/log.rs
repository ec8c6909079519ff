//! What was asked of a server and what it answered.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Site;

/// One request as it was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which server.
    pub site: Site,
    /// When its head had arrived, since the server started.
    pub at: Duration,
    /// Which connection of that server, counted from 1.
    pub connection: u64,
    /// `GET`, `HEAD`, ….
    pub method: String,
    /// Path as sent, percent-encoded.
    pub path: String,
    /// Query as sent, without `?`; empty if none.
    pub query: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether an `Authorization` header came along.
    pub credential: bool,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// Status answered; 0 while there is no answer.
    pub status: u16,
    /// Body bytes handed to the connection.
    pub bytes: u64,
}

/// The requests of one or several servers, in order of arrival. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Log(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    records: Mutex<Vec<Arc<Record>>>,
}

/// An entry still being written.
#[derive(Debug)]
pub(crate) struct Record {
    head: Entry,
    status: AtomicU16,
    bytes: AtomicU64,
}

impl Record {
    pub(crate) fn answered(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn entry(&self) -> Entry {
        Entry {
            status: self.status.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..self.head.clone()
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        let (start, records) = (Instant::now(), Mutex::default());
        Self(Arc::new(Shared { start, records }))
    }
}

impl Log {
    /// All requests so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.records().iter().map(|record| record.entry()).collect()
    }

    /// Those requests of which `wanted` is true.
    pub fn matching(&self, mut wanted: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let mut entries = self.entries();
        entries.retain(|entry| wanted(entry));
        entries
    }

    /// How many requests `wanted` is true of.
    pub fn count(&self, wanted: impl FnMut(&Entry) -> bool) -> usize {
        self.matching(wanted).len()
    }

    /// Body bytes sent in all answers so far.
    pub fn bytes(&self) -> u64 {
        self.entries().iter().map(|entry| entry.bytes).sum()
    }

    /// Forgets everything so far. Answers under way are not counted afterwards.
    pub fn clear(&self) {
        self.records().clear();
    }

    pub(crate) fn add(&self, mut head: Entry) -> Arc<Record> {
        head.at = self.0.start.elapsed();
        let (status, bytes) = (AtomicU16::new(0), AtomicU64::new(0));
        let record = Arc::new(Record {
            head,
            status,
            bytes,
        });
        self.records().push(record.clone());
        record
    }

    fn records(&self) -> MutexGuard<'_, Vec<Arc<Record>>> {
        self.0
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
