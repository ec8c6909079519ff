//! What the ledger keeps of a cluster: the pods that can be deploys, cut to what is read of them, nodes
//! cut likewise, claims and caches.
//!
//! It is fed with what watches see, by whoever watches, and may be read at any time. Claims and caches
//! are shared with whoever feeds it. Pods that cannot be deploys are not kept, and in a process that
//! runs for long ([`Keeps::Recent`]) neither are those that have served for a while, but for some: a
//! cluster of 50,000 pods has few that are being deployed. Such a pod is not taken for a new deploy
//! when it is not Ready for a moment.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use headstart_api::{NodeCache, NodeClaim};
use headstart_core::pod::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt as _;

use super::clerk::Source;
use super::once::LATEST;
use super::{Moment, Objects, is_candidate, stages};

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

/// Which deploys are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// All: for whoever looks once.
    #[default]
    All,
    /// Those under way, and the last [`MOST_SERVED`] that serve.
    Recent,
}

/// Deploys that serve which [`Keeps::Recent`] keeps: more than any page shows. One that began to serve
/// within [`LATEST`], so that it may have to be counted, is not given up before it was read.
pub(crate) const MOST_SERVED: usize = 300;

/// All of it, behind one lock that is held for moments.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    kept: Mutex<Kept>,
    keeps: Keeps,
}

