//! The inside of a directory as a file system of its own: paths resolved against its top, links
//! included, by opening one name at a time.
//!
//! - A descriptor is only ever opened from another one inside, by a single name, without following
//!   links: there is no way out, with or without `openat2`, and a seccomp filter can see every flag.
//! - Links are resolved as the kernel would with this directory as its root; names that are not
//!   there are kept, so that a dangling link can be a parent, as in containerd.
//! - Nobody else changes the directory meanwhile; a cache of opened directories relies on it.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Most directories kept open.
const CACHED: usize = 256;

/// Most links in one path, as in the kernel's own walks times what Go allows.
const LINKS: usize = 255;

/// A directory inside.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    /// Its path from the top, without links; empty for the top.
    pub(crate) path: Vec<u8>,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// A descriptor that attributes can be read and set through; an ordinary one only names it.
    pub(crate) fn readable(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
    }

    /// The path of something in it.
    pub(crate) fn join(&self, name: &[u8]) -> Vec<u8> {
        match self.path.is_empty() {
            true => name.to_owned(),
            false => [&self.path, &b"/"[..], name].concat(),
        }
    }

    fn open(&self, name: &[u8]) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::openat(&self.fd, name, flags, Mode::empty())?,
            path: self.join(name),
        })
    }
}

/// Where a path leads.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The deepest directory that exists on the way.
    pub(crate) dir: Rc<Dir>,
    /// Names below it that are not there.
    pub(crate) missing: Vec<Vec<u8>>,
    /// The last name, below `dir`, when it is there and is no directory.
    pub(crate) other: Option<Vec<u8>>,
}

/// A directory taken as the top of a file system.
#[derive(Debug)]
pub(crate) struct Root {
    top: Rc<Dir>,
    host: PathBuf,
    path_bytes: usize,
    cache: HashMap<Box<[u8]>, Rc<Dir>>,
}

impl Root {
    /// Opens the directory at `host`, whose own path is trusted.
    pub(crate) fn open(host: &Path, path_bytes: u64) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(rustix::fs::CWD, host, flags, Mode::empty())?;
        Ok(Self {
            top: Rc::new(Dir {
                fd,
                path: Vec::new(),
            }),
            host: host.to_owned(),
            path_bytes: usize::try_from(path_bytes).unwrap_or(usize::MAX),
            cache: HashMap::new(),
        })
    }

    /// The path on the host of something inside, for the few calls that take no descriptor.
    pub(crate) fn host_path(&self, inside: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        self.host.join(std::ffi::OsStr::from_bytes(inside))
    }

    /// The directory at a cleaned path if it is in the cache, or directly below one that is.
    pub(crate) fn cached(&mut self, path: &[u8]) -> Option<Rc<Dir>> {
        if path.is_empty() {
            return Some(Rc::clone(&self.top));
        }
        if let Some(dir) = self.cache.get(path) {
            return Some(Rc::clone(dir));
        }
        let (above, name) = split(path);
        let above = match above {
            b"" => &self.top,
            _ => self.cache.get(above)?,
        };
        let dir = Rc::new(above.open(name).ok()?);
        if dir.path.len() > self.path_bytes {
            return None;
        }
        self.remember(path, &dir);
        Some(dir)
    }

    pub(crate) fn remember(&mut self, path: &[u8], dir: &Rc<Dir>) {
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.into(), Rc::clone(dir));
    }

    /// To be called when a directory or a link is removed.
    pub(crate) fn forget(&mut self) {
        self.cache.clear();
    }

    /// Follows a path from the top, links in its last name included.
    pub(crate) fn walk(&self, path: &[u8]) -> Result<Walk, Errno> {
        let mut pending: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_owned).collect();
        let mut stack = vec![Rc::clone(&self.top)];
        let mut missing: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let dir = stack.last().expect("the top is never popped");
            if name == b".." {
                if missing.pop().is_none() && stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            if !missing.is_empty() {
                missing.push(name);
                continue;
            }
            match dir.open(&name) {
                Ok(below) if below.path.len() > self.path_bytes => return Err(Errno::NAMETOOLONG),
                Ok(below) => stack.push(Rc::new(below)),
                Err(Errno::NOENT) => missing.push(name),
                Err(Errno::NOTDIR | Errno::LOOP) => match target(dir, &name)? {
                    Some(target) => {
                        links += 1;
                        let length = target.len() + pending.iter().map(Vec::len).sum::<usize>();
                        if links > LINKS || length > self.path_bytes {
                            return Err(Errno::LOOP);
                        }
                        pending.extend(names(&target).rev().map(<[u8]>::to_owned));
                        if target.starts_with(b"/") {
                            stack.truncate(1);
                        }
                    }
                    None if pending.is_empty() => {
                        return Ok(Walk {
                            dir: Rc::clone(dir),
                            missing,
                            other: Some(name),
                        });
                    }
                    None => return Err(Errno::NOTDIR),
                },
                Err(errno) => return Err(errno),
            }
        }
        let dir = stack.pop().expect("the top is never popped");
        Ok(Walk {
            dir,
            missing,
            other: None,
        })
    }
}

/// Makes a directory and opens it.
pub(crate) fn make_dir(above: &Dir, name: &[u8], mode: u32) -> Result<Dir, Errno> {
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::mkdirat(above, name, mode)?;
    // The umask has taken its share.
    rustix::fs::chmodat(above, name, mode, AtFlags::empty())?;
    above.open(name)
}

/// The names of a path.
pub(crate) fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
}

/// A path as text without `.`, `..` and empty names; `..` does not lead above the top.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut cleaned: Vec<&[u8]> = Vec::new();
    for name in names(path) {
        match name {
            b".." => drop(cleaned.pop()),
            _ => cleaned.push(name),
        }
    }
    cleaned.join(&b'/')
}

/// The directory part and the last name of a cleaned path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The target, when it is a link.
fn target(dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    match rustix::fs::readlinkat(dir, name, Vec::new()) {
        Ok(target) => Ok(Some(target.into_bytes())),
        Err(Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Removes whatever is there, with everything in it. Says whether a path may have led through it.
pub(crate) fn remove(dir: &impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    let was_file = || -> Result<bool, Errno> {
        let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::RegularFile)
    };
    let file = was_file()?;
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => return Ok(!file),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    empty(&below)?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    Ok(true)
}

/// Removes everything in a directory, which must have been opened for reading.
pub(crate) fn empty(dir: &impl AsFd) -> Result<(), Errno> {
    for name in list(dir)? {
        remove(dir, &name)?;
    }
    Ok(())
}

/// The names in a directory, which must have been opened for reading.
pub(crate) fn list(dir: &impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_owned();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
