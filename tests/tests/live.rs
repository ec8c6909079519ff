//! The product in a cluster: installed by its chart beside a cloud, a Hub and a registry, with nodes
//! that boot, a kubelet and a containerd on each, and pods that are written as people write them.
//!
//! What stands in: the engine, which reads its model from the cache that its environment names, fetches
//! what is missing as any client would, and answers probes; the GPUs, which are names. Everything else is
//! real.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::time::{Duration, Instant};

use headstart_core::quantity::Rate;
use headstart_testbed::link::Shape;
use rustix::process::{Pid, Signal, kill_process};

use self::world::{CLAIMS, Deploy, Sent, Setup, WEIGHTS, World, boot};

#[path = "live/world.rs"]
mod world;

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(30);

/// A promise, and what shows whether it is kept.
type Case = (&'static str, fn(&World));

/// One installation for all cases, each of which is named by its promise.
#[test]
fn a_deploy_comes_to_serve_from_bytes_that_were_there_before_it() {
    let world = World::up(Setup::default());
    let cases: [Case; 10] = [
        (
            "a pending pod buys exactly one node and fetches nothing itself",
            one_pod_one_node,
        ),
        (
            "two pods of one node share one download",
            two_pods_one_download,
        ),
        (
            "an agent that is killed in mid-fetch loses little, and the next one goes on",
            agent_killed,
        ),
        (
            "a node goes on fetching while the API server is away",
            api_server_away,
        ),
        (
            "a node that is lost in mid-fetch is bought anew, also under the same name",
            node_lost,
        ),
        (
            "a pod on a warm node starts while the Hub is away",
            hub_away,
        ),
        (
            "a store that is full leaves the pod its own download",
            store_full,
        ),
        ("an upgrade in mid-fetch interrupts nothing", upgraded),
        (
            "a RayCluster that grows by two workers finds image and weights there",
            ray_workers,
        ),
        (
            "without a daemon pods are created as fast, and given what they name",
            no_daemon,
        ),
    ];
    for (name, case) in cases {
        let began = Instant::now();
        case(&world);
        world.tidy();
        eprintln!("{:5.1} s  {name}", began.elapsed().as_secs_f64());
    }
}

/// Nobody downloaded twice, and no pod at all. What is in flight when an idle connection takes over
/// the rest of a slow one's range is sent twice, which is much of a model as small as this one.
fn once(world: &World, before: Sent) {
    let now = world.sent();
    assert_eq!(now.to_pods - before.to_pods, 0, "bytes that pods fetched");
    let agents = now.to_agents - before.to_agents;
    assert!(agents < WEIGHTS * 3 / 2, "{agents} of {WEIGHTS}");
}

fn one_pod_one_node(world: &World) {
    let (before, made) = (world.sent(), world.cloud().made());
    let deploy = Deploy::new("serve");
    world.create(&deploy);
    let pod = world.until_ready(&deploy);
    assert_eq!(world.cloud().made() - made, 1);
    assert_eq!(world.list(CLAIMS).len(), 1);
    once(world, before);
    let said = world.events(&deploy);
    let pulled = said.iter().find(|(reason, _)| reason == "Pulled");
    let pulled = &pulled.expect("the kubelet says where the image was").1;
    assert!(pulled.contains("already present"), "{pulled}");
    world.began_before_it_was_scheduled(&pod);
    world.began_with_its_network(&pod);
    let explained = world.headstart(&["explain", "pod/serve"]);
    eprintln!("{explained}");
    eprintln!("{}", world.headstart(&["top"]));
}

fn two_pods_one_download(world: &World) {
    let (before, made) = (world.sent(), world.cloud().made());
    let deploys = ["one", "two"].map(Deploy::new);
    for deploy in &deploys {
        world.create(deploy);
    }
    let pods = deploys.each_ref().map(|deploy| world.until_ready(deploy));
    assert_eq!(pods[0]["spec"]["nodeName"], pods[1]["spec"]["nodeName"]);
    assert_eq!(world.cloud().made() - made, 1);
    once(world, before);
}

fn agent_killed(world: &World) {
    world.files.set(slow(4_000_000));
    let before = world.sent();
    let deploy = Deploy::new("killed");
    world.create(&deploy);
    world.until_sent(before, WEIGHTS / 3);
    let node = world.node();
    node.process("agent").unwrap().kill();
    world.until_ready(&deploy);
    once(world, before);
}

fn api_server_away(world: &World) {
    world.files.set(slow(4_000_000));
    let before = world.sent();
    let deploy = Deploy::new("away");
    world.create(&deploy);
    world.until_sent(before, WEIGHTS / 10);
    let server = world.process("kube-apiserver");
    let server = Pid::from_raw(server.pid.cast_signed()).unwrap();
    kill_process(server, Signal::STOP).unwrap();
    std::thread::sleep(AWAY);
    let fetched = world.sent().to_agents - before.to_agents;
    kill_process(server, Signal::CONT).unwrap();
    assert!(fetched > WEIGHTS * 9 / 10, "{fetched} of {WEIGHTS}");
    world.until_ready(&deploy);
    once(world, before);
}

fn node_lost(world: &World) {
    world.files.set(slow(4_000_000));
    let (before, made) = (world.sent(), world.cloud().made());
    let deploy = Deploy::new("lost");
    world.create(&deploy);
    world.until_sent(before, WEIGHTS / 3);
    let name = world.node().name().to_owned();
    let claim = world.cloud().machines().pop().unwrap().claim;
    world.cloud().interrupt(&claim, Duration::ZERO);
    let pod = world.until_ready(&deploy);
    assert_eq!(world.cloud().made() - made, 2);
    // The cluster numbers its nodes, and this number was free again.
    assert_eq!(pod["spec"]["nodeName"], *name);
    assert_eq!(world.sent().to_pods - before.to_pods, 0);
}

fn hub_away(world: &World) {
    let (first, second) = (Deploy::new("first"), Deploy::new("second"));
    world.create(&first);
    world.until_ready(&first);
    let before = world.sent();
    for link in [&world.answers, &world.files] {
        link.set(slow(0));
    }
    world.delete(&first);
    world.create(&second);
    world.until_ready(&second);
    let now = world.sent();
    assert_eq!(
        (now.to_pods, now.to_agents),
        (before.to_pods, before.to_agents)
    );
}

fn store_full(world: &World) {
    world.cloud().boot(boot(&["--quota=1MB"]));
    world.install(&["agent.store.maxSize=1M"]);
    let before = world.sent();
    let deploy = Deploy::new("full");
    world.create(&deploy);
    world.until_ready(&deploy);
    let fetched = world.sent().to_pods - before.to_pods;
    assert!(fetched >= WEIGHTS * 9 / 10, "{fetched} of {WEIGHTS}");
    world.cloud().boot(boot(&[]));
    world.install(&[]);
}

fn upgraded(world: &World) {
    world.files.set(slow(2_000_000));
    let before = world.sent();
    let deploy = Deploy::new("upgraded");
    world.create(&deploy);
    world.until_sent(before, WEIGHTS / 3);
    world.install(&[
        "agent.podAnnotations.release=next",
        "daemon.podAnnotations.release=next",
    ]);
    world.until_ready(&deploy);
    once(world, before);
    world.install(&[]);
}

/// Their image stands in for Ray's, so nothing loads the weights; that they are mounted is what the
/// pods' start shows.
fn ray_workers(world: &World) {
    let (before, made) = (world.sent(), world.cloud().made());
    world.ray_cluster();
    world.scale_ray(2);
    let workers = world.ray_workers(2);
    for worker in &workers {
        let said = world.events_of(&worker["metadata"]["name"]);
        let pulled = said.iter().filter(|(reason, _)| reason == "Pulled");
        for (_, words) in pulled {
            assert!(words.contains("already present"), "{words}");
        }
        let volumes = worker["spec"]["volumes"].to_string();
        assert!(volumes.contains("csi.headstart.dev"), "{volumes}");
        world.began_before_it_was_scheduled(worker);
    }
    // Both fit on one node with two GPUs, which costs less than two with one.
    assert_eq!(world.cloud().made() - made, 1);
    once(world, before);
    world.remove_ray();
}

fn no_daemon(world: &World) {
    world.daemons(0);
    let before = world.sent();
    let deploy = Deploy::new("alone").annotated();
    let began = Instant::now();
    let pod = world.create(&deploy);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    let volumes = pod["spec"]["volumes"].to_string();
    assert!(volumes.contains("csi.headstart.dev"), "{volumes}");
    world.daemons(2);
    world.until_ready(&deploy);
    once(world, before);
}

/// A link that carries so many bytes a second.
fn slow(rate: u64) -> Shape {
    Shape {
        total: Some(Rate(rate)),
        ..Shape::default()
    }
}
