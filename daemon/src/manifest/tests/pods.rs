//! What decides where a pod can run, and which pods there will be.

use headstart_core::label::{Effect, HOSTNAME, ZONE};
use headstart_core::pod::{Eviction, Namespaces, NodePolicy, Shape};

use super::*;

/// A pod with these lines in its specification, beside other objects.
fn pod(spec: &str, others: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{app: a, hash: h}}}}\nspec:\n{spec}\n---\n{others}"
    )
}

fn shape(spec: &str, others: &str) -> Shape {
    let containers = "\ncontainers: [{name: c, resources: {requests: {cpu: 1}}}]";
    let spec = if spec.contains("containers:") {
        spec.to_owned()
    } else {
        spec.to_owned() + containers
    };
    let snapshot = snapshot(&pod(&spec, others));
    let found = snapshot.pods.into_iter().find(|pod| pod.key.name == "p");
    found.unwrap().shape.into()
}

#[test]
fn a_limit_stands_for_a_request_that_is_missing() {
    let shape = shape(
        "containers: [{name: c, resources: {limits: {cpu: 2, memory: 1Gi, nvidia.com/gpu: 1}, requests: {cpu: 0.5}}}]",
        "",
    );
    assert_eq!(shape.requests.of("cpu"), 500);
    assert_eq!(shape.requests.of("memory"), 1 << 30);
    assert_eq!(shape.requests.of("nvidia.com/gpu"), 1);
}

#[test]
fn sidecars_overhead_and_requests_of_the_pod_count() {
    let runtime = "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata: {name: kata}\nhandler: kata\noverhead: {podFixed: {cpu: 250m}}\nscheduling: {nodeSelector: {runtime: kata}, tolerations: [{key: kata, operator: Exists}]}\n";
    let by_class = shape(
        "runtimeClassName: kata\ninitContainers:\n- {name: i, resources: {requests: {cpu: 3}}}\n- {name: s, restartPolicy: Always, resources: {requests: {cpu: 1}}}\ncontainers: [{name: c, resources: {requests: {cpu: 1}}}]",
        runtime,
    );
    assert_eq!(by_class.requests.of("cpu"), 3250);
    assert_eq!(by_class.node_selector["runtime"], "kata");
    assert_eq!(by_class.tolerations.len(), 1);
    let own = shape("runtimeClassName: kata\noverhead: {cpu: 10m}", runtime);
    assert_eq!(own.requests.of("cpu"), 1010);
    let level = |resources: &str| {
        let spec = format!(
            "resources: {resources}\ncontainers: [{{name: c, resources: {{requests: {{cpu: 1}}}}}}]"
        );
        let shape = shape(&spec, "");
        (shape.requests.of("cpu"), shape.requests.of("memory"))
    };
    assert_eq!(
        level("{requests: {cpu: 4}, limits: {memory: 1Ki}}"),
        (4000, 1024)
    );
    assert_eq!(level("{limits: {cpu: 4}}"), (1000, 0));
}

