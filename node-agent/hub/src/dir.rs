//! Directories held open, so that a name is only ever looked up below one of ours.
//!
//! Every lookup refuses symlinks in every component (`openat2` with `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS`, or component by component where the kernel or a filter lacks it). That
//! matters in views: their owner is a consumer who may swap a directory for a link at any moment.
//!
//! Deliberately absent: any call that takes an absolute path, besides opening the first directory
//! and linking an object of the store.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's word.
    pub source: io::Error,
}

/// Modes and owner of what is created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Perms {
    /// Mode of directories.
    pub(crate) dir: u32,
    /// Mode of files.
    pub(crate) file: u32,
    /// User and group, where they are not the agent's own.
    pub(crate) owner: Option<(u32, u32)>,
}

/// What a name is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing has that name.
    Absent,
    /// A directory.
    Directory,
    /// A regular file of that many bytes.
    File(u64),
    /// A symlink to there.
    Link(Vec<u8>),
    /// A device, a socket, a pipe.
    Other,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl Dir {
    /// Opens `path`, which must be a directory and no symlink.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let fd = rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|errno| failed("open directory", path, errno))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Opens `path`, making it (not its parents) if need be.
    pub(crate) fn open_or_make(path: &Path, perms: Perms) -> Result<Self, FileError> {
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let dir = Self::open(path)?;
                dir.own(perms)?;
                if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    Self::open(parent)?.sync()?;
                }
                Ok(dir)
            }
            Err(Errno::EXIST) => Self::open(path),
            Err(errno) => Err(failed("make directory", path, errno)),
        }
    }

    /// The same directory, opened once more.
    pub(crate) fn again(&self) -> Result<Self, FileError> {
        let wrong = |source| FileError {
            operation: "open again",
            path: self.path.clone(),
            source,
        };
        let fd = self.fd.try_clone().map_err(wrong)?;
        let path = self.path.clone();
        Ok(Self { fd, path })
    }

    /// Where it was when it was opened; for messages and for the caller's own paths.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory `below`, whose components are separated by `/`; none if it does not exist.
    pub(crate) fn dir(&self, below: &str) -> Result<Option<Self>, FileError> {
        match open_beneath(&self.fd, below, DIRECTORY) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: self.path.join(below),
            })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open directory", below, errno)),
        }
    }

    /// The directory `below`, made with its parents where missing.
    pub(crate) fn make(&self, below: &str, perms: Perms) -> Result<Self, FileError> {
        if let Some(dir) = self.dir(below)? {
            return Ok(dir);
        }
        let mut at: Option<Self> = None;
        for name in below.split('/') {
            let parent = at.as_ref().unwrap_or(self);
            let made = rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(0o700));
            let fresh = match made {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(parent.failed("make directory", name, errno)),
            };
            let missing = || parent.failed("open directory", name, Errno::NOENT);
            let dir = parent.dir(name)?.ok_or_else(missing)?;
            if fresh {
                dir.own(perms)?;
                parent.sync()?;
            }
            at = Some(dir);
        }
        at.map_or_else(|| self.again(), Ok)
    }

    /// Sets mode and owner of the directory itself.
    pub(crate) fn own(&self, perms: Perms) -> Result<(), FileError> {
        give(&self.fd, perms.owner, perms.dir)
            .map_err(|errno| failed("set owner of", &self.path, errno))
    }

    /// Sets the mode of the directory itself.
    pub(crate) fn mode(&self, mode: u32) -> Result<(), FileError> {
        rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode))
            .map_err(|errno| failed("set mode of", &self.path, errno))
    }

    /// Makes its entries durable.
    pub(crate) fn sync(&self) -> Result<(), FileError> {
        rustix::fs::fsync(&self.fd).map_err(|errno| failed("sync", &self.path, errno))
    }

    /// What `name` is.
    pub(crate) fn entry(&self, name: &str) -> Result<Entry, FileError> {
        let stat = match self.stat(name) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Entry::Absent),
            Err(errno) => return Err(self.failed("look at", name, errno)),
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Entry::Directory,
            FileType::RegularFile => Entry::File(u64::try_from(stat.st_size).unwrap_or(0)),
            FileType::Symlink => match rustix::fs::readlinkat(&self.fd, name, Vec::new()) {
                Ok(target) => Entry::Link(target.into_bytes()),
                Err(Errno::NOENT | Errno::INVAL) => return self.entry(name),
                Err(errno) => return Err(self.failed("read link", name, errno)),
            },
            _ => Entry::Other,
        })
    }

    fn stat(&self, name: &str) -> Result<Stat, Errno> {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens the regular file `below` for reading; none if it does not exist.
    pub(crate) fn file(&self, below: &str) -> Result<Option<File>, FileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match open_beneath(&self.fd, below, flags) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", below, errno)),
        }
    }

    /// The content of the regular file `below`, at most `cap` bytes of it; none if there is no
    /// such file.
    pub(crate) fn read(&self, below: &str, cap: u64) -> Result<Option<Vec<u8>>, FileError> {
        let Some(file) = self.file(below)? else {
            return Ok(None);
        };
        let wrong = |source| FileError {
            operation: "read",
            path: self.path.join(below),
            source,
        };
        let mut content = Vec::new();
        file.take(cap).read_to_end(&mut content).map_err(wrong)?;
        Ok(Some(content))
    }

    /// Puts a file of that content at `name` by writing it in `staging`, on the same file system,
    /// and renaming it, both made durable. A file that already has the content stays.
    pub(crate) fn put(
        &self,
        name: &str,
        content: &[u8],
        staging: &Self,
        perms: Perms,
    ) -> Result<(), FileError> {
        let cap = content.len() as u64 + 1;
        let same = match self.entry(name)? {
            Entry::File(size) if size == content.len() as u64 => {
                self.read(name, cap)?.as_deref() == Some(content)
            }
            _ => false,
        };
        if same {
            return Ok(());
        }
        let staged = "file";
        staging.unlink(staged)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&staging.fd, staged, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| staging.failed("create", staged, errno))?;
        let mut file = File::from(fd);
        let written = file.write_all(content).and_then(|()| {
            give(&file, perms.owner, perms.file)?;
            file.sync_all()
        });
        written.map_err(|source| FileError {
            operation: "write",
            path: staging.path.join(staged),
            source,
        })?;
        staging.rename(staged, self, name)?;
        self.sync()
    }

    /// Sets mode and owner of `file`, which was opened as `name`.
    pub(crate) fn own_file(&self, name: &str, file: &File, perms: Perms) -> Result<(), FileError> {
        give(file, perms.owner, perms.file).map_err(|errno| self.failed("set mode of", name, errno))
    }

    /// Makes a symlink `name` to `target`; false if something else already has the name.
    pub(crate) fn link_new(&self, name: &str, target: &Path) -> Result<bool, FileError> {
        match rustix::fs::symlinkat(target, &self.fd, name) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(self.failed("link", name, errno)),
        }
    }

    /// Sets the owner of the symlink `name`.
    pub(crate) fn own_link(&self, name: &str, perms: Perms) -> Result<(), FileError> {
        let Some((uid, gid)) = perms.owner else {
            return Ok(());
        };
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&self.fd, name, Some(uid), Some(gid), flags)
            .map_err(|errno| self.failed("set owner of", name, errno))
    }

    /// Hardlinks the file at `object`, itself and not what it may point to, as `name`; false if
    /// there is no such object.
    pub(crate) fn hardlink(&self, object: &Path, name: &str) -> Result<bool, FileError> {
        match rustix::fs::linkat(CWD, object, &self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("link into the tree", object, errno)),
        }
    }

    /// Renames `name` to `new` in `to`, over what may be there.
    pub(crate) fn rename(&self, name: &str, to: &Self, new: &str) -> Result<(), FileError> {
        rustix::fs::renameat(&self.fd, name, &to.fd, new)
            .map_err(|errno| self.failed("rename", name, errno))
    }

    /// Removes the file or link `name`; nothing happens if it is not there.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), FileError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Removes the empty directory `name`; nothing happens if it is not there.
    pub(crate) fn rmdir(&self, name: &str) -> Result<(), FileError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove directory", name, errno)),
        }
    }

    /// Its entries: names with whether each is a directory, sorted.
    pub(crate) fn list(&self) -> Result<Vec<(CString, bool)>, FileError> {
        let wrong = |errno| failed("list", &self.path, errno);
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW);
                    stat.map_or(FileType::Unknown, |stat| {
                        FileType::from_raw_mode(stat.st_mode)
                    })
                }
                known => known,
            };
            entries.push((name.to_owned(), kind == FileType::Directory));
        }
        entries.sort();
        Ok(entries)
    }

    /// Removes everything in this directory, however deep, with few files open: each directory
    /// met is first moved up to here. Follows no link and enters no mount point, which fails.
    pub(crate) fn empty(&self) -> Result<(), FileError> {
        let mut next = 0_u64;
        loop {
            let entries = self.list()?;
            if entries.is_empty() {
                return Ok(());
            }
            for (name, is_dir) in entries {
                if !is_dir {
                    self.unlink_c(&name)?;
                    continue;
                }
                let fd = rustix::fs::openat(&self.fd, &name, DIRECTORY, Mode::empty())
                    .map_err(|errno| self.failed_c("open directory", &name, errno))?;
                let child = Self {
                    fd,
                    path: self.path.join(lossy(&name)),
                };
                // A directory of the tree is read-only even to its owner.
                child.mode(0o700)?;
                for (inner, is_dir) in child.list()? {
                    match is_dir {
                        true => self.adopt_dir(&child, &inner, &mut next)?,
                        false => child.unlink_c(&inner)?,
                    }
                }
                rustix::fs::unlinkat(&self.fd, &name, AtFlags::REMOVEDIR)
                    .map_err(|errno| self.failed_c("remove directory", &name, errno))?;
            }
        }
    }

    fn adopt_dir(&self, child: &Self, name: &CStr, next: &mut u64) -> Result<(), FileError> {
        if let Ok(fd) = rustix::fs::openat(&child.fd, name, DIRECTORY, Mode::empty()) {
            // Moving a directory writes to it; the agent may not be root.
            let _ = rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o700));
        }
        loop {
            *next += 1;
            let new = format!("dir-{next}");
            let moved =
                rustix::fs::renameat_with(&child.fd, name, &self.fd, &new, RenameFlags::NOREPLACE);
            match moved {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(child.failed_c("move away", name, errno)),
            }
        }
    }

    fn unlink_c(&self, name: &CStr) -> Result<(), FileError> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed_c("remove", name, errno)),
        }
    }

    fn failed_c(&self, operation: &'static str, name: &CStr, errno: Errno) -> FileError {
        failed(operation, &self.path.join(lossy(name)), errno)
    }

    fn failed(&self, operation: &'static str, name: &str, errno: Errno) -> FileError {
        failed(operation, &self.path.join(name), errno)
    }
}

