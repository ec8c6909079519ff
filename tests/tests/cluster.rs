//! The cluster itself: what later tests build on holds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headstart_testbed::cluster::{Api, Cluster, Gpus, NodeOptions, Options, shell_layer};
use headstart_testbed::image::{Image, Layer, Recipe};
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const WAIT: Duration = Duration::from_secs(60);

/// Later than anything a test does before it, sooner than its patience.
const GPUS_AFTER: Duration = Duration::from_secs(10);

#[test]
fn pods_run_over_shaped_links_wait_for_gpus_and_lose_nodes_and_nothing_is_left() {
    let before = Traces::now();
    let options = options();
    // One that was killed in the middle: nobody dropped it.
    let killed = Cluster::up(&Options {
        nodes: vec![NodeOptions::default()],
        ..options.clone()
    })
    .unwrap();
    let left = killed.processes();
    killed.leave();

    let started = Instant::now();
    let cluster = Cluster::up(&options).unwrap();
    let up = started.elapsed();
    assert!(left.iter().all(|process| !process.is_alive()));
    assert!(up < Duration::from_secs(30), "up after {up:?}");
    let api = cluster.api();

    gpu_pod(api, "early", "10.99.0.1:5000/headstart/shell:1");
    let waits = api.until(&format!("{PODS}/early"), WAIT, |pod| {
        condition(pod, "PodScheduled") == Some("False")
    });
    assert!(waits.unwrap()["spec"]["nodeName"].is_null());

    let mut recipe = Recipe::trees(7, 1, 20_000_000);
    recipe.layers.insert(0, shell_layer().unwrap());
    assert!(matches!(recipe.layers[1], Layer::Tree { .. }));
    let image = Image::make(&recipe).unwrap();
    // 100 Mbit/s, less what the link's bucket lets through at once.
    let least = Duration::from_secs_f64(image.bytes() as f64 * 8.0 / 100e6 * 0.9);
    cluster.push(image, "tests/tree", "1").unwrap();
    let asked = Instant::now();
    let pod = pod("shaped", "10.99.0.1:5000/tests/tree:1", json!({}));
    api.create(PODS, &pod).unwrap();
    api.until(&format!("{PODS}/shaped"), WAIT, is_running)
        .unwrap();
    let took = asked.elapsed();
    assert!(took > least, "{took:?} over a link that takes {least:?}");
    let log = format!("{PODS}/shaped/log");
    let wrote = until(|| api.text(&log).is_ok_and(|text| text.contains("hello")));
    assert!(wrote, "{:?}", api.text(&log));

    let early = api
        .until(&format!("{PODS}/early"), WAIT, is_running)
        .unwrap();
    assert_eq!(early["spec"]["nodeName"], "n2");

    cluster.node("n1").unwrap().machine.power_off().unwrap();
    api.until("/api/v1/nodes/n1", WAIT, |node| {
        condition(node, "Ready") == Some("Unknown")
    })
    .unwrap();
    assert!(cluster.processes().iter().any(|process| process.is_alive()));

    let (processes, directory) = (cluster.processes(), options.directory);
    drop(cluster);
    assert!(processes.iter().all(|process| !process.is_alive()));
    assert!(!directory.exists());
    assert_eq!(Traces::now(), before);
}

/// What a cluster could leave on this machine.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    mounts: BTreeSet<String>,
    interfaces: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
    /// Of processes in networks other than the machine's own.
    networks: BTreeSet<PathBuf>,
}

impl Traces {
    fn now() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let names = |path: &str| fs::read_dir(path).into_iter().flatten().flatten();
        let interfaces = names("/sys/class/net")
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let groups = names("/sys/fs/cgroup").flat_map(|root| {
            let below = fs::read_dir(root.path()).into_iter().flatten().flatten();
            below.map(|entry| entry.path())
        });
        let ours = |path: &PathBuf| path.to_string_lossy().contains("headstart-");
        let top = names("/sys/fs/cgroup").map(|entry| entry.path());
        let networks = names("/proc")
            .filter_map(|process| fs::read_link(process.path().join("ns/net")).ok())
            .collect();
        Self {
            mounts: mounts.lines().map(str::to_owned).collect(),
            interfaces,
            cgroups: groups.chain(top).filter(ours).collect(),
            networks,
        }
    }
}

fn options() -> Options {
    let programs = std::env::var_os("HEADSTART_KUBERNETES");
    let node = NodeOptions {
        rate: Some("100mbit".to_owned()),
        ..NodeOptions::default()
    };
    let late = Gpus {
        count: 1,
        after: GPUS_AFTER,
    };
    let gpus = NodeOptions {
        gpus: Some(late),
        ..node.clone()
    };
    Options {
        directory: Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/test"),
        programs: programs.expect("run by `cargo xtask e2e`").into(),
        program: env!("CARGO_BIN_EXE_cluster").into(),
        nodes: vec![node, gpus],
    }
}

fn gpu_pod(api: &Api, name: &str, image: &str) {
    let resources = json!({"limits": {"nvidia.com/gpu": 1}});
    api.create(PODS, &pod(name, image, resources))
        .expect("a pod");
}

fn pod(name: &str, image: &str, resources: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "main", "image": image, "resources": resources,
            "command": ["/bin/sh", "-c", "echo hello; exec /bin/busybox sleep 3600"],
        }]},
    })
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

/// The status of a condition.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = object["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|one| one["type"] == kind)?;
    found["status"].as_str()
}

fn until(is: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + WAIT;
    while Instant::now() < deadline {
        if is() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}
