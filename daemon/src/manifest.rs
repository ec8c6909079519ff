//! Kubernetes manifests, as a person keeps them or a cluster gives them out, and what they mean to the
//! planner.
//!
//! Everything is read before anything is judged: all problems of all files come together, each with
//! file, object, field, what was found and what to write. What is left out or assumed is a note.
//! Nothing here panics on any input, reads a clock or opens a file. The order of files changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::cache::Inventory;
use headstart_core::money::Millis;
use headstart_core::pod::{Group, ObjectKey, Pod, Shape};
use headstart_core::snapshot::{PodBudget, Snapshot, Wish};
use serde_json::{Map, Value};

pub(crate) use self::alias::add_ours as add_our_labels;
use self::cluster::Cluster;
use self::finding::Findings;
pub(crate) use self::finding::{Note, Problem};
use self::gang::Gangs;
use self::live::Live;
pub(crate) use self::live::is_over;
use self::object::Objects;
pub(crate) use self::requests::is_accelerator;
use self::source::Document;
use self::workload::Maker;

mod affinity;
pub(crate) mod alias;
mod annotation;
pub(crate) mod book;
mod budget;
mod cache;
mod cluster;
mod finding;
mod gang;
pub(crate) mod item;
mod job;
pub(crate) mod job_set;
mod live;
pub(crate) mod lws;
pub(crate) mod node;
pub(crate) mod object;
mod pods;
pub(crate) mod pool;
pub(crate) mod ray;
pub(crate) mod recognise;
mod requests;
mod select;
mod shape;
mod shell;
mod source;
mod volume;
mod window;
mod workload;

/// What manifests say, ready to be planned with.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    pods: Vec<Pod>,
    groups: Vec<Group>,
    daemons: Vec<Shape>,
    nodes: Vec<node::Seen>,
    inventories: BTreeMap<String, Inventory>,
    pools: Vec<pool::Read>,
    pod_budgets: Vec<PodBudget>,
    wishes: Vec<Wish>,
    notes: Vec<Note>,
}

/// Reads files, each with the name that messages give it.
///
/// # Errors
/// All problems of all files, by place.
pub(crate) fn read<N, B>(sources: &[(N, B)]) -> Result<Manifests, Vec<Problem>>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    let findings = Findings::default();
    let objects = Objects::read(documents(sources, &findings), &findings);
    let cluster = Cluster::of(&objects);
    let live = Live::of(&objects.pods);
    let mut maker = Maker {
        objects: &objects,
        cluster: &cluster,
        findings: &findings,
        live: &live,
        pods: Vec::new(),
        daemons: Vec::new(),
        gangs: Gangs::default(),
        owned: BTreeMap::new(),
    };
    maker.workloads();
    maker.existing();
    let Maker {
        mut pods,
        mut daemons,
        gangs,
        ..
    } = maker;
    let groups = gangs.into_groups();
    let known: BTreeSet<&ObjectKey> = groups.iter().map(|group| &group.key).collect();
    for pod in &mut pods {
        // A group of which nobody is to stay is none.
        pod.shape.group.take_if(|key| !known.contains(key));
    }
    pods.sort_by(|a, b| a.key.cmp(&b.key));
    daemons.sort();
    let pools = pool::all(&objects.node_pools, &findings);
    let manifests = Manifests {
        groups,
        nodes: node::all(&objects, &pools, &findings),
        inventories: cache::inventories(&objects.node_caches, &findings),
        pod_budgets: budget::all(&objects.pod_budgets, &pods, &findings),
        wishes: cache::wishes(&objects.prefetches, &findings),
        pods,
        daemons,
        pools,
        notes: Vec::new(),
    };
    match findings.into_parts() {
        (problems, notes) if problems.is_empty() => Ok(Manifests { notes, ..manifests }),
        (problems, _) => Err(problems),
    }
}

/// An object, untyped.
pub(crate) type Tree = Map<String, Value>;

/// The objects of files, untyped, each with its place.
///
/// # Errors
/// One line per problem.
pub(crate) fn trees<N, B>(sources: &[(N, B)]) -> Result<Vec<(String, Tree)>, Vec<String>>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    let findings = Findings::default();
    let named = documents(sources, &findings)
        .into_iter()
        .map(|document| (document.place.to_string(), document.tree));
    without_problems(named.collect(), findings)
}

/// The node pools of files, each by its name with what it says to its provider.
///
/// # Errors
/// One line per problem.
pub(crate) fn pools<N, B>(sources: &[(N, B)]) -> Result<Vec<(String, Tree)>, Vec<String>>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    let findings = Findings::default();
    let objects = Objects::read(documents(sources, &findings), &findings);
    let pools = objects.node_pools.into_iter();
    let pools = pools.map(|pool| (pool.name, pool.object.spec.provider));
    without_problems(pools.collect(), findings)
}

/// The documents of files.
fn documents<N, B>(sources: &[(N, B)], findings: &Findings) -> Vec<Document>
where
    N: AsRef<str>,
    B: AsRef<[u8]>,
{
    let sources = sources.iter();
    sources
        .flat_map(|(name, bytes)| source::documents(name.as_ref(), bytes.as_ref(), findings))
        .collect()
}

/// What was read, if nothing was wrong with it; else one line per problem.
fn without_problems<T>(read: T, findings: Findings) -> Result<T, Vec<String>> {
    let (problems, _) = findings.into_parts();
    match problems.is_empty() {
        true => Ok(read),
        false => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

impl Manifests {
    /// What was left out or assumed, by place.
    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The snapshot at `now`, without what manifests do not say: instance types, offerings, sizes of
    /// items. What nobody has created or reported yet counts as created and reported now.
    pub(crate) fn into_snapshot(self, now: Millis) -> Snapshot {
        let or_now = |time| if time == Millis(0) { now } else { time };
        let mut snapshot = Snapshot {
            now,
            pods: self.pods,
            groups: self.groups,
            daemons: self.daemons,
            nodes: self.nodes.into_iter().map(|node| node.at(now)).collect(),
            inventories: self.inventories,
            pools: self.pools.into_iter().map(|pool| pool.at(now)).collect(),
            pod_budgets: self.pod_budgets,
            wishes: self.wishes,
            ..Snapshot::default()
        };
        for pod in &mut snapshot.pods {
            pod.created = or_now(pod.created);
        }
        for inventory in snapshot.inventories.values_mut() {
            inventory.observed = or_now(inventory.observed);
        }
        snapshot
    }
}

#[cfg(test)]
mod tests;
