//! Topology spread.

use headstart_core::label::{self, Operator};
use headstart_core::plan::{Plan, Relaxed};
use headstart_core::pod::{NodePolicy, Pod, Shape, Spread, Unsatisfiable};
use headstart_core::snapshot::Preferences;

use super::planned;
use crate::world::{
    Answers, World, labels, near, on, pod, replicas, requests, spread, taint, term,
};

fn web(s: &mut Shape) {
    s.labels = labels([("app", "web")]);
}

fn spread_web(count: usize, change: impl Fn(&mut Spread)) -> Vec<Pod> {
    replicas("web", count, |s| {
        web(s);
        let mut constraint = spread(label::ZONE, 1, "web");
        change(&mut constraint);
        s.spread.push(constraint);
    })
}

fn per_zone(plan: &Plan) -> Vec<usize> {
    let count = |zone: &str| {
        plan.nodes
            .iter()
            .filter(|n| n.offering.zone == zone)
            .map(|n| n.pods.len())
            .sum()
    };
    vec![count("a"), count("b")]
}

/// 38
#[test]
fn zones_host_names_capacity_types_and_architectures_keep_their_skew() {
    assert_eq!(
        per_zone(&planned(&World::usual().with(spread_web(4, |_| {})))),
        [2, 2]
    );
    let hosts = planned(&World::usual().with(spread_web(3, |s| {
        s.topology_key = label::HOSTNAME.to_owned();
    })));
    assert_eq!(hosts.nodes.len(), 3);
    let mut both = World::usual();
    both.offer(
        "m.small",
        "a",
        headstart_core::offer::CapacityType::Spot,
        0.03,
    );
    let plan = planned(&both.with(spread_web(4, |s| {
        s.topology_key = label::CAPACITY_TYPE.to_owned();
    })));
    let spot = plan
        .nodes
        .iter()
        .filter(|n| n.offering.capacity_type.as_str() == "spot");
    assert_eq!(spot.map(|n| n.pods.len()).sum::<usize>(), 2);
}

/// 39
#[test]
fn a_spread_that_may_be_violated_is_only_after_it_was_given_up() {
    let soft = |s: &mut Spread| s.when = Unsatisfiable::ScheduleAnyway;
    let plan = planned(&World::usual().with(spread_web(4, soft)));
    assert_eq!(per_zone(&plan), [2, 2]);
    let tight = World::usual().with(spread_web(2, soft)).but(|snapshot| {
        snapshot.offerings.retain(|offering| offering.zone == "a");
        let elsewhere = World::usual().node("n", "m.small", "b");
        snapshot.nodes.push(headstart_core::node::Node {
            taints: vec![taint("full")],
            ..elsewhere
        });
    });
    let plan = planned(&tight);
    assert!(plan.unserved.is_empty());
    assert!(
        plan.placements
            .iter()
            .any(|p| p.relaxed.contains(&Relaxed::Spread))
    );
    let mut ignoring = World::usual().with(spread_web(4, soft));
    ignoring.policy.preferences = Preferences::Ignore;
    assert_eq!(per_zone(&planned(&ignoring)), [4, 0]);
}

/// 40
#[test]
fn existing_pods_count_only_if_selected_and_on_a_node_with_the_label() {
    let world = World::usual();
    let (a, b) = (
        world.node("na", "m.small", "a"),
        world.node("nb", "m.small", "b"),
    );
    let mut nowhere = world.node("nx", "m.small", "a");
    nowhere.labels.remove(label::ZONE);
    let world = world
        .with_node(a)
        .with_node(b)
        .with_node(nowhere)
        .with([
            on("na", pod("old-0", web)),
            on("nx", pod("old-1", web)),
            on("nx", pod("old-2", web)),
        ])
        .with([on(
            "nb",
            pod("other", |s| s.labels = labels([("app", "db")])),
        )])
        .with(spread_web(1, |_| {}));
    let plan = planned(&world);
    assert_eq!(
        plan.target("web-0"),
        Some(&headstart_core::plan::Target::Node("nb".to_owned()))
    );
}

