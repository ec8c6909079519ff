//! Exposed byte time on a real cluster: time to serving with real bytes minus time to serving with
//! next to none, beside today's order and beside a DaemonSet that fetches once a node is Ready.
//!
//! `cargo xtask bench deploy` runs it. Each run is a deploy onto a node of its own, which is bought for
//! it and boots; runs with bytes and without are side by side, so that what disturbs one disturbs the
//! other. The boot is EKS's as published for CPU types (network 17 s, kubelet 22 s) with GPUs allocatable
//! 88 s after launch; a node receives 40 Mbit/s, over which the bytes take a minute.

#![allow(clippy::unwrap_used, reason = "a run that cannot go on stops there")]

use std::time::{Duration, Instant};

use headstart_testbed::cloud::Boot;
use serde_json::{Value, json};

use self::world::{Deploy, PODS, Setup, World, boot, image, is_ready, offer};

#[path = "../tests/live/world.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod world;

/// What a node receives.
const RATE: &str = "40mbit";

/// Deploys side by side, each on a node of its own.
const AT_ONCE: usize = 6;

/// Weights and image, uncompressed; a third of the image compresses away.
const WEIGHTS: u64 = 150_000_000;
const IMAGE: u64 = 225_000_000;

/// Longest that any deploy takes.
const LONGEST: Duration = Duration::from_secs(400);

/// Where the DaemonSet puts weights on the node.
const CACHE: &str = "/var/lib/models";

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let runs: usize = arguments.next().unwrap_or(20);
    let world = World::up(Setup {
        name: "deploy",
        offers: vec![offer("g6.xlarge", 1, 0.4, RATE)],
        boot: slow(boot(&[])),
        models: vec![("real", WEIGHTS, IMAGE), ("zero", 60_000, 100_000)],
        pools: vec!["real", "zero"],
        values: Vec::new(),
    });
    let (mut real, mut zero) = (Vec::new(), Vec::new());
    while real.len() < runs {
        let times = deploys(
            &world,
            &[&["real"; AT_ONCE / 2][..], &["zero"; AT_ONCE / 2]].concat(),
            None,
        );
        real.extend(&times[..AT_ONCE / 2]);
        zero.extend(&times[AT_ONCE / 2..]);
    }
    report("Headstart", &real, &zero);

    world.cloud().boot(slow(Boot::default()));
    world.install(&[
        "agent.enabled=false",
        "csi.enabled=false",
        "injection.mode=Off",
    ]);
    let mut today = Vec::new();
    while today.len() < runs / 3 {
        today.extend(deploys(&world, &["real"; AT_ONCE], None));
    }
    report("today's order", &today, &zero);

    pre_pull(&world);
    let mut pulled = Vec::new();
    while pulled.len() < runs / 3 {
        pulled.extend(deploys(&world, &["real"; AT_ONCE], Some(CACHE)));
    }
    report("DaemonSet after Ready", &pulled, &zero);
}

/// EKS's times.
fn slow(boot: Boot) -> Boot {
    Boot {
        network: Duration::from_secs(17),
        kubelet: Duration::from_secs(22),
        gpus: Duration::from_secs(88),
        ..boot
    }
}

/// Seconds from creation to serving of pods that are created at once.
fn deploys(world: &World, models: &[&'static str], cache: Option<&'static str>) -> Vec<f64> {
    let deploys: Vec<Deploy> = (0..)
        .zip(models)
        .map(|(number, model)| Deploy {
            model,
            pool: Some(model),
            cache,
            ..Deploy::new(&format!("run-{number}"))
        })
        .collect();
    let began = Instant::now();
    for deploy in &deploys {
        world.create(deploy);
    }
    let mut times = vec![None; deploys.len()];
    while times.contains(&None) {
        // Stamps of the API server are whole seconds.
        let pods = world.list(PODS);
        let now = began.elapsed();
        for (time, deploy) in times.iter_mut().zip(&deploys) {
            let mut pods = pods.iter();
            if pods.any(|pod| pod["metadata"]["name"] == *deploy.name && is_ready(pod)) {
                time.get_or_insert(now.as_secs_f64());
            }
        }
        assert!(now < LONGEST, "{}", world.said(&deploys[0]));
        std::thread::sleep(Duration::from_millis(100));
    }
    let times: Vec<f64> = times.into_iter().flatten().collect();
    world.tidy();
    eprintln!("{models:?}: {times:.1?}");
    times
}

/// A DaemonSet as people write it: the engine's image is run once, and the model downloaded.
fn pre_pull(world: &World) {
    let mounts = json!([{"name": "cache", "mountPath": "/cache"}]);
    let env = json!([
        {"name": "HF_ENDPOINT", "value": "http://10.99.0.1:8080"},
        {"name": "HF_HUB_CACHE", "value": "/cache"},
    ]);
    let container = |name: &str, command: Value| {
        json!({
            "name": name, "image": image("real"), "command": command,
            "env": env, "volumeMounts": mounts,
        })
    };
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "pre-pull"},
        "spec": {
            "selector": {"matchLabels": {"app": "pre-pull"}},
            "template": {
                "metadata": {"labels": {"app": "pre-pull"}},
                "spec": {
                    "nodeSelector": {"pool": "real"}, "terminationGracePeriodSeconds": 0,
                    "tolerations": [{"operator": "Exists"}],
                    "initContainers": [container("fetch", json!(["vllm", "download", "acme/real"]))],
                    "containers": [container("stay", json!(["sleep", "2000000000"]))],
                    "volumes": [{
                        "name": "cache", "hostPath": {"path": CACHE, "type": "DirectoryOrCreate"},
                    }],
                },
            },
        },
    });
    let sets = "/apis/apps/v1/namespaces/default/daemonsets";
    world.api().create(sets, &set).unwrap();
}

fn report(name: &str, times: &[f64], zero: &[f64]) {
    let (real, without) = (median(times), median(zero));
    let most = times.iter().copied().fold(f64::MIN, f64::max);
    println!(
        "{name:<22} {:>3} runs  serving after {real:6.1} s (most {most:.1} s), without bytes {without:.1} s: \
         {:5.1} s of bytes exposed",
        times.len(),
        real - without
    );
}

fn median(of: &[f64]) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    let middle = of.len() / 2;
    match of.len() % 2 {
        0 => f64::midpoint(of[middle - 1], of[middle]),
        _ => of[middle],
    }
}
