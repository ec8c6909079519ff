//! Nodes being filled: those that are there, and those that would be bought.

use std::cell::RefCell;

use crate::bits::Bits;
use crate::cache::Inventory;
use crate::market::{CPU, MEMORY, Machine, refused_by_wants};
use crate::money::{HourlyPrice, Millis, Money};
use crate::node::{Node, NodeState};
use crate::offer::Boot;
use crate::pod::{HostPort, ObjectKey};
use crate::prefetch::Needs;
use crate::ready::{self, Priors, Timing, Work};
use crate::reason::{Origin, Rejection, Score};
use crate::solve::Solver;
use crate::solve::demand::{Demand, Level};
use crate::solve::topology::{HOST, NO_DOMAIN, NodeKind, Place, Topology};

/// A node being filled.
#[derive(Clone)]
pub(super) struct Bin<'w> {
    pub(super) kind: Kind<'w>,
    /// Domain per topology key.
    pub(super) domains: Vec<u32>,
    /// Of a node that is there: what is free. Of a new one: what is used.
    pub(super) amounts: Box<[i64]>,
    pub(super) ports: Vec<HostPort>,
    /// Volumes attached, with their drivers.
    pub(super) claims: Vec<(&'w ObjectKey, &'w str)>,
    /// Waiting pods put here, by number.
    pub(super) pods: Vec<usize>,
}

#[derive(Clone)]
pub(super) enum Kind<'w> {
    Existing(Existing<'w>),
    New(New<'w>),
}

#[derive(Clone)]
pub(super) struct Existing<'w> {
    pub(super) node: &'w Node,
    pub(super) class: usize,
    pub(super) host: &'w str,
    pub(super) inventory: Option<&'w Inventory>,
    pub(super) boot: Boot,
    /// What starting it costs, while nothing waits for it; nothing for a node that is there.
    pub(super) price: HourlyPrice,
    pub(super) life: Millis,
    pub(super) value_of_time: HourlyPrice,
    /// Whether it has GPUs or the like.
    pub(super) special: bool,
    /// The pool it belongs to, by number.
    pub(super) pool: Option<usize>,
    pub(super) company: Company,
    /// How long the pods put here so far wait.
    pub(super) waited: Millis,
    /// By set of items.
    pub(super) timings: RefCell<Vec<Option<Timing>>>,
}

/// Pods that a node of a pool runs, daemons and those that leave not counted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    None,
    /// Some, that share it.
    Shared,
    /// One that has it for itself.
    Alone,
}

#[derive(Clone)]
pub(super) struct New<'w> {
    /// Candidates it can still become.
    pub(super) mask: Bits,
    /// Candidates that would suit its pods, whatever their size.
    pub(super) wide: Bits,
    /// The one it would become now.
    pub(super) best: usize,
    pub(super) score: Money,
    /// Numbers of the sets of items that its pods start with.
    pub(super) sets: Vec<usize>,
    /// What its pods start with, each item once.
    pub(super) needs: Needs<'w>,
    /// Whether one pod has it for itself.
    pub(super) exclusive: bool,
}

/// What putting one more pod somewhere would cost. The least wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// The money, time on nodes that are there valued alike: what one pool thinks of time says nothing
    /// about the nodes of another.
    rank: Money,
    /// Whether it takes a node with devices for a pod that needs none.
    waste: bool,
    pub(super) money: Money,
    pub(super) ready: Millis,
    /// What would be left unused: full nodes first.
    slack: u64,
    pub(super) bin: usize,
    /// The candidate that a new node would become.
    pub(super) best: usize,
}

impl<'w> Existing<'w> {
    /// How long a pod of this demand takes to serve here; worked out once per set of items.
    pub(super) fn timing(&self, demand: &Demand<'w>, priors: &Priors) -> Timing {
        let mut timings = self.timings.borrow_mut();
        if timings.len() <= demand.set {
            timings.resize(demand.set + 1, None);
        }
        *timings[demand.set].get_or_insert_with(|| {
            let work = demand.needs.on(self.inventory);
            ready::timing(self.boot, self.node.rates, work, priors)
        })
    }

