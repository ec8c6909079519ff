//! Planning: which pod goes where, and what is bought for those that fit nowhere.
//!
//! Waiting pods are taken by priority, the hardest to place first, a group as one. For each, the least
//! score over all nodes that are there and all that could be bought wins. A pod that finds no place is
//! tried again after the others, since what it needs may be a pod that is placed later. Preferences
//! count as required until a pod would not be served with them; then they are given up one by one.
//!
//! The outcome is the same for every order of the input.
//!
//! Not simulated: preemption, since a pod that would push others out gets a node bought; dynamic resource
//! allocation; a cluster's default spreads, which are preferences and stand in no API. Peers in a zone do
//! not raise the rate at which bytes come: no agent serves them yet.

use std::collections::BTreeMap;

use crate::amount::NVIDIA_GPU;
use crate::bits::Bits;
use crate::label;
use crate::money::{HourlyPrice, Millis};
use crate::node::{Node, NodeState};
use crate::offer::InstanceType;
use crate::plan::Plan;
use crate::pod::{Eviction, ObjectKey};
use crate::pool::{NodePool, Packing};
use crate::reason::NotServed;
use crate::snapshot::{Policy, Snapshot};
use crate::solve::again::Hints;
use crate::solve::bins::{Bin, Company, Cost, Existing, Kind};
use crate::solve::demand::{Coming, Demand};
use crate::solve::limits::Limit;
use crate::solve::topology::Topology;
use crate::world::{ShapeId, Slot, World, host_of};

mod again;
mod bins;
mod demand;
mod gang;
mod limits;
mod merge;
mod nominate;
mod place;
mod result;
mod topology;
mod why;

/// Plans one snapshot.
pub fn plan(snapshot: &Snapshot, policy: &Policy) -> Plan {
    World::new(snapshot, policy).plan()
}

impl World {
    /// Plans the world as it is now.
    pub fn plan(&self) -> Plan {
        again::plan(self)
    }
}

pub(crate) struct Solver<'w> {
    world: &'w World,
    topology: Topology,
    demands: Vec<Demand<'w>>,
    /// Candidates that can be had now.
    available: Bits,
    bins: Vec<Bin<'w>>,
    /// Waiting pods by number.
    pods: Vec<Pending<'w>>,
    placed: BTreeMap<usize, Placed>,
    unserved: BTreeMap<usize, NotServed>,
    /// Use of the limits of pools that have some.
    limits: Vec<Option<Limit>>,
    /// Launches by offering, where they are limited.
    launches: BTreeMap<usize, u32>,
    /// What to restore if a group cannot be placed as a whole; the last is that of its last set.
    journals: Vec<gang::Journal<'w>>,
    /// The domain that the group being placed must share.
    within: Option<(topology::Key, u32)>,
    /// Offerings that no pod is bought, counted by pool; worked out when somebody asks.
    never_bought: std::cell::OnceCell<Vec<why::Count>>,
    /// Bound members of each group, by role.
    members: BTreeMap<&'w ObjectKey, gang::Members<'w>>,
    /// What an earlier try taught.
    hints: Hints,
    /// What an hour is worth to the most urgent pool.
    most_urgent: HourlyPrice,
    /// No candidate.
    nowhere: Bits,
    /// Whether a spread was narrowed because of what others had taken.
    narrowed: bool,
}

pub(crate) struct Pending<'w> {
    key: &'w ObjectKey,
    demand: usize,
    created: Millis,
}

/// Where a pod was put.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    bin: usize,
    level: usize,
    /// What came second.
    next: Option<Cost>,
}

/// Pods planned in one go.
enum Unit {
    /// Pods of one shape.
    Pods(usize, Vec<usize>),
    /// A group, by name.
    Group(ObjectKey, Vec<usize>),
}

impl Unit {
    fn pods(&self) -> &[usize] {
        let (Self::Pods(_, pods) | Self::Group(_, pods)) = self;
        pods
    }

    /// The pod that it is planned by.
    fn first(&self) -> usize {
        self.pods()[0]
    }
}

/// How often spreads are narrowed at most in one plan.
const MOST_NARROWINGS: u32 = 64;

