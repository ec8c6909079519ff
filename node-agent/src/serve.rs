//! The agent of a node in a cluster, started by the DaemonSet: the intent comes from the node's
//! `NodeCache`, what is here goes into its status, and models are shown to pods.
//!
//! While another agent still has the store it answers already, and takes over by and by
//! (`crate::handover`). Nothing here waits for the API server.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, watch_network};
use crate::cli::{Exit, Own, ServeArgs};
use crate::notice::Notices;
use crate::report::chain;
use crate::settings::Reach;
use crate::warm::interrupted;
use crate::{announce, boot, csi, handover, metrics, notice};

/// Threads that run what never blocks.
const THREADS: usize = 2;

/// How long the API server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Pause before a socket that could not be made is tried for again.
const AGAIN: Duration = Duration::from_secs(10);

/// Runs `headstart-agent serve`.
pub fn command(args: &ServeArgs, own: Own) -> Exit {
    let read = Reach::read(&args.reach).and_then(|reach| {
        let notices = Notices::read(&args.notice)?;
        Ok((reach, notices))
    });
    match read {
        Ok((reach, notices)) => block_on(run(args, own, reach, notices)),
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Usage
        }
    }
}

/// Runs one of the long commands on a runtime of its own.
pub(crate) fn block_on(work: impl Future<Output = Exit>) -> Exit {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(work);
    // Writes under way finish; nothing else is waited for.
    runtime.shutdown_timeout(Duration::from_secs(2));
    exit
}

async fn run(args: &ServeArgs, own: Own, reach: Reach, notices: Notices) -> Exit {
    let asked_to_end = interrupted();
    let (store, lock) = match handover::open(&args.store.place()) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Store;
        }
    };
    let client = match client(args.kubeconfig.as_deref()).await {
        Ok(client) => client,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    let containerd = reach.containerd.clone();
    let agent = match Agent::new(store, reach, args.reach.share(), own) {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Failed;
        }
    };
    let listener = match &args.metrics_address {
        None => None,
        Some(address) => match tokio::net::TcpListener::bind(address).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                eprintln!("error: --metrics-address {address}: {error}");
                return Exit::Usage;
            }
        },
    };
    let (stop, leaving) = (CancellationToken::new(), CancellationToken::new());
    let opening = async {
        let lock = match lock {
            Some(lock) => lock,
            None => handover::take_over(&agent).await?,
        };
        agent.open(lock).await
    };
    let figures = Arc::new(csi::Metrics::default());
    let volumes = volumes(args, agent.clone(), figures.clone(), stop.clone());
    let working = async {
        let opened = tokio::select! {
            opened = opening => opened,
            () = stop.cancelled() => return Exit::Done,
        };
        match opened {
            Ok(()) => {
                tokio::select! {
                    ((), ()) = async { tokio::join!(agent.run(stop.clone()), volumes) } => Exit::Done,
                    () = answering(agent.clone(), leaving.clone()) => Exit::Failed,
                }
            }
            Err(error) => {
                tracing::error!(reason = %chain(&error), "store cannot be used");
                Exit::Store
            }
        }
    };
    let ending = async {
        tokio::select! {
            () = asked_to_end => {}
            () = async { leaving.cancelled().await; agent.idle().await } => {}
        }
        stop.cancel();
        std::future::pending().await
    };
    tokio::select! {
        exit = working => exit,
        never = ending => never,
        () = announce::announce(client, args.node_name.clone(), agent.clone()) => Exit::Failed,
        () = watch_network(agent.clone()) => Exit::Failed,
        () = notice::watch(notices, agent.clone()) => Exit::Failed,
        () = boot::runtime(containerd, &agent) => Exit::Failed,
        () = metrics::serve(listener, agent.clone(), figures) => Exit::Failed,
    }
}

/// Answers other agents, for as long as this one lives.
pub(crate) async fn answering(agent: Agent, leaving: CancellationToken) {
    loop {
        if let Err(error) = handover::answer(agent.clone(), leaving.clone()).await {
            tracing::warn!(reason = %chain(&error), "other agents are not answered");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Shows models to pods until `stop`, if it is to. Without the kubelet's directories it goes on
/// fetching, and looks for them again.
async fn volumes(
    args: &ServeArgs,
    agent: Agent,
    figures: Arc<csi::Metrics>,
    stop: CancellationToken,
) {
    let (problem, mut said) = watch::channel(String::new());
    let telling = async {
        while said.changed().await.is_ok() {
            let said = said.borrow_and_update().clone();
            agent.trouble(said);
        }
        std::future::pending::<()>().await;
    };
    let serving = async {
        loop {
            let warmth = agent.warmth();
            let (figures, problem) = (figures.clone(), problem.clone());
            let name = &args.node_name;
            let config = csi::Config::of(&args.csi, name, &warmth, figures, problem);
            let Some(config) = config else {
                return;
            };
            match csi::serve(config, Arc::new(warmth), stop.clone()).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(reason = %chain(&error), "models are not shown to pods");
                }
            }
            let pause = tokio::time::sleep(AGAIN);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = telling => {}
    }
}

/// A client of the API server: as that file says, else as a pod of the cluster.
async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = match kubeconfig {
        Some(path) => {
            let said = |error: &dyn std::error::Error| {
                format!("--kubeconfig {}: {}", path.display(), chain(error))
            };
            let read = Kubeconfig::read_from(path).map_err(|error| said(&error))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(read, &options).await;
            config.map_err(|error| said(&error))?
        }
        None => Config::incluster().map_err(|error| {
            format!(
                "not in a pod, and no --kubeconfig is given: {}",
                chain(&error)
            )
        })?,
    };
    config.connect_timeout = Some(CONNECT);
    // Whoever asks knows better when to ask again.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| chain(&error))
}
