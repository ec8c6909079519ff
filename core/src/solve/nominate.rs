//! Nominations: pods go where earlier plans meant them to be, so that planning again changes nothing.
//!
//! Whether a pod may join others can depend on who is there already, and a plan does not say who came
//! first. Some orders are tried, and the first that honours every nomination is taken.

use std::collections::BTreeMap;

use crate::solve::bins::Kind;
use crate::solve::topology::Rule;
use crate::solve::{Placed, Solver, Unit};

/// Who was there before whom.
#[derive(Clone, Copy)]
enum Order {
    /// As pods are planned.
    AsPlanned,
    /// Pods that must be spread first: others that are counted may keep them off a node.
    SpreadFirst,
    /// Pods that must be near their like first: they may start something only while none is there.
    LikeFirst,
}

impl Solver<'_> {
    /// Puts nominated pods where they were meant to be, as far as they still can go there.
    pub(super) fn honour_nominations(&mut self) {
        let nominees = self.nominees();
        if nominees.is_empty() {
            return;
        }
        let pods: Vec<usize> = nominees.keys().copied().collect();
        let mut best = (0, Order::AsPlanned);
        for order in [Order::AsPlanned, Order::SpreadFirst, Order::LikeFirst] {
            self.begin();
            self.honour_all(&nominees, order);
            let honoured = self.placed.len();
            if honoured == nominees.len() {
                self.journal = None;
                return;
            }
            self.roll_back(&pods);
            if honoured > best.0 {
                best = (honoured, order);
            }
        }
        self.honour_all(&nominees, best.1);
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
                Some((pod, *by_name.get(name.as_str())?))
            })
            .collect()
    }

    fn honour_all(&mut self, nominees: &BTreeMap<usize, usize>, order: Order) {
        // Who must be near somebody finds them there only once they are: go round, as for placing.
        loop {
            let before = self.placed.len();
            let units = self.units().into_iter().map(|unit| {
                let (Unit::Pods(_, pods) | Unit::Group(_, pods)) = unit;
                pods
            });
            let mut units: Vec<Vec<usize>> = units.collect();
            units.sort_by_key(|pods| !pods.iter().any(|pod| self.goes_first(*pod, order)));
            for pod in units.into_iter().flatten() {
                if let Some(b) = nominees.get(&pod) {
                    self.honour(pod, *b);
                }
            }
            if self.placed.len() == before {
                return;
            }
        }
    }

    fn goes_first(&self, pod: usize, order: Order) -> bool {
        let demand = &self.demands[self.pods[pod].demand];
        let mut uses = demand.levels.iter().flat_map(|level| &level.uses);
        match order {
            Order::AsPlanned => false,
            Order::SpreadFirst => uses.any(|of| matches!(of.rule, Rule::Spread { .. })),
            Order::LikeFirst => uses.any(|of| of.own && matches!(of.rule, Rule::Affinity)),
        }
    }

    /// Puts a pod into the bin it was meant for, if it still can go there.
    fn honour(&mut self, pod: usize, b: usize) {
        let d = self.pods[pod].demand;
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
