//! A crowd for measurements of the control plane: GPU nodes that are only objects, each with a claim,
//! a node cache that reports, and pods that run.
//!
//! `cargo run --example crowd -- fill NODES PODS_PER_NODE` makes them and what they need, with
//! KUBECONFIG set. Nothing else may run the nodes and pods: end the controller manager first, it would
//! delete them.
//!
//! `… -- churn NODES PODS_PER_NODE SECONDS BURST` is what goes on in such a cluster, and the provider
//! of its nodes (`headstart run --provider external=http://127.0.0.1:7171`): ten pods a second end,
//! and come again without a node until a scheduler, which this is as well, binds them a second later.
//! At the end BURST pods come at once for which nothing is free.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use axum::Json;
use axum::extract::{Path, State};
use axum::routing::{get, put};
use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Calls at once.
const AT_ONCE: usize = 48;

/// Different workloads.
const WORKLOADS: usize = 200;

/// GPUs of a node; so many of its pods have one.
const GPUS: usize = 8;

/// Where the provider of these nodes answers.
const PROVIDER: &str = "127.0.0.1:7171";

/// How long a pod waits for the scheduler.
const BINDS_AFTER: Duration = Duration::from_secs(1);

/// How long the pods of a burst stay.
const BURST_STAYS: Duration = Duration::from_secs(20);

/// How long the API server may take until it serves new definitions.
const PATIENCE: Duration = Duration::from_secs(30);

/// When everything that runs began.
const LONG_AGO: &str = "2026-01-01T00:00:00Z";

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_from(Config::infer().await?)?;
    match words.as_slice() {
        ["fill", nodes, pods] => fill(&Cluster(client), nodes.parse()?, pods.parse()?).await,
        ["churn", nodes, pods, seconds, burst] => {
            let seconds = Duration::from_secs(seconds.parse()?);
            let (nodes, pods) = (nodes.parse()?, pods.parse()?);
            churn(&Cluster(client), nodes, pods, seconds, burst.parse()?).await
        }
        _ => bail!("say: fill NODES PODS_PER_NODE, or churn NODES PODS_PER_NODE SECONDS BURST"),
    }
}

/// An API server.
struct Cluster(Client);

impl Cluster {
    fn of(&self, api_version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        match kind {
            "Pod" => Api::namespaced_with(self.0.clone(), "default", &resource),
            _ => Api::all_with(self.0.clone(), &resource),
        }
    }

    fn headstart(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        self.of("headstart.dev/v1alpha1", kind, plural)
    }

    fn pods(&self) -> Api<DynamicObject> {
        self.of("v1", "Pod", "pods")
    }
}

