//! What is planned with, kept up to date by events: the snapshot as plain data, and the same compiled.
//!
//! An object that is as it was costs nothing. Items are replaced by what they were resolved to as soon
//! as the resolver knows; one that is not resolved stays as it was written and is not fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use headstart_api::names;
use headstart_core::cache::{Inventory, Item, ItemSize};
use headstart_core::label::ARCH;
use headstart_core::money::Millis;
use headstart_core::node::Node;
use headstart_core::offer::{Arch, InstanceType, Offering};
use headstart_core::plan::{Plan, Prefetch};
use headstart_core::pod::{Group, ObjectKey, Phase, Pod, Shape, SharedShape};
use headstart_core::pool::NodePool;
use headstart_core::prefetch::prefetch;
use headstart_core::snapshot::{Policy, Snapshot, Wish};
use headstart_core::world::World;

use crate::manifest::book::Book;
use crate::plan::items::assumed;
use crate::resolve::Resolved;

/// Most items whose sizes are remembered before those that nobody uses are forgotten.
const MOST_ITEMS: usize = 4096;

/// How many shapes without a pod are kept before they are dropped.
const SPARE_SHAPES: usize = 256;

/// Finds what a tag or a branch stands for, and how many bytes that is.
pub(crate) trait Resolve: Send + Sync {
    /// What is known of an item now. What is not known is looked up in the background.
    fn look_up(&self, item: &Item) -> Option<Resolved>;

    /// Whether the first answer about an item is on its way.
    fn is_asking(&self, item: &Item) -> bool;
}

/// The world as it is planned with.
pub(super) struct Mind {
    pub(super) snapshot: Snapshot,
    pub(super) policy: Policy,
    world: Option<World>,
    resolver: Arc<dyn Resolve>,
    pods: HashMap<ObjectKey, usize>,
    nodes: HashMap<String, usize>,
    /// The claims of nodes.
    claims: HashMap<String, String>,
    /// One of each that pods have.
    shapes: HashSet<SharedShape>,
    /// The number of shapes at which unused ones are looked for.
    compact_at: usize,
    /// Pods with an item that is not resolved.
    unresolved: BTreeSet<ObjectKey>,
    /// Names under which pods ask for what was resolved.
    pub(super) names: BTreeMap<Item, String>,
    /// Whether pods that name no architecture are planned for amd64.
    pins_arch: bool,
    demand_changed: bool,
}

