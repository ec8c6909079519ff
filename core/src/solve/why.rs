//! Why not: the first reason that keeps a pod off each node and offering, counted.

use std::collections::BTreeMap;

use crate::bits::Bits;
use crate::label::{Expression, Term};
use crate::market::{Market, NodeTaints, offering_key, refused_by_wants, unavailable, untolerated};
use crate::money::{HourlyPrice, Millis};
use crate::pod::Shape;
use crate::reason::{NotServed, Origin, Rejection, Tally};
use crate::solve::Solver;
use crate::solve::bins::{Existing, Kind};
use crate::solve::demand::{Demand, Level};
use crate::solve::limits::takes;
use crate::solve::topology::{Rule, Use};

impl<'w> Solver<'w> {
    /// Why a pod of this demand finds no place now.
    pub(super) fn not_served(&self, d: usize) -> NotServed {
        let demand = &self.demands[d];
        if let Some(why) = demand
            .shape
            .volumes
            .iter()
            .find_map(|volume| volume.unusable.clone())
        {
            return NotServed::Impossible { what: why };
        }
        let Some(level) = demand.levels.last() else {
            return NotServed::Impossible {
                what: "no level of preferences".to_owned(),
            };
        };
        let mut nodes = Count::default();
        let mut unsuitable: BTreeMap<usize, Rejection> = BTreeMap::new();
        for (b, bin) in self.bins.iter().enumerate() {
            let Kind::Existing(existing) = &bin.kind else {
                continue;
            };
            let leaving = existing.node.state == crate::node::NodeState::Leaving;
            let why = if !leaving && !demand.suits(level, self.world, existing.class, existing.host)
            {
                let of_class = || self.unsuitable(demand, level, existing);
                Some(
                    unsuitable
                        .entry(existing.class)
                        .or_insert_with(of_class)
                        .clone(),
                )
            } else {
                self.refused_existing(demand, level, b, existing)
                    .or_else(|| self.too_small(demand, &bin.amounts))
            };
            if let Some(why) = why {
                nodes.add(why, || existing.node.name.clone());
            }
        }
        NotServed::NoCandidate {
            nodes: nodes.tallies(),
            offerings: self.not_bought(demand, level),
        }
    }

    fn not_bought(&self, demand: &Demand<'w>, level: &Level) -> Vec<(String, Vec<Tally>)> {
        let market = &self.world.market;
        let mut counts = self
            .never_bought
            .get_or_init(|| never_bought(market))
            .clone();
        for (c, candidate) in market.candidates.iter().enumerate() {
            if let Some(why) = self.refused_candidate(demand, level, c) {
                counts[candidate.pool].add(why, || market.key(c).to_string());
            }
        }
        let names = market.pools.iter().map(|pool| pool.name.clone());
        names.zip(counts.into_iter().map(Count::tallies)).collect()
    }

    /// Why a new node of candidate `c` cannot take a pod of this demand, if so.
    fn refused_candidate(&self, demand: &Demand<'w>, level: &Level, c: usize) -> Option<Rejection> {
        let market = &self.world.market;
        let unfit = if level.mask.contains(c) {
            None
        } else {
            self.unfit(demand, level, c)
        };
        unfit
            .or_else(|| self.too_small(demand, market.room(c)))
            .or_else(|| unavailable(market.offering(c), self.world.now))
            .or_else(|| self.out_of_domain(c))
            .or_else(|| self.unaffordable(c))
            .or_else(|| self.unrelated(demand, level, c))
            .or_else(|| {
                let limits = &market.pool(c).volume_limits;
                let (driver, limit) = super::bins::over_limit(&[], demand, limits)?;
                Some(Rejection::AttachLimit {
                    driver: driver.to_owned(),
                    limit,
                })
            })
            .or_else(|| self.unvaried(demand, level, c))
    }

    /// The key whose domain the group being placed must share, where candidate `c` is not in it.
    fn out_of_domain(&self, c: usize) -> Option<Rejection> {
        let (key, _) = self.within?;
        let inside = self.within().is_none_or(|mask| mask.contains(c));
        let fresh = self.is_within(self.bins.len());
        (!inside || !fresh).then(|| Rejection::GroupDomain {
            key: self.topology.keys[key].name.clone(),
        })
    }

    /// Why candidate `c` is none for this demand, whatever its size.
    fn unfit(&self, demand: &Demand<'w>, level: &Level, c: usize) -> Option<Rejection> {
        let (market, shape) = (&self.world.market, demand.shape);
        if !market.pool(c).serves(&shape.labels) {
            let pool = market.pool(c).name.clone();
            return Some(Rejection::PodSelector { pool });
        }
        if let Some(taint) =
            untolerated(&market.pool(c).taints, &shape.tolerations, NodeTaints::Hard)
        {
            return Some(Rejection::Taint(taint.clone()));
        }
        let label = |key: &str| market.label(c, key);
        let by_label = unmatched(shape, &shape.node_affinity, label).or_else(|| {
            let volume = shape
                .volumes
                .iter()
                .find(|v| !any(&v.node_affinity, label))?;
            Some(Rejection::Volume {
                claim: volume.claim.clone(),
            })
        });
        by_label
            .or_else(|| refused_by_wants(&shape.wants, &market.machine(c), Origin::Pod))
            .or_else(|| {
                level
                    .preferred()
                    .and_then(|term| unmatched_term(term, label))
            })
    }

