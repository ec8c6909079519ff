//! The plan, from what was put where.

use std::collections::BTreeMap;

use crate::amount::Resources;
use crate::plan::{NewNode, Placement, Plan, Target};
use crate::reason::{Candidate, RunnerUp};
use crate::solve::bins::{Bin, Cost, First, Kind, New};
use crate::solve::demand::Demand;
use crate::solve::{Placed, Solver};

impl<'w> Solver<'w> {
    /// Everything that was decided.
    pub(super) fn result(&self) -> Plan {
        let mut nodes: Vec<(usize, NewNode)> = self
            .bins
            .iter()
            .enumerate()
            .filter_map(|(b, bin)| match &bin.kind {
                Kind::New(new) if !bin.pods.is_empty() => Some((b, self.new_node(bin, new))),
                _ => None,
            })
            .collect();
        nodes.sort_by(|(_, a), (_, b)| {
            (&a.pool, &a.offering, &a.pods).cmp(&(&b.pool, &b.offering, &b.pods))
        });
        let numbers: BTreeMap<usize, usize> = nodes
            .iter()
            .enumerate()
            .map(|(n, (b, _))| (*b, n))
            .collect();
        // Pods are numbered by key.
        let placements = self
            .placed
            .iter()
            .map(|(pod, placed)| self.placement(*pod, placed, &numbers))
            .collect();
        let unserved = self
            .unserved
            .iter()
            .map(|(pod, why)| (self.pods[*pod].key.clone(), why.clone()))
            .collect();
        Plan {
            nodes: nodes.into_iter().map(|(_, node)| node).collect(),
            placements,
            unserved,
        }
    }

    fn new_node(&self, bin: &Bin<'w>, new: &New<'w>) -> NewNode {
        let market = &self.world.market;
        let (score, timing) = market.appraise(new.best, new.needs.fresh());
        let allocatable = market.kind(new.best).allocatable();
        let mut requests = Resources::new();
        for (dim, (room, used)) in market.room(new.best).iter().zip(&bin.amounts).enumerate() {
            let name = self.world.dims.name(dim);
            let daemons = allocatable.of(name) - room;
            if used + daemons > 0 {
                requests.set(name, used + daemons);
            }
        }
        let mut pods: Vec<_> = bin
            .pods
            .iter()
            .map(|pod| self.pods[*pod].key.clone())
            .collect();
        pods.sort_unstable();
        NewNode {
            pool: market.pool(new.best).name.clone(),
            offering: market.key(new.best),
            price: market.candidates[new.best].price,
            requests,
            allocatable,
            pods,
            timing,
            score,
            runner_up: self.second_best(new, &bin.amounts),
        }
    }

    /// The best candidate of another type or capacity type that would do for the same pods.
    fn second_best(&self, new: &New<'w>, used: &[i64]) -> Option<RunnerUp> {
        let market = &self.world.market;
        let chosen = market.key(new.best);
        let able = new.mask.iter().filter(|c| {
            let other = market.key(*c);
            (other.instance_type != chosen.instance_type
                || other.capacity_type != chosen.capacity_type)
                && market
                    .room(*c)
                    .iter()
                    .zip(used)
                    .all(|(room, used)| used <= room)
                && self.affordable(*c, Some(new.best))
        });
        let (c, _) = self.cheapest(able, new.needs.fresh())?;
        let (score, timing) = market.appraise(c, new.needs.fresh());
        Some(RunnerUp {
            what: Candidate::Offering {
                pool: market.pool(c).name.clone(),
                offering: market.key(c),
            },
            score,
            timing,
        })
    }

    fn placement(
        &self,
        pod: usize,
        placed: &Placed,
        numbers: &BTreeMap<usize, usize>,
    ) -> Placement {
        let demand = &self.demands[self.pods[pod].demand];
        let (target, timing) = match &self.bins[placed.bin].kind {
            Kind::Existing(existing) => (
                Target::Node(existing.node.name.clone()),
                existing.timing(demand, &self.world.policy.priors),
            ),
            Kind::New(new) => {
                let timing = self.world.market.appraise(new.best, new.needs.fresh()).1;
                (
                    Target::New(numbers.get(&placed.bin).copied().unwrap_or(usize::MAX)),
                    timing,
                )
            }
        };
        Placement {
            pod: self.pods[pod].key.clone(),
            target,
            timing,
            runner_up: placed.next.and_then(|next| self.other_node(&next, demand)),
            relaxed: demand.levels[placed.level].relaxed.clone(),
        }
    }

    fn other_node(&self, next: &Cost, demand: &Demand<'w>) -> Option<RunnerUp> {
        let Kind::Existing(existing) = &self.bins.get(next.bin)?.kind else {
            return None;
        };
        let timing = existing.timing(demand, &self.world.policy.priors);
        let first = if self.bins[next.bin].pods.is_empty() {
            First::Pod
        } else {
            First::No
        };
        Some(RunnerUp {
            what: Candidate::Node(existing.node.name.clone()),
            score: existing.score(&timing, first),
            timing,
        })
    }
}
