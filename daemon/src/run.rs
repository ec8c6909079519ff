//! `headstart run`: the control plane, as a list of its parts.
//!
//! Exit codes: 0 it was asked to stop; 1 it could not start or a part of it ended; 2 the command line
//! is wrong.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result};
use headstart_api::ClaimOffering;
use headstart_core::snapshot::Policy;
use headstart_provider::kwok;
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

pub(crate) use self::config::RunArgs;
use self::gauges::Gauges;
use self::lease::Elector;
use self::mind::Mind;
use self::picture::Picture;
use self::retire::Retiring;
use self::round::{Doors, Rounds, Settings};
use self::say::Speaker;
use self::serve::Pages;
use self::write::Writer;
use crate::ledger::shelf::{Keeps, Shelf};
use crate::metrics::Metrics;
use crate::provider::ProviderKind;

mod announced;
mod batch;
mod beside;
mod calls;
mod claim;
mod config;
mod decide;
mod drift;
mod gauges;
mod intent;
mod lease;
mod leave;
mod life;
mod listed;
mod mind;
mod moving;
mod nodes;
mod notices;
mod outside;
mod own;
mod pace;
mod picture;
mod report;
mod retire;
mod round;
mod say;
mod serve;
mod slim;
mod status;
mod steps;
mod tally;
mod watch;
mod wish;
mod write;

/// How long parts may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Does it.
pub(crate) fn command(args: &RunArgs) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEADSTART_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let runtime = tokio::runtime::Runtime::new().context("start the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(args.clone()))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: RunArgs) -> Result<()> {
    let stop = CancellationToken::new();
    let client = client().await?;
    let identity = args.identity();
    info!(identity, cluster = args.provider.cluster_name, "starts");
    let provider = args
        .provider
        .open(Some(&client), |name| std::env::var(name).ok())?;
    let resolver = outside::open(&args.outside, args.provider.policy()?)?;
    let word = provider.as_ref().map_or("none", |provider| provider.name());
    info!(provider = word, "nodes come from there");
    let (learned, resolved) = mpsc::channel(1);
    let told = resolver.clone();
    tokio::spawn(async move {
        loop {
            told.changed().await;
            if learned.send(()).await.is_err() {
                return;
            }
        }
    });
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::within(&mut registry));
    metrics.buys_from(word);
    let gauges = Arc::new(Gauges::new(Arc::clone(&metrics)));
    let registry = Arc::new(Mutex::new(registry));

    let (elector, lead) = Elector::new(
        client.clone(),
        &args.namespace,
        &args.lease,
        &identity,
        Duration::from_secs(args.lease_seconds.into()),
    );
    let elector = tokio::spawn(elector.run(stop.clone()));
    if args.provider.provider == ProviderKind::Kwok {
        let (client, held, stop) = (client.clone(), lead.clone(), stop.clone());
        tokio::spawn(async move { kwok::keep::keep(client, || held.is_held(), stop).await });
    }

    let (ask, plans) = mpsc::channel(8);
    let pages = Pages {
        gauges: Arc::clone(&gauges),
        registry,
        plans: ask,
    };
    let listener = serve::listen(args.http)
        .await
        .with_context(|| format!("listen at {}", args.http))?;
    let shelf = Arc::new(Shelf::new(Keeps::Recent));
    let list = Arc::clone(&gauges);
    let list_price = Arc::new(move |offering: &ClaimOffering| list.list_price(offering));
    let feed = beside::Feed {
        shelf: Arc::clone(&shelf),
        list_price,
    };
    let book = beside::ledger(feed, &args.beside, &metrics, &lead, &stop)?;
    let server = serve::serve(listener, pages, book, stop.clone());
    let mut server = tokio::spawn(server);

    let admission = beside::admit(
        client.clone(),
        &args.beside,
        &args.namespace,
        metrics,
        lead.clone(),
        stop.clone(),
    );
    tokio::pin!(admission);

    let (out, changes) = mpsc::channel(watch::QUEUE);
    let (answer, answers) = mpsc::unbounded_channel();
    let calls = provider.map(|provider| calls::Calls::new(provider, lead.clone(), answer));
    let mind = Mind::new(Policy::default(), Arc::new(resolver));
    let (retiring, retired) = Retiring::new();
    let rounds = Rounds::new(
        (Picture::new(shelf), mind, retiring),
        calls,
        Writer::new(client.clone(), lead.clone(), &args.namespace, &args.lease),
        Speaker::start(client.clone(), &identity, stop.clone()),
        lead,
        gauges,
        Settings {
            interval: args.interval(),
            delay: args.delay(),
            batch_idle: Duration::from_millis(args.batch_idle_ms),
            batch_most: Duration::from_millis(args.batch_most_ms),
            registration_limit: Duration::from_secs(args.registration_seconds),
            orphan_limit: Duration::from_secs(args.orphan_seconds),
            list_every: Duration::from_secs(args.list_seconds),
            retire_every: Duration::from_secs(args.retire_seconds),
        },
    );
    let doors = Doors {
        changes,
        answers,
        plans,
        resolved,
        retired,
    };
    let mut rounds = tokio::spawn(rounds.run(client, out, doors, stop.clone()));

    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
        ended = &mut admission => {
            Err(ended.err().unwrap_or_else(|| anyhow::anyhow!("admission ended")))
        }
        ended = &mut rounds => Err(anyhow::anyhow!("the loop ended: {ended:?}")),
        ended = &mut server => Err(anyhow::anyhow!("the server ended: {ended:?}")),
    };
    info!("stops");
    stop.cancel();
    if ended.is_ok() {
        // Gates of ours are opened by whoever leaves.
        let _ = tokio::time::timeout(FAREWELL, admission).await;
    }
    // The lease is let go last, so that nobody else writes while this replica still does.
    let _ = tokio::time::timeout(FAREWELL, rounds).await;
    let _ = tokio::time::timeout(FAREWELL, elector).await;
    ended
}

/// A client for the cluster that this runs in, or that the kubeconfig names. A call fails at once: the
/// next round is the retry, and an API server that is away is not hidden.
async fn client() -> Result<Client> {
    // Another part of this process may have chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::infer().await.context("find the cluster")?;
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).context("make a client")
}
