//! The small writable cache of one consumer: directories, and links into a read-only tree.
//!
//! ```text
//! <at>/hub/models--org--name/blobs/<etag>               -> <tree_inside>/hub/models--…/blobs/<etag>
//! <at>/hub/models--org--name/snapshots/<commit>/<path>  -> ../../blobs/<etag>
//! <at>/hub/models--org--name/{refs,trees,.no_exist}     files of its own
//! <at>/hub/.locks/models--org--name/
//! ```
//!
//! Every client version takes this for its own cache, online and offline, complete and partial: it
//! can write its locks and refs, and downloads into it what is missing. Only `hub` belongs to the
//! consumer, `at` stays the agent's. The consumer may do with `hub` what it likes, at any moment:
//! nothing here follows a link, overwrites a blob or a ref of the consumer's, or leaves the
//! directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headstart_core::digest::Expected;
use headstart_core::model::Revision;

use crate::dir::{Dir, Entry, Perms};
use crate::layout::{FileError, LayoutError, Tree, directory_as, listing, pointer, put_at};
use crate::plan::{ModelPlan, PlannedFile};

/// Modes of what is the agent's.
const OURS: Perms = Perms {
    dir: 0o755,
    file: 0o644,
    owner: None,
};

/// A view to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewSpec {
    /// Where the consumer sees the tree's root, the directory that holds `hub`: absolute, or seen
    /// from the view's `hub/models--org--name/blobs`, where the links to it are.
    pub tree_inside: PathBuf,
    /// Where the view is made, as seen here. Its parent exists.
    pub at: PathBuf,
    /// Who may write in it.
    pub owner: Owner,
    /// What its `trees` file lists.
    pub listing: Listing,
}

/// Who may write in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Anybody who reaches it: directories are 0777. For a view only one pod sees, whose
    /// containers run under ids nobody knows.
    Anyone,
    /// One user and one group; directories are 02775, so that the group stays.
    User {
        /// User id.
        uid: u32,
        /// Group id: a pod's `fsGroup`.
        gid: u32,
    },
}

/// What the `trees` file of a view lists. Clients from 1.23 on take it for the whole repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Every file of the plan: an online client downloads what is missing, exactly that; an
    /// offline `snapshot_download` fails loudly while something is missing.
    Planned,
    /// The files that are there: `snapshot_download` never asks for more.
    Cached,
}

/// The view at one place.
#[derive(Clone, Debug)]
pub struct View {
    spec: ViewSpec,
}

impl View {
    /// The view that `spec` describes, made or not.
    pub fn of(spec: ViewSpec) -> Self {
        Self { spec }
    }

    /// What `HF_HUB_CACHE` must be, as seen here. The consumer sees it below its own mount.
    pub fn hub(&self) -> PathBuf {
        self.spec.at.join("hub")
    }

    /// Makes the view if there is none, without a model: an empty cache, which its consumer fills.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(&self) -> Result<(), LayoutError> {
        let at = Dir::open_or_make(&self.spec.at, OURS)?;
        at.make("hub", self.perms())?;
        Ok(())
    }

    /// Makes the view, or brings it up to date with what the tree now shows. What the consumer
    /// downloaded or moved stays. Can be repeated after a crash.
    ///
    /// # Errors
    /// When the file system refuses, or the consumer put something else where a directory must be.
    pub fn refresh(&self, plan: &ModelPlan, tree: &Tree) -> Result<(), LayoutError> {
        let present = tree.blobs_present(plan)?;
        let perms = self.perms();
        let at = Dir::open_or_make(&self.spec.at, OURS)?;
        let staging = at.make("staging", Perms { dir: 0o700, ..OURS })?;
        staging.empty()?;
        let hub = at.make("hub", perms)?;
        let name = plan.repo.cache_dir();
        hub.make(&format!(".locks/{name}"), perms)?;
        let repo = hub.make(&name, perms)?;
        self.place(plan, &present, &repo, &staging)?;
        staging.empty()?;
        at.rmdir("staging")?;
        Ok(())
    }

    /// Removes the view with everything in it. The consumer must be gone. Enters no mount: one
    /// left inside makes it fail.
    ///
    /// # Errors
    /// When the file system refuses; then it can be called again.
    pub fn remove(&self) -> Result<(), LayoutError> {
        let at = match Dir::open(&self.spec.at) {
            Ok(at) => at,
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let staging = at.make("staging", Perms { dir: 0o700, ..OURS })?;
        if at.entry("hub")? != Entry::Absent {
            at.rename("hub", &staging, "hub")?;
        }
        staging.empty()?;
        at.rmdir("staging")?;
        let (operation, path) = ("remove directory", self.spec.at.clone());
        drop((at, staging));
        match std::fs::remove_dir(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FileError {
                operation,
                path,
                source,
            }
            .into()),
            _ => Ok(()),
        }
    }

    fn perms(&self) -> Perms {
        match self.spec.owner {
            Owner::Anyone => Perms {
                dir: 0o777,
                file: 0o666,
                owner: None,
            },
            Owner::User { uid, gid } => Perms {
                dir: 0o2775,
                file: 0o664,
                owner: Some((uid, gid)),
            },
        }
    }

    /// Blobs, pointers, absences, trees, refs: a client that looks meanwhile sees a smaller cache.
    fn place(
        &self,
        plan: &ModelPlan,
        present: &BTreeSet<Expected>,
        repo: &Dir,
        staging: &Dir,
    ) -> Result<(), FileError> {
        let perms = self.perms();
        let commit = plan.commit.to_string();
        let there: Vec<&PlannedFile> = plan
            .files
            .iter()
            .filter(|file| present.contains(&file.expected))
            .collect();
        let blobs = repo.make("blobs", perms)?;
        let store = self
            .spec
            .tree_inside
            .join("hub")
            .join(plan.repo.cache_dir())
            .join("blobs");
        let snapshot = repo.make(&format!("snapshots/{commit}"), perms)?;
        let mut parents: BTreeMap<&str, Dir> = BTreeMap::new();
        for file in &there {
            let etag = file.etag();
            if blobs.link_new(&etag, &store.join(&etag))? {
                blobs.own_link(&etag, perms)?;
            }
            let parent = file.path.parent().unwrap_or_default();
            if !parents.contains_key(parent) {
                parents.insert(parent, directory_as(&snapshot, parent, perms)?);
            }
            let (dir, name) = (&parents[parent], file.path.file_name());
            if dir.link_new(name, &pointer(file))? {
                dir.own_link(name, perms)?;
            }
        }
        let no_exist = repo.make(&format!(".no_exist/{commit}"), perms)?;
        for path in &plan.absent {
            put_at(&no_exist, path, b"", staging, perms)?;
        }
        if there.is_empty() {
            // A listing or a ref would tell clients that an empty model is the whole model.
            return Ok(());
        }
        let listed = match self.spec.listing {
            Listing::Planned => listing(&plan.files),
            Listing::Cached => listing(there.iter().copied()),
        };
        repo.make("trees", perms)?
            .put(&format!("{commit}.json"), &listed, staging, perms)?;
        if let Revision::Name(name) = &plan.revision {
            let (parent, name) = match name.rsplit_once('/') {
                Some((parent, name)) => (format!("refs/{parent}"), name),
                None => ("refs".to_owned(), name.as_str()),
            };
            let refs = repo.make(&parent, perms)?;
            // An online client may have moved the branch on: its word is newer.
            if refs.entry(name)? == Entry::Absent {
                refs.put(name, commit.as_bytes(), staging, perms)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
