//! Which kinds are read, and from which API versions; every other kind is counted and left alone.
//!
//! Objects are decoded as the API server does: fields that are not known are dropped, here with a
//! note, and a wrong type is an error that names the field.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core};
use k8s_openapi::api::{node::v1 as node, policy::v1 as policy, scheduling::v1 as scheduling};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::finding::{Findings, Place, Subject, likely, quoted};
use super::source::{Document, kind_of};
use super::{job_set, lws, ray};
use headstart_api::{NodeCache, NodePool, Prefetch};

/// Most labels, and most annotations, of one object. The API has no such limit, but an object with
/// more would not fit into its store.
const MOST_LABELS: usize = 10_000;

/// An object with its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed<T> {
    pub(crate) place: Place,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) object: T,
}

macro_rules! objects {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $group:literal $versions:tt $kind:literal,)*) => {
        /// Everything that was read, by kind.
        #[derive(Debug, Default)]
        pub(crate) struct Objects {
            $($(#[$doc])* pub(crate) $field: Vec<Placed<$type>>,)*
        }

        $(impl Shelf for $type {
            const KIND: &'static str = $kind;

            fn shelf(objects: &mut Objects) -> &mut Vec<Placed<Self>> {
                &mut objects.$field
            }
        })*

        /// Kinds that are read: API group, versions, kind.
        const KINDS: &[(&str, &[&str], &str)] = &[$(($group, &$versions, $kind),)*];

        impl Objects {
            fn put(&mut self, group: &str, head: Head<'_>, tree: Map<String, Value>) {
                match (group, head.kind) {
                    $(($group, $kind) => self.$field.extend(head.read(tree)),)*
                    _ => {}
                }
            }

            /// Puts every list into an order that does not depend on the order of the files.
            fn sort(&mut self) {
                $(self.$field.sort_by(|a, b| {
                    (&a.namespace, &a.name, &a.place).cmp(&(&b.namespace, &b.name, &b.place))
                });)*
            }
        }
    };
}

objects! {
    pods: core::Pod = "" ["v1"] "Pod",
    nodes: core::Node = "" ["v1"] "Node",
    namespaces: core::Namespace = "" ["v1"] "Namespace",
    claims: core::PersistentVolumeClaim = "" ["v1"] "PersistentVolumeClaim",
    volumes: core::PersistentVolume = "" ["v1"] "PersistentVolume",
    deployments: apps::Deployment = "apps" ["v1"] "Deployment",
    replica_sets: apps::ReplicaSet = "apps" ["v1"] "ReplicaSet",
    stateful_sets: apps::StatefulSet = "apps" ["v1"] "StatefulSet",
    daemon_sets: apps::DaemonSet = "apps" ["v1"] "DaemonSet",
    jobs: batch::Job = "batch" ["v1"] "Job",
    cron_jobs: batch::CronJob = "batch" ["v1"] "CronJob",
    priority_classes: scheduling::PriorityClass = "scheduling.k8s.io" ["v1"] "PriorityClass",
    runtime_classes: node::RuntimeClass = "node.k8s.io" ["v1"] "RuntimeClass",
    storage_classes: storage::StorageClass = "storage.k8s.io" ["v1"] "StorageClass",
    csi_nodes: storage::CSINode = "storage.k8s.io" ["v1"] "CSINode",
    pod_budgets: policy::PodDisruptionBudget = "policy" ["v1"] "PodDisruptionBudget",
    ray_clusters: ray::RayCluster = "ray.io" ["v1", "v1alpha1"] "RayCluster",
    ray_services: ray::RayService = "ray.io" ["v1", "v1alpha1"] "RayService",
    ray_jobs: ray::RayJob = "ray.io" ["v1", "v1alpha1"] "RayJob",
    leader_worker_sets: lws::LeaderWorkerSet = "leaderworkerset.x-k8s.io" ["v1"] "LeaderWorkerSet",
    job_sets: job_set::JobSet = "jobset.x-k8s.io" ["v1alpha2"] "JobSet",
    node_pools: NodePool = "headstart.dev" ["v1alpha1"] "NodePool",
    node_caches: NodeCache = "headstart.dev" ["v1alpha1"] "NodeCache",
    prefetches: Prefetch = "headstart.dev" ["v1alpha1"] "Prefetch",
}

/// Groups from which kinds moved away long ago.
const OLD_GROUPS: [&str; 1] = ["extensions"];

/// Kinds that no namespace holds.
const CLUSTER_WIDE: [&str; 9] = [
    "Node",
    "Namespace",
    "PersistentVolume",
    "PriorityClass",
    "RuntimeClass",
    "StorageClass",
    "CSINode",
    "NodePool",
    "NodeCache",
];

/// What an object says about itself.
struct Head<'a> {
    subject: Subject<'a>,
    kind: &'a str,
    namespace: String,
    name: String,
}

