//! One digest over everything in a directory, so that it can be told later whether it is still what
//! it was: names, kinds, modes, contents, targets of links, hard links, `user.*` attributes, and
//! when files were modified.
//!
//! Owners are left out, because a disk may be moved, and times of directories, because reading may
//! need a temporary file in one. The directory holds hostile links and is walked without following
//! any. Contents are hashed by several threads; memory grows with the largest directory and with
//! hard links, not with files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, mpsc};

use headstart_core::digest::Sha256;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::Digest as _;

use crate::merge::below;
use crate::{UnpackError, root};

/// Bytes hashed at once.
const READ: usize = 256 << 10;

/// Most threads that hash.
const MOST_THREADS: usize = 8;

/// The digest of everything below `top`.
pub fn fingerprint(top: &Path) -> Result<Sha256, UnpackError> {
    let failed = |errno| UnpackError::directory("fingerprint", top, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(top, flags, Mode::empty()).map_err(failed)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let (files, to_hash) = mpsc::sync_channel::<Job>(2 * MOST_THREADS);
        let (hashed, digests) = mpsc::channel();
        let to_hash = std::sync::Arc::new(Mutex::new(to_hash));
        for _ in 0..cores.min(MOST_THREADS) {
            let (to_hash, hashed) = (to_hash.clone(), hashed.clone());
            scope.spawn(move || work(&to_hash, &hashed));
        }
        // Only the workers' ends are left: without them both sides would wait for ever.
        drop((hashed, to_hash));
        let mut walk = Walk {
            shape: sha2::Sha256::new(),
            links: HashMap::new(),
            contents: Contents::default(),
            files,
            digests,
        };
        walk.all(&directory).map_err(failed)?;
        walk.finish().map_err(failed)
    })
}

/// A file to hash, by its number.
struct Job {
    number: u64,
    file: OwnedFd,
}

type Hashed = (u64, io::Result<[u8; 32]>);

fn work(to_hash: &Mutex<mpsc::Receiver<Job>>, hashed: &mpsc::Sender<Hashed>) {
    let mut buffer = vec![0; READ];
    loop {
        let next = to_hash.lock().unwrap_or_else(|e| e.into_inner()).recv();
        let Ok(job) = next else { return };
        let digest = hash(File::from(job.file), &mut buffer);
        if hashed.send((job.number, digest)).is_err() {
            return;
        }
    }
}

fn hash(mut file: File, buffer: &mut [u8]) -> io::Result<[u8; 32]> {
    let mut hash = sha2::Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Digests of contents, folded in the order of their numbers.
#[derive(Default)]
struct Contents {
    hash: sha2::Sha256,
    asked: u64,
    folded: u64,
    early: BTreeMap<u64, [u8; 32]>,
}

impl Contents {
    fn take(&mut self, (number, digest): Hashed) -> Result<(), Errno> {
        let digest = digest.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        self.early.insert(number, digest);
        while let Some(digest) = self.early.remove(&self.folded) {
            self.hash.update(digest);
            self.folded += 1;
        }
        Ok(())
    }
}

struct Walk {
    /// Everything but contents, in the order of the walk.
    shape: sha2::Sha256,
    /// Where a file with several names was met first.
    links: HashMap<(u64, u64), u64>,
    contents: Contents,
    files: mpsc::SyncSender<Job>,
    digests: mpsc::Receiver<Hashed>,
}

impl Walk {
    fn all(&mut self, top: &OwnedFd) -> Result<(), Errno> {
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            let dir = below(top, &path)?;
            self.field(&path);
            let mut names = root::list(&dir)?;
            names.sort_unstable();
            let mut inside = Vec::new();
            for name in names {
                if self.one(&dir, &name)? {
                    inside.push(match path.is_empty() {
                        true => name,
                        false => [&path, &b"/"[..], &name].concat(),
                    });
                }
            }
            // The last is popped first.
            todo.extend(inside.into_iter().rev());
        }
        Ok(())
    }

    /// Takes in one name; whether it is a directory.
    fn one(&mut self, dir: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
        let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        self.field(name);
        self.number(u64::from(found.st_mode));
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                self.attributes(&open(dir, name, flags)?)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(dir, name, Vec::new())?;
                self.field(target.as_bytes());
            }
            FileType::RegularFile => self.file(dir, name, &found)?,
            _ => self.number(found.st_rdev),
        }
        Ok(kind == FileType::Directory)
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], found: &Stat) -> Result<(), Errno> {
        if found.st_nlink > 1 {
            let inode = (found.st_dev, found.st_ino);
            let next = self.contents.asked;
            let first = *self.links.entry(inode).or_insert(next);
            self.number(first);
            if first != next {
                return Ok(());
            }
        }
        self.number(u64::try_from(found.st_size).unwrap_or_default());
        self.number(found.st_mtime.cast_unsigned());
        self.number(found.st_mtime_nsec);
        let file = readable(dir, name, found)?;
        self.attributes(&file)?;
        let number = self.contents.asked;
        self.contents.asked += 1;
        let job = Job { number, file };
        self.files.send(job).map_err(|_| Errno::IO)?;
        while let Ok(hashed) = self.digests.try_recv() {
            self.contents.take(hashed)?;
        }
        Ok(())
    }

    /// Takes in `user.*`, the only attributes that a plain directory is given.
    fn attributes(&mut self, of: &OwnedFd) -> Result<(), Errno> {
        let mut names = vec![0; 64 << 10];
        let length = match rustix::fs::flistxattr(of, names.as_mut_slice()) {
            Err(Errno::NOTSUP) => 0,
            listed => listed?,
        };
        let names = names[..length].split(|byte| *byte == 0);
        let mut names: Vec<&[u8]> = names.filter(|name| name.starts_with(b"user.")).collect();
        names.sort_unstable();
        self.number(names.len() as u64);
        let mut value = vec![0; 64 << 10];
        for name in names {
            let length = rustix::fs::fgetxattr(of, name, value.as_mut_slice())?;
            self.field(name);
            self.field(&value[..length]);
        }
        Ok(())
    }

    fn field(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.shape.update(bytes);
    }

    fn number(&mut self, number: u64) {
        self.shape.update(number.to_be_bytes());
    }

    fn finish(mut self) -> Result<Sha256, Errno> {
        drop(self.files);
        while self.contents.folded < self.contents.asked {
            let hashed = self.digests.recv().map_err(|_| Errno::IO)?;
            self.contents.take(hashed)?;
        }
        let whole = self.shape.chain_update(self.contents.hash.finalize());
        Ok(Sha256(whole.finalize().into()))
    }
}

