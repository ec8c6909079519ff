use std::fmt::Write;

use expect_test::{Expect, expect};

use super::*;
use crate::amount::{CPU, MEMORY, NVIDIA_GPU, PODS, Resources};
use crate::cache::{Basis, Inventory, Item, ItemSize, ItemState};
use crate::label::{self, Expression, Labels, Operator, Term};
use crate::node::{Node, NodeDisruption, NodeState};
use crate::offer::{Arch, Boot, Gpu, InstanceType, Offering, OfferingKey, Rates};
use crate::pod::{
    Eviction, Group, NodePolicy, Owner, Phase, Pod, PodTerm, Progress, Shape, Spread, Unsatisfiable,
};
use crate::pool::{Budget, BudgetSize, GpuPacking, NodePool};
use crate::prefetch::tests::{image, model};
use crate::snapshot::PodBudget;

mod caches;
mod limits;
mod properties;
mod replace;

const GIB: i64 = 1 << 30;

/// A million seconds after the epoch; nodes and pods are as old as that.
const NOW: Millis = Millis::from_secs(1_000_000);

/// A pool that allows any number of disruptions, and four types, each sold on demand in `z1` and
/// `z2`: `small` 2 cores for 0.10, `medium` 4 for 0.20, `large` 8 for 0.40, `gpu` 8 with 4 GPUs for
/// 2.00; 4 GiB per core.
#[derive(Clone, Debug)]
struct World {
    snapshot: Snapshot,
    policy: Policy,
}

fn world() -> World {
    let mut pool = NodePool::new("p");
    pool.disruption.budgets = Vec::new();
    let mut world = World {
        snapshot: Snapshot {
            now: NOW,
            pools: vec![pool],
            ..Snapshot::default()
        },
        policy: Policy::default(),
    };
    for (name, cores, gpus, usd) in [
        ("small", 2, 0, 0.10),
        ("medium", 4, 0, 0.20),
        ("large", 8, 0, 0.40),
        ("gpu", 8, 4, 2.00),
    ] {
        world.sell(name, cores, gpus, CapacityType::OnDemand, usd);
    }
    world
}

impl World {
    fn sell(&mut self, name: &str, cores: i64, gpus: u32, how: CapacityType, usd: f64) {
        let index = self
            .snapshot
            .types
            .iter()
            .position(|kind| kind.name == name);
        let index = index.unwrap_or_else(|| {
            self.snapshot.types.push(kind(name, cores, gpus));
            self.snapshot.types.len() - 1
        });
        for zone in ["z1", "z2"] {
            self.snapshot.offerings.push(Offering {
                instance_type: index,
                zone: zone.to_owned(),
                capacity_type: how,
                price: HourlyPrice::from_usd(usd).unwrap(),
                interruptions_per_million_h: 0,
                availability: Availability::Available,
                launch_budget: None,
            });
        }
    }

    /// Adds a running node of the pool, bought on demand in `z1`.
    fn node(&mut self, name: &str, kind: &str) -> &mut Node {
        self.node_as(name, kind, CapacityType::OnDemand)
    }

