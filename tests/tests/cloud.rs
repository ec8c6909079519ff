//! The test cloud itself: what is learned from it holds only if it does what clouds do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use headstart_testbed::cloud::{Boot, Cloud, Fault, Machines, Offer};
use headstart_testbed::cluster::{Cluster, Options};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

const WAIT: Duration = Duration::from_secs(60);

/// From the request to the kubelet's start; long enough for its agent to be seen before it.
const KUBELET: Duration = Duration::from_secs(4);

/// From the request to the GPUs; later than a node is Ready on a busy machine.
const GPUS: Duration = Duration::from_secs(25);

#[test]
fn the_cloud_sells_boots_refuses_interrupts_and_takes_back() {
    let programs = std::env::var_os("HEADSTART_KUBERNETES").expect("run by `cargo xtask e2e`");
    let cluster = Cluster::up(&Options {
        directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/cloud"),
        programs: programs.into(),
        program: env!("CARGO_BIN_EXE_cluster").into(),
        nodes: Vec::new(),
    });
    let cluster = Arc::new(cluster.unwrap());
    objects(&cluster);
    real(&cluster);
}

/// What needs no kubelet.
fn objects(cluster: &Arc<Cluster>) {
    let cloud = Cloud::open(
        cluster.clone(),
        Machines::Objects,
        vec![offer(2)],
        Boot::default(),
    );
    let cloud = cloud.expect("a cloud");
    let shop = Shop::of(cluster);

    let (status, offers) = shop.ask("GET", "offers", None);
    assert_eq!(status, 200);
    assert!(
        offers.contains("box.gpu") && offers.contains("L4,1"),
        "{offers}"
    );

    // The same key at once, and again: one machine.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asking = (0..8).map(|_| scope.spawn(|| shop.ensure("once")));
        let asking: Vec<_> = asking.collect();
        asking
            .into_iter()
            .map(|one| one.join().expect("an answer"))
            .collect()
    });
    for (status, answer) in &answers {
        assert_eq!((*status, &answer["claim"]), (200, &json!("once")));
    }
    assert_eq!((cloud.made(), cloud.asked().len()), (1, 8));
    let node = shop.node_of("once");
    assert_eq!(node["spec"]["providerID"], "test://once");
    let node = cluster
        .api()
        .until(&path(&node), WAIT, |node| gpus(node) == Some("1"));
    assert!(is_ready(&node.expect("its GPU")));

    // A reply that is lost was a purchase all the same.
    cloud.fail([Fault::LoseReply]);
    assert_eq!(shop.ensure("lost").0, 500);
    assert_eq!(shop.ensure("lost").0, 200);
    assert_eq!(cloud.made(), 2);

    // Two were all; one that is given back is sold again.
    let (status, refused) = shop.ensure("late");
    assert_eq!((status, &refused["code"]), (409, &json!("OutOfCapacity")));
    assert_eq!(shop.release("lost"), 202);
    shop.until_released("lost");
    assert_eq!(shop.ensure("late").0, 200);
    cloud.stock("box.gpu", 3);
    cloud.fail([
        Fault::Refuse(429, "Throttled"),
        Fault::Refuse(409, "Quota"),
        Fault::Slow(Duration::from_secs(1)),
    ]);
    assert_eq!(shop.ensure("more").0, 429);
    let (status, refused) = shop.ensure("more");
    assert_eq!((status, &refused["code"]), (409, &json!("Quota")));
    assert_eq!(cloud.made(), 3, "a refusal is no purchase");
    let asked = Instant::now();
    assert_eq!(shop.ensure("more").0, 200);
    assert!(asked.elapsed() >= Duration::from_secs(1));

    let elsewhere = json!({"instanceType": "box.gpu", "zone": "test-1z", "capacityType": "spot"});
    let (status, refused) = shop.ask("PUT", "instances/moon", Some(&elsewhere));
    assert!(
        status == 422 && refused.contains("Misconfigured"),
        "{refused}"
    );

    // A machine is there before it is listed.
    cloud.boot(Boot {
        listed: Duration::from_secs(2),
        ..Boot::default()
    });
    cloud.stock("box.gpu", 4);
    let asked = Instant::now();
    shop.ensure("unseen");
    let seen = shop.listed("unseen");
    assert!(
        seen.is_none() || asked.elapsed() >= Duration::from_secs(2),
        "{seen:?}"
    );
    shop.until(|| shop.listed("unseen").is_some());
    assert!(asked.elapsed() >= Duration::from_secs(2));

    cloud.stray("nobody");
    shop.until(|| shop.listed("nobody").is_some());
    assert_eq!(shop.release("nobody"), 202);
    shop.until_released("nobody");
    for claim in ["once", "late", "more", "unseen"] {
        let node = shop.node_of(claim);
        shop.release(claim);
        shop.until_released(claim);
        cluster.api().delete(&path(&node)).expect("a Node");
    }
    assert!(cloud.machines().is_empty());
}

