use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::ledger::tests::{self, moment};

fn key() -> ObjectKey {
    ObjectKey::new("serving", "vllm-0")
}

fn check(answer: &Answer, expected: Expect) {
    expected.assert_eq(&answer.text);
}

fn published(plan: serde_json::Value) -> plan::Published {
    serde_json::from_value(plan).unwrap()
}

#[test]
fn a_pod_that_serves_is_told_by_its_ledger() {
    let (objects, _) = tests::hidden(200.0);
    let no_daemon = "no Service of the daemon is in the cluster".to_owned();
    let answer = pod(&key(), &objects, Err(&no_daemon), moment(200.0));
    assert_eq!(answer.served, Served::Yes);
    check(
        &answer,
        expect![[r#"
            pod serving/vllm-0
              serves since 53.0 s, after 147 s
              node n1 (g6.xlarge, on-demand, 0.80 USD/h, pool gpu)
              bought for it by claim c1

              what it waited for, of which the sum is the whole:
                stage            waited
                requested         2.1 s
                launched          1.3 s
                registered       20.6 s
                gpu-allocatable  66.2 s
                scheduled         0.8 s
                image-ready       0.0 s
                weights-ready     0.0 s
                started           2.0 s
                serving          54.0 s
                sum               147 s
              exposed byte time 0.0 s; bytes moved for 52.0 s while it waited for something else
              starts with image docker.io/vllm/vllm-openai:v0.33.0: 10.0 GB, not there when the pod was created, waited for 0.0 s, 10.0 GB from registry
              starts with weights hf://Qwen/Qwen3-8B: 16.0 GB, not there when the pod was created, waited for 0.0 s, 16.0 GB from hub
              note: the plan is not known: no Service of the daemon is in the cluster
        "#]],
    );
}

fn waiting() -> Objects {
    let status = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    }]});
    Objects {
        pods: vec![tests::pod(None, status)],
        ..Objects::default()
    }
}

#[test]
fn a_pod_that_waits_is_told_why_and_what_the_plan_buys_for_it() {
    let plan = published(json!({"apiVersion": "plan.headstart.dev/v1", "buy": [{
        "count": 1, "pool": "gpu", "instanceType": "g6.2xlarge", "zone": "us-east-1a",
        "capacityType": "spot", "usdPerHour": 0.41, "pods": ["serving/vllm-0"],
        "cold": {"total": 147.0, "boot": 90.0, "exposedByteTime": 0.0},
        "runnerUp": {"candidate": "g5", "text": "chosen over g5.2xlarge: 0.10 USD less"},
    }]}));
    let answer = pod(&key(), &waiting(), Ok(&plan), moment(30.0));
    assert_eq!(answer.served, Served::Yes);
    check(
        &answer,
        expect![[r#"
            pod serving/vllm-0
              does not serve yet: it waits for requested, 30.0 s so far
              the scheduler says: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.

              what it waited for, of which the sum is the whole:
                stage      waited
                requested  30.0 s  under way
                sum        30.0 s
              exposed byte time 0.0 s; bytes moved for 0.0 s while it waited for something else
              starts with image docker.io/vllm/vllm-openai:v0.33.0: size unknown, nobody knows what was there, waited for 0.0 s
              starts with weights hf://Qwen/Qwen3-8B: size unknown, nobody knows what was there, waited for 0.0 s

              to be bought for it: g6.2xlarge spot in us-east-1a for 0.41 USD/h (pool gpu): serves 147 s after that, exposed byte time 0.0 s
              chosen over g5.2xlarge: 0.10 USD less
        "#]],
    );
}

#[test]
fn a_pod_that_the_plan_does_not_serve_is_told_the_plan_s_reasons() {
    let plan = published(
        json!({"unserved": [{"pods": ["serving/vllm-0"], "code": "NoCandidate",
        "text": ["pool gpu: 54 offerings excluded: over the cap"]}]}),
    );
    let answer = pod(&key(), &waiting(), Ok(&plan), moment(30.0));
    assert_eq!(answer.served, Served::No);
    assert!(
        answer
            .text
            .ends_with("    pool gpu: 54 offerings excluded: over the cap\n"),
        "{}",
        answer.text
    );
}

#[test]
fn a_node_is_told_with_its_claim_its_cache_and_its_deploys() {
    let (objects, _) = tests::hidden(200.0);
    let plan = published(json!({"existing": [{"pod": "serving/next", "node": "n1"}]}));
    check(
        &node("n1", &objects, Ok(&plan), moment(200.0)).unwrap(),
        expect![[r#"
            node n1

            CLAIM  NODE  TYPE       CAPACITY   USD/h  REACHED            AGE  FOR
            c1     n1    g6.xlarge  on-demand   0.80  gpu-allocatable  198 s  serving/vllm-0

            CACHE  VERIFIED  COMING  FAILED  ROOM  REPORTED  FETCHING
            n1            2       0       0

            DEPLOY          NODE  CACHE  STATE    TIME  EXPOSED  HIDDEN
            serving/vllm-0  n1    cold   serves  147 s    0.0 s  52.0 s
              pod serving/next is planned for it
        "#]],
    );
    let unknown = node("n9", &objects, Ok(&plan), moment(200.0))
        .err()
        .unwrap();
    assert_eq!(unknown, "no node n9 in the cluster; there are n1");
}
