//! Objects of a live cluster: kept as they come, and read one at a time.
//!
//! The readers are those of files; only who asks differs. What others refer to (classes, claims,
//! workloads) is kept here; pods and nodes come and go and are not. A pod that belongs to a group is
//! read with all members of all groups, since what one of them needs may stand on another object.
//! Nothing here knows a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headstart_core::cache::Inventory;
use headstart_core::pod::{Group, Pod, Shape};
use headstart_core::snapshot::{PodBudget, Wish};
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;

use super::cluster::Cluster;
use super::finding::{Findings, Place};
use super::gang::Gangs;
use super::live::Live;
use super::object::{Object, Objects, Placed, Shelf};
use super::workload::Maker;
use super::{annotation, budget, cache, node, pool};
use headstart_api::{NodeCache, Prefetch};

/// Labels by which controllers mark the pods of a group.
const GROUP_LABELS: [&str; 3] = [
    "ray.io/cluster",
    "leaderworkerset.sigs.k8s.io/name",
    "jobset.sigs.k8s.io/jobset-name",
];

/// What pods and nodes refer to.
#[derive(Debug, Default)]
pub(crate) struct Book {
    objects: Objects,
}

/// What one object could not be read for: one line per problem, with its field.
pub(crate) type Problems = Vec<String>;

/// Gives an object its place.
pub(crate) fn placed<T: Shelf>(namespace: &str, name: &str, object: T) -> Placed<T> {
    Placed {
        place: place(T::KIND, namespace, name),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        object,
    }
}

fn place(kind: &str, namespace: &str, name: &str) -> Place {
    let object = match namespace {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    };
    Place {
        file: Arc::from("cluster"),
        document: 1,
        object,
    }
}

/// Decodes an object that a cluster gave out.
///
/// # Errors
/// Every field that is wrong.
pub(crate) fn decode<T: Object + Shelf>(
    namespace: &str,
    name: &str,
    tree: Value,
) -> Result<T, Problems> {
    let findings = Findings::default();
    let here = place(T::KIND, namespace, name);
    let read = T::decode(&findings.about(&here), tree);
    read.ok_or_else(|| problems(findings))
}

fn problems(findings: Findings) -> Problems {
    let (problems, _) = findings.into_parts();
    let lines = problems.into_iter().map(|problem| match problem.field {
        field if field.is_empty() => problem.text,
        field => format!("{field}: {}", problem.text),
    });
    lines.collect()
}

/// Whether a pod is read with the members of all groups.
pub(crate) fn is_member(pod: &core::Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let annotations = pod.metadata.annotations.as_ref();
    let labelled = |key: &str| labels.is_some_and(|all| all.contains_key(key));
    GROUP_LABELS.iter().any(|key| labelled(key))
        || annotations.is_some_and(|all| all.contains_key(annotation::GROUP))
}

impl Book {
    /// Takes an object as it is now.
    pub(crate) fn set<T: Shelf>(&mut self, object: Placed<T>) {
        let shelf = T::shelf(&mut self.objects);
        let key = (&object.namespace, &object.name);
        match shelf.binary_search_by(|other| (&other.namespace, &other.name).cmp(&key)) {
            Ok(index) => shelf[index] = object,
            Err(index) => shelf.insert(index, object),
        }
    }

    /// Forgets one.
    pub(crate) fn remove<T: Shelf>(&mut self, namespace: &str, name: &str) {
        let shelf = T::shelf(&mut self.objects);
        let found = shelf.binary_search_by(|other| {
            (other.namespace.as_str(), other.name.as_str()).cmp(&(namespace, name))
        });
        if let Ok(index) = found {
            shelf.remove(index);
        }
    }

