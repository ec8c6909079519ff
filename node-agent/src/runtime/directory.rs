//! Layers become one plain root file system in the store, on hosts without containerd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use headstart_core::digest::Sha256;
use headstart_registry::Resolved;
use headstart_unpack::{Style, Unpacked};

use super::{Landing, LandingError, tell_only};
use crate::items::blocking;
use crate::store::{ImageNote, Store};

/// A root file system that is being made.
pub(crate) struct DirectoryLanding {
    store: Arc<Store>,
    image: String,
    digest: Sha256,
    config: Vec<u8>,
    diff_ids: Vec<Sha256>,
    staging: PathBuf,
    unpacked: BTreeMap<usize, Unpacked>,
}

impl DirectoryLanding {
    /// Starts one; none if the image is there already.
    pub(crate) async fn begin(
        store: Arc<Store>,
        resolved: &Resolved,
    ) -> Result<Option<Self>, LandingError> {
        let digest = resolved.manifest.descriptor.digest;
        let begun = blocking({
            let store = store.clone();
            move || {
                let there = store
                    .images()?
                    .iter()
                    .any(|image| image.note.digest == digest);
                match there {
                    true => Ok(None),
                    false => store.stage_image(&digest).map(Some),
                }
            }
        });
        let Some(staging) = begun.await.map_err(LandingError::Store)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            store,
            image: resolved.image.to_string(),
            digest,
            config: resolved.config.bytes.to_vec(),
            diff_ids: resolved.layers.iter().map(|layer| layer.diff_id).collect(),
            staging,
            unpacked: BTreeMap::new(),
        }))
    }

    /// Where an image is, for a person.
    pub(crate) fn place(store: &Store, digest: &Sha256) -> String {
        store.image(digest).join("rootfs").display().to_string()
    }

    fn layer(&self, layer: usize) -> PathBuf {
        self.staging.join(format!("layer-{layer}"))
    }

    fn merge_and_publish(&self) -> Result<(), LandingError> {
        let disk = |operation, path: &PathBuf| {
            let path = path.clone();
            move |source| LandingError::Disk {
                operation,
                path,
                source,
            }
        };
        let rootfs = self.staging.join("rootfs");
        crate::store::make_dir(&rootfs).map_err(LandingError::Store)?;
        let layers = self.unpacked.iter();
        let layers: Vec<(PathBuf, &Unpacked)> = layers
            .map(|(&layer, unpacked)| (self.layer(layer), unpacked))
            .collect();
        let by_path: Vec<(&Path, &Unpacked)> = layers
            .iter()
            .map(|(path, unpacked)| (path.as_path(), *unpacked))
            .collect();
        let merged = headstart_unpack::merge(&by_path, &rootfs)
            .and_then(|()| headstart_unpack::fingerprint(&rootfs));
        let fingerprint = merged.map_err(|source| LandingError::Merge {
            image: self.image.clone(),
            source,
        })?;
        let config = self.staging.join("config.json");
        std::fs::write(&config, &self.config).map_err(disk("write", &config))?;
        let note = ImageNote {
            name: self.image.clone(),
            digest: self.digest,
            bytes: self
                .unpacked
                .values()
                .map(|unpacked| unpacked.tar_bytes)
                .sum(),
            fingerprint: Some(fingerprint),
        };
        let published = self.store.publish_image(&self.staging, &note);
        published.map_err(LandingError::Store)
    }
}

impl Landing for DirectoryLanding {
    fn style(&self, _layer: usize) -> Style {
        Style::Plain
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.diff_ids.len()).collect()
    }

    fn stage(&self, layer: usize) -> Result<PathBuf, LandingError> {
        let path = self.layer(layer);
        crate::store::make_dir(&path).map_err(LandingError::Store)?;
        Ok(path)
    }

    fn land(
        &mut self,
        layer: usize,
        unpacked: Unpacked,
    ) -> BoxFuture<'_, Result<(), LandingError>> {
        Box::pin(async move {
            if unpacked.diff_id != self.diff_ids[layer] {
                let image = self.image.clone();
                return Err(LandingError::Content { image, layer });
            }
            self.unpacked.insert(layer, unpacked);
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<String, LandingError>> {
        Box::pin(async move {
            let place = Self::place(&self.store, &self.digest);
            let published = blocking(move || {
                let published = self.merge_and_publish();
                if published.is_err()
                    && let Err(error) = crate::store::remove(&self.staging)
                {
                    tell_only(&error);
                }
                published
            });
            published.await.map(|()| place)
        })
    }

    fn leave(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let removed = blocking(move || crate::store::remove(&self.staging)).await;
            if let Err(error) = removed {
                tell_only(&error);
            }
        })
    }
}
