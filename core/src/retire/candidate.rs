//! What decides about one node before anything is simulated: its pods, how much of it is used, and
//! what forbids its removal whatever the reason.

use std::collections::{BTreeMap, BTreeSet};

use super::{BUFFER, FETCH_DEADLINE};
use crate::amount::{self, Resources};
use crate::cache::Item;
use crate::money::Millis;
use crate::node::{Node, NodeState};
use crate::offer::CapacityType;
use crate::plan::{Plan, Target};
use crate::pod::{Eviction, ObjectKey, Phase, Pod, Progress};
use crate::pool::{DisruptionReason, GpuPacking, NodePool};
use crate::prefetch::trusted;
use crate::reason::Kept;
use crate::snapshot::{Policy, Snapshot};

/// A node of one of our pools that is not leaving.
pub(super) struct Facts<'a> {
    pub(super) node: &'a Node,
    pub(super) pool: &'a NodePool,
    /// Running pods that would be evicted.
    pub(super) running: Vec<&'a Pod>,
    /// Pods that are being deleted and will be made again under the same name.
    returning: Vec<&'a Pod>,
    /// Pods that stand for a buffer and are meant for this node.
    buffers: Vec<&'a Pod>,
    /// What forbids its removal, if anything does.
    obstacle: Option<Kept>,
    usage: Usage,
    /// Since when its pods have been the same, as far as is known.
    settled: Millis,
}

/// How much of a node is used.
struct Usage {
    percent: u32,
    threshold: u32,
}

/// What a reason says about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may be retired for it.
    Applies,
    /// It may not, and this is why it stays.
    Kept(Kept),
    /// The reason has nothing to do with it.
    No,
}

impl<'a> Facts<'a> {
    /// Everything that has to find another place.
    pub(super) fn pods(&self) -> impl Iterator<Item = &'a Pod> {
        let pods = self.running.iter().chain(&self.returning);
        pods.chain(&self.buffers).copied()
    }

    pub(super) fn is_spot(&self) -> bool {
        let offering = self.node.offering.as_ref();
        offering.is_some_and(|key| key.capacity_type == CapacityType::Spot)
    }

    pub(super) fn is_expired(&self, now: Millis) -> bool {
        let most = self.pool.disruption.expire_after;
        most.is_some_and(|most| now - self.node.created >= most)
    }

    pub(super) fn is_drifted(&self) -> bool {
        self.node.disruption.drift.is_some()
    }

    /// Whether the node may be retired for `reason`, as far as it alone decides.
    pub(super) fn verdict(&self, reason: DisruptionReason, now: Millis) -> Verdict {
        if let Some(obstacle) = &self.obstacle {
            return Verdict::Kept(obstacle.clone());
        }
        let standby = matches!(self.node.state, NodeState::Standby { .. });
        let settings = &self.pool.disruption;
        let disruption = &self.node.disruption;
        let holds = |condition: bool| {
            if condition {
                Verdict::Applies
            } else {
                Verdict::No
            }
        };
        let after = |since: Option<Millis>| {
            let since = since.map_or(Millis(0), |moment| now - moment.max(self.settled));
            if since >= settings.after {
                Verdict::Applies
            } else {
                Verdict::Kept(Kept::TooSoon {
                    since,
                    after: settings.after,
                })
            }
        };
        let is_empty = self.running.is_empty() && self.returning.is_empty();
        match reason {
            DisruptionReason::Expired => holds(self.is_expired(now)),
            DisruptionReason::Drifted => holds(self.is_drifted()),
            _ if standby => Verdict::Kept(Kept::Standby),
            DisruptionReason::Empty if !is_empty => Verdict::No,
            DisruptionReason::Empty => match self.buffers.first() {
                Some(buffer) => Verdict::Kept(Kept::Nominated(buffer.key.clone())),
                None => after(disruption.empty_since),
            },
            DisruptionReason::Underused if is_empty => Verdict::No,
            DisruptionReason::Underused => match self.buffers.first() {
                _ if self.usage.percent >= self.usage.threshold => Verdict::Kept(Kept::Used {
                    percent: self.usage.percent,
                    threshold: self.usage.threshold,
                }),
                Some(buffer) => Verdict::Kept(Kept::Nominated(buffer.key.clone())),
                None => after(disruption.underused_since),
            },
            DisruptionReason::Replaceable => match self.node.price {
                Some(_) if self.pods().next().is_some() => after(Some(self.node.created)),
                _ => Verdict::No,
            },
        }
    }
}

