//! Container images made on the spot.
//!
//! Layers hold what the images of AI workloads hold: text that compresses well, binaries that
//! compress badly, runs of zeros; gzip halves them. Equal recipes give equal bytes, and so equal
//! digests. Compressed layers are held in memory.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::GzEncoder;
use headstart_core::digest::Sha256;
use serde_json::{Value, json};
use sha2::Digest as _;

pub use self::push::PushError;
use crate::content::Content;
use crate::parallel;

mod edge;
mod layout;
mod push;
mod tree;

#[cfg(test)]
mod tests;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// gzip of a level from 1 to 9.
    Gzip(u32),
    /// zstd of a level from 1 to 19.
    Zstd(i32),
}

/// Which media types an image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OCI image manifest and index.
    Oci,
    /// Docker's schema 2 and manifest list; it knows no zstd.
    Docker,
}

/// What a layer holds.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A tree of files.
    Tree {
        /// What its bytes follow from.
        seed: u64,
        /// Bytes of its files together, uncompressed.
        bytes: u64,
        /// How many files.
        files: u64,
    },
    /// A tar archive as it is.
    Tar(Bytes),
}

/// What image to make.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// How each is compressed.
    pub compression: Compression,
    /// Its media types.
    pub format: Format,
    /// `amd64`, `arm64`, ….
    pub architecture: String,
}

/// Something an image is made of.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: Sha256,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub content: Content,
}

/// An image: what a registry holds of it.
#[derive(Clone, Debug)]
pub struct Image {
    /// Manifests; the last is the one that a tag names.
    pub manifests: Vec<Blob>,
    /// Configurations and layers, each once.
    pub blobs: Vec<Blob>,
    /// The digests of the uncompressed layers of the (last) platform, lowest first.
    pub diff_ids: Vec<Sha256>,
    architecture: String,
    format: Format,
}

impl Recipe {
    /// An image of `layers` trees with `bytes` together, uncompressed: OCI, gzip, this machine's
    /// architecture. The first layer is many small files, the rest are fewer larger ones.
    pub fn trees(seed: u64, layers: u64, bytes: u64) -> Self {
        let each = bytes / layers.max(1);
        let tree = |number| Layer::Tree {
            seed: seed.wrapping_add(number << 32),
            bytes: each,
            files: (each / if number == 0 { 8 << 10 } else { 128 << 10 }).clamp(4, 20_000),
        };
        Self {
            layers: (0..layers).map(tree).collect(),
            compression: Compression::Gzip(1),
            format: Format::Oci,
            architecture: this_architecture().to_owned(),
        }
    }

    /// Three small layers with everything that is hard about unpacking: see [`Layer::edges`].
    pub fn edges() -> Self {
        let layers = Layer::edges();
        Self {
            layers,
            ..Self::trees(0, 0, 0)
        }
    }
}

impl Layer {
    /// Layers with whiteouts, opaque directories, implicit parents, hard links, a parent that is a
    /// symlink below, setuid, extended attributes, a device and a sparse file.
    pub fn edges() -> Vec<Self> {
        edge::layers()
            .into_iter()
            .map(|tar| Self::Tar(tar.into()))
            .collect()
    }

    fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Tree { seed, bytes, files } => tree::write(to, *seed, *bytes, *files),
            Self::Tar(tar) => to.write_all(tar),
        }
    }

    /// The compressed blob and the digest of what is in it.
    fn blob(&self, compression: Compression, format: Format) -> io::Result<(Blob, Sha256)> {
        let mut out = Hashing::new(Vec::new());
        let diff_id = match compression {
            Compression::Plain => self.write_hashed(&mut out)?,
            Compression::Gzip(level) => {
                let mut gzip = GzEncoder::new(&mut out, flate2::Compression::new(level));
                let diff_id = self.write_hashed(&mut gzip)?;
                gzip.finish()?;
                diff_id
            }
            Compression::Zstd(level) => {
                let mut zstd = zstd::Encoder::new(&mut out, level)?;
                let diff_id = self.write_hashed(&mut zstd)?;
                zstd.finish()?;
                diff_id
            }
        };
        let (bytes, digest) = out.finish();
        let media_type = format.layer(compression).to_owned();
        let blob = Blob {
            digest,
            media_type,
            content: bytes.into(),
        };
        Ok((blob, diff_id))
    }

    fn write_hashed(&self, to: &mut dyn Write) -> io::Result<Sha256> {
        let mut hashing = Hashing::new(to);
        self.write(&mut hashing)?;
        Ok(hashing.finish().1)
    }
}

