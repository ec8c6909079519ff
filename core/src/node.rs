//! Nodes that exist, are on their way, or stand by.

use std::collections::BTreeMap;

use crate::amount::Resources;
use crate::label::{Labels, Taint};
use crate::money::{HourlyPrice, Millis};
use crate::offer::{Boot, OfferingKey, Rates};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; for one in flight, the name of its claim.
    pub name: String,
    /// Labels. For a node in flight: those it will have.
    pub labels: Labels,
    /// Taints it has now. For a node in flight: those that stay.
    pub taints: Vec<Taint>,
    /// Taints that go away by themselves once it is initialised.
    pub startup_taints: Vec<Taint>,
    /// What pods can have of it in all. For a node whose device plugin has not reported yet: what it
    /// will be.
    pub allocatable: Resources,
    /// How many volumes each CSI driver attaches; a driver that is absent has no limit.
    pub volume_limits: BTreeMap<String, u32>,
    /// Where it is in its life.
    pub state: NodeState,
    /// The pool that bought it; `None` for a node of other origin.
    pub pool: Option<String>,
    /// What it is, if we know.
    pub offering: Option<OfferingKey>,
    /// What it costs, if we know.
    pub price: Option<HourlyPrice>,
    /// How fast it gets bytes.
    pub rates: Rates,
    /// When it was created.
    pub created: Millis,
    /// Annotations or conditions that decide about its removal.
    pub disruption: NodeDisruption,
}

/// Where a node is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Ready, with everything it should have in its allocatable.
    Running,
    /// Registered, but not all of it is there yet: GPUs not allocatable, startup taints.
    Starting {
        /// When it is expected to be initialised.
        expected: Millis,
    },
    /// Asked for; no Node object yet.
    InFlight {
        /// When it is expected to be initialised.
        expected: Millis,
    },
    /// Stopped with its disk; it can be started.
    Standby {
        /// How long that takes.
        boot: Boot,
    },
    /// Cordoned, being deleted or not Ready: takes no pods.
    Leaving,
}

/// What decides about a node's removal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeDisruption {
    /// An annotation forbids it.
    pub forbidden: bool,
    /// What replaces it is on its way: it counts as leaving, and nothing is moved there.
    pub replaced: bool,
    /// It differs from what its pool says now, in this.
    pub drift: Option<String>,
    /// Since when nothing but daemons runs on it.
    pub empty_since: Option<Millis>,
    /// Since when it is under-used.
    pub underused_since: Option<Millis>,
}
