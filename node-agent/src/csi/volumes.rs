//! The volumes of this node: what each pod sees, mounted, remembered, taken away.
//!
//! ```text
//! <store>/views/<volume>/record.json     whose it is, and what it shows
//! <store>/views/<volume>/parts-<id>/     a tree of what was there, where the store's was not whole
//! <store>/views/<volume>/view/hub/       the pod's own cache, writable: mounted at the target
//!     models--org--name/.headstart-<id>  a tree, mounted there read-only
//!     models--org--name/blobs/<etag>     -> ../.headstart-<id>/hub/models--org--name/blobs/<etag>
//! ```
//!
//! - The target is the pod's `HF_HUB_CACHE`, whatever its mount path: links are relative.
//! - A tree is a mount of its own within the pod's, so that nothing the pod may do (write through a
//!   link, change modes, rename) reaches the store, and it holds no model but those asked for.
//! - The view lies on the store's disk, not in memory: what a client downloads into it can be as
//!   large as a model, and memory would be charged to the pod.
//! - A record is written before anything is mounted, and goes after everything else has gone; what
//!   is mounted is known from the kernel alone. So a killed agent leaves nothing unknown.
//! - An existing mount is never touched while it is used: publishing again is a look.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headstart_core::digest::Expected;
use headstart_hub::layout::{LayoutError, Published, Tree};
use headstart_hub::plan::{ModelPlan, PlanId};
use headstart_hub::view::{Listing, Owner, View, ViewSpec};
use serde::{Deserialize, Serialize};

use super::mounts::{Access, Mounts};
use super::request::{Pod, VolumeId};
use crate::report::chain;
use crate::store::{Holding, Sealed, Store, StoreError, is_sealed, make_dir, remove, write_json};

/// Beginning of the names of a volume's own trees.
const PARTS: &str = "parts-";

/// What is remembered of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: VolumeId,
    pub(crate) target: PathBuf,
    pub(crate) pod: Pod,
    /// Seconds since 1970 when it was first asked for.
    pub(crate) asked: u64,
    /// Plans it shows, once it is mounted.
    pub(crate) shown: Option<Vec<String>>,
}

/// A tree to be shown, all of it or what is there.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    /// As the pod asked for it.
    pub(crate) plan: ModelPlan,
    /// The plan whose tree it is, the same files by commit.
    pub(crate) id: PlanId,
    pub(crate) from: From,
}

/// Where a tree comes from.
#[derive(Clone, Debug)]
pub(crate) enum From {
    /// The store's, with all files.
    Whole(Tree),
    /// One of the volume's own, with the files that are there: the store's is still being made.
    Parts,
}

/// Why a volume is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("cannot {operation} {}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot make the pod's cache")]
    View { source: LayoutError },
    #[error(transparent)]
    Store(StoreError),
}

/// The volumes of this node.
pub(crate) struct Volumes {
    store: Arc<Store>,
    mounts: Arc<dyn Mounts>,
    /// Below which pods have their directories.
    kubelet: PathBuf,
    held: Mutex<HashMap<VolumeId, Vec<Holding>>>,
}

impl Volumes {
    pub(crate) fn new(store: Arc<Store>, mounts: Arc<dyn Mounts>, kubelet: PathBuf) -> Self {
        Self {
            store,
            mounts,
            kubelet,
            held: Mutex::default(),
        }
    }

    /// How many are mounted.
    pub(crate) fn count(&self) -> usize {
        self.held().len()
    }