#[test]
fn what_is_asked_of_nodes_is_asked_by_stable_names() {
    let shape = shape(
        r#"nodeSelector:
  beta.kubernetes.io/arch: amd64
  failure-domain.beta.kubernetes.io/zone: z
  cloud.google.com/gke-accelerator: nvidia-tesla-t4
  eks.amazonaws.com/capacityType: ON_DEMAND
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions:
        - {key: karpenter.sh/capacity-type, operator: NotIn, values: [spot]}
        - {key: cloud.google.com/gke-spot, operator: DoesNotExist}
        - {key: karpenter.k8s.aws/instance-cpu, operator: Gt, values: ["7"]}
        matchFields:
        - {key: metadata.name, operator: In, values: [n1]}
      - {}
    preferredDuringSchedulingIgnoredDuringExecution:
    - {weight: 7, preference: {matchExpressions: [{key: topology.gke.io/zone, operator: In, values: [z]}]}}
    - {weight: 7, preference: {}}"#,
        "",
    );
    expect![[r#"
        {
            "headstart.dev/capacity-type": "on-demand",
            "headstart.dev/gpu-sku": "T4",
            "kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": "z",
        }
        [
            Term(
                [
                    Expression {
                        key: "headstart.dev/capacity-type",
                        operator: NotIn,
                        values: [
                            "spot",
                        ],
                    },
                    Expression {
                        key: "headstart.dev/capacity-type",
                        operator: NotIn,
                        values: [
                            "spot",
                        ],
                    },
                    Expression {
                        key: "headstart.dev/cpu",
                        operator: Gt,
                        values: [
                            "7",
                        ],
                    },
                    Expression {
                        key: "kubernetes.io/hostname",
                        operator: In,
                        values: [
                            "n1",
                        ],
                    },
                ],
            ),
            Term(
                [],
            ),
        ]
        [
            (
                7,
                Term(
                    [
                        Expression {
                            key: "topology.kubernetes.io/zone",
                            operator: In,
                            values: [
                                "z",
                            ],
                        },
                    ],
                ),
            ),
        ]
    "#]]
    .assert_eq(&format!(
        "{:#?}\n{:#?}\n{:#?}\n",
        shape.node_selector, shape.node_affinity, shape.preferred_node_affinity
    ));
    assert_eq!(shape.node_affinity[0].0[3].key, HOSTNAME);
}

#[test]
fn relations_to_pods_take_match_keys_and_namespaces_into_account() {
    let term = |rest: &str| {
        let spec = format!(
            "affinity:\n  podAffinity:\n    requiredDuringSchedulingIgnoredDuringExecution:\n    - {{topologyKey: failure-domain.beta.kubernetes.io/zone, labelSelector: {{matchLabels: {{app: a}}}}{rest}}}"
        );
        let namespaces = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x, labels: {team: t}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: z}\n";
        shape(&spec, namespaces).affinity.remove(0)
    };
    let listed =
        |names: &[&str]| Namespaces::Listed(names.iter().map(|name| (*name).to_owned()).collect());
    let plain = term("");
    assert_eq!(plain.topology_key, ZONE);
    assert_eq!(plain.namespaces, listed(&["default"]));
    let keyed = term(", matchLabelKeys: [hash, absent], mismatchLabelKeys: [app]");
    expect![[r#"
        Some(
            Term(
                [
                    Expression {
                        key: "app",
                        operator: In,
                        values: [
                            "a",
                        ],
                    },
                    Expression {
                        key: "hash",
                        operator: In,
                        values: [
                            "h",
                        ],
                    },
                    Expression {
                        key: "app",
                        operator: NotIn,
                        values: [
                            "a",
                        ],
                    },
                ],
            ),
        )"#]]
    .assert_eq(&format!("{:#?}", keyed.selector));
    assert_eq!(term(", namespaces: [x]").namespaces, listed(&["x"]));
    assert_eq!(term(", namespaceSelector: {}").namespaces, Namespaces::All);
    assert_eq!(
        term(", namespaceSelector: {matchLabels: {team: t}}").namespaces,
        listed(&["x"])
    );
    assert_eq!(
        term(
            ", namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}, namespaces: [w]"
        )
        .namespaces,
        listed(&["w", "z"])
    );
}

#[test]
fn a_namespace_selector_without_namespaces_in_the_files_looks_into_its_own_and_says_so() {
    let yaml = pod(
        "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: a, labelSelector: {}, namespaceSelector: {matchLabels: {a: b}}}}]}}\ncontainers: [{name: c}]",
        "",
    );
    let snapshot = snapshot(&yaml);
    let namespaces = &snapshot.pods[0].shape.preferred_anti_affinity[0]
        .1
        .namespaces;
    assert!(namespaces.contains("default") && !namespaces.contains("other"));
    notes(
        &yaml,
        &expect![[r#"
        a.yaml, document 1, Pod default/p: spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.namespaceSelector: no namespaces are among the files; only the pod's own is looked into
    "#]],
    );
}

#[test]
fn spread_has_the_defaults_of_the_api() {
    let shape = shape(
        "topologySpreadConstraints: [{maxSkew: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, minDomains: 3, labelSelector: {matchExpressions: [{key: app, operator: Exists}]}, matchLabelKeys: [hash]}]",
        "",
    );
    let spread = &shape.spread[0];
    assert_eq!((spread.max_skew, spread.min_domains), (2, Some(3)));
    assert_eq!(
        (spread.node_affinity, spread.node_taints),
        (NodePolicy::Honor, NodePolicy::Ignore)
    );
    assert_eq!(spread.selector.as_ref().unwrap().0.len(), 2);
}

#[test]
fn tolerations_and_host_ports_are_read_as_the_api_means_them() {
    let shape = shape(
        "hostNetwork: true\ntolerations: [{operator: Exists}, {key: a, value: b, effect: NoSchedule}, {key: c}]\ncontainers: [{name: c, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP, hostIP: 10.0.0.1, hostPort: 53}]}]",
        "",
    );
    assert_eq!(
        shape.tolerations[0],
        headstart_core::label::Toleration::everything()
    );
    assert_eq!(shape.tolerations[1].effect, Some(Effect::NoSchedule));
    assert_eq!(shape.tolerations[2].value.as_deref(), Some(""));
    let ports: Vec<String> = shape
        .host_ports
        .iter()
        .map(|port| format!("{} {} {}", port.address, port.protocol, port.port))
        .collect();
    assert_eq!(ports, ["0.0.0.0 TCP 80", "10.0.0.1 UDP 53"]);
}

#[test]
fn priority_comes_from_the_pod_its_class_or_the_default_class() {
    let classes = "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 100\n---\napiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: usual}\nvalue: 5\nglobalDefault: true\n";
    assert_eq!(shape("", "").priority, 0);
    assert_eq!(shape("", classes).priority, 5);
    assert_eq!(shape("priorityClassName: high", classes).priority, 100);
    assert_eq!(shape("priorityClassName: lost", classes).priority, 5);
    assert_eq!(
        shape("priorityClassName: system-cluster-critical", "").priority,
        2_000_000_000
    );
    assert_eq!(
        shape("priority: 9\npriorityClassName: high", classes).priority,
        9
    );
}

/// Volumes of a pod that mounts the claim `c`, with this claim and others beside it.
fn mounted(claim: &str, others: &str) -> Vec<headstart_core::pod::Volume> {
    let claim = format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: c{claim}\n---\n{others}"
    );
    shape(
        "volumes: [{name: v, persistentVolumeClaim: {claimName: c}}]",
        &claim,
    )
    .volumes
}

#[test]
fn a_claim_that_cannot_be_used_says_why() {
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: now}\nprovisioner: d\nvolumeBindingMode: Immediate\n";
    for (claim, why) in [
        (
            ", deletionTimestamp: 2026-01-01T00:00:00Z}\nspec: {}",
            "its claim is being deleted",
        ),
        ("}\nstatus: {phase: Lost}", "its claim has lost its volume"),
        (
            "}\nspec: {storageClassName: now}\nstatus: {phase: Pending}",
            "its claim is not bound, and its class binds at once",
        ),
        (
            "}\nspec: {storageClassName: ''}\nstatus: {phase: Pending}",
            "its claim has no class and no volume",
        ),
    ] {
        let volumes = mounted(claim, class);
        assert_eq!(volumes[0].unusable.as_deref(), Some(why));
    }
    assert_eq!(
        mounted("}\nspec: {storageClassName: now}", class)[0].unusable,
        None
    );
    assert!(mounted("}\nspec: {storageClassName: unknown}", class).is_empty());
}

#[test]
fn a_local_volume_does_not_hold_its_pod_on_a_host_that_may_be_gone() {
    let volume = |source: &str| {
        format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: pv}}\nspec:\n  {source}\n  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [h]}}, {{key: topology.kubernetes.io/zone, operator: In, values: [z]}}]}}]}}}}\n"
        )
    };
    let keys = |source: &str| {
        let volumes = mounted("}\nspec: {volumeName: pv}", &volume(source));
        volumes[0].node_affinity[0]
            .0
            .iter()
            .map(|e| e.key.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys("local: {path: /x}"), [ZONE]);
    assert_eq!(keys("csi: {driver: d, volumeHandle: v}"), [HOSTNAME, ZONE]);
}

