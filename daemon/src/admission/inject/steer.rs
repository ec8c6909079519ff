//! What leads a pod to a node that has its models: a preference for labelled nodes and for the agent's
//! pods on them, or a scheduling gate.
//!
//! A gate is put on by the webhook only: while no daemon answers, no pod is gated. A pod that somebody
//! else holds back gets none: it would be nominated long before it may run, and a nomination reserves.

use headstart_api::names;
use headstart_core::model::ModelRef;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::json;

use super::edit::Edit;
use super::{InjectConfig, Known, Markers, Steering, annotation};

/// Most models whose nodes a pod prefers.
const MOST_PREFERRED: usize = 4;

/// Weight of a preference: the most there is.
const WEIGHT: i32 = 100;

/// Adds what steers the pod, unless it is there.
pub(super) fn steer(
    pod: &Pod,
    spec: &PodSpec,
    models: &[ModelRef],
    known: &Known,
    config: &InjectConfig,
    edit: &mut Edit<'_>,
) {
    let steering = steering(pod, known, config);
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    // Pods of a DaemonSet have their node, and so has one that names it.
    let is_placed = owners.iter().any(|owner| owner.kind == "DaemonSet")
        || spec
            .node_name
            .as_deref()
            .is_some_and(|node| !node.is_empty());
    if steering == Steering::None || is_placed {
        return;
    }
    prefer(spec, models, config, edit);
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    if steering == Steering::Gate && gates.is_empty() {
        let gate = json!({"name": names::STEERING_GATE});
        edit.append(&["spec", "schedulingGates"], gate);
    }
}

/// How a pod is steered: as it says, or its namespace, or the configuration.
fn steering(pod: &Pod, known: &Known, config: &InjectConfig) -> Steering {
    let said = [
        annotation(pod, names::STEERING),
        known.namespace.get(names::STEERING),
    ];
    let mut said = said
        .into_iter()
        .flatten()
        .filter_map(|word| match word.trim() {
            "gate" => Some(Steering::Gate),
            "prefer" => Some(Steering::Prefer),
            "none" => Some(Steering::None),
            _ => None,
        });
    said.next().unwrap_or(config.steering)
}

fn prefer(spec: &PodSpec, models: &[ModelRef], config: &InjectConfig, edit: &mut Edit<'_>) {
    let labels = models.iter().take(MOST_PREFERRED);
    let labels = labels.filter_map(|model| names::warm_label(model.repo.as_str()));
    for label in labels {
        if prefers(spec, &label) {
            continue;
        }
        let expressions = json!([{"key": label, "operator": "Exists"}]);
        edit.append(
            &[
                "spec",
                "affinity",
                "nodeAffinity",
                "preferredDuringSchedulingIgnoredDuringExecution",
            ],
            json!({"weight": WEIGHT, "preference": {"matchExpressions": expressions}}),
        );
        if let Markers::AgentPods(namespace) = &config.markers {
            edit.append(
                &[
                    "spec",
                    "affinity",
                    "podAffinity",
                    "preferredDuringSchedulingIgnoredDuringExecution",
                ],
                json!({"weight": WEIGHT, "podAffinityTerm": {
                    "labelSelector": {"matchExpressions": expressions},
                    "namespaces": [namespace],
                    "topologyKey": "kubernetes.io/hostname",
                }}),
            );
        }
    }
}

fn prefers(spec: &PodSpec, label: &str) -> bool {
    let affinity = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = affinity.and_then(|affinity| {
        affinity
            .preferred_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let mut terms = preferred.into_iter().flatten();
    terms.any(|term| {
        let mut expressions = term.preference.match_expressions.iter().flatten();
        expressions.any(|expression| expression.key == label)
    })
}