    /// The choice that the pool of candidate `c` asks for and would not have.
    fn unvaried(&self, demand: &Demand<'w>, level: &Level, c: usize) -> Option<Rejection> {
        let market = &self.world.market;
        let pool = &market.pool(c);
        pool.requirements.iter().find_map(|r| r.min_values)?;
        let mut roomy = Bits::all(market.len());
        for (dim, amount) in &demand.asks {
            roomy.keep(market.with_room(*dim, *amount)?);
        }
        let p = market.candidates[c].pool;
        too_few(market, p, &level.mask, &[&self.available, &roomy])
    }

    fn unaffordable(&self, c: usize) -> Option<Rejection> {
        if self.affordable(c, None) {
            return None;
        }
        let market = &self.world.market;
        let over = self.limits[market.candidates[c].pool]
            .as_ref()
            .and_then(|limit| {
                limit.rows.iter().find_map(|(name, used, most)| {
                    let adding = takes(market, c, name);
                    (adding > 0 && used + adding > *most).then(|| Rejection::PoolLimit {
                        resource: name.clone(),
                        used: *used,
                        adding,
                        limit: *most,
                    })
                })
            });
        over.or_else(|| {
            market
                .offering(c)
                .launch_budget
                .map(|allowed| Rejection::LaunchBudget { allowed })
        })
    }

    /// Why the pod's relations keep it off a new node of candidate `c`.
    fn unrelated(&self, demand: &Demand<'w>, level: &Level, c: usize) -> Option<Rejection> {
        let fresh = self.bins.len() as u32;
        if let Err(at) = self
            .topology
            .host_allows(&level.uses, &demand.counted_by, fresh)
        {
            return Some(self.relation(level, at));
        }
        level.with_allowed(demand, &self.topology, &self.world.market, |allowed| {
            let wrong = allowed.domains.iter().enumerate().find(|(key, domains)| {
                let domain = self.topology.keys[*key]
                    .of_candidate
                    .get(c)
                    .copied()
                    .unwrap_or(u32::MAX);
                domains
                    .as_ref()
                    .is_some_and(|list| !list.get(domain as usize).copied().unwrap_or(false))
            });
            wrong.map(|(key, _)| self.relation_over(level, key))
        })
    }

    fn too_small(&self, demand: &Demand<'w>, free: &[i64]) -> Option<Rejection> {
        let short = demand
            .asks
            .iter()
            .find(|(dim, amount)| *amount > free[*dim]);
        short.map(|(dim, amount)| Rejection::Resource {
            resource: self.world.dims.name(*dim).to_owned(),
            asked: *amount,
            free: free[*dim],
        })
    }

    /// Why a node's labels or taints do not suit the pod.
    pub(super) fn unsuitable(
        &self,
        demand: &Demand<'w>,
        level: &Level,
        existing: &Existing<'w>,
    ) -> Rejection {
        let class = &self.world.classes[existing.class];
        let label = |key: &str| match key {
            crate::label::HOSTNAME => Some(existing.host),
            _ => class.labels.get(key).map(String::as_str),
        };
        let shape = demand.shape;
        unmatched(shape, &shape.node_affinity, label)
            .or_else(|| {
                untolerated(&class.taints, &shape.tolerations, NodeTaints::Hard)
                    .cloned()
                    .map(Rejection::Taint)
            })
            .or_else(|| {
                let volume = shape
                    .volumes
                    .iter()
                    .find(|v| !any(&v.node_affinity, label))?;
                Some(Rejection::Volume {
                    claim: volume.claim.clone(),
                })
            })
            .or_else(|| {
                level
                    .preferred()
                    .and_then(|term| unmatched_term(term, label))
            })
            .or_else(|| {
                untolerated(&class.taints, &shape.tolerations, NodeTaints::All)
                    .cloned()
                    .map(Rejection::Taint)
            })
            .unwrap_or(Rejection::Leaving)
    }

    /// The rejection for the use at `at`; past the end, somebody else's anti-affinity.
    pub(super) fn relation(&self, level: &Level, at: usize) -> Rejection {
        let host = crate::label::HOSTNAME.to_owned();
        level
            .uses
            .get(at)
            .map_or(Rejection::AntiAffinity { key: host }, |of| {
                self.rejection(of)
            })
    }

    /// The rejection by relations over one key.
    pub(super) fn relation_over(&self, level: &Level, key: usize) -> Rejection {
        let rule = level.uses.iter().find(|of| of.key == key);
        let name = || self.topology.keys[key].name.clone();
        rule.map_or_else(
            || Rejection::AntiAffinity { key: name() },
            |of| self.rejection(of),
        )
    }