#[derive(Debug, Default)]
struct Kept {
    pods: Row<ObjectKey, Pod>,
    nodes: Row<String, Node>,
    claims: Row<String, NodeClaim>,
    caches: Row<String, NodeCache>,
    /// Pods that claims name.
    bought_for: HashSet<String>,
    /// Kept pods that serve, by since when.
    served: BTreeSet<(Moment, ObjectKey)>,
    /// Pods that are not kept any more, as numbers.
    past: HashSet<u64>,
    hasher: RandomState,
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
    fn put(&mut self, key: K, object: Arc<V>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.objects.insert(key, object);
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
    /// An empty one.
    pub(crate) fn new(keeps: Keeps) -> Self {
        Self {
            kept: Mutex::default(),
            keeps,
        }
    }

    /// A pod as it is now.
    pub(crate) fn pod(&self, pod: &Pod) {
        let mut kept = self.kept();
        let key = ObjectKey::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let bought = kept.bought_for.contains(&key.to_string());
        let recent = self.keeps == Keeps::Recent;
        kept.forget(&key);
        if !(bought || is_candidate(pod)) || (recent && kept.past.contains(&kept.number(pod))) {
            return;
        }
        if let Some(since) = stages::ready_since(pod) {
            kept.served.insert((since, key.clone()));
        }
        kept.pods.put(key, Arc::new(slim(pod)));
        if recent {
            kept.clear(Some(Moment::now().minus(LATEST)));
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
        self.kept().nodes.put(node.name_any(), Arc::new(slim));
    }

    /// A claim as it is now.
    pub(crate) fn claim(&self, claim: Arc<NodeClaim>) {
        let mut kept = self.kept();
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
    pub(crate) fn cache(&self, cache: Arc<NodeCache>) {
        self.kept().caches.put(cache.name_any(), cache);
    }

    /// A pod that is gone.
    pub(crate) fn pod_gone(&self, pod: &Pod) {
        let key = ObjectKey::new(pod.namespace().unwrap_or_default(), pod.name_any());
        let mut kept = self.kept();
        kept.forget(&key);
        let number = kept.number(pod);
        kept.past.remove(&number);
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
            Kind::Pod => {
                kept.pods.begin();
                // Those that are still there come in a moment.
                kept.past.clear();
            }
            Kind::Node => kept.nodes.begin(),
            Kind::Claim => kept.claims.begin(),
            Kind::Cache => kept.caches.begin(),
        }
    }

    /// A list is done.
    pub(crate) fn list_done(&self, kind: Kind) {
        let mut kept = self.kept();
        match kind {
            Kind::Pod => {
                kept.pods.done();
                let Kept { pods, served, .. } = &mut *kept;
                served.retain(|(_, key)| pods.objects.contains_key(key));
            }
            Kind::Node => kept.nodes.done(),
            Kind::Claim => kept.claims.done(),
            Kind::Cache => kept.caches.done(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, key: &ObjectKey) {
        let Some(pod) = self.pods.objects.remove(key) else {
            return;
        };
        if let Some(since) = stages::ready_since(&pod) {
            self.served.remove(&(since, key.clone()));
        }
    }

    /// Gives up the oldest of too many that serve; only what has done so since before `until`, if that
    /// is given.
    fn clear(&mut self, until: Option<Moment>) {
        while self.served.len() > MOST_SERVED
            && let Some((since, key)) = self.served.first().cloned()
            && until.is_none_or(|until| since < until)
        {
            self.served.remove(&(since, key.clone()));
            if let Some(pod) = self.pods.objects.remove(&key) {
                let number = self.number(&pod);
                self.past.insert(number);
            }
        }
    }

    fn number(&self, pod: &Pod) -> u64 {
        let metadata = &pod.metadata;
        self.hasher
            .hash_one((&metadata.namespace, &metadata.name, &metadata.uid))
    }
}

/// Names of pods of live claims that are kept at the least.
const MOST_BOUGHT: usize = 50_000;

impl Source for Shelf {
    fn objects(&self) -> Option<Objects> {
        let mut kept = self.kept();
        let listed = [
            kept.pods.listed,
            kept.nodes.listed,
            kept.claims.listed,
            kept.caches.listed,
        ];
        if listed.contains(&false) {
            return None;
        }
        let objects = Objects {
            pods: kept.pods.all(),
            nodes: kept.nodes.all(),
            claims: kept.claims.all(),
            caches: kept.caches.all(),
        };
        if self.keeps == Keeps::Recent {
            kept.clear(None);
        }
        Some(objects)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ready: Option<Moment>) -> Pod {
        let conditions = ready.map(|since| {
            let since = jiff::Timestamp::from_microsecond(since.0).unwrap();
            json!([{"type": "Ready", "status": "True", "lastTransitionTime": since.to_string()}])
        });
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "uid": name,
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "main", "resources":
                                     {"limits": {"nvidia.com/gpu": "1"}}}]},
            "status": {"conditions": conditions.unwrap_or(Value::Null)},
        }))
        .unwrap()
    }

    /// A shelf on which every kind is listed.
    fn listed(keeps: Keeps) -> Shelf {
        let shelf = Shelf::new(keeps);
        for kind in [Kind::Pod, Kind::Node, Kind::Claim, Kind::Cache] {
            shelf.list_begins(kind);
            shelf.list_done(kind);
        }
        shelf
    }

    fn has(shelf: &Shelf, name: &str) -> bool {
        let pods = shelf.objects().unwrap().pods;
        pods.iter().any(|pod| pod.name_any() == name)
    }

    #[test]
    fn of_pods_that_served_long_ago_the_last_are_kept_and_none_becomes_a_deploy_again() {
        let (shelf, now) = (listed(Keeps::Recent), Moment::now());
        let hours = |n: u64| Some(now.minus(std::time::Duration::from_secs(3600 * n)));
        shelf.pod(&pod("waits", None));
        shelf.pod(&pod("oldest", hours(9)));
        for number in 0..MOST_SERVED {
            shelf.pod(&pod(&format!("old-{number}"), hours(8)));
        }
        let kept = |shelf: &Shelf| shelf.objects().unwrap().pods.len();
        assert_eq!(kept(&shelf), MOST_SERVED + 1);
        assert!(has(&shelf, "waits") && !has(&shelf, "oldest"));
        shelf.pod(&pod("oldest", None));
        assert!(!has(&shelf, "oldest"), "it is not Ready for a moment");
        shelf.pod_gone(&pod("oldest", None));
        let mut again = pod("oldest", None);
        again.metadata.uid = Some("another".to_owned());
        shelf.pod(&again);
        assert!(has(&shelf, "oldest"), "the name is another pod's");
    }

    #[test]
    fn what_may_have_to_be_counted_is_kept_until_it_was_read() {
        let (shelf, now) = (listed(Keeps::Recent), Moment::now());
        let all = MOST_SERVED + 50;
        for number in 0..all {
            shelf.pod(&pod(&format!("new-{number}"), Some(now)));
        }
        assert_eq!(shelf.objects().unwrap().pods.len(), all);
        assert_eq!(shelf.objects().unwrap().pods.len(), MOST_SERVED);
    }

    #[test]
    fn whoever_looks_once_sees_every_deploy() {
        let shelf = listed(Keeps::All);
        for number in 0..2 * MOST_SERVED {
            shelf.pod(&pod(&format!("old-{number}"), Some(Moment(0))));
        }
        assert_eq!(shelf.objects().unwrap().pods.len(), 2 * MOST_SERVED);
    }
}
