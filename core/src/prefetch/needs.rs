//! What a pod's items still cost on one node, in bytes.
//!
//! Only a verified item is a hit; a partial one lacks its rest; one that is unknown, absent or not
//! resolved lacks everything. An item whose size nobody knows counts nothing anywhere, so that it
//! favours no candidate.

use std::collections::BTreeMap;

use crate::cache::{Inventory, Item, ItemSize, ItemState};
use crate::money::Millis;
use crate::node::{Node, NodeState};
use crate::ready::{Missing, Starts, Work};
use crate::snapshot::{Policy, Snapshot};

/// The items of one pod shape with their sizes: looked up once, asked for every candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs<'a> {
    /// Each item once, in the order they are needed.
    items: Vec<(&'a Item, ItemSize)>,
    /// What a node that has nothing lacks.
    all: Missing,
    /// How many of the shapes' items are models, those of unknown size included.
    models: usize,
}

impl<'a> Needs<'a> {
    /// The items of a shape. One that `sizes` does not know is left out.
    pub fn new(items: &'a [Item], sizes: &BTreeMap<Item, ItemSize>) -> Self {
        let models = items
            .iter()
            .filter(|item| matches!(item, Item::Model { .. }))
            .count();
        let mut needs = Self {
            models,
            ..Self::default()
        };
        for (index, item) in items.iter().enumerate() {
            let Some(size) = sizes.get(item) else {
                continue;
            };
            if !items[..index].contains(item) {
                needs.items.push((item, *size));
                add(&mut needs.all, item, *size, size.transfer);
            }
        }
        needs
    }

    /// Whether no bytes are ever needed, on whatever node.
    pub fn is_nothing(&self) -> bool {
        self.all.is_nothing()
    }

    /// What a node with nothing on its disk lacks: no look-up at all.
    pub fn all(&self) -> Missing {
        self.all
    }

    /// Whether everything that `other` needs is needed here too.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.items.iter().all(|(item, _)| self.needs(item))
    }

    /// Needs what `other` needs as well.
    pub(crate) fn join(&mut self, other: &Self) {
        self.models += other.models;
        for &(item, size) in &other.items {
            if !self.needs(item) {
                self.items.push((item, size));
                add(&mut self.all, item, size, size.transfer);
            }
        }
    }

    fn needs(&self, item: &Item) -> bool {
        self.items.iter().any(|(own, _)| *own == item)
    }

    /// What a new node has to do for them.
    pub(crate) fn fresh(&self) -> Work {
        self.after(self.all)
    }

    /// What a node with this inventory has to do for them.
    pub(crate) fn on(&self, inventory: Option<&Inventory>) -> Work {
        self.after(self.missing(inventory))
    }

    fn after(&self, missing: Missing) -> Work {
        let starts = match self.models {
            0 => Starts::Container,
            _ => Starts::Engine,
        };
        Work { missing, starts }
    }

    /// What a node with this inventory lacks: one look-up per item. `None` is a node of which nothing
    /// is known that can be believed; see [`trusted`].
    pub fn missing(&self, inventory: Option<&Inventory>) -> Missing {
        let Some(inventory) = inventory.filter(|inventory| !inventory.items.is_empty()) else {
            return self.all;
        };
        let mut missing = Missing::default();
        for &(item, size) in &self.items {
            add(&mut missing, item, size, lacking(item, size, inventory));
        }
        missing
    }
}

/// What a node with this inventory lacks of `items`. For one question; a planner that asks about
/// many candidates keeps a [`Needs`].
pub fn missing(
    items: &[Item],
    inventory: Option<&Inventory>,
    sizes: &BTreeMap<Item, ItemSize>,
) -> Missing {
    Needs::new(items, sizes).missing(inventory)
}

/// The inventory of `node`, if it can be believed: not older than [`Policy::inventory_age`], or of a
/// node that stands by, whose disk has not changed since its agent stopped. A node that is leaving
/// has none.
pub fn trusted<'a>(snapshot: &'a Snapshot, policy: &Policy, node: &Node) -> Option<&'a Inventory> {
    let inventory = snapshot.inventories.get(&node.name)?;
    is_believable(inventory, node, snapshot.now, policy).then_some(inventory)
}

/// What [`trusted`] asks of one inventory.
pub(crate) fn is_believable(
    inventory: &Inventory,
    node: &Node,
    now: Millis,
    policy: &Policy,
) -> bool {
    match node.state {
        NodeState::Standby { .. } => true,
        NodeState::Leaving => false,
        NodeState::Running | NodeState::Starting { .. } | NodeState::InFlight { .. } => {
            now - inventory.observed <= policy.inventory_age
        }
    }
}

/// The items of an inventory that are hits.
pub(super) fn verified(inventory: &Inventory) -> impl Iterator<Item = &Item> {
    let items = inventory.items.iter();
    items
        .filter(|(item, state)| **state == ItemState::Verified && item.is_pinned())
        .map(|(item, _)| item)
}

/// Whether `item` is a hit.
pub(super) fn has(inventory: &Inventory, item: &Item) -> bool {
    inventory.items.get(item) == Some(&ItemState::Verified)
}

/// Bytes of `item` that a node with `inventory` still has to transfer.
pub(super) fn lacking(item: &Item, size: ItemSize, inventory: &Inventory) -> u64 {
    if !item.is_pinned() {
        return size.transfer;
    }
    match inventory.items.get(item) {
        Some(ItemState::Verified) => 0,
        Some(ItemState::Partial { bytes }) => size.transfer.saturating_sub(*bytes),
        Some(ItemState::Unknown) | None => size.transfer,
    }
}

