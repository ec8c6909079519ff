//! The choice by score: money, the worth of waiting, what is cached, interruptions.

use headstart_core::cache::{Basis, Inventory, Item, ItemSize, ItemState, Pin};
use headstart_core::digest::Sha256;
use headstart_core::label;
use headstart_core::money::{HourlyPrice, Millis, Money};
use headstart_core::node::{Node, NodeState};
use headstart_core::offer::{Boot, CapacityType};
use headstart_core::plan::{Plan, Target};
use headstart_core::pod::{Eviction, Owner};
use headstart_core::pool::NodePool;
use headstart_core::reason::Candidate;

use super::planned;
use crate::world::{Answers, World, gpu_kind, gpus, kind, labels, near, pod, replicas};

const GB: u64 = 1_000_000_000;

fn image() -> Item {
    Item::Image {
        repository: "registry.example/vllm".to_owned(),
        pin: Pin::To(Sha256([7; 32])),
    }
}

fn sized(world: World) -> World {
    let size = ItemSize {
        transfer: 10 * GB,
        unpacked: 20 * GB,
        largest_layer: 3 * GB,
        basis: Basis::Known,
    };
    world.but(|snapshot| {
        snapshot.items.insert(image(), size);
    })
}

fn caching(world: World, node: &str, observed: Millis, state: ItemState) -> World {
    world.but(|snapshot| {
        let items = [(image(), state)].into();
        snapshot.inventories.insert(
            node.to_owned(),
            Inventory {
                observed,
                items,
                room: 100 * GB,
                fetching: vec![],
            },
        );
    })
}

/// Two equal nodes, `a-cold` and `b-warm`.
fn two_nodes() -> World {
    let world = sized(World::usual());
    let (cold, warm) = (
        world.node("a-cold", "m.small", "a"),
        world.node("b-warm", "m.small", "a"),
    );
    world
        .with_node(cold)
        .with_node(warm)
        .with([pod("p", |s| s.items.push(image()))])
}

fn on_node(name: &str) -> Option<Target> {
    Some(Target::Node(name.to_owned()))
}

/// 103, 104
#[test]
fn a_pod_that_stands_for_a_buffer_is_planned_like_any_other() {
    let world = World::usual().with([pod("buffer", |s| {
        s.owner = Some(Owner {
            kind: "CapacityBuffer".to_owned(),
            name: "spare".to_owned(),
        });
        s.eviction = Eviction::Allowed;
        s.priority = -10;
    })]);
    assert_eq!(planned(&world).nodes.len(), 1);
}

/// 109
#[test]
fn of_equal_nodes_the_one_whose_cache_holds_the_image_is_chosen() {
    let now = Millis::from_secs(999_990);
    let plan = planned(&caching(two_nodes(), "b-warm", now, ItemState::Verified));
    assert_eq!(plan.target("p").cloned(), on_node("b-warm"));
    let second = plan.placements[0].runner_up.as_ref().unwrap();
    assert_eq!(second.what, Candidate::Node("a-cold".to_owned()));
    assert!(second.timing.total() > plan.placements[0].timing.total());
}

/// 110
#[test]
fn the_break_even_between_money_and_time_is_exact() {
    // The fast type boots 60 s sooner and costs 0.10 USD an hour more.
    let choose = |value_of_time: f64| {
        let (mut slow, fast) = (kind("m.slow", 2, 8), kind("m.fast", 2, 8));
        slow.boot = Boot {
            agent: Millis::from_secs(30),
            ready: Millis::from_secs(90),
            allocatable: Millis::from_secs(90),
        };
        let world = World::selling([(slow, 0.10), (fast, 0.20)]).pool(|pool| {
            pool.value_of_time = HourlyPrice::from_usd(value_of_time).unwrap();
            pool.expected_life = Millis::from_secs(3600);
        });
        planned(&world.with([pod("p", |_| {})]))
    };
    // Over an hour: 0.1 x (3600 + 92) + v x 92 against 0.2 x (3600 + 32) + v x 32, each over 3600.
    let even = (0.2 * 3632.0 - 0.1 * 3692.0) / 60.0;
    assert_eq!(choose(0.0).types(), ["m.slow"]);
    assert_eq!(choose(even - 0.01).types(), ["m.slow"]);
    let plan = choose(even + 0.01);
    assert_eq!(plan.types(), ["m.fast"]);
    let node = &plan.nodes[0];
    let second = node.runner_up.as_ref().unwrap();
    assert!(second.score.total() > node.score.total());
    assert!(second.score.money < node.score.money);
}