impl Mind {
    pub(super) fn new(policy: Policy, resolver: Arc<dyn Resolve>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            policy,
            world: None,
            resolver,
            pods: HashMap::new(),
            nodes: HashMap::new(),
            claims: HashMap::new(),
            shapes: HashSet::new(),
            compact_at: SPARE_SHAPES,
            unresolved: BTreeSet::new(),
            names: BTreeMap::new(),
            pins_arch: false,
            demand_changed: true,
        }
    }

    /// A pod, if it is planned with.
    pub(super) fn pod(&self, key: &ObjectKey) -> Option<&Pod> {
        self.pods.get(key).map(|index| &self.snapshot.pods[*index])
    }

    /// Whether a pod that is planned with has an item that is not resolved.
    pub(super) fn is_unresolved(&self, key: &ObjectKey) -> bool {
        self.unresolved.contains(key)
    }

    /// Whether what one of a pod's items stands for is being asked, and not known at all.
    pub(super) fn is_about_to_know(&self, key: &ObjectKey) -> bool {
        let items = self.pod(key).filter(|_| self.is_unresolved(key));
        let mut items = items.iter().flat_map(|pod| &pod.shape.items);
        items.any(|item| !item.is_pinned() && self.resolver.is_asking(item))
    }

    /// A node, if it is planned with.
    pub(super) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes
            .get(name)
            .map(|index| &self.snapshot.nodes[*index])
    }

    /// Takes a pod as it is now.
    pub(super) fn set_pod(&mut self, mut pod: Pod) {
        self.resolve(&mut pod);
        if self.pins_arch && pod.phase == Phase::Pending {
            pin_arch(&mut pod.shape);
        }
        self.share(&mut pod.shape);
        let slot = self.pods.get(&pod.key).copied();
        if slot.is_some_and(|index| self.snapshot.pods[index] == pod) {
            return;
        }
        if let Some(world) = &mut self.world {
            world.set_pod(&pod);
        }
        match slot {
            Some(index) => self.snapshot.pods[index] = pod,
            None => {
                self.pods.insert(pod.key.clone(), self.snapshot.pods.len());
                self.snapshot.pods.push(pod);
            }
        }
    }

    /// Replicas have one shape, and one copy of it.
    fn share(&mut self, shape: &mut SharedShape) {
        if let Some(known) = self.shapes.get(shape) {
            return shape.clone_from(known);
        }
        self.shapes.insert(shape.clone());
        if self.shapes.len() > self.compact_at {
            self.shapes.retain(SharedShape::is_shared);
            self.compact_at = 2 * self.shapes.len() + SPARE_SHAPES;
        }
    }

    /// Forgets a pod.
    pub(super) fn remove_pod(&mut self, key: &ObjectKey) {
        let Some(index) = self.pods.remove(key) else {
            return;
        };
        self.snapshot.pods.swap_remove(index);
        if let Some(moved) = self.snapshot.pods.get(index) {
            self.pods.insert(moved.key.clone(), index);
        }
        self.unresolved.remove(key);
        if let Some(world) = &mut self.world {
            world.remove_pod(key);
        }
    }

    /// The claim that a node was bought by.
    pub(super) fn claim_of(&self, node: &str) -> Option<&str> {
        self.claims.get(node).map(String::as_str)
    }

    /// Takes a node as it is now. The label that names its claim is kept apart: with it no two nodes
    /// would look the same to a pod, and every one would be asked by itself.
    pub(super) fn set_node(&mut self, mut node: Node) {
        match node.labels.remove(names::NODE_CLAIM) {
            Some(claim) => self.claims.insert(node.name.clone(), claim),
            None => self.claims.remove(&node.name),
        };
        let slot = self.nodes.get(&node.name).copied();
        if slot.is_some_and(|index| self.snapshot.nodes[index] == node) {
            return;
        }
        if let Some(world) = &mut self.world {
            world.set_node(node.clone());
        }
        match slot {
            Some(index) => self.snapshot.nodes[index] = node,
            None => {
                let index = self.snapshot.nodes.len();
                self.nodes.insert(node.name.clone(), index);
                self.snapshot.nodes.push(node);
            }
        }
    }

    /// Forgets a node.
    pub(super) fn remove_node(&mut self, name: &str) {
        self.claims.remove(name);
        let Some(index) = self.nodes.remove(name) else {
            return;
        };
        self.snapshot.nodes.swap_remove(index);
        if let Some(moved) = self.snapshot.nodes.get(index) {
            self.nodes.insert(moved.name.clone(), index);
        }
        if let Some(world) = &mut self.world {
            world.remove_node(name);
        }
    }

    /// Takes what a node's agent reported.
    pub(super) fn set_inventory(&mut self, node: &str, inventory: Option<Inventory>) {
        if self.snapshot.inventories.get(node) == inventory.as_ref() {
            return;
        }
        if let Some(world) = &mut self.world {
            world.set_inventory(node, inventory.clone());
        }
        match inventory {
            Some(it) => self.snapshot.inventories.insert(node.to_owned(), it),
            None => self.snapshot.inventories.remove(node),
        };
    }

    /// Takes what can be bought, and what every node runs. Says whether waiting pods must be read
    /// again.
    pub(super) fn set_market(
        &mut self,
        pools: Vec<NodePool>,
        types: Vec<InstanceType>,
        offerings: Vec<Offering>,
        daemons: Vec<Shape>,
    ) -> bool {
        let it = &mut self.snapshot;
        let same = (&it.pools, &it.types, &it.offerings, &it.daemons)
            == (&pools, &types, &offerings, &daemons);
        if same {
            return false;
        }
        (it.pools, it.types, it.offerings, it.daemons) = (pools, types, offerings, daemons);
        if let Some(world) = &mut self.world {
            world.set_market(
                it.pools.clone(),
                it.types.clone(),
                it.offerings.clone(),
                it.daemons.clone(),
            );
        }
        let pins = pins_arch(it);
        std::mem::replace(&mut self.pins_arch, pins) != pins
    }

    /// Takes the groups as they are now.
    pub(super) fn set_groups(&mut self, groups: Vec<Group>) {
        if self.snapshot.groups != groups {
            self.snapshot.groups = groups;
            self.demand_changed = true;
        }
    }

    /// Takes what is worth fetching without a pod.
    pub(super) fn set_wishes(&mut self, mut wishes: Vec<Wish>) {
        for wish in &mut wishes {
            self.look_up(&mut wish.item);
        }
        self.snapshot.wishes = wishes;
    }

    /// Takes where waiting pods are meant to go.
    pub(super) fn set_nominations(&mut self, nominations: BTreeMap<ObjectKey, String>) {
        if self.snapshot.nominations != nominations {
            self.snapshot.nominations = nominations;
            self.demand_changed = true;
        }
    }

    /// Asks the resolver again about what it did not know.
    pub(super) fn resolve_again(&mut self) {
        for key in std::mem::take(&mut self.unresolved) {
            if let Some(pod) = self.pod(&key).cloned() {
                self.set_pod(pod);
            }
        }
    }

    /// Plans the world as it is at `now`, and what nodes fetch then.
    pub(super) fn plan(&mut self, now: Millis) -> (Plan, Vec<Prefetch>) {
        self.snapshot.now = now;
        self.forget_items();
        let world = match &mut self.world {
            Some(world) => world,
            none => none.insert(World::new(&self.snapshot, &self.policy)),
        };
        world.set_now(now);
        if std::mem::take(&mut self.demand_changed) {
            world.set_demand(
                self.snapshot.groups.clone(),
                self.snapshot.items.clone(),
                self.snapshot.nominations.clone(),
            );
        }
        let plan = world.plan();
        let lists = prefetch(&self.snapshot, &self.policy, &plan);
        (plan, lists)
    }

    /// The snapshot as it is, to find out which nodes to give back. Pods share their shapes with it.
    pub(super) fn copy(&self, book: &Book) -> Snapshot {
        Snapshot {
            pod_budgets: book.budgets(&self.snapshot.pods),
            ..self.snapshot.clone()
        }
    }

    fn resolve(&mut self, pod: &mut Pod) {
        let mut all = true;
        for item in &mut pod.shape.items {
            all &= self.look_up(item);
        }
        if all {
            self.unresolved.remove(&pod.key);
        } else {
            self.unresolved.insert(pod.key.clone());
        }
    }

    /// Replaces an item by what it stands for; says whether that is known.
    fn look_up(&mut self, item: &mut Item) -> bool {
        if !self.snapshot.items.contains_key(item) || !item.is_pinned() {
            if let Some(Resolved { item: to, size }) = self.resolver.look_up(item) {
                if to != *item {
                    self.names
                        .insert(to.clone(), crate::plan::words::item(item));
                    *item = to;
                }
                self.size(item, size);
            } else if !self.snapshot.items.contains_key(item) {
                self.size(item, assumed(item));
            }
        }
        item.is_pinned()
    }

    fn size(&mut self, item: &Item, size: ItemSize) {
        if self.snapshot.items.get(item) != Some(&size) {
            self.snapshot.items.insert(item.clone(), size);
            self.demand_changed = true;
        }
    }

    /// Forgets the sizes of what nobody uses, once there are many.
    fn forget_items(&mut self) {
        if self.snapshot.items.len() <= MOST_ITEMS {
            return;
        }
        let pods = self.snapshot.pods.iter().flat_map(|pod| &pod.shape.items);
        let wishes = self.snapshot.wishes.iter().map(|wish| &wish.item);
        let used: BTreeSet<&Item> = pods.chain(wishes).collect();
        self.snapshot.items.retain(|item, _| used.contains(item));
        self.names.retain(|item, _| used.contains(item));
        self.demand_changed = true;
    }
}

