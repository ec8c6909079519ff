//! What is in a store, found by scanning it: nothing is believed that the directory does not show.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_core::digest::{Expected, Sha256};
use headstart_core::evict::{Evictable, Hold, evict};
use serde::{Deserialize, Serialize};

use super::images::Image;
use super::seal::{Sealed, is_sealed, seal};
use super::{Store, StoreError, remove, write_json};

/// Endings of an unfinished file and of its journal.
const PARTIAL: [&str; 2] = ["part", "journal"];

/// How much of a model revision is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing.
    Absent,
    /// Some of it.
    Partial,
    /// All of it, but something was written to since it was verified.
    Unknown,
    /// All of it, verified.
    Verified,
}

/// One file of a plan, as the store needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Path within the repository, for people.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest, which is also its object's name.
    pub expected: Expected,
}

/// A model revision the store has heard of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Digest of the plan, 64 hex digits: the identity of repository, commit and file set.
    pub id: String,
    /// `org/name`.
    pub repo: String,
    /// The commit, 40 hex digits.
    pub commit: String,
    /// Its files.
    pub files: Vec<PlanFile>,
    /// What the Hub side needs to publish it again; opaque here.
    pub detail: serde_json::Value,
}

/// Notes about a plan that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    /// Counter of its last use.
    pub last_use: u64,
    /// Seconds since 1970 until which it must stay, if it is pinned.
    pub pinned_until: Option<u64>,
}

/// One line of the inventory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The plan.
    #[serde(skip)]
    pub plan: Plan,
    /// `org/name`.
    pub repo: String,
    /// The commit.
    pub commit: String,
    /// How much is there.
    pub state: State,
    /// Bytes there.
    pub bytes: u64,
    /// Bytes of the whole.
    pub total_bytes: u64,
    /// Its uses.
    pub uses: Uses,
    /// Root of its tree: the value for `HF_HUB_CACHE` or to bind-mount.
    pub tree: PathBuf,
}

/// All there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// Model revisions, by repository and commit.
    pub items: Vec<Item>,
    /// Images kept as plain directories, by name.
    pub images: Vec<Image>,
    /// Bytes of objects, finished or not, that belong to no model revision.
    pub orphan_bytes: u64,
    /// Bytes of unfinished files.
    pub partial_bytes: u64,
    /// Bytes that may still be written.
    pub usable_bytes: u64,
    #[serde(skip)]
    orphans: Vec<PathBuf>,
}

/// What removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// What was removed: `org/name@commit`, or a path.
    pub names: Vec<String>,
    /// Bytes freed.
    pub bytes: u64,
}

impl Store {
    /// Scans the store.
    pub fn inventory(&self) -> Result<Inventory, StoreError> {
        // Files before plans: one of a plan noted meanwhile is then no orphan.
        let mut objects = Vec::new();
        for kind in ["objects/sha256", "objects/gitsha1"] {
            for directory in self.listed(kind)? {
                objects.extend(listed(&directory)?);
            }
        }
        let partial = self.listed("partial")?;
        let mut items = Vec::new();
        for path in self.listed("plans")? {
            // A plan nobody can read describes nothing; gc removes it.
            let Some(plan) = read_plan(&path) else {
                continue;
            };
            items.push(self.item(plan)?);
        }
        items.sort_by(|a, b| (&a.repo, &a.commit).cmp(&(&b.repo, &b.commit)));
        let known: BTreeSet<PathBuf> = items
            .iter()
            .flat_map(|item| &item.plan.files)
            .map(|file| self.object(&file.expected))
            .collect();
        let mut orphans = Vec::new();
        let mut orphan_bytes = 0;
        for object in objects.into_iter().filter(|object| !known.contains(object)) {
            orphan_bytes += size_of(&object);
            orphans.push(object);
        }
        let of_a_plan: BTreeSet<PathBuf> = items
            .iter()
            .flat_map(|item| &item.plan.files)
            .map(|file| self.partial(&file.expected))
            .collect();
        let mut partial_bytes = 0;
        for path in partial {
            partial_bytes += size_of(&path);
            // Half a file of a model that is gone, and its journal.
            let part = path.with_extension("part");
            if PARTIAL
                .iter()
                .any(|kind| path.extension() == Some(kind.as_ref()))
                && !of_a_plan.contains(&part)
            {
                orphan_bytes += size_of(&path);
                orphans.push(path);
            }
        }
        Ok(Inventory {
            items,
            images: self.images()?,
            orphan_bytes,
            partial_bytes,
            usable_bytes: self.usable()?,
            orphans,
        })
    }

