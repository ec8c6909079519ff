//! Images on hosts without containerd: one plain root file system each.
//!
//! ```text
//! <root>/partial/image-<hex>/       while it is being unpacked; swept at the next start
//! <root>/images/<hex>/image.json    what it is; <hex> is the digest of its manifest
//! <root>/images/<hex>/config.json   its configuration, as the registry has it
//! <root>/images/<hex>/rootfs/       its layers, merged
//! ```
//!
//! An image appears by one rename, when every layer had the digest that its configuration names.
//! What happens to a root file system afterwards is noticed by `verify` alone.

use std::path::{Path, PathBuf};

use headstart_core::digest::Sha256;
use serde::{Deserialize, Serialize};

use super::inventory::{Uses, listed, read_json};
use super::{Store, StoreError, make_dir, remove, sync_dir, write_json};

/// What is noted of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNote {
    /// What it was asked for by.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Sha256,
    /// Bytes of its root file system, unpacked.
    pub bytes: u64,
    /// What its root file system was when it was made (`headstart_unpack::fingerprint`); none of one
    /// that an older agent made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Sha256>,
}

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it is.
    #[serde(flatten)]
    pub note: ImageNote,
    /// Its uses.
    pub uses: Uses,
    /// Its root file system.
    pub rootfs: PathBuf,
}

impl Store {
    /// The images in the store, by name.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let mut images = Vec::new();
        for path in listed(&self.root.join("images"))? {
            // A directory without a note is of nobody; gc removes it.
            let Some(note) = read_json::<ImageNote>(&path.join("image.json")) else {
                continue;
            };
            if path != self.image(&note.digest) {
                continue;
            }
            images.push(Image {
                uses: self.read_uses(&note.digest.to_string()),
                rootfs: path.join("rootfs"),
                note,
            });
        }
        images.sort_by(|a, b| a.note.name.cmp(&b.note.name));
        Ok(images)
    }

    /// Where the image of that manifest is, whether it is there or not.
    pub fn image(&self, digest: &Sha256) -> PathBuf {
        self.root.join("images").join(digest.to_string())
    }

    /// An empty directory to unpack it in.
    pub fn stage_image(&self, digest: &Sha256) -> Result<PathBuf, StoreError> {
        let staging = self.root.join("partial").join(format!("image-{digest}"));
        remove(&staging)?;
        make_dir(&staging)?;
        Ok(staging)
    }

    /// Shows the image whose `rootfs` and `config.json` are in `staging`, durably.
    pub fn publish_image(&self, staging: &Path, note: &ImageNote) -> Result<(), StoreError> {
        write_json(&staging.join("image.json"), note)?;
        let root = std::fs::File::open(staging);
        let synced = root.and_then(|root| nix::unistd::syncfs(&root).map_err(std::io::Error::from));
        synced.map_err(StoreError::io("sync", staging))?;
        let image = self.image(&note.digest);
        remove(&image)?;
        std::fs::rename(staging, &image).map_err(StoreError::io("publish", &image))?;
        sync_dir(&self.root.join("images"))
    }

    /// Removes an image.
    pub fn forget_image(&self, digest: &Sha256) -> Result<(), StoreError> {
        let image = self.image(digest);
        // The note goes first: half a root file system must not be taken for a whole one.
        remove(&image.join("image.json"))?;
        remove(&image)?;
        remove(&self.uses(&digest.to_string()))
    }
}
