//! Nodes: what they have, what they are, and where they are in their life.
//!
//! A young node is not what it will be: its startup taints go away, and a GPU that its labels promise
//! appears in its allocatable only when the device plugin runs. Whether a node is young is known when
//! the snapshot is taken.

use std::collections::BTreeMap;

use headstart_core::amount::{self, NVIDIA_GPU, Resources};
use headstart_core::label::{self, Labels, Taint};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{CapacityType, OfferingKey, Rates};
use headstart_core::pool::NodePool;
use k8s_openapi::api::core::v1 as core;

use super::alias;
use super::finding::{Findings, Subject};
use super::object::{Objects, Placed};
use super::pods::{created, labels};
use super::{pool, requests, select};

/// For how long a node may take to become ready; after that it is broken. Karpenter's time for
/// registration.
const YOUTH: Millis = Millis::from_secs(15 * 60);

/// Taints that something takes away from every new node.
const EPHEMERAL: [&str; 6] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "karpenter.sh/unregistered",
    "node.cilium.io/agent-not-ready",
    "ebs.csi.aws.com/agent-not-ready",
];

/// Beginnings of keys of taints that go away by themselves.
const EPHEMERAL_PREFIXES: [&str; 2] = [
    "readiness.k8s.io/",
    "startup-taint.cluster-autoscaler.kubernetes.io/",
];

/// Taints of a node that is to go.
const FAREWELL: [&str; 4] = [
    "node.kubernetes.io/unschedulable",
    "karpenter.sh/disrupted",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
];

/// Labels that say that a node once had all it should have.
const INITIALISED: [&str; 2] = ["headstart.dev/initialized", "karpenter.sh/initialized"];

/// Annotations that forbid its removal.
const KEEP: [&str; 3] = [
    "headstart.dev/do-not-evict",
    "karpenter.sh/do-not-disrupt",
    "cluster-autoscaler.kubernetes.io/scale-down-disabled",
];

/// A node as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    node: Node,
    readiness: Readiness,
    /// What its labels say it will have and does not have yet.
    promised: Resources,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    NotReady,
    /// It was ready once.
    Lost,
    Leaving,
}

/// All nodes.
pub(crate) fn all(objects: &Objects, pools: &[pool::Read], findings: &Findings) -> Vec<Seen> {
    let limits: BTreeMap<&str, BTreeMap<String, u32>> = objects
        .csi_nodes
        .iter()
        .map(|placed| {
            let drivers = placed.object.spec.drivers.iter().filter_map(|driver| {
                let count = driver.allocatable.as_ref()?.count?;
                Some((driver.name.clone(), u32::try_from(count).ok()?))
            });
            (placed.name.as_str(), drivers.collect())
        })
        .collect();
    objects
        .nodes
        .iter()
        .filter_map(|placed| {
            let limits = limits
                .get(placed.name.as_str())
                .cloned()
                .unwrap_or_default();
            one(placed, limits, pools, &findings.about(&placed.place))
        })
        .collect()
}

