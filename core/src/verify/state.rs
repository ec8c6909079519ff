//! The world after a plan: every node, old and new, with everything that runs on it then.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::amount::{NVIDIA_GPU, PODS, Resources};
use crate::label::{self, Effect, Labels, Taint};
use crate::money::HourlyPrice;
use crate::node::{Node, NodeState};
use crate::offer::{CapacityType, InstanceType, Offering, OfferingKey};
use crate::plan::{NewNode, Placement, Plan, Relaxed, Target};
use crate::pod::{Eviction, ObjectKey, Phase, Progress, Shape};
use crate::pool::NodePool;
use crate::snapshot::Snapshot;

use super::{Violation, fit};

/// The world after a plan.
pub(super) struct State<'a> {
    pub(super) snapshot: &'a Snapshot,
    /// Distinct shapes of all pods, bound and waiting.
    pub(super) shapes: Vec<&'a Shape>,
    /// Existing nodes, in the snapshot's order, then bought ones, in the plan's.
    pub(super) sites: Vec<Site<'a>>,
    /// Resources that are GPUs.
    pub(super) gpus: BTreeSet<&'a str>,
    /// Shape and phase of each pod.
    pub(super) pods: HashMap<&'a ObjectKey, (usize, &'a Phase)>,
    /// Index of each node by name.
    nodes: HashMap<&'a str, usize>,
}

/// A node after the plan.
pub(super) struct Site<'a> {
    pub(super) target: Target,
    pub(super) labels: Labels,
    /// Taints that count when planning.
    pub(super) taints: Vec<&'a Taint>,
    /// Whether pods can be placed on it at all.
    pub(super) leaving: bool,
    pub(super) allocatable: Resources,
    pub(super) volume_limits: &'a BTreeMap<String, u32>,
    pub(super) pool: Option<&'a NodePool>,
    pub(super) machine: Machine<'a>,
    /// What runs on it, by index of the shape.
    pub(super) here: BTreeMap<usize, Here>,
    /// Daemons that run on it, or should.
    pub(super) daemons: Vec<&'a Shape>,
    /// The node, if it exists.
    pub(super) node: Option<&'a Node>,
}

/// How many pods of one shape are on one node.
#[derive(Clone, Copy, Default)]
pub(super) struct Here {
    /// Bound, and not being deleted.
    pub(super) bound: u32,
    /// Bound and being deleted: they hold what they have and count for nothing else.
    pub(super) terminating: u32,
    /// Placed by the plan.
    pub(super) placed: u32,
    /// Those of the placed for whom a spread that may be violated was given up.
    pub(super) unspread: u32,
}

impl Here {
    /// All that hold resources.
    pub(super) fn all(self) -> u32 {
        self.bound + self.terminating + self.placed
    }

    /// All that selectors see.
    pub(super) fn visible(self) -> u32 {
        self.bound + self.placed
    }
}

/// What is known about the machine under a node. `None`: nobody knows.
#[derive(Clone, Copy, Default)]
pub(super) struct Machine<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) family: Option<&'a str>,
    /// `Some(None)`: it has no GPU.
    pub(super) sku: Option<Option<&'a str>>,
    pub(super) gpus: u32,
    pub(super) capacity_type: Option<CapacityType>,
    pub(super) price: Option<HourlyPrice>,
}