impl Objects {
    /// Decodes every document.
    pub(crate) fn read(documents: Vec<Document>, findings: &Findings) -> Self {
        let mut objects = Self::default();
        let mut seen: BTreeMap<(String, String, String, String), Place> = BTreeMap::new();
        for (index, document) in documents.into_iter().enumerate() {
            objects.add(document, index, findings, &mut seen);
        }
        objects.sort();
        objects
    }

    fn add(
        &mut self,
        Document { mut place, tree }: Document,
        index: usize,
        findings: &Findings,
        seen: &mut BTreeMap<(String, String, String, String), Place>,
    ) {
        let text = |key: &str| tree.get(key).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion").to_owned(), text("kind").to_owned());
        let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
        let known = KINDS
            .iter()
            .find(|known| known.0 == group && known.2 == kind);
        let metadata = tree.get("metadata").and_then(Value::as_object);
        let named = |key: &str| {
            let found = metadata.and_then(|metadata| metadata.get(key)?.as_str());
            found.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let name = named("name").or_else(|| Some(format!("{}{index}", named("generateName")?)));
        let cluster_wide = CLUSTER_WIDE.contains(&kind.as_str());
        let namespace = match cluster_wide {
            true => String::new(),
            false => named("namespace").unwrap_or_else(|| "default".to_owned()),
        };
        let shown = name.as_deref().unwrap_or("without a name");
        place.object = match (kind.as_str(), namespace.as_str()) {
            ("", _) => String::new(),
            (kind, "") => format!("{} {shown}", cut(kind)),
            (kind, namespace) => format!("{} {}/{}", cut(kind), cut(namespace), cut(shown)),
        };
        let subject = findings.about(&place);
        if kind.is_empty() || version.is_empty() {
            let field = if kind.is_empty() {
                "kind"
            } else {
                "apiVersion"
            };
            let found = tree.get(field).map_or("missing".to_owned(), kind_of);
            return subject.at(field).problem(format!(
                "is {found}; every object needs apiVersion and kind, such as v1 and Pod"
            ));
        }
        let Some((_, versions, _)) = known else {
            let moved = KINDS
                .iter()
                .find(|known| known.2 == kind && OLD_GROUPS.contains(&group));
            if let Some((group, versions, _)) = moved {
                let found = text("apiVersion");
                return subject
                    .at("apiVersion")
                    .problem(wrong_version(found, group, versions));
            }
            let kinds = KINDS.iter().filter(|known| known.0 == group);
            if let Some(meant) = likely(&kind, kinds.map(|known| known.2)) {
                let at = subject.at("kind");
                at.note(format!("is no kind that is read; did you mean {meant}?"));
            }
            return findings.skip(
                &format!("{}/{}", cut(text("apiVersion")), cut(&kind)),
                &place,
            );
        };
        if !versions.contains(&version) {
            let found = text("apiVersion");
            return subject
                .at("apiVersion")
                .problem(wrong_version(found, group, versions));
        }
        let Some(name) = name else {
            let at = subject.at("metadata.name");
            return match metadata.and_then(|metadata| metadata.get("name")) {
                Some(found) if !found.is_string() && !found.is_null() => {
                    let found = kind_of(found);
                    at.problem(format!("is {found}; put the name in quotes"));
                }
                _ => at.problem("is missing; give the object a name"),
            };
        };
        let key = (
            group.to_owned(),
            kind.clone(),
            namespace.clone(),
            name.clone(),
        );
        if let Some(first) = seen.get(&key) {
            return subject.problem(format!(
                "is there already ({}, document {}); keep one of them",
                first.file, first.document
            ));
        }
        seen.insert(key, place.clone());
        if !reasonable(metadata, &subject) {
            return;
        }
        let head = Head {
            subject,
            kind: &kind,
            namespace,
            name,
        };
        self.put(group, head, tree);
    }
}

impl Head<'_> {
    fn read<T: Object>(self, tree: Map<String, Value>) -> Option<Placed<T>> {
        let object = T::decode(&self.subject, Value::Object(tree))?;
        Some(Placed {
            place: self.subject.place().clone(),
            namespace: self.namespace,
            name: self.name,
            object,
        })
    }
}