/// 111
#[test]
fn a_stale_report_an_unverified_item_or_another_digest_never_counts() {
    let now = Millis::from_secs(999_990);
    let to = |world: World| planned(&world).target("p").cloned();
    assert_eq!(
        to(caching(
            two_nodes(),
            "b-warm",
            Millis::from_secs(999_000),
            ItemState::Verified
        )),
        on_node("a-cold")
    );
    assert_eq!(
        to(caching(two_nodes(), "b-warm", now, ItemState::Unknown)),
        on_node("a-cold")
    );
    let other = caching(two_nodes(), "b-warm", now, ItemState::Verified).but(|snapshot| {
        let Item::Image { pin, .. } = &mut snapshot.pods[0].shape.items[0] else {
            unreachable!()
        };
        *pin = Pin::To(Sha256([8; 32]));
        let size = snapshot.items[&image()];
        let wanted = snapshot.pods[0].shape.items[0].clone();
        snapshot.items.insert(wanted, size);
    });
    assert_eq!(to(other), on_node("a-cold"));
    let partly = caching(
        two_nodes(),
        "b-warm",
        now,
        ItemState::Partial { bytes: 9 * GB },
    );
    assert_eq!(to(partly), on_node("b-warm"));
}

/// 113
#[test]
fn a_pod_is_served_without_a_warm_node_as_soon_as_without_caches_at_all() {
    let full = caching(
        sized(World::usual()),
        "gone",
        Millis::from_secs(999_990),
        ItemState::Verified,
    )
    .with([pod("p", |s| s.items.push(image()))]);
    let plain = sized(World::usual()).with([pod("p", |s| s.items.push(image()))]);
    assert_eq!(planned(&full), planned(&plain));
}

/// 115
#[test]
fn two_pods_do_not_both_wait_for_one_warm_place() {
    let world = caching(
        two_nodes(),
        "b-warm",
        Millis::from_secs(999_990),
        ItemState::Verified,
    )
    .with(replicas("q", 1, |s| s.items.push(image())))
    .but(|snapshot| {
        snapshot
            .pods
            .iter_mut()
            .for_each(|pod| pod.shape.requests = crate::world::requests(2000, 1));
    });
    let plan = planned(&world);
    let mut targets: Vec<&Target> = plan.placements.iter().map(|p| &p.target).collect();
    targets.sort();
    assert_eq!(
        targets,
        [
            &Target::Node("a-cold".to_owned()),
            &Target::Node("b-warm".to_owned())
        ]
    );
}

#[test]
fn a_warm_node_costs_nothing_more_and_wins_against_a_purchase_at_any_value_of_time() {
    for value in [0.0, 1.0, 100.0] {
        let world = caching(
            two_nodes(),
            "b-warm",
            Millis::from_secs(999_990),
            ItemState::Verified,
        )
        .pool(|pool| pool.value_of_time = HourlyPrice::from_usd(value).unwrap());
        assert_eq!(
            planned(&world).target("p").cloned(),
            on_node("b-warm"),
            "{value}"
        );
    }
}

#[test]
fn a_cold_node_with_a_slow_disk_loses_to_a_new_one_when_time_is_worth_more() {
    let bought = |value: f64| -> Plan {
        let mut fast = kind("m.fast", 2, 8);
        fast.rates.network = 12_500_000_000 / 8;
        fast.rates.disk = 2 * GB;
        let world = sized(World::selling([(fast, 0.10)]))
            .pool(|pool| pool.value_of_time = HourlyPrice::from_usd(value).unwrap());
        let mut node = world.node("old", "m.fast", "a");
        node.rates.disk = 50_000_000;
        planned(
            &world
                .with_node(node)
                .with([pod("p", |s| s.items.push(image()))]),
        )
    };
    assert!(bought(0.0).nodes.is_empty());
    assert_eq!(bought(10.0).types(), ["m.fast"]);
}

#[test]
fn a_node_that_stands_by_is_started_where_it_serves_sooner_than_a_new_one() {
    let standby = |value: f64| {
        let world = caching(
            sized(World::selling([(kind("m.small", 2, 8), 0.10)])),
            "spare",
            Millis(0),
            ItemState::Verified,
        )
        .pool(|pool| pool.value_of_time = HourlyPrice::from_usd(value).unwrap());
        let boot = Boot {
            agent: Millis::from_secs(5),
            ready: Millis::from_secs(10),
            allocatable: Millis::from_secs(10),
        };
        let node = Node {
            state: NodeState::Standby { boot },
            price: HourlyPrice::from_usd(0.11).ok(),
            ..world.node("spare", "m.small", "a")
        };
        planned(
            &world
                .with_node(node)
                .with([pod("p", |s| s.items.push(image()))]),
        )
    };
    assert_eq!(standby(1.0).target("p").cloned(), on_node("spare"));
}

