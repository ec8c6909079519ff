//! Whether what the plan buys may be bought, and is what the plan says it is.

use std::collections::{BTreeMap, BTreeSet};

use crate::amount::{PODS, Resources};
use crate::label;
use crate::node::Node;
use crate::offer::{Availability, CapacityType, InstanceType, Offering, OfferingKey};
use crate::plan::{NewNode, Plan, Target};
use crate::pod::{ObjectKey, Shape};
use crate::pool::{NODES, NodePool, PoolState};
use crate::reason::{Origin, Rejection};

use super::state::{Site, State};
use super::{Violation, fit};

/// Judges every purchase by itself, then budgets and limits over all of them.
pub(super) fn check(state: &State<'_>, plan: &Plan, violations: &mut Vec<Violation>) {
    let mut placed: BTreeMap<usize, Vec<&ObjectKey>> = BTreeMap::new();
    for placement in &plan.placements {
        if let Target::New(index) = placement.target {
            placed.entry(index).or_default().push(&placement.pod);
        }
    }
    for (index, node) in plan.nodes.iter().enumerate() {
        let site = &state.sites[state.snapshot.nodes.len() + index];
        let refused = |why| Violation::Purchase { index, why };
        match (state.pool_named(&node.pool), state.offering(&node.offering)) {
            (None, _) => violations.push(wrong(index, "pool", &node.pool, &"one that exists")),
            (_, None) => violations.push(refused(Rejection::NotSold)),
            (Some(pool), Some((offering, kind))) => {
                let why = of_pool(state, pool, site, offering)
                    .or_else(|| no_discount(state, pool, site, offering, kind))
                    .or_else(|| too_few(state, pool, &shapes_on(state, site), &Resources::new()));
                violations.extend(why.map(refused));
                fields(state, index, node, site, (offering, kind), violations);
            }
        }
        let mut pods: Vec<&ObjectKey> = node.pods.iter().collect();
        let mut right = placed.remove(&index).unwrap_or_default();
        pods.sort();
        right.sort();
        if pods != right || pods.is_empty() {
            violations.push(wrong(index, "pods", &pods, &right));
        }
    }
    budgets(state, plan, violations);
    limits(state, plan, violations);
}

/// Why `pool` may not buy `offering`, for whomever: its state, its requirements, the cloud.
pub(super) fn of_pool(
    state: &State<'_>,
    pool: &NodePool,
    site: &Site<'_>,
    offering: &Offering,
) -> Option<Rejection> {
    if let PoolState::NotReady(why) = &pool.state {
        return Some(Rejection::PoolNotReady { why: why.clone() });
    }
    match &offering.availability {
        Availability::Available => {}
        Availability::Never => return Some(Rejection::NotSold),
        Availability::Until { until, .. } if *until <= state.snapshot.now => {}
        Availability::Until { until, why } => {
            let (until, why) = (*until, why.clone());
            return Some(Rejection::Unavailable { until, why });
        }
    }
    let failing = pool.requirements.iter().map(|r| &r.expression).find(|e| {
        let value = site.labels.get(&e.key).map(String::as_str);
        !e.matches(value)
    });
    if let Some(expression) = failing {
        return Some(Rejection::Label {
            found: site.labels.get(&expression.key).cloned(),
            expression: expression.clone(),
            by: Origin::Pool,
        });
    }
    fit::of_wants(&pool.wants, &site.machine, Origin::Pool)
}

/// A spot offering dearer than the same machine on demand, where pool and pods take either.
pub(super) fn no_discount(
    state: &State<'_>,
    pool: &NodePool,
    site: &Site<'_>,
    offering: &Offering,
    kind: &InstanceType,
) -> Option<Rejection> {
    if offering.capacity_type != CapacityType::Spot {
        return None;
    }
    let key = OfferingKey {
        instance_type: kind.name.clone(),
        zone: offering.zone.clone(),
        capacity_type: CapacityType::OnDemand,
    };
    let (other, _) = state.offering(&key)?;
    // One of a budget may be used up, and whoever looks at capacity types may ask for both.
    let told_apart = |shape: &&Shape| {
        let spreads = shape.spread.iter().map(|spread| &spread.topology_key);
        let terms = shape.affinity.iter().chain(&shape.anti_affinity);
        let preferred = (shape.preferred_affinity.iter()).chain(&shape.preferred_anti_affinity);
        let terms = terms.chain(preferred.map(|(_, term)| term));
        let nodes = (shape.preferred_node_affinity.iter()).flat_map(|(_, term)| &term.0);
        let spreads = spreads.chain(nodes.map(|expression| &expression.key));
        (spreads.chain(terms.map(|term| &term.topology_key))).any(|key| key == label::CAPACITY_TYPE)
    };
    let groups = &state.snapshot.groups;
    if other.price >= offering.price
        || other.launch_budget.is_some()
        || state.shapes.iter().any(told_apart)
        || groups
            .iter()
            .any(|group| group.same.as_deref() == Some(label::CAPACITY_TYPE))
    {
        return None;
    }
    let instead = state.fresh(pool, other, kind, usize::MAX);
    let pods_take_it =
        (shapes_on(state, site).iter()).all(|shape| fit::of_itself(shape, &instead).is_none());
    let may = of_pool(state, pool, &instead, other).is_none();
    (may && pods_take_it).then_some(Rejection::SpotWithoutDiscount {
        price: offering.price,
        on_demand: other.price,
    })
}

