use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode as Answer;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;

use super::*;
use crate::ledger::tests::hidden;

/// A collector that answers each request with the next of `answers`, then with OK.
async fn collector(answers: &[u16]) -> (Url, mpsc::Receiver<Value>) {
    let (heard, requests) = mpsc::channel(16);
    let answers = Arc::new(std::sync::Mutex::new(answers.to_vec()));
    let take = async move |body: Bytes| {
        let value = serde_json::from_slice(&body).expect("JSON");
        heard.send(value).await.expect("the test listens");
        let mut answers = answers.lock().expect("no panic");
        match answers.is_empty() {
            true => Answer::OK,
            false => Answer::from_u16(answers.remove(0)).expect("a status"),
        }
    };
    let app = Router::new().route("/otlp/v1/traces", post(take));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (
        Url::parse(&format!("http://{address}/otlp/")).unwrap(),
        requests,
    )
}

fn to(endpoint: Url) -> TraceArgs {
    TraceArgs {
        otlp_endpoint: Some(endpoint),
    }
}

#[tokio::test]
async fn a_deploy_is_one_trace_under_the_pod_s_uid_with_a_span_per_stage_and_item() {
    let (endpoint, mut requests) = collector(&[]).await;
    let sender = sender(&to(endpoint), CancellationToken::new())
        .unwrap()
        .unwrap();
    let (_, deploy) = hidden(200.0);
    sender.send(Arc::new(deploy.clone())).await.unwrap();
    let request = requests.recv().await.unwrap();
    let of_deploy = &request["resourceSpans"][0];
    let attributes: BTreeMap<&str, &Value> = of_deploy["resource"]["attributes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["key"].as_str().unwrap(), &one["value"]["stringValue"]))
        .collect();
    assert_eq!(attributes["k8s.pod.uid"], deploy.uid.as_str());
    assert_eq!(attributes["k8s.node.name"], "n1");
    let spans = of_deploy["scopeSpans"][0]["spans"].as_array().unwrap();
    let root = &spans[0];
    assert_eq!(root["traceId"], deploy.uid.replace('-', ""));
    let nanos = |span: &Value, end: &str| -> i128 { span[end].as_str().unwrap().parse().unwrap() };
    let took = |span: &Value| nanos(span, "endTimeUnixNano") - nanos(span, "startTimeUnixNano");
    let mut stages = 0;
    for span in &spans[1..] {
        assert_eq!(span["traceId"], root["traceId"]);
        assert_eq!(span["parentSpanId"], root["spanId"]);
        assert_ne!(span["spanId"], root["spanId"]);
        if span["name"]
            .as_str()
            .unwrap()
            .starts_with("headstart.stage.")
        {
            stages += took(span);
        }
    }
    assert_eq!(stages, took(root));
    assert_eq!(took(root), 147_000_000_000);
    let names: Vec<&str> = spans
        .iter()
        .map(|span| span["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"headstart.fetch.weights"), "{names:?}");
    let ids: std::collections::BTreeSet<&str> = spans
        .iter()
        .map(|span| span["spanId"].as_str().unwrap())
        .collect();
    assert_eq!(ids.len(), spans.len());
}

#[tokio::test]
async fn a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not() {
    let (endpoint, mut requests) = collector(&[503, 400]).await;
    let sender = sender(&to(endpoint), CancellationToken::new())
        .unwrap()
        .unwrap();
    let (_, deploy) = hidden(200.0);
    sender.send(Arc::new(deploy.clone())).await.unwrap();
    let first = requests.recv().await.unwrap();
    // Tried again after the 503, and dropped after the 400.
    assert_eq!(requests.recv().await.unwrap(), first);
    let mut other = deploy;
    other.uid = "not-a-uuid".to_owned();
    sender.send(Arc::new(other)).await.unwrap();
    let next = requests.recv().await.unwrap();
    let id = &next["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"];
    assert_eq!(id.as_str().unwrap().len(), 32);
    assert_ne!(next, first);
}

#[test]
fn an_endpoint_that_is_no_web_address_is_refused_and_none_is_none() {
    let args = to(Url::parse("grpc://collector:4317").unwrap());
    let refused = sender(&args, CancellationToken::new()).unwrap_err();
    assert!(refused.contains("http://HOST:4318"), "{refused}");
    assert!(
        sender(&TraceArgs::default(), CancellationToken::new())
            .unwrap()
            .is_none()
    );
}
