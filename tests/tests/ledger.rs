//! `top` and `explain` against a real API server, under the name that kubectl looks for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use headstart_testbed::cluster::{Api, Cluster, Options};
use serde_json::{Value, json};

use self::objects::{cache, claim, node, pod, served};

#[path = "page/objects.rs"]
mod objects;

fn program() -> PathBuf {
    let program = std::env::var_os("HEADSTART_DAEMON");
    program.expect("run by `cargo xtask e2e`").into()
}

const NODES: &str = "/api/v1/nodes";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CLAIMS: &str = "/apis/headstart.dev/v1alpha1/nodeclaims";
const CACHES: &str = "/apis/headstart.dev/v1alpha1/nodecaches";

/// Makes an object, then its status.
fn put(api: &Api, collection: &str, object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let mut bare = object.clone();
    let status = bare.as_object_mut().unwrap().remove("status");
    for key in ["creationTimestamp", "uid"] {
        bare["metadata"].as_object_mut().unwrap().remove(key);
    }
    api.create(collection, &bare).unwrap();
    if let Some(status) = status {
        let path = format!("{collection}/{name}/status");
        api.patch(&path, &json!({"status": status})).unwrap();
    }
}

#[test]
fn top_and_explain_ask_a_real_cluster_also_as_a_plugin_of_kubectl() {
    let programs = std::env::var_os("HEADSTART_KUBERNETES");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/ledger");
    let cluster = Cluster::up(&Options {
        directory,
        programs: programs.expect("run by `cargo xtask e2e`").into(),
        program: env!("CARGO_BIN_EXE_cluster").into(),
        nodes: Vec::new(),
    })
    .unwrap();
    let api = cluster.api();
    let home = tempfile::tempdir().unwrap();
    let plugin = home.path().join("kubectl-headstart");
    std::os::unix::fs::symlink(program().canonicalize().unwrap(), &plugin).unwrap();
    let kubeconfig = cluster.kubeconfig();
    let ask = |arguments: &[&str]| -> Output {
        let mut command = Command::new(&plugin);
        command.args(arguments).arg("--kubeconfig").arg(&kubeconfig);
        command.output().unwrap()
    };
    let said = |output: &Output| {
        let text = [output.stdout.clone(), output.stderr.clone()].concat();
        String::from_utf8_lossy(&text).into_owned()
    };

    // Without our definitions it says what to do.
    let without = ask(&["top"]);
    assert_eq!(without.status.code(), Some(2));
    assert!(
        said(&without).contains("headstart crd | kubectl apply"),
        "{}",
        said(&without)
    );

    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/headstart/files/crds");
    for file in std::fs::read_dir(files).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let made = api.create_yaml(crds, text).unwrap();
        let path = format!("{crds}/{}", made["metadata"]["name"].as_str().unwrap());
        let established = |crd: &Value| crd["status"].to_string().contains("\"Established\"");
        api.until(&path, std::time::Duration::from_secs(30), established)
            .unwrap();
    }
    put(api, NODES, &node("n1", 0.0));
    put(api, CLAIMS, &claim("c1", "n1", "done", 0.0));
    put(api, CACHES, &cache("n1", (3.0, 20.0), (3.5, 60.0)));
    put(
        api,
        PODS,
        &pod("done", Some("n1"), 0.0, &served(91.0, 93.0, 147.0)),
    );
    let unschedulable = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    }]});
    put(api, PODS, &pod("waits", None, 0.0, &unschedulable));

    let top = said(&ask(&["top"]));
    let line = |beginning: &str| {
        let mut lines = top.lines();
        lines
            .find(|line| line.starts_with(beginning))
            .unwrap_or_else(|| panic!("{top}"))
    };
    assert!(line("c1").contains("gpu-allocatable"), "{top}");
    assert!(line("default/done").contains("serves"), "{top}");
    assert!(
        line("default/waits").contains("waits for requested"),
        "{top}"
    );
    let elsewhere = said(&ask(&["top", "-n", "kube-system"]));
    assert!(elsewhere.contains("no deploys"), "{elsewhere}");

    // What the daemon publishes, through the API server's proxy to its Service.
    let plan = json!({"apiVersion": "plan.headstart.dev/v1", "kind": "Plan", "unserved": [{
        "pods": ["default/waits"], "code": "NoCandidate",
        "text": ["pool gpu: 54 offerings excluded: over the pod's cap of 0.40 USD/h"],
    }]});
    let port = publish(&cluster, &plan);
    let labels = json!({
        "app.kubernetes.io/part-of": "headstart", "app.kubernetes.io/component": "daemon",
    });
    let ports = json!([{"name": "metrics", "port": 9090, "targetPort": port, "protocol": "TCP"}]);
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "headstart", "labels": labels}, "spec": {"ports": ports}});
    api.create("/api/v1/namespaces/default/services", &service)
        .unwrap();
    // The proxy asks only pods that are there under the address.
    let running =
        json!({"phase": "Running", "podIP": "10.99.0.1", "podIPs": [{"ip": "10.99.0.1"}]});
    put(api, PODS, &pod("daemon", Some("n1"), 0.0, &running));
    let target = json!({"kind": "Pod", "namespace": "default", "name": "daemon"});
    let addresses = json!([{"ip": "10.99.0.1", "targetRef": target}]);
    let subsets = json!([{"addresses": addresses, "ports": [{"name": "metrics", "port": port}]}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "headstart"}, "subsets": subsets});
    api.create("/api/v1/namespaces/default/endpoints", &endpoints)
        .unwrap();

    // The API server learns of the Service a moment later; until then the rest is said without it.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let (waits, text) = loop {
        let waits = ask(&["explain", "pod/waits"]);
        let text = said(&waits);
        if !text.contains("the plan is not known") || std::time::Instant::now() > deadline {
            break (waits, text);
        }
    };
    assert_eq!(waits.status.code(), Some(1), "{text}");
    for part in [
        "pod default/waits",
        "the scheduler says: 0/1 nodes are available",
        "the plan does not serve it:\n    pool gpu: 54 offerings excluded",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let done = ask(&["explain", "pod/default/done"]);
    let text = said(&done);
    assert!(done.status.success(), "{text}");
    for part in [
        "bought for it by claim c1: serves in 147 s",
        "exposed byte time 0.0 s",
        "16.4 GB from hub",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let node = ask(&["explain", "node/n1"]);
    assert!(said(&node).contains("default/done"), "{}", said(&node));
    let none = ask(&["explain", "pod/other", "-n", "kube-system"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(
        said(&none).contains("no pod kube-system/other in the cluster"),
        "{}",
        said(&none)
    );
    let help = said(
        &Command::new(&plugin)
            .args(["explain", "--help"])
            .output()
            .unwrap(),
    );
    assert!(help.contains("Usage: kubectl headstart explain"), "{help}");
    let context = ask(&["top", "--context", "nowhere"]);
    assert_eq!(context.status.code(), Some(2), "{}", said(&context));
}

/// Serves `plan` at `/plan` in the control plane's network, for as long as this process lives.
fn publish(cluster: &Cluster, plan: &Value) -> u16 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let body = plan.to_string();
    let network = Box::leak(Box::new(cluster.network().unwrap()));
    let listening = network.spawn(async move {
        let listener = tokio::net::TcpListener::bind("10.99.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 8192];
                let read = stream.read(&mut request).await.unwrap_or(0);
                let asked = String::from_utf8_lossy(&request[..read]).starts_with("GET /plan ");
                let status = if asked { "200 OK" } else { "404 Not Found" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                     connection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    });
    network.block_on(listening).unwrap()
}
