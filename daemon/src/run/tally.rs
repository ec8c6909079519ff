//! What is counted of instances, each once: given, refused, gone and why. And what is learned of them.
//!
//! Why one goes is remembered from when it was decided; of one that another replica gave up it is not
//! known, and counts as somebody's wish.

use headstart_api::{ClaimOffering, NodeClaim};
use headstart_core::money::Millis;
use headstart_core::offer::{Boot, CapacityType};
use headstart_core::pool::DisruptionReason;
use headstart_provider::Refusal;
use kube::ResourceExt as _;

use super::claim;
use super::life::Why;
use super::round::Rounds;
use crate::metrics::label::Reason;
use crate::plan::now;

impl Rounds {
    /// An instance was given. One that was known is no other.
    pub(super) fn count_given(&self, claim: &NodeClaim) {
        if let (Some(calls), Some(capacity)) = (&self.calls, capacity(&claim.spec.offering))
            && !self.has_instance(claim)
        {
            let metrics = self.gauges.metrics();
            metrics.node_created(calls.provider(), capacity);
        }
    }

    /// None was.
    pub(super) fn count_refused(&self, refusal: &Refusal) {
        if let Some(calls) = &self.calls {
            let metrics = self.gauges.metrics();
            metrics.node_refused(calls.provider(), refusal);
        }
    }

    /// A claim is going to go, for this reason unless there was one before.
    pub(super) fn goes_for(&mut self, claim: &str, why: Goes) {
        let reason = match why {
            Goes::Retired(reason) => Reason::retired(reason),
            Goes::Given(Why::Interrupted | Why::InstanceGone) => Reason::INTERRUPTED,
            Goes::Given(Why::NeverJoined | Why::NeverComplete) => Reason::NEVER_JOINED,
            Goes::Given(Why::NodeGone | Why::NotLaunched | Why::Replaced) => Reason::DELETED,
        };
        self.goes.entry(claim.to_owned()).or_insert(reason);
    }

    /// A claim is gone, and its instance with it. To be called while it is still known.
    pub(super) fn count_gone(&mut self, claim: &str) {
        let reason = self.goes.remove(claim).unwrap_or(Reason::DELETED);
        let (Some(calls), Some(claim)) = (&self.calls, self.picture.claims.get(claim)) else {
            return;
        };
        if self.has_instance(claim) {
            let (provider, capacity) = (calls.provider(), capacity(&claim.spec.offering));
            let metrics = self.gauges.metrics();
            metrics.node_terminated(provider, capacity, reason);
        }
    }

    fn has_instance(&self, claim: &NodeClaim) -> bool {
        let status = claim.status.as_ref();
        status.is_some_and(|status| status.instance.is_some())
            || self.ensured.contains_key(&claim.name_any())
    }

    /// Learns how long a node took to come up.
    pub(super) fn learn(&mut self, claim: &NodeClaim) {
        let Some(status) = &claim.status else { return };
        let stages = &status.stages;
        let (Some(from), Some(allocatable)) = (&stages.launched, &stages.gpu_allocatable) else {
            return;
        };
        if !self.learned.insert(claim.name_any()) {
            return;
        }
        let after = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            time.map_or(Millis(0), |time| {
                claim::millis(Some(time.0)) - claim::millis(Some(from.0))
            })
        };
        let boot = Boot {
            agent: after(stages.agent_started.as_ref()),
            ready: after(stages.ready.as_ref()),
            allocatable: after(Some(allocatable)),
        };
        // One that was complete before this process began was learned from by another.
        let age = now() - claim::millis(Some(allocatable.0));
        if let Some(offering) = claim::offering(claim)
            && age < Millis::from_secs(60)
        {
            self.boots.observe(&offering, boot, now());
        }
    }
}

/// Why a claim goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    /// Its node is given back.
    Retired(DisruptionReason),
    /// It is given up.
    Given(Why),
}

fn capacity(offering: &ClaimOffering) -> Option<CapacityType> {
    offering.capacity_type.parse().ok()
}
