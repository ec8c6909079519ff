//! Where an image's layers land: snapshots of containerd, or a plain root file system.
//!
//! Both are used alike: layers are unpacked into the directories given, in any order, and landed in
//! chain order. Nothing of the image can be seen before the end, and an image whose layers are not
//! what its configuration names never lands.

use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use headstart_containerd as containerd;
use headstart_core::quantity::Bytes;
use headstart_registry::{ImageRef, RawBlob, Resolved};
use headstart_unpack::{Style, UnpackError, Unpacked};

pub(crate) use self::directory::DirectoryLanding;
pub(crate) use self::snapshots::{SnapshotLanding, place};
use crate::report::chain;
use crate::store::{Quota, StoreError};

mod directory;
mod snapshots;

/// An image on its way to where it can be used.
pub(crate) trait Landing: Send {
    /// How a layer is to be unpacked.
    fn style(&self, layer: usize) -> Style;

    /// The layers that are not there, lowest first.
    fn missing(&self) -> Vec<usize>;

    /// Makes an empty directory to unpack a layer into.
    fn stage(&self, layer: usize) -> Result<PathBuf, LandingError>;

    /// Lands a layer that was unpacked where [`Landing::stage`] said; in chain order.
    fn land(&mut self, layer: usize, unpacked: Unpacked)
    -> BoxFuture<'_, Result<(), LandingError>>;

    /// Makes the whole usable; says where it is.
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, LandingError>>;

    /// Gives up. What landed may stay for the next try.
    fn leave(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Why an image did not land.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LandingError {
    /// The runtime.
    #[error(transparent)]
    Containerd(containerd::Error),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// A layer is not what the image's configuration says.
    #[error(
        "layer {layer} of {image} unpacks to something else than its configuration names: the image is broken, push it again"
    )]
    Content {
        /// The image.
        image: String,
        /// The layer, 0 is the lowest.
        layer: usize,
    },
    /// Its layers make no root file system.
    #[error("cannot merge the layers of {image}")]
    Merge {
        /// The image.
        image: String,
        /// Why.
        source: UnpackError,
    },
    /// The file system.
    #[error("cannot {operation} {}", path.display())]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// Not enough room.
    #[error(
        "no room for about {} below {}: {} may be used there; remove images or containers",
        Bytes(*need), path.display(), Bytes(*usable)
    )]
    Full {
        /// The disk.
        path: PathBuf,
        /// Bytes needed, by estimate.
        need: u64,
        /// Bytes that may be used.
        usable: u64,
    },
}

impl LandingError {
    /// Whether the same command may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Containerd(error) if error.is_transient())
    }
}

/// Describes an image to containerd; `name` is one it gets besides its own.
pub(crate) fn spec(resolved: &Resolved, name: Option<&ImageRef>) -> containerd::ImageSpec {
    let image = &resolved.image;
    // containerd keeps one index; an image of an index within an index goes by its manifest.
    let index = match resolved.indexes.as_slice() {
        [index] => Some(blob(index)),
        _ => None,
    };
    let target = index
        .as_ref()
        .map_or(&resolved.manifest.descriptor, |_| &resolved.target);
    // By digest alone, if a digest was asked for: containerd drops the tag beside one.
    let mut names = vec![image.pinned(target.digest).to_string()];
    if image.digest().is_none() {
        names.insert(0, image.to_string());
    }
    names.extend(name.map(ImageRef::to_string));
    containerd::ImageSpec {
        names,
        target: descriptor(target),
        index,
        manifest: blob(&resolved.manifest),
        config: blob(&resolved.config),
        layers: resolved
            .layers
            .iter()
            .map(|layer| containerd::LayerSpec {
                descriptor: descriptor(&layer.descriptor),
                diff_id: layer.diff_id,
                chain_id: layer.chain_id,
            })
            .collect(),
        source: containerd::Source {
            host: image.registry().to_owned(),
            repository: image.repository().to_owned(),
        },
    }
}

/// Refuses what would not fit on the disk at `path`.
pub(crate) fn require_room(path: PathBuf, need: u64, quota: Quota) -> Result<(), LandingError> {
    let usable = usable(&path, quota).map_err(|source| LandingError::Disk {
        operation: "measure",
        path: path.clone(),
        source,
    })?;
    match need > usable {
        true => Err(LandingError::Full { path, need, usable }),
        false => Ok(()),
    }
}

/// Bytes that may be written to the disk at `path` without taking what stays free.
pub(crate) fn usable(path: &Path, quota: Quota) -> std::io::Result<u64> {
    let found = nix::sys::statvfs::statvfs(path)?;
    let block = found.fragment_size();
    let keep = found.blocks() * block / 100 * u64::from(quota.keep_free_percent);
    Ok((found.blocks_available() * block).saturating_sub(keep))
}

fn descriptor(of: &headstart_registry::Descriptor) -> containerd::Descriptor {
    containerd::Descriptor {
        media_type: of.media_type.clone(),
        digest: of.digest,
        size: of.size,
    }
}

fn blob(of: &RawBlob) -> containerd::Blob {
    containerd::Blob {
        descriptor: descriptor(&of.descriptor),
        bytes: of.bytes.to_vec(),
    }
}

/// An error that is only told, not returned.
pub(crate) fn tell_only(error: &dyn std::error::Error) {
    tracing::warn!(reason = %chain(error), "not cleaned up; the next start will");
}
