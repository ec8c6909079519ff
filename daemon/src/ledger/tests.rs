use std::time::Duration;

use expect_test::{Expect, expect};
use headstart_core::offer::CapacityType;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::book::Book;
use super::*;
use crate::ledger::book::Round;

mod truth;

const EPOCH: i64 = 1_790_000_000;

/// `seconds` after the pod's creation, as RFC 3339.
pub(crate) fn at(seconds: f64) -> String {
    let micros = (EPOCH as f64 + seconds) * 1e6;
    let time = jiff::Timestamp::from_microsecond(micros.round() as i64).expect("a time");
    time.to_string()
}

pub(crate) fn moment(seconds: f64) -> Moment {
    Moment(((EPOCH as f64 + seconds) * 1e6).round() as i64)
}

fn read<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).expect("an object"))
}

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A vLLM pod with what `status` says; bound to `node` if it is.
pub(crate) fn pod(node: Option<&str>, status: Value) -> Arc<Pod> {
    read(json!({
        "metadata": {
            "name": "vllm-0", "namespace": "serving", "uid": "7d9c3d3e-0b7a-4a51-9d52-6a4b1b1a0c01",
            "creationTimestamp": at(0.0),
        },
        "spec": {"nodeName": node, "containers": [{
            "name": "vllm", "image": "docker.io/vllm/vllm-openai:v0.33.0",
            "args": ["--model", "Qwen/Qwen3-8B"],
            "resources": {"limits": {"nvidia.com/gpu": 1}},
        }]},
        "status": status,
    }))
}

fn condition(name: &str, seconds: f64) -> Value {
    json!({"type": name, "status": "True", "lastTransitionTime": at(seconds)})
}

pub(crate) fn running(scheduled: f64, started: f64, serving: Option<f64>) -> Value {
    let mut conditions = vec![condition("PodScheduled", scheduled)];
    conditions.extend(serving.map(|serving| condition("Ready", serving)));
    json!({"phase": "Running", "conditions": conditions, "containerStatuses": [{
        "name": "vllm", "image": "docker.io/vllm/vllm-openai:v0.33.0", "ready": true,
        "imageID": format!("docker.io/vllm/vllm-openai@{DIGEST}"), "restartCount": 0,
        "state": {"running": {"startedAt": at(started)}},
    }]})
}

pub(crate) fn node(created: f64) -> Arc<Node> {
    read(json!({"metadata": {
        "name": "n1", "creationTimestamp": at(created),
        "labels": {"karpenter.sh/capacity-type": "spot"},
    }}))
}

pub(crate) fn claim(stages: &[(&str, f64)]) -> Arc<NodeClaim> {
    claim_of(2.0, stages)
}

fn claim_of(created: f64, stages: &[(&str, f64)]) -> Arc<NodeClaim> {
    let stages: serde_json::Map<String, Value> = stages
        .iter()
        .map(|(stage, seconds)| ((*stage).to_owned(), json!(at(*seconds))))
        .collect();
    read(json!({
        "metadata": {"name": "c1", "creationTimestamp": at(created)},
        "spec": {
            "nodePool": "gpu", "pods": ["serving/vllm-0"], "price": 0.8,
            "offering": {"instanceType": "g6.xlarge", "zone": "a", "capacityType": "on-demand"},
        },
        "status": {"nodeName": "n1", "stages": stages},
    }))
}

pub(crate) fn cache(image: (f64, f64), weights: (f64, f64)) -> Arc<NodeCache> {
    read(json!({
        "metadata": {"name": "n1"},
        "spec": {"generation": 1, "items": []},
        "status": {"generation": 1, "items": [
            {
                "image": format!("docker.io/vllm/vllm-openai@{DIGEST}"), "state": "Verified",
                "imageName": "docker.io/vllm/vllm-openai:v0.33.0",
                "started": at(image.0), "verified": at(image.1),
                "sources": [{"kind": "registry", "bytes": 10_000_000_000_u64}],
            },
            {
                "model": format!("hf://Qwen/Qwen3-8B@{COMMIT}"), "state": "Verified",
                "started": at(weights.0), "verified": at(weights.1),
                "sources": [{"kind": "hub", "bytes": 16_000_000_000_u64}],
            },
        ]},
    }))
}

pub(crate) const BOUGHT: [(&str, f64); 4] = [
    ("requested", 2.1),
    ("launched", 3.4),
    ("registered", 24.0),
    ("gpuAllocatable", 90.2),
];

