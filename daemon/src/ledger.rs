//! The ledger: from the objects of a cluster to what each deploy waited for.
//!
//! A pure function of pods, nodes, claims and caches, and of the moment of looking. A deploy is a pod
//! that asks for an accelerator, starts with a model, or had a node bought for it.
//!
//! **Sum.** The intervals of a deploy follow each other without a gap or an overlap from the pod's
//! creation to the moment it was Ready, so their sum is that time, whatever is missing or out of
//! order in between. Kubernetes cuts its stamps to whole seconds, which moves a moment by less than a
//! second and always back: an interval, and the sum of any number of consecutive ones, is therefore
//! off by less than a second, the whole no more than a part. Stamps of claims and caches carry
//! microseconds.
//!
//! **Exposed byte time** is the sum of the intervals that wait for bytes: how long after the pod was
//! bound the last byte of its images and weights was there, until its container ran. Bytes that are
//! there earlier add nothing. It is a little more than the difference of two runs where the bytes of
//! others shared the link, and says nothing of what a cold page cache costs the engine.
//!
//! **Clocks.** Stamps come from four: API server, scheduler, control plane, node. One that is earlier
//! than what must come before it counts as the same moment, and by how much is remarked; one later
//! than serving counts as serving. No interval is ever negative.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use headstart_api::{NodeCache, NodeClaim, names};
use headstart_core::pod::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

pub(crate) use self::deploy::{Cached, Deploy, Interval, Known, Remark, Stage};
pub(crate) use self::item::{Fetched, ItemKind};
pub(crate) use self::moment::Moment;
pub(crate) use self::once::Once;
use self::stages::Stamps;

mod book;
pub(crate) mod clerk;
mod deploy;
pub(crate) mod files;
mod item;
mod moment;
mod once;
pub(crate) mod shelf;
mod stages;
pub(crate) mod trace;
pub(crate) mod watch;
pub(crate) mod words;

/// Everything that is read, as watches keep it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    /// Pods of all namespaces.
    pub(crate) pods: Vec<Arc<Pod>>,
    /// Nodes.
    pub(crate) nodes: Vec<Arc<Node>>,
    /// Claims.
    pub(crate) claims: Vec<Arc<NodeClaim>>,
    /// What nodes have.
    pub(crate) caches: Vec<Arc<NodeCache>>,
}

/// Where a pod is or will be.
#[derive(Clone, Copy, Debug, Default)]
struct Place<'a> {
    name: Option<&'a str>,
    node: Option<&'a Node>,
    claim: Option<&'a NodeClaim>,
    cache: Option<&'a NodeCache>,
}

/// Objects by what others call them by.
struct Index<'a> {
    nodes: HashMap<&'a str, &'a Node>,
    claims: HashMap<&'a str, &'a NodeClaim>,
    claims_by_node: HashMap<&'a str, &'a NodeClaim>,
    /// The youngest claim that names a pod.
    claims_by_pod: HashMap<&'a str, &'a NodeClaim>,
    caches: HashMap<&'a str, &'a NodeCache>,
}

/// The deploys at `now`, the youngest first.
pub(crate) fn deploys(objects: &Objects, now: Moment) -> Vec<Deploy> {
    let index = Index::of(objects);
    let mut deploys: Vec<Deploy> = objects
        .pods
        .iter()
        .filter_map(|pod| deploy(pod, &index, now))
        .collect();
    deploys.sort_by(|a, b| (b.created, &a.pod).cmp(&(a.created, &b.pod)));
    deploys
}

/// One pod as a deploy, whether it counts as one or not; none if it is not there.
pub(crate) fn of_pod(objects: &Objects, key: &ObjectKey, now: Moment) -> Option<Deploy> {
    let index = Index::of(objects);
    let mut pods = objects.pods.iter();
    let pod = pods.find(|pod| key_of(pod) == *key)?;
    read(pod, &index, now)
}

fn key_of(pod: &Pod) -> ObjectKey {
    ObjectKey::new(pod.namespace().unwrap_or_default(), pod.name_any())
}

fn deploy(pod: &Pod, index: &Index<'_>, now: Moment) -> Option<Deploy> {
    let key = key_of(pod);
    let place = index.place(pod, &key);
    let bought_for = |claim: &NodeClaim| claim.spec.pods.contains(&key.to_string());
    let bought = place.claim.is_some_and(bought_for);
    let is_deploy = counts(pod) && (bought || is_candidate(pod));
    is_deploy.then(|| read(pod, index, now)).flatten()
}

/// Whether a pod asks for an accelerator or starts with a model.
fn is_candidate(pod: &Pod) -> bool {
    is_accelerated(pod) || !item::models(pod).is_empty()
}

fn is_accelerated(pod: &Pod) -> bool {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.any(item::wants_accelerator)
}

