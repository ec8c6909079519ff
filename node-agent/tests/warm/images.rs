//! Images into plain directories.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use headstart_core::digest::Sha256;
use headstart_testbed::content::Content;
use headstart_testbed::image::{Compression, Format, Image, Layer, Recipe};
use headstart_testbed::registry::{Account, Auth, Options, Registry};
use headstart_testbed::serve::{Fault, When};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bed::{Bed, Ran, end, files_below, text_of, until};

struct Site {
    bed: Bed,
    registry: Registry,
}

impl Site {
    async fn new(options: Options) -> Self {
        Self {
            bed: Bed::new().await,
            registry: Registry::start(options).await.unwrap(),
        }
    }

    fn put(&self, name: &str, image: &Image) -> String {
        self.registry.put(name, "1", image);
        format!("{}/{name}:1", self.registry.host())
    }

    async fn warm(&self, args: &[&str]) -> Ran {
        let host = self.registry.host();
        self.bed
            .warm(&[args, &["--plain-http", &host]].concat())
            .await
    }

    /// The line that says why `bad` is not ready, while a good image is.
    async fn refusal(&self, bad: &str) -> String {
        let good = Image::make(&Recipe::trees(77, 1, 100_000)).unwrap();
        let good = self.put("good", &good);
        let ran = self.warm(&["--image", bad, &good]).await.exits(1);
        assert!(rootfs(&ran, &good).is_dir());
        assert_eq!(ran.of("failed", bad)["transient"], false);
        let images = std::fs::read_dir(self.bed.root().join("images")).unwrap();
        assert_eq!(images.count(), 1, "half an image can be seen");
        assert!(files_below(&self.bed.root().join("partial")).is_empty());
        let line = ran.failed(bad);
        assert!(line.contains(bad), "{line}");
        line
    }
}

fn rootfs(ran: &Ran, item: &str) -> PathBuf {
    ran.ready(item)["place"].as_str().unwrap().into()
}

fn tar(fill: impl Fn(&mut tar::Builder<Vec<u8>>)) -> Layer {
    let mut builder = tar::Builder::new(Vec::new());
    fill(&mut builder);
    Layer::Tar(builder.into_inner().unwrap().into())
}

fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    // As it is, climbing included, which `append_data` would refuse.
    header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

fn layers(layers: Vec<Layer>) -> Recipe {
    Recipe {
        layers,
        ..Recipe::trees(0, 0, 0)
    }
}

/// Replaces the blobs of an image's layers and configuration, and names them in its manifest.
fn forge(image: &mut Image, change: impl Fn(usize, &mut Vec<u8>)) {
    let manifest = image.manifests.last_mut().unwrap();
    let mut text = String::from_utf8(manifest.content.to_bytes().unwrap().to_vec()).unwrap();
    for (index, blob) in image.blobs.iter_mut().enumerate() {
        let (before, size) = (blob.digest.prefixed(), blob.content.len());
        let mut bytes = blob.content.to_bytes().unwrap().to_vec();
        change(index, &mut bytes);
        blob.digest = sha256(&bytes);
        let mut value: Value = serde_json::from_str(&text).unwrap();
        for descriptor in descriptors(&mut value) {
            if descriptor["digest"] == before.as_str() && descriptor["size"] == size {
                descriptor["digest"] = json!(blob.digest.prefixed());
                descriptor["size"] = json!(bytes.len());
            }
        }
        text = value.to_string();
        blob.content = bytes.into();
    }
    manifest.digest = sha256(text.as_bytes());
    manifest.content = Content::from(text);
}

