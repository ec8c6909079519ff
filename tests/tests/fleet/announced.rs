//! Companion mode: nodes are bought by others, and only told what to fetch.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::text;
use crate::world::{self, CACHES, CRDS, NODES, World, condition, digest, gpu_pod, pod_at};

/// Karpenter's.
pub(crate) const CLAIMS: &str = "/apis/karpenter.sh/v1/nodeclaims";

/// Karpenter's definitions, from its module. There is no controller.
pub(crate) fn define(world: &World) {
    let home = std::env::var_os("HEADSTART_KARPENTER").expect("run by `cargo xtask e2e`");
    let file = PathBuf::from(home).join("files/karpenter.sh_nodeclaims.yaml");
    let written = std::fs::read_to_string(&file).expect("it was provisioned");
    let made = world.api().create_yaml(CRDS, written);
    let name = text(&made.expect("the server takes it")["metadata"]["name"]);
    world.until(&format!("{CRDS}/{name}"), |crd| {
        condition(crd, "Established") == Some("True")
    });
}

pub(crate) fn by_karpenter(world: &mut World) {
    world.start("a", &["--provider=none"]);
    world.create_pod(&gpu_pod("serve"));
    world.create(CLAIMS, &claim());
    let at = format!("{CACHES}/default-x7k2p");
    let announced = world.until(&at, wants_image);
    assert_eq!(
        announced["metadata"]["ownerReferences"][0]["kind"],
        "NodeClaim"
    );
    assert_eq!(world.count(NODES), 0, "its node is not there yet");

    // The node joins under a name of its own, and the agent on it looks for that name.
    world.create(NODES, &node("ip-10-0-0-7", false));
    world.patch(
        &format!("{CLAIMS}/default-x7k2p/status"),
        &json!({"status": {
            "nodeName": "ip-10-0-0-7", "providerID": "aws:///a/i-7", "imageID": "ami-1",
        }}),
    );
    let own = world.until(&format!("{CACHES}/ip-10-0-0-7"), wants_image);
    assert_eq!(own["spec"]["items"], announced["spec"]["items"]);
    assert_eq!(own["metadata"]["ownerReferences"][0]["kind"], "Node");
    world.until_gone(&at);
    ready(world, "ip-10-0-0-7");
    let pod = world.until(&pod_at("serve"), |pod| pod["spec"]["nodeName"].is_string());
    assert_eq!(pod["spec"]["nodeName"], "ip-10-0-0-7");
    nothing_is_bought(world);
}

pub(crate) fn by_hand(world: &mut World) {
    world.start("a", &["--provider=none"]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    world.create(NODES, &node("metal", false));
    let cache = world.until(&format!("{CACHES}/metal"), wants_image);
    assert_eq!(cache["spec"]["items"][0]["demanded"], true);
    let pod = world.get(&pod_at("serve"));
    assert!(
        pod["spec"]["nodeName"].is_null(),
        "the node is not ready yet"
    );
    ready(world, "metal");
    world.until(&pod_at("serve"), |pod| pod["spec"]["nodeName"] == "metal");
    nothing_is_bought(world);
}

fn nothing_is_bought(world: &World) {
    assert_eq!(world.count(world::CLAIMS), 0);
    assert_eq!(world.cloud().asked().len(), 0);
}

fn wants_image(cache: &Value) -> bool {
    let image = cache["spec"]["items"][0]["image"].as_str();
    image.is_some_and(|image| image.ends_with(&digest(1)))
}

fn claim() -> Value {
    let one = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
    json!({
        "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
        "metadata": {"name": "default-x7k2p", "labels": {"karpenter.sh/nodepool": "default"}},
        "spec": {
            "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
            "requirements": [
                one("node.kubernetes.io/instance-type", "g6.xlarge"),
                one("karpenter.sh/capacity-type", "spot"),
            ],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "1"}},
        },
    })
}

/// A Node with a GPU, as a kubelet makes it.
fn node(name: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    let has = json!({"cpu": "2", "memory": "16Gi", "pods": "110", "nvidia.com/gpu": "1"});
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "headstart.dev/gpu-count": "1",
        }},
        "status": {"capacity": has, "allocatable": has, "conditions": [
            {"type": "Ready", "status": ready, "reason": "", "message": ""},
        ]},
    })
}

fn ready(world: &World, name: &str) {
    let status = node(name, true)["status"].clone();
    world.patch(
        &format!("{NODES}/{name}/status"),
        &json!({"status": status}),
    );
}
