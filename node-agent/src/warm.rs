//! The main job: everything asked for is resolved, reserved, fetched and published, all of it at
//! once; what fails fails alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headstart_core::model::ModelRef;
use headstart_core::quantity::Rate;
use headstart_hub::endpoint::{Hub, Token};
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use tokio_util::sync::CancellationToken;
use url::Url;

use self::objects::{Objects, Tally};
use crate::cli::{Exit, WarmArgs};
use crate::report::{Bound, Event, Lines, Outcome, Person, Report, Summary, chain};
use crate::store::{Store, StoreError};

pub(crate) use self::model::known as known_model;

mod adopt;
mod model;
mod objects;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Why an item is not ready.
#[derive(Debug)]
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
    pub(crate) bandwidth: Option<Rate>,
    fetched: AtomicU64,
}

/// Runs `headstart-agent warm`.
pub fn command(args: &WarmArgs) -> Exit {
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
            exit = run(args, wanted, store, report) => exit,
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

/// The command line, understood.
struct Wanted {
    models: Vec<(String, Result<ModelRef, ItemError>)>,
    endpoint: Url,
    token: Option<Token>,
    policy: HostPolicy,
}

impl Wanted {
    fn read(args: &WarmArgs) -> Result<Self, String> {
        let mut policy = HostPolicy::default();
        let host = |flag: &str, text: &String| {
            HostPort::parse(text)
                .ok_or_else(|| format!("{flag} {text:?}: expected HOST or HOST:PORT"))
        };
        for text in &args.allow_private {
            policy.private_hosts.insert(host("--allow-private", text)?);
        }
        for text in &args.plain_http {
            policy.trust_plain_http(host("--plain-http", text)?);
        }
        if let Some(path) = &args.ca_file {
            let pem = std::fs::read(path);
            let pem = pem.map_err(|error| format!("--ca-file {}: {error}", path.display()))?;
            policy.extra_roots_pem.push(pem);
        }
        let endpoint = Url::parse(&args.endpoint)
            .map_err(|error| format!("--endpoint {:?}: {error}", args.endpoint))?;
        match (endpoint.scheme(), endpoint.host_str()) {
            ("https", Some(_)) => {}
            ("http", Some(name)) => policy.trust_plain_http(HostPort {
                host: name.trim_matches(['[', ']']).to_owned(),
                port: endpoint.port_or_known_default(),
            }),
            _ => {
                return Err(format!(
                    "--endpoint {:?}: expected an https URL",
                    args.endpoint
                ));
            }
        }
        // A mistyped name fails alone: the other items are fetched all the same.
        let models = unique(&args.models).map(|text| {
            let model = text.parse::<ModelRef>();
            (
                text.clone(),
                model.map_err(|error| ItemError::lasting(&error)),
            )
        });
        Ok(Self {
            models: models.collect(),
            endpoint,
            token: args.token_file.as_deref().map(read_token).transpose()?,
            policy,
        })
    }
}

async fn run(args: &WarmArgs, wanted: Wanted, store: Store, report: Arc<dyn Report>) -> Exit {
    let started = Instant::now();
    let limits = Limits {
        connections: args.max_connections.into(),
        bandwidth: args.max_bandwidth,
        patience: Duration::from_secs(args.patience),
        ..Limits::default()
    };
    let http = Http::new(wanted.policy.clone());
    let engine = http.and_then(|http| {
        let engine = Engine::new(&http, limits, BootId::of_this_machine())?;
        Ok((http, engine))
    });
    let (http, engine) = match engine {
        Ok(made) => made,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Failed;
        }
    };
    let job = Arc::new(Job {
        http,
        objects: Objects::new(Arc::new(store), engine),
        report: report.clone(),
        pin: args.pin(),
        adopt: args.adopt.clone(),
        bandwidth: args.max_bandwidth,
        fetched: AtomicU64::new(0),
    });
    let hub = Arc::new(Hub::new(wanted.endpoint, wanted.token));
    let mut items = tokio::task::JoinSet::new();
    for (item, model) in wanted.models {
        let (job, hub) = (job.clone(), hub.clone());
        items.spawn(async move {
            let model = match model {
                Ok(model) => model,
                Err(error) => return (item, Err(error)),
            };
            let outcome = job.clone().watched(&item, |tally, total| {
                let (job, item) = (job.clone(), item.clone());
                async move { model::warm(&job, &hub, &item, &model, &tally, &total).await }
            });
            let outcome = outcome.await;
            (item, outcome)
        });
    }
    let (mut ready, mut failed, mut transient) = (0, 0, true);
    while let Some(ended) = items.join_next().await {
        let (item, outcome) = ended.expect("an item neither panics nor is aborted");
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

/// What an item's work comes back with.
pub(crate) struct Warmed {
    pub(crate) pinned: String,
    pub(crate) place: String,
    /// Whether its bytes were unpacked by processor rather than only written.
    pub(crate) unpack_wait: u64,
}

impl Job {
    /// Runs one item's work, telling its progress until it ends.
    async fn watched<Work>(
        self: Arc<Self>,
        item: &str,
        work: impl FnOnce(Arc<Tally>, Arc<AtomicU64>) -> Work,
    ) -> Result<Outcome, ItemError>
    where
        Work: Future<Output = Result<Warmed, ItemError>>,
    {
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
        let warmed = work(tally.clone(), total.clone()).await;
        done.cancel();
        let _ = telling.await;
        let warmed = warmed?;
        let sums = tally.sums();
        self.fetched.fetch_add(sums.landed, Ordering::Relaxed);
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

fn unique(texts: &[String]) -> impl Iterator<Item = &String> {
    let mut seen = BTreeSet::new();
    texts.iter().filter(move |text| seen.insert(text.as_str()))
}

fn read_token(path: &Path) -> Result<Token, String> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| format!("--token-file {}: {error}", path.display()))?;
    let token = text.parse::<Token>();
    token.map_err(|error| format!("--token-file {}: {error}", path.display()))
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
