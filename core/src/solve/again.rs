//! Second tries: what one order of placing pods leaves unserved, another may serve.
//!
//! Pods are placed one after the other and never taken back. Where something is left that could be
//! served if others were placed otherwise, all is planned anew with what was learned, in several ways
//! ([`Way`]). A plan that serves more pods, the most urgent first, replaces the one before; its price
//! and the preferences that it obeys decide nothing. Large worlds are tried in fewer ways.

use std::collections::{BTreeMap, BTreeSet};

use crate::bits::Bits;
use crate::market::NodeTaints;
use crate::money::Money;
use crate::plan::Plan;
use crate::pod::ObjectKey;
use crate::solve::bins::Kind;
use crate::solve::demand::Lead;
use crate::solve::topology::{HOST, Rule};
use crate::solve::{Solver, Unit};
use crate::world::{World, suits};

/// Ways in which a plan that leaves something unserved is tried anew, in this order.
const WAYS: [Way; 7] = [
    Way::LeftFirst,
    Way::Thrifty,
    Way::LeftFollowed,
    Way::RepellersLast,
    Way::Filled,
    Way::FilledAsBefore,
    Way::SmallFirst,
];

/// The first of them, which are all that large worlds are tried in: each costs as much as the plan.
const MOST_LARGE: usize = 2;

/// Waiting pods and nodes from which a world counts as large.
const LARGE: usize = 2_000;

/// One way of planning anew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// What was left comes first, and what it must be near goes where it can follow.
    LeftFirst,
    /// The same, and candidates compete by the part of their pool's limits that they take.
    Thrifty,
    /// As the first, but where it can follow is what was free when all else was placed.
    LeftFollowed,
    /// Pods that keep what was left away come last.
    RepellersLast,
    /// As thrifty, but by the part of a limit per pod of a node that is filled with more of its kind,
    /// and preferences of pods that could take of a limit are left to the scheduler.
    Filled,
    /// The same, in the order of the first plan.
    FilledAsBefore,
    /// The same, the smallest pods first.
    SmallFirst,
}

/// What an earlier try taught.
#[derive(Clone, Default)]
pub(super) struct Hints {
    /// Demands that come before all others of their priority, the lowest number first.
    pub(super) first: BTreeMap<usize, u8>,
    /// Demands that come after all others of their priority.
    pub(super) last: BTreeSet<usize>,
    /// Demands whose pods are placed as soon as one of this demand's is.
    pub(super) followers: BTreeMap<usize, BTreeSet<usize>>,
    /// Nominations of less urgent pods are not honoured: they may hold what these need.
    pub(super) urgent: Option<i32>,
    /// What is least counts instead of the score: the part of its pool's limits that a candidate takes.
    pub(super) shares: Option<Vec<Money>>,
    /// Whether nodes are compared as if there were pods enough to fill them.
    pub(super) filled: bool,
    /// Whether the smallest of each priority come first.
    pub(super) small_first: bool,
}

/// Plans the world.
pub(super) fn plan(world: &World) -> Plan {
    let mut best = Solver::new(world);
    let mut left = best.run();
    let large = world.pending.len() + world.slots.len() >= LARGE;
    for way in WAYS
        .iter()
        .take(if large { MOST_LARGE } else { WAYS.len() })
    {
        if left.is_empty() {
            break;
        }
        let mut other = Solver::new(world);
        if !other.learn(&best, &left, *way) {
            continue;
        }
        let mut rest = other.run();
        if other.settle() {
            // Smaller nodes may have given limits back.
            rest = other.go_on(rest);
        }
        if other.serves_more(&best) {
            (best, left) = (other, rest);
        }
    }
    best.explain(left);
    best.result()
}

