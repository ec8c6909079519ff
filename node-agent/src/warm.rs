//! The one-shot job: everything asked for on the command line is brought here, all of it at once;
//! what fails fails alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstart_core::model::ModelRef;
use headstart_core::quantity::Rate;
use headstart_registry::ImageRef;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::{Exit, Own, WarmArgs};
use crate::items::{Again, ItemError, Job, Ticket, Work, blocking, known_model};
use crate::report::{Event, Lines, Outcome, Person, Report, Summary, chain};
use crate::settings::Reach;
use crate::store::{Holding, Store};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// A container is created before it reads weights: images go first.
const IMAGES: u32 = 0;
const MODELS: u32 = 1;

/// Runs `headstart-agent warm`.
pub fn command(args: &WarmArgs, own: Own) -> Exit {
    let report: Arc<dyn Report> = match args.json {
        true => Arc::new(Lines),
        false => Arc::new(Person::default()),
    };
    let reach = match Reach::read(&args.reach) {
        Ok(reach) => reach,
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
            exit = run(args, own, reach, Arc::new(store), report) => exit,
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
    reach: Reach,
    store: Arc<Store>,
    report: Arc<dyn Report>,
) -> Exit {
    let started = Instant::now();
    let job = match Job::new(store, reach, args.reach.share(), own) {
        Ok(job) => Arc::new(job),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Failed;
        }
    };
    let models: Vec<(String, Result<ModelRef, ItemError>)> = read(&args.models);
    let images: Vec<(String, Result<ImageRef, ItemError>)> = read(&args.images);
    // What is there already must not make room for what is not.
    let wanted = models.iter().filter_map(|(_, model)| model.clone().ok());
    let known = known_plans(&job, wanted.collect()).await;
    let _held: Vec<Holding> = known.iter().map(|id| job.objects.store.hold(id)).collect();
    let models = models.into_iter().map(|(item, model)| {
        let work = model.map(|model| Work::Model {
            model,
            token: None,
            known: None,
        });
        (item, work, MODELS)
    });
    let images = images.into_iter().map(|(item, image)| {
        let work = image.map(|image| Work::Image { image, name: None });
        (item, work, IMAGES)
    });
    let fetched = Arc::new(AtomicU64::new(0));
    let mut items = JoinSet::new();
    let mut names = HashMap::new();
    for (item, work, rank) in models.chain(images) {
        let ticket = Ticket::new(&*item, args.pin(), rank.into(), report.clone());
        let (job, fetched, name) = (job.clone(), fetched.clone(), item.clone());
        let limit = args.reach.max_bandwidth;
        let task = items.spawn(async move {
            let ended = match work {
                Ok(work) => watched(&job, Arc::new(ticket), &work, limit, &fetched).await,
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
                transient &= error.is_transient();
                report.tell(Event::Failed {
                    item,
                    transient: error.is_transient(),
                    error: error.said,
                });
            }
        }
    }
    report.tell(Event::Summary(Summary {
        ready,
        failed,
        fetched_bytes: fetched.load(Ordering::Relaxed),
        took: started.elapsed(),
    }));
    match (failed, transient) {
        (0, _) => Exit::Done,
        (_, true) => Exit::Later,
        (_, false) => Exit::Failed,
    }
}

/// Each reference once, read; a mistyped one fails alone.
fn read<T>(texts: &[String]) -> Vec<(String, Result<T, ItemError>)>
where
    T: std::str::FromStr,
    T::Err: std::error::Error,
{
    let mut seen = BTreeSet::new();
    let once = texts.iter().filter(|text| seen.insert(text.as_str()));
    let read = |text: &String| {
        let item = text.parse::<T>();
        let item = item.map_err(|error| ItemError::new(&error, Again::Lasting));
        (text.clone(), item)
    };
    once.map(read).collect()
}

/// Ids of the plans that `models` last led to.
async fn known_plans(job: &Job, models: Vec<ModelRef>) -> Vec<String> {
    let store = job.objects.store.clone();
    let known = move || {
        let plans = models
            .iter()
            .filter_map(|model| known_model(&store, model).ok()?);
        plans.map(|known| known.plan.id().to_string()).collect()
    };
    blocking(known).await
}

/// Runs one item's work, telling its progress until it ends.
async fn watched(
    job: &Job,
    ticket: Arc<Ticket>,
    work: &Work,
    limit: Option<Rate>,
    fetched: &AtomicU64,
) -> Result<Outcome, ItemError> {
    let started = Instant::now();
    let done = CancellationToken::new();
    let telling = tokio::spawn({
        let ticket = ticket.clone();
        done.clone().run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let (done_bytes, total_bytes) = ticket.progress();
                ticket.report.tell(Event::Progress {
                    item: ticket.item.clone(),
                    done_bytes,
                    total_bytes,
                });
            }
        })
    });
    let warmed = job.run(work, &ticket).await;
    done.cancel();
    let _ = telling.await;
    let sums = ticket.tally.sums();
    fetched.fetch_add(sums.landed, Ordering::Relaxed);
    let warmed = warmed?;
    let took = started.elapsed();
    Ok(Outcome {
        item: ticket.item.clone(),
        pinned: warmed.pinned,
        total_bytes: ticket.total.load(Ordering::Relaxed),
        fetched_bytes: sums.landed,
        resumed_bytes: sums.resumed,
        took,
        bound: ticket.bound(took, limit),
        place: warmed.place,
    })
}

/// Waits for SIGINT or SIGTERM, from this call on and not from the first look at it: one that comes to a
/// container's first process while nobody listens is lost.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [Ok(mut interrupt), Ok(mut terminate)] = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
