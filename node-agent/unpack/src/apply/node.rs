//! One entry's node: made, filled, and given its owner, attributes, mode and times.

use std::io::BufRead;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Applier, Described, exceeded, os};
use crate::Style;
use crate::archive::{Archive, Entry, Time};
use crate::error::{Limit, UnpackError};
use crate::root::Dir;

impl Applier<'_> {
    /// Makes the node of an entry that is no whiteout.
    pub(super) fn node(
        &mut self,
        entry: &Entry,
        parent: &Dir,
        name: &[u8],
        archive: &mut Archive<impl BufRead>,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        let failed = |operation| move |errno| UnpackError::entry(operation, path, errno);
        match entry.kind {
            b'0' => {
                let file = self.create(parent, name).map_err(failed("create"))?;
                self.fill(&file, entry, archive, path)?;
                return self.finish_file(&file, entry).map_err(failed("finish"));
            }
            b'5' => {
                self.directory(entry, parent, name)
                    .map_err(failed("make directory"))?;
                self.remember(path.len())?;
                let (atime, mtime) = entry.times();
                self.directories.push(Described {
                    path: path.to_owned(),
                    atime,
                    mtime,
                });
            }
            b'1' => {
                self.clear(parent, name).map_err(failed("replace"))?;
                self.hard_link(entry, parent, name)
                    .map_err(failed("hard-link"))?;
            }
            b'2' => {
                self.clear(parent, name).map_err(failed("replace"))?;
                rustix::fs::symlinkat(os(&entry.link), parent, name).map_err(failed("link"))?;
            }
            b'3' | b'4' | b'6' => {
                self.clear(parent, name).map_err(failed("replace"))?;
                if !self.device(entry, parent, name).map_err(failed("make"))? {
                    return Ok(());
                }
            }
            b'g' => return self.clear(parent, name).map_err(failed("replace")),
            kind => {
                return Err(UnpackError::Archive {
                    entry: self.entries,
                    found: format!("type {:?}, which containerd does not unpack", kind as char),
                });
            }
        }
        self.finish(entry, parent, name).map_err(failed("finish"))
    }

    /// A new, empty file in place of whatever was there.
    fn create(&mut self, parent: &Dir, name: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let open = || {
            let mode = Mode::RUSR | Mode::WUSR;
            rustix::fs::openat(parent, name, flags | OFlags::CLOEXEC, mode)
        };
        match open() {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                open()
            }
            opened => opened,
        }
    }

    fn fill(
        &mut self,
        file: &OwnedFd,
        entry: &Entry,
        archive: &mut Archive<impl BufRead>,
        path: &[u8],
    ) -> Result<(), UnpackError> {
        self.file_bytes = self.file_bytes.saturating_add(entry.size);
        if self.file_bytes > self.limits.bytes {
            return Err(exceeded(Limit::Bytes, self.limits.bytes));
        }
        let failed = |errno| UnpackError::entry("write", path, errno);
        let Some(fragments) = &entry.fragments else {
            return copy(file, entry.size, archive, self.entries, path);
        };
        for fragment in fragments {
            rustix::fs::seek(file, rustix::fs::SeekFrom::Start(fragment.offset)).map_err(failed)?;
            copy(file, fragment.length, archive, self.entries, path)?;
        }
        rustix::fs::ftruncate(file, entry.size).map_err(failed)
    }

    fn directory(&mut self, entry: &Entry, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(self.mode_of_directory(entry.mode));
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        if kind(parent, name)? == FileType::Directory {
            if let Some(described) = self.implicit.get_mut(&parent.join(name)) {
                *described = true;
            }
            return Ok(());
        }
        self.clear(parent, name)?;
        rustix::fs::mkdirat(parent, name, mode)
    }

    /// The target is looked up inside the layer; the last name of it is not followed.
    fn hard_link(&mut self, entry: &Entry, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        let (above, last) = match entry.link.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&entry.link[..slash], &entry.link[slash + 1..]),
            None => (&b""[..], entry.link.as_slice()),
        };
        let walk = match last {
            b"" | b"." | b".." => self.root.walk(&entry.link)?,
            _ => {
                let mut walk = self.root.walk(above)?;
                match (&walk.other, walk.missing.is_empty()) {
                    (None, true) => walk.other = Some(last.to_owned()),
                    (Some(_), _) => return Err(Errno::NOTDIR),
                    (None, false) => return Err(Errno::NOENT),
                }
                walk
            }
        };
        match walk.other {
            Some(target) => rustix::fs::linkat(&walk.dir, &target, parent, name, AtFlags::empty()),
            None if walk.missing.is_empty() => Err(Errno::PERM),
            None => Err(Errno::NOENT),
        }
    }

    /// Says whether there is a node.
    fn device(&mut self, entry: &Entry, parent: &Dir, name: &[u8]) -> Result<bool, Errno> {
        let kind = match entry.kind {
            b'3' => FileType::CharacterDevice,
            b'4' => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        if self.style == Style::Plain && kind != FileType::Fifo {
            self.skipped_devices += 1;
            return Ok(false);
        }
        let number = |number| u32::try_from(number).map_err(|_| Errno::INVAL);
        let device = rustix::fs::makedev(number(entry.major)?, number(entry.minor)?);
        let mode = Mode::from_raw_mode(entry.mode & 0o7777);
        rustix::fs::mknodat(parent, name, kind, mode, device)?;
        Ok(true)
    }

    /// Owner, attributes, mode and times of an open file, in this order: a change of owner clears
    /// set-id bits and capabilities.
    fn finish_file(&mut self, file: &OwnedFd, entry: &Entry) -> Result<(), Errno> {
        if self.style != Style::Plain {
            rustix::fs::fchown(file, uid(entry), gid(entry))?;
        }
        for (key, value) in &entry.xattrs {
            let set = match self.wanted(key) {
                true => rustix::fs::fsetxattr(file, os(key), value, XattrFlags::empty()),
                false => Err(Errno::NOTSUP),
            };
            self.excuse(set, false)?;
        }
        rustix::fs::fchmod(file, self.mode_of_file(entry))?;
        let (atime, mtime) = entry.times();
        rustix::fs::futimens(file, &timestamps(atime, mtime))
    }

    /// The same for everything that is not a new file.
    fn finish(&mut self, entry: &Entry, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        if self.style != Style::Plain {
            change_owner(parent, name, entry)?;
        }
        if !entry.xattrs.is_empty() {
            self.xattrs(entry, parent, name)?;
        }
        let kind = match entry.kind {
            b'5' => FileType::Directory,
            b'2' => FileType::Symlink,
            b'1' => kind(parent, name)?,
            _ => FileType::Unknown,
        };
        if kind != FileType::Symlink {
            let mode = match kind {
                FileType::Directory => Mode::from_raw_mode(self.mode_of_directory(entry.mode)),
                _ => self.mode_of_file(entry),
            };
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        let (atime, mtime) = entry.times();
        let times = timestamps(atime, mtime);
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn xattrs(&mut self, entry: &Entry, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        let special = !matches!(
            kind(parent, name)?,
            FileType::RegularFile | FileType::Directory
        );
        // No system call sets attributes below a descriptor before Linux 6.13.
        let path = self.root.host_path(&parent.join(name));
        for (key, value) in &entry.xattrs {
            let set = match self.wanted(key) {
                true => rustix::fs::lsetxattr(&path, os(key), value, XattrFlags::empty()),
                false => Err(Errno::NOTSUP),
            };
            self.excuse(set, special && key.starts_with(b"user."))?;
        }
        Ok(())
    }

    /// Whether an attribute from an archive is set at all.
    fn wanted(&self, key: &[u8]) -> bool {
        match self.style {
            Style::Overlay | Style::Base => !key.starts_with(b"trusted."),
            Style::Plain => key.starts_with(b"user."),
        }
    }

    /// What containerd only warns about.
    fn excuse(&mut self, set: Result<(), Errno>, user_on_special: bool) -> Result<(), Errno> {
        match set {
            Err(Errno::NOTSUP) => self.skipped_xattrs += 1,
            Err(Errno::PERM) if user_on_special => self.skipped_xattrs += 1,
            other => return other,
        }
        Ok(())
    }

    fn mode_of_file(&self, entry: &Entry) -> Mode {
        Mode::from_raw_mode(match self.style {
            Style::Overlay | Style::Base => entry.mode & 0o7777,
            Style::Plain => entry.mode & 0o777 | 0o400,
        })
    }
}

/// Moves `length` bytes of the entry's data into the file.
fn copy(
    file: &OwnedFd,
    length: u64,
    archive: &mut Archive<impl BufRead>,
    entry: u64,
    path: &[u8],
) -> Result<(), UnpackError> {
    let mut left = length;
    while left > 0 {
        let piece = archive.data(left).map_err(|trouble| trouble.at(entry))?;
        let written = match rustix::io::write(file, piece) {
            Ok(written) => written,
            Err(Errno::INTR) => 0,
            Err(errno) => return Err(UnpackError::entry("write", path, errno)),
        };
        archive.advance(written);
        left -= written as u64;
    }
    Ok(())
}

fn kind(parent: &Dir, name: &[u8]) -> Result<FileType, Errno> {
    let found = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(found.st_mode))
}

/// Gives a node, which may be a link, to the entry's owner.
pub(super) fn change_owner(parent: &Dir, name: &[u8], entry: &Entry) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(parent, name, uid(entry), gid(entry), flags)
}

/// -1 means "as it is" to the system, and so it does to containerd.
fn uid(entry: &Entry) -> Option<Uid> {
    (entry.uid != u32::MAX).then(|| Uid::from_raw(entry.uid))
}

fn gid(entry: &Entry) -> Option<Gid> {
    (entry.gid != u32::MAX).then(|| Gid::from_raw(entry.gid))
}

pub(super) fn timestamps(atime: Time, mtime: Time) -> Timestamps {
    let spec = |time: Time| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.into(),
    };
    Timestamps {
        last_access: spec(atime),
        last_modification: spec(mtime),
    }
}