impl Solver<'_> {
    /// Whether more pods are placed than in another try, the most urgent first. Nominations that were
    /// not honoured are worth it only to pods more urgent than theirs.
    fn serves_more(&self, other: &Self) -> bool {
        let mut served: BTreeMap<std::cmp::Reverse<i32>, [usize; 2]> = BTreeMap::new();
        for number in 0..self.pods.len() {
            let of = served.entry(std::cmp::Reverse(self.priority(number)));
            let of = of.or_default();
            for (count, solver) in of.iter_mut().zip([self, other]) {
                *count += usize::from(solver.placed.contains_key(&number));
            }
        }
        let least = self
            .hints
            .urgent
            .filter(|_| !self.world.nominations.is_empty());
        (served.into_iter())
            .take_while(|(priority, _)| least.is_none_or(|least| priority.0 >= least))
            .map(|(_, [mine, theirs])| mine.cmp(&theirs))
            .find(|order| order.is_ne())
            .is_some_and(std::cmp::Ordering::is_gt)
    }

    /// Takes the hints that what another try left unserved gives; says whether there are any.
    fn learn(&mut self, before: &Self, left: &[Unit], way: Way) -> bool {
        let whole = left.iter().filter(|unit| match unit {
            Unit::Pods(..) => true,
            Unit::Group(name, _) => self.could_be_whole(name),
        });
        let pods: Vec<usize> = whole.flat_map(Unit::pods).copied().collect();
        let mut demands: Vec<usize> = pods.iter().map(|pod| self.pods[*pod].demand).collect();
        demands.sort_unstable();
        demands.dedup();
        // They were narrowed then, and would be again, but after others had been placed.
        self.narrow_spreads(&pods);
        let served: BTreeSet<usize> = (before.placed.keys())
            .map(|pod| before.pods[*pod].demand)
            .collect();
        let mut wanted = Vec::new();
        for d in &demands {
            let led = match way {
                Way::LeftFollowed => self.lead(*d, Some(before)),
                Way::FilledAsBefore | Way::SmallFirst => BTreeSet::new(),
                _ => self.lead(*d, None),
            };
            if !led.is_empty() || self.could_start(*d) {
                wanted.push((*d, led));
            }
        }
        if wanted.is_empty() {
            return false;
        }
        self.hints.urgent = (wanted.iter())
            .map(|(d, _)| self.demands[*d].shape.priority)
            .max();
        if !matches!(way, Way::FilledAsBefore | Way::SmallFirst) {
            for (d, led) in wanted {
                // Of several, those that were not served at all.
                let rank = u8::from(served.contains(&d));
                self.hints.first.insert(d, rank);
                for other in led {
                    self.hints.first.entry(other).or_insert(2);
                    self.hints.followers.entry(other).or_default().insert(d);
                }
            }
        }
        match way {
            Way::LeftFirst | Way::LeftFollowed => true,
            Way::Thrifty => self.save_limits(1),
            Way::RepellersLast => self.hold_back(&demands),
            Way::Filled | Way::FilledAsBefore | Way::SmallFirst => {
                self.hints.filled = true;
                self.hints.small_first = way == Way::SmallFirst;
                // Of equals the larger node, whatever its score.
                self.save_limits(0) && {
                    self.give_up_preferences();
                    true
                }
            }
        }
    }

    /// Whether members of each role are there, running or waiting, in the number that must be.
    fn could_be_whole(&self, name: &ObjectKey) -> bool {
        let Some(group) = self.world.groups.get(name) else {
            return true;
        };
        let bound = self.members.get(name);
        group.minimum.iter().all(|(role, minimum)| {
            let bound = bound.and_then(|members| members.roles.get(role.as_str()));
            let waiting = self.pods.iter().filter(|pod| {
                let shape = self.demands[pod.demand].shape;
                shape.group.as_ref() == Some(name) && shape.role() == role
            });
            bound.copied().unwrap_or(0) as usize + waiting.count() >= *minimum as usize
        })
    }

    /// Where something else than the score decided, makes every new node the one of least score that
    /// does for its pods; says whether there was something.
    fn settle(&mut self) -> bool {
        // A spread that was narrowed for want of limits relies on nobody giving some back.
        if self.narrowed || self.hints.shares.take().is_none() {
            return false;
        }
        self.hints.filled = false;
        for b in 0..self.bins.len() {
            let bin = &self.bins[b];
            let Kind::New(new) = &bin.kind else { continue };
            if bin.pods.is_empty() {
                continue;
            }
            let market = &self.world.market;
            let mut mask = new.wide.clone();
            mask.keep(market.of_pool(market.candidates[new.best].pool));
            for pod in &bin.pods {
                let alone = &self.demands[self.pods[*pod].demand].dedicated;
                if new.exclusive {
                    mask.keep(alone);
                } else {
                    mask.drop_all(alone);
                }
            }
            for (dim, used) in bin.amounts.iter().enumerate() {
                match market.with_room(dim, *used) {
                    Some(roomy) => mask.keep(roomy),
                    None => mask = Bits::none(market.len()),
                }
            }
            let able = mask.iter().filter(|c| self.affordable(*c, Some(new.best)));
            let Some((best, score)) = self.cheapest(able, new.needs.fresh()) else {
                continue;
            };
            self.charge(Some(new.best), Some(best));
            if let Kind::New(new) = &mut self.bins[b].kind {
                (new.best, new.score, new.mask) = (best, score, mask);
            }
        }
        true
    }

    /// Makes pods that keep these away come last; says whether there are any.
    fn hold_back(&mut self, left: &[usize]) -> bool {
        let kept_away: BTreeSet<usize> = (left.iter())
            .flat_map(|d| self.demands[*d].counted_by.iter().copied())
            .collect();
        for (d, demand) in self.demands.iter().enumerate() {
            if demand.owns.iter().any(|tally| kept_away.contains(tally)) {
                self.hints.last.insert(d);
                self.hints.first.remove(&d);
            }
        }
        !self.hints.last.is_empty()
    }

    /// Leaves the preferences of pods that could take of a pool's limits to the scheduler.
    fn give_up_preferences(&mut self) {
        let market = &self.world.market;
        let limited: Vec<&Bits> = (self.limits.iter().enumerate())
            .filter(|(_, limit)| limit.is_some())
            .map(|(pool, _)| market.of_pool(pool))
            .collect();
        for demand in &mut self.demands {
            let Some(last) = demand.levels.last() else {
                continue;
            };
            if limited.iter().any(|of| last.mask.first_of(&[of]).is_some()) {
                demand.levels.drain(..demand.levels.len() - 1);
            }
        }
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

    /// Makes those that this demand must be near go where it can follow, where they can, as it was in
    /// `before` or is now; gives back who they are.
    fn lead(&mut self, d: usize, before: Option<&Self>) -> BTreeSet<usize> {
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
                let lead = before.unwrap_or(self).reach(d, key);
                for other in 0..self.demands.len() {
                    let selected = self.topology.tallies[tally].selects(self.demands[other].shape);
                    if other != d && selected && led.insert(other) {
                        self.demands[other].follow(&lead);
                        followers.push(other);
                    }
                }
            }
        }
        led
    }

    /// Where a pod of this demand can be near others by this key.
    fn reach(&self, d: usize, key: usize) -> Lead {
        let world = self.world;
        let demand = &self.demands[d];
        let mut mask = demand.levels[0].mask.clone();
        mask.keep(&self.available);
        let dear: Vec<usize> = mask.iter().filter(|c| !self.affordable(*c, None)).collect();
        dear.into_iter().for_each(|c| mask.remove(c));
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
        let has_room = |amounts: &[i64]| {
            let mut asks = demand.asks.iter();
            asks.all(|(dim, amount)| *amount <= amounts[*dim])
        };
        for bin in &self.bins {
            if let Kind::Existing(existing) = &bin.kind
                && suited[existing.class]
                && has_room(&bin.amounts)
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

    /// Makes candidates compete by the part of their pool's limits that they take, of equals by
    /// `scores` times their score; says whether any pool has limits.
    fn save_limits(&mut self, scores: i64) -> bool {
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
            let score = (market.candidates[c].base.0 / 1000).clamp(0, STEP - 1);
            Money(
                millionths
                    .saturating_mul(STEP)
                    .saturating_add(score * scores),
            )
        };
        self.hints.shares = Some((0..market.len()).map(share).collect());
        true
    }
}

const MILLION: i128 = 1_000_000;

/// One millionth of a limit, in the unit in which scores are compared: more than any score that
/// decides between equals.
const STEP: i64 = 1_000_000_000;
