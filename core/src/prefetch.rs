//! What each node should fetch, in which order, from where; and what it should not, and why.
//!
//! What a pod waits for comes first, by when it is needed: an image when the pod could be bound, the
//! weights when its engine would ask for them. What nobody waits for yet comes last, within a budget
//! of bytes and within what is free: nothing is ever evicted for a wish. Only resolved items are
//! named, each once per node, so a list leaves nothing to choose.
//!
//! What a node or a peer has is believed from fresh reports only. A node whose agent is silent gets
//! the whole list of what its pods need; its agent knows better when it is back. The list is what
//! should be there in the end: it does not change while an item is being fetched, only its bytes do.
//!
//! The outcome is the same for every order of the input.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::cache::{Inventory, Item, Pin};
use crate::label;
use crate::money::Millis;
use crate::node::{Node, NodeState};
use crate::plan::{Plan, Prefetch, PrefetchItem, Target, Urgency};
use crate::pod::{ObjectKey, Phase, Pod, Progress};
use crate::reason::NotFetched;
use crate::snapshot::{Policy, Snapshot};

mod needs;

pub(crate) use needs::is_believable;
pub use needs::{Needs, missing, trusted};

/// Most peers named for one item: more would not be faster, and a list that grows with the cluster
/// would not fit into an object. Each node is given others.
pub const MOST_PEERS: usize = 16;

/// What every node that was chosen for a pod should fetch, and what running nodes should fetch ahead
/// of demand; by node name, then new nodes in the plan's order. A node without anything to say about
/// is left out.
pub fn prefetch(snapshot: &Snapshot, policy: &Policy, plan: &Plan) -> Vec<Prefetch> {
    let mut targets = targets(snapshot, policy, plan);
    wish(snapshot, &mut targets);
    let holders = Holders::new(snapshot, policy, &targets);
    let mut lists: Vec<Prefetch> = targets
        .values()
        .enumerate()
        .map(|(number, target)| target.prefetch(number, snapshot, policy, &holders))
        .collect();
    lists.retain(|list| !list.items.is_empty() || !list.skipped.is_empty());
    lists
}

/// A node and what is wanted on it.
struct Place<'a> {
    target: Target,
    zone: Option<&'a str>,
    /// What is believed to be there.
    inventory: Option<&'a Inventory>,
    /// Age of the last report, believed or not.
    age: Option<Millis>,
    /// Whether wishes are fetched here: nodes that run.
    ahead: Ahead,
    /// What pods wait for.
    wants: Vec<Want<'a>>,
    /// What nobody waits for yet, most wanted first.
    wishes: Vec<&'a Item>,
    /// What pods here use or will use: not to be evicted.
    used: BTreeSet<&'a Item>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    Allowed,
    Never,
}

/// One item that a pod waits for. Sorts by urgency.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Want<'a> {
    /// From now.
    due: Millis,
    /// Higher first.
    priority: Reverse<i32>,
    created: Millis,
    pod: &'a ObjectKey,
    /// Position among the pod's items.
    index: usize,
    item: &'a Item,
}

fn targets<'a>(
    snapshot: &'a Snapshot,
    policy: &Policy,
    plan: &'a Plan,
) -> BTreeMap<Target, Place<'a>> {
    let mut targets: BTreeMap<Target, Place<'a>> = BTreeMap::new();
    for node in &snapshot.nodes {
        let target = Target::Node(node.name.clone());
        let reported = snapshot.inventories.get(&node.name);
        let place = Place {
            zone: zone_of(node),
            inventory: trusted(snapshot, policy, node),
            age: reported.map(|inventory| snapshot.now - inventory.observed),
            ahead: match node.state {
                NodeState::Running => Ahead::Allowed,
                _ => Ahead::Never,
            },
            ..Place::new(target.clone())
        };
        targets.insert(target, place);
    }
    for (number, node) in plan.nodes.iter().enumerate() {
        let target = Target::New(number);
        let place = Place {
            zone: Some(&node.offering.zone),
            ..Place::new(target.clone())
        };
        targets.insert(target, place);
    }
    let start = policy.priors.container + policy.priors.imports;
    let mut waiting: BTreeMap<&ObjectKey, (&Target, Millis)> = BTreeMap::new();
    for placement in &plan.placements {
        let at = (&placement.target, placement.timing.allocatable);
        waiting.insert(&placement.pod, at);
    }
    for pod in &snapshot.pods {
        match &pod.phase {
            Phase::Pending => {
                if let Some((target, at)) = waiting.get(&pod.key)
                    && let Some(place) = targets.get_mut(target)
                {
                    place.want(pod, *at, start);
                }
            }
            Phase::Bound { node, progress } => {
                let Some(place) = targets.get_mut(&Target::Node(node.clone())) else {
                    continue;
                };
                match progress {
                    Progress::Starting => place.want(pod, Millis(0), start),
                    Progress::Running => place.used.extend(&pod.shape.items),
                    Progress::Terminating => {}
                }
            }
        }
    }
    targets
}

