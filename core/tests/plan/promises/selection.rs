//! Which types are chosen from.

use headstart_core::amount::{CPU, NVIDIA_GPU};
use headstart_core::label::{self, Expression, Operator};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::offer::{Arch, Availability, CapacityType};
use headstart_core::pool::PoolRequirement;
use headstart_core::reason::{NotServed, Rejection};

use super::planned;
use crate::world::{
    Answers, World, expression, gpu_kind, gpus, kind, pod, replicas, requests, term,
};

/// 11
#[test]
fn a_pod_lands_on_the_cheapest_type_of_its_architecture_zone_and_capacity_type() {
    let mut arm = kind("a.small", 2, 8);
    arm.arch = Arch::Arm64;
    let mut world = World::selling([
        (kind("m.small", 2, 8), 0.10),
        (arm, 0.08),
        (kind("m.large", 8, 32), 0.40),
    ]);
    world.offer("m.small", "c", CapacityType::Spot, 0.03);
    let asked = |key: &'static str, value: &'static str| {
        let world = World {
            snapshot: world.snapshot.clone(),
            policy: world.policy.clone(),
        };
        planned(&world.with([pod("p", |s| {
            s.node_selector.insert(key.to_owned(), value.to_owned());
        })]))
    };
    let bought = |key, value| asked(key, value).nodes[0].offering.to_string();
    assert_eq!(bought(label::ARCH, "arm64"), "a.small on-demand in a");
    assert_eq!(bought(label::ZONE, "b"), "a.small on-demand in b");
    assert_eq!(bought(label::CAPACITY_TYPE, "spot"), "m.small spot in c");
    assert_eq!(
        bought(label::INSTANCE_TYPE, "m.large"),
        "m.large on-demand in a"
    );
    assert_eq!(bought(label::OS, "linux"), "m.small spot in c");
}

/// 12
#[test]
fn a_pod_that_no_type_suits_is_told_whether_a_label_the_size_or_the_offering_is_missing() {
    let world = World::usual().with([
        pod("label", |s| {
            s.node_selector
                .insert(label::ARCH.to_owned(), "arm64".to_owned());
        }),
        pod("size", |s| s.requests = requests(9000, 1)),
        pod("offering", |s| {
            s.node_selector
                .insert(label::ZONE.to_owned(), "z".to_owned());
        }),
    ]);
    let plan = planned(&world);
    let first = |name: &str| match plan.refusal(name) {
        NotServed::NoCandidate { offerings, .. } => offerings[0].1[0].clone(),
        other => panic!("{other:?}"),
    };
    assert!(
        matches!(&first("label").rejection, Rejection::Label { expression, .. } if expression.key == label::ARCH)
    );
    let size = first("size");
    assert_eq!(size.count, 4);
    assert!(
        matches!(&size.rejection, Rejection::Resource { resource, asked: 9000, free: 8000 } if resource == CPU)
    );
    assert!(
        matches!(&first("offering").rejection, Rejection::Label { expression, .. } if expression.key == label::ZONE)
    );
}

/// 13
#[test]
fn a_type_that_is_too_small_is_no_choice_however_cheap() {
    let world = World::usual().with([pod("p", |s| s.requests = requests(3000, 1))]);
    assert_eq!(planned(&world).types(), ["m.large"]);
}

/// 14
#[test]
fn on_demand_that_is_cheaper_than_any_spot_wins() {
    let mut world = World::selling([(kind("m.small", 2, 8), 0.10)]);
    world.snapshot.types.push(kind("n.small", 2, 8));
    world.offer("n.small", "a", CapacityType::Spot, 0.11);
    let plan = planned(&world.with([pod("p", |_| {})]));
    assert_eq!(plan.nodes[0].offering.to_string(), "m.small on-demand in a");
}

