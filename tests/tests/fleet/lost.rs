//! Machines that are taken away or never come, and what is remembered of it.

use std::time::Duration;

use serde_json::json;

use super::given_back::{boot, is_initialised};
use crate::world::{CACHES, CLAIMS, NODES, World, condition, digest, events, gpu_pod, pod_at};
use crate::{SETS, buyer, claim_of, running, set, soon, text};

/// More than a case takes.
const LONG: Duration = Duration::from_secs(600);

pub(crate) fn interrupted(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    world.create(SETS, &set("serve", &gpu_pod("serve")));
    let (_, node) = running(world, "serve");
    let claim = claim_of(world, &node);
    world.until(&format!("{CLAIMS}/{claim}"), is_initialised);
    // It has the image, and others are told so.
    let image = format!("registry.invalid/acme/engine@{}", digest(1));
    let has = json!({"status": {
        "generation": 1, "room": "100Gi", "observed": jiff::Timestamp::now().to_string(),
        "items": [{"image": image, "state": "Verified"}],
    }});
    world.patch(&format!("{CACHES}/{claim}/status"), &has);
    let knows = |world: &World, name: &str| {
        let cache = world.get(&format!("{CACHES}/{name}"));
        cache["spec"]["items"][0]["peers"] == json!([node])
    };
    world.create_pod(&gpu_pod("second"));
    let second = world.until_some(CLAIMS, |one| {
        one["spec"]["pods"] == json!(["default/second"])
    });
    let second = text(&second["metadata"]["name"]);
    world.wait("the first is a source", |world| knows(world, &second));
    world.until(&pod_at("second"), |pod| pod["status"]["phase"] == "Running");

    world.cloud().interrupt(&claim, LONG);
    let next = world.until_some(CLAIMS, |one| {
        let name = text(&one["metadata"]["name"]);
        name != claim && name != second
    });
    let next = text(&next["metadata"]["name"]);
    let taken = world.until(&format!("{NODES}/{node}"), |node| {
        node["spec"]["unschedulable"] == true
    });
    assert_eq!(taken["metadata"]["name"], node.as_str());
    let cache = world.get(&format!("{CACHES}/{next}"));
    assert_eq!(cache["spec"]["items"][0]["image"], image.as_str());
    assert!(!knows(world, &next), "{cache:#}");
    world.until_gone(&format!("{CLAIMS}/{claim}"));
    let (_, there) = running(world, "serve");
    assert_eq!(claim_of(world, &there), next);
    assert_eq!(world.cloud().made(), 3);
    world.wait("it is given back before its end", |world| {
        world.cloud().machines().len() == 2
    });
}

pub(crate) fn never_joined(world: &mut World) {
    world.cloud().boot(boot(LONG));
    buyer(world, "a", &["--registration-seconds=4"]);
    world.pool("gpu", soon());
    world.create_pod(&gpu_pod("serve"));
    let first = world.claim();
    assert_eq!(first["spec"]["offering"]["instanceType"], "g6.xlarge");
    let first = text(&first["metadata"]["name"]);
    world.until(&format!("{CLAIMS}/{first}"), |claim| {
        condition(claim, "Launched") == Some("True")
    });
    // Its GPUs come within the time that it has, but late.
    world.cloud().boot(boot(Duration::from_secs(2)));
    world.until_gone(&format!("{CLAIMS}/{first}"));
    let next = world.until_some(CLAIMS, is_initialised);
    assert_eq!(next["spec"]["offering"]["instanceType"], "g5.xlarge");
    world.until(&pod_at("serve"), |pod| pod["status"]["phase"] == "Running");
    let said = events(world, "serve");
    let never = said.iter().find(|(reason, _)| reason == "NodeNeverJoined");
    assert!(never.is_some(), "{said:?}");
    assert_eq!(
        (world.cloud().made(), world.cloud().machines().len()),
        (2, 1)
    );
}

pub(crate) fn joined_late(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let ghost = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "ghost", "labels": {
            "headstart.dev/node-claim": "gpu-gone", "headstart.dev/node-pool": "gpu",
        }},
        "spec": {"providerID": "test://gpu-gone"},
    });
    world.create(NODES, &ghost);
    let stranger = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "stranger"}});
    world.create(NODES, &stranger);
    world.until_gone(&format!("{NODES}/ghost"));
    assert_eq!(world.count(NODES), 1, "what is not ours stays");
}

pub(crate) fn remembered(world: &mut World) {
    world.cloud().stock("g6.xlarge", 0);
    let first = buyer(world, "a", &[]);
    world.pool("gpu", soon());
    world.create_pod(&gpu_pod("serve"));
    world.until_some(CLAIMS, is_initialised);
    assert_eq!(world.cloud().asked().len(), 2);
    let memory = "/api/v1/namespaces/headstart/configmaps/headstart-memory";
    let stored = world.until(memory, |map| {
        let text = map["data"]["capacity.json"].as_str();
        text.is_some_and(|text| text.contains("g6.xlarge"))
    });
    let size = text(&stored["data"]["capacity.json"]).len();
    assert!(size < 10_000, "{size}");
    first.kill();
    world.cloud().stock("g6.xlarge", 9);
    buyer(world, "b", &[]);
    world.create_pod(&gpu_pod("second"));
    world.until(&pod_at("second"), |pod| pod["status"]["phase"] == "Running");
    let claims = world.get(CLAIMS);
    let all = claims["items"].as_array().expect("it is a list");
    for claim in all {
        assert_eq!(claim["spec"]["offering"]["instanceType"], "g5.xlarge");
    }
    assert_eq!((all.len(), world.cloud().asked().len()), (2, 3));
}
