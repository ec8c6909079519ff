//! Files that somebody else's client downloaded into a Hugging Face cache, found for a plan.
//!
//! Nothing found here is believed: a name in a cache says what its writer meant, and clients do
//! not verify what they write. The caller copies (or reflinks) what is offered into a partial
//! file of its own, hashes it there and publishes it like a download. It must not hardlink it:
//! the cache's owner could change an object of the store through the other name.
//!
//! Invariants: nothing is written; no link is followed by the kernel, so none leads out of the
//! cache; a link that stays inside is followed by name, a few times (a snapshot's
//! pointer, then a blob shared between repositories).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::dir::{Dir, Entry, FileError};
use crate::plan::{ModelPlan, PlannedFile};

/// Links followed from one name: pointer to blob, blob to shared blob, and one to spare.
const MAX_HOPS: usize = 3;

/// Snapshots looked at besides the plan's own. Caches without links keep a copy of a file in each.
const MAX_SNAPSHOTS: usize = 64;

/// A Hugging Face cache of somebody else's, looked at for one plan.
#[derive(Debug)]
pub struct Cache {
    hub: Dir,
    repo: String,
    /// The commits there, the plan's first.
    snapshots: Vec<String>,
}

/// A file that may be what was planned.
#[derive(Debug)]
pub struct Offer {
    /// The file, opened for reading; regular and of the planned size when it was opened.
    pub file: File,
    /// Where it was found, for reports.
    pub at: PathBuf,
}

impl Cache {
    /// Opens the cache at `path`, what `HF_HUB_CACHE` says (`~/.cache/huggingface/hub`); none if
    /// there is no such directory or it has nothing of the plan's repository.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(path: &Path, plan: &ModelPlan) -> Result<Option<Self>, FileError> {
        // The directory itself may be behind a link: a person named it.
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let (operation, path) = ("find cache", path.to_owned());
                return Err(FileError {
                    operation,
                    path,
                    source,
                });
            }
        };
        let hub = Dir::open(&real)?;
        let repo = plan.repo.cache_dir();
        if usable(hub.dir(&repo))?.is_none() {
            return Ok(None);
        }
        let mut snapshots = vec![plan.commit.to_string()];
        if let Some(dir) = usable(hub.dir(&format!("{repo}/snapshots")))? {
            let names = dir.list()?.into_iter().filter(|(_, is_dir)| *is_dir);
            let names = names.filter_map(|(name, _)| name.into_string().ok());
            let others = names.filter(|name| *name != snapshots[0]);
            snapshots.extend(others.take(MAX_SNAPSHOTS).collect::<Vec<_>>());
        }
        Ok(Some(Self {
            hub,
            repo,
            snapshots,
        }))
    }

    /// The files that may be `file`, the likeliest first, each of them once.
    ///
    /// # Errors
    /// When the file system fails; what is missing, unreadable or of another size is left out.
    pub fn offers(&self, file: &PlannedFile) -> Result<Vec<Offer>, FileError> {
        let blob = format!("{}/blobs/{}", self.repo, file.etag());
        let plain = self
            .snapshots
            .iter()
            .map(|commit| format!("{}/snapshots/{commit}/{}", self.repo, file.path));
        let mut seen = BTreeSet::new();
        let mut offers = Vec::new();
        for place in std::iter::once(blob).chain(plain) {
            let Some((opened, at)) = self.follow(place)? else {
                continue;
            };
            let meta = opened.metadata().map_err(|source| FileError {
                operation: "look at",
                path: at.clone(),
                source,
            })?;
            let fits = meta.is_file() && meta.len() == file.size;
            if fits && seen.insert((meta.dev(), meta.ino())) {
                offers.push(Offer { file: opened, at });
            }
        }
        Ok(offers)
    }

    /// The file at `place`, through links that stay in the cache.
    fn follow(&self, mut place: String) -> Result<Option<(File, PathBuf)>, FileError> {
        for _ in 0..=MAX_HOPS {
            let (parent, name) = place.rsplit_once('/').unwrap_or((".", &place));
            let Some(dir) = usable(self.hub.dir(parent))? else {
                return Ok(None);
            };
            match dir.entry(name)? {
                Entry::File(_) => {
                    let path = dir.path().join(name);
                    return Ok(usable(dir.file(name))?.map(|file| (file, path)));
                }
                Entry::Link(target) => match beside(parent, &target) {
                    Some(next) => place = next,
                    None => return Ok(None),
                },
                Entry::Absent | Entry::Directory | Entry::Other => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Where the link `target`, found in the directory `parent` of the cache, leads to inside the
/// cache. Right by name alone, because no directory on the way may be a link.
fn beside(parent: &str, target: &[u8]) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = parent.split('/').filter(|part| *part != ".").collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

/// What can be used, where a cache of somebody else's may hold anything.
fn usable<T>(opened: Result<Option<T>, FileError>) -> Result<Option<T>, FileError> {
    let error = match opened {
        Ok(found) => return Ok(found),
        Err(error) => error,
    };
    let skip = [
        Errno::LOOP,
        Errno::XDEV,
        Errno::NOTDIR,
        Errno::ACCESS,
        Errno::PERM,
        Errno::NAMETOOLONG,
    ];
    match Errno::from_io_error(&error.source) {
        Some(errno) if skip.contains(&errno) => {
            tracing::debug!(path = %error.path.display(), error = %error.source, "not adopted");
            Ok(None)
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
