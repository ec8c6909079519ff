//! Nodes as they are planned with: Node objects with what their claims know, claims without a Node as
//! nodes in flight, and the inventories of both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use headstart_api::{NodeClaim, names};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeState};
use headstart_core::offer::{InstanceType, Rates};
use headstart_core::pod::{Eviction, Phase, Progress};
use headstart_core::snapshot::Snapshot;
use kube::ResourceExt;

use super::claim;
use super::drift;
use super::mind::Mind;
use super::moving::Moving;
use super::notices::{self, Told};
use super::picture::Picture;
use crate::manifest::book::{inventory, placed};
use crate::manifest::pool;

/// What is known of nodes from one round to the next.
#[derive(Default)]
pub(super) struct Nodes {
    /// Nodes in flight, by name.
    in_flight: BTreeSet<String>,
    /// Nodes that change with time alone.
    young: BTreeSet<String>,
    /// Names of the Nodes of claims.
    by_claim: BTreeMap<String, String>,
    /// Claims whose Node is away, since when.
    away: BTreeMap<String, Instant>,
    /// What runs on each node, and since when it is the same.
    settled: HashMap<String, (u64, Millis)>,
    moving: Moving,
}

/// Nodes that go once others are there.
#[derive(Default)]
pub(super) struct Replacing {
    /// Those that go.
    pub(super) old: BTreeSet<String>,
    /// Those that others wait for.
    pub(super) new: BTreeSet<String>,
}

impl Nodes {
    /// The Node of a claim.
    pub(super) fn of_claim(&self, claim: &str) -> Option<&str> {
        self.by_claim.get(claim).map(String::as_str)
    }

    /// For how long the Node of a claim has been away.
    pub(super) fn away_for(&mut self, claim: &str, now: Instant) -> Duration {
        now - *self.away.entry(claim.to_owned()).or_insert(now)
    }

    /// The Node of a claim is there.
    pub(super) fn is_back(&mut self, claim: &str) {
        self.away.remove(claim);
    }

    /// The Node of a claim is deleted: pods that are still on it will come back elsewhere.
    pub(super) fn lose(&mut self, node: &str, claim: &NodeClaim) {
        self.moving.lose(node, claim);
    }

    /// Takes everything that changed.
    pub(super) fn settle(
        &mut self,
        picture: &mut Picture,
        mind: &mut Mind,
        pools: &[pool::Read],
        types: &[InstanceType],
        now: Millis,
    ) {
        let all = std::mem::take(&mut picture.changed.pools);
        let mut dirty = std::mem::take(&mut picture.changed.nodes);
        dirty.append(&mut self.young);
        if all {
            dirty.extend(picture.nodes.keys().cloned());
        }
        // What a claim's cache says is about its Node.
        let of_caches = dirty.iter().filter_map(|name| self.by_claim.get(name));
        let of_caches: Vec<String> = of_caches.cloned().collect();
        dirty.extend(of_caches);
        let by_provider: BTreeMap<&str, &str> = picture
            .claims
            .iter()
            .filter_map(|(name, claim)| {
                let instance = claim.status.as_ref()?.instance.as_ref()?;
                Some((instance.provider_id.as_str(), name.as_str()))
            })
            .collect();
        for name in dirty {
            let Some(seen) = picture.nodes.get(&name) else {
                self.by_claim.retain(|_, node| *node != name);
                if !self.in_flight.contains(&name) {
                    mind.remove_node(&name);
                }
                if !self.by_claim.contains_key(&name) {
                    set_inventory(picture, mind, &name, &name);
                }
                continue;
            };
            let labels = seen.raw.object.metadata.labels.as_ref();
            let label = labels.and_then(|all| all.get(names::NODE_CLAIM)).cloned();
            let spec = seen.raw.object.spec.as_ref();
            let id = spec.and_then(|spec| spec.provider_id.as_deref());
            let claim = label
                .filter(|claim| picture.claims.contains_key(claim))
                .or_else(|| Some((*by_provider.get(id?)?).to_owned()));
            if let Some(claim) = &claim {
                self.by_claim.insert(claim.clone(), name.clone());
            }
            let claim = claim.and_then(|claim| picture.claims.get(&claim));
            let mut node = match (picture.book.node(&seen.raw, pools), claim) {
                (Ok(read), _) => read.at(now),
                // Its kubelet has not said yet what it has: it is what was promised.
                (Err(_), Some(claim)) => claim::registered(claim, &name, now),
                (Err(problems), None) => {
                    tracing::debug!(node = name, ?problems, "a node cannot be read");
                    mind.remove_node(&name);
                    continue;
                }
            };
            if let Some(claim) = claim {
                claim::complete(&mut node, claim, now);
            }
            know_type(&mut node, types);
            if let Some(claim) = claim
                && let Some(pool) = picture.pools.get(&claim.spec.node_pool)
                && let (Some(pool), Ok(read)) = (&pool.object, &pool.read)
            {
                node.disruption.drift = drift::of(&node, claim, pool, read, types);
            }
            let told = notices::tell(&mut node, claim.map(|claim| &**claim), picture, now);
            if node.state != NodeState::Running || told == Told::Something {
                self.young.insert(name.clone());
            }
            let cache = cache_name(&node, claim.map(|claim| &**claim));
            mind.set_node(node);
            set_inventory(picture, mind, &name, &cache);
        }
        self.fly(picture, mind, types, now);
        self.moving.settle(picture, mind, &self.by_claim);
    }

