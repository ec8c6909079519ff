//! Second tries: what one order of placing pods leaves unserved, another may serve.
//!
//! Pods are placed one after the other and never taken back. Where something is left that could be
//! served if it came first, all is planned anew with what was learned. A plan that serves more pods,
//! the most urgent first, replaces the one before; its price decides nothing. At most
//! [`MOST_TRIES`] more are made.

use std::collections::{BTreeMap, BTreeSet};

use crate::bits::Bits;
use crate::market::NodeTaints;
use crate::money::Money;
use crate::plan::Plan;
use crate::solve::bins::Kind;
use crate::solve::demand::Lead;
use crate::solve::topology::{HOST, Rule};
use crate::solve::{Solver, Unit};
use crate::world::{World, suits};

/// How often a plan that leaves something unserved is tried anew.
const MOST_TRIES: usize = 3;

/// What an earlier try taught.
#[derive(Clone, Default)]
pub(super) struct Hints {
    /// Demands that come before all others of their priority.
    pub(super) first: BTreeSet<usize>,
    /// Nominations of less urgent pods are not honoured: they may hold what these need.
    pub(super) urgent: Option<i32>,
    /// What is least counts instead of the score: the part of its pool's limits that a candidate takes.
    pub(super) shares: Option<Vec<Money>>,
}

/// Plans the world.
pub(super) fn plan(world: &World) -> Plan {
    let mut best = Solver::new(world);
    let mut left = best.run();
    let mut thrifty = false;
    for _ in 0..MOST_TRIES {
        if left.is_empty() {
            break;
        }
        let mut other = Solver::new(world);
        if !other.learn(&left) {
            break;
        }
        if thrifty && !other.save_limits() {
            break;
        }
        let rest = other.run();
        if other.served() > best.served() {
            (best, left) = (other, rest);
        } else if thrifty {
            break;
        }
        thrifty = true;
    }
    best.explain(left);
    best.result()
}