#[test]
fn ephemeral_volumes_keep_to_the_topology_of_their_class() {
    let class = "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: zonal}\nprovisioner: kubernetes.io/gce-pd\nvolumeBindingMode: WaitForFirstConsumer\nallowedTopologies: [{matchLabelExpressions: [{key: topology.gke.io/zone, values: [z]}]}]\n";
    let shape = shape(
        "volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {storageClassName: zonal}}}}, {name: e, emptyDir: {}}]",
        class,
    );
    assert_eq!(shape.volumes.len(), 1);
    let volume = &shape.volumes[0];
    assert_eq!(volume.claim.to_string(), "default/p-v");
    assert_eq!(volume.driver, "pd.csi.storage.gke.io");
    assert_eq!(volume.node_affinity[0].0[0].key, ZONE);
}

#[test]
fn pods_that_exist_are_not_made_again() {
    let live = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata:
    name: web-7c9-abcde
    uid: u1
    labels: {app: web, pod-template-hash: 7c9}
    ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7c9, uid: u0, controller: true}]
  spec: {nodeName: n1, containers: [{name: c}]}
  status: {phase: Running, containerStatuses: [{name: c, ready: false, image: i, imageID: i, restartCount: 0, state: {waiting: {reason: ContainerCreating}}}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-old, labels: {app: web}, deletionTimestamp: "2026-01-01T00:00:00Z", ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-7c8, uid: u0, controller: true}]}
  spec: {nodeName: n2, containers: [{name: c}]}
