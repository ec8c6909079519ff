//! What manifests mean: realistic files against what the planner is to see of them.

use expect_test::{Expect, expect};
use headstart_core::amount;
use headstart_core::cache::{Item, ItemState, Pin};
use headstart_core::pod::Phase;

use super::*;

mod annotations;
mod faults;
mod fuzz;
mod hostile;
mod lws;
mod models;
mod nodes;
mod plans;
mod pods;

pub(super) const RAY_SERVICE: &str = include_str!("../../tests/manifests/rayservice-vllm.yaml");
pub(super) const DEPLOYMENT: &str = include_str!("../../tests/manifests/vllm-deployment.yaml");
pub(super) const LWS: &str = include_str!("../../tests/manifests/lws-vllm.yaml");
pub(super) const STATEFUL_SET: &str = include_str!("../../tests/manifests/statefulset-pvc.yaml");
pub(super) const CLUSTER: &str = include_str!("../../tests/manifests/cluster.yaml");

/// A moment soon after the nodes of the fixtures were made.
pub(super) const NOW: Millis = Millis::from_secs(1_780_000_000);

pub(super) fn read_one(yaml: &str) -> Result<Manifests, Vec<Problem>> {
    read(&[("a.yaml", yaml)])
}

pub(super) fn snapshot(yaml: &str) -> Snapshot {
    match read_one(yaml) {
        Ok(manifests) => manifests.into_snapshot(NOW),
        Err(problems) => panic!("{}", lines(&problems)),
    }
}

pub(super) fn lines<T: ToString>(all: &[T]) -> String {
    all.iter().map(|one| one.to_string() + "\n").collect()
}

/// The problems of a file, one a line.
pub(super) fn problems(yaml: &str, expected: &Expect) {
    let found = read_one(yaml).err().unwrap_or_default();
    expected.assert_eq(&lines(&found));
}

/// The notes of a file that is in order, one a line.
pub(super) fn notes(yaml: &str, expected: &Expect) {
    match read_one(yaml) {
        Ok(manifests) => expected.assert_eq(&lines(manifests.notes())),
        Err(problems) => panic!("{}", lines(&problems)),
    }
}

pub(super) fn item(item: &Item) -> String {
    match item {
        Item::Image {
            repository,
            pin: Pin::To(digest),
        } => format!("{repository}@{}", digest.short()),
        Item::Image {
            repository,
            pin: Pin::Name(tag),
        } => format!("{repository}:{tag}"),
        Item::Model { repo, pin, files } => {
            let pin = match pin {
                Pin::To(commit) => commit.short(),
                Pin::Name(name) => name.clone(),
            };
            format!("hf://{repo}@{pin}{files}")
        }
    }
}

/// Pods of a snapshot: name, where, group and role, requests, items, and what they want.
fn pods_of(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for pod in &snapshot.pods {
        let shape = &pod.shape;
        let phase = match &pod.phase {
            Phase::Pending => "pending".to_owned(),
            Phase::Bound { node, progress } => format!("on {node}, {progress:?}"),
        };
        text += &format!("{} {phase}\n", pod.key);
        if let Some(group) = &shape.group {
            text += &format!("  group {group} as {:?}\n", shape.role());
        }
        let asked: Vec<String> = shape
            .requests
            .iter()
            .map(|(name, amount)| format!("{name}={}", amount::display(name, amount)))
            .collect();
        text += &format!("  asks {}\n", asked.join(" "));
        for one in &shape.items {
            text += &format!("  needs {}\n", item(one));
        }
        for volume in &shape.volumes {
            text += &format!(
                "  mounts {} {} {:?}\n",
                volume.claim, volume.driver, volume.node_affinity
            );
        }
        if !shape.wants.is_empty() {
            text += &format!("  wants {:?}\n", shape.wants);
        }
    }
    for group in &snapshot.groups {
        text += &format!(
            "group {} needs {:?} same {:?}\n",
            group.key, group.minimum, group.same
        );
    }
    text
}

