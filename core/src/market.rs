//! What can be bought, compiled: one candidate per pool and offering, in order of score, with masks
//! that answer "which candidates satisfy this" in a few machine words.
//!
//! Built once and kept while pools, types, offerings and daemons stay the same. What changes from
//! round to round (availability, budgets, use of limits) is no part of it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

pub(crate) use self::dims::{CPU, Dims, MEMORY, PODS};
pub(crate) use self::refuse::{Machine, NodeTaints, refused_by_wants, unavailable, untolerated};
use self::refuse::{PoolLabels, refused_by_pool};
use crate::bits::Bits;
use crate::label::{self, Expression, Labels, Term};
use crate::money::{HourlyPrice, Millis, Money};
use crate::node::Node;
use crate::offer::{Availability, Boot, CapacityType, InstanceType, Offering, OfferingKey};
use crate::pod::{HostPort, Shape};
use crate::pool::{NodePool, PoolState};
use crate::ready::{self, Priors, Timing, Work};
use crate::reason::{Origin, Rejection, Score};

mod dims;
mod refuse;

/// One pool's view of one offering.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) pool: usize,
    pub(crate) offering: usize,
    pub(crate) kind: usize,
    pub(crate) price: HourlyPrice,
    /// Score when nothing has to be fetched; candidates are in order of pool weight and this.
    pub(crate) base: Money,
    /// Position of its pool's weight among all weights, heaviest first.
    pub(crate) tier: usize,
    labels: usize,
}

/// A daemon that every matching node runs.
struct Daemon {
    ports: Vec<HostPort>,
    on: Bits,
}

/// Candidates by how much they have of one resource: those with at least `floors[i]` are `masks[i]`.
struct Steps {
    floors: Vec<i64>,
    masks: Vec<Bits>,
}

pub(crate) struct Market {
    pub(crate) pools: Vec<NodePool>,
    pub(crate) types: Vec<InstanceType>,
    pub(crate) offerings: Vec<Offering>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) priors: Priors,
    /// Candidates of a type that is special: has GPUs or the like.
    pub(crate) special: Bits,
    /// Room for pods, candidates by resources, net of daemons.
    room: Vec<i64>,
    stride: usize,
    steps: Vec<Steps>,
    label_sets: Vec<(Labels, Vec<usize>)>,
    by_pool: Vec<Bits>,
    daemons: Vec<Daemon>,
    tiers: Vec<Bits>,
    masks: RefCell<HashMap<Expression, Arc<Bits>>>,
    /// Types by name.
    kinds: HashMap<String, usize>,
}

