//! Where a node is in its life.

use headstart_core::label::Taint;
use headstart_core::node::{Node, NodeState};

use super::*;

const MINUTE: u64 = 60;

/// A node created at [`NOW`], seen `minutes` later.
fn node(labels: &str, spec: &str, ready: &str, minutes: u64) -> Node {
    let created = jiff::Timestamp::from_millisecond(i64::try_from(NOW.0).unwrap()).unwrap();
    let yaml = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n1, creationTimestamp: \"{created}\", labels: {{{labels}}}}}\nspec: {{{spec}}}\nstatus: {{allocatable: {{cpu: 4, pods: 10}}, conditions: [{{type: Ready, status: \"{ready}\"}}]}}\n"
    );
    let manifests = read_one(&yaml).unwrap();
    let now = NOW + Millis::from_secs(minutes * MINUTE);
    manifests.into_snapshot(now).nodes.remove(0)
}

fn keys(taints: &[Taint]) -> Vec<&str> {
    taints.iter().map(|taint| taint.key.as_str()).collect()
}

fn starts(node: &Node) -> bool {
    matches!(node.state, NodeState::Starting { .. })
}

const NOT_READY: &str = "taints: [{key: node.kubernetes.io/not-ready, effect: NoSchedule}]";

#[test]
fn a_node_that_is_not_ready_starts_while_it_is_young_and_is_broken_later() {
    assert!(starts(&node("", NOT_READY, "False", 1)));
    assert_eq!(node("", NOT_READY, "False", 16).state, NodeState::Leaving);
    assert_eq!(node("", NOT_READY, "Unknown", 16).state, NodeState::Leaving);
}

#[test]
fn a_node_that_was_ready_once_takes_no_pods_when_it_is_not() {
    let once = "karpenter.sh/initialized: \"true\"";
    let lost = node(once, NOT_READY, "False", 1);
    assert_eq!(lost.state, NodeState::Leaving);
    assert_eq!(node(once, "", "True", 1).state, NodeState::Running);
}

#[test]
fn taints_that_go_away_by_themselves_are_startup_taints_until_the_node_is_initialised() {
    let spec = "taints: [{key: readiness.k8s.io/warm, effect: NoSchedule}, {key: team, value: a, effect: NoExecute}]";
    let young = node("", spec, "True", 1);
    assert!(starts(&young));
    assert_eq!(keys(&young.startup_taints), ["readiness.k8s.io/warm"]);
    assert_eq!(keys(&young.taints), ["team"]);
    let initialised = node("karpenter.sh/initialized: \"true\"", spec, "True", 1);
    assert_eq!(keys(&initialised.taints), ["readiness.k8s.io/warm", "team"]);
    let old = node("", spec, "True", 60);
    assert_eq!(old.state, NodeState::Running);
    assert_eq!(keys(&old.taints), ["team", "readiness.k8s.io/warm"]);
}

// Behaviours 35 and 84.
#[test]
fn gpus_that_labels_promise_count_as_upcoming_and_not_for_ever() {
    let labels = "nvidia.com/gpu.count: \"8\"";
    let young = node(labels, "", "True", 1);
    assert!(starts(&young));
    assert_eq!(young.allocatable.of(amount::NVIDIA_GPU), 8);
    let old = node(labels, "", "True", 60);
    assert_eq!(old.state, NodeState::Running);
    assert_eq!(old.allocatable.of(amount::NVIDIA_GPU), 0);
}

#[test]
fn a_node_that_is_cordoned_deleted_or_being_disrupted_is_leaving() {
    for spec in [
        "unschedulable: true",
        "taints: [{key: karpenter.sh/disrupted, effect: NoSchedule}]",
        "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]",
    ] {
        assert_eq!(
            node("", spec, "True", 60).state,
            NodeState::Leaving,
            "{spec}"
        );
    }
    let candidate =
        "taints: [{key: DeletionCandidateOfClusterAutoscaler, effect: PreferNoSchedule}]";
    assert_eq!(node("", candidate, "True", 60).state, NodeState::Running);
}

// Behaviour 6.
#[test]
fn deprecated_labels_and_those_of_others_get_their_stable_names_beside_them() {
    let labels = "beta.kubernetes.io/arch: arm64, failure-domain.beta.kubernetes.io/zone: z, beta.kubernetes.io/instance-type: g5g.xlarge, eks.amazonaws.com/capacityType: SPOT, nvidia.com/gpu.product: NVIDIA-T4G";
    let node = node(labels, "", "True", 60);
    for (key, value) in [
        ("kubernetes.io/arch", "arm64"),
        ("topology.kubernetes.io/zone", "z"),
        ("kubernetes.io/hostname", "n1"),
        ("headstart.dev/capacity-type", "spot"),
        ("headstart.dev/gpu-sku", "T4G"),
        ("beta.kubernetes.io/arch", "arm64"),
    ] {
        assert_eq!(
            node.labels.get(key).map(String::as_str),
            Some(value),
            "{key}"
        );
    }
    assert_eq!(node.offering.unwrap().to_string(), "g5g.xlarge spot in z");
}
