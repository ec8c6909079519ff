//! The world, compiled and kept: what the daemon updates by watch events and plans from, round after
//! round, without building anew what did not change.
//!
//! Pods are held by shape, nodes by class (equal labels and taints), so that a question about 100,000
//! pods or 5,000 nodes is asked once per distinct answer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::cache::{Inventory, Item, ItemSize};
use crate::label::{self, Labels, Taint};
use crate::market::{Dims, Market, NodeTaints, untolerated};
use crate::money::Millis;
use crate::node::{Node, NodeState};
use crate::offer::{InstanceType, Offering};
use crate::pod::{Eviction, Group, HostPort, ObjectKey, Phase, Pod, Progress, Shape};
use crate::pool::NodePool;
use crate::prefetch::is_believable;
use crate::snapshot::{Policy, Snapshot};

/// The number of an interned shape.
pub(crate) type ShapeId = usize;

/// How many shapes without a pod are kept before they are dropped.
const SPARE_SHAPES: usize = 256;

/// The compiled world.
pub struct World {
    pub(crate) policy: Policy,
    pub(crate) now: Millis,
    pub(crate) dims: Dims,
    pub(crate) market: Market,
    pub(crate) shapes: Vec<Arc<Shape>>,
    pub(crate) slots: BTreeMap<String, Slot>,
    pub(crate) pending: BTreeMap<ObjectKey, Waiting>,
    pub(crate) groups: BTreeMap<ObjectKey, Group>,
    pub(crate) inventories: BTreeMap<String, Inventory>,
    pub(crate) items: BTreeMap<Item, ItemSize>,
    pub(crate) nominations: BTreeMap<ObjectKey, String>,
    pub(crate) classes: Vec<Class>,
    shape_ids: HashMap<Arc<Shape>, ShapeId>,
    class_ids: HashMap<Class, usize>,
    bound: HashMap<ObjectKey, (String, ShapeId, Progress)>,
    daemons: Vec<Shape>,
    /// The number of shapes at which unused ones are looked for.
    compact_at: usize,
}

/// A pod that waits.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) created: Millis,
    pub(crate) shape: ShapeId,
}

/// Nodes that look the same to a pod, but for their host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Class {
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
}

/// One node name: the node, if it is known, and the pods bound to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot {
    pub(crate) node: Option<Node>,
    pub(crate) class: usize,
    /// Pods by shape: those that count for selectors, and those being deleted.
    pub(crate) pods: BTreeMap<ShapeId, Bound>,
    /// What is free for pods, daemons that are still to come taken off.
    pub(crate) free: Box<[i64]>,
    /// Host ports in use, those of daemons still to come included.
    pub(crate) ports: Vec<HostPort>,
    /// Shapes of its pods that have volumes.
    pub(crate) attached: Vec<ShapeId>,
}

/// How many pods of one shape a node runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bound {
    pub(crate) live: u32,
    pub(crate) leaving: u32,
}

impl World {
    /// Compiles a snapshot.
    pub fn new(snapshot: &Snapshot, policy: &Policy) -> Self {
        let mut dims = Dims::new();
        for pod in &snapshot.pods {
            for (name, amount) in pod.shape.requests.iter() {
                if amount > 0 {
                    dims.intern(name);
                }
            }
        }
        let market = Market::new(
            &dims,
            policy.priors,
            snapshot.pools.clone(),
            snapshot.types.clone(),
            snapshot.offerings.clone(),
            &snapshot.daemons,
        );
        let mut world = Self {
            policy: policy.clone(),
            now: snapshot.now,
            dims,
            market,
            shapes: Vec::new(),
            slots: BTreeMap::new(),
            pending: BTreeMap::new(),
            groups: snapshot
                .groups
                .iter()
                .map(|group| (group.key.clone(), group.clone()))
                .collect(),
            inventories: snapshot.inventories.clone(),
            items: snapshot.items.clone(),
            nominations: snapshot.nominations.clone(),
            classes: Vec::new(),
            shape_ids: HashMap::new(),
            class_ids: HashMap::new(),
            bound: HashMap::new(),
            daemons: snapshot.daemons.clone(),
            compact_at: 0,
        };
        for pod in &snapshot.pods {
            world.place_pod(pod);
        }
        for node in &snapshot.nodes {
            world.slots.entry(node.name.clone()).or_default().node = Some(node.clone());
        }
        let names: Vec<String> = world.slots.keys().cloned().collect();
        names.iter().for_each(|name| world.refresh(name));
        world.compact_at = 2 * world.shapes.len() + SPARE_SHAPES;
        world
    }

    /// Moves time on.
    pub fn set_now(&mut self, now: Millis) {
        self.now = now;
    }