fn read(pod: &Pod, index: &Index<'_>, now: Moment) -> Option<Deploy> {
    let key = key_of(pod);
    let place = index.place(pod, &key);
    let created = pod.metadata.creation_timestamp.as_ref().map(Moment::at)?;
    let mut items = item::items(pod, place.cache, created);
    let stamps = Stamps::of(pod, &place, is_accelerated(pod), &items);
    let (intervals, mut remarks) = stages::intervals(created, &stamps, now);
    for item in &mut items {
        item.expose(&intervals, now);
    }
    match place.cache.and_then(|cache| cache.status.as_ref()) {
        None if place.name.is_some() => remarks.push(Remark::NoInventory),
        _ => {
            let missing = items.iter().filter(|item| !item.listed);
            let missing = missing.filter(|_| place.cache.is_some());
            remarks.extend(missing.map(|item| Remark::NotListed(item.name.clone())));
        }
    }
    let labels = place.node.map(|node| {
        let mut labels = node.metadata.labels.clone().unwrap_or_default();
        crate::manifest::alias::add_ours(&mut labels);
        labels
    });
    let label = |key: &str| labels.as_ref()?.get(key).cloned();
    let spec = place.claim.map(|claim| &claim.spec);
    let offering = spec.map(|spec| &spec.offering);
    let capacity = offering.and_then(|offering| offering.capacity_type.parse().ok());
    let named = |name: &String| (!name.is_empty()).then(|| name.clone());
    Some(Deploy {
        pod: key,
        uid: pod.uid().unwrap_or_default(),
        created,
        served: stamps.served(created),
        seen: now,
        intervals,
        cached: cached(&items),
        items,
        node: place.name.map(str::to_owned),
        claim: place.claim.map(kube::ResourceExt::name_any),
        pool: spec
            .and_then(|spec| named(&spec.node_pool))
            .or_else(|| label(names::NODE_POOL)),
        instance_type: offering
            .and_then(|offering| named(&offering.instance_type))
            .or_else(|| label(headstart_core::label::INSTANCE_TYPE)),
        capacity: capacity.or_else(|| label(names::CAPACITY_TYPE)?.parse().ok()),
        price: spec.and_then(|spec| spec.price).map(|price| price.0),
        remarks,
    })
}

/// Whether a pod can be a deploy at all: nothing that every node runs, and nothing that is over
/// before it served.
fn counts(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let mut owners = owners.map(|owner| owner.kind.as_str());
    let of_node = owners.any(|kind| matches!(kind, "DaemonSet" | "Node"));
    let ready = stages::ready_since(pod).is_some();
    let over = crate::manifest::is_over(pod) || pod.metadata.deletion_timestamp.is_some();
    !of_node && (ready || !over)
}

/// How much of all items was there.
fn cached(items: &[Fetched]) -> Cached {
    let mut states = items.iter().map(|item| item.cached);
    let Some(first) = states.next() else {
        return Cached::Unknown;
    };
    states.fold(first, |all, one| match (all, one) {
        (all, one) if all == one => all,
        (Cached::Unknown, one) | (one, Cached::Unknown) => one,
        _ => Cached::Partial,
    })
}

impl<'a> Index<'a> {
    fn of(objects: &'a Objects) -> Self {
        fn named<K: kube::Resource>(objects: &[Arc<K>]) -> HashMap<&str, &K> {
            let name = |object: &'_ Arc<K>| object.meta().name.is_some();
            let named = objects.iter().filter(|object| name(object));
            named
                .map(|object| {
                    let name = object.meta().name.as_deref().unwrap_or_default();
                    (name, &**object)
                })
                .collect()
        }
        let mut claims_by_node = HashMap::new();
        let mut claims_by_pod: HashMap<&str, &NodeClaim> = HashMap::new();
        let mut claims: Vec<&NodeClaim> = objects.claims.iter().map(|claim| &**claim).collect();
        claims.sort_by_key(|claim| {
            let created = claim.metadata.creation_timestamp.as_ref();
            (created.map(Moment::at), claim.metadata.name.clone())
        });
        for claim in claims {
            let status = claim.status.as_ref();
            if let Some(node) = status.and_then(|status| status.node_name.as_deref()) {
                claims_by_node.insert(node, claim);
            }
            for pod in &claim.spec.pods {
                claims_by_pod.insert(pod, claim);
            }
        }
        Self {
            nodes: named(&objects.nodes),
            claims: named(&objects.claims),
            claims_by_node,
            claims_by_pod,
            caches: named(&objects.caches),
        }
    }

    fn place(&self, pod: &Pod, key: &ObjectKey) -> Place<'a>
    where
        'a: 'a,
    {
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let status = pod.status.as_ref();
        let nominated = status.and_then(|status| status.nominated_node_name.as_deref());
        let name = bound.or(nominated).filter(|name| !name.is_empty());
        let by_pod = || self.claims_by_pod.get(key.to_string().as_str()).copied();
        let claim = match name {
            Some(name) => self.claim_of(name),
            None => by_pod(),
        };
        let status = claim.and_then(|claim| claim.status.as_ref());
        let of_claim = status.and_then(|status| status.node_name.as_deref());
        let found = name
            .or(of_claim)
            .and_then(|name| self.nodes.get_key_value(name));
        let claim_name = claim.and_then(|claim| claim.metadata.name.as_deref());
        let node_name = found.map(|(name, _)| *name);
        let caches = [node_name, claim_name].into_iter().flatten();
        let mut caches = caches.filter_map(|name| self.caches.get(name).copied());
        let first = caches.next();
        let cache = match first {
            Some(cache) if cache.status.is_none() => caches.next().or(first),
            first => first,
        };
        Place {
            name: node_name.or(claim_name),
            node: found.map(|(_, node)| *node),
            claim,
            cache,
        }
    }

    fn claim_of(&self, node: &str) -> Option<&'a NodeClaim> {
        let labels = self
            .nodes
            .get(node)
            .and_then(|node| node.metadata.labels.as_ref());
        let labelled = labels.and_then(|labels: &BTreeMap<_, _>| labels.get(names::NODE_CLAIM));
        let labelled = labelled.and_then(|name: &String| self.claims.get(name.as_str()));
        labelled.or_else(|| self.claims_by_node.get(node)).copied()
    }
}

#[cfg(test)]
pub(crate) mod tests;