fn descriptors(manifest: &mut Value) -> Vec<&mut Value> {
    let manifest = manifest.as_object_mut().unwrap();
    let mut found = Vec::new();
    for (name, value) in manifest {
        match name.as_str() {
            "config" => found.push(value),
            "layers" => found.extend(value.as_array_mut().unwrap()),
            _ => {}
        }
    }
    found
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

#[tokio::test]
async fn every_format_unpacks_to_the_same_files_and_costs_no_layer_twice() {
    let site = Site::new(Options::default()).await;
    let mut seen: Option<Vec<(PathBuf, Vec<u8>)>> = None;
    for (name, format, compression) in [
        ("oci-gzip", Format::Oci, Compression::Gzip(1)),
        ("oci-zstd", Format::Oci, Compression::Zstd(3)),
        ("oci-plain", Format::Oci, Compression::Plain),
        ("docker-gzip", Format::Docker, Compression::Gzip(6)),
    ] {
        let recipe = Recipe {
            compression,
            format,
            ..Recipe::trees(5, 3, 3_000_000)
        };
        let image = Image::make(&recipe).unwrap();
        let reference = site.put(name, &image);
        let ran = site.warm(&["--image", &reference]).await.done();
        let pinned = ran.ready(&reference)["pinned"].to_string();
        assert!(pinned.contains(&image.digest().to_string()), "{pinned}");
        let rootfs = rootfs(&ran, &reference);
        let mut files: Vec<_> = files_below(&rootfs)
            .into_iter()
            .map(|path| {
                let bytes = std::fs::read(&path).unwrap();
                (path.strip_prefix(&rootfs).unwrap().to_owned(), bytes)
            })
            .collect();
        files.sort();
        assert!(files.len() > 100);
        match &seen {
            Some(seen) => assert!(*seen == files, "{name} differs"),
            None => seen = Some(files),
        }
        site.registry.log().clear();
        let ran = site.warm(&["--image", &reference]).await.done();
        assert_eq!(ran.ready(&reference)["bound"], "nothing");
        let layers = image
            .blobs
            .iter()
            .skip(1)
            .map(|blob| blob.digest.to_string());
        for layer in layers {
            assert_eq!(
                site.registry
                    .log()
                    .count(|entry| entry.path.contains(&layer)),
                0
            );
        }
    }
    let inventory = site.bed.inventory().await;
    assert_eq!(
        inventory["images"].as_array().unwrap().len(),
        4,
        "{inventory:#}"
    );
    let ran = site
        .bed
        .run("evict", &["--bytes", "8MB", "--json"])
        .await
        .done();
    assert!(
        ran.json()["names"].as_array().unwrap().len() >= 3,
        "{ran:#?}"
    );
}

#[tokio::test]
async fn a_layer_removes_and_replaces_what_is_below_it() {
    let site = Site::new(Options::default()).await;
    let lower = tar(|tar| {
        add(tar, "etc/kept", b"kept");
        add(tar, "etc/gone", b"gone");
        add(tar, "etc/replaced", b"old");
        add(tar, "opaque/old", b"old");
        add(tar, "whole/deep/old", b"old");
    });
    let middle = tar(|tar| {
        add(tar, "etc/.wh.gone", b"");
        add(tar, "etc/replaced", b"new");
        add(tar, "opaque/.wh..wh..opq", b"");
        add(tar, "opaque/new", b"new");
        add(tar, ".wh.whole", b"");
    });
    let upper = tar(|tar| add(tar, "etc/gone", b"back"));
    let image = Image::make(&layers(vec![lower, middle, upper])).unwrap();
    let reference = site.put("whiteouts", &image);
    let ran = site.warm(&["--image", &reference]).await.done();
    let rootfs = rootfs(&ran, &reference);
    let mut found: Vec<(String, String)> = files_below(&rootfs)
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            (text_of(path.strip_prefix(&rootfs).unwrap()), text)
        })
        .collect();
    found.sort();
    let expected = [
        ("etc/gone", "back"),
        ("etc/kept", "kept"),
        ("etc/replaced", "new"),
        ("opaque/new", "new"),
    ];
    let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
    assert_eq!(found, expected);
    assert!(!rootfs.join("whole").exists());
}