/// Bytes on disk that come with the last `lacking` bytes of an item. A part of an image has been
/// unpacked to the same part of its size.
pub(super) fn unpacked(size: ItemSize, lacking: u64) -> u64 {
    if lacking >= size.transfer {
        return if lacking == 0 { 0 } else { size.unpacked };
    }
    let part = (u128::from(size.unpacked) * u128::from(lacking)).div_ceil(size.transfer.into());
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// Bytes on disk of an item in this state. What nobody has verified counts as whole.
pub(super) fn on_disk(size: ItemSize, state: ItemState) -> u64 {
    let lacking = match state {
        ItemState::Partial { bytes } => size.transfer.saturating_sub(bytes),
        ItemState::Verified | ItemState::Unknown => 0,
    };
    size.unpacked - unpacked(size, lacking).min(size.unpacked)
}

fn add(missing: &mut Missing, item: &Item, size: ItemSize, lacking: u64) {
    match item {
        Item::Image { .. } => {
            missing.image = missing.image.saturating_add(lacking);
            missing.image_unpacked = missing
                .image_unpacked
                .saturating_add(unpacked(size, lacking));
            missing.largest_layer = missing.largest_layer.max(size.largest_layer.min(lacking));
        }
        Item::Model { .. } => missing.weights = missing.weights.saturating_add(lacking),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::Basis;
    use crate::prefetch::tests::{image, model, node, size, unresolved};

    fn sizes() -> BTreeMap<Item, ItemSize> {
        BTreeMap::from([
            (image(1), size(10_000, 25_000, 4_000)),
            (model(1), size(16_000, 16_000, 0)),
            (unresolved(), size(7_000, 7_000, 0)),
        ])
    }

    fn with(states: &[(Item, ItemState)]) -> Inventory {
        Inventory {
            items: states.iter().cloned().collect(),
            ..Inventory::default()
        }
    }

    #[test]
    fn a_node_of_which_nothing_is_known_lacks_everything() {
        let missing = missing(&[image(1), model(1)], None, &sizes());
        assert_eq!(
            missing,
            Missing {
                image: 10_000,
                image_unpacked: 25_000,
                largest_layer: 4_000,
                weights: 16_000,
            }
        );
    }

    #[test]
    fn only_what_is_verified_is_a_hit() {
        let items = [image(1)];
        let lacks = |state| missing(&items, Some(&with(&[(image(1), state)])), &sizes()).image;
        assert_eq!(lacks(ItemState::Verified), 0);
        assert_eq!(lacks(ItemState::Unknown), 10_000);
        assert_eq!(lacks(ItemState::Partial { bytes: 8_000 }), 2_000);
        assert_eq!(lacks(ItemState::Partial { bytes: u64::MAX }), 0);
    }

    #[test]
    fn the_rest_of_a_partial_image_is_unpacked_in_proportion() {
        let inventory = with(&[(image(1), ItemState::Partial { bytes: 7_500 })]);
        let missing = missing(&[image(1)], Some(&inventory), &sizes());
        assert_eq!(missing.image_unpacked, 6_250);
        assert_eq!(missing.largest_layer, 2_500);
    }

    #[test]
    fn another_digest_of_the_same_image_is_no_hit() {
        let inventory = with(&[(image(2), ItemState::Verified)]);
        assert_eq!(
            missing(&[image(1)], Some(&inventory), &sizes()).image,
            10_000
        );
    }

    #[test]
    fn a_name_that_is_not_resolved_is_never_a_hit() {
        let inventory = with(&[(unresolved(), ItemState::Verified)]);
        assert_eq!(
            missing(&[unresolved()], Some(&inventory), &sizes()).weights,
            7_000
        );
    }

    #[test]
    fn an_item_of_unknown_size_counts_nothing_and_one_named_twice_counts_once() {
        let items = [image(9), model(1), model(1)];
        assert_eq!(missing(&items, None, &sizes()).weights, 16_000);
        assert_eq!(missing(&items, None, &sizes()).image, 0);
    }

    #[test]
    fn a_report_is_believed_until_it_is_too_old_and_that_of_a_stopped_disk_for_ever() {
        let policy = Policy::default();
        let mut snapshot = Snapshot {
            now: Millis::from_secs(1_000),
            ..Snapshot::default()
        };
        let mut known = |state, age| {
            snapshot.inventories = BTreeMap::from([(
                "a".to_owned(),
                Inventory {
                    observed: snapshot.now - Millis::from_secs(age),
                    ..Inventory::default()
                },
            )]);
            let node = Node {
                state,
                ..node("a", "z1")
            };
            trusted(&snapshot, &policy, &node).is_some()
        };
        assert!(known(NodeState::Running, 300));
        assert!(!known(NodeState::Running, 301));
        assert!(!known(NodeState::Leaving, 0));
        let boot = crate::offer::Boot::default();
        assert!(known(NodeState::Standby { boot }, 900));
    }

    proptest! {
        #[test]
        fn more_on_the_disk_never_means_more_missing(
            transfer in 0_u64..1 << 50, unpacked in 0_u64..1 << 50, layer: u64,
            some: u64, more: u64,
        ) {
            let size = ItemSize { transfer, unpacked, largest_layer: layer, basis: Basis::Known };
            let sizes = BTreeMap::from([(image(1), size)]);
            let items = [image(1)];
            let lacks = |bytes| {
                let inventory = with(&[(image(1), ItemState::Partial { bytes })]);
                missing(&items, Some(&inventory), &sizes)
            };
            let (less, most) = (lacks(some.max(more)), lacks(some.min(more)));
            prop_assert!(less.image <= most.image);
            prop_assert!(less.image_unpacked <= most.image_unpacked);
            prop_assert!(less.largest_layer <= most.largest_layer);
            prop_assert!(most.image_unpacked <= unpacked && most.image <= transfer);
            prop_assert_eq!(lacks(0), missing(&items, None, &sizes));
        }
    }
}
