//! Which nodes to empty and remove, in which order, and why every other one stays.
//!
//! Five reasons, in this order: a node is too old, differs from what its pool says, is empty, is
//! under-used while its pods fit elsewhere, or something strictly cheaper would do. What moves is
//! simulated with the planner itself, on the world as it will be once the plan is carried out, so no
//! pod becomes pending, no constraint breaks, and nothing is moved onto a node that is not
//! initialised. Nodes that could become cheaper only together are tried together.
//!
//! Never retired: a node that starts or is fetching for a pod that waits, one that a waiting pod is
//! about to use, one with a pod that starts, may not be moved or would not come back, one that just
//! took a moved pod. A group moves whole or not at all. Budgets of pools and pods are counted over
//! all moves of the round.
//!
//! Of nodes of equal worth, the one whose cache is cheaper to rebuild goes first; an item that no
//! other node of the zone has counts [`LAST_COPY`] times.
//!
//! Whoever carries this out buys replacements first, waits until they are initialised, and asks for
//! every eviction: a budget that changed meanwhile, or a pod that came, cancels. The repair of
//! unhealthy nodes is not decided here; they count against the budgets of their pool.
//!
//! The outcome is the same for every order of the input.

use std::collections::{BTreeMap, BTreeSet};

use crate::money::{HourlyPrice, Millis};
use crate::offer::{Availability, CapacityType};
use crate::plan::{Plan, Retirement, RetirementPlan, Target};
use crate::pod::ObjectKey;
use crate::pool::DisruptionReason;
use crate::reason::Kept;
use crate::snapshot::{Policy, Snapshot};

use allowance::Allowance;
use caches::Caches;
use candidate::{Facts, Verdict};
use simulate::{Market, Simulation, Stuck, WhatIf};
use unit::Unit;

mod allowance;
mod caches;
mod candidate;
mod simulate;
mod unit;

/// How many times a cached item counts when no other node of the zone has it.
pub const LAST_COPY: u64 = 4;

/// Replacing spot by cheaper spot takes at least this many cheaper types that would do: with fewer,
/// the likeliest of all to be taken away again is what would be left to choose.
pub const CHEAPER_SPOT_TYPES: usize = 15;

/// A node that has been idle for this long while it fetches is no longer waited for.
pub const FETCH_DEADLINE: Millis = Millis::from_secs(1800);

/// Kind of the owner of the pods that stand for a capacity buffer. They hold a node against being
/// empty or under-used, not against being replaced.
pub const BUFFER: &str = "CapacityBuffer";

/// Most nodes that are merged into fewer at once.
const MOST_MERGED: usize = 16;

/// Most simulations of one round. What is left has its turn in a later one.
const MOST_SIMULATIONS: usize = 500;

/// In a large cluster fewer: a simulation takes the longer the more nodes there are. At 5,000 nodes
/// this leaves 100, each of which took 10 to 40 ms with 20 pods to move.
const MOST_NODES_SIMULATED: usize = 500_000;

/// How long the same nodes are tried first when there are more than one round can simulate.
const TURN: Millis = Millis::from_secs(60);

/// After so many units in a row whose pods fit only onto nodes that are to be emptied as well, that is
/// no longer tried to be avoided.
const MOST_DETOURS: u32 = 3;

/// In this order.
const REASONS: [DisruptionReason; 5] = [
    DisruptionReason::Expired,
    DisruptionReason::Drifted,
    DisruptionReason::Empty,
    DisruptionReason::Underused,
    DisruptionReason::Replaceable,
];

/// Which nodes of the snapshot to retire once `plan` is carried out.
pub fn retire(snapshot: &Snapshot, policy: &Policy, plan: &Plan) -> RetirementPlan {
    let mut round = Round::new(snapshot, policy, plan);
    for reason in REASONS {
        round.consider(reason);
    }
    round.merge();
    round.finish()
}

struct Round<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    plan: &'a Plan,
    facts: BTreeMap<&'a str, Facts<'a>>,
    kept: BTreeMap<&'a str, Kept>,
    retired: Vec<Retirement>,
    gone: BTreeSet<&'a str>,
    /// Nodes that are expired or drifted: nothing is moved there, even if they cannot go now.
    doomed: BTreeSet<&'a str>,
    /// Nodes that take moved pods, with one of them.
    filled: BTreeMap<String, ObjectKey>,
    allowance: Allowance<'a>,
    caches: Caches<'a>,
    /// Made when it is first needed: most rounds retire nothing.
    simulation: Option<Simulation<'a>>,
    simulations: usize,
    /// How many there may be.
    most: usize,
    /// How many units in a row could not be kept off nodes that are to be emptied.
    detours: u32,
}

