//! Pods that are among the files themselves: waiting, bound, or on their way out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use headstart_core::money::Millis;
use headstart_core::pod::{Eviction, GROUP_ROLE, ObjectKey, Owner, Phase, Pod, Progress};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotation::Annotations;
use super::gang::{self, Membership};
use super::live::{self, WorkloadKey};
use super::lws;
use super::object::{Placed, controller};
use super::shape::{self, Template};
use super::workload::{Maker, Owned};

/// Marks a pod that a kubelet runs from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl<'a> Maker<'a> {
    /// Adds the pods that exist. After the workloads: these say more about their pods.
    pub(crate) fn existing(&mut self) {
        for placed in &self.objects.pods {
            if !live::is_over(&placed.object) {
                self.existing_pod(placed);
            }
        }
    }

    /// Adds one of them.
    pub(crate) fn existing_pod(&mut self, placed: &'a Placed<core::Pod>) {
        let subject = self.findings.about(&placed.place);
        let pod = &placed.object;
        let metadata = &pod.metadata;
        let Some(spec) = &pod.spec else {
            return subject.at("spec").problem("is missing; describe the pod");
        };
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let leaving = metadata.deletion_timestamp.is_some();
        if node.is_none() && leaving {
            return;
        }
        let keys = live::workloads(placed);
        let workload = keys
            .iter()
            .find_map(|key| Some((key, self.owned.get(key)?)));
        let workload = workload.map(|(key, owned)| (key.clone(), owned.clone()));
        let own = metadata.annotations.as_ref();
        let mut annotations = Annotations::of_pod(own, &subject.at("metadata"));
        if let Some((_, owned)) = &workload {
            annotations = annotations.then(&owned.annotations);
        }
        if node.is_none() && annotations.ignored() {
            return subject.note("is left out: an annotation says so");
        }
        let mut template = Template {
            namespace: &placed.namespace,
            labels: metadata.labels.clone().unwrap_or_default(),
            annotations,
            spec: Cow::Borrowed(spec),
            owner: controller(metadata).map(|(kind, name)| Owner {
                kind: kind.to_owned(),
                name: name.to_owned(),
            }),
            models: Vec::new(),
            subject: subject.at("spec"),
        };
        let membership = workload
            .as_ref()
            .and_then(|(key, owned)| member(key, owned, &mut template))
            .or_else(|| gang::membership(&template.annotations, &placed.namespace));
        let mut shape = shape::of(&template, self.cluster);
        shape.volumes = shape::volumes(&template, &placed.name, &[], self.cluster);
        let mirrored = own.is_some_and(|all| all.contains_key(MIRROR));
        if mirrored
            || template
                .owner
                .as_ref()
                .is_some_and(|owner| owner.kind == "Node")
        {
            shape.eviction = Eviction::Daemon;
        }
        if let Some(membership) = &membership {
            let counts = u32::from(!leaving);
            self.gangs.join(membership, &mut shape, counts, &subject);
        }
        let gates = spec.scheduling_gates.as_ref();
        if node.is_none() && gates.is_some_and(|gates| !gates.is_empty()) {
            subject
                .at("spec.schedulingGates")
                .note("holds the pod back; it is planned for as if it were not there");
        }
        self.pods.push(Pod {
            key: ObjectKey::new(&placed.namespace, &placed.name),
            created: created(metadata),
            phase: match node {
                None => Phase::Pending,
                Some(node) => Phase::Bound {
                    node,
                    progress: progress(pod),
                },
            },
            shape: shape.into(),
        });
    }
}

/// The group of a pod that a workload made, with its role and models put onto the template.
fn member(
    (_, kind, name): &WorkloadKey,
    owned: &Owned<'_>,
    template: &mut Template<'_>,
) -> Option<Membership> {
    let label = |key: &str| template.labels.get(key).cloned();
    let (key, role) = match *kind {
        "RayCluster" => (owned.group.clone()?, label("ray.io/group")?),
        "LeaderWorkerSet" => {
            let group = label("leaderworkerset.sigs.k8s.io/group-index")?;
            let index = label("leaderworkerset.sigs.k8s.io/worker-index")?;
            let part = owned.parts.and_then(label);
            let role = match part {
                Some(part) => lws::role_of(&part),
                None if index == "0" => lws::LEADER.to_owned(),
                None => lws::WORKER.to_owned(),
            };
            let key = ObjectKey::new(template.namespace, format!("{name}-{group}"));
            (key, role)
        }
        _ => return None,
    };
    if *kind == "RayCluster" {
        match owned.models.get(&role) {
            Some(models) if !models.is_empty() => template.models.clone_from(models),
            _ => template.annotations.without_accelerators_of_owner(),
        }
    }
    template.labels.insert(GROUP_ROLE.to_owned(), role);
    Some(Membership {
        key,
        minimum: None,
        same: None,
    })
}

/// When an object was created; 0 where nobody has created it yet.
pub(crate) fn created(metadata: &ObjectMeta) -> Millis {
    let time = metadata.creation_timestamp.as_ref();
    let millis = time.map_or(0, |time| time.0.as_millisecond());
    Millis(u64::try_from(millis).unwrap_or(0))
}

fn progress(pod: &core::Pod) -> Progress {
    if pod.metadata.deletion_timestamp.is_some() {
        return Progress::Terminating;
    }
    let Some(status) = &pod.status else {
        return Progress::Running;
    };
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let runs = |container: &core::ContainerStatus| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    match status.phase.as_deref() {
        Some("Running") | None if containers.iter().all(runs) => Progress::Running,
        _ => Progress::Starting,
    }
}

/// Labels of an object.
pub(crate) fn labels(metadata: &ObjectMeta) -> BTreeMap<String, String> {
    metadata.labels.clone().unwrap_or_default()
}