    /// What one more pod adds that is served after `timing`: for the first one on a node that stands
    /// by its price, and for whoever waits longer than those before the time beyond.
    pub(super) fn score(&self, timing: &Timing, first: First) -> Score {
        let ready = timing.total();
        let money = match first {
            First::Pod => self.price.over(self.life + ready),
            First::No => Money(0),
        };
        Score {
            money,
            waiting: self.value_of_time.over(ready - self.waited),
            risk: Money(0),
        }
    }
}

/// Whether a pod would be the first on a node that stands by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Pod,
    No,
}

/// How a node that is there, on its way or standing by comes up from now.
pub(super) fn boot_of(node: &Node, now: Millis, priors: Boot) -> Boot {
    match &node.state {
        NodeState::Running | NodeState::Leaving => Boot::default(),
        NodeState::Starting { expected } => {
            let left = *expected - now;
            Boot {
                agent: Millis(0),
                ready: left,
                allocatable: left,
            }
        }
        NodeState::InFlight { expected } => {
            let left = *expected - now;
            Boot {
                agent: left.min(priors.agent),
                ready: left,
                allocatable: left,
            }
        }
        NodeState::Standby { boot } => *boot,
    }
}

impl<'w> Solver<'w> {
    /// What one more pod of this demand would cost in bin `b`, or why it cannot go there.
    pub(super) fn appraise(&self, demand: &Demand<'w>, level: &Level, b: usize) -> Option<Cost> {
        let bin = &self.bins[b];
        if let Some(other) = level.apart_from
            && bin.pods.iter().any(|pod| self.pods[*pod].demand == other)
        {
            return None;
        }
        match &bin.kind {
            Kind::Existing(existing) => {
                let fits = demand
                    .asks
                    .iter()
                    .all(|(dim, amount)| *amount <= bin.amounts[*dim]);
                if !fits || self.refused_existing(demand, level, b, existing).is_some() {
                    return None;
                }
                let timing = existing.timing(demand, &self.world.policy.priors);
                let first = if bin.pods.is_empty() {
                    First::Pod
                } else {
                    First::No
                };
                let score = existing.score(&timing, first);
                let waited = timing.total() - existing.waited;
                Some(Cost {
                    rank: score.money + self.most_urgent.over(waited),
                    waste: existing.special && !demand.special,
                    money: score.total(),
                    ready: timing.total(),
                    slack: slack([bin.amounts[CPU], bin.amounts[MEMORY]], demand),
                    bin: b,
                    best: usize::MAX,
                })
            }
            Kind::New(new) => {
                let (best, score) = self.grown(demand, level, b, new)?;
                let room = self.world.market.room(best);
                let free = |dim: usize| room[dim] - bin.amounts[dim];
                let money = score - new.score;
                Some(Cost {
                    rank: money,
                    waste: self.world.market.special.contains(best) && !demand.special,
                    money,
                    ready: Millis(0),
                    slack: slack([free(CPU), free(MEMORY)], demand),
                    bin: b,
                    best,
                })
            }
        }
    }

