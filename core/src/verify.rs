//! The judge of a plan: whether kube-scheduler would accept it, and whether every refusal was due.
//!
//! Written from the scheduler's rules over plain snapshots and plans. It shares no code with the
//! planner beyond the meaning of one label condition, one toleration, one host port and one sum of
//! resources, so a mistake there cannot hide here. Slow and obvious where the planner is fast.
//!
//! What is judged is the state *after* the plan:
//!
//! - Spread is judged on final counts. Pods that do not carry the constraint may arrive last, so they
//!   are not held against those that do. Domains are those of nodes that exist after the plan. Of a
//!   refusal over the hostname the emptiest domain counts as zero: a new node may be possible.
//! - A pod that is being deleted holds what it has and keeps away, by anti-affinity of either, whoever
//!   may not be near it; it attracts nobody and counts for no spread.
//! - Required pod affinity must be reachable in some order: a pod may come first only if no other pod
//!   that its terms select runs anywhere, and it selects itself. As in kube-scheduler, a pod counts
//!   for several terms only if it matches all of them.
//! - A daemon that should run on a node and does not yet has its room reserved there; its waiting pod
//!   is no pod to plan.
//! - A fact about a node that nobody knows, such as its price, is no violation ([`verify`]) and makes
//!   no candidate ([`justify()`]).

mod fit;
mod justify;
mod purchase;
mod relations;
mod spread;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::plan::{Plan, Relaxed, Target};
use crate::pod::{Eviction, ObjectKey, Phase, Sharing, Unsatisfiable};
use crate::reason::{Candidate, Rejection};
use crate::snapshot::{Policy, Preferences, Snapshot};

use relations::Relations;
use spread::Skews;
use state::{Census, State};

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A waiting pod is neither placed nor unserved.
    Forgotten(ObjectKey),
    /// A pod is placed or unserved more than once in all.
    Repeated(ObjectKey),
    /// A pod is placed or unserved that is not waiting.
    NotWaiting(ObjectKey),
    /// A pod is placed on a node that nobody knows.
    NoSuchTarget {
        /// The pod.
        pod: ObjectKey,
        /// Where it was to go.
        target: Target,
    },
    /// A pod cannot run where it is placed.
    Misplaced {
        /// The pod.
        pod: ObjectKey,
        /// Where it was to go.
        target: Target,
        /// Why it cannot.
        why: Rejection,
    },
    /// More is placed on a node than it has.
    Overfull {
        /// The node.
        target: Target,
        /// What of.
        resource: String,
        /// What its pods and daemons ask for.
        asked: i64,
        /// What it has.
        has: i64,
    },
    /// A node may not be bought.
    Purchase {
        /// Its index in the plan.
        index: usize,
        /// Why not.
        why: Rejection,
    },
    /// What the plan says of a node it buys is not so.
    NewNode {
        /// Its index in the plan.
        index: usize,
        /// Which field.
        field: &'static str,
        /// What it says.
        said: String,
        /// What it should say.
        right: String,
    },
    /// Some of a group is placed, but less than is of use.
    PartOfGroup {
        /// The group.
        group: ObjectKey,
        /// The role that lacks members.
        role: String,
        /// How many of it run or are placed.
        placed: u32,
        /// How many there must be.
        minimum: u32,
    },
    /// Members of a group are in more than one domain.
    GroupApart {
        /// The group.
        group: ObjectKey,
        /// The label whose value they should share.
        key: String,
    },
    /// A preference was given up without a word.
    Unsaid {
        /// The pod.
        pod: ObjectKey,
        /// The kind of preference.
        preference: Relaxed,
    },
    /// A pod is called unserved that something could serve.
    Servable {
        /// The pod.
        pod: ObjectKey,
        /// What could.
        by: Candidate,
    },
    /// The reason for not serving a pod cannot be the reason.
    WrongReason {
        /// The pod.
        pod: ObjectKey,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forgotten(pod) => write!(f, "{pod} is neither placed nor unserved"),
            Self::Repeated(pod) => write!(f, "{pod} is in the plan more than once"),
            Self::NotWaiting(pod) => write!(f, "{pod} is in the plan, but not waiting"),
            Self::NoSuchTarget { pod, target } => write!(f, "{pod}: there is no {target:?}"),
            Self::Misplaced { pod, target, why } => {
                write!(f, "{pod} cannot run on {target:?}: {why:?}")
            }
            Self::Overfull {
                target,
                resource,
                asked,
                has,
            } => write!(
                f,
                "{target:?} is asked for {asked} of {resource} and has {has}"
            ),
            Self::Purchase { index, why } => write!(f, "node {index} may not be bought: {why:?}"),
            Self::NewNode {
                index,
                field,
                said,
                right,
            } => write!(f, "node {index}: {field} is {said}, should be {right}"),
            Self::PartOfGroup {
                group,
                role,
                placed,
                minimum,
            } => write!(
                f,
                "group {group} has {placed} of role {role:?}, must have {minimum} or none"
            ),
            Self::GroupApart { group, key } => {
                write!(f, "group {group} is in more than one {key}")
            }
            Self::Unsaid { pod, preference } => {
                write!(f, "{pod}: {preference:?} was given up without a word")
            }
            Self::Servable { pod, by } => write!(f, "{pod} is unserved, but {by:?} could"),
            Self::WrongReason { pod, what } => write!(f, "{pod}: {what}"),
        }
    }
}

