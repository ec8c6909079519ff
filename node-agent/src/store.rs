//! The store: what has been fetched, on local NVMe or wherever the root is.
//!
//! ```text
//! <root>/store.json                 what this directory is, and its format
//! <root>/lock                       held by the one agent that writes
//! <root>/objects/sha256/ab/<hex>    verified bytes by digest, 0444
//! <root>/objects/gitsha1/ab/<hex>   likewise, small files that the Hub names by git blob id
//! <root>/partial/                   bytes on their way, with their journals
//! <root>/plans/<id>.json            which files make up a model revision
//! <root>/uses/<id>.json             when it was last used, and its pin
//! <root>/models/<id>/hub/…          its tree in the Hugging Face cache layout, hardlinks
//! <root>/views/                     writable views of consumers
//! <root>/images/                    images, on hosts without containerd
//! <root>/agent/                     what the long-running agent remembers, and its socket
//! ```
//!
//! - A name under `objects` is only ever the digest of what it names; it appears by rename after
//!   the bytes were verified and made durable.
//! - A verified object carries a seal in its modification time. One whose seal is broken
//!   is unknown: it is hashed again before it is used.
//! - Only the holder of the lock writes, but for notes of uses: whoever shows a model makes one.
//!   Reading needs no lock.
//! - Nothing is written unless the root is what it was said to be: ours, private, and mounted if a
//!   mount was asked for.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_core::digest::Expected;
use headstart_core::quantity::Bytes;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub use self::disk::{LocalDisk, local_disk};
pub use self::images::{Image, ImageNote};
pub(crate) use self::inventory::read_json;
pub use self::inventory::{Inventory, Item, Plan, PlanFile, Removed, State, Uses};
pub use self::seal::{Sealed, is_sealed};
use self::space::{Claims, MakingRoom};
pub use self::space::{Holding, Need, Reservation};

mod disk;
mod images;
mod inventory;
mod seal;
mod space;

/// Format of the directory layout above.
const FORMAT: u32 = 1;

/// How much of a disk the store leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Most bytes the store itself may hold; none for no limit but the disk.
    pub max_bytes: Option<Bytes>,
    /// Percent of the file system that stays free. The kubelet evicts pods at 10 % (nodefs) and
    /// 15 % (imagefs) and collects images at 85 % full, so less than 15 is for disks it does not
    /// watch.
    pub keep_free_percent: u8,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            max_bytes: None,
            keep_free_percent: 16,
        }
    }
}

/// What the root has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootRule {
    /// Any directory.
    Directory,
    /// At or below this mount point; never written while the mount is missing.
    Mounted(PathBuf),
}

/// A store, open for reading; [`Store::lock`] makes it writable.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    quota: Quota,
    claims: Arc<Claims>,
    making_room: Arc<MakingRoom>,
}

/// The right to write, held until dropped.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The mount is missing.
    #[error(
        "{} is not a mount point: mount the disk there, or drop --require-mount", mount.display()
    )]
    NotMounted {
        /// The mount point that is none.
        mount: PathBuf,
    },
    /// The mount asked for is not above the root.
    #[error(
        "{} is not at or below {}: choose a --root on that mount", root.display(), mount.display()
    )]
    ElsewhereMounted {
        /// The root.
        root: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// Somebody else's directory.
    #[error(
        "{} belongs to uid {owner}, not to uid {me}: choose another --root, or run as its owner",
        root.display()
    )]
    ForeignOwner {
        /// The root.
        root: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who asks.
        me: u32,
    },
    /// Others may write into it.
    #[error(
        "{} has mode {mode:03o}, so others could write into it: run `chmod 700` on it if it is a store",
        root.display()
    )]
    Open {
        /// The root.
        root: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory with something else in it.
    #[error("{} is not empty and is no store: choose another --root", root.display())]
    Foreign {
        /// The root.
        root: PathBuf,
    },
    /// No store there yet.
    #[error("{} holds no store: nothing was fetched to it yet", root.display())]
    Absent {
        /// The root.
        root: PathBuf,
    },
    /// A format this program does not know.
    #[error(
        "{} has store format {found}, this program knows {FORMAT}: use the agent that wrote it, or another --root",
        root.display()
    )]
    Format {
        /// The root.
        root: PathBuf,
        /// The format found.
        found: String,
    },
    /// Another agent writes to it.
    #[error("another agent (process {holder}) writes to {}: wait for it to end", root.display())]
    Locked {
        /// The root.
        root: PathBuf,
        /// Its process id, as far as known.
        holder: String,
    },
    /// Not enough room.
    #[error(
        "no room for {}: {} may be used of {}, and {} could be evicted: free space there, raise --quota where one is set, or choose a larger disk with --root",
        Bytes(*need), Bytes(*usable), root.display(), Bytes(*evictable)
    )]
    Full {
        /// The root.
        root: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes that may be used without crossing the quota or the free space to keep.
        usable: u64,
        /// Bytes that eviction could free.
        evictable: u64,
    },
    /// The file system.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

