//! The judge itself: a good plan passes, and each thing that can be wrong with one is found.

mod relations;

use headstart_core::amount::{CPU, PODS, Resources};
use headstart_core::label::{self, Effect, Operator, Taint};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::NodeState;
use headstart_core::offer::{Availability, CapacityType, OfferingKey};
use headstart_core::plan::{NewNode, Placement, Plan, Relaxed, Target};
use headstart_core::pod::{
    Eviction, HostPort, ObjectKey, Shape, TypePattern, Unsatisfiable, Volume,
};
use headstart_core::pool::{NODES, PoolState};
use headstart_core::ready::Timing;
use headstart_core::reason::{Candidate, NotServed, Rejection, Score};
use headstart_core::verify::{Violation, justify, verify};

use crate::world::{
    World, expression, gpu_kind, gpus, group, kind, labels, on, pod, replicas, requests, spread,
    taint, term,
};

/// A plan by hand: what is bought, and who goes where.
struct Hand {
    world: World,
    plan: Plan,
}

/// Pods on one new `m.large` in zone `a`.
fn hand(world: World) -> Hand {
    Hand {
        world,
        plan: Plan::default(),
    }
}

impl Hand {
    /// Buys a type in a zone on demand for these pods.
    fn buy(self, kind: &str, zone: &str, pods: &[&str]) -> Self {
        self.buy_as(kind, zone, CapacityType::OnDemand, pods)
    }

    fn buy_as(mut self, kind: &str, zone: &str, how: CapacityType, pods: &[&str]) -> Self {
        let snapshot = &self.world.snapshot;
        let key = OfferingKey {
            instance_type: kind.to_owned(),
            zone: zone.to_owned(),
            capacity_type: how,
        };
        let number = snapshot
            .types
            .iter()
            .position(|t| t.name == kind)
            .expect("a type of that name");
        let offering = (snapshot.offerings.iter())
            .find(|o| o.instance_type == number && o.zone == zone && o.capacity_type == how);
        let mut requests = Resources::new();
        for name in pods {
            let pod = snapshot.pods.iter().find(|p| p.key.name == *name);
            requests.add(&pod.expect("a pod of that name").shape.requests);
        }
        for daemon in &snapshot.daemons {
            requests.add(&daemon.requests);
        }
        let index = self.plan.nodes.len();
        self.plan.nodes.push(NewNode {
            pool: "default".to_owned(),
            offering: key,
            price: offering.map_or(HourlyPrice(0), |o| o.price),
            requests,
            allocatable: snapshot.types[number].allocatable(),
            pods: pods.iter().map(|name| named(name)).collect(),
            timing: Timing::default(),
            score: Score::default(),
            runner_up: None,
        });
        self.place(Target::New(index), pods)
    }

    /// Places pods.
    fn place(mut self, target: Target, pods: &[&str]) -> Self {
        for name in pods {
            self.plan.placements.push(Placement {
                pod: named(name),
                target: target.clone(),
                timing: Timing::default(),
                runner_up: None,
                relaxed: Vec::new(),
            });
        }
        self
    }

    /// Leaves pods unserved.
    fn refuse(mut self, pods: &[&str]) -> Self {
        for name in pods {
            let why = NotServed::NoCandidate {
                nodes: Vec::new(),
                offerings: Vec::new(),
            };
            self.plan.unserved.push((named(name), why));
        }
        self
    }

    fn violations(&self) -> Vec<Violation> {
        verify(&self.world.snapshot, &self.world.policy, &self.plan)
    }

    #[track_caller]
    fn passes(&self) {
        assert_eq!(self.violations(), []);
        assert_eq!(self.unjustified(), []);
    }

    /// The reason why a placement, or a purchase, is wrong; there must be exactly one.
    #[track_caller]
    fn fault(&self) -> Rejection {
        match &self.violations()[..] {
            [Violation::Misplaced { why, .. } | Violation::Purchase { why, .. }] => why.clone(),
            other => panic!("not one fault: {other:#?}"),
        }
    }

    fn unjustified(&self) -> Vec<Violation> {
        justify(&self.world.snapshot, &self.world.policy, &self.plan)
    }

    /// Whether the refusal of exactly this pod is called wrong.
    #[track_caller]
    fn servable(&self, pod: &str) {
        match &self.unjustified()[..] {
            [Violation::Servable { pod: found, .. }] => assert_eq!(found.name, pod),
            other => panic!("not one servable pod: {other:#?}"),
        }
    }
}

