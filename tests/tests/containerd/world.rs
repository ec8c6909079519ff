//! A containerd, a registry and images of their own for one case.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use headstart_containerd::{
    Blob, Config, Depth, Descriptor, Held, ImageSpec, LayerSpec, Runtime, Source, chain_ids,
};
use headstart_core::digest::Sha256;
use headstart_testbed::containerd::{Containerd, Settings, Version};
use headstart_testbed::docker_registry::{Access, DockerRegistry};
use serde_json::json;
use sha2::Digest;

/// How many of the lowest layers all images of a world share.
pub(crate) const SHARED_LAYERS: usize = 1;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What a tag points at.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Manifest,
    Index,
    /// A manifest with the media types of Docker's registry schema 2.
    Docker,
}

impl Kind {
    /// The media types of manifest, config and layers.
    fn media_types(self) -> [&'static str; 3] {
        match self {
            Self::Manifest | Self::Index => [MANIFEST, CONFIG, LAYER],
            Self::Docker => [
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ],
        }
    }
}

pub(crate) struct World {
    // Dropped in this order: both programs write into the directory.
    pub(crate) containerd: Containerd,
    registry: DockerRegistry,
    directory: tempfile::TempDir,
}

/// An image in the registry.
pub(crate) struct Image {
    pub(crate) spec: Arc<ImageSpec>,
    pub(crate) reference: String,
    repository: String,
    tars: Vec<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
}

/// Everything that could leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inventory {
    pub(crate) images: BTreeSet<String>,
    pub(crate) content: BTreeSet<String>,
    pub(crate) snapshots: BTreeSet<String>,
    ingests: BTreeSet<String>,
    leases: BTreeSet<String>,
    staging: BTreeSet<String>,
    snapshot_directories: usize,
}

