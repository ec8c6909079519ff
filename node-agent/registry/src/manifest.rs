//! Reading manifests, indexes and configs. Pure: bytes in, descriptors or a reason out.
//!
//! Only the media types listed here are understood; every other field of a document is left alone.

use headstart_core::digest::Sha256;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE,
    IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, ImageIndexEntry,
    OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageIndex,
    OciImageManifest,
};
use serde::Deserialize;

use crate::image::{Compression, Descriptor};
use crate::platform::Platform;

/// What is asked for, in the order of preference.
pub(crate) const ACCEPT: [&str; 4] = [
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
];

/// More layers than this no runtime mounts (the kernel's overlay stops at 500).
const MAX_LAYERS: usize = 500;

/// The media types of layers, which `oci-client` has no words for.
const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// The annotation that marks build attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// Why a document is of no use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// It is valid, but nothing that can be run from here.
    Unsupported(String),
    /// It contradicts itself or its specification.
    Invalid(String),
}

/// A manifest or an index.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Entry>),
    Image(Image),
}

/// One image or nested index of an index.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) descriptor: Descriptor,
    pub(crate) platform: Option<Platform>,
    pub(crate) is_index: bool,
}

/// What a manifest says.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<(Descriptor, Compression)>,
}

/// What a config says.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) platform: Platform,
    pub(crate) diff_ids: Vec<Sha256>,
}

/// Fields by which a document's kind is told, before it is read as that.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// The media type of a document: what it says itself, else what the registry says it is, else
/// what it looks like. A document that could be read in two ways is refused (CVE-2021-41190).
pub(crate) fn media_type(bytes: &[u8], content_type: Option<&str>) -> Result<String, Problem> {
    let kind: Kind = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
    let announced = content_type.map(|text| text.split(';').next().unwrap_or(text).trim());
    let announced = announced.filter(|text| ACCEPT.contains(text) || is_schema_1(text));
    if kind.schema_version == Some(1)
        || kind.fs_layers.is_some()
        || announced.is_some_and(is_schema_1)
    {
        return Err(Problem::Unsupported(
            "it is a Docker schema 1 image, which no registry should serve any more: push it again with a current tool".into(),
        ));
    }
    if kind.manifests.is_some() && (kind.layers.is_some() || kind.config.is_some()) {
        return Err(Problem::Invalid(
            "it is an index and an image manifest at once".into(),
        ));
    }
    match (kind.media_type, announced) {
        (Some(own), Some(announced)) if own != announced => Err(Problem::Invalid(format!(
            "it says that it is {:?} and was served as {announced:?}",
            short(&own)
        ))),
        (Some(own), _) => Ok(own),
        (None, Some(announced)) => Ok(announced.to_owned()),
        (None, None) if kind.manifests.is_some() => Ok(OCI_IMAGE_INDEX_MEDIA_TYPE.to_owned()),
        (None, None) => Ok(OCI_IMAGE_MEDIA_TYPE.to_owned()),
    }
}

/// Reads a document of `media_type`.
pub(crate) fn document(bytes: &[u8], media_type: &str) -> Result<Document, Problem> {
    match media_type {
        OCI_IMAGE_INDEX_MEDIA_TYPE | IMAGE_MANIFEST_LIST_MEDIA_TYPE => {
            let index: OciImageIndex =
                serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
            let entries = index.manifests.iter().filter_map(entry);
            Ok(Document::Index(entries.collect::<Result<_, _>>()?))
        }
        OCI_IMAGE_MEDIA_TYPE | IMAGE_MANIFEST_MEDIA_TYPE => {
            let manifest: OciImageManifest =
                serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
            image(&manifest).map(Document::Image)
        }
        other => Err(Problem::Unsupported(format!(
            "it is of type {:?}, not an OCI or Docker image",
            short(other)
        ))),
    }
}

/// The entry for `platform`: best variant first, then the order of the index. Where only entries
/// without platform are left, the first of them, whose config will tell.
///
/// # Errors
/// The platforms there are.
pub(crate) fn choose<'a>(
    entries: &'a [Entry],
    platform: &Platform,
) -> Result<&'a Entry, Vec<Platform>> {
    let ranked = entries.iter().filter_map(|entry| {
        let rank = platform.rank(entry.platform.as_ref()?)?;
        Some((rank, entry))
    });
    // `min_by_key` returns the first of equals.
    let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry);
    let untold = || entries.iter().find(|entry| entry.platform.is_none());
    best.or_else(untold).ok_or_else(|| {
        let mut have: Vec<Platform> = entries.iter().filter_map(|e| e.platform.clone()).collect();
        have.sort();
        have.dedup();
        have
    })
}

