//! Nominations: pods go where earlier plans meant them to be, so that planning again changes nothing.
//!
//! Whether a pod may join others can depend on who is there already, and a plan does not say who came
//! first. Some orders are tried, and the first that honours every nomination is taken. Spreads count
//! the nodes that are there, as the scheduler will: what else could be bought was weighed by the plan
//! that nominated.

use std::collections::{BTreeMap, BTreeSet};

use crate::pod::{ObjectKey, Sharing};
use crate::solve::bins::Kind;
use crate::solve::demand::{Coming, Demand};
use crate::solve::topology::{NO_DOMAIN, Rule, Use};
use crate::solve::{Placed, Solver, Unit};

/// Orders tried at most beyond the usual ones.
const MOST_ORDERS: usize = 4;

/// Who was there before whom.
#[derive(Clone)]
enum Order {
    /// As pods are planned.
    AsPlanned,
    /// Pods that must be spread first: others that are counted may keep them off a node.
    SpreadFirst,
    /// Pods that must be near their like first: they may start something only while none is there.
    LikeFirst,
    /// These pods first.
    These(BTreeSet<usize>),
}

impl<'w> Solver<'w> {
    /// Puts nominated pods where they were meant to be, as far as they still can go there. Of a group
    /// whose nominations do not make it whole none is honoured.
    pub(super) fn honour_nominations(&mut self) {
        let nominees = self.nominees();
        if nominees.is_empty() {
            return;
        }
        let rules = self.spread_rules();
        self.honour_whole(nominees);
        self.restore_rules(rules);
    }

    fn honour_whole(&mut self, mut nominees: BTreeMap<usize, usize>) {
        while !nominees.is_empty() {
            let pods: Vec<usize> = nominees.keys().copied().collect();
            self.honour_most(&nominees, &pods);
            let torn = self.torn_groups(&pods);
            if torn.is_empty() {
                self.keep();
                return;
            }
            self.roll_back(&pods);
            nominees.retain(|pod, _| {
                let group = self.demands[self.pods[*pod].demand].shape.group.as_ref();
                !group.is_some_and(|group| torn.contains(group))
            });
        }
    }

    /// Honours nominations in the first order that honours all of them, or most. What was before is
    /// in the journal.
    fn honour_most(&mut self, nominees: &BTreeMap<usize, usize>, pods: &[usize]) {
        let mut best = (0, Order::AsPlanned);
        let mut orders = vec![Order::LikeFirst, Order::SpreadFirst, Order::AsPlanned];
        let mut late: BTreeSet<usize> = BTreeSet::new();
        let (mut known, mut tries) = (0, MOST_ORDERS);
        while let Some(order) = orders.pop() {
            self.begin();
            self.honour_all(nominees, &order);
            let honoured = self.placed.len();
            if honoured == nominees.len() {
                return;
            }
            // Who came too late comes first next time, as long as that is somebody new.
            let missed = pods.iter().filter(|pod| !self.placed.contains_key(pod));
            late.extend(missed);
            self.roll_back(pods);
            if honoured > best.0 {
                best = (honoured, order);
            }
            if orders.is_empty() && late.len() > known && tries > 0 {
                (known, tries) = (late.len(), tries - 1);
                orders.push(Order::These(late.clone()));
            }
        }
        self.begin();
        self.honour_all(nominees, &best.1);
    }

    /// Groups of which some of these pods are placed, but not as a whole: a role lacks members, or they
    /// do not share their domain.
    fn torn_groups(&mut self, pods: &[usize]) -> BTreeSet<ObjectKey> {
        let groups: BTreeSet<ObjectKey> = (pods.iter())
            .filter(|pod| self.placed.contains_key(pod))
            .filter_map(|pod| self.demands[self.pods[*pod].demand].shape.group.clone())
            .filter(|group| self.world.groups.contains_key(group))
            .collect();
        groups
            .into_iter()
            .filter(|name| !self.is_whole(name))
            .collect()
    }

    fn is_whole(&mut self, name: &ObjectKey) -> bool {
        let there = self.roles(name);
        let world = self.world;
        let Some(group) = world.groups.get(name) else {
            return true;
        };
        let of_role = |role| there.get(role).copied().unwrap_or(0);
        let enough = (group.minimum.iter()).all(|(role, minimum)| of_role(role) >= *minimum)
            && (group.sets.keys()).all(|role| {
                let placed = self.members_at(name, Some(role)).1;
                placed.is_empty() || of_role(role) % group.set_of(role) == 0
            });
        let Some(key) = self.shared_key(name) else {
            return enough;
        };
        let sharers: Vec<Option<&str>> = match group.sharing {
            Sharing::Group => vec![None],
            Sharing::Role => there.keys().map(|role| Some(role.as_str())).collect(),
        };
        let share = |role: &Option<&str>| {
            let (bound, placed) = self.members_at(name, *role);
            let domain = |b: &usize| self.bins[*b].domains[key];
            let placed: BTreeSet<u32> = placed.iter().map(domain).collect();
            let bound: BTreeSet<u32> = bound.iter().map(domain).collect();
            let joins = bound.is_empty() || placed.is_subset(&bound);
            joins && placed.len() <= 1 && !placed.contains(&NO_DOMAIN)
        };
        enough && sharers.iter().all(share)
    }