/// What is to be known of every node of our pools, and why the nodes of others stay. Nodes that are
/// leaving or being replaced are in neither.
pub(super) fn facts<'a>(
    snapshot: &'a Snapshot,
    policy: &Policy,
    plan: &'a Plan,
) -> (BTreeMap<&'a str, Facts<'a>>, BTreeMap<&'a str, Kept>) {
    let pools: BTreeMap<&str, &NodePool> = snapshot
        .pools
        .iter()
        .map(|pool| (pool.name.as_str(), pool))
        .collect();
    let mut bound: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in &snapshot.pods {
        if let Phase::Bound { node, .. } = &pod.phase {
            bound.entry(node).or_default().push(pod);
        }
    }
    let nominated = nominations(snapshot, plan);
    let awaited = awaited(snapshot);
    let (mut facts, mut kept) = (BTreeMap::new(), BTreeMap::new());
    for node in &snapshot.nodes {
        if node.state == NodeState::Leaving || node.disruption.replaced {
            continue;
        }
        let Some(pool) = node.pool.as_deref().and_then(|name| pools.get(name)) else {
            kept.insert(node.name.as_str(), Kept::Foreign);
            continue;
        };
        let mut pods = bound.remove(node.name.as_str()).unwrap_or_default();
        pods.sort_by_key(|pod| &pod.key);
        let meant = nominated.get(node.name.as_str()).map_or(&[][..], |p| p);
        let mut it = Facts {
            node,
            pool,
            running: Vec::new(),
            returning: Vec::new(),
            buffers: meant.iter().copied().filter(|pod| is_buffer(pod)).collect(),
            obstacle: None,
            usage: usage(snapshot, node, pool, &pods),
            settled: node.created,
        };
        for pod in &pods {
            match progress(pod) {
                _ if pod.shape.eviction == Eviction::Daemon => continue,
                Progress::Running | Progress::Starting => it.running.push(pod),
                Progress::Terminating if is_made_again(pod) => it.returning.push(pod),
                Progress::Terminating => {}
            }
            it.settled = it.settled.max(pod.created);
        }
        let fetching = trusted(snapshot, policy, node)
            .is_some_and(|inventory| inventory.fetching.iter().any(|item| awaited.contains(item)));
        it.obstacle = obstacle(&it, meant, fetching.then_some(snapshot.now));
        facts.insert(node.name.as_str(), it);
    }
    (facts, kept)
}

/// What forbids the removal of a node for whatever reason. `fetching` is the moment at which it was
/// seen fetching for a pod that waits.
fn obstacle(facts: &Facts<'_>, meant: &[&Pod], fetching: Option<Millis>) -> Option<Kept> {
    let node = facts.node;
    if node.disruption.forbidden {
        return Some(Kept::NodeForbids);
    }
    if matches!(
        node.state,
        NodeState::Starting { .. } | NodeState::InFlight { .. }
    ) {
        return Some(Kept::Starting);
    }
    if let Some(pod) = meant.iter().find(|pod| !is_buffer(pod)) {
        return Some(Kept::Nominated(pod.key.clone()));
    }
    if let Some(now) = fetching {
        let idle = node
            .disruption
            .empty_since
            .or(node.disruption.underused_since);
        if idle.is_none_or(|since| now - since < FETCH_DEADLINE) {
            return Some(Kept::Starting);
        }
    }
    let find = |wanted: &dyn Fn(&&&Pod) -> bool| facts.running.iter().find(wanted);
    if let Some(pod) = find(&|pod| progress(pod) == Progress::Starting) {
        return Some(Kept::PodStarting(pod.key.clone()));
    }
    let fixed = |pod: &&&Pod| matches!(pod.shape.eviction, Eviction::Forbidden | Eviction::Bare);
    find(&fixed).map(|pod| Kept::PodForbids(pod.key.clone()))
}

/// Waiting pods by the node that they are about to use, by name.
fn nominations<'a>(snapshot: &'a Snapshot, plan: &'a Plan) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut on: BTreeMap<&ObjectKey, &str> = BTreeMap::new();
    for placement in &plan.placements {
        if let Target::Node(node) = &placement.target {
            on.insert(&placement.pod, node);
        }
    }
    let mut nominated: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in snapshot.pods.iter().filter(|p| p.phase == Phase::Pending) {
        if let Some(node) = on.get(&pod.key) {
            nominated.entry(node).or_default().push(pod);
        }
    }
    for pods in nominated.values_mut() {
        pods.sort_by_key(|pod| &pod.key);
    }
    nominated
}

