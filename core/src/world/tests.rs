use std::collections::BTreeMap;

use proptest::prelude::*;

use super::World;
use crate::amount::{CPU, MEMORY, NVIDIA_GPU, PODS, Resources};
use crate::label::{self, Expression, Labels, Term};
use crate::money::{HourlyPrice, Millis};
use crate::node::{Node, NodeDisruption, NodeState};
use crate::offer::{Arch, Availability, Boot, CapacityType, InstanceType, Offering, Rates};
use crate::pod::{
    Namespaces, NodePolicy, ObjectKey, Phase, Pod, PodTerm, Progress, Shape, Spread, Unsatisfiable,
};
use crate::pool::NodePool;
use crate::snapshot::{Policy, Snapshot};

/// One event, as a watch would bring it.
#[derive(Clone, Debug)]
enum Event {
    Pod {
        number: u8,
        flavour: u8,
        node: Option<u8>,
        leaving: bool,
    },
    NoPod(u8),
    Node {
        number: u8,
        zone: u8,
        cpu: u8,
    },
    NoNode(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0_u8..12, 0_u8..6, proptest::option::of(0_u8..5), any::<bool>()).prop_map(
            |(number, flavour, node, leaving)| Event::Pod { number, flavour, node, leaving }
        ),
        1 => (0_u8..12).prop_map(Event::NoPod),
        2 => (0_u8..5, 0_u8..3, 1_u8..9).prop_map(|(number, zone, cpu)| Event::Node { number, zone, cpu }),
        1 => (0_u8..5).prop_map(Event::NoNode),
    ]
}

fn shape(flavour: u8) -> Shape {
    let app = format!("app-{}", flavour % 3);
    let selector = Some(Term(vec![Expression::equals("app", app.clone())]));
    let term = |key: &str| PodTerm {
        topology_key: key.to_owned(),
        selector: selector.clone(),
        namespaces: Namespaces::All,
    };
    let mut shape = Shape {
        namespace: "default".to_owned(),
        labels: Labels::from([("app".to_owned(), app)]),
        requests: Resources::new()
            .with(CPU, 500 + i64::from(flavour) * 400)
            .with(MEMORY, 1 << 30),
        ..Shape::default()
    };
    match flavour {
        1 => shape.anti_affinity.push(term(label::HOSTNAME)),
        2 => shape.affinity.push(term(label::ZONE)),
        3 => shape.spread.push(Spread {
            topology_key: label::ZONE.to_owned(),
            max_skew: 1,
            when: Unsatisfiable::DoNotSchedule,
            selector,
            min_domains: None,
            node_affinity: NodePolicy::Honor,
            node_taints: NodePolicy::Ignore,
        }),
        // A resource that nothing asked for before.
        4 => shape.requests.set(NVIDIA_GPU, 1),
        _ => {}
    }
    shape
}

fn pod(number: u8, flavour: u8, node: Option<u8>, progress: Progress) -> Pod {
    Pod {
        key: ObjectKey::new("default", format!("pod-{number}")),
        created: Millis(0),
        phase: node.map_or(Phase::Pending, |node| Phase::Bound {
            node: format!("node-{node}"),
            progress,
        }),
        shape: shape(flavour).into(),
    }
}

fn node(number: u8, zone: u8, cpu: u8) -> Node {
    let labels = [
        (label::ZONE, format!("zone-{zone}")),
        (label::HOSTNAME, format!("node-{number}")),
    ];
    Node {
        name: format!("node-{number}"),
        labels: labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
        taints: Vec::new(),
        startup_taints: Vec::new(),
        allocatable: Resources::new()
            .with(CPU, i64::from(cpu) * 1000)
            .with(MEMORY, 32 << 30)
            .with(PODS, 10)
            .with(NVIDIA_GPU, i64::from(cpu) % 2),
        volume_limits: BTreeMap::new(),
        state: NodeState::Running,
        pool: None,
        offering: None,
        price: None,
        rates: Rates::default(),
        created: Millis(0),
        disruption: NodeDisruption::default(),
    }
}