    fn node_as(&mut self, name: &str, kind: &str, how: CapacityType) -> &mut Node {
        let types = &self.snapshot.types;
        let index = types.iter().position(|found| found.name == kind).unwrap();
        let sold = self.snapshot.offerings.iter();
        let mut sold = sold.filter(|o| o.instance_type == index && o.capacity_type == how);
        let price = sold.next().unwrap().price;
        let kind = &types[index];
        let mut labels = kind.node_labels();
        for (key, value) in [
            (label::ZONE, "z1"),
            (label::HOSTNAME, name),
            (label::CAPACITY_TYPE, how.as_str()),
            (label::NODE_POOL, "p"),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        self.snapshot.nodes.push(Node {
            name: name.to_owned(),
            labels,
            taints: Vec::new(),
            startup_taints: Vec::new(),
            allocatable: kind.allocatable(),
            volume_limits: BTreeMap::new(),
            state: NodeState::Running,
            pool: Some("p".to_owned()),
            offering: Some(OfferingKey {
                instance_type: kind.name.clone(),
                zone: "z1".to_owned(),
                capacity_type: how,
            }),
            price: Some(price),
            rates: Rates::default(),
            created: Millis(0),
            disruption: NodeDisruption {
                empty_since: Some(Millis(0)),
                underused_since: Some(Millis(0)),
                ..NodeDisruption::default()
            },
        });
        self.snapshot.nodes.last_mut().unwrap()
    }

    /// Adds a running pod that asks for that many millicores.
    fn pod(&mut self, name: &str, node: &str, cpu: i64) -> &mut Pod {
        let phase = Phase::Bound {
            node: node.to_owned(),
            progress: Progress::Running,
        };
        self.snapshot.pods.push(Pod {
            key: ObjectKey::new("ns", name),
            created: Millis(0),
            phase,
            shape: Shape {
                namespace: "ns".to_owned(),
                labels: Labels::from([("app".to_owned(), "a".to_owned())]),
                requests: Resources::new().with(CPU, cpu).with(MEMORY, cpu << 20),
                ..Shape::default()
            }
            .into(),
        });
        self.snapshot.pods.last_mut().unwrap()
    }

    /// Adds a waiting pod.
    fn waiting(&mut self, name: &str, cpu: i64) -> &mut Pod {
        let pod = self.pod(name, "", cpu);
        pod.phase = Phase::Pending;
        pod
    }

    fn pool(&mut self) -> &mut NodePool {
        &mut self.snapshot.pools[0]
    }

    fn has(&mut self, node: &str, items: &[Item]) -> &mut Inventory {
        for item in items {
            let size = ItemSize {
                transfer: 10 << 30,
                unpacked: 20 << 30,
                largest_layer: 0,
                basis: Basis::Known,
            };
            self.snapshot.items.insert(item.clone(), size);
        }
        let inventory = Inventory {
            observed: NOW,
            items: items
                .iter()
                .map(|i| (i.clone(), ItemState::Verified))
                .collect(),
            room: u64::MAX,
            fetching: Vec::new(),
        };
        let inventories = &mut self.snapshot.inventories;
        inventories.insert(node.to_owned(), inventory);
        inventories.get_mut(node).unwrap()
    }

    fn retire(&self) -> RetirementPlan {
        let plan = crate::solve::plan(&self.snapshot, &self.policy);
        retire(&self.snapshot, &self.policy, &plan)
    }

    /// Why a node is kept; `None` if it is retired.
    fn kept(&self, node: &str) -> Option<Kept> {
        let plan = self.retire();
        let kept = plan.kept.into_iter().find(|(name, _)| name == node);
        let retired = plan.retire.iter().any(|r| r.node == node);
        assert!(retired != kept.is_some(), "{node} is kept or retired");
        kept.map(|(_, why)| why)
    }

    fn retired(&self) -> Vec<String> {
        self.retire().retire.into_iter().map(|r| r.node).collect()
    }

    fn check(&self, expected: Expect) {
        let plan = self.retire();
        let mut text = String::new();
        for retirement in &plan.retire {
            let saves = retirement.saves;
            let (node, reason) = (&retirement.node, retirement.reason);
            writeln!(text, "{node}: {reason:?}, saves {saves}").unwrap();
            for (pod, target) in &retirement.moves {
                writeln!(text, "  {} to {target:?}", pod.name).unwrap();
            }
            for new in &retirement.replacements {
                writeln!(text, "  buy {} at {}", new.offering, new.price).unwrap();
            }
        }
        for (node, why) in &plan.kept {
            writeln!(text, "{node} stays: {why:?}").unwrap();
        }
        expected.assert_eq(&text);
    }
}

fn kind(name: &str, cores: i64, gpus: u32) -> InstanceType {
    let minute = Millis::from_secs(60);
    let mut capacity = Resources::new()
        .with(CPU, cores * 1000)
        .with(MEMORY, 4 * cores * GIB)
        .with(PODS, 110);
    if gpus > 0 {
        capacity.set(NVIDIA_GPU, i64::from(gpus));
    }
    InstanceType {
        name: name.to_owned(),
        family: name.to_owned(),
        arch: Arch::Amd64,
        capacity,
        overhead: Resources::new(),
        gpu: (gpus > 0).then(|| Gpu {
            sku: "L4".to_owned(),
            count: gpus,
            memory_mib: 24_576,
            resource: NVIDIA_GPU.to_owned(),
        }),
        rates: Rates::default(),
        local_nvme: 0,
        boot: Boot {
            agent: minute,
            ready: minute,
            allocatable: minute,
        },
        labels: Labels::new(),
    }
}

fn owned(pod: &mut Pod, kind: &str) {
    pod.shape.owner = Some(Owner {
        kind: kind.to_owned(),
        name: "o".to_owned(),
    });
}

fn progress(pod: &mut Pod, now: Progress) {
    if let Phase::Bound { progress, .. } = &mut pod.phase {
        *progress = now;
    }
}

// 94

#[test]
fn an_empty_node_goes_and_so_does_one_with_daemons_only() {
    let mut world = world();
    world.node("bare", "small");
    world.node("daemons", "small");
    world.pod("d", "daemons", 500).shape.eviction = Eviction::Daemon;
    world.check(expect![[r#"
        bare: Empty, saves 0.10 USD/h
        daemons: Empty, saves 0.10 USD/h
    "#]]);
}

#[test]
fn a_pod_of_a_stateful_set_that_is_being_deleted_still_holds_its_node_and_another_does_not() {
    let mut world = world();
    world.node("deployment", "small");
    world.node("stateful", "small");
    for (name, node, owner) in [
        ("r", "deployment", "ReplicaSet"),
        ("s", "stateful", "StatefulSet"),
    ] {
        let pod = world.pod(name, node, 100);
        progress(pod, Progress::Terminating);
        owned(pod, owner);
    }
    world.check(expect![[r#"
        deployment: Empty, saves 0.10 USD/h
        stateful stays: PodStuck { pod: ObjectKey { namespace: "ns", name: "s" }, why: NoCandidate { nodes: [], offerings: [("p", [])] } }
    "#]]);
}

#[test]
fn a_node_must_have_been_empty_for_long_enough() {
    let mut world = world();
    let second = Millis::from_secs(1);
    let at_least = NOW - Millis::from_secs(300);
    world.node("ready", "small").disruption.empty_since = Some(at_least);
    world.node("soon", "small").disruption.empty_since = Some(at_least + second);
    world.node("unknown", "small").disruption.empty_since = None;
    world.node("young", "small").created = NOW - second;
    world.check(expect![[r#"
        ready: Empty, saves 0.10 USD/h
        soon stays: TooSoon { since: Millis(299000), after: Millis(300000) }
        unknown stays: TooSoon { since: Millis(0), after: Millis(300000) }
        young stays: TooSoon { since: Millis(1000), after: Millis(300000) }
    "#]]);
}

// Under-used

#[test]
fn a_shared_node_below_a_fifth_is_emptied_onto_others_and_one_above_stays() {
    let mut world = world();
    world.node("low", "large");
    world.node("high", "large");
    world.pod("a", "low", 1500);
    world.pod("b", "high", 1600);
    world.check(expect![[r#"
        low: Underused, saves 0.40 USD/h
          a to Node("high")
        high stays: Used { percent: 20, threshold: 20 }
    "#]]);
}

#[test]
fn memory_counts_as_much_as_cpu_and_daemons_do_not_count() {
    let mut world = world();
    world.node("memory", "large");
    world.node("daemons", "large");
    world.node("room", "large");
    let pod = world.pod("a", "memory", 100);
    pod.shape.requests.set(MEMORY, 32 * GIB / 2);
    world.pod("b", "daemons", 100);
    world.pod("d", "daemons", 7000).shape.eviction = Eviction::Daemon;
    world.pod("c", "room", 4000);
    world.check(expect![[r#"
        daemons: Underused, saves 0.40 USD/h
          b to Node("memory")
        room: Replaceable, saves 0.40 USD/h
          c to Node("memory")
        memory stays: Used { percent: 50, threshold: 20 }
    "#]]);
}

#[test]
fn a_node_that_one_pod_has_for_itself_is_under_used_below_three_quarters() {
    let mut world = world();
    world.pool().packing.dedicated_cpu = Some(4000);
    // Nothing cheaper would do.
    world.snapshot.offerings.clear();
    world.sell("large", 8, 0, CapacityType::OnDemand, 0.40);
    world.node("own", "large");
    world.pod("a", "own", 5900);
    world.check(expect![[r#"
        own stays: PodStuck { pod: ObjectKey { namespace: "ns", name: "a" }, why: NoCandidate { nodes: [], offerings: [("p", [])] } }
    "#]]);
    world.snapshot.pods[0].shape.requests.set(CPU, 6000);
    world.check(expect![[r#"
        own stays: Used { percent: 75, threshold: 75 }
    "#]]);
}

#[test]
fn of_a_gpu_node_only_the_gpus_count() {
    let mut world = world();
    for (node, gpus, cpu) in [("one", 1, 100), ("none", 0, 7000), ("full", 4, 100)] {
        world.node(node, "gpu");
        let pod = world.pod(node, node, cpu);
        pod.shape.requests.set(NVIDIA_GPU, gpus);
    }
    world.node("other", "large");
    world.pod("x", "other", 1700);
    world.check(expect![[r#"
        none: Underused, saves 2.00 USD/h
          none to Node("full")
        other: Replaceable, saves 0.40 USD/h
          x to Node("one")
        full stays: Used { percent: 100, threshold: 20 }
        one stays: Cheapest
    "#]]);
}

#[test]
fn a_gpu_pod_that_has_its_node_for_itself_has_the_dedicated_threshold() {
    let mut world = world();
    world.node("g", "gpu");
    world.pod("a", "g", 100).shape.requests.set(NVIDIA_GPU, 2);
    world.snapshot.offerings.clear();
    let share = |world: &World| match world.kept("g") {
        Some(Kept::Used { percent, threshold }) => (percent, threshold),
        Some(Kept::PodStuck { .. }) => (50, 75),
        other => panic!("{other:?}"),
    };
    assert_eq!(share(&world), (50, 20));
    world.pool().packing.gpu = GpuPacking::Dedicated;
    assert_eq!(share(&world), (50, 75));
}

#[test]
fn pods_are_not_moved_onto_a_node_that_is_emptied_next() {
    let mut world = world();
    for node in ["a", "b", "c", "used"] {
        world.node(node, "large");
    }
    for node in ["a", "b", "c"] {
        world.pod(node, node, 500);
    }
    world.pod("u", "used", 4000);
    world.check(expect![[r#"
        a: Underused, saves 0.40 USD/h
          a to Node("used")
        b: Underused, saves 0.40 USD/h
          b to Node("used")
        c: Underused, saves 0.40 USD/h
          c to Node("used")
        used stays: Used { percent: 50, threshold: 20 }
    "#]]);
}

#[test]
fn of_nodes_that_are_all_under_used_one_takes_the_pods_of_the_others() {
    let mut world = world();
    for node in ["a", "b", "c"] {
        world.node(node, "large");
        world.pod(node, node, 500);
    }
    world.check(expect![[r#"
        a: Underused, saves 0.40 USD/h
          a to Node("b")
        c: Underused, saves 0.40 USD/h
          c to Node("b")
        b stays: Nominated(ObjectKey { namespace: "ns", name: "a" })
    "#]]);
}

#[test]
fn a_node_whose_pods_came_lately_is_left_alone() {
    let mut world = world();
    world.node("low", "large");
    world.node("high", "large");
    world.pod("a", "low", 500).created = NOW - Millis::from_secs(60);
    world.pod("b", "high", 4000);
    world.check(expect![[r#"
        high: Replaceable, saves 0.40 USD/h
          b to Node("low")
        low stays: TooSoon { since: Millis(60000), after: Millis(300000) }
    "#]]);
}

// Expired and drifted

#[test]
fn expired_and_drifted_nodes_go_first_with_a_replacement_where_their_pods_need_one() {
    let mut world = world();
    world.pool().disruption.expire_after = Some(Millis::from_secs(500_000));
    world.node("old", "large");
    let drifted = world.node("drifted", "large");
    drifted.created = NOW - Millis::from_secs(1_000);
    drifted.disruption.drift = Some("image".to_owned());
    world.pod("a", "old", 7000);
    world.pod("b", "drifted", 3000);
    world.check(expect![[r#"
        old: Expired, saves 0.0000 USD/h
          a to New(0)
          buy large on-demand in z1 at 0.40 USD/h
        drifted: Drifted, saves 0.20 USD/h
          b to New(1)
          buy medium on-demand in z1 at 0.20 USD/h
    "#]]);
}

#[test]
fn a_drifted_node_whose_pods_can_go_nowhere_stays_with_the_reason() {
    let mut world = world();
    world.node("n", "large").disruption.drift = Some("image".to_owned());
    world.pod("a", "n", 7000);
    world.snapshot.offerings.clear();
    assert!(matches!(world.kept("n"), Some(Kept::PodStuck { .. })));
}

#[test]
fn a_node_that_stands_by_is_not_empty_but_is_thrown_away_when_its_disk_is_outdated() {
    let mut world = world();
    let boot = Boot::default();
    world.node("s", "small").state = NodeState::Standby { boot };
    assert_eq!(world.kept("s"), Some(Kept::Standby));
    world.snapshot.nodes[0].disruption.drift = Some("image".to_owned());
    assert_eq!(world.kept("s"), None);
}