impl<'a> Round<'a> {
    fn new(snapshot: &'a Snapshot, policy: &'a Policy, plan: &'a Plan) -> Self {
        let (facts, kept) = candidate::facts(snapshot, policy, plan);
        let doomed = facts
            .iter()
            .filter(|(_, facts)| facts.is_expired(snapshot.now) || facts.is_drifted())
            .map(|(name, _)| *name)
            .collect();
        Self {
            snapshot,
            policy,
            plan,
            facts,
            kept,
            retired: Vec::new(),
            gone: BTreeSet::new(),
            doomed,
            filled: BTreeMap::new(),
            allowance: Allowance::new(snapshot),
            caches: Caches::new(snapshot, policy),
            simulation: None,
            simulations: 0,
            most: (MOST_NODES_SIMULATED / snapshot.nodes.len().max(1)).min(MOST_SIMULATIONS),
            detours: 0,
        }
    }

    /// Retires what can be for one reason.
    fn consider(&mut self, reason: DisruptionReason) {
        let mut able = BTreeSet::new();
        for (name, facts) in &self.facts {
            if self.gone.contains(name) {
                continue;
            }
            match facts.verdict(reason, self.snapshot.now) {
                Verdict::Applies => {
                    able.insert(*name);
                }
                Verdict::Kept(why) => {
                    self.kept.entry(name).or_insert(why);
                }
                Verdict::No => {}
            }
        }
        if reason == DisruptionReason::Replaceable {
            able.retain(|name| self.is_undercut(&self.facts[name]));
        }
        let (units, partial) = unit::units(&self.facts, &able, self.snapshot);
        for (name, group) in partial {
            self.kept.entry(name).or_insert(Kept::Group(group));
        }
        self.detours = 0;
        let mut queue = unit::Queue::new(units, reason, &self.facts, &self.caches);
        if reason != DisruptionReason::Empty {
            queue.turn(self.most, self.snapshot.now);
        }
        while let Some(unit) = queue.next(&self.caches) {
            if let Err(why) = self.try_unit(&unit, reason, &able) {
                self.keep(&unit, &why);
            }
        }
    }

    fn keep(&mut self, unit: &Unit<'a>, why: &Kept) {
        for name in &unit.nodes {
            match self.kept.get(name) {
                // That something cheaper was looked for says more than that the node is used.
                Some(Kept::Used { .. }) if *why == Kept::Cheapest => {
                    self.kept.insert(name, why.clone());
                }
                Some(_) => {}
                None => {
                    self.kept.insert(name, why.clone());
                }
            }
        }
    }

    /// Retires the nodes of `unit` if everything allows it.
    fn try_unit(
        &mut self,
        unit: &Unit<'a>,
        reason: DisruptionReason,
        able: &BTreeSet<&'a str>,
    ) -> Result<(), Kept> {
        self.allowed(unit, reason)?;
        let pods = unit.pods(&self.facts);
        if pods.is_empty() {
            self.accept(unit, reason, WhatIf::default());
            return Ok(());
        }
        let market = match reason {
            DisruptionReason::Expired | DisruptionReason::Drifted => Market::Everything,
            DisruptionReason::Empty | DisruptionReason::Underused => Market::Nothing,
            DisruptionReason::Replaceable => {
                let outcome = self.cheaper(unit)?;
                self.accept(unit, reason, outcome);
                return Ok(());
            }
        };
        let outcome = self.elsewhere(unit, able, &market)?;
        self.accept(unit, reason, outcome);
        Ok(())
    }