/// A market of plain and GPU types in three zones.
fn market() -> Snapshot {
    let daemon = Shape {
        requests: Resources::new().with(CPU, 100),
        ..Shape::default()
    };
    let mut snapshot = Snapshot {
        pools: vec![NodePool::new("default")],
        daemons: vec![daemon],
        ..Snapshot::default()
    };
    for (number, cpu) in [2, 4, 8].into_iter().enumerate() {
        let gpus = i64::from(number == 2);
        snapshot.types.push(InstanceType {
            name: format!("type-{cpu}"),
            family: "type".to_owned(),
            arch: Arch::Amd64,
            capacity: Resources::new()
                .with(CPU, cpu * 1000)
                .with(MEMORY, cpu << 32)
                .with(PODS, 20)
                .with(NVIDIA_GPU, gpus),
            overhead: Resources::new(),
            gpu: None,
            rates: Rates::default(),
            local_nvme: 0,
            boot: Boot::default(),
            labels: Labels::new(),
        });
        for zone in 0..3 {
            snapshot.offerings.push(Offering {
                instance_type: number,
                zone: format!("zone-{zone}"),
                capacity_type: CapacityType::OnDemand,
                price: HourlyPrice(cpu.unsigned_abs() * 50_000 + zone),
                interruptions_per_million_h: 0,
                availability: Availability::Available,
                launch_budget: None,
            });
        }
    }
    snapshot
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_world_kept_up_to_date_plans_as_one_built_anew(events in proptest::collection::vec(event(), 1..60)) {
        let (mut snapshot, policy) = (market(), Policy::default());
        let mut kept = World::new(&snapshot, &policy);
        let (mut pods, mut nodes) = (BTreeMap::new(), BTreeMap::new());
        for event in events {
            match event {
                Event::Pod { number, flavour, node, leaving } => {
                    let progress = if leaving { Progress::Terminating } else { Progress::Running };
                    let pod = pod(number, flavour, node, progress);
                    kept.set_pod(&pod);
                    pods.insert(number, pod);
                }
                Event::NoPod(number) => {
                    kept.remove_pod(&ObjectKey::new("default", format!("pod-{number}")));
                    pods.remove(&number);
                }
                Event::Node { number, zone, cpu } => {
                    let node = node(number, zone, cpu);
                    kept.set_node(node.clone());
                    nodes.insert(number, node);
                }
                Event::NoNode(number) => {
                    kept.remove_node(&format!("node-{number}"));
                    nodes.remove(&number);
                }
            }
        }
        snapshot.pods = pods.into_values().collect();
        snapshot.nodes = nodes.into_values().collect();
        prop_assert_eq!(kept.plan(), World::new(&snapshot, &policy).plan());
    }
}

#[test]
fn shapes_that_no_pod_has_any_more_do_not_pile_up() {
    let (snapshot, policy) = (market(), Policy::default());
    let mut world = World::new(&snapshot, &policy);
    world.set_node(node(0, 0, 8));
    let stays = pod(250, 1, Some(0), Progress::Running);
    world.set_pod(&stays);
    for round in 0..5000 {
        let mut passing = pod(0, 0, None, Progress::Running);
        passing
            .shape
            .labels
            .insert("round".to_owned(), round.to_string());
        world.set_pod(&passing);
    }
    assert!(
        world.shapes.len() <= 2 * super::SPARE_SHAPES,
        "{} shapes",
        world.shapes.len()
    );
    let fresh = Snapshot {
        nodes: vec![node(0, 0, 8)],
        pods: vec![stays, {
            let mut last = pod(0, 0, None, Progress::Running);
            last.shape
                .labels
                .insert("round".to_owned(), "4999".to_owned());
            last
        }],
        ..market()
    };
    assert_eq!(world.plan(), World::new(&fresh, &policy).plan());
}
