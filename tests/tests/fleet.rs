//! The life of a fleet on a real API server: nodes of others, nodes that go, are taken away, never
//! come or are out of date. Each case is named by its promise, and leaves nothing to the next one.

use std::time::Duration;

use headstart_testbed::cluster::Process;
use serde_json::{Value, json};

use self::kubelet::Kubelet;
use self::world::World;

mod fleet {
    pub(crate) mod announced;
    pub(crate) mod changed;
    pub(crate) mod gangs;
    pub(crate) mod given_back;
    pub(crate) mod kwok;
    pub(crate) mod lost;
    pub(crate) mod signals;
}
#[path = "fleet/kubelet.rs"]
mod kubelet;
#[path = "daemon/world.rs"]
mod world;

const WAIT: Duration = Duration::from_secs(40);

const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

/// A promise, and what shows whether it is kept.
type Case = (&'static str, fn(&mut World));

#[test]
fn a_fleet_is_looked_after_on_a_real_api_server() {
    let mut world = World::new("fleet");
    fleet::announced::define(&world);
    let kubelet = Kubelet::start(&world.cluster);
    let cases: [Case; 16] = [
        (
            "another autoscaler's claim is told what to fetch before its node is there",
            fleet::announced::by_karpenter,
        ),
        (
            "a node that somebody made is told what to fetch before it is ready",
            fleet::announced::by_hand,
        ),
        (
            "an empty node is given back after its time, one that fetches for a waiting pod is not",
            fleet::given_back::empty,
        ),
        (
            "a pod budget holds a node that goes, also for the next replica, and its replacement \
             is there before",
            fleet::given_back::held,
        ),
        (
            "a pod that may not be moved is waited for",
            fleet::given_back::pinned,
        ),
        (
            "what replaces an interrupted node is bought during the notice, and nobody fetches \
             from it any more",
            fleet::lost::interrupted,
        ),
        (
            "a machine that does not join is given back, and something else is bought",
            fleet::lost::never_joined,
        ),
        (
            "a node that joins when its claim is gone is removed",
            fleet::lost::joined_late,
        ),
        (
            "the next replica knows which offering was refused",
            fleet::lost::remembered,
        ),
        (
            "a machine whose agent says that it is taken away is replaced though it is seconds old",
            fleet::signals::by_agent,
        ),
        (
            "machines that will all be stopped are replaced one after the other",
            fleet::signals::storm,
        ),
        (
            "a machine that vanishes is replaced before it is a minute old",
            fleet::signals::vanished,
        ),
        (
            "what was left while nobody looked for an hour is finished",
            fleet::signals::away_for_an_hour,
        ),
        (
            "a pool that is deleted takes its nodes along, and their pods move first",
            fleet::signals::with_its_pool,
        ),
        ("a gang buys all or nothing", fleet::gangs::whole),
        (
            "nodes that their pools would not make today are replaced, one at a time",
            fleet::changed::one_at_a_time,
        ),
    ];
    let kwok: [Case; 1] = [(
        "nodes that are only objects come, run pods, are interrupted and go",
        fleet::kwok::whole_life,
    )];
    run(&mut world, &cases);
    // From here on KWOK's controller is the kubelet.
    drop(kubelet);
    fleet::kwok::start(&world);
    run(&mut world, &kwok);
}

fn run(world: &mut World, cases: &[Case]) {
    for (name, case) in cases {
        let began = std::time::Instant::now();
        eprintln!("== {name}");
        case(world);
        clear(world);
        world.tidy();
        eprintln!("   {:.1} s", began.elapsed().as_secs_f32());
    }
}

/// Starts a replica that looks at everything each second.
fn buyer(world: &mut World, identity: &str, told: &[&str]) -> Process {
    let mut all = vec!["--list-seconds=1", "--retire-seconds=1"];
    all.extend(told);
    world.start(identity, &all)
}

/// A pool whose nodes are given back soon, one at a time.
fn soon() -> Value {
    json!({"disruption": {"consolidateAfter": "2s", "budgets": [{"nodes": 1}]}})
}

/// A set of one pod that comes back when it goes, made from `pod`.
fn set(name: &str, pod: &Value) -> Value {
    let mut template = pod.clone();
    template["metadata"]["labels"]["app"] = name.into();
    template["metadata"]["name"] = Value::Null;
    // A kubelet of this test ends pods at once.
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": name}},
                 "template": {"metadata": template["metadata"], "spec": template["spec"]}},
    })
}

/// The pod of a set that runs, with the node it is on.
fn running(world: &World, set: &str) -> (String, String) {
    let pod = world.until_some(world::PODS, |pod| {
        pod["metadata"]["labels"]["app"] == set
            && pod["metadata"]["deletionTimestamp"].is_null()
            && pod["status"]["phase"] == "Running"
    });
    (
        text(&pod["metadata"]["name"]),
        text(&pod["spec"]["nodeName"]),
    )
}

/// The claim of a node.
fn claim_of(world: &World, node: &str) -> String {
    let node = world.get(&format!("{}/{node}", world::NODES));
    text(&node["metadata"]["labels"]["headstart.dev/node-claim"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Removes what cases of this suite leave beside the others'.
fn clear(world: &World) {
    for collection in [SETS, BUDGETS, fleet::announced::CLAIMS] {
        for name in world.names(collection) {
            world.delete(&format!("{collection}/{name}"));
        }
    }
}
