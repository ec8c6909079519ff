use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use headstart_core::offer::{CapacityType, OfferingKey};
use serde_json::{Map, Value, json};

use super::node::{Due, Reached};
use super::*;
use crate::market::sold;

/// Nodes of an API server, and nothing else of one.
type Nodes = Arc<Mutex<BTreeMap<String, Value>>>;

async fn provider() -> (Kwok, Nodes) {
    let made = async |State(nodes): State<Nodes>, Json(mut node): Json<Value>| {
        let name = node["metadata"]["name"].as_str().unwrap().to_owned();
        if nodes.lock().unwrap().contains_key(&name) {
            return no(409);
        }
        node["metadata"]["uid"] = json!(format!("uid-{name}"));
        node["metadata"]["creationTimestamp"] = json!("2026-11-25T08:00:00Z");
        nodes.lock().unwrap().insert(name, node.clone());
        Json(node).into_response()
    };
    let listed = async |State(nodes): State<Nodes>, uri: Uri| {
        let nodes = nodes.lock().unwrap();
        let query = url::form_urlencoded::parse(uri.query().unwrap().as_bytes());
        let query: BTreeMap<String, String> = query.into_owned().collect();
        let selected = |node: &&Value| {
            query["labelSelector"].split(',').all(|term| {
                let (key, value) = term.split_once('=').unwrap();
                node["metadata"]["labels"][key] == value
            })
        };
        let items: Vec<_> = nodes.values().filter(selected).cloned().collect();
        let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items});
        Json(list).into_response()
    };
    let found = async |State(nodes): State<Nodes>, Path(name): Path<String>| match nodes
        .lock()
        .unwrap()
        .get(&name)
    {
        Some(node) => Json(node.clone()).into_response(),
        None => no(404),
    };
    let removed =
        async |State(nodes): State<Nodes>, Path(name): Path<String>, body: Json<Value>| {
            let mut nodes = nodes.lock().unwrap();
            let uid = &nodes[&name]["metadata"]["uid"];
            assert_eq!(
                body["preconditions"]["uid"], *uid,
                "only the one that was seen"
            );
            nodes.remove(&name);
            Json(json!({"kind": "Status", "status": "Success"})).into_response()
        };
    let nodes = Nodes::default();
    let router = Router::new()
        .route("/api/v1/nodes", get(listed).post(made))
        .route("/api/v1/nodes/{name}", get(found).delete(removed))
        .with_state(nodes.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = kube::Config::new(url.parse().unwrap());
    let client = Client::try_from(config).unwrap();
    (Kwok::new(client, sold("box.l4", 0.4)), nodes)
}

fn no(code: u16) -> axum::response::Response {
    let reason = if code == 404 {
        "NotFound"
    } else {
        "AlreadyExists"
    };
    let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason});
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

fn wanted(claim: &str, settings: Value) -> Wanted {
    Wanted {
        claim: claim.to_owned(),
        offering: OfferingKey {
            instance_type: "box.l4".to_owned(),
            zone: "homea".to_owned(),
            capacity_type: CapacityType::Spot,
        },
        labels: BTreeMap::from([(names::NODE_POOL.to_owned(), "gpu".to_owned())]),
        startup_taints: Vec::new(),
        taints: vec![headstart_api::PoolTaint {
            key: "gpu".to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        }],
        settings: serde_json::from_value::<Map<_, _>>(settings).unwrap(),
        intent: String::new(),
    }
}

/// A fake node with these settings, made at [`made`].
fn fake(settings: Value) -> (Node, Fake) {
    let wanted = wanted("gpu-1", settings);
    let market = sold("box.l4", 0.4);
    let settings = Settings::read(&wanted.settings).unwrap();
    let mut node = node::make(&wanted, &market.types[0], &settings).unwrap();
    let made = "2026-11-25T08:00:00Z".parse().unwrap();
    node.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(made));
    let fake = Fake::read(&node.metadata).unwrap();
    (node, fake)
}

const BOOTING: Reached = Reached {
    ready: false,
    complete: false,
};
const READY: Reached = Reached {
    ready: true,
    complete: false,
};
const COMPLETE: Reached = Reached {
    ready: true,
    complete: true,
};