impl Market {
    pub(crate) fn new(
        dims: &Dims,
        priors: Priors,
        mut pools: Vec<NodePool>,
        types: Vec<InstanceType>,
        offerings: Vec<Offering>,
        daemons: &[Shape],
    ) -> Self {
        pools.sort_by(|a, b| (b.weight, &a.name).cmp(&(a.weight, &b.name)));
        let mut weights: Vec<i32> = pools.iter().map(|pool| pool.weight).collect();
        weights.dedup();
        let (mut label_sets, mut known) = (Vec::new(), HashMap::new());
        let mut candidates = Vec::new();
        let type_labels: Vec<Labels> = types.iter().map(InstanceType::node_labels).collect();
        for (p, pool) in pools.iter().enumerate() {
            if pool.state != PoolState::Ready {
                continue;
            }
            for (o, offering) in offerings.iter().enumerate() {
                let kind = &types[offering.instance_type];
                let labels = PoolLabels {
                    pool,
                    of_type: &type_labels[offering.instance_type],
                    offering,
                };
                if offering.availability == Availability::Never
                    || refused_by_pool(pool, kind, offering, &labels).is_some()
                {
                    continue;
                }
                let set = *known.entry((p, offering.instance_type)).or_insert_with(|| {
                    label_sets.push((labels.merged(), Vec::new()));
                    label_sets.len() - 1
                });
                let tier = weights.iter().position(|w| *w == pool.weight).unwrap_or(0);
                let (score, _) = appraise(
                    pool,
                    kind,
                    offering,
                    boot_of(kind, &priors),
                    Work::LEAST,
                    &priors,
                );
                candidates.push(Candidate {
                    pool: p,
                    offering: o,
                    kind: offering.instance_type,
                    price: offering.price,
                    base: score.total(),
                    tier,
                    labels: set,
                });
            }
        }
        candidates.sort_by(|a, b| {
            let key = |c: &Candidate| {
                let offering = &offerings[c.offering];
                (
                    c.tier,
                    c.base,
                    c.price,
                    &types[c.kind].name,
                    // Spot that costs as much as on-demand comes after it.
                    offering.capacity_type == CapacityType::Spot,
                    &offering.zone,
                    offering.capacity_type,
                    c.pool,
                )
            };
            key(a).cmp(&key(b))
        });
        let kinds = (types.iter().enumerate())
            .map(|(number, kind)| (kind.name.clone(), number))
            .collect();
        let mut market = Self {
            kinds,
            special: Bits::none(candidates.len()),
            by_pool: vec![Bits::none(candidates.len()); pools.len()],
            tiers: vec![Bits::none(candidates.len()); weights.len()],
            pools,
            types,
            offerings,
            candidates,
            priors,
            room: Vec::new(),
            stride: 0,
            steps: Vec::new(),
            label_sets,
            daemons: Vec::new(),
            masks: RefCell::default(),
        };
        for (c, candidate) in market.candidates.iter().enumerate() {
            market.label_sets[candidate.labels].1.push(c);
            market.by_pool[candidate.pool].insert(c);
            market.tiers[candidate.tier].insert(c);
            if market.types[candidate.kind].gpu.is_some() {
                market.special.insert(c);
            }
        }
        market.fill(dims, daemons);
        market
    }

    /// Fills what depends on the resources that are known: room and its steps.
    pub(crate) fn fill(&mut self, dims: &Dims, daemons: &[Shape]) {
        self.stride = dims.len();
        let rows: Vec<Box<[i64]>> = self
            .types
            .iter()
            .map(|kind| dims.row(&kind.allocatable()))
            .collect();
        self.room = self
            .candidates
            .iter()
            .flat_map(|c| rows[c.kind].iter().copied())
            .collect();
        // A daemon's ports must not keep itself away when this is filled again.
        self.daemons.clear();
        self.daemons = daemons
            .iter()
            .map(|daemon| Daemon {
                ports: daemon.host_ports.iter().cloned().collect(),
                on: self.compatible(daemon, NodeTaints::Hard),
            })
            .collect();
        for (daemon, shape) in self.daemons.iter().zip(daemons) {
            let row = dims.asks(&shape.requests);
            for c in daemon.on.iter() {
                for (dim, amount) in row.iter().enumerate() {
                    let room = &mut self.room[c * self.stride + dim];
                    *room = room.saturating_sub(*amount);
                }
            }
        }
        let count = self.candidates.len();
        self.steps = (0..self.stride)
            .map(|dim| {
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by_key(|c| std::cmp::Reverse(self.room(*c)[dim]));
                let (mut steps, mut mask) = (
                    Steps {
                        floors: Vec::new(),
                        masks: Vec::new(),
                    },
                    Bits::none(count),
                );
                for (at, c) in order.iter().enumerate() {
                    mask.insert(*c);
                    let floor = self.room(*c)[dim];
                    if order
                        .get(at + 1)
                        .is_none_or(|next| self.room(*next)[dim] != floor)
                    {
                        steps.floors.push(floor);
                        steps.masks.push(mask.clone());
                    }
                }
                steps.floors.reverse();
                steps.masks.reverse();
                steps
            })
            .collect();
    }

    pub(crate) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// What a new node of candidate `c` has for pods.
    pub(crate) fn room(&self, c: usize) -> &[i64] {
        &self.room[c * self.stride..(c + 1) * self.stride]
    }

    /// Candidates with room for at least `amount` of a resource; `None` when there are none.
    pub(crate) fn with_room(&self, dim: usize, amount: i64) -> Option<&Bits> {
        let steps = &self.steps[dim];
        steps
            .masks
            .get(steps.floors.partition_point(|floor| *floor < amount))
    }

