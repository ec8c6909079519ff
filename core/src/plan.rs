//! What to do: the outcome of planning, with nothing left to choose.

use crate::amount::Resources;
use crate::cache::Item;
use crate::money::HourlyPrice;
use crate::offer::OfferingKey;
use crate::pod::ObjectKey;
use crate::pool::DisruptionReason;
use crate::ready::Timing;
use crate::reason::{Kept, NotFetched, NotServed, RunnerUp, Score};

/// The outcome of planning one snapshot. Lists are in a fixed order that does not depend on the
/// snapshot's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nodes to buy.
    pub nodes: Vec<NewNode>,
    /// Where each waiting pod is expected to run.
    pub placements: Vec<Placement>,
    /// Waiting pods that this plan does not serve.
    pub unserved: Vec<(ObjectKey, NotServed)>,
}

/// A node to buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// The pool that buys it.
    pub pool: String,
    /// What to buy.
    pub offering: OfferingKey,
    /// Its price.
    pub price: HourlyPrice,
    /// What its pods and daemons ask for.
    pub requests: Resources,
    /// What pods can have of it.
    pub allocatable: Resources,
    /// Pods it is bought for.
    pub pods: Vec<ObjectKey>,
    /// When the slowest of them serves, with nothing cached.
    pub timing: Timing,
    /// Its score.
    pub score: Score,
    /// What came second, if anything did.
    pub runner_up: Option<RunnerUp>,
}

/// Where one waiting pod is expected to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The pod.
    pub pod: ObjectKey,
    /// Where.
    pub target: Target,
    /// When it serves there.
    pub timing: Timing,
    /// What came second, if anything did; set for pods on nodes that exist. For a new node the node
    /// itself says.
    pub runner_up: Option<RunnerUp>,
    /// Preferences that were given up for it, in that order.
    pub relaxed: Vec<Relaxed>,
}

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A node that exists, is in flight or stands by.
    Node(String),
    /// One of [`Plan::nodes`], by index.
    New(usize),
}

/// A preference that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Relaxed {
    /// A preferred pod affinity.
    Affinity,
    /// A preferred pod anti-affinity.
    AntiAffinity,
    /// A preferred node affinity.
    NodeAffinity,
    /// A `ScheduleAnyway` topology spread.
    Spread,
    /// A `PreferNoSchedule` taint is tolerated.
    Taint,
}

/// What one node should fetch, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Where.
    pub target: Target,
    /// What, most urgent first.
    pub items: Vec<PrefetchItem>,
    /// What not, and why.
    pub skipped: Vec<(Item, NotFetched)>,
}

/// One item to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchItem {
    /// The item; always pinned.
    pub item: Item,
    /// Bytes still to transfer.
    pub bytes: u64,
    /// Nodes in the same zone that have it verified, by name. The origin is always a source as well.
    pub peers: Vec<String>,
    /// Whether a pod waits for it.
    pub urgency: Urgency,
}

/// Whether somebody waits for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Urgency {
    /// A pod placed on the node does.
    Demand,
    /// Nobody yet.
    Ahead,
}

/// Which nodes to give back, and why the others stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetirementPlan {
    /// Nodes to empty and remove, in that order.
    pub retire: Vec<Retirement>,
    /// Nodes that stay.
    pub kept: Vec<(String, Kept)>,
}

/// One node to give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// The node.
    pub node: String,
    /// Why.
    pub reason: DisruptionReason,
    /// Where its pods are expected to go. [`Target::New`] counts the replacements of all retirements,
    /// in their order: nodes that are merged share one.
    pub moves: Vec<(ObjectKey, Target)>,
    /// What to buy first, if its pods need something cheaper or newer.
    pub replacements: Vec<NewNode>,
    /// What is saved per hour.
    pub saves: HourlyPrice,
    /// Bytes verified on it that would have to be fetched again.
    pub cache_bytes: u64,
}