async fn fill(cluster: &Cluster, nodes: usize, pods: usize) -> Result<()> {
    let began = Instant::now();
    let definitions = cluster.of(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
    );
    for definition in headstart_api::crd::all() {
        create(&definitions, &serde_json::to_value(definition)?).await?;
    }
    let namespaces = cluster.of("v1", "Namespace", "namespaces");
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "headstart"}});
    create(&namespaces, &namespace).await?;
    // Until they are served.
    let pool = cluster.headstart("NodePool", "nodepools");
    while create(&pool, &self::pool()).await.is_err() {
        if began.elapsed() > PATIENCE {
            bail!("the API server does not serve Headstart's definitions");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let done = |what: &str| eprintln!("{what} after {:?}", began.elapsed());
    let claims = cluster.headstart("NodeClaim", "nodeclaims");
    each(0..nodes, |n| with_status(claims.clone(), claim(n, pods))).await?;
    done("claims");
    let node_api = cluster.of("v1", "Node", "nodes");
    each(0..nodes, |n| with_status(node_api.clone(), node(n))).await?;
    done("nodes");
    let caches = cluster.headstart("NodeCache", "nodecaches");
    each(0..nodes, |n| with_status(caches.clone(), cache(n))).await?;
    done("node caches");
    let api = cluster.pods();
    each(0..nodes * pods, |n| {
        let mut object = pod(n, n % pods, &format!("crowd-{n}"));
        object["spec"]["nodeName"] = node_name(n / pods).into();
        object["status"] = running();
        with_status(api.clone(), object)
    })
    .await?;
    done("pods");
    Ok(())
}

async fn churn(
    cluster: &Cluster,
    nodes: usize,
    per_node: usize,
    seconds: Duration,
    burst: usize,
) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(PROVIDER).await?;
    let provider = provider(nodes);
    tokio::spawn(async move { axum::serve(listener, provider).await });
    let pods = cluster.pods();
    let began = Instant::now();
    // Those of the first run are named otherwise than those that come for them.
    let mut names: BTreeMap<usize, String> = BTreeMap::new();
    let mut waiting: VecDeque<(Instant, usize, String)> = VecDeque::new();
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let (mut number, run) = (0_usize, began_at());
    while began.elapsed() < seconds {
        tick.tick().await;
        // All over the cluster, and always one with a GPU.
        let node = (number * 7919) % nodes;
        let n = node * per_node + number % GPUS.min(per_node);
        let old = names.remove(&n).unwrap_or_else(|| format!("crowd-{n}"));
        delete(&pods, &old).await?;
        let name = format!("crowd-{n}-{run}-{number}");
        create(&pods, &pod(n, n % per_node, &name)).await?;
        names.insert(n, name.clone());
        waiting.push_back((Instant::now() + BINDS_AFTER, n, name));
        number += 1;
        while let Some((_, n, name)) = waiting.pop_front_if(|(due, ..)| *due <= Instant::now()) {
            bind(&pods, &name, &node_name(n / per_node)).await?;
            let status = json!({"status": running()});
            patch_status(&pods, &name, &status).await?;
        }
    }
    eprintln!("{number} pods were replaced");
    for (_, n, name) in waiting {
        bind(&pods, &name, &node_name(n / per_node)).await?;
    }
    let name = |n: usize| format!("burst-{run}-{n}");
    each(0..burst, |n| {
        let (pods, object) = (pods.clone(), pod(n, 0, &name(n)));
        async move { create(&pods, &object).await }
    })
    .await?;
    tokio::time::sleep(BURST_STAYS).await;
    each(0..burst, |n| {
        let (pods, name) = (pods.clone(), name(n));
        async move { delete(&pods, &name).await }
    })
    .await
}

fn began_at() -> i64 {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

/// Does it for every number.
async fn each<F: Future<Output = Result<()>>>(
    numbers: std::ops::Range<usize>,
    work: impl FnMut(usize) -> F,
) -> Result<()> {
    let mut done = futures_util::stream::iter(numbers.map(work)).buffer_unordered(AT_ONCE);
    while let Some(done) = done.next().await {
        done?;
    }
    Ok(())
}

/// Makes an object with its status.
async fn with_status(api: Api<DynamicObject>, object: Value) -> Result<()> {
    create(&api, &object).await?;
    let name = object["metadata"]["name"].as_str().context("a name")?;
    patch_status(&api, name, &json!({"status": object["status"]})).await
}

/// Makes an object, unless it is there.
async fn create(api: &Api<DynamicObject>, object: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn delete(api: &Api<DynamicObject>, name: &str) -> Result<()> {
    let now = DeleteParams::default().grace_period(0);
    match api.delete(name, &now).await {
        // It was asked to leave a node, perhaps.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn patch_status(api: &Api<DynamicObject>, name: &str, status: &Value) -> Result<()> {
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(status))
        .await?;
    Ok(())
}

async fn bind(pods: &Api<DynamicObject>, name: &str, node: &str) -> Result<()> {
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let params = PostParams::default();
    let _: Value = pods
        .create_subresource("binding", name, &params, &binding)
        .await?;
    Ok(())
}

fn node_name(n: usize) -> String {
    format!("crowd-{n}")
}

fn zone(n: usize) -> String {
    format!("test-1{}", ["a", "b", "c"][n % 3])
}

fn pool() -> Value {
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodePool",
        "metadata": {"name": "crowd"}, "spec": {"gpuSkus": ["L4"], "capacityTypes": ["on-demand"]},
    })
}