    /// Reads pods that belong to no group. One that cannot be read is left out, with why.
    pub(crate) fn pods<'p>(
        &self,
        pods: impl IntoIterator<Item = &'p Placed<core::Pod>>,
    ) -> Vec<(Option<Pod>, Problems)> {
        let (cluster, nobody) = (Cluster::of(&self.objects), Live::default());
        let read = pods.into_iter().map(|pod| {
            let findings = Findings::default();
            let found = {
                let mut maker = self.maker(&cluster, &nobody, &findings);
                maker.existing_pod(pod);
                maker.pods.pop()
            };
            (found, problems(findings))
        });
        read.collect()
    }

    /// Reads the members of all groups, and what the groups are.
    pub(crate) fn members<'p>(
        &self,
        members: impl IntoIterator<Item = &'p Placed<core::Pod>> + Clone,
    ) -> (Vec<Pod>, Vec<Group>) {
        let findings = Findings::default();
        let cluster = Cluster::of(&self.objects);
        let live = Live::of(members.clone());
        let mut maker = self.maker(&cluster, &live, &findings);
        maker.ray();
        maker.leader_worker_sets();
        maker.job_sets();
        // Pods that do not exist yet are no demand here: they will be in a moment, or never.
        maker.pods.clear();
        for member in members {
            maker.existing_pod(member);
        }
        let Maker {
            mut pods, gangs, ..
        } = maker;
        let groups = gangs.into_groups();
        let known: BTreeSet<_> = groups.iter().map(|group| &group.key).collect();
        for pod in &mut pods {
            pod.shape.group.take_if(|key| !known.contains(key));
        }
        (pods, groups)
    }

    /// What every node runs.
    pub(crate) fn daemons(&self) -> Vec<Shape> {
        let (findings, nobody) = (Findings::default(), Live::default());
        let cluster = Cluster::of(&self.objects);
        let mut maker = self.maker(&cluster, &nobody, &findings);
        maker.daemon_sets();
        let mut daemons = maker.daemons;
        daemons.sort();
        daemons
    }

    fn maker<'a>(
        &'a self,
        cluster: &'a Cluster<'a>,
        live: &'a Live<'a>,
        findings: &'a Findings,
    ) -> Maker<'a> {
        Maker {
            objects: &self.objects,
            cluster,
            findings,
            live,
            pods: Vec::new(),
            daemons: Vec::new(),
            gangs: Gangs::default(),
            owned: BTreeMap::new(),
        }
    }

    /// Reads one pool.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub(crate) fn pool(
        &self,
        pool: &Placed<headstart_api::NodePool>,
    ) -> Result<pool::Read, Problems> {
        let findings = Findings::default();
        let read = pool::all(std::slice::from_ref(pool), &findings).pop();
        match problems(findings) {
            none if none.is_empty() => read.ok_or_else(Vec::new),
            some => Err(some),
        }
    }

    /// Reads one node.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub(crate) fn node(
        &self,
        placed: &Placed<core::Node>,
        pools: &[pool::Read],
    ) -> Result<node::Seen, Problems> {
        let csi = &self.objects.csi_nodes;
        let found = csi.binary_search_by(|other| other.name.as_str().cmp(&placed.name));
        let drivers = found.map_or(&[][..], |index| &csi[index].object.spec.drivers);
        let limits = drivers.iter().filter_map(|driver| {
            let count = driver.allocatable.as_ref()?.count?;
            Some((driver.name.clone(), u32::try_from(count).ok()?))
        });
        let findings = Findings::default();
        let read = node::one(
            placed,
            limits.collect(),
            pools,
            &findings.about(&placed.place),
        );
        read.ok_or_else(|| problems(findings))
    }

    /// Budgets of pods.
    pub(crate) fn budgets(&self, pods: &[Pod]) -> Vec<PodBudget> {
        budget::all(&self.objects.pod_budgets, pods, &Findings::default())
    }

    /// What is worth fetching without a pod that waits for it, and what cannot be read of it.
    pub(crate) fn wishes(&self) -> Vec<(&Placed<Prefetch>, Vec<Wish>, Problems)> {
        let prefetches = self.objects.prefetches.iter();
        let read = prefetches.map(|placed| {
            let findings = Findings::default();
            let wishes = cache::wishes(std::slice::from_ref(placed), &findings);
            (placed, wishes, problems(findings))
        });
        read.collect()
    }
}

/// What a node's agent reported, and what cannot be read of it.
pub(crate) fn inventory(cache: &Placed<NodeCache>) -> (Option<Inventory>, Problems) {
    let findings = Findings::default();
    let read = cache::inventories(std::slice::from_ref(cache), &findings);
    (read.into_values().next(), problems(findings))
}
