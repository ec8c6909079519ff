//! Input that is wrong: every fault is said with its place, what was found and what to write.

use super::*;

#[test]
fn all_faults_of_all_files_come_together_in_order() {
    let broken = "kind: Pod\n---\n: : :\n\t- x\n---\n[1, 2]\n---\nhello\n";
    let files = [
        ("z.yaml", broken.as_bytes()),
        (
            "a.json",
            br#"{"apiVersion": "v1", "kind": "Pod", "metadata": {}}"#,
        ),
        ("b.bin", &[0xff, 0xfe, 0x00]),
    ];
    let found = read(&files).unwrap_err();
    expect![[r#"
        a.json, document 1, Pod default/without a name: metadata.name: is missing; give the object a name
        b.bin, document 1: is not UTF-8 text (byte 0); save it as UTF-8 YAML or JSON
        z.yaml, document 1, Pod default/without a name: apiVersion: is missing; every object needs apiVersion and kind, such as v1 and Pod
        z.yaml, document 2: is not YAML that can be read: a key is not a text
        z.yaml, document 3: [0]: is the number 1; write an object
        z.yaml, document 3: [1]: is the number 2; write an object
        z.yaml, document 4: is the text "hello"; write an object with apiVersion, kind and metadata
    "#]].assert_eq(&lines(&found));
}

#[test]
fn a_key_that_is_given_twice_is_an_error_in_yaml_and_in_json() {
    problems(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n",
        &expect![[r#"
            a.yaml, document 1: is not YAML that can be read (line 5): the key "name" is given twice
        "#]],
    );
    problems(
        r#"{"apiVersion": "v1", "kind": "Pod", "kind": "Node"}"#,
        &expect![[r#"
            a.yaml, document 1: is not YAML that can be read (line 1): the key "kind" is given twice
        "#]],
    );
}

#[test]
fn an_old_api_version_of_a_kind_we_read_is_an_error_and_another_kind_is_a_note() {
    problems(
        "apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: a}\n---\napiVersion: headstart.dev/v1beta1\nkind: NodePool\nmetadata: {name: p}\nspec: {}\n",
        &expect![[r#"
            a.yaml, document 1, Deployment default/a: apiVersion: is "extensions/v1beta1", which is not read; write apps/v1
            a.yaml, document 2, NodePool p: apiVersion: is "headstart.dev/v1beta1", which is not read; write headstart.dev/v1alpha1
        "#]],
    );
    notes(
        "apiVersion: karpenter.sh/v1\nkind: NodePool\nmetadata: {name: p}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: t}\n---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\nspec: {schedule: '@daily', jobTemplate: {}}\n",
        &expect![[r#"
            a.yaml, document 1, NodePool p: karpenter.sh/v1/NodePool is not read: it does not decide where pods run
            a.yaml, document 2, Secret default/s: v1/Secret (2 objects, this is one) is not read
            a.yaml, document 4, CronJob default/nightly: is left out: nobody knows here when it runs; plan for its Job
        "#]],
    );
}

#[test]
fn a_pod_that_no_api_server_would_take_is_refused_field_by_field() {
    problems(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: p
  annotations: {a/b: true}
  labels: {n: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: q}
spec:
  tolerations:
    - {operator: Equal}
    - {key: a, operator: Exist}
    - {key: a, operator: Exists, value: x}
    - {key: a, effect: NoRun}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
          - matchExpressions:
              - {key: a, operator: In}
              - {key: a, operator: Gt, values: [many]}
              - {key: a, operator: Exists, values: [x]}
              - {key: a, operator: Gte, values: ["1"]}
          - matchFields: [{key: metadata.uid, operator: In, values: [x]}]
      preferredDuringSchedulingIgnoredDuringExecution:
        - {weight: 0, preference: {}}
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: ""}]
  topologySpreadConstraints:
    - {maxSkew: 0, topologyKey: a, whenUnsatisfiable: DoNotSchedule}
    - {maxSkew: 1, topologyKey: a, whenUnsatisfiable: Perhaps}
    - {maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway, minDomains: -1, nodeTaintsPolicy: Obey}
  resources: {requests: {nvidia.com/gpu: 1}}
  containers:
    - name: c
      image: "bad image"
      ports: [{containerPort: 1, hostPort: 70000}]
      resources:
        requests: {cpu: -1, memory: 99999999999Ei, "": 1, nvidia.com/gpu: lots}
        limits: {memory: 1Gi}
    - name: d
      resources:
        requests: {memory: 2Gi}
        limits: {memory: 1Gi}
---
apiVersion: v1
kind: Pod
metadata: {name: r}
spec:
  containers: {name: c}
---
apiVersion: v1
kind: Pod
metadata: {name: s}
"#,
        &expect![[r#"
            a.yaml, document 1, Pod default/p: metadata.annotations.a/b: is the boolean true; put the value in quotes
            a.yaml, document 1, Pod default/p: metadata.labels.false: is the number 1; put the value in quotes
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: is 0; write a number from 1 to 100
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: is empty; In needs at least one value
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: is "many"; Gt needs one integer
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: has 1 entries; Exists takes none
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].operator: is "Gte"; did you mean Gt?
            a.yaml, document 2, Pod default/q: spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchFields[0]: key is "metadata.uid"; only metadata.name can be selected
            a.yaml, document 2, Pod default/q: spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: is empty; name a node label such as topology.kubernetes.io/zone
            a.yaml, document 2, Pod default/q: spec.containers[0].image: "bad image" is not an image reference: it contains white space; write it as registry/name:tag
            a.yaml, document 2, Pod default/q: spec.containers[0].ports[0].hostPort: is 70000; write a port from 1 to 65535
            a.yaml, document 2, Pod default/q: spec.containers[0].resources.requests: "" is not the name of a resource
            a.yaml, document 2, Pod default/q: spec.containers[0].resources.requests: cpu "-1" is below zero; write it as 500m or 2
            a.yaml, document 2, Pod default/q: spec.containers[0].resources.requests: memory "99999999999Ei" is too large; write it as 512Mi, 10Gi or 1
            a.yaml, document 2, Pod default/q: spec.containers[0].resources.requests: nvidia.com/gpu "lots" is not a number; write it as 512Mi, 10Gi or 1
            a.yaml, document 2, Pod default/q: spec.containers[1].resources.requests: memory is 2Gi, more than its limit of 1Gi; lower it or raise the limit
            a.yaml, document 2, Pod default/q: spec.resources.requests: nvidia.com/gpu cannot be asked for at the level of the pod; ask for it in a container
            a.yaml, document 2, Pod default/q: spec.tolerations[0].key: is empty; name a taint, or write operator: Exists to tolerate all
            a.yaml, document 2, Pod default/q: spec.tolerations[1].operator: is "Exist"; did you mean Exists?
            a.yaml, document 2, Pod default/q: spec.tolerations[2].value: is "x"; with operator Exists leave it away
            a.yaml, document 2, Pod default/q: spec.tolerations[3].effect: is "NoRun"; use one of NoSchedule, PreferNoSchedule, NoExecute
            a.yaml, document 2, Pod default/q: spec.topologySpreadConstraints[0].maxSkew: is 0; write a number greater than 0
            a.yaml, document 2, Pod default/q: spec.topologySpreadConstraints[1].whenUnsatisfiable: is "Perhaps"; use one of DoNotSchedule, ScheduleAnyway
            a.yaml, document 2, Pod default/q: spec.topologySpreadConstraints[2].minDomains: is -1; write a number greater than 0
            a.yaml, document 2, Pod default/q: spec.topologySpreadConstraints[2].nodeTaintsPolicy: is "Obey"; use one of Honor, Ignore
            a.yaml, document 3, Pod default/r: spec.containers: invalid type: map, expected a sequence
            a.yaml, document 4, Pod default/s: spec: is missing; describe the pod
        "#]],
    );
}

#[test]
fn a_workload_that_makes_no_sense_is_refused() {
    problems(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec:
  replicas: -1
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: b}}
    spec: {containers: [{name: c}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: big}
spec:
  replicas: 2000000000
  selector: {matchLabels: {app: a}}
  template:
    metadata: {labels: {app: a}}
    spec: {containers: [{name: c}]}
---
apiVersion: ray.io/v1
kind: RayService
metadata: {name: r}
spec:
  serveConfigV2: "applications: ["
  rayClusterConfig:
    headGroupSpec: {}
    workerGroupSpecs:
      - {groupName: w, replicas: -2, template: {spec: {containers: [{name: c}]}}}
      - {groupName: w, replicas: 1, template: {spec: {containers: [{name: c}]}}}
---
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: none}
---
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: l}
spec: {leaderWorkerTemplate: {size: 0, workerTemplate: {spec: {containers: [{name: c}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: j
  annotations: {headstart.dev/group: "", kai.scheduler/batch-min-member: "0"}
spec:
  template: {spec: {containers: [{name: c}]}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {selector: {}, template: {}}
"#,
        &expect![[r#"
            a.yaml, document 1, Deployment default/a: spec.replicas: is -1; write 0 or more
            a.yaml, document 1, Deployment default/a: spec.selector: does not match spec.template.metadata.labels; make the two agree
            a.yaml, document 2, Deployment default/big: spec.template.spec: asks for 2000000000 pods, more than 200000 in all; lower the number of replicas
            a.yaml, document 3, RayService default/r: spec.rayClusterConfig.headGroupSpec.template: is missing; describe the pod
            a.yaml, document 3, RayService default/r: spec.rayClusterConfig.workerGroupSpecs[0].replicas: is -2; write 0 or more
            a.yaml, document 3, RayService default/r: spec.rayClusterConfig.workerGroupSpecs[1].groupName: is missing or taken; give each group a name of its own
            a.yaml, document 3, RayService default/r: spec.serveConfigV2: is not YAML that can be read (line 1): unclosed bracket '['
            a.yaml, document 4, RayCluster default/none: spec: is missing; describe the cluster
            a.yaml, document 5, LeaderWorkerSet default/l: spec.leaderWorkerTemplate.size: is 0; write a number from 1 to 10000
            a.yaml, document 6, Job default/j: metadata.annotations.headstart.dev/group: is ""; write a name of letters, digits, '-' and '.'
            a.yaml, document 6, Job default/j: metadata.annotations.kai.scheduler/batch-min-member: is "0"; write 1 or more
            a.yaml, document 7, Node n1: status.allocatable: is missing; say what pods can have of the node
            a.yaml, document 8, Deployment default/a: is there already (a.yaml, document 1); keep one of them
        "#]],
    );
}

#[test]
fn members_of_one_group_must_say_the_same_of_it() {
    let pod = |name: &str, minimum: &str, same: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{headstart.dev/group: g, headstart.dev/group-min: \"{minimum}\", headstart.dev/group-same: {same}}}}}\nspec: {{containers: [{{name: c}}]}}\n---\n"
        )
    };
    problems(
        &(pod("a", "2", "zone") + &pod("b", "3", "rack") + &pod("c", "0", "zone")),
        &expect![[r#"
            a.yaml, document 2, Pod default/b: headstart.dev/group-min is 3 here and 2 on another pod of group default/g; write the same on all
            a.yaml, document 2, Pod default/b: headstart.dev/group-same is rack here and zone on another pod of group default/g; write the same on all
            a.yaml, document 3, Pod default/c: metadata.annotations.headstart.dev/group-min: is "0"; write how many pods must run together, 1 or more
        "#]],
    );
}

#[test]
fn a_node_pool_is_read_strictly_and_says_what_was_meant() {
    let pool = |spec: &str| {
        format!(
            "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {{name: p}}\nspec: {spec}\n"
        )
    };
    for (spec, expected) in [
        (
            "{gpuSku: [L4]}",
            expect![[r#"
                a.yaml, document 1, NodePool p: spec.gpuSku: "gpuSku" is no field here; did you mean gpuSkus?
            "#]],
        ),
        (
            "{maxHourlyCost: .nan}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.maxHourlyCost: ".nan" is not a price; write USD per hour, such as 1.25
        "#]],
        ),
        (
            "{maxHourlyCost: -1}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.maxHourlyCost: -1 is not a price in USD per hour: it must be a number from 0 to 100000
        "#]],
        ),
        (
            "{valueOfTime: much}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.valueOfTime: "much" is not a price; write USD per hour, such as 1.25
        "#]],
        ),
        (
            "{expectedLife: 5 minutes}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.expectedLife: "5 minutes" has no unit; write it as 300s, 5m, 1h30m or 30d
        "#]],
        ),
        (
            "{disruption: {expireAfter: never}}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.disruption.expireAfter: "never" has a unit that is not known; write it as 300s, 5m, 1h30m or 30d, or Never
        "#]],
        ),
        (
            "{disruption: {budgets: [{nodes: 200%}]}}",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec.disruption.budgets[0].nodes: "200%" is neither a number nor a share; write 3 or 10%
        "#]],
        ),
        (
            "{disruption: {budgets: [{nodes: 1, schedule: '0 9 * * *', duration: 8h}]}}",
            expect![[r#"
                a.yaml, document 1, NodePool p: spec.disruption.budgets[0].schedule: is "0 9 * * *", and windows are not understood yet; leave schedule and duration away, so that the budget always holds
            "#]],
        ),
        (
            "{requirements: [{key: a, operator: Near, values: []}]}",
            expect![[r#"
                a.yaml, document 1, NodePool p: spec.requirements[0].operator: "Near" is no value here; use one of In, NotIn, Exists, DoesNotExist, Gt, Lt, Gte, Lte
            "#]],
        ),
        (
            "{packing: {gpu: Shared}}",
            expect![[r#"
                a.yaml, document 1, NodePool p: spec.packing.gpu: "Shared" is no value here; did you mean Share?
            "#]],
        ),
        (
            "{requirements: [{key: a, operator: In}], limits: {cpu: -1, memory: 9000Pi2}, capacityTypes: [sopt], gpuSkus: ['?'], instanceTypeRegexp: '(', taints: [{key: '', effect: Nope}], disruption: {underusedSharedPercent: 101}, expectedLife: 0}",
            expect![[r#"
                a.yaml, document 1, NodePool p: spec.capacityTypes[0]: "sopt" is not a capacity type: use spot, on-demand or reserved
                a.yaml, document 1, NodePool p: spec.disruption.underusedSharedPercent: is 101; write a number from 0 to 100
                a.yaml, document 1, NodePool p: spec.expectedLife: is 0; write how long a node is used, such as 1h
                a.yaml, document 1, NodePool p: spec.gpuSkus[0]: "?" is not the name of a GPU; write it as L4, A10G or H100
                a.yaml, document 1, NodePool p: spec.instanceTypeRegexp: "(" is not a regular expression: found open group without closing ')'
                a.yaml, document 1, NodePool p: spec.limits: cpu "-1" is below zero; write it as 500m or 2
                a.yaml, document 1, NodePool p: spec.limits: memory "9000Pi2" has a suffix that is not known; write it as 512Mi, 10Gi or 1
                a.yaml, document 1, NodePool p: spec.requirements[0].values: is empty; In needs at least one value
                a.yaml, document 1, NodePool p: spec.taints[0].key: is empty; a taint has a key
            "#]],
        ),
        (
            "7",
            expect![[r#"
            a.yaml, document 1, NodePool p: spec: invalid type: integer `7`, expected struct NodePoolSpec
        "#]],
        ),
    ] {
        problems(&pool(spec), &expected);
    }
    problems(
        "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: p}\n",
        &expect![[r#"
            a.yaml, document 1, NodePool p: missing field `spec`
        "#]],
    );
}

#[test]
fn a_node_cache_names_each_item_once_and_fully() {
    problems(
        r#"
apiVersion: headstart.dev/v1alpha1
kind: NodeCache
metadata: {name: n1}
spec: {items: [{}]}
status:
  room: -1
  items:
    - {image: a:1}
    - {image: a:1, model: org/m, state: Verified}
    - {image: a:1, files: x, state: Verified}
    - {model: org/m, state: Verified}
    - {model: org/m, state: Unknown}
    - {model: s3://x, state: Verified}
    - {model: org/n, state: Partial, bytes: some}
"#,
        &expect![[r#"
            a.yaml, document 1, NodeCache n1: spec.items[0]: names no item, or two; give either image or model
            a.yaml, document 1, NodeCache n1: status.items[0].state: is missing; write Verified, Partial or Unknown
            a.yaml, document 1, NodeCache n1: status.items[1]: names no item, or two; give either image or model
            a.yaml, document 1, NodeCache n1: status.items[2].files: belongs to a model; an image has none
            a.yaml, document 1, NodeCache n1: status.items[4]: is listed twice; keep one
            a.yaml, document 1, NodeCache n1: status.items[5].model: model "s3://x": scheme "s3" is not understood; write hf://org/name[@revision][?include=glob&exclude=glob]
            a.yaml, document 1, NodeCache n1: status.items[6].bytes: ephemeral-storage "some" is not a number; write it as 512Mi, 10Gi or 1
            a.yaml, document 1, NodeCache n1: status.room: ephemeral-storage "-1" is below zero; write it as 512Mi, 10Gi or 1
        "#]],
    );
}

#[test]
fn what_a_kind_has_no_field_for_is_noted() {
    notes(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  nodeSelektor: {a: b}\n  containers: [{name: c, resource: {}}]\n",
        &expect![[r#"
            a.yaml, document 1, Pod default/p: spec.containers[0].resource: is no field of this kind and is ignored
            a.yaml, document 1, Pod default/p: spec.nodeSelektor: is no field of this kind and is ignored
        "#]],
    );
}