/// 15, 16
#[test]
fn a_pool_that_asks_for_a_choice_of_types_buys_only_where_it_has_one() {
    let demanding = |least| {
        World::usual().pool(|pool| {
            pool.requirements.push(PoolRequirement {
                expression: expression(label::INSTANCE_TYPE, Operator::Exists, &[]),
                min_values: Some(least),
            });
        })
    };
    let small = || [pod("p", |_| {})];
    assert_eq!(planned(&demanding(2).with(small())).nodes.len(), 1);
    let plan = planned(&demanding(3).with(small()));
    let NotServed::NoCandidate { offerings, .. } = plan.refusal("p") else {
        panic!()
    };
    assert!(matches!(
        offerings[0].1[0].rejection,
        Rejection::MinValues {
            wanted: 3,
            found: 2,
            ..
        }
    ));
    // Only one type is large enough: no choice is left.
    let large = [pod("p", |s| s.requests = requests(4000, 1))];
    assert!(planned(&demanding(2).with(large)).nodes.is_empty());
}

/// 17
#[test]
fn gpu_types_are_bought_for_pods_without_gpus_only_when_nothing_else_would_do() {
    let selling = |gpu: f64| {
        World::selling([
            (kind("m.small", 2, 8), 0.10),
            (gpu_kind("g.one", 8, 32, "L4", 1), gpu),
        ])
    };
    let cheap_gpu = selling(0.05).with([pod("p", |_| {})]);
    assert_eq!(planned(&cheap_gpu).types(), ["m.small"]);
    let too_large = selling(0.80).with([pod("p", |s| s.requests = requests(4000, 1))]);
    assert_eq!(planned(&too_large).types(), ["g.one"]);
}

/// 18
#[test]
fn extended_resources_select_the_types_that_have_them() {
    for resource in [
        NVIDIA_GPU,
        "amd.com/gpu",
        "aws.amazon.com/neuron",
        "vpc.amazonaws.com/efa",
        "nvidia.com/mig-1g.5gb",
    ] {
        let mut special = kind("x.large", 8, 32);
        special.capacity.set(resource, 2);
        let world = World::selling([(kind("m.large", 8, 32), 0.40), (special, 2.0)]).with([
            pod("p", |s| s.requests.set(resource, 1)),
            pod("q", |s| s.requests.set(resource, 3)),
        ]);
        let plan = planned(&world);
        assert_eq!(plan.types(), ["x.large"], "{resource}");
        plan.refusal("q");
    }
}

/// 19
#[test]
fn a_pod_that_two_types_could_serve_only_jointly_is_not_served() {
    let world = World::selling([(kind("c.big", 16, 4), 0.40), (kind("r.big", 2, 128), 0.40)])
        .with([pod("p", |s| s.requests = requests(8000, 64))]);
    planned(&world).refusal("p");
}

/// 20. Otherwise than in Karpenter, which never buys it: on-demand may be sold out, or not allowed.
#[test]
fn spot_that_costs_no_less_than_on_demand_is_bought_only_where_on_demand_cannot_be() {
    let mut world = World::selling([(kind("m.small", 2, 8), 0.10)]);
    world.offer("m.small", "a", CapacityType::Spot, 0.10);
    let bought = |world: &World| {
        let plan = planned(world);
        plan.bought_for("p").offering.capacity_type
    };
    let either = world.clone().with([pod("p", |_| {})]);
    assert_eq!(bought(&either), CapacityType::OnDemand);
    let spot = world.clone().with([pod("p", |s| {
        s.wants.capacity_types.insert(CapacityType::Spot);
    })]);
    assert_eq!(bought(&spot), CapacityType::Spot);
    let sold_out = either.clone().but(|s| {
        for offering in &mut s.offerings {
            if offering.capacity_type == CapacityType::OnDemand {
                offering.availability = Availability::Until {
                    until: s.now + Millis::from_secs(60),
                    why: "InsufficientInstanceCapacity".to_owned(),
                };
            }
        }
    });
    assert_eq!(bought(&sold_out), CapacityType::Spot);
    let dearer = either.but(|s| s.offerings[0].price = HourlyPrice(160_000));
    let in_a = dearer.pool(|pool| {
        pool.requirements.push(PoolRequirement {
            expression: Expression::equals(label::ZONE, "a"),
            min_values: None,
        });
    });
    assert_eq!(bought(&in_a), CapacityType::Spot);
}