/// A deploy that hid its bytes, seen at `now`.
pub(crate) fn hidden(now: f64) -> (Objects, Deploy) {
    let pod = pod(Some("n1"), running(91.0, 93.0, Some(147.0)));
    let claim = Some(claim(&BOUGHT));
    let objects = objects(pod, claim, Some(cache((18.0, 40.0), (18.5, 70.0))));
    let deploy = only(&objects, now);
    (objects, deploy)
}

fn only(objects: &Objects, now: f64) -> Deploy {
    let mut deploys = deploys(objects, moment(now));
    assert_eq!(deploys.len(), 1, "{deploys:?}");
    deploys.remove(0)
}

pub(crate) fn objects(
    pod: Arc<Pod>,
    claim: Option<Arc<NodeClaim>>,
    cache: Option<Arc<NodeCache>>,
) -> Objects {
    Objects {
        pods: vec![pod],
        nodes: vec![node(24.0)],
        claims: claim.into_iter().collect(),
        caches: cache.into_iter().collect(),
    }
}

fn check(deploy: &Deploy, expected: Expect) {
    let mut text = String::new();
    let secs = |span: Duration| format!("{:.1}", span.as_secs_f64());
    for one in &deploy.intervals {
        let known = format!("{:?}", one.known);
        text += &format!("{:<16}{:>6} {known}\n", one.stage.word(), secs(one.took()));
    }
    let most = if deploy.exposed_at_most() {
        " at most"
    } else {
        ""
    };
    text += &format!(
        "wall {} exposed {}{most} hidden {} {}\n",
        secs(deploy.wall()),
        secs(deploy.exposed()),
        secs(deploy.hidden()),
        deploy.cached.word()
    );
    for item in &deploy.items {
        text += &format!(
            "{} {}: {} GB, {} exposed, {} hidden, waited {}\n",
            item.kind.word(),
            item.cached.word(),
            item.bytes.unwrap_or(0) / 1_000_000_000,
            item.exposed_bytes / 1_000_000_000,
            item.hidden_bytes() / 1_000_000_000,
            secs(item.exposed)
        );
    }
    for remark in &deploy.remarks {
        text += &format!("{remark:?}\n");
    }
    expected.assert_eq(&text);
}

