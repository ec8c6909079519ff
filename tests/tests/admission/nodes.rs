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
        let mut status = json!({
            "capacity": room, "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Test"}],
        });
        if name == "cold1" {
            let images =
                json!([{"names": ["vllm/vllm-openai:v0"], "sizeBytes": 20_000_000_000_u64}]);
            status["images"] = images;
        }
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

/// Makes the warm node one that pods are rather kept from.
pub(crate) fn discourage(api: &Api) -> Result<()> {
    let taint = json!([{"key": "rather", "value": "not", "effect": "PreferNoSchedule"}]);
    api.patch("/api/v1/nodes/warm", &json!({"spec": {"taints": taint}}))?;
    Ok(())
}

/// Takes that back.
pub(crate) fn encourage(api: &Api) -> Result<()> {
    api.patch("/api/v1/nodes/warm", &json!({"spec": {"taints": null}}))?;
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

/// What speaks for other nodes, in a pod's own words.
pub(crate) fn against(pod: &mut Value) {
    pod["spec"]["topologySpreadConstraints"] = spread();
    let preference = json!({"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["cold2"]}]});
    pod["spec"]["affinity"] = json!({"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": preference}]}});
}

/// Spread over hosts where it can be.
pub(crate) fn spread() -> Value {
    json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "model"}},
    }])
}
