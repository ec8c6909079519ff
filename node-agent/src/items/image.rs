//! One image: resolved to a manifest, its layers unpacked as they arrive, handed to whoever runs
//! containers here.
//!
//! Layers are fetched and unpacked in any order, the largest first, each by a confined process of
//! its own, and landed in chain order as soon as all below them have landed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use headstart_containerd as containerd;
use headstart_containerd::Depth;
use headstart_core::digest::Expected;
use headstart_registry::{ImageRef, Platform, Registries, ResolveError, Resolved, Secret};
use tokio::sync::{OnceCell, Semaphore, mpsc};

use self::layer::Layers;
use super::{Again, ItemError, Job, Ticket, Warmed};
use crate::report::Event;
use crate::runtime::{
    DirectoryLanding, Landing, LandingError, SnapshotLanding, require_room, spec, tell_only,
};
use crate::store::{Reservation, Store};

mod content;
mod layer;

/// Unpacked bytes for each compressed one, to reserve room by: images of machine code and Python
/// measure about 2.
const UNPACKED_RATIO: u64 = 3;

/// How long layers that need a secret are held when nobody says: a pod that has not come by then
/// pulls as always.
const HOLD: Duration = Duration::from_secs(3600);

/// What warming images needs.
pub(crate) struct Images {
    pub(crate) registries: Registries,
    pub(crate) platform: Platform,
    /// Where containers run; none for plain directories in the store.
    pub(crate) runtime: Option<RuntimeAt>,
    /// How deep an image is brought; by what it needs when absent.
    pub(crate) depth: Option<Depth>,
    pub(crate) unpackers: Unpackers,
}

/// How many layers are unpacked at once. Each has a process and a part of the stream buffer, so
/// this bounds the memory of a job, however many images it has.
pub(crate) struct Unpackers {
    of_an_image: usize,
    all: Semaphore,
}

impl Unpackers {
    /// As many for one image as this machine has cores, up to eight.
    pub(crate) fn of_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let of_an_image = cores.clamp(2, 8);
        Self {
            of_an_image,
            // An image whose registry has stopped leaves as many to the others.
            all: Semaphore::new(2 * of_an_image),
        }
    }
}

/// A container runtime, connected to when the first image needs it.
pub(crate) struct RuntimeAt {
    socket: PathBuf,
    runtime: OnceCell<containerd::Runtime>,
    /// Bytes promised on its disk, where that is not the store's.
    promised: Arc<AtomicU64>,
}

/// Room for an image, until dropped.
enum Room {
    /// Of the store's disk.
    Stores { _reservation: Reservation },
    /// Of the runtime's own.
    Runtimes {
        bytes: u64,
        promised: Arc<AtomicU64>,
    },
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Self::Runtimes { bytes, promised } = self {
            promised.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

impl RuntimeAt {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            runtime: OnceCell::new(),
            promised: Arc::default(),
        }
    }

    /// Promises `bytes` beside `staging`: of the store's room where both are on one disk, so that
    /// models make room for images, else of what is free there.
    async fn promise(&self, job: &Job, staging: &Path, bytes: u64) -> Result<Room, ItemError> {
        let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
        let near = staging.parent().unwrap_or(staging);
        if device(near).is_some() && device(near) == device(job.objects.store.root()) {
            let reservation = job.objects.promise(bytes).await?;
            return Ok(Room::Stores {
                _reservation: reservation,
            });
        }
        let before = self.promised.fetch_add(bytes, Ordering::Relaxed);
        let room = Room::Runtimes {
            bytes,
            promised: self.promised.clone(),
        };
        require_room(near.to_owned(), before.saturating_add(bytes), job.quota)?;
        Ok(room)
    }

    /// The runtime, after what dead sessions left was removed.
    async fn connected(&self) -> Result<&containerd::Runtime, containerd::Error> {
        let connect = || async {
            let config = containerd::Config::new(&self.socket);
            let runtime = containerd::Runtime::connect(config).await?;
            if let Err(error) = runtime.sweep().await {
                tell_only(&error);
            }
            Ok(runtime)
        };
        self.runtime.get_or_try_init(connect).await
    }
}

