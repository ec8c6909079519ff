//! What the ledger keeps of a cluster: the pods that can be deploys, cut to what is read of them, nodes
//! cut likewise, claims and caches.
//!
//! It is fed with what watches see, by whoever watches, and may be read at any time. A cluster of
//! 50,000 pods has few that ask for a GPU; the others are not kept.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headstart_api::{NodeCache, NodeClaim};
use headstart_core::pod::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

use super::clerk::Source;
use super::{Objects, is_candidate};

/// The kinds on the shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Pods.
    Pod,
    /// Nodes.
    Node,
    /// Claims.
    Claim,
    /// Caches.
    Cache,
}

/// All of it, behind one lock that is held for moments.
#[derive(Debug, Default)]
pub(crate) struct Shelf(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    pods: Row<ObjectKey, Pod>,
    nodes: Row<String, Node>,
    claims: Row<String, NodeClaim>,
    caches: Row<String, NodeCache>,
    /// Pods that claims name.
    bought_for: HashSet<String>,
}

/// Objects of one kind.
#[derive(Debug)]
struct Row<K, V> {
    objects: HashMap<K, Arc<V>>,
    /// What a list that is under way has had so far.
    listing: Option<HashSet<K>>,
    listed: bool,
}

impl<K, V> Default for Row<K, V> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
            listed: false,
        }
    }
}

impl<K: Clone + Eq + Hash, V> Row<K, V> {
    fn put(&mut self, key: K, object: V) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.objects.insert(key, Arc::new(object));
    }

    fn begin(&mut self) {
        self.listing = Some(HashSet::new());
    }

    fn done(&mut self) {
        if let Some(listing) = self.listing.take() {
            self.objects.retain(|key, _| listing.contains(key));
        }
        self.listed = true;
    }

    fn all(&self) -> Vec<Arc<V>> {
        self.objects.values().cloned().collect()
    }
}

impl Shelf {
    /// A pod as it is now.
    pub(crate) fn pod(&self, pod: &Pod) {
        let mut kept = self.kept();
        let key = ObjectKey::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let bought = kept.bought_for.contains(&key.to_string());
        if bought || is_candidate(pod) {
            kept.pods.put(key, slim(pod));
        } else {
            kept.pods.objects.remove(&key);
        }
    }

    /// A node as it is now.
    pub(crate) fn node(&self, node: &Node) {
        let mut slim = Node {
            metadata: node.metadata.clone(),
            ..Node::default()
        };
        strip(&mut slim.metadata);
        slim.metadata.annotations = None;
        let conditions = node
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let ready = conditions
            .into_iter()
            .flatten()
            .filter(|found| found.type_ == "Ready");
        slim.status = Some(k8s_openapi::api::core::v1::NodeStatus {
            conditions: Some(ready.cloned().collect()),
            ..Default::default()
        });
        self.kept().nodes.put(node.name_any(), slim);
    }

    /// A claim as it is now.
    pub(crate) fn claim(&self, claim: &NodeClaim) {
        let mut kept = self.kept();
        let mut claim = claim.clone();
        strip(&mut claim.metadata);
        kept.bought_for.extend(claim.spec.pods.iter().cloned());
        kept.claims.put(claim.name_any(), claim);
        if kept.bought_for.len() > 2 * MOST_BOUGHT {
            // Of claims that are gone.
            let named = kept
                .claims
                .objects
                .values()
                .flat_map(|claim| &claim.spec.pods);
            kept.bought_for = named.cloned().collect();
        }
    }

    /// A cache as it is now.
    pub(crate) fn cache(&self, cache: &NodeCache) {
        let mut cache = cache.clone();
        strip(&mut cache.metadata);
        self.kept().caches.put(cache.name_any(), cache);
    }

    /// A pod that is gone.
    pub(crate) fn pod_gone(&self, namespace: &str, name: &str) {
        let key = ObjectKey::new(namespace, name);
        self.kept().pods.objects.remove(&key);
    }

    /// A node, claim or cache that is gone.
    pub(crate) fn gone(&self, kind: Kind, name: &str) {
        let mut kept = self.kept();
        match kind {
            Kind::Pod => {}
            Kind::Node => drop(kept.nodes.objects.remove(name)),
            Kind::Claim => drop(kept.claims.objects.remove(name)),
            Kind::Cache => drop(kept.caches.objects.remove(name)),
        }
    }

    /// A list begins: what is not put before it is [done](Self::list_done) is gone.
    pub(crate) fn list_begins(&self, kind: Kind) {
        let mut kept = self.kept();
        match kind {
            Kind::Pod => kept.pods.begin(),
            Kind::Node => kept.nodes.begin(),
            Kind::Claim => kept.claims.begin(),
            Kind::Cache => kept.caches.begin(),
        }
    }

    /// A list is done.
    pub(crate) fn list_done(&self, kind: Kind) {
        let mut kept = self.kept();
        match kind {
            Kind::Pod => kept.pods.done(),
            Kind::Node => kept.nodes.done(),
            Kind::Claim => kept.claims.done(),
            Kind::Cache => kept.caches.done(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Names of pods of live claims that are kept at the least.
const MOST_BOUGHT: usize = 50_000;

impl Source for Shelf {
    fn objects(&self) -> Option<Objects> {
        let kept = self.kept();
        let listed = [
            kept.pods.listed,
            kept.nodes.listed,
            kept.claims.listed,
            kept.caches.listed,
        ];
        listed.iter().all(|listed| *listed).then(|| Objects {
            pods: kept.pods.all(),
            nodes: kept.nodes.all(),
            claims: kept.claims.all(),
            caches: kept.caches.all(),
        })
    }
}

fn slim(pod: &Pod) -> Pod {
    let mut slim = pod.clone();
    strip(&mut slim.metadata);
    slim
}

fn strip(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}
