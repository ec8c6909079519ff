//! One model revision on disk, in the exact layout of the Hugging Face cache.
//!
//! ```text
//! <root>/CACHEDIR.TAG                                       in `hub`, older clients complain about it
//! <root>/hub/.locks/models--org--name/
//! <root>/hub/models--org--name/blobs/<etag>                 hardlink to the object
//! <root>/hub/models--org--name/snapshots/<commit>/<path>    -> ../../blobs/<etag>
//! <root>/hub/models--org--name/.no_exist/<commit>/<path>    empty
//! <root>/hub/models--org--name/trees/<commit>.json
//! <root>/hub/models--org--name/refs/<revision>              40 hex digits, no newline
//! <root>/staging/                                           while something is being made
//! ```
//!
//! Invariants, whenever the process stops:
//! - a pointer in `snapshots` leads to a blob that was an object, so a verified file;
//! - `trees` lists no file that is not there, and `refs` names no commit without a snapshot:
//!   blobs come first, then snapshots, trees and refs; what is taken away goes in reverse;
//! - every file appears under its name complete (hardlink or rename), its directory synced.
//!
//! One process writes a root at a time; readers need no lock. Directories are 0555 and files 0444
//! once published. Source of the layout: hub-docs `local-cache.md` and huggingface_hub 2.4.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use headstart_core::digest::Expected;
use headstart_core::model::{RepoPath, Revision};

pub use crate::dir::FileError;
use crate::dir::{Dir, Entry, Perms};
use crate::plan::{ModelPlan, PlannedFile};

pub use self::check::{Fault, Finding, Go, Inventory, State};

mod check;

/// How the tree's own files and directories look while they are made.
const MAKING: Perms = Perms {
    dir: 0o755,
    file: 0o444,
    owner: None,
};

/// Mode of a directory once published.
const PUBLISHED_DIR: u32 = 0o555;

/// Mode of an object.
const OBJECT: u32 = 0o444;

/// Marks a directory as a cache, for backup programs (bford.info/cachedir).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This file is a cache directory tag for Hugging Face models kept by Headstart.\n\
    # For information about cache directory tags see https://bford.info/cachedir/\n";

/// Why a tree could not be published, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file operation.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store's objects lie on another file system than its trees.
    #[error("{} and {} are on different file systems: keep objects and trees on one", object.display(), root.display())]
    OtherFileSystem {
        /// An object.
        object: PathBuf,
        /// The tree's root.
        root: PathBuf,
    },
    /// An object that is not the file its name says.
    #[error("object {} for {path} is {found}, expected a file of {size} bytes: verify the store", object.display())]
    WrongObject {
        /// The object.
        object: PathBuf,
        /// Which file of the model it was to be.
        path: RepoPath,
        /// What it is.
        found: String,
        /// The size planned, in bytes.
        size: u64,
    },
    /// Something of somebody else's where the tree needs a directory or a file.
    #[error("{} is {found}: remove it", path.display())]
    Foreign {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
}

/// What is published of a plan.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// Every file.
    Complete,
    /// All but these.
    Partial {
        /// Files without an object, sorted.
        missing: Vec<RepoPath>,
    },
}