/// Makes `image` ready.
pub(crate) async fn warm(
    job: &Job,
    ticket: &Ticket,
    image: &ImageRef,
    name: Option<&ImageRef>,
) -> Result<Warmed, ItemError> {
    let images = &job.images;
    let resolved = images.registries.resolve(image, &images.platform).await?;
    let layer_bytes = resolved.layer_bytes();
    ticket.total.store(layer_bytes, Ordering::Relaxed);
    let layers = Layers {
        job,
        ticket,
        resolved: &resolved,
        name,
    };
    let place = match &images.runtime {
        Some(at) => {
            let runtime = at.connected().await?;
            images
                .land_in_containerd(layers.clone(), at, runtime)
                .await?
        }
        None => land_in_directory(layers.clone()).await?,
    };
    Ok(Warmed {
        pinned: resolved.pinned().to_string(),
        place,
        model: None,
    })
}

impl Images {
    async fn land_in_containerd(
        &self,
        layers: Layers<'_>,
        at: &RuntimeAt,
        runtime: &containerd::Runtime,
    ) -> Result<String, ItemError> {
        let detected = runtime.detect().await?;
        let depth = self.depth.unwrap_or(match layers.resolved.secret {
            Secret::Anonymous => Depth::Present,
            // An image record would let any pod of the node use it.
            Secret::NeededFor { .. } => Depth::Layers,
        });
        let hold = layers.ticket.pin.unwrap_or(match depth {
            Depth::Present => Duration::ZERO,
            Depth::Layers | Depth::Content => HOLD,
        });
        match (&detected.verdict, depth) {
            (containerd::Verdict::Fast { staging }, Depth::Present | Depth::Layers) => {
                let spec = spec(layers.resolved, layers.name);
                let landing = SnapshotLanding::begin(runtime, spec, depth, hold).await?;
                let lacking = layers.announce(&landing.missing());
                let room = at.promise(layers.job, staging, unpacked(lacking)).await;
                land(&layers, Box::new(landing), room).await
            }
            (containerd::Verdict::Cri { why }, Depth::Present) => {
                tracing::info!(%why, "the runtime pulls the image itself");
                let every: Vec<usize> = (0..layers.resolved.layers.len()).collect();
                layers.announce(&every);
                let name = layers.name.unwrap_or(&layers.resolved.image).to_string();
                let id = runtime.pull(&name, self.login(layers.resolved)).await?;
                if id != layers.resolved.config.descriptor.digest.prefixed() {
                    return Err(ItemError {
                        said: format!(
                            "{name} was moved while it was pulled, the runtime has {id}: run the same command again"
                        ),
                        again: Again::Soon,
                    });
                }
                Ok(format!(
                    "present in {}, pulled by it: {id}",
                    detected.version
                ))
            }
            (_, Depth::Layers | Depth::Content) => {
                let every: Vec<usize> = (0..layers.resolved.layers.len()).collect();
                layers.announce(&every);
                content::store(&layers, runtime, hold).await
            }
        }
    }

    /// Whether an image that was made ready still is; a pin or hold on it is renewed.
    pub(crate) async fn are_there(
        &self,
        store: &Arc<Store>,
        image: &ImageRef,
        pin: Option<Duration>,
    ) -> bool {
        let Some(digest) = image.digest() else {
            return false;
        };
        let Some(at) = &self.runtime else {
            let (store, name) = (store.clone(), image.to_string());
            let images = super::blocking(move || store.images()).await;
            return images.is_ok_and(|images| images.iter().any(|image| image.note.name == name));
        };
        let asked = async {
            let runtime = at.connected().await?;
            let is_listed = runtime.status(&image.to_string()).await?.is_some();
            // Layers without a record are held by a lease, which ends.
            let is_held = match (is_listed, pin) {
                (true, None) => true,
                (true, Some(pin)) => runtime.renew(&digest, pin).await.map(|_| true)?,
                (false, pin) => runtime.renew(&digest, pin.unwrap_or(HOLD)).await?,
            };
            Ok::<_, containerd::Error>(is_held)
        };
        // A runtime that does not answer has lost nothing.
        asked.await.unwrap_or(true)
    }

    fn login(&self, resolved: &Resolved) -> Option<containerd::Auth> {
        use headstart_registry::RuntimeLogin;
        Some(match self.registries.runtime_login(&resolved.image)? {
            RuntimeLogin::Basic { user, password } => containerd::Auth::Basic {
                username: user,
                password,
            },
            RuntimeLogin::Identity(token) => containerd::Auth::IdentityToken(token),
            RuntimeLogin::Registry(token) => containerd::Auth::RegistryToken(token),
        })
    }
}

