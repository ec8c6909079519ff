//! From a pod's specification to its shape: everything that decides where it can run.

use std::borrow::Cow;
use std::collections::BTreeSet;

use headstart_core::amount::Resources;
use headstart_core::cache::Item;
use headstart_core::label::{Labels, Toleration};
use headstart_core::model::ModelRef;
use headstart_core::pod::{Eviction, HostPort, Owner, Shape};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::node::v1::RuntimeClass;

use super::affinity::{self, Asking};
use super::annotation::Annotations;
use super::cluster::Cluster;
use super::finding::{Subject, quoted};
use super::volume::{self, Holder};
use super::{item, recognise, requests, select};

/// A pod, or what a workload makes pods from.
#[derive(Clone)]
pub(crate) struct Template<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: Labels,
    pub(crate) annotations: Annotations<'a>,
    pub(crate) spec: Cow<'a, core::PodSpec>,
    pub(crate) owner: Option<Owner>,
    /// Models that the workload names for it outside of its containers.
    pub(crate) models: Vec<ModelRef>,
    /// Where `spec` stands.
    pub(crate) subject: Subject<'a>,
}

/// What a pod of this template looks like, without its volumes, which may differ from pod to pod.
pub(crate) fn of(template: &Template<'_>, cluster: &Cluster<'_>) -> Shape {
    let Template {
        namespace,
        labels,
        annotations,
        spec,
        owner,
        subject,
        ..
    } = template;
    if spec.containers.is_empty() {
        subject
            .at("containers")
            .problem("is missing or empty; a pod has at least one container");
    }
    let runtime = runtime(spec, cluster, subject);
    let overhead = runtime.and_then(|runtime| runtime.overhead.as_ref());
    let overhead = overhead.map_or(Resources::new(), |overhead| {
        requests::amounts(&overhead.pod_fixed, &subject.at("runtimeClassName"))
    });
    let scheduling = runtime.and_then(|runtime| runtime.scheduling.as_ref());
    let selector = scheduling.and_then(|scheduling| scheduling.node_selector.as_ref());
    let selector = spec.node_selector.iter().chain(selector).flatten();
    let tolerations = spec.tolerations.iter().flatten();
    let tolerations = tolerations
        .chain(
            scheduling
                .and_then(|s| s.tolerations.as_ref())
                .into_iter()
                .flatten(),
        )
        .enumerate()
        .filter_map(|(index, found)| {
            affinity::toleration(found, &subject.at("tolerations").nth(index))
        });
    let mut shape = Shape {
        namespace: (*namespace).to_owned(),
        labels: labels.clone(),
        requests: requests::of_pod(spec, &overhead, subject),
        priority: priority(spec, cluster, subject),
        node_selector: select::node_labels(selector.map(|(k, v)| (k.clone(), v.clone()))),
        tolerations: tolerations.collect(),
        host_ports: host_ports(spec, subject),
        wants: annotations.wants(),
        items: items(template),
        owner: owner.clone(),
        eviction: eviction(annotations, owner.as_ref()),
        ..Shape::default()
    };
    relations(&mut shape, template, cluster);
    annotations.note_unknown();
    shape
}

/// Volumes of the pod of this name.
pub(crate) fn volumes(
    template: &Template<'_>,
    pod: &str,
    claims: &[core::PersistentVolumeClaim],
    cluster: &Cluster<'_>,
) -> Vec<headstart_core::pod::Volume> {
    let holder = Holder {
        namespace: template.namespace,
        pod,
        templates: claims,
    };
    volume::of_pod(&template.spec, &holder, cluster, &template.subject)
}

fn relations(shape: &mut Shape, template: &Template<'_>, cluster: &Cluster<'_>) {
    let (spec, subject) = (&*template.spec, &template.subject);
    let asking = Asking {
        namespace: template.namespace,
        labels: &template.labels,
        cluster,
    };
    if let Some(all) = &spec.affinity {
        let at = subject.at("affinity");
        if let Some(nodes) = &all.node_affinity {
            let at = at.at("nodeAffinity");
            shape.node_affinity = affinity::required_nodes(nodes, &at);
            shape.preferred_node_affinity = affinity::preferred_nodes(nodes, &at);
        }
        if let Some(pods) = &all.pod_affinity {
            let at = at.at("podAffinity");
            let required = &pods.required_during_scheduling_ignored_during_execution;
            let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
            shape.affinity = asking.required_pods(required, &at);
            shape.preferred_affinity = asking.preferred_pods(preferred, &at);
        }
        if let Some(pods) = &all.pod_anti_affinity {
            let at = at.at("podAntiAffinity");
            let required = &pods.required_during_scheduling_ignored_during_execution;
            let preferred = &pods.preferred_during_scheduling_ignored_during_execution;
            shape.anti_affinity = asking.required_pods(required, &at);
            shape.preferred_anti_affinity = asking.preferred_pods(preferred, &at);
        }
    }
    let constraints = spec.topology_spread_constraints.iter().flatten();
    let at = subject.at("topologySpreadConstraints");
    let constraints = constraints.enumerate();
    shape.spread = constraints
        .filter_map(|(index, constraint)| asking.spread(constraint, &at.nth(index)))
        .collect();
}