/// Members of a group that run or are placed.
#[derive(Default)]
pub(super) struct Census<'a> {
    pub(super) by_role: BTreeMap<&'a str, u32>,
    pub(super) placed: u32,
    /// Nodes that some are placed on, by role.
    pub(super) placed_at: BTreeSet<(&'a str, usize)>,
    /// Nodes that some run on already, by role.
    pub(super) bound_at: BTreeSet<(&'a str, usize)>,
}

impl<'a> State<'a> {
    /// What `snapshot` becomes once `plan` is done. Placements that go nowhere are reported and left
    /// out.
    pub(super) fn after(
        snapshot: &'a Snapshot,
        plan: &'a Plan,
        violations: &mut Vec<Violation>,
    ) -> Self {
        let gpus: BTreeSet<&str> = (snapshot.types.iter())
            .filter_map(|kind| Some(kind.gpu.as_ref()?.resource.as_str()))
            .chain([NVIDIA_GPU])
            .collect();
        let mut state = Self {
            snapshot,
            shapes: Vec::new(),
            sites: Vec::new(),
            gpus,
            pods: HashMap::new(),
            nodes: HashMap::new(),
        };
        for node in &snapshot.nodes {
            state.nodes.insert(&node.name, state.sites.len());
            let site = state.existing(node);
            state.sites.push(site);
        }
        for (index, node) in plan.nodes.iter().enumerate() {
            let site = state.bought(index, node);
            state.sites.push(site);
        }
        state.settle(plan, violations);
        state
    }

    /// Puts every pod where it is.
    #[allow(
        clippy::mutable_key_type,
        reason = "a pattern is compared and hashed by its text, which does not change"
    )]
    fn settle(&mut self, plan: &'a Plan, violations: &mut Vec<Violation>) {
        let mut interned: HashMap<&Shape, usize> = HashMap::new();
        for pod in &self.snapshot.pods {
            let shape = *interned.entry(&pod.shape).or_insert_with(|| {
                self.shapes.push(&pod.shape);
                self.shapes.len() - 1
            });
            self.pods.insert(&pod.key, (shape, &pod.phase));
            let Phase::Bound { node, progress } = &pod.phase else {
                continue;
            };
            let Some(site) = self.nodes.get(node.as_str()) else {
                continue; // Its node is gone: it uses nothing that is here.
            };
            let here = self.sites[*site].here.entry(shape).or_default();
            match progress {
                Progress::Terminating => here.terminating += 1,
                Progress::Starting | Progress::Running => here.bound += 1,
            }
        }
        for placement in &plan.placements {
            match self.where_placed(placement) {
                Some((shape, site)) => {
                    let here = self.sites[site].here.entry(shape).or_default();
                    here.placed += 1;
                    here.unspread += u32::from(placement.relaxed.contains(&Relaxed::Spread));
                }
                None => violations.push(Violation::NoSuchTarget {
                    pod: placement.pod.clone(),
                    target: placement.target.clone(),
                }),
            }
        }
    }

    /// Index of the shape and of the site of a placement.
    pub(super) fn where_placed(&self, placement: &Placement) -> Option<(usize, usize)> {
        let (shape, _) = self.pods.get(&placement.pod)?;
        let site = match &placement.target {
            Target::Node(name) => *self.nodes.get(name.as_str())?,
            Target::New(index) => self.snapshot.nodes.len().checked_add(*index)?,
        };
        (site < self.sites.len()).then_some((*shape, site))
    }

    /// The members of a group that run or are placed.
    pub(super) fn census(&self, group: &ObjectKey) -> Census<'a> {
        let mut census = Census::default();
        for (index, site) in self.sites.iter().enumerate() {
            for (shape, here) in &site.here {
                let shape: &'a Shape = self.shapes[*shape];
                if shape.group.as_ref() == Some(group) && here.visible() > 0 {
                    *census.by_role.entry(shape.role()).or_default() += here.visible();
                    census.placed += here.placed;
                    if here.placed > 0 {
                        census.placed_at.insert((shape.role(), index));
                    }
                    if here.bound > 0 {
                        census.bound_at.insert((shape.role(), index));
                    }
                }
            }
        }
        census
    }

    /// The type of that name.
    pub(super) fn type_named(&self, name: &str) -> Option<&'a InstanceType> {
        self.snapshot.types.iter().find(|kind| kind.name == name)
    }

    /// The pool of that name.
    pub(super) fn pool_named(&self, name: &str) -> Option<&'a NodePool> {
        self.snapshot.pools.iter().find(|pool| pool.name == name)
    }

    /// The offering of that key with its type; of several, the cheapest.
    pub(super) fn offering(&self, key: &OfferingKey) -> Option<(&'a Offering, &'a InstanceType)> {
        (self.snapshot.offerings.iter())
            .filter(|o| o.zone == key.zone && o.capacity_type == key.capacity_type)
            .filter_map(|o| Some((o, self.snapshot.types.get(o.instance_type)?)))
            .filter(|(_, kind)| kind.name == key.instance_type)
            .min_by_key(|(o, _)| o.price)
    }

    /// A node that exists, with nothing on it but daemons.
    pub(super) fn existing(&self, node: &'a Node) -> Site<'a> {
        let mut labels = node.labels.clone();
        (labels.entry(label::HOSTNAME.to_owned())).or_insert_with(|| node.name.clone());
        let mut site = Site {
            target: Target::Node(node.name.clone()),
            labels,
            taints: planning_taints(node),
            leaving: node.state == NodeState::Leaving,
            allocatable: node.allocatable.clone(),
            volume_limits: &node.volume_limits,
            pool: node.pool.as_deref().and_then(|name| self.pool_named(name)),
            machine: self.machine(node),
            here: BTreeMap::new(),
            daemons: Vec::new(),
            node: Some(node),
        };
        site.daemons = self.daemons(&site);
        site
    }

    fn bought(&self, index: usize, new: &'a NewNode) -> Site<'a> {
        let pool = self.pool_named(&new.pool);
        match (pool, self.offering(&new.offering)) {
            (Some(pool), Some((offering, kind))) => self.fresh(pool, offering, kind, index),
            // Nothing can be said about it; `purchase` reports it.
            _ => Site {
                target: Target::New(index),
                labels: Labels::new(),
                taints: Vec::new(),
                leaving: false,
                allocatable: new.allocatable.clone(),
                volume_limits: &EMPTY,
                pool,
                machine: Machine::default(),
                here: BTreeMap::new(),
                daemons: Vec::new(),
                node: None,
            },
        }
    }

    /// A new node of `pool` at `offering`, with nothing on it but daemons. No pod can know its
    /// hostname, which is one that no node can have.
    pub(super) fn fresh(
        &self,
        pool: &'a NodePool,
        offering: &'a Offering,
        kind: &'a InstanceType,
        index: usize,
    ) -> Site<'a> {
        let mut labels = pool.labels.clone();
        labels.extend(kind.node_labels());
        for (key, value) in [
            (label::ZONE, offering.zone.clone()),
            (
                label::CAPACITY_TYPE,
                offering.capacity_type.as_str().to_owned(),
            ),
            (label::NODE_POOL, pool.name.clone()),
            (label::HOSTNAME, format!("new node {index}")),
        ] {
            labels.insert(key.to_owned(), value);
        }
        let mut site = Site {
            target: Target::New(index),
            labels,
            taints: pool.taints.iter().collect(),
            leaving: false,
            allocatable: kind.allocatable(),
            volume_limits: &pool.volume_limits,
            pool: Some(pool),
            machine: Machine::of_type(kind, offering.capacity_type, Some(offering.price)),
            here: BTreeMap::new(),
            daemons: Vec::new(),
            node: None,
        };
        site.daemons = self.daemons(&site);
        site
    }

    fn daemons(&self, site: &Site<'a>) -> Vec<&'a Shape> {
        (self.snapshot.daemons.iter())
            .filter(|daemon| fit::of_labels_and_taints(daemon, site).is_none())
            .collect()
    }

    fn machine(&self, node: &'a Node) -> Machine<'a> {
        let of = |key: &str| node.labels.get(key).map(String::as_str);
        let offering = node.offering.as_ref();
        let name = (offering.map(|o| o.instance_type.as_str())).or(of(label::INSTANCE_TYPE));
        let capacity_type =
            (offering.map(|o| o.capacity_type)).or_else(|| of(label::CAPACITY_TYPE)?.parse().ok());
        if let Some(kind) = name.and_then(|name| self.type_named(name)) {
            return Machine {
                capacity_type,
                price: node.price,
                ..Machine::of_type(kind, CapacityType::OnDemand, None)
            };
        }
        let devices: i64 = (self.gpus.iter())
            .map(|gpu| node.allocatable.of(gpu))
            .fold(0, i64::saturating_add);
        let gpus = (of(label::GPU_COUNT).and_then(|count| count.parse().ok()))
            .unwrap_or(u32::try_from(devices).unwrap_or(u32::MAX));
        Machine {
            name,
            family: of(label::INSTANCE_FAMILY),
            sku: match of(label::GPU_SKU) {
                Some(sku) => Some(Some(sku)),
                None if gpus == 0 => Some(None),
                None => None,
            },
            gpus,
            capacity_type,
            price: node.price,
        }
    }
}

static EMPTY: BTreeMap<String, u32> = BTreeMap::new();

impl<'a> Machine<'a> {
    fn of_type(
        kind: &'a InstanceType,
        capacity_type: CapacityType,
        price: Option<HourlyPrice>,
    ) -> Self {
        Self {
            name: Some(&kind.name),
            family: Some(&kind.family),
            sku: Some(kind.gpu.as_ref().map(|gpu| gpu.sku.as_str())),
            gpus: kind.gpu.as_ref().map_or(0, |gpu| gpu.count),
            capacity_type: Some(capacity_type),
            price,
        }
    }
}

impl<'a> Site<'a> {
    /// Whether the pod tolerates the taints that only discourage.
    pub(super) fn welcomes(&self, shape: &Shape) -> bool {
        (self.taints.iter())
            .filter(|taint| taint.effect == Effect::PreferNoSchedule)
            .all(|taint| shape.tolerations.iter().any(|t| t.tolerates(taint)))
    }

    /// What everything on it asks for. A daemon that is there already is one that should be there:
    /// of each resource, what the present ones use or what the expected ones ask for, whichever is
    /// more.
    pub(super) fn asked(&self, shapes: &[&Shape]) -> Resources {
        let (mut pods, mut present) = self.asked_by_present(shapes);
        let mut expected = Resources::new();
        for daemon in &self.daemons {
            expected.add(&demand(daemon));
        }
        present.raise(&expected);
        pods.add(&present);
        pods
    }

    /// What everything on it may come to ask for: daemons that should be there and are not known to
    /// be are added to those that are.
    pub(super) fn asked_at_most(&self, shapes: &[&Shape]) -> Resources {
        let (mut pods, present) = self.asked_by_present(shapes);
        pods.add(&present);
        for daemon in &self.daemons {
            let known = self.here.iter().any(|(shape, here)| {
                let there = shapes[*shape];
                let same_owner = daemon.owner.is_some() && there.owner == daemon.owner;
                here.bound > 0
                    && there.eviction == Eviction::Daemon
                    && there.namespace == daemon.namespace
                    && (same_owner || there.requests == daemon.requests)
            });
            if !known {
                pods.add(&demand(daemon));
            }
        }
        pods
    }

    /// What pods, and what daemons that are there, ask for.
    fn asked_by_present(&self, shapes: &[&Shape]) -> (Resources, Resources) {
        let (mut pods, mut daemons) = (Resources::new(), Resources::new());
        for (shape, here) in &self.here {
            let shape = shapes[*shape];
            let sum = match shape.eviction {
                Eviction::Daemon => &mut daemons,
                _ => &mut pods,
            };
            sum.add(&times(&demand(shape), here.all()));
        }
        (pods, daemons)
    }
}

/// What one pod takes of a node: its requests, and one place.
pub(super) fn demand(shape: &Shape) -> Resources {
    let mut demand = shape.requests.clone();
    demand.set(PODS, 1);
    demand
}

/// `count` times as much.
fn times(amounts: &Resources, count: u32) -> Resources {
    (amounts.iter())
        .map(|(name, amount)| (name.to_owned(), amount.saturating_mul(i64::from(count))))
        .collect()
}

/// The taints that count when planning: while a node comes up, not those that go away by themselves.
fn planning_taints(node: &Node) -> Vec<&Taint> {
    let lasting: &[Taint] = match node.state {
        NodeState::Running | NodeState::Leaving => &node.startup_taints,
        NodeState::Starting { .. } | NodeState::InFlight { .. } | NodeState::Standby { .. } => &[],
    };
    node.taints.iter().chain(lasting).collect()
}