    /// Why a node that is there cannot take one more pod, resources aside.
    pub(super) fn refused_existing(
        &self,
        demand: &Demand<'w>,
        level: &Level,
        b: usize,
        existing: &Existing<'w>,
    ) -> Option<Rejection> {
        let bin = &self.bins[b];
        if existing.node.state == NodeState::Leaving {
            return Some(Rejection::Leaving);
        }
        if !demand.suits(level, self.world, existing.class, existing.host) {
            return Some(self.unsuitable(demand, level, existing));
        }
        if let Some(pool) = existing.pool
            && matches!(existing.node.state, NodeState::Standby { .. })
        {
            let pool = &self.world.market.pools[pool];
            if !pool.serves(&demand.shape.labels) {
                let pool = pool.name.clone();
                return Some(Rejection::PodSelector { pool });
            }
        }
        let wants = &demand.shape.wants;
        if !wants.is_empty() {
            let kind = self.world.market.kind_of(existing.node);
            let machine = Machine::of_node(existing.node, kind);
            if let Some(why) = refused_by_wants(wants, &machine, Origin::Pod) {
                return Some(why);
            }
        }
        if self.must_be_alone(demand, bin, existing) {
            return Some(Rejection::Dedicated);
        }
        if let Some(port) = clash(&bin.ports, &demand.ports) {
            return Some(Rejection::HostPort { port: port.port });
        }
        if let Some((driver, limit)) = over_limit(&bin.claims, demand, &existing.node.volume_limits)
        {
            return Some(Rejection::AttachLimit {
                driver: driver.to_owned(),
                limit,
            });
        }
        if let Err(at) = self
            .topology
            .host_allows(&level.uses, &demand.counted_by, b as u32)
        {
            return Some(self.relation(level, at));
        }
        if let Some((key, _)) = self.within
            && !self.is_within(b)
        {
            return Some(Rejection::GroupDomain {
                key: self.topology.keys[key].name.clone(),
            });
        }
        level.with_allowed(demand, &self.topology, &self.world.market, |allowed| {
            let wrong = allowed.domains.iter().enumerate().find(|(key, domains)| {
                let Some(domains) = domains else { return false };
                match bin.domains[*key] {
                    NO_DOMAIN => Topology::needs_label(&level.uses, *key),
                    domain => !domains.get(domain as usize).copied().unwrap_or(false),
                }
            });
            wrong.map(|(key, _)| self.relation_over(level, key))
        })
    }

    /// Whether the pod would share a node that its pool gives to it, or to one that is there, alone.
    fn must_be_alone(&self, demand: &Demand<'w>, bin: &Bin<'w>, existing: &Existing<'w>) -> bool {
        let Some(pool) = existing.pool else {
            return false;
        };
        let placed = bin
            .pods
            .first()
            .map(|pod| &self.demands[self.pods[*pod].demand]);
        let empty = existing.company == Company::None && placed.is_none();
        existing.company == Company::Alone
            || placed.is_some_and(|placed| placed.alone_in[pool])
            || (demand.alone_in[pool] && !empty)
    }

    /// The best candidate of a new node with one more pod, and its score.
    fn grown(
        &self,
        demand: &Demand<'w>,
        level: &Level,
        b: usize,
        new: &New<'w>,
    ) -> Option<(usize, Money)> {
        let bin = &self.bins[b];
        let market = &self.world.market;
        if new.exclusive
            || (!demand.ports.is_empty() && clash(&bin.ports, &demand.ports).is_some())
            || !self.is_within(b)
        {
            return None;
        }
        self.topology
            .host_allows(&level.uses, &demand.counted_by, b as u32)
            .ok()?;
        let work = if new.sets.contains(&demand.set) || new.needs.covers(&demand.needs) {
            new.needs.fresh()
        } else {
            let mut needs = new.needs.clone();
            needs.join(&demand.needs);
            needs.fresh()
        };
        // On the stack: this is asked for every pair of shape and node.
        let mut masks: [&Bits; 16] = [&level.mask; 16];
        masks[1] = &self.available;
        let asks = demand.asks.get(..11).unwrap_or(&demand.asks);
        for (slot, (dim, amount)) in masks[2..].iter_mut().zip(asks) {
            *slot = market.with_room(*dim, bin.amounts[*dim].saturating_add(*amount))?;
        }
        if !demand.claims_fit(&bin.claims, market.pool(new.best)) {
            return None;
        }
        level.with_allowed(demand, &self.topology, market, |allowed| {
            let mut others = masks;
            let mut count = 2 + asks.len();
            for more in [allowed.mask.as_ref(), self.within()].into_iter().flatten() {
                others[count] = more;
                count += 1;
            }
            let others = &others[..count];
            let room = |c: &usize| {
                demand.asks[asks.len()..].iter().all(|(dim, amount)| {
                    bin.amounts[*dim].saturating_add(*amount) <= market.room(*c)[*dim]
                })
            };
            // An empty bin was opened for this pod; any other it would have to share.
            let able = |c: &usize| {
                (bin.pods.is_empty() || !demand.dedicated.contains(*c))
                    && self.affordable(*c, Some(new.best))
                    && room(c)
            };
            let lacking = self.inflexible(&new.mask, others);
            let able = |c: &usize| able(c) && !lacking.as_ref().is_some_and(|l| l.contains(*c));
            self.cheapest(new.mask.meet(others).filter(able), work)
        })
    }

