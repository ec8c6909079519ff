//! Whether one pod fits one node by itself: labels, taints, machine, volumes, ports, room.

use std::collections::BTreeSet;

use crate::amount::{CPU, MEMORY};
use crate::label::{Effect, Expression, Labels, Term};
use crate::node::NodeState;
use crate::plan::Plan;
use crate::pod::{Eviction, HostPort, ObjectKey, Shape, Wants};
use crate::pool::{GpuPacking, NodePool};
use crate::reason::{Origin, Rejection};

use super::Violation;
use super::state::{Machine, Site, State, demand};

/// Judges every placement against its node, and every node against what it has.
pub(super) fn check(state: &State<'_>, plan: &Plan, violations: &mut Vec<Violation>) {
    for placement in &plan.placements {
        let Some((shape, site)) = state.where_placed(placement) else {
            continue;
        };
        let (shape, site) = (state.shapes[shape], &state.sites[site]);
        let why = of_itself(shape, site).or_else(|| alone(state, shape, site, Included::Yes));
        if let Some(why) = why {
            violations.push(Violation::Misplaced {
                pod: placement.pod.clone(),
                target: placement.target.clone(),
                why,
            });
        }
    }
    for site in &state.sites {
        let placed: Vec<&Shape> = (site.here.iter())
            .filter(|(_, here)| here.placed > 0)
            .map(|(shape, _)| state.shapes[*shape])
            .collect();
        if placed.is_empty() {
            continue;
        }
        room(state, site, &placed, violations);
        for (index, why) in ports_and_volumes(state, site) {
            violations.push(Violation::Misplaced {
                pod: placed_pod(state, plan, site, index),
                target: site.target.clone(),
                why,
            });
        }
    }
}

/// Whether the pod is already among what the node has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Included {
    /// It is: the state is that after the plan.
    Yes,
    /// It would be added.
    No,
}

/// Why the node cannot take the pod, whatever else is on it.
pub(super) fn of_itself(shape: &Shape, site: &Site<'_>) -> Option<Rejection> {
    if site.leaving {
        return Some(Rejection::Leaving);
    }
    let kept = (site.node).is_some_and(|node| !matches!(node.state, NodeState::Standby { .. }));
    if let Some(pool) = site.pool.filter(|_| !kept) {
        let serves = (pool.serves.as_ref()).is_none_or(|term| term.matches(&shape.labels));
        if !serves {
            let pool = pool.name.clone();
            return Some(Rejection::PodSelector { pool });
        }
    }
    of_labels_and_taints(shape, site)
        .or_else(|| of_wants(&shape.wants, &site.machine, Origin::Pod))
        .or_else(|| {
            (shape.volumes.iter())
                .find(|volume| {
                    let somewhere =
                        volume.node_affinity.is_empty() || any(&volume.node_affinity, &site.labels);
                    volume.unusable.is_some() || !somewhere
                })
                .map(|volume| Rejection::Volume {
                    claim: volume.claim.clone(),
                })
        })
}

/// Node selector, required node affinity, taints.
pub(super) fn of_labels_and_taints(shape: &Shape, site: &Site<'_>) -> Option<Rejection> {
    of_labels(shape, &site.labels).or_else(|| of_taints(shape, site))
}

/// Taints that keep pods away.
pub(super) fn of_taints(shape: &Shape, site: &Site<'_>) -> Option<Rejection> {
    (site.taints.iter())
        .filter(|taint| taint.effect != Effect::PreferNoSchedule)
        .find(|taint| !shape.tolerations.iter().any(|t| t.tolerates(taint)))
        .map(|taint| Rejection::Taint((*taint).clone()))
}

/// Node selector and required node affinity.
pub(super) fn of_labels(shape: &Shape, labels: &Labels) -> Option<Rejection> {
    let reject = |expression: Expression| Rejection::Label {
        found: labels.get(&expression.key).cloned(),
        expression,
        by: Origin::Pod,
    };
    let value = |key: &str| labels.get(key).map(String::as_str);
    if let Some(expression) = (shape.selector_expressions()).find(|e| !e.matches(value(&e.key))) {
        return Some(reject(expression));
    }
    if shape.node_affinity.is_empty() || any(&shape.node_affinity, labels) {
        return None;
    }
    let failing = (shape.node_affinity.iter())
        .flat_map(|term| &term.0)
        .find(|e| !e.matches(value(&e.key)));
    // Only empty terms, which select no node.
    let never = || Expression {
        key: String::new(),
        operator: crate::label::Operator::Exists,
        values: Vec::new(),
    };
    Some(reject(failing.cloned().unwrap_or_else(never)))
}