    fn item(&self, plan: Plan) -> Result<Item, StoreError> {
        let (mut bytes, mut all, mut sealed) = (0, true, true);
        for file in &plan.files {
            let object = self.object(&file.expected);
            match is_sealed(&object, &file.expected, file.size)
                .map_err(StoreError::io("look at", &object))?
            {
                Sealed::Yes => bytes += file.size,
                Sealed::Broken => (sealed, bytes) = (false, bytes + size_of(&object)),
                Sealed::Absent => all = false,
            }
        }
        let state = match (all, sealed, bytes) {
            (true, true, _) => State::Verified,
            (true, false, _) => State::Unknown,
            (false, _, 0) => State::Absent,
            (false, ..) => State::Partial,
        };
        Ok(Item {
            repo: plan.repo.clone(),
            commit: plan.commit.clone(),
            state,
            bytes,
            total_bytes: plan.files.iter().map(|file| file.size).sum(),
            uses: self.read_uses(&plan.id),
            tree: self.model(&plan.id).join("hub"),
            plan,
        })
    }

    /// Notes a use of a plan, now the most recent one, and pins it for `pin` if given.
    pub fn note_use(&self, id: &str, pin: Option<Duration>) -> Result<(), StoreError> {
        let mut latest = 0;
        for path in self.listed("uses")? {
            latest = latest.max(read_json::<Uses>(&path).unwrap_or_default().last_use);
        }
        let before = self.read_uses(id);
        let pinned_until = pin
            .map(|pin| (now() + pin).as_secs())
            .max(before.pinned_until);
        let uses = Uses {
            last_use: latest + 1,
            pinned_until,
        };
        write_json(&self.uses(id), &uses)
    }

    /// Writes down a plan.
    pub fn note_plan(&self, plan: &Plan) -> Result<(), StoreError> {
        write_json(&self.plan(&plan.id), plan)
    }

    /// Seals an object that was just verified.
    pub fn seal(&self, expected: &Expected) -> Result<(), StoreError> {
        let path = self.object(expected);
        seal(&path, expected).map_err(StoreError::io("seal", &path))
    }

    /// Frees at least `need` bytes: orphans first, then the least recently used model revisions.
    ///
    /// # Errors
    /// [`StoreError::Full`] when that much may not go; nothing was removed then.
    pub fn evict(&self, need: u64) -> Result<Removed, StoreError> {
        let inventory = self.inventory()?;
        let models = inventory
            .items
            .iter()
            .map(|item| self.evictable_model(item));
        let images = inventory
            .images
            .iter()
            .map(|image| self.evictable_image(image));
        let all: Vec<Evictable<Thing>> = models.chain(images).collect();
        let still = need.saturating_sub(inventory.orphan_bytes);
        let eviction = evict(&all, still);
        if eviction.short > 0 {
            return Err(StoreError::Full {
                root: self.root.clone(),
                need,
                usable: inventory.usable_bytes,
                evictable: inventory.orphan_bytes + eviction.freed,
            });
        }
        let mut removed = Removed::default();
        for index in eviction.items {
            match inventory.items.get(index) {
                Some(item) => {
                    if self.unless_held(&item.plan.id, || self.forget(&item.plan))? {
                        removed.names.push(format!("{}@{}", item.repo, item.commit));
                    }
                }
                None => {
                    let note = &inventory.images[index - inventory.items.len()].note;
                    let id = note.digest.to_string();
                    if self.unless_held(&id, || self.forget_image(&note.digest))? {
                        removed.bytes += note.bytes;
                        removed.names.push(note.name.clone());
                    }
                }
            }
        }
        removed.bytes += self.remove_orphans()?;
        self.note_evicted(&removed);
        Ok(removed)
    }

