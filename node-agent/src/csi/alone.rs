//! `headstart-agent csi`: the plugin with an agent of its own that follows no intent.

use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Config, CsiArgs, Metrics, serve};
use crate::agent::Agent;
use crate::cli::{Exit, Own, ReachArgs, StoreArgs};
use crate::report::chain;
use crate::settings::Reach;

/// What it needs.
#[derive(Clone, Debug, Args)]
pub struct AloneArgs {
    /// The name of this node
    #[arg(long, value_name = "NAME")]
    node_name: String,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    reach: ReachArgs,
    #[command(flatten)]
    csi: CsiArgs,
}

/// Runs it until it is told to stop.
pub(crate) fn command(args: &AloneArgs, own: Own) -> Exit {
    let reach = match Reach::read(&args.reach) {
        Ok(reach) => reach,
        Err(error) => {
            eprintln!("error: {error}");
            return Exit::Usage;
        }
    };
    let (store, lock) = match args.store.place().open_or_make() {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            return Exit::Store;
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return Exit::Failed;
        }
    };
    let exit = runtime.block_on(async {
        let ran = async {
            let share = args.reach.share();
            let agent =
                Agent::new(Arc::new(store), reach, share, own).map_err(|error| chain(&error))?;
            agent.open(lock).await.map_err(|error| chain(&error))?;
            let stop = CancellationToken::new();
            let stopping = stop.clone();
            tokio::spawn(async move {
                crate::warm::interrupted().await;
                stopping.cancel();
            });
            let warmth = agent.warmth();
            let config = Config::of(
                &args.csi,
                &args.node_name,
                &warmth,
                Arc::new(Metrics::default()),
                watch::Sender::new(String::new()),
            )
            .ok_or("--csi-socket is missing")?;
            let (_, served) = tokio::join!(
                agent.run(stop.clone()),
                serve(config, Arc::new(warmth), stop)
            );
            served.map_err(|error| chain(&error))
        };
        match ran.await {
            Ok(()) => Exit::Done,
            Err(error) => {
                eprintln!("error: {error}");
                Exit::Failed
            }
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    exit
}
