//! Whether pods are spread evenly enough: the topology spread constraints of kube-scheduler.

use std::collections::{BTreeMap, HashMap};

use crate::label::{HOSTNAME, Labels};
use crate::node::NodeState;
use crate::pod::{NodePolicy, Shape, Spread, Unsatisfiable};
use crate::reason::Rejection;

use super::fit;
use super::purchase;
use super::state::{Here, Site, State};

/// How the pods that one constraint of one shape counts are spread.
struct Skew {
    /// Pods by domain.
    counts: BTreeMap<String, i64>,
    /// Those of them that may have come last: they do not carry the constraint.
    late: BTreeMap<String, i64>,
    /// What the emptiest domain has.
    least: i64,
}

/// Skews by shape and index of the constraint, each computed once.
#[derive(Default)]
pub(super) struct Skews<'a> {
    known: HashMap<(usize, usize), Skew>,
    /// Further domains: nodes that could be bought.
    pub(super) for_sale: Vec<Site<'a>>,
}

/// Placements that break a constraint which must hold.
pub(super) fn check(
    state: &State<'_>,
    cells: &[(usize, usize)],
) -> BTreeMap<(usize, usize), Rejection> {
    let mut skews = Skews::default();
    (cells.iter())
        .filter_map(|(shape, site)| {
            let labels = &state.sites[*site].labels;
            let why = skews.final_state(state, *shape, labels, Unsatisfiable::DoNotSchedule)?;
            Some(((*shape, *site), why))
        })
        .collect()
}

impl<'a> Skews<'a> {
    /// With domains for everything that may be bought now.
    pub(super) fn with_for_sale(state: &State<'a>) -> Self {
        let mut for_sale = Vec::new();
        for pool in &state.snapshot.pools {
            for offering in &state.snapshot.offerings {
                let Some(kind) = state.snapshot.types.get(offering.instance_type) else {
                    continue;
                };
                let site = state.fresh(pool, offering, kind, usize::MAX);
                if purchase::of_pool(state, pool, &site, offering).is_none() {
                    for_sale.push(site);
                }
            }
        }
        Self {
            known: HashMap::new(),
            for_sale,
        }
    }

    /// A constraint of that kind which a pod at `labels` breaks in the final state.
    pub(super) fn final_state(
        &mut self,
        state: &State<'_>,
        shape: usize,
        labels: &Labels,
        when: Unsatisfiable,
    ) -> Option<Rejection> {
        self.broken(state, shape, labels, when, |skew, _, domain| {
            skew.of_domain(domain) - skew.late.get(domain).copied().unwrap_or(0) - skew.least
        })
    }

    /// A constraint that a further pod at `labels` would break.
    pub(super) fn one_more(
        &mut self,
        state: &State<'_>,
        shape: usize,
        labels: &Labels,
    ) -> Option<Rejection> {
        let when = Unsatisfiable::DoNotSchedule;
        self.broken(state, shape, labels, when, |skew, itself, domain| {
            skew.of_domain(domain) + itself - skew.least
        })
    }

    fn broken(
        &mut self,
        state: &State<'_>,
        shape: usize,
        labels: &Labels,
        when: Unsatisfiable,
        excess: fn(&Skew, i64, &str) -> i64,
    ) -> Option<Rejection> {
        let carrier = state.shapes[shape];
        for (nth, spread) in carrier.spread.iter().enumerate() {
            if spread.when != when {
                continue;
            }
            let skew = (self.known.entry((shape, nth)))
                .or_insert_with(|| Skew::of(state, carrier, spread, &self.for_sale));
            let itself = i64::from(counts(spread, carrier, carrier));
            let even = (labels.get(&spread.topology_key))
                .is_some_and(|domain| excess(skew, itself, domain) <= i64::from(spread.max_skew));
            if !even {
                return Some(Rejection::Spread {
                    key: spread.topology_key.clone(),
                    max_skew: spread.max_skew,
                });
            }
        }
        None
    }
}

impl Skew {
    fn of(state: &State<'_>, carrier: &Shape, spread: &Spread, for_sale: &[Site<'_>]) -> Self {
        let counted: Vec<bool> = (state.shapes.iter())
            .map(|other| counts(spread, carrier, other))
            .collect();
        let carries: Vec<bool> = (state.shapes.iter())
            .map(|other| other.spread.contains(spread))
            .collect();
        let (mut all, mut late) = (BTreeMap::new(), BTreeMap::new());
        let domain = |site: &Site<'_>| {
            let eligible = is_domain(carrier, spread, site);
            (site.labels.get(&spread.topology_key).cloned()).filter(|_| eligible)
        };
        for site in &state.sites {
            let Some(domain) = domain(site) else { continue };
            let seen = || site.here.iter().filter(|(shape, _)| counted[**shape]);
            let came_last = |(shape, here): (&usize, &Here)| match spread.when {
                _ if !carries[*shape] => here.placed,
                Unsatisfiable::ScheduleAnyway => here.unspread,
                Unsatisfiable::DoNotSchedule => 0,
            };
            let sum: u32 = seen().map(|(_, here)| here.visible()).sum();
            *all.entry(domain.clone()).or_default() += i64::from(sum);
            *late.entry(domain).or_default() += i64::from(seen().map(came_last).sum::<u32>());
        }
        let enough =
            |domains: usize| (spread.min_domains).is_none_or(|wanted| domains >= wanted as usize);
        let least = if spread.topology_key == HOSTNAME || !enough(all.len()) {
            0
        } else {
            let empty = (for_sale.iter().filter_map(domain)).any(|d| !all.contains_key(&d));
            if empty {
                0
            } else {
                all.values().min().copied().unwrap_or(0)
            }
        };
        Self {
            counts: all,
            late,
            least,
        }
    }

    fn of_domain(&self, domain: &str) -> i64 {
        self.counts.get(domain).copied().unwrap_or(0)
    }
}

/// Whether a node makes a domain of this constraint: it has the keys of all constraints of the same
/// kind, and the policies do not exclude it. A stopped node that nothing is placed on is none; neither
/// is one that is bought or started for others and that the pod could not use, for it may come last.
fn is_domain(carrier: &Shape, spread: &Spread, site: &Site<'_>) -> bool {
    let stopped = (site.node).is_some_and(|n| matches!(n.state, NodeState::Standby { .. }));
    let used = site.here.values().any(|here| here.placed > 0);
    let keys = (carrier.spread.iter())
        .filter(|other| other.when == spread.when)
        .all(|other| site.labels.contains_key(&other.topology_key));
    let affinity = spread.node_affinity == NodePolicy::Ignore
        || fit::of_labels(carrier, &site.labels).is_none();
    let taints =
        spread.node_taints == NodePolicy::Ignore || fit::of_taints(carrier, site).is_none();
    let comes_last = (site.node.is_none() || stopped) && fit::of_itself(carrier, site).is_some();
    (!stopped || used) && !comes_last && keys && affinity && taints
}

/// Whether the constraint counts pods of that shape.
fn counts(spread: &Spread, carrier: &Shape, other: &Shape) -> bool {
    other.namespace == carrier.namespace
        && (spread.selector.as_ref()).is_some_and(|selector| selector.matches(&other.labels))
}
