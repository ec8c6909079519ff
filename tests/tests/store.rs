//! Disks that are full, failing or read-only, under the engine and real kernels' errors.
//!
//! Full and read-only disks are tmpfs mounts of the test's own. Failing ones are this test binary
//! run once more under `strace`, which makes system calls fail; it learns from its environment what
//! to fetch.

#![allow(
    clippy::unwrap_used,
    reason = "what these tests share is test code too"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use headstart_core::digest::{Expected, Sha256};
use headstart_testbed::faults::{Act, Faulty, content};
use headstart_transfer::engine::{Engine, Limits, Progress};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use headstart_transfer::source::{Blob, FixedUrl};
use headstart_transfer::{BootId, FetchError};
use sha2::Digest as _;
use tempfile::TempDir;
use url::Url;

#[path = "store/room.rs"]
mod room;

const MIB: usize = 1 << 20;

/// A tmpfs of its own, gone with the test.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn of(size: usize) -> Self {
        let disk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        disk
    }

    fn mount(&self, arguments: &[&str]) {
        let status = Command::new("mount")
            .args(arguments)
            .arg(self.path())
            .status();
        assert!(status.unwrap().success(), "mount {arguments:?}");
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

struct Served {
    server: Faulty,
    contents: Vec<Bytes>,
}

impl Served {
    /// Files of these sizes at `/0`, `/1`, …
    async fn new(sizes: &[usize]) -> Self {
        let content = |(seed, size): (usize, &usize)| content(seed as u64 + 1, *size);
        let contents: Vec<Bytes> = sizes.iter().enumerate().map(content).collect();
        let paths: Vec<String> = (0..sizes.len()).map(|index| format!("/{index}")).collect();
        let files: Vec<(&str, Bytes)> = paths
            .iter()
            .map(String::as_str)
            .zip(contents.iter().cloned())
            .collect();
        Self {
            server: Faulty::start(&files, |_| Act::Serve).await,
            contents,
        }
    }

    fn blob(&self, index: usize) -> Blob {
        let content = &self.contents[index];
        blob(
            self.server.url(&format!("/{index}")),
            content.len(),
            sha256(content),
        )
    }
}

fn sha256(content: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(content).into())
}

fn blob(url: Url, size: usize, sha256: Sha256) -> Blob {
    Blob {
        name: url.path().trim_start_matches('/').to_owned(),
        size: size as u64,
        expected: Expected::Sha256(sha256),
        priority: 0.into(),
        sources: vec![Arc::new(FixedUrl::new(url))],
    }
}

fn engine() -> Engine {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    let http = Http::new(policy).unwrap();
    Engine::new(&http, Limits::default(), BootId::of_this_machine()).unwrap()
}

/// Fetches into `dir` and publishes there under the blob's name.
async fn fetch(engine: &Engine, blob: &Blob, dir: &Path) -> Result<PathBuf, FetchError> {
    let partial = dir.join(format!("{}.partial", blob.name));
    let landed = engine
        .file(blob, &partial, Arc::<Progress>::default())
        .await?;
    let to = dir.join(&blob.name);
    landed.publish(to.clone()).await.unwrap();
    Ok(to)
}

