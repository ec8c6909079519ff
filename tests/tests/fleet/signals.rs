//! What tells that a machine goes: its agent, a list that lacks it, a pool that is deleted; and what
//! was left while nobody looked.

use serde_json::{Value, json};

use super::given_back::{budget, is_initialised};
use crate::world::{CACHES, CLAIMS, NODES, POOLS, World, digest, events, gpu_pod, pod_at};
use crate::{BUDGETS, SETS, buyer, claim_of, running, set, soon, text};

const WISHES: &str = "/apis/headstart.dev/v1alpha1/namespaces/default/prefetches";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/headstart/leases/headstart";

/// What an agent says whose cloud told it this.
fn told(kind: &str, at: Option<i64>) -> Value {
    let now = jiff::Timestamp::now();
    let at = at.map(|seconds| (now + jiff::SignedDuration::from_secs(seconds)).to_string());
    json!({"status": {
        "generation": 1, "room": "100Gi", "observed": now.to_string(),
        "interruption": {"kind": kind, "source": "aws", "noticed": now.to_string(), "at": at},
    }})
}

/// Claims whose machines run their pods, by the sets of these names.
fn bought(world: &World, sets: &[&str]) -> Vec<String> {
    for name in sets {
        world.create(SETS, &set(name, &gpu_pod(name)));
    }
    let claims = sets.iter().map(|name| {
        let claim = claim_of(world, &running(world, name).1);
        world.until(&format!("{CLAIMS}/{claim}"), is_initialised);
        claim
    });
    claims.collect()
}

fn heard(world: &World, about: &str, reason: &str) -> String {
    let found = |world: &World| {
        let said = events(world, about);
        said.into_iter().find(|(said, _)| said == reason)
    };
    world.wait(reason, |world| found(world).is_some());
    found(world).expect("it was there").1
}

pub(crate) fn by_agent(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let claim = bought(world, &["serve"]).remove(0);
    let node = running(world, "serve").1;
    let wish = json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "Prefetch", "metadata": {"name": "later"},
        "spec": {"images": [format!("registry.invalid/acme/engine@{}", digest(2))]},
    });
    world.create(WISHES, &wish);
    let cache = format!("{CACHES}/{claim}");
    let fresh = json!({"status": {
        "generation": 1, "room": "100Gi", "observed": jiff::Timestamp::now().to_string(),
    }});
    world.patch(&format!("{cache}/status"), &fresh);
    let items = |cache: &Value| cache["spec"]["items"].as_array().map_or(0, Vec::len);
    world.until(&cache, |cache| items(cache) == 2);

    // Its pod stays for as long as there is nothing else, so that all of it can be seen.
    world.create(BUDGETS, &budget());
    world.until(&format!("{BUDGETS}/serve"), |budget| {
        budget["status"]["currentHealthy"] == 1
    });
    // The machine is seconds old, and its cloud says of it to nobody else that it goes.
    world.patch(&format!("{cache}/status"), &told("Taken", Some(600)));
    let next = world.until_some(CLAIMS, |one| text(&one["metadata"]["name"]) != claim);
    world.until(&format!("{NODES}/{node}"), |node| {
        node["spec"]["unschedulable"] == true
    });
    assert!(
        world.cloud().machines().iter().any(|it| it.claim == claim),
        "what replaces it is bought while it is still there"
    );
    assert_ne!(
        next["spec"]["offering"]["instanceType"], "g6.xlarge",
        "what is taken away is not bought again at once"
    );
    let note = heard(world, &claim, "NodeInterrupted");
    assert!(note.contains("as aws told its agent"), "{note}");
    let left = world.until(&cache, |cache| items(cache) == 1);
    let used = format!("registry.invalid/acme/engine@{}", digest(1));
    assert_eq!(left["spec"]["items"][0]["image"], used.as_str());
    world.delete(&format!("{BUDGETS}/serve"));
    world.until_gone(&format!("{CLAIMS}/{claim}"));
    let (_, there) = running(world, "serve");
    assert_eq!(claim_of(world, &there), text(&next["metadata"]["name"]));
    assert_eq!(world.cloud().made(), 2);
    world.delete(&format!("{WISHES}/later"));
}

pub(crate) fn storm(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let before = bought(world, &["one", "two", "three"]);
    for claim in &before {
        let notice = told("Maintenance", None);
        world.patch(&format!("{CACHES}/{claim}/status"), &notice);
    }
    let mut most = 0;
    for left in [2, 1, 0] {
        world.wait("the next is replaced", |world| {
            let claims = world.get(CLAIMS);
            let claims = claims["items"].as_array().cloned().unwrap_or_default();
            let old = |claim: &&Value| before.contains(&text(&claim["metadata"]["name"]));
            let old: Vec<&Value> = claims.iter().filter(old).collect();
            most = most.max(old.iter().filter(|claim| is_going(claim)).count());
            old.len() <= left
        });
    }
    assert_eq!(most, 1, "the pool's budget");
    assert_eq!(world.cloud().made(), 6, "one for one");
    let note = heard(world, &before[0], "NodeAtRisk");
    assert!(note.contains("budgets"), "{note}");
}