/// Items that some pod waits for, wherever it goes.
fn awaited(snapshot: &Snapshot) -> BTreeSet<&Item> {
    let pods = snapshot.pods.iter();
    pods.filter(|pod| pod.phase == Phase::Pending)
        .flat_map(|pod| &pod.shape.items)
        .collect()
}

/// How far a bound pod is; one that waits counts as starting.
fn progress(pod: &Pod) -> Progress {
    match pod.phase {
        Phase::Bound { progress, .. } => progress,
        Phase::Pending => Progress::Starting,
    }
}

fn is_buffer(pod: &Pod) -> bool {
    let owner = pod.shape.owner.as_ref();
    owner.is_some_and(|owner| owner.kind == BUFFER)
}

/// Whether a pod that is being deleted comes back under its name: a StatefulSet waits for the old one
/// to be gone.
fn is_made_again(pod: &Pod) -> bool {
    let owner = pod.shape.owner.as_ref();
    owner.is_some_and(|owner| owner.kind == "StatefulSet")
}

/// How much of a node its pods ask for: of its GPUs if it has some, else of CPU or memory, whichever
/// is more. Daemons and pods that are going do not count.
fn usage(snapshot: &Snapshot, node: &Node, pool: &NodePool, pods: &[&Pod]) -> Usage {
    let counting: Vec<&&Pod> = pods
        .iter()
        .filter(|pod| pod.shape.eviction != Eviction::Daemon)
        .filter(|pod| progress(pod) != Progress::Terminating)
        .collect();
    let mut asked = Resources::new();
    counting
        .iter()
        .for_each(|pod| asked.add(&pod.shape.requests));
    let share = |name: &str| {
        let (asked, there) = (asked.of(name).max(0), node.allocatable.of(name).max(0));
        let percent = match there {
            0 => i128::from(asked > 0) * 100,
            _ => i128::from(asked) * 100 / i128::from(there),
        };
        u32::try_from(percent).unwrap_or(u32::MAX)
    };
    let gpus = gpus(snapshot, node);
    let percent = if gpus.is_empty() {
        share(amount::CPU).max(share(amount::MEMORY))
    } else {
        gpus.iter().map(|name| share(name)).max().unwrap_or(0)
    };
    let settings = &pool.disruption;
    let dedicated = matches!(counting[..], [pod] if is_dedicated(pool, pod, gpus.iter().copied()));
    let threshold = if dedicated {
        settings.underused_dedicated_percent
    } else {
        settings.underused_shared_percent
    };
    Usage { percent, threshold }
}

/// Whether a pool gives this pod a node of its own.
fn is_dedicated<'n>(pool: &NodePool, pod: &Pod, mut gpus: impl Iterator<Item = &'n str>) -> bool {
    let asks = |name: &str| pod.shape.requests.of(name);
    let over = |least: Option<i64>, name| least.is_some_and(|least| asks(name) >= least);
    over(pool.packing.dedicated_cpu, amount::CPU)
        || over(pool.packing.dedicated_memory, amount::MEMORY)
        || (pool.packing.gpu == GpuPacking::Dedicated && gpus.any(|name| asks(name) > 0))
}

/// The accelerators of a node, by resource name: what its type says, or else what is usual.
fn gpus<'a>(snapshot: &'a Snapshot, node: &'a Node) -> BTreeSet<&'a str> {
    let kind = node.offering.as_ref().and_then(|key| {
        let mut types = snapshot.types.iter();
        types.find(|kind| kind.name == key.instance_type)
    });
    let own = kind.and_then(|kind| kind.gpu.as_ref());
    let mut names: BTreeSet<&str> = node
        .allocatable
        .iter()
        .filter(|(name, there)| *there > 0 && is_accelerator(name))
        .map(|(name, _)| name)
        .collect();
    names.extend(own.map(|gpu| gpu.resource.as_str()));
    names
}

fn is_accelerator(name: &str) -> bool {
    name.ends_with("/gpu")
        || name.starts_with("nvidia.com/mig-")
        || name.starts_with("aws.amazon.com/neuron")
        || name.starts_with("gpu.intel.com/")
        || name == "google.com/tpu"
}
