//! What resolving an image gives: verified documents, and layers with their identities.

use std::fmt;

use bytes::Bytes;
use headstart_core::digest::Sha256;
use sha2::Digest as _;

use crate::platform::Platform;
use crate::reference::ImageRef;

/// A content address: what something is, its digest and its exact size in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The media type under which the registry or manifest named it.
    pub media_type: String,
    /// The sha256 of its bytes.
    pub digest: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// A document whose bytes have been checked against its descriptor.
#[derive(Clone, PartialEq, Eq)]
pub struct RawBlob {
    /// Its address.
    pub descriptor: Descriptor,
    /// Its bytes, exactly as the registry has them.
    pub bytes: Bytes,
}

impl fmt::Debug for RawBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.descriptor, f)
    }
}

/// How a layer's tar archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, of one or many members.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The compressed blob.
    pub descriptor: Descriptor,
    /// How it is compressed.
    pub compression: Compression,
    /// The digest of the uncompressed tar.
    pub diff_id: Sha256,
    /// The identity of this layer on top of those below it; names containerd's snapshot.
    pub chain_id: Sha256,
    /// 0 is the lowest.
    pub index: usize,
}

/// Who may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The registry gave this very manifest to somebody without any login.
    Anonymous,
    /// The registry refused it without a login, or could not be asked.
    NeededFor {
        /// `registry/repository`.
        repository: String,
    },
}

/// An image for one platform, resolved and verified.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What was asked for.
    pub image: ImageRef,
    /// The platform it was resolved for.
    pub platform: Platform,
    /// What the name stands for in the registry: an index, or the manifest itself.
    pub target: Descriptor,
    /// The indexes on the way from the target to the manifest, target first; empty where the
    /// target is the manifest.
    pub indexes: Vec<RawBlob>,
    /// The manifest of the platform's image.
    pub manifest: RawBlob,
    /// The image's config. Its digest is the image ID.
    pub config: RawBlob,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
    /// Whether a login is needed to have it.
    pub secret: Secret,
}

impl Resolved {
    /// The image by the digest of its target.
    pub fn pinned(&self) -> ImageRef {
        self.image.pinned(self.target.digest)
    }

    /// Bytes of all compressed layers; a blob that is several layers counts once.
    pub fn layer_bytes(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        let distinct = self.layers.iter().map(|layer| &layer.descriptor);
        let distinct = distinct.filter(|descriptor| seen.insert(descriptor.digest));
        distinct
            .map(|descriptor| descriptor.size)
            .fold(0, u64::saturating_add)
    }
}

/// The chain ids of layers with these diff ids, lowest first.
///
/// OCI image-spec, config, "Layer ChainID": the first is the diff id itself; each next one is the
/// sha256 of the chain id below it, a space, and its own diff id, both written `sha256:<hex>`.
pub(crate) fn chain_ids(diff_ids: &[Sha256]) -> Vec<Sha256> {
    let mut chain: Vec<Sha256> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => *diff_id,
            Some(below) => {
                sha256(format!("{} {}", below.prefixed(), diff_id.prefixed()).as_bytes())
            }
        };
        chain.push(id);
    }
    chain
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests;
