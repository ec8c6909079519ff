//! From a tar stream to a directory, entry by entry, as containerd does it: parent, whiteout,
//! replacement, node, owner, attributes, mode, times; times of directories at the end.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;

use headstart_core::digest::Sha256;
use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::archive::{Archive, Entry, Time};
use crate::error::{Limit, UnpackError};
use crate::inflate::{self, Feed, Outlets};
use crate::root::{self, Dir, Root};
use crate::{Implicit, Limits, Request, Style, Unpacked};

mod node;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// Pieces of tar stream that wait for the hash, and for the applier.
const QUEUE: usize = 8;

/// Unpacks one layer, compressed or not, into the request's staging directory.
///
/// Runs three threads: inflate and hash beside the caller's, which writes. After an error the
/// directory holds a part of the layer. Returns early only once `reader` has returned from its last
/// read.
pub fn apply(reader: impl Read + Send, request: &Request) -> Result<Unpacked, UnpackError> {
    let root = Root::open(&request.staging, request.limits.path_bytes)
        .map_err(|errno| UnpackError::directory("open", &request.staging, errno))?;
    let (hash, to_hash) = mpsc::sync_channel(QUEUE);
    let (feed, to_apply) = mpsc::sync_channel(QUEUE);
    let (used, buffers) = mpsc::channel();
    let outlets = Outlets {
        hash,
        apply: feed,
        used: buffers,
    };
    let limits = &request.limits;
    std::thread::scope(|scope| {
        let inflating = scope.spawn(move || inflate::run(reader, limits, &outlets));
        let returned = used.clone();
        let hashing = scope.spawn(move || {
            let mut hash = sha2::Sha256::new();
            for chunk in to_hash {
                hash.update(chunk.as_slice());
                inflate::give_back(chunk, &returned);
            }
            Sha256(hash.finalize().into())
        });
        let applied = Applier::new(root, request.style, limits).run(Feed::new(to_apply, used));
        let inflated = inflating
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let diff_id = hashing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A stream that broke explains an archive that ends early, not the other way round.
        let amounts = inflated?;
        let applied = applied?;
        Ok(Unpacked {
            diff_id,
            compressed_bytes: amounts.compressed,
            tar_bytes: amounts.tar,
            entries: applied.entries,
            implicit: applied
                .implicit
                .into_iter()
                .map(|(path, described)| Implicit {
                    path: text(path),
                    described,
                })
                .collect(),
            whiteouts: applied.whiteouts.into_keys().map(text).collect(),
            opaques: applied.opaques.into_keys().map(text).collect(),
            skipped_devices: applied.skipped_devices,
            skipped_xattrs: applied.skipped_xattrs,
        })
    })
}

fn text(path: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(path).into()
}

/// A directory entry, whose times are set at the end.
struct Described {
    path: Vec<u8>,
    atime: Time,
    mtime: Time,
}

struct Applier<'a> {
    root: Root,
    style: Style,
    limits: &'a Limits,
    entries: u64,
    file_bytes: u64,
    name_bytes: u64,
    directories: Vec<Described>,
    /// Paths inside, and whether an entry described them later.
    implicit: BTreeMap<Vec<u8>, bool>,
    /// Placeholders to be removed at the end, [`Style::Plain`] only.
    whiteouts: BTreeMap<Vec<u8>, ()>,
    opaques: BTreeMap<Vec<u8>, ()>,
    skipped_devices: u64,
    skipped_xattrs: u64,
}

impl<'a> Applier<'a> {
    fn new(root: Root, style: Style, limits: &'a Limits) -> Self {
        Self {
            root,
            style,
            limits,
            entries: 0,
            file_bytes: 0,
            name_bytes: 0,
            directories: Vec::new(),
            implicit: BTreeMap::new(),
            whiteouts: BTreeMap::new(),
            opaques: BTreeMap::new(),
            skipped_devices: 0,
            skipped_xattrs: 0,
        }
    }

