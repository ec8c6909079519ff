//! What may not be exceeded: limits of pools, weights, capacity that is not there, groups.

use headstart_core::amount::{CPU, NVIDIA_GPU};
use headstart_core::label::{self, Operator};
use headstart_core::money::Millis;
use headstart_core::node::NodeState;
use headstart_core::offer::{Availability, Boot, CapacityType};
use headstart_core::plan::Target;
use headstart_core::pod::{GROUP_ROLE, Group, ObjectKey};
use headstart_core::pool::{NODES, NodePool, PoolState};
use headstart_core::reason::{NotServed, Rejection};

use super::planned;
use crate::world::{
    Answers, World, app, gpu_kind, gpus, group, kind, labels, near, on, pod, replicas, requests,
    taint, term, tolerates,
};

fn refused_for(world: &World, name: &str) -> Vec<Rejection> {
    let plan = planned(world);
    match plan.refusal(name) {
        NotServed::NoCandidate { offerings, .. } => offerings
            .iter()
            .flat_map(|(_, tallies)| tallies.iter().map(|t| t.rejection.clone()))
            .collect(),
        other => panic!("{other:?}"),
    }
}

/// 65
#[test]
fn limits_on_cpu_gpus_and_nodes_hold_over_one_round_and_over_what_is_there() {
    let cpu = World::usual()
        .pool(|pool| pool.limits.set(CPU, 4000))
        .with(replicas("p", 6, |_| {}));
    let plan = planned(&cpu);
    assert_eq!((plan.types(), plan.unserved.len()), (vec!["m.small"; 2], 2));
    let gpu = World::selling([(gpu_kind("g.one", 4, 16, "L4", 1), 1.0)])
        .pool(|pool| pool.limits.set(NVIDIA_GPU, 2))
        .with(replicas("p", 3, |s| s.requests = gpus(1)));
    assert_eq!(planned(&gpu).nodes.len(), 2);
    let world = World::usual().pool(|pool| pool.limits.set(NODES, 1));
    let node = world.node("n", "m.small", "a");
    let full = world.with_node(node).with([
        on("n", pod("old", |s| s.requests = requests(2000, 1))),
        pod("p", |_| {}),
    ]);
    assert!(refused_for(&full, "p").contains(&Rejection::PoolLimit {
        resource: NODES.to_owned(),
        used: 1,
        adding: 1,
        limit: 1
    }));
}

/// 66
#[test]
fn the_heavier_pool_buys_unless_the_pod_names_another_and_one_that_is_not_ready_does_not() {
    let two = || {
        World::usual().but(|snapshot| {
            snapshot.pools.push(NodePool {
                weight: 10,
                ..NodePool::new("heavy")
            });
        })
    };
    assert_eq!(
        planned(&two().with([pod("p", |_| {})])).nodes[0].pool,
        "heavy"
    );
    let named = two().with([pod("p", |s| {
        s.node_selector
            .insert(label::NODE_POOL.to_owned(), "default".to_owned());
    })]);
    assert_eq!(planned(&named).nodes[0].pool, "default");
    let not_ready = two()
        .but(|s| s.pools[1].state = PoolState::NotReady("being deleted".to_owned()))
        .with([pod("p", |_| {})]);
    assert_eq!(planned(&not_ready).nodes[0].pool, "default");
}

/// 67
#[test]
fn daemons_take_room_where_they_would_run() {
    let with_daemon = |change: fn(&mut headstart_core::pod::Shape)| {
        let world = World::usual()
            .pool(|pool| pool.taints.push(taint("t")))
            .but(|snapshot| {
                snapshot.daemons.push(
                    pod("d", |s| {
                        s.requests = requests(1000, 1);
                        s.tolerations.push(tolerates("t"));
                        change(s);
                    })
                    .shape
                    .into(),
                );
            });
        planned(&world.with([pod("p", |s| {
            s.requests = requests(1500, 1);
            s.tolerations.push(tolerates("t"));
        })]))
        .types()[0]
            .to_owned()
    };
    assert_eq!(with_daemon(|_| {}), "m.large");
    assert_eq!(with_daemon(|s| s.tolerations.clear()), "m.small");
    assert_eq!(
        with_daemon(|s| s.node_affinity = vec![term("absent", Operator::NotIn, &["x"])]),
        "m.large"
    );
    assert_eq!(
        with_daemon(|s| {
            s.node_affinity = vec![
                term(label::INSTANCE_TYPE, Operator::In, &["m.large"]),
                term(label::INSTANCE_TYPE, Operator::In, &["none"]),
            ];
        }),
        "m.small"
    );
}