/// The error is of the disk, in one line that says `what`.
fn is_of_the_disk(error: &FetchError, what: &str) {
    assert!(matches!(error, FetchError::Disk { .. }), "{error}");
    let line = error.to_string();
    assert!(line.contains(what) && !line.contains('\n'), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_does_not_fit_fails_before_a_byte_is_fetched_and_the_others_arrive() {
    let disk = Disk::of(16 * MIB);
    let served = Served::new(&[4 * MIB, 64 * MIB, 4 * MIB]).await;
    let engine = engine();
    let blobs = [served.blob(0), served.blob(1), served.blob(2)];
    // One after another: while it is being refused, what does not fit may hold all that is free.
    let mut ended = Vec::new();
    for blob in &blobs {
        ended.push(fetch(&engine, blob, disk.path()).await);
    }
    is_of_the_disk(
        ended[1].as_ref().unwrap_err(),
        "the disk is full: free space",
    );
    for index in [0, 2] {
        let path = ended[index].as_ref().unwrap();
        assert!(std::fs::read(path).unwrap() == served.contents[index]);
    }
    assert_eq!(
        disk.names(),
        ["0", "2"],
        "nothing of the one that failed is left"
    );
    let requests = served.server.record().requests;
    assert!(requests.iter().all(|served| served.asked.path != "/1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_inode_left_is_a_full_disk() {
    let disk = Disk::of(16 * MIB);
    disk.mount(&["-o", "remount,nr_inodes=1"]);
    let served = Served::new(&[MIB]).await;
    let error = fetch(&engine(), &served.blob(0), disk.path())
        .await
        .unwrap_err();
    is_of_the_disk(&error, "the disk is full");
    assert!(disk.names().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_file_system_is_named_and_nothing_is_fetched() {
    let disk = Disk::of(16 * MIB);
    disk.mount(&["-o", "remount,ro"]);
    let served = Served::new(&[MIB]).await;
    let error = fetch(&engine(), &served.blob(0), disk.path())
        .await
        .unwrap_err();
    is_of_the_disk(&error, "the file system is read-only");
    assert!(served.server.record().requests.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_directory_and_one_of_somebody_else_are_named() {
    let served = Served::new(&[MIB]).await;
    let disk = Disk::of(MIB);
    let error = fetch(&engine(), &served.blob(0), &disk.path().join("gone"))
        .await
        .unwrap_err();
    is_of_the_disk(&error, "a directory on the way is gone");
}

/// What a process under `strace` says of `/0`, whose calls on its partial file fail as `inject`
/// says, and of `/1`; and where it worked.
async fn under_strace(inject: &str) -> ([String; 2], TempDir) {
    let served = Served::new(&[8 * MIB, MIB]).await;
    let dir = tempfile::tempdir().unwrap();
    let orders = (0..2).map(|index| {
        let content = &served.contents[index];
        let url = served.server.url(&format!("/{index}"));
        format!("{url} {} {}", content.len(), sha256(content))
    });
    let output = tokio::process::Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("inject={inject}"),
        ])
        .arg("-P")
        .arg(dir.path().join("0.partial"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", ORDERED, "--nocapture"])
        .env(
            "HEADSTART_TEST_FETCH",
            orders.collect::<Vec<_>>().join("\n"),
        )
        .env("HEADSTART_TEST_DIR", dir.path())
        .output();
    let output = output.await.expect("strace is installed");
    let said = String::from_utf8(output.stdout).unwrap();
    let said = said
        .lines()
        .filter_map(|line| Some(line.split_once("said: ")?.1.to_owned()));
    let said: Vec<String> = said.collect();
    let said = said.try_into().unwrap_or_else(|said| {
        panic!("{said:?}: {}", String::from_utf8_lossy(&output.stderr));
    });
    assert!(std::fs::read(dir.path().join("1")).unwrap() == served.contents[1]);
    if let Ok(first) = std::fs::read(dir.path().join("0")) {
        assert!(first == served.contents[0]);
    }
    (said, dir)
}

/// The test that is run under `strace`.
const ORDERED: &str = "fetches_what_its_environment_orders";

/// The process under `strace`. Run by itself it orders, without any, a fetch that succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn fetches_what_its_environment_orders() {
    let Ok(orders) = std::env::var("HEADSTART_TEST_FETCH") else {
        let (said, _dir) = under_strace("pwritev:delay_enter=1").await;
        assert_eq!(said, ["published", "published"]);
        return;
    };
    let dir = PathBuf::from(std::env::var("HEADSTART_TEST_DIR").unwrap());
    let engine = engine();
    for order in orders.lines() {
        let [url, size, sha256] = order.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let url = Url::parse(url).unwrap();
        let blob = blob(url, size.parse().unwrap(), sha256.parse().unwrap());
        match fetch(&engine, &blob, &dir).await {
            Ok(_) => println!("\nsaid: published"),
            Err(error) => println!("\nsaid: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fails_or_fills_in_mid_file_fails_that_file_and_the_next_one_arrives() {
    for (errno, what) in [
        ("EIO", "input/output error: check the device"),
        ("ENOSPC", "the disk is full: free space"),
        ("EDQUOT", "the disk quota is used up"),
    ] {
        let (said, dir) = under_strace(&format!("pwritev:error={errno}:when=3+")).await;
        assert!(
            said[0].starts_with("0: cannot write ") && said[0].contains(what),
            "{}",
            said[0]
        );
        assert_eq!(said[1], "published");
        assert!(!dir.path().join("0").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_once_is_never_believed_the_second_time() {
    let (said, dir) = under_strace("fsync,fdatasync:error=EIO:when=1").await;
    assert!(said[0].starts_with("0: cannot sync "), "{}", said[0]);
    assert_eq!(said[1], "published");
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["1"], "what may not be on the disk is not kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_writes_and_allocations_are_made_again() {
    let (said, _dir) = under_strace("pwritev,fallocate:error=EINTR:when=1..9+2").await;
    assert_eq!(said, ["published", "published"]);
}
