//! How pods share nodes, and nodes that are there already.

use headstart_core::amount::{Container, PODS, Resources, Role, pod_requests};
use headstart_core::label;
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::{Node, NodeState};
use headstart_core::plan::Target;
use headstart_core::pod::{Eviction, HostPort, Owner, Pod, Shape};
use headstart_core::pool::GpuPacking;

use super::planned;
use crate::world::{
    Answers, World, gpu_kind, gpus, kind, labels, near, on, pod, replicas, requests, taint,
};

fn port(number: u16) -> HostPort {
    HostPort {
        address: "0.0.0.0".to_owned(),
        protocol: "TCP".to_owned(),
        port: number,
    }
}

fn daemon(change: impl FnOnce(&mut Shape)) -> Shape {
    pod("daemon", |s| {
        s.owner = Some(Owner {
            kind: "DaemonSet".to_owned(),
            name: "agent".to_owned(),
        });
        s.eviction = Eviction::Daemon;
        change(s);
    })
    .shape
    .into()
}

fn node_in(state: NodeState, name: &str) -> Node {
    Node {
        state,
        ..World::usual().node(name, "m.small", "a")
    }
}

/// 22
#[test]
fn small_pods_share_the_smallest_node_that_takes_them_and_large_ones_fill_up() {
    let world = World::usual().with(replicas("p", 2, |s| s.requests = requests(500, 1)));
    assert_eq!(planned(&world).types(), ["m.small"]);
    let mixed = World::usual().with(
        [pod("large", |s| s.requests = requests(6000, 8))]
            .into_iter()
            .chain(replicas("small", 4, |s| s.requests = requests(500, 1))),
    );
    let plan = planned(&mixed);
    assert_eq!(plan.types(), ["m.large"]);
}

/// 23
#[test]
fn a_node_opens_when_any_resource_or_the_number_of_pods_is_used_up() {
    let mut few = kind("m.few", 8, 32);
    few.capacity.set(PODS, 3);
    let world =
        World::selling([(few, 0.40)]).with(replicas("p", 4, |s| s.requests = requests(100, 1)));
    assert_eq!(planned(&world).nodes.len(), 2);
    let memory = World::usual().with(replicas("p", 2, |s| s.requests = requests(100, 20)));
    assert_eq!(planned(&memory).types(), ["m.large"; 2]);
}

/// 24, 25, 26
#[test]
fn init_containers_sidecars_pod_level_resources_and_overhead_count_as_the_kubelet_counts() {
    let of = |millicores, role| Container {
        requests: requests(millicores, 1),
        role,
    };
    let none = Resources::new();
    let containers = [
        of(500, Role::Sidecar),
        of(3000, Role::Init),
        of(1000, Role::Main),
    ];
    let overhead = requests(250, 0);
    let asks = |requests: Resources| {
        planned(&World::usual().with([pod("p", |s| s.requests = requests)])).types()[0].to_owned()
    };
    assert_eq!(asks(pod_requests(&containers, &none, &none)), "m.large");
    assert_eq!(
        asks(pod_requests(&containers[2..], &none, &none)),
        "m.small"
    );
    assert_eq!(
        asks(pod_requests(&containers, &requests(2000, 1), &none)),
        "m.small"
    );
    assert_eq!(
        asks(pod_requests(&containers, &requests(2000, 1), &overhead)),
        "m.large"
    );
}

/// 27
#[test]
fn a_request_of_zero_breaks_nothing() {
    let world = World::usual().with(replicas("p", 3, |s| {
        s.requests = Resources::new();
        s.requests.set("example.com/none", 0);
    }));
    assert_eq!(planned(&world).types(), ["m.small"]);
}

/// 28
#[test]
fn a_pod_larger_than_every_type_is_refused_and_blocks_no_other() {
    let world = World::usual().with([
        pod("huge", |s| s.requests = requests(100_000, 1)),
        pod("p", |_| {}),
    ]);
    let plan = planned(&world);
    plan.refusal("huge");
    assert_eq!(plan.types(), ["m.small"]);
}

/// 29
#[test]
fn host_ports_part_pods_and_those_of_daemons_count_where_the_daemon_would_run() {
    let with_port = |name: &str, number| {
        pod(name, move |s| {
            s.requests = requests(100, 1);
            s.host_ports.insert(port(number));
        })
    };
    let world = World::usual().with([with_port("a", 80), with_port("b", 80), with_port("c", 81)]);
    let plan = planned(&world);
    assert_eq!(plan.nodes.len(), 2);
    assert!(!plan.together(&["a", "b"]));
    let taken = World::usual().with([with_port("a", 80)]).but(|snapshot| {
        snapshot.daemons.push(daemon(|s| {
            s.host_ports.insert(port(80));
            s.node_selector
                .insert(label::INSTANCE_TYPE.to_owned(), "m.small".to_owned());
        }));
    });
    assert_eq!(planned(&taken).types(), ["m.large"]);
}

