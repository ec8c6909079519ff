//! An image made on the spot: gzip layers in the proportions of a vLLM image, one of them holding
//! almost a third of the bytes, unpacking to about twice their size.
//!
//! Equal seeds and sizes give equal images.

use std::io::{self, Write};

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use headstart_testbed::content::Content;
use serde_json::json;

/// Each layer's share of the compressed bytes: base, tools, Python, CUDA, torch, its libraries,
/// vLLM.
const SHARES: [f64; 7] = [0.01, 0.04, 0.06, 0.31, 0.26, 0.20, 0.12];

/// Largest file of a layer, unpacked.
const FILE: usize = 16 << 20;

/// Small files of a layer, beside the large ones.
const SMALL_FILES: usize = 64;

/// Bytes that cannot be compressed, and as many that can: together they compress to about half.
const GRAIN: usize = 8 << 10;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a registry keeps of an image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Blob,
    /// Configuration and layers.
    pub(crate) blobs: Vec<Blob>,
}

/// Bytes and their name.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: String,
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Bytes,
}

impl Image {
    /// Makes an image of about `bytes` compressed bytes. All cores compress.
    pub(crate) fn make(bytes: u64, seed: u64) -> Result<Self> {
        let layers = std::thread::scope(|scope| {
            let makers: Vec<_> = SHARES
                .iter()
                .enumerate()
                .map(|(index, share)| {
                    let size = (bytes as f64 * share) as usize;
                    let seed = seed.wrapping_mul(31).wrapping_add(index as u64);
                    scope.spawn(move || layer(index, size, seed))
                })
                .collect();
            let join = |maker: std::thread::ScopedJoinHandle<'_, _>| match maker.join() {
                Ok(layer) => layer,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            makers.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": ["/opt/layer-6/serve"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(CONFIG, config.to_string().into_bytes().into())?;
        let descriptor = |blob: &Blob| {
            json!({
                "mediaType": blob.media_type, "digest": blob.digest, "size": blob.bytes.len(),
            })
        };
        let layers: Vec<Blob> = layers.into_iter().map(|layer| layer.blob).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(&config),
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes().into())?;
        let mut blobs = layers;
        blobs.push(config);
        Ok(Self { manifest, blobs })
    }
}

impl Blob {
    fn new(media_type: &'static str, bytes: Bytes) -> Result<Self> {
        Ok(Self {
            digest: digest(&bytes)?,
            media_type,
            bytes,
        })
    }
}

struct Layer {
    diff_id: String,
    blob: Blob,
}

/// A layer that compresses to about `size` bytes.
fn layer(index: usize, size: usize, seed: u64) -> Result<Layer> {
    let mut random = Random(seed);
    let mut tar = tar::Builder::new(Vec::with_capacity(2 * size + (64 << 10)));
    let mut add = |path: String, content: &[u8], mode| -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, content)
    };
    let directory = format!("opt/layer-{index}");
    add(format!("{directory}/serve"), b"#!/bin/sh\n", 0o755)?;
    let unpacked = 2 * size;
    // An eighth in small files, as Python packages have them.
    let small = (unpacked / 8 / SMALL_FILES).min(64 << 10);
    for file in 0..SMALL_FILES {
        let path = format!("{directory}/python/module_{file}.py");
        add(path, &content(&mut random, small), 0o644)?;
    }
    let mut left = unpacked.saturating_sub(small * SMALL_FILES);
    let mut file = 0;
    while left > 0 {
        let size = left.min(FILE);
        let path = format!("{directory}/lib/lib_{file}.so");
        add(path, &content(&mut random, size), 0o755)?;
        (left, file) = (left - size, file + 1);
    }
    let tar = tar.into_inner().context("cannot finish a layer")?;
    let mut encoder = GzEncoder::new(Vec::with_capacity(size + size / 16), Compression::fast());
    encoder.write_all(&tar)?;
    let diff_id = digest(&tar.into())?;
    let blob = Blob::new(LAYER, encoder.finish()?.into())?;
    Ok(Layer { diff_id, blob })
}

fn content(random: &mut Random, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + GRAIN);
    while bytes.len() < size {
        let grain = GRAIN.min((size - bytes.len()).div_ceil(2)).max(8);
        let start = bytes.len();
        random.fill(&mut bytes, grain);
        // The same word again and again compresses to almost nothing.
        let word: [u8; 8] = bytes[start..start + 8].try_into().unwrap_or_default();
        for _ in 0..grain / 8 {
            bytes.extend_from_slice(&word);
        }
    }
    bytes.truncate(size);
    bytes
}

fn digest(bytes: &Bytes) -> Result<String> {
    let sha256 = Content::rope([bytes.clone()]).sha256()?;
    Ok(format!("sha256:{sha256}"))
}

/// This machine's, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn fill(&mut self, bytes: &mut Vec<u8>, count: usize) {
        for _ in 0..count.div_ceil(8) {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn an_image_has_about_the_bytes_asked_for_and_unpacks_to_twice_as_many() {
        let image = Image::make(4_000_000, 1).unwrap();
        let compressed: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
        assert!((3_800_000..4_300_000).contains(&compressed), "{compressed}");
        let mut unpacked = 0;
        for blob in image.blobs.iter().filter(|blob| blob.media_type == LAYER) {
            let mut tar = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&blob.bytes[..]);
            unpacked += decoder.read_to_end(&mut tar).unwrap();
        }
        assert!((7_800_000..8_800_000).contains(&unpacked), "{unpacked}");
    }

    #[test]
    fn equal_seeds_give_equal_images_and_others_share_no_layer() {
        let digests = |seed| {
            let image = Image::make(100_000, seed).unwrap();
            image
                .blobs
                .into_iter()
                .map(|blob| blob.digest)
                .collect::<Vec<_>>()
        };
        assert_eq!(digests(1), digests(1));
        assert!(digests(1).iter().all(|digest| !digests(2).contains(digest)));
    }
}