impl World {
    pub(crate) async fn start(
        version: Version,
        access: Access,
        settings: Settings,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = directory.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let registry = DockerRegistry::start(at.join("registry"), access)?;
            let containerd = Containerd::start(version, at.join("containerd"), &settings)?;
            Ok(Self {
                containerd,
                registry,
                directory,
            })
        })
        .await?
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn runtime(&self) -> Result<Runtime> {
        Ok(Runtime::connect(Config::new(self.containerd.socket())).await?)
    }

    /// Makes the standard image and pushes it.
    pub(crate) fn push(&self, repository: &str, tag: &str, kind: Kind) -> Result<Image> {
        let image = Image::standard(&self.registry.host(), repository, tag, kind)?;
        for blob in &image.blobs {
            self.registry.push_blob(repository, blob)?;
        }
        let spec = &image.spec;
        self.registry.push_blob(repository, &spec.config.bytes)?;
        let manifest = &spec.manifest;
        let by_digest = manifest.descriptor.digest.prefixed();
        self.registry.push_manifest(
            repository,
            &by_digest,
            &manifest.descriptor.media_type,
            &manifest.bytes,
        )?;
        let root = spec.index.as_ref().unwrap_or(manifest);
        let media_type = &root.descriptor.media_type;
        self.registry
            .push_manifest(repository, tag, media_type, &root.bytes)?;
        Ok(image)
    }

    /// How often layers of an image were fetched.
    pub(crate) fn layer_fetches(&self, image: &Image) -> Result<usize> {
        let layers = image.spec.layers.iter();
        let fetches = layers.map(|layer| self.registry.fetches(&layer.descriptor.digest));
        fetches.sum()
    }

    /// Runs a container of the image and checks what it sees.
    pub(crate) fn run(&self, image: &Image) -> Result<()> {
        let noise = Sha256(sha2::Sha256::digest(noise(&image.repository, 3 << 20)).into());
        let expected = format!("{}\n600 0 0\n{noise}  /data/noise\n", image.repository);
        let mut said = self.say(image)?;
        // `ctr run` may leave before it has copied the last lines of a container that ended: what
        // was said so far is right then, and it is asked again.
        for _ in 0..4 {
            if said == expected || !expected.starts_with(&said) {
                break;
            }
            said = self.say(image)?;
        }
        ensure!(
            said == expected,
            "the container said {said:?}, expected {expected:?}"
        );
        Ok(())
    }

    fn say(&self, image: &Image) -> Result<String> {
        let id = format!("c{:x}", rand());
        self.containerd.ctr(&[
            "run", "--rm", "--snapshotter", "overlayfs", &image.reference, &id,
            "/bin/busybox", "sh", "-c",
            "/bin/busybox cat /etc/who; /bin/busybox stat -c '%a %u %g' /data/noise; /bin/busybox sha256sum /data/noise",
        ])
    }

    /// Has containerd collect garbage, by deleting a lease and waiting for what follows.
    pub(crate) fn collect(&self) -> Result<()> {
        let id = format!("collect-{:x}", rand());
        self.containerd.ctr(&["leases", "create", "--id", &id])?;
        self.containerd.ctr(&["leases", "delete", "--sync", &id])?;
        Ok(())
    }

    pub(crate) async fn inventory(&self) -> Result<Inventory> {
        let first_words = |arguments: &[&str]| -> Result<BTreeSet<String>> {
            let text = self.containerd.ctr(arguments)?;
            Ok(text
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned)
                .collect())
        };
        let mut snapshots = first_words(&["snapshots", "--snapshotter", "overlayfs", "ls"])?;
        snapshots.remove("KEY");
        let mut ingests = first_words(&["content", "active"])?;
        ingests.remove("REF");
        let staging = self.containerd.state().join("headstart-staging");
        let directories = |path: PathBuf| -> BTreeSet<String> {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        Ok(Inventory {
            images: first_words(&["images", "ls", "-q"])?,
            content: first_words(&["content", "ls", "-q"])?,
            snapshots,
            ingests,
            leases: first_words(&["leases", "ls", "-q"])?,
            staging: directories(staging),
            snapshot_directories: directories(self.containerd.snapshots()).len(),
        })
    }

    /// Waits until nothing is there that was not before.
    pub(crate) async fn until_reclaimed(&self, before: &Inventory) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            self.collect()?;
            let now = self.inventory().await?;
            if &now == before {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "left behind: {now:#?}\nbefore: {before:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Image {
    /// An image of three layers that says its repository when run.
    pub(crate) fn standard(host: &str, repository: &str, tag: &str, kind: Kind) -> Result<Self> {
        let busybox = fs::read("/bin/busybox").context("install busybox-static")?;
        let shared = tar(&[
            ("bin/busybox", 0o755, &busybox),
            ("etc/who", 0o644, b"nobody\n"),
        ])?;
        let noise = noise(repository, 3 << 20);
        let middle = tar(&[
            ("data/noise", 0o600, &noise),
            ("etc/who", 0o644, b"middle\n"),
        ])?;
        let top = tar(&[("etc/who", 0o644, format!("{repository}\n").as_bytes())])?;
        Self::build(host, repository, tag, vec![shared, middle, top], kind)
    }

    fn build(
        host: &str,
        repository: &str,
        tag: &str,
        tars: Vec<Vec<u8>>,
        kind: Kind,
    ) -> Result<Self> {
        let [manifest_type, config_type, layer_type] = kind.media_types();
        let mut blobs = Vec::new();
        for tar in &tars {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(tar)?;
            blobs.push(encoder.finish()?);
        }
        let diff_ids: Vec<_> = tars.iter().map(|tar| sha256(tar)).collect();
        let layers = diff_ids
            .iter()
            .zip(chain_ids(diff_ids.iter().copied()))
            .zip(&blobs);
        let layers: Vec<_> = layers
            .map(|((&diff_id, chain_id), blob)| LayerSpec {
                descriptor: describe(layer_type, blob),
                diff_id,
                chain_id,
            })
            .collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "cat", "/etc/who"],
                "Labels": {"containerd.io/gc.root": "x"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(Sha256::prefixed).collect::<Vec<_>>()},
        });
        let config = document(config_type, &config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": named(&config.descriptor),
            "layers": layers.iter().map(|layer| named(&layer.descriptor)).collect::<Vec<_>>(),
        });
        let manifest = document(manifest_type, &manifest);
        let index = match kind {
            Kind::Manifest | Kind::Docker => None,
            Kind::Index => {
                let mut ours = named(&manifest.descriptor);
                ours["platform"] = json!({"os": "linux", "architecture": "amd64"});
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [ours]});
                Some(document(INDEX, &index))
            }
        };
        let target = index.as_ref().unwrap_or(&manifest).descriptor.clone();
        let reference = format!("{host}/{repository}:{tag}");
        let spec = ImageSpec {
            names: vec![reference.clone()],
            target,
            index,
            manifest,
            config,
            layers,
            source: Source {
                host: host.to_owned(),
                repository: repository.to_owned(),
            },
        };
        Ok(Self {
            spec: Arc::new(spec),
            reference,
            repository: repository.to_owned(),
            tars,
            blobs,
        })
    }

    pub(crate) fn by_digest(&self) -> String {
        let name = self.reference.rsplit_once(':').map_or("", |(name, _)| name);
        format!("{name}@{}", self.spec.target.digest.prefixed())
    }

    pub(crate) fn diff_id(&self, layer: usize) -> Sha256 {
        self.spec.layers[layer].diff_id
    }

    pub(crate) fn blob(&self, layer: usize) -> &[u8] {
        &self.blobs[layer]
    }

    pub(crate) fn unpack(&self, layer: usize, to: &Path) -> Result<()> {
        let mut archive = tar::Archive::new(&self.tars[layer][..]);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.unpack(to).context("unpack")
    }
}