- apiVersion: v1
  kind: Pod
  metadata: {name: web-done, labels: {app: web}}
  spec: {nodeName: n2, containers: [{name: c}]}
  status: {phase: Succeeded}
- apiVersion: v1
  kind: Pod
  metadata: {name: by-hand, labels: {app: web}}
  spec: {containers: [{name: c}]}
- apiVersion: apps/v1
  kind: ReplicaSet
  metadata: {name: web-7c9, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u, controller: true}]}
  spec: {replicas: 1, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: web, annotations: {headstart.dev/max-gpus: "3"}}
  spec: {replicas: 4, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
"#;
    let snapshot = snapshot(live);
    let pods: Vec<String> = snapshot
        .pods
        .iter()
        .map(|pod| {
            format!(
                "{} {:?} {:?} {:?}",
                pod.key.name, pod.phase, pod.shape.eviction, pod.shape.wants.max_gpus
            )
        })
        .collect();
    expect![[r#"
        by-hand Pending Bare None
        web-0 Pending Allowed Some(3)
        web-1 Pending Allowed Some(3)
        web-7c9-abcde Bound { node: "n1", progress: Starting } Allowed Some(3)
        web-old Bound { node: "n2", progress: Terminating } Allowed None
    "#]]
    .assert_eq(&lines(&pods));
    let hash = |name: &str| {
        snapshot
            .pods
            .iter()
            .find(|pod| pod.key.name == name)
            .unwrap()
            .shape
            .labels["pod-template-hash"]
            .clone()
    };
    assert_eq!(hash("web-0"), "7c9");
}

#[test]
fn an_autoscaled_ray_cluster_needs_its_head_and_least_workers_and_the_rest_is_elastic() {
    let cluster = |scaling: &str| {
        format!(
            "apiVersion: ray.io/v1\nkind: RayCluster\nmetadata: {{name: r}}\nspec:\n  enableInTreeAutoscaling: {scaling}\n  headGroupSpec: {{template: {{spec: {{containers: [{{name: h}}]}}}}}}\n  workerGroupSpecs:\n  - {{groupName: w, replicas: 4, minReplicas: 2, maxReplicas: 8, numOfHosts: 2, template: {{spec: {{containers: [{{name: c}}]}}}}}}\n  - {{groupName: idle, replicas: 4, suspend: true, template: {{spec: {{containers: [{{name: c}}]}}}}}}\n  - {{groupName: low, minReplicas: 1, template: {{spec: {{containers: [{{name: c}}]}}}}}}\n  - {{groupName: high, replicas: 9, maxReplicas: 1, template: {{spec: {{containers: [{{name: c}}]}}}}}}\n"
        )
    };
    let group = |scaling| {
        let snapshot = snapshot(&cluster(scaling));
        let roles = snapshot.groups[0]
            .minimum
            .iter()
            .map(|(role, n)| format!("{role}={n}"));
        format!(
            "{} pods, {}",
            snapshot.pods.len(),
            roles.collect::<Vec<_>>().join(" ")
        )
    };
    assert_eq!(group("true"), "11 pods, headgroup=1 low=1 w=4");
    // The two hosts of a replica come together.
    let sets = &snapshot(&cluster("true")).groups[0].sets;
    assert_eq!(sets.iter().collect::<Vec<_>>(), [(&"w".to_owned(), &2)]);
    assert_eq!(group("false"), "11 pods, headgroup=1 high=1 low=1 w=8");
}

#[test]
fn live_ray_pods_belong_to_the_group_of_their_service_and_load_its_models() {
    let live = r#"
apiVersion: v1
kind: Pod
metadata:
  name: phi3-x-gpu-worker-abc
  namespace: serving
  labels: {ray.io/cluster: phi3-x, ray.io/group: gpu, ray.io/node-type: worker}
  ownerReferences: [{apiVersion: ray.io/v1, kind: RayCluster, name: phi3-x, uid: u, controller: true}]
spec: {nodeName: n1, containers: [{name: c}]}
---
"#;
    let service = RAY_SERVICE.replace(
        "spec:\n  serveConfigV2",
        "status: {activeServiceStatus: {rayClusterName: phi3-x}}\nspec:\n  serveConfigV2",
    );
    let snapshot = snapshot(&(live.to_owned() + &service));
    let pods: Vec<String> = snapshot
        .pods
        .iter()
        .map(|pod| {
            format!(
                "{} {:?} {} {:?}",
                pod.key.name,
                pod.shape.group.as_ref().map(ToString::to_string),
                pod.shape.role(),
                pod.shape.items.last().map(item)
            )
        })
        .collect();
    expect![[r#"
        phi3-x-gpu-worker-abc Some("serving/phi3-x") gpu Some("hf://microsoft/Phi-3-mini-4k-instruct@main")
        phi3-x-head Some("serving/phi3-x") headgroup Some("docker.io/rayproject/ray-llm:2.46.0-py311-cu124")
    "#]].assert_eq(&lines(&pods));
}

#[test]
fn jobs_make_as_many_pods_as_run_at_once_together_where_they_say_so() {
    let job = |spec: &str, annotations: &str| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: j, annotations: {{{annotations}}}}}\nspec:\n  {spec}\n  template: {{spec: {{restartPolicy: Never, containers: [{{name: c}}]}}}}\n"
        )
    };
    let made = |spec: &str, annotations: &str| {
        let snapshot = snapshot(&job(spec, annotations));
        let groups: Vec<String> = snapshot
            .groups
            .iter()
            .map(|group| format!("{} {:?} {:?}", group.key, group.minimum, group.same))
            .collect();
        (snapshot.pods.len(), groups.join(" "))
    };
    assert_eq!(made("backoffLimit: 1", ""), (1, String::new()));
    assert_eq!(
        made("parallelism: 4\n  completions: 3", ""),
        (3, String::new())
    );
    assert_eq!(made("suspend: true", ""), (0, String::new()));
    let gang =
        r#"headstart.dev/group: g, headstart.dev/group-min: "2", headstart.dev/group-same: rack"#;
    assert_eq!(
        made("parallelism: 4", gang),
        (4, r#"default/g {"": 2} Some("rack")"#.to_owned())
    );
    assert_eq!(
        made("parallelism: 4", "headstart.dev/group: g"),
        (4, r#"default/g {"": 4} None"#.to_owned())
    );
    let kai = r#"kai.scheduler/batch-min-member: "3""#;
    assert_eq!(
        made("parallelism: 4", kai),
        (4, r#"default/j {"": 3} None"#.to_owned())
    );
}

#[test]
fn a_job_set_makes_the_pods_of_all_its_jobs() {
    let set = "apiVersion: jobset.x-k8s.io/v1alpha2\nkind: JobSet\nmetadata: {name: s, annotations: {headstart.dev/group: s}}\nspec:\n  replicatedJobs:\n  - {name: w, replicas: 2, template: {spec: {parallelism: 2, completions: 2, template: {spec: {containers: [{name: c}]}}}}}\n  - {name: d, template: {spec: {template: {spec: {containers: [{name: c}]}}}}}\n";
    let snapshot = snapshot(set);
    let names: Vec<&str> = snapshot
        .pods
        .iter()
        .map(|pod| pod.key.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["s-d-0-0", "s-w-0-0", "s-w-0-1", "s-w-1-0", "s-w-1-1"]
    );
    assert_eq!(snapshot.groups[0].minimum[""], 5);
}

#[test]
fn a_budget_without_a_count_of_the_server_counts_pods_that_run() {
    let pods: String = (0..4)
        .map(|n| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p{n}, labels: {{app: a}}}}\nspec: {{nodeName: n1, containers: [{{name: c}}]}}\n---\n"))
        .collect();
    let allowed = |spec: &str, status: &str| {
        let budget = format!(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: b}}\nspec: {{selector: {{matchLabels: {{app: a}}}}{spec}}}\n{status}"
        );
        snapshot(&(pods.clone() + &budget)).pod_budgets[0].allowed
    };
    assert_eq!(allowed(", minAvailable: 1", ""), 3);
    assert_eq!(allowed(", minAvailable: 51%", ""), 1);
    assert_eq!(allowed(", maxUnavailable: 0", ""), 0);
    assert_eq!(allowed(", maxUnavailable: 26%", ""), 2);
    assert_eq!(allowed("", ""), 1);
    assert_eq!(
        allowed(
            ", minAvailable: 1",
            "status: {disruptionsAllowed: 7, currentHealthy: 8, desiredHealthy: 1, expectedPods: 8}"
        ),
        7
    );
}

