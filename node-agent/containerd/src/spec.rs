//! What an image is made of, as the caller resolved it; checked for consistency before use.

use std::collections::HashMap;

use headstart_core::digest::Sha256;
use serde::Deserialize;
use sha2::Digest as _;

use crate::error::Error;

/// A blob's name in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The media type, as the manifest gives it.
    pub media_type: String,
    /// The sha256 of the blob.
    pub digest: Sha256,
    /// Bytes.
    pub size: u64,
}

/// A small document of the image with its descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What the bytes must be.
    pub descriptor: Descriptor,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One layer, as the manifest and the config give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    /// The compressed blob.
    pub descriptor: Descriptor,
    /// The sha256 of the uncompressed tar.
    pub diff_id: Sha256,
    /// The name of the snapshot made of this layer and all below it.
    pub chain_id: Sha256,
}

/// Where the image's blobs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The registry's host, with its port if it has one.
    pub host: String,
    /// The repository there.
    pub repository: String,
}

/// An image of one platform, resolved to digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSpec {
    /// Canonical names, `registry/repository:tag` or `registry/repository@sha256:…`. A reference by
    /// digest names the target.
    pub names: Vec<String>,
    /// What the names point at: the index if there is one, else the manifest.
    pub target: Descriptor,
    /// The index of all platforms.
    pub index: Option<Blob>,
    /// The platform's manifest.
    pub manifest: Blob,
    /// The image's config.
    pub config: Blob,
    /// Lowest first.
    pub layers: Vec<LayerSpec>,
    /// Where the blobs come from.
    pub source: Source,
}

/// How much of an image is made present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Layers and the image's records: the runtime lists it and every pod of the node may use it.
    Present,
    /// Layers only, held by a lease: a later pull must show the right secret, and then moves only
    /// manifest and config.
    Layers,
    /// Layer blobs in the content store, held by a lease, where layers cannot be.
    Content,
}

/// The names of an image's snapshots, lowest first: the first is the first diff id, each later one
/// the sha256 of `"<chain id below> <diff id>"` (OCI image specification, "Layer ChainID").
pub fn chain_ids(diff_ids: impl IntoIterator<Item = Sha256>) -> Vec<Sha256> {
    let mut chain: Vec<Sha256> = Vec::new();
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id,
            Some(below) => {
                let text = format!("{} {}", below.prefixed(), diff_id.prefixed());
                Sha256(sha2::Sha256::digest(text).into())
            }
        };
        chain.push(id);
    }
    chain
}

impl ImageSpec {
    /// The image for messages: its first name, else its target.
    pub fn name(&self) -> String {
        let target = || self.target.digest.prefixed();
        self.names.first().cloned().unwrap_or_else(target)
    }

    /// Checks that every document is what its descriptor says, that the config's diff ids are the
    /// layers', that the chain ids follow from them and that the target is index or manifest.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the first contradiction.
    pub fn check(&self) -> Result<(), Error> {
        self.contradiction().map_or(Ok(()), |problem| {
            let image = self.name();
            Err(Error::Spec { image, problem })
        })
    }

    fn contradiction(&self) -> Option<String> {
        let documents = [("manifest", &self.manifest), ("config", &self.config)];
        let documents = documents
            .into_iter()
            .chain(self.index.as_ref().map(|index| ("index", index)));
        for (what, blob) in documents {
            let found = Sha256(sha2::Sha256::digest(&blob.bytes).into());
            if found != blob.descriptor.digest || blob.bytes.len() as u64 != blob.descriptor.size {
                return Some(format!(
                    "its {what} has {} bytes and digest {found}, expected {} and {}",
                    blob.bytes.len(),
                    blob.descriptor.size,
                    blob.descriptor.digest
                ));
            }
        }
        if &self.target != self.root() {
            return Some("its names point at neither its index nor its manifest".into());
        }
        if self.index.is_some() && self.manifest_position().is_none() {
            return Some("its index does not list its manifest".into());
        }
        let manifest: ManifestDocument = match serde_json::from_slice(&self.manifest.bytes) {
            Ok(manifest) => manifest,
            Err(error) => return Some(format!("its manifest cannot be read: {error}")),
        };
        let blobs = self
            .layers
            .iter()
            .map(|layer| layer.descriptor.digest.prefixed());
        if !manifest
            .layers
            .iter()
            .map(|layer| layer.digest.clone())
            .eq(blobs)
        {
            return Some("its manifest lists other layers than it was described with".into());
        }
        if manifest.config.digest != self.config.descriptor.digest.prefixed() {
            return Some("its manifest names another config than it was described with".into());
        }
        let config: ConfigDocument = match serde_json::from_slice(&self.config.bytes) {
            Ok(config) => config,
            Err(error) => return Some(format!("its config cannot be read: {error}")),
        };
        let diff_ids = self.layers.iter().map(|layer| layer.diff_id);
        if !config.rootfs.diff_ids.iter().copied().eq(diff_ids.clone()) {
            return Some("its config lists other layers than its manifest".into());
        }
        let chain = self.layers.iter().map(|layer| layer.chain_id);
        if !chain.eq(chain_ids(diff_ids)) {
            return Some("its chain ids do not follow from its diff ids".into());
        }
        self.layers.is_empty().then(|| "it has no layers".into())
    }

    fn root(&self) -> &Descriptor {
        let document = self.index.as_ref().unwrap_or(&self.manifest);
        &document.descriptor
    }

    /// Where the manifest stands in the index.
    pub(crate) fn manifest_position(&self) -> Option<usize> {
        let index: IndexDocument = serde_json::from_slice(&self.index.as_ref()?.bytes).ok()?;
        let wanted = self.manifest.descriptor.digest.prefixed();
        index
            .manifests
            .iter()
            .position(|entry| entry.digest == wanted)
    }

    /// Resources that a lease must hold so that the image's layers stay.
    pub(crate) fn chain(&self) -> impl Iterator<Item = String> + '_ {
        self.layers.iter().map(|layer| layer.chain_id.prefixed())
    }
}

#[derive(Deserialize)]
struct Named {
    digest: String,
}

#[derive(Deserialize)]
struct IndexDocument {
    manifests: Vec<Named>,
}

#[derive(Deserialize)]
struct ManifestDocument {
    config: Named,
    layers: Vec<Named>,
}

#[derive(Deserialize)]
struct ConfigDocument {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Sha256>,
}

/// Labels on containerd's objects.
pub(crate) type Labels = HashMap<String, String>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_is_the_digest_of_the_chain_below_and_the_diff_id() {
        let chain = chain_ids([Sha256([0x11; 32]), Sha256([0x22; 32])]);
        // printf 'sha256:11… sha256:22…' | sha256sum
        let second = "9932074217c35353d2e03a3f5a86549f7c67bfeb0ba53e23d69f4d4c8f7958f5";
        assert_eq!(chain, [Sha256([0x11; 32]), second.parse().unwrap()]);
        assert_eq!(chain_ids([]), []);
    }
}