/// 31, 32
#[test]
fn no_second_node_is_bought_while_one_on_its_way_takes_the_pod() {
    let expected = Millis::from_secs(1_000_060);
    let on_its_way =
        || World::usual().with_node(node_in(NodeState::InFlight { expected }, "claim"));
    let plan = planned(&on_its_way().with([pod("p", |_| {})]));
    assert_eq!(plan.target("p"), Some(&Target::Node("claim".to_owned())));
    let selected = on_its_way().with([pod("p", |s| {
        s.node_selector
            .insert(label::ZONE.to_owned(), "a".to_owned());
    })]);
    assert!(planned(&selected).nodes.is_empty());
    let too_large = on_its_way().with([pod("p", |s| s.requests = requests(4000, 1))]);
    assert_eq!(planned(&too_large).nodes.len(), 1);
    let elsewhere = on_its_way().with([pod("p", |s| {
        s.node_selector
            .insert(label::ZONE.to_owned(), "b".to_owned());
    })]);
    assert_eq!(planned(&elsewhere).nodes.len(), 1);
    let leaving = World::usual()
        .with_node(node_in(NodeState::Leaving, "old"))
        .with([pod("p", |_| {})]);
    assert_eq!(planned(&leaving).nodes.len(), 1);
}

/// 31
#[test]
fn many_pods_wait_for_a_node_on_its_way_rather_than_for_a_later_one() {
    let world = World::usual().pool(|pool| pool.value_of_time = HourlyPrice(5_000_000));
    let mut coming = world.node("coming", "m.large", "a");
    coming.state = NodeState::InFlight {
        expected: world.snapshot.now + Millis::from_secs(5),
    };
    let world = world.with_node(coming).with(replicas("p", 8, |_| {}));
    assert_eq!(planned(&world).nodes, []);
}

/// 33
#[test]
fn a_node_of_other_origin_is_used_before_one_is_bought() {
    let mut foreign = World::usual().node("byhand", "m.small", "a");
    (foreign.pool, foreign.offering, foreign.price) = (None, None, None);
    let world = World::usual().with_node(foreign).with([pod("p", |_| {})]);
    assert_eq!(
        planned(&world).target("p"),
        Some(&Target::Node("byhand".to_owned()))
    );
}

/// 34
#[test]
fn a_node_that_runs_is_preferred_to_one_that_is_starting() {
    let expected = Millis::from_secs(1_000_060);
    let world = World::usual()
        .with_node(node_in(NodeState::Starting { expected }, "a-starting"))
        .with_node(node_in(NodeState::Running, "b-running"))
        .with([pod("p", |_| {})]);
    assert_eq!(
        planned(&world).target("p"),
        Some(&Target::Node("b-running".to_owned()))
    );
}

/// 35, 84
#[test]
fn a_gpu_node_whose_gpus_are_not_allocatable_yet_is_upcoming_and_no_second_one_is_bought() {
    let world = World::selling([(gpu_kind("g.one", 4, 16, "L4", 1), 1.0)]);
    let mut node = world.node("n", "g.one", "a");
    node.state = NodeState::Starting {
        expected: Millis::from_secs(1_000_060),
    };
    let plan = planned(
        &world
            .with_node(node)
            .with([pod("p", |s| s.requests = gpus(1))]),
    );
    assert_eq!(plan.target("p"), Some(&Target::Node("n".to_owned())));
}

/// 36
#[test]
fn daemons_that_are_there_are_not_counted_twice_and_those_to_come_once() {
    let agent = || daemon(|s| s.requests = requests(500, 1));
    let there = Pod {
        shape: agent().into(),
        ..on("n", pod("agent-x", |_| {}))
    };
    let fits = |pods: Vec<Pod>| {
        let world = World::usual();
        let node = world.node("n", "m.small", "a");
        let world = world
            .with_node(node)
            .with(pods)
            .but(|snapshot| snapshot.daemons.push(agent()));
        planned(&world.with([
            pod("p", |s| s.requests = requests(1500, 1)),
            pod("q", |s| s.requests = requests(1, 0)),
        ]))
    };
    for pods in [vec![], vec![there]] {
        let plan = fits(pods);
        assert_eq!(plan.target("p"), Some(&Target::Node("n".to_owned())));
        assert_eq!(plan.nodes.len(), 1);
    }
}

/// Luna's bin selection.
#[test]
fn pods_over_a_threshold_and_gpu_pods_get_nodes_of_their_own_where_the_pool_says_so() {
    let world = World::usual()
        .pool(|pool| pool.packing.dedicated_cpu = Some(1500))
        .with(replicas("large", 2, |s| s.requests = requests(1600, 1)))
        .with(replicas("small", 2, |s| s.requests = requests(100, 1)));
    let plan = planned(&world);
    assert_eq!(plan.nodes.len(), 3);
    assert!(plan.together(&["small-0", "small-1"]));
    let gpu = World::selling([(gpu_kind("g.four", 16, 64, "L4", 4), 2.0)])
        .pool(|pool| pool.packing.gpu = GpuPacking::Dedicated)
        .with(replicas("p", 2, |s| s.requests = gpus(1)));
    assert_eq!(planned(&gpu).nodes.len(), 2);
}

