//! The cluster as the watches show it, object by object, and what of it changed.
//!
//! An object is read once per version, into what is planned with, and then dropped: what is kept as it
//! came are waiting pods, members of groups and pods with claims, since what these refer to may change.
//! What this process wrote itself counts before its watch shows it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headstart_api::{NodeCache, NodeClaim, NodePool, NodePoolStatus, Prefetch, names};
use headstart_core::pod::{Eviction, ObjectKey, Phase};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::announced::Announced;
use super::mind::Mind;
use super::slim;
use super::watch::{Change, Kind, OPTIONAL, Object, REQUIRED, What};
use crate::ledger::shelf::{self, Shelf};
use crate::manifest::book::{self, Book, Problems, placed};
use crate::manifest::object::Placed;
use crate::manifest::{job_set, lws, pool, ray};

/// How many pods are read at a time while they are listed: what came is kept no longer than that.
const BATCH: usize = 500;

/// A pod with what is kept of it.
#[derive(Debug)]
pub(super) struct SeenPod {
    pub(super) uid: Box<str>,
    /// As it came, where it may have to be read again.
    pub(super) raw: Option<Arc<Placed<core::Pod>>>,
}

/// A node as it came.
#[derive(Debug)]
pub(super) struct SeenNode {
    pub(super) raw: Placed<core::Node>,
}

/// A node cache, as far as the control plane reads it.
#[derive(Debug)]
pub(super) struct SeenCache {
    pub(super) object: Arc<NodeCache>,
}

/// A pool as it was written, or why it cannot be read.
#[derive(Debug)]
pub(super) struct SeenPool {
    pub(super) metadata: ObjectMeta,
    pub(super) status: NodePoolStatus,
    pub(super) object: Option<NodePool>,
    pub(super) read: Result<pool::Read, Problems>,
}

/// What changed since it was last taken.
#[derive(Debug, Default)]
pub(super) struct Changed {
    pub(super) nodes: BTreeSet<String>,
    pub(super) pools: bool,
    pub(super) daemons: bool,
    pub(super) wishes: bool,
    members: bool,
    context: bool,
}

#[derive(Debug, Default)]
struct Listing {
    complete: bool,
    /// What the list that is under way has had so far.
    so_far: Option<HashSet<(String, String)>>,
    fails_since: Option<Instant>,
}

/// Everything.
#[derive(Default)]
pub(super) struct Picture {
    /// Where the ledger reads the same objects.
    shelf: Arc<Shelf>,
    pub(super) book: Book,
    pub(super) pods: HashMap<ObjectKey, SeenPod>,
    members: BTreeMap<ObjectKey, Arc<Placed<core::Pod>>>,
    pub(super) nodes: BTreeMap<String, SeenNode>,
    pub(super) claims: BTreeMap<String, Arc<NodeClaim>>,
    pub(super) caches: BTreeMap<String, SeenCache>,
    pub(super) pools: BTreeMap<String, SeenPool>,
    pub(super) announced: BTreeMap<String, Announced>,
    pub(super) changed: Changed,
    lists: BTreeMap<Kind, Listing>,
    fresh: Vec<Placed<core::Pod>>,
    /// Names of what each kind has, to know what a new list lacks.
    known: BTreeMap<Kind, HashSet<(String, String)>>,
}

impl Picture {
    /// Nothing yet. What comes is put on `shelf` as well.
    pub(super) fn new(shelf: Arc<Shelf>) -> Self {
        Self {
            shelf,
            ..Self::default()
        }
    }

    /// Whether every watch but that of pods has listed once.
    pub(super) fn is_ready_for_pods(&self) -> bool {
        let mut kinds = REQUIRED.iter().chain(&OPTIONAL);
        kinds.all(|kind| *kind == Kind::Pod || self.is_complete(*kind))
    }

    /// Whether every watch has listed once.
    pub(super) fn is_ready(&self) -> bool {
        self.is_ready_for_pods() && self.is_complete(Kind::Pod)
    }

    /// How long the watch that has failed longest has been failing.
    pub(super) fn stale_for(&self, now: Instant) -> Duration {
        let failing = self.lists.values().filter_map(|list| list.fails_since);
        let longest = failing.map(|since| now - since).max();
        longest.unwrap_or_default()
    }

