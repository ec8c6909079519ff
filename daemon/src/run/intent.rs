//! What a node is to have, as its NodeCache says it: from the prefetch plan to a spec that changes only
//! when the wish does.
//!
//! What is there already and what running pods use stays listed: a list that shrank as items arrive
//! would say that they may go. Progress, and who else has an item, change nothing by themselves; that
//! somebody has it at all does once.

use std::collections::BTreeSet;

use headstart_api::{Amount, CacheItem, NodeCacheSpec};
use headstart_core::cache::{Basis, Item, ItemSize, Pin};
use headstart_core::node::Node;
use headstart_core::plan::{Prefetch, Urgency};
use headstart_core::reason::NotFetched;

use super::mind::Mind;

/// Most items that one node is told about.
const MOST_ITEMS: usize = 1000;

/// Whether a node is told what to have: one that was bought by a pool, or one with GPUs. On others no
/// agent runs.
pub(super) fn is_told(node: &Node) -> bool {
    let accelerator = |name: &str| name.ends_with("/gpu") || name.starts_with("nvidia.com/mig-");
    node.pool.is_some()
        || node.labels.contains_key(headstart_core::label::GPU_SKU)
        || node.labels.contains_key(headstart_core::label::GPU_COUNT)
        || node
            .allocatable
            .iter()
            .any(|(name, amount)| amount > 0 && accelerator(name))
}

/// The items of a node: what is to be fetched, what is there of it, and what its pods use.
pub(super) fn items<'a>(
    list: Option<&'a Prefetch>,
    used: impl IntoIterator<Item = &'a Item>,
    mind: &Mind,
) -> Vec<CacheItem> {
    let mut seen = BTreeSet::new();
    let mut items = Vec::new();
    let size = |item: &Item| mind.snapshot.items.get(item).copied();
    for wanted in list.iter().flat_map(|list| &list.items) {
        if seen.insert(&wanted.item) {
            let mut item = written(&wanted.item, size(&wanted.item), mind);
            item.demanded = wanted.urgency == Urgency::Demand;
            item.pinned = item.demanded;
            item.peers.clone_from(&wanted.peers);
            items.push(item);
        }
    }
    let present = list.iter().flat_map(|list| &list.skipped);
    let present = present.filter(|(_, why)| *why == NotFetched::Present);
    let present = present.map(|(item, _)| item);
    for item in present.chain(used) {
        if item.is_pinned() && seen.insert(item) {
            let mut item = written(item, size(item), mind);
            item.pinned = true;
            items.push(item);
        }
    }
    items.truncate(MOST_ITEMS);
    items
}

/// An item as the agent reads it.
fn written(item: &Item, size: Option<ItemSize>, mind: &Mind) -> CacheItem {
    let known = size.filter(|size| size.basis == Basis::Known);
    let bytes = known.map(|size| Amount(size.transfer.to_string()));
    match item {
        Item::Image { repository, pin } => CacheItem {
            image: Some(match pin {
                Pin::To(digest) => format!("{repository}@{}", digest.prefixed()),
                Pin::Name(name) => format!("{repository}:{name}"),
            }),
            image_name: mind.names.get(item).cloned(),
            bytes,
            ..CacheItem::default()
        },
        Item::Model { repo, pin, files } => CacheItem {
            model: Some(match pin {
                Pin::To(commit) => format!("{repo}@{commit}"),
                Pin::Name(name) => format!("{repo}@{name}"),
            }),
            files: files.clone(),
            bytes,
            ..CacheItem::default()
        },
    }
}

/// The next spec, if the wish differs from what was written.
pub(super) fn next(
    before: Option<&NodeCacheSpec>,
    wanted: Vec<CacheItem>,
) -> Option<NodeCacheSpec> {
    let Some(before) = before else {
        return (!wanted.is_empty()).then_some(NodeCacheSpec {
            generation: 1,
            items: wanted,
        });
    };
    let same = |old: &CacheItem, new: &CacheItem| {
        let named = (
            &old.image,
            &old.image_name,
            &old.model,
            &old.files,
            old.pinned,
        ) == (
            &new.image,
            &new.image_name,
            &new.model,
            &new.files,
            new.pinned,
        );
        // A pod that waits makes it urgent; that none does any more is known from its absence.
        let urgent = new.demanded && !old.demanded;
        let first_peer = old.peers.is_empty() && !new.peers.is_empty();
        named && !urgent && !first_peer
    };
    let find = |item: &CacheItem| {
        let named = |other: &&CacheItem| {
            (&other.image, &other.model, &other.files) == (&item.image, &item.model, &item.files)
        };
        before.items.iter().find(named)
    };
    let all_there = wanted
        .iter()
        .all(|new| find(new).is_some_and(|old| same(old, new)));
    if before.items.len() == wanted.len() && all_there {
        return None;
    }
    Some(NodeCacheSpec {
        generation: before.generation + 1,
        items: wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(model: &str) -> CacheItem {
        CacheItem {
            model: Some(model.to_owned()),
            pinned: true,
            demanded: true,
            ..CacheItem::default()
        }
    }

    #[test]
    fn a_generation_is_spent_only_when_the_wish_changes() {
        let first = next(None, vec![item("a"), item("b")]).unwrap();
        assert_eq!(first.generation, 1);
        assert_eq!(next(None, Vec::new()), None);
        let mut arrived = item("a");
        arrived.demanded = false;
        // What has arrived moves behind what is still wanted, and is no longer urgent.
        assert_eq!(next(Some(&first), vec![item("b"), arrived.clone()]), None);
        let second = next(Some(&first), vec![item("b")]).unwrap();
        assert_eq!(second.generation, 2);
        let third = next(Some(&second), Vec::new()).unwrap();
        assert_eq!((third.generation, third.items.len()), (3, 0));
        assert_eq!(next(Some(&third), Vec::new()), None);
    }

    #[test]
    fn the_first_peer_is_worth_saying_and_the_others_are_not() {
        let first = next(None, vec![item("a")]).unwrap();
        let with = |peers: &[&str]| CacheItem {
            peers: peers.iter().map(|peer| (*peer).to_owned()).collect(),
            ..item("a")
        };
        let second = next(Some(&first), vec![with(&["n1"])]).unwrap();
        assert_eq!(next(Some(&second), vec![with(&["n1", "n2"])]), None);
        assert_eq!(next(Some(&second), vec![with(&[])]), None);
    }
}
