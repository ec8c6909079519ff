//! Our own larger cases, which have no peer: many nodes, GPU shapes, DaemonSets, capacity that is not
//! there; and one pod that arrives in a large cluster.
//!
//! Made by arithmetic: the same every time.

use std::collections::BTreeMap;
use std::time::Instant;

use headstart_core::amount::{CPU, MEMORY, NVIDIA_GPU, PODS, Resources};
use headstart_core::label::{self, Effect, Expression, Labels, Taint, Term, Toleration};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, Gpu, InstanceType, Offering, OfferingKey, Rates,
};
use headstart_core::plan::{Plan, Target};
use headstart_core::pod::{
    Eviction, Namespaces, NodePolicy, ObjectKey, Owner, Phase, Pod, PodTerm, Progress, Shape,
    Spread, Unsatisfiable,
};
use headstart_core::pool::NodePool;
use headstart_core::snapshot::{Policy, Snapshot};
use headstart_core::world::World;

use crate::scenario::Error;
use crate::{cpu, outcome, peak};

const ZONES: [&str; 4] = ["a", "b", "c", "d"];
const GIB: i64 = 1 << 30;

/// GPU model, GPUs, vCPUs, memory in GiB, milli-USD per hour on demand.
const GPUS: [(&str, u32, i64, i64, u64); 8] = [
    ("T4", 1, 4, 16, 526),
    ("A10G", 1, 4, 16, 1006),
    ("A10G", 4, 48, 192, 5672),
    ("L4", 1, 4, 16, 805),
    ("L4", 4, 48, 192, 4602),
    ("L40S", 8, 192, 1536, 30131),
    ("A100", 8, 96, 1152, 32773),
    ("H100", 8, 192, 2048, 98320),
];

/// Runs a case and prints its figures.
pub(crate) fn run(case: &str) -> Result<(), Error> {
    let figures = match case {
        "mixed" => mixed(),
        "one-pod" => one_pod(),
        other => return Err(format!("no case {other:?}: use mixed or one-pod").into()),
    };
    println!("{figures}");
    Ok(())
}

/// 5,000 pods, 1,000 offerings, 1,000 existing nodes.
fn mixed() -> serde_json::Value {
    let mut snapshot = market();
    for number in 0..1_000 {
        node(&mut snapshot, number, 4);
    }
    for number in 0..5_000 {
        snapshot.pods.push(Pod {
            key: ObjectKey::new("serving", format!("waiting-{number:05}")),
            created: Millis(0),
            phase: Phase::Pending,
            shape: waiting(number).into(),
        });
    }
    let policy = Policy::default();
    let (began, wall) = (cpu(), Instant::now());
    let world = World::new(&snapshot, &policy);
    let (setup, setup_wall) = (cpu() - began, wall.elapsed().as_secs_f64());
    let (began, wall) = (cpu(), Instant::now());
    let plan = world.plan();
    let (solve, solve_wall) = (cpu() - began, wall.elapsed().as_secs_f64());
    let peak = peak();
    let mut figures = summary(&snapshot, &plan);
    let violations = outcome::judge(&snapshot, &policy, &plan);
    figures.extend(BTreeMap::from([
        ("setup", setup.into()),
        ("setupWall", setup_wall.into()),
        ("solve", solve.into()),
        ("solveWall", solve_wall.into()),
        ("peakBytes", peak.into()),
        ("violations", violations.into()),
    ]));
    serde_json::json!(figures)
}