/// What a node says of itself, and its claim of it.
fn labels(n: usize) -> Value {
    json!({
        "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "g6.48xlarge",
        "topology.kubernetes.io/zone": zone(n), "topology.kubernetes.io/region": "test-1",
        "headstart.dev/gpu-sku": "L4", "headstart.dev/gpu-count": GPUS.to_string(),
        "headstart.dev/capacity-type": "on-demand", "headstart.dev/node-pool": "crowd",
        "headstart.dev/node-claim": node_name(n),
    })
}

fn allocatable() -> Value {
    json!({"cpu": "190", "memory": "700Gi", "pods": "110", "nvidia.com/gpu": GPUS.to_string(),
           "ephemeral-storage": "900Gi"})
}

fn claim(n: usize, pods: usize) -> Value {
    let named: Vec<String> = (0..pods)
        .map(|pod| format!("default/crowd-{}", n * pods + pod))
        .collect();
    let condition = |kind: &str, reason: &str| {
        json!({"type": kind, "status": "True", "reason": reason, "message": "",
               "lastTransitionTime": LONG_AGO, "observedGeneration": 1})
    };
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeClaim",
        "metadata": {"name": node_name(n), "finalizers": ["headstart.dev/instance"],
            "labels": {"headstart.dev/node-pool": "crowd",
                       "headstart.dev/capacity-type": "on-demand"}},
        "spec": {
            "nodePool": "crowd", "price": 13.35, "labels": labels(n), "pods": named,
            "offering": {"instanceType": "g6.48xlarge", "zone": zone(n),
                         "capacityType": "on-demand"},
            "requests": {"cpu": "20", "nvidia.com/gpu": GPUS.to_string()},
            "allocatable": allocatable(), "expectedBootSeconds": 90,
            "reason": "chosen over g6.12xlarge in test-1a: it serves the same pods for less",
        },
        "status": {
            "instance": {"providerId": format!("crowd://{}", node_name(n)),
                         "nodeName": node_name(n)},
            "nodeName": node_name(n),
            "stages": {"requested": LONG_AGO, "launched": LONG_AGO, "agentStarted": LONG_AGO,
                       "registered": LONG_AGO, "ready": LONG_AGO, "gpuAllocatable": LONG_AGO},
            "conditions": [condition("Launched", "Launched"),
                           condition("Registered", "Registered"),
                           condition("Initialized", "Initialized"), condition("Ready", "Ready")],
        },
    })
}

fn node(n: usize) -> Value {
    let mut labels = labels(n);
    labels["kubernetes.io/hostname"] = node_name(n).into();
    labels["headstart.dev/initialized"] = "true".into();
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(n), "labels": labels},
        "spec": {"providerID": format!("crowd://{}", node_name(n))},
        "status": {
            "allocatable": allocatable(),
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                            "message": "", "lastTransitionTime": LONG_AGO,
                            "lastHeartbeatTime": LONG_AGO}],
        },
    })
}

fn image(workload: usize) -> String {
    let digest = format!("{:064x}", workload + 1);
    format!("registry.invalid/acme/engine-{workload}@sha256:{digest}")
}

fn model(workload: usize) -> String {
    format!("acme/model-{workload}@{:040x}", workload + 1)
}

fn cache(n: usize) -> Value {
    let one = |workload: usize, kind: &str, name: String| {
        json!({kind: name, "state": "Verified", "bytes": "9000000000", "verified": LONG_AGO,
               "sources": [{"kind": "registry", "bytes": 9_000_000_000_u64}], "started": LONG_AGO,
               "pinned": workload.is_multiple_of(2)})
    };
    let of_node = (0..10).map(|pod| (n * 10 + pod) % WORKLOADS);
    let items: Vec<Value> = of_node
        .flat_map(|w| [one(w, "image", image(w)), one(w, "model", model(w))])
        .collect();
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache",
        "metadata": {"name": node_name(n)}, "spec": {"generation": 1},
        "status": {"generation": 1, "observed": now, "room": "500Gi", "items": items},
    })
}