pub(crate) fn vanished(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let claim = bought(world, &["serve"]).remove(0);
    world.wait("it was listed", |world| world.cloud().lists() > 2);
    let born = world.get(&format!("{CLAIMS}/{claim}"));
    world.cloud().vanish(&claim);
    world.until_gone(&format!("{CLAIMS}/{claim}"));
    let born: jiff::Timestamp = text(&born["metadata"]["creationTimestamp"])
        .parse()
        .expect("the API server writes it");
    let age = jiff::Timestamp::now().duration_since(born).as_secs();
    assert!(age < 60, "found out {age} s after it was bought");
    // Nobody has removed its pod yet, and what it will need is bought.
    let next = world.claim();
    collect(world, "serve");
    let (_, there) = running(world, "serve");
    assert_eq!(claim_of(world, &there), text(&next["metadata"]["name"]));
    assert_eq!(world.cloud().made(), 2);
}

/// Removes the pod of a set from a node that is gone, as the API server's collector does after a
/// minute.
fn collect(world: &World, set: &str) {
    let (pod, node) = running(world, set);
    let there = world.get(&format!("{NODES}/{node}"));
    assert!(there.is_null(), "its node is gone: {there:#}");
    world.delete(&pod_at(&pod));
}

pub(crate) fn away_for_an_hour(world: &mut World) {
    let first = buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let all = bought(world, &["deleted", "vanished", "stays"]);
    let [deleted, vanished, stays] = &all[..] else {
        panic!("three were bought: {all:?}");
    };
    first.kill();
    world.delete(&format!("{CLAIMS}/{deleted}"));
    world.cloud().vanish(vanished);
    let before = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(1);
    let before = before.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    for claim in &all {
        let moved = json!({"status": {"stages": {
            "requested": before, "launched": before, "registered": before, "ready": before,
        }}});
        world.patch(&format!("{CLAIMS}/{claim}/status"), &moved);
    }
    world.patch(LEASE, &json!({"spec": {"renewTime": before}}));
    world.cloud().stray("gpu-nobody");
    let held = world.get(&format!("{CLAIMS}/{deleted}"));
    let finalizers = &held["metadata"]["finalizers"];
    assert_eq!(finalizers, &json!(["headstart.dev/instance"]), "it waits");

    buyer(world, "b", &[]);
    for claim in [deleted, vanished] {
        world.until_gone(&format!("{CLAIMS}/{claim}"));
        world.until_gone(&format!("{CACHES}/{claim}"));
    }
    collect(world, "vanished");
    for name in ["deleted", "vanished", "stays"] {
        running(world, name);
    }
    let kept = world.get(&format!("{CLAIMS}/{stays}"));
    assert!(kept["metadata"]["deletionTimestamp"].is_null(), "{kept:#}");
    world.wait("there is a claim for each machine", |world| {
        let mut claims = world.names(CLAIMS);
        let machines = world.cloud().machines();
        let mut machines: Vec<String> = machines.into_iter().map(|it| it.claim).collect();
        claims.sort_unstable();
        machines.sort_unstable();
        claims == machines && claims.len() == 3
    });
}

pub(crate) fn with_its_pool(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let first = bought(world, &["one"]).remove(0);
    let owner = |world: &World, claim: &str| {
        let claim = world.get(&format!("{CLAIMS}/{claim}"));
        text(&claim["metadata"]["ownerReferences"][0]["uid"])
    };
    let pool = world.get(&format!("{POOLS}/gpu"));
    assert_eq!(owner(world, &first), text(&pool["metadata"]["uid"]));
    // One that was made before pools owned what they bought.
    let unowned = json!({"metadata": {"ownerReferences": null}});
    world.patch(&format!("{CLAIMS}/{first}"), &unowned);
    world.wait("it is owned again", |world| {
        owner(world, &first) == text(&pool["metadata"]["uid"])
    });
    let mut dear = soon();
    dear["families"] = json!(["g5"]);
    world.pool("dear", dear);
    world.delete(&format!("{POOLS}/gpu"));
    world.until_gone(&format!("{CLAIMS}/{first}"));
    let (_, there) = running(world, "one");
    let next = world.get(&format!("{CLAIMS}/{}", claim_of(world, &there)));
    assert_eq!(next["spec"]["nodePool"], "dear");
    world.wait("its machine is given back", |world| {
        world.cloud().machines().len() == 1
    });
}

/// Whether a node is on its way out, or will be when another is there.
fn is_going(claim: &Value) -> bool {
    let metadata = &claim["metadata"];
    let waits = metadata["annotations"]["headstart.dev/replaced-by"].is_string();
    waits || !metadata["deletionTimestamp"].is_null()
}
