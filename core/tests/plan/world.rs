//! Small worlds: snapshots built in a few words.
//!
//! The defaults are dull on purpose: one pool `default` that may buy anything, value of time zero, all
//! types equally slow to come up, every type sold on demand in the zones `a` and `b`.

use std::fmt;

use headstart_core::amount::{CPU, MEMORY, NVIDIA_GPU, PODS, Resources};
use headstart_core::label::{self, Effect, Expression, Labels, Operator, Taint, Term, Toleration};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, Gpu, InstanceType, Offering, OfferingKey, Rates,
};
use headstart_core::plan::{NewNode, Plan, Target};
use headstart_core::pod::{
    Group, Namespaces, NodePolicy, ObjectKey, Phase, Pod, PodTerm, Progress, Shape, Spread,
    Unsatisfiable,
};
use headstart_core::pool::NodePool;
use headstart_core::reason::NotServed;
use headstart_core::snapshot::{Policy, Snapshot};

/// A GiB in bytes.
pub(crate) const GIB: i64 = 1 << 30;

/// A snapshot and the rules to plan it by. Its debug text leaves out what is empty.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
    pub(crate) policy: Policy,
}

impl World {
    /// Each type with its price in USD per hour on demand, in zones `a` and `b`; one pool.
    pub(crate) fn selling<const N: usize>(types: [(InstanceType, f64); N]) -> Self {
        let mut world = Self::default();
        world.snapshot.now = Millis::from_secs(1_000_000);
        world.snapshot.pools.push(NodePool::new("default"));
        for (kind, price) in types {
            let name = kind.name.clone();
            world.snapshot.types.push(kind);
            for zone in ["a", "b"] {
                world.offer(&name, zone, CapacityType::OnDemand, price);
            }
        }
        world
    }

    /// The usual: `small` with 2 cores, 8 GiB at 0.10; `large` with 8 cores, 32 GiB at 0.40.
    pub(crate) fn usual() -> Self {
        Self::selling([
            (kind("m.small", 2, 8), 0.10),
            (kind("m.large", 8, 32), 0.40),
        ])
    }

    /// With pods.
    #[must_use]
    pub(crate) fn with(mut self, pods: impl IntoIterator<Item = Pod>) -> Self {
        self.snapshot.pods.extend(pods);
        self
    }

    /// With a node.
    #[must_use]
    pub(crate) fn with_node(mut self, node: Node) -> Self {
        self.snapshot.nodes.push(node);
        self
    }

    /// With the first pool changed.
    #[must_use]
    pub(crate) fn pool(mut self, change: impl FnOnce(&mut NodePool)) -> Self {
        change(&mut self.snapshot.pools[0]);
        self
    }

    /// With the snapshot changed.
    #[must_use]
    pub(crate) fn but(mut self, change: impl FnOnce(&mut Snapshot)) -> Self {
        change(&mut self.snapshot);
        self
    }

    /// Sells a type somewhere else, or otherwise.
    pub(crate) fn offer(
        &mut self,
        kind: &str,
        zone: &str,
        capacity_type: CapacityType,
        price: f64,
    ) -> &mut Offering {
        let instance_type = (self.snapshot.types.iter())
            .position(|t| t.name == kind)
            .expect("a type of that name");
        self.snapshot.offerings.push(Offering {
            instance_type,
            zone: zone.to_owned(),
            capacity_type,
            price: HourlyPrice::from_usd(price).expect("a price"),
            interruptions_per_million_h: 0,
            availability: Availability::Available,
            launch_budget: None,
        });
        self.snapshot.offerings.last_mut().expect("just pushed")
    }