    /// Takes a pod as it is now: new, moved, or changed.
    pub fn set_pod(&mut self, pod: &Pod) {
        let before = self.forget_pod(&pod.key);
        let after = self.place_pod(pod);
        for name in before.iter().chain(&after) {
            self.refresh(name);
        }
        self.compact();
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, key: &ObjectKey) {
        if let Some(name) = self.forget_pod(key) {
            self.refresh(&name);
        }
        self.compact();
    }

    /// Takes a node as it is now.
    pub fn set_node(&mut self, node: Node) {
        let name = node.name.clone();
        self.slots.entry(name.clone()).or_default().node = Some(node);
        self.refresh(&name);
    }

    /// Forgets a node. Pods bound to it stay bound to its name until they are removed.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.node = None;
            if slot.pods.is_empty() {
                self.slots.remove(name);
            }
        }
    }

    /// Takes what a node's agent reported, or that it reports nothing any more.
    pub fn set_inventory(&mut self, node: &str, inventory: Option<Inventory>) {
        match inventory {
            Some(inventory) => self.inventories.insert(node.to_owned(), inventory),
            None => self.inventories.remove(node),
        };
    }

    /// Takes what can be bought now, and what every node runs.
    pub fn set_market(
        &mut self,
        pools: Vec<NodePool>,
        types: Vec<InstanceType>,
        offerings: Vec<Offering>,
        daemons: Vec<Shape>,
    ) {
        self.market = Market::new(
            &self.dims,
            self.policy.priors,
            pools,
            types,
            offerings,
            &daemons,
        );
        if daemons != self.daemons {
            self.daemons = daemons;
            self.refresh_all();
        }
    }

    /// Takes the groups, sizes and nominations as they are now.
    pub fn set_demand(
        &mut self,
        groups: Vec<Group>,
        items: BTreeMap<Item, ItemSize>,
        nominations: BTreeMap<ObjectKey, String>,
    ) {
        self.groups = groups
            .into_iter()
            .map(|group| (group.key.clone(), group))
            .collect();
        self.items = items;
        self.nominations = nominations;
    }

    /// What the node's agent reported, if it can be believed.
    pub(crate) fn believed(&self, node: &Node) -> Option<&Inventory> {
        self.inventories
            .get(&node.name)
            .filter(|inventory| is_believable(inventory, node, self.now, &self.policy))
    }

    fn intern(&mut self, shape: &Shape) -> ShapeId {
        if let Some(id) = self.shape_ids.get(shape) {
            return *id;
        }
        let shape = Arc::new(shape.clone());
        self.shapes.push(Arc::clone(&shape));
        self.shape_ids.insert(shape, self.shapes.len() - 1);
        self.shapes.len() - 1
    }

    fn place_pod(&mut self, pod: &Pod) -> Option<String> {
        let known = self.dims.len();
        for (name, amount) in pod.shape.requests.iter() {
            if amount > 0 {
                self.dims.intern(name);
            }
        }
        if self.dims.len() > known {
            self.market.fill(&self.dims, &self.daemons);
            self.refresh_all();
        }
        let shape = self.intern(&pod.shape);
        match &pod.phase {
            // A daemon's pod goes to the node it was made for, where room is kept for it.
            Phase::Pending if pod.shape.eviction == Eviction::Daemon => None,
            Phase::Pending => {
                self.pending.insert(
                    pod.key.clone(),
                    Waiting {
                        created: pod.created,
                        shape,
                    },
                );
                None
            }
            Phase::Bound { node, progress } => {
                let counts = self
                    .slots
                    .entry(node.clone())
                    .or_default()
                    .pods
                    .entry(shape)
                    .or_default();
                *counts.of(*progress) += 1;
                self.bound
                    .insert(pod.key.clone(), (node.clone(), shape, *progress));
                Some(node.clone())
            }
        }
    }

    fn forget_pod(&mut self, key: &ObjectKey) -> Option<String> {
        self.pending.remove(key);
        let (node, shape, progress) = self.bound.remove(key)?;
        let slot = self.slots.get_mut(&node)?;
        let counts = slot.pods.get_mut(&shape)?;
        *counts.of(progress) -= 1;
        if counts.live + counts.leaving == 0 {
            slot.pods.remove(&shape);
        }
        if slot.pods.is_empty() && slot.node.is_none() {
            self.slots.remove(&node);
        }
        Some(node)
    }

    /// Drops shapes that no pod has any more, once they are the greater part.
    fn compact(&mut self) {
        if self.shapes.len() < self.compact_at {
            return;
        }
        let used: BTreeSet<ShapeId> = self
            .pending
            .values()
            .map(|waiting| waiting.shape)
            .chain(self.bound.values().map(|(_, shape, _)| *shape))
            .collect();
        self.compact_at = 2 * used.len() + SPARE_SHAPES;
        let renumbered: HashMap<ShapeId, ShapeId> = used
            .iter()
            .enumerate()
            .map(|(new, old)| (*old, new))
            .collect();
        self.shapes = used
            .iter()
            .map(|old| Arc::clone(&self.shapes[*old]))
            .collect();
        self.shape_ids = self.shapes.iter().cloned().zip(0..).collect();
        self.pending
            .values_mut()
            .for_each(|waiting| waiting.shape = renumbered[&waiting.shape]);
        self.bound
            .values_mut()
            .for_each(|(_, shape, _)| *shape = renumbered[shape]);
        for slot in self.slots.values_mut() {
            slot.attached.iter_mut().for_each(|id| *id = renumbered[id]);
            slot.pods = std::mem::take(&mut slot.pods)
                .into_iter()
                .map(|(old, bound)| (renumbered[&old], bound))
                .collect();
        }
    }

    fn refresh_all(&mut self) {
        let names: Vec<String> = self.slots.keys().cloned().collect();
        names.iter().for_each(|name| self.refresh(name));
    }

    /// Works out again what follows from a node and its pods.
    fn refresh(&mut self, name: &str) {
        let Some(slot) = self.slots.get(name) else {
            return;
        };
        let Some(node) = &slot.node else { return };
        let class = class_of(node);
        let mut free = self.dims.row(&node.allocatable);
        let (mut ports, mut attached) = (Vec::new(), Vec::new());
        let mut daemons_there = BTreeSet::new();
        for (id, counts) in &slot.pods {
            let shape = &self.shapes[*id];
            if !shape.volumes.is_empty() {
                attached.push(*id);
            }
            let number = i64::from(counts.live + counts.leaving);
            for (room, amount) in free.iter_mut().zip(&self.dims.asks(&shape.requests)) {
                *room = room.saturating_sub(amount.saturating_mul(number));
            }
            ports.extend(shape.host_ports.iter().cloned());
            if shape.eviction == Eviction::Daemon {
                daemons_there.insert((&shape.namespace, &shape.owner));
            }
        }
        for daemon in &self.daemons {
            let there = daemon.owner.is_some()
                && daemons_there.contains(&(&daemon.namespace, &daemon.owner));
            if there || !suits(daemon, &class, host_of(node), NodeTaints::Hard) {
                continue;
            }
            for (room, amount) in free.iter_mut().zip(&self.dims.asks(&daemon.requests)) {
                *room = room.saturating_sub(*amount);
            }
            ports.extend(daemon.host_ports.iter().cloned());
        }
        let class = match self.class_ids.get(&class) {
            Some(id) => *id,
            None => {
                self.classes.push(class.clone());
                self.class_ids.insert(class, self.classes.len() - 1);
                self.classes.len() - 1
            }
        };
        if let Some(slot) = self.slots.get_mut(name) {
            (slot.class, slot.free) = (class, free);
            (slot.ports, slot.attached) = (ports, attached);
        }
    }
}

