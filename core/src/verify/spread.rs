//! Whether pods are spread evenly enough: the topology spread constraints of kube-scheduler.

use std::collections::{BTreeMap, HashMap};

use crate::label::{HOSTNAME, Labels};
use crate::node::{Node, NodeState};
use crate::pod::{NodePolicy, Shape, Spread, Unsatisfiable};
use crate::reason::Rejection;

use super::fit;
use super::purchase;
use super::state::{Here, Site, State};

/// How the pods that one constraint of one shape counts are spread.
struct Skew {
    /// Pods by domain.
    counts: BTreeMap<String, i64>,
    /// The same with nodes that are bought for others and make no domain.
    at_most: BTreeMap<String, i64>,
    /// Those of them that may have come last: they do not carry the constraint.
    late: BTreeMap<String, i64>,
    /// What the emptiest domain has.
    least: i64,
    /// What it has if every domain counts that may be taken to be one.
    least_in_doubt: i64,
}

/// Skews by shape and index of the constraint, each computed once.
#[derive(Default)]
pub(super) struct Skews<'a> {
    known: HashMap<(usize, usize), Skew>,
    /// Further domains: nodes that could be bought or started.
    possible: Vec<Site<'a>>,
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
    /// With domains for everything that may be bought or started now, so that a constraint forbids
    /// whatever it may be taken to forbid.
    pub(super) fn with_possible(state: &State<'a>) -> Self {
        let mut possible: Vec<Site<'a>> = (state.snapshot.nodes.iter())
            .filter(|node| is_stopped(node))
            .map(|node| state.existing(node))
            .collect();
        for pool in &state.snapshot.pools {
            for offering in &state.snapshot.offerings {
                let Some(kind) = state.snapshot.types.get(offering.instance_type) else {
                    continue;
                };
                let site = state.fresh(pool, offering, kind, usize::MAX);
                if purchase::of_pool(state, pool, &site, offering).is_none() {
                    possible.push(site);
                }
            }
        }
        Self {
            known: HashMap::new(),
            possible,
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
            skew.at_most.get(domain).copied().unwrap_or(0) + itself - skew.least_in_doubt
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
                .or_insert_with(|| Skew::of(state, carrier, spread, &self.possible));
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
    fn of(state: &State<'_>, carrier: &Shape, spread: &Spread, possible: &[Site<'_>]) -> Self {
        let counted: Vec<bool> = (state.shapes.iter())
            .map(|other| counts(spread, carrier, other))
            .collect();
        let carries: Vec<bool> = (state.shapes.iter())
            .map(|other| other.spread.contains(spread))
            .collect();
        let (mut all, mut late, mut at_most) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let domain = |site: &Site<'_>| {
            let eligible = is_domain(carrier, spread, site);
            (site.labels.get(&spread.topology_key).cloned()).filter(|_| eligible)
        };
        // A node that is bought for others and that the pod could not use may come last: it makes no
        // domain, but may be waited for where it only helps.
        let (last, first): (Vec<&Site<'_>>, Vec<&Site<'_>>) =
            (state.sites.iter()).partition(|site| is_for_others(carrier, site));
        for (site, turn) in (first.into_iter().map(|site| (site, Turn::First)))
            .chain(last.into_iter().map(|site| (site, Turn::Last)))
        {
            let unused = !site.here.values().any(|here| here.placed > 0);
            let Some(domain) =
                domain(site).filter(|_| !(unused && site.node.is_some_and(is_stopped)))
            else {
                continue;
            };
            let seen = || site.here.iter().filter(|(shape, _)| counted[**shape]);
            let came_last = |(shape, here): (&usize, &Here)| match spread.when {
                _ if turn == Turn::Last || !carries[*shape] => here.placed,
                Unsatisfiable::ScheduleAnyway => here.unspread,
                Unsatisfiable::DoNotSchedule => 0,
            };
            let sum: u32 = seen().map(|(_, here)| here.visible()).sum();
            *at_most.entry(domain.clone()).or_default() += i64::from(sum);
            if turn == Turn::Last && !all.contains_key(&domain) {
                continue;
            }
            *all.entry(domain.clone()).or_default() += i64::from(sum);
            *late.entry(domain).or_default() += i64::from(seen().map(came_last).sum::<u32>());
        }
        let enough =
            |domains: usize| (spread.min_domains).is_none_or(|wanted| domains >= wanted as usize);
        let (least, least_in_doubt) = if !enough(all.len()) {
            (0, 0)
        } else if spread.topology_key == HOSTNAME {
            // To one that may be violated a new node is always possible.
            let strict = spread.when == Unsatisfiable::DoNotSchedule;
            let least = all.values().min().filter(|_| strict);
            (least.copied().unwrap_or(0), 0)
        } else {
            let in_doubt = (at_most.keys().cloned())
                .chain(possible.iter().filter_map(domain))
                .map(|domain| all.get(&domain).copied().unwrap_or(0));
            let of = |counts: Option<i64>| counts.unwrap_or(0);
            (of(all.values().min().copied()), of(in_doubt.min()))
        };
        Self {
            counts: all,
            at_most,
            late,
            least,
            least_in_doubt,
        }
    }

    fn of_domain(&self, domain: &str) -> i64 {
        self.counts.get(domain).copied().unwrap_or(0)
    }
}

/// Whether a node makes a domain of this constraint: it has the keys of all constraints of the same
/// kind, and the policies do not exclude it.
fn is_domain(carrier: &Shape, spread: &Spread, site: &Site<'_>) -> bool {
    let keys = (carrier.spread.iter())
        .filter(|other| other.when == spread.when)
        .all(|other| site.labels.contains_key(&other.topology_key));
    let affinity = spread.node_affinity == NodePolicy::Ignore
        || fit::of_labels(carrier, &site.labels).is_none();
    let taints =
        spread.node_taints == NodePolicy::Ignore || fit::of_taints(carrier, site).is_none();
    keys && affinity && taints
}

/// Whether a node stands by: it makes no domain unless something is placed on it.
fn is_stopped(node: &Node) -> bool {
    matches!(node.state, NodeState::Standby { .. })
}

/// When a node joins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Last,
}

/// Whether a node is bought or started, and not for pods like this one.
fn is_for_others(carrier: &Shape, site: &Site<'_>) -> bool {
    let unusable = || fit::of_itself(carrier, site).is_some() || !fit::fits_empty(carrier, site);
    site.node.is_none_or(is_stopped) && unusable()
}

/// Whether the constraint counts pods of that shape.
fn counts(spread: &Spread, carrier: &Shape, other: &Shape) -> bool {
    other.namespace == carrier.namespace
        && (spread.selector.as_ref()).is_some_and(|selector| selector.matches(&other.labels))
}
