//! Images that lie in a directory as an OCI layout.

use std::io;
use std::path::Path;

use headstart_core::digest::Sha256;
use serde_json::Value;

use super::{Blob, Format, Image};
use crate::content::Content;

impl Image {
    /// The first image of a layout; it has one platform.
    ///
    /// # Errors
    /// When a file is missing or is not what its name says.
    pub fn open(layout: &Path) -> io::Result<Self> {
        let index = std::fs::read(layout.join("index.json"))?;
        let index: Value = serde_json::from_slice(&index)?;
        let described = &index["manifests"][0];
        let architecture = described["platform"]["architecture"].as_str();
        let manifest = blob(layout, described)?;
        let parsed: Value = serde_json::from_slice(&manifest.content.to_bytes()?)?;
        let config = blob(layout, &parsed["config"])?;
        let described: Value = serde_json::from_slice(&config.content.to_bytes()?)?;
        let diff_ids = list(&described["rootfs"]["diff_ids"]);
        let diff_ids = diff_ids.iter().map(digest).collect::<io::Result<_>>()?;
        let mut blobs = vec![config];
        for layer in list(&parsed["layers"]) {
            blobs.push(blob(layout, layer)?);
        }
        Ok(Self {
            manifests: vec![manifest],
            blobs,
            diff_ids,
            architecture: architecture.unwrap_or_default().to_owned(),
            format: Format::Oci,
        })
    }
}

fn blob(layout: &Path, described: &Value) -> io::Result<Blob> {
    let digest = digest(&described["digest"])?;
    let name = digest.prefixed();
    let path = layout.join("blobs").join(name.replace(':', "/"));
    let content = Content::open(&path)?;
    if content.sha256()? != digest {
        let path = path.display();
        return Err(io::Error::other(format!("{path} is not what it is called")));
    }
    let media_type = described["mediaType"].as_str().unwrap_or_default();
    Ok(Blob {
        digest,
        media_type: media_type.to_owned(),
        content,
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn digest(value: &Value) -> io::Result<Sha256> {
    let text = value.as_str().unwrap_or_default();
    text.parse()
        .map_err(|_| io::Error::other(format!("{text:?} is no sha256")))
}