#[tokio::test]
async fn verify_tells_an_image_that_was_changed_from_one_that_was_not() {
    let site = Site::new(Options::default()).await;
    let [fine, changed] = [1, 2].map(|seed| {
        let image = Image::make(&Recipe::trees(seed, 2, 300_000)).unwrap();
        site.put(&format!("app{seed}"), &image)
    });
    let ran = site.warm(&["--image", &fine, &changed]).await.done();
    let verify = async |code| site.bed.run("verify", &["--json"]).await.exits(code).json();
    let all = verify(0).await;
    let found = |all: &Value| -> Vec<Value> {
        let images = all["images"].as_array().unwrap().iter();
        images.map(|image| image["found"].clone()).collect()
    };
    assert_eq!(found(&all), ["good", "good"], "{all:#}");

    // One bit of one file, whose time is put back.
    let mut files = files_below(&rootfs(&ran, &changed));
    files.retain(|path| path.symlink_metadata().unwrap().len() > 100 && !path.is_symlink());
    let file = files.first().unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    bytes[50] ^= 1;
    std::fs::write(file, bytes).unwrap();
    let open = std::fs::File::options().write(true).open(file).unwrap();
    open.set_modified(modified).unwrap();
    let all = verify(1).await;
    assert_eq!(found(&all)[0], "good", "{all:#}");
    assert!(found(&all)[1]["removed"].is_object(), "{all:#}");
    assert!(rootfs(&ran, &fine).is_dir() && !rootfs(&ran, &changed).exists());
    assert_eq!(found(&verify(0).await), ["good"]);

    let ran = site.bed.run("evict", &["--image", &changed]).await;
    assert!(
        ran.exits(1).only_line().contains("no such image"),
        "it is gone"
    );
    site.bed.run("evict", &["--image", &fine]).await.done();
    assert_eq!(found(&verify(0).await), Vec::<Value>::new());
}

#[tokio::test]
async fn images_and_models_are_warmed_together_and_fail_alone() {
    let site = Site::new(Options::default()).await;
    site.bed
        .commit("org/a", headstart_testbed::model::Recipe::default());
    site.bed.commit(
        "org/b",
        headstart_testbed::model::Recipe {
            seed: 2,
            ..Default::default()
        },
    );
    let image = site.put("app", &Image::make(&Recipe::trees(1, 2, 500_000)).unwrap());
    let missing = format!("{}/app:2", site.registry.host());
    let args = [
        "--model", "org/a", "org/b", "--image", &image, &missing, "no image",
    ];
    let ran = site.warm(&args).await.exits(1);
    for item in ["org/a", "org/b", &image] {
        ran.ready(item);
    }
    let line = ran.failed(&missing);
    assert!(line.contains("404") && line.contains("app:2"), "{line}");
    assert!(ran.failed("no image").contains("no image"), "{ran:#?}");
    let summary = ran.summary();
    assert_eq!(
        (&summary["ready"], &summary["failed"]),
        (&3.into(), &2.into())
    );
}

#[tokio::test]
async fn a_private_image_needs_the_right_secret() {
    let account = Account {
        user: "reader".to_owned(),
        password: "correct".to_owned(),
    };
    for auth in [
        Auth::Basic(account.clone()),
        Auth::Bearer {
            account: Some(account.clone()),
            realm: None,
            lifetime: std::time::Duration::from_secs(60),
        },
    ] {
        let site = Site::new(Options {
            auth,
            ..Options::default()
        });
        let site = site.await;
        let image = site.put(
            "secret",
            &Image::make(&Recipe::trees(1, 2, 500_000)).unwrap(),
        );
        let config = |password: &str| {
            let login = json!({ "username": "reader", "password": password });
            let auths = json!({ "auths": { (site.registry.host()): login } });
            let name = format!("config-{}", password.len());
            site.bed.write(&name, &auths.to_string())
        };
        let (right, wrong) = (config("correct"), config("a wild guess"));
        let line = site
            .warm(&["--image", &image])
            .await
            .exits(1)
            .failed(&image);
        assert!(
            line.contains("--registry-config") || line.contains("login"),
            "{line}"
        );
        let ran = site
            .warm(&["--image", &image, "--registry-config", &wrong])
            .await
            .exits(1);
        assert!(!ran.out.contains("guess"), "{ran:#?}");
        let ran = site
            .warm(&["--image", &image, "--registry-config", &right])
            .await
            .done();
        assert!(rootfs(&ran, &image).is_dir());
    }
}

