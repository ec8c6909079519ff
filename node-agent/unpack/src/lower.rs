//! What a layer takes over from the layers below it, and how it reaches the disk. Done by the
//! caller after unpacking, when the layers below are known.
//!
//! Staging and lower directories are full of hostile links: both are only walked from inside.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::root::{Dir, Root};
use crate::{Implicit, UnpackError};

/// Longest path in a layer that is looked at.
const PATH: u64 = 4096;

/// Gives directories that a layer used without describing them the owner, mode, times and
/// attributes (but not `trusted.*`) that they have in the nearest of `lowers`, nearest first, in
/// which they exist; a path that is no directory there ends the search. One that was described
/// later gets the attributes only.
///
/// As containerd does while unpacking one layer over another, with two exceptions: a lower file in
/// the middle of the path counts as replaced instead of failing the layer, and the time survives.
pub fn fix_implicit_parents(
    staging: &Path,
    implicit: &[Implicit],
    lowers: &[PathBuf],
) -> Result<(), UnpackError> {
    let failed = |operation, path| move |errno| UnpackError::directory(operation, path, errno);
    let open = |path| Root::open(path, PATH).map_err(failed("open", path));
    let staging = open(staging)?;
    let lowers = lowers
        .iter()
        .map(|lower| open(lower))
        .collect::<Result<Vec<_>, _>>()?;
    for implicit in implicit {
        let fixed = fix(&staging, implicit, &lowers);
        fixed.map_err(failed("take over the attributes of", &implicit.path))?;
    }
    Ok(())
}

/// Gives the staging directory itself the owner and mode of `upperdir`, the directory it will take
/// the place of.
pub fn copy_root(staging: &Path, upperdir: &Path) -> Result<(), UnpackError> {
    let open = |path: &Path| {
        File::open(path).map_err(|error| UnpackError::Directory {
            operation: "open".to_owned(),
            path: path.to_owned(),
            cause: crate::Os::of(&error),
        })
    };
    let (from, to) = (open(upperdir)?, open(staging)?);
    rustix::fs::fstat(&from)
        .and_then(|found| copy_owner_and_mode(&found, &to))
        .map_err(|errno| UnpackError::directory("change the owner of", staging, errno))
}

/// Brings everything on the directory's file system to the disk.
pub fn sync(directory: &Path) -> Result<(), UnpackError> {
    let failed = |errno| UnpackError::directory("sync", directory, errno);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(directory, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::syncfs(fd).map_err(failed)
}

fn fix(staging: &Root, implicit: &Implicit, lowers: &[Root]) -> Result<(), Errno> {
    let path = implicit.path.as_os_str().as_bytes();
    let to = staging.walk(path)?;
    // The path came out of the process that saw the layer.
    if !to.missing.is_empty() || to.other.is_some() || to.dir.path != path {
        return Err(Errno::NOTDIR);
    }
    for lower in lowers {
        let from = match lower.walk(path) {
            Ok(walk) if !walk.missing.is_empty() => continue,
            Ok(walk) if walk.other.is_none() => walk.dir,
            Ok(_) | Err(Errno::NOTDIR) => break,
            Err(errno) => return Err(errno),
        };
        return copy(&from, &to.dir, implicit.described);
    }
    Ok(())
}

fn copy(from: &Dir, to: &Dir, described: bool) -> Result<(), Errno> {
    let (from, to) = (from.readable()?, to.readable()?);
    let found = rustix::fs::fstat(&from)?;
    if !described {
        copy_owner_and_mode(&found, &to)?;
    }
    copy_xattrs(&from, &to, |name| !name.starts_with(b"trusted."))?;
    match described {
        true => Ok(()),
        false => rustix::fs::futimens(&to, &times(&found)),
    }
}

fn copy_owner_and_mode(found: &Stat, to: &impl AsFd) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    rustix::fs::fchown(to, Some(uid), Some(gid))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(found.st_mode & 0o7777))
}

/// The times of a node.
pub(crate) fn times(found: &Stat) -> Timestamps {
    let spec = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanos).unwrap_or_default(),
    };
    Timestamps {
        last_access: spec(found.st_atime, found.st_atime_nsec),
        last_modification: spec(found.st_mtime, found.st_mtime_nsec),
    }
}

/// Copies extended attributes that the target lacks.
pub(crate) fn copy_xattrs(
    from: &OwnedFd,
    to: &OwnedFd,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<(), Errno> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        listed => listed?,
    };
    let mut value = vec![0; 64 << 10];
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() || !wanted(name) {
            continue;
        }
        let length = match rustix::fs::fgetxattr(from, name, value.as_mut_slice()) {
            Err(Errno::NOTSUP | Errno::NODATA) => continue,
            read => read?,
        };
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::CREATE) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
