//! What the cache of each node is worth: the bytes that would have to be fetched again.

use std::collections::BTreeMap;

use super::LAST_COPY;
use crate::cache::{Item, ItemState};
use crate::label;
use crate::node::NodeState;
use crate::prefetch::trusted;
use crate::snapshot::{Policy, Snapshot};

/// Verified items of every node, and how many nodes of each zone have them.
pub(super) struct Caches<'a> {
    /// By node: numbers into `copies`, with the bytes to transfer.
    nodes: BTreeMap<&'a str, Vec<(usize, u64)>>,
    /// Nodes that have an item in a zone and could give it to others.
    copies: Vec<u32>,
    /// Nodes that stand by: they can give nothing while they are stopped.
    stopped: Vec<&'a str>,
}

impl<'a> Caches<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, policy: &Policy) -> Self {
        let mut numbers: BTreeMap<(&str, &Item), usize> = BTreeMap::new();
        let mut caches = Self {
            nodes: BTreeMap::new(),
            copies: Vec::new(),
            stopped: Vec::new(),
        };
        for node in &snapshot.nodes {
            let Some(inventory) = trusted(snapshot, policy, node) else {
                continue;
            };
            let zone = node.labels.get(label::ZONE).map_or("", String::as_str);
            let stopped = matches!(node.state, NodeState::Standby { .. });
            let mut items = Vec::new();
            for (item, state) in &inventory.items {
                let size = snapshot.items.get(item);
                let (ItemState::Verified, Some(size)) = (state, size) else {
                    continue;
                };
                let number = *numbers.entry((zone, item)).or_insert_with(|| {
                    caches.copies.push(0);
                    caches.copies.len() - 1
                });
                caches.copies[number] += u32::from(!stopped);
                items.push((number, size.transfer));
            }
            if stopped {
                caches.stopped.push(&node.name);
            }
            caches.nodes.insert(&node.name, items);
        }
        caches.stopped.sort_unstable();
        caches
    }

    /// Bytes verified on a node, as far as their size is known.
    pub(super) fn bytes(&self, node: &str) -> u64 {
        let items = self.nodes.get(node).into_iter().flatten();
        items.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// The same, with an item that no other node of the zone could give counted several times.
    pub(super) fn worth(&self, node: &str) -> u64 {
        let own = u32::from(self.stopped.binary_search(&node).is_err());
        let items = self.nodes.get(node).into_iter().flatten();
        items.fold(0, |sum, (number, bytes)| {
            let others = self.copies[*number].saturating_sub(own);
            let times = if others == 0 { LAST_COPY } else { 1 };
            sum.saturating_add(bytes.saturating_mul(times))
        })
    }

    /// Takes a node away: what others have becomes rarer.
    pub(super) fn remove(&mut self, node: &str) {
        let own = u32::from(self.stopped.binary_search(&node).is_err());
        for (number, _) in self.nodes.remove(node).into_iter().flatten() {
            self.copies[number] = self.copies[number].saturating_sub(own);
        }
    }
}
