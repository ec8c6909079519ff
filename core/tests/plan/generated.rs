//! Worlds made up by the dozen: a few pools, types, nodes, daemons, and pods of several shapes with
//! whatever constraints come along.

use headstart_core::amount::{CPU, NVIDIA_GPU, Resources};
use headstart_core::label::{self, Effect, Operator, Taint, Term};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::NodeState;
use headstart_core::offer::{Availability, Boot, CapacityType};
use headstart_core::pod::{
    Eviction, GROUP_ROLE, Group, HostPort, NodePolicy, ObjectKey, Phase, Pod, PodTerm, Progress,
    Shape, Sharing, Spread, TypePattern, Unsatisfiable, Volume,
};
use headstart_core::pool::{GpuPacking, NODES, NodePool, PoolRequirement, PoolState};
use headstart_core::snapshot::Preferences;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;

use crate::world::{
    World, expression, gpu_kind, kind, near, on, pod, requests, spread, taint, term, tolerates,
};

const KEYS: [&str; 4] = [
    label::ZONE,
    label::HOSTNAME,
    label::CAPACITY_TYPE,
    label::ARCH,
];
const APPS: [&str; 3] = ["x", "y", "z"];
const TYPES: [&str; 6] = ["m.small", "m.large", "c.mid", "g.one", "g.four", "arm.mid"];

/// A whole world.
pub(crate) fn worlds() -> impl Strategy<Value = World> {
    (
        market(),
        prop::collection::vec(pools(), 1..4),
        prop::collection::vec((shapes(), 1_usize..6), 1..6),
        prop::collection::vec(nodes(), 0..4),
        prop::collection::vec(daemons(), 0..3),
        prop::collection::vec(groups(), 2),
        any::<bool>(),
    )
        .prop_map(
            |(mut world, pools, mut shapes, nodes, daemons, groups, respect)| {
                for (i, (shape, _)) in shapes.iter_mut().enumerate() {
                    spread_only_itself(shape, i);
                }
                world.snapshot.pools = (pools.into_iter().enumerate())
                    .map(|(i, pool)| NodePool {
                        name: format!("pool-{i}"),
                        ..pool
                    })
                    .collect();
                let mut waiting = Vec::new();
                for (i, (shape, count)) in shapes.iter().enumerate() {
                    for n in 0..*count {
                        let mut pod = pod(&format!("p{i}-{n}"), |s| *s = shape.clone());
                        pod.created = Millis((i * n) as u64);
                        waiting.push(pod);
                    }
                }
                world.snapshot.pods = waiting;
                for (i, spec) in nodes.into_iter().enumerate() {
                    spec.build(&mut world, i, &shapes);
                }
                world.snapshot.daemons = daemons;
                world.snapshot.groups = (groups.into_iter().enumerate())
                    .map(|(i, group)| Group {
                        key: gang(i),
                        ..group
                    })
                    .collect();
                world.policy.preferences = match respect {
                    true => Preferences::Respect,
                    false => Preferences::Ignore,
                };
                world
            },
        )
}

/// Makes a shape's spreads over anything but host names count pods of its own workload only. Where
/// they count others, which need not be spread themselves, it depends on who is bound first whether
/// the skew holds; the planner and the judge then each assume another order.
fn spread_only_itself(shape: &mut Shape, number: usize) {
    let workload = format!("w{number}");
    shape.labels.insert("workload".to_owned(), workload.clone());
    for spread in shape
        .spread
        .iter_mut()
        .filter(|spread| spread.topology_key != label::HOSTNAME)
    {
        spread.selector = Some(Term(vec![headstart_core::label::Expression::equals(
            "workload",
            workload.clone(),
        )]));
    }
}

/// A world in which one pod waits, of no group.
pub(crate) fn worlds_of_one() -> impl Strategy<Value = World> {
    worlds().prop_map(|mut world| {
        let mut first = true;
        world.snapshot.pods.retain(|pod| {
            let waits = pod.phase == Phase::Pending;
            !waits || std::mem::take(&mut first)
        });
        for pod in &mut world.snapshot.pods {
            pod.shape.group = None;
        }
        world
    })
}

fn gang(i: usize) -> ObjectKey {
    ObjectKey::new("default", format!("gang-{i}"))
}