/// Whether one of the terms holds. A term without conditions selects no node.
fn any(terms: &[Term], labels: &Labels) -> bool {
    (terms.iter()).any(|term| !term.0.is_empty() && term.matches(labels))
}

/// Whether one of the heaviest preferred terms holds, if there are any.
pub(super) fn heaviest_preference_holds(shape: &Shape, labels: &Labels) -> bool {
    let preferred = &shape.preferred_node_affinity;
    let Some(most) = preferred.iter().map(|(weight, _)| *weight).max() else {
        return true;
    };
    (preferred.iter()).any(|(weight, term)| *weight == most && term.matches(labels))
}

/// What pods and pools ask of the machine. What nobody knows is no reason.
pub(super) fn of_wants(wants: &Wants, machine: &Machine<'_>, by: Origin) -> Option<Rejection> {
    if let (Some(cap), Some(price)) = (wants.max_price, machine.price)
        && price > cap
    {
        return Some(Rejection::Price { price, cap, by });
    }
    if !wants.gpu_skus.is_empty()
        && let Some(sku) = machine.sku
        && !sku.is_some_and(|sku| wants.gpu_skus.contains(sku))
    {
        return Some(Rejection::GpuSku {
            found: sku.map(str::to_owned),
            wanted: wants.gpu_skus.iter().cloned().collect(),
            by,
        });
    }
    if let Some(most) = wants.max_gpus
        && machine.gpus > most
    {
        return Some(Rejection::GpuCount {
            found: machine.gpus,
            most,
            by,
        });
    }
    if !wants.capacity_types.is_empty()
        && let Some(found) = machine.capacity_type
        && !wants.capacity_types.contains(&found)
    {
        return Some(Rejection::CapacityType {
            found,
            wanted: wants.capacity_types.iter().copied().collect(),
            by,
        });
    }
    if let Some(family) = machine.family {
        let left_out = !wants.families.is_empty() && !wants.families.contains(family);
        if left_out || wants.excluded_families.contains(family) {
            return Some(Rejection::Family {
                found: family.to_owned(),
                by,
            });
        }
    }
    if let (Some(pattern), Some(name)) = (&wants.type_pattern, machine.name)
        && !pattern.matches(name)
    {
        return Some(Rejection::TypePattern {
            pattern: pattern.as_str().to_owned(),
            by,
        });
    }
    None
}

/// Whether everything that is asked of the machine is known of it.
pub(super) fn is_known(wants: &Wants, machine: &Machine<'_>) -> bool {
    (wants.max_price.is_none() || machine.price.is_some())
        && (wants.gpu_skus.is_empty() || machine.sku.is_some())
        && (wants.capacity_types.is_empty() || machine.capacity_type.is_some())
        && (wants.families.is_empty() && wants.excluded_families.is_empty()
            || machine.family.is_some())
        && (wants.type_pattern.is_none() || machine.name.is_some())
}

/// Whether nodes of `pool` are for one such pod alone.
fn wants_alone(state: &State<'_>, shape: &Shape, pool: &NodePool) -> bool {
    let at_least = |resource, least: Option<i64>| {
        least.is_some_and(|least| shape.requests.of(resource) >= least)
    };
    let packing = &pool.packing;
    at_least(CPU, packing.dedicated_cpu)
        || at_least(MEMORY, packing.dedicated_memory)
        || (packing.gpu == GpuPacking::Dedicated
            && state.gpus.iter().any(|gpu| shape.requests.of(gpu) > 0))
}

/// Whether the pod has, or leaves to another, a node that its pool gives to one pod alone.
pub(super) fn alone(
    state: &State<'_>,
    shape: &Shape,
    site: &Site<'_>,
    included: Included,
) -> Option<Rejection> {
    let pool = site.pool?;
    let mut others = 0;
    let mut guarded = false;
    for (index, here) in &site.here {
        let other = state.shapes[*index];
        let own = u32::from(included == Included::Yes && other == shape);
        let count = here.visible().saturating_sub(own);
        if count > 0 && other.eviction != Eviction::Daemon {
            others += count;
            guarded |= wants_alone(state, other, pool);
        }
    }
    let apart = wants_alone(state, shape, pool) && others > 0;
    (apart || guarded).then_some(Rejection::Dedicated)
}

/// Whether the node has enough for the pod with nothing there but its daemons.
pub(super) fn fits_empty(shape: &Shape, site: &Site<'_>) -> bool {
    let mut free = site.allocatable.clone();
    for daemon in &site.daemons {
        free.subtract(&demand(daemon));
    }
    demand(shape).fits(&free)
}