impl StoreError {
    pub(crate) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            operation,
            path,
            source,
        }
    }
}

impl RootRule {
    fn check(&self, root: &Path) -> Result<(), StoreError> {
        let Self::Mounted(mount) = self else {
            return Ok(());
        };
        if !root.starts_with(mount) {
            return Err(StoreError::ElsewhereMounted {
                root: root.to_owned(),
                mount: mount.clone(),
            });
        }
        let device = |path: &Path| {
            let found = fs::metadata(path).map_err(StoreError::io("open", path))?;
            Ok::<_, StoreError>(found.dev())
        };
        match device(mount)? == device(&mount.join(".."))? {
            true => Err(StoreError::NotMounted {
                mount: mount.clone(),
            }),
            false => Ok(()),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    headstart_store: u32,
}

impl Store {
    /// Opens the store at `root`, which must exist.
    pub fn open(root: &Path, rule: &RootRule, quota: Quota) -> Result<Self, StoreError> {
        let store = Self {
            root: root.to_owned(),
            quota,
            claims: Arc::default(),
            making_room: Arc::default(),
        };
        rule.check(root)?;
        if !root.is_dir() {
            return Err(StoreError::Absent {
                root: root.to_owned(),
            });
        }
        store.check_root()?;
        match store.marker()? {
            true => Ok(store),
            false => Err(StoreError::Absent {
                root: root.to_owned(),
            }),
        }
    }

    /// Opens the store at `root`, made if there is none, and takes its lock.
    pub fn open_or_make(
        root: &Path,
        rule: &RootRule,
        quota: Quota,
    ) -> Result<(Self, Lock), StoreError> {
        let store = Self {
            root: root.to_owned(),
            quota,
            claims: Arc::default(),
            making_room: Arc::default(),
        };
        rule.check(root)?;
        make_dir(root)?;
        store.check_root()?;
        if !store.marker()? {
            store.require_empty()?;
            // A disk fresh from mkfs belongs to root with mode 0755.
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(root, private).map_err(StoreError::io("make private", root))?;
        }
        for directory in [
            "objects",
            "objects/sha256",
            "objects/gitsha1",
            "partial",
            "plans",
            "uses",
            "models",
            "views",
            "images",
        ] {
            make_dir(&root.join(directory))?;
        }
        let lock = store.lock()?;
        store.begin()?;
        Ok((store, lock))
    }

    /// Makes it fit to be written, under its lock: the marker is there, and what a killed agent left
    /// is not.
    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        if !self.marker()? {
            let marker = Marker {
                headstart_store: FORMAT,
            };
            let path = self.marker_path();
            write_json_by(&path.with_extension("tmp"), &path, &marker)?;
        }
        self.sweep()
    }

    /// Takes the right to write.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.root.join("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.map_err(StoreError::io("open", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                let note = file.set_len(0).and_then(|()| {
                    io::Write::write_all(&mut &*file, std::process::id().to_string().as_bytes())
                });
                note.map_err(StoreError::io("write", &path))?;
                Ok(Lock { _file: file })
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(StoreError::Locked {
                root: self.root.clone(),
                holder: fs::read_to_string(&path).unwrap_or_default(),
            }),
            Err((_, errno)) => Err(StoreError::io("lock", &path)(errno.into())),
        }
    }

    /// What it leaves alone of the disk.
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The directory it is in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the object of that digest is, whether it is there or not.
    pub fn object(&self, expected: &Expected) -> PathBuf {
        let (kind, hex) = match expected {
            Expected::Sha256(digest) => ("sha256", digest.to_string()),
            Expected::GitSha1(digest) => ("gitsha1", digest.to_string()),
        };
        self.root
            .join("objects")
            .join(kind)
            .join(&hex[..2])
            .join(hex)
    }

    /// Where its bytes are collected.
    pub fn partial(&self, expected: &Expected) -> PathBuf {
        let hex = match expected {
            Expected::Sha256(digest) => digest.to_string(),
            Expected::GitSha1(digest) => digest.to_string(),
        };
        self.root.join("partial").join(hex).with_extension("part")
    }

    /// A directory for what other programs write on its behalf; swept at the next start.
    pub fn scratch(&self) -> Result<PathBuf, StoreError> {
        let scratch = self.root.join("partial/scratch");
        make_dir(&scratch)?;
        Ok(scratch)
    }

    /// Makes an object of a verified, durable file on the same file system.
    pub fn take_in(&self, path: &Path, expected: &Expected) -> Result<(), StoreError> {
        self.make_object_dir(expected)?;
        let object = self.object(expected);
        fs::rename(path, &object).map_err(StoreError::io("publish", &object))?;
        self.seal(expected)
    }

    /// Makes the directory that [`Store::object`] is in.
    pub fn make_object_dir(&self, expected: &Expected) -> Result<(), StoreError> {
        let path = self.object(expected);
        make_dir(path.parent().unwrap_or(&self.root))
    }

    /// Where a plan is described.
    pub fn plan(&self, id: &str) -> PathBuf {
        self.root.join("plans").join(id).with_extension("json")
    }

    /// Where the uses of a plan are noted.
    pub fn uses(&self, id: &str) -> PathBuf {
        self.root.join("uses").join(id).with_extension("json")
    }

    /// Where its tree is.
    pub fn model(&self, id: &str) -> PathBuf {
        self.root.join("models").join(id)
    }

    fn marker_path(&self) -> PathBuf {
        self.root.join("store.json")
    }

    /// Whether the marker of a store that can be used is there.
    fn marker(&self) -> Result<bool, StoreError> {
        let path = self.marker_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StoreError::io("read", &path)(error)),
        };
        match serde_json::from_str::<Marker>(&text) {
            Ok(marker) if marker.headstart_store == FORMAT => Ok(true),
            Ok(marker) => Err(self.format(marker.headstart_store.to_string())),
            Err(_) => Err(self.format("unreadable".to_owned())),
        }
    }

    fn format(&self, found: String) -> StoreError {
        StoreError::Format {
            root: self.root.clone(),
            found,
        }
    }

    fn check_root(&self) -> Result<(), StoreError> {
        let root = &self.root;
        let found = fs::metadata(root).map_err(StoreError::io("open", root))?;
        let me = nix::unistd::geteuid().as_raw();
        if found.uid() != me {
            return Err(StoreError::ForeignOwner {
                root: root.clone(),
                owner: found.uid(),
                me,
            });
        }
        if found.mode() & 0o022 != 0 {
            return Err(StoreError::Open {
                root: root.clone(),
                mode: found.mode() & 0o777,
            });
        }
        Ok(())
    }

    fn require_empty(&self) -> Result<(), StoreError> {
        let entries = fs::read_dir(&self.root).map_err(StoreError::io("list", &self.root))?;
        // A kill between the directories and the marker leaves only names of ours; a fresh file
        // system holds lost+found.
        let ours = [
            "objects",
            "partial",
            "plans",
            "uses",
            "models",
            "views",
            "images",
            "agent",
            "lock",
            "store.tmp",
            "lost+found",
        ];
        for entry in entries {
            let entry = entry.map_err(StoreError::io("list", &self.root))?;
            let known = ours.iter().any(|name| entry.file_name() == *name);
            // Before the marker there is nothing in any of them; somebody else's may be full.
            let empty = entry.file_name() == "lost+found" || !holds_files(&entry.path());
            if !known || !empty {
                return Err(StoreError::Foreign {
                    root: self.root.clone(),
                });
            }
        }
        Ok(())
    }

    /// Removes what a killed agent left that nobody can go on with.
    fn sweep(&self) -> Result<(), StoreError> {
        let partial = self.root.join("partial");
        for entry in fs::read_dir(&partial).map_err(StoreError::io("list", &partial))? {
            let path = entry.map_err(StoreError::io("list", &partial))?.path();
            let (part, journal) = (path.with_extension("part"), path.with_extension("journal"));
            let is_one = path == part || path == journal;
            if !(is_one && part.is_file() && journal.is_file()) {
                remove(&path)?;
            }
        }
        // An image without its note was being removed.
        for path in inventory::listed(&self.root.join("images"))? {
            if !path.join("image.json").is_file() {
                remove(&path)?;
            }
        }
        remove(&self.marker_path().with_extension("tmp"))?;
        for directory in ["plans", "uses"] {
            let directory = self.root.join(directory);
            for entry in fs::read_dir(&directory).map_err(StoreError::io("list", &directory))? {
                let path = entry.map_err(StoreError::io("list", &directory))?.path();
                if path.extension().is_some_and(|extension| extension == "tmp") {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether there is anything but directories below a directory.
fn holds_files(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        !is_dir || holds_files(&entry.path())
    })
}

/// Makes a private directory, and those above it as they come.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(StoreError::io("make", path))
}

/// Removes a file or a tree; that it is gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    let removed = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(StoreError::io("remove", path)),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        // A published tree is read-only, to its owner as well unless that is root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn make_writable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Writes a small file so that it is either there whole or not at all, durably. Two threads, also of
/// different processes, may write the same one at once: each has a temporary name of its own.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let (process, thread) = (std::process::id(), std::thread::current().id());
    let own = format!("{process}-{thread:?}.tmp");
    write_json_by(&path.with_extension(own), path, value)
}

/// The same by a temporary file of that name.
fn write_json_by(temporary: &Path, path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let text = serde_json::to_vec_pretty(value).expect("plain data serializes");
    let write = || {
        let mut file = File::create(temporary)?;
        io::Write::write_all(&mut file, &text)?;
        file.sync_all()?;
        fs::rename(temporary, path)
    };
    write().map_err(StoreError::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(StoreError::io("sync", path))
}

#[cfg(test)]
mod tests;
