//! The control plane on a real API server, buying nodes from a cloud of this machine: each case is
//! named by its promise, and leaves nothing to the next one.

use std::time::Duration;

use headstart_testbed::cloud::Fault;
use serde_json::json;

use self::world::{
    CACHES, CLAIMS, NODES, POOLS, World, condition, digest, events, gpu_pod, pod_at,
};

#[path = "daemon/world.rs"]
mod world;

const WAIT: Duration = Duration::from_secs(40);

/// A promise, and what shows whether it is kept.
type Case = (&'static str, fn(&mut World));

#[test]
fn the_control_plane_keeps_its_promises_on_a_real_api_server() {
    let mut world = World::new("daemon");
    let cases: [Case; 9] = [
        (
            "a waiting GPU pod buys one node, intent first",
            one_pod_one_node,
        ),
        (
            "a deleted claim gives back its machine and leaves nothing",
            deleted_claim,
        ),
        (
            "a refused offering is not asked again, another one is",
            no_capacity,
        ),
        (
            "a daemon killed between the cloud's yes and its note buys once",
            killed,
        ),
        ("a reply that is lost buys once", lost_reply),
        ("a pool that cannot be read stops no other", malformed_pool),
        (
            "a node name that is used again gets a fresh intent",
            name_reused,
        ),
        ("a machine without a claim is given back", stray),
        (
            "the other replica goes on when the leader is killed",
            leader_killed,
        ),
    ];
    for (name, case) in cases {
        eprintln!("== {name}");
        case(&mut world);
        world.tidy();
    }
}

fn one_pod_one_node(world: &mut World) {
    world.start("a", &[]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    let claim = world.claim();
    let name = claim["metadata"]["name"]
        .as_str()
        .expect("as the cluster was left");
    let cache = world.get(&format!("{CACHES}/{name}"));
    assert_eq!(cache["spec"]["generation"], 1, "{cache:#}");
    let image = cache["spec"]["items"][0]["image"]
        .as_str()
        .expect("as the cluster was left");
    assert!(image.ends_with(&digest(1)), "{image}");
    assert!(
        cache["metadata"]["creationTimestamp"].as_str()
            <= claim["metadata"]["creationTimestamp"].as_str(),
        "the intent is written first"
    );
    let claim = world.until(&format!("{CLAIMS}/{name}"), |claim| {
        condition(claim, "Initialized") == Some("True")
    });
    let stages = &claim["status"]["stages"];
    for stage in [
        "requested",
        "launched",
        "registered",
        "ready",
        "gpuAllocatable",
    ] {
        assert!(stages[stage].is_string(), "{stage}: {stages:#}");
    }
    let pod = world.until(&pod_at("serve"), |pod| pod["spec"]["nodeName"].is_string());
    assert_eq!(pod["spec"]["nodeName"], claim["status"]["nodeName"]);
    assert_eq!(world.cloud().made(), 1);
    assert_eq!(world.count(CLAIMS), 1);
    let said = events(world, "serve");
    let announced = said.iter().find(|(reason, _)| reason == "NodeAnnounced");
    let note = &announced.expect("the pod is told").1;
    assert!(note.contains("g6.xlarge spot in test-1a"), "{note}");
    let cache = world.until(&format!("{CACHES}/{name}"), |cache| {
        cache["metadata"]["ownerReferences"][0]["kind"] == "NodeClaim"
    });
    assert_eq!(
        cache["metadata"]["labels"]["headstart.dev/node"],
        claim["status"]["nodeName"]
    );
    let pool = world.until(&format!("{POOLS}/gpu"), |pool| pool["status"]["nodes"] == 1);
    assert_eq!(condition(&pool, "Ready"), Some("True"));
}

fn deleted_claim(world: &mut World) {
    world.start("a", &[]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    let name = world.claim()["metadata"]["name"]
        .as_str()
        .expect("as the cluster was left")
        .to_owned();
    world.until(&pod_at("serve"), |pod| pod["spec"]["nodeName"].is_string());
    world.delete(&format!("{CLAIMS}/{name}"));
    world.until_gone(&format!("{CLAIMS}/{name}"));
    world.until_gone(&format!("{CACHES}/{name}"));
    assert_eq!(world.cloud().machines().len(), 0);
    assert_eq!(world.count(NODES), 0);
    assert_eq!(
        world.count(CLAIMS),
        0,
        "a pod that was evicted for good buys nothing"
    );
}

fn no_capacity(world: &mut World) {
    world.cloud().stock("g6.xlarge", 0);
    world.start("a", &[]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    let bought = world.until_some(CLAIMS, |claim| condition(claim, "Launched") == Some("True"));
    assert_eq!(bought["spec"]["offering"]["instanceType"], "g5.xlarge");
    assert_eq!(world.cloud().made(), 1);
    assert_eq!(
        world.cloud().asked().len(),
        2,
        "{:?}",
        world.cloud().asked()
    );
    let said = events(world, "serve");
    assert!(
        said.iter()
            .any(|(reason, _)| reason == "InsufficientCapacity"),
        "{said:?}"
    );
    world.cloud().stock("g6.xlarge", 9);
}

fn killed(world: &mut World) {
    world.cloud().fail([Fault::Slow(Duration::from_secs(3))]);
    let daemon = world.start("a", &[]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    world.wait("the cloud has made it", |world| world.cloud().made() == 1);
    let claim = world.claim();
    assert_ne!(condition(&claim, "Launched"), Some("True"));
    daemon.kill();
    world.start("b", &[]);
    let name = claim["metadata"]["name"]
        .as_str()
        .expect("as the cluster was left");
    world.until(&format!("{CLAIMS}/{name}"), |claim| {
        condition(claim, "Initialized") == Some("True")
    });
    assert_eq!((world.cloud().made(), world.count(CLAIMS)), (1, 1));
}

fn lost_reply(world: &mut World) {
    world.cloud().fail([Fault::LoseReply]);
    world.start("a", &[]);
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    world.until_some(CLAIMS, |claim| {
        condition(claim, "Initialized") == Some("True")
    });
    assert_eq!((world.cloud().made(), world.count(CLAIMS)), (1, 1));
}

fn malformed_pool(world: &mut World) {
    world.start("a", &[]);
    world.pool("broken", json!({"limits": {"cpu": "lots"}}));
    world.pool("gpu", json!({}));
    let pool = world.until(&format!("{POOLS}/broken"), |pool| {
        condition(pool, "Ready") == Some("False")
    });
    let said = pool["status"]["conditions"][0]["message"]
        .as_str()
        .expect("as the cluster was left");
    assert!(said.contains("spec.limits: cpu"), "{said}");
    world.create_pod(&gpu_pod("serve"));
    let claim = world.claim();
    assert_eq!(claim["spec"]["nodePool"], "gpu");
}

fn name_reused(world: &mut World) {
    world.start("a", &[]);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "metal", "labels": {"headstart.dev/gpu-count": "1"}},
    });
    let status = json!({"status": {
        "allocatable": {"cpu": "2", "memory": "16Gi", "pods": "110", "nvidia.com/gpu": "1"},
        "conditions": [{"type": "Ready", "status": "True", "reason": "", "message": ""}],
    }});
    let join = |world: &World| {
        world.create(NODES, &node);
        world.patch(&format!("{NODES}/metal/status"), &status);
    };
    let at = format!("{CACHES}/metal");
    join(world);
    let mut pod = gpu_pod("serve");
    pod["spec"]["nodeName"] = "metal".into();
    world.create_pod(&pod);
    let first = world.until(&at, |_| true);
    let items = first["spec"]["items"]
        .as_array()
        .expect("as the cluster was left");
    assert_eq!(items.len(), 1, "{first:#}");
    // The agent of the first machine reports that it has it.
    let mut has = items[0].clone();
    has["state"] = "Verified".into();
    let report = json!({"status": {"generation": 1, "room": "1Gi", "items": [has]}});
    world.patch(&format!("{at}/status"), &report);
    world.delete(&format!("{NODES}/metal"));
    join(world);
    let second = world.until(&at, |cache| {
        cache["metadata"]["uid"] != first["metadata"]["uid"]
    });
    let uid = world.get(&format!("{NODES}/metal"))["metadata"]["uid"].clone();
    assert_eq!(second["metadata"]["ownerReferences"][0]["uid"], uid);
    assert!(second["status"].is_null(), "{second:#}");
}

fn stray(world: &mut World) {
    world.cloud().stray("lost");
    world.start("a", &[]);
    world.wait("it is given back", |world| {
        world.cloud().machines().is_empty()
    });
}

fn leader_killed(world: &mut World) {
    let first = world.start("a", &[]);
    world.wait("a leads", |world| world.holder() == "a");
    world.start("b", &[]);
    first.kill();
    world.pool("gpu", json!({}));
    world.create_pod(&gpu_pod("serve"));
    world.until_some(CLAIMS, |claim| {
        condition(claim, "Initialized") == Some("True")
    });
    assert_eq!(world.holder(), "b");
    assert_eq!(world.cloud().made(), 1);
}