    /// The bin of each nominated pod whose node is there.
    fn nominees(&self) -> BTreeMap<usize, usize> {
        if self.world.nominations.is_empty() {
            return BTreeMap::new();
        }
        let by_name: BTreeMap<&str, usize> = (self.bins.iter().enumerate())
            .filter_map(|(b, bin)| match &bin.kind {
                Kind::Existing(existing) => Some((existing.node.name.as_str(), b)),
                Kind::New(_) => None,
            })
            .collect();
        (self.pods.iter().enumerate())
            .filter_map(|(pod, pending)| {
                let name = self.world.nominations.get(pending.key)?;
                let shape = self.demands[pending.demand].shape;
                let counts = self
                    .hints
                    .urgent
                    .is_none_or(|least| shape.priority >= least);
                counts.then_some((pod, *by_name.get(name.as_str())?))
            })
            .collect()
    }

    fn honour_all(&mut self, nominees: &BTreeMap<usize, usize>, order: &Order) {
        // Who must be near somebody finds them there only once they are: go round, as for placing.
        loop {
            let before = self.placed.len();
            let waiting: Vec<usize> = (nominees.keys().copied())
                .filter(|pod| !self.placed.contains_key(pod))
                .collect();
            let narrowed = self.count_only_nodes(&waiting);
            let units = self.units().into_iter().map(|unit| {
                let (Unit::Pods(_, pods) | Unit::Group(_, pods)) = unit;
                pods
            });
            let mut units: Vec<Vec<usize>> = units.collect();
            units.sort_by_key(|pods| !pods.iter().any(|pod| self.goes_first(*pod, order)));
            let mut pods: Vec<usize> = units.into_iter().flatten().collect();
            if let Order::These(first) = order {
                pods.sort_by_key(|pod| !first.contains(pod));
            }
            for pod in pods {
                if let Some(b) = nominees.get(&pod) {
                    self.honour(pod, *b);
                }
            }
            if self.placed.len() == before && !narrowed {
                return;
            }
        }
    }

    fn goes_first(&self, pod: usize, order: &Order) -> bool {
        let demand = &self.demands[self.pods[pod].demand];
        let mut uses = demand.levels.iter().flat_map(|level| &level.uses);
        match order {
            Order::AsPlanned | Order::These(_) => false,
            Order::SpreadFirst => uses.any(|of| matches!(of.rule, Rule::Spread { .. })),
            Order::LikeFirst => uses.any(|of| of.own && matches!(of.rule, Rule::Affinity { .. })),
        }
    }

    /// Makes the spreads of these pods count the nodes that are there; says whether that changes
    /// anything.
    fn count_only_nodes(&mut self, pods: &[usize]) -> bool {
        let mut demands: Vec<usize> = pods.iter().map(|pod| self.pods[*pod].demand).collect();
        demands.sort_unstable();
        demands.dedup();
        let mut changed = false;
        for d in demands {
            let (world, topology, none) = (self.world, &mut self.topology, &self.nowhere);
            // As in the plan that nominated: what was bought for others may come last.
            let coming = Coming::ForOthersLast;
            changed |= self.demands[d].narrow(world, topology, none, none, &self.bins, coming);
        }
        self.topology.version += u64::from(changed);
        changed
    }

    /// What the spreads of each demand count, by level.
    fn spread_rules(&self) -> Vec<Vec<Vec<Use>>> {
        let of_demand = |demand: &Demand<'w>| {
            let levels = demand.levels.iter();
            levels.map(|level| level.uses.clone()).collect()
        };
        self.demands.iter().map(of_demand).collect()
    }

    fn restore_rules(&mut self, rules: Vec<Vec<Vec<Use>>>) {
        for (demand, rules) in self.demands.iter_mut().zip(rules) {
            for (level, uses) in demand.levels.iter_mut().zip(rules) {
                level.uses = uses;
            }
            demand.level.set(0);
        }
        self.topology.version += 1;
    }

    /// Puts a pod into the bin it was meant for, if it still can go there.
    fn honour(&mut self, pod: usize, b: usize) {
        let d = self.pods[pod].demand;
        if self.demands[d].is_impossible() {
            return;
        }
        let able = (0..self.demands[d].levels.len()).find(|l| {
            self.appraise(&self.demands[d], &self.demands[d].levels[*l], b)
                .is_some()
        });
        if let Some(level) = able {
            self.put(d, level, pod, b);
            let placed = Placed {
                bin: b,
                level,
                next: None,
            };
            self.placed.insert(pod, placed);
        }
    }
}
