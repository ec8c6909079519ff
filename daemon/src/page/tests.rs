use axum::http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::ledger::tests::{hidden, moment};

async fn get(path: &str, report: Report) -> (StatusCode, HeaderMap, String) {
    let (_shown, latest) = watch::channel(Arc::new(report));
    let app = router(latest).merge(super::metrics(Arc::new(Metrics::new())));
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (parts, body) = app.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (
        parts.status,
        parts.headers,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

fn report() -> Report {
    let (objects, deploy) = hidden(200.0);
    Report {
        at: moment(200.0),
        deploys: vec![Arc::new(deploy)],
        objects,
    }
}

#[tokio::test]
async fn every_file_of_the_page_is_served_under_a_policy_that_allows_nothing_else() {
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/api/deploys", "application/json"),
        ("/api/caches", "application/json"),
    ] {
        let (status, headers, body) = get(path, Report::default()).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(headers[header::CONTENT_TYPE], kind, "{path}");
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY, "{path}");
        for foreign in ["https://", "style=", "onload", "innerHTML", "<script>"] {
            assert!(!body.contains(foreign), "{path} has {foreign}");
        }
        // The one address is a name of XML.
        let addresses =
            body.matches("http://").count() - body.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(addresses, 0, "{path}");
    }
    // Below a proxy's path an absolute address would lead elsewhere.
    assert!(!HTML.contains("=\"/") && !JS.contains("\"/api"));
}

#[tokio::test]
async fn a_deploy_is_told_with_stages_that_sum_to_its_time() {
    let (_, _, body) = get("/api/deploys", report()).await;
    let form: Value = serde_json::from_str(&body).unwrap();
    let deploy = &form["deploys"][0];
    let stages = deploy["stages"].as_array().unwrap();
    let sum: f64 = stages
        .iter()
        .map(|one| one["seconds"].as_f64().unwrap())
        .sum();
    assert!((sum - deploy["wallSeconds"].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(deploy["pod"], "vllm-0");
    assert_eq!(deploy["exposedByteSeconds"], 0.0);
    assert_eq!(deploy["hiddenByteSeconds"], 52.0);
    assert_eq!(deploy["usdPerHour"], 0.8);
    assert_eq!(deploy["items"][1]["startSeconds"], 18.5);
    assert_eq!(
        deploy["items"][1]["sources"],
        json!({"hub": 16_000_000_000_u64})
    );
}

#[tokio::test]
async fn the_map_says_how_far_each_item_is_on_each_node() {
    let mut report = report();
    let cache = json!({
        "metadata": {"name": "n2"},
        "spec": {"items": [{"model": "a/b@0123456789abcdef0123456789abcdef01234567", "bytes": "10G"},
            {"image": "x@sha256:1"}]},
        "status": {"items": [
            {"model": "a/b@0123456789abcdef0123456789abcdef01234567", "state": "Partial", "bytes": "4G"},
            {"model": "gated/x@0123456789abcdef0123456789abcdef01234567", "problem": "401 from the hub"},
        ]},
    });
    report
        .objects
        .caches
        .push(Arc::new(serde_json::from_value(cache).unwrap()));
    let (_, _, body) = get("/api/caches", report).await;
    let form: Value = serde_json::from_str(&body).unwrap();
    // Where something is on its way comes first.
    assert_eq!(form["nodes"][0]["name"], "n2");
    let mut rows = Vec::new();
    for row in form["items"].as_array().unwrap() {
        let cells = row["cells"].as_array().unwrap();
        let cells = cells.iter().map(|cell| match &cell["percent"] {
            Value::Null => cell["state"].as_str().unwrap().to_owned(),
            percent => format!("{percent} %"),
        });
        let name: String = row["name"].as_str().unwrap().chars().take(20).collect();
        rows.push(format!("{name} {}", cells.collect::<Vec<_>>().join(", ")));
    }
    expect_test::expect![[r#"
        docker.io/vllm/vllm- absent, verified
        x@sha256:1 wanted, absent
        a/b@0123456789abcdef 40 %, absent
        gated/x@0123456789ab failed, absent
        hf://Qwen/Qwen3-8B@0 absent, verified"#]]
    .assert_eq(&rows.join("\n"));
}

#[tokio::test]
async fn a_page_with_thousands_of_nodes_stays_small() {
    let mut report = report();
    let cache = report.objects.caches[0].clone();
    report.objects.caches = (0..5000)
        .map(|number| {
            let mut cache = (*cache).clone();
            cache.metadata.name = Some(format!("n{number}"));
            Arc::new(cache)
        })
        .collect();
    let (_, _, body) = get("/api/caches", report).await;
    let form: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(form["nodesLeftOut"], 4900);
    assert!(body.len() < 100_000, "{}", body.len());
}

#[tokio::test]
async fn metrics_are_text_of_the_form_asked_for() {
    let (status, headers, body) = get("/metrics", Report::default()).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        headers[header::CONTENT_TYPE],
        Format::Prometheus.content_type()
    );
    assert!(
        body.contains("# TYPE headstart_deploy_bytes_total counter"),
        "{body}"
    );
}
