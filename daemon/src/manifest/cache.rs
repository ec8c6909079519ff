//! What nodes have, and what is worth having without a pod that waits for it.

use std::collections::BTreeMap;

use headstart_core::amount;
use headstart_core::cache::{Inventory, Item, ItemState};
use headstart_core::label::Term;
use headstart_core::money::Millis;
use headstart_core::pod::ObjectKey;
use headstart_core::snapshot::Wish;

use super::finding::{Findings, Subject};
use super::object::Placed;
use super::{item, select};
use headstart_api::{CacheItem, ItemPhase, NodeCache, Prefetch};

/// Inventories by node. `observed` is 0 where nothing says when it was reported.
pub(crate) fn inventories(
    placed: &[Placed<NodeCache>],
    findings: &Findings,
) -> BTreeMap<String, Inventory> {
    let mut inventories = BTreeMap::new();
    for cache in placed {
        let subject = findings.about(&cache.place);
        for (index, wanted) in cache.object.spec.items.iter().enumerate() {
            read(wanted, &subject.at("spec.items").nth(index));
        }
        let Some(status) = &cache.object.status else {
            continue;
        };
        let at = subject.at("status");
        let mut items = BTreeMap::new();
        for (index, found) in status.items.iter().enumerate() {
            let at = at.at("items").nth(index);
            let Some(item) = read(found, &at) else {
                continue;
            };
            let state = match (found.state, &found.bytes) {
                (Some(ItemPhase::Verified), _) => ItemState::Verified,
                (Some(ItemPhase::Unknown), _) => ItemState::Unknown,
                (Some(ItemPhase::Partial), bytes) => ItemState::Partial {
                    bytes: bytes
                        .as_ref()
                        .map_or(0, |amount| bytes_of(&amount.0, &at.at("bytes"))),
                },
                (None, _) => {
                    at.at("state")
                        .problem("is missing; write Verified, Partial or Unknown");
                    continue;
                }
            };
            if items.insert(item, state).is_some() {
                at.problem("is listed twice; keep one");
            }
        }
        let fetching = status.fetching.iter().enumerate();
        let inventory = Inventory {
            observed: Millis(status.observed.as_ref().map_or(0, |time| {
                u64::try_from(time.0.as_millisecond()).unwrap_or(0)
            })),
            items,
            room: status
                .room
                .as_ref()
                .map_or(0, |room| bytes_of(&room.0, &at.at("room"))),
            fetching: fetching
                .filter_map(|(index, item)| read(item, &at.at("fetching").nth(index)))
                .collect(),
        };
        inventories.insert(cache.name.clone(), inventory);
    }
    inventories
}

fn bytes_of(text: &str, subject: &Subject<'_>) -> u64 {
    let bytes = subject.ok(amount::parse(amount::EPHEMERAL_STORAGE, text));
    bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(0)
}

fn read(written: &CacheItem, subject: &Subject<'_>) -> Option<Item> {
    match (&written.image, &written.model) {
        (Some(image), None) if written.files.is_empty() => {
            subject.at("image").ok(item::image(image))
        }
        (None, Some(model)) => {
            let mut read = subject.at("model").ok(item::model(model))?;
            if let Item::Model { files, .. } = &mut read
                && !written.files.is_empty()
            {
                files.clone_from(&written.files);
            }
            Some(read)
        }
        (Some(_), None) => {
            subject
                .at("files")
                .problem("belongs to a model; an image has none");
            None
        }
        _ => {
            subject.problem("names no item, or two; give either image or model");
            None
        }
    }
}

/// What is worth fetching: in the order of the objects' names, and as written within one.
pub(crate) fn wishes(placed: &[Placed<Prefetch>], findings: &Findings) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for prefetch in placed {
        let subject = findings.about(&prefetch.place).at("spec");
        let spec = &prefetch.object.spec;
        let nodes = spec
            .node_selector
            .as_ref()
            .map_or(Term::default(), |selector| {
                let at = subject.at("nodeSelector");
                let asked = select::label_selector(selector, &at);
                Term(asked.0.into_iter().map(super::alias::expression).collect())
            });
        let images = spec.images.iter().enumerate().map(|(index, image)| {
            let at = subject.at("images").nth(index);
            at.ok(item::image(image))
        });
        let models = spec.models.iter().enumerate().map(|(index, model)| {
            let at = subject.at("models").nth(index);
            at.ok(item::model(model))
        });
        wishes.extend(images.chain(models).flatten().map(|item| Wish {
            item,
            nodes: nodes.clone(),
            asked_by: ObjectKey::new(&prefetch.namespace, &prefetch.name),
        }));
    }
    wishes
}
