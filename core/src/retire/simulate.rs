//! What would happen to the pods of a node if it were gone: the planner's own answer.
//!
//! The world is the one after the plan: what it places is bound, what it buys is there but not
//! initialised, what it cannot serve is left out. It is built once per round and changed back after
//! each question.

use std::collections::{BTreeMap, BTreeSet};

use crate::amount::Resources;
use crate::label;
use crate::money::{HourlyPrice, Millis};
use crate::node::{Node, NodeDisruption, NodeState};
use crate::offer::{Availability, CapacityType, Offering, OfferingKey, Rates};
use crate::plan::{NewNode, Plan, Target};
use crate::pod::{ObjectKey, Phase, Pod, Progress};
use crate::pool::NODES;
use crate::reason::{NotServed, Rejection, Tally};
use crate::snapshot::{Policy, Snapshot};
use crate::world::World;

/// What may be bought in a simulation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Market {
    Nothing,
    Everything,
    /// Only what costs less.
    Below(HourlyPrice),
    /// Only spot that costs less, without these types.
    SpotBelow {
        price: HourlyPrice,
        without: BTreeSet<String>,
    },
}

impl Market {
    fn sells(&self, offering: &Offering, kind: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Below(price) => offering.price < *price,
            Self::SpotBelow { price, without } => {
                offering.price < *price
                    && offering.capacity_type == CapacityType::Spot
                    && !without.contains(kind)
            }
        }
    }
}

/// A pod that would find no place.
pub(super) struct Stuck {
    pub(super) pod: ObjectKey,
    pub(super) why: Box<NotServed>,
}

/// Where pods would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WhatIf {
    pub(super) moves: Vec<Move>,
    /// What would be bought; [`Target::New`] of the moves counts these.
    pub(super) nodes: Vec<NewNode>,
}

/// Where one pod would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) pod: ObjectKey,
    pub(super) target: Target,
    /// How long it takes to serve there.
    pub(super) ready: Millis,
}

impl WhatIf {
    /// What the bought nodes cost together.
    pub(super) fn price(&self) -> HourlyPrice {
        let nodes = self.nodes.iter();
        HourlyPrice(nodes.fold(0, |sum, node| sum.saturating_add(node.price.0)))
    }

    /// Types of the bought nodes.
    pub(super) fn types(&self) -> impl Iterator<Item = String> {
        let nodes = self.nodes.iter();
        nodes.map(|node| node.offering.instance_type.clone())
    }
}