    /// Claims and announcements that have no Node yet are nodes in flight.
    fn fly(&mut self, picture: &Picture, mind: &mut Mind, types: &[InstanceType], now: Millis) {
        let mut flying = BTreeSet::new();
        for (name, claim) in &picture.claims {
            let leaving = claim.metadata.deletion_timestamp.is_some();
            if leaving || self.by_claim.contains_key(name) || picture.nodes.contains_key(name) {
                continue;
            }
            let mut node = claim::in_flight(claim, now);
            know_type(&mut node, types);
            // Its end comes nearer with every round; that alone is no change.
            if !mind
                .node(name)
                .is_some_and(|before| is_same_flight(before, &node))
            {
                mind.set_node(node);
            }
            set_inventory(picture, mind, name, name);
            flying.insert(name.clone());
        }
        for (name, announced) in &picture.announced {
            let registered = announced.node_name.as_ref();
            if registered.is_some_and(|node| picture.nodes.contains_key(node)) {
                continue;
            }
            let mut node = announced.at(now);
            know_type(&mut node, types);
            if !mind
                .node(name)
                .is_some_and(|before| is_same_flight(before, &node))
            {
                mind.set_node(node);
            }
            flying.insert(name.clone());
        }
        for gone in self.in_flight.difference(&flying) {
            if !picture.nodes.contains_key(gone) {
                mind.remove_node(gone);
                mind.set_inventory(gone, None);
            }
        }
        self.in_flight = flying;
    }

    /// Says since when each node has been as empty or as full as it is, counted from when it could be
    /// used. One that others wait for is not given back before they are gone.
    pub(super) fn note_use(&mut self, snapshot: &mut Snapshot, replacing: &Replacing, now: Millis) {
        let running = running(snapshot);
        let mut settled = HashMap::new();
        for node in &mut snapshot.nodes {
            let (hash, used) = running.get(node.name.as_str()).copied().unwrap_or_default();
            let before = self.settled.get(&node.name);
            let since = match before {
                Some((same, since)) if *same == hash && node.state == NodeState::Running => *since,
                _ => now,
            };
            settled.insert(node.name.clone(), (hash, since));
            node.disruption.empty_since = (!used).then_some(since);
            node.disruption.underused_since = used.then_some(since);
            node.disruption.replaced = replacing.old.contains(&node.name);
            node.disruption.forbidden |= replacing.new.contains(&node.name);
        }
        self.settled = settled;
    }

    /// Nodes on which nothing has changed since their use was last noted.
    pub(super) fn as_they_were<'a>(&self, mind: &'a Mind) -> BTreeSet<&'a str> {
        let running = running(&mind.snapshot);
        let names = mind.snapshot.nodes.iter().map(|node| node.name.as_str());
        names
            .filter(|name| {
                let (hash, _) = running.get(*name).copied().unwrap_or_default();
                self.settled
                    .get(*name)
                    .is_some_and(|(same, _)| *same == hash)
            })
            .collect()
    }
}

/// What runs on each node, as a number, and whether anything does.
fn running(snapshot: &Snapshot) -> HashMap<String, (u64, bool)> {
    let mut running: HashMap<String, (u64, bool)> = HashMap::new();
    for pod in &snapshot.pods {
        let Phase::Bound { node, progress } = &pod.phase else {
            continue;
        };
        if pod.shape.eviction == Eviction::Daemon || *progress == Progress::Terminating {
            continue;
        }
        let mut hash = DefaultHasher::new();
        pod.key.hash(&mut hash);
        let hash = hash.finish();
        match running.get_mut(node) {
            Some(entry) => entry.0 ^= hash,
            None => drop(running.insert(node.clone(), (hash, true))),
        }
    }
    running
}

/// Whether two views of a node in flight differ in nothing but when it is expected, by less than a
/// planner would care about.
fn is_same_flight(before: &Node, after: &Node) -> bool {
    let (NodeState::InFlight { expected: a }, NodeState::InFlight { expected: b }) =
        (&before.state, &after.state)
    else {
        return false;
    };
    let far = Millis(5_000);
    let near = *a - *b < far && *b - *a < far;
    // Which claim a node is of is kept apart.
    let labels = after.labels.iter();
    let labels = labels.filter(|(key, _)| *key != names::NODE_CLAIM);
    near && before.labels.iter().eq(labels)
        && before.taints == after.taints
        && before.allocatable == after.allocatable
        && before.rates == after.rates
}

/// The name of a node's cache: its claim's where we bought it, so that it does not change when the
/// node gets its name; the node's own elsewhere.
pub(super) fn cache_name(node: &Node, claim: Option<&NodeClaim>) -> String {
    claim.map_or_else(|| node.name.clone(), ResourceExt::name_any)
}

fn set_inventory(picture: &Picture, mind: &mut Mind, node: &str, cache: &str) {
    let found = picture.caches.get(cache).and_then(|seen| {
        seen.object.status.as_ref()?;
        let (found, problems) = inventory(&placed("", cache, (*seen.object).clone()));
        if !problems.is_empty() {
            tracing::debug!(cache, ?problems, "parts of an inventory cannot be read");
        }
        found
    });
    mind.set_inventory(node, found);
}

/// Completes a node of a type that is known: rates, and labels that follow from the type.
fn know_type(node: &mut Node, types: &[InstanceType]) {
    let name = node.labels.get(headstart_core::label::INSTANCE_TYPE);
    let Some(kind) = name.and_then(|name| types.iter().find(|kind| kind.name == *name)) else {
        return;
    };
    if node.rates == Rates::default() {
        node.rates = kind.rates;
    }
    for (key, value) in kind.node_labels() {
        node.labels.entry(key).or_insert(value);
    }
}