/// One pod in a cluster of 5,000 nodes and 100,000 pods, whose world is kept: the pod's arrival and
/// the round that follows, over rounds that never rebuild the world.
fn one_pod() -> serde_json::Value {
    let mut snapshot = market();
    for number in 0..5_000 {
        node(&mut snapshot, number, 20);
    }
    let policy = Policy::default();
    let (began, wall) = (cpu(), Instant::now());
    let mut world = World::new(&snapshot, &policy);
    let (setup, setup_wall) = (cpu() - began, wall.elapsed().as_secs_f64());
    let mut rounds = Vec::new();
    let mut walls = Vec::new();
    let (mut violations, mut figures) = (Vec::new(), BTreeMap::new());
    for round in 0..20 {
        let pod = Pod {
            key: ObjectKey::new("serving", format!("waiting-{round:05}")),
            created: Millis(0),
            phase: Phase::Pending,
            shape: waiting(round).into(),
        };
        let (began, wall) = (cpu(), Instant::now());
        world.set_pod(&pod);
        let plan = world.plan();
        rounds.push(cpu() - began);
        walls.push(wall.elapsed().as_secs_f64());
        world.remove_pod(&pod.key);
        if round < 5 {
            snapshot.pods.push(pod);
            figures = summary(&snapshot, &plan);
            violations.extend(outcome::judge(&snapshot, &policy, &plan));
            snapshot.pods.pop();
        }
    }
    let first = rounds[0];
    rounds.sort_by(f64::total_cmp);
    walls.sort_by(f64::total_cmp);
    figures.extend(BTreeMap::from([
        ("setup", setup.into()),
        ("setupWall", setup_wall.into()),
        ("solve", rounds[rounds.len() / 2].into()),
        ("solveWall", walls[walls.len() / 2].into()),
        ("solveFirst", first.into()),
        ("solveMost", rounds[rounds.len() - 1].into()),
        ("peakBytes", peak().into()),
        ("violations", violations.into()),
    ]));
    serde_json::json!(figures)
}

fn summary(snapshot: &Snapshot, plan: &Plan) -> BTreeMap<&'static str, serde_json::Value> {
    let existing = |p: &&headstart_core::plan::Placement| matches!(p.target, Target::Node(_));
    let usd: f64 = plan.nodes.iter().map(|node| node.price.usd()).sum();
    BTreeMap::from([
        ("pods", snapshot.pods.len().into()),
        ("offerings", snapshot.offerings.len().into()),
        ("existingNodes", snapshot.nodes.len().into()),
        ("nodes", plan.nodes.len().into()),
        ("usd", usd.into()),
        ("placed", plan.placements.len().into()),
        (
            "onExisting",
            plan.placements.iter().filter(existing).count().into(),
        ),
        ("unplaced", plan.unserved.len().into()),
    ])
}

/// 125 types (8 of them with GPUs), each in four zones on demand and as spot: 1,000 offerings, of
/// which every ninth cannot be had; two pools and three DaemonSets.
fn market() -> Snapshot {
    let mut snapshot = Snapshot {
        now: Millis::from_secs(1_000_000),
        ..Snapshot::default()
    };
    for (number, (sku, count, cpu, gib, price)) in GPUS.into_iter().enumerate() {
        let capacity = Resources::new().with(NVIDIA_GPU, i64::from(count));
        let gpu = Gpu {
            sku: sku.to_owned(),
            count,
            memory_mib: 24 << 10,
            resource: NVIDIA_GPU.to_owned(),
        };
        let kind = kind(
            format!("g{number}.x{count}"),
            capacity,
            (cpu, gib),
            Some(gpu),
        );
        sell(&mut snapshot, kind, price);
    }
    for number in 0..117_i64 {
        let cpu = [2, 4, 8, 16, 32, 48, 64, 96, 128][number as usize % 9];
        let per_cpu = [2, 4, 8][number as usize / 9 % 3];
        let generation = number / 27;
        let name = format!("c{generation}m{per_cpu}.x{cpu}");
        let price = cpu * (30 + 5 * per_cpu - generation) + 1;
        let kind = kind(name, Resources::new(), (cpu, cpu * per_cpu), None);
        sell(&mut snapshot, kind, price.unsigned_abs());
    }
    let mut gpus = NodePool::new("gpus");
    gpus.weight = 10;
    gpus.value_of_time = HourlyPrice(20_000_000);
    gpus.taints = vec![Taint {
        key: NVIDIA_GPU.to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    }];
    gpus.requirements = vec![headstart_core::pool::PoolRequirement {
        expression: Expression {
            key: label::GPU_SKU.to_owned(),
            operator: label::Operator::Exists,
            values: Vec::new(),
        },
        min_values: None,
    }];
    snapshot.pools = vec![NodePool::new("general"), gpus];
    for (name, cpu, gpu_only) in [("logs", 100, false), ("net", 50, false), ("gpu", 100, true)] {
        let mut daemon = Shape {
            namespace: "kube-system".to_owned(),
            requests: Resources::new().with(CPU, cpu).with(MEMORY, GIB / 4),
            tolerations: vec![Toleration::everything()],
            eviction: Eviction::Daemon,
            owner: Some(Owner {
                kind: "DaemonSet".to_owned(),
                name: name.to_owned(),
            }),
            ..Shape::default()
        };
        if gpu_only {
            daemon.node_affinity = vec![Term(vec![Expression {
                key: label::GPU_SKU.to_owned(),
                operator: label::Operator::Exists,
                values: Vec::new(),
            }])];
        }
        snapshot.daemons.push(daemon);
    }
    snapshot
}