    /// Kinds that have not been listed yet.
    pub(super) fn missing(&self) -> Vec<Kind> {
        let kinds = REQUIRED.iter().chain(&OPTIONAL).copied();
        kinds.filter(|kind| !self.is_complete(*kind)).collect()
    }

    fn is_complete(&self, kind: Kind) -> bool {
        self.lists.get(&kind).is_some_and(|list| list.complete)
    }

    /// Takes one change.
    pub(super) fn take(&mut self, change: Change, mind: &mut Mind) {
        let Change { kind, what } = change;
        let list = self.lists.entry(kind).or_default();
        match what {
            What::Fails => {
                list.fails_since.get_or_insert_with(Instant::now);
            }
            What::Begins => {
                list.so_far = Some(HashSet::new());
                if let Some(kind) = kind.shelved() {
                    self.shelf.list_begins(kind);
                }
            }
            What::Absent => {
                list.complete = true;
                list.fails_since = None;
                list.so_far = Some(HashSet::new());
                self.complete(kind, mind);
            }
            What::Complete => {
                list.complete = true;
                list.fails_since = None;
                self.complete(kind, mind);
            }
            What::Listed(object) => {
                let key = object.key();
                if let Some(so_far) = &mut list.so_far {
                    so_far.insert(key.clone());
                }
                self.set(kind, key, object, mind);
            }
            What::Is(object) => {
                list.fails_since = None;
                self.set(kind, object.key(), object, mind);
            }
            What::Gone(object) => {
                list.fails_since = None;
                let (namespace, name) = object.key();
                if let Object::Pod(pod) = &object {
                    self.shelf.pod_gone(pod);
                }
                self.forget(kind, &namespace, &name, mind);
            }
        }
    }

    /// A list is complete: what was known and is not in it is gone.
    fn complete(&mut self, kind: Kind, mind: &mut Mind) {
        let list = self.lists.entry(kind).or_default();
        let Some(so_far) = list.so_far.take() else {
            return;
        };
        if let Some(kind) = kind.shelved() {
            self.shelf.list_done(kind);
        }
        if kind == Kind::Pod {
            let gone: Vec<ObjectKey> = self
                .pods
                .keys()
                .filter(|key| !so_far.contains(&(key.namespace.clone(), key.name.clone())))
                .cloned()
                .collect();
            gone.iter().for_each(|key| self.forget_pod(key, mind));
            return;
        }
        let known = self.known.remove(&kind).unwrap_or_default();
        for (namespace, name) in known.difference(&so_far) {
            self.forget(kind, namespace, name, mind);
        }
        self.known.insert(kind, so_far);
    }

    fn set(&mut self, kind: Kind, key: (String, String), object: Object, mind: &mut Mind) {
        let (namespace, name) = (key.0.as_str(), key.1.as_str());
        let changed = &mut self.changed;
        if kind != Kind::Pod {
            self.known.entry(kind).or_default().insert(key.clone());
        }
        match object {
            Object::Pod(pod) => {
                self.shelf.pod(&pod);
                self.set_pod(namespace, name, *pod, mind);
            }
            Object::Node(mut node) => {
                self.shelf.node(&node);
                slim::node(&mut node);
                changed.nodes.insert(name.to_owned());
                let raw = placed("", name, *node);
                self.nodes.insert(name.to_owned(), SeenNode { raw });
            }
            Object::Namespace(it) => self.context(placed(namespace, name, it)),
            Object::VolumeClaim(it) => self.context(placed(namespace, name, *it)),
            Object::Volume(it) => self.context(placed(namespace, name, *it)),
            Object::StorageClass(it) => self.context(placed(namespace, name, *it)),
            Object::PriorityClass(it) => self.context(placed(namespace, name, it)),
            Object::RuntimeClass(it) => self.context(placed(namespace, name, *it)),
            Object::PodBudget(it) => self.book.set(placed(namespace, name, *it)),
            Object::CsiNode(it) => {
                changed.nodes.insert(name.to_owned());
                self.book.set(placed(namespace, name, it));
            }
            Object::DaemonSet(it) => {
                changed.daemons = true;
                self.book.set(placed(namespace, name, *it));
            }
            Object::Dynamic(it) => self.set_dynamic(kind, namespace, name, *it),
        }
    }