/// Everything in `plan` that the scheduler, the pools or the cloud would not accept. Empty for a good
/// plan.
pub fn verify(snapshot: &Snapshot, policy: &Policy, plan: &Plan) -> Vec<Violation> {
    let mut violations = bookkeeping(snapshot, plan);
    let state = State::after(snapshot, plan, &mut violations);
    fit::check(&state, plan, &mut violations);
    let relations = Relations::of(&state);
    relations::check(&state, &relations, plan, &mut violations);
    purchase::check(&state, plan, &mut violations);
    groups(&state, &mut violations);
    if policy.preferences == Preferences::Respect {
        preferences(&state, plan, &mut violations);
    }
    violations
}

/// Every pod that `plan` leaves unserved although a node with what is left after the plan, or a new
/// empty one within the limits and budgets that are left, could take it as things are then.
///
/// A pod whose affinity waits for another unserved pod is rightly unserved: the scheduler would not
/// take it either. Of a group only the reason is judged, unless a single member is all it lacks.
pub fn justify(snapshot: &Snapshot, _policy: &Policy, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    let state = State::after(snapshot, plan, &mut Vec::new());
    let relations = Relations::of(&state);
    justify::check(&state, &relations, plan, &mut violations);
    violations
}

/// Every waiting pod once, and nobody else.
fn bookkeeping(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let mut times: BTreeMap<&ObjectKey, u32> = (snapshot.pods.iter())
        .filter(|pod| pod.phase == Phase::Pending && pod.shape.eviction != Eviction::Daemon)
        .map(|pod| (&pod.key, 0))
        .collect();
    let mut violations = Vec::new();
    let placed = plan.placements.iter().map(|placement| &placement.pod);
    for key in placed.chain(plan.unserved.iter().map(|(key, _)| key)) {
        match times.get_mut(key) {
            None => violations.push(Violation::NotWaiting(key.clone())),
            Some(times) => {
                *times += 1;
                if *times == 2 {
                    violations.push(Violation::Repeated(key.clone()));
                }
            }
        }
    }
    let forgotten = times.into_iter().filter(|(_, times)| *times == 0);
    violations.extend(forgotten.map(|(key, _)| Violation::Forgotten(key.clone())));
    violations
}

/// Of each group of which anything is placed: the minimum of every role, in one domain.
fn groups(state: &State<'_>, violations: &mut Vec<Violation>) {
    for group in &state.snapshot.groups {
        let census = state.census(&group.key);
        if census.placed == 0 {
            continue;
        }
        for (role, minimum) in &group.minimum {
            let placed = census.by_role.get(role.as_str()).copied().unwrap_or(0);
            if placed < *minimum {
                violations.push(Violation::PartOfGroup {
                    group: group.key.clone(),
                    role: role.clone(),
                    placed,
                    minimum: *minimum,
                });
            }
        }
        let roles: BTreeSet<&str> = census.placed_at.iter().map(|(role, _)| *role).collect();
        for role in &roles {
            let there = census.by_role.get(role).copied().unwrap_or(0);
            if there % group.set_of(role) != 0 {
                violations.push(Violation::PartOfGroup {
                    group: group.key.clone(),
                    role: (*role).to_owned(),
                    placed: there,
                    minimum: group.next_whole(role, there),
                });
            }
        }
        let Some(key) = &group.same else { continue };
        let apart = match group.sharing {
            Sharing::Group => is_apart(state, &census, key, |_| true),
            Sharing::Role => roles
                .iter()
                .any(|one| is_apart(state, &census, key, |role| role == *one)),
        };
        if apart {
            violations.push(Violation::GroupApart {
                group: group.key.clone(),
                key: key.clone(),
            });
        }
    }
}

/// Whether placed members of these roles are not all in one domain, which those that run have as well.
fn is_apart(state: &State<'_>, census: &Census<'_>, key: &str, of: impl Fn(&str) -> bool) -> bool {
    let domains = |at: &BTreeSet<(&str, usize)>| -> BTreeSet<Option<String>> {
        let sites = at.iter().filter(|(role, _)| of(role));
        sites
            .map(|(_, site)| state.sites[*site].labels.get(key).cloned())
            .collect()
    };
    // Members that run apart already are nobody's fault here.
    let (placed, bound) = (domains(&census.placed_at), domains(&census.bound_at));
    let joins = bound.is_empty() || placed.is_subset(&bound);
    placed.len() > 1 || placed.contains(&None) || !joins
}

/// What was given up must be said. Only what can be judged on the final state is: taints, spread, and
/// the heaviest preferred node affinity.
fn preferences(state: &State<'_>, plan: &Plan, violations: &mut Vec<Violation>) {
    let mut skews = Skews::default();
    for placement in &plan.placements {
        let Some((shape, site)) = state.where_placed(placement) else {
            continue;
        };
        let mut unsaid = |preference, kept: bool| {
            if !kept && !placement.relaxed.contains(&preference) {
                violations.push(Violation::Unsaid {
                    pod: placement.pod.clone(),
                    preference,
                });
            }
        };
        let wanted = state.shapes[shape];
        unsaid(Relaxed::Taint, state.sites[site].welcomes(wanted));
        unsaid(
            Relaxed::NodeAffinity,
            fit::heaviest_preference_holds(wanted, &state.sites[site].labels),
        );
        let labels = &state.sites[site].labels;
        let uneven = skews.final_state(state, shape, labels, Unsatisfiable::ScheduleAnyway);
        unsaid(Relaxed::Spread, uneven.is_none());
    }
}