impl<'w> Solver<'w> {
    fn new(world: &'w World) -> Self {
        let market = &world.market;
        let mut available = Bits::all(market.len());
        available.drop_all(&market.unavailable(world.now));
        let (mut topology, mut sets) = (Topology::new(), Vec::new());
        let mut shapes: Vec<ShapeId> = world
            .pending
            .values()
            .map(|waiting| waiting.shape)
            .collect();
        // By content: the numbers depend on the order of the input, and so would the reasons.
        shapes.sort_by(|a, b| world.shapes[*a].cmp(&world.shapes[*b]));
        shapes.dedup();
        let mut demands: Vec<Demand<'w>> = shapes
            .iter()
            .map(|shape| Demand::new(world, *shape, &available, &mut topology, &mut sets))
            .collect();
        let owners = topology::owners(world, &mut topology, &shapes);
        demands
            .iter_mut()
            .for_each(|demand| demand.relate(&topology));
        let number: BTreeMap<ShapeId, usize> = shapes
            .iter()
            .enumerate()
            .map(|(at, id)| (*id, at))
            .collect();
        let pods = world
            .pending
            .iter()
            .map(|(key, waiting)| Pending {
                key,
                demand: number[&waiting.shape],
                created: waiting.created,
            })
            .collect();
        let mut solver = Self {
            world,
            topology,
            demands,
            available,
            bins: Vec::new(),
            pods,
            placed: BTreeMap::new(),
            unserved: BTreeMap::new(),
            limits: Vec::new(),
            launches: BTreeMap::new(),
            journals: Vec::new(),
            within: None,
            never_bought: std::cell::OnceCell::new(),
            members: BTreeMap::new(),
            hints: Hints::default(),
            most_urgent: (market.pools.iter())
                .map(|pool| pool.value_of_time)
                .max()
                .unwrap_or_default(),
            nowhere: Bits::none(market.len()),
            narrowed: false,
        };
        solver.limits = solver.limits();
        solver.fill(&owners);
        solver
    }

    /// Makes a bin of every node, and counts the pods that are bound.
    fn fill(&mut self, owners: &std::collections::HashMap<ShapeId, Vec<usize>>) {
        let world = self.world;
        // What bound pods of each shape count for; nothing, for most.
        let relations: Vec<Option<(Vec<usize>, Vec<usize>)>> = world
            .shapes
            .iter()
            .enumerate()
            .map(|(id, shape)| {
                let counting = self.topology.counting(shape);
                let owned = owners.get(&id).cloned().unwrap_or_default();
                (!counting.is_empty() || !owned.is_empty() || shape.group.is_some())
                    .then_some((counting, owned))
            })
            .collect();
        let mut by_class: Vec<Option<Vec<u32>>> = vec![None; world.classes.len()];
        for slot in world.slots.values() {
            let Some(node) = &slot.node else { continue };
            let number = (node.pool.as_ref()).and_then(|name| {
                world
                    .market
                    .pools
                    .iter()
                    .position(|pool| pool.name == *name)
            });
            let pool = number.map(|number| &world.market.pools[number]);
            let standby = matches!(node.state, NodeState::Standby { .. });
            let b = self.bins.len();
            let mut domains = match &by_class[slot.class] {
                Some(domains) => Vec::clone(domains),
                None => {
                    let mut domains = self.domains(b);
                    for (key, domain) in domains.iter_mut().enumerate().skip(1) {
                        let name = self.topology.keys[key].name.clone();
                        if let Some(value) = world.classes[slot.class].labels.get(&name) {
                            *domain = self.topology.domain(key, value, &world.market);
                        }
                    }
                    by_class[slot.class] = Some(domains.clone());
                    domains
                }
            };
            domains[topology::HOST] = b as u32;
            let claims = slot
                .attached
                .iter()
                .flat_map(|shape| &world.shapes[*shape].volumes);
            let mut bin = Bin {
                kind: Kind::Existing(Existing {
                    node,
                    class: slot.class,
                    host: host_of(node),
                    inventory: world.believed(node),
                    boot: bins::boot_of(node, world.now, world.policy.priors.gpu_boot),
                    price: if standby {
                        node.price.unwrap_or_default()
                    } else {
                        HourlyPrice(0)
                    },
                    life: pool.map_or(Millis(0), |pool| pool.expected_life),
                    value_of_time: pool.map_or(self.most_urgent, |pool| pool.value_of_time),
                    special: is_special(node, world.market.kind_of(node)),
                    pool: number,
                    company: pool.map_or(Company::None, |pool| company(world, slot, pool)),
                    waited: Millis(0),
                    timings: std::cell::RefCell::default(),
                }),
                domains,
                amounts: slot.free.clone(),
                ports: slot.ports.clone(),
                claims: claims
                    .map(|volume| (&volume.claim, volume.driver.as_str()))
                    .collect(),
                pods: Vec::new(),
            };
            bin.claims.sort_unstable();
            bin.claims.dedup();
            for (shape, bound) in &slot.pods {
                let Some((counting, owned)) = &relations[*shape] else {
                    continue;
                };
                let place = topology::Place {
                    domains: &bin.domains,
                    node: topology::NodeKind::Existing(&world.classes[slot.class], host_of(node)),
                };
                if bound.leaving > 0 {
                    let by = i32::try_from(bound.leaving).unwrap_or(i32::MAX);
                    self.topology.count_leaving(counting, owned, &place, by);
                }
                if bound.live == 0 {
                    continue;
                }
                if let Some(group) = &world.shapes[*shape].group {
                    let members = self.members.entry(group).or_default();
                    *members
                        .roles
                        .entry(world.shapes[*shape].role())
                        .or_default() += bound.live;
                    members.bins.push((world.shapes[*shape].role(), b));
                }
                let by = i32::try_from(bound.live).unwrap_or(i32::MAX);
                self.topology.count(counting, owned, &place, by);
            }
            self.bins.push(bin);
        }
    }