    fn context<T: crate::manifest::object::Shelf>(&mut self, object: Placed<T>) {
        self.changed.context = true;
        self.book.set(object);
    }

    fn set_dynamic(&mut self, kind: Kind, namespace: &str, name: &str, object: DynamicObject) {
        macro_rules! workload {
            ($type:ty) => {{
                self.changed.members = true;
                match book::decode::<$type>(namespace, name, tree(object)) {
                    Ok(it) => self.book.set(placed(namespace, name, it)),
                    Err(problems) => {
                        tracing::warn!(?kind, namespace, name, ?problems, "cannot be read");
                        self.book.remove::<$type>(namespace, name);
                    }
                }
            }};
        }
        match kind {
            Kind::RayCluster => workload!(ray::RayCluster),
            Kind::RayService => workload!(ray::RayService),
            Kind::RayJob => workload!(ray::RayJob),
            Kind::LeaderWorkerSet => workload!(lws::LeaderWorkerSet),
            Kind::JobSet => workload!(job_set::JobSet),
            Kind::NodePool => {
                self.changed.pools = true;
                let metadata = object.metadata.clone();
                let tree = tree(object);
                let status = serde_json::from_value(tree["status"].clone()).unwrap_or_default();
                let decoded = book::decode::<NodePool>("", name, tree);
                let (object, read) = match decoded {
                    Ok(it) => (Some(it.clone()), self.book.pool(&placed("", name, it))),
                    Err(problems) => (None, Err(problems)),
                };
                let seen = SeenPool {
                    metadata,
                    status,
                    object,
                    read,
                };
                self.pools.insert(name.to_owned(), seen);
            }
            Kind::NodeClaim => match serde_json::from_value(object.data) {
                Ok(Parsed { spec, status }) => self.set_claim(NodeClaim {
                    metadata: object.metadata,
                    spec,
                    status,
                }),
                Err(error) => tracing::error!(name, %error, "a claim cannot be read"),
            },
            Kind::NodeCache => match serde_json::from_value(object.data) {
                Ok(Parsed { spec, status }) => self.set_cache(NodeCache {
                    metadata: object.metadata,
                    spec,
                    status,
                }),
                Err(error) => tracing::error!(name, %error, "a node cache cannot be read"),
            },
            Kind::Prefetch => {
                self.changed.wishes = true;
                match book::decode::<Prefetch>(namespace, name, tree(object)) {
                    Ok(it) => self.book.set(placed(namespace, name, it)),
                    Err(problems) => {
                        tracing::warn!(namespace, name, ?problems, "a prefetch cannot be read");
                        self.book.remove::<Prefetch>(namespace, name);
                    }
                }
            }
            Kind::KarpenterClaim => {
                match Announced::of(name, &tree(object)) {
                    Some(it) => self.announced.insert(name.to_owned(), it),
                    None => self.announced.remove(name),
                };
            }
            _ => {}
        }
    }

    /// Takes a claim as the API server gave it out.
    pub(super) fn set_claim(&mut self, mut claim: NodeClaim) {
        slim::metadata(&mut claim.metadata);
        let name = claim.name_any();
        if let Some(node) = claim.status.as_ref().and_then(|it| it.node_name.clone()) {
            self.changed.nodes.insert(node);
        }
        // A watch that is behind does not undo what was written here.
        let before = self.claims.get(&name);
        if before.is_none_or(|before| version(&before.metadata) <= version(&claim.metadata)) {
            let id = instance(&claim);
            let named = claim
                .status
                .as_ref()
                .is_some_and(|it| it.node_name.is_some());
            if !named && id.is_some() && before.and_then(|before| instance(before)) != id {
                // Its Node may have been there first.
                let mut nodes = self.nodes.iter().filter(|(_, seen)| {
                    let spec = seen.raw.object.spec.as_ref();
                    spec.and_then(|spec| spec.provider_id.as_deref()) == id
                });
                let node = nodes.next().map(|(name, _)| name.clone());
                self.changed.nodes.extend(node);
            }
            let claim = Arc::new(claim);
            self.shelf.claim(Arc::clone(&claim));
            self.claims.insert(name, claim);
        }
    }

