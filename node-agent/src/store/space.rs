//! Room: counted and promised before the first byte of a job is fetched.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use headstart_core::digest::Expected;

use super::{Quota, Removed, Store, StoreError};

/// What the jobs of this process hold of a store.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<Claimed>);

#[derive(Debug, Default)]
struct Claimed {
    /// Promised needs by the number of their reservation.
    needs: BTreeMap<u64, Need>,
    numbers: u64,
    /// How often each item is held.
    held: BTreeMap<String, usize>,
    /// Items evicted, and their bytes.
    evicted: (u64, u64),
}

/// Whoever measures and makes room does so alone.
pub(super) type MakingRoom = Mutex<()>;

/// Room that is needed.
#[derive(Clone, Debug, Default)]
pub struct Need {
    /// Objects, and how long each will be. What of them is on the disk already needs no more room.
    pub objects: BTreeMap<Expected, u64>,
    /// Bytes of anything else.
    pub bytes: u64,
}

/// Room promised to a job. What it has not written when it ends becomes free again.
#[derive(Debug)]
pub struct Reservation {
    number: u64,
    claims: Arc<Claims>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.claims.lock().needs.remove(&self.number);
    }
}

/// Keeps one item from being evicted while it is worked on or read, until dropped.
#[derive(Debug)]
pub struct Holding {
    id: String,
    claims: Arc<Claims>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let held = &mut self.claims.lock().held;
        if let Some(count) = held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.id);
            }
        }
    }
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Claimed> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
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
        let id = id.to_owned();
        *self.claims.lock().held.entry(id.clone()).or_default() += 1;
        Holding {
            id,
            claims: self.claims.clone(),
        }
    }

    /// Runs `removal` unless somebody holds the item, and lets nobody begin to meanwhile.
    pub(super) fn unless_held(
        &self,
        id: &str,
        removal: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<bool, StoreError> {
        let claimed = self.claims.lock();
        match claimed.held.contains_key(id) {
            true => Ok(false),
            false => removal().map(|()| true),
        }
    }

    #[cfg(test)]
    pub(crate) fn is_in_use(&self, id: &str) -> bool {
        self.is_held(id)
    }

    pub(super) fn is_held(&self, id: &str) -> bool {
        self.claims.lock().held.contains_key(id)
    }

    /// Promises room for `need`, evicting what may go if that is what it takes.
    ///
    /// # Errors
    /// [`StoreError::Full`] with the figures; nothing was evicted then.
    pub fn reserve(&self, need: Need) -> Result<Reservation, StoreError> {
        let _alone = self.making_room.lock().unwrap_or_else(|e| e.into_inner());
        let mut all = need.clone();
        let number = {
            let mut claimed = self.claims.lock();
            for promised in claimed.needs.values() {
                all.objects.extend(&promised.objects);
                all.bytes += promised.bytes;
            }
            // Promised before it is looked for, so that of two at the same time the later one sees
            // the earlier.
            claimed.numbers += 1;
            let number = claimed.numbers;
            claimed.needs.insert(number, need.clone());
            number
        };
        let reservation = Reservation {
            number,
            claims: self.claims.clone(),
        };
        let (usable, wanted) = (self.usable()?, self.lacking(&all));
        if wanted > usable {
            self.evict(wanted - usable).map_err(|error| match error {
                StoreError::Full {
                    root, evictable, ..
                } => StoreError::Full {
                    root,
                    need: self.lacking(&need),
                    usable,
                    evictable,
                },
                other => other,
            })?;
        }
        Ok(reservation)
    }

    /// Bytes of `need` that are not on the disk.
    pub fn lacking(&self, need: &Need) -> u64 {
        let objects = need.objects.iter();
        let lacking = objects.map(|(expected, size)| size.saturating_sub(self.landed(expected)));
        lacking.sum::<u64>() + need.bytes
    }

    /// Bytes that an object, or what has been allocated for it, takes.
    pub(super) fn landed(&self, expected: &Expected) -> u64 {
        let found = std::fs::symlink_metadata(self.object(expected));
        let found = found.or_else(|_| std::fs::symlink_metadata(self.partial(expected)));
        // A file system that cannot preallocate leaves holes, and they are not taken yet.
        found.map_or(0, |found| found.len().min(found.blocks() * 512))
    }

    pub(super) fn note_evicted(&self, removed: &Removed) {
        let mut claimed = self.claims.lock();
        claimed.evicted.0 += removed.names.len() as u64;
        claimed.evicted.1 += removed.bytes;
    }

    /// Items evicted by this process so far, and their bytes.
    pub fn evicted(&self) -> (u64, u64) {
        self.claims.lock().evicted
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