/// A kind of object, and where those of it are kept.
pub(crate) trait Shelf: Sized {
    /// Its kind.
    const KIND: &'static str;

    /// Those of it.
    fn shelf(objects: &mut Objects) -> &mut Vec<Placed<Self>>;
}

/// A kind of object.
pub(crate) trait Object: Sized {
    fn decode(subject: &Subject<'_>, tree: Value) -> Option<Self>;
}

/// A kind of Kubernetes itself: amounts may be written as numbers, and what it has no field for is
/// noted.
macro_rules! kubernetes {
    ($($type:ty),* $(,)?) => {
        $(impl Object for $type {
            fn decode(subject: &Subject<'_>, tree: Value) -> Option<Self> {
                lenient(subject, tree)
            }
        })*
    };
}

kubernetes!(
    core::Pod,
    core::Node,
    core::Namespace,
    core::PersistentVolumeClaim,
    core::PersistentVolume,
    apps::Deployment,
    apps::ReplicaSet,
    apps::StatefulSet,
    apps::DaemonSet,
    batch::Job,
    batch::CronJob,
    scheduling::PriorityClass,
    node::RuntimeClass,
    storage::StorageClass,
    storage::CSINode,
    policy::PodDisruptionBudget,
);

/// A kind of which only some fields are read.
macro_rules! partly {
    ($($type:ty),* $(,)?) => {
        $(impl Object for $type {
            fn decode(subject: &Subject<'_>, mut tree: Value) -> Option<Self> {
                amounts_as_text(&mut tree);
                typed(subject, tree)
            }
        })*
    };
}

partly!(
    ray::RayCluster,
    ray::RayService,
    ray::RayJob,
    lws::LeaderWorkerSet,
    job_set::JobSet,
    NodePool,
    NodeCache,
    Prefetch,
);

fn lenient<T: DeserializeOwned + Serialize>(subject: &Subject<'_>, mut tree: Value) -> Option<T> {
    amounts_as_text(&mut tree);
    // What an API server gave out has no field that it does not know.
    let live = tree.pointer("/metadata/uid").is_some();
    let before = (!live).then(|| tree.clone());
    let object: T = typed(subject, tree)?;
    if let Some(before) = before
        && let Ok(after) = serde_json::to_value(&object)
    {
        unknown_fields(&before, &after, subject);
    }
    Some(object)
}

/// Decodes one object; what is wrong is said with its field.
fn typed<T: DeserializeOwned>(subject: &Subject<'_>, tree: Value) -> Option<T> {
    serde_path_to_error::deserialize(tree)
        .map_err(|error| {
            let path = error.path().to_string();
            let text = explained(&error.into_inner().to_string());
            match path.as_str() {
                "." => subject.problem(text),
                path => subject.at(path).problem(text),
            }
        })
        .ok()
}

/// serde's words, with what was most likely meant.
fn explained(text: &str) -> String {
    let names: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let text: String = text.chars().take(600).collect();
    let scalar = ["boolean", "integer", "floating point"];
    if text.ends_with("expected a string")
        && scalar
            .iter()
            .any(|kind| text.starts_with(&format!("invalid type: {kind}")))
    {
        return format!("{text}; put the value in quotes");
    }
    match names.split_first() {
        Some((found, known)) if text.starts_with("unknown ") => {
            let what = if text.starts_with("unknown field") {
                "field"
            } else {
                "value"
            };
            let found = quoted(found);
            match likely(found.trim_matches('"'), known.iter().copied()) {
                Some(meant) => format!("{found} is no {what} here; did you mean {meant}?"),
                None => format!("{found} is no {what} here; use one of {}", known.join(", ")),
            }
        }
        _ => text,
    }
}

/// In YAML an amount is as often a number as a text: `cpu: 2`.
fn amounts_as_text(tree: &mut Value) {
    const AMOUNTS: [&str; 6] = [
        "requests",
        "limits",
        "capacity",
        "allocatable",
        "podFixed",
        "overhead",
    ];
    match tree {
        Value::Array(items) => items.iter_mut().for_each(amounts_as_text),
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                amounts_as_text(value);
                if AMOUNTS.contains(&key.as_str())
                    && let Value::Object(amounts) = value
                {
                    for (name, amount) in amounts.iter_mut() {
                        // `count` of a CSI driver is a number.
                        if let Value::Number(number) = amount
                            && name != "count"
                        {
                            *amount = number.to_string().into();
                        }
                    }
                }
            }
        }
        _ => {}
    }
}

