//! Planning: which pod goes where, and what is bought for those that fit nowhere.
//!
//! Waiting pods are taken by priority, the hardest to place first, a group as one. For each, the least
//! score over all nodes that are there and all that could be bought wins. A pod that finds no place is
//! tried again after the others, since what it needs may be a pod that is placed later. Preferences
//! count as required until a pod would not be served with them; then they are given up one by one.
//!
//! The outcome is the same for every order of the input.

use std::collections::{BTreeMap, BinaryHeap};

use crate::bits::Bits;
use crate::market::Market;
use crate::money::{HourlyPrice, Millis, Money};
use crate::node::NodeState;
use crate::plan::Plan;
use crate::pod::ObjectKey;
use crate::pool::NODES;
use crate::reason::NotServed;
use crate::snapshot::{Policy, Snapshot};
use crate::solve::bins::{Bin, Cost, Existing, Kind, New};
use crate::solve::demand::{Demand, Items};
use crate::solve::topology::Topology;
use crate::world::{ShapeId, World, host_of};

mod bins;
mod demand;
mod gang;
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
        let mut solver = Solver::new(self);
        solver.run();
        solver.result()
    }
}

pub(crate) struct Solver<'w> {
    world: &'w World,
    topology: Topology,
    demands: Vec<Demand<'w>>,
    items: Items<'w>,
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
    /// What to restore if a group cannot be placed as a whole.
    journal: Option<gang::Journal<'w>>,
    /// The domain that the group being placed must share.
    within: Option<(topology::Key, u32)>,
    /// Bound members of each group, by role.
    members: BTreeMap<&'w ObjectKey, gang::Members<'w>>,
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

struct Limit {
    /// Resource, how much is used, the limit.
    rows: Vec<(String, i64, i64)>,
}

/// Pods planned in one go.
enum Unit {
    /// Pods of one shape.
    Pods(usize, Vec<usize>),
    /// A group, by name.
    Group(ObjectKey, Vec<usize>),
}

