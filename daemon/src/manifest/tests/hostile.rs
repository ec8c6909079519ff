//! Input that means harm: nothing panics, nothing explodes, no pod asks for what cannot be counted.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Reads, and checks what must hold of whatever was read.
pub(super) fn sound(bytes: &[u8]) -> Result<(), TestCaseError> {
    let read = read(&[("fuzz", bytes)]);
    match read {
        Err(problems) => {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                let text = problem.to_string();
                prop_assert!(text.starts_with("fuzz, document "), "{}", text);
                prop_assert!(text.len() < 8192, "{} bytes", text.len());
            }
        }
        Ok(manifests) => {
            let snapshot = manifests.into_snapshot(NOW);
            let shapes = snapshot
                .pods
                .iter()
                .map(|pod| &*pod.shape)
                .chain(&snapshot.daemons);
            for shape in shapes {
                for (name, amount) in shape.requests.iter() {
                    prop_assert!(
                        (0..i64::MAX / 1024 + 1).contains(&amount),
                        "{} {}",
                        name,
                        amount
                    );
                }
            }
            for node in &snapshot.nodes {
                prop_assert!(node.allocatable.iter().all(|(_, amount)| amount >= 0));
            }
            for pod in &snapshot.pods {
                let group = pod.shape.group.as_ref();
                let known = |key: &headstart_core::pod::ObjectKey| {
                    snapshot.groups.iter().any(|group| group.key == *key)
                };
                prop_assert!(group.is_none_or(known));
            }
            for group in &snapshot.groups {
                prop_assert!(!group.minimum.is_empty());
                prop_assert!(group.minimum.values().all(|minimum| *minimum > 0));
            }
        }
    }
    Ok(())
}

/// A word that is likely to mean something.
fn word() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        proptest::sample::select(vec![
            "v1",
            "Pod",
            "In",
            "Exists",
            "DoNotSchedule",
            "true",
            "1",
            "-1",
            "1Ei",
            "9e18",
            "NaN",
            "50%",
            "a/b",
            "99999999999999999999",
            "vllm serve a/b",
            "sh",
            "-c",
            "spot",
            "5m",
            "2026-01-01T00:00:00Z",
            "$(A)",
            "",
        ])
        .prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    let key = prop_oneof![
        "[a-z]{1,6}",
        proptest::sample::select(vec![
            "spec",
            "metadata",
            "name",
            "items",
            "kind",
            "template",
            "containers",
            "resources",
            "requests",
            "labels",
        ])
        .prop_map(str::to_owned),
    ];
    word().prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// All objects of the fixtures.
fn real() -> Vec<Value> {
    let texts = [RAY_SERVICE, DEPLOYMENT, LWS, STATEFUL_SET, CLUSTER];
    let parts = texts.iter().flat_map(|text| text.split("\n---\n"));
    parts
        .filter_map(|part| crate::manifest::source::yaml(part).ok())
        .collect()
}

/// Every place of a tree, depth first.
fn places(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(items) => items.iter().map(places).sum(),
        Value::Object(map) => map.values().map(places).sum::<usize>(),
        _ => 0,
    }
}

