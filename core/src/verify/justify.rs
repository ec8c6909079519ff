//! Whether nothing could have served the pods that a plan leaves unserved.

use std::collections::{BTreeSet, HashMap};

use crate::amount::Resources;
use crate::offer::OfferingKey;
use crate::plan::Plan;
use crate::pod::{Group, ObjectKey, Shape, Sharing};
use crate::pool::{NODES, NodePool};
use crate::reason::{Candidate, NotServed};

use super::fit::{self, Included};
use super::relations::Relations;
use super::spread::Skews;
use super::state::{Site, State};
use super::{Violation, purchase};

/// Something that could be bought after the plan.
struct ForSale<'a> {
    pool: &'a NodePool,
    key: OfferingKey,
    site: Site<'a>,
}

/// Judges every refusal.
pub(super) fn check(
    state: &State<'_>,
    relations: &Relations<'_>,
    plan: &Plan,
    violations: &mut Vec<Violation>,
) {
    if plan.unserved.is_empty() {
        return;
    }
    let mut skews = Skews::with_possible(state);
    let for_sale = for_sale(state, plan);
    let mut known: HashMap<usize, Option<Candidate>> = HashMap::new();
    for (key, why) in &plan.unserved {
        let Some((index, _)) = state.pods.get(key) else {
            continue; // `verify` says so.
        };
        let shape = state.shapes[*index];
        violations.extend(wrong_reason(state, key, shape, why));
        if is_held_by_group(state, shape) {
            continue;
        }
        let by = known
            .entry(*index)
            .or_insert_with(|| served_by(state, relations, &mut skews, &for_sale, *index));
        if let Some(by) = by {
            violations.push(Violation::Servable {
                pod: key.clone(),
                by: by.clone(),
            });
        }
    }
}

/// Every offering of every pool that limits and budgets still allow.
fn for_sale<'a>(state: &State<'a>, plan: &'a Plan) -> Vec<ForSale<'a>> {
    let mut bought: HashMap<&OfferingKey, u32> = HashMap::new();
    for node in &plan.nodes {
        *bought.entry(&node.offering).or_default() += 1;
    }
    let mut list = Vec::new();
    for pool in &state.snapshot.pools {
        let ours = plan.nodes.iter().filter(|node| node.pool == pool.name);
        let used = purchase::used(state, pool, ours.map(|node| &node.offering));
        for offering in &state.snapshot.offerings {
            let Some(kind) = state.snapshot.types.get(offering.instance_type) else {
                continue;
            };
            let key = OfferingKey {
                instance_type: kind.name.clone(),
                zone: offering.zone.clone(),
                capacity_type: offering.capacity_type,
            };
            let asked = bought.get(&key).copied().unwrap_or(0);
            let mut after = used.clone();
            after.add(&kind.capacity);
            after.add(&Resources::new().with(NODES, 1));
            let within = (pool.limits.iter()).all(|(resource, limit)| {
                let adds = after.of(resource) > used.of(resource);
                !adds || after.of(resource) <= limit
            });
            let site = state.fresh(pool, offering, kind, usize::MAX);
            if within
                && offering.launch_budget.is_none_or(|budget| asked < budget)
                && purchase::of_pool(state, pool, &site, offering).is_none()
            {
                list.push(ForSale { pool, key, site });
            }
        }
    }
    list
}

/// A node or an offering that could take one more pod of that shape, if there is one.
fn served_by(
    state: &State<'_>,
    relations: &Relations<'_>,
    skews: &mut Skews<'_>,
    for_sale: &[ForSale<'_>],
    index: usize,
) -> Option<Candidate> {
    let shape = state.shapes[index];
    let mut takes = |site: &Site<'_>| {
        fit::of_itself(shape, site).is_none()
            && fit::is_known(&shape.wants, &site.machine)
            && fit::alone(state, shape, site, Included::No).is_none()
            && fit::has_room(state, shape, site)
            && in_group_domain(state, shape, site)
            && relations
                .anti_affinity(index, &site.labels, Included::No)
                .is_none()
            && relations.affinity(index, &site.labels).is_none()
            && skews.one_more(state, index, &site.labels).is_none()
    };
    // What one more pod leaves of the choice on a node being bought is the planner's to know.
    let asks = |pool: &NodePool| pool.requirements.iter().any(|r| r.min_values.is_some());
    let settled = |site: &Site<'_>| site.node.is_some() || !site.pool.is_some_and(asks);
    if let Some(site) = (state.sites.iter()).find(|site| settled(site) && takes(site)) {
        return Some(Candidate::Node(match site.node {
            Some(node) => node.name.clone(),
            None => format!("{:?}", site.target),
        }));
    }
    let able: Vec<&ForSale<'_>> = (for_sale.iter()).filter(|sold| takes(&sold.site)).collect();
    (able.iter())
        .find(|sold| leaves_a_choice(&able, sold.pool))
        .map(|sold| Candidate::Offering {
            pool: sold.pool.name.clone(),
            offering: sold.key.clone(),
        })
}