impl<'w> Solver<'w> {
    fn new(world: &'w World) -> Self {
        let market = &world.market;
        let mut available = Bits::all(market.len());
        available.drop_all(&market.unavailable(world.now));
        let (mut topology, mut items) = (Topology::new(), Items::default());
        let mut shapes: Vec<ShapeId> = world
            .pending
            .values()
            .map(|waiting| waiting.shape)
            .collect();
        shapes.sort_unstable();
        shapes.dedup();
        let mut demands: Vec<Demand<'w>> = shapes
            .iter()
            .map(|shape| Demand::new(world, *shape, &available, &mut topology, &mut items))
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
            items,
            available,
            bins: Vec::new(),
            pods,
            placed: BTreeMap::new(),
            unserved: BTreeMap::new(),
            limits: Vec::new(),
            launches: BTreeMap::new(),
            journal: None,
            within: None,
            members: BTreeMap::new(),
        };
        solver.limits = solver.limits();
        solver.fill(&owners);
        solver
    }

    /// Makes a bin of every node, and counts the pods that are bound.
    fn fill(&mut self, owners: &std::collections::HashMap<ShapeId, Vec<usize>>) {
        let world = self.world;
        let mut counted: std::collections::HashMap<ShapeId, Vec<usize>> =
            std::collections::HashMap::new();
        let most_urgent = world
            .market
            .pools
            .iter()
            .map(|pool| pool.value_of_time)
            .max()
            .unwrap_or_default();
        for slot in world.slots.values() {
            let Some(node) = &slot.node else { continue };
            let pool = node
                .pool
                .as_ref()
                .and_then(|name| world.market.pools.iter().find(|pool| pool.name == *name));
            let standby = matches!(node.state, NodeState::Standby { .. });
            let b = self.bins.len();
            let mut domains = self.domains(b);
            for (key, domain) in domains.iter_mut().enumerate().skip(1) {
                let name = self.topology.keys[key].name.clone();
                if let Some(value) = world.classes[slot.class].labels.get(&name) {
                    *domain = self.topology.domain(key, value, &world.market);
                }
            }
            let claims = slot
                .pods
                .keys()
                .flat_map(|shape| &world.shapes[*shape].volumes);
            let mut bin = Bin {
                kind: Kind::Existing(Existing {
                    node,
                    class: slot.class,
                    host: host_of(node),
                    inventory: world.fresh_inventory(&node.name),
                    boot: bins::boot_of(node, world.now, world.policy.priors.gpu_boot),
                    price: if standby {
                        node.price.unwrap_or_default()
                    } else {
                        HourlyPrice(0)
                    },
                    life: pool.map_or(Millis(0), |pool| pool.expected_life),
                    value_of_time: pool.map_or(most_urgent, |pool| pool.value_of_time),
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
                if bound.live == 0 {
                    continue;
                }
                if let Some(group) = &world.shapes[*shape].group {
                    let members = self.members.entry(group).or_default();
                    *members
                        .roles
                        .entry(world.shapes[*shape].role())
                        .or_default() += bound.live;
                    members.bins.push(b);
                }
                let counting = counted
                    .entry(*shape)
                    .or_insert_with(|| self.topology.counting(&world.shapes[*shape]));
                let owned = owners.get(shape).map_or(&[][..], Vec::as_slice);
                if counting.is_empty() && owned.is_empty() {
                    continue;
                }
                let place = topology::Place {
                    domains: &bin.domains,
                    node: topology::NodeKind::Existing(&world.classes[slot.class], host_of(node)),
                };
                let by = i32::try_from(bound.live).unwrap_or(i32::MAX);
                self.topology.count(counting, owned, &place, by);
            }
            self.bins.push(bin);
        }
    }

    fn run(&mut self) {
        self.honour_nominations();
        let mut queue = self.units();
        // What a pod needs may be a pod that comes later: go round until nothing more is placed.
        loop {
            let before = self.placed.len();
            let mut left = Vec::new();
            for unit in queue {
                match unit {
                    Unit::Pods(demand, pods) => {
                        let rest = self.place_all(demand, &pods);
                        if !rest.is_empty() {
                            left.push(Unit::Pods(demand, rest));
                        }
                    }
                    Unit::Group(name, pods) => {
                        let rest = self.place_group(&name, &pods);
                        if !rest.is_empty() {
                            left.push(Unit::Group(name, rest));
                        }
                    }
                }
            }
            queue = left;
            if queue.is_empty() || self.placed.len() == before {
                break;
            }
        }
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

    /// Puts pods where earlier plans meant them to be, so that planning again changes nothing.
    fn honour_nominations(&mut self) {
        if self.world.nominations.is_empty() {
            return;
        }
        let by_name: BTreeMap<&str, usize> = self
            .bins
            .iter()
            .enumerate()
            .filter_map(|(b, bin)| match &bin.kind {
                Kind::Existing(existing) => Some((existing.node.name.as_str(), b)),
                Kind::New(_) => None,
            })
            .collect();
        for unit in self.units() {
            let (Unit::Pods(_, pods) | Unit::Group(_, pods)) = unit;
            for pod in pods {
                let nominee = self.world.nominations.get(self.pods[pod].key);
                let Some(b) = nominee.and_then(|name| by_name.get(name.as_str())) else {
                    continue;
                };
                let d = self.pods[pod].demand;
                let able = (0..self.demands[d].levels.len()).find(|l| {
                    self.appraise(&self.demands[d], &self.demands[d].levels[*l], *b)
                        .is_some()
                });
                if let Some(level) = able {
                    self.put(d, level, pod, *b);
                    self.placed.insert(
                        pod,
                        Placed {
                            bin: *b,
                            level,
                            next: None,
                        },
                    );
                }
            }
        }
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
                self.standing(first),
                self.pods[first].created,
                self.pods[first].key,
            )
        });
        units
    }

    /// Who goes first: priority, then special resources, CPU and memory asked for.
    fn standing(&self, pod: usize) -> impl Ord + use<> {
        let demand = &self.demands[self.pods[pod].demand];
        let special: i64 = demand
            .asks
            .iter()
            .filter(|(dim, _)| *dim > crate::market::PODS)
            .map(|(_, n)| *n)
            .sum();
        let special = if demand.special { special } else { 0 };
        let ask = |dim| -demand.ask(dim);
        (
            -i64::from(demand.shape.priority),
            -special,
            ask(crate::market::CPU),
            ask(crate::market::MEMORY),
        )
    }

    /// Places as many of these pods of one shape as possible; gives back those that found no place.
    fn place_all(&mut self, d: usize, pods: &[usize]) -> Vec<usize> {
        let impossible = self.demands[d]
            .shape
            .volumes
            .iter()
            .any(|volume| volume.unusable.is_some());
        if impossible {
            return pods.to_vec();
        }
        let mut pods = pods.to_vec();
        pods.reverse();
        let levels = self.demands[d].levels.len();
        let mut level = self.demands[d].level.get();
        while !pods.is_empty() && level < levels {
            let before = pods.len();
            self.place_at(d, level, &mut pods);
            if pods.len() == before {
                level += 1;
            } else {
                self.demands[d].level.set(level);
            }
        }
        pods.reverse();
        pods
    }

    /// Places pods at one level of preferences until the next one finds no place.
    fn place_at(&mut self, d: usize, l: usize, pods: &mut Vec<usize>) {
        let mut heap: BinaryHeap<std::cmp::Reverse<Cost>> = BinaryHeap::new();
        let mut stale = true;
        let mut offer: Option<Offer> = None;
        while let Some(pod) = pods.last().copied() {
            if stale {
                let demand = &self.demands[d];
                let costs = (0..self.bins.len())
                    .filter_map(|b| self.appraise(demand, &demand.levels[l], b));
                heap = costs.map(std::cmp::Reverse).collect();
            }
            // Another pod of the same shape only takes places away, unless the least filled domain
            // of a spread moved.
            stale = self.demands[d].shifting;
            let best = loop {
                let Some(std::cmp::Reverse(top)) = heap.pop() else {
                    break None;
                };
                match self.appraise(&self.demands[d], &self.demands[d].levels[l], top.bin) {
                    Some(now) if now <= top => break Some(now),
                    Some(now) => heap.push(std::cmp::Reverse(now)),
                    None => {}
                }
            };
            if offer
                .as_ref()
                .is_none_or(|offer| stale || !offer.holds(self, d, l, pods.len()))
            {
                offer = self.offer(d, l, pods.len());
            }
            let next = heap.peek().map(|cost| cost.0);
            match (best, &offer) {
                (Some(cost), new) if new.as_ref().is_none_or(|new| cost.money <= new.each) => {
                    self.put(d, l, pod, cost.bin);
                    let next =
                        next.filter(|next| new.as_ref().is_none_or(|new| next.money <= new.each));
                    self.placed.insert(
                        pod,
                        Placed {
                            bin: cost.bin,
                            level: l,
                            next,
                        },
                    );
                    pods.pop();
                    if let Some(again) =
                        self.appraise(&self.demands[d], &self.demands[d].levels[l], cost.bin)
                    {
                        heap.push(std::cmp::Reverse(again));
                    }
                }
                (best, Some(new)) => {
                    let new = new.clone();
                    let b = self.open(&new);
                    for _ in 0..new.pods {
                        let Some(pod) = pods.last().copied() else {
                            break;
                        };
                        let demand = &self.demands[d];
                        if self.appraise(demand, &demand.levels[l], b).is_none() {
                            break;
                        }
                        self.put(d, l, pod, b);
                        self.placed.insert(
                            pod,
                            Placed {
                                bin: b,
                                level: l,
                                next: None,
                            },
                        );
                        pods.pop();
                    }
                    if self.bins[b].pods.is_empty() {
                        // Its relations forbid what its candidates allow: nothing more can be done.
                        self.discard(b);
                        return;
                    }
                    heap.extend(best.map(std::cmp::Reverse));
                    let demand = &self.demands[d];
                    heap.extend(
                        self.appraise(demand, &demand.levels[l], b)
                            .map(std::cmp::Reverse),
                    );
                    offer = None;
                }
                (_, None) => return,
            }
        }
    }

    /// The new node that would serve pods of this demand for the least score per pod, `left` of them
    /// being left to place.
    fn offer(&self, d: usize, l: usize, left: usize) -> Option<Offer> {
        let (demand, level) = (&self.demands[d], &self.demands[d].levels[l]);
        let market = &self.world.market;
        self.topology
            .host_allows(&level.uses, &demand.counted_by, self.bins.len() as u32)
            .ok()?;
        let mut masks: Vec<&Bits> = vec![&self.available];
        for (dim, amount) in &demand.asks {
            masks.push(market.with_room(*dim, *amount)?);
        }
        let missing = self.lacking(&demand.items);
        level.with_allowed(demand, &self.topology, market, |allowed| {
            let mut masks: Vec<&Bits> = masks.to_vec();
            masks.extend(&allowed.mask);
            masks.extend(self.within());
            for tier in market.tiers() {
                let mut generic = tier.clone();
                generic.drop_all(&market.special);
                let kinds = if demand.special {
                    vec![tier]
                } else {
                    vec![&generic, tier]
                };
                for kind in kinds {
                    let mut all = masks.clone();
                    all.push(kind);
                    if !self.flexible(&level.mask, &all) {
                        continue;
                    }
                    let candidates = level.mask.meet(&all).filter(|c| {
                        self.affordable(*c, None) && demand.claims_fit(&[], market.pool(*c))
                    });
                    if let Some(offer) = self.cheapest_each(demand, candidates, missing, left) {
                        return Some(Offer {
                            kind: kind.clone(),
                            ..offer
                        });
                    }
                }
            }
            None
        })
    }

    /// Of `candidates`, the one of least score per pod when filled with up to `left` pods.
    fn cheapest_each(
        &self,
        demand: &Demand<'w>,
        candidates: impl Iterator<Item = usize>,
        missing: crate::ready::Missing,
        left: usize,
    ) -> Option<Offer> {
        let market = &self.world.market;
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        let mut best: Option<(Money, usize, Offer)> = None;
        for c in candidates {
            let exclusive = demand.dedicated.contains(c);
            let room = market.room(c);
            let fit = demand
                .asks
                .iter()
                .map(|(dim, amount)| room[*dim] / amount)
                .min()
                .unwrap_or(0);
            let cap = if exclusive {
                1
            } else {
                i64::from(demand.per_node)
            };
            let pods = fit.min(cap).min(left).max(1);
            let base = market.candidates[c].base;
            if best
                .as_ref()
                .is_some_and(|(least, ..)| Money(base.0 / pods) > *least)
            {
                continue;
            }
            let score = if missing.is_nothing() {
                base
            } else {
                market.appraise(c, missing).0.total()
            };
            let each = Money(score.0 / pods);
            let pods = usize::try_from(pods).unwrap_or(1);
            // Of equals, the larger node: fewer of them run fewer daemons.
            let better = best
                .as_ref()
                .is_none_or(|(least, most, _)| each < *least || (each == *least && pods > *most));
            if better {
                let offer = Offer {
                    each,
                    best: c,
                    pods,
                    kind: Bits::none(0),
                };
                best = Some((each, pods, offer));
            }
        }
        best.map(|(_, _, offer)| offer)
    }

    /// Opens a bin for an offer.
    fn open(&mut self, offer: &Offer) -> usize {
        let b = self.bins.len();
        let mut mask = offer.kind.clone();
        mask.keep(&self.available);
        self.bins.push(Bin {
            kind: Kind::New(New {
                mask,
                best: offer.best,
                score: Money(0),
                items: Vec::new(),
                missing: crate::ready::Missing::default(),
                exclusive: false,
            }),
            domains: self.domains(b),
            amounts: vec![0; self.world.dims.len()].into_boxed_slice(),
            ports: Vec::new(),
            claims: Vec::new(),
            pods: Vec::new(),
        });
        self.charge(None, Some(offer.best));
        b
    }

    /// Takes back a bin that was opened last and holds nothing.
    fn discard(&mut self, b: usize) {
        if let Some(Bin {
            kind: Kind::New(new),
            ..
        }) = self.bins.get(b)
        {
            self.charge(Some(new.best), None);
        }
        self.bins.truncate(b);
    }

    /// Use of every limited pool by the nodes it has.
    fn limits(&self) -> Vec<Option<Limit>> {
        let market = &self.world.market;
        let limit = |pool: &crate::pool::NodePool| {
            if pool.limits.is_empty() {
                return None;
            }
            let nodes = || {
                let nodes = self
                    .world
                    .slots
                    .values()
                    .filter_map(|slot| slot.node.as_ref());
                nodes.filter(|node| node.pool.as_deref() == Some(&pool.name))
            };
            let used = |resource: &str| match resource {
                NODES => nodes().count() as i64,
                _ => nodes()
                    .map(|node| node.allocatable.of(resource))
                    .fold(0, i64::saturating_add),
            };
            let rows = pool
                .limits
                .iter()
                .map(|(name, limit)| (name.to_owned(), used(name), limit))
                .collect();
            Some(Limit { rows })
        };
        market.pools.iter().map(limit).collect()
    }

    /// Whether the limits of its pool and its launch budget allow candidate `c`, in place of `instead`.
    fn affordable(&self, c: usize, instead: Option<usize>) -> bool {
        if instead == Some(c) {
            return true;
        }
        let market = &self.world.market;
        let candidate = &market.candidates[c];
        if let Some(budget) = market.offerings[candidate.offering].launch_budget {
            let used = self.launches.get(&candidate.offering).copied().unwrap_or(0);
            let own =
                instead.is_some_and(|old| market.candidates[old].offering == candidate.offering);
            if used - u32::from(own) >= budget {
                return false;
            }
        }
        let Some(limit) = &self.limits[candidate.pool] else {
            return true;
        };
        let own = |resource: &str| {
            let old = instead.filter(|old| market.candidates[*old].pool == candidate.pool);
            old.map_or(0, |old| takes(market, old, resource))
        };
        limit
            .rows
            .iter()
            .all(|(name, used, most)| used - own(name) + takes(market, c, name) <= *most)
    }

    /// Takes one candidate's use of limits and budgets away and adds another's.
    fn charge(&mut self, old: Option<usize>, new: Option<usize>) {
        let market = &self.world.market;
        for (c, sign) in [(old, -1), (new, 1)] {
            let Some(c) = c else { continue };
            let candidate = &market.candidates[c];
            if market.offerings[candidate.offering].launch_budget.is_some() {
                let launches = self.launches.entry(candidate.offering).or_default();
                *launches = launches.saturating_add_signed(sign);
            }
            if let Some(limit) = &mut self.limits[candidate.pool] {
                for (name, used, _) in &mut limit.rows {
                    *used += i64::from(sign) * takes(market, c, name);
                }
            }
        }
    }

    /// Whether enough different types stay possible for pools that ask for a choice.
    fn flexible(&self, mask: &Bits, others: &[&Bits]) -> bool {
        let market = &self.world.market;
        let asks =
            |pool: &crate::pool::NodePool| pool.requirements.iter().any(|r| r.min_values.is_some());
        if !market.pools.iter().any(asks) {
            return true;
        }
        why::too_few(market, mask, others).is_none()
    }
}

/// A new node that could be bought for pods of one demand.
#[derive(Clone)]
struct Offer {
    /// Score per pod.
    each: Money,
    best: usize,
    /// How many of the pods it takes.
    pods: usize,
    /// Candidates among which it was chosen: one weight of pools, generic types or all.
    kind: Bits,
}

impl Offer {
    /// Whether it is still what [`Solver::offer`] would say.
    fn holds(&self, solver: &Solver<'_>, d: usize, l: usize, left: usize) -> bool {
        let demand = &solver.demands[d];
        self.pods <= left
            && solver.affordable(self.best, None)
            && demand.levels[l]
                .allowed
                .borrow()
                .as_ref()
                .is_none_or(|(version, _)| *version == solver.topology.version)
    }
}

/// What a new node of candidate `c` adds to the use of a limit.
fn takes(market: &Market, c: usize, resource: &str) -> i64 {
    match resource {
        NODES => 1,
        _ => market.kind(c).capacity.of(resource),
    }
}
