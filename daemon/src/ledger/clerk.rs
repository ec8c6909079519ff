//! The clerk keeps the book while this replica leads: it looks at what watches have, counts what is
//! done, shows what is under way, and hands the rest on.

use std::sync::Arc;
use std::time::Duration;

use headstart_api::ClaimOffering;
use headstart_core::money::HourlyPrice;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::book::Book;
use super::deploy::Deploy;
use super::{Moment, Objects, Once, deploys};
use crate::metrics::Metrics;
use crate::metrics::inventory::OnDemand;

/// How often the clerk looks. Figures come from stamps, so this only delays them.
pub(crate) const EVERY: Duration = Duration::from_secs(2);

/// The on-demand list price of an offering; none if it is not known.
pub(crate) type ListPrice = dyn Fn(&ClaimOffering) -> Option<HourlyPrice> + Send + Sync;

/// Where objects are read from: the stores of watches, or files.
pub(crate) trait Source: Send + Sync + 'static {
    /// All of them; none before every watch has listed once.
    fn objects(&self) -> Option<Objects>;
}

impl<F: Fn() -> Option<Objects> + Send + Sync + 'static> Source for F {
    fn objects(&self) -> Option<Objects> {
        self()
    }
}

/// What there is to show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// When it was looked.
    pub(crate) at: Moment,
    /// Deploys under way and done, the youngest first.
    pub(crate) deploys: Vec<Arc<Deploy>>,
    /// The objects they were read from.
    pub(crate) objects: Objects,
}

/// Keeps the book.
#[derive(Debug)]
pub(crate) struct Clerk {
    book: Book,
    fetched: Once,
    metrics: Arc<Metrics>,
    served: Option<mpsc::Sender<Arc<Deploy>>>,
}

impl Clerk {
    /// One that counts what is done after `since`: the start of this process, or of its lease.
    pub(crate) fn since(since: Moment, metrics: Arc<Metrics>) -> Self {
        Self {
            book: Book::since(since),
            fetched: Once::since(since),
            metrics,
            served: None,
        }
    }

    /// Hands deploys that serve on to `served`, each once; what finds no room there is dropped.
    pub(crate) fn tell(mut self, served: mpsc::Sender<Arc<Deploy>>) -> Self {
        self.served = Some(served);
        self
    }

    /// Looks once.
    pub(crate) fn look(
        &mut self,
        objects: Objects,
        on_demand: OnDemand<'_>,
        now: Moment,
    ) -> Report {
        let round = self.book.round(deploys(&objects, now), now);
        for deploy in &round.served {
            self.metrics.deploy(deploy);
            if let Some(served) = &self.served
                && served.try_send(deploy.clone()).is_err()
            {
                tracing::warn!(pod = %deploy.pod, "trace of a deploy is dropped");
            }
        }
        self.metrics
            .waiting(round.deploys.iter().map(|deploy| &**deploy));
        self.metrics.caches(&objects, &mut self.fetched, now);
        self.metrics.claims(&objects, on_demand);
        Report {
            at: now,
            deploys: round.deploys,
            objects,
        }
    }

    /// Looks at `source` again and again until `end`, and shows each report to `shown`. After that
    /// nothing is shown in metrics but counters.
    pub(crate) async fn follow(
        mut self,
        source: Arc<dyn Source>,
        on_demand: Arc<ListPrice>,
        shown: watch::Sender<Arc<Report>>,
        end: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => {
                    self.metrics.withdraw();
                    return;
                }
                _ = ticks.tick() => {}
            }
            let (source, on_demand) = (source.clone(), on_demand.clone());
            // Tens of thousands of pods take a while.
            let looked = tokio::task::spawn_blocking(move || {
                let report = source
                    .objects()
                    .map(|objects| self.look(objects, &*on_demand, Moment::now()));
                (self, report)
            });
            let report;
            match looked.await {
                Ok((clerk, looked)) => (self, report) = (clerk, looked),
                Err(_) => {
                    tracing::error!("the ledger stopped");
                    return;
                }
            }
            if let Some(report) = report {
                shown.send_replace(Arc::new(report));
            }
        }
    }
}
