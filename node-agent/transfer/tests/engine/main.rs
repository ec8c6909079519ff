//! Every fault has a defined outcome: the engine against servers that misbehave.
//!
//! Real sockets, real files. Where a server is slow or silent, limits are shortened so that patience
//! ends in seconds; nowhere else does the machine's own pace decide.

#![allow(
    clippy::unwrap_used,
    reason = "what these tests share is test code too"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use headstart_core::digest::{Expected, Sha256};
use headstart_testbed::faults::{Act, Asked, Faulty, content};
use headstart_transfer::engine::{Engine, Limits, Progress};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use headstart_transfer::source::{Blob, FixedUrl, Source};
use headstart_transfer::{BootId, FetchError};
use tempfile::TempDir;
use url::Url;

mod bodies;
mod cancel;
mod hosts;
mod kill;
mod partials;
mod redirects;
mod schedule;
mod sources;
mod statuses;
mod streams;
mod tls;

const MIB: u64 = 1 << 20;

/// Four connections, and so much patience that a busy machine is not taken for a broken server: what
/// is counted is what the script does.
fn limits() -> Limits {
    Limits {
        connections: 4,
        bandwidth: None,
        patience: Duration::from_secs(30),
        stall: Duration::from_secs(20),
        floor: 16 << 10,
        floor_window: Duration::from_secs(20),
        share_beyond: Duration::from_secs(30),
        stream_buffer: 8 << 20,
    }
}

/// The same with patience that ends in seconds, for servers that are slow, silent or away.
fn impatient() -> Limits {
    Limits {
        patience: Duration::from_secs(2),
        stall: Duration::from_secs(3),
        floor: 1 << 10,
        floor_window: Duration::from_millis(500),
        ..limits()
    }
}

/// Trusts the plain servers at these URLs.
fn policy(urls: &[Url]) -> HostPolicy {
    let mut policy = HostPolicy::default();
    for url in urls {
        let (host, port) = (url.host_str().unwrap(), url.port().unwrap());
        policy.trust_plain_http(HostPort::parse(&format!("{host}:{port}")).unwrap());
    }
    policy
}

fn engine(policy: HostPolicy, limits: Limits) -> Engine {
    let http = Http::new(policy).unwrap();
    Engine::new(&http, limits, BootId::named("this boot")).unwrap()
}

fn sha256(content: &[u8]) -> Sha256 {
    use sha2::Digest as _;
    Sha256(sha2::Sha256::digest(content).into())
}

fn blob(name: &str, content: &[u8], urls: &[Url]) -> Blob {
    let source = |url: &Url| Arc::new(FixedUrl::new(url.clone())) as Arc<dyn Source>;
    Blob {
        name: name.to_owned(),
        size: content.len() as u64,
        expected: Expected::Sha256(sha256(content)),
        priority: 0.into(),
        sources: urls.iter().map(source).collect(),
    }
}

/// A directory with one partial file and the name it is to get.
struct Place {
    _dir: TempDir,
    partial: PathBuf,
    to: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            partial: dir.path().join("partial"),
            to: dir.path().join("published"),
            _dir: dir,
        }
    }

    fn journal(&self) -> PathBuf {
        self.partial.with_extension("journal")
    }

    /// What the directory holds.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.partial.parent().unwrap()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Fetches and publishes; the published bytes.
async fn fetch(engine: &Engine, blob: &Blob, place: &Place) -> Result<Vec<u8>, FetchError> {
    let landed = engine.file(blob, &place.partial, Arc::default()).await?;
    landed.publish(place.to.clone()).await.unwrap();
    Ok(std::fs::read(&place.to).unwrap())
}

/// One file of `size` bytes at `/file` on a server that follows `script`.
struct Case {
    server: Faulty,
    content: Bytes,
    blob: Blob,
    place: Place,
    progress: Arc<Progress>,
}

impl Case {
    async fn new(size: u64, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        let content = content(size, size as usize);
        let server = Faulty::start(&[("/file", content.clone())], script).await;
        Self {
            blob: blob("model.safetensors", &content, &[server.url("/file")]),
            server,
            content,
            place: Place::new(),
            progress: Arc::default(),
        }
    }

    async fn run(&self) -> Result<(), FetchError> {
        self.run_with(limits()).await
    }

    /// Fetches with an engine of its own; on success the file is checked to the last byte.
    async fn run_with(&self, limits: Limits) -> Result<(), FetchError> {
        let engine = engine(policy(&[self.server.url("/")]), limits);
        let fetch = engine.file(&self.blob, &self.place.partial, self.progress.clone());
        let landed = within(60, fetch).await?;
        landed.publish(self.place.to.clone()).await.unwrap();
        assert!(std::fs::read(&self.place.to).unwrap() == self.content);
        assert_eq!(self.place.names(), ["published"]);
        Ok(())
    }

    /// Succeeds, with at least one fault on the way.
    async fn survives(&self) {
        self.run().await.unwrap();
        assert!(self.faults() > 0, "the script did nothing");
    }

    /// Fails, leaving nothing visible, with one line that a person can read.
    async fn fails(&self) -> FetchError {
        self.fails_with(limits()).await
    }

    async fn fails_with(&self, limits: Limits) -> FetchError {
        let error = self.run_with(limits).await.expect_err("this cannot work");
        assert!(!self.place.to.exists());
        let line = error.to_string();
        assert!(
            !line.contains('\n') && line.starts_with("model.safetensors: "),
            "{line}"
        );
        error
    }

    fn faults(&self) -> u64 {
        self.progress.faults.load(Ordering::Relaxed)
    }

    /// Requests of which the server sent less than was asked for.
    fn cut_short(&self) -> Vec<usize> {
        let requests = self.server.record().requests;
        let cut = requests.iter().filter(|served| {
            let asked = served.asked.range.clone();
            asked.is_some_and(|asked| served.sent < asked.end - asked.start)
        });
        cut.map(|served| served.asked.number).collect()
    }

    /// Bytes sent beyond the file's size.
    fn sent_twice(&self) -> u64 {
        self.server
            .record()
            .sent()
            .saturating_sub(self.content.len() as u64)
    }
}

/// Runs all of them at once: most of a case is waiting.
async fn together(cases: impl IntoIterator<Item = impl Future<Output = ()>>) {
    within(60, futures_util::future::join_all(cases)).await;
}

/// What `work` gives within `seconds`; a hang is a failure.
async fn within<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(seconds);
    tokio::time::timeout(limit, work).await.expect("it hangs")
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Bytes of `path` that are its blob's, counted in blocks of 4 KiB.
fn right_bytes(path: &Path, content: &[u8]) -> u64 {
    let found = std::fs::read(path).unwrap_or_default();
    let pairs = found.chunks(4096).zip(content.chunks(4096));
    pairs
        .filter(|(found, right)| found == right)
        .map(|(found, _)| found.len() as u64)
        .sum()
}