    /// Removes one model revision; its objects go with [`Store::remove_orphans`].
    pub fn forget(&self, plan: &Plan) -> Result<(), StoreError> {
        // The plan goes last: until then the rest can be found and removed again.
        remove(&self.model(&plan.id))?;
        remove(&self.uses(&plan.id))?;
        remove(&self.plan(&plan.id))
    }

    /// Removes objects that belong to nothing; returns the bytes freed.
    pub fn remove_orphans(&self) -> Result<u64, StoreError> {
        let inventory = self.inventory()?;
        inventory.orphans.iter().try_for_each(|path| remove(path))?;
        Ok(inventory.orphan_bytes)
    }

    /// Removes everything nobody can use: orphans, unfinished files, unreadable plans, trees
    /// without a plan.
    pub fn gc(&self) -> Result<Removed, StoreError> {
        let mut removed = Removed {
            bytes: self.remove_orphans()?,
            ..Removed::default()
        };
        let mut dead = self.listed("partial")?;
        for path in self.listed("plans")? {
            if read_plan(&path).is_none() {
                dead.push(path);
            }
        }
        let images = self.images()?;
        let is_image = |id: &str| {
            images
                .iter()
                .any(|image| image.note.digest.to_string() == id)
        };
        for directory in ["models", "uses", "images"] {
            for path in self.listed(directory)? {
                let id = path.file_stem().unwrap_or_default().to_string_lossy();
                let known = match directory {
                    "models" => self.plan(&id).exists(),
                    "images" => is_image(&id),
                    _ => self.plan(&id).exists() || is_image(&id),
                };
                if !known {
                    dead.push(path);
                }
            }
        }
        for path in dead {
            removed.bytes += size_of(&path);
            remove(&path)?;
            removed.names.push(path.display().to_string());
        }
        Ok(removed)
    }

    pub(super) fn read_uses(&self, id: &str) -> Uses {
        read_json(&self.uses(id)).unwrap_or_default()
    }

    fn listed(&self, directory: &str) -> Result<Vec<PathBuf>, StoreError> {
        listed(&self.root.join(directory))
    }
}

/// What eviction counts: files that models may share, and images as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    Object(Expected),
    Image(Sha256),
}

impl Store {
    fn evictable_model(&self, item: &Item) -> Evictable<Thing> {
        let files = item.plan.files.iter();
        Evictable {
            objects: files
                .map(|file| (Thing::Object(file.expected), self.landed(&file.expected)))
                .collect(),
            last_use: item.uses.last_use,
            hold: self.hold_on(&item.plan.id, &item.uses),
        }
    }

    fn evictable_image(&self, image: &Image) -> Evictable<Thing> {
        Evictable {
            objects: vec![(Thing::Image(image.note.digest), image.note.bytes)],
            last_use: image.uses.last_use,
            hold: self.hold_on(&image.note.digest.to_string(), &image.uses),
        }
    }

    fn hold_on(&self, id: &str, uses: &Uses) -> Hold {
        match uses.pinned_until {
            _ if self.is_held(id) => Hold::InUse,
            Some(until) if until > now().as_secs() => Hold::Pinned,
            _ => Hold::None,
        }
    }
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn size_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.len())
}

fn read_plan(path: &Path) -> Option<Plan> {
    let plan: Plan = read_json(path)?;
    (path.file_stem()?.to_str()? == plan.id).then_some(plan)
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

pub(super) fn listed(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", directory)(error)),
    };
    let paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>();
    paths.map_err(StoreError::io("list", directory))
}
