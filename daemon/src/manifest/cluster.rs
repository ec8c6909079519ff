//! Objects that pods refer to by name: priority and runtime classes, namespaces, claims, volumes,
//! storage classes.

use std::collections::BTreeMap;

use headstart_core::label::Labels;
use k8s_openapi::api::{core::v1 as core, node::v1 as node, storage::v1 as storage};

use super::object::{Objects, Placed};

/// Classes that every cluster has. Source: `k8s.io/kubernetes` pkg/apis/scheduling.
const SYSTEM_PRIORITIES: [(&str, i32); 2] = [
    ("system-cluster-critical", 2_000_000_000),
    ("system-node-critical", 2_000_001_000),
];

/// What pods refer to, by name.
#[derive(Debug, Default)]
pub(crate) struct Cluster<'a> {
    priorities: BTreeMap<&'a str, i32>,
    /// Priority of a pod that names no class.
    pub(crate) default_priority: i32,
    pub(crate) runtimes: BTreeMap<&'a str, &'a node::RuntimeClass>,
    pub(crate) namespaces: BTreeMap<&'a str, Labels>,
    pub(crate) claims: BTreeMap<(&'a str, &'a str), &'a core::PersistentVolumeClaim>,
    pub(crate) volumes: BTreeMap<&'a str, &'a core::PersistentVolume>,
    pub(crate) classes: BTreeMap<&'a str, &'a storage::StorageClass>,
    /// Class of a claim that names none.
    pub(crate) default_class: Option<&'a str>,
}

fn by_name<T>(objects: &[Placed<T>]) -> BTreeMap<&str, &T> {
    objects
        .iter()
        .map(|object| (object.name.as_str(), &object.object))
        .collect()
}

impl<'a> Cluster<'a> {
    /// Looks them up in what was read.
    pub(crate) fn of(objects: &'a Objects) -> Self {
        let default_priority = objects
            .priority_classes
            .iter()
            .filter(|class| class.object.global_default == Some(true))
            .filter_map(|class| class.object.value)
            .min();
        let namespaces = objects.namespaces.iter().map(|namespace| {
            let mut labels = namespace.object.metadata.labels.clone().unwrap_or_default();
            let name = (
                "kubernetes.io/metadata.name".to_owned(),
                namespace.name.clone(),
            );
            labels.extend([name]);
            (namespace.name.as_str(), labels)
        });
        let is_default = |class: &&Placed<storage::StorageClass>| {
            let annotations = class.object.metadata.annotations.as_ref();
            let value =
                annotations.and_then(|all| all.get("storageclass.kubernetes.io/is-default-class"));
            value.is_some_and(|value| value == "true")
        };
        // Of several defaults the API server takes the newest; by name among equals.
        let default_class = objects
            .storage_classes
            .iter()
            .filter(is_default)
            .max_by_key(|class| {
                let created = class.object.metadata.creation_timestamp.as_ref();
                (
                    created.map(|time| time.0),
                    std::cmp::Reverse(class.name.as_str()),
                )
            });
        Self {
            priorities: objects
                .priority_classes
                .iter()
                .filter_map(|class| Some((class.name.as_str(), class.object.value?)))
                .collect(),
            default_priority: default_priority.unwrap_or(0),
            runtimes: by_name(&objects.runtime_classes),
            namespaces: namespaces.collect(),
            claims: objects
                .claims
                .iter()
                .map(|claim| {
                    (
                        (claim.namespace.as_str(), claim.name.as_str()),
                        &claim.object,
                    )
                })
                .collect(),
            volumes: by_name(&objects.volumes),
            classes: by_name(&objects.storage_classes),
            default_class: default_class.map(|class| class.name.as_str()),
        }
    }

    /// The value of a priority class, if it is known.
    pub(crate) fn priority(&self, class: &str) -> Option<i32> {
        let system = SYSTEM_PRIORITIES.iter().find(|(name, _)| *name == class);
        system
            .map(|(_, value)| *value)
            .or_else(|| self.priorities.get(class).copied())
    }
}