/// Notes every field that was given and is not in the object that was read.
fn unknown_fields(given: &Value, read: &Value, subject: &Subject<'_>) {
    match (given, read) {
        (Value::Object(given), Value::Object(read)) => {
            for (key, value) in given {
                match read.get(key) {
                    Some(read) => unknown_fields(value, read, &subject.at(key)),
                    None if value.is_null() => {}
                    None => {
                        subject
                            .at(quoted(key).trim_matches('"'))
                            .note("is no field of this kind and is ignored");
                    }
                }
            }
        }
        (Value::Array(given), Value::Array(read)) => {
            for (index, (given, read)) in given.iter().zip(read).enumerate() {
                unknown_fields(given, read, &subject.nth(index));
            }
        }
        _ => {}
    }
}

fn wrong_version(found: &str, group: &str, versions: &[&str]) -> String {
    let wanted: Vec<String> = versions
        .iter()
        .map(|version| match group {
            "" => (*version).to_owned(),
            group => format!("{group}/{version}"),
        })
        .collect();
    let found = quoted(found);
    format!(
        "is {found}, which is not read; write {}",
        wanted.join(" or ")
    )
}

/// Whether labels and annotations are texts, in a number that some API server would store.
fn reasonable(metadata: Option<&Map<String, Value>>, subject: &Subject<'_>) -> bool {
    let mut fine = true;
    for field in ["labels", "annotations"] {
        let Some(Value::Object(map)) = metadata.and_then(|metadata| metadata.get(field)) else {
            continue;
        };
        let at = subject.at("metadata").at(field);
        if map.len() > MOST_LABELS {
            let found = map.len();
            at.problem(format!(
                "has {found} entries, more than {MOST_LABELS}; no API server stores such an object"
            ));
            fine = false;
        }
        for (key, value) in map.iter().take(MOST_LABELS) {
            if !value.is_string() && !value.is_null() {
                let found = kind_of(value);
                at.at(quoted(key).trim_matches('"'))
                    .problem(format!("is {found}; put the value in quotes"));
                fine = false;
            }
        }
    }
    fine
}

/// The start of a name that somebody wrote, for a message.
fn cut(text: &str) -> String {
    text.chars().take(253).filter(|c| !c.is_control()).collect()
}

/// The controller that created an object, as kind and name.
pub(crate) fn controller(metadata: &ObjectMeta) -> Option<(&str, &str)> {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    Some((&owner.kind, &owner.name))
}

/// Names of the objects of one kind, to ask whether an owner is among them.
pub(crate) fn names<T>(objects: &[Placed<T>]) -> BTreeSet<(&str, &str)> {
    objects
        .iter()
        .map(|object| (object.namespace.as_str(), object.name.as_str()))
        .collect()
}
