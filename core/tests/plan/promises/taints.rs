//! Taints, also those that are there only at first.

use headstart_core::label::{Effect, Taint};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeState};
use headstart_core::plan::{Relaxed, Target};
use headstart_core::pool::NodePool;
use headstart_core::reason::{NotServed, Rejection};

use super::planned;
use crate::world::{Answers, World, pod, taint, tolerates};

/// 56
#[test]
fn a_pool_s_taints_must_be_tolerated_and_its_startup_taints_need_not() {
    let startup = World::usual()
        .pool(|pool| pool.startup_taints.push(taint("starting")))
        .with([pod("p", |_| {})]);
    assert_eq!(planned(&startup).nodes.len(), 1);
    let tainted = || World::usual().pool(|pool| pool.taints.push(taint("gpu")));
    let plan = planned(&tainted().with([pod("p", |_| {})]));
    let NotServed::NoCandidate { offerings, .. } = plan.refusal("p") else {
        panic!()
    };
    assert_eq!(offerings[0].1[0].rejection, Rejection::Taint(taint("gpu")));
    let tolerating = tainted().with([pod("p", |s| s.tolerations.push(tolerates("gpu")))]);
    assert_eq!(planned(&tolerating).nodes.len(), 1);
}

/// 57, 58
#[test]
fn startup_taints_count_again_once_a_node_runs() {
    let with = |state| {
        let world = World::usual();
        let node = Node {
            state,
            startup_taints: vec![taint("starting")],
            ..world.node("n", "m.small", "a")
        };
        planned(&world.with_node(node).with([pod("p", |_| {})]))
    };
    let starting = with(NodeState::Starting {
        expected: Millis::from_secs(1_000_030),
    });
    assert_eq!(starting.target("p"), Some(&Target::Node("n".to_owned())));
    assert_eq!(with(NodeState::Running).nodes.len(), 1);
}

/// 59
#[test]
fn a_taint_that_only_discourages_is_avoided_and_tolerated_when_nothing_else_is_left() {
    let discouraging = || Taint {
        effect: Effect::PreferNoSchedule,
        ..taint("rather-not")
    };
    let world = || World::usual().pool(|pool| pool.taints.push(discouraging()));
    let plan = planned(&world().with([pod("p", |_| {})]));
    assert_eq!(plan.placements[0].relaxed, [Relaxed::Taint]);
    let other = world()
        .but(|snapshot| {
            snapshot.pools.push(NodePool {
                weight: -1,
                ..NodePool::new("plain")
            });
        })
        .with([pod("p", |_| {})]);
    let plan = planned(&other);
    assert_eq!(
        (
            plan.nodes[0].pool.as_str(),
            plan.placements[0].relaxed.len()
        ),
        ("plain", 0)
    );
}