/// Whether the pod still fits beside all that is there.
pub(super) fn has_room(state: &State<'_>, shape: &Shape, site: &Site<'_>) -> bool {
    let mut free = site.allocatable.clone();
    free.subtract(&site.asked_at_most(&state.shapes));
    if !demand(shape).fits(&free) {
        return false;
    }
    let taken = ports(state, site);
    if (shape.host_ports.iter()).any(|port| taken.iter().any(|(_, other)| port.conflicts(other))) {
        return false;
    }
    site.volume_limits.iter().all(|(driver, limit)| {
        let mut claims = claims(state, site, driver);
        let before = claims.len();
        claims.extend(claims_of(shape, driver));
        claims.len() == before || claims.len() <= *limit as usize
    })
}

/// Of each resource that a placed pod asks for, no more than there is.
fn room(state: &State<'_>, site: &Site<'_>, placed: &[&Shape], violations: &mut Vec<Violation>) {
    let asked = site.asked(&state.shapes);
    for (resource, amount) in asked.iter() {
        let has = site.allocatable.of(resource);
        let wanted = (placed.iter()).any(|shape| demand(shape).of(resource) > 0);
        if wanted && amount > has {
            violations.push(Violation::Overfull {
                target: site.target.clone(),
                resource: resource.to_owned(),
                asked: amount,
                has,
            });
        }
    }
}

/// Host ports and attach limits of one node that the plan breaks, with the shape that does.
fn ports_and_volumes(state: &State<'_>, site: &Site<'_>) -> Vec<(usize, Rejection)> {
    let mut broken = Vec::new();
    let placed = || site.here.iter().filter(|(_, here)| here.placed > 0);
    let taken = ports(state, site);
    for (index, here) in placed() {
        for port in &state.shapes[*index].host_ports {
            let clash = (taken.iter())
                .any(|(other, taken)| *other != Some(*index) && port.conflicts(taken));
            if clash || here.all() > 1 {
                broken.push((*index, Rejection::HostPort { port: port.port }));
            }
        }
    }
    for (driver, limit) in site.volume_limits {
        let before: BTreeSet<&ObjectKey> = (site.here.iter())
            .filter(|(_, here)| here.bound + here.terminating > 0)
            .flat_map(|(index, _)| claims_of(state.shapes[*index], driver))
            .collect();
        if claims(state, site, driver).len() <= *limit as usize {
            continue;
        }
        let adds = placed()
            .find(|(i, _)| claims_of(state.shapes[**i], driver).any(|c| !before.contains(c)));
        if let Some((index, _)) = adds {
            let (driver, limit) = (driver.clone(), *limit);
            broken.push((*index, Rejection::AttachLimit { driver, limit }));
        }
    }
    broken
}

/// Ports taken on a node, with the shape that takes them; daemons that should run there have none.
fn ports<'s>(state: &State<'s>, site: &Site<'s>) -> Vec<(Option<usize>, &'s HostPort)> {
    let of_pods = site.here.keys().flat_map(|index| {
        let shape: &'s Shape = state.shapes[*index];
        shape.host_ports.iter().map(|port| (Some(*index), port))
    });
    let of_daemons =
        (site.daemons.iter()).flat_map(|daemon| daemon.host_ports.iter().map(|port| (None, port)));
    of_pods.chain(of_daemons).collect()
}

/// Claims attached to a node through a driver; shared ones once.
fn claims<'s>(state: &State<'s>, site: &Site<'s>, driver: &str) -> BTreeSet<&'s ObjectKey> {
    let mut claims = BTreeSet::new();
    for index in site.here.keys() {
        let shape: &'s Shape = state.shapes[*index];
        claims.extend(
            (shape.volumes.iter())
                .filter(|volume| volume.driver == driver)
                .map(|volume| &volume.claim),
        );
    }
    claims
}

fn claims_of<'s>(shape: &'s Shape, driver: &str) -> impl Iterator<Item = &'s ObjectKey> {
    (shape.volumes.iter())
        .filter(move |volume| volume.driver == driver)
        .map(|volume| &volume.claim)
}

/// A pod of that shape which the plan places there.
fn placed_pod(state: &State<'_>, plan: &Plan, site: &Site<'_>, shape: usize) -> ObjectKey {
    (plan.placements.iter())
        .find(|placement| {
            placement.target == site.target
                && state
                    .pods
                    .get(&placement.pod)
                    .is_some_and(|pod| pod.0 == shape)
        })
        .map_or_else(|| ObjectKey::new("", ""), |placement| placement.pod.clone())
}