#[test]
fn a_daemon_runs_where_the_controller_lets_it_and_a_pod_of_one_never_holds_a_node() {
    let daemons = snapshot(CLUSTER).daemons;
    let keys = daemons[0]
        .tolerations
        .iter()
        .filter_map(|t| t.key.as_deref());
    assert!(
        keys.collect::<Vec<_>>()
            .contains(&"node.kubernetes.io/network-unavailable")
    );
    assert_eq!(daemons[0].eviction, Eviction::Daemon);
    let mirror = "apiVersion: v1\nkind: Pod\nmetadata: {name: m, annotations: {kubernetes.io/config.mirror: x}}\nspec: {nodeName: n1, containers: [{name: c}]}\n";
    assert_eq!(snapshot(mirror).pods[0].shape.eviction, Eviction::Daemon);
}

#[test]
fn typed_lists_json_and_arrays_are_unfolded() {
    let list = r#"{"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}}]} {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"}, "spec": {"containers": [{"name": "c"}]}}"#;
    assert_eq!(snapshot(list).pods.len(), 2);
    let flow = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c}]}}";
    assert_eq!(snapshot(flow).pods.len(), 1);
    let array = format!("[{flow}, {}]", flow.replace("name: a", "name: b"));
    assert_eq!(snapshot(&array).pods.len(), 2);
    let anchors = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - &c {name: c, resources: {requests: {cpu: 1}}}\n  - {<<: *c, name: d}\n";
    assert_eq!(snapshot(anchors).pods[0].shape.requests.of("cpu"), 2000);
    for empty in ["", "---\n---\n", "# nothing\n", "---\n# a\n...\n"] {
        assert!(snapshot(empty).pods.is_empty(), "{empty:?}");
    }
}