/// 68
#[test]
fn a_pool_that_can_buy_nothing_keeps_no_other_from_buying() {
    let world = World::usual()
        .but(|snapshot| {
            let mut failing = NodePool {
                weight: 100,
                ..NodePool::new("failing")
            };
            failing.wants.families.insert("none".to_owned());
            snapshot.pools.push(failing);
        })
        .with([pod("p", |_| {})]);
    assert_eq!(planned(&world).nodes[0].pool, "default");
}

/// 72
#[test]
fn capacity_that_is_not_there_is_passed_over_for_zone_then_type_then_capacity_type() {
    let mut world = World::selling([
        (kind("m.small", 2, 8), 0.10),
        (kind("m.large", 8, 32), 0.40),
    ]);
    world.offer("m.small", "a", CapacityType::Spot, 0.03);
    let mut bought = Vec::new();
    let until = Millis::from_secs(1_000_180);
    for _ in 0..6 {
        let again = World {
            snapshot: world.snapshot.clone(),
            policy: world.policy.clone(),
        };
        let plan = planned(&again.with([pod("p", |_| {})]));
        let Some(node) = plan.nodes.first() else {
            break;
        };
        bought.push(node.offering.to_string());
        let names: Vec<String> = world
            .snapshot
            .types
            .iter()
            .map(|t| t.name.clone())
            .collect();
        let gone = world.snapshot.offerings.iter_mut().find(|o| {
            let key = &node.offering;
            names[o.instance_type] == key.instance_type
                && o.zone == key.zone
                && o.capacity_type == key.capacity_type
        });
        gone.unwrap().availability = Availability::Until {
            until,
            why: "InsufficientInstanceCapacity".to_owned(),
        };
    }
    assert_eq!(
        bought,
        [
            "m.small spot in a",
            "m.small on-demand in a",
            "m.small on-demand in b",
            "m.large on-demand in a",
            "m.large on-demand in b"
        ]
    );
    let why = refused_for(&world.with([pod("p", |_| {})]), "p");
    assert!(why.iter().any(
        |why| matches!(why, Rejection::Unavailable { until: moment, .. } if *moment == until)
    ));
}

/// 73
#[test]
fn an_offering_is_tried_again_once_its_time_has_come() {
    let world = World::usual().with([pod("p", |_| {})]).but(|snapshot| {
        let now = snapshot.now;
        for offering in &mut snapshot.offerings {
            offering.availability = Availability::Until {
                until: now,
                why: "x".to_owned(),
            };
        }
    });
    assert_eq!(planned(&world).nodes.len(), 1);
}

/// 76
#[test]
fn a_type_that_is_sold_nowhere_is_named_among_the_refusals() {
    let world = World::selling([(kind("m.small", 2, 8), 0.10)])
        .but(|snapshot| {
            for offering in &mut snapshot.offerings {
                offering.availability = Availability::Never;
            }
        })
        .with([pod("p", |_| {})]);
    assert_eq!(refused_for(&world, "p"), [Rejection::NotSold]);
}

/// 77
#[test]
fn reserved_capacity_is_used_first_and_no_more_of_it_than_there_is_over_all_pools() {
    let mut world = World::selling([(kind("m.small", 2, 8), 0.10)]);
    world
        .offer("m.small", "a", CapacityType::Reserved, 0.0)
        .launch_budget = Some(2);
    let world = world
        .but(|snapshot| snapshot.pools.push(NodePool::new("other")))
        .with(replicas("p", 4, |s| s.requests = requests(2000, 1)));
    let plan = planned(&world);
    let reserved = plan
        .nodes
        .iter()
        .filter(|node| node.offering.capacity_type == CapacityType::Reserved);
    assert_eq!((reserved.count(), plan.nodes.len()), (2, 4));
}

/// 78
#[test]
fn an_offering_is_asked_for_no_more_often_than_its_budget_and_others_are_not_delayed() {
    let world = World::selling([(kind("m.small", 2, 8), 0.10)])
        .with(replicas("p", 4, |s| s.requests = requests(2000, 1)))
        .but(|snapshot| snapshot.offerings[0].launch_budget = Some(1));
    let plan = planned(&world);
    let in_a = plan
        .nodes
        .iter()
        .filter(|node| node.offering.zone == "a")
        .count();
    assert_eq!((in_a, plan.nodes.len()), (1, 4));
}

