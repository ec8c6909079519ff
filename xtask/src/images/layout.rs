//! An image as files: <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.
//!
//! Everything that could differ between two builds of the same is fixed: order, times, owners.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::Digest as _;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// When everything in an image was made.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// Something at a path of a layer.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A file.
    File { mode: u32, bytes: Vec<u8> },
    /// A symbolic link.
    Link { to: String },
    /// A directory with a mode of its own; others are made where they are needed.
    Directory { mode: u32 },
}

impl Entry {
    pub(super) fn file(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::File { mode: 0o644, bytes }
    }

    pub(super) fn program(bytes: Vec<u8>) -> Self {
        Self::File { mode: 0o755, bytes }
    }

    pub(super) fn link(to: &str) -> Self {
        Self::Link { to: to.to_owned() }
    }
}

/// A layer, packed.
pub(super) struct Layer {
    diff_id: String,
    bytes: Vec<u8>,
}

impl Layer {
    /// Packs entries by their paths, which begin with no slash. All belong to root.
    pub(super) fn of(entries: &BTreeMap<String, Entry>) -> Result<Self> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, entry) in &with_parents(entries) {
            let mut header = tar::Header::new_ustar();
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(0);
            match entry {
                Entry::File { mode, bytes } => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())
                }
                Entry::Link { to } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    tar.append_link(&mut header, path, to)
                }
                Entry::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
            }
            .with_context(|| format!("pack {path}"))?;
        }
        let tar = tar.into_inner()?;
        let diff_id = sha256(&tar);
        // Its header has neither a name nor a time.
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        std::io::Write::write_all(&mut gzip, &tar)?;
        let bytes = gzip.finish()?;
        Ok(Self { diff_id, bytes })
    }
}

/// The entries, and the directories that lead to them.
fn with_parents(entries: &BTreeMap<String, Entry>) -> BTreeMap<String, Entry> {
    let mut all = entries.clone();
    for path in entries.keys() {
        let mut rest = path.as_str();
        while let Some((parent, _)) = rest.rsplit_once('/') {
            all.entry(parent.to_owned())
                .or_insert(Entry::Directory { mode: 0o755 });
            rest = parent;
        }
    }
    all
}

/// An image of one architecture.
pub(super) struct Layout {
    blobs: Vec<Vec<u8>>,
    index: Value,
}

impl Layout {
    /// `config` is what a container is started with: `User`, `Entrypoint`, `Env`, `Labels`.
    pub(super) fn new(architecture: &str, config: &Value, layers: Vec<Layer>) -> Result<Self> {
        let ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let history = ids.iter().map(|_| json!({"created": CREATED}));
        let config = json!({
            "created": CREATED, "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
            "history": history.collect::<Vec<_>>(),
        });
        let config = serde_json::to_vec(&config)?;
        let packed = layers.iter().map(|layer| descriptor(LAYER, &layer.bytes));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config),
            "layers": packed.collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut described = descriptor(MANIFEST, &manifest);
        described["platform"] = json!({"architecture": architecture, "os": "linux"});
        let index = json!({
            "schemaVersion": 2, "mediaType": INDEX, "manifests": [described],
        });
        let layers = layers.into_iter().map(|layer| layer.bytes);
        let blobs = layers.chain([config, manifest]).collect();
        Ok(Self { blobs, index })
    }

    /// Writes it to a directory in place of what was there.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        let new = directory.with_extension("new");
        for old in [&new, directory] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("remove {}", old.display()))?;
            }
        }
        let blobs = new.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("make {}", blobs.display()))?;
        let mut written = BTreeSet::new();
        for blob in &self.blobs {
            let digest = sha256(blob);
            let name = digest.trim_start_matches("sha256:").to_owned();
            if written.insert(name.clone()) {
                fs::write(blobs.join(name), blob)?;
            }
        }
        fs::write(new.join("index.json"), serde_json::to_vec(&self.index)?)?;
        let version = json!({"imageLayoutVersion": "1.0.0"});
        fs::write(new.join("oci-layout"), serde_json::to_vec(&version)?)?;
        fs::rename(&new, directory).with_context(|| format!("write {}", directory.display()))
    }
}

/// The digest of the manifest in a layout of one image.
pub(super) fn digest(layout: &Path) -> Result<String> {
    let path = layout.join("index.json");
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let index: Value = serde_json::from_slice(&bytes)?;
    let digest = index["manifests"][0]["digest"].as_str();
    let digest = digest.with_context(|| format!("{} names no manifest", path.display()))?;
    Ok(digest.to_owned())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes), "size": bytes.len()})
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in sha2::Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
