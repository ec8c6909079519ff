//! Behaviours by number: what the planner promises, one test each, every plan judged as well.
//!
//! The numbers are those of the field's test suites, as they were gathered for this project. Left out:
//! - 1 to 10, the requirements algebra: tested beside it in `core/src/label/requirements.rs`.
//! - 30: planning has no time limit, it is bounded by its input. 69, 70: batching is the daemon's.
//! - 37: a plan is data; nothing here could bind or change a pod.
//! - 43: `matchLabelKeys` become part of the selector where manifests are read, and are tested there.
//! - 48: a cluster's default spreads stand in the scheduler's own configuration, which no API shows. As
//!   shipped they are preferences, which the scheduler weighs; no node is bought for them.
//! - 71: what a failed claim leads to is the daemon's. 74, 75 and half of 78: what is remembered between rounds, tested in `core/src/capacity`.
//! - 79 to 83, 85 to 93, 107, 108, 112, 116, 117: the life of claims and of nodes is the daemon's.
//! - 81 and the DRA part of 18: resource claims are not simulated.
//! - 94 to 102, 114: removal, tested in `core/src/retire`.

use headstart_core::plan::Plan;
use headstart_core::solve;
use headstart_core::verify::{justify, verify};

use crate::world::World;

mod affinity;
mod again;
mod amounts;
mod choice;
mod groups;
mod limits;
mod nominations;
mod packing;
mod selection;
mod spread;
mod taints;
mod volumes;

/// The plan of a world, which must please the judge.
fn planned(world: &World) -> Plan {
    let plan = solve::plan(&world.snapshot, &world.policy);
    let wrong = verify(&world.snapshot, &world.policy, &plan);
    assert!(wrong.is_empty(), "{wrong:#?}\n{plan:#?}\n{world:?}");
    let wrong = justify(&world.snapshot, &world.policy, &plan);
    assert!(wrong.is_empty(), "{wrong:#?}\n{plan:#?}\n{world:?}");
    plan
}
