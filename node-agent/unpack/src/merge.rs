//! Layers unpacked in [`Style::Plain`](crate::Style::Plain) become one root file system, by renames
//! alone: what overlayfs would show, for hosts that cannot mount one.
//!
//! Layers and target hold hostile links: every directory is opened from its top with `openat2`,
//! without following any.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::lower::{copy_xattrs, times};
use crate::{UnpackError, Unpacked, root};

/// Moves the layers, lowest first, into `into`: an empty directory on the same file system. The
/// layers' directories are used up. After an error, both are of no use.
pub fn merge(layers: &[(&Path, &Unpacked)], into: &Path) -> Result<(), UnpackError> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| UnpackError::directory("open", path, errno))
    };
    let target = open(into)?;
    for (layer, unpacked) in layers {
        let top = open(layer)?;
        hide(unpacked, &target)
            .and_then(|()| move_up(&top, unpacked, &target))
            .map_err(|errno| UnpackError::directory("merge", layer, errno))?;
    }
    Ok(())
}

/// Removes what the layer hides. Where the way to it leads over something that is no directory, it
/// is hidden by the layer's own directories.
fn hide(unpacked: &Unpacked, target: &OwnedFd) -> Result<(), Errno> {
    let inside = |path: &[u8]| match below(target, path) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno),
    };
    for whiteout in &unpacked.whiteouts {
        let (above, name) = root::split(whiteout.as_os_str().as_bytes());
        if let Some(dir) = inside(above)? {
            match root::remove(&dir, name) {
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    for opaque in &unpacked.opaques {
        if let Some(dir) = inside(opaque.as_os_str().as_bytes())? {
            root::empty(&dir)?;
        }
    }
    Ok(())
}

fn move_up(top: &OwnedFd, unpacked: &Unpacked, target: &OwnedFd) -> Result<(), Errno> {
    let implicit: HashSet<&[u8]> = unpacked
        .implicit
        .iter()
        .filter(|implicit| !implicit.described)
        .map(|implicit| implicit.path.as_os_str().as_bytes())
        .collect();
    let mut todo = vec![Vec::new()];
    let mut merged: Vec<(Vec<u8>, Stat)> = Vec::new();
    while let Some(path) = todo.pop() {
        let (from, to) = (below(top, &path)?, below(target, &path)?);
        let found = rustix::fs::fstat(&from)?;
        for name in root::list(&from)? {
            if move_one(&from, &to, &name)? {
                todo.push(match path.is_empty() {
                    true => name,
                    false => [&path, &b"/"[..], &name].concat(),
                });
            }
        }
        if !path.is_empty() && !implicit.contains(path.as_slice()) {
            copy_xattrs(&from, &to, |name| name.starts_with(b"user."))?;
            merged.push((path, found));
        }
    }
    for (path, found) in merged {
        let dir = below(target, &path)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(found.st_mode & 0o7777))?;
        rustix::fs::futimens(&dir, &times(&found))?;
    }
    Ok(())
}

/// Moves one name, unless it is a directory in both: then says so.
fn move_one(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok(false),
        Err(Errno::EXIST) => {}
        // File systems without this flag.
        Err(Errno::INVAL) if !exists(to, name)? => {
            rustix::fs::renameat(from, name, to, name)?;
            return Ok(false);
        }
        Err(Errno::INVAL) => {}
        Err(errno) => return Err(errno),
    }
    if is_directory(from, name)? && is_directory(to, name)? {
        return Ok(true);
    }
    root::remove(to, name)?;
    rustix::fs::renameat(from, name, to, name)?;
    Ok(false)
}

fn exists(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn is_directory(dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// A directory inside, over real directories only.
pub(crate) fn below(top: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = match path {
        b"" => OsStr::new("."),
        path => OsStr::from_bytes(path),
    };
    rustix::fs::openat2(
        top,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
}
