//! Google's own Python client against the Google of the tests: it speaks what that understands. And what
//! the provider sends is what Google's discovery documents describe.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use headstart_fake_clouds::gcp::Google;
use headstart_fake_clouds::{CLUSTER, Cloud as _};
use headstart_provider::{Release, Wanted};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn googles_own_client_makes_lists_and_deletes_what_is_on_loopback() {
    let google = Google::start().unwrap();
    google.control().price(&google.offerings().spot, 0.25);
    let url = google.url();
    let told = python(&["drive", &url], "");
    let expected = json!({
        "token lasts": 3599,
        "cluster": "prod",
        "another cluster": 404,
        "twice": 409,
        "unknown type": [400, "Machine type \"g99\" is not available in zone \"us-central1-a\"."],
        "statuses": ["PROVISIONING", "RUNNING"],
        "operation": "DONE",
        "pools": ["hand"],
        "made": "DONE",
        "made again": "DONE",
        "same name": 409,
        "pages": true,
        "actions": ["NONE"],
        "filtered": ["two"],
        "listed": ["one", "three", "two"],
        "status": "RUNNING",
        "size": 3,
        "deleted": "DONE",
        "not a member": 400,
        "gone": 404,
        "errors": [],
        "preempted": [],
        "types": ["a2-highgpu-1g", "g2-standard-4"],
        "price": 250_000_000,
        "obtainability": 0.8,
        "pool deleted": "DELETE_NODE_POOL",
        "a stranger": ["wants a new token", "wants a new token"],
    });
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_provider_sends_is_what_googles_discovery_documents_describe() {
    let google = Google::start().unwrap();
    let provider = google.provider(CLUSTER);
    let mut wanted = Wanted {
        claim: "gpu-a".to_owned(),
        offering: google.offerings().spot,
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        startup_taints: Vec::new(),
        taints: ["NoSchedule", "PreferNoSchedule", "NoExecute"]
            .map(|effect| headstart_api::PoolTaint {
                key: "nvidia.com/gpu".to_owned(),
                value: "present".to_owned(),
                effect: effect.to_owned(),
            })
            .into(),
        settings: google.settings(),
        intent: String::new(),
    };
    provider.ensure(&wanted).await.unwrap();
    wanted.claim = "gpu-b".to_owned();
    wanted.offering = google.offerings().on_demand;
    // Every setting there is.
    let settings = json!({
        "serviceAccount": "default", "imageType": "UBUNTU_CONTAINERD", "diskType": "pd-balanced",
        "diskSizeGb": 200, "networkTags": ["gpu"], "localSsds": 2, "gpuDriver": "latest",
        "secondaryBootDisks": ["projects/proving-ground/global/images/warm"],
    });
    wanted.settings = settings.as_object().cloned().unwrap();
    provider.ensure(&wanted).await.unwrap();
    provider.instances().await.unwrap();
    provider.offers().await.unwrap();
    provider.examine(&wanted.settings).await;
    while provider.release("gpu-a").await.unwrap() != Release::Gone {}

    let sent = google.asked().into_iter();
    let sent: Vec<_> = sent
        .map(|one| json!({"method": one.method, "path": one.path, "query": one.query, "body": one.body}))
        .collect();
    let made = |one: &&Value| {
        one["method"] == "POST"
            && one["path"]
                .as_str()
                .is_some_and(|it| it.ends_with("/nodePools"))
    };
    assert_eq!(sent.iter().filter(made).count(), 2);
    assert_eq!(python(&["check"], &json!(sent).to_string()), json!([]));
    // The check can fail.
    let path = "/v1/projects/p/locations/l/clusters/c/nodePools";
    let wrong = json!([
        {"method": "POST", "path": path, "query": {"requestid": "7"}, "body": {"nodePool": {
            "name": 7, "status": "RUNNING", "nodes": 1, "config": {"taints": [{"effect": "NoSchedule"}]},
        }}},
        {"method": "PATCH", "path": path, "query": {}, "body": {}},
    ]);
    let found = python(&["check"], &wrong.to_string());
    assert_eq!(found.as_array().map(Vec::len), Some(6), "{found}");
}

fn python(arguments: &[&str], input: &str) -> Value {
    let provisioned = std::env::var_os("HEADSTART_PROVISIONED");
    let provisioned = provisioned.expect("`cargo xtask e2e` says where programs are");
    let python = Path::new(&provisioned).join("python/google-api-2.202.0/bin/python");
    let mut child = Command::new(python)
        .args(["-c", include_str!("google_client.py")])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the interpreter that was provisioned starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the script reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "the script failed");
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}
