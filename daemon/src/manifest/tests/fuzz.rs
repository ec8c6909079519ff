//! Fuzzing of the manifest and annotation parsers: files of a corpus, mutated token by token.
//!
//! What is read goes on into a plan, which the judge must have nothing against: what was misread must
//! not become a purchase that nobody asked for. PROPTEST_CASES and PROPTEST_RNG_SEED make it hunt.

use headstart_core::snapshot::Policy;
use headstart_core::solve;
use headstart_core::verify::verify;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::hostile::sound;
use super::plans::with_offers;
use super::*;

/// Files of every kind that is read.
const CORPUS: [&str; 8] = [
    RAY_SERVICE,
    DEPLOYMENT,
    LWS,
    STATEFUL_SET,
    CLUSTER,
    include_str!("../../../tests/plan/pools.yaml"),
    include_str!("../../../tests/plan/rayservice.yaml"),
    KINDS,
];

/// Kinds and fields that the fixtures do not have.
const KINDS: &str = r#"
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: tpu, annotations: {headstart.dev/capacity-types: "spot,on-demand"}}
spec:
  enableInTreeAutoscaling: true
  headGroupSpec: {template: {spec: {containers: [{name: h, resources: {requests: {cpu: 500m}}}]}}}
  workerGroupSpecs:
  - {groupName: w, replicas: 3, minReplicas: 1, maxReplicas: 4, numOfHosts: 2, template: {spec: {containers: [{name: c, resources: {limits: {nvidia.com/gpu: 1}}}]}}}
---
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: s, annotations: {leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology: topology.kubernetes.io/zone}}
spec:
  replicas: 2
  leaderWorkerTemplate:
    size: 4
    subGroupPolicy: {subGroupSize: 2}
    workerTemplate: {spec: {containers: [{name: c, image: "busybox:1.36", resources: {requests: {cpu: 1, memory: 1Gi}}}]}}
---
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata: {name: jobs}
spec:
  replicatedJobs:
  - {name: a, replicas: 2, template: {spec: {parallelism: 2, template: {spec: {restartPolicy: Never, containers: [{name: c}]}}}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: p
  labels: {app: p}
  annotations:
    node.elotl.co/instance-gpu-skus: "L4, A10G"
    node.elotl.co/instance-max-cost: "4.75"
    node.elotl.co/instance-type-regexp: "^g6\\."
    node.elotl.co/instance-family-inclusions: g6
    pod.elotl.co/do-not-evict: "true"
    headstart.dev/models: "hf://org/m@main?include=*.safetensors"
    headstart.dev/group: g
    headstart.dev/group-min: "1"
spec:
  priority: 10
  overhead: {cpu: 100m}
  resources: {requests: {cpu: 2}}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: headstart.dev/cpu, operator: Gt, values: ["2"]}]}]}}
    podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{labelSelector: {matchLabels: {app: p}}, topologyKey: kubernetes.io/hostname}]}
  topologySpreadConstraints: [{maxSkew: 1, minDomains: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: p}}, matchLabelKeys: [app]}]
  initContainers: [{name: i, restartPolicy: Always, resources: {requests: {cpu: 1500m}}}]
  containers: [{name: c, args: [vllm, serve, org/m, "--revision", v1], ports: [{containerPort: 80, hostPort: 8080}], resources: {limits: {nvidia.com/gpu: 1, memory: 8Gi}}}]
---
apiVersion: headstart.dev/v1alpha1
kind: Prefetch
metadata: {name: f}
spec: {models: ["hf://org/m"], images: ["busybox:1.36"], nodeSelector: {matchLabels: {a: b}}}
"#;

/// Words at which parsers turn.
const WORDS: [&str; 40] = [
    "0",
    "-1",
    "1",
    "2",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "1e400",
    "NaN",
    "0.1",
    "1m",
    "1n",
    "8Ei",
    "9E",
    "1Ki",
    "\"\"",
    "null",
    "~",
    "true",
    "[]",
    "{}",
    "*",
    "&a",
    "*a",
    "<<",
    "|",
    ">",
    "!!str",
    "---",
    "In",
    "Exists",
    "Gt",
    "(a|b)+",
    "[",
    "hf://",
    "hf://a/b@../..",
    "a/b:c@sha256:0",
    "\u{0}",
    "\u{feff}",
    "é",
];

#[derive(Clone, Debug)]
enum Change {
    /// Another token of the corpus, or a word, in a token's place.
    Put(Index, Index, Index),
    Word(Index, &'static str),
    Drop(Index),
    Twice(Index),
    /// The rest is that of another file.
    Splice(Index, Index, Index),
    CutLine(Index),
    MoveLine(Index, Index),
    Byte(Index, u8),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<Index>;
    let change = prop_oneof![
        4 => (at(), at(), at()).prop_map(|(at, file, from)| Change::Put(at, file, from)),
        4 => (at(), select(WORDS.to_vec())).prop_map(|(at, word)| Change::Word(at, word)),
        2 => at().prop_map(Change::Drop),
        2 => at().prop_map(Change::Twice),
        1 => (at(), at(), at()).prop_map(|(at, file, from)| Change::Splice(at, file, from)),
        2 => at().prop_map(Change::CutLine),
        2 => (at(), at()).prop_map(|(from, to)| Change::MoveLine(from, to)),
        1 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
    ];
    prop::collection::vec(change, 1..6)
}

/// A text in words and what is between them.
fn tokens(text: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || "-_./@$".contains(c);
    let mut tokens: Vec<String> = Vec::new();
    let mut before = None;
    for c in text.chars() {
        match tokens.last_mut() {
            Some(last) if is_word(c) && before == Some(true) => last.push(c),
            _ => tokens.push(c.to_string()),
        }
        before = Some(is_word(c));
    }
    tokens
}

fn other(file: &Index) -> &'static str {
    CORPUS[file.index(CORPUS.len())]
}