#[tokio::test]
async fn asking_twice_makes_one_node_named_after_its_claim_and_releasing_leaves_none() {
    let (kwok, nodes) = provider().await;
    let wanted = wanted("gpu-1", json!({}));
    let first = kwok.ensure(&wanted).await.unwrap();
    assert_eq!(kwok.ensure(&wanted).await.unwrap(), first);
    assert_eq!(first.provider_id, "kwok://gpu-1");
    assert_eq!(kwok.instances().await.unwrap(), [first]);
    let node = nodes.lock().unwrap()["gpu-1"].clone();
    let labels = &node["metadata"]["labels"];
    for (key, value) in [
        ("topology.kubernetes.io/zone", "homea"),
        ("node.kubernetes.io/instance-type", "box.l4"),
        ("headstart.dev/node-pool", "gpu"),
        ("headstart.dev/node-claim", "gpu-1"),
        ("headstart.dev/capacity-type", "spot"),
        ("headstart.dev/gpu-count", "2"),
        ("kubernetes.io/hostname", "gpu-1"),
    ] {
        assert_eq!(labels[key], value, "{key}");
    }
    assert_eq!(node["spec"]["taints"][0]["key"], "gpu");
    assert_eq!(node["status"]["capacity"]["cpu"], "8000m");
    assert_eq!(node["status"]["conditions"][0]["status"], "False");
    assert_eq!(node["status"]["allocatable"]["nvidia.com/gpu"], Value::Null);
    assert_eq!(kwok.release("gpu-1").await.unwrap(), Release::Gone);
    assert_eq!(kwok.release("gpu-1").await.unwrap(), Release::Gone);
    assert!(kwok.instances().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_of_somebody_else_is_neither_sold_nor_given_back() {
    let (kwok, nodes) = provider().await;
    let real = json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "gpu-1", "uid": "u", "creationTimestamp": "2026-11-25T08:00:00Z"},
    });
    nodes.lock().unwrap().insert("gpu-1".to_owned(), real);
    let refusal = kwok.ensure(&wanted("gpu-1", json!({}))).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Other { .. }), "{refusal}");
    assert_eq!(kwok.release("gpu-1").await.unwrap(), Release::Gone);
    assert!(nodes.lock().unwrap().contains_key("gpu-1"));
}

#[tokio::test]
async fn capacity_runs_out_where_a_rule_of_the_pool_says_so_and_is_back_after_a_release() {
    let (kwok, _) = provider().await;
    let one = json!({"capacity": [{"instanceType": "box.l4", "capacityType": "spot", "nodes": 1}]});
    kwok.ensure(&wanted("gpu-1", one.clone())).await.unwrap();
    let refusal = kwok.ensure(&wanted("gpu-2", one.clone())).await;
    assert!(matches!(refusal, Err(Refusal::OutOfCapacity { .. })));
    let there = kwok.ensure(&wanted("gpu-1", one.clone())).await;
    assert!(there.is_ok(), "what is there stays");
    kwok.release("gpu-1").await.unwrap();
    kwok.ensure(&wanted("gpu-2", one)).await.unwrap();
    let elsewhere = json!({"capacity": [{"zone": "homeb"}]});
    kwok.ensure(&wanted("gpu-3", elsewhere)).await.unwrap();
    let none = kwok
        .ensure(&wanted("gpu-4", json!({"capacity": [{}]})))
        .await;
    assert!(matches!(none, Err(Refusal::OutOfCapacity { .. })));
}

