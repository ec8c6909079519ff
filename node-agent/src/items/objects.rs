//! Brings a set of blobs into the store as verified objects.
//!
//! An object is fetched at most once at a time, however many items of a job want it. One whose
//! seal is broken is hashed where it lies, and only fetched if its bytes are wrong.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use headstart_core::digest::Expected;
use headstart_transfer::FetchError;
pub(crate) use headstart_transfer::blocking;
use headstart_transfer::engine::{Engine, Progress};
use headstart_transfer::source::{Blob, SourceKind};
use tokio::sync::OwnedMutexGuard;

use crate::housekeeping::hash;
use crate::store::{Need, Reservation, Sealed, Store, StoreError, is_sealed};

/// Files of one item that are open at the same time; the engine decides which of them get
/// connections.
const OPEN_FILES: usize = 64;

/// What an item's blobs have come to, for progress and the summary.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Bytes that were objects already.
    pub(crate) had: AtomicU64,
    transfers: Mutex<Vec<Arc<Progress>>>,
}

/// The sum over an item's transfers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) had: u64,
    pub(crate) landed: u64,
    pub(crate) resumed: u64,
    pub(crate) network_wait: u64,
    pub(crate) disk_wait: u64,
    pub(crate) mismatches: u64,
    /// Of `landed`, in the order of [`SourceKind::ALL`].
    pub(crate) by_kind: [u64; SourceKind::ALL.len()],
}

impl Tally {
    /// A new transfer of this item.
    pub(crate) fn transfer(&self) -> Arc<Progress> {
        let progress = Arc::new(Progress::default());
        self.transfers
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(progress.clone());
        progress
    }

    pub(crate) fn sums(&self) -> Sums {
        let mut sums = Sums {
            had: self.had.load(Ordering::Relaxed),
            ..Sums::default()
        };
        for progress in &*self.transfers.lock().unwrap_or_else(|e| e.into_inner()) {
            sums.landed += progress.landed.load(Ordering::Relaxed);
            sums.resumed += progress.resumed.load(Ordering::Relaxed);
            sums.network_wait += progress.network_wait.load(Ordering::Relaxed);
            sums.disk_wait += progress.disk_wait.load(Ordering::Relaxed);
            sums.mismatches += progress.mismatches.load(Ordering::Relaxed);
            for (sum, of_kind) in sums.by_kind.iter_mut().zip(&progress.by_kind) {
                *sum += of_kind.load(Ordering::Relaxed);
            }
        }
        sums
    }
}

/// Why an object is not in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(FetchError),
    /// It could not be kept.
    #[error(transparent)]
    Store(StoreError),
}

impl ObjectError {
    /// Whether the same command may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_transient(),
            Self::Store(_) => false,
        }
    }

    /// How long whoever has it asks to wait.
    pub(crate) fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.asked_wait(),
            Self::Store(_) => None,
        }
    }
}

/// The store's objects, for all items of a job.
pub(crate) struct Objects {
    pub(crate) store: Arc<Store>,
    pub(crate) engine: Engine,
    busy: Mutex<HashMap<Expected, Arc<tokio::sync::Mutex<()>>>>,
}

impl Objects {
    pub(crate) fn new(store: Arc<Store>, engine: Engine) -> Self {
        Self {
            store,
            engine,
            busy: Mutex::default(),
        }
    }

    /// Bytes of `blobs` that are no sealed objects yet, the room for which is promised while the
    /// reservation lives.
    pub(crate) async fn reserve(&self, blobs: &[Blob]) -> Result<(u64, Reservation), StoreError> {
        let store = self.store.clone();
        let objects: BTreeMap<Expected, u64> = blobs.iter().map(|b| (b.expected, b.size)).collect();
        blocking(move || {
            let mut missing = 0;
            for (expected, &size) in &objects {
                let path = store.object(expected);
                let sealed = is_sealed(&path, expected, size);
                if sealed.map_err(StoreError::io("look at", &path))? == Sealed::Absent {
                    missing += size;
                }
            }
            let need = Need { objects, bytes: 0 };
            Ok((missing, store.reserve(need)?))
        })
        .await
    }

    /// Promises room for `bytes` that are not objects.
    pub(crate) async fn promise(&self, bytes: u64) -> Result<Reservation, StoreError> {
        let store = self.store.clone();
        let need = Need {
            bytes,
            ..Need::default()
        };
        blocking(move || store.reserve(need)).await
    }

    /// Makes every one of `blobs` an object. All are tried; the errors come back.
    pub(crate) async fn ensure(&self, mut blobs: Vec<Blob>, tally: &Tally) -> Vec<ObjectError> {
        blobs.sort_by_key(|blob| u64::MAX - blob.size);
        let ensured = stream::iter(blobs)
            .map(|blob| async move { self.ensure_one(&blob, tally).await.err() })
            .buffer_unordered(OPEN_FILES);
        ensured.filter_map(std::future::ready).collect().await
    }

    /// The right to make what has that digest, which others of this job wait for.
    pub(crate) async fn alone(&self, expected: &Expected) -> OwnedMutexGuard<()> {
        let busy = {
            let mut busy = self.busy.lock().unwrap_or_else(|e| e.into_inner());
            busy.entry(*expected).or_default().clone()
        };
        busy.lock_owned().await
    }

    async fn ensure_one(&self, blob: &Blob, tally: &Tally) -> Result<(), ObjectError> {
        let _alone = self.alone(&blob.expected).await;
        if self.have(blob).await.map_err(ObjectError::Store)? {
            tally.had.fetch_add(blob.size, Ordering::Relaxed);
            return Ok(());
        }
        let partial = self.store.partial(&blob.expected);
        let landed = self.engine.file(blob, &partial, tally.transfer()).await;
        let landed = landed.map_err(ObjectError::Fetch)?;
        let object = self.prepare(blob).await.map_err(ObjectError::Store)?;
        let published = landed.publish(object.clone()).await;
        published.map_err(|error| ObjectError::Store(StoreError::io("publish", &object)(error)))?;
        let (store, expected) = (self.store.clone(), blob.expected);
        blocking(move || store.seal(&expected))
            .await
            .map_err(ObjectError::Store)
    }

    /// Whether the object is there and is what it should be. One that is not is removed.
    async fn have(&self, blob: &Blob) -> Result<bool, StoreError> {
        let (store, expected, size) = (self.store.clone(), blob.expected, blob.size);
        let name = blob.name.clone();
        blocking(move || {
            let path = store.object(&expected);
            match is_sealed(&path, &expected, size).map_err(StoreError::io("look at", &path))? {
                Sealed::Yes => Ok(true),
                Sealed::Absent => Ok(false),
                Sealed::Broken => match hash(&path, &expected, size) {
                    Ok(found) if found == expected => store.seal(&expected).map(|()| true),
                    _ => {
                        tracing::warn!(%name, %expected, "an object was damaged and is fetched again");
                        crate::store::remove(&path).map(|()| false)
                    }
                },
            }
        })
        .await
    }

    async fn prepare(&self, blob: &Blob) -> Result<PathBuf, StoreError> {
        let (store, expected) = (self.store.clone(), blob.expected);
        blocking(move || {
            store.make_object_dir(&expected)?;
            Ok(store.object(&expected))
        })
        .await
    }
}
