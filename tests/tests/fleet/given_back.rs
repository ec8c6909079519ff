//! Nodes that are given back, and what holds them.

use std::time::Duration;

use headstart_testbed::cloud::Boot;
use serde_json::{Value, json};

use crate::world::{CACHES, CLAIMS, NODES, World, condition, digest, events, gpu_pod, pod_at};
use crate::{BUDGETS, SETS, buyer, claim_of, running, set, soon, text};

pub(crate) fn empty(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    for name in ["one", "two"] {
        world.create_pod(&gpu_pod(name));
    }
    let node = |world: &World, pod: &str| {
        let pod = world.until(&pod_at(pod), |pod| pod["status"]["phase"] == "Running");
        text(&pod["spec"]["nodeName"])
    };
    let (one, two) = (node(world, "one"), node(world, "two"));
    let (busy, idle) = (claim_of(world, &one), claim_of(world, &two));
    world.until(&format!("{CLAIMS}/{busy}"), is_initialised);
    world.until(&format!("{CLAIMS}/{idle}"), is_initialised);

    // The first fetches what a pod waits for that could not use this node: it has no such label.
    let mut waiting = gpu_pod("later");
    waiting["spec"]["nodeSelector"] = json!({"somewhere": "else"});
    waiting["spec"]["containers"][0]["image"] =
        format!("registry.invalid/acme/engine@{}", digest(2)).into();
    let fetching = json!({"status": {
        "generation": 1, "room": "100Gi", "observed": jiff::Timestamp::now().to_string(),
        "fetching": [{"image": waiting["spec"]["containers"][0]["image"]}],
    }});
    world.create_pod(&waiting);
    world.patch(&format!("{CACHES}/{busy}/status"), &fetching);
    world.delete(&pod_at("one"));
    world.delete(&pod_at("two"));
    world.until_gone(&format!("{CLAIMS}/{idle}"));
    world.until_gone(&format!("{NODES}/{two}"));
    world.until_gone(&format!("{CACHES}/{idle}"));
    let left = world.get(&format!("{CLAIMS}/{busy}"));
    assert!(left["metadata"]["deletionTimestamp"].is_null(), "{left:#}");
    world.delete(&pod_at("later"));
    world.until_gone(&format!("{CLAIMS}/{busy}"));
    world.until_gone(&format!("{NODES}/{one}"));
    assert!(world.cloud().machines().is_empty());
    assert_eq!(world.cloud().made(), 2);
}

pub(crate) fn held(world: &mut World) {
    let first = buyer(world, "a", &[]);
    world.pool("gpu", soon());
    world.create(SETS, &set("serve", &gpu_pod("serve")));
    let (pod, node) = running(world, "serve");
    let claim = claim_of(world, &node);
    world.until(&format!("{CLAIMS}/{claim}"), is_initialised);
    world.create(BUDGETS, &budget());
    world.until(&format!("{BUDGETS}/serve"), |budget| {
        budget["status"]["currentHealthy"] == 1
    });
    world.delete(&format!("{CLAIMS}/{claim}"));
    // What its pod will need is bought while it still serves.
    let next = world.until_some(CLAIMS, |one| {
        one["metadata"]["name"] != claim.as_str() && is_initialised(one)
    });
    assert_eq!(next["spec"]["pods"], json!([format!("default/{pod}")]));
    world.wait("the pod is told", |world| {
        let said = events(world, &pod);
        said.iter().any(|(reason, _)| reason == "EvictionBlocked")
    });
    let taken = world.get(&format!("{NODES}/{node}"));
    assert_eq!(taken["spec"]["unschedulable"], true);
    first.kill();
    buyer(world, "b", &[]);
    world.wait("b leads", |world| world.holder() == "b");
    world.wait("it is asked again", |world| {
        let log = world.log("headstart-b");
        let mut refused = log
            .lines()
            .filter(|line| line.contains("a write was not done"));
        refused.any(|line| line.contains("evict"))
    });
    let still = world.get(&pod_at(&pod));
    assert_eq!(still["status"]["phase"], "Running");
    assert!(still["metadata"]["deletionTimestamp"].is_null());
    world.delete(&format!("{BUDGETS}/serve"));
    world.until_gone(&format!("{CLAIMS}/{claim}"));
    let (again, there) = running(world, "serve");
    assert_ne!(again, pod);
    assert_eq!(claim_of(world, &there), text(&next["metadata"]["name"]));
    assert_eq!(world.cloud().made(), 2, "one for one");
    assert_eq!(world.cloud().machines().len(), 1);
}

pub(crate) fn pinned(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let mut pod = gpu_pod("serve");
    pod["metadata"]["annotations"] = json!({"headstart.dev/do-not-evict": "true"});
    world.create(SETS, &set("serve", &pod));
    let (pod, node) = running(world, "serve");
    let claim = claim_of(world, &node);
    world.until(&format!("{CLAIMS}/{claim}"), is_initialised);
    world.delete(&format!("{CLAIMS}/{claim}"));
    world.wait("the pod is told", |world| {
        let said = events(world, &pod);
        said.iter().any(|(reason, _)| reason == "EvictionBlocked")
    });
    assert_eq!(
        world.count(CLAIMS),
        1,
        "nothing is bought for one that stays"
    );
    let still = world.get(&pod_at(&pod));
    assert!(
        still["metadata"]["deletionTimestamp"].is_null(),
        "{still:#}"
    );
    // It ends with its set.
    world.delete(&format!("{SETS}/serve"));
    world.until_gone(&format!("{CLAIMS}/{claim}"));
    assert!(world.cloud().machines().is_empty());
}

pub(crate) fn is_initialised(claim: &Value) -> bool {
    condition(claim, "Initialized") == Some("True")
}

pub(crate) fn budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "serve"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "serve"}}},
    })
}

/// Machines that come up at once, but for what is said.
pub(crate) fn boot(kubelet: Duration) -> Boot {
    Boot {
        kubelet,
        gpus: kubelet + Duration::from_secs(1),
        ..Boot::default()
    }
}