    fn rejection(&self, of: &Use) -> Rejection {
        let key = self.topology.keys[of.key].name.clone();
        match &of.rule {
            Rule::Spread { max_skew, .. } => Rejection::Spread {
                key,
                max_skew: *max_skew,
            },
            Rule::Affinity { .. } => Rejection::Affinity { key },
            Rule::AntiAffinity => Rejection::AntiAffinity { key },
        }
    }
}

/// The first condition of the pod that labels do not satisfy.
fn unmatched<'a>(
    shape: &Shape,
    terms: &[Term],
    label: impl Fn(&str) -> Option<&'a str> + Copy,
) -> Option<Rejection> {
    let selector = Term(shape.selector_expressions().collect());
    unmatched_term(&selector, label).or_else(|| {
        if any(terms, label) {
            return None;
        }
        terms.first().and_then(|term| unmatched_term(term, label))
    })
}

fn unmatched_term<'a>(term: &Term, label: impl Fn(&str) -> Option<&'a str>) -> Option<Rejection> {
    term.0
        .iter()
        .find(|e| !e.matches(label(&e.key)))
        .map(|e: &Expression| Rejection::Label {
            expression: e.clone(),
            found: label(&e.key).map(str::to_owned),
            by: Origin::Pod,
        })
}

fn any<'a>(terms: &[Term], label: impl Fn(&str) -> Option<&'a str> + Copy) -> bool {
    terms.is_empty()
        || terms
            .iter()
            .any(|t| !t.0.is_empty() && t.0.iter().all(|e| e.matches(label(&e.key))))
}

/// The first demand of pool `p` for a choice that the candidates left do not meet.
pub(super) fn too_few(
    market: &Market,
    p: usize,
    mask: &Bits,
    others: &[&Bits],
) -> Option<Rejection> {
    market.pools[p].requirements.iter().find_map(|requirement| {
        let wanted = requirement.min_values?;
        let key = &requirement.expression.key;
        let mut all = others.to_vec();
        all.push(market.of_pool(p));
        let mut values: Vec<&str> = mask
            .meet(&all)
            .filter_map(|c| market.label(c, key))
            .collect();
        values.sort_unstable();
        values.dedup();
        let found = values.len() as u32;
        (found < wanted).then(|| Rejection::MinValues {
            key: key.clone(),
            wanted,
            found,
        })
    })
}

/// What no pod is bought, by pool.
fn never_bought(market: &Market) -> Vec<Count> {
    let mut order: Vec<usize> = (0..market.offerings.len()).collect();
    order.sort_by_cached_key(|o| {
        (
            market.offerings[*o].price,
            offering_key(&market.types, &market.offerings[*o]),
        )
    });
    let refused = market.refused();
    let mut counts = vec![Count::default(); market.pools.len()];
    for o in order {
        for (count, why) in counts.iter_mut().zip(refused[o].iter()) {
            if let Some(why) = why {
                count.add(why.clone(), || {
                    offering_key(&market.types, &market.offerings[o]).to_string()
                });
            }
        }
    }
    counts
}

/// Rejections with how often each occurs. Those that differ only in what was found count as one.
#[derive(Clone, Default)]
pub(crate) struct Count {
    seen: BTreeMap<Rejection, Tally>,
}

impl Count {
    fn add(&mut self, rejection: Rejection, example: impl Fn() -> String) {
        let tally = self
            .seen
            .entry(essence(&rejection))
            .or_insert_with(|| Tally {
                rejection: rejection.clone(),
                count: 0,
                example: example(),
            });
        tally.count += 1;
        // Of those that are too small, the largest says most.
        let free = |rejection: &Rejection| match rejection {
            Rejection::Resource { free, .. } => *free,
            _ => 0,
        };
        if free(&rejection) > free(&tally.rejection) {
            (tally.rejection, tally.example) = (rejection, example());
        }
    }

    /// Most frequent first.
    fn tallies(self) -> Vec<Tally> {
        let mut tallies: Vec<Tally> = self.seen.into_values().collect();
        tallies.sort_by(|a, b| (b.count, &a.rejection).cmp(&(a.count, &b.rejection)));
        tallies
    }
}

/// A rejection without what was found: what is the same for every candidate that it rejects.
fn essence(rejection: &Rejection) -> Rejection {
    let mut essence = rejection.clone();
    match &mut essence {
        Rejection::Price { price, .. } => *price = HourlyPrice(0),
        Rejection::SpotWithoutDiscount { price, on_demand } => {
            (*price, *on_demand) = Default::default();
        }
        Rejection::GpuSku { found, .. } | Rejection::Label { found, .. } => *found = None,
        Rejection::GpuCount { found, .. } => *found = 0,
        Rejection::Family { found, .. } => found.clear(),
        Rejection::Resource { free, .. } => *free = 0,
        Rejection::PoolLimit { used, adding, .. } => (*used, *adding) = (0, 0),
        Rejection::Unavailable { until, .. } => *until = Millis(0),
        _ => {}
    }
    essence
}
