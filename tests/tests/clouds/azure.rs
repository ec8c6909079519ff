//! Azure's own Python clients of AKS and of Compute, against the Azure of the tests: it speaks what they
//! understand, and what the provider sends is what they would.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use headstart_fake_clouds::azure::{Azure, GROUP, NAME, Recorded, SUBSCRIPTION, wares};
use headstart_fake_clouds::{CLUSTER, Cloud as _};
use headstart_provider::{Provider as _, Release, Wanted};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azures_own_client_makes_lists_and_deletes_what_is_on_loopback() {
    let azure = Azure::start().unwrap();
    azure.control().stock(&wares().elsewhere, 0);
    let told = drive(&azure);
    let scale_set = |number: u32| format!("aks-hand-17305246-vmss{number:06}");
    let expected = json!({
        "cluster": "eastus",
        "made": ["hand", "Succeeded", 2],
        "made twice": "PreconditionFailed",
        "changed with an old etag": "PreconditionFailed",
        "pools": ["gpus", "hand", "system"],
        "machines": [[scale_set(0), ["1"]], [scale_set(1), ["1"]]],
        "of scale sets": true,
        "addresses": ["10.224.0.4", "10.224.0.4"],
        "machine": scale_set(0),
        "machines left": [scale_set(1)],
        "an unknown size": "VMSizeNotSupported",
        "an invalid name": "InvalidParameter",
        "sold out": "SkuNotAvailable",
        "failed": ["Failed", "SkuNotAvailable"],
        "hand is gone": "NotFound",
        "soldout is gone": "NotFound",
        "skus": [
            "Standard_NC24ads_A100_v4", "Standard_NC4as_T4_v3", "Standard_ND96isr_H100_v5",
        ],
        "usages": {"cores": 200, "lowPriorityCores": 100, "standardNCASv3Family": 64},
        "elsewhere": "ResourceGroupNotFound",
        "a stranger": "InvalidAuthenticationToken",
    });
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_sends_what_azures_own_client_would() {
    let azure = Azure::start().unwrap();
    azure.control().stock(&wares().elsewhere, 0);
    drive(&azure);
    let by_client = azure.recorded();
    let by_client: BTreeSet<_> = by_client.iter().map(shape).collect();
    let before = azure.recorded().len();

    azure.control().restock();
    let provider = azure.open(CLUSTER, azure.managed());
    let mut wanted = wanted(&azure);
    provider.ensure(&wanted).await.unwrap();
    wanted.claim = "gpu-b".to_owned();
    wanted.offering = wares().on_demand;
    wanted.settings = everything();
    provider.ensure(&wanted).await.unwrap();
    provider.instances().await.unwrap();
    provider.offers().await.unwrap();
    provider.examine(&azure.settings()).await;
    while provider.release("gpu-a").await.unwrap() != Release::Gone {}

    let sent = azure.recorded().split_off(before);
    assert!(sent.iter().all(|it| !it.agent.contains("azsdk")));
    for one in &sent {
        // Of a third client, which is not here.
        if one.path.contains("Microsoft.Authorization") {
            continue;
        }
        let shape = shape(one);
        assert!(by_client.contains(&shape), "{shape:?}: {by_client:#?}");
    }
    let bodies = sent.iter().filter_map(|it| it.body.clone());
    let bodies: Vec<_> = bodies.map(|body| ("AgentPool", body)).collect();
    assert_eq!(bodies.len(), 2, "each is asked for once");
    assert_eq!(check(&json!(bodies)), [] as [&str; 0]);
    // The check can fail.
    let wrong = json!([["AgentPool", {"properties": {
        "count": "1", "vmsize": "x", "mode": "Users", "eTag": "7", "gpuProfile": {"drivers": 1},
    }}]]);
    assert_eq!(check(&wrong).len(), 5);
}

fn wanted(azure: &Azure) -> Wanted {
    Wanted {
        claim: "gpu-a".to_owned(),
        offering: wares().spot,
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        startup_taints: Vec::new(),
        taints: vec![headstart_api::PoolTaint {
            key: "nvidia.com/gpu".to_owned(),
            value: "present".to_owned(),
            effect: "NoSchedule".to_owned(),
        }],
        settings: azure.settings(),
        intent: String::new(),
    }
}

/// Every setting there is.
fn everything() -> serde_json::Map<String, Value> {
    let id = |below: &str| format!("/subscriptions/s/resourceGroups/g/providers/{below}");
    let settings = json!({
        "subnet": id("Microsoft.Network/virtualNetworks/v/subnets/nodes"),
        "podSubnet": id("Microsoft.Network/virtualNetworks/v/subnets/pods"),
        "osSku": "Ubuntu", "osDisk": "Ephemeral", "osDiskSizeGb": 512, "kubeletDisk": "Temporary",
        "maxPods": 60, "kubernetesVersion": "1.34", "gpuDriver": "None",
        "snapshot": id("Microsoft.ContainerService/snapshots/warm"), "artifactStreaming": true,
        "capacityReservationGroup": id("Microsoft.Compute/capacityReservationGroups/gpus"),
        "spotMaxPrice": 1.5, "spotTaint": "tolerated", "tags": {"team": "vision"},
    });
    settings.as_object().cloned().expect("it is a map")
}

/// What of a request does not depend on names: method, path, parameters and condition.
fn shape(sent: &Recorded) -> (String, String, Vec<String>, bool) {
    let mut path: Vec<&str> = sent.path.split('/').collect();
    for at in 1..path.len() {
        if matches!(path[at - 1], "agentPools" | "machines" | "operations") {
            path[at] = "{name}";
        }
    }
    let parameters = sent.query.iter().filter(|(name, _)| *name != "$skiptoken");
    let parameters = parameters.map(|(name, value)| format!("{name}={value}"));
    let condition = sent.condition.as_deref() == Some("*");
    (
        sent.method.clone(),
        path.join("/"),
        parameters.collect(),
        condition,
    )
}

fn drive(azure: &Azure) -> Value {
    let size = wares().spot.instance_type;
    let url = azure.url();
    let said = python(&["drive", &url, SUBSCRIPTION, GROUP, NAME, &size], "");
    serde_json::from_str(&said).expect("the script prints JSON")
}

fn check(bodies: &Value) -> Vec<String> {
    let said = python(&["check"], &bodies.to_string());
    serde_json::from_str(&said).expect("the script prints JSON")
}

fn python(arguments: &[&str], input: &str) -> String {
    let provisioned = std::env::var_os("HEADSTART_PROVISIONED");
    let provisioned = provisioned.expect("`cargo xtask e2e` says where programs are");
    let python = Path::new(&provisioned).join("python/azure-mgmt-41.8.0/bin/python");
    let mut child = Command::new(python)
        .args(["-c", include_str!("aks_client.py")])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Azure's client can be used");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("it writes text")
}