/// The tree of one model revision below one root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree at `root`, a directory of its own whose parent exists.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory given: what a consumer gets mounted, read-only.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `HF_HUB_CACHE` must be to read the tree itself.
    pub fn hub(&self) -> PathBuf {
        self.root.join("hub")
    }

    /// Makes the tree show every file of `plan` that is an object: the first time, again after
    /// a crash, again when more objects have come. `object` tells where the object of a digest
    /// is; files already in the tree need it no more, but an object that is another file than theirs
    /// takes their place, since it came after them and is verified.
    ///
    /// # Errors
    /// When the file system refuses, or an object is not what it should be. What was visible
    /// stays visible.
    pub fn publish(
        &self,
        plan: &ModelPlan,
        object: &dyn Fn(&Expected) -> PathBuf,
    ) -> Result<Published, LayoutError> {
        let parts = Parts::make(&self.root, plan)?;
        let present = parts.link_blobs(plan, object)?;
        let (there, missing): (Vec<&PlannedFile>, Vec<&PlannedFile>) = plan
            .files
            .iter()
            .partition(|file| present.contains(&file.expected));
        if !there.is_empty() {
            parts.show(plan, &there)?;
        }
        parts.finish()?;
        if missing.is_empty() {
            return Ok(Published::Complete);
        }
        let missing = missing.into_iter().map(|file| file.path.clone()).collect();
        Ok(Published::Partial { missing })
    }

    /// Takes files out of the tree, for space or because they are damaged: first from `trees`,
    /// then their pointers, then their blobs. Other paths with the same content go with them.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn withdraw(&self, plan: &ModelPlan, paths: &[RepoPath]) -> Result<(), LayoutError> {
        if self.inspect(plan)?.state() == State::Absent {
            return Ok(());
        }
        let parts = Parts::make(&self.root, plan)?;
        let gone: BTreeSet<Expected> = plan
            .files
            .iter()
            .filter(|file| paths.contains(&file.path))
            .map(|file| file.expected)
            .collect();
        let present = parts.link_blobs(plan, &|_| PathBuf::from("/nonexistent"))?;
        let stays = |file: &&PlannedFile| {
            present.contains(&file.expected) && !gone.contains(&file.expected)
        };
        let there: Vec<&PlannedFile> = plan.files.iter().filter(stays).collect();
        if there.is_empty() {
            return self.unpublish(plan);
        }
        parts.put_tree(plan, &there)?;
        parts.show(plan, &there)?;
        for file in plan
            .files
            .iter()
            .filter(|file| gone.contains(&file.expected))
        {
            parts.blobs.unlink(&file.etag())?;
        }
        parts.blobs.sync()?;
        parts.finish()
    }

    /// Removes the tree and its root. Objects stay. The caller sees to it that nobody uses it.
    ///
    /// # Errors
    /// When the file system refuses; then it can be called again.
    pub fn unpublish(&self, plan: &ModelPlan) -> Result<(), LayoutError> {
        if !self.root.exists() {
            return Ok(());
        }
        let root = Dir::open(&self.root)?;
        let staging = root.make("staging", MAKING)?;
        if let Some(hub) = root.dir("hub")? {
            if let Some(repo) = hub.dir(&plan.repo.cache_dir())?
                && let Some(refs) = repo.dir("refs")?
            {
                // No ref first: from here on an offline client finds no model rather than half.
                repo.mode(0o755)?;
                refs.mode(0o755)?;
                drop(refs);
                repo.rename("refs", &staging, "refs")?;
                repo.sync()?;
            }
            hub.mode(0o755)?;
            drop(hub);
            root.rename("hub", &staging, "hub")?;
            root.sync()?;
        }
        root.unlink("CACHEDIR.TAG")?;
        staging.empty()?;
        root.rmdir("staging")?;
        drop((root, staging));
        match std::fs::remove_dir(&self.root) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let (operation, path) = ("remove directory", self.root.clone());
                Err(FileError {
                    operation,
                    path,
                    source,
                }
                .into())
            }
            _ => Ok(()),
        }
    }
}

/// The directories of a tree that is being written.
struct Parts {
    root: Dir,
    hub: Dir,
    repo: Dir,
    blobs: Dir,
    staging: Dir,
}

impl Parts {
    fn make(root: &Path, plan: &ModelPlan) -> Result<Self, LayoutError> {
        let root = Dir::open_or_make(root, MAKING)?;
        let staging = root.make("staging", MAKING)?;
        staging.empty()?;
        root.put("CACHEDIR.TAG", CACHEDIR_TAG.as_bytes(), &staging, MAKING)?;
        let hub = root.make("hub", MAKING)?;
        thaw(&hub)?;
        let name = plan.repo.cache_dir();
        hub.make(&format!(".locks/{name}"), MAKING)?;
        let repo = hub.make(&name, MAKING)?;
        let blobs = repo.make("blobs", MAKING)?;
        Ok(Self {
            root,
            hub,
            repo,
            blobs,
            staging,
        })
    }

    /// Links every object that exists, and says what is there.
    fn link_blobs(
        &self,
        plan: &ModelPlan,
        object: &dyn Fn(&Expected) -> PathBuf,
    ) -> Result<BTreeSet<Expected>, LayoutError> {
        let mut present = BTreeSet::new();
        let mut linked = false;
        for file in &plan.files {
            if present.contains(&file.expected) {
                continue;
            }
            let etag = file.etag();
            let object = object(&file.expected);
            match self.blobs.entry(&etag)? {
                // An object that has come since stands for a blob that may be damaged: linking
                // puts it in the blob's place, in one step.
                Entry::File(size) if size == file.size && self.is_replaced(file, &object)? => {}
                Entry::File(size) if size == file.size => {
                    present.insert(file.expected);
                    continue;
                }
                Entry::Absent => {}
                // Cut short by a file system that lost a write: the object replaces it.
                Entry::File(_) | Entry::Link(_) => self.blobs.unlink(&etag)?,
                Entry::Directory | Entry::Other => {
                    let path = self.blobs.path().join(&etag);
                    return Err(LayoutError::Foreign {
                        path,
                        found: "not a file",
                    });
                }
            }
            if self.link_object(file, &object)? {
                present.insert(file.expected);
                linked = true;
            }
        }
        if linked {
            self.blobs.sync()?;
        }
        Ok(present)
    }

