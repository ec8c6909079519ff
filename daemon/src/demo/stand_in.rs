//! The engine's stand-in, in a process of its own.
//!
//! It does with files what an engine does: reads some of the unpacked image while it starts, finds
//! the model through the Hugging Face cache (`refs/main`, then the snapshot, then the index), opens
//! every weight file as safetensors and touches every byte. It then answers `/health` with 200,
//! and with 503 before. What it does not do, because there is no GPU, is waited for.
//!
//! It ends when its standard input does, so it never outlives the demo.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use super::report::Opened;

/// Files of the image that are read while it starts.
const IMAGE_FILES: usize = 256;

/// How the stand-in is started.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StandInArgs {
    /// ORG/NAME
    #[arg(long)]
    pub(crate) model: String,
    /// The unpacked image, where it can be seen
    #[arg(long)]
    pub(crate) image_root: Option<PathBuf>,
    /// Milliseconds that creating the container and imports take
    #[arg(long)]
    pub(crate) start_ms: u64,
    /// Milliseconds that loading takes at least
    #[arg(long)]
    pub(crate) load_ms: u64,
    /// Milliseconds from loaded to serving
    #[arg(long)]
    pub(crate) init_ms: u64,
}

/// What the stand-in tells the demo, one JSON object per line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Told {
    Listening { port: u16 },
    Started { image_files: u64 },
    Loaded { opened: Opened },
    Failed { error: String },
}

/// Runs the stand-in.
pub(crate) fn stand_in(args: &StandInArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(play(args));
            // Standard input may be read for ever.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&Told::Failed {
                error: format!("{error:#}"),
            });
            ExitCode::FAILURE
        }
    }
}

async fn play(args: &StandInArgs) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let port = listener.local_addr()?.port();
    let healthy = Arc::new(AtomicBool::new(false));
    let health = {
        let healthy = healthy.clone();
        move || {
            let status = match healthy.load(Ordering::Acquire) {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            };
            std::future::ready(status)
        }
    };
    let router = Router::new().route("/health", get(health));
    tell(&Told::Listening { port });
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let engine = async {
        let begun = Instant::now();
        let image_root = args.image_root.clone();
        let image_files = blocking(move || image_root.map_or(Ok(0), |root| read_image(&root)));
        let image_files = image_files.await?;
        rest(begun, args.start_ms).await;
        tell(&Told::Started { image_files });
        // The demo says when the weights are there, and where. Its going away ends this process.
        let Some(cache) = orders.next_line().await? else {
            return Ok(());
        };
        let begun = Instant::now();
        let model = args.model.clone();
        let mut opened = blocking(move || read_model(Path::new(&cache), &model)).await?;
        opened.image_files = image_files;
        rest(begun, args.load_ms).await;
        tell(&Told::Loaded { opened });
        rest(Instant::now(), args.init_ms).await;
        healthy.store(true, Ordering::Release);
        while orders.next_line().await?.is_some() {}
        Ok(())
    };
    tokio::select! {
        ended = engine => ended,
        served = axum::serve(listener, router) => Ok(served?),
    }
}

async fn rest(begun: Instant, milliseconds: u64) {
    tokio::time::sleep_until((begun + Duration::from_millis(milliseconds)).into()).await;
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn tell(told: &Told) {
    use std::io::Write;
    let line = serde_json::to_string(told).expect("plain data serializes");
    // A demo that went away is noticed at standard input.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Reads regular files of an unpacked image, as imports do; how many.
pub(crate) fn read_image(root: &Path) -> Result<u64> {
    let mut directories = vec![root.to_owned()];
    let mut read = 0;
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory)
            .with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && read < IMAGE_FILES as u64 {
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                read += 1;
            }
        }
    }
    ensure!(read > 0, "the image at {} has no files", root.display());
    Ok(read)
}

/// The index of a model in several weight files.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens a model as an engine does: through the cache, every weight file, every byte.
pub(crate) fn read_model(cache: &Path, model: &str) -> Result<Opened> {
    let repo = cache.join(format!("models--{}", model.replace('/', "--")));
    let reference = repo.join("refs/main");
    let commit = std::fs::read_to_string(&reference)
        .with_context(|| format!("cannot read {}", reference.display()))?;
    let snapshot = repo.join("snapshots").join(commit.trim());
    let mut wanted: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    let index = snapshot.join("model.safetensors.index.json");
    match std::fs::read(&index) {
        Ok(text) => {
            let index: Index = serde_json::from_slice(&text)
                .with_context(|| format!("{} is no index", index.display()))?;
            for (tensor, file) in index.weight_map {
                wanted.entry(snapshot.join(file)).or_default().push(tensor);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            wanted.insert(snapshot.join("model.safetensors"), Vec::new());
        }
        Err(error) => bail!("cannot read {}: {error}", index.display()),
    }
    let mut opened = Opened::default();
    for (file, tensors) in wanted {
        let bytes =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let weights = SafeTensors::deserialize(&bytes)
            .with_context(|| format!("{} is no safetensors file", file.display()))?;
        for tensor in &tensors {
            weights
                .tensor(tensor)
                .with_context(|| format!("{} lacks {tensor}", file.display()))?;
        }
        opened.shards += 1;
        opened.tensors += weights.len() as u64;
        opened.weight_bytes += bytes.len() as u64;
    }
    Ok(opened)
}

#[cfg(test)]
mod tests;
