//! What to remove from a full store, and whether that makes enough room.
//!
//! Items share objects: a file that two models have in common is freed only when both go. Order
//! comes from use counters, never from clocks, so a clock that jumps evicts nothing. A pinned item
//! is never chosen, whatever the need.

use std::collections::{BTreeMap, BTreeSet};

/// One thing that can be removed as a whole: a model revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evictable<Object> {
    /// The objects it refers to and their bytes.
    pub objects: Vec<(Object, u64)>,
    /// Counter of its last use; larger is more recent.
    pub last_use: u64,
    /// Whether it may go.
    pub hold: Hold,
}

/// Why an item may not be removed, if so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It may.
    None,
    /// Somebody asked to keep it.
    Pinned,
    /// It is being read or written.
    InUse,
}

/// What to remove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Indices of the items, in the order of removal.
    pub items: Vec<usize>,
    /// Bytes that removal frees.
    pub freed: u64,
    /// Bytes still missing when everything that may go is gone.
    pub short: u64,
}

/// Chooses what to remove so that at least `need` bytes become free: least recently used first,
/// and no item whose removal frees nothing that is still needed.
pub fn evict<Object: Ord + Copy>(items: &[Evictable<Object>], need: u64) -> Eviction {
    let mut references: BTreeMap<Object, usize> = BTreeMap::new();
    for item in items {
        for object in distinct(item) {
            *references.entry(object.0).or_default() += 1;
        }
    }
    let mut order: Vec<usize> = (0..items.len())
        .filter(|&index| items[index].hold == Hold::None)
        .collect();
    order.sort_by_key(|&index| (items[index].last_use, index));
    let (mut chosen, mut freed) = (Vec::new(), 0);
    for index in order {
        if freed >= need {
            break;
        }
        for (object, bytes) in distinct(&items[index]) {
            let left = references.get_mut(&object).expect("counted above");
            *left -= 1;
            if *left == 0 {
                freed += bytes;
            }
        }
        chosen.push(index);
    }
    Eviction {
        items: chosen,
        freed,
        short: need.saturating_sub(freed),
    }
}

fn distinct<Object: Ord + Copy>(item: &Evictable<Object>) -> BTreeSet<(Object, u64)> {
    item.objects.iter().copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(objects: &[(u8, u64)], last_use: u64, hold: Hold) -> Evictable<u8> {
        Evictable {
            objects: objects.to_vec(),
            last_use,
            hold,
        }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_only_as_much_as_is_needed() {
        let items = [
            item(&[(1, 10)], 5, Hold::None),
            item(&[(2, 10)], 1, Hold::None),
            item(&[(3, 10)], 3, Hold::None),
        ];
        assert_eq!(evict(&items, 11).items, [1, 2]);
        assert_eq!(evict(&items, 0).items, [0; 0]);
        assert_eq!(evict(&items, 31).short, 1);
    }

    #[test]
    fn a_shared_object_is_freed_with_the_last_item_that_refers_to_it() {
        let shared = [
            item(&[(1, 10), (2, 5)], 1, Hold::None),
            item(&[(1, 10)], 2, Hold::Pinned),
        ];
        let eviction = evict(&shared, 15);
        assert_eq!((eviction.freed, eviction.short), (5, 10));
    }

    proptest! {
        #[test]
        fn no_pin_is_ever_chosen_and_a_shortfall_means_everything_else_went(
            items in proptest::collection::vec(
                (proptest::collection::vec((0u8..6, Just(7u64)), 0..4), 0u64..9, 0u8..3), 0..8),
            need in 0u64..60,
        ) {
            let items: Vec<_> = items.iter().map(|(objects, last_use, hold)| {
                let hold = [Hold::None, Hold::Pinned, Hold::InUse][*hold as usize];
                item(objects, *last_use, hold)
            }).collect();
            let eviction = evict(&items, need);
            prop_assert!(eviction.items.iter().all(|&i| items[i].hold == Hold::None));
            if eviction.short > 0 {
                let free = items.iter().filter(|item| item.hold == Hold::None).count();
                prop_assert_eq!(eviction.items.len(), free);
            }
            let kept: BTreeSet<_> = (0..items.len()).filter(|i| !eviction.items.contains(i))
                .flat_map(|i| items[i].objects.clone()).collect();
            let gone: BTreeSet<_> = eviction.items.iter()
                .flat_map(|&i| items[i].objects.clone()).filter(|o| !kept.contains(o)).collect();
            prop_assert_eq!(eviction.freed, gone.iter().map(|(_, bytes)| bytes).sum::<u64>());
        }
    }
}
