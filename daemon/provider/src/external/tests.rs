use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{get, put};
use axum::{Json, Router};
use headstart_clouds::call::Patience;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use serde_json::{Value, json};

use super::*;
use crate::market::sold;

/// What the other side was asked, and what it answers to an ensure.
#[derive(Clone, Default)]
struct Side {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    answer: Arc<Mutex<(u16, Value)>>,
}

async fn provider(side: &Side) -> External {
    let ensure = |State(side): State<Side>,
                  Path(claim): Path<String>,
                  headers: HeaderMap,
                  Json(body): Json<Value>| async move {
        assert_eq!(headers["authorization"], "Bearer secret");
        side.asked.lock().unwrap().push((claim, body));
        let (status, answer) = side.answer.lock().unwrap().clone();
        (StatusCode::from_u16(status).unwrap(), Json(answer)).into_response()
    };
    let release = async |Path(claim): Path<String>| match claim.as_str() {
        "ending" => StatusCode::ACCEPTED,
        _ => StatusCode::NOT_FOUND,
    };
    let listed = json!({"instances": [told("gpu-1", "interrupted")]});
    let router = Router::new()
        .route("/base/v1/instances/{claim}", put(ensure).delete(release))
        .route("/base/v1/instances", get(async || Json(listed)))
        .route("/base/v1/offers", get(async || "box.l4,0.4"))
        .with_state(side.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    let base = format!("http://{address}/base/").parse().unwrap();
    let site = Site {
        cluster: "here".to_owned(),
        http: Http::new(policy).unwrap(),
        patience: Patience::default(),
        catalog: Offers::default(),
    };
    External::new(site, base, Some("secret".to_owned()), |table| {
        let (name, price) = std::str::from_utf8(table).unwrap().split_once(',').unwrap();
        Ok(sold(name, price.parse().unwrap()))
    })
}

fn told(claim: &str, state: &str) -> Value {
    json!({
        "claim": claim, "providerId": format!("home://{claim}"), "nodeName": claim,
        "state": state, "created": "2026-11-25T08:00:00Z",
    })
}

fn wanted() -> Wanted {
    Wanted {
        claim: "gpu-1".to_owned(),
        offering: OfferingKey {
            instance_type: "box.l4".to_owned(),
            zone: "home-a".to_owned(),
            capacity_type: CapacityType::Spot,
        },
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: serde_json::Map::new(),
        intent: "{}".to_owned(),
    }
}

#[tokio::test]
async fn an_instance_is_asked_for_under_its_claim_with_all_that_its_node_is_to_have() {
    let side = Side::default();
    *side.answer.lock().unwrap() = (200, told("gpu-1", "running"));
    let provider = provider(&side).await;
    let got = provider.ensure(&wanted()).await.unwrap();
    assert_eq!(got.claim.as_deref(), Some("gpu-1"));
    assert_eq!(got.provider_id, "home://gpu-1");
    assert_eq!(got.state, InstanceState::Running);
    let asked = side.asked.lock().unwrap().clone();
    let body = json!({
        "instanceType": "box.l4", "zone": "home-a", "capacityType": "spot",
        "labels": {"a": "b"}, "taints": [], "settings": {}, "intent": "{}",
    });
    assert_eq!(asked, [("gpu-1".to_owned(), body)]);
}

#[tokio::test]
async fn every_way_to_say_no_is_told_apart() {
    let side = Side::default();
    let provider = provider(&side).await;
    let refused = async |status: u16, code: &str| {
        let body = json!({"code": code, "message": "no", "subject": "it"});
        *side.answer.lock().unwrap() = (status, body);
        provider.ensure(&wanted()).await.unwrap_err().to_string()
    };
    assert_eq!(refused(409, "OutOfCapacity").await, "no capacity: no");
    assert_eq!(refused(409, "Quota").await, "over the quota it: no");
    assert_eq!(
        refused(403, "Forbidden").await,
        "forbidden, it is missing: no"
    );
    assert_eq!(refused(422, "Misconfigured").await, "it is wrong: no");
    assert_eq!(refused(418, "Teapot").await, "Teapot: no");
    let asked = side.asked.lock().unwrap().len();
    assert_eq!(asked, 5, "what was refused is not asked again");
    assert!(refused(500, "").await.contains("500 each of"));
}

#[tokio::test]
async fn giving_back_is_over_when_nothing_is_there_any_more() {
    let provider = provider(&Side::default()).await;
    assert_eq!(provider.release("ending").await, Ok(Release::Ending));
    assert_eq!(provider.release("gone").await, Ok(Release::Gone));
}

#[tokio::test]
async fn what_is_sold_and_what_runs_are_read() {
    let provider = provider(&Side::default()).await;
    let offers = provider.offers().await.unwrap();
    assert_eq!(offers.types[0].name, "box.l4");
    assert_eq!(offers.offerings.len(), 1);
    let instances = provider.instances().await.unwrap();
    assert_eq!(instances[0].state, InstanceState::Interrupted);
}