/// What only machines that run can show.
fn real(cluster: &Arc<Cluster>) {
    let boot = Boot {
        kubelet: KUBELET,
        gpus: GPUS,
        agent: [
            "/bin/sh",
            "-c",
            "cat {intent} >/var/lib/seen; echo {node} >>/var/lib/seen; exec sleep 3600",
        ]
        .map(str::to_owned)
        .to_vec(),
        ..Boot::default()
    };
    let cloud = Cloud::open(
        cluster.clone(),
        Machines::Real,
        vec![offer(2)],
        boot.clone(),
    );
    let cloud = cloud.expect("a cloud");
    let shop = Shop::of(cluster);
    let before = cluster.cgroups();

    let asked = Instant::now();
    assert_eq!(shop.ensure("gpu-1").0, 200);
    assert_eq!(shop.ensure("gpu-1").0, 200);
    let node = shop.node_of("gpu-1");
    let registered = asked.elapsed();
    assert!(
        registered >= KUBELET,
        "registered {registered:?} after the request"
    );
    let name = node["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    assert_eq!(node["spec"]["providerID"], "test://gpu-1");
    let labels = &node["metadata"]["labels"];
    assert_eq!(labels["headstart.dev/node-claim"], "gpu-1");
    assert_eq!(labels["topology.kubernetes.io/zone"], "test-1a");
    let taints = node["spec"]["taints"].as_array().expect("taints");
    assert!(
        taints
            .iter()
            .any(|taint| taint["key"] == "startup" && taint["effect"] == "NoSchedule"),
        "{taints:?}"
    );

    // The agent ran with what the request said, before there was a kubelet.
    let machine = cluster.node(&name).expect("a node").machine;
    let seen = machine.directory.join("lib/seen");
    let said = std::fs::read_to_string(&seen).expect("what the agent saw");
    assert_eq!(said, format!("what gpu-1 fetches{name}\n"));
    let told = std::fs::metadata(&seen).and_then(|found| found.modified());
    let ago = SystemTime::now().duration_since(told.expect("its time"));
    let told = asked
        .elapsed()
        .saturating_sub(ago.expect("a time that is past"));
    assert!(
        told < KUBELET,
        "the agent started {told:?} after the request"
    );

    let api = cluster.api();
    let ready = api.until(&path(&node), WAIT, is_ready).expect("a node");
    assert_eq!(
        gpus(&ready),
        None,
        "Ready {:?} after the request",
        asked.elapsed()
    );
    api.until(&path(&node), WAIT, |node| gpus(node) == Some("1"))
        .expect("its GPU");
    let allocatable = asked.elapsed();
    assert!(allocatable >= GPUS, "{allocatable:?}");
    assert_eq!(
        cluster.cgroups().len(),
        before.len() + 1,
        "one node was made"
    );

    // It is told, then it goes as by a power cut; its object stays.
    let processes = cluster.node(&name).expect("a node").processes;
    cloud.interrupt("gpu-1", Duration::from_secs(2));
    let told = shop.listed("gpu-1").expect("it is there");
    assert_eq!(told["state"], "interrupted");
    assert!(processes.iter().all(|process| process.is_alive()));
    shop.until(|| shop.listed("gpu-1").is_none());
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(api.find(&path(&node)).is_ok_and(|found| found.is_some()));
    api.delete(&path(&node)).expect("a Node");

    // Given back in the middle of its boot.
    cloud.boot(Boot {
        kubelet: Duration::from_secs(1),
        ..boot
    });
    assert_eq!(shop.ensure("gpu-2").0, 200);
    shop.until(|| cluster.cgroups().len() > before.len());
    assert_eq!(shop.release("gpu-2"), 202);
    shop.until_released("gpu-2");
    assert!(shop.listed("gpu-2").is_none() && cloud.machines().is_empty());
    assert!(cluster.node(&name).is_none(), "its number is free again");
    assert_eq!(cluster.cgroups(), before);
    assert_eq!(cloud.made(), 2);
}

/// A customer in the control plane's network.
struct Shop<'a> {
    cluster: &'a Cluster,
    network: tokio::runtime::Runtime,
}