/// Whether pods that name no architecture would get one that their images may not be built for: both
/// are sold, and no pool says which it wants.
fn pins_arch(snapshot: &Snapshot) -> bool {
    let named = |pool: &NodePool| pool.requirements.iter().any(|r| r.expression.key == ARCH);
    let sold = |arch| snapshot.types.iter().any(|kind| kind.arch == arch);
    sold(Arch::Arm64) && sold(Arch::Amd64) && !snapshot.pools.iter().any(named)
}

fn pin_arch(shape: &mut Shape) {
    let mut affinity = shape.node_affinity.iter().flat_map(|term| &term.0);
    if !affinity.any(|e| e.key == ARCH) && !shape.node_selector.contains_key(ARCH) {
        let amd64 = Arch::Amd64.as_str().to_owned();
        shape.node_selector.insert(ARCH.to_owned(), amd64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Resolve for Nobody {
        fn look_up(&self, _: &Item) -> Option<Resolved> {
            None
        }

        fn is_asking(&self, _: &Item) -> bool {
            false
        }
    }

    #[test]
    fn nodes_of_different_claims_look_the_same_and_their_claims_are_known() {
        let mut mind = Mind::new(Policy::default(), Arc::new(Nobody));
        let claim = headstart_api::NodeClaim::new("a", headstart_api::NodeClaimSpec::default());
        let mut node = super::super::claim::in_flight(&claim, Millis(1));
        node.labels = BTreeMap::from([
            ("zone".to_owned(), "a".to_owned()),
            (names::NODE_CLAIM.to_owned(), "a".to_owned()),
        ]);
        mind.set_node(node.clone());
        assert_eq!(mind.claim_of("a"), Some("a"));
        let kept = mind.node("a").map(|node| node.labels.len());
        assert_eq!(kept, Some(1));
        node.labels.remove(names::NODE_CLAIM);
        mind.set_node(node);
        assert_eq!(mind.claim_of("a"), None);
    }
}