/// Adds the wishes to the running nodes that they select. An empty selector selects every node.
fn wish<'a>(snapshot: &'a Snapshot, targets: &mut BTreeMap<Target, Place<'a>>) {
    if snapshot.wishes.is_empty() {
        return;
    }
    for node in &snapshot.nodes {
        let Some(place) = targets.get_mut(&Target::Node(node.name.clone())) else {
            continue;
        };
        if place.ahead == Ahead::Allowed {
            let selected = snapshot
                .wishes
                .iter()
                .filter(|wish| wish.nodes.matches(&node.labels));
            place.wishes = selected.map(|wish| &wish.item).collect();
        }
    }
}

/// Who has what, among the items that somebody wants.
struct Holders<'a>(BTreeMap<(&'a str, &'a Item), Vec<&'a str>>);

impl<'a> Holders<'a> {
    fn new(snapshot: &'a Snapshot, policy: &Policy, targets: &BTreeMap<Target, Place<'a>>) -> Self {
        let wanted: BTreeSet<&Item> = targets.values().flat_map(Place::items).collect();
        let mut holders: BTreeMap<_, Vec<&str>> = BTreeMap::new();
        for node in &snapshot.nodes {
            let serves = matches!(node.state, NodeState::Running | NodeState::Starting { .. });
            let (true, Some(zone), Some(inventory)) =
                (serves, zone_of(node), trusted(snapshot, policy, node))
            else {
                continue;
            };
            for item in needs::verified(inventory).filter(|item| wanted.contains(item)) {
                let names = holders.entry((zone, item)).or_default();
                names.push(node.name.as_str());
            }
        }
        for names in holders.values_mut() {
            names.sort_unstable();
            names.dedup();
        }
        Self(holders)
    }

    /// Some of the nodes in `zone` that have `item`, by name; other ones for each `number`.
    fn peers(&self, item: &Item, zone: Option<&str>, own: &Target, number: usize) -> Vec<String> {
        let Some(names) = zone.and_then(|zone| self.0.get(&(zone, item))) else {
            return Vec::new();
        };
        let first = number.wrapping_mul(MOST_PEERS) % names.len();
        let (before, from) = names.split_at(first);
        let others = from.iter().chain(before);
        let mut peers: Vec<String> = others
            .filter(|name| !matches!(own, Target::Node(own) if own == *name))
            .take(MOST_PEERS)
            .map(|name| (*name).to_owned())
            .collect();
        peers.sort_unstable();
        peers
    }
}

impl<'a> Place<'a> {
    fn new(target: Target) -> Self {
        Self {
            target,
            zone: None,
            inventory: None,
            age: None,
            ahead: Ahead::Never,
            wants: Vec::new(),
            wishes: Vec::new(),
            used: BTreeSet::new(),
        }
    }