#[test]
fn a_slip_in_a_well_known_label_is_noted_with_what_was_meant() {
    let yaml = pod(
        "nodeSelector: {kubernets.io/arch: amd64, topology.kubernetes.io/rack: r, kubernetes.io/os: linux}\naffinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: karpenter.sh/capacity-typ, operator: Exists}]}]}}}\ncontainers: [{name: c}]",
        "",
    );
    notes(
        &yaml,
        &expect![[r#"
        a.yaml, document 1, Pod default/p: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions: "karpenter.sh/capacity-typ" is no well-known label; did you mean karpenter.sh/capacity-type?
        a.yaml, document 1, Pod default/p: spec.nodeSelector: "kubernets.io/arch" is no well-known label; did you mean kubernetes.io/arch?
    "#]],
    );
}

/// A cluster of the Ray service of the fixture, as KubeRay makes it and Ray's autoscaler grows it.
const RAY_CLUSTER: &str = r#"
---
apiVersion: ray.io/v1
kind: RayCluster
metadata:
  name: phi3-raycluster-x
  namespace: serving
  labels: {ray.io/originated-from-crd: RayService, ray.io/originated-from-cr-name: phi3}
  ownerReferences: [{apiVersion: ray.io/v1, kind: RayService, name: phi3, uid: u, controller: true}]
spec:
  enableInTreeAutoscaling: true
  headGroupSpec: {template: {spec: {containers: [{name: h}]}}}
  workerGroupSpecs:
  - {groupName: gpu, replicas: 3, minReplicas: 1, template: {spec: {containers: [{name: c, resources: {limits: {nvidia.com/gpu: 1}}}]}}}
"#;

#[test]
fn a_ray_cluster_that_exists_is_planned_in_place_of_its_services_specification() {
    let snapshot = snapshot(&(RAY_SERVICE.to_owned() + RAY_CLUSTER));
    let pods: Vec<String> = snapshot
        .pods
        .iter()
        .map(|pod| {
            let items = pod.shape.items.iter().map(item);
            format!("{} {:?}", pod.key.name, items.collect::<Vec<_>>())
        })
        .collect();
    expect![[r#"
        phi3-raycluster-x-gpu-worker-0 ["hf://microsoft/Phi-3-mini-4k-instruct@main"]
        phi3-raycluster-x-gpu-worker-1 ["hf://microsoft/Phi-3-mini-4k-instruct@main"]
        phi3-raycluster-x-gpu-worker-2 ["hf://microsoft/Phi-3-mini-4k-instruct@main"]
        phi3-raycluster-x-head []
    "#]]
    .assert_eq(&lines(&pods));
    assert_eq!(snapshot.groups.len(), 1);
    assert_eq!(snapshot.groups[0].minimum["gpu"], 1);
}

#[test]
fn what_a_ray_service_says_of_gpus_and_models_is_not_asked_of_its_head() {
    let annotated = RAY_SERVICE.replace(
        "  namespace: serving\n",
        "  namespace: serving\n  annotations: {headstart.dev/gpu-skus: H100, headstart.dev/models: org/other, headstart.dev/max-hourly-cost: \"9\"}\n",
    );
    let snapshot = snapshot(&annotated.replace("node.elotl.co/instance-gpu-skus", "a/b"));
    let [worker, head] = &snapshot.pods[..] else {
        panic!("{} pods", snapshot.pods.len());
    };
    assert!(head.shape.wants.gpu_skus.is_empty());
    assert_eq!(head.shape.items.len(), 1);
    assert!(head.shape.wants.max_price.is_some());
    assert!(worker.shape.wants.gpu_skus.contains("H100"));
    assert_eq!(item(&worker.shape.items[1]), "hf://org/other@main");
}

#[test]
fn a_ray_job_makes_its_cluster_unless_it_is_over_or_runs_on_another() {
    let job = |spec: &str, status: &str| {
        let yaml = format!(
            "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {{name: batch}}\nspec:\n  entrypoint: python x.py\n  {spec}\n  rayClusterSpec: {{headGroupSpec: {{template: {{spec: {{containers: [{{name: h}}]}}}}}}}}\n{status}"
        );
        snapshot(&yaml).pods.len()
    };
    assert_eq!(job("shutdownAfterJobFinishes: true", ""), 1);
    assert_eq!(job("suspend: true", ""), 0);
    assert_eq!(job("clusterSelector: {ray.io/cluster: c}", ""), 0);
    assert_eq!(job("a: b", "status: {jobDeploymentStatus: Complete}"), 0);
}

#[test]
fn a_leader_worker_set_makes_only_what_it_lacks_and_live_pods_join_their_group() {
    let live = r#"
---
apiVersion: v1
kind: Pod
metadata:
  name: big-1
  labels: {leaderworkerset.sigs.k8s.io/name: big, leaderworkerset.sigs.k8s.io/group-index: "1", leaderworkerset.sigs.k8s.io/worker-index: "0", leaderworkerset.sigs.k8s.io/group-key: 5f3a}
spec: {nodeName: n1, containers: [{name: c}]}
"#;
    let snapshot = snapshot(&(LWS.to_owned() + live));
    let pods: Vec<String> = snapshot
        .pods
        .iter()
        .map(|pod| {
            let group = pod.shape.group.as_ref().map(ToString::to_string);
            format!(
                "{} {group:?} {} {:?}",
                pod.key.name,
                pod.shape.role(),
                pod.phase
            )
        })
        .collect();
    expect![[r#"
        big-0 Some("default/big-0") leader Pending
        big-0-1 Some("default/big-0") worker Pending
        big-1 Some("default/big-1") leader Bound { node: "n1", progress: Running }
        big-1-1 Some("default/big-1") worker Pending
    "#]]
    .assert_eq(&lines(&pods));
    let apart = &snapshot.pods[0].shape.anti_affinity[0];
    assert_eq!(apart.topology_key, ZONE);
    let selector = apart.selector.as_ref().unwrap();
    assert!(!selector.matches(&snapshot.pods[1].shape.labels));
    assert!(selector.matches(&snapshot.pods[3].shape.labels));
    let joins = &snapshot.pods[3].shape.anti_affinity[0].selector;
    assert!(
        !joins
            .as_ref()
            .unwrap()
            .matches(&snapshot.pods[2].shape.labels)
    );
}

#[test]
fn a_group_whose_last_pod_is_leaving_is_no_group() {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, deletionTimestamp: \"2026-01-01T00:00:00Z\", annotations: {headstart.dev/group: g}}\nspec: {nodeName: n1, containers: [{name: c}]}\n";
    let snapshot = snapshot(pod);
    assert_eq!(snapshot.groups, []);
    assert_eq!(snapshot.pods[0].shape.group, None);
}
