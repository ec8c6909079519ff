//! What may not be exceeded: limits of pools, launch budgets of offerings, the choice that a pool asks
//! to keep.

use crate::bits::Bits;
use crate::market::Market;
use crate::pool::NODES;
use crate::solve::{Solver, why};

/// Use of the limits of one pool, planned nodes included.
pub(super) struct Limit {
    /// Resource, how much is used, the limit.
    pub(super) rows: Vec<(String, i64, i64)>,
}

impl Solver<'_> {
    /// Use of every limited pool by the nodes it has.
    pub(super) fn limits(&self) -> Vec<Option<Limit>> {
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
                // A limit counts machines, also where a node says only what pods can have of one.
                _ => nodes()
                    .map(|node| match market.kind_of(node) {
                        Some(kind) => kind.capacity.of(resource),
                        None => node.allocatable.of(resource),
                    })
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
    pub(super) fn affordable(&self, c: usize, instead: Option<usize>) -> bool {
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
        limit.rows.iter().all(|(name, used, most)| {
            let takes = takes(market, c, name);
            takes == 0 || (used - own(name)).saturating_add(takes) <= *most
        })
    }

    /// Takes one candidate's use of limits and budgets away and adds another's.
    pub(super) fn charge(&mut self, old: Option<usize>, new: Option<usize>) {
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
                    *used =
                        used.saturating_add(i64::from(sign).saturating_mul(takes(market, c, name)));
                }
            }
        }
    }

    /// Candidates of pools that ask for a choice and would not have it among `mask` and `others`;
    /// `None` when no pool asks.
    pub(super) fn inflexible(&self, mask: &Bits, others: &[&Bits]) -> Option<Bits> {
        let market = &self.world.market;
        let mut lacking: Option<Bits> = None;
        for p in 0..market.pools.len() {
            if why::too_few(market, p, mask, others).is_some() {
                let none = || Bits::none(market.len());
                lacking.get_or_insert_with(none).add(market.of_pool(p));
            }
        }
        lacking
    }
}

/// What a new node of candidate `c` adds to the use of a limit.
pub(super) fn takes(market: &Market, c: usize, resource: &str) -> i64 {
    match resource {
        NODES => 1,
        _ => market.kind(c).capacity.of(resource),
    }
}
