//! What runs beside the rounds: the ledger with its page, traces and figures, and admission.
//!
//! The page is every replica's; figures and traces are the leading one's, so that two replicas do not
//! count the same deploy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use clap::Args;
use kube::Client;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::lease::Lead;
use crate::admission::command::PartArgs;
use crate::admission::{self, Counts, Turn};
use crate::ledger::Moment;
use crate::ledger::clerk::{Clerk, ListPrice, Report};
use crate::ledger::shelf::Shelf;
use crate::ledger::trace::{self, TraceArgs};
use crate::metrics::label::{Admitted, Opened};
use crate::metrics::{Leads, Metrics};

/// What runs beside the rounds.
#[derive(Debug, Clone, Args)]
pub(crate) struct BesideArgs {
    /// Where the webhook that changes pods listens; without it no pod is changed or steered
    #[arg(long, env = "HEADSTART_WEBHOOK_ADDRESS", value_name = "ADDRESS")]
    webhook_address: Option<SocketAddr>,
    #[command(flatten)]
    admission: PartArgs,
    #[command(flatten)]
    trace: TraceArgs,
}

/// What the ledger reads.
pub(super) struct Feed {
    /// The objects.
    pub(super) shelf: Arc<Shelf>,
    /// What offerings cost on demand.
    pub(super) list_price: Arc<ListPrice>,
}

/// Starts the ledger, and returns its pages.
///
/// # Errors
/// When traces cannot be sent to where they are to go.
pub(super) fn ledger(
    feed: Feed,
    args: &BesideArgs,
    metrics: &Arc<Metrics>,
    lead: &Lead,
    stop: &CancellationToken,
) -> Result<Router> {
    let traces = trace::sender(&args.trace, stop.clone()).map_err(anyhow::Error::msg)?;
    let (shown, latest) = watch::channel(Arc::<Report>::default());
    let (metrics, mut lead, stop) = (Arc::clone(metrics), lead.clone(), stop.clone());
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            let leads = lead.is_held();
            let (counted, word) = match leads {
                true => (Arc::clone(&metrics), Leads::Yes),
                // Its page needs a clerk; nobody reads what that one counts.
                false => (Arc::new(Metrics::new()), Leads::No),
            };
            metrics.leads(word);
            let mut clerk = Clerk::since(Moment::now(), counted);
            if let Some(traces) = traces.as_ref().filter(|_| leads) {
                clerk = clerk.tell(traces.clone());
            }
            let end = stop.child_token();
            let following = clerk.follow(
                Arc::clone(&feed.shelf) as _,
                Arc::clone(&feed.list_price),
                shown.clone(),
                end.clone(),
            );
            let following = tokio::spawn(following);
            while lead.is_held() == leads && !stop.is_cancelled() {
                tokio::select! {
                    () = lead.changed() => {}
                    () = stop.cancelled() => {}
                }
            }
            end.cancel();
            let _ = following.await;
        }
    });
    Ok(crate::page::router(latest))
}

/// Starts admission, if it is to run here. It ends by itself only when it cannot run.
pub(super) async fn admit(
    client: Client,
    args: &BesideArgs,
    namespace: &str,
    metrics: Arc<Metrics>,
    lead: Lead,
    stop: CancellationToken,
) -> Result<()> {
    let Some(listen) = args.webhook_address else {
        stop.cancelled().await;
        return Ok(());
    };
    let leading = Arc::new(move || match lead.is_held() {
        true => Turn::Ours,
        false => Turn::Theirs,
    });
    let counts = Arc::new(Counted(metrics));
    admission::command::parts(
        client,
        &args.admission,
        (listen, namespace),
        leading,
        counts,
        stop,
    )
    .await
}

/// Counts in the metrics what admission does.
struct Counted(Arc<Metrics>);

impl Counts for Counted {
    fn admitted(&self, outcome: admission::Admitted, took: Duration) {
        let outcome = match outcome {
            admission::Admitted::Changed => Admitted::Changed,
            admission::Admitted::Untouched => Admitted::Untouched,
            admission::Admitted::NotUnderstood => Admitted::NotUnderstood,
        };
        self.0.admitted(outcome, took);
    }

    fn gate_opened(&self, reason: admission::Opened) {
        let reason = match reason {
            admission::Opened::Nominated => Opened::Nominated,
            admission::Opened::NoWarmNode => Opened::NoWarmNode,
            admission::Opened::Deadline => Opened::Deadline,
        };
        self.0.gate_opened(reason);
    }
}