    /// Where the pods of `unit` would go: rather not onto one of the nodes that are `able` to go next.
    fn elsewhere(
        &mut self,
        unit: &Unit<'a>,
        able: &BTreeSet<&'a str>,
        market: &Market,
    ) -> Result<WhatIf, Kept> {
        let others = able.iter().copied();
        let next: BTreeSet<&str> = others
            .filter(|name| !unit.nodes.contains(name) && !self.gone.contains(name))
            .filter(|name| !self.doomed.contains(name))
            .collect();
        if next.is_empty() || self.detours >= MOST_DETOURS {
            return self.what_if(unit, &BTreeSet::new(), market);
        }
        if let Ok(outcome) = self.what_if(unit, &next, market) {
            self.detours = 0;
            return Ok(outcome);
        }
        self.detours += 1;
        self.what_if(unit, &BTreeSet::new(), market)
    }

    /// Whether rules that need no simulation allow it.
    fn allowed(&self, unit: &Unit<'a>, reason: DisruptionReason) -> Result<(), Kept> {
        for name in &unit.nodes {
            if let Some(pod) = self.filled.get(*name) {
                return Err(Kept::Nominated(pod.clone()));
            }
        }
        let pools = unit.nodes.iter().map(|name| self.facts[name].pool);
        self.allowance.nodes(pools, reason)?;
        let evicted: Vec<_> = unit.evicted(&self.facts).collect();
        self.allowance.pods(&evicted)
    }

    /// Something strictly cheaper for the pods of `unit`, if it pays.
    fn cheaper(&mut self, unit: &Unit<'a>) -> Result<WhatIf, Kept> {
        let old = unit.price(&self.facts);
        let outcome = self
            .what_if(unit, &BTreeSet::new(), &Market::Below(old))
            .map_err(|why| match why {
                Kept::PodStuck { .. } => Kept::Cheapest,
                other => other,
            })?;
        let new = outcome.price();
        if new >= old || !self.pays(unit, HourlyPrice(old.0 - new.0), &outcome) {
            return Err(Kept::Cheapest);
        }
        let all_spot = unit.nodes.iter().all(|name| self.facts[name].is_spot());
        let to_spot = outcome
            .nodes
            .iter()
            .any(|node| node.offering.capacity_type == CapacityType::Spot);
        if all_spot && to_spot && !self.is_flexible(unit, old, &outcome)? {
            return Err(Kept::Cheapest);
        }
        Ok(outcome)
    }

    /// Whether what is saved over the expected life of the pool's nodes is more than what the move
    /// costs: paying for the new node while it boots, the waiting, and the risk it brings.
    fn pays(&self, unit: &Unit<'a>, saves: HourlyPrice, outcome: &WhatIf) -> bool {
        let pools = || unit.nodes.iter().map(|name| self.facts[name].pool);
        let life = pools().map(|pool| pool.expected_life).min();
        let value = pools().map(|pool| pool.value_of_time).max();
        let slowest = outcome.moves.iter().map(|placed| placed.ready).max();
        let mut cost = value.unwrap_or_default().over(slowest.unwrap_or_default());
        for node in &outcome.nodes {
            cost = cost + node.price.over(node.timing.total()) + node.score.risk;
        }
        saves.over(life.unwrap_or_default()) > cost
    }

    /// Whether enough cheaper spot types would do: each is taken away in turn until too few are left.
    fn is_flexible(
        &mut self,
        unit: &Unit<'a>,
        old: HourlyPrice,
        first: &WhatIf,
    ) -> Result<bool, Kept> {
        let mut without: BTreeSet<String> = first.types().collect();
        while without.len() < CHEAPER_SPOT_TYPES {
            let market = Market::SpotBelow {
                price: old,
                without: without.clone(),
            };
            match self.what_if(unit, &BTreeSet::new(), &market) {
                Ok(next) if next.price() < old && !next.nodes.is_empty() => {
                    without.extend(next.types());
                }
                Ok(_) | Err(Kept::PodStuck { .. }) => return Ok(false),
                Err(why) => return Err(why),
            }
        }
        Ok(true)
    }

    /// Whether anything is sold for less than the node costs: without that, nothing is simulated.
    fn is_undercut(&self, facts: &Facts<'_>) -> bool {
        let Some(price) = facts.node.price else {
            return false;
        };
        self.snapshot.offerings.iter().any(|offering| {
            offering.price < price && offering.availability == Availability::Available
        })
    }