/// Reads a config.
pub(crate) fn config(bytes: &[u8]) -> Result<Config, Problem> {
    #[derive(Deserialize)]
    struct File {
        architecture: String,
        os: String,
        variant: Option<String>,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Vec<String>,
    }
    let file: File = serde_json::from_slice(bytes).map_err(|error| not_json(&error))?;
    let diff_ids = file.rootfs.diff_ids.iter();
    Ok(Config {
        platform: Platform::new(&file.os, &file.architecture, file.variant.as_deref()),
        diff_ids: diff_ids
            .map(|text| digest(text))
            .collect::<Result<_, _>>()?,
    })
}

fn entry(entry: &ImageIndexEntry) -> Option<Result<Entry, Problem>> {
    let platform = entry.platform.as_ref().map(|platform| {
        let os = platform.os.to_string();
        let architecture = platform.architecture.to_string();
        Platform::new(&os, &architecture, platform.variant.as_deref())
    });
    let is_attestation = entry
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(REFERENCE_TYPE));
    let is_index = matches!(
        entry.media_type.as_str(),
        OCI_IMAGE_INDEX_MEDIA_TYPE | IMAGE_MANIFEST_LIST_MEDIA_TYPE
    );
    let is_image = ACCEPT.contains(&entry.media_type.as_str());
    if is_attestation || !is_image || platform.as_ref().is_some_and(Platform::is_unknown) {
        return None;
    }
    let made = descriptor(&entry.media_type, &entry.digest, entry.size);
    Some(made.map(|descriptor| Entry {
        descriptor,
        platform,
        is_index,
    }))
}

fn image(manifest: &OciImageManifest) -> Result<Image, Problem> {
    let config = &manifest.config;
    if !matches!(
        config.media_type.as_str(),
        IMAGE_CONFIG_MEDIA_TYPE | IMAGE_DOCKER_CONFIG_MEDIA_TYPE
    ) {
        let kind = manifest
            .artifact_type
            .as_ref()
            .unwrap_or(&config.media_type);
        return Err(Problem::Unsupported(format!(
            "it is an artifact of type {:?}, not a container image",
            short(kind)
        )));
    }
    if manifest.layers.len() > MAX_LAYERS {
        return Err(Problem::Unsupported(format!(
            "it has {} layers, and no runtime mounts more than {MAX_LAYERS}",
            manifest.layers.len()
        )));
    }
    let layer = |layer: &OciDescriptor| {
        let compression = compression(&layer.media_type)?;
        let descriptor = descriptor(&layer.media_type, &layer.digest, layer.size)?;
        Ok((descriptor, compression))
    };
    Ok(Image {
        config: descriptor(&config.media_type, &config.digest, config.size)?,
        layers: manifest
            .layers
            .iter()
            .map(layer)
            .collect::<Result<_, _>>()?,
    })
}

fn compression(media_type: &str) -> Result<Compression, Problem> {
    match media_type {
        IMAGE_LAYER_MEDIA_TYPE | IMAGE_DOCKER_LAYER_TAR_MEDIA_TYPE => Ok(Compression::None),
        IMAGE_LAYER_GZIP_MEDIA_TYPE | IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE => Ok(Compression::Gzip),
        LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Compression::Zstd),
        foreign if foreign.contains("nondistributable") || foreign.contains("rootfs.foreign") => {
            Err(Problem::Unsupported(
                "it has a foreign layer, which its registry does not hold: rebuild it on a base image without one".into(),
            ))
        }
        encrypted if encrypted.ends_with("+encrypted") => Err(Problem::Unsupported(
            "it has an encrypted layer: leave it to the runtime that has the keys".into(),
        )),
        other => Err(Problem::Unsupported(format!(
            "it has a layer of type {:?}, which is no file system layer",
            short(other)
        ))),
    }
}

fn descriptor(media_type: &str, text: &str, size: i64) -> Result<Descriptor, Problem> {
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest: digest(text)?,
        size: u64::try_from(size)
            .map_err(|_| Problem::Invalid(format!("a size of {size} bytes")))?,
    })
}

/// A digest as documents write it, with its algorithm. One that is refused is not repeated: that of
/// an unpacked layer is nobody's business.
fn digest(text: &str) -> Result<Sha256, Problem> {
    let odd = || {
        Problem::Invalid(format!(
            "a digest of {} characters is not sha256:<64 hex digits>",
            text.chars().count()
        ))
    };
    let hex = text.strip_prefix("sha256:").ok_or_else(odd)?;
    hex.parse().map_err(|_| odd())
}

fn is_schema_1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Where reading stopped; what is there may be a secret of the config.
fn not_json(error: &serde_json::Error) -> Problem {
    Problem::Invalid(format!(
        "found no such JSON at line {} column {}",
        error.line(),
        error.column()
    ))
}

/// Text from outside, as much of it as a message bears.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests;