/// Takes an image through a whole session.
pub(crate) async fn warm(
    runtime: &Runtime,
    image: &Image,
    depth: Depth,
    hold: Duration,
) -> Result<Held> {
    let mut session = runtime.begin(image.spec.clone(), depth, hold).await?;
    for layer in session.missing() {
        image.unpack(layer, &session.staging(layer)?)?;
    }
    for layer in session.missing() {
        session
            .commit(layer, image.diff_id(layer), |_| Ok(()))
            .await?;
    }
    Ok(session.finish().await?)
}

/// Waits until `condition` holds.
pub(crate) async fn until<F>(what: &str, condition: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<bool>>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("waited too long until {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn tar(files: &[(&str, u32, &[u8])]) -> Result<Vec<u8>> {
    let header = |kind, mode, size| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut made = BTreeSet::new();
    for (path, mode, bytes) in files {
        let parent = Path::new(path).parent().expect("files lie in directories");
        if made.insert(parent) {
            let mut header = header(tar::EntryType::Directory, 0o755, 0);
            builder.append_data(&mut header, format!("{}/", parent.display()), &[][..])?;
        }
        let mut header = header(tar::EntryType::Regular, *mode, bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes)?;
    }
    Ok(builder.into_inner()?)
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut block = sha256(seed.as_bytes()).0;
    let mut out = Vec::with_capacity(length);
    while out.len() < length {
        block = sha256(&block).0;
        out.extend_from_slice(&block);
    }
    out
}

/// A number that no other call in any test gets.
pub(crate) fn rand() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

fn document(media_type: &str, value: &serde_json::Value) -> Blob {
    let bytes = value.to_string().into_bytes();
    Blob {
        descriptor: describe(media_type, &bytes),
        bytes,
    }
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: sha256(bytes),
        size: bytes.len() as u64,
    }
}

fn named(descriptor: &Descriptor) -> serde_json::Value {
    json!({
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest.prefixed(),
        "size": descriptor.size,
    })
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}