#[test]
fn a_spot_offering_that_is_often_taken_away_loses_where_starting_again_costs_much() {
    let choose = |per_million: u32| {
        let mut world = World::selling([(gpu_kind("g.one", 4, 16, "L4", 1), 1.00)]).pool(|pool| {
            pool.value_of_time = HourlyPrice::from_usd(1000.0).unwrap();
            pool.expected_life = Millis::from_secs(36_000);
        });
        world
            .offer("g.one", "a", CapacityType::Spot, 0.90)
            .interruptions_per_million_h = per_million;
        planned(&world.with([pod("p", |s| s.requests = gpus(1))])).nodes[0]
            .offering
            .capacity_type
    };
    assert_eq!(choose(394), CapacityType::Spot);
    assert_eq!(choose(200_000), CapacityType::OnDemand);
}

fn standby(world: &World, name: &str, kind: &str, price: u64) -> Node {
    let mut node = world.node(name, kind, "a");
    let second = Millis::from_secs(30);
    node.state = NodeState::Standby {
        boot: Boot {
            agent: second,
            ready: second,
            allocatable: second,
        },
    };
    node.price = Some(HourlyPrice(price));
    node
}

#[test]
fn replicas_that_exclude_each_other_from_a_zone_still_use_a_node_that_stands_by() {
    let world = World::selling([(kind("m.large", 8, 32), 0.40)]);
    let node = standby(&world, "s", "m.large", 300_000);
    let world = world.with_node(node).with(replicas("p", 2, |s| {
        s.labels = labels([("app", "x")]);
        s.anti_affinity = vec![near(label::ZONE, "x")];
    }));
    assert_eq!(planned(&world).nodes.len(), 1);
}

#[test]
fn a_node_that_stands_by_and_comes_second_says_what_starting_it_costs() {
    let world = World::selling([(kind("m.large", 8, 32), 4.0)]);
    let (cheap, dear) = (
        standby(&world, "s1", "m.large", 300_000),
        standby(&world, "s2", "m.large", 900_000),
    );
    let world = world
        .with_node(cheap)
        .with_node(dear)
        .with([pod("p", |_| {})]);
    let plan = planned(&world);
    let second = plan.placements[0].runner_up.clone();
    let second = second.expect("another stands by");
    assert!(second.score.total() > Money(800_000_000), "{second:?}");
}

#[test]
fn a_node_of_no_pool_that_runs_goes_before_one_in_flight_of_a_pool_that_does_not_value_time() {
    let world = World::usual();
    let mut foreign = world.node("foreign", "m.small", "a");
    foreign.pool = None;
    let mut claim = world.node("claim", "m.small", "a");
    claim.state = NodeState::InFlight {
        expected: world.snapshot.now + Millis::from_secs(60),
    };
    let mut urgent = NodePool::new("urgent");
    urgent.value_of_time = HourlyPrice::from_usd(50.0).expect("a price");
    let world = world
        .with_node(foreign)
        .with_node(claim)
        .with([pod("p", |_| {})])
        .but(|s| s.pools.push(urgent));
    assert_eq!(
        planned(&world).target("p"),
        Some(&Target::Node("foreign".to_owned()))
    );
}

#[test]
fn a_node_in_flight_that_is_slow_but_paid_for_is_not_bought_twice() {
    // The fast pool's node costs waiting that it values; the slow pool's costs none that it values.
    let mut world = World::usual();
    let mut fast = NodePool::new("fast");
    fast.value_of_time = HourlyPrice::from_usd(100.0).expect("a price");
    world.snapshot.pools.push(fast);
    let in_flight = |name: &str, pool: &str, seconds| {
        let mut node = world.node(name, "m.small", "a");
        node.pool = Some(pool.to_owned());
        node.state = NodeState::InFlight {
            expected: world.snapshot.now + Millis::from_secs(seconds),
        };
        node
    };
    let (quick, slow) = (
        in_flight("quick", "fast", 60),
        in_flight("slow", "default", 300),
    );
    let world = world
        .clone()
        .with_node(quick)
        .with_node(slow)
        .with([pod("p", |_| {})]);
    assert!(planned(&world).nodes.is_empty());
}