impl Solver<'_> {
    /// How many pods are placed, by priority, the most urgent first.
    fn served(&self) -> Vec<usize> {
        let mut served: BTreeMap<std::cmp::Reverse<i32>, usize> = BTreeMap::new();
        for number in 0..self.pods.len() {
            let of = std::cmp::Reverse(self.priority(number));
            *served.entry(of).or_default() += usize::from(self.placed.contains_key(&number));
        }
        served.into_values().collect()
    }

    /// Takes the hints that what another try left unserved gives; says whether there are any.
    fn learn(&mut self, left: &[Unit]) -> bool {
        let pods = left.iter().flat_map(Unit::pods).copied();
        let mut demands: Vec<usize> = pods.map(|pod| self.pods[pod].demand).collect();
        demands.sort_unstable();
        demands.dedup();
        // They were narrowed then, and would be again, but after others had been placed.
        let pods: Vec<usize> = (left.iter().flat_map(Unit::pods)).copied().collect();
        self.narrow_spreads(&pods);
        let mut first = BTreeSet::new();
        for d in demands {
            let led = self.lead(d);
            if led || self.could_start(d) {
                first.insert(d);
            }
        }
        self.hints.urgent = (first.iter())
            .map(|d| self.demands[*d].shape.priority)
            .max();
        self.hints.first = first;
        !self.hints.first.is_empty()
    }

    /// Whether a pod of this demand would find a place if it were the first.
    fn could_start(&self, d: usize) -> bool {
        let demand = &self.demands[d];
        let Some(l) = demand.levels.len().checked_sub(1) else {
            return false;
        };
        if demand.is_impossible() {
            return false;
        }
        let old = |b: usize| self.appraise(demand, &demand.levels[l], b).is_some();
        self.has_offer(d, l) || (0..self.bins.len()).any(old)
    }

    /// Makes those that this demand must be near go where it can follow, where they can; says whether
    /// there are any.
    fn lead(&mut self, d: usize) -> bool {
        let mut led = BTreeSet::new();
        let mut followers = vec![d];
        while let Some(d) = followers.pop() {
            let Some(level) = self.demands[d].levels.last() else {
                continue;
            };
            let near: Vec<(usize, usize)> = (level.uses.iter())
                .filter(|of| matches!(of.rule, Rule::Affinity { .. }))
                .map(|of| (of.key, of.tally))
                .collect();
            for (key, tally) in near {
                let lead = self.reach(d, key);
                for other in 0..self.demands.len() {
                    let selected = self.topology.tallies[tally].selects(self.demands[other].shape);
                    if other != d && selected && led.insert(other) {
                        self.demands[other].follow(&lead);
                        followers.push(other);
                    }
                }
            }
        }
        !led.is_empty()
    }

    /// Where a pod of this demand can be near others by this key.
    fn reach(&mut self, d: usize, key: usize) -> Lead {
        let world = self.world;
        let demand = &self.demands[d];
        let mut mask = demand.levels[0].mask.clone();
        mask.keep(&self.available);
        for (dim, amount) in &demand.asks {
            match world.market.with_room(*dim, *amount) {
                Some(roomy) => mask.keep(roomy),
                None => mask = Bits::none(world.market.len()),
            }
        }
        let shape = demand.shape;
        let suited: Vec<bool> = (world.classes.iter().enumerate())
            .map(|(number, class)| {
                let named = demand.levels[0].follows(number);
                // By whatever host name: which one it is says the node.
                named && suits(shape, class, "", NodeTaints::Hard)
            })
            .collect();
        if key == HOST {
            return Lead {
                mask,
                classes: suited,
            };
        }
        let mut domains = vec![false; self.topology.keys[key].masks.len()];
        for c in mask.iter() {
            if let Some(here) = domains.get_mut(self.topology.keys[key].of_candidate[c] as usize) {
                *here = true;
            }
        }
        // Only nodes that are there: of a class that is gone nothing is known.
        for bin in &self.bins {
            if let Kind::Existing(existing) = &bin.kind
                && suited[existing.class]
                && let Some(here) = domains.get_mut(bin.domains[key] as usize)
            {
                *here = true;
            }
        }
        let mut wide = Bits::none(world.market.len());
        for (domain, _) in domains.iter().enumerate().filter(|(_, here)| **here) {
            wide.add(&self.topology.keys[key].masks[domain]);
        }
        let mut classes = vec![false; world.classes.len()];
        for bin in &self.bins {
            if let Kind::Existing(existing) = &bin.kind {
                let here = domains.get(bin.domains[key] as usize);
                classes[existing.class] |= here.copied().unwrap_or(false);
            }
        }
        Lead {
            mask: wide,
            classes,
        }
    }

    /// Makes candidates compete by the part of their pool's limits that they take; says whether any
    /// pool has limits.
    fn save_limits(&mut self) -> bool {
        if self.limits.iter().all(Option::is_none) {
            return false;
        }
        let market = &self.world.market;
        let share = |c: usize| {
            let taken = self.limits[market.candidates[c].pool]
                .iter()
                .flat_map(|limit| &limit.rows)
                .map(|(name, used, most)| {
                    let left = i128::from(most.saturating_sub(*used)).max(1);
                    i128::from(super::limits::takes(market, c, name)) * MILLION / left
                })
                .max();
            let millionths = i64::try_from(taken.unwrap_or(0)).unwrap_or(i64::MAX);
            // Of equals the one of least score.
            let score = (market.candidates[c].base.0 / 1000).clamp(0, STEP - 1);
            Money(millionths.saturating_mul(STEP).saturating_add(score))
        };
        self.hints.shares = Some((0..market.len()).map(share).collect());
        true
    }
}

const MILLION: i128 = 1_000_000;

/// One millionth of a limit, in the unit in which scores are compared: more than any score that
/// decides between equals.
const STEP: i64 = 1_000_000_000;
