//! Fills a cluster for measurements of the control plane: GPU nodes that are only objects, with a
//! claim each, a node cache that reports, and pods bound to them.
//!
//! `cargo run --example crowd -- NODES PODS_PER_NODE [CHURN_SECONDS]`, with KUBECONFIG set. With a
//! third argument it goes on: for that long it removes and makes ten pods a second.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Calls at once.
const AT_ONCE: usize = 48;

/// Different workloads.
const WORKLOADS: usize = 200;

#[tokio::main]
async fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>());
    let mut word = || words.next().transpose();
    let nodes = word()?.context("NODES is missing")?;
    let pods = word()?.context("PODS_PER_NODE is missing")?;
    let churn = word()?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_from(Config::infer().await?)?;
    let began = Instant::now();
    let api = |group: &str, version: &str, kind: &str, plural: &str| {
        let api_version = match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        }
    };
    let all = |resource: &ApiResource| Api::<DynamicObject>::all_with(client.clone(), resource);
    let node_api = all(&api("", "v1", "Node", "nodes"));
    let cache_api = all(&api("headstart.dev", "v1alpha1", "NodeCache", "nodecaches"));
    let pod = api("", "v1", "Pod", "pods");
    let pod_api = Api::<DynamicObject>::namespaced_with(client.clone(), "default", &pod);

    each(0..nodes, |n| {
        let (api, object) = (node_api.clone(), node(n));
        async move {
            create(&api, object.clone()).await?;
            status(
                &api,
                &format!("crowd-{n}"),
                json!({"status": object["status"]}),
            )
            .await
        }
    })
    .await?;
    eprintln!("{nodes} nodes after {:?}", began.elapsed());
    each(0..nodes, |n| {
        let (api, object) = (cache_api.clone(), cache(n));
        async move {
            create(&api, object.clone()).await?;
            status(
                &api,
                &format!("crowd-{n}"),
                json!({"status": object["status"]}),
            )
            .await
        }
    })
    .await?;
    eprintln!("{nodes} node caches after {:?}", began.elapsed());
    each(0..nodes * pods, |n| {
        let (api, object) = (pod_api.clone(), bound(n, n / pods));
        async move {
            create(&api, object).await?;
            let running = json!({"status": {"phase": "Running"}});
            status(&api, &format!("crowd-{n}"), running).await
        }
    })
    .await?;
    eprintln!("{} pods after {:?}", nodes * pods, began.elapsed());

    let Some(churn) = churn else { return Ok(()) };
    let (until, mut number) = (Instant::now() + Duration::from_secs(churn as u64), 0);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    while Instant::now() < until {
        tick.tick().await;
        let n = number % (nodes * pods);
        let now = DeleteParams::default().grace_period(0);
        pod_api.delete(&format!("crowd-{n}"), &now).await?;
        create(&pod_api, bound(n, n / pods)).await?;
        status(
            &pod_api,
            &format!("crowd-{n}"),
            json!({"status": {"phase": "Running"}}),
        )
        .await?;
        number += 1;
    }
    eprintln!("{number} pods were replaced");
    Ok(())
}

/// Does it for every number.
async fn each<F: Future<Output = Result<()>>>(
    numbers: std::ops::Range<usize>,
    mut work: impl FnMut(usize) -> F,
) -> Result<()> {
    let all: Vec<F> = numbers.map(&mut work).collect();
    let mut done = futures_util::stream::iter(all).buffer_unordered(AT_ONCE);
    while let Some(done) = done.next().await {
        done?;
    }
    Ok(())
}

/// Makes an object, unless it is there.
async fn create(api: &Api<DynamicObject>, object: Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object)?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn status(api: &Api<DynamicObject>, name: &str, status: Value) -> Result<()> {
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(&status))
        .await?;
    Ok(())
}

fn node(n: usize) -> Value {
    let labels = json!({
        "kubernetes.io/hostname": format!("crowd-{n}"), "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64", "node.kubernetes.io/instance-type": "g6.48xlarge",
        "topology.kubernetes.io/zone": format!("test-1{}", ["a", "b", "c"][n % 3]),
        "topology.kubernetes.io/region": "test-1", "headstart.dev/gpu-sku": "L4",
        "headstart.dev/gpu-count": "8", "headstart.dev/capacity-type": "on-demand",
        "headstart.dev/node-pool": "crowd", "headstart.dev/initialized": "true",
    });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("crowd-{n}"), "labels": labels},
        "status": {
            "allocatable": {"cpu": "190", "memory": "700Gi", "pods": "110", "nvidia.com/gpu": "8",
                            "ephemeral-storage": "900Gi"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                            "lastHeartbeatTime": "2026-01-01T00:00:00Z"}],
        },
    })
}

fn cache(n: usize) -> Value {
    let items: Vec<Value> = (0..3)
        .map(|item| {
            let digest = format!("{:064x}", (n + item) % WORKLOADS + 1);
            json!({"image": format!("registry.invalid/acme/engine-{}@sha256:{digest}",
                                    (n + item) % WORKLOADS),
                   "state": "Verified", "bytes": "9000000000"})
        })
        .collect();
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache",
        "metadata": {"name": format!("crowd-{n}")}, "spec": {"generation": 1},
        "status": {"generation": 1, "observed": now, "room": "500Gi", "items": items},
    })
}

fn bound(n: usize, node: usize) -> Value {
    let workload = n % WORKLOADS;
    let digest = format!("{:064x}", workload + 1);
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("crowd-{n}"), "labels": {
            "app": format!("engine-{workload}"), "pod-template-hash": "5d8f7c9b6",
            "app.kubernetes.io/part-of": "crowd"}},
        "spec": {
            "nodeName": format!("crowd-{node}"),
            "containers": [{
                "name": "main",
                "image": format!("registry.invalid/acme/engine-{workload}@sha256:{digest}"),
                "args": ["serve", "--port", "8000", "--tensor-parallel-size", "1"],
                "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
                "resources": {"requests": {"cpu": "2", "memory": "8Gi"}},
            }],
        },
    })
}
