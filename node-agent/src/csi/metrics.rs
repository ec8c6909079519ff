//! What the CSI plugin counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// How a call to publish a volume ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// Mounted with all its weights.
    Weights,
    /// Mounted with some of them.
    Partial,
    /// Mounted empty: the pod downloads.
    Empty,
    /// It was mounted already.
    Again,
    /// The call was held as long as it may be: it will come again.
    Waiting,
    /// The pod may not read the model, or there is none.
    Refused,
    /// The request makes no sense.
    Invalid,
    /// Mounting failed.
    Failed,
}

/// Why a volume was mounted without all its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Lacking {
    /// They did not arrive by the deadline.
    Deadline,
    /// The Hub does not answer, and nothing is remembered.
    NoHub,
    /// The pod may not read the model.
    Refused,
    /// They cannot be fetched or kept: no room, damage.
    Unfetchable,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: Lacking,
}

/// The plugin's metrics.
#[derive(Debug)]
pub struct Metrics {
    publishes: Family<ByOutcome, Counter>,
    lacking: Family<ByReason, Counter>,
    seconds: Histogram,
    volumes: Gauge,
    read_ahead: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        // A mount that waits for nothing to the longest call the kubelet makes.
        let bounds = [
            0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 90.0, 120.0,
        ];
        Self {
            publishes: Family::default(),
            lacking: Family::default(),
            seconds: Histogram::new(bounds),
            volumes: Gauge::default(),
            read_ahead: Counter::default(),
        }
    }
}

impl Metrics {
    /// Adds them to a registry, under names that begin with `csi_`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "csi_publishes",
            "Calls of the kubelet to mount a volume, by how they ended",
            self.publishes.clone(),
        );
        registry.register(
            "csi_lacking",
            "Models that a volume was mounted without, in whole or in part, by reason",
            self.lacking.clone(),
        );
        registry.register_with_unit(
            "csi_publish",
            "How long a call to mount a volume took",
            Unit::Seconds,
            self.seconds.clone(),
        );
        registry.register("csi_volumes", "Volumes mounted", self.volumes.clone());
        registry.register_with_unit(
            "csi_read_ahead",
            "Weights read into memory ahead of pods",
            Unit::Bytes,
            self.read_ahead.clone(),
        );
    }

    pub(super) fn published(&self, outcome: Outcome, took: std::time::Duration) {
        self.publishes.get_or_create(&ByOutcome { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn lacks(&self, reason: Lacking) {
        self.lacking.get_or_create(&ByReason { reason }).inc();
    }

    pub(super) fn mounted(&self, volumes: usize) {
        self.volumes.set(i64::try_from(volumes).unwrap_or(i64::MAX));
    }

    pub(super) fn read_ahead(&self, bytes: u64) {
        self.read_ahead.inc_by(bytes);
    }

    #[cfg(test)]
    pub(super) fn count(&self, outcome: Outcome) -> u64 {
        self.publishes.get_or_create(&ByOutcome { outcome }).get()
    }
}