/// Types, and what of them is sold where: some of it dear, gone, or only a few at a time.
fn market() -> impl Strategy<Value = World> {
    let state = || {
        prop_oneof![
            8 => Just(Availability::Available),
            1 => Just(Availability::Never),
            1 => (999_000_u64..1_001_000).prop_map(|secs| Availability::Until {
                until: Millis::from_secs(secs),
                why: "none left".to_owned(),
            }),
        ]
    };
    let offering = || (weighted(0.8, 50_u32..150), state(), weighted(0.2, 0_u32..3));
    prop::collection::vec(offering(), TYPES.len() * 3 * 2).prop_map(|offerings| {
        let mut world = World::selling([]);
        let mut arm = kind("arm.mid", 4, 8);
        arm.arch = headstart_core::offer::Arch::Arm64;
        let mut mid = kind("c.mid", 4, 8);
        mid.local_nvme = 100 << 30;
        mid.boot = Boot::default();
        mid.overhead = requests(200, 0);
        world.snapshot.types = vec![
            kind("m.small", 2, 8),
            kind("m.large", 8, 32),
            mid,
            gpu_kind("g.one", 4, 16, "L4", 1),
            gpu_kind("g.four", 16, 64, "A10G", 4),
            arm,
        ];
        let full = [100_000, 400_000, 170_000, 800_000, 3_000_000, 140_000];
        let mut offerings = offerings.into_iter();
        for (number, name) in TYPES.iter().enumerate() {
            for zone in ["a", "b", "c"] {
                for how in [CapacityType::OnDemand, CapacityType::Spot] {
                    let Some((Some(percent), availability, budget)) = offerings.next() else {
                        continue;
                    };
                    let percent = match how {
                        CapacityType::Spot => percent * 2 / 3,
                        _ => percent,
                    };
                    let offering = world.offer(name, zone, how, 0.0);
                    offering.price = HourlyPrice(full[number] * u64::from(percent) / 100);
                    offering.availability = availability;
                    offering.launch_budget = budget;
                    if how == CapacityType::Spot {
                        offering.interruptions_per_million_h = 50;
                    }
                }
            }
        }
        world
    })
}

fn pools() -> impl Strategy<Value = NodePool> {
    let limits = prop_oneof![
        3 => Just(Resources::new()),
        1 => (0_i64..30_000).prop_map(|cpu| Resources::new().with(CPU, cpu)),
        1 => (0_i64..4).prop_map(|nodes| Resources::new().with(NODES, nodes)),
        1 => (0_i64..4).prop_map(|gpus| Resources::new().with(NVIDIA_GPU, gpus)),
    ];
    let requirement = prop_oneof![
        zones().prop_map(|zones| (expression(label::ZONE, Operator::In, &zones), None)),
        Just((
            expression(label::CAPACITY_TYPE, Operator::In, &["on-demand"]),
            None
        )),
        Just((
            expression(label::CAPACITY_TYPE, Operator::In, &["spot"]),
            None
        )),
        Just((expression(label::ARCH, Operator::In, &["amd64"]), None)),
        Just((expression(label::INSTANCE_CPU, Operator::Gt, &["2"]), None)),
        (1_u32..4).prop_map(|n| (
            expression(label::INSTANCE_TYPE, Operator::Exists, &[]),
            Some(n)
        )),
    ];
    (
        (0_i32..3, limits, prop::collection::vec(requirement, 0..2)),
        (
            weighted(0.1, 1_u64..500_000),
            weighted(0.2, taints()),
            weighted(0.2, taints()),
        ),
        (
            weighted(0.1, 1000_i64..5000),
            weighted(0.1, Just(())),
            weighted(0.05, Just(())),
        ),
        (0_u64..3, weighted(0.1, 1_u32..3)),
    )
        .prop_map(
            |((weight, limits, requirements), (cap, taint, startup), (alone, gpus, off), more)| {
                let mut pool = NodePool::new("");
                pool.weight = weight;
                pool.limits = limits;
                pool.requirements = (requirements.into_iter())
                    .map(|(expression, min_values)| PoolRequirement {
                        expression,
                        min_values,
                    })
                    .collect();
                pool.wants.max_price = cap.map(HourlyPrice);
                pool.taints.extend(taint);
                pool.startup_taints.extend(startup);
                pool.packing.dedicated_cpu = alone;
                if gpus.is_some() {
                    pool.packing.gpu = GpuPacking::Dedicated;
                }
                if off.is_some() {
                    pool.state = PoolState::NotReady("not accepted".to_owned());
                }
                pool.value_of_time = HourlyPrice(more.0 * 1_000_000);
                if let Some(most) = more.1 {
                    pool.volume_limits.insert("ebs".to_owned(), most);
                }
                pool
            },
        )
}

fn zones() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(vec!["a", "b", "c"], 1..3)
}

fn taints() -> impl Strategy<Value = Taint> {
    let effect = prop_oneof![
        3 => Just(Effect::NoSchedule),
        1 => Just(Effect::NoExecute),
        2 => Just(Effect::PreferNoSchedule),
    ];
    (select(vec!["gpu", "old"]), effect).prop_map(|(key, effect)| Taint {
        effect,
        ..taint(key)
    })
}

