//! Second tries: what the first order of placing leaves unserved.

use headstart_core::amount::{CPU, Resources};
use headstart_core::label;
use headstart_core::offer::CapacityType;
use headstart_core::pod::{HostPort, Shape, Unsatisfiable};
use headstart_core::pool::NODES;

use super::planned;
use crate::world::{Answers, World, gpu_kind, gpus, kind, near, pod, replicas, requests, spread};

fn of(name: &'static str, millicores: i64, gib: i64) -> impl Fn(&mut Shape) {
    move |shape| {
        shape.labels.insert("app".to_owned(), name.to_owned());
        shape.requests = requests(millicores, gib);
    }
}

fn port(shape: &mut Shape) {
    shape.host_ports.insert(HostPort {
        address: "0.0.0.0".to_owned(),
        protocol: "TCP".to_owned(),
        port: 80,
    });
}

#[test]
fn a_pod_that_must_be_beside_a_large_one_gets_its_room_before_more_large_ones_come() {
    let world = World::selling([(kind("m.large", 8, 32), 0.4)])
        .with(replicas("big", 4, of("big", 3800, 2)))
        .with([pod("beside", |s| {
            of("small", 900, 1)(s);
            s.affinity.push(near(label::HOSTNAME, "big"));
        })]);
    assert!(planned(&world).unserved.is_empty());
}

#[test]
fn pods_that_must_share_a_host_start_where_all_of_them_find_room() {
    let world = World::usual();
    let (full, empty) = (
        world.node("a", "m.large", "a"),
        world.node("b", "m.large", "a"),
    );
    let world = world
        .with_node(full)
        .with_node(empty)
        .with([crate::world::on("a", pod("there", of("there", 1500, 1)))])
        .with(replicas("p", 2, |s| {
            of("x", 3500, 1)(s);
            s.affinity.push(near(label::HOSTNAME, "x"));
        }));
    let plan = planned(&world);
    assert!(plan.together(&["p-0", "p-1"]));
    assert!(plan.nodes.is_empty());
}

#[test]
fn a_pod_that_keeps_many_away_comes_last() {
    let world = World::selling([(kind("m.mid", 4, 16), 0.2)])
        .with([pod("selfish", |s| {
            of("selfish", 3500, 1)(s);
            s.anti_affinity.push(near(label::ZONE, "many"));
        })])
        .with(replicas("p", 4, of("many", 900, 1)))
        .but(|s| s.offerings.retain(|offering| offering.zone == "a"));
    let plan = planned(&world);
    assert_eq!(plan.unserved.len(), 1);
    assert!(plan.target("selfish").is_none());
}

#[test]
fn what_is_left_of_a_limit_goes_to_the_node_that_serves_most_pods_with_it() {
    // A good core of each node goes to a daemon.
    let world = World::selling([
        (kind("m.small", 2, 8), 0.03),
        (kind("m.mid", 4, 16), 0.1),
        (kind("m.large", 8, 32), 0.9),
    ])
    .with(replicas("p", 8, of("x", 500, 1)))
    .with(replicas("q", 8, of("y", 250, 1)))
    .pool(|pool| pool.limits = Resources::new().with(CPU, 8000))
    .but(|s| {
        let mut daemon = pod("", of("daemon", 1100, 0)).shape;
        daemon.eviction = headstart_core::pod::Eviction::Daemon;
        s.daemons.push(daemon.into());
    });
    let plan = planned(&world);
    assert!(plan.unserved.is_empty(), "{plan:#?}");
    assert_eq!(plan.types(), ["m.large"]);
}

#[test]
fn preferences_do_not_use_up_a_limit_that_others_need() {
    let world = World::selling([(kind("m.small", 2, 8), 0.03), (kind("m.large", 8, 32), 0.2)])
        .with(replicas("p", 5, |s| {
            of("x", 1500, 1)(s);
            let mut apart = spread(label::HOSTNAME, 1, "x");
            apart.when = Unsatisfiable::ScheduleAnyway;
            s.spread.push(apart);
        }))
        .pool(|pool| pool.limits = Resources::new().with(CPU, 8000));
    assert!(planned(&world).unserved.is_empty());
}

#[test]
fn second_tries_keep_launch_budgets() {
    let mut world = World::selling([(gpu_kind("g.four", 16, 64, "A10G", 4), 3.21)])
        .with(replicas("p", 4, |s| {
            of("x", 0, 20)(s);
            let mut apart = spread(label::HOSTNAME, 1, "x");
            apart.when = Unsatisfiable::ScheduleAnyway;
            s.spread.push(apart);
        }))
        .with([pod("q", |s| {
            of("x", 0, 0)(s);
            s.requests = gpus(1);
        })])
        .pool(|pool| pool.limits = Resources::new().with(NODES, 3));
    let second = &mut world.snapshot.offerings[1];
    (second.price, second.launch_budget) = (headstart_core::money::HourlyPrice(1_500_000), Some(1));
    planned(&world);
}

#[test]
fn whoever_may_come_beside_its_like_only_is_joined_by_somebody_less_urgent() {
    let mut world = World::selling([
        (kind("c.mid", 4, 8), 0.0561),
        (gpu_kind("g.four", 16, 64, "A10G", 4), 0.99),
    ])
    .with([pod("p", |s| {
        of("z", 0, 0)(s);
        s.node_selector
            .insert(label::ZONE.to_owned(), "b".to_owned());
    })])
    .with(replicas("q", 2, |s| {
        of("z", 0, 0)(s);
        s.requests = gpus(1);
        s.priority = 1;
        s.affinity.push(near(label::HOSTNAME, "z"));
        port(s);
    }));
    world.offer("g.four", "b", CapacityType::Spot, 1.08);
    let plan = planned(&world);
    assert!(plan.unserved.is_empty(), "{plan:#?}");
}