    /// What is remembered of a volume; nothing of one that nobody asked for.
    pub(crate) fn record(&self, id: &VolumeId) -> Option<Record> {
        let text = fs::read(self.directory(id).join("record.json")).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.id == *id).then_some(record)
    }

    /// Whether a volume is mounted, all of it.
    pub(crate) fn is_mounted(&self, id: &VolumeId, target: &Path) -> Result<bool, VolumeError> {
        let record = self.record(id);
        let shown = record.is_some_and(|record| record.shown.is_some() && record.target == target);
        Ok(shown && self.mounted(target)?.iter().any(|point| point == target))
    }

    /// Remembers that a volume was asked for.
    pub(crate) fn note(&self, record: &Record) -> Result<(), VolumeError> {
        let directory = self.directory(&record.id);
        make_dir(&directory).map_err(VolumeError::Store)?;
        write_json(&directory.join("record.json"), record).map_err(VolumeError::Store)
    }

    /// Mounts a volume that shows `shown`; what a killed agent left of it is made anew. `held` keeps
    /// the store's trees from being evicted until it is unmounted. Returns how many are shown.
    pub(crate) fn mount(
        &self,
        mut record: Record,
        shown: &[Shown],
        held: Vec<Holding>,
        access: Access,
    ) -> Result<usize, VolumeError> {
        record.shown = None;
        self.note(&record)?;
        self.take_down(&record.id, &record.target)?;
        let trees = match self.put_up(&record, shown, access) {
            Ok(trees) => trees,
            Err(error) => {
                if let Err(error) = self.take_down(&record.id, &record.target) {
                    tracing::warn!(volume = %record.id, reason = %chain(&error), "half a volume is left");
                }
                return Err(error);
            }
        };
        record.shown = Some(shown.iter().map(|one| one.id.to_string()).collect());
        self.note(&record)?;
        self.held().insert(record.id, held);
        Ok(trees)
    }

    /// Notes that the store's tree of a plan is used now: those used least recently are evicted
    /// first.
    pub(crate) fn note_use(&self, plan: &PlanId) {
        let id = plan.to_string();
        if self.store.plan(&id).exists()
            && let Err(error) = self.store.note_use(&id, None)
        {
            tracing::warn!(plan = %id, reason = %chain(&error), "a use is not noted");
        }
    }

    /// Takes a volume away, with all the pod wrote into it. Can be repeated.
    pub(crate) fn unmount(&self, id: &VolumeId, target: &Path) -> Result<(), VolumeError> {
        if let Some(record) = self.record(id)
            && record.target != target
        {
            self.detach(&record.target)?;
        }
        self.take_down(id, target)?;
        match fs::remove_dir(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove directory", target)(error));
            }
            _ => {}
        }
        self.forget(id)
    }

    /// Forgets a volume of which nothing is mounted.
    pub(crate) fn forget(&self, id: &VolumeId) -> Result<(), VolumeError> {
        let directory = self.directory(id);
        remove(&directory.join("record.json")).map_err(VolumeError::Store)?;
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove directory", &directory)(error));
            }
            _ => {}
        }
        self.held().remove(id);
        Ok(())
    }

    /// Finds the volumes of the agent before this one: those mounted are held again, those of pods
    /// that are gone are removed. What cannot be removed is logged, and tried again the next time.
    pub(crate) fn restore(&self) -> Result<Vec<Record>, VolumeError> {
        let pods = self.kubelet.join("pods").is_dir();
        let mut found = Vec::new();
        for record in self.records()? {
            let (id, target) = (&record.id, &record.target);
            // The kubelet makes the directory above before it asks and removes it afterwards.
            let is_gone = pods && !target.parent().is_some_and(Path::exists);
            if is_gone {
                match self.unmount(id, target) {
                    Ok(()) => {
                        tracing::info!(volume = %id, pod = %record.pod.name, "volume of a pod that is gone removed");
                    }
                    Err(error) => {
                        tracing::warn!(volume = %id, reason = %chain(&error), "volume of a pod that is gone not removed");
                    }
                }
            } else if self.is_mounted(id, target)? && !self.held().contains_key(id) {
                let plans = record.shown.iter().flatten();
                let held = plans.map(|plan| self.store.hold(plan)).collect();
                self.held().insert(id.clone(), held);
                found.push(record);
            }
        }
        Ok(found)
    }

    fn records(&self) -> Result<Vec<Record>, VolumeError> {
        let views = self.views();
        let listed = fs::read_dir(&views).map_err(failed("list", &views))?;
        let mut records = Vec::new();
        for entry in listed {
            let name = entry.map_err(failed("list", &views))?.file_name();
            let id = name.to_str().and_then(|name| name.parse().ok());
            // Other views are those that a person made.
            records.extend(id.and_then(|id| self.record(&id)));
        }
        Ok(records)
    }

    fn put_up(
        &self,
        record: &Record,
        shown: &[Shown],
        access: Access,
    ) -> Result<usize, VolumeError> {
        let target = &record.target;
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(target);
        made.map_err(failed("make directory", target))?;
        let view = self.view(&record.id, PathBuf::new());
        view.open().map_err(|source| VolumeError::View { source })?;
        let mut points = BTreeMap::new();
        for Shown { plan, id, from } in shown {
            let tree = match from {
                From::Whole(tree) => tree.clone(),
                From::Parts => match self.parts(&record.id, plan, id)? {
                    Some(tree) => tree,
                    None => continue,
                },
            };
            let view = self.view(&record.id, Path::new("..").join(mount_point(id)));
            view.refresh(plan, &tree)
                .map_err(|source| VolumeError::View { source })?;
            // Two names of one revision are one tree.
            points.insert(
                Path::new(&plan.repo.cache_dir()).join(mount_point(id)),
                tree,
            );
        }
        for point in points.keys() {
            let point = view.hub().join(point);
            fs::create_dir(&point).map_err(failed("make directory", &point))?;
            let plain = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&point, plain).map_err(failed("change", &point))?;
        }
        let mounted = |from: &Path, at: &Path, access| {
            let bound = self.mounts.bind(from, at, access);
            bound.map_err(failed("mount a directory at", at))
        };
        mounted(&view.hub(), target, access)?;
        for (point, tree) in &points {
            mounted(tree.root(), &target.join(point), Access::Read)?;
        }
        Ok(points.len())
    }

    /// A tree of the files of a plan that are there; nothing if none is.
    fn parts(
        &self,
        volume: &VolumeId,
        plan: &ModelPlan,
        id: &PlanId,
    ) -> Result<Option<Tree>, VolumeError> {
        let name = format!("{PARTS}{}", &id.to_string()[..12]);
        let tree = Tree::at(self.directory(volume).join(name));
        let sizes: HashMap<Expected, u64> = plan
            .files
            .iter()
            .map(|file| (file.expected, file.size))
            .collect();
        let verified = |expected: &Expected| {
            let object = self.store.object(expected);
            let size = sizes.get(expected).copied().unwrap_or_default();
            match is_sealed(&object, expected, size) {
                Ok(Sealed::Yes) => object,
                // Where nothing ever is.
                _ => object.join("absent"),
            }
        };
        let published = tree.publish(plan, &verified);
        let published = published.map_err(|source| VolumeError::View { source })?;
        Ok(match published {
            Published::Partial { missing } if missing.len() == plan.files.len() => None,
            Published::Partial { .. } | Published::Complete => Some(tree),
        })
    }

    /// Leaves the record and the target's directory.
    fn take_down(&self, id: &VolumeId, target: &Path) -> Result<(), VolumeError> {
        self.detach(target)?;
        let view = self.view(id, PathBuf::new());
        view.remove()
            .map_err(|source| VolumeError::View { source })?;
        let directory = self.directory(id);
        let listed = match fs::read_dir(&directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed("list", &directory)(error)),
        };
        for entry in listed {
            let entry = entry.map_err(failed("list", &directory))?;
            if entry.file_name().to_string_lossy().starts_with(PARTS) {
                remove(&entry.path()).map_err(VolumeError::Store)?;
            }
        }
        Ok(())
    }

    fn detach(&self, target: &Path) -> Result<(), VolumeError> {
        let detached = self.mounts.detach(target);
        detached.map_err(failed("unmount", target))
    }

    fn mounted(&self, target: &Path) -> Result<Vec<PathBuf>, VolumeError> {
        let found = self.mounts.below(target);
        found.map_err(failed("look for mounts at", target))
    }

    fn view(&self, id: &VolumeId, tree_inside: PathBuf) -> View {
        View::of(ViewSpec {
            tree_inside,
            at: self.directory(id).join("view"),
            // Pods run under ids that only their images know, and no other pod sees it.
            owner: Owner::Anyone,
            listing: Listing::Planned,
        })
    }

    fn views(&self) -> PathBuf {
        self.store.root().join("views")
    }

    fn directory(&self, id: &VolumeId) -> PathBuf {
        self.views().join(id)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<VolumeId, Vec<Holding>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a tree is mounted within its repository's directory: two revisions of one repository
/// have a place each.
fn mount_point(id: &PlanId) -> String {
    format!(".headstart-{}", &id.to_string()[..12])
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io {
        operation,
        path,
        source,
    }
}