#[tokio::test]
async fn a_layer_that_climbs_out_does_not() {
    let site = Site::new(Options::default()).await;
    let hostile = tar(|tar| {
        add(tar, "fine", b"fine");
        add(tar, "../../../../climbed", b"out");
    });
    let image = Image::make(&layers(vec![hostile])).unwrap();
    let reference = site.put("hostile", &image);
    let ran = site.warm(&["--image", &reference]).await;
    // What containerd does is allowed, too: the name resolved inside of the root.
    if ran.code == Some(0) {
        assert!(rootfs(&ran, &reference).join("climbed").exists());
    }
    let out = files_below(site.bed.root().parent().unwrap());
    let out = out.iter().filter(|path| path.ends_with("climbed"));
    assert!(out.count() <= usize::from(ran.code == Some(0)), "{ran:#?}");
}

#[tokio::test]
async fn a_layer_that_is_no_archive_is_refused_and_the_others_are_ready() {
    let site = Site::new(Options::default()).await;
    let noise = Layer::Tar(vec![0x5a; 4096].into());
    let image = Image::make(&layers(vec![noise])).unwrap();
    let line = site.refusal(&site.put("noise", &image)).await;
    assert!(
        line.contains("layer 0") && line.contains("refused"),
        "{line}"
    );
}

#[tokio::test]
async fn a_layer_that_inflates_without_end() {
    let site = Site::new(Options::default()).await;
    let small = tar(|tar| add(tar, "small", b"small"));
    let mut image = Image::make(&layers(vec![small])).unwrap();
    forge(&mut image, |index, bytes| {
        if index == 1 {
            *bytes = bomb();
        }
    });
    let line = site.refusal(&site.put("bomb", &image)).await;
    assert!(line.contains("limit of 200"), "{line}");
}

/// A gzip stream of a file of a terabyte, of which 512 MiB come.
fn bomb() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(1 << 36);
    header.set_mode(0o644);
    header.set_cksum();
    let mut gzip = GzEncoder::new(Vec::new(), Level::best());
    gzip.write_all(header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..512 {
        gzip.write_all(&zeros).unwrap();
    }
    gzip.finish().unwrap()
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_names() {
    let site = Site::new(Options::default()).await;
    let mut image = Image::make(&Recipe::trees(1, 2, 500_000)).unwrap();
    let diff_id = image.diff_ids[1].to_string();
    forge(&mut image, |index, bytes| {
        if index == 0 {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text.replace(&diff_id, &"ab".repeat(32)).into_bytes();
        }
    });
    let line = site.refusal(&site.put("forged", &image)).await;
    assert!(
        line.contains("layer 1") && line.contains("push it again"),
        "{line}"
    );
}

#[tokio::test]
async fn a_blob_that_does_not_match_its_digest() {
    let site = Site::new(Options::default()).await;
    let image = Image::make(&Recipe::trees(1, 2, 500_000)).unwrap();
    let layer = image.blobs[1].digest.to_string();
    let reference = site.put("tampered", &image);
    site.registry
        .faults()
        .add(When::path(&layer), Fault::Tamper { at: 50_000 });
    let line = site.refusal(&reference).await;
    assert!(line.contains("layer 0"), "{line}");
}

#[tokio::test]
async fn a_manifest_that_does_not_match_its_digest() {
    let site = Site::new(Options::default()).await;
    let image = Image::make(&Recipe::trees(1, 1, 100_000)).unwrap();
    site.put("app", &image);
    let reference = format!("{}/app@{}", site.registry.host(), image.digest().prefixed());
    site.registry
        .faults()
        .add(When::path("app/manifests/"), Fault::Tamper { at: 20 });
    let line = site.refusal(&reference).await;
    assert!(line.contains("manifest"), "{line}");
}

#[tokio::test]
async fn a_platform_that_is_not_there() {
    let site = Site::new(Options::default()).await;
    let make = |architecture: &str| {
        let recipe = Recipe {
            architecture: architecture.to_owned(),
            ..Recipe::trees(1, 1, 100_000)
        };
        Image::make(&recipe).unwrap()
    };
    let index = Image::index(vec![make("s390x"), make("riscv64")]);
    let reference = site.put("foreign", &index);
    let line = site.refusal(&reference).await;
    assert!(line.contains("s390x") && line.contains("riscv64"), "{line}");
    let chosen = ["--image", &reference, "--platform", "linux/riscv64"];
    site.warm(&chosen).await.done();
}

#[tokio::test]
async fn a_manifest_of_ten_gigabytes() {
    for announced in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 8192]).await;
                    let length = match announced {
                        true => format!("content-length: {}", 10_u64 << 30),
                        false => "connection: close".to_owned(),
                    };
                    let kind = "application/vnd.oci.image.manifest.v1+json";
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    let spaces = vec![b' '; 1 << 16];
                    while stream.write_all(&spaces).await.is_ok() {}
                });
            }
        });
        let bed = Bed::new().await;
        let item = format!("{host}/app:1");
        let ran = bed
            .warm(&["--image", &item, "--plain-http", &host])
            .await
            .exits(1);
        let line = ran.failed(&item);
        assert!(
            line.contains("manifest") && line.contains("MiB allowed"),
            "{line}"
        );
        server.abort();
    }
}