    /// The candidate of least score among `candidates`, which come in order of base score.
    pub(super) fn cheapest(
        &self,
        candidates: impl Iterator<Item = usize>,
        work: Work,
    ) -> Option<(usize, Money)> {
        let market = &self.world.market;
        if let Some(shares) = &self.hints.shares {
            let least = candidates.min_by_key(|c| (shares[*c], *c))?;
            return Some((least, shares[least]));
        }
        let mut best: Option<(usize, Money)> = None;
        for c in candidates {
            let base = market.candidates[c].base;
            if work == Work::LEAST {
                return Some((c, base));
            }
            // Work only adds to the base score, and the base scores ascend.
            if best.is_some_and(|(_, least)| base >= least) {
                break;
            }
            let score = market.appraise(c, work).0.total();
            if best.is_none_or(|(_, least)| score < least) {
                best = Some((c, score));
            }
        }
        best
    }

    /// Puts pod number `pod` into bin `b`, which [`Self::appraise`] said can take it.
    pub(super) fn put(&mut self, d: usize, l: usize, pod: usize, b: usize) {
        self.touch(b);
        let demands = std::mem::take(&mut self.demands);
        let (demand, level) = (&demands[d], &demands[d].levels[l]);
        let grown = match &self.bins[b].kind {
            Kind::New(new) => self.grown(demand, level, b, new),
            Kind::Existing(_) => None,
        };
        let market = &self.world.market;
        if let Some((best, score)) = grown {
            let before = match &self.bins[b].kind {
                Kind::New(new) => Some(new.best),
                Kind::Existing(_) => None,
            };
            self.charge(before, Some(best));
            let used: Vec<(usize, i64)> = demand
                .asks
                .iter()
                .map(|(dim, amount)| (*dim, self.bins[b].amounts[*dim] + amount))
                .collect();
            if let Kind::New(new) = &mut self.bins[b].kind {
                (new.best, new.score) = (best, score);
                if !new.sets.contains(&demand.set) {
                    new.sets.push(demand.set);
                    new.needs.join(&demand.needs);
                }
                new.mask.keep(&level.mask);
                new.wide.keep(level.wide.as_ref().unwrap_or(&level.mask));
                if demand.dedicated.contains(best) {
                    new.mask.keep(&demand.dedicated);
                    new.exclusive = true;
                } else {
                    new.mask.drop_all(&demand.dedicated);
                }
                for (dim, amount) in &used {
                    if let Some(roomy) = market.with_room(*dim, *amount) {
                        new.mask.keep(roomy);
                    }
                }
            }
        }
        if let Kind::Existing(existing) = &mut self.bins[b].kind {
            let timing = existing.timing(&demands[d], &self.world.policy.priors);
            existing.waited = existing.waited.max(timing.total());
        }
        let bin = &mut self.bins[b];
        let sign = if matches!(bin.kind, Kind::Existing(_)) {
            -1
        } else {
            1
        };
        for (dim, amount) in &demand.asks {
            bin.amounts[*dim] += sign * amount;
        }
        bin.ports.extend(demand.ports.iter().cloned());
        for volume in &demand.shape.volumes {
            let claim = (&volume.claim, volume.driver.as_str());
            if !bin.claims.contains(&claim) {
                bin.claims.push(claim);
            }
        }
        bin.pods.push(pod);
        if let Kind::New(new) = &mut bin.kind {
            let within = self.within.map(|(key, _)| key);
            for key in demand.commits.iter().copied().chain(within) {
                if bin.domains[key] == NO_DOMAIN {
                    let domain = self.topology.keys[key].of_candidate[new.best];
                    bin.domains[key] = domain;
                    if let Some(mask) = self.topology.keys[key].masks.get(domain as usize) {
                        new.mask.keep(mask);
                        new.wide.keep(mask);
                    }
                }
            }
            // Whether its pods count for a spread must not change under it either.
            for tally in &demand.counted_by {
                if let Some(counted) = self.topology.tallies[*tally].eligible_candidates() {
                    if counted.contains(new.best) {
                        new.mask.keep(counted);
                        new.wide.keep(counted);
                    } else {
                        new.mask.drop_all(counted);
                        new.wide.drop_all(counted);
                    }
                }
            }
        }
        self.recount(demand, b, 1);
        self.demands = demands;
    }