fn named(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn one(change: impl FnOnce(&mut Shape)) -> World {
    World::usual().with([pod("p", change)])
}

#[test]
fn a_good_plan_passes() {
    hand(World::usual().with(replicas("p", 2, |_| {})))
        .buy("m.small", "a", &["p-0", "p-1"])
        .passes();
}

#[test]
fn a_pod_must_be_in_the_plan_exactly_once() {
    let world = || one(|_| {});
    assert_eq!(
        hand(world()).violations(),
        [Violation::Forgotten(named("p"))]
    );
    let twice = hand(world()).buy("m.small", "a", &["p"]).refuse(&["p"]);
    assert_eq!(twice.violations(), [Violation::Repeated(named("p"))]);
    let running = World::usual();
    let node = running.node("n", "m.small", "a");
    let running = running.with_node(node).with([on("n", pod("p", |_| {}))]);
    let moved = hand(running).buy("m.small", "a", &["p"]);
    assert!(
        moved
            .violations()
            .contains(&Violation::NotWaiting(named("p")))
    );
}

#[test]
fn a_placement_must_lead_somewhere() {
    let lost = hand(one(|_| {})).place(Target::New(7), &["p"]);
    assert!(matches!(
        lost.violations()[..],
        [Violation::NoSuchTarget { .. }]
    ));
}

#[test]
fn a_node_holds_no_more_than_it_has_daemons_included() {
    let full =
        hand(World::usual().with(replicas("p", 2, |_| {}))).buy("m.small", "a", &["p-0", "p-1"]);
    full.passes();
    let daemon = pod("d", |shape| shape.requests = requests(100, 1)).shape;
    let world = World::usual().with(replicas("p", 2, |_| {}));
    let over =
        hand(world.but(|s| s.daemons.push(daemon.into()))).buy("m.small", "a", &["p-0", "p-1"]);
    match &over.violations()[..] {
        [
            Violation::Overfull {
                resource,
                asked,
                has,
                ..
            },
        ] => {
            assert_eq!((resource.as_str(), *asked, *has), (CPU, 2100, 2000));
        }
        other => panic!("{other:#?}"),
    }
}

#[test]
fn a_daemon_that_is_there_is_not_counted_twice() {
    let daemon = pod("d", |shape| {
        shape.requests = requests(1000, 1);
        shape.eviction = Eviction::Daemon;
    });
    let world = World::usual();
    let node = world.node("n", "m.small", "a");
    let shape = daemon.shape.clone().into();
    let world = world
        .with_node(node)
        .with([on("n", daemon), pod("p", |_| {})])
        .but(|s| s.daemons.push(shape));
    hand(world)
        .place(Target::Node("n".to_owned()), &["p"])
        .passes();
}

#[test]
fn a_node_takes_no_more_pods_than_it_says() {
    let mut small = kind("m.small", 2, 8);
    small.capacity.set(PODS, 1);
    let tiny = |shape: &mut Shape| shape.requests = Resources::new();
    let world = World::selling([(small, 0.1)]).with(replicas("p", 2, tiny));
    let over = hand(world).buy("m.small", "a", &["p-0", "p-1"]);
    assert!(matches!(
        &over.violations()[..],
        [Violation::Overfull { resource, .. }] if resource == PODS
    ));
}

#[test]
fn labels_and_taints_are_obeyed() {
    let selected = one(|s| s.node_selector = labels([(label::ZONE, "b")]));
    let fault = hand(selected).buy("m.small", "a", &["p"]).fault();
    assert!(matches!(fault, Rejection::Label { .. }));

    let affine = one(|s| s.node_affinity = vec![term("disk", Operator::Exists, &[])]);
    let fault = hand(affine).buy("m.small", "a", &["p"]).fault();
    assert!(matches!(fault, Rejection::Label { .. }));

    let tainted = one(|_| {}).pool(|pool| pool.taints.push(taint("gpu")));
    let fault = hand(tainted).buy("m.small", "a", &["p"]).fault();
    assert_eq!(fault, Rejection::Taint(taint("gpu")));
}

#[test]
fn a_new_node_has_a_hostname_that_no_pod_can_know() {
    let exists = one(|s| s.node_affinity = vec![term(label::HOSTNAME, Operator::Exists, &[])]);
    hand(exists).buy("m.small", "a", &["p"]).passes();
    let known = one(|s| s.node_selector = labels([(label::HOSTNAME, "n")]));
    hand(known).buy("m.small", "a", &["p"]).fault();
}

#[test]
fn startup_taints_count_only_on_running_nodes() {
    for (state, waits) in [
        (NodeState::Running, true),
        (
            NodeState::Starting {
                expected: Millis(0),
            },
            false,
        ),
        (
            NodeState::InFlight {
                expected: Millis(0),
            },
            false,
        ),
    ] {
        let world = one(|_| {});
        let mut node = world.node("n", "m.small", "a");
        node.startup_taints = vec![taint("agent")];
        node.state = state;
        let plan = hand(world.with_node(node)).place(Target::Node("n".to_owned()), &["p"]);
        assert_eq!(plan.violations().is_empty(), !waits);
    }
}

#[test]
fn a_leaving_node_takes_nobody() {
    let world = one(|_| {});
    let mut node = world.node("n", "m.small", "a");
    node.state = NodeState::Leaving;
    let plan = hand(world.with_node(node)).place(Target::Node("n".to_owned()), &["p"]);
    assert_eq!(plan.fault(), Rejection::Leaving);
}

#[test]
fn wishes_about_the_machine_are_obeyed() {
    let broken = |change: fn(&mut Shape)| hand(one(change)).buy("m.small", "a", &["p"]).fault();
    assert!(matches!(
        broken(|s| s.wants.max_price = Some(HourlyPrice(99_999))),
        Rejection::Price { .. }
    ));
    assert!(matches!(
        broken(|s| s.wants.gpu_skus = ["L4".to_owned()].into()),
        Rejection::GpuSku { found: None, .. }
    ));
    assert!(matches!(
        broken(|s| s.wants.capacity_types = [CapacityType::Spot].into()),
        Rejection::CapacityType { .. }
    ));
    assert!(matches!(
        broken(|s| s.wants.families = ["c".to_owned()].into()),
        Rejection::Family { .. }
    ));
    assert!(matches!(
        broken(|s| s.wants.excluded_families = ["m".to_owned()].into()),
        Rejection::Family { .. }
    ));
    assert!(matches!(
        broken(|s| s.wants.type_pattern = Some(TypePattern::new("large$").unwrap())),
        Rejection::TypePattern { .. }
    ));
    let world = World::selling([(gpu_kind("g.4", 8, 64, "L4", 4), 4.0)]);
    let few = world.with([pod("p", |s| {
        s.requests = gpus(1);
        s.wants.max_gpus = Some(2);
    })]);
    assert!(matches!(
        hand(few).buy("g.4", "a", &["p"]).fault(),
        Rejection::GpuCount {
            found: 4,
            most: 2,
            ..
        }
    ));
}

#[test]
fn what_the_pool_does_not_allow_is_not_bought() {
    let fault = |world: World| hand(world).buy("m.small", "a", &["p"]).fault();
    let plain = || one(|_| {});
    assert!(matches!(
        fault(plain().pool(|p| p.state = PoolState::NotReady("deleting".to_owned()))),
        Rejection::PoolNotReady { .. }
    ));
    assert!(matches!(
        fault(plain().pool(|p| p.wants.max_price = Some(HourlyPrice(1)))),
        Rejection::Price { .. }
    ));
    let zonal = expression(label::ZONE, Operator::In, &["b"]);
    assert!(matches!(
        fault(plain().pool(
            |p| p.requirements.push(headstart_core::pool::PoolRequirement {
                expression: zonal,
                min_values: None,
            })
        )),
        Rejection::Label { .. }
    ));
    assert!(matches!(
        fault(plain().pool(|p| p.limits = Resources::new().with(CPU, 1999))),
        Rejection::PoolLimit { adding: 2000, .. }
    ));
    assert!(matches!(
        fault(plain().pool(
            |p| p.requirements.push(headstart_core::pool::PoolRequirement {
                expression: expression(label::INSTANCE_TYPE, Operator::Exists, &[]),
                min_values: Some(3),
            })
        )),
        Rejection::MinValues {
            wanted: 3,
            found: 2,
            ..
        }
    ));
}

#[test]
fn limits_count_the_nodes_that_are_there() {
    let world = one(|_| {}).pool(|p| p.limits = Resources::new().with(NODES, 1));
    let node = world.node("n", "m.large", "b");
    let plan = hand(world.with_node(node)).buy("m.small", "a", &["p"]);
    assert!(matches!(
        plan.fault(),
        Rejection::PoolLimit {
            used: 1,
            adding: 1,
            limit: 1,
            ..
        }
    ));
}

#[test]
fn what_the_cloud_does_not_have_is_not_bought() {
    let because = |availability: Availability| {
        let world = one(|_| {}).but(|s| {
            for offering in &mut s.offerings {
                offering.availability = availability.clone();
            }
        });
        hand(world).buy("m.small", "a", &["p"])
    };
    let until = |until| Availability::Until {
        until,
        why: "none left".to_owned(),
    };
    let now = Millis::from_secs(1_000_000);
    assert!(matches!(
        because(Availability::Never).fault(),
        Rejection::NotSold
    ));
    assert!(matches!(
        because(until(now + Millis(1))).fault(),
        Rejection::Unavailable { .. }
    ));
    because(until(now)).passes();
}

#[test]
fn a_launch_budget_bounds_what_is_asked_for_at_once() {
    let world = World::usual().with(replicas("p", 2, |s| s.requests = requests(2000, 1)));
    let world = world.but(|s| {
        for offering in &mut s.offerings {
            offering.launch_budget = Some(1);
        }
    });
    let plan = hand(world)
        .buy("m.small", "a", &["p-0"])
        .buy("m.small", "a", &["p-1"]);
    assert_eq!(plan.fault(), Rejection::LaunchBudget { allowed: 1 });
}

#[test]
fn spot_dearer_than_on_demand_is_not_bought() {
    let mut world = one(|_| {});
    world.offer("m.small", "a", CapacityType::Spot, 0.11);
    let buy = |world| hand(world).buy_as("m.small", "a", CapacityType::Spot, &["p"]);
    assert!(matches!(
        buy(world.clone()).fault(),
        Rejection::SpotWithoutDiscount { .. }
    ));
    let only_spot = world.pool(|p| p.wants.capacity_types = [CapacityType::Spot].into());
    buy(only_spot).passes();
}

#[test]
fn what_is_said_of_a_new_node_must_be_so() {
    let fields = |change: fn(&mut NewNode)| {
        let mut plan = hand(one(|_| {})).buy("m.small", "a", &["p"]);
        change(&mut plan.plan.nodes[0]);
        match &plan.violations()[..] {
            [Violation::NewNode { field, .. }] => *field,
            other => panic!("{other:#?}"),
        }
    };
    assert_eq!(fields(|n| n.price = HourlyPrice(1)), "price");
    assert_eq!(fields(|n| n.allocatable.set(CPU, 1)), "allocatable");
    assert_eq!(fields(|n| n.requests.set(CPU, 1)), "requests");
    assert_eq!(fields(|n| n.pods.push(named("q"))), "pods");
    assert_eq!(fields(|n| n.pool = "other".to_owned()), "pool");
}

#[test]
fn host_ports_do_not_clash() {
    let port = || HostPort {
        address: "0.0.0.0".to_owned(),
        protocol: "TCP".to_owned(),
        port: 80,
    };
    let world = World::usual().with(replicas("p", 2, |s| {
        s.host_ports.insert(port());
    }));
    let plan = hand(world).buy("m.small", "a", &["p-0", "p-1"]);
    assert_eq!(plan.fault(), Rejection::HostPort { port: 80 });
}

#[test]
fn volumes_limit_zones_and_are_attached_once_per_claim() {
    let volume = |claim: &str| Volume {
        claim: named(claim),
        driver: "ebs".to_owned(),
        node_affinity: vec![term(label::ZONE, Operator::In, &["a"])],
        unusable: None,
    };
    let using = |claims: [&'static str; 2]| {
        let pods = claims.map(|claim| {
            pod(&format!("with-{claim}"), |s| {
                s.volumes = vec![volume(claim)];
            })
        });
        World::usual().with(pods).pool(|p| {
            p.volume_limits.insert("ebs".to_owned(), 1);
        })
    };
    let elsewhere = using(["x", "y"]);
    let plan = hand(elsewhere)
        .buy("m.small", "b", &["with-x"])
        .buy("m.small", "a", &["with-y"]);
    assert_eq!(plan.fault(), Rejection::Volume { claim: named("x") });
    let two = hand(using(["x", "y"])).buy("m.small", "a", &["with-x", "with-y"]);
    assert!(matches!(
        two.fault(),
        Rejection::AttachLimit { limit: 1, .. }
    ));
    let mut shared = using(["x", "y"]);
    shared.snapshot.pods[1].shape.volumes = vec![volume("x")];
    hand(shared)
        .buy("m.small", "a", &["with-x", "with-y"])
        .passes();
}

#[test]
fn a_group_is_served_whole_or_not_at_all() {
    let member = |s: &mut Shape| s.group = Some(named("gang"));
    let world = || {
        World::usual()
            .with(replicas("p", 3, member))
            .but(|s| s.groups.push(group("gang", 3)))
    };
    hand(world())
        .buy("m.large", "a", &["p-0", "p-1", "p-2"])
        .passes();
    let part = hand(world())
        .buy("m.large", "a", &["p-0", "p-1"])
        .refuse(&["p-2"]);
    assert!(matches!(
        part.violations()[..],
        [Violation::PartOfGroup {
            placed: 2,
            minimum: 3,
            ..
        }]
    ));
    part.servable("p-2");
    let same = world().but(|s| s.groups[0].same = Some(label::ZONE.to_owned()));
    let apart = hand(same)
        .buy("m.large", "a", &["p-0", "p-1"])
        .buy("m.large", "b", &["p-2"]);
    assert!(matches!(
        apart.violations()[..],
        [Violation::GroupApart { .. }]
    ));
}

#[test]
fn a_pod_that_needs_a_node_for_itself_has_it() {
    let world = World::usual()
        .with([
            pod("big", |s| s.requests = requests(4000, 1)),
            pod("p", |_| {}),
        ])
        .pool(|p| p.packing.dedicated_cpu = Some(4000));
    let shared = hand(world.clone()).buy("m.large", "a", &["big", "p"]);
    let faults = shared.violations();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    hand(world)
        .buy("m.large", "a", &["big"])
        .buy("m.small", "a", &["p"])
        .passes();
}

#[test]
fn a_preference_is_not_given_up_without_a_word() {
    let discouraged = Taint {
        effect: Effect::PreferNoSchedule,
        ..taint("old")
    };
    let mut plan =
        hand(one(|_| {}).pool(|p| p.taints.push(discouraged))).buy("m.small", "a", &["p"]);
    assert!(matches!(
        plan.violations()[..],
        [Violation::Unsaid {
            preference: Relaxed::Taint,
            ..
        }]
    ));
    plan.plan.placements[0].relaxed.push(Relaxed::Taint);
    plan.passes();

    let soft = |s: &mut Shape| {
        s.labels = labels([("app", "web")]);
        s.spread = vec![spread(label::HOSTNAME, 1, "web")];
        s.spread[0].when = Unsatisfiable::ScheduleAnyway;
    };
    let mut plan =
        hand(World::usual().with(replicas("p", 2, soft))).buy("m.small", "a", &["p-0", "p-1"]);
    assert_eq!(plan.violations().len(), 2);
    plan.plan.placements[1].relaxed.push(Relaxed::Spread);
    plan.passes();
}

#[test]
fn a_refusal_of_a_pod_that_something_could_serve_is_found() {
    hand(one(|_| {})).refuse(&["p"]).servable("p");
    hand(one(|s| s.requests = requests(9000, 1)))
        .refuse(&["p"])
        .passes();
    let world = one(|s| s.requests = requests(2000, 1));
    let node = world.node("n", "m.large", "a");
    let world = world.with_node(node).but(|s| s.offerings.clear());
    match &hand(world).refuse(&["p"]).unjustified()[..] {
        [
            Violation::Servable {
                by: Candidate::Node(node),
                ..
            },
        ] => assert_eq!(node, "n"),
        other => panic!("{other:#?}"),
    }
}

#[test]
fn a_refusal_is_due_once_limits_and_budgets_are_used_up() {
    let world = World::usual().with(replicas("p", 2, |s| s.requests = requests(2000, 1)));
    let limited = world
        .clone()
        .pool(|p| p.limits = Resources::new().with(NODES, 1));
    hand(limited)
        .buy("m.small", "a", &["p-0"])
        .refuse(&["p-1"])
        .passes();
    let budget = world.but(|s| {
        s.offerings.truncate(1);
        s.offerings[0].launch_budget = Some(1);
    });
    hand(budget)
        .buy("m.small", "a", &["p-0"])
        .refuse(&["p-1"])
        .passes();
}

#[test]
fn a_pod_that_fits_beside_others_on_a_new_node_is_not_refused() {
    let world = World::usual().with(replicas("p", 2, |_| {}));
    let world = world.pool(|p| p.limits = Resources::new().with(NODES, 1));
    hand(world)
        .buy("m.small", "a", &["p-0"])
        .refuse(&["p-1"])
        .servable("p-1");
}