/// Whether fewer different values than the pool asks for are left to choose from, for a node of these
/// shapes that must have room for `requests`.
pub(super) fn too_few(
    state: &State<'_>,
    pool: &NodePool,
    shapes: &[&Shape],
    requests: &Resources,
) -> Option<Rejection> {
    let asked: Vec<(&str, u32)> = (pool.requirements.iter())
        .filter_map(|r| Some((r.expression.key.as_str(), r.min_values?)))
        .collect();
    if asked.is_empty() {
        return None;
    }
    let mut values: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for offering in &state.snapshot.offerings {
        let Some(kind) = state.snapshot.types.get(offering.instance_type) else {
            continue;
        };
        let site = state.fresh(pool, offering, kind, usize::MAX);
        let serves = of_pool(state, pool, &site, offering).is_none()
            && shapes.iter().all(|s| fit::of_itself(s, &site).is_none())
            && requests.fits(&site.allocatable);
        for (key, _) in asked.iter().filter(|_| serves) {
            values
                .entry(key)
                .or_default()
                .extend(site.labels.get(*key).cloned());
        }
    }
    asked.into_iter().find_map(|(key, wanted)| {
        let found = values.get(key).map_or(0, BTreeSet::len);
        let found = u32::try_from(found).unwrap_or(u32::MAX);
        (found < wanted).then(|| Rejection::MinValues {
            key: key.to_owned(),
            wanted,
            found,
        })
    })
}

/// What `pool` has, by resource and [`NODES`], with `buying` on top. A node whose type is known counts
/// with the capacity of the machine.
pub(super) fn used<'n>(
    state: &State<'_>,
    pool: &NodePool,
    buying: impl Iterator<Item = &'n OfferingKey>,
) -> Resources {
    let mut used = Resources::new();
    let mut count = 0;
    let own = |node: &&Node| node.pool.as_ref() == Some(&pool.name);
    for node in state.snapshot.nodes.iter().filter(own) {
        let kind = node
            .offering
            .as_ref()
            .and_then(|o| state.type_named(&o.instance_type));
        used.add(kind.map_or(&node.allocatable, |kind| &kind.capacity));
        count += 1;
    }
    for key in buying {
        if let Some(kind) = state.type_named(&key.instance_type) {
            used.add(&kind.capacity);
        }
        count += 1;
    }
    used.set(NODES, count);
    used
}

/// The shapes that the plan places on a node.
fn shapes_on<'a>(state: &State<'a>, site: &Site<'_>) -> Vec<&'a Shape> {
    (site.here.keys())
        .map(|shape| state.shapes[*shape])
        .collect()
}

/// What the plan says of a new node.
fn fields(
    state: &State<'_>,
    index: usize,
    node: &NewNode,
    site: &Site<'_>,
    (offering, kind): (&Offering, &InstanceType),
    violations: &mut Vec<Violation>,
) {
    if node.price != offering.price {
        violations.push(wrong(index, "price", &node.price, &offering.price));
    }
    if significant(&node.allocatable) != significant(&kind.allocatable()) {
        let right = kind.allocatable();
        violations.push(wrong(index, "allocatable", &node.allocatable, &right));
    }
    let mut right = site.asked(&state.shapes);
    let said = significant(&node.requests);
    // Places for pods may be counted among the requests or not.
    let with_places = significant(&right);
    right.set(PODS, 0);
    if said != with_places && said != significant(&right) {
        violations.push(wrong(index, "requests", &node.requests, &right));
    }
}

/// Only what is not zero.
fn significant(amounts: &Resources) -> Resources {
    (amounts.iter())
        .filter(|(_, amount)| *amount != 0)
        .map(|(name, amount)| (name.to_owned(), amount))
        .collect()
}

/// No more of an offering than its budget allows.
fn budgets(state: &State<'_>, plan: &Plan, violations: &mut Vec<Violation>) {
    let mut bought: BTreeMap<&OfferingKey, u32> = BTreeMap::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let count = bought.entry(&node.offering).or_default();
        *count += 1;
        let budget = state
            .offering(&node.offering)
            .and_then(|(o, _)| o.launch_budget);
        if let Some(allowed) = budget
            && *count > allowed
        {
            let why = Rejection::LaunchBudget { allowed };
            violations.push(Violation::Purchase { index, why });
        }
    }
}

/// No pool over its limits through what it buys.
fn limits(state: &State<'_>, plan: &Plan, violations: &mut Vec<Violation>) {
    for pool in &state.snapshot.pools {
        let ours = || {
            plan.nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.pool == pool.name)
        };
        let Some((index, _)) = ours().last() else {
            continue;
        };
        let before = used(state, pool, [].into_iter());
        let after = used(state, pool, ours().map(|(_, node)| &node.offering));
        for (resource, limit) in pool.limits.iter() {
            let (was, used) = (before.of(resource), after.of(resource));
            if used > limit && used > was {
                let why = Rejection::PoolLimit {
                    resource: resource.to_owned(),
                    used: was,
                    adding: used.saturating_sub(was),
                    limit,
                };
                violations.push(Violation::Purchase { index, why });
            }
        }
    }
}

fn wrong(
    index: usize,
    field: &'static str,
    said: &dyn std::fmt::Debug,
    right: &dyn std::fmt::Debug,
) -> Violation {
    Violation::NewNode {
        index,
        field,
        said: format!("{said:?}"),
        right: format!("{right:?}"),
    }
}
