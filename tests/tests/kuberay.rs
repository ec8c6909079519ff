//! KubeRay's operator in the cluster: what later tests with RayClusters build on holds.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::path::Path;
use std::time::Duration;

use headstart_testbed::cluster::{Api, Cluster, NodeOptions, Options};
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/default/pods";
const CLUSTERS: &str = "/apis/ray.io/v1/namespaces/default/rayclusters";

#[test]
fn a_raycluster_scaled_from_no_worker_to_two_has_two_that_found_their_head_by_its_name() {
    let cluster = Cluster::up(&options()).unwrap();
    let kuberay = std::env::var_os("HEADSTART_KUBERAY").expect("run by `cargo xtask e2e`");
    cluster.add_kuberay(Path::new(&kuberay)).unwrap();
    let api = cluster.api();

    api.create(CLUSTERS, &ray_cluster()).unwrap();
    let path = format!("{CLUSTERS}/small");
    api.until(&path, WAIT, |object| condition(object, "HeadPodReady"))
        .unwrap();
    assert_eq!(pods(api, "worker").len(), 0);
    let groups =
        json!([{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": 2}]);
    api.patch_json(&path, &groups).unwrap();
    api.until(&path, WAIT, |object| {
        object["status"]["readyWorkerReplicas"] == 2
    })
    .unwrap();
    let workers = pods(api, "worker");
    assert_eq!(workers.len(), 2);
    for worker in &workers {
        // The operator's own container, which went on once the head's name led to the head.
        let waited = &worker["status"]["initContainerStatuses"][0];
        assert_eq!(waited["name"], "wait-gcs-ready");
        assert_eq!(waited["state"]["terminated"]["exitCode"], 0);
        assert!(condition(worker, "Ready"));
    }
}

fn ray_cluster() -> Value {
    let image = "10.99.0.1:5000/headstart/ray:1";
    let limits = json!({"limits": {"cpu": "200m", "memory": "128Mi"}});
    let template = |name: &str| json!({"spec": {"containers": [{"name": name, "image": image, "resources": limits}]}});
    json!({
        "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "small"},
        "spec": {
            "rayVersion": "2.60.0",
            "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head")},
            "workerGroupSpecs": [{
                "groupName": "gpu", "replicas": 0, "minReplicas": 0, "maxReplicas": 4,
                "rayStartParams": {}, "template": template("ray-worker"),
            }],
        },
    })
}

fn pods(api: &Api, kind: &str) -> Vec<Value> {
    let path = format!("{PODS}?labelSelector=ray.io%2Fnode-type%3D{kind}");
    let listed = api.find(&path).unwrap().unwrap_or_default();
    listed["items"].as_array().cloned().unwrap_or_default()
}

fn condition(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == kind && one["status"] == "True")
}

fn options() -> Options {
    let programs = std::env::var_os("HEADSTART_KUBERNETES");
    Options {
        directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/kuberay"),
        programs: programs.expect("run by `cargo xtask e2e`").into(),
        program: env!("CARGO_BIN_EXE_cluster").into(),
        nodes: vec![NodeOptions::default(), NodeOptions::default()],
    }
}