/// What one pod asks for; each constraint now and then.
fn shapes() -> impl Strategy<Value = Shape> {
    let millicores = select(vec![0_i64, 100, 500, 1000, 1900, 3500, 7000]);
    let gib = select(vec![0_i64, 1, 2, 7, 20]);
    let gpus = prop_oneof![5 => Just(0_i64), 1 => Just(1), 1 => Just(2)];
    let basics = (
        millicores,
        gib,
        gpus,
        select(APPS.to_vec()),
        weighted(0.1, 0_i32..2),
    );
    let company = (
        weighted(0.15, prop::collection::vec(relation(), 1..3)),
        weighted(0.2, prop::collection::vec(relation(), 1..3)),
        prop::collection::vec(spreads(), 0..3),
        weighted(0.1, relation()),
        weighted(0.1, relation()),
    );
    let place = (
        weighted(0.15, select(vec!["a", "b", "c"])),
        weighted(0.15, prop::collection::vec(node_terms(), 1..3)),
        weighted(0.15, node_terms()),
        weighted(0.3, select(vec!["gpu", "old"])),
        weighted(0.1, 80_u16..82),
        weighted(0.15, (select(vec!["v", "w"]), zones())),
    );
    let wishes = weighted(0.2, wishes());
    let group = weighted(0.2, (0_usize..2, select(vec!["", "head"])));
    (basics, company, place, wishes, group).prop_map(|(basics, company, place, wishes, group)| {
        let (millicores, gib, gpus, app, priority) = basics;
        let mut shape = Shape::from(pod("", |_| {}).shape);
        shape.requests = requests(millicores, gib);
        if gpus > 0 {
            shape.requests.set(NVIDIA_GPU, gpus);
        }
        shape.labels.insert("app".to_owned(), app.to_owned());
        shape.priority = priority.unwrap_or(0);
        let (affinity, anti, spread, preferred, preferred_anti) = company;
        shape.affinity = affinity.unwrap_or_default();
        shape.anti_affinity = anti.unwrap_or_default();
        shape.spread = spread;
        shape
            .preferred_affinity
            .extend(preferred.map(|term| (5, term)));
        shape
            .preferred_anti_affinity
            .extend(preferred_anti.map(|term| (5, term)));
        let (zone, terms, preferred, tolerated, port, volume) = place;
        if let Some(zone) = zone {
            shape
                .node_selector
                .insert(label::ZONE.to_owned(), zone.to_owned());
        }
        shape.node_affinity = terms.unwrap_or_default();
        shape
            .preferred_node_affinity
            .extend(preferred.map(|term| (7, term)));
        shape.tolerations.extend(tolerated.map(tolerates));
        shape.host_ports.extend(port.map(|port| HostPort {
            address: "0.0.0.0".to_owned(),
            protocol: "TCP".to_owned(),
            port,
        }));
        shape.volumes.extend(volume.map(|(claim, zones)| Volume {
            claim: ObjectKey::new("default", claim),
            driver: "ebs".to_owned(),
            node_affinity: vec![term(label::ZONE, Operator::In, &zones)],
            unusable: None,
        }));
        if let Some(change) = wishes {
            change(&mut shape);
        }
        if let Some((number, role)) = group {
            shape.group = Some(gang(number));
            if !role.is_empty() {
                shape.labels.insert(GROUP_ROLE.to_owned(), role.to_owned());
            }
        }
        shape
    })
}

fn relation() -> impl Strategy<Value = PodTerm> {
    (select(KEYS[..2].to_vec()), select(APPS.to_vec())).prop_map(|(key, app)| near(key, app))
}

fn spreads() -> impl Strategy<Value = Spread> {
    let policy = || prop_oneof![Just(NodePolicy::Honor), Just(NodePolicy::Ignore)];
    let when = prop_oneof![
        Just(Unsatisfiable::DoNotSchedule),
        Just(Unsatisfiable::ScheduleAnyway)
    ];
    let what = (select(KEYS.to_vec()), 1_u32..3, select(APPS.to_vec()));
    (what, when, weighted(0.2, 1_u32..4), policy(), policy()).prop_map(
        |((key, skew, app), when, min_domains, node_affinity, node_taints)| Spread {
            when,
            min_domains,
            node_affinity,
            node_taints,
            ..spread(key, skew, app)
        },
    )
}

