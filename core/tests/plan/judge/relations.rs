//! The judge on pods that must, or must not, be near each other.

use headstart_core::label;
use headstart_core::pod::{PodTerm, Shape};
use headstart_core::reason::Rejection;

use super::hand;
use crate::world::{World, app, labels, near, on, pod, replicas, spread};

#[test]
fn anti_affinity_works_in_both_directions() {
    let alone = |s: &mut Shape| s.anti_affinity = vec![near(label::ZONE, "web")];
    let web = |s: &mut Shape| s.labels = labels([("app", "web")]);
    for (waiting, running) in [
        (pod("p", alone), pod("r", web)),
        (pod("p", web), pod("r", alone)),
    ] {
        let world = World::usual();
        let node = world.node("n", "m.large", "a");
        let world = world.with_node(node).with([waiting, on("n", running)]);
        let bad = hand(world.clone()).buy("m.small", "a", &["p"]);
        let key = label::ZONE.to_owned();
        assert_eq!(bad.fault(), Rejection::AntiAffinity { key });
        hand(world).buy("m.small", "b", &["p"]).passes();
    }
}

fn joined(s: &mut Shape) {
    s.labels = labels([("app", "web")]);
    s.affinity = vec![near(label::ZONE, "web")];
}

#[test]
fn only_one_pod_may_come_before_those_it_must_be_near() {
    let world = World::usual().with(replicas("p", 2, joined));
    hand(world.clone())
        .buy("m.small", "a", &["p-0", "p-1"])
        .passes();
    let apart = hand(world)
        .buy("m.small", "a", &["p-0"])
        .buy("m.small", "b", &["p-1"]);
    let key = label::ZONE.to_owned();
    assert_eq!(apart.fault(), Rejection::Affinity { key });
}

#[test]
fn nobody_comes_first_when_somebody_runs_already() {
    let world = World::usual();
    let node = world.node("n", "m.small", "b");
    let running = pod("r", |s| s.labels = labels([("app", "web")]));
    let world = world
        .with_node(node)
        .with([on("n", running), pod("p", joined)]);
    let bad = hand(world).buy("m.small", "a", &["p"]);
    assert!(matches!(bad.fault(), Rejection::Affinity { .. }));
}

#[test]
fn two_pods_that_wait_for_each_other_serve_neither() {
    let chain = |own: &str, other: &str| {
        let (own, other) = (own.to_owned(), other.to_owned());
        pod(&own.clone(), move |s| {
            s.labels = labels([("app", &own)]);
            s.affinity = vec![near(label::ZONE, &other)];
        })
    };
    let world = World::usual().with([chain("x", "y"), chain("y", "x")]);
    let circle = hand(world.clone()).buy("m.small", "a", &["x", "y"]);
    assert_eq!(circle.violations().len(), 2);
    hand(world).refuse(&["x", "y"]).passes();
}

/// As in kube-scheduler, where one pod must match every affinity term to count for any.
#[test]
fn a_pod_counts_for_affinity_only_if_it_matches_every_term() {
    let labelled = |name: &'static str| pod(name, move |s| s.labels = labels([("app", name)]));
    let world = World::usual().with([
        labelled("x"),
        labelled("y"),
        pod("p", |s| {
            s.affinity = vec![near(label::ZONE, "x"), near(label::ZONE, "y")];
        }),
    ]);
    let plan = hand(world).buy("m.large", "a", &["x", "y", "p"]);
    assert!(matches!(plan.fault(), Rejection::Affinity { .. }));
}

#[test]
fn uneven_spread_is_found() {
    let web = |s: &mut Shape| {
        s.labels = labels([("app", "web")]);
        s.spread = vec![spread(label::ZONE, 1, "web")];
    };
    let world = World::usual().with(replicas("p", 4, web));
    let even = hand(world.clone())
        .buy("m.small", "a", &["p-0", "p-1"])
        .buy("m.small", "b", &["p-2", "p-3"]);
    even.passes();
    let uneven =
        hand(world)
            .buy("m.large", "a", &["p-0", "p-1", "p-2"])
            .buy("m.small", "b", &["p-3"]);
    let faults = uneven.violations();
    assert_eq!(faults.len(), 3, "{faults:#?}");
}

#[test]
fn pods_without_the_constraint_are_not_held_against_those_with_it() {
    let world = World::usual().with([
        pod("p", |s| {
            s.labels = labels([("app", "web")]);
            s.spread = vec![spread(label::HOSTNAME, 1, "web")];
        }),
        pod("q", |s| s.labels = labels([("app", "web")])),
    ]);
    hand(world).buy("m.small", "a", &["p", "q"]).passes();
}

#[test]
fn too_few_domains_count_as_an_empty_one() {
    let web = |s: &mut Shape| {
        s.labels = labels([("app", "web")]);
        s.spread = vec![spread(label::ZONE, 1, "web")];
        s.spread[0].min_domains = Some(3);
    };
    let world = World::usual().with(replicas("p", 4, web));
    let plan =
        hand(world)
            .buy("m.small", "a", &["p-0", "p-1"])
            .buy("m.small", "b", &["p-2", "p-3"]);
    assert_eq!(plan.violations().len(), 4);
}

#[test]
fn an_empty_selector_selects_all_and_an_absent_one_none() {
    let to = |selector| PodTerm {
        selector,
        ..near(label::HOSTNAME, "")
    };
    let world = |term: PodTerm| {
        World::usual().with([
            pod("p", move |s| s.anti_affinity = vec![term]),
            pod("q", |_| {}),
        ])
    };
    let none = world(to(None));
    hand(none).buy("m.small", "a", &["p", "q"]).passes();
    let all = world(to(Some(headstart_core::label::Term::default())));
    assert_eq!(
        hand(all)
            .buy("m.small", "a", &["p", "q"])
            .violations()
            .len(),
        2
    );
    assert_ne!(app("x"), None);
}
