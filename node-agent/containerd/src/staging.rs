//! Directories in which layers are unpacked, one per session, on the snapshotter's file system.
//!
//! `<state>/headstart-staging/<session>/<layer>`. A session lives while somebody holds the lock on
//! its `lock` file: the kernel lets go of it when the process dies, whatever it died of. Making a
//! session's directory and looking through them exclude each other by a lock on the whole.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::Error;

const DEAD: &str = "dead-";
const LOCK: &str = "lock";

/// The staging directory of one live session.
pub(crate) struct Staging {
    directory: PathBuf,
    _lock: File,
}

impl Staging {
    /// Makes a session's directory below `base`, which is made too. Blocks.
    pub(crate) fn create(base: &Path, session: &str) -> Result<Self, Error> {
        make_private(base)?;
        let _whole = lock_whole(base)?;
        let directory = base.join(session);
        make_private(&directory)?;
        let lock = open_lock(&directory.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| Error::disk("lock", &directory, error.into()))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// The directory of a layer.
    pub(crate) fn layer(&self, layer: usize) -> PathBuf {
        self.directory.join(layer.to_string())
    }

    /// Makes a layer's directory unless it is there. Blocks.
    pub(crate) fn make_layer(&self, layer: usize) -> Result<PathBuf, Error> {
        let path = self.layer(layer);
        make_private(&path)?;
        Ok(path)
    }

    /// Removes the directory with all in it. Blocks.
    pub(crate) fn remove(self) -> Result<(), Error> {
        remove_tree(&self.directory)
    }
}

/// The sessions below `base` that live. Blocks.
pub(crate) fn living(base: &Path) -> Result<HashSet<String>, Error> {
    if !base.exists() {
        return Ok(HashSet::new());
    }
    let _whole = lock_whole(base)?;
    let sessions = sessions(base)?;
    Ok(sessions
        .into_iter()
        .filter(|name| lives(&base.join(name)))
        .collect())
}

/// Removes the directories of dead sessions below `base` and says how many there were. Blocks.
pub(crate) fn remove_dead(base: &Path) -> Result<usize, Error> {
    if !base.exists() {
        return Ok(0);
    }
    {
        let _whole = lock_whole(base)?;
        for name in sessions(base)? {
            let from = base.join(&name);
            if !lives(&from) {
                let to = base.join(format!("{DEAD}{name}"));
                fs::rename(&from, &to).map_err(|error| Error::disk("rename", &from, error))?;
            }
        }
    }
    let mut removed = 0;
    for name in names(base)? {
        if name.starts_with(DEAD) {
            remove_tree(&base.join(name))?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a tree, if it is there. Blocks.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::disk("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn make_private(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::disk("make", path, error))
        }
        _ => Ok(()),
    }
}

fn lock_whole(base: &Path) -> Result<File, Error> {
    let path = base.join(LOCK);
    let lock = open_lock(&path)?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|error| Error::disk("lock", &path, error.into()))?;
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600);
    options
        .open(path)
        .map_err(|error| Error::disk("open", path, error))
}

fn lives(session: &Path) -> bool {
    let Ok(lock) = File::open(session.join(LOCK)) else {
        return false;
    };
    flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err()
}

fn sessions(base: &Path) -> Result<Vec<String>, Error> {
    let mut names = names(base)?;
    names.retain(|name| name != LOCK && !name.starts_with(DEAD));
    Ok(names)
}

fn names(base: &Path) -> Result<Vec<String>, Error> {
    let read = |error| Error::disk("read", base, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(base).map_err(read)? {
        names.push(
            entry
                .map_err(read)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_sessions_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("staging");
        let live = Staging::create(&base, "live").unwrap();
        let dead = Staging::create(&base, "dead").unwrap();
        fs::write(dead.make_layer(0).unwrap().join("file"), "x").unwrap();
        drop(dead);
        assert_eq!(living(&base).unwrap(), HashSet::from(["live".to_owned()]));
        assert_eq!(remove_dead(&base).unwrap(), 1);
        let path = live.make_layer(3).unwrap();
        assert!(path.is_dir());
        assert_eq!(sessions(&base).unwrap(), ["live"]);
        live.remove().unwrap();
        assert_eq!(names(&base).unwrap(), ["lock"]);
    }

    #[test]
    fn a_directory_that_died_while_it_was_removed_is_removed_by_the_next_sweep() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("dead-x/0/etc")).unwrap();
        fs::create_dir_all(dir.path().join("made-but-not-locked")).unwrap();
        assert_eq!(remove_dead(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()).unwrap(), ["lock"]);
    }

    #[test]
    fn staging_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("staging");
        let staging = Staging::create(&base, "s").unwrap();
        for path in [base, staging.make_layer(0).unwrap()] {
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o700
            );
        }
    }
}
