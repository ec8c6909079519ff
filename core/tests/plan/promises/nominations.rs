//! Nominations: honoured as long as they break nothing.

use headstart_core::label;
use headstart_core::plan::Target;
use headstart_core::pod::{ObjectKey, Shape, Volume};

use super::planned;
use crate::world::{Answers, World, group, pod, replicas, requests};

fn nominated<const N: usize>(world: World, nominations: [(&str, &str); N]) -> World {
    world.but(|s| {
        for (pod, node) in nominations {
            let key = ObjectKey::new("default", pod);
            s.nominations.insert(key, node.to_owned());
        }
    })
}

fn member(shape: &mut Shape) {
    shape.requests = requests(1500, 2);
    shape.group = Some(ObjectKey::new("default", "g"));
}

/// Two nodes that hold one such member each.
fn two_nodes() -> World {
    let world = World::usual();
    let (a, b) = (
        world.node("a", "m.small", "a"),
        world.node("b", "m.small", "b"),
    );
    world.with_node(a).with_node(b)
}

#[test]
fn a_nomination_does_not_place_half_a_group() {
    let mut world = two_nodes().with(replicas("p", 2, member)).but(|s| {
        s.groups.push(group("g", 2));
        s.offerings.clear();
    });
    world.snapshot.nodes.pop();
    let plan = planned(&nominated(world, [("p-0", "a")]));
    assert!(plan.placements.is_empty());
}

#[test]
fn nominations_do_not_take_a_group_apart_that_must_share_a_zone() {
    let mut shared = group("g", 2);
    shared.same = Some(label::ZONE.to_owned());
    let world = two_nodes()
        .with(replicas("p", 2, member))
        .but(|s| s.groups.push(shared));
    let plan = planned(&nominated(world, [("p-0", "a"), ("p-1", "b")]));
    assert_eq!(plan.placements.len(), 2);
}

#[test]
fn a_group_keeps_the_nodes_that_it_is_nominated_for() {
    let world = two_nodes()
        .with(replicas("p", 2, member))
        .with([pod("other", |s| {
            s.requests = requests(1900, 2);
        })])
        .but(|s| s.groups.push(group("g", 2)));
    let plan = planned(&nominated(world, [("p-0", "a"), ("p-1", "b")]));
    assert_eq!(plan.target("p-0"), Some(&Target::Node("a".to_owned())));
    assert_eq!(plan.target("p-1"), Some(&Target::Node("b".to_owned())));
    assert_eq!(plan.target("other"), Some(&Target::New(0)));
}

#[test]
fn a_pod_whose_volume_is_lost_is_not_placed_by_its_nomination() {
    let world = two_nodes().with([pod("p", |s| {
        s.volumes = vec![Volume {
            claim: ObjectKey::new("default", "claim"),
            driver: "driver".to_owned(),
            node_affinity: Vec::new(),
            unusable: Some("lost".to_owned()),
        }];
    })]);
    planned(&nominated(world, [("p", "a")])).refusal("p");
}

#[test]
fn a_nomination_gives_way_to_a_more_urgent_pod_that_has_no_other_place() {
    let mut world = two_nodes()
        .with([
            pod("low", |s| s.requests = requests(1500, 2)),
            pod("high", |s| {
                s.requests = requests(1500, 2);
                s.priority = 1000;
            }),
        ])
        .but(|s| s.offerings.clear());
    world.snapshot.nodes.pop();
    let plan = planned(&nominated(world, [("low", "a")]));
    assert_eq!(plan.target("high"), Some(&Target::Node("a".to_owned())));
    plan.refusal("low");
}
