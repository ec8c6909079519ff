//! The directory a demo works in, which is gone when the demo is.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// How often removal is tried: a process that was just killed may still finish a write.
const TRIES: u32 = 20;

/// A fresh directory.
#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
    keep: bool,
}

impl Workdir {
    /// Makes one inside `parent`, or where temporary files belong.
    pub(crate) fn make(parent: Option<&Path>, keep: bool) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("headstart-demo-");
        let made = match parent {
            Some(parent) => builder
                .tempdir_in(parent)
                .with_context(|| format!("--work-dir {}", parent.display()))?,
            None => builder
                .tempdir()
                .context("cannot make a temporary directory: give --work-dir")?,
        };
        // Removed here: an image and a read-only tree need more than plain removal.
        let path = made.keep();
        Ok(Self { path, keep })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, unless it is to be kept: then where it is.
    pub(crate) fn end(mut self) -> Option<PathBuf> {
        self.keep.then(|| std::mem::take(&mut self.path))
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        for _ in 0..TRIES {
            match std::fs::remove_dir_all(&self.path) {
                Ok(()) => return,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
                Err(_) => {
                    open_up(&self.path);
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        eprintln!("warning: {} could not be removed", self.path.display());
    }
}

/// Makes every directory below `path` one that its owner may remove things from.
fn open_up(path: &Path) {
    // What cannot be opened up is reported when it cannot be removed.
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    let Ok(entries) = std::fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_read_only_directories_is_removed_and_a_kept_one_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let workdir = Workdir::make(Some(parent.path()), false).unwrap();
        let inner = workdir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("f"), "x").unwrap();
        for locked in [&inner, &workdir.path().join("a")] {
            std::fs::set_permissions(locked, std::fs::Permissions::from_mode(0o555)).unwrap();
        }
        assert_eq!(workdir.end(), None);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);

        let kept = Workdir::make(Some(parent.path()), true).unwrap().end();
        assert!(kept.is_some_and(|path| path.is_dir()));
    }
}
