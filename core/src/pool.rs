//! Node pools: what may be bought for whom, and when it is given back.

use crate::amount::Resources;
use crate::label::{Expression, Labels, Taint, Term};
use crate::market::{Machine, refused_by_wants};
use crate::money::{HourlyPrice, Millis};
use crate::node::Node;
use crate::offer::InstanceType;
use crate::pod::Wants;
use crate::reason::{Origin, Rejection};

/// A node pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePool {
    /// Its name.
    pub name: String,
    /// Higher is tried first; pools of equal weight compete by score.
    pub weight: i32,
    /// Whether it may buy.
    pub state: PoolState,
    /// Which pods it buys and starts nodes for, by their labels; `None` for all. On nodes that run,
    /// others are the scheduler's to place.
    pub serves: Option<Term>,
    /// What its instances must meet, as conditions on node labels.
    pub requirements: Vec<PoolRequirement>,
    /// What its instances must meet, in the words of the pod annotations.
    pub wants: Wants,
    /// Most of each resource over all its nodes, and of nodes (resource `nodes`).
    pub limits: Resources,
    /// Labels its nodes get.
    pub labels: Labels,
    /// Taints its nodes get.
    pub taints: Vec<Taint>,
    /// Taints that go away by themselves.
    pub startup_taints: Vec<Taint>,
    /// What an hour of waiting for a node is worth.
    pub value_of_time: HourlyPrice,
    /// How long a node is expected to be used.
    pub expected_life: Millis,
    /// When a pod gets a node of its own.
    pub packing: Packing,
    /// When nodes are given back.
    pub disruption: PoolDisruption,
    /// How many volumes of each CSI driver a new node attaches.
    pub volume_limits: std::collections::BTreeMap<String, u32>,
}

/// Name of the pseudo-resource that limits a pool's number of nodes.
pub const NODES: &str = "nodes";

/// Whether a pool may buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// It may.
    Ready,
    /// It may not, for this reason: being deleted, not accepted, failing registrations.
    NotReady(String),
}

/// One condition on the labels of a pool's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRequirement {
    /// The condition.
    pub expression: Expression,
    /// How many different values the types considered for a node must have; see `core` rules on
    /// flexibility. `None` for no demand.
    pub min_values: Option<u32>,
}

/// When a pod gets a node of its own instead of sharing one (Luna's bin selection).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// A pod that asks for at least this much CPU (millicores).
    pub dedicated_cpu: Option<i64>,
    /// A pod that asks for at least this much memory (bytes).
    pub dedicated_memory: Option<i64>,
    /// Whether GPU pods share multi-GPU nodes.
    pub gpu: GpuPacking,
}

/// Whether GPU pods share a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GpuPacking {
    /// They do where it is cheaper per pod.
    #[default]
    Share,
    /// Each gets a node of its own.
    Dedicated,
}

/// When nodes are given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDisruption {
    /// How long a node must have been empty or under-used.
    pub after: Millis,
    /// Share of CPU or memory requested, in per cent, below which a shared node is under-used.
    pub underused_shared_percent: u32,
    /// The same for a node that a pod has of its own.
    pub underused_dedicated_percent: u32,
    /// Greatest age; `None` for no limit.
    pub expire_after: Option<Millis>,
    /// How many of its nodes may be disrupted at once.
    pub budgets: Vec<Budget>,
}

/// A limit on nodes disrupted at once. Several: the strictest counts. Cron windows are resolved by
/// the caller: a budget that is not in its window is not listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For which reasons; empty for all.
    pub reasons: Vec<DisruptionReason>,
    /// How many.
    pub nodes: BudgetSize,
}

/// How many nodes a budget allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetSize {
    /// This many.
    Count(u32),
    /// This share of the pool's nodes, rounded up.
    Percent(u32),
}

/// Why a node is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisruptionReason {
    /// Nothing but daemons runs on it.
    Empty,
    /// Its pods fit elsewhere.
    Underused,
    /// Something cheaper would do.
    Replaceable,
    /// It differs from what its pool says now.
    Drifted,
    /// It is too old.
    Expired,
}

impl Default for PoolDisruption {
    /// Luna's published defaults: 20 % and 75 %, after five minutes. One tenth of the pool at once,
    /// as Karpenter does.
    fn default() -> Self {
        Self {
            after: Millis::from_secs(300),
            underused_shared_percent: 20,
            underused_dedicated_percent: 75,
            expire_after: None,
            budgets: vec![Budget {
                reasons: Vec::new(),
                nodes: BudgetSize::Percent(10),
            }],
        }
    }
}

impl NodePool {
    /// Whether it buys and starts nodes for pods with these labels.
    pub fn serves(&self, pod: &Labels) -> bool {
        self.serves.as_ref().is_none_or(|term| term.matches(pod))
    }

    /// Why it would not buy a node like this one today, if so: what it requires may have changed since.
    /// `kind` is the node's type, where it is still known.
    pub fn refuses(&self, node: &Node, kind: Option<&InstanceType>) -> Option<Rejection> {
        let unmet = self.requirements.iter().find_map(|requirement| {
            let expression = &requirement.expression;
            let found = node.labels.get(&expression.key).map(String::as_str);
            (!expression.matches(found)).then(|| Rejection::Label {
                expression: expression.clone(),
                found: found.map(str::to_owned),
                by: Origin::Pool,
            })
        });
        let machine = Machine::of_node(node, kind);
        unmet.or_else(|| refused_by_wants(&self.wants, &machine, Origin::Pool))
    }

    /// A pool that may buy anything, with defaults everywhere else.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            weight: 0,
            state: PoolState::Ready,
            serves: None,
            requirements: Vec::new(),
            wants: Wants::default(),
            limits: Resources::new(),
            labels: Labels::new(),
            taints: Vec::new(),
            startup_taints: Vec::new(),
            value_of_time: HourlyPrice(0),
            expected_life: Millis::from_secs(3600),
            packing: Packing::default(),
            disruption: PoolDisruption::default(),
            volume_limits: std::collections::BTreeMap::new(),
        }
    }
}