    fn run(mut self, stream: impl BufRead) -> Result<Self, UnpackError> {
        let mut archive = Archive::new(stream);
        loop {
            self.entries += 1;
            let entry = archive.next().map_err(|trouble| trouble.at(self.entries))?;
            let Some(entry) = entry else {
                self.entries -= 1;
                break;
            };
            if self.entries > self.limits.entries {
                return Err(exceeded(Limit::Entries, self.limits.entries));
            }
            self.place(&entry, &mut archive)?;
        }
        archive
            .drain()
            .map_err(|trouble| trouble.at(self.entries))?;
        self.remove_placeholders()?;
        self.set_directory_times()?;
        Ok(self)
    }

    fn place(
        &mut self,
        entry: &Entry,
        archive: &mut Archive<impl BufRead>,
    ) -> Result<(), UnpackError> {
        let longest = entry.name.len().max(entry.link.len()) as u64;
        if longest > self.limits.path_bytes {
            return Err(exceeded(Limit::PathBytes, self.limits.path_bytes));
        }
        if entry.name.contains(&0) || entry.link.contains(&0) {
            return Err(UnpackError::entry(
                "use the name of",
                &entry.name,
                Errno::INVAL,
            ));
        }
        let cleaned = root::clean(&entry.name);
        let cleaned = cleaned.as_slice();
        let (above, name) = root::split(cleaned);
        if name.is_empty() {
            return Ok(());
        }
        let failed = |operation| move |errno| UnpackError::entry(operation, cleaned, errno);
        let parent = self
            .parent(above)
            .map_err(|fault| fault.for_entry("make the parent of", cleaned))?;
        if name == OPAQUE {
            return self.opaque(&parent).map_err(failed("mark opaque with"));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(failed("hide what is named by")(Errno::INVAL));
            }
            self.remember(parent.path.len() + hidden.len())?;
            return self
                .whiteout(&parent, hidden, entry)
                .map_err(failed("hide what is named by"));
        }
        self.node(entry, &parent, name, archive, cleaned)
    }

    /// The directory at a cleaned path, made where it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>, Fault> {
        if let Some(dir) = self.root.cached(path) {
            return Ok(dir);
        }
        let walk = self.root.walk(path)?;
        if walk.other.is_some() {
            return Err(Errno::NOTDIR.into());
        }
        let mut dir = walk.dir;
        for name in &walk.missing {
            let made = root::make_dir(&dir, name, self.mode_of_directory(0o755))?;
            if made.path.len() as u64 > self.limits.path_bytes {
                return Err(Fault::Limit(Limit::PathBytes, self.limits.path_bytes));
            }
            self.name_bytes += made.path.len() as u64;
            if self.name_bytes > self.limits.name_bytes {
                return Err(Fault::Limit(Limit::NameBytes, self.limits.name_bytes));
            }
            self.implicit.insert(made.path.clone(), false);
            dir = Rc::new(made);
        }
        self.root.remember(path, &dir);
        Ok(dir)
    }

    fn opaque(&mut self, parent: &Rc<Dir>) -> Result<(), Errno> {
        match self.style {
            Style::Overlay => {
                let dir = parent.readable()?;
                rustix::fs::fsetxattr(&dir, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
            }
            Style::Base => self.remove_undescribed(&parent.path)?,
            Style::Plain => {
                self.opaques.insert(parent.path.clone(), ());
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, parent: &Dir, hidden: &[u8], entry: &Entry) -> Result<(), Errno> {
        match self.style {
            Style::Overlay => {
                let kind = rustix::fs::FileType::CharacterDevice;
                rustix::fs::mknodat(parent, hidden, kind, Mode::empty(), 0)?;
                node::change_owner(parent, hidden, entry)
            }
            Style::Base => self.clear(parent, hidden),
            Style::Plain => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let flags = flags | OFlags::CLOEXEC;
                rustix::fs::openat(parent, hidden, flags, Mode::RUSR | Mode::WUSR)?;
                self.whiteouts.insert(parent.join(hidden), ());
                Ok(())
            }
        }
    }

    /// Removes directories below one that no entry described, as containerd does on an opaque
    /// marker in a lowest layer: everything else there came with an entry of this layer.
    fn remove_undescribed(&mut self, path: &[u8]) -> Result<(), Errno> {
        let below = match path {
            b"" => Vec::new(),
            path => [path, b"/"].concat(),
        };
        let doomed: Vec<_> = self
            .implicit
            .range(below.clone()..)
            .take_while(|(path, _)| path.starts_with(&below))
            .filter(|(_, described)| !**described)
            .map(|(path, _)| path.clone())
            .collect();
        for path in doomed {
            let (above, name) = root::split(&path);
            // It may be gone with one above it.
            let above = self.root.walk(above)?;
            if above.missing.is_empty() && above.other.is_none() {
                self.clear(&above.dir, name)?;
            }
        }
        Ok(())
    }

    /// Removes what is in the way of an entry.
    fn clear(&mut self, parent: &Dir, name: &[u8]) -> Result<(), Errno> {
        match root::remove(parent, name) {
            Ok(false) => {}
            Ok(true) => {
                self.root.forget();
                let path = parent.join(name);
                forget_below(&mut self.implicit, &path);
                forget_below(&mut self.whiteouts, &path);
                forget_below(&mut self.opaques, &path);
                return Ok(());
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        if !self.whiteouts.is_empty() {
            self.whiteouts.remove(&parent.join(name));
        }
        Ok(())
    }

    fn remember(&mut self, bytes: usize) -> Result<(), UnpackError> {
        self.name_bytes += bytes as u64;
        match self.name_bytes > self.limits.name_bytes {
            true => Err(exceeded(Limit::NameBytes, self.limits.name_bytes)),
            false => Ok(()),
        }
    }

    fn mode_of_directory(&self, mode: u32) -> u32 {
        match self.style {
            Style::Overlay | Style::Base => mode & 0o7777,
            Style::Plain => mode & 0o1777 | 0o700,
        }
    }

    fn remove_placeholders(&mut self) -> Result<(), UnpackError> {
        for path in self.whiteouts.keys() {
            let failed = |errno| UnpackError::entry("remove the placeholder of", path, errno);
            let (above, name) = root::split(path);
            let above = match self.root.cached(above) {
                Some(dir) => dir,
                None => self.root.walk(above).map_err(failed)?.dir,
            };
            rustix::fs::unlinkat(&above, name, AtFlags::empty()).map_err(failed)?;
        }
        Ok(())
    }

    /// Follows links once more, as containerd does: a directory entry may have been replaced by one.
    fn set_directory_times(&mut self) -> Result<(), UnpackError> {
        for directory in &self.directories {
            let failed = |errno| UnpackError::entry("set the times of", &directory.path, errno);
            let times = node::timestamps(directory.atime, directory.mtime);
            if let Some(dir) = self.root.cached(&directory.path) {
                set_times(&dir, &times).map_err(failed)?;
                continue;
            }
            let walk = self.root.walk(&directory.path).map_err(failed)?;
            if !walk.missing.is_empty() {
                return Err(failed(Errno::NOENT));
            }
            match walk.other {
                None => set_times(&walk.dir, &times),
                Some(name) => {
                    rustix::fs::utimensat(&walk.dir, &name, &times, AtFlags::SYMLINK_NOFOLLOW)
                }
            }
            .map_err(failed)?;
        }
        Ok(())
    }
}

/// What went wrong on the way to a parent.
enum Fault {
    Os(Errno),
    Limit(Limit, u64),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

impl Fault {
    fn for_entry(self, operation: &'static str, path: &[u8]) -> UnpackError {
        match self {
            Self::Os(errno) => UnpackError::entry(operation, path, errno),
            Self::Limit(limit, allowed) => exceeded(limit, allowed),
        }
    }
}

fn exceeded(limit: Limit, allowed: u64) -> UnpackError {
    UnpackError::Limit { limit, allowed }
}

fn set_times(dir: &Dir, times: &rustix::fs::Timestamps) -> Result<(), Errno> {
    rustix::fs::utimensat(dir, ".", times, AtFlags::SYMLINK_NOFOLLOW)
}

fn forget_below<T>(paths: &mut BTreeMap<Vec<u8>, T>, path: &[u8]) {
    if paths.is_empty() {
        return;
    }
    paths.remove(path);
    let below = [path, b"/"].concat();
    let doomed: Vec<_> = paths
        .range(below.clone()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(&below))
        .cloned()
        .collect();
    for path in doomed {
        paths.remove(&path);
    }
}

/// A name as the system takes it.
fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests;