    /// A running node of a type, bought by the pool `default`.
    pub(crate) fn node(&self, name: &str, kind: &str, zone: &str) -> Node {
        let found = self.snapshot.types.iter().find(|t| t.name == kind);
        let found = found.expect("a type of that name");
        let mut labels = found.node_labels();
        for (key, value) in [
            (label::ZONE, zone),
            (label::HOSTNAME, name),
            (label::CAPACITY_TYPE, "on-demand"),
            (label::NODE_POOL, "default"),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        Node {
            name: name.to_owned(),
            labels,
            taints: Vec::new(),
            startup_taints: Vec::new(),
            allocatable: found.allocatable(),
            volume_limits: Default::default(),
            state: NodeState::Running,
            pool: Some("default".to_owned()),
            offering: Some(OfferingKey {
                instance_type: kind.to_owned(),
                zone: zone.to_owned(),
                capacity_type: CapacityType::OnDemand,
            }),
            price: Some(HourlyPrice(100_000)),
            rates: Rates::default(),
            created: Millis(0),
            disruption: NodeDisruption::default(),
        }
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        writeln!(f, "preferences: {:?}", self.policy.preferences)?;
        let lines = (snapshot.pods.iter().map(|x| format!("{x:?}")))
            .chain(snapshot.groups.iter().map(|x| format!("{x:?}")))
            .chain(snapshot.daemons.iter().map(|x| format!("daemon {x:?}")))
            .chain(snapshot.nodes.iter().map(|x| format!("{x:?}")))
            .chain(snapshot.pools.iter().map(|x| format!("{x:?}")));
        for line in lines {
            writeln!(f, "{}", without_empty_fields(&line))?;
        }
        for offering in &snapshot.offerings {
            let kind = &snapshot.types[offering.instance_type];
            let what = (&kind.name, &offering.zone, offering.capacity_type);
            let state = (&offering.availability, offering.launch_budget);
            writeln!(f, "{what:?} at {} {state:?}", offering.price)?;
        }
        Ok(())
    }
}

/// The text without fields that hold nothing.
fn without_empty_fields(text: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for field in text.split(", ") {
        let empty = ["[]", "{}", "None", "Term([])", "Resources({})"];
        let is_empty = |field: &str| {
            field
                .split_once(": ")
                .is_some_and(|(_, value)| empty.contains(&value))
        };
        if !is_empty(field) {
            kept.push(field);
        }
    }
    kept.join(", ")
}

/// A type with that many cores and GiB, and room for 110 pods. Its family is what is before the dot.
pub(crate) fn kind(name: &str, cores: i64, gib: i64) -> InstanceType {
    let second = Millis::from_secs(30);
    InstanceType {
        name: name.to_owned(),
        family: name.split('.').next().unwrap_or(name).to_owned(),
        arch: Arch::Amd64,
        capacity: Resources::new()
            .with(CPU, cores * 1000)
            .with(MEMORY, gib * GIB)
            .with(PODS, 110),
        overhead: Resources::new(),
        gpu: None,
        rates: Rates::default(),
        local_nvme: 0,
        boot: Boot {
            agent: second,
            ready: second,
            allocatable: second,
        },
        labels: Labels::new(),
    }
}

/// The same with GPUs.
pub(crate) fn gpu_kind(name: &str, cores: i64, gib: i64, sku: &str, count: u32) -> InstanceType {
    let mut kind = kind(name, cores, gib);
    kind.capacity.set(NVIDIA_GPU, i64::from(count));
    kind.gpu = Some(Gpu {
        sku: sku.to_owned(),
        count,
        memory_mib: 24_576,
        resource: NVIDIA_GPU.to_owned(),
    });
    kind
}

/// A waiting pod that asks for one core and one GiB, in the namespace `default`.
pub(crate) fn pod(name: &str, change: impl FnOnce(&mut Shape)) -> Pod {
    let mut shape = Shape {
        namespace: "default".to_owned(),
        requests: requests(1000, 1),
        ..Shape::default()
    };
    change(&mut shape);
    Pod {
        key: ObjectKey::new(&shape.namespace, name),
        created: Millis(0),
        phase: Phase::Pending,
        shape: shape.into(),
    }
}

/// `count` equal pods, named `name-0` and on.
pub(crate) fn replicas(name: &str, count: usize, change: impl Fn(&mut Shape)) -> Vec<Pod> {
    (0..count)
        .map(|i| pod(&format!("{name}-{i}"), &change))
        .collect()
}

/// The pod, running on that node.
pub(crate) fn on(node: &str, mut pod: Pod) -> Pod {
    pod.phase = Phase::Bound {
        node: node.to_owned(),
        progress: Progress::Running,
    };
    pod
}

/// Millicores and GiB.
pub(crate) fn requests(millicores: i64, gib: i64) -> Resources {
    Resources::new()
        .with(CPU, millicores)
        .with(MEMORY, gib * GIB)
}

/// GPUs, with one core and one GiB.
pub(crate) fn gpus(count: i64) -> Resources {
    requests(1000, 1).with(NVIDIA_GPU, count)
}

/// Labels.
pub(crate) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    (pairs.iter())
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// One condition.
pub(crate) fn expression(key: &str, operator: Operator, values: &[&str]) -> Expression {
    Expression {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    }
}

/// A term of one condition.
pub(crate) fn term(key: &str, operator: Operator, values: &[&str]) -> Term {
    Term(vec![expression(key, operator, values)])
}

/// Selects pods by their `app` label.
pub(crate) fn app(name: &str) -> Option<Term> {
    Some(Term(vec![Expression::equals("app", name)]))
}

/// Pods of that app in the namespace `default`, by topology key.
pub(crate) fn near(key: &str, name: &str) -> PodTerm {
    PodTerm {
        topology_key: key.to_owned(),
        selector: app(name),
        namespaces: Namespaces::Listed(["default".to_owned()].into()),
    }
}

/// A spread of that app which must hold.
pub(crate) fn spread(key: &str, max_skew: u32, name: &str) -> Spread {
    Spread {
        topology_key: key.to_owned(),
        max_skew,
        when: Unsatisfiable::DoNotSchedule,
        selector: app(name),
        min_domains: None,
        node_affinity: NodePolicy::Honor,
        node_taints: NodePolicy::Ignore,
    }
}

/// A taint without value that keeps pods away.
pub(crate) fn taint(key: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    }
}

