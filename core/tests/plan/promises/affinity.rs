//! Relations between pods.

use headstart_core::label;
use headstart_core::plan::{Relaxed, Target};
use headstart_core::pod::{Namespaces, Phase, PodTerm, Progress, Shape};

use super::planned;
use crate::world::{Answers, World, labels, near, on, pod, replicas, requests};

fn is(name: &'static str) -> impl Fn(&mut Shape) {
    move |s| s.labels = labels([("app", name)])
}

/// 49
#[test]
fn pods_near_their_like_share_a_zone_or_a_node() {
    let like = |key: &'static str| {
        planned(&World::usual().with(replicas("web", 3, |s| {
            is("web")(s);
            s.requests = requests(1500, 1);
            s.affinity.push(near(key, "web"));
        })))
    };
    let zone = like(label::ZONE);
    assert!(
        zone.nodes
            .iter()
            .all(|node| node.offering.zone == zone.nodes[0].offering.zone)
    );
    assert_eq!(like(label::HOSTNAME).types(), ["m.large"]);
}

/// 50
#[test]
fn a_pod_near_one_that_does_not_exist_waits_until_that_one_is_there() {
    let near_db = || {
        pod("web", |s| {
            is("web")(s);
            s.affinity.push(near(label::HOSTNAME, "db"));
        })
    };
    planned(&World::usual().with([near_db()])).refusal("web");
    let plan = planned(&World::usual().with([near_db(), pod("db", is("db"))]));
    assert!(plan.together(&["web", "db"]));
}

/// 51
#[test]
fn pods_that_run_keep_away_those_they_exclude() {
    let world = World::usual();
    let node = world.node("n", "m.large", "a");
    let shy = on(
        "n",
        pod("shy", |s| s.anti_affinity.push(near(label::ZONE, "web"))),
    );
    let plan = planned(&world.with_node(node).with([shy, pod("web", is("web"))]));
    assert_eq!(plan.zone("web"), "b");
}

/// 52
#[test]
fn two_that_exclude_each_other_by_zone_are_in_two_zones_and_a_third_waits() {
    let world = World::usual().with(replicas("web", 3, |s| {
        is("web")(s);
        s.anti_affinity.push(near(label::ZONE, "web"));
    }));
    let plan = planned(&world);
    assert_eq!((plan.nodes.len(), plan.unserved.len()), (2, 1));
    assert_ne!(plan.nodes[0].offering.zone, plan.nodes[1].offering.zone);
}

/// 53
#[test]
fn preferred_relations_hold_where_they_can_and_are_given_up_where_not() {
    let apart = |count| {
        planned(&World::usual().with(replicas("web", count, |s| {
            is("web")(s);
            s.preferred_anti_affinity
                .push((10, near(label::ZONE, "web")));
        })))
    };
    let plan = apart(2);
    assert_ne!(plan.zone("web-0"), plan.zone("web-1"));
    let plan = apart(3);
    assert!(plan.unserved.is_empty());
    let given_up = plan
        .placements
        .iter()
        .filter(|p| p.relaxed == [Relaxed::AntiAffinity]);
    assert_eq!(given_up.count(), 1);
    let alone = planned(&World::usual().with([pod("web", |s| {
        s.preferred_affinity.push((1, near(label::ZONE, "db")));
    })]));
    assert_eq!(alone.placements[0].relaxed, [Relaxed::Affinity]);
}

/// 54
#[test]
fn namespaces_decide_which_pods_are_meant() {
    let world = |namespaces| {
        let world = World::usual();
        let node = world.node("n", "m.large", "a");
        let mut other = on("n", pod("db", is("db")));
        other.key.namespace = "other".to_owned();
        other.shape.namespace = "other".to_owned();
        let term = PodTerm {
            namespaces,
            ..near(label::HOSTNAME, "db")
        };
        planned(
            &world
                .with_node(node)
                .with([other, pod("web", |s| s.affinity.push(term))]),
        )
    };
    let there = Some(&Target::Node("n".to_owned()));
    world(Namespaces::Listed(["default".to_owned()].into())).refusal("web");
    assert_eq!(
        world(Namespaces::Listed(["other".to_owned()].into())).target("web"),
        there
    );
    assert_eq!(world(Namespaces::All).target("web"), there);
}

/// 55
#[test]
fn a_chain_of_relations_resolves_and_one_that_contradicts_itself_does_not() {
    let chain = |last: &'static str| {
        planned(&World::usual().with([
            pod("a", |s| {
                is("a")(s);
                s.affinity.push(near(label::HOSTNAME, "b"));
            }),
            pod("b", |s| {
                is("b")(s);
                s.affinity.push(near(label::HOSTNAME, "c"));
            }),
            pod("c", |s| {
                is("c")(s);
                s.anti_affinity.push(near(label::HOSTNAME, last));
            }),
        ]))
    };
    assert!(chain("none").together(&["a", "b", "c"]));
    let plan = chain("b");
    assert_eq!(plan.placements.len(), 1);
    plan.refusal("a");
    plan.refusal("b");
}

/// kube-scheduler counts for a pod's required affinity only pods that all of its terms select.
#[test]
fn several_required_relations_ask_for_one_pod_that_meets_them_all() {
    let wants_both = || {
        pod("web", |s| {
            is("web")(s);
            s.affinity.push(near(label::HOSTNAME, "db"));
            s.affinity.push(PodTerm {
                selector: Some(crate::world::term(
                    "tier",
                    headstart_core::label::Operator::In,
                    &["fast"],
                )),
                ..near(label::ZONE, "db")
            });
        })
    };
    let db = |tier: &'static str| {
        pod("db", move |s| {
            s.labels = labels([("app", "db"), ("tier", tier)]);
        })
    };
    planned(&World::usual().with([wants_both(), db("slow")])).refusal("web");
    assert!(planned(&World::usual().with([wants_both(), db("fast")])).together(&["web", "db"]));
}

#[test]
fn nobody_comes_first_by_one_key_where_another_key_has_company() {
    let world = World::usual();
    let bare = world.node("n1", "m.small", "a");
    let mut racked = world.node("n2", "m.large", "a");
    racked.labels.insert("rack".to_owned(), "r".to_owned());
    let world = world.with_node(bare).with_node(racked).with([
        on(
            "n1",
            pod("x", |s| {
                s.labels = labels([("app", "x")]);
                s.requests = requests(2000, 1);
            }),
        ),
        pod("y", |s| {
            s.labels = labels([("app", "x")]);
            s.affinity = vec![near(label::ZONE, "x"), near("rack", "x")];
        }),
    ]);
    planned(&world).refusal("y");
}

#[test]
fn a_pod_that_is_being_deleted_keeps_away_whom_it_or_they_exclude() {
    let world = World::usual();
    let node = world.node("n1", "m.large", "a");
    let leaving = |change: fn(&mut Shape)| {
        let mut leaving = on("n1", pod("leaving", change));
        leaving.phase = Phase::Bound {
            node: "n1".to_owned(),
            progress: Progress::Terminating,
        };
        leaving
    };
    let app = |shape: &mut Shape| shape.labels = labels([("app", "x")]);
    let excludes = |shape: &mut Shape| shape.anti_affinity = vec![near(label::HOSTNAME, "x")];
    for (there, comes) in [
        (leaving(app), pod("p", excludes)),
        (leaving(excludes), pod("p", app)),
    ] {
        let world = world.clone().with_node(node.clone()).with([there, comes]);
        assert_eq!(planned(&world).target("p"), Some(&Target::New(0)));
    }
}