impl Bound {
    fn of(&mut self, progress: Progress) -> &mut u32 {
        match progress {
            Progress::Terminating => &mut self.leaving,
            Progress::Starting | Progress::Running => &mut self.live,
        }
    }
}

/// The node's host name label; its name where it has none.
pub(crate) fn host_of(node: &Node) -> &str {
    node.labels.get(label::HOSTNAME).unwrap_or(&node.name)
}

fn class_of(node: &Node) -> Class {
    let mut labels = node.labels.clone();
    labels.remove(label::HOSTNAME);
    let mut taints = node.taints.clone();
    if node.state == NodeState::Running {
        taints.extend(node.startup_taints.iter().cloned());
    }
    taints.sort();
    Class { labels, taints }
}

/// Whether a node of this class and host name could run a pod of this shape when empty and large
/// enough: selector, affinity, taints, volumes.
pub(crate) fn suits(shape: &Shape, class: &Class, host: &str, taints: NodeTaints) -> bool {
    let value = |key: &str| match key {
        label::HOSTNAME => Some(host),
        _ => class.labels.get(key).map(String::as_str),
    };
    let any = |terms: &[label::Term]| {
        terms.is_empty()
            || terms
                .iter()
                .any(|t| !t.0.is_empty() && t.0.iter().all(|e| e.matches(value(&e.key))))
    };
    shape
        .node_selector
        .iter()
        .all(|(key, wanted)| value(key) == Some(wanted))
        && any(&shape.node_affinity)
        && shape
            .volumes
            .iter()
            .all(|volume| any(&volume.node_affinity))
        && untolerated(&class.taints, &shape.tolerations, taints).is_none()
}

#[cfg(test)]
mod tests;