    pub(crate) fn key(&self, c: usize) -> OfferingKey {
        let candidate = &self.candidates[c];
        offering_key(&self.types, &self.offerings[candidate.offering])
    }

    pub(crate) fn pool(&self, c: usize) -> &NodePool {
        &self.pools[self.candidates[c].pool]
    }

    pub(crate) fn of_pool(&self, pool: usize) -> &Bits {
        &self.by_pool[pool]
    }

    pub(crate) fn offering(&self, c: usize) -> &Offering {
        &self.offerings[self.candidates[c].offering]
    }

    pub(crate) fn kind(&self, c: usize) -> &InstanceType {
        &self.types[self.candidates[c].kind]
    }

    /// The machine that candidate `c` would be.
    pub(crate) fn machine(&self, c: usize) -> Machine<'_> {
        Machine::new(self.kind(c), self.offering(c))
    }

    /// The type of a node, if it is one that is known here.
    pub(crate) fn kind_of(&self, node: &Node) -> Option<&InstanceType> {
        let name = match &node.offering {
            Some(offering) => &offering.instance_type,
            None => node.labels.get(label::INSTANCE_TYPE)?,
        };
        self.kinds.get(name).map(|kind| &self.types[*kind])
    }

    pub(crate) fn tiers(&self) -> &[Bits] {
        &self.tiers
    }

    /// The label of a node bought as candidate `c`. Its host name is not known yet.
    pub(crate) fn label(&self, c: usize, key: &str) -> Option<&str> {
        let candidate = &self.candidates[c];
        let offering = &self.offerings[candidate.offering];
        match key {
            label::ZONE => Some(&offering.zone),
            label::CAPACITY_TYPE => Some(offering.capacity_type.as_str()),
            _ => self.label_sets[candidate.labels]
                .0
                .get(key)
                .map(String::as_str),
        }
    }

    /// Candidates whose labels satisfy `expression`.
    pub(crate) fn satisfying(&self, expression: &Expression) -> Arc<Bits> {
        if let Some(mask) = self.masks.borrow().get(expression) {
            return Arc::clone(mask);
        }
        let mut mask = Bits::none(self.len());
        if matches!(expression.key.as_str(), label::ZONE | label::CAPACITY_TYPE) {
            for c in 0..self.len() {
                if expression.matches(self.label(c, &expression.key)) {
                    mask.insert(c);
                }
            }
        } else {
            for (labels, of) in &self.label_sets {
                if expression.matches(labels.get(&expression.key).map(String::as_str)) {
                    of.iter().for_each(|c| mask.insert(*c));
                }
            }
        }
        let mask = Arc::new(mask);
        self.masks
            .borrow_mut()
            .insert(expression.clone(), Arc::clone(&mask));
        mask
    }

    /// Candidates that satisfy all of a term; none for an empty one.
    pub(crate) fn satisfying_term(&self, term: &Term) -> Bits {
        if term.0.is_empty() {
            return Bits::none(self.len());
        }
        let mut mask = Bits::all(self.len());
        term.0.iter().for_each(|e| mask.keep(&self.satisfying(e)));
        mask
    }

    /// Candidates that satisfy one of the terms, or all if there are no terms.
    pub(crate) fn satisfying_any(&self, terms: &[Term]) -> Bits {
        if terms.is_empty() {
            return Bits::all(self.len());
        }
        let mut mask = Bits::none(self.len());
        terms
            .iter()
            .for_each(|term| mask.add(&self.satisfying_term(term)));
        mask
    }

    /// Candidates that a pod of this shape could run on when empty and large enough: selector,
    /// affinity, taints, volumes, wants. Preferences and relations to other pods are no part of it.
    pub(crate) fn compatible(&self, shape: &Shape, taints: NodeTaints) -> Bits {
        let mut mask = self.satisfying_any(&shape.node_affinity);
        for expression in shape.selector_expressions() {
            mask.keep(&self.satisfying(&expression));
        }
        for volume in &shape.volumes {
            mask.keep(&self.satisfying_any(&volume.node_affinity));
        }
        for (pool, of) in self.pools.iter().zip(&self.by_pool) {
            if untolerated(&pool.taints, &shape.tolerations, taints).is_some() {
                for c in of.iter() {
                    mask.remove(c);
                }
            }
        }
        if !shape.wants.is_empty() {
            let allowed: Vec<usize> = mask
                .iter()
                .filter(|c| {
                    refused_by_wants(&shape.wants, &self.machine(*c), Origin::Pod).is_some()
                })
                .collect();
            allowed.into_iter().for_each(|c| mask.remove(c));
        }
        if !shape.host_ports.is_empty() {
            for daemon in &self.daemons {
                let clash =
                    |port: &HostPort| shape.host_ports.iter().any(|own| own.conflicts(port));
                if daemon.ports.iter().any(clash) {
                    daemon.on.iter().for_each(|c| mask.remove(c));
                }
            }
        }
        mask
    }

    /// Score and timing of candidate `c` for pods that together have this work ahead.
    pub(crate) fn appraise(&self, c: usize, work: Work) -> (Score, Timing) {
        let kind = self.kind(c);
        appraise(
            self.pool(c),
            kind,
            self.offering(c),
            boot_of(kind, &self.priors),
            work,
            &self.priors,
        )
    }

    /// Candidates that cannot be had in this round.
    pub(crate) fn unavailable(&self, now: Millis) -> Bits {
        let mut mask = Bits::none(self.len());
        for (c, candidate) in self.candidates.iter().enumerate() {
            let offering = &self.offerings[candidate.offering];
            if unavailable(offering, now).is_some() {
                mask.insert(c);
            }
        }
        mask
    }

    /// For each offering, why each pool would never buy it, if so.
    pub(crate) fn refused(&self) -> Vec<Vec<Option<Rejection>>> {
        let type_labels: Vec<Labels> = self.types.iter().map(InstanceType::node_labels).collect();
        let of_pool = |pool: &NodePool, offering: &Offering| {
            let kind = &self.types[offering.instance_type];
            let labels = PoolLabels {
                pool,
                of_type: &type_labels[offering.instance_type],
                offering,
            };
            if offering.availability == Availability::Never {
                return Some(Rejection::NotSold);
            }
            refused_by_pool(pool, kind, offering, &labels)
        };
        let by_pool = |offering| {
            self.pools
                .iter()
                .map(|pool| of_pool(pool, offering))
                .collect()
        };
        self.offerings.iter().map(by_pool).collect()
    }
}