    /// Whether the object of a file is there, and is not what the tree has of it. One that is not
    /// even of the right kind and size replaces nothing.
    fn is_replaced(&self, file: &PlannedFile, object: &Path) -> Result<bool, LayoutError> {
        let Some(blob) = self.blobs.file(&file.etag())? else {
            return Ok(false);
        };
        let failed = |operation, path: PathBuf| {
            move |source| FileError {
                operation,
                path,
                source,
            }
        };
        let blob = blob
            .metadata()
            .map_err(failed("look at", self.blobs.path().join(file.etag())))?;
        let object = match std::fs::symlink_metadata(object) {
            Ok(object) => object,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed("look at", object.to_owned())(error).into()),
        };
        Ok(object.is_file()
            && object.len() == file.size
            && (object.dev(), object.ino()) != (blob.dev(), blob.ino()))
    }

    /// Links one object, checked in staging before it gets its name.
    fn link_object(&self, file: &PlannedFile, object: &Path) -> Result<bool, LayoutError> {
        let staged = "object";
        self.staging.unlink(staged)?;
        match self.staging.hardlink(object, staged) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) if error.source.kind() == std::io::ErrorKind::CrossesDevices => {
                return Err(LayoutError::OtherFileSystem {
                    object: object.to_owned(),
                    root: self.staging.path().to_owned(),
                });
            }
            Err(error) => return Err(error.into()),
        }
        let entry = self.staging.entry(staged)?;
        if entry != Entry::File(file.size) {
            self.staging.unlink(staged)?;
            let found = match entry {
                Entry::File(size) => format!("a file of {size} bytes"),
                Entry::Link(_) => "a symbolic link".to_owned(),
                _ => "no file".to_owned(),
            };
            let (object, path) = (object.to_owned(), file.path.clone());
            return Err(LayoutError::WrongObject {
                object,
                path,
                found,
                size: file.size,
            });
        }
        if let Some(opened) = self.staging.file(staged)? {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = opened
                .metadata()
                .map(|meta| meta.permissions().mode() & 0o7777);
            if !mode.is_ok_and(|mode| mode == OBJECT) {
                let perms = Perms {
                    file: OBJECT,
                    ..MAKING
                };
                self.staging.own_file(staged, &opened, perms)?;
            }
        }
        self.staging.rename(staged, &self.blobs, &file.etag())?;
        Ok(true)
    }

    /// Makes exactly `there` visible: snapshot, `.no_exist`, trees, refs, in that order.
    fn show(&self, plan: &ModelPlan, there: &[&PlannedFile]) -> Result<(), LayoutError> {
        let commit = plan.commit.to_string();
        let snapshots = self.repo.make("snapshots", MAKING)?;
        match snapshots.dir(&commit)? {
            Some(snapshot) => self.update_snapshot(&snapshot, plan, there)?,
            None => {
                let snapshot = self.staging.make("snapshot", MAKING)?;
                self.update_snapshot(&snapshot, plan, there)?;
                drop(snapshot);
                self.staging.rename("snapshot", &snapshots, &commit)?;
                snapshots.sync()?;
            }
        }
        let no_exist = self.repo.make(&format!(".no_exist/{commit}"), MAKING)?;
        for path in &plan.absent {
            put_at(&no_exist, path, b"", &self.staging, MAKING)?;
        }
        self.put_tree(plan, there)?;
        if let Revision::Name(name) = &plan.revision {
            let refs = self.repo.make("refs", MAKING)?;
            put_below(&refs, name, commit.as_bytes(), &self.staging, MAKING)?;
        }
        Ok(())
    }

    fn put_tree(&self, plan: &ModelPlan, there: &[&PlannedFile]) -> Result<(), LayoutError> {
        let trees = self.repo.make("trees", MAKING)?;
        let name = format!("{}.json", plan.commit);
        let listing = listing(there.iter().copied());
        trees.put(&name, &listing, &self.staging, MAKING)?;
        Ok(())
    }

    /// Brings the pointers of a snapshot to exactly `there`.
    fn update_snapshot(
        &self,
        snapshot: &Dir,
        plan: &ModelPlan,
        there: &[&PlannedFile],
    ) -> Result<(), LayoutError> {
        let mut touched: BTreeMap<&str, Dir> = BTreeMap::new();
        for file in there {
            let parent = file.path.parent().unwrap_or_default();
            if !touched.contains_key(parent) {
                touched.insert(parent, directory(snapshot, parent)?);
            }
            let (dir, name) = (&touched[parent], file.path.file_name());
            let target = pointer(file);
            match dir.entry(name)? {
                Entry::Link(found) if found == target.as_os_str().as_encoded_bytes() => {}
                Entry::Absent => {
                    dir.link_new(name, &target)?;
                }
                Entry::Directory => {
                    let path = dir.path().join(name);
                    return Err(LayoutError::Foreign {
                        path,
                        found: "a directory",
                    });
                }
                _ => {
                    self.staging.unlink("pointer")?;
                    self.staging.link_new("pointer", &target)?;
                    self.staging.rename("pointer", dir, name)?;
                }
            }
        }
        let shown: BTreeSet<&RepoPath> = there.iter().map(|file| &file.path).collect();
        for file in plan.files.iter().filter(|file| !shown.contains(&file.path)) {
            let dir = match file.path.parent() {
                Some(parent) => snapshot.dir(parent)?,
                None => None,
            };
            if dir.is_some() || file.path.parent().is_none() {
                dir.as_ref()
                    .unwrap_or(snapshot)
                    .unlink(file.path.file_name())?;
            }
        }
        for dir in touched.values() {
            dir.sync()?;
        }
        snapshot.sync()?;
        Ok(())
    }

    /// Nothing half-made stays, and nobody writes any more.
    fn finish(&self) -> Result<(), LayoutError> {
        self.staging.empty()?;
        self.root.rmdir("staging")?;
        self.repo.sync()?;
        self.hub.sync()?;
        each_directory(&self.hub, &|dir| dir.mode(PUBLISHED_DIR))
    }
}