fn kind(
    name: String,
    capacity: Resources,
    (cpu, gib): (i64, i64),
    gpu: Option<Gpu>,
) -> InstanceType {
    InstanceType {
        family: name.split('.').next().unwrap_or_default().to_owned(),
        name,
        arch: Arch::Amd64,
        capacity: (capacity.with(CPU, cpu * 1000))
            .with(MEMORY, gib * GIB)
            .with(PODS, (cpu * 8).clamp(16, 110)),
        overhead: Resources::new().with(CPU, 100).with(MEMORY, GIB / 2),
        gpu,
        rates: Rates::default(),
        local_nvme: 0,
        boot: Boot::default(),
        labels: Labels::new(),
    }
}

fn sell(snapshot: &mut Snapshot, kind: InstanceType, milli_usd: u64) {
    for (z, zone) in ZONES.into_iter().enumerate() {
        for capacity_type in [CapacityType::OnDemand, CapacityType::Spot] {
            let spot = capacity_type == CapacityType::Spot;
            let number = snapshot.offerings.len();
            snapshot.offerings.push(Offering {
                instance_type: snapshot.types.len(),
                zone: zone.to_owned(),
                capacity_type,
                price: HourlyPrice(milli_usd * if spot { 350 + 50 * z as u64 } else { 1000 }),
                interruptions_per_million_h: if spot { 183 } else { 0 },
                availability: match number % 9 {
                    8 => Availability::Until {
                        until: Millis::from_secs(2_000_000),
                        why: "InsufficientInstanceCapacity".to_owned(),
                    },
                    _ => Availability::Available,
                },
                launch_budget: None,
            });
        }
    }
    snapshot.types.push(kind);
}