fn at(tree: &mut Value, mut index: usize) -> Option<&mut Value> {
    if index == 0 {
        return Some(tree);
    }
    index -= 1;
    let children: Vec<&mut Value> = match tree {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for child in children {
        let size = places(child);
        if index < size {
            return at(child, index);
        }
        index -= size;
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        sound(&bytes)?;
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([-:\\[\\]{}#&*!|>'\"%@ \n\ta-z0-9.]|\\PC){0,200}") {
        sound(text.as_bytes())?;
    }

    #[test]
    fn any_tree_under_any_kind_is_read_or_refused(
        kind in proptest::sample::select(vec![
            ("v1", "Pod"), ("v1", "Node"), ("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job"),
            ("ray.io/v1", "RayService"), ("ray.io/v1", "RayCluster"), ("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet"),
            ("headstart.dev/v1alpha1", "NodePool"), ("headstart.dev/v1alpha1", "NodeCache"), ("v1", "PersistentVolumeClaim"),
            ("policy/v1", "PodDisruptionBudget"), ("v1", "List"),
        ]),
        spec in tree(), status in tree(), annotations in tree(),
    ) {
        let object = json!({
            "apiVersion": kind.0, "kind": kind.1,
            "metadata": {"name": "x", "annotations": annotations}, "spec": spec, "status": status, "items": [spec],
        });
        sound(object.to_string().as_bytes())?;
    }

    #[test]
    fn real_manifests_with_parts_exchanged_are_read_or_refused(
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), tree()), 1..4),
    ) {
        let objects = real();
        let mut object = objects[which.index(objects.len())].clone();
        for (place, new) in changes {
            let index = place.index(places(&object));
            if let Some(place) = at(&mut object, index) {
                *place = new;
            }
        }
        sound(object.to_string().as_bytes())?;
    }

    #[test]
    fn real_manifests_with_bytes_exchanged_are_read_or_refused(
        which in 0_usize..5,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let texts = [RAY_SERVICE, DEPLOYMENT, LWS, STATEFUL_SET, CLUSTER];
        let mut bytes = texts[which].as_bytes().to_vec();
        for (place, byte) in changes {
            let index = place.index(bytes.len());
            bytes[index] = byte;
        }
        sound(&bytes)?;
    }

    #[test]
    fn any_annotation_is_read_or_refused(
        name in proptest::sample::select(vec![
            "headstart.dev/models", "headstart.dev/images", "headstart.dev/gpu-skus", "headstart.dev/max-gpus",
            "headstart.dev/max-hourly-cost", "headstart.dev/capacity-types", "headstart.dev/instance-families",
            "headstart.dev/instance-type-regexp", "headstart.dev/group", "headstart.dev/ignore", "headstart.dev/x",
        ]),
        value in "([-,.:/@?=&*(){}\\[\\]+^$ \n0-9a-zA-Z]|\\PC){0,60}",
    ) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {name: value}},
            "spec": {"containers": [{"name": "c"}]},
        });
        sound(pod.to_string().as_bytes())?;
    }

    #[test]
    fn any_command_line_is_taken_apart(
        words in proptest::collection::vec("(vllm|serve|--model|-m|sh|-c|[\"'$(){};&| \\\\\n#a-z/=-]{0,12})", 0..8),
    ) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "command": words, "env": [{"name": "a", "value": "$(a)$a"}]}]},
        });
        sound(pod.to_string().as_bytes())?;
    }
}

fn first_problem(yaml: &str) -> String {
    let problems = read_one(yaml).unwrap_err();
    problems[0].to_string()
}

#[test]
fn a_node_with_a_hundred_thousand_labels_is_refused_by_name() {
    let labels: String = (0..100_000).map(|n| format!("    l{n}: v\n")).collect();
    let yaml = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: n1\n  labels:\n{labels}status: {{allocatable: {{cpu: 1}}}}\n"
    );
    assert_eq!(
        first_problem(&yaml),
        "a.yaml, document 1, Node n1: metadata.labels: has 100000 entries, more than 10000; no API server stores such an object"
    );
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let yaml = format!("a: {}{}", open.repeat(10_000), close.repeat(10_000));
        assert!(first_problem(&yaml).contains("is not YAML"), "{open}");
    }
    let block: String = (0..5000)
        .map(|n| format!("{}a:\n", " ".repeat(n)))
        .collect();
    assert!(first_problem(&block).contains("is not YAML"));
    let json = format!("{{\"a\": {}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(first_problem(&json).contains("is not YAML"));
}

#[test]
fn aliases_cannot_multiply_nodes_or_text() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let of = format!("*a{}", n - 1);
        laughs += &format!("a{n}: &a{n} [{}]\n", vec![of; 10].join(", "));
    }
    assert!(first_problem(&laughs).contains("is not YAML"));
    let text = "x".repeat(1 << 20);
    let copies = "*t, ".repeat(99);
    let long = format!("t: &t {text}\na: [{copies}]\n");
    assert!(first_problem(&long).contains("is not YAML"));
}

#[test]
fn amounts_that_only_overflow_together_are_refused() {
    let container = "{name: c, resources: {requests: {memory: 5Pi}}}";
    let one = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{container}]}}\n"
    );
    assert_eq!(snapshot(&one).pods.len(), 1);
    let two = one.replace(container, &format!("{container}, {container}"));
    assert_eq!(
        first_problem(&two),
        "a.yaml, document 1, Pod default/p: spec: memory: its containers ask for more than 9007199254740991 in all"
    );
}

#[test]
fn a_hundred_thousand_pods_are_read_and_more_than_is_sane_is_refused() {
    let deployment = |replicas: u32| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d}}\nspec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c}}]}}}}}}\n"
        )
    };
    assert_eq!(snapshot(&deployment(100_000)).pods.len(), 100_000);
    assert!(first_problem(&deployment(200_001)).contains("more than 200000"));
}