#[tokio::test]
async fn what_is_sold_to_many_at_once_is_counted() {
    let (kwok, nodes) = provider().await;
    let wishes: Vec<_> = (0..8)
        .map(|n| wanted(&format!("gpu-{n}"), json!({"capacity": [{"nodes": 3}]})))
        .collect();
    let answers = wishes.iter().map(|wanted| kwok.ensure(wanted));
    let answers = futures_util::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    assert_eq!(nodes.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn settings_that_cannot_be_read_are_refused_with_their_field() {
    let (kwok, nodes) = provider().await;
    for (settings, at) in [
        (json!({"readyAfter": "soon"}), "spec.provider.readyAfter"),
        (
            json!({"capacity": [{"nodes": -1}]}),
            "spec.provider.capacity[0].nodes",
        ),
        (json!({"bootDelay": "3s"}), "spec.provider.bootDelay"),
    ] {
        match kwok.ensure(&wanted("gpu-1", settings)).await {
            Err(Refusal::Misconfigured { field, .. }) => assert_eq!(field, at),
            other => panic!("{other:?}"),
        }
    }
    let mut moon = wanted("gpu-1", json!({}));
    moon.offering.zone = "moon".to_owned();
    let refusal = kwok.ensure(&moon).await;
    assert!(matches!(refusal, Err(Refusal::Misconfigured { .. })));
    assert!(nodes.lock().unwrap().is_empty());
}

#[test]
fn a_node_is_ready_at_its_time_and_its_gpus_come_later() {
    let (node, fake) = fake(json!({}));
    assert_eq!(fake.reached(node.status.as_ref()), BOOTING);
    let after = |seconds: u64| fake.created + Millis::from_secs(seconds);
    assert_eq!(fake.due(BOOTING, after(0)), Due::At(after(30)));
    assert_eq!(fake.due(BOOTING, after(30)), Due::Report(READY));
    assert_eq!(fake.due(READY, after(31)), Due::At(after(90)));
    assert_eq!(fake.due(READY, after(90)), Due::Report(COMPLETE));
    assert_eq!(fake.due(COMPLETE, after(91)), Due::Never);
    let late = fake.report(COMPLETE, "2026-11-25T08:01:30Z".parse().unwrap());
    assert_eq!(late["status"]["allocatable"]["nvidia.com/gpu"], "2");
    let ready = fake.report(READY, "2026-11-25T08:00:30Z".parse().unwrap());
    assert_eq!(ready["status"]["allocatable"], Value::Null);
    assert_eq!(
        ready["metadata"]["annotations"]["kwok.x-k8s.io/node"],
        "fake"
    );
    assert_eq!(ready["metadata"]["labels"]["kwok.x-k8s.io/node"], "fake");
}

#[test]
fn what_was_missed_while_nobody_looked_is_caught_up_at_once() {
    let (_, fake) = fake(json!({"readyAfter": "5s", "gpusAfter": "1s"}));
    let after = |seconds: u64| fake.created + Millis::from_secs(seconds);
    assert_eq!(
        fake.due(BOOTING, after(3)),
        Due::At(after(5)),
        "no GPUs before it is Ready"
    );
    assert_eq!(fake.due(BOOTING, after(4000)), Due::Report(COMPLETE));
    let lost = Reached {
        ready: false,
        complete: true,
    };
    assert_eq!(
        fake.due(lost, after(4000)),
        Due::Report(COMPLETE),
        "it was given up meanwhile"
    );
}

#[test]
fn a_spot_node_is_interrupted_at_its_time_and_goes_after_its_notice() {
    let (_, fake) = fake(json!({"interruptAfter": "10m", "notice": "30s"}));
    let after = |seconds: u64| fake.created + Millis::from_secs(seconds);
    assert!(!fake.is_interrupted(after(599)));
    assert!(fake.is_interrupted(after(600)));
    assert_eq!(fake.due(COMPLETE, after(600)), Due::At(after(630)));
    assert_eq!(fake.due(COMPLETE, after(630)), Due::TakeAway);
}

#[test]
fn a_person_interrupts_a_node_by_an_annotation_whatever_is_in_it() {
    let (mut node, _) = fake(json!({}));
    let mut says = |text: &str| {
        let annotations = node.metadata.annotations.as_mut().unwrap();
        annotations.insert(INTERRUPT.to_owned(), text.to_owned());
        Fake::read(&node.metadata).unwrap()
    };
    let unsaid = says("now");
    let after = |seconds: u64| unsaid.created + Millis::from_secs(seconds);
    assert!(unsaid.is_interrupted(after(100)));
    assert_eq!(unsaid.due(COMPLETE, after(100)), Due::Date);
    let dated = says("2026-11-25T08:01:40Z");
    assert_eq!(dated.due(COMPLETE, after(100)), Due::At(after(220)));
    assert_eq!(dated.due(COMPLETE, after(220)), Due::TakeAway);
    let state = instance(&node.metadata, after(100)).unwrap().state;
    assert_eq!(state, InstanceState::Interrupted);
}