    /// Places what can be placed, and gives back the rest.
    fn run(&mut self) -> Vec<Unit> {
        self.honour_nominations();
        let queue = self.units();
        self.go_on(queue)
    }

    /// Places what can be placed of what waits still, and gives back the rest.
    fn go_on(&mut self, mut queue: Vec<Unit>) -> Vec<Unit> {
        // Merging makes room, and gives limits back.
        let mut narrowed = 0;
        loop {
            queue = self.go_round(queue);
            let merged = self.merge_special();
            let left: Vec<usize> = queue.iter().flat_map(Unit::pods).copied().collect();
            if queue.is_empty()
                || !(merged || (narrowed < MOST_NARROWINGS && self.narrow_spreads(&left)))
            {
                return queue;
            }
            narrowed += u32::from(!merged);
            self.narrowed |= !merged;
        }
    }

    /// Says why each pod that is left is not served.
    fn explain(&mut self, queue: Vec<Unit>) {
        for unit in queue {
            match unit {
                Unit::Pods(demand, pods) => {
                    let why = self.not_served(demand);
                    self.unserved
                        .extend(pods.into_iter().map(|pod| (pod, why.clone())));
                }
                Unit::Group(name, pods) => self.explain_group(&name, &pods),
            }
        }
    }

    /// Places what can be placed and gives back the rest. What a pod needs may be a pod that comes
    /// later: it goes round until nothing more is placed.
    fn go_round(&mut self, mut queue: Vec<Unit>) -> Vec<Unit> {
        loop {
            let before = self.placed.len();
            let mut left = Vec::new();
            let mut coming = std::collections::VecDeque::from(queue);
            while let Some(unit) = coming.pop_front() {
                match unit {
                    Unit::Pods(demand, pods) => {
                        let rest = self.place_followed(demand, pods, &mut left, &mut coming);
                        if !rest.is_empty() {
                            left.push(Unit::Pods(demand, rest));
                        }
                    }
                    Unit::Group(name, pods) => {
                        let rest = self.place_group(&name, &pods);
                        if rest.len() == pods.len() {
                            left.push(Unit::Group(name, rest));
                            continue;
                        }
                        // Beyond its minimum a group comes after the minimum of all others that are
                        // as urgent.
                        for part in self.by_priority(rest) {
                            let less =
                                |unit: &Unit| self.priority(unit.first()) < self.priority(part[0]);
                            let at = coming.iter().position(less).unwrap_or(coming.len());
                            coming.insert(at, Unit::Group(name.clone(), part));
                        }
                    }
                }
            }
            queue = left;
            if queue.is_empty() || self.placed.len() == before {
                return queue;
            }
        }
    }

    /// Until now every domain that somebody could open counted as empty for a spread. What is left over
    /// counts those that exist, that were opened, or that it could open itself. Says whether that
    /// changes anything.
    fn narrow_spreads(&mut self, pods: &[usize]) -> bool {
        let mut planned = Bits::none(self.world.market.len());
        for bin in &self.bins {
            if let Kind::New(new) = &bin.kind
                && !bin.pods.is_empty()
            {
                planned.insert(new.best);
            }
        }
        let mut left: Vec<usize> = (pods.iter()).map(|pod| self.pods[*pod].demand).collect();
        left.sort_unstable();
        left.dedup();
        let mut affordable = Bits::none(self.world.market.len());
        for c in self.available.iter().filter(|c| self.affordable(*c, None)) {
            affordable.insert(c);
        }
        let mut changed = false;
        for d in left {
            let (world, topology) = (self.world, &mut self.topology);
            let bins = &self.bins;
            changed |= self.demands[d].narrow(
                world,
                topology,
                &affordable,
                &planned,
                bins,
                Coming::Counted,
            );
        }
        self.topology.version += u64::from(changed);
        changed
    }