    fn what_if(
        &mut self,
        unit: &Unit<'a>,
        closed: &BTreeSet<&'a str>,
        market: &Market,
    ) -> Result<WhatIf, Kept> {
        if self.simulations >= self.most {
            return Err(Kept::NotTried {
                simulated: u32::try_from(self.most).unwrap_or(u32::MAX),
            });
        }
        self.simulations += 1;
        let simulation = self.simulation.get_or_insert_with(|| {
            let mut simulation = Simulation::new(self.snapshot, self.policy, self.plan);
            // What went before had nothing to move, or it would have been simulated.
            let gone: Vec<&str> = self.gone.iter().copied().collect();
            simulation.commit(&gone, &[], &WhatIf::default(), 0);
            simulation
        });
        let pods = unit.pods(&self.facts);
        let closed = closed.union(&self.doomed).copied();
        let closed = closed.filter(|name| !unit.nodes.contains(name)).collect();
        simulation
            .what_if(&unit.nodes, &pods, &closed, market)
            .map_err(|Stuck { pod, why }| Kept::PodStuck { pod, why })
    }

    fn accept(&mut self, unit: &Unit<'a>, reason: DisruptionReason, outcome: WhatIf) {
        let bought: usize = self.retired.iter().map(|r| r.replacements.len()).sum();
        let old = unit.price(&self.facts);
        let mut left = outcome.price().0.min(old.0);
        if let Some(simulation) = &mut self.simulation {
            simulation.commit(&unit.nodes, &unit.pods(&self.facts), &outcome, bought);
        }
        let evicted: Vec<_> = unit.evicted(&self.facts).collect();
        self.allowance.take_pods(&evicted);
        let mut replacements = outcome.nodes;
        for name in &unit.nodes {
            let facts = &self.facts[name];
            self.allowance.take_node(facts.pool);
            let own: BTreeSet<&ObjectKey> = facts.pods().map(|pod| &pod.key).collect();
            let mut moves = Vec::new();
            for placed in outcome.moves.iter().filter(|m| own.contains(&m.pod)) {
                let target = match &placed.target {
                    Target::New(number) => Target::New(bought + number),
                    Target::Node(node) => {
                        self.filled
                            .entry(node.clone())
                            .or_insert(placed.pod.clone());
                        Target::Node(node.clone())
                    }
                };
                moves.push((placed.pod.clone(), target));
            }
            let price = facts.node.price.unwrap_or_default().0;
            let paid = price.min(left);
            left -= paid;
            self.retired.push(Retirement {
                node: facts.node.name.clone(),
                reason,
                moves,
                replacements: std::mem::take(&mut replacements),
                saves: HourlyPrice(price - paid),
                cache_bytes: self.caches.bytes(name),
            });
            self.gone.insert(name);
            self.kept.remove(name);
        }
        for name in &unit.nodes {
            self.caches.remove(name);
        }
    }

    /// Replaces several nodes, none of which could be replaced alone, by fewer cheaper ones.
    fn merge(&mut self) {
        let now = self.snapshot.now;
        let reason = DisruptionReason::Replaceable;
        let able: BTreeSet<&str> = self
            .facts
            .iter()
            .filter(|(name, facts)| {
                !self.gone.contains(*name)
                    && !self.filled.contains_key(**name)
                    && facts.verdict(reason, now) == Verdict::Applies
            })
            .map(|(name, _)| *name)
            .collect();
        let (units, _) = unit::units(&self.facts, &able, self.snapshot);
        let mut queue = unit::Queue::new(units, reason, &self.facts, &self.caches);
        let mut all: Vec<Unit<'a>> = Vec::new();
        while let Some(unit) = queue.next(&self.caches) {
            if all.iter().map(|unit| unit.nodes.len()).sum::<usize>() + unit.nodes.len()
                > MOST_MERGED
            {
                break;
            }
            all.push(unit);
        }
        for count in (2..=all.len()).rev() {
            let together = Unit::join(&all[..count]);
            if self.allowed(&together, reason).is_err() {
                continue;
            }
            if let Ok(outcome) = self.cheaper(&together) {
                self.accept(&together, reason, outcome);
                return;
            }
        }
    }

    fn finish(mut self) -> RetirementPlan {
        for name in self.facts.keys() {
            if !self.gone.contains(name) {
                self.kept.entry(name).or_insert(Kept::Cheapest);
            }
        }
        RetirementPlan {
            retire: self.retired,
            kept: self
                .kept
                .into_iter()
                .map(|(name, why)| (name.to_owned(), why))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