/// The world after the plan and after what was retired so far.
pub(super) struct Simulation<'a> {
    snapshot: &'a Snapshot,
    world: World,
    /// Nodes as the world has them, where they may still go.
    nodes: BTreeMap<&'a str, &'a Node>,
    closed: BTreeSet<&'a str>,
    market: Market,
    /// Everything that is bought, by the plan and for what was retired.
    bought: Vec<NewNode>,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, policy: &Policy, plan: &'a Plan) -> Self {
        let mut world = World::new(snapshot, policy);
        world.set_demand(
            snapshot.groups.clone(),
            snapshot.items.clone(),
            BTreeMap::new(),
        );
        let mut simulation = Self {
            snapshot,
            world,
            nodes: BTreeMap::new(),
            closed: BTreeSet::new(),
            market: Market::Everything,
            bought: plan.nodes.clone(),
        };
        for node in &snapshot.nodes {
            match node.state {
                NodeState::Running if !node.disruption.replaced => {
                    simulation.nodes.insert(&node.name, node);
                }
                NodeState::Leaving => {}
                // Nothing is moved onto a node that is not initialised, or that is being replaced.
                _ => simulation.world.set_node(closed(node)),
            }
        }
        for (number, new) in plan.nodes.iter().enumerate() {
            let name = format!("(new {number})");
            simulation.world.set_node(bought(snapshot, new, name));
        }
        let targets: BTreeMap<&ObjectKey, &Target> = plan
            .placements
            .iter()
            .map(|placement| (&placement.pod, &placement.target))
            .collect();
        for pod in &snapshot.pods {
            if pod.phase == Phase::Pending {
                match targets.get(&pod.key) {
                    Some(Target::Node(node)) => simulation.bind(pod, node.clone()),
                    Some(Target::New(number)) => simulation.bind(pod, format!("(new {number})")),
                    None => simulation.world.remove_pod(&pod.key),
                }
            }
        }
        simulation.sell(Market::Nothing);
        simulation
    }

    /// Where `pods` would go if `gone` were removed, no pod could go to `shut`, and only what
    /// `market` sells could be bought; or the first pod that would find no place.
    pub(super) fn what_if(
        &mut self,
        gone: &[&'a str],
        pods: &[(&'a str, &'a Pod)],
        shut: &BTreeSet<&'a str>,
        market: &Market,
    ) -> Result<WhatIf, Stuck> {
        if self.market != *market {
            self.sell(market.clone());
        }
        self.shut(shut);
        for name in gone {
            self.world.remove_node(name);
        }
        for (_, pod) in pods {
            self.world.set_pod(&Pod {
                phase: Phase::Pending,
                ..(*pod).clone()
            });
        }
        let plan = self.world.plan();
        for (name, pod) in pods {
            match pod.phase {
                Phase::Bound { .. } => self.world.set_pod(pod),
                Phase::Pending => self.bind(pod, (*name).to_owned()),
            }
        }
        for name in gone {
            if let Some(node) = self.nodes.get(name) {
                self.world.set_node((*node).clone());
            }
        }
        if let Some(unserved) = plan.unserved.into_iter().next() {
            let (pod, why) = unserved;
            return Err(Stuck {
                pod,
                why: Box::new(why),
            });
        }
        let outcome = WhatIf {
            moves: plan
                .placements
                .into_iter()
                .map(|placement| Move {
                    pod: placement.pod,
                    ready: placement.timing.total(),
                    target: placement.target,
                })
                .collect(),
            nodes: plan.nodes,
        };
        match self.over_limit(&outcome) {
            Some(why) => Err(Stuck {
                pod: pods[0].1.key.clone(),
                why: Box::new(why),
            }),
            None => Ok(outcome),
        }
    }

    /// Carries a removal out: what follows is asked of the world after it. `before` is how many nodes
    /// were bought for earlier ones.
    pub(super) fn commit(
        &mut self,
        gone: &[&'a str],
        pods: &[(&'a str, &'a Pod)],
        outcome: &WhatIf,
        before: usize,
    ) {
        for name in gone {
            self.world.remove_node(name);
            self.nodes.remove(name);
            self.closed.remove(name);
        }
        let name = |number: usize| format!("(replacement {})", before + number);
        for (number, new) in outcome.nodes.iter().enumerate() {
            self.world
                .set_node(bought(self.snapshot, new, name(number)));
            self.bought.push(new.clone());
        }
        let moved: BTreeMap<&ObjectKey, &Target> = outcome
            .moves
            .iter()
            .map(|placed| (&placed.pod, &placed.target))
            .collect();
        for (_, pod) in pods {
            match moved.get(&pod.key) {
                Some(Target::Node(node)) => self.bind(pod, node.clone()),
                Some(Target::New(number)) => self.bind(pod, name(*number)),
                None => {}
            }
        }
        if !outcome.nodes.is_empty() {
            // What was bought counts against launch budgets.
            let market = self.market.clone();
            self.sell(market);
        }
    }

    fn bind(&mut self, pod: &Pod, node: String) {
        self.world.set_pod(&Pod {
            phase: Phase::Bound {
                node,
                progress: Progress::Starting,
            },
            ..pod.clone()
        });
    }

    /// Lets no pod move to these nodes, and to every other running one.
    fn shut(&mut self, shut: &BTreeSet<&'a str>) {
        for name in self.closed.difference(shut) {
            if let Some(node) = self.nodes.get(name) {
                self.world.set_node((*node).clone());
            }
        }
        for name in shut.difference(&self.closed) {
            if let Some(node) = self.nodes.get(name) {
                self.world.set_node(closed(node));
            }
        }
        self.closed.clone_from(shut);
    }

    fn sell(&mut self, market: Market) {
        let mut spent: BTreeMap<&OfferingKey, u32> = BTreeMap::new();
        for node in &self.bought {
            *spent.entry(&node.offering).or_default() += 1;
        }
        let snapshot = self.snapshot;
        let offerings = snapshot.offerings.iter().filter_map(|offering| {
            let kind = snapshot.types.get(offering.instance_type)?;
            if offering.availability != Availability::Available
                || !market.sells(offering, &kind.name)
            {
                return None;
            }
            let key = OfferingKey {
                instance_type: kind.name.clone(),
                zone: offering.zone.clone(),
                capacity_type: offering.capacity_type,
            };
            let spent = spent.get(&key).copied().unwrap_or(0);
            Some(Offering {
                launch_budget: offering.launch_budget.map(|b| b.saturating_sub(spent)),
                ..offering.clone()
            })
        });
        self.world.set_market(
            snapshot.pools.clone(),
            snapshot.types.clone(),
            offerings.collect(),
            snapshot.daemons.clone(),
        );
        self.market = market;
    }

    /// Whether a pool would exceed a limit while old and new nodes are both there.
    fn over_limit(&self, outcome: &WhatIf) -> Option<NotServed> {
        let pools: BTreeSet<&str> = outcome.nodes.iter().map(|n| n.pool.as_str()).collect();
        for pool in &self.snapshot.pools {
            if pool.limits.is_empty() || !pools.contains(pool.name.as_str()) {
                continue;
            }
            let there = self.snapshot.nodes.iter();
            let there = there.filter(|node| node.pool.as_deref() == Some(&pool.name));
            let new = |nodes: &[NewNode], resource: &str| {
                let nodes = nodes.iter().filter(|node| node.pool == pool.name);
                nodes.fold(0_i64, |sum, node| {
                    sum.saturating_add(amount(&node.allocatable, resource))
                })
            };
            for (resource, limit) in pool.limits.iter() {
                let old = there.clone().fold(0_i64, |sum, node| {
                    sum.saturating_add(amount(&node.allocatable, resource))
                });
                let used = old.saturating_add(new(&self.bought, resource));
                let adding = new(&outcome.nodes, resource);
                if used.saturating_add(adding) > limit {
                    let tally = Tally {
                        rejection: Rejection::PoolLimit {
                            resource: resource.to_owned(),
                            used,
                            adding,
                            limit,
                        },
                        count: outcome.nodes.len(),
                        example: outcome.nodes[0].offering.to_string(),
                    };
                    return Some(NotServed::NoCandidate {
                        nodes: Vec::new(),
                        offerings: vec![(pool.name.clone(), vec![tally])],
                    });
                }
            }
        }
        None
    }
}

fn amount(of: &Resources, resource: &str) -> i64 {
    match resource {
        NODES => 1,
        _ => of.of(resource),
    }
}

/// The same node, taking no pods.
fn closed(node: &Node) -> Node {
    Node {
        state: NodeState::Leaving,
        ..node.clone()
    }
}

/// A node that is being bought: there for whoever counts pods, but taking none.
fn bought(snapshot: &Snapshot, new: &NewNode, name: String) -> Node {
    let types = snapshot.types.iter();
    let mut kinds = types.filter(|kind| kind.name == new.offering.instance_type);
    let mut labels = kinds
        .next()
        .map_or_else(Default::default, |kind| kind.node_labels());
    let pool = snapshot.pools.iter().find(|pool| pool.name == new.pool);
    labels.extend(pool.into_iter().flat_map(|pool| pool.labels.clone()));
    for (key, value) in [
        (label::ZONE, new.offering.zone.clone()),
        (
            label::CAPACITY_TYPE,
            new.offering.capacity_type.as_str().to_owned(),
        ),
        (label::NODE_POOL, new.pool.clone()),
        (label::HOSTNAME, name.clone()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    Node {
        name,
        labels,
        taints: pool.map_or_else(Vec::new, |pool| pool.taints.clone()),
        startup_taints: Vec::new(),
        allocatable: new.allocatable.clone(),
        volume_limits: BTreeMap::new(),
        state: NodeState::Leaving,
        pool: Some(new.pool.clone()),
        offering: Some(new.offering.clone()),
        price: Some(new.price),
        rates: Rates::default(),
        created: snapshot.now,
        disruption: NodeDisruption::default(),
    }
}