#[test]
fn a_ray_service_is_one_group_whose_gpu_worker_loads_the_model_of_its_serve_config() {
    expect![[r#"
        serving/phi3-gpu-worker-0 pending
          group serving/phi3 as "gpu"
          asks cpu=8 memory=20Gi nvidia.com/gpu=1
          needs docker.io/rayproject/ray-llm:2.46.0-py311-cu124
          needs hf://microsoft/Phi-3-mini-4k-instruct@main
          wants Wants { gpu_skus: {"A10", "A10G", "L4", "L40S"}, max_gpus: None, max_price: None, capacity_types: {}, families: {}, excluded_families: {}, type_pattern: None }
        serving/phi3-head pending
          group serving/phi3 as "headgroup"
          asks cpu=2500m memory=8.5Gi
          needs docker.io/rayproject/ray-llm:2.46.0-py311-cu124
        group serving/phi3 needs {"gpu": 1, "headgroup": 1} same None
    "#]].assert_eq(&pods_of(&snapshot(RAY_SERVICE)));
}

#[test]
fn a_deployment_of_vllm_asks_by_annotation_and_loads_what_its_script_serves() {
    let snapshot = snapshot(DEPLOYMENT);
    expect![[r#"
        default/llama-0 pending
          asks cpu=4 memory=24Gi nvidia.com/gpu=1
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Llama-3.1-8B-Instruct@0e9e39f249a1
          wants Wants { gpu_skus: {"A100", "L40S"}, max_gpus: None, max_price: Some(HourlyPrice(4750000)), capacity_types: {Spot, OnDemand}, families: {}, excluded_families: {}, type_pattern: None }
        default/llama-1 pending
          asks cpu=4 memory=24Gi nvidia.com/gpu=1
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Llama-3.1-8B-Instruct@0e9e39f249a1
          wants Wants { gpu_skus: {"A100", "L40S"}, max_gpus: None, max_price: Some(HourlyPrice(4750000)), capacity_types: {Spot, OnDemand}, families: {}, excluded_families: {}, type_pattern: None }
    "#]].assert_eq(&pods_of(&snapshot));
    let shape = &snapshot.pods[0].shape;
    expect![[r#"
        {"headstart.dev/capacity-type": "spot"}
        Some(Term([Expression { key: "app", operator: In, values: ["llama"] }, Expression { key: "pod-template-hash", operator: In, values: ["planned"] }]))
    "#]].assert_eq(&format!(
        "{:?}\n{:?}\n",
        shape.node_selector, shape.spread[0].selector
    ));
}

#[test]
fn a_leader_worker_set_is_one_group_per_replica_and_workers_load_what_leaders_serve() {
    expect![[r#"
        default/big-0 pending
          group default/big-0 as "leader"
          asks cpu=125 ephemeral-storage=800Gi memory=1124Gi nvidia.com/gpu=8
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Meta-Llama-3.1-405B-Instruct@main
        default/big-0-1 pending
          group default/big-0 as "worker"
          asks cpu=125 ephemeral-storage=800Gi memory=1124Gi nvidia.com/gpu=8
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Meta-Llama-3.1-405B-Instruct@main
        default/big-1 pending
          group default/big-1 as "leader"
          asks cpu=125 ephemeral-storage=800Gi memory=1124Gi nvidia.com/gpu=8
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Meta-Llama-3.1-405B-Instruct@main
        default/big-1-1 pending
          group default/big-1 as "worker"
          asks cpu=125 ephemeral-storage=800Gi memory=1124Gi nvidia.com/gpu=8
          needs docker.io/vllm/vllm-openai:v0.10.1
          needs hf://meta-llama/Meta-Llama-3.1-405B-Instruct@main
        group default/big-0 needs {"leader": 1, "worker": 1} same Some("topology.kubernetes.io/zone")
        group default/big-1 needs {"leader": 1, "worker": 1} same Some("topology.kubernetes.io/zone")
    "#]].assert_eq(&pods_of(&snapshot(LWS)));
}

#[test]
fn pods_of_a_stateful_set_keep_to_the_zones_of_their_disks() {
    expect![[r#"
        default/store-0 pending
          asks cpu=500m memory=1Gi
          needs registry.example.com:5000/store@e3b0c44298fc
          mounts default/data-store-0 ebs.csi.aws.com [Term([Expression { key: "topology.kubernetes.io/zone", operator: In, values: ["us-east-1b"] }])]
        default/store-1 pending
          asks cpu=500m memory=1Gi
          needs registry.example.com:5000/store@e3b0c44298fc
          mounts default/data-store-1 ebs.csi.aws.com [Term([Expression { key: "topology.kubernetes.io/zone", operator: In, values: ["us-east-1a", "us-east-1b"] }])]
    "#]].assert_eq(&pods_of(&snapshot(STATEFUL_SET)));
}

#[test]
fn a_cluster_is_read_with_its_pool_nodes_caches_wishes_and_daemons() {
    let snapshot = snapshot(CLUSTER);
    expect![[r#"
        [
            NodePool {
                name: "gpu",
                weight: 10,
                state: Ready,
                serves: None,
                requirements: [
                    PoolRequirement {
                        expression: Expression {
                            key: "kubernetes.io/arch",
                            operator: In,
                            values: [
                                "amd64",
                            ],
                        },
                        min_values: None,
                    },
                    PoolRequirement {
                        expression: Expression {
                            key: "headstart.dev/gpu-memory-mib",
                            operator: Gte,
                            values: [
                                "20000",
                            ],
                        },
                        min_values: None,
                    },
                    PoolRequirement {
                        expression: Expression {
                            key: "topology.kubernetes.io/zone",
                            operator: In,
                            values: [
                                "us-east-1a",
                                "us-east-1b",
                            ],
                        },
                        min_values: None,
                    },
                ],
                wants: Wants {
                    gpu_skus: {
                        "A10G",
                        "L4",
                    },
                    max_gpus: Some(
                        4,
                    ),
                    max_price: Some(
                        HourlyPrice(
                            5000000,
                        ),
                    ),
                    capacity_types: {
                        Spot,
                        OnDemand,
                    },
                    families: {},
                    excluded_families: {
                        "p5",
                    },
                    type_pattern: Some(
                        "^g",
                    ),
                },
                limits: Resources(
                    {
                        "memory": 2199023255552,
                        "nodes": 8,
                        "nvidia.com/gpu": 16,
                    },
                ),
                labels: {
                    "team": "serving",
                },
                taints: [
                    Taint {
                        key: "nvidia.com/gpu",
                        value: "",
                        effect: NoSchedule,
                    },
                ],
                startup_taints: [
                    Taint {
                        key: "headstart.dev/warming",
                        value: "",
                        effect: NoSchedule,
                    },
                ],
                value_of_time: HourlyPrice(
                    12500000,
                ),
                expected_life: Millis(
                    7200000,
                ),
                packing: Packing {
                    dedicated_cpu: Some(
                        16000,
                    ),
                    dedicated_memory: Some(
                        68719476736,
                    ),
                    gpu: Share,
                },
                disruption: PoolDisruption {
                    after: Millis(
                        300000,
                    ),
                    underused_shared_percent: 20,
                    underused_dedicated_percent: 75,
                    expire_after: Some(
                        Millis(
                            2592000000,
                        ),
                    ),
                    budgets: [
                        Budget {
                            reasons: [],
                            nodes: Percent(
                                10,
                            ),
                        },
                        Budget {
                            reasons: [
                                Drifted,
                                Underused,
                            ],
                            nodes: Count(
                                1,
                            ),
                        },
                    ],
                },
                volume_limits: {
                    "ebs.csi.aws.com": 26,
                },
            },
        ]"#]]
    .assert_eq(&format!("{:#?}", snapshot.pools));
    let node = |name: &str| {
        snapshot
            .nodes
            .iter()
            .find(|node| node.name == name)
            .unwrap()
    };
    let warm = node("warm");
    assert_eq!(warm.state, headstart_core::node::NodeState::Running);
    assert_eq!(warm.volume_limits["ebs.csi.aws.com"], 25);
    assert_eq!(warm.labels["headstart.dev/gpu-sku"], "L4");
    assert_eq!(
        warm.offering.as_ref().unwrap().to_string(),
        "g6.xlarge spot in us-east-1a"
    );
    let cache = &snapshot.inventories["warm"];
    assert_eq!(cache.room, 120 << 30);
    let states: Vec<_> = cache.items.values().collect();
    assert_eq!(
        states,
        [
            &ItemState::Partial {
                bytes: 2_000_000_000
            },
            &ItemState::Verified
        ]
    );
    let wishes: Vec<String> = snapshot
        .wishes
        .iter()
        .map(|wish| item(&wish.item))
        .collect();
    assert_eq!(
        wishes,
        [
            "docker.io/vllm/vllm-openai:v0.10.1",
            "hf://Qwen/Qwen3-8B@main"
        ]
    );
    assert_eq!(snapshot.wishes[0].nodes.0[0].key, "headstart.dev/node-pool");
    assert_eq!(snapshot.daemons[0].priority, 2_000_001_000);
    assert_eq!(snapshot.daemons[0].host_ports.len(), 1);
}

#[test]
fn a_young_node_starts_with_the_gpus_its_labels_promise_and_without_taints_that_go_away() {
    let young = |now| {
        let manifests = read_one(CLUSTER).unwrap();
        let snapshot = manifests.into_snapshot(now);
        snapshot
            .nodes
            .into_iter()
            .find(|node| node.name == "young")
            .unwrap()
    };
    let node = young(NOW);
    assert_eq!(
        node.state,
        headstart_core::node::NodeState::Starting { expected: NOW }
    );
    assert_eq!(node.allocatable.of(amount::NVIDIA_GPU), 4);
    let keys = |taints: &[headstart_core::label::Taint]| {
        taints
            .iter()
            .map(|taint| taint.key.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&node.taints), ["nvidia.com/gpu"]);
    assert_eq!(
        keys(&node.startup_taints),
        ["headstart.dev/warming", "node.kubernetes.io/not-ready"]
    );
}

#[test]
fn a_disruption_budget_counts_only_while_its_window_is_open() {
    let pool = "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: p}\nspec: {disruption: {budgets: [{nodes: 0, schedule: '0 9 * * *', duration: 8h}, {nodes: 2}]}}\n";
    let budgets = |hour: u64| {
        let now = Millis::from_secs(20_000 * 86_400 + hour * 3600);
        let pools = read_one(pool).unwrap().into_snapshot(now).pools;
        pools[0].disruption.budgets.len()
    };
    assert_eq!(
        (budgets(8), budgets(9), budgets(16), budgets(17)),
        (1, 2, 2, 1)
    );
}

#[test]
fn the_order_of_files_changes_nothing() {
    let files = [
        ("a", RAY_SERVICE),
        ("b", DEPLOYMENT),
        ("c", LWS),
        ("d", STATEFUL_SET),
        ("e", CLUSTER),
    ];
    let forwards = read(&files).unwrap();
    let mut turned = files;
    turned.reverse();
    let backwards = read(&turned).unwrap();
    assert_eq!(forwards.notes(), backwards.notes());
    assert_eq!(forwards.into_snapshot(NOW), backwards.into_snapshot(NOW));
}