#[test]
fn bytes_that_arrive_while_the_node_boots_are_hidden() {
    let pod = pod(Some("n1"), running(91.0, 93.0, Some(147.0)));
    let objects = objects(
        pod,
        Some(claim(&BOUGHT)),
        Some(cache((18.0, 40.0), (18.5, 70.0))),
    );
    let deploy = only(&objects, 200.0);
    assert_eq!(deploy.capacity, Some(CapacityType::OnDemand));
    check(
        &deploy,
        expect![[r#"
        requested          2.1 Stamp
        launched           1.3 Stamp
        registered        20.6 Stamp
        gpu-allocatable   66.2 Stamp
        scheduled          0.8 Stamp
        image-ready        0.0 Stamp
        weights-ready      0.0 Stamp
        started            2.0 Stamp
        serving           54.0 Stamp
        wall 147.0 exposed 0.0 hidden 52.0 cold
        image cold: 10 GB, 0 exposed, 10 hidden, waited 0.0
        weights cold: 16 GB, 0 exposed, 16 hidden, waited 0.0
    "#]],
    );
}

#[test]
fn bytes_that_are_late_are_exposed_from_the_moment_nothing_else_is_waited_for() {
    let pod = pod(Some("n1"), running(91.0, 133.0, Some(187.0)));
    let objects = objects(
        pod,
        Some(claim(&BOUGHT)),
        Some(cache((60.0, 100.5), (71.0, 131.0))),
    );
    check(
        &only(&objects, 200.0),
        expect![[r#"
        requested          2.1 Stamp
        launched           1.3 Stamp
        registered        20.6 Stamp
        gpu-allocatable   66.2 Stamp
        scheduled          0.8 Stamp
        image-ready        9.5 Stamp
        weights-ready     30.5 Stamp
        started            2.0 Stamp
        serving           54.0 Stamp
        wall 187.0 exposed 40.0 hidden 31.0 cold
        image cold: 10 GB, 2 exposed, 7 hidden, waited 9.5
        weights cold: 16 GB, 8 exposed, 7 hidden, waited 30.5
    "#]],
    );
}

#[test]
fn a_warm_node_that_was_there_costs_no_stage_of_a_node_and_no_bytes() {
    let pod = pod(Some("n1"), running(1.0, 3.0, Some(57.0)));
    let mut objects = objects(
        pod,
        Some(claim_of(-1024.0, &[])),
        Some(cache((-900.0, -800.0), (-900.0, -700.0))),
    );
    objects.nodes = vec![node(-1000.0)];
    check(
        &only(&objects, 200.0),
        expect![[r#"
        requested          0.0 Stamp
        launched           0.0 Nothing
        registered         0.0 Stamp
        gpu-allocatable    0.0 Nothing
        scheduled          1.0 Stamp
        image-ready        0.0 Stamp
        weights-ready      0.0 Stamp
        started            2.0 Stamp
        serving           54.0 Stamp
        wall 57.0 exposed 0.0 hidden 0.0 warm
        image warm: 10 GB, 0 exposed, 0 hidden, waited 0.0
        weights warm: 16 GB, 0 exposed, 0 hidden, waited 0.0
    "#]],
    );
}

#[test]
fn without_an_agent_the_image_took_at_most_what_lies_between_binding_and_start() {
    let pod = pod(Some("n1"), running(91.0, 150.0, Some(290.0)));
    let deploy = only(&objects(pod, None, None), 300.0);
    assert_eq!(deploy.capacity, Some(CapacityType::Spot));
    check(
        &deploy,
        expect![[r#"
        requested          0.0 Missing
        launched           0.0 Missing
        registered        24.0 Stamp
        gpu-allocatable   67.0 AtMost
        scheduled          0.0 Stamp
        weights-ready      0.0 Missing
        image-ready       59.0 AtMost
        started            0.0 Stamp
        serving          140.0 Stamp
        wall 290.0 exposed 59.0 at most hidden 0.0 unknown
        image unknown: 0 GB, 0 exposed, 0 hidden, waited 59.0
        weights unknown: 0 GB, 0 exposed, 0 hidden, waited 0.0
        ForeignNode
        AtMost(GpuAllocatable)
        AtMost(ImageReady)
        NoInventory
    "#]],
    );
}

#[test]
fn a_deploy_under_way_says_what_it_waits_for_while_its_bytes_move() {
    let mut objects = objects(
        pod(None, json!({"phase": "Pending"})),
        Some(claim(&BOUGHT[..2])),
        Some(cache((18.0, 40.0), (18.5, 70.0))),
    );
    objects.nodes.clear();
    let mut waiting = cache((18.0, 40.0), (18.5, 70.0)).as_ref().clone();
    waiting.metadata.name = Some("c1".to_owned());
    objects.caches = vec![Arc::new(waiting)];
    objects.claims = vec![{
        let mut claim = claim(&BOUGHT[..2]).as_ref().clone();
        claim.status.as_mut().unwrap().node_name = None;
        Arc::new(claim)
    }];
    let deploy = only(&objects, 75.0);
    assert_eq!(deploy.waits_for(), Some(Stage::Registered));
    check(
        &deploy,
        expect![[r#"
        requested          2.1 Stamp
        launched           1.3 Stamp
        registered        71.6 Open
        wall 75.0 exposed 0.0 hidden 52.0 cold
        image cold: 10 GB, 0 exposed, 10 hidden, waited 0.0
        weights cold: 16 GB, 0 exposed, 16 hidden, waited 0.0
    "#]],
    );
}

#[test]
fn clocks_that_differ_are_remarked_and_no_interval_is_negative() {
    let stages = [
        ("requested", 9.0),
        ("launched", 5.0),
        ("registered", 24.0),
        ("gpuAllocatable", 90.0),
    ];
    let pod = pod(Some("n1"), running(-20.0, 80.0, Some(60.0)));
    let objects = objects(
        pod,
        Some(claim(&stages)),
        Some(cache((18.0, 40.0), (18.5, 500.0))),
    );
    check(
        &only(&objects, 200.0),
        expect![[r#"
        requested          9.0 Stamp
        launched           0.0 Stamp
        registered        15.0 Stamp
        gpu-allocatable   36.0 Stamp
        scheduled          0.0 Stamp
        image-ready        0.0 Stamp
        started            0.0 Stamp
        weights-ready      0.0 Stamp
        serving            0.0 Stamp
        wall 60.0 exposed 0.0 hidden 42.0 cold
        image cold: 10 GB, 0 exposed, 10 hidden, waited 0.0
        weights cold: 16 GB, 0 exposed, 16 hidden, waited 0.0
        OutOfOrder { stage: Launched, after: Some(Requested), by: 4s }
        OutOfOrder { stage: Scheduled, after: Some(GpuAllocatable), by: 110s }
        OutOfOrder { stage: Started, after: Some(GpuAllocatable), by: 10s }
        OutOfOrder { stage: Serving, after: Some(GpuAllocatable), by: 30s }
        StartedBeforeWeights
    "#]],
    );
}

#[test]
fn a_restarted_container_counts_from_the_first_start_that_is_known() {
    let mut status = running(91.0, 200.0, Some(260.0));
    status["containerStatuses"][0]["restartCount"] = json!(1);
    status["containerStatuses"][0]["lastState"] = json!({"terminated": {
        "startedAt": at(93.0), "finishedAt": at(120.0), "exitCode": 1,
    }});
    let objects = objects(
        pod(Some("n1"), status),
        Some(claim(&BOUGHT)),
        Some(cache((18.0, 40.0), (18.5, 70.0))),
    );
    let deploy = only(&objects, 300.0);
    assert_eq!(deploy.took(Stage::Started), Duration::from_secs(2));
    assert_eq!(deploy.remarks, [Remark::Restarted(1)]);
}

#[test]
fn weights_that_come_after_the_start_hold_up_only_what_is_after_it() {
    let pod = pod(Some("n1"), running(91.0, 93.0, Some(190.0)));
    let objects = objects(
        pod,
        Some(claim(&BOUGHT)),
        Some(cache((18.0, 40.0), (18.5, 130.0))),
    );
    let deploy = only(&objects, 300.0);
    assert_eq!(deploy.remarks, [Remark::StartedBeforeWeights]);
    assert_eq!(deploy.took(Stage::Started), Duration::from_secs(2));
    assert_eq!(deploy.exposed(), Duration::from_secs(37));
}

#[test]
fn daemons_and_pods_without_a_gpu_a_model_or_a_claim_are_no_deploys() {
    let owned = |kind: &str| {
        let mut daemon = pod(Some("n1"), json!({})).as_ref().clone();
        let owner = json!([{"apiVersion": "v1", "kind": kind, "name": "x", "uid": "1", "controller": true}]);
        daemon.metadata.owner_references = serde_json::from_value(owner).unwrap();
        Arc::new(daemon)
    };
    let plain = read::<Pod>(json!({
        "metadata": {"name": "web", "namespace": "default", "creationTimestamp": at(0.0)},
        "spec": {"containers": [{"name": "web", "image": "nginx"}]},
    }));
    let pods = [owned("DaemonSet"), owned("ReplicaSet"), plain];
    let objects = Objects {
        pods: pods.to_vec(),
        ..Objects::default()
    };
    assert_eq!(deploys(&objects, moment(1.0)).len(), 1);
}

fn round(book: &mut Book, uid: &str, serving: f64, now: f64) -> Round {
    let mut pod = pod(Some("n1"), running(1.0, 2.0, Some(serving)))
        .as_ref()
        .clone();
    pod.metadata.uid = Some(uid.to_owned());
    let objects = Objects {
        pods: vec![Arc::new(pod)],
        ..Objects::default()
    };
    book.round(deploys(&objects, moment(now)), moment(now))
}

#[test]
fn a_deploy_is_counted_once_and_its_figures_stand() {
    let mut book = Book::since(moment(0.0));
    assert_eq!(round(&mut book, "a", 50.0, 51.0).served.len(), 1);
    // The pod was not Ready for a while: nothing was deployed again.
    let again = round(&mut book, "a", 90.0, 91.0);
    assert!(again.served.is_empty());
    assert_eq!(again.deploys[0].wall(), Duration::from_secs(50));
    // A watch that lists anew may show nothing in between.
    let nothing = book.round(Vec::new(), moment(95.0));
    assert_eq!((nothing.deploys.len(), nothing.served.len()), (1, 0));
    assert!(round(&mut book, "a", 50.0, 96.0).served.is_empty());
}

#[test]
fn after_a_restart_what_served_before_is_not_counted_again() {
    let mut book = Book::since(moment(60.3));
    assert!(round(&mut book, "before", 50.0, 61.0).served.is_empty());
    assert!(
        round(&mut book, "same-second", 60.0, 61.0)
            .served
            .is_empty()
    );
    assert_eq!(round(&mut book, "after", 61.0, 62.0).served.len(), 1);
}

#[test]
fn the_book_stays_small_and_counts_nothing_twice_however_many_deploys_there_are() {
    let mut book = Book::since(moment(0.0));
    let template = only(
        &objects(pod(Some("n1"), running(1.0, 2.0, Some(50.0))), None, None),
        60.0,
    );
    let deploy = |number: usize| Deploy {
        uid: number.to_string(),
        served: Some(moment(number as f64 / 10.0)),
        ..template.clone()
    };
    let mut counted = 0;
    for number in 0..20_000 {
        let now = moment(number as f64 / 10.0 + 1.0);
        counted += book.round(vec![deploy(number)], now).served.len();
    }
    assert_eq!(counted, 20_000);
    assert_eq!(book.round(Vec::new(), moment(2001.0)).deploys.len(), 200);
    let all = book.round((0..20_000).map(deploy).collect(), moment(2001.0));
    assert!(all.served.is_empty(), "{}", all.served.len());
}
