//! Room: counted and promised before the first byte of a job is fetched.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Quota, Store, StoreError};

/// Bytes promised to a job. What it has not written when it ends becomes free again.
#[derive(Debug)]
pub struct Reservation {
    bytes: u64,
    promised: Arc<AtomicU64>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Keeps one item from being evicted while it is worked on or read, until dropped.
#[derive(Debug)]
pub struct Holding {
    id: String,
    held: Arc<Mutex<BTreeSet<String>>>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.held
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .remove(&self.id);
    }
}

/// What a store may still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes of the whole file system.
    pub(super) total: u64,
    /// Bytes that unprivileged writers may still take.
    pub(super) available: u64,
    /// Bytes in the store.
    pub(super) used: u64,
}

impl Room {
    /// Bytes that may be written without crossing the quota.
    pub(super) fn usable(&self, quota: &Quota) -> u64 {
        let keep = self.total / 100 * u64::from(quota.keep_free_percent.min(100));
        let by_disk = self.available.saturating_sub(keep);
        match quota.max_bytes {
            Some(max) => by_disk.min(max.0.saturating_sub(self.used)),
            None => by_disk,
        }
    }
}

impl Store {
    /// Keeps the item with that id, of a plan or of an image's manifest, from being evicted.
    pub fn hold(&self, id: &str) -> Holding {
        self.held
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .insert(id.to_owned());
        Holding {
            id: id.to_owned(),
            held: self.held.clone(),
        }
    }

    pub(super) fn is_held(&self, id: &str) -> bool {
        self.held
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .contains(id)
    }

    /// Promises `need` bytes, evicting what may go if that is what it takes. `promised` counts
    /// the promises of this process.
    ///
    /// # Errors
    /// [`StoreError::Full`] with the figures; nothing was evicted then.
    pub fn reserve(&self, need: u64, promised: &Arc<AtomicU64>) -> Result<Reservation, StoreError> {
        let usable = self.usable()?;
        let wanted = need + promised.load(Ordering::Relaxed);
        if wanted > usable {
            self.evict(wanted - usable).map_err(|error| match error {
                StoreError::Full {
                    root, evictable, ..
                } => StoreError::Full {
                    root,
                    need,
                    usable,
                    evictable,
                },
                other => other,
            })?;
        }
        promised.fetch_add(need, Ordering::Relaxed);
        Ok(Reservation {
            bytes: need,
            promised: promised.clone(),
        })
    }

    /// Bytes that may be written now without crossing the quota.
    pub fn usable(&self) -> Result<u64, StoreError> {
        Ok(self.room()?.usable(&self.quota))
    }

    fn room(&self) -> Result<Room, StoreError> {
        let root = &self.root;
        let found = nix::sys::statvfs::statvfs(root)
            .map_err(|errno| StoreError::io("measure", root)(errno.into()))?;
        let block = found.fragment_size();
        let used = match self.quota.max_bytes {
            Some(_) => {
                let images: u64 = self.images()?.iter().map(|image| image.note.bytes).sum();
                images + bytes_under(&root.join("objects")) + bytes_under(&root.join("partial"))
            }
            None => 0,
        };
        Ok(Room {
            total: found.blocks() * block,
            available: found.blocks_available() * block,
            used,
        })
    }
}

/// Bytes of the files under `directory`; what vanishes meanwhile counts nothing.
fn bytes_under(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_under(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use headstart_core::quantity::Bytes;

    use super::*;

    #[test]
    fn neither_the_free_space_to_keep_nor_the_quota_is_crossed() {
        let room = Room {
            total: 1000,
            available: 400,
            used: 250,
        };
        let quota = |max, keep_free_percent| Quota {
            max_bytes: max,
            keep_free_percent,
        };
        assert_eq!(room.usable(&quota(None, 16)), 240);
        assert_eq!(room.usable(&quota(Some(Bytes(300)), 16)), 50);
        assert_eq!(room.usable(&quota(Some(Bytes(100)), 16)), 0);
        assert_eq!(room.usable(&quota(None, 50)), 0);
    }
}
