//! Pools that change under their nodes.

use serde_json::{Value, json};

use super::given_back::is_initialised;
use crate::world::{CLAIMS, NODES, POOLS, World, gpu_pod};
use crate::{SETS, buyer, claim_of, running, set, soon, text};

pub(crate) fn one_at_a_time(world: &mut World) {
    buyer(world, "a", &[]);
    world.pool("gpu", soon());
    let mut dear = soon();
    dear["families"] = json!(["g5"]);
    world.pool("dear", dear);
    for (name, pool) in [("one", "gpu"), ("two", "gpu"), ("three", "dear")] {
        let mut pod = gpu_pod(name);
        pod["spec"]["nodeSelector"] = json!({"headstart.dev/node-pool": pool});
        world.create(SETS, &set(name, &pod));
    }
    let all = ["one", "two", "three"];
    let before = all.map(|name| claim_of(world, &running(world, name).1));
    for claim in &before {
        world.until(&format!("{CLAIMS}/{claim}"), is_initialised);
    }
    let three = world.get(&format!("{CLAIMS}/{}", before[2]));
    assert_eq!(three["spec"]["offering"]["instanceType"], "g5.xlarge");

    // Labels of one pool, the price of the other.
    world.patch(
        &format!("{POOLS}/gpu"),
        &json!({"spec": {"labels": {"team": "a"}}}),
    );
    let cheaper = json!({"spec": {"families": null, "maxHourlyCost": 0.45}});
    world.patch(&format!("{POOLS}/dear"), &cheaper);
    let mut most = 0;
    let pair = &before[..2];
    world.wait("all are replaced", |world| {
        let claims = world.get(CLAIMS);
        let claims = claims["items"].as_array().cloned().unwrap_or_default();
        let going = claims.iter().filter(|claim| is_going(claim));
        let going = going.filter(|claim| pair.contains(&text(&claim["metadata"]["name"])));
        most = most.max(going.count());
        let names: Vec<String> = claims
            .iter()
            .map(|it| text(&it["metadata"]["name"]))
            .collect();
        before.iter().all(|old| !names.contains(old))
    });
    assert_eq!(most, 1, "the pool's budget");
    for name in ["one", "two"] {
        let (_, node) = running(world, name);
        let node = world.get(&format!("{NODES}/{node}"));
        assert_eq!(node["metadata"]["labels"]["team"], "a");
    }
    let (_, node) = running(world, "three");
    let claim = world.get(&format!("{CLAIMS}/{}", claim_of(world, &node)));
    assert_eq!(claim["spec"]["offering"]["instanceType"], "g6.xlarge");
    assert_eq!(world.cloud().made(), 6, "one for one");
}

/// Whether a node is on its way out, or will be when another is there.
fn is_going(claim: &Value) -> bool {
    let metadata = &claim["metadata"];
    let waits = metadata["annotations"]["headstart.dev/replaced-by"].is_string();
    waits || !metadata["deletionTimestamp"].is_null()
}
