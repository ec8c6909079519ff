//! Groups: the domain they share, and who goes before whom.

use headstart_core::amount::{CPU, Resources};
use headstart_core::label;
use headstart_core::plan::Target;
use headstart_core::pod::{GROUP_ROLE, Group, ObjectKey, Shape, Sharing};
use headstart_core::reason::{NotServed, Rejection};

use super::planned;
use crate::world::{Answers, World, gpu_kind, gpus, group, kind, on, pod, replicas, requests};

fn member(of: &'static str) -> impl Fn(&mut Shape) {
    move |shape| {
        shape.requests = requests(1500, 2);
        shape.group = Some(ObjectKey::new("default", of));
    }
}

fn sharing(key: &str, minimum: u32) -> Group {
    let mut group = group("g", minimum);
    group.same = Some(key.to_owned());
    group
}

#[test]
fn a_group_that_must_share_a_host_gets_one_node_that_holds_it() {
    let world = World::usual()
        .with(replicas("p", 2, member("g")))
        .but(|s| s.groups.push(sharing(label::HOSTNAME, 2)));
    let plan = planned(&world);
    assert_eq!(plan.types(), ["m.large"]);
    assert!(plan.together(&["p-0", "p-1"]));
}

#[test]
fn a_group_that_must_share_a_host_goes_to_a_node_that_has_room_for_all_of_it() {
    let world = World::usual();
    let (small, large) = (
        world.node("a", "m.small", "a"),
        world.node("b", "m.large", "b"),
    );
    let world = world
        .with_node(small)
        .with_node(large)
        .with(replicas("p", 3, member("g")))
        .but(|s| s.groups.push(sharing(label::HOSTNAME, 3)));
    let plan = planned(&world);
    assert_eq!(plan.target("p-0"), Some(&Target::Node("b".to_owned())));
    assert!(plan.together(&["p-0", "p-1", "p-2"]));
}

#[test]
fn a_head_and_its_gpu_workers_that_must_share_a_host_share_a_gpu_node() {
    let role = |name: &'static str| {
        move |shape: &mut Shape| {
            member("g")(shape);
            let key = headstart_core::pod::GROUP_ROLE.to_owned();
            shape.labels.insert(key, name.to_owned());
            if name == "worker" {
                shape.requests = gpus(1);
            }
        }
    };
    let mut group = sharing(label::HOSTNAME, 0);
    group.minimum = [("head".to_owned(), 1), ("worker".to_owned(), 2)].into();
    let world = World::selling([
        (kind("m.small", 2, 8), 0.10),
        (gpu_kind("g.1", 4, 16, "L4", 1), 1.0),
        (gpu_kind("g.2", 8, 32, "L4", 2), 2.0),
    ])
    .with([pod("head", role("head"))])
    .with(replicas("w", 2, role("worker")))
    .but(|s| s.groups.push(group));
    let plan = planned(&world);
    assert_eq!(plan.types(), ["g.2"]);
}

#[test]
fn a_group_too_large_for_any_host_that_it_must_share_is_not_served() {
    let world = World::usual()
        .with(replicas("p", 9, member("g")))
        .but(|s| s.groups.push(sharing(label::HOSTNAME, 9)));
    assert!(planned(&world).placements.is_empty());
}

#[test]
fn nobody_joins_members_on_a_node_without_the_label_that_they_must_share() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let world = world
        .with_node(node)
        .with([on("n", pod("x", member("g")))])
        .with(replicas("y", 2, member("g")))
        .but(|s| {
            s.groups.push(sharing("rack", 3));
            for kind in &mut s.types {
                kind.labels.insert("rack".to_owned(), "r".to_owned());
            }
        });
    let plan = planned(&world);
    let NotServed::Group { because, .. } = plan.refusal("y-0") else {
        panic!("{plan:#?}")
    };
    let Some(NotServed::NoCandidate { offerings, .. }) = because.as_deref() else {
        panic!("{because:#?}")
    };
    assert!(matches!(
        offerings[0].1[0].rejection,
        Rejection::GroupDomain { .. }
    ));
}

#[test]
fn a_group_that_no_zone_holds_is_told_what_it_lacks_where_most_of_it_fits() {
    let world = World::usual();
    let (a, b) = (
        world.node("a", "m.small", "a"),
        world.node("b", "m.small", "b"),
    );
    let world = world
        .with_node(a)
        .with_node(b)
        .with(replicas("p", 2, member("g")))
        .but(|s| {
            s.groups.push(sharing(label::ZONE, 2));
            s.offerings.clear();
        });
    let plan = planned(&world);
    assert!(
        matches!(
            plan.refusal("p-0"),
            NotServed::Group {
                placed: 1,
                minimum: 2,
                because: Some(_),
                ..
            }
        ),
        "{plan:#?}"
    );
}

