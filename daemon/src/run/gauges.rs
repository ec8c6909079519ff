//! What the loop says about itself, for probes and Prometheus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_core::plan::{Plan, Prefetch, RetirementPlan};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::metrics::Metrics;

/// How long the loop may take for a round before it counts as stuck.
const STUCK: u64 = 300;

/// Numbers of the loop.
#[derive(Debug)]
pub(super) struct Gauges {
    planning: Histogram,
    round: Histogram,
    writes: Counter,
    leads: Gauge<i64, AtomicI64>,
    is_ready: AtomicBool,
    last_round: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Gauges {
    /// All of them, named in `registry`.
    pub(super) fn new(registry: &mut Registry, metrics: Arc<Metrics>) -> Self {
        let buckets = || exponential_buckets(0.001, 2.0, 14);
        let it = Self {
            planning: Histogram::new(buckets()),
            round: Histogram::new(buckets()),
            writes: Counter::default(),
            leads: Gauge::default(),
            is_ready: AtomicBool::new(false),
            last_round: AtomicU64::new(seconds()),
            metrics,
        };
        let seconds = Unit::Seconds;
        registry.register_with_unit(
            "headstart_round_planning",
            "From the start of a round to its first write",
            seconds.clone(),
            it.planning.clone(),
        );
        registry.register_with_unit(
            "headstart_round",
            "A whole round",
            seconds,
            it.round.clone(),
        );
        registry.register(
            "headstart_api_writes",
            "Writes to the API server",
            it.writes.clone(),
        );
        registry.register(
            "headstart_leads",
            "Whether this replica leads",
            it.leads.clone(),
        );
        it
    }

    /// The loop looked at the world.
    pub(super) fn observed(&self, ready: bool, leads: bool) {
        self.is_ready.store(ready, Ordering::Relaxed);
        self.leads.set(i64::from(leads));
        self.last_round.store(seconds(), Ordering::Relaxed);
    }

    /// A round decided so.
    pub(super) fn decided(&self, plan: &Plan, lists: &[Prefetch], retirement: &RetirementPlan) {
        self.metrics.planned(plan, lists, retirement);
    }

    /// A round was done.
    pub(super) fn round(&self, planning: Duration, all: Duration, writes: usize) {
        self.planning.observe(planning.as_secs_f64());
        self.round.observe(all.as_secs_f64());
        self.writes.inc_by(writes as u64);
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