    /// Takes a node cache as the API server gave it out.
    pub(super) fn set_cache(&mut self, mut object: NodeCache) {
        slim::cache(&mut object);
        let name = object.name_any();
        let before = self.caches.get(&name);
        let older = before.is_some_and(|it| {
            it.object.metadata.uid == object.metadata.uid
                && version(&it.object.metadata) > version(&object.metadata)
        });
        if !older {
            self.changed.nodes.insert(name.clone());
            let object = Arc::new(object);
            self.shelf.cache(Arc::clone(&object));
            self.caches.insert(name, SeenCache { object });
        }
    }

    /// Forgets a claim that this process saw go.
    pub(super) fn forget_claim(&mut self, name: &str) {
        self.claims.remove(name);
        self.shelf.gone(shelf::Kind::Claim, name);
    }

    /// Forgets a node cache that this process removed.
    pub(super) fn forget_cache(&mut self, name: &str) {
        self.caches.remove(name);
        self.shelf.gone(shelf::Kind::Cache, name);
        self.changed.nodes.insert(name.to_owned());
    }

    fn forget(&mut self, kind: Kind, namespace: &str, name: &str, mind: &mut Mind) {
        let changed = &mut self.changed;
        if let Some(known) = self.known.get_mut(&kind) {
            known.remove(&(namespace.to_owned(), name.to_owned()));
        }
        macro_rules! gone {
            ($type:ty) => {
                self.book.remove::<$type>(namespace, name)
            };
        }
        match kind {
            Kind::Pod => self.forget_pod(&ObjectKey::new(namespace, name), mind),
            Kind::Node => {
                self.shelf.gone(shelf::Kind::Node, name);
                self.nodes.remove(name);
                changed.nodes.insert(name.to_owned());
            }
            Kind::NodePool => {
                changed.pools = true;
                self.pools.remove(name);
            }
            Kind::NodeClaim => self.forget_claim(name),
            Kind::NodeCache => self.forget_cache(name),
            Kind::KarpenterClaim => {
                self.announced.remove(name);
            }
            Kind::Prefetch => {
                changed.wishes = true;
                gone!(Prefetch);
            }
            Kind::DaemonSet => {
                changed.daemons = true;
                gone!(k8s_openapi::api::apps::v1::DaemonSet);
            }
            Kind::PodBudget => gone!(k8s_openapi::api::policy::v1::PodDisruptionBudget),
            Kind::CsiNode => gone!(k8s_openapi::api::storage::v1::CSINode),
            Kind::Namespace => gone!(core::Namespace),
            Kind::VolumeClaim => {
                changed.context = true;
                gone!(core::PersistentVolumeClaim);
            }
            Kind::Volume => {
                changed.context = true;
                gone!(core::PersistentVolume);
            }
            Kind::StorageClass => gone!(k8s_openapi::api::storage::v1::StorageClass),
            Kind::PriorityClass => gone!(k8s_openapi::api::scheduling::v1::PriorityClass),
            Kind::RuntimeClass => gone!(k8s_openapi::api::node::v1::RuntimeClass),
            Kind::RayCluster | Kind::RayService | Kind::RayJob => {
                changed.members = true;
                match kind {
                    Kind::RayCluster => gone!(ray::RayCluster),
                    Kind::RayService => gone!(ray::RayService),
                    _ => gone!(ray::RayJob),
                }
            }
            Kind::LeaderWorkerSet => {
                changed.members = true;
                gone!(lws::LeaderWorkerSet);
            }
            Kind::JobSet => {
                changed.members = true;
                gone!(job_set::JobSet);
            }
        }
    }

