//! Placing pods of one shape: on the bin that costs least, or on a new node where that costs less.

use std::collections::{BinaryHeap, VecDeque};

use crate::bits::Bits;
use crate::money::Money;
use crate::prefetch::Needs;
use crate::solve::bins::{Bin, Cost, Kind, New};
use crate::solve::demand::Demand;
use crate::solve::{Placed, Solver, Unit};

/// Pods placed one by one, at most, for others that could follow them.
const MOST_FOLLOWED: usize = 64;

impl<'w> Solver<'w> {
    /// Places as many of these pods of one shape as possible; gives back those that found no place.
    pub(super) fn place_all(&mut self, d: usize, pods: &[usize]) -> Vec<usize> {
        if self.demands[d].is_impossible() {
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

    /// The same; where others were found to lack a place near these, one by one, and the others as soon
    /// as they can follow.
    pub(super) fn place_followed(
        &mut self,
        d: usize,
        mut pods: Vec<usize>,
        left: &mut Vec<Unit>,
        coming: &mut VecDeque<Unit>,
    ) -> Vec<usize> {
        let followers = self.hints.followers.get(&d).cloned().unwrap_or_default();
        let follows =
            |unit: &Unit| matches!(unit, Unit::Pods(f, _) if *f != d && followers.contains(f));
        for _ in 0..MOST_FOLLOWED {
            let waiting = || left.iter().chain(coming.iter());
            if pods.is_empty() || followers.is_empty() || !waiting().any(follows) {
                break;
            }
            if !self.place_all(d, &pods[..1]).is_empty() {
                return pods;
            }
            pods.remove(0);
            for unit in left.iter_mut().chain(coming.iter_mut()) {
                if follows(unit)
                    && let Unit::Pods(f, waiting) = unit
                {
                    *waiting = self.place_all(*f, waiting);
                }
            }
            left.retain(|unit| !unit.pods().is_empty());
            coming.retain(|unit| !unit.pods().is_empty());
        }
        self.place_all(d, &pods)
    }

    /// Puts the first of pods that must all be on one host where most of them find room.
    fn gather(&mut self, d: usize, l: usize, pods: &mut Vec<usize>) {
        let (demand, level) = (&self.demands[d], &self.demands[d].levels[l]);
        let Some(pod) = pods.last().copied().filter(|_| pods.len() > 1) else {
            return;
        };
        if demand.per_host == 1 || !self.topology.starts_host(&level.uses) {
            return;
        }
        let most = pods.len().min(demand.per_host as usize);
        let market = &self.world.market;
        let fits = |n: usize, mask: &Bits, used: Option<&[i64]>| {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            let mut masks: Vec<&Bits> = vec![&level.mask, &self.available];
            for (dim, amount) in &demand.asks {
                let used = used.map_or(0, |used| used[*dim]);
                match market.with_room(*dim, used.saturating_add(amount.saturating_mul(n))) {
                    Some(roomy) => masks.push(roomy),
                    None => return false,
                }
            }
            mask.first_of(&masks).is_some()
        };
        let room = |b: usize| {
            let bin = &self.bins[b];
            match &bin.kind {
                Kind::Existing(_) => {
                    let of_dim = |(dim, amount): &(usize, i64)| bin.amounts[*dim] / amount;
                    let room = demand.asks.iter().map(of_dim).min().unwrap_or(i64::MAX);
                    usize::try_from(room).unwrap_or(usize::MAX).min(most)
                }
                Kind::New(new) => largest(most, |n| fits(n, &new.mask, Some(&bin.amounts))),
            }
        };
        let best = (0..self.bins.len())
            .filter_map(|b| self.appraise(demand, level, b))
            .map(|cost| (std::cmp::Reverse(room(cost.bin)), cost))
            .min();
        let offer = self.offer(d, l, pods.len());
        let fresh = offer
            .as_ref()
            .map_or(0, |offer| largest(most, |n| fits(n, &offer.kind, None)));
        let bin = match (best, offer) {
            (Some((room, cost)), Some(offer))
                if room.0 < fresh || (room.0 == fresh && cost.money > offer.each) =>
            {
                self.open(&offer)
            }
            (Some((_, cost)), _) => cost.bin,
            (None, _) => return,
        };
        let demand = &self.demands[d];
        if self.appraise(demand, &demand.levels[l], bin).is_none() {
            self.discard(bin);
            return;
        }
        self.put(d, l, pod, bin);
        let placed = Placed {
            bin,
            level: l,
            next: None,
        };
        self.placed.insert(pod, placed);
        pods.pop();
    }

    /// Places pods at one level of preferences until the next one finds no place.
    fn place_at(&mut self, d: usize, l: usize, pods: &mut Vec<usize>) {
        self.gather(d, l, pods);
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
            // What costs more than a new node is not taken, and hides what costs less to its own pool.
            let best = match (best, &offer) {
                (Some(cost), Some(new)) if cost.money > new.each => {
                    heap.push(std::cmp::Reverse(cost));
                    self.affordable_bin(d, l, &mut heap, new.each)
                }
                (best, _) => best,
            };
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
                (_, Some(new)) => {
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

    /// Takes the best of `heap` that costs no more than `most` out of it.
    fn affordable_bin(
        &self,
        d: usize,
        l: usize,
        heap: &mut BinaryHeap<std::cmp::Reverse<Cost>>,
        most: Money,
    ) -> Option<Cost> {
        if !heap.iter().any(|cost| cost.0.money <= most) {
            return None;
        }
        let demand = &self.demands[d];
        let costs = (heap.iter()).filter_map(|cost| {
            let now = self.appraise(demand, &demand.levels[l], cost.0.bin)?;
            (now.money <= most).then_some(now)
        });
        let best = costs.min()?;
        heap.retain(|cost| cost.0.bin != best.bin);
        Some(best)
    }

    /// Whether a new node could be bought for a pod of this demand.
    pub(super) fn has_offer(&self, d: usize, l: usize) -> bool {
        self.offer(d, l, 1).is_some()
    }

    /// The new node that would serve pods of this demand for the least score per pod, `left` of them
    /// being left to place.
    fn offer(&self, d: usize, l: usize, left: usize) -> Option<Offer> {
        let (demand, level) = (&self.demands[d], &self.demands[d].levels[l]);
        let market = &self.world.market;
        if !self.is_within(self.bins.len()) {
            return None;
        }
        self.topology
            .host_allows(&level.uses, &demand.counted_by, self.bins.len() as u32)
            .ok()?;
        let mut masks: Vec<&Bits> = vec![&self.available];
        for (dim, amount) in &demand.asks {
            masks.push(market.with_room(*dim, *amount)?);
        }
        let work = demand.needs.fresh();
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
                    let lacking = self.inflexible(&level.mask, &all);
                    let candidates = level.mask.meet(&all).filter(|c| {
                        self.affordable(*c, None)
                            && demand.claims_fit(&[], market.pool(*c))
                            && !lacking.as_ref().is_some_and(|lacking| lacking.contains(*c))
                    });
                    if let Some(offer) = self.cheapest_each(demand, candidates, work, left) {
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
        work: crate::ready::Work,
        left: usize,
    ) -> Option<Offer> {
        let market = &self.world.market;
        let left = i64::try_from(left).unwrap_or(i64::MAX);
        let most_pods = i64::from(demand.per_node).min(left).max(1);
        let mut best: Option<(Money, usize, Offer)> = None;
        for c in candidates {
            // Candidates of one tier come in order of base score: no later one can be less per pod.
            let base = self.base(c);
            if self.hints.shares.is_none()
                && best
                    .as_ref()
                    .is_some_and(|(least, ..)| Money(base.0 / most_pods) > *least)
            {
                break;
            }
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
            let placed = fit.min(cap).min(left).max(1);
            let pods = if self.hints.filled && !exclusive {
                fit.max(1)
            } else {
                placed
            };
            if best
                .as_ref()
                .is_some_and(|(least, ..)| Money(base.0 / pods) > *least)
            {
                continue;
            }
            let score = if work == crate::ready::Work::LEAST || self.hints.shares.is_some() {
                base
            } else {
                market.appraise(c, work).0.total()
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
                    pods: usize::try_from(placed).unwrap_or(1),
                    kind: Bits::none(0),
                };
                best = Some((each, pods, offer));
            }
        }
        best.map(|(_, _, offer)| offer)
    }

    /// The least that candidate `c` can score.
    pub(super) fn base(&self, c: usize) -> Money {
        match &self.hints.shares {
            Some(shares) => shares[c],
            None => self.world.market.candidates[c].base,
        }
    }

    /// Opens a bin for an offer.
    fn open(&mut self, offer: &Offer) -> usize {
        let mut mask = offer.kind.clone();
        mask.keep(&self.available);
        let b = self.open_bin(offer.best, mask);
        if self.hints.filled
            && let Kind::New(new) = &mut self.bins[b].kind
        {
            // It is as large as it should be; what it need not be is seen in the end.
            new.mask = Bits::none(self.world.market.len());
            new.mask.insert(offer.best);
        }
        b
    }

    /// Opens a bin that may become any of `mask`, `best` for now.
    pub(super) fn open_bin(&mut self, best: usize, mask: Bits) -> usize {
        let b = self.bins.len();
        self.bins.push(Bin {
            kind: Kind::New(New {
                wide: mask.clone(),
                mask,
                best,
                score: Money(0),
                sets: Vec::new(),
                needs: Needs::default(),
                exclusive: false,
            }),
            domains: self.domains(b),
            amounts: vec![0; self.world.dims.len()].into_boxed_slice(),
            ports: Vec::new(),
            claims: Vec::new(),
            pods: Vec::new(),
        });
        self.charge(None, Some(best));
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
}

/// The greatest number up to `most` that fits, where all below fit as well; 1 at least.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = high - (high - low) / 2;
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
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
