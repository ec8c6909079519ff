//! `headstart top`: nodes on their way, caches and deploys, as they are now.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use kube::Client;
use tokio::sync::mpsc;

use crate::kubectl::{self, ClusterArgs};
use crate::ledger::clerk::{EVERY, Source};
use crate::ledger::files::Files;
use crate::ledger::shelf::Shelf;
use crate::ledger::{Moment, watch};
use crate::out;

pub(crate) mod table;

/// Show nodes on their way, what is cached where, and deploys with what they wait for
///
/// Deploys of all namespaces are shown unless --namespace names one. Exit codes: 0 shown; 2 there is
/// nothing to ask.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show it again every two seconds
    #[arg(short, long)]
    watch: bool,
    /// Objects from files instead of a cluster, as `kubectl get -o yaml` writes them
    #[arg(long, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Does it.
pub(crate) fn command(args: &TopArgs) -> ExitCode {
    kubectl::run(show(args))
}

async fn show(args: &TopArgs) -> Result<(), String> {
    let namespace = args.cluster.namespace.as_deref();
    let source: Arc<dyn Source> = match args.from.as_slice() {
        [] => listed(args.cluster.connect().await?.client).await?,
        files => {
            let files = Files(files.to_vec());
            // What is wrong with them is an error, not a warning to be looked for.
            files
                .read()
                .map_err(|problems| problems.join("\nerror: "))?;
            Arc::new(files)
        }
    };
    loop {
        let objects = source.objects().unwrap_or_default();
        let text = table::top(&objects, namespace, Moment::now());
        if !args.watch {
            out::print(&text);
            return Ok(());
        }
        if std::io::stdout().is_terminal() {
            let _ = console::Term::stdout().clear_screen();
        }
        if !out::print(&format!("{text}\n")) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// The objects of a cluster, once all are listed; they go on being watched.
///
/// # Errors
/// In one line, if they cannot be.
pub(crate) async fn listed(client: Client) -> Result<Arc<Shelf>, String> {
    let shelf = Arc::new(Shelf::default());
    let (say, mut problems) = mpsc::channel(1);
    tokio::spawn(watch::fill(client, shelf.clone(), say));
    let complete = async {
        while shelf.objects().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = complete => {}
        // The first problem is the answer: nobody waits at a prompt for it to go away.
        Some(problem) = problems.recv() => return Err(problem),
        () = tokio::time::sleep(watch::PATIENCE) => {
            return Err(format!("the cluster did not list its objects in {} s", watch::PATIENCE.as_secs()));
        }
    }
    tokio::spawn(async move {
        while let Some(problem) = problems.recv().await {
            eprintln!("warning: {problem}");
        }
    });
    Ok(shelf)
}