    /// Takes every pod out of a new bin, and the bin out of the plan.
    pub(super) fn empty(&mut self, b: usize) {
        self.touch(b);
        let demands = std::mem::take(&mut self.demands);
        for pod in std::mem::take(&mut self.bins[b].pods) {
            self.recount(&demands[self.pods[pod].demand], b, -1);
        }
        self.demands = demands;
        if let Kind::New(new) = &mut self.bins[b].kind {
            let best = new.best;
            new.score = Money(0);
            new.mask = Bits::none(self.world.market.len());
            self.charge(Some(best), None);
        }
    }

    /// Counts a pod of this demand in bin `b`, or takes it back.
    pub(super) fn recount(&mut self, demand: &Demand<'w>, b: usize, by: i32) {
        let bin = &self.bins[b];
        let node = match &bin.kind {
            Kind::Existing(existing) => {
                NodeKind::Existing(&self.world.classes[existing.class], existing.host)
            }
            Kind::New(new) => NodeKind::Candidate(new.best),
        };
        let place = Place {
            domains: &bin.domains,
            node,
        };
        self.topology
            .count(&demand.counted_by, &demand.owns, &place, by);
    }

    /// The number of a bin in its own host name domain.
    pub(super) fn domains(&self, b: usize) -> Vec<u32> {
        let mut domains = vec![NO_DOMAIN; self.topology.keys.len()];
        domains[HOST] = b as u32;
        domains
    }
}

impl Demand<'_> {
    /// Whether its volumes can be attached to a new node of this pool beside what is.
    pub(super) fn claims_fit(
        &self,
        claims: &[(&ObjectKey, &str)],
        pool: &crate::pool::NodePool,
    ) -> bool {
        self.shape.volumes.is_empty() || over_limit(claims, self, &pool.volume_limits).is_none()
    }
}

pub(super) fn clash<'a>(taken: &'a [HostPort], wanted: &[HostPort]) -> Option<&'a HostPort> {
    taken
        .iter()
        .find(|port| wanted.iter().any(|other| other.conflicts(port)))
}

/// The driver that could not attach the pod's volumes beside those that are attached, with its limit.
pub(super) fn over_limit<'a>(
    attached: &[(&ObjectKey, &str)],
    demand: &'a Demand<'_>,
    limits: &std::collections::BTreeMap<String, u32>,
) -> Option<(&'a str, u32)> {
    if demand.shape.volumes.is_empty() {
        return None;
    }
    demand.shape.volumes.iter().find_map(|volume| {
        let limit = *limits.get(&volume.driver)?;
        let of_driver = |driver: &str| driver == volume.driver;
        let mut all: Vec<&ObjectKey> = attached
            .iter()
            .filter(|(_, driver)| of_driver(driver))
            .map(|(claim, _)| *claim)
            .collect();
        all.extend(
            demand
                .shape
                .volumes
                .iter()
                .filter(|v| of_driver(&v.driver))
                .map(|v| &v.claim),
        );
        all.sort_unstable();
        all.dedup();
        (all.len() > limit as usize).then_some((volume.driver.as_str(), limit))
    })
}

/// What a node would have left, in thousandths of a core; two MiB of memory count as one.
fn slack(free: [i64; 2], demand: &Demand<'_>) -> u64 {
    let left = |free: i64, dim: usize| u64::try_from(free - demand.ask(dim)).unwrap_or(0);
    left(free[0], CPU) + (left(free[1], MEMORY) >> 21)
}