#[test]
fn a_pod_of_higher_priority_gets_the_room_there_is() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let mut world = world.with_node(node).with([
        pod("low", |s| s.requests = requests(2000, 1)),
        pod("high", |s| {
            s.requests = requests(1500, 1);
            s.priority = 10;
        }),
    ]);
    world.snapshot.offerings.clear();
    world.snapshot.nodes[0]
        .startup_taints
        .push(taint("never-counted-while-it-starts"));
    world.snapshot.nodes[0].state = NodeState::Starting {
        expected: Millis::from_secs(1_000_001),
    };
    let plan = planned(&world);
    assert!(plan.target("high").is_some());
    plan.refusal("low");
}

fn daemon_of(namespace: &str, name: &str) -> Pod {
    let owner = Owner {
        kind: "DaemonSet".to_owned(),
        name: name.to_owned(),
    };
    pod("d", |s| {
        s.namespace = namespace.to_owned();
        s.eviction = Eviction::Daemon;
        s.owner = Some(owner);
        s.requests = requests(500, 1);
    })
}

#[test]
fn a_pod_that_needs_no_gpu_leaves_nodes_with_gpus_to_those_that_do() {
    let world = World::selling([
        (kind("m.large", 16, 64), 0.4),
        (gpu_kind("g.1", 8, 32, "L4", 1), 1.0),
    ]);
    let (plain, gpu) = (
        world.node("plain", "m.large", "a"),
        world.node("gpu", "g.1", "a"),
    );
    let world = world
        .with_node(plain)
        .with_node(gpu)
        .with(replicas("p", 8, |_| {}));
    let plan = planned(&world);
    for placement in &plan.placements {
        assert_eq!(placement.target, Target::Node("plain".to_owned()));
    }
}

#[test]
fn a_daemons_own_pod_that_waits_is_not_planned_beside_the_room_kept_for_it() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let waiting = daemon_of("default", "agent");
    let world = world
        .with_node(node)
        .with([
            waiting.clone(),
            pod("p", |s| s.requests = requests(1500, 1)),
        ])
        .but(|s| s.daemons.push(waiting.shape.into()));
    let plan = planned(&world);
    assert_eq!(plan.target("p"), Some(&Target::Node("n".to_owned())));
    assert_eq!((plan.placements.len(), plan.unserved.len()), (1, 0));
}

#[test]
fn a_daemon_that_is_there_is_not_taken_for_one_of_another_namespace() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let (x, y) = (daemon_of("x", "agent"), daemon_of("y", "agent"));
    let shapes = vec![x.shape.clone().into(), y.shape.into()];
    let world = world
        .with_node(node)
        .with([on("n", x), pod("p", |s| s.requests = requests(1500, 1))])
        .but(|s| s.daemons = shapes);
    assert_eq!(planned(&world).target("p"), Some(&Target::New(0)));
}

#[test]
fn a_daemon_with_a_host_port_is_counted_when_a_new_resource_is_seen() {
    let mut agent = daemon_of("default", "agent");
    agent.shape.host_ports = [HostPort {
        address: "0.0.0.0".to_owned(),
        protocol: "TCP".to_owned(),
        port: 9100,
    }]
    .into();
    let world = World::usual().but(|s| s.daemons.push(agent.shape.into()));
    let first = pod("p", |s| s.requests = requests(1800, 1));
    let second = pod("q", |s| s.requests.set("example.com/new", 1));
    let mut kept = headstart_core::world::World::new(&world.snapshot, &world.policy);
    kept.set_pod(&first);
    kept.set_pod(&second);
    let plan = planned(&world.with([first, second]));
    assert_eq!(kept.plan(), plan);
    assert_eq!(plan.types(), ["m.large"]);
}

#[test]
fn merging_gpu_nodes_moves_none_to_a_zone_where_others_must_not_follow() {
    let mut world = World::selling([
        (kind("m.big", 32, 128), 1.50),
        (gpu_kind("g.1", 4, 16, "L4", 1), 1.0),
        (gpu_kind("g.4", 16, 64, "L4", 4), 2.5),
    ]);
    world
        .snapshot
        .offerings
        .retain(|o| !(o.instance_type == 1 && o.zone == "a"));
    let world = world
        .with((0..4).map(|i| {
            pod(&format!("q{i}"), |s| {
                s.requests = gpus(1);
                s.labels = labels([("app", ["q0", "q1", "q2", "q3"][i])]);
            })
        }))
        .with([pod("follower", |s| {
            s.requests = requests(30_000, 8);
            s.affinity = vec![near(label::ZONE, "q3")];
        })]);
    let plan = planned(&world);
    assert_eq!(plan.zone("follower"), plan.zone("q3"));
}
