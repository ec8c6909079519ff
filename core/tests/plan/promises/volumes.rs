//! Volumes: where they can be used, and how many can be attached.

use headstart_core::label::{self, Operator, Term};
use headstart_core::pod::{ObjectKey, Volume};
use headstart_core::reason::NotServed;

use super::planned;
use crate::world::{Answers, World, pod, replicas, requests, term};

fn volume(claim: &str, node_affinity: Vec<Term>) -> Volume {
    Volume {
        claim: ObjectKey::new("default", claim),
        driver: "disk.example".to_owned(),
        node_affinity,
        unusable: None,
    }
}

/// 60
#[test]
fn a_volume_s_zone_is_the_pod_s() {
    let world = World::usual().with([pod("p", |s| {
        s.volumes.push(volume(
            "data",
            vec![term(label::ZONE, Operator::In, &["b"])],
        ));
    })]);
    assert_eq!(planned(&world).zone("p"), "b");
}

/// 61
#[test]
fn attach_limits_open_more_nodes_and_a_shared_claim_counts_once() {
    let limited = || {
        World::usual().pool(|pool| {
            pool.volume_limits.insert("disk.example".to_owned(), 2);
        })
    };
    let own = (0..4).map(|i| {
        pod(&format!("p{i}"), |s| {
            s.requests = requests(100, 1);
            s.volumes.push(volume(&format!("data-{i}"), vec![]));
        })
    });
    assert_eq!(planned(&limited().with(own)).nodes.len(), 2);
    let shared = replicas("p", 4, |s| {
        s.requests = requests(100, 1);
        s.volumes.push(volume("data", vec![]));
    });
    assert_eq!(planned(&limited().with(shared)).nodes.len(), 1);
}

/// 62
#[test]
fn a_volume_that_is_local_to_a_node_keeps_its_pod_there_or_nowhere() {
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let local = |host: &'static str| {
        pod("p", move |s| {
            s.volumes.push(volume(
                "data",
                vec![term(label::HOSTNAME, Operator::In, &[host])],
            ));
        })
    };
    let there = World::usual().with_node(node).with([local("n")]);
    assert!(planned(&there).target("p").is_some());
    planned(&World::usual().with([local("gone")])).refusal("p");
}

/// 63
#[test]
fn any_combination_of_several_volumes_alternatives_will_do() {
    let either = |zones: [&str; 2]| {
        vec![
            term(label::ZONE, Operator::In, &[zones[0]]),
            term(label::ZONE, Operator::In, &[zones[1]]),
        ]
    };
    let world = World::usual().with([pod("p", |s| {
        s.volumes.push(volume("one", either(["b", "c"])));
        s.volumes.push(volume("two", either(["a", "b"])));
    })]);
    assert_eq!(planned(&world).zone("p"), "b");
}

/// 64
#[test]
fn a_claim_that_is_lost_refuses_only_its_own_pod() {
    let lost = Volume {
        unusable: Some("claim data is lost".to_owned()),
        ..volume("data", vec![])
    };
    let plan =
        planned(&World::usual().with([pod("p", |s| s.volumes.push(lost)), pod("q", |_| {})]));
    assert_eq!(
        plan.refusal("p"),
        &NotServed::Impossible {
            what: "claim data is lost".to_owned()
        }
    );
    assert!(plan.target("q").is_some());
}
