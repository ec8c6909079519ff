//! The main job: everything asked for is resolved, reserved, fetched and published, all of it at
//! once; what fails fails alone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstart_core::model::ModelRef;
use headstart_core::quantity::Rate;
use headstart_hub::endpoint::{Hub, Patience};
use headstart_registry::{ImageRef, Registries};
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits};
use headstart_transfer::net::{Http, NetError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::image::{Images, RuntimeAt, Unpackers};
pub(crate) use self::model::known as known_model;
pub(crate) use self::objects::blocking;
use self::objects::{Objects, Tally};
use self::wanted::Wanted;
use crate::cli::{Exit, Own, WarmArgs, XetWhen};
use crate::report::{Bound, Event, Lines, Outcome, Person, Report, Summary, chain};
use crate::store::{Holding, Quota, Store, StoreError};

mod adopt;
mod image;
mod model;
mod objects;
mod wanted;
mod xet;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Why an item is not ready.
#[derive(Clone, Debug)]
pub(crate) struct ItemError {
    /// One line for a person.
    pub(crate) said: String,
    /// Whether the same command may succeed later.
    pub(crate) transient: bool,
}

impl ItemError {
    pub(crate) fn lasting(error: &dyn std::error::Error) -> Self {
        Self {
            said: chain(error),
            transient: false,
        }
    }
}

/// What all items of a job share.
pub(crate) struct Job {
    pub(crate) http: Http,
    pub(crate) objects: Objects,
    pub(crate) report: Arc<dyn Report>,
    pub(crate) pin: Option<Duration>,
    pub(crate) adopt: Vec<PathBuf>,
    pub(crate) own: Own,
    pub(crate) xet: XetWhen,
    pub(crate) quota: Quota,
    pub(crate) bandwidth: Option<Rate>,
    fetched: AtomicU64,
}

/// Runs `headstart-agent warm`.
pub fn command(args: &WarmArgs, own: Own) -> Exit {
    let report: Arc<dyn Report> = match args.json {
        true => Arc::new(Lines),
        false => Arc::new(Person::default()),
    };
    let wanted = match Wanted::read(args) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    let (store, _lock) = match args.store.place().open_or_make() {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Store;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(async {
        tokio::select! {
            exit = run(args, own, wanted, store, report) => exit,
            () = interrupted() => {
                eprintln!("stopped; what has arrived is kept for the next run");
                Exit::Later
            }
        }
    });
    // Writes under way finish; nothing else is waited for.
    runtime.shutdown_timeout(Duration::from_secs(5));
    exit
}

async fn run(
    args: &WarmArgs,
    own: Own,
    wanted: Wanted,
    store: Store,
    report: Arc<dyn Report>,
) -> Exit {
    let started = Instant::now();
    let job = match Job::new(args, own, &wanted, store, report.clone()) {
        Ok(job) => Arc::new(job),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Failed;
        }
    };
    let hub = Hub::new(wanted.endpoint, wanted.token).with_patience(patience(args));
    let hub = Arc::new(hub);
    let images = Arc::new(Images {
        registries: Registries::new(job.http.clone(), wanted.hosts, wanted.keychain)
            .trust_realms(wanted.trusted_realms),
        platform: wanted.platform,
        runtime: args.containerd.clone().map(RuntimeAt::new),
        depth: args.depth(),
        unpackers: Unpackers::of_this_machine(),
    });
    let wanted_models: Vec<ModelRef> = wanted
        .models
        .iter()
        .filter_map(|(_, model)| model.clone().ok())
        .collect();
    let models = wanted.models.into_iter().map(|(item, model)| {
        let work = model.map(|model| Work::Model(hub.clone(), model));
        (item, work)
    });
    let layered = wanted.images.into_iter().map(|(item, image)| {
        let work = image.map(|image| Work::Image(images.clone(), image));
        (item, work)
    });
    // What is there already must not make room for what is not.
    let known = known_plans(&job, &wanted_models).await;
    let _held: Vec<Holding> = known.iter().map(|id| job.objects.store.hold(id)).collect();
    let mut items = JoinSet::new();
    let mut names = HashMap::new();
    for (item, work) in models.chain(layered) {
        let (job, name) = (job.clone(), item.clone());
        let task = items.spawn(async move {
            let ended = match work {
                Ok(work) => job.watched(&item, work).await,
                Err(error) => Err(error),
            };
            (item, ended)
        });
        names.insert(task.id(), name);
    }
    let (mut ready, mut failed, mut transient) = (0, 0, true);
    while let Some(ended) = items.join_next().await {
        let (item, outcome) = ended.unwrap_or_else(|broken| {
            let item = names.remove(&broken.id()).unwrap_or_default();
            (item, Err(ItemError::lasting(&broken)))
        });
        match outcome {
            Ok(outcome) => {
                ready += 1;
                report.tell(Event::Ready(outcome));
            }
            Err(error) => {
                failed += 1;
                transient &= error.transient;
                report.tell(Event::Failed {
                    item,
                    error: error.said,
                    transient: error.transient,
                });
            }
        }
    }
    report.tell(Event::Summary(Summary {
        ready,
        failed,
        fetched_bytes: job.fetched.load(Ordering::Relaxed),
        took: started.elapsed(),
    }));
    match (failed, transient) {
        (0, _) => Exit::Done,
        (_, true) => Exit::Later,
        (_, false) => Exit::Failed,
    }
}

/// What the Hub may make us wait: its own measure, unless less was asked for.
fn patience(args: &WarmArgs) -> Patience {
    let default = Patience::default();
    let most = Duration::from_secs(args.patience);
    Patience {
        trouble: default.trouble.min(most),
        told: default.told.min(most.max(Duration::from_secs(1))),
        ..default
    }
}

/// What is to be done for one item.
enum Work {
    Model(Arc<Hub>, ModelRef),
    Image(Arc<Images>, ImageRef),
}

impl Work {
    async fn run(
        self,
        job: &Job,
        item: &str,
        tally: &Tally,
        total: &AtomicU64,
    ) -> Result<Warmed, ItemError> {
        match self {
            Self::Model(hub, model) => model::warm(job, &hub, item, &model, tally, total).await,
            Self::Image(images, image) => {
                image::warm(job, &images, item, &image, tally, total).await
            }
        }
    }
}

/// Ids of the plans that `models` last led to.
async fn known_plans(job: &Job, models: &[ModelRef]) -> Vec<String> {
    let (store, models) = (job.objects.store.clone(), models.to_vec());
    let known = move || {
        let plans = models
            .iter()
            .filter_map(|model| known_model(&store, model).ok()?);
        plans.map(|plan| plan.id().to_string()).collect()
    };
    blocking(known).await
}

/// What an item's work comes back with.
pub(crate) struct Warmed {
    pub(crate) pinned: String,
    pub(crate) place: String,
    /// Microseconds that fetching waited for unpacking.
    pub(crate) unpack_wait: u64,
}

impl Job {
    fn new(
        args: &WarmArgs,
        own: Own,
        wanted: &Wanted,
        store: Store,
        report: Arc<dyn Report>,
    ) -> Result<Self, NetError> {
        let limits = Limits {
            connections: args.max_connections.into(),
            bandwidth: args.max_bandwidth,
            patience: Duration::from_secs(args.patience),
            ..Limits::default()
        };
        let http = Http::new(wanted.policy.clone())?;
        let engine = Engine::new(&http, limits, BootId::of_this_machine())?;
        Ok(Self {
            http,
            own,
            xet: args.xet,
            quota: store.quota(),
            objects: Objects::new(Arc::new(store), engine),
            report,
            pin: args.pin(),
            adopt: args.adopt.clone(),
            bandwidth: args.max_bandwidth,
            fetched: AtomicU64::new(0),
        })
    }

    /// Runs one item's work, telling its progress until it ends.
    async fn watched(self: Arc<Self>, item: &str, work: Work) -> Result<Outcome, ItemError> {
        let started = Instant::now();
        let (tally, total) = (Arc::new(Tally::default()), Arc::new(AtomicU64::new(0)));
        let done = CancellationToken::new();
        let telling = tokio::spawn({
            let (report, item) = (self.report.clone(), item.to_owned());
            let (tally, total) = (tally.clone(), total.clone());
            done.clone().run_until_cancelled_owned(async move {
                loop {
                    tokio::time::sleep(TELL_EVERY).await;
                    let sums = tally.sums();
                    let total_bytes = total.load(Ordering::Relaxed);
                    let done_bytes = (sums.had + sums.landed + sums.resumed).min(total_bytes);
                    report.tell(Event::Progress {
                        item: item.clone(),
                        done_bytes,
                        total_bytes,
                    });
                }
            })
        });
        let warmed = work.run(&self, item, &tally, &total).await;
        done.cancel();
        let _ = telling.await;
        let sums = tally.sums();
        self.fetched.fetch_add(sums.landed, Ordering::Relaxed);
        let warmed = warmed?;
        let took = started.elapsed();
        Ok(Outcome {
            item: item.to_owned(),
            pinned: warmed.pinned,
            total_bytes: total.load(Ordering::Relaxed),
            fetched_bytes: sums.landed,
            resumed_bytes: sums.resumed,
            took,
            bound: self.bound(&sums, warmed.unpack_wait, took),
            place: warmed.place,
        })
    }

    fn bound(&self, sums: &objects::Sums, unpack_wait: u64, took: Duration) -> Bound {
        let rate = sums.landed as f64 / took.as_secs_f64().max(0.001);
        match self.bandwidth {
            _ if sums.landed == 0 => Bound::Nothing,
            Some(limit) if rate > 0.85 * limit.0 as f64 => Bound::Limit,
            _ if unpack_wait > sums.network_wait => Bound::Inflate,
            _ if sums.disk_wait > sums.network_wait => Bound::Disk,
            _ => Bound::Link,
        }
    }
}

impl From<StoreError> for ItemError {
    fn from(error: StoreError) -> Self {
        Self::lasting(&error)
    }
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(_) => return std::future::pending().await,
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