impl<'a> Shop<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let network = cluster.network().expect("a network");
        Self { cluster, network }
    }

    fn ensure(&self, claim: &str) -> (u16, Value) {
        let wanted = json!({
            "instanceType": "box.gpu", "zone": "test-1a", "capacityType": "spot",
            "labels": {
                "headstart.dev/node-claim": claim, "topology.kubernetes.io/zone": "test-1a",
            },
            "taints": [{"key": "startup", "value": "", "effect": "NoSchedule"}],
            "settings": {}, "intent": format!("what {claim} fetches"),
        });
        let (status, body) = self.ask("PUT", &format!("instances/{claim}"), Some(&wanted));
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn release(&self, claim: &str) -> u16 {
        self.ask("DELETE", &format!("instances/{claim}"), None).0
    }

    fn until_released(&self, claim: &str) {
        self.until(|| self.release(claim) == 404);
    }

    /// A machine as it is listed.
    fn listed(&self, claim: &str) -> Option<Value> {
        let (status, body) = self.ask("GET", "instances", None);
        assert_eq!(status, 200, "{body}");
        let listed: Value = serde_json::from_str(&body).expect("JSON");
        let mut machines = listed["instances"].as_array().expect("machines").iter();
        machines.find(|one| one["claim"] == claim).cloned()
    }

    /// The Node of a claim, once it has registered.
    fn node_of(&self, claim: &str) -> Value {
        let path = format!("/api/v1/nodes?labelSelector=headstart.dev/node-claim={claim}");
        let listed = self.cluster.api().until(&path, WAIT, |list| {
            list["items"]
                .as_array()
                .is_some_and(|items| items.len() == 1)
        });
        listed.expect("one Node")["items"][0].clone()
    }

    fn until(&self, is: impl Fn() -> bool) {
        let deadline = Instant::now() + WAIT;
        while !is() {
            assert!(Instant::now() < deadline, "not in {WAIT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header("host", "cloud")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        let asking = self.network.spawn(answer(request));
        let answered = self.network.block_on(asking).expect("a task");
        answered.expect("an answer")
    }
}

async fn answer(request: http::Request<Full<Bytes>>) -> Result<(u16, String)> {
    let stream = tokio::net::TcpStream::connect("10.99.0.1:7000").await;
    let stream = stream.context("the cloud is not there")?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    if matches!(status, 429 | 503) {
        assert_eq!(response.headers()["retry-after"], "1");
    }
    let body = response.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec())?))
}

fn offer(stock: usize) -> Offer {
    Offer {
        instance_type: "box.gpu".to_owned(),
        zone: 'a',
        capacity_type: "spot",
        usd_per_hour: 0.5,
        gpus: 1,
        rate: Some("200mbit".to_owned()),
        stock,
    }
}

fn path(node: &Value) -> String {
    let name = node["metadata"]["name"].as_str().expect("a name");
    format!("/api/v1/nodes/{name}")
}

fn gpus(node: &Value) -> Option<&str> {
    node["status"]["allocatable"]["nvidia.com/gpu"]
        .as_str()
        .filter(|count| *count != "0")
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
    })
}