/// Tolerates every taint of that key.
pub(crate) fn tolerates(key: &str) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        value: None,
        effect: None,
    }
}

/// A group with that many of the role `""`.
pub(crate) fn group(name: &str, minimum: u32) -> Group {
    Group {
        key: ObjectKey::new("default", name),
        minimum: [(String::new(), minimum)].into(),
        sets: Default::default(),
        sharing: Default::default(),
        same: None,
    }
}

/// What a plan says of pods in the namespace `default`.
pub(crate) trait Answers {
    /// Where a pod goes, if anywhere.
    fn target(&self, pod: &str) -> Option<&Target>;
    /// The new node that a pod goes to.
    fn bought_for(&self, pod: &str) -> &NewNode;
    /// Why a pod is not served.
    fn refusal(&self, pod: &str) -> &NotServed;
    /// The types bought, sorted.
    fn types(&self) -> Vec<&str>;
    /// Whether all these pods share a node.
    fn together(&self, pods: &[&str]) -> bool;
    /// The zone of the new node that a pod goes to.
    fn zone(&self, pod: &str) -> &str {
        &self.bought_for(pod).offering.zone
    }
}

impl Answers for Plan {
    fn target(&self, pod: &str) -> Option<&Target> {
        let key = ObjectKey::new("default", pod);
        let placement = self.placements.iter().find(|p| p.pod == key)?;
        Some(&placement.target)
    }

    fn bought_for(&self, pod: &str) -> &NewNode {
        match self.target(pod) {
            Some(Target::New(index)) => &self.nodes[*index],
            other => panic!("{pod} goes to {other:?}, not to a new node: {self:#?}"),
        }
    }

    fn refusal(&self, pod: &str) -> &NotServed {
        let key = ObjectKey::new("default", pod);
        match self.unserved.iter().find(|(unserved, _)| *unserved == key) {
            Some((_, why)) => why,
            None => panic!("{pod} is served: {self:#?}"),
        }
    }

    fn types(&self) -> Vec<&str> {
        let mut types: Vec<&str> = (self.nodes.iter())
            .map(|node| node.offering.instance_type.as_str())
            .collect();
        types.sort_unstable();
        types
    }

    fn together(&self, pods: &[&str]) -> bool {
        let first = self.target(pods[0]);
        first.is_some() && pods.iter().all(|pod| self.target(pod) == first)
    }
}