/// 21
#[test]
fn local_nvme_and_size_conditions_select_types() {
    let mut nvme = kind("i.large", 8, 32);
    nvme.local_nvme = 1 << 40;
    let world = World::selling([
        (kind("m.large", 8, 32), 0.40),
        (nvme, 0.60),
        (kind("m.small", 2, 8), 0.10),
    ])
    .with([
        pod("nvme", |s| {
            s.node_affinity = vec![term(label::LOCAL_NVME, Operator::Gt, &["100"])];
        }),
        pod("cores", |s| {
            s.node_affinity = vec![term(label::INSTANCE_CPU, Operator::Gt, &["4"])];
        }),
    ]);
    let plan = planned(&world);
    assert_eq!(plan.bought_for("nvme").offering.instance_type, "i.large");
    assert_ne!(plan.bought_for("cores").offering.instance_type, "m.small");
}

#[test]
fn what_a_pod_wants_of_the_machine_composes_with_and() {
    let sell = || {
        let mut world = World::selling([
            (gpu_kind("g5.xlarge", 4, 16, "A10G", 1), 1.006),
            (gpu_kind("g6.xlarge", 4, 16, "L4", 1), 0.805),
            (gpu_kind("g6.12xlarge", 48, 192, "L4", 4), 4.602),
            (gpu_kind("p5.4xlarge", 16, 256, "H100", 1), 6.88),
        ]);
        world.offer("g5.xlarge", "a", CapacityType::Spot, 0.40);
        world
    };
    let bought = |change: fn(&mut headstart_core::pod::Wants)| {
        let world = sell().with([pod("p", |s| {
            s.requests = gpus(1);
            change(&mut s.wants);
        })]);
        planned(&world)
            .nodes
            .first()
            .map(|node| node.offering.instance_type.clone())
    };
    let some = |name: &str| Some(name.to_owned());
    assert_eq!(bought(|_| {}), some("g5.xlarge"));
    assert_eq!(
        bought(|w| w.gpu_skus = ["L4".to_owned()].into()),
        some("g6.xlarge")
    );
    assert_eq!(
        bought(|w| w.capacity_types = [CapacityType::OnDemand].into()),
        some("g6.xlarge")
    );
    assert_eq!(
        bought(|w| w.excluded_families = ["g5".to_owned(), "g6".to_owned()].into()),
        some("p5.4xlarge")
    );
    assert_eq!(
        bought(|w| w.families = ["p5".to_owned()].into()),
        some("p5.4xlarge")
    );
    assert_eq!(
        bought(|w| w.type_pattern = headstart_core::pod::TypePattern::new(r"^g6\.12").ok()),
        some("g6.12xlarge")
    );
    assert_eq!(
        bought(|w| {
            w.gpu_skus = ["L4".to_owned(), "H100".to_owned()].into();
            w.excluded_families = ["g6".to_owned()].into();
            w.max_price = headstart_core::money::HourlyPrice::from_usd(6.0).ok();
        }),
        None
    );
    assert_eq!(
        bought(|w| {
            w.max_gpus = Some(1);
            w.type_pattern = headstart_core::pod::TypePattern::new("12xlarge").ok();
        }),
        None
    );
}

#[test]
fn gpu_pods_fill_a_node_of_several_gpus_where_that_is_cheaper_per_pod() {
    let sell = |four: f64| {
        World::selling([
            (gpu_kind("g.one", 4, 16, "L4", 1), 1.0),
            (gpu_kind("g.four", 16, 64, "L4", 4), four),
        ])
    };
    let one_workload = || replicas("p", 4, |s| s.requests = gpus(1));
    assert_eq!(planned(&sell(3.0).with(one_workload())).types(), ["g.four"]);
    assert_eq!(
        planned(&sell(5.0).with(one_workload())).types(),
        ["g.one"; 4]
    );
    let four_workloads = || {
        (0..4).map(|i| {
            pod(&format!("p{i}"), |s| {
                s.requests = gpus(1);
                s.labels.insert("app".to_owned(), format!("app-{i}"));
            })
        })
    };
    assert_eq!(
        planned(&sell(3.0).with(four_workloads())).types(),
        ["g.four"]
    );
    assert_eq!(
        planned(&sell(5.0).with(four_workloads())).types(),
        ["g.one"; 4]
    );
}
