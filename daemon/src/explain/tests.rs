use expect_test::{Expect, expect};
use headstart_core::cache::{Item, Pin};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::plan::{Prefetch, PrefetchItem, Retirement, RetirementPlan, Target, Urgency};
use headstart_core::pool::DisruptionReason;
use headstart_core::reason::{Kept, NotFetched};

use super::*;
use crate::plan::tests::inputs;

const NOW: Millis = Millis::from_secs(1_790_000_000);

fn check(what: &str, inputs: &Inputs, expected: &Expect) {
    let assembled = assemble(inputs, NOW).unwrap();
    let said = match answer(&parse(what).unwrap().within("default"), &assembled) {
        Ok(answer) => answer.text,
        Err(problem) => problem,
    };
    expected.assert_eq(&said);
}

#[test]
fn a_pod_is_explained_with_its_place_its_times_and_its_alternatives() {
    check(
        "pod/serving/qwen-gpu-worker-0",
        &inputs(),
        &expect![[r#"
            pod serving/qwen-gpu-worker-0
              asks for cpu 6, memory 24Gi, nvidia.com/gpu 1
              on a node with kubernetes.io/arch = amd64
              GPU one of A10G, L4, L40S
              member of group serving/qwen, placed as a whole or not at all
              starts with docker.io/rayproject/ray-llm:2.46.0-py311-cu124 (10.6 GB)
              starts with hf://Qwen/Qwen3-8B (16.4 GB)

              goes onto a new node: g6.2xlarge spot in us-east-1a of pool gpu for 0.41 USD/h
              serves in 147 s = boot 90 s + image 0.0 s + start 18 s + weights 0.0 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
              scored 0.51 USD = price over its life 0.43 USD + waiting 0.0817 USD + interruptions 0.0000 USD
              chosen over g5.2xlarge spot in us-east-1a (pool gpu): serves in 147 s as that would, for 0.10 USD less
              does not fetch docker.io/rayproject/ray-llm:2.46.0-py311-cu124: 2.46.0-py311-cu124 is not resolved to a digest or commit yet
              does not fetch hf://Qwen/Qwen3-8B: main is not resolved to a digest or commit yet

              alone it could have, best first:
                where                             price  serves in  exposed     score
                g6.2xlarge spot (pool gpu)   0.41 USD/h      147 s    0.0 s  0.51 USD
                g5.2xlarge spot (pool gpu)   0.51 USD/h      147 s    0.0 s  0.61 USD
                g6.4xlarge spot (pool gpu)   0.57 USD/h      147 s    0.0 s  0.67 USD
                g5.4xlarge spot (pool gpu)   0.65 USD/h      147 s    0.0 s  0.76 USD
                gr6.4xlarge spot (pool gpu)  0.66 USD/h      147 s    0.0 s  0.77 USD

              prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28
              note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
}

#[test]
fn a_pod_that_is_not_there_is_said_with_those_that_are() {
    check(
        "pod/qwen",
        &inputs(),
        &expect![
            "no pod default/qwen in the files; there are serving/qwen-gpu-worker-0, serving/qwen-head"
        ],
    );
    check(
        "node/a",
        &inputs(),
        &expect!["no node a in the files; they have none at all"],
    );
    assert!(parse("qwen").is_err());
    assert!(parse("pod/a/b/c").is_err());
}

#[test]
fn a_node_is_explained_with_its_pods_and_its_cache() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name)
    };
    let mut inputs = inputs();
    inputs.nodes = vec![write("nodes.yaml", NODE)];
    check(
        "node/warm",
        &inputs,
        &expect![[r#"
            node warm
              of no pool of ours
              runs
              requested of it: cpu 100m of 7900m, memory 64Mi of 30Gi, nvidia.com/gpu 0 of 1, pods 0 of 110
              pods on it: kube-system/log
              pod serving/qwen-gpu-worker-0 is planned for it
              its agent has reported nothing
              does not fetch docker.io/rayproject/ray-llm:2.46.0-py311-cu124: 2.46.0-py311-cu124 is not resolved to a digest or commit yet
              does not fetch hf://Qwen/Qwen3-8B: main is not resolved to a digest or commit yet
              stays: it belongs to no pool of ours
        "#]],
    );
    check(
        "pod/serving/qwen-gpu-worker-0",
        &inputs,
        &expect![[r#"
            pod serving/qwen-gpu-worker-0
              asks for cpu 6, memory 24Gi, nvidia.com/gpu 1
              on a node with kubernetes.io/arch = amd64
              GPU one of A10G, L4, L40S
              member of group serving/qwen, placed as a whole or not at all
              starts with docker.io/rayproject/ray-llm:2.46.0-py311-cu124 (10.6 GB)
              starts with hf://Qwen/Qwen3-8B (16.4 GB)

              goes onto node warm, which exists
              serves in 324 s = image 160 s + start 18 s + weights 107 s + load 5.0 s + engine 34 s; exposed byte time 267 s
              does not fetch docker.io/rayproject/ray-llm:2.46.0-py311-cu124: 2.46.0-py311-cu124 is not resolved to a digest or commit yet
              does not fetch hf://Qwen/Qwen3-8B: main is not resolved to a digest or commit yet

              alone it could have, best first:
                where                            price  serves in  exposed     score
                node warm                                   324 s    267 s
                g6.2xlarge spot (pool gpu)  0.41 USD/h      147 s    0.0 s  0.51 USD
                g5.2xlarge spot (pool gpu)  0.51 USD/h      147 s    0.0 s  0.61 USD
                g6.4xlarge spot (pool gpu)  0.57 USD/h      147 s    0.0 s  0.67 USD
                g5.4xlarge spot (pool gpu)  0.65 USD/h      147 s    0.0 s  0.76 USD

              prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28
              note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
}

const NODE: &str = "
apiVersion: v1
kind: Node
metadata:
  name: warm
  labels: {kubernetes.io/arch: amd64, headstart.dev/gpu-sku: L4, topology.kubernetes.io/zone: us-east-1a}
status:
  conditions: [{type: Ready, status: 'True'}]
  allocatable: {cpu: '7900m', memory: 30Gi, pods: '110', nvidia.com/gpu: '1'}
---
apiVersion: v1
kind: Pod
metadata: {name: log, namespace: kube-system}
spec:
  nodeName: warm
  containers: [{name: a, image: busybox, resources: {requests: {cpu: 100m, memory: 64Mi}}}]
status: {phase: Running}
";

#[test]
fn whether_a_node_goes_or_stays_is_said() {
    let snapshot = Snapshot::default();
    let plan = RetirementPlan {
        retire: vec![Retirement {
            node: "a".to_owned(),
            reason: DisruptionReason::Underused,
            moves: vec![(
                ObjectKey::new("default", "web"),
                Target::Node("b".to_owned()),
            )],
            replacements: Vec::new(),
            saves: HourlyPrice(410_000),
            cache_bytes: 26_000_000_000,
        }],
        kept: vec![(
            "b".to_owned(),
            Kept::TooSoon {
                since: Millis::from_secs(10),
                after: Millis::from_secs(300),
            },
        )],
    };
    let said = ["a", "b"].map(|name| node::retirement(name, &plan, &snapshot));
    // The first line gives the others something to be indented from.
    expect![[r#"
        nodes
          goes: its pods fit elsewhere; saves 0.41 USD/h, 26.0 GB of verified bytes are lost
            pod default/web moves to node b
          stays: empty or under-used for 10 s only, 300 s is asked for
    "#]]
    .assert_eq(&format!("nodes\n{}", said.concat()));
}

#[test]
fn what_is_fetched_and_what_not_is_said() {
    let target = Target::Node("a".to_owned());
    let image = |name: &str| Item::Image {
        repository: name.to_owned(),
        pin: Pin::Name("v1".to_owned()),
    };
    let plan = [Prefetch {
        target: target.clone(),
        items: vec![PrefetchItem {
            item: image("docker.io/vllm/vllm-openai"),
            bytes: 10_000_000_000,
            peers: vec!["b".to_owned()],
            urgency: Urgency::Demand,
        }],
        skipped: vec![(image("docker.io/other"), NotFetched::Present)],
    }];
    expect![[r#"
        node
          fetches 10.0 GB docker.io/vllm/vllm-openai:v1: from its origin and b, a pod waits for it
          does not fetch docker.io/other:v1: is there and verified
    "#]]
    .assert_eq(&format!("node\n{}", node::prefetch(&target, &plan)));
    assert_eq!(node::prefetch(&Target::New(0), &plan), "");
}