/// One node, with how many volumes it attaches by driver.
pub(crate) fn one(
    placed: &Placed<core::Node>,
    volume_limits: BTreeMap<String, u32>,
    pools: &[pool::Read],
    subject: &Subject<'_>,
) -> Option<Seen> {
    let nothing = core::NodeSpec::default();
    let spec = placed.object.spec.as_ref().unwrap_or(&nothing);
    let metadata = &placed.object.metadata;
    let status = placed.object.status.as_ref();
    let given = status.map(|status| match &status.allocatable {
        Some(_) => (&status.allocatable, "status.allocatable"),
        None => (&status.capacity, "status.capacity"),
    });
    let Some((amounts, field)) = given.filter(|(amounts, _)| amounts.is_some()) else {
        subject
            .at("status.allocatable")
            .problem("is missing; say what pods can have of the node");
        return None;
    };
    let mut allocatable = requests::amounts(amounts, &subject.at(field));
    if allocatable.iter().all(|(name, _)| name != amount::PODS) {
        // The kubelet's own default, for a node that somebody wrote down.
        allocatable.set(amount::PODS, 110);
    }
    let mut labels = labels(metadata);
    alias::add_ours(&mut labels);
    let hostname = labels.entry(label::HOSTNAME.to_owned());
    hostname.or_insert_with(|| placed.name.clone());
    let pool = labels.get(label::NODE_POOL).cloned();
    let mut pools = pools.iter().map(|read| &read.pool);
    let of_pool = pools.find(|known| Some(&known.name) == pool.as_ref());
    let initialised = INITIALISED
        .iter()
        .any(|key| labels.get(*key).is_some_and(|value| value == "true"));
    let (mut taints, mut startup_taints) = (Vec::new(), Vec::new());
    let mut farewell = spec.unschedulable == Some(true) || metadata.deletion_timestamp.is_some();
    for (index, found) in spec.taints.iter().flatten().enumerate() {
        let at = subject.at("spec.taints").nth(index);
        let value = found.value.as_deref().unwrap_or_default();
        let Some(taint) = select::taint(&found.key, value, &found.effect, &at) else {
            continue;
        };
        farewell |= FAREWELL[..3].contains(&taint.key.as_str());
        if !initialised && goes_away(&taint, of_pool) {
            startup_taints.push(taint);
        } else if !FAREWELL.contains(&taint.key.as_str()) {
            taints.push(taint);
        }
    }
    let readiness = match (farewell, is_ready(status)) {
        (true, _) => Readiness::Leaving,
        (_, true) => Readiness::Ready,
        (_, false) if initialised => Readiness::Lost,
        _ => Readiness::NotReady,
    };
    let promised = promised(&labels, &allocatable);
    let annotations = metadata.annotations.as_ref();
    let forbidden = KEEP.iter().any(|key| {
        let value = annotations.and_then(|all| all.get(*key));
        value.is_some_and(|value| value == "true")
    });
    Some(Seen {
        node: Node {
            name: placed.name.clone(),
            offering: offering(&labels),
            pool: of_pool.map(|pool| pool.name.clone()),
            labels,
            taints,
            startup_taints,
            allocatable,
            volume_limits,
            state: NodeState::Running,
            price: None,
            rates: Rates::default(),
            created: created(metadata),
            disruption: NodeDisruption {
                forbidden,
                ..NodeDisruption::default()
            },
        },
        readiness,
        promised,
    })
}

impl Seen {
    /// The node as it is at `now`.
    pub(crate) fn at(self, now: Millis) -> Node {
        let Self {
            mut node,
            readiness,
            promised,
        } = self;
        if node.created == Millis(0) {
            node.created = now;
        }
        let young = now - node.created < YOUTH;
        let incomplete = !promised.is_empty() || !node.startup_taints.is_empty();
        let starting = NodeState::Starting { expected: now };
        node.state = match readiness {
            Readiness::Leaving | Readiness::Lost => NodeState::Leaving,
            Readiness::NotReady if young => starting,
            Readiness::NotReady => NodeState::Leaving,
            Readiness::Ready if young && incomplete => starting,
            Readiness::Ready => NodeState::Running,
        };
        if matches!(node.state, NodeState::Starting { .. }) {
            node.allocatable.raise(&promised);
        } else {
            // What has not gone away by now stays.
            node.taints.append(&mut node.startup_taints);
        }
        node
    }
}

fn goes_away(taint: &Taint, pool: Option<&NodePool>) -> bool {
    let key = taint.key.as_str();
    let of_pool = |pool: &NodePool| {
        let same = |other: &Taint| other.key == taint.key && other.effect == taint.effect;
        pool.startup_taints.iter().any(same)
    };
    EPHEMERAL.contains(&key)
        || EPHEMERAL_PREFIXES
            .iter()
            .any(|prefix| key.starts_with(prefix))
        || pool.is_some_and(of_pool)
}

/// A node without conditions is one that somebody wrote down: it is ready.
fn is_ready(status: Option<&core::NodeStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    ready.is_none_or(|condition| condition.status == "True")
}

/// GPUs that the labels count and the device plugin has not reported.
fn promised(labels: &Labels, allocatable: &Resources) -> Resources {
    let count = [
        label::GPU_COUNT,
        "nvidia.com/gpu.count",
        "cloud.google.com/gke-accelerator-count",
    ]
    .iter()
    .find_map(|key| labels.get(*key)?.parse::<i64>().ok());
    let other = allocatable
        .iter()
        .any(|(name, amount)| amount > 0 && (name.ends_with("/gpu") || name.contains("/mig-")));
    match count {
        Some(count @ 1..=64) if !other => Resources::new().with(NVIDIA_GPU, count),
        _ => Resources::new(),
    }
}

/// What was bought, where the labels say so; on demand unless they say otherwise.
fn offering(labels: &Labels) -> Option<OfferingKey> {
    let capacity_type = match labels.get(label::CAPACITY_TYPE) {
        Some(found) => found.parse().ok()?,
        None => CapacityType::OnDemand,
    };
    Some(OfferingKey {
        instance_type: labels.get(label::INSTANCE_TYPE)?.clone(),
        zone: labels.get(label::ZONE)?.clone(),
        capacity_type,
    })
}
