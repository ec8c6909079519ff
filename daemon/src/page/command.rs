//! `headstart page`: the daemon's page without the daemon, for the cluster a kubeconfig names or for
//! objects in files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use headstart_agent::report::chain;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::kubectl::{self, ClusterArgs};
use crate::ledger::Moment;
use crate::ledger::clerk::{Clerk, Report, Source};
use crate::ledger::files::Files;
use crate::ledger::shelf::Shelf;
use crate::ledger::trace::{self, TraceArgs};
use crate::metrics::Metrics;

/// Serve the page with deploys and caches on this machine, until interrupted
#[derive(Debug, Args)]
pub(crate) struct PageArgs {
    /// Address to listen at
    #[arg(long, default_value = "127.0.0.1:8642")]
    listen: SocketAddr,
    /// Objects from files instead of a cluster, as `kubectl get -o yaml` writes them; read anew at
    /// every look
    #[arg(long, num_args = 1.., value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Count deploys that served before now as well, in /metrics and in traces
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    trace: TraceArgs,
}

/// Does it.
pub(crate) fn command(args: &PageArgs) -> ExitCode {
    kubectl::run(serve(args))
}

async fn serve(args: &PageArgs) -> Result<(), String> {
    let source: Arc<dyn Source> = match args.from.as_slice() {
        [] => {
            let cluster = args.cluster.connect().await?;
            let shelf = Arc::new(Shelf::default());
            let (say, mut problems) = mpsc::channel(1);
            tokio::spawn(crate::ledger::watch::fill(
                cluster.client,
                shelf.clone(),
                say,
            ));
            tokio::spawn(async move {
                while let Some(problem) = problems.recv().await {
                    eprintln!("warning: {problem}");
                }
            });
            shelf
        }
        files => {
            let files = Files(files.to_vec());
            files
                .read()
                .map_err(|problems| problems.join("\nerror: "))?;
            Arc::new(files)
        }
    };
    let metrics = Arc::new(Metrics::new());
    let since = match args.all {
        true => Moment(i64::MIN),
        false => Moment::now(),
    };
    let mut clerk = Clerk::since(since, metrics.clone());
    let end = CancellationToken::new();
    if let Some(traces) = trace::sender(&args.trace, end.clone())? {
        clerk = clerk.tell(traces);
    }
    let (shown, latest) = watch::channel(Arc::<Report>::default());
    let nobody_knows = Arc::new(|_: &headstart_api::ClaimOffering| None);
    tokio::spawn(clerk.follow(source, nobody_knows, shown, end.clone()));
    let listener = TcpListener::bind(args.listen).await;
    let listener =
        listener.map_err(|error| format!("--listen {}: {}", args.listen, chain(&error)))?;
    let address = listener.local_addr().map_err(|error| chain(&error))?;
    println!("http://{address}/");
    let app = super::router(latest).merge(super::metrics(metrics));
    axum::serve(listener, app)
        .with_graceful_shutdown(async move {
            let _ = tokio::signal::ctrl_c().await;
            end.cancel();
        })
        .await
        .map_err(|error| chain(&error))
}