    /// Everything that might be fetched here.
    fn items(&self) -> impl Iterator<Item = &'a Item> {
        let wants = self.wants.iter().map(|want| want.item);
        wants.chain(self.wishes.iter().copied())
    }

    /// Adds what `pod` starts with. `at` is when it could be bound.
    fn want(&mut self, pod: &'a Pod, at: Millis, start: Millis) {
        for (index, item) in pod.shape.items.iter().enumerate() {
            self.used.insert(item);
            self.wants.push(Want {
                due: match item {
                    Item::Image { .. } => at,
                    Item::Model { .. } => at + start,
                },
                priority: Reverse(pod.shape.priority),
                created: pod.created,
                pod: &pod.key,
                index,
                item,
            });
        }
    }

    fn prefetch(
        &self,
        number: usize,
        snapshot: &Snapshot,
        policy: &Policy,
        holders: &Holders<'_>,
    ) -> Prefetch {
        let mut list = Prefetch {
            target: self.target.clone(),
            items: Vec::new(),
            skipped: Vec::new(),
        };
        let mut room = self.inventory.map(|inventory| inventory.room);
        let mut evictable = self.evictable(snapshot);
        // Which items will go is the agent's to choose: a part of one that is wished for may be gone.
        let mut evicted = 0_u64;
        let mut budget = policy.ahead_of_demand;
        let mut wants: Vec<&Want<'_>> = self.wants.iter().collect();
        wants.sort();
        let wants = wants.into_iter().map(|want| (want.item, Urgency::Demand));
        let wishes = self.wishes.iter().map(|item| (*item, Urgency::Ahead));
        let mut seen = BTreeSet::new();
        for (item, urgency) in wants.chain(wishes) {
            if !seen.insert(item) {
                continue;
            }
            let inventory = match urgency {
                Urgency::Ahead if evicted > 0 => self.inventory.filter(|has| needs::has(has, item)),
                _ => self.inventory,
            };
            let verdict = lacking(item, inventory, snapshot).and_then(|lack| {
                match urgency {
                    Urgency::Demand => {
                        let short = make_room(lack.disk, &mut room, &mut evictable)?;
                        evicted = evicted.saturating_add(short);
                    }
                    Urgency::Ahead => self.ahead(&lack, &mut room, &mut budget)?,
                }
                Ok(lack.bytes)
            });
            match verdict {
                Ok(bytes) => list.items.push(PrefetchItem {
                    item: item.clone(),
                    bytes,
                    peers: holders.peers(item, self.zone, &self.target, number),
                    urgency,
                }),
                Err(why) => list.skipped.push((item.clone(), why)),
            }
        }
        list
    }

    /// Whether an item that nobody waits for may be fetched; takes it off what is left.
    fn ahead(
        &self,
        lack: &Lack,
        room: &mut Option<u64>,
        budget: &mut u64,
    ) -> Result<(), NotFetched> {
        let Some(room) = room else {
            return Err(NotFetched::NoInventory { age: self.age });
        };
        if lack.bytes > *budget {
            return Err(NotFetched::Budget {
                bytes: lack.bytes,
                left: *budget,
            });
        }
        if lack.disk > *room {
            return Err(NotFetched::Room {
                bytes: lack.disk,
                room: *room,
            });
        }
        *budget -= lack.bytes;
        *room -= lack.disk;
        Ok(())
    }

    /// Bytes that could be freed for what a pod waits for: items that no pod here uses. `None` when
    /// nobody knows, as something of unknown size is there.
    fn evictable(&self, snapshot: &Snapshot) -> Option<u64> {
        let items = self.inventory?.items.iter();
        items
            .filter(|(item, _)| !self.used.contains(item))
            .try_fold(0_u64, |sum, (item, state)| {
                let size = snapshot.items.get(item)?;
                Some(sum.saturating_add(needs::on_disk(*size, *state)))
            })
    }
}

/// What a node lacks of one item.
struct Lack {
    /// Bytes to transfer.
    bytes: u64,
    /// Bytes on disk.
    disk: u64,
}

/// What a node with this inventory lacks of an item, if it can and need be fetched.
fn lacking(
    item: &Item,
    inventory: Option<&Inventory>,
    snapshot: &Snapshot,
) -> Result<Lack, NotFetched> {
    if let Item::Image {
        pin: Pin::Name(name),
        ..
    }
    | Item::Model {
        pin: Pin::Name(name),
        ..
    } = item
    {
        return Err(NotFetched::Unresolved { name: name.clone() });
    }
    if inventory.is_some_and(|has| needs::has(has, item)) {
        return Err(NotFetched::Present);
    }
    let size = *snapshot.items.get(item).ok_or(NotFetched::SizeUnknown)?;
    let bytes = match inventory {
        Some(inventory) => needs::lacking(item, size, inventory),
        None => size.transfer,
    };
    Ok(Lack {
        bytes,
        disk: needs::unpacked(size, bytes),
    })
}

/// Takes room for something a pod waits for, evicting where that helps; says how many bytes that evicts.
/// What is not known allows everything: the agent knows.
fn make_room(
    bytes: u64,
    room: &mut Option<u64>,
    evictable: &mut Option<u64>,
) -> Result<u64, NotFetched> {
    let Some(free) = room else { return Ok(0) };
    let short = bytes.saturating_sub(*free);
    if let Some(evictable) = evictable {
        if short > *evictable {
            return Err(NotFetched::Room {
                bytes,
                room: free.saturating_add(*evictable),
            });
        }
        *evictable -= short;
    }
    *free = free.saturating_sub(bytes);
    Ok(short)
}

fn zone_of(node: &Node) -> Option<&str> {
    let offered = node.offering.as_ref().map(|key| key.zone.as_str());
    node.labels
        .get(label::ZONE)
        .map(String::as_str)
        .or(offered)
        .filter(|zone| !zone.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
