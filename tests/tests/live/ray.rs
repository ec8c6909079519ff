//! A RayCluster, by KubeRay's operator.

use std::path::Path;

use serde_json::{Value, json};

use super::{MODEL, PODS, WAIT, World};

const CLUSTERS: &str = "/apis/ray.io/v1/namespaces/default/rayclusters";
const IMAGE: &str = "10.99.0.1:5000/headstart/ray:1";

impl World {
    /// Installs the operator and makes a cluster without workers.
    pub(crate) fn ray_cluster(&self) {
        let kuberay = std::env::var_os("HEADSTART_KUBERAY").expect("run by `cargo xtask e2e`");
        self.cluster.add_kuberay(Path::new(&kuberay)).unwrap();
        let template = |name: &str, annotations: Value, limits: Value| {
            json!({
                "metadata": {"annotations": annotations},
                "spec": {"containers": [{
                    "name": name, "image": IMAGE, "resources": {"limits": limits},
                }]},
            })
        };
        let limits = json!({"cpu": "200m", "memory": "128Mi"});
        let head = template("ray-head", json!({}), limits);
        let models = json!({"headstart.dev/models": format!("hf://acme/{MODEL}")});
        let limits = json!({"cpu": "200m", "memory": "128Mi", "nvidia.com/gpu": 1});
        let worker = template("ray-worker", models, limits);
        let cluster = json!({
            "apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "small"},
            "spec": {
                "rayVersion": "2.60.0",
                "headGroupSpec": {"rayStartParams": {}, "template": head},
                "workerGroupSpecs": [{
                    "groupName": "gpu", "replicas": 0, "minReplicas": 0, "maxReplicas": 4,
                    "rayStartParams": {}, "template": worker,
                }],
            },
        });
        self.api().create(CLUSTERS, &cluster).unwrap();
        let head = |object: &Value| {
            let conditions = object["status"]["conditions"].as_array();
            let mut all = conditions.into_iter().flatten();
            all.any(|one| one["type"] == "HeadPodReady" && one["status"] == "True")
        };
        self.api().until(&path(), WAIT, head).unwrap();
    }

    /// As Ray's autoscaler does it.
    pub(crate) fn scale_ray(&self, workers: usize) {
        let groups = json!([{"op": "replace", "path": "/spec/workerGroupSpecs/0/replicas", "value": workers}]);
        self.api().patch_json(&path(), &groups).unwrap();
    }

    /// Workers, once there are so many and all are ready.
    pub(crate) fn ray_workers(&self, count: usize) -> Vec<Value> {
        let ready = |object: &Value| object["status"]["readyWorkerReplicas"] == count;
        self.api().until(&path(), WAIT, ready).unwrap();
        self.list(&format!("{PODS}?labelSelector=ray.io%2Fnode-type%3Dworker"))
    }

    /// Removes the cluster; the operator, whose pods would come back, has nothing to do then.
    pub(crate) fn remove_ray(&self) {
        self.api().delete(&path()).unwrap();
        self.until("Ray's pods are gone", || {
            self.list(&format!("{PODS}?labelSelector=ray.io%2Fcluster%3Dsmall"))
                .is_empty()
        });
    }
}

fn path() -> String {
    format!("{CLUSTERS}/small")
}