#[test]
fn the_minimum_of_one_group_goes_before_what_another_has_beyond_its_own() {
    let world = World::selling([(kind("m.small", 2, 8), 0.10)])
        .pool(|pool| pool.limits = Resources::new().with(CPU, 6000))
        .with(replicas("a", 3, member("a")))
        .with(replicas("b", 2, member("b")))
        .but(|s| s.groups.extend([group("a", 1), group("b", 2)]));
    let plan = planned(&world);
    assert!(plan.target("b-0").is_some() && plan.target("b-1").is_some());
    plan.refusal("a-2");
}

#[test]
fn what_a_group_has_beyond_its_minimum_waits_for_pods_that_are_more_urgent() {
    let of = |priority: i32| {
        move |shape: &mut Shape| {
            member("g")(shape);
            shape.priority = priority;
        }
    };
    let world = World::selling([(kind("m.small", 2, 8), 0.10)])
        .pool(|pool| pool.limits = Resources::new().with(CPU, 4000))
        .with([
            pod("urgent", of(100)),
            pod("elastic", of(0)),
            pod("middle", |s| {
                s.requests = requests(1500, 2);
                s.priority = 50;
            }),
        ])
        .but(|s| s.groups.push(group("g", 1)));
    let plan = planned(&world);
    assert!(plan.target("urgent").is_some() && plan.target("middle").is_some());
    plan.refusal("elastic");
}

/// Replicas of two hosts each, one of which must be there.
fn of_two_hosts() -> Group {
    let mut group = group("g", 2);
    group.sets = [(String::new(), 2)].into();
    group
}

#[test]
fn hosts_of_an_elastic_replica_come_together_or_not_at_all() {
    let world = World::selling([(kind("m.small", 2, 8), 0.10)])
        .pool(|pool| pool.limits = Resources::new().with(CPU, 6000))
        .with(replicas("p", 4, member("g")))
        .but(|s| s.groups.push(of_two_hosts()));
    let plan = planned(&world);
    assert_eq!(plan.types().len(), 2);
    assert!(plan.target("p-0").is_some() && plan.target("p-1").is_some());
    let NotServed::Group {
        placed: 3,
        minimum: 4,
        because: Some(because),
        ..
    } = plan.refusal("p-3")
    else {
        panic!("{plan:#?}")
    };
    assert!(matches!(**because, NotServed::NoCandidate { .. }));
}

#[test]
fn a_host_that_was_lost_joins_its_replica_and_one_without_a_replica_waits() {
    let world = World::selling([(kind("m.small", 2, 8), 0.10)]);
    let nodes = ["a", "b", "c"].map(|name| world.node(name, "m.small", "a"));
    let mut world = world;
    for node in nodes {
        let running = on(&node.name, pod(&format!("on-{}", node.name), member("g")));
        world = world.with_node(node).with([running]);
    }
    let world = world
        .with(replicas("p", 2, member("g")))
        .but(|s| s.groups.push(of_two_hosts()));
    let plan = planned(&world);
    assert_eq!(plan.types().len(), 1);
    assert!(plan.target("p-0").is_some());
    assert!(
        matches!(
            plan.refusal("p-1"),
            NotServed::Group {
                placed: 5,
                minimum: 6,
                because: None,
                ..
            }
        ),
        "{plan:#?}"
    );
}

/// A pod of a subgroup.
fn of(role: &'static str) -> impl Fn(&mut Shape) {
    move |shape| {
        member("g")(shape);
        shape.labels.insert(GROUP_ROLE.to_owned(), role.to_owned());
    }
}

#[test]
fn each_subgroup_goes_whole_to_a_domain_of_its_own_or_the_group_to_none() {
    let world = World::usual();
    let (one, two) = (["r1", "r1"], ["r2", "r2"]);
    let racks = |world: World, racks: &[&str]| {
        (racks.iter().enumerate()).fold(world, |world, (n, rack)| {
            let mut node = world.node(&format!("n{n}"), "m.small", "a");
            node.labels.insert("rack".to_owned(), (*rack).to_owned());
            world.with_node(node)
        })
    };
    let group = Group {
        minimum: [("0".to_owned(), 2), ("1".to_owned(), 2)].into(),
        sharing: Sharing::Role,
        ..sharing("rack", 0)
    };
    let with = |world: World| {
        world
            .with(replicas("x", 2, of("0")))
            .with(replicas("y", 2, of("1")))
            .but(|s| {
                s.groups.push(group.clone());
                s.offerings.clear();
            })
    };
    let plan = planned(&with(racks(world.clone(), &[one, two].concat())));
    assert_eq!(plan.placements.len(), 4);
    // A subgroup is not torn: of three racks, two have room for one pod only.
    let plan = planned(&with(racks(world, &["r1", "r2", "r2", "r3"])));
    assert!(plan.placements.is_empty());
    let NotServed::Group { because, .. } = plan.refusal("y-0") else {
        panic!("{plan:#?}")
    };
    assert!(because.is_some());
}