/// Opens a file, also one whose own mode keeps its owner from reading it.
fn readable(dir: &OwnedFd, name: &[u8], found: &Stat) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    match open(dir, name, flags) {
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
            rustix::fs::chmodat(dir, name, mode | Mode::RUSR, AtFlags::empty())?;
            let file = open(dir, name, flags)?;
            rustix::fs::fchmod(&file, mode)?;
            Ok(file)
        }
        opened => opened,
    }
}

fn open(dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn tree() -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        for number in 0..40 {
            let content = vec![number; 1000 * usize::from(number)];
            fs::write(at(&format!("a/{number}")), content).unwrap();
        }
        fs::write(at("a/b/file"), "words").unwrap();
        fs::hard_link(at("a/b/file"), at("linked")).unwrap();
        symlink("/etc", at("a/b/out")).unwrap();
        top
    }

    #[test]
    fn it_is_the_same_until_anything_is_changed_and_again_when_it_is_changed_back() {
        let top = tree();
        let at = |name: &str| top.path().join(name);
        let whole = fingerprint(top.path()).unwrap();
        assert_eq!(fingerprint(top.path()).unwrap(), whole);

        let file = at("a/7");
        let before = fs::read(&file).unwrap();
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        let write = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            let open = fs::File::options().write(true).open(&file).unwrap();
            open.set_modified(modified).unwrap();
        };
        let mut flipped = before.clone();
        flipped[5000] ^= 1;
        write(&flipped);
        assert_ne!(fingerprint(top.path()).unwrap(), whole, "a bit");
        write(&before);
        assert_eq!(fingerprint(top.path()).unwrap(), whole);

        fs::rename(at("a/8"), at("a/x")).unwrap();
        assert_ne!(fingerprint(top.path()).unwrap(), whole, "a name");
        fs::rename(at("a/x"), at("a/8")).unwrap();

        let mode = fs::metadata(&file).unwrap().permissions();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
        let closed = fingerprint(top.path()).unwrap();
        assert_ne!(closed, whole, "a mode");
        assert_eq!(fingerprint(top.path()).unwrap(), closed);
        fs::set_permissions(&file, mode).unwrap();

        fs::remove_file(at("a/b/out")).unwrap();
        symlink("/usr", at("a/b/out")).unwrap();
        assert_ne!(fingerprint(top.path()).unwrap(), whole, "a link");
        fs::remove_file(at("a/b/out")).unwrap();
        symlink("/etc", at("a/b/out")).unwrap();

        let linked = at("linked");
        let modified = fs::metadata(&linked).unwrap().modified().unwrap();
        fs::remove_file(&linked).unwrap();
        fs::write(&linked, "words").unwrap();
        let copy = fs::File::options().write(true).open(&linked).unwrap();
        copy.set_modified(modified).unwrap();
        assert_ne!(fingerprint(top.path()).unwrap(), whole, "a copy of its own");
        fs::remove_file(&linked).unwrap();
        fs::hard_link(at("a/b/file"), &linked).unwrap();
        fs::create_dir(at("a/empty")).unwrap();
        assert_ne!(fingerprint(top.path()).unwrap(), whole, "a directory");
        fs::remove_dir(at("a/empty")).unwrap();
        assert_eq!(fingerprint(top.path()).unwrap(), whole);
    }

    #[test]
    fn an_empty_directory_has_one_and_none_is_an_error() {
        let top = tempfile::tempdir().unwrap();
        fingerprint(top.path()).unwrap();
        let error = fingerprint(&top.path().join("gone")).unwrap_err();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