/// One pod, the `index`th of its node, without a node.
fn pod(n: usize, index: usize, name: &str) -> Value {
    let workload = n % WORKLOADS;
    let mut amounts = json!({"cpu": "2", "memory": "8Gi"});
    let mut limits = json!({});
    if index < GPUS {
        amounts["nvidia.com/gpu"] = "1".into();
        limits["nvidia.com/gpu"] = "1".into();
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": format!("engine-{workload}"), "pod-template-hash": "5d8f7c9b6",
                       "app.kubernetes.io/part-of": "crowd"},
            "annotations": {"headstart.dev/models": model(workload)},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": true,
                "name": format!("engine-{workload}-5d8f7c9b6"), "uid": format!("uid-{workload}"),
            }],
        },
        "spec": {
            // Nobody else is to bind it.
            "schedulerName": "crowd",
            "containers": [{
                "name": "main", "image": image(workload),
                "args": ["serve", "--port", "8000", "--tensor-parallel-size", "1"],
                "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
                "resources": {"requests": amounts, "limits": limits},
            }],
        },
    })
}

fn running() -> Value {
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": LONG_AGO});
    json!({
        "phase": "Running", "startTime": LONG_AGO,
        "conditions": [condition("PodScheduled"), condition("Initialized"),
                       condition("ContainersReady"), condition("Ready")],
        "containerStatuses": [{
            "name": "main", "ready": true, "started": true, "restartCount": 0,
            "image": "registry.invalid/acme/engine", "imageID": "sha256:1",
            "state": {"running": {"startedAt": LONG_AGO}},
        }],
    })
}

type Instances = Arc<Mutex<BTreeMap<String, Value>>>;

/// Has an instance for every node, and gives one to whoever asks.
fn provider(nodes: usize) -> axum::Router {
    let all = (0..nodes).map(|n| (node_name(n), instance(&node_name(n))));
    let instances: Instances = Arc::new(Mutex::new(all.collect()));
    let list = async |State(instances): State<Instances>| {
        let instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
        Json(json!({"instances": instances.values().collect::<Vec<_>>()}))
    };
    let ensure = async |State(instances): State<Instances>, Path(claim): Path<String>| {
        let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || instance(&claim);
        Json(instances.entry(claim.clone()).or_insert_with(made).clone())
    };
    let release = async |State(instances): State<Instances>, Path(claim): Path<String>| {
        let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
        match instances.remove(&claim) {
            Some(_) => http::StatusCode::ACCEPTED,
            None => http::StatusCode::NOT_FOUND,
        }
    };
    axum::Router::new()
        .route("/v1/offers", get(async || offers()))
        .route("/v1/instances", get(list))
        .route("/v1/instances/{claim}", put(ensure).delete(release))
        .with_state(instances)
}

fn instance(claim: &str) -> Value {
    json!({"claim": claim, "providerId": format!("crowd://{claim}"), "state": "running",
           "created": LONG_AGO})
}

/// Three sizes of GPU nodes, and many that have none.
fn offers() -> String {
    let zones = "a b c";
    let mut rows = String::from(
        "cloud,region,type,vcpu,memory_mib,gpu_sku,gpu_count,gpu_memory_mib,on_demand,spot,zones\n",
    );
    for (size, gpus, price) in [
        ("xlarge", 1, 1.70),
        ("12xlarge", 4, 6.80),
        ("48xlarge", 8, 13.35),
    ] {
        let (vcpu, memory) = (24 * gpus, 98_304 * gpus);
        let spot = price / 2.5;
        rows += &format!(
            "aws,test-1,g6.{size},{vcpu},{memory},L4,{gpus},24576,{price},{spot:.4},{zones}\n"
        );
    }
    for family in 0..80 {
        for size in [2_u32, 4, 8, 16] {
            let price = f64::from(size) * (0.04 + f64::from(family) / 10_000.0);
            let (memory, spot) = (size * 4096, price / 3.0);
            rows += &format!(
                "aws,test-1,m{family}.x{size},{size},{memory},,,,{price:.4},{spot:.4},{zones}\n"
            );
        }
    }
    rows
}
