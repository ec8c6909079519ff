//! Pods that exist, by what made them: a workload plans only those that it still lacks.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::label::Term;
use k8s_openapi::api::core::v1 as core;

use super::object::{Placed, controller};

/// Kind and name of a workload, in a namespace.
pub(crate) type WorkloadKey = (String, &'static str, String);

/// Pods that run or wait, and are to stay.
#[derive(Debug, Default)]
pub(crate) struct Live<'a> {
    by_workload: BTreeMap<WorkloadKey, Vec<&'a Placed<core::Pod>>>,
    /// Pods without a controller, by namespace: they belong to whoever selects them.
    loose: BTreeMap<&'a str, Vec<&'a Placed<core::Pod>>>,
    names: BTreeSet<(&'a str, &'a str)>,
}

/// Whether its containers have ended for good.
pub(crate) fn is_over(pod: &core::Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl<'a> Live<'a> {
    /// Sorts pods by what made them.
    pub(crate) fn of(pods: impl IntoIterator<Item = &'a Placed<core::Pod>>) -> Self {
        let mut live = Self::default();
        for pod in pods {
            live.names.insert((&pod.namespace, &pod.name));
            if is_over(&pod.object) || pod.object.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let keys = workloads(pod);
            if controller(&pod.object.metadata).is_none() && keys.is_empty() {
                live.loose.entry(&pod.namespace).or_default().push(pod);
            }
            for key in keys {
                live.by_workload.entry(key).or_default().push(pod);
            }
        }
        live
    }

    /// Pods of a workload. `selector` finds those that nothing owns.
    pub(crate) fn pods(&self, key: &WorkloadKey, selector: Option<&Term>) -> Vec<&'a core::Pod> {
        let owned = self.by_workload.get(key).into_iter().flatten();
        let loose = self.loose.get(key.0.as_str()).into_iter().flatten();
        let selected = loose.filter(|pod| {
            let nothing = BTreeMap::new();
            let labels = pod.object.metadata.labels.as_ref().unwrap_or(&nothing);
            selector.is_some_and(|selector| !selector.0.is_empty() && selector.matches(labels))
        });
        owned.chain(selected).map(|pod| &pod.object).collect()
    }

    /// Whether a pod of this name is there.
    pub(crate) fn has(&self, namespace: &str, name: &str) -> bool {
        self.names.contains(&(namespace, name))
    }
}

/// The workloads that a pod is part of, by its controller and by the labels that controllers set.
pub(crate) fn workloads(pod: &Placed<core::Pod>) -> Vec<WorkloadKey> {
    let label = |key: &str| pod.object.metadata.labels.as_ref()?.get(key).cloned();
    let mut keys: Vec<WorkloadKey> = Vec::new();
    let mut add = |kind, name: String| keys.push((pod.namespace.clone(), kind, name));
    if let Some((kind, name)) = controller(&pod.object.metadata) {
        match kind {
            "ReplicaSet" => {
                let hash = label("pod-template-hash");
                let made_by = hash
                    .as_ref()
                    .and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
                if let Some(deployment) = made_by {
                    add("Deployment", deployment.to_owned());
                }
                add("ReplicaSet", name.to_owned());
            }
            "StatefulSet" => add("StatefulSet", name.to_owned()),
            "Job" => add("Job", name.to_owned()),
            "RayCluster" => add("RayCluster", name.to_owned()),
            _ => {}
        }
    }
    let labelled = [
        ("leaderworkerset.sigs.k8s.io/name", "LeaderWorkerSet"),
        ("jobset.sigs.k8s.io/jobset-name", "JobSet"),
    ];
    for (key, kind) in labelled {
        if let Some(name) = label(key) {
            add(kind, name);
        }
    }
    if !keys.iter().any(|(_, kind, _)| *kind == "RayCluster")
        && let Some(name) = label("ray.io/cluster")
    {
        keys.push((pod.namespace.clone(), "RayCluster", name));
    }
    keys
}