/// 105, 106
#[test]
fn a_group_is_served_whole_or_not_at_all_and_what_is_beyond_its_minimum_as_far_as_possible() {
    let gang = |count, minimum, limit| {
        let world = World::usual()
            .pool(|pool| pool.limits.set(NODES, limit))
            .but(|snapshot| snapshot.groups.push(group("g", minimum)))
            .with(replicas("p", count, |s| {
                s.requests = requests(8000, 1);
                s.group = Some(ObjectKey::new("default", "g"));
            }));
        planned(&world)
    };
    assert_eq!(gang(4, 4, 4).nodes.len(), 4);
    let plan = gang(4, 4, 3);
    assert!(plan.nodes.is_empty());
    let NotServed::Group {
        placed: 3,
        minimum: 4,
        because: Some(_),
        ..
    } = plan.refusal("p-0")
    else {
        panic!("{:?}", plan.refusal("p-0"))
    };
    let plan = gang(4, 2, 3);
    assert_eq!((plan.nodes.len(), plan.unserved.len()), (3, 1));
    assert!(gang(2, 3, 9).nodes.is_empty());
}

#[test]
fn a_ray_cluster_needs_its_head_and_enough_workers_and_shares_a_zone_where_it_must() {
    let cluster = |workers, zone_a_only| {
        let role = |name: &'static str| {
            move |s: &mut headstart_core::pod::Shape| {
                s.labels.insert(GROUP_ROLE.to_owned(), name.to_owned());
                s.group = Some(ObjectKey::new("default", "ray"));
                s.requests = requests(1500, 1);
            }
        };
        let world = World::usual()
            .but(|snapshot| {
                snapshot.groups.push(Group {
                    key: ObjectKey::new("default", "ray"),
                    minimum: [("head".to_owned(), 1), ("worker".to_owned(), 2)].into(),
                    sets: Default::default(),
                    sharing: Default::default(),
                    same: Some(label::ZONE.to_owned()),
                });
                if zone_a_only {
                    snapshot
                        .offerings
                        .retain(|o| o.zone == "a" || o.price.usd() > 0.3);
                }
            })
            .with([pod("head", role("head"))])
            .with(replicas("worker", workers, role("worker")));
        planned(&world)
    };
    let plan = cluster(2, false);
    assert_eq!(plan.placements.len(), 3);
    assert!(
        plan.nodes
            .iter()
            .all(|node| node.offering.zone == plan.nodes[0].offering.zone)
    );
    assert_eq!(cluster(2, true).nodes[0].offering.zone, "a");
    let plan = cluster(1, false);
    assert!(plan.placements.is_empty());
    assert!(
        matches!(plan.refusal("head"), NotServed::Group { role, placed: 1, minimum: 2, .. } if role == "worker")
    );
}

#[test]
fn members_of_a_group_that_run_already_count() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let member =
        |s: &mut headstart_core::pod::Shape| s.group = Some(ObjectKey::new("default", "g"));
    let world = world
        .with_node(node)
        .but(|snapshot| snapshot.groups.push(group("g", 2)))
        .with([on("n", pod("there", member)), pod("waits", member)]);
    assert_eq!(planned(&world).placements.len(), 1);
}

#[test]
fn relations_within_a_group_hold() {
    let world = World::usual()
        .but(|snapshot| snapshot.groups.push(group("g", 3)))
        .with(replicas("p", 3, |s| {
            s.labels.insert("app".to_owned(), "g".to_owned());
            s.group = Some(ObjectKey::new("default", "g"));
            s.anti_affinity.push(near(label::HOSTNAME, "g"));
        }));
    assert_eq!(planned(&world).nodes.len(), 3);
}

#[test]
fn a_pool_buys_and_starts_nodes_only_for_pods_that_its_selector_matches() {
    let world = World::usual().pool(|pool| pool.serves = app("llm"));
    let mut stands_by = world.node("standby", "m.small", "a");
    stands_by.state = NodeState::Standby {
        boot: Boot::default(),
    };
    let world = world.with_node(stands_by).with([
        pod("llm", |s| {
            s.labels = labels([("app", "llm")]);
            s.requests = requests(8000, 1);
        }),
        pod("other", |s| s.labels = labels([("app", "other")])),
    ]);
    let plan = planned(&world);
    plan.bought_for("llm");
    let NotServed::NoCandidate { nodes, offerings } = plan.refusal("other") else {
        panic!("{plan:#?}")
    };
    for tally in nodes.iter().chain(&offerings[0].1) {
        assert!(matches!(tally.rejection, Rejection::PodSelector { .. }));
    }
}

#[test]
fn on_a_node_that_runs_the_scheduler_places_whom_its_pool_does_not_serve() {
    let world = World::usual().pool(|pool| pool.serves = app("llm"));
    let node = world.node("n", "m.small", "a");
    let plan = planned(&world.with_node(node).with([pod("other", |_| {})]));
    assert_eq!(plan.target("other"), Some(&Target::Node("n".to_owned())));
}