fn apply(text: &str, change: &Change) -> Vec<u8> {
    let mut words = tokens(text);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if words.is_empty() {
        return Vec::new();
    }
    match change {
        Change::Put(at, file, from) => {
            let there = tokens(other(file));
            let at = at.index(words.len());
            words[at].clone_from(&there[from.index(there.len())]);
        }
        Change::Word(at, word) => {
            let at = at.index(words.len());
            words[at] = (*word).to_owned();
        }
        Change::Drop(at) => {
            words.remove(at.index(words.len()));
        }
        Change::Twice(at) => {
            let at = at.index(words.len());
            words.insert(at, words[at].clone());
        }
        Change::Splice(at, file, from) => {
            words.truncate(at.index(words.len()));
            let there = tokens(other(file));
            words.extend_from_slice(&there[from.index(there.len())..]);
        }
        Change::CutLine(at) => {
            lines.remove(at.index(lines.len()));
            return lines.concat().into_bytes();
        }
        Change::MoveLine(from, to) => {
            let line = lines.remove(from.index(lines.len()));
            lines.insert(to.index(lines.len() + 1), line);
            return lines.concat().into_bytes();
        }
        Change::Byte(at, byte) => {
            let mut bytes = text.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = *byte;
            return bytes;
        }
    }
    words.concat().into_bytes()
}

/// Pods for which a plan is made: one of thousands takes long in an unoptimised test.
const MOST_PLANNED: usize = 60;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_file_is_refused_or_planned_for_without_objections(
        file in any::<Index>(), changes in changes(),
    ) {
        let mut bytes = other(&file).as_bytes().to_vec();
        for change in &changes {
            bytes = apply(&String::from_utf8_lossy(&bytes), change);
        }
        sound(&bytes)?;
        let Ok(manifests) = read(&[("fuzz", bytes)]) else {
            return Ok(());
        };
        let mut snapshot = manifests.into_snapshot(NOW);
        if snapshot.pods.len() + snapshot.nodes.len() > MOST_PLANNED {
            return Ok(());
        }
        if snapshot.pools.is_empty() {
            let pool = "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: any}\nspec: {}\n";
            snapshot.pools = super::snapshot(pool).pools;
        }
        let snapshot = with_offers(snapshot);
        let policy = Policy::default();
        let plan = solve::plan(&snapshot, &policy);
        let wrong = verify(&snapshot, &policy, &plan);
        prop_assert!(wrong.is_empty(), "{wrong:#?}\n{plan:#?}");
    }

    #[test]
    fn a_mutated_annotation_is_refused_or_means_no_more_than_it_says(
        name in select(vec![
            "node.elotl.co/instance-gpu-skus", "node.elotl.co/instance-max-gpus", "node.elotl.co/instance-max-cost",
            "node.elotl.co/instance-offerings", "node.elotl.co/instance-family-inclusions",
            "node.elotl.co/instance-family-exclusions", "node.elotl.co/instance-type-regexp",
            "headstart.dev/gpu-skus", "headstart.dev/max-gpus", "headstart.dev/max-hourly-cost",
            "headstart.dev/capacity-types", "headstart.dev/instance-families",
            "headstart.dev/exclude-instance-families", "headstart.dev/instance-type-regexp",
        ]),
        value in select(vec!["L4,A10G", "2", "4.75", "spot,on-demand", "g6,g5", "^g6\\.", ""]),
        changes in changes(),
    ) {
        let mut value = value.to_owned();
        for change in &changes {
            value = String::from_utf8_lossy(&apply(&value, change)).chars().take(300).collect();
        }
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {name: value}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]},
        });
        sound(pod.to_string().as_bytes())?;
        let Ok(manifests) = read(&[("fuzz", pod.to_string())]) else {
            return Ok(());
        };
        let snapshot = manifests.into_snapshot(NOW);
        let wants = &snapshot.pods[0].shape.wants;
        // Read as nothing only where nothing was written: a limit is never lost in silence.
        let blank = value.chars().all(|c| c.is_whitespace() || c == ',');
        let fargate = name.ends_with("instance-offerings") && value.contains("fargate");
        prop_assert!(!wants.is_empty() || blank || fargate, "{name}: {value:?}");
        if wants.max_price.is_some() {
            prop_assert!(value.trim().parse::<f64>().is_ok_and(|usd| usd >= 0.0));
        }
    }
}