/// Makes the directories of a published tree writable for their owner again.
fn thaw(hub: &Dir) -> Result<(), LayoutError> {
    each_directory(hub, &|dir| dir.mode(MAKING.dir))
}

/// Calls `visit` on `dir` and every directory below. Depth is bounded by [`RepoPath`].
fn each_directory(
    dir: &Dir,
    visit: &dyn Fn(&Dir) -> Result<(), FileError>,
) -> Result<(), LayoutError> {
    visit(dir)?;
    for (name, is_dir) in dir.list()? {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if is_dir && let Some(below) = dir.dir(&name)? {
            each_directory(&below, visit)?;
        }
    }
    Ok(())
}

/// The directory `below` of a snapshot, made if need be; the snapshot itself for "".
pub(crate) fn directory(snapshot: &Dir, below: &str) -> Result<Dir, FileError> {
    directory_as(snapshot, below, MAKING)
}

pub(crate) fn directory_as(snapshot: &Dir, below: &str, perms: Perms) -> Result<Dir, FileError> {
    match below {
        "" => snapshot.again(),
        below => snapshot.make(below, perms),
    }
}

/// Puts a file at a path of the repository below `dir`.
pub(crate) fn put_at(
    dir: &Dir,
    path: &RepoPath,
    content: &[u8],
    staging: &Dir,
    perms: Perms,
) -> Result<(), FileError> {
    put_below(dir, path.as_str(), content, staging, perms)
}

/// Puts a file at `below`, whose components are separated by `/`.
pub(crate) fn put_below(
    dir: &Dir,
    below: &str,
    content: &[u8],
    staging: &Dir,
    perms: Perms,
) -> Result<(), FileError> {
    match below.rsplit_once('/') {
        None => dir.put(below, content, staging, perms),
        Some((parent, name)) => dir.make(parent, perms)?.put(name, content, staging, perms),
    }
}

/// Where the pointer of a file leads: its blob, relative to the pointer's own directory.
pub(crate) fn pointer(file: &PlannedFile) -> PathBuf {
    let ups = file.path.components().count() + 1;
    let mut target: PathBuf = std::iter::repeat_n("..", ups).collect();
    target.push("blobs");
    target.push(file.etag());
    target
}

/// `trees/<commit>.json`, format 1, as huggingface_hub 1.23 and later read it.
pub(crate) fn listing<'a>(files: impl IntoIterator<Item = &'a PlannedFile>) -> Vec<u8> {
    #[derive(serde::Serialize)]
    struct Listing {
        format_version: u32,
        files: BTreeMap<String, Listed>,
    }
    #[derive(serde::Serialize)]
    struct Listed {
        size: u64,
        blob_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        lfs_sha256: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lfs_size: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        xet_hash: Option<String>,
    }
    let listed = |file: &PlannedFile| {
        let lfs = match file.expected {
            Expected::Sha256(digest) => Some(digest.to_string()),
            Expected::GitSha1(_) => None,
        };
        let lfs_size = lfs.as_ref().map(|_| file.size);
        let xet_hash = file.xet_hash.map(|hash| hash.to_string());
        let blob_id = file.blob_id.to_string();
        Listed {
            size: file.size,
            blob_id,
            lfs_sha256: lfs,
            lfs_size,
            xet_hash,
        }
    };
    let files = files
        .into_iter()
        .map(|file| (file.path.to_string(), listed(file)))
        .collect();
    serde_json::to_vec(&Listing {
        format_version: 1,
        files,
    })
    .expect("strings and numbers have a JSON form")
}

#[cfg(test)]
pub(crate) mod tests;