#[tokio::test]
async fn a_registry_with_a_private_address_must_be_allowed() {
    let site = Site::new(Options::default()).await;
    let reference = site.put("app", &Image::make(&Recipe::trees(1, 1, 100_000)).unwrap());
    let ran = site.bed.warm(&["--image", &reference]).await;
    assert!(matches!(ran.code, Some(1 | 4)), "{ran:#?}");
    let line = ran.failed(&reference);
    assert!(
        line.contains("--allow-private") || line.contains("private"),
        "{line}"
    );
    assert_eq!(site.registry.log().count(|_| true), 0);
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> usize {
    let is_one = |id: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // After the name, which may hold anything: the state, then the parent.
        let mut fields = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        fields.nth(1).and_then(|id| id.parse().ok()) == Some(parent)
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let ids = processes.map(|entry| entry.unwrap().file_name());
    ids.filter(|id| is_one(&id.to_string_lossy())).count()
}

#[tokio::test]
async fn many_images_at_once_are_unpacked_by_few_processes() {
    let site = Site::new(Options::default()).await;
    let images: Vec<String> = (0..9)
        .map(|seed| {
            let image = Image::make(&Recipe::trees(seed, 3, 10_000)).unwrap();
            for layer in &image.blobs[1..] {
                let blob = When::path(&layer.digest.to_string());
                site.registry.faults().add(blob, Fault::Status(503));
            }
            site.put(&format!("app{seed}"), &image)
        })
        .collect();
    let host = site.registry.host();
    let mut agent = site
        .bed
        .warming(&["--plain-http", &host, "--patience", "1"]);
    agent.arg("--image").args(&images);
    let started = Instant::now();
    let child = agent.spawn().unwrap();
    let id = child.id().unwrap();
    let mut most = 0;
    let ended = tokio::spawn(end(child, started));
    until("the agent has ended", || {
        most = most.max(children(id));
        ended.is_finished()
    })
    .await;
    ended.await.unwrap().exits(4);
    // Two images with two to eight each.
    assert!((2..=16).contains(&most), "{most} at once");
}

#[tokio::test]
async fn a_registry_that_asks_for_hours_is_one_to_come_back_to() {
    let site = Site::new(Options::default()).await;
    let image = Image::make(&Recipe::trees(1, 1, 100_000)).unwrap();
    let reference = site.put("busy", &image);
    let layer = When::path(&image.blobs[1].digest.to_string());
    let fault = Fault::RetryAfter {
        status: 429,
        value: "7200".to_owned(),
    };
    site.registry.faults().add(layer, fault);
    let ran = site.warm(&["--image", &reference]).await.exits(4);
    assert_eq!(ran.of("failed", &reference)["transient"], true);
    let line = ran.failed(&reference);
    assert!(line.contains("layer 0"), "{line}");
    assert!(line.contains("same command again in 7200 s"), "{line}");
}