/// Whether what could take the pod leaves as many different values as the pool asks for.
fn leaves_a_choice(able: &[&ForSale<'_>], pool: &NodePool) -> bool {
    pool.requirements.iter().all(|requirement| {
        let values: BTreeSet<&String> = (able.iter())
            .filter(|sold| sold.pool.name == pool.name)
            .filter_map(|sold| sold.site.labels.get(&requirement.expression.key))
            .collect();
        (requirement.min_values).is_none_or(|wanted| values.len() >= wanted as usize)
    })
}

/// Whether members of the pod's group that run or are placed leave it this domain.
fn in_group_domain(state: &State<'_>, shape: &Shape, site: &Site<'_>) -> bool {
    let Some(group) = group_of(state, shape) else {
        return true;
    };
    let Some(key) = &group.same else { return true };
    let census = state.census(&group.key);
    site.labels.contains_key(key)
        && (census.placed_at.union(&census.bound_at))
            .filter(|(role, _)| group.sharing == Sharing::Group || *role == shape.role())
            .all(|(_, other)| state.sites[*other].labels.get(key) == site.labels.get(key))
}

/// Whether the group lacks more than this one pod, so that one place would not serve it.
fn is_held_by_group(state: &State<'_>, shape: &Shape) -> bool {
    let Some(group) = group_of(state, shape) else {
        return false;
    };
    let census = state.census(&group.key);
    let lacks = group.minimum.iter().map(|(role, minimum)| {
        let there = census.by_role.get(role.as_str()).copied().unwrap_or(0);
        let own = u32::from(role == shape.role());
        u64::from(minimum.saturating_sub(there.saturating_add(own)))
    });
    let there = census.by_role.get(shape.role()).copied().unwrap_or(0);
    let next = group.next_whole(shape.role(), there);
    lacks.sum::<u64>() > 0 || next.saturating_sub(there) > 1
}

/// Whether so many members make the next set of a role whole.
fn is_next_set(state: &State<'_>, group: &Group, role: &str, wanted: u32) -> bool {
    let census = state.census(&group.key);
    let there = census.by_role.get(role).copied().unwrap_or(0);
    group.set_of(role) > 1 && group.next_whole(role, there) == wanted
}

fn group_of<'a>(state: &State<'a>, shape: &Shape) -> Option<&'a Group> {
    let key = shape.group.as_ref()?;
    state.snapshot.groups.iter().find(|group| group.key == *key)
}

/// Whether the reason given cannot be true on its face.
fn wrong_reason(
    state: &State<'_>,
    pod: &ObjectKey,
    shape: &Shape,
    why: &NotServed,
) -> Option<Violation> {
    let what = match why {
        NotServed::NoCandidate { .. } | NotServed::Impossible { .. } => return None,
        NotServed::Group {
            group,
            role,
            placed,
            minimum,
            ..
        } => match group_of(state, shape) {
            Some(own) if own.key == *group => match own.minimum.get(role) {
                None if !is_next_set(state, own, role, *minimum) => {
                    "its group asks for none of that role"
                }
                Some(right) if right != minimum && !is_next_set(state, own, role, *minimum) => {
                    "its group asks for another number of that role"
                }
                _ if placed >= minimum => "the role that is said to lack members does not",
                _ => return None,
            },
            _ => "it is not of that group",
        },
    };
    Some(Violation::WrongReason {
        pod: pod.clone(),
        what,
    })
}
