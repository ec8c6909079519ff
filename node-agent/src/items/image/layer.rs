//! One layer: fetched in order into a confined process that unpacks it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstart_core::digest::Expected;
use headstart_registry::{ImageRef, Layer, Resolved};
use headstart_transfer::FetchError;
use headstart_transfer::source::Blob;
use headstart_unpack::{Child, Limits, Request, Style, UnpackError, Unpacked};

use crate::cli::Own;
use crate::items::{Again, ItemError, Job, Ticket, blocking};
use crate::runtime::usable;
use crate::store::Quota;

/// Tries of one layer: a process that died of its own may be a full memory, once.
const TRIES: usize = 2;

/// What writing to the unpacker's pipe ends with when the disk must not get any fuller. The pipe
/// itself has no such error.
const NO_ROOM: io::ErrorKind = io::ErrorKind::StorageFull;

/// What bringing the layers of one image needs.
#[derive(Clone)]
pub(crate) struct Layers<'a> {
    pub(crate) job: &'a Job,
    pub(crate) ticket: &'a Ticket,
    pub(crate) resolved: &'a Resolved,
    /// What it is also to be called.
    pub(crate) name: Option<&'a ImageRef>,
}

/// Why a layer was not unpacked.
#[derive(Debug, thiserror::Error)]
enum LayerError {
    #[error(transparent)]
    Fetch(FetchError),
    #[error("{layer}: the unpacker refused it")]
    Unpack { layer: String, source: UnpackError },
    #[error("{layer}: cannot start the unpacker")]
    Spawn { layer: String, source: io::Error },
    #[error("cannot empty {}", path.display())]
    Empty { path: PathBuf, source: io::Error },
    #[error(
        "{layer} unpacks to more than was reserved: less than {keep} % of the disk below {} would stay free; free space there or choose a larger disk",
        path.display()
    )]
    Full {
        layer: String,
        path: PathBuf,
        keep: u8,
    },
}

impl LayerError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Fetch(error) if error.is_transient())
    }

    fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.asked_wait(),
            _ => None,
        }
    }

    /// Whether a second try could end otherwise.
    fn is_worth_a_try(&self) -> bool {
        matches!(
            self,
            Self::Unpack {
                source: UnpackError::Died { .. },
                ..
            }
        )
    }
}

impl Layers<'_> {
    /// Fetches and unpacks a layer into `staging`.
    pub(crate) async fn bring(
        &self,
        layer: usize,
        staging: PathBuf,
        style: Style,
    ) -> Result<Unpacked, ItemError> {
        let layer = &self.resolved.layers[layer];
        let turn = self.job.images.unpackers.all.acquire().await;
        let _turn = turn.expect("it is never closed");
        let mut tries = 1;
        loop {
            match self.try_to_bring(layer, &staging, style).await {
                Err(error) if tries < TRIES && error.is_worth_a_try() => {
                    tracing::warn!(layer = layer.index, %error, "layer is unpacked again");
                    tries += 1;
                    let emptied = staging.clone();
                    let emptied = blocking(move || empty(&emptied)).await;
                    emptied.map_err(|source| {
                        ItemError::lasting(&LayerError::Empty {
                            path: staging.clone(),
                            source,
                        })
                    })?;
                }
                Err(error) => {
                    let again = Again::of(error.is_transient(), error.asked_wait());
                    return Err(ItemError::new(&error, again));
                }
                Ok(unpacked) => return Ok(unpacked),
            }
        }
    }

    /// The layer as a blob to fetch.
    pub(crate) fn blob(&self, layer: &Layer) -> Blob {
        Blob {
            name: format!("layer {} of {}", layer.index, self.resolved.image),
            size: layer.descriptor.size,
            expected: Expected::Sha256(layer.descriptor.digest),
            priority: self.ticket.priority.clone(),
            sources: self.job.images.registries.sources(self.resolved, layer),
        }
    }

    async fn try_to_bring(
        &self,
        layer: &Layer,
        staging: &Path,
        style: Style,
    ) -> Result<Unpacked, LayerError> {
        let blob = self.blob(layer);
        let request = Request {
            staging: staging.to_owned(),
            style,
            limits: Limits::default(),
            nice: 0,
        };
        let (own, name) = (self.job.own, blob.name.clone());
        let mut child = blocking(move || spawn(own, &request))
            .await
            .map_err(|source| LayerError::Spawn {
                layer: name,
                source,
            })?;
        let input = child
            .take_input()
            .expect("the input of a new process is there");
        let input = Waited {
            input,
            waited: self.ticket.unpack_wait.clone(),
            staging: staging.to_owned(),
            quota: self.job.quota,
        };
        let fetched = self
            .job
            .objects
            .engine
            .stream(&blob, input, self.ticket.tally.transfer())
            .await;
        let unpack = |source| LayerError::Unpack {
            layer: blob.name.clone(),
            source,
        };
        match fetched {
            Ok(input) => {
                drop(input);
                blocking(move || child.finish()).await.map_err(unpack)
            }
            Err(FetchError::Reader { name, source }) if source.kind() == NO_ROOM => {
                Err(LayerError::Full {
                    layer: name,
                    path: staging.to_owned(),
                    keep: self.job.quota.keep_free_percent,
                })
            }
            // The process ended before the layer did: it says why.
            Err(FetchError::Reader { name, source }) => {
                match blocking(move || child.finish()).await {
                    Err(error) => Err(unpack(error)),
                    Ok(_) => Err(LayerError::Fetch(FetchError::Reader { name, source })),
                }
            }
            Err(error) => Err(LayerError::Fetch(error)),
        }
    }
}

fn spawn(own: Own, request: &Request) -> io::Result<Child> {
    let mut args = own.prefix.to_vec();
    args.push("unpack-layer");
    // This very program, even if its file was replaced meanwhile.
    Child::spawn(Path::new("/proc/self/exe"), &args, request)
}

/// Empties a directory that holds whatever a layer put there.
fn empty(staging: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::remove_dir_all(staging)?;
    std::fs::DirBuilder::new().mode(0o700).create(staging)
}

/// Counts the time that writing takes, and ends it before the disk is too full: what a layer unpacks
/// to is not known before, and room was reserved by estimate.
struct Waited<W> {
    input: W,
    waited: Arc<AtomicU64>,
    staging: PathBuf,
    /// Says what is to stay free of the disk. None of it: then the disk itself says when it is full.
    quota: Quota,
}

impl<W: Write> Write for Waited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let asked = Instant::now();
        if self.quota.keep_free_percent > 0 && usable(&self.staging, self.quota)? == 0 {
            return Err(NO_ROOM.into());
        }
        let written = self.input.write(bytes);
        self.waited
            .fetch_add(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.input.flush()
    }
}
