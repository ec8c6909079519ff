//! What the loop says about itself: to probes here, to Prometheus through the daemon's metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_api::ClaimOffering;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::CapacityType;
use headstart_core::plan::{Plan, Prefetch, RetirementPlan};
use headstart_provider::Offers;

use super::write::{Done, NotDone, Write};
use crate::metrics::Metrics;
use crate::metrics::label::{Outcome, Phase, RoundEnd};

/// How long the loop may take for a round before it counts as stuck.
const STUCK: u64 = 300;

/// How the loop is.
#[derive(Debug)]
pub(super) struct Gauges {
    is_ready: AtomicBool,
    last_round: AtomicU64,
    on_demand: RwLock<HashMap<(String, String), HourlyPrice>>,
    metrics: Arc<Metrics>,
}

/// How long a round took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// From its start to its first write.
    pub(super) planning: Duration,
    /// All of it.
    pub(super) whole: Duration,
}

impl Gauges {
    /// Those of a loop that begins now, counted in `metrics`.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            is_ready: AtomicBool::new(false),
            last_round: AtomicU64::new(seconds()),
            on_demand: RwLock::default(),
            metrics,
        }
    }

    /// Where everything is counted.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// This is sold, at these prices.
    pub(super) fn sells(&self, offers: &Offers) {
        let on_demand = offers.offerings.iter().filter_map(|offering| {
            let kind = offers.types.get(offering.instance_type)?;
            let listed = offering.capacity_type == CapacityType::OnDemand;
            listed.then(|| ((kind.name.clone(), offering.zone.clone()), offering.price))
        });
        let prices = on_demand.collect();
        *self
            .on_demand
            .write()
            .unwrap_or_else(PoisonError::into_inner) = prices;
    }

    /// What an offering costs on demand, whatever its capacity type; none before that is known.
    pub(super) fn list_price(&self, offering: &ClaimOffering) -> Option<HourlyPrice> {
        let prices = self
            .on_demand
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (offering.instance_type.clone(), offering.zone.clone());
        prices.get(&key).copied()
    }

    /// The loop looked at the world, and whether it plans now.
    pub(super) fn observed(&self, ready: bool, leads: bool) {
        self.is_ready.store(ready, Ordering::Relaxed);
        self.last_round.store(seconds(), Ordering::Relaxed);
        if !ready || !leads {
            self.metrics
                .round(RoundEnd::Skipped, jiff::Timestamp::now());
        }
    }

    /// A round decided so.
    pub(super) fn decided(&self, plan: &Plan, lists: &[Prefetch], retirement: &RetirementPlan) {
        self.metrics.planned(plan, lists, retirement);
    }

    /// A round was done, with these writes.
    pub(super) fn round(&self, took: Took, done: &[(Write, Result<Done, NotDone>)]) {
        for (write, result) in done {
            let outcome = match result {
                Ok(_) => Outcome::Ok,
                Err(error) if error.code() == Some(409) => Outcome::Conflict,
                // Nothing was sent.
                Err(NotDone::NotLeading) => continue,
                Err(_) => Outcome::Error,
            };
            let (object, verb) = write.counted();
            self.metrics.wrote(object, verb, outcome);
        }
        let end = match done {
            [] => RoundEnd::Quiet,
            done if done.iter().any(|(_, result)| result.is_err()) => RoundEnd::Failed,
            _ => RoundEnd::Applied,
        };
        self.metrics.step(Phase::Plan, took.planning);
        let applying = took.whole.saturating_sub(took.planning);
        self.metrics.step(Phase::Apply, applying);
        self.metrics.round(end, jiff::Timestamp::now());
    }

    /// Whether every watch has listed once.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Whether the loop turns. An API server that is away does not stop it.
    pub(super) fn is_alive(&self) -> bool {
        seconds().saturating_sub(self.last_round.load(Ordering::Relaxed)) < STUCK
    }
}

fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn writes_and_rounds_are_counted_once_by_how_they_ended() {
        let metrics = Arc::new(Metrics::new());
        let gauges = Gauges::new(Arc::clone(&metrics));
        let took = Took {
            planning: Duration::from_millis(3),
            whole: Duration::from_millis(10),
        };
        let evict = || Write::Evict {
            pod: headstart_core::pod::ObjectKey::new("a", "b"),
            uid: None,
        };
        gauges.observed(true, false);
        gauges.round(took, &[]);
        gauges.round(took, &[(evict(), Ok(Done::Nothing))]);
        gauges.round(
            took,
            &[
                (evict(), Err(NotDone::Silent)),
                (evict(), Err(NotDone::NotLeading)),
            ],
        );
        let text = metrics.encode(Format::OpenMetrics);
        let counted: Vec<&str> = text
            .lines()
            .filter(|line| {
                line.starts_with("headstart_rounds") || line.starts_with("headstart_api_writes")
            })
            .collect();
        for line in [
            "headstart_rounds_total{outcome=\"skipped\"} 1",
            "headstart_rounds_total{outcome=\"quiet\"} 1",
            "headstart_rounds_total{outcome=\"applied\"} 1",
            "headstart_rounds_total{outcome=\"failed\"} 1",
            "headstart_api_writes_total{object=\"pod\",verb=\"create\",outcome=\"ok\"} 1",
            "headstart_api_writes_total{object=\"pod\",verb=\"create\",outcome=\"error\"} 1",
        ] {
            assert!(counted.contains(&line), "{line} is not in {counted:#?}");
        }
        assert_eq!(counted.len(), 6, "{counted:#?}");
    }
}