async fn land_in_directory(layers: Layers<'_>) -> Result<String, ItemError> {
    let store = layers.job.objects.store.clone();
    let digest = layers.resolved.manifest.descriptor.digest;
    let id = digest.to_string();
    let _held = store.hold(&id);
    let _alone = layers.job.objects.alone(&Expected::Sha256(digest)).await;
    let place = match DirectoryLanding::begin(store.clone(), layers.resolved).await? {
        Some(landing) => {
            let lacking = layers.announce(&landing.missing());
            let room = layers.job.objects.promise(unpacked(lacking)).await;
            land(&layers, Box::new(landing), room.map_err(ItemError::from)).await?
        }
        None => {
            layers.announce(&[]);
            DirectoryLanding::place(&store, &digest)
        }
    };
    let pin = layers.ticket.pin;
    super::blocking(move || store.note_use(&id, pin)).await?;
    Ok(place)
}

/// Fetches and unpacks every missing layer, lands each when its turn has come, and makes the whole
/// usable.
async fn land<Room>(
    layers: &Layers<'_>,
    mut landing: Box<dyn Landing>,
    room: Result<Room, ItemError>,
) -> Result<String, ItemError> {
    let landed = match room {
        Ok(_room) => land_layers(layers, landing.as_mut()).await,
        Err(error) => Err(error),
    };
    match landed {
        Ok(()) => Ok(landing.finish().await?),
        // What has landed serves the next try.
        Err(error) if error.is_transient() => Err(error),
        Err(error) => {
            landing.leave().await;
            Err(error)
        }
    }
}

/// An estimate of what compressed bytes unpack to.
fn unpacked(compressed: u64) -> u64 {
    compressed.saturating_mul(UNPACKED_RATIO)
}

async fn land_layers(layers: &Layers<'_>, landing: &mut dyn Landing) -> Result<(), ItemError> {
    let missing = landing.missing();
    let mut order = Vec::new();
    for &layer in &missing {
        order.push((layer, landing.stage(layer)?, landing.style(layer)));
    }
    let size = |layer: usize| layers.resolved.layers[layer].descriptor.size;
    order.sort_by_key(|(layer, ..)| std::cmp::Reverse(size(*layer)));
    let (unpacked, mut arrived) = mpsc::unbounded_channel();
    let mut arriving =
        stream::iter(order)
            .map(|(layer, staged, style)| async move {
                (layer, layers.bring(layer, staged, style).await)
            })
            .buffer_unordered(layers.job.images.unpackers.of_an_image);
    // Beside landing, so that nothing waits to be fetched while a layer reaches the disk.
    let bringing = async {
        while let Some(brought) = arriving.next().await {
            if unpacked.send(brought).is_err() {
                break;
            }
        }
        drop(unpacked);
        std::future::pending::<Infallible>().await
    };
    // Decides alone when to end: a layer is never left half landed because another has failed.
    let landing = async {
        let mut waiting = BTreeMap::new();
        let mut turns = missing.into_iter().peekable();
        while let Some((layer, brought)) = arrived.recv().await {
            waiting.insert(layer, brought?);
            while let Some(&layer) = turns.peek()
                && let Some(unpacked) = waiting.remove(&layer)
            {
                landing.land(layer, unpacked).await?;
                turns.next();
            }
        }
        Ok(())
    };
    tokio::select! {
        landed = landing => landed,
        never = bringing => match never {},
    }
}

impl Layers<'_> {
    /// Tells what is to be fetched; its bytes.
    fn announce(&self, missing: &[usize]) -> u64 {
        let total = self.resolved.layer_bytes();
        let sizes = missing
            .iter()
            .map(|&layer| self.resolved.layers[layer].descriptor.size);
        let lacking = sizes.fold(0, u64::saturating_add);
        let had = total.saturating_sub(lacking);
        self.ticket.tally.had.fetch_add(had, Ordering::Relaxed);
        self.ticket.report.tell(Event::Resolved {
            item: self.ticket.item.clone(),
            pinned: self.resolved.pinned().to_string(),
            total_bytes: total,
            missing_bytes: lacking.min(total),
        });
        lacking
    }
}

impl From<ResolveError> for ItemError {
    fn from(error: ResolveError) -> Self {
        let again = Again::of(error.is_transient(), error.asked_wait());
        Self::new(&error, again)
    }
}

impl From<LandingError> for ItemError {
    fn from(error: LandingError) -> Self {
        let again = Again::of(error.is_transient(), None);
        Self::new(&error, again)
    }
}