pub(crate) fn offering_key(types: &[InstanceType], offering: &Offering) -> OfferingKey {
    OfferingKey {
        instance_type: types[offering.instance_type].name.clone(),
        zone: offering.zone.clone(),
        capacity_type: offering.capacity_type,
    }
}

/// How long a type takes to come up; its prior where the type says nothing.
fn boot_of(kind: &InstanceType, priors: &Priors) -> Boot {
    if kind.boot != Boot::default() {
        kind.boot
    } else if kind.gpu.is_some() {
        priors.gpu_boot
    } else {
        priors.boot
    }
}

/// In milliseconds.
const MILLION_HOURS: u128 = 3_600_000_000_000;

/// `price x (expected life + ready) + value of time x ready + interruption risk`. The risk is what
/// the interruptions expected during the node's life cost: each makes its pods wait, and pay for, one
/// more start.
fn appraise(
    pool: &NodePool,
    kind: &InstanceType,
    offering: &Offering,
    boot: Boot,
    work: Work,
    priors: &Priors,
) -> (Score, Timing) {
    let timing = ready::timing(boot, kind.rates, work, priors);
    let ready = timing.total();
    let waiting = pool.value_of_time.over(ready);
    let restart = offering.price.over(ready) + waiting;
    let expected =
        u128::from(offering.interruptions_per_million_h) * u128::from(pool.expected_life.0);
    let risk = u128::try_from(restart.0)
        .unwrap_or(0)
        .saturating_mul(expected)
        / MILLION_HOURS;
    let score = Score {
        money: offering.price.over(pool.expected_life + ready),
        waiting,
        risk: Money(i64::try_from(risk).unwrap_or(i64::MAX)),
    };
    (score, timing)
}