fn runtime<'a>(
    spec: &core::PodSpec,
    cluster: &Cluster<'a>,
    subject: &Subject<'_>,
) -> Option<&'a RuntimeClass> {
    let name = spec
        .runtime_class_name
        .as_deref()
        .filter(|name| !name.is_empty())?;
    let found = cluster.runtimes.get(name).copied();
    if found.is_none() {
        subject.at("runtimeClassName").note(format!(
            "{} is not among the files; it is taken to ask for nothing of its own",
            quoted(name)
        ));
    }
    found
}

fn priority(spec: &core::PodSpec, cluster: &Cluster<'_>, subject: &Subject<'_>) -> i32 {
    if let Some(priority) = spec.priority {
        return priority;
    }
    let Some(class) = spec
        .priority_class_name
        .as_deref()
        .filter(|name| !name.is_empty())
    else {
        return cluster.default_priority;
    };
    cluster.priority(class).unwrap_or_else(|| {
        subject.at("priorityClassName").note(format!(
            "{} is not among the files; the default priority is taken",
            quoted(class)
        ));
        cluster.default_priority
    })
}

fn host_ports(spec: &core::PodSpec, subject: &Subject<'_>) -> BTreeSet<HostPort> {
    let on_host = spec.host_network == Some(true);
    let mut taken = BTreeSet::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sidecars = init
        .iter()
        .enumerate()
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"));
    let main = spec.containers.iter().enumerate();
    let all = sidecars
        .map(|(index, container)| (subject.at("initContainers").nth(index), container))
        .chain(main.map(|(index, container)| (subject.at("containers").nth(index), container)));
    for (at, container) in all {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let at = at.at("ports").nth(index);
            let asked = match port.host_port {
                Some(port) if port != 0 => port,
                _ if on_host => port.container_port,
                _ => continue,
            };
            let Some(number) = u16::try_from(asked).ok().filter(|port| *port > 0) else {
                at.at("hostPort")
                    .problem(format!("is {asked}; write a port from 1 to 65535"));
                continue;
            };
            let address = port.host_ip.clone().filter(|address| !address.is_empty());
            taken.insert(HostPort {
                address: address.unwrap_or_else(|| "0.0.0.0".to_owned()),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: number,
            });
        }
    }
    taken
}

/// Images in the order in which they are needed, then models.
fn items(template: &Template<'_>) -> Vec<Item> {
    let (spec, subject) = (&*template.spec, &template.subject);
    let mut items: Vec<Item> = Vec::new();
    let mut add = |item: Item| {
        if !items.contains(&item) {
            items.push(item);
        }
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let groups = [
        ("initContainers", init),
        ("containers", &spec.containers[..]),
    ];
    for (field, containers) in groups {
        for (index, container) in containers.iter().enumerate() {
            let Some(image) = container.image.as_deref().filter(|image| !image.is_empty()) else {
                continue;
            };
            let at = subject.at(field).nth(index).at("image");
            at.ok(item::image(image)).into_iter().for_each(&mut add);
        }
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let image = volume
            .image
            .as_ref()
            .and_then(|image| image.reference.as_deref());
        let at = subject.at("volumes").nth(index).at("image.reference");
        let image = image.and_then(|image| at.ok(item::image(image)));
        image.into_iter().for_each(&mut add);
    }
    template.annotations.images().into_iter().for_each(&mut add);
    let models = template.annotations.models().unwrap_or_else(|| {
        let recognised = init
            .iter()
            .chain(&spec.containers)
            .flat_map(recognise::of_container);
        let all = template.models.iter().cloned().chain(recognised);
        all.map(item::of).collect()
    });
    models.into_iter().for_each(&mut add);
    items
}

fn eviction(annotations: &Annotations<'_>, owner: Option<&Owner>) -> Eviction {
    match owner {
        Some(owner) if owner.kind == "DaemonSet" => Eviction::Daemon,
        _ if annotations.do_not_evict() => Eviction::Forbidden,
        None => Eviction::Bare,
        Some(_) => Eviction::Allowed,
    }
}

/// What the DaemonSet controller adds to its pods.
///
/// Source: the documentation of DaemonSet, "Taints and tolerations".
pub(crate) fn daemon_tolerations(spec: &core::PodSpec) -> Vec<Toleration> {
    use headstart_core::label::Effect::{NoExecute, NoSchedule};
    let mut tolerated = vec![
        ("not-ready", NoExecute),
        ("unreachable", NoExecute),
        ("disk-pressure", NoSchedule),
        ("memory-pressure", NoSchedule),
        ("pid-pressure", NoSchedule),
        ("unschedulable", NoSchedule),
    ];
    if spec.host_network == Some(true) {
        tolerated.push(("network-unavailable", NoSchedule));
    }
    let toleration = |(name, effect)| Toleration {
        key: Some(format!("node.kubernetes.io/{name}")),
        value: None,
        effect: Some(effect),
    };
    tolerated.into_iter().map(toleration).collect()
}
