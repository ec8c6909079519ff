//! Pods that are of use only together.

use serde_json::{Value, json};

use crate::buyer;
use crate::world::{CLAIMS, POOLS, World, events, gpu_pod, pod_at};

pub(crate) fn whole(world: &mut World) {
    buyer(world, "a", &[]);
    let mut pool = crate::soon();
    pool["limits"] = json!({"nodes": "1"});
    world.pool("gpu", pool);
    for name in ["head", "worker"] {
        world.create_pod(&member(name));
    }
    world.wait("they are told that one node is not enough", |world| {
        let said = events(world, "worker");
        said.iter().any(|(reason, _)| reason == "NotServed")
    });
    assert_eq!((world.count(CLAIMS), world.cloud().asked().len()), (0, 0));

    // There is one machine, but not two: what was bought of it goes again.
    world.cloud().stock("g6.xlarge", 1);
    world.cloud().stock("g5.xlarge", 0);
    world.patch(
        &format!("{POOLS}/gpu"),
        &json!({"spec": {"limits": {"nodes": "2"}}}),
    );
    world.wait("both are asked for", |world| {
        world.cloud().asked().len() >= 2
    });
    world.wait("neither is kept", |world| {
        world.cloud().machines().is_empty() && world.count(CLAIMS) == 0
    });
    for name in ["head", "worker"] {
        let pod = world.get(&pod_at(name));
        assert!(pod["spec"]["nodeName"].is_null(), "{pod:#}");
    }
}

/// One that needs another.
fn member(name: &str) -> Value {
    let mut pod = gpu_pod(name);
    pod["metadata"]["annotations"] = json!({
        "headstart.dev/group": "pair", "headstart.dev/group-min": "2",
    });
    // Binds groups whole; here, none.
    pod["spec"]["schedulerName"] = "gangs".into();
    pod
}
