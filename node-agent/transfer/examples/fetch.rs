//! Fetches files with the engine alone, for measurements: `fetch DIR CONNECTIONS (URL SIZE SHA256)…`
//! leaves the verified files in DIR and prints one line of JSON about what it took.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use headstart_core::digest::Expected;
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits, Progress};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use headstart_transfer::source::{Blob, FixedUrl};
use nix::sys::resource::{UsageWho, getrusage};
use url::Url;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, connections, files @ ..] = arguments.as_slice() else {
        return Err("fetch DIR CONNECTIONS (URL SIZE SHA256)…".into());
    };
    let mut policy = HostPolicy::default();
    let mut blobs = Vec::new();
    for file in files.chunks_exact(3) {
        let url = Url::parse(&file[0])?;
        let host = url.host_str().and_then(HostPort::parse);
        policy.trust_plain_http(host.ok_or("a URL without host")?);
        blobs.push(Blob {
            name: url.path().rsplit('/').next().unwrap_or("file").to_owned(),
            size: file[1].parse()?,
            expected: Expected::Sha256(file[2].parse()?),
            priority: 0.into(),
            sources: vec![Arc::new(FixedUrl::new(url))],
        });
    }
    let limits = Limits {
        connections: connections.parse()?,
        ..Limits::default()
    };
    let engine = Engine::new(&Http::new(policy)?, limits, BootId::of_this_machine())?;
    let start = Instant::now();
    let fetches = blobs.iter().map(|blob| fetch(&engine, blob, dir.as_ref()));
    let progress = futures_util::future::try_join_all(fetches).await?;
    let seconds = start.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let cpu = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let sum = |of: fn(&Progress) -> u64| progress.iter().map(|p| of(p)).sum::<u64>();
    let report = serde_json::json!({
        "seconds": seconds,
        "user_seconds": cpu(usage.user_time()),
        "system_seconds": cpu(usage.system_time()),
        "peak_bytes": usage.max_rss() * 1024,
        "bytes": engine.bytes(),
        "faults": sum(|p| p.faults.load(Ordering::Relaxed)),
        "network_wait_seconds": sum(|p| p.network_wait.load(Ordering::Relaxed)) as f64 / 1e6,
        "disk_wait_seconds": sum(|p| p.disk_wait.load(Ordering::Relaxed)) as f64 / 1e6,
    });
    println!("{report}");
    Ok(())
}

async fn fetch(engine: &Engine, blob: &Blob, dir: &Path) -> Result<Arc<Progress>, Failure> {
    let progress = Arc::<Progress>::default();
    let partial = dir.join(format!("{}.partial", blob.name));
    let landed = engine.file(blob, &partial, progress.clone()).await?;
    landed.publish(dir.join(&blob.name)).await?;
    Ok(progress)
}
