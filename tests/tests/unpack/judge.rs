//! containerd as the judge of what a layer means: what it makes of an image that it is given.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child as Process, Command};
use std::time::{Duration, Instant};

use sha2::Digest as _;
use tempfile::TempDir;

/// A containerd of our own. Ended by its process id.
pub(crate) struct Containerd {
    process: Process,
    dir: TempDir,
    images: usize,
}

impl Containerd {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let process = Command::new("containerd")
            .args(["--config", &at("config.toml")])
            // Its own decompressor, not whichever program it finds.
            .env("CONTAINERD_DISABLE_PIGZ", "1")
            .stderr(fs::File::create(at("log")).unwrap())
            .spawn()
            .unwrap();
        let containerd = Self {
            process,
            dir,
            images: 0,
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !containerd.ctr(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "containerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        Command::new("ctr")
            .arg("--address")
            .arg(self.dir.path().join("sock"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Lets containerd unpack an image of these layers, one after the other; their directories.
    pub(crate) fn unpack(&mut self, layers: &[Layer]) -> Result<Vec<PathBuf>, String> {
        self.images += 1;
        let name = format!("test.local/image:{}", self.images);
        let file = self.dir.path().join("image.tar");
        fs::write(&file, image(&name, layers)).unwrap();
        let import = self.ctr(&["images", "import", file.to_str().unwrap()]);
        if !import.status.success() {
            return Err(String::from_utf8_lossy(&import.stderr).into_owned());
        }
        let snapshots = self
            .dir
            .path()
            .join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
        let mut ids: Vec<u64> = fs::read_dir(&snapshots)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        ids.sort_unstable();
        assert!(ids.len() >= layers.len(), "{ids:?}");
        let newest = &ids[ids.len() - layers.len()..];
        Ok(newest
            .iter()
            .map(|id| snapshots.join(id.to_string()).join("fs"))
            .collect())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Layer {
    pub(crate) media_type: &'static str,
    pub(crate) blob: Vec<u8>,
    pub(crate) tar: Vec<u8>,
}

impl Layer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self {
            media_type: "application/vnd.oci.image.layer.v1.tar",
            blob: tar.clone(),
            tar,
        }
    }

    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        let (front, back) = tar.split_at(tar.len() / 2);
        let blob = [front, back].map(|part| {
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(part).unwrap();
            gzip.finish().unwrap()
        });
        Self {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip",
            blob: blob.concat(),
            tar,
        }
    }

    pub(crate) fn zstd(tar: Vec<u8>) -> Self {
        Self {
            media_type: "application/vnd.oci.image.layer.v1.tar+zstd",
            blob: zstd::encode_all(tar.as_slice(), 3).unwrap(),
            tar,
        }
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    headstart_core::digest::Sha256(sha2::Sha256::digest(bytes).into()).prefixed()
}

/// An OCI image as an archive that `ctr images import` takes.
pub(crate) fn image(name: &str, layers: &[Layer]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, content).unwrap();
    };
    let mut blob = |media_type: &str, content: &[u8]| {
        add(
            &format!("blobs/{}", sha256(content).replace(':', "/")),
            content,
        );
        serde_json::json!({"mediaType": media_type, "digest": sha256(content), "size": content.len()})
    };
    let config = serde_json::json!({
        "architecture": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
        "os": "linux",
        "config": {"Labels": {"name": name}},
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| sha256(&layer.tar)).collect::<Vec<_>>(),
        },
    });
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": layers.iter().map(|layer| blob(layer.media_type, &layer.blob)).collect::<Vec<_>>(),
    });
    let mut descriptor = blob(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    descriptor["annotations"] = serde_json::json!({"io.containerd.image.name": name});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [descriptor]});
    add("index.json", index.to_string().as_bytes());
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    archive.into_inner().unwrap()
}