    /// Pods that are not placed yet, in the order in which they are planned.
    fn units(&self) -> Vec<Unit> {
        let mut by_demand: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut by_group: BTreeMap<&ObjectKey, Vec<usize>> = BTreeMap::new();
        for (number, pod) in self.pods.iter().enumerate() {
            if self.placed.contains_key(&number) {
                continue;
            }
            match &self.demands[pod.demand].shape.group {
                Some(group) if self.world.groups.contains_key(group) => {
                    by_group.entry(group).or_default().push(number);
                }
                _ => by_demand.entry(pod.demand).or_default().push(number),
            }
        }
        let order = |pods: &mut Vec<usize>| {
            pods.sort_by_key(|pod| {
                (
                    self.standing(*pod),
                    self.pods[*pod].created,
                    self.pods[*pod].key,
                )
            });
        };
        let mut units: Vec<Unit> = Vec::new();
        for (demand, mut pods) in by_demand {
            order(&mut pods);
            units.push(Unit::Pods(demand, pods));
        }
        for (group, mut pods) in by_group {
            order(&mut pods);
            units.push(Unit::Group(group.clone(), pods));
        }
        units.sort_by_key(|unit| {
            let (Unit::Pods(_, pods) | Unit::Group(_, pods)) = unit;
            let first = pods[0];
            (
                -i64::from(self.priority(first)),
                (pods.iter())
                    .map(|pod| self.rank(self.pods[*pod].demand))
                    .min(),
                self.standing(first),
                self.pods[first].created,
                self.pods[first].key,
            )
        });
        units
    }

    /// Whether an earlier try taught that a demand comes before others, or after them.
    fn rank(&self, demand: usize) -> u8 {
        match self.hints.first.get(&demand) {
            Some(rank) => *rank,
            None => u8::MAX - u8::from(!self.hints.last.contains(&demand)),
        }
    }

    fn priority(&self, pod: usize) -> i32 {
        self.demands[self.pods[pod].demand].shape.priority
    }

    /// These pods by their priority, in the order in which they come.
    fn by_priority(&self, pods: Vec<usize>) -> Vec<Vec<usize>> {
        let mut parts: BTreeMap<std::cmp::Reverse<i32>, Vec<usize>> = BTreeMap::new();
        for pod in pods {
            let of = std::cmp::Reverse(self.priority(pod));
            parts.entry(of).or_default().push(pod);
        }
        parts.into_values().collect()
    }

    /// Who goes first: priority, then special resources, CPU and memory asked for.
    fn standing(&self, pod: usize) -> impl Ord + use<> {
        let demand = &self.demands[self.pods[pod].demand];
        let special: i64 = demand
            .asks
            .iter()
            .filter(|(dim, _)| *dim > crate::market::PODS)
            .fold(0, |sum, (_, n)| n.saturating_add(sum));
        let sign = if self.hints.small_first { 1 } else { -1 };
        let special = if demand.special { special } else { 0 };
        let ask = |dim| demand.ask(dim).saturating_mul(sign);
        (
            -i64::from(demand.shape.priority),
            special.saturating_mul(sign),
            ask(crate::market::CPU),
            ask(crate::market::MEMORY),
        )
    }
}

/// Whether a node has GPUs or the like.
fn is_special(node: &Node, kind: Option<&InstanceType>) -> bool {
    kind.map_or_else(
        || node.allocatable.of(NVIDIA_GPU) > 0 || node.labels.contains_key(label::GPU_SKU),
        |kind| kind.gpu.is_some(),
    )
}

/// What a node of `pool` runs, daemons and pods that leave not counted. Where the pool gives no pod a
/// node of its own it does not matter.
fn company(world: &World, slot: &Slot, pool: &NodePool) -> Company {
    let mut company = Company::None;
    if pool.packing == Packing::default() {
        return company;
    }
    for (shape, bound) in &slot.pods {
        let shape = &world.shapes[*shape];
        if bound.live == 0 || shape.eviction == Eviction::Daemon {
            continue;
        }
        if demand::has_alone(pool, shape) {
            return Company::Alone;
        }
        company = Company::Shared;
    }
    company
}