    fn set_pod(&mut self, namespace: &str, name: &str, mut pod: core::Pod, mind: &mut Mind) {
        let key = ObjectKey::new(namespace, name);
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return self.forget_pod(&key, mind);
        }
        slim::pod(&mut pod);
        let uid = pod
            .metadata
            .uid
            .clone()
            .unwrap_or_default()
            .into_boxed_str();
        let raw = placed(namespace, name, pod);
        if book::is_member(&raw.object) {
            let raw = Arc::new(raw);
            self.members.insert(key.clone(), Arc::clone(&raw));
            self.pods.insert(
                key,
                SeenPod {
                    uid,
                    raw: Some(raw),
                },
            );
            self.changed.members = true;
            return;
        }
        self.pods.insert(key, SeenPod { uid, raw: None });
        self.fresh.push(raw);
        if self.fresh.len() >= BATCH {
            self.read_pods(mind);
        }
    }

    fn forget_pod(&mut self, key: &ObjectKey, mind: &mut Mind) {
        self.pods.remove(key);
        self.fresh
            .retain(|pod| (&pod.namespace, &pod.name) != (&key.namespace, &key.name));
        self.changed.members |= self.members.remove(key).is_some();
        mind.remove_pod(key);
    }

    /// Reads what came since, into what is planned with.
    pub(super) fn settle(&mut self, mind: &mut Mind) {
        if std::mem::take(&mut self.changed.context) {
            self.changed.members = true;
            let again: Vec<_> = self
                .pods
                .values()
                .filter_map(|pod| pod.raw.clone())
                .collect();
            let again = again.iter().filter(|raw| !book::is_member(&raw.object));
            let again: Vec<_> = again.map(|raw| &**raw).collect();
            let read = self.book.pods(again.iter().copied());
            for (raw, (pod, problems)) in again.into_iter().zip(read) {
                note(raw, &problems);
                put(raw, pod, mind);
            }
        }
        self.read_pods(mind);
        if std::mem::take(&mut self.changed.members) {
            let members = self.members.values().map(|raw| &**raw);
            let (pods, groups) = self.book.members(members);
            let mut read: HashMap<ObjectKey, _> =
                pods.into_iter().map(|pod| (pod.key.clone(), pod)).collect();
            for (key, raw) in &self.members {
                put(raw, read.remove(key), mind);
            }
            mind.set_groups(groups);
        }
    }

    /// Reads waiting pods again: what they are planned for has changed.
    pub(super) fn read_again(&mut self) {
        self.changed.context = true;
    }

    fn read_pods(&mut self, mind: &mut Mind) {
        let fresh = std::mem::take(&mut self.fresh);
        let read = self.book.pods(&fresh);
        for (raw, (pod, problems)) in fresh.into_iter().zip(read) {
            note(&raw, &problems);
            put(&raw, pod, mind);
            let key = ObjectKey::new(&raw.namespace, &raw.name);
            if slim::is_kept(&raw.object)
                && let Some(seen) = self.pods.get_mut(&key)
            {
                seen.raw = Some(Arc::new(raw));
            }
        }
    }
}

fn note(raw: &Placed<core::Pod>, problems: &[String]) {
    if !problems.is_empty() {
        let (namespace, name) = (&raw.namespace, &raw.name);
        tracing::debug!(
            namespace,
            name,
            ?problems,
            "a pod cannot be read as it is written"
        );
    }
}

/// Plans with a pod, unless it waits for something that no node can give it.
fn put(raw: &Placed<core::Pod>, pod: Option<headstart_core::pod::Pod>, mind: &mut Mind) {
    let key = ObjectKey::new(&raw.namespace, &raw.name);
    let held = raw
        .object
        .spec
        .iter()
        .flat_map(|spec| spec.scheduling_gates.iter().flatten());
    let foreign = held
        .into_iter()
        .any(|gate| gate.name != names::STEERING_GATE);
    match pod {
        Some(pod) if pod.phase != Phase::Pending => mind.set_pod(pod),
        // Daemons come with their nodes; a pod that somebody else holds back is nobody's demand yet.
        Some(pod) if pod.shape.eviction != Eviction::Daemon && !foreign => mind.set_pod(pod),
        _ => mind.remove_pod(&key),
    }
}

/// The instance of a claim, as providers name it.
fn instance(claim: &NodeClaim) -> Option<&str> {
    let instance = claim.status.as_ref()?.instance.as_ref()?;
    Some(&instance.provider_id)
}

/// An object of ours besides its metadata.
#[derive(serde::Deserialize)]
struct Parsed<Spec, Status> {
    spec: Spec,
    status: Option<Status>,
}

fn tree(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Versions of one API server's objects grow.
fn version(metadata: &ObjectMeta) -> u64 {
    let version = metadata.resource_version.as_deref();
    version.and_then(|text| text.parse().ok()).unwrap_or(0)
}