fn lossy(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> FileError {
    FileError {
        operation,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// Owner first: changing it would clear set-id bits of the mode.
fn give(fd: impl AsFd, owner: Option<(u32, u32)>, mode: u32) -> Result<(), Errno> {
    if let Some((uid, gid)) = owner {
        let now = rustix::fs::fstat(&fd)?;
        if (now.st_uid, now.st_gid) != (uid, gid) {
            rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))
}

fn open_beneath(base: &OwnedFd, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(base, below, flags, Mode::empty(), resolve) {
        // Older kernels, and system call filters that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_stepwise(base, below, flags),
        done => done,
    }
}

fn open_stepwise(base: &OwnedFd, below: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    let (parents, last) = match below.rsplit_once('/') {
        Some((parents, last)) => (Some(parents), last),
        None => (None, below),
    };
    for name in parents.into_iter().flat_map(|parents| parents.split('/')) {
        if matches!(name, "" | "." | "..") {
            return Err(Errno::XDEV);
        }
        let step = rustix::fs::openat(at.as_ref().unwrap_or(base), name, DIRECTORY, Mode::empty())?;
        at = Some(step);
    }
    if matches!(last, "" | "." | "..") {
        return Err(Errno::XDEV);
    }
    rustix::fs::openat(
        at.as_ref().unwrap_or(base),
        last,
        flags | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests;
