//! Amounts that no machine has: they saturate, in a debug build too, and never serve anybody.

use headstart_core::amount::{CPU, MEMORY, PODS, Resources};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::pod::{Eviction, Owner};
use headstart_core::pool::NODES;

use super::planned;
use crate::world::{Answers, World, pod, replicas, requests};

#[test]
fn a_pod_that_asks_for_more_than_can_be_counted_does_not_disturb_another() {
    let world = World::usual().with([
        pod("small", |s| s.requests = requests(1000, 1)),
        pod("huge", |s| {
            s.requests = Resources::new().with(CPU, 100).with(MEMORY, i64::MAX);
        }),
    ]);
    let plan = planned(&world);
    plan.bought_for("small");
    plan.refusal("huge");
}

#[test]
fn two_daemons_that_each_fill_a_node_leave_no_room() {
    let daemon = |name: &str| {
        let owner = Owner {
            kind: "DaemonSet".to_owned(),
            name: name.to_owned(),
        };
        let daemon = pod("d", |s| {
            s.eviction = Eviction::Daemon;
            s.owner = Some(owner);
            s.requests = Resources::new().with(MEMORY, i64::MAX);
        });
        daemon.shape.into()
    };
    let world = World::usual()
        .with([pod("p", |_| {})])
        .but(|s| s.daemons = vec![daemon("a"), daemon("b")]);
    planned(&world).refusal("p");
}

#[test]
fn a_pod_is_one_pod_whatever_it_asks_for() {
    let world = World::usual().with([pod("p", |s| s.requests.set(PODS, i64::MAX))]);
    planned(&world).bought_for("p");
}

#[test]
fn special_resources_without_measure_are_refused() {
    let world = World::usual().with([pod("p", |s| {
        s.requests.set("a/b", i64::MAX);
        s.requests.set("a/c", i64::MAX);
    })]);
    planned(&world).refusal("p");
}

#[test]
fn a_life_a_price_and_a_risk_without_measure_still_buy() {
    let mut world = World::usual()
        .pool(|pool| {
            pool.expected_life = Millis(u64::MAX);
            pool.value_of_time = HourlyPrice(u64::MAX);
        })
        .with([pod("p", |_| {})]);
    for offering in &mut world.snapshot.offerings {
        offering.interruptions_per_million_h = u32::MAX;
        offering.price = HourlyPrice(100_000_000_000);
    }
    planned(&world).bought_for("p");
}

#[test]
fn a_limit_and_machines_without_measure_still_buy() {
    let mut world = World::usual()
        .pool(|pool| {
            pool.limits = Resources::new()
                .with(MEMORY, i64::MAX)
                .with(CPU, i64::MAX)
                .with(NODES, i64::MAX);
        })
        .with(replicas("p", 3, |_| {}));
    for kind in &mut world.snapshot.types {
        kind.capacity.set(MEMORY, i64::MAX);
    }
    planned(&world).bought_for("p-0");
}
