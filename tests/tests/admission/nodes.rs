//! Six nodes that are objects only: one warm, five cold, with everything that speaks against the warm
//! one on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use headstart_testbed::cluster::{Api, Cluster};
use serde_json::{Value, json};

use crate::{REPO, SYSTEM, WAIT, WARM};

/// Which nodes have an agent.
pub(crate) const AGENT_TERMS: &str =
    r#"[{"matchExpressions":[{"key":"headstart.dev/agent","operator":"In","values":["true"]}]}]"#;

/// The first is warm.
const NODES: [&str; 6] = ["warm", "cold1", "cold2", "cold3", "cold4", "cold5"];

/// Makes nodes, what their agents report, and their agents' pods.
pub(crate) fn make(api: &Api) -> Result<()> {
    for name in NODES {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "headstart.dev/agent": "true",
            }},
        });
        api.create("/api/v1/nodes", &node)?;
        let room = json!({"cpu": "64", "memory": "256Gi", "pods": "500", "nvidia.com/gpu": "200"});
        let status = json!({
            "capacity": room, "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
        });
        api.patch(
            &format!("/api/v1/nodes/{name}/status"),
            &json!({"status": status}),
        )?;
        let taints = format!("/api/v1/nodes/{name}");
        api.until(&taints, WAIT, |node| {
            let taints = node["spec"]["taints"].as_array();
            taints.is_none_or(Vec::is_empty)
        })?;
        let agent = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("agent-{name}"), "labels": {"app": "agent"}},
            "spec": {"nodeName": name, "tolerations": [{"operator": "Exists"}],
                     "containers": [{"name": "agent", "image": "agent"}]},
        });
        api.create(&format!("/api/v1/namespaces/{SYSTEM}/pods"), &agent)?;
    }
    let caches = "/apis/headstart.dev/v1alpha1/nodecaches";
    let cache = json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache",
        "metadata": {"name": "warm"}, "spec": {"generation": 1, "items": []},
    });
    api.create(caches, &cache)?;
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let item = json!({"model": format!("{REPO}@{commit}"), "state": "Verified"});
    let status = json!({"status": {"generation": 1, "items": [item]}});
    api.patch(&format!("{caches}/warm/status"), &status)?;
    Ok(())
}

/// Renews the nodes' leases until it is over.
pub(crate) fn keep_alive(cluster: &Arc<Cluster>, over: &Arc<AtomicBool>) {
    let (cluster, over) = (Arc::downgrade(cluster), Arc::clone(over));
    std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let Some(cluster) = cluster.upgrade() else {
                return;
            };
            for name in NODES {
                // One that fails is made again before it is missed.
                let _ = renew(cluster.api(), name);
            }
            drop(cluster);
            std::thread::sleep(Duration::from_secs(4));
        }
    });
}

fn renew(api: &Api, name: &str) -> Result<Value> {
    const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let renewed = format!("{:.6}", jiff::Timestamp::now());
    let path = format!("{LEASES}/{name}");
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed});
    match api.find(&path)? {
        Some(_) => api.patch(&path, &json!({"spec": spec})),
        None => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name}, "spec": spec});
            api.create(LEASES, &lease)
        }
    }
}

/// What speaks for other nodes than the warm one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The warm node's processors and memory are taken to 85 %.
    Filled,
    /// The pod's image of 20 GB is on another node.
    Image,
    /// The pod asks to be spread over hosts, where it can be.
    Spread,
    /// The pod itself prefers another node.
    Own,
    /// Pods are rather to be kept from the warm node, by a taint.
    Taint,
}

/// All of it.
pub(crate) const ALL: [Against; 5] = {
    use Against::{Filled, Image, Own, Spread, Taint};
    [Filled, Image, Spread, Own, Taint]
};

impl Against {
    /// What a pod says of it.
    pub(crate) fn told(self, pod: &mut Value) {
        match self {
            Self::Spread => {
                pod["spec"]["topologySpreadConstraints"] = json!([{
                    "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": {"app": "model"}},
                }]);
            }
            Self::Own => {
                let preference = json!({"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["cold2"]}]});
                pod["spec"]["affinity"] = json!({"nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution":
                        [{"weight": 100, "preference": preference}]}});
            }
            Self::Filled | Self::Image | Self::Taint => {}
        }
    }
}

/// Makes the nodes such that this speaks against the warm one, and nothing else.
pub(crate) fn set(api: &Api, against: &[Against]) -> Result<()> {
    let has = |what| against.contains(&what);
    let taint = json!([{"key": "rather", "value": "not", "effect": "PreferNoSchedule"}]);
    let taints = if has(Against::Taint) {
        taint
    } else {
        Value::Null
    };
    api.patch("/api/v1/nodes/warm", &json!({"spec": {"taints": taints}}))?;
    let image = json!([{"names": ["vllm/vllm-openai:v0"], "sizeBytes": 20_000_000_000_u64}]);
    let images = if has(Against::Image) {
        image
    } else {
        Value::Null
    };
    let images = json!({"status": {"images": images}});
    api.patch("/api/v1/nodes/cold1/status", &images)?;
    let pods = format!("/api/v1/namespaces/{SYSTEM}/pods");
    let filler = format!("{pods}/filler");
    match (has(Against::Filled), api.find(&filler)?) {
        (true, None) => {
            let requests = json!({"cpu": "54", "memory": "218Gi"});
            let filler = json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "filler"},
                "spec": {"nodeName": "warm", "containers": [
                    {"name": "filler", "image": "filler", "resources": {"requests": requests}}]},
            });
            api.create(&pods, &filler)?;
        }
        (false, Some(_)) => {
            api.delete(&filler)?;
        }
        _ => {}
    }
    Ok(())
}

/// Waits until the warm node and its agent's pod carry the label, and no other does.
pub(crate) fn until_labelled(api: &Api) -> Result<()> {
    let has = |object: &Value| object["metadata"]["labels"][WARM].is_string();
    api.until("/api/v1/nodes/warm", WAIT, has)?;
    api.until(
        &format!("/api/v1/namespaces/{SYSTEM}/pods/agent-warm"),
        WAIT,
        has,
    )?;
    for name in &NODES[1..] {
        let node = api
            .find(&format!("/api/v1/nodes/{name}"))?
            .unwrap_or_default();
        anyhow::ensure!(!has(&node), "{name} is labelled");
    }
    Ok(())
}
