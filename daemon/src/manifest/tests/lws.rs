//! Subgroups of LeaderWorkerSets: who shares a domain with whom.

use headstart_core::pod::PodTerm;

use super::*;

/// Pods of a LeaderWorkerSet with subgroups, by what keeps each together and apart.
fn subgroups(annotations: &str, size: usize, policy: &str, live: &str) -> String {
    let yaml = format!(
        "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\nmetadata: {{name: s, annotations: {{{annotations}}}}}\nspec:\n  replicas: 1\n  leaderWorkerTemplate:\n    size: {size}\n    subGroupPolicy: {{{policy}}}\n    workerTemplate: {{spec: {{containers: [{{name: c}}]}}}}\n{live}"
    );
    let snapshot = snapshot(&yaml);
    let mut found: Vec<String> = (snapshot.pods.iter())
        .map(|pod| {
            let shape = &pod.shape;
            let values = |terms: &[PodTerm]| {
                let expressions = terms.iter().flat_map(|term| &term.selector);
                let of = expressions.flat_map(|term| &term.0).flat_map(|e| &e.values);
                of.cloned().collect::<Vec<_>>().join(" ")
            };
            let (near, apart) = (values(&shape.affinity), values(&shape.anti_affinity));
            format!(
                "{} {}: with [{near}], not but [{apart}]",
                pod.key.name,
                shape.role()
            )
        })
        .collect();
    found.extend(
        snapshot
            .groups
            .iter()
            .map(|group| format!("{:?} {:?} {:?}", group.minimum, group.same, group.sharing)),
    );
    lines(&found)
}

const BY_SUBGROUP: &str = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology: rack";

#[test]
fn each_subgroup_of_a_leader_worker_set_has_a_domain_and_the_leader_is_in_the_first() {
    expect![[r#"
        s-0 subgroup-0: with [], not but [s-0-0]
        s-0-1 subgroup-0: with [], not but [s-0-0]
        s-0-2 subgroup-1: with [], not but [s-0-1]
        s-0-3 subgroup-1: with [], not but [s-0-1]
        {"subgroup-0": 2, "subgroup-1": 2} Some("rack") Role
    "#]]
    .assert_eq(&subgroups(BY_SUBGROUP, 4, "subGroupSize: 2", ""));
    expect![[r#"
        s-0 subgroup-0: with [], not but [s-0-0]
        s-0-1 subgroup-0: with [], not but [s-0-0]
        s-0-2 subgroup-0: with [], not but [s-0-0]
        s-0-3 subgroup-1: with [], not but [s-0-1]
        s-0-4 subgroup-1: with [], not but [s-0-1]
        {"subgroup-0": 3, "subgroup-1": 2} Some("rack") Role
    "#]]
    .assert_eq(&subgroups(BY_SUBGROUP, 5, "subGroupSize: 2", ""));
    expect![[r#"
        s-0 leader: with [], not but []
        s-0-1 subgroup-0: with [], not but [s-0-0]
        s-0-2 subgroup-0: with [], not but [s-0-0]
        {"leader": 1, "subgroup-0": 2} Some("rack") Role
    "#]]
    .assert_eq(&subgroups(
        BY_SUBGROUP,
        3,
        "subGroupSize: 2, subGroupPolicyType: LeaderExcluded",
        "",
    ));
}

#[test]
fn a_leader_worker_set_with_a_domain_keeps_its_subgroups_within() {
    let both = format!("leaderworkerset.sigs.k8s.io/exclusive-topology: zone, {BY_SUBGROUP}");
    expect![[r#"
        s-0 leader: with [s-0-0], not but [s-0 s-0-0]
        s-0-1 worker: with [s-0-1], not but [s-0 s-0-1]
        {"leader": 1, "worker": 1} Some("zone") Group
    "#]]
    .assert_eq(&subgroups(&both, 2, "subGroupSize: 1", ""));
}

#[test]
fn a_live_pod_of_a_subgroup_gives_its_key_to_those_that_are_to_come() {
    let live = r#"
---
apiVersion: v1
kind: Pod
metadata:
  name: s-0-3
  labels: {leaderworkerset.sigs.k8s.io/name: s, leaderworkerset.sigs.k8s.io/group-index: "0", leaderworkerset.sigs.k8s.io/worker-index: "3", leaderworkerset.sigs.k8s.io/subgroup-index: "1", leaderworkerset.sigs.k8s.io/subgroup-key: 5f3a}
spec: {nodeName: n1, containers: [{name: c}]}
"#;
    expect![[r#"
        s-0 subgroup-0: with [], not but [s-0-0]
        s-0-1 subgroup-0: with [], not but [s-0-0]
        s-0-2 subgroup-1: with [], not but [5f3a]
        s-0-3 subgroup-1: with [], not but []
        {"subgroup-0": 2, "subgroup-1": 2} Some("rack") Role
    "#]]
    .assert_eq(&subgroups(BY_SUBGROUP, 4, "subGroupSize: 2", live));
}
