//! One consistent picture of the world, and the rules that planning follows.
//!
//! A snapshot is plain data: the daemon fills it from its watches, `headstart plan` from files, tests
//! by hand. The planner compiles it (`crate::market`, `crate::world`) and never keeps it.

use std::collections::BTreeMap;

use crate::cache::{Inventory, Item, ItemSize};
use crate::money::Millis;
use crate::node::Node;
use crate::offer::{InstanceType, Offering};
use crate::pod::{Group, ObjectKey, Pod, Shape};
use crate::pool::NodePool;

/// The world at one moment. The order of its lists means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Now.
    pub now: Millis,
    /// Pods: waiting ones, and bound ones that use resources or that selectors look at.
    pub pods: Vec<Pod>,
    /// All-or-nothing groups of them.
    pub groups: Vec<Group>,
    /// Pods that every matching node runs. Only what decides where is read of them.
    pub daemons: Vec<Shape>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// What each node has, by node name.
    pub inventories: BTreeMap<String, Inventory>,
    /// Sizes of the items that pods start with.
    pub items: BTreeMap<Item, ItemSize>,
    /// Pools.
    pub pools: Vec<NodePool>,
    /// Instance types that exist.
    pub types: Vec<InstanceType>,
    /// What of them is sold.
    pub offerings: Vec<Offering>,
    /// Budgets that protect running pods.
    pub pod_budgets: Vec<PodBudget>,
    /// What is worth fetching ahead of demand, most wanted first.
    pub wishes: Vec<Wish>,
    /// Nodes that earlier plans meant waiting pods for, by pod: tried first, so that planning again
    /// changes nothing.
    pub nominations: BTreeMap<ObjectKey, String>,
}

/// A PodDisruptionBudget, as far as it says how many pods may be moved now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodBudget {
    /// Its name.
    pub key: ObjectKey,
    /// Which pods of its namespace. An empty selector selects all.
    pub selector: crate::label::Term,
    /// How many of them may be disrupted now.
    pub allowed: u32,
}

/// An item that somebody wants warm on nodes, without a pod that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The item.
    pub item: Item,
    /// On which nodes.
    pub nodes: crate::label::Term,
    /// Who asked: a `Prefetch` object or a workload.
    pub asked_by: ObjectKey,
}

/// How to plan. Constant over rounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether preferences are obeyed until they cannot be.
    pub preferences: Preferences,
    /// Rates and times used where neither the offering nor the ledger says anything.
    pub priors: crate::ready::Priors,
    /// After how long an inventory is too old to be believed.
    pub inventory_age: Millis,
    /// Most bytes fetched ahead of demand per node and round.
    pub ahead_of_demand: u64,
}

/// What preferences mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferences {
    /// Each is treated as required, and given up in order when the pod would not be served.
    Respect,
    /// They are left to the scheduler.
    Ignore,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            preferences: Preferences::Respect,
            priors: crate::ready::Priors::default(),
            inventory_age: Millis::from_secs(300),
            ahead_of_demand: 64 << 30,
        }
    }
}