/// 41
#[test]
fn fewer_domains_than_asked_for_block_and_enough_of_them_do_not() {
    let served = |least| {
        let plan = planned(&World::usual().with(spread_web(4, |s| s.min_domains = Some(least))));
        plan.placements.len()
    };
    assert_eq!(served(2), 4);
    assert_eq!(served(3), 2);
}

/// 42
#[test]
fn a_pool_that_is_limited_to_zones_has_only_those_as_domains() {
    let world = World::usual()
        .pool(|pool| {
            pool.requirements
                .push(headstart_core::pool::PoolRequirement {
                    expression: crate::world::expression(label::ZONE, Operator::In, &["a"]),
                    min_values: None,
                });
        })
        .with(spread_web(3, |_| {}));
    assert_eq!(per_zone(&planned(&world)), [3, 0]);
}

/// 44
#[test]
fn the_node_policies_decide_which_nodes_are_domains() {
    let with_tainted_zone = |policy| {
        let world = World::usual();
        let mut tainted = world.node("nb", "m.small", "b");
        tainted.taints.push(taint("reserved"));
        let world = world
            .with_node(tainted)
            .but(|s| s.offerings.retain(|o| o.zone == "a"));
        planned(&world.with(spread_web(3, |s| s.node_taints = policy)))
    };
    assert_eq!(with_tainted_zone(NodePolicy::Honor).placements.len(), 3);
    assert_eq!(with_tainted_zone(NodePolicy::Ignore).placements.len(), 1);
}

/// 45
#[test]
fn required_node_affinity_narrows_the_domains_and_preferred_does_not() {
    let required = World::usual().with(replicas("web", 3, |s| {
        web(s);
        s.spread.push(spread(label::ZONE, 1, "web"));
        s.node_affinity = vec![term(label::ZONE, Operator::In, &["a"])];
    }));
    assert_eq!(per_zone(&planned(&required)), [3, 0]);
    let preferred = World::usual().with(replicas("web", 4, |s| {
        web(s);
        s.spread.push(spread(label::ZONE, 1, "web"));
        s.preferred_node_affinity = vec![(1, term(label::ZONE, Operator::In, &["a"]))];
    }));
    assert_eq!(per_zone(&planned(&preferred)), [2, 2]);
}

/// 46
#[test]
fn selectors_that_depend_on_one_another_are_served_in_one_round() {
    let world = World::usual().with([
        pod("a", |s| {
            s.labels = labels([("app", "a")]);
            s.affinity.push(near(label::ZONE, "b"));
        }),
        pod("b", |s| {
            s.labels = labels([("app", "b")]);
            s.affinity.push(near(label::ZONE, "c"));
        }),
        pod("c", |s| s.labels = labels([("app", "c")])),
    ]);
    let plan = planned(&world);
    assert_eq!(plan.placements.len(), 3);
}

/// 47
#[test]
fn spreads_over_several_keys_all_hold() {
    let mut world = World::usual();
    world.offer(
        "m.small",
        "a",
        headstart_core::offer::CapacityType::Spot,
        0.03,
    );
    world.offer(
        "m.small",
        "b",
        headstart_core::offer::CapacityType::Spot,
        0.03,
    );
    let world = world.with(replicas("web", 4, |s| {
        web(s);
        s.requests = requests(100, 1);
        for key in [label::HOSTNAME, label::ZONE, label::CAPACITY_TYPE] {
            s.spread.push(spread(key, 1, "web"));
        }
    }));
    let plan = planned(&world);
    assert_eq!((plan.nodes.len(), per_zone(&plan)), (4, vec![2, 2]));
}

#[test]
fn a_spread_over_hosts_counts_those_that_are_there_where_none_can_be_bought() {
    let world = World::usual();
    let (a, b) = (
        world.node("n1", "m.large", "a"),
        world.node("n2", "m.large", "b"),
    );
    let world = world
        .with_node(a)
        .with_node(b)
        .with(replicas("p", 4, |s| {
            s.labels = labels([("app", "x")]);
            s.spread = vec![spread(label::HOSTNAME, 1, "x")];
        }))
        .but(|s| s.offerings.clear());
    assert_eq!(planned(&world).placements.len(), 4);
}