impl Image {
    /// Makes an image, its layers side by side.
    ///
    /// # Errors
    /// When a layer cannot be compressed: a level that there is not.
    pub fn make(recipe: &Recipe) -> io::Result<Self> {
        let Recipe {
            layers,
            compression,
            format,
            architecture,
        } = recipe;
        let made = parallel::map(layers, |layer| layer.blob(*compression, *format));
        let made: Vec<(Blob, Sha256)> = made.into_iter().collect::<io::Result<_>>()?;
        let (layers, diff_ids) = made.into_iter().unzip();
        Ok(Self::of_layers(layers, diff_ids, *format, architecture))
    }

    /// An image of layers made elsewhere, lowest first, each with the digest of its tar archive.
    pub fn of_layers(
        layers: Vec<Blob>,
        diff_ids: Vec<Sha256>,
        format: Format,
        architecture: &str,
    ) -> Self {
        let history = diff_ids
            .iter()
            .map(|_| json!({ "created_by": "made on the spot" }));
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": architecture, "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/",
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": diff_ids.iter().map(Sha256::prefixed).collect::<Vec<_>>(),
            },
            "history": history.collect::<Vec<_>>(),
        });
        let config = Blob::json(format.config(), &config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": format.manifest(),
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifests = vec![Blob::json(format.manifest(), &manifest)];
        let mut blobs = vec![config];
        for layer in layers {
            if blobs.iter().all(|blob| blob.digest != layer.digest) {
                blobs.push(layer);
            }
        }
        let architecture = architecture.to_owned();
        Self {
            manifests,
            blobs,
            diff_ids,
            architecture,
            format,
        }
    }

    /// One image for several platforms. The media types are the first one's.
    pub fn index(platforms: Vec<Self>) -> Self {
        let format = platforms.first().map_or(Format::Oci, |first| first.format);
        let mut entries = Vec::new();
        let mut whole = Self {
            manifests: Vec::new(),
            blobs: Vec::new(),
            diff_ids: Vec::new(),
            architecture: String::new(),
            format,
        };
        for image in platforms {
            if let Some(manifest) = image.manifests.last() {
                let mut entry = manifest.descriptor();
                entry["platform"] = json!({ "architecture": image.architecture, "os": "linux" });
                entries.push(entry);
            }
            whole.manifests.extend(image.manifests);
            for blob in image.blobs {
                if whole.blobs.iter().all(|held| held.digest != blob.digest) {
                    whole.blobs.push(blob);
                }
            }
            (whole.diff_ids, whole.architecture) = (image.diff_ids, image.architecture);
        }
        let index = json!({
            "schemaVersion": 2, "mediaType": format.index(), "manifests": entries,
        });
        whole.manifests.push(Blob::json(format.index(), &index));
        whole
    }

    /// The digest that a tag of it names.
    pub fn digest(&self) -> Sha256 {
        let last = self
            .manifests
            .last()
            .expect("an image is made with a manifest");
        last.digest
    }

    /// Bytes of its blobs as they are fetched.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.content.len()).sum()
    }
}

impl Blob {
    fn json(media_type: &str, value: &Value) -> Self {
        let bytes = value.to_string().into_bytes();
        Self {
            digest: Sha256(sha2::Sha256::digest(&bytes).into()),
            media_type: media_type.to_owned(),
            content: bytes.into(),
        }
    }

    fn descriptor(&self) -> Value {
        json!({
            "mediaType": self.media_type, "digest": self.digest.prefixed(),
            "size": self.content.len(),
        })
    }
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, compression: Compression) -> &'static str {
        match (self, compression) {
            (Self::Oci, Compression::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Self::Oci, Compression::Gzip(_)) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Self::Oci, Compression::Zstd(_)) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Self::Docker, Compression::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
            (Self::Docker, Compression::Gzip(_)) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            }
            // No media type of Docker's own, but what tools write all the same.
            (Self::Docker, Compression::Zstd(_)) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd"
            }
        }
    }
}

/// This machine's architecture, as images name it.
pub fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    }
}

/// Hashes what goes through it.
struct Hashing<W> {
    inner: W,
    hasher: sha2::Sha256,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        let hasher = sha2::Sha256::new();
        Self { inner, hasher }
    }

    fn finish(self) -> (W, Sha256) {
        (self.inner, Sha256(self.hasher.finalize().into()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