fn node_terms() -> impl Strategy<Value = Term> {
    prop_oneof![
        zones().prop_map(|zones| term(label::ZONE, Operator::In, &zones)),
        zones().prop_map(|zones| term(label::ZONE, Operator::NotIn, &zones)),
        select(TYPES.to_vec()).prop_map(|t| term(label::INSTANCE_TYPE, Operator::NotIn, &[t])),
        Just(term(label::ARCH, Operator::In, &["arm64"])),
        Just(term(label::LOCAL_NVME, Operator::Exists, &[])),
        Just(term(label::INSTANCE_CPU, Operator::Gt, &["2"])),
        Just(term("team", Operator::DoesNotExist, &[])),
        Just(term(label::CAPACITY_TYPE, Operator::In, &["spot"])),
    ]
}

fn wishes() -> impl Strategy<Value = fn(&mut Shape)> {
    let changes: Vec<fn(&mut Shape)> = vec![
        |s| s.wants.max_price = Some(HourlyPrice(200_000)),
        |s| s.wants.gpu_skus = ["L4".to_owned()].into(),
        |s| s.wants.max_gpus = Some(1),
        |s| s.wants.capacity_types = [CapacityType::Spot].into(),
        |s| s.wants.capacity_types = [CapacityType::OnDemand].into(),
        |s| s.wants.families = ["m".to_owned(), "g".to_owned()].into(),
        |s| s.wants.excluded_families = ["m".to_owned()].into(),
        |s| s.wants.type_pattern = TypePattern::new("large|mid").ok(),
    ];
    select(changes)
}

fn daemons() -> impl Strategy<Value = Shape> {
    (100_i64..600, weighted(0.3, node_terms()), any::<bool>()).prop_map(
        |(millicores, wanted, everywhere)| {
            let mut shape = Shape::from(pod("", |_| {}).shape);
            shape.requests = requests(millicores, 0);
            shape.eviction = Eviction::Daemon;
            shape.node_affinity.extend(wanted);
            if everywhere {
                shape.tolerations.push(label::Toleration::everything());
            }
            shape
        },
    )
}

fn groups() -> impl Strategy<Value = Group> {
    (
        0_u32..6,
        0_u32..2,
        weighted(0.3, Just(label::ZONE.to_owned())),
        weighted(0.3, 2_u32..4),
        prop_oneof![Just(Sharing::Group), Just(Sharing::Role)],
    )
        .prop_map(|(workers, heads, same, set, sharing)| Group {
            key: gang(0),
            minimum: [
                (String::new(), workers - workers % set.unwrap_or(1)),
                ("head".to_owned(), heads),
            ]
            .into(),
            sets: set.map(|set| (String::new(), set)).into_iter().collect(),
            same,
            sharing,
        })
}

/// A node that exists, and what runs on it.
#[derive(Clone, Debug)]
struct NodeSpec {
    kind: &'static str,
    zone: &'static str,
    state: u8,
    taint: Option<Taint>,
    foreign: bool,
    running: Vec<(prop::sample::Index, u8)>,
}

fn nodes() -> impl Strategy<Value = NodeSpec> {
    (
        select(TYPES.to_vec()),
        select(vec!["a", "b", "c"]),
        0_u8..7,
        weighted(0.2, taints()),
        any::<bool>(),
        prop::collection::vec((any::<prop::sample::Index>(), 0_u8..6), 0..3),
    )
        .prop_map(|(kind, zone, state, taint, foreign, running)| NodeSpec {
            kind,
            zone,
            state,
            taint,
            foreign,
            running,
        })
}

impl NodeSpec {
    fn build(self, world: &mut World, number: usize, shapes: &[(Shape, usize)]) {
        let name = format!("n{number}");
        let mut node = world.node(&name, self.kind, self.zone);
        let expected = Millis::from_secs(1_000_030);
        node.state = match self.state {
            0 => NodeState::Starting { expected },
            1 => NodeState::InFlight { expected },
            2 => NodeState::Standby {
                boot: Boot::default(),
            },
            3 => NodeState::Leaving,
            _ => NodeState::Running,
        };
        if self.state == 0 {
            node.startup_taints.push(taint("starting"));
        }
        node.taints.extend(self.taint);
        node.pool = (!self.foreign).then(|| "pool-0".to_owned());
        if self.state != 1 && self.state != 2 {
            let mut free = node.allocatable.clone();
            for (n, (index, progress)) in self.running.iter().enumerate() {
                let shape = &index.get(shapes).0;
                if !shape.requests.fits(&free) {
                    continue;
                }
                free.subtract(&shape.requests);
                let running: Pod = pod(&format!("b{number}-{n}"), |s| *s = shape.clone());
                let mut running = on(&name, running);
                if let Phase::Bound { progress: how, .. } = &mut running.phase {
                    *how = match progress {
                        0 => Progress::Terminating,
                        1 => Progress::Starting,
                        _ => Progress::Running,
                    };
                }
                world.snapshot.pods.push(running);
            }
        }
        world.snapshot.nodes.push(node);
    }
}