/// A running node with `pods` on it: every tenth has GPUs.
fn node(snapshot: &mut Snapshot, number: usize, pods: usize) {
    let t = match number % 10 {
        0 => number / 10 % 8,
        _ => 8 + number % 117,
    };
    let kind = &snapshot.types[t];
    let zone = ZONES[number % 4];
    let name = format!("node-{number:05}");
    let mut labels = kind.node_labels();
    let pool = if kind.gpu.is_some() {
        "gpus"
    } else {
        "general"
    };
    labels.insert(label::ZONE.to_owned(), zone.to_owned());
    labels.insert(label::HOSTNAME.to_owned(), name.clone());
    labels.insert(label::NODE_POOL.to_owned(), pool.to_owned());
    labels.insert(label::CAPACITY_TYPE.to_owned(), "on-demand".to_owned());
    let taints = snapshot.pools.iter().find(|p| p.name == pool);
    let taints = taints.map_or_else(Vec::new, |p| p.taints.clone());
    let allocatable = kind.allocatable();
    // Half of the CPU and three quarters of the GPUs are taken.
    let share = allocatable.of(CPU) / 2 / pods as i64;
    let gpus = allocatable.of(NVIDIA_GPU) * 3 / 4;
    let instance_type = kind.name.clone();
    for p in 0..pods {
        let mut shape = general(number + p);
        shape.requests = Resources::new().with(CPU, share).with(MEMORY, GIB / 8);
        if (p as i64) < gpus {
            shape.requests.set(NVIDIA_GPU, 1);
        }
        snapshot.pods.push(Pod {
            key: ObjectKey::new("serving", format!("bound-{number:05}-{p:02}")),
            created: Millis(0),
            phase: Phase::Bound {
                node: name.clone(),
                progress: Progress::Running,
            },
            shape: shape.into(),
        });
    }
    snapshot.nodes.push(Node {
        name,
        labels,
        taints,
        startup_taints: Vec::new(),
        allocatable,
        volume_limits: BTreeMap::new(),
        state: NodeState::Running,
        pool: Some(pool.to_owned()),
        offering: Some(OfferingKey {
            instance_type,
            zone: zone.to_owned(),
            capacity_type: CapacityType::OnDemand,
        }),
        price: None,
        rates: Rates::default(),
        created: Millis(0),
        disruption: NodeDisruption::default(),
    });
}

fn app(number: usize) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{:02}", number % 40))])
}

fn selector(labels: &Labels) -> Option<Term> {
    let all = labels.iter().map(|(k, v)| Expression::equals(k, v));
    Some(Term(all.collect()))
}

fn general(number: usize) -> Shape {
    Shape {
        namespace: "serving".to_owned(),
        labels: app(number),
        requests: Resources::new()
            .with(CPU, [250, 500, 1000, 2000, 4000][number % 5])
            .with(MEMORY, [1, 2, 4, 8][number % 4] * GIB / 2),
        owner: Some(Owner {
            kind: "ReplicaSet".to_owned(),
            name: format!("app-{:02}", number % 40),
        }),
        ..Shape::default()
    }
}

/// A waiting pod: of ten, four plain, one spread over zones, one over hosts, one apart from its like,
/// three with GPUs.
fn waiting(number: usize) -> Shape {
    let mut shape = general(number / 10);
    let spread = |key: &str, shape: &Shape| Spread {
        topology_key: key.to_owned(),
        max_skew: 1,
        when: Unsatisfiable::DoNotSchedule,
        selector: selector(&shape.labels),
        min_domains: None,
        node_affinity: NodePolicy::Honor,
        node_taints: NodePolicy::Ignore,
    };
    match number % 10 {
        0..=3 => {}
        4 => {
            shape.labels = Labels::from([("app".to_owned(), format!("zonal-{}", number / 10 % 7))]);
            shape.spread = vec![spread(label::ZONE, &shape)];
        }
        5 => {
            shape.labels = Labels::from([("app".to_owned(), format!("wide-{}", number / 10 % 7))]);
            shape.spread = vec![spread(label::HOSTNAME, &shape)];
        }
        6 => {
            shape.labels = Labels::from([("app".to_owned(), format!("apart-{}", number / 10 % 9))]);
            shape.anti_affinity = vec![PodTerm {
                topology_key: label::HOSTNAME.to_owned(),
                selector: selector(&shape.labels),
                namespaces: Namespaces::Listed(["serving".to_owned()].into()),
            }];
        }
        _ => {
            let count = [1, 1, 2, 4][number / 10 % 4];
            shape.requests = Resources::new()
                .with(CPU, 3000 * count)
                .with(MEMORY, 12 * GIB * count)
                .with(NVIDIA_GPU, count);
            shape.tolerations = vec![Toleration {
                key: Some(NVIDIA_GPU.to_owned()),
                value: None,
                effect: None,
            }];
            if number.is_multiple_of(3) {
                let sku = ["L4", "A10G"][number / 10 % 2];
                shape.node_selector = Labels::from([(label::GPU_SKU.to_owned(), sku.to_owned())]);
            }
        }
    }
    shape
}
