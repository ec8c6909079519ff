//! What a node is to have, as its NodeCache says it: from the prefetch plan to a spec that changes only
//! when the wish does.
//!
//! What is there already and what running pods use stays listed: a list that shrank as items arrive
//! would say that they may go. Progress, and who else has an item, change nothing by themselves; that
//! somebody has it at all does once.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use headstart_api::{Amount, CacheItem, NodeCache, NodeCacheSpec, NodeClaim, names};
use headstart_core::cache::{Basis, Item, ItemSize, Pin};
use headstart_core::node::Node;
use headstart_core::plan::{Prefetch, Urgency};
use headstart_core::reason::NotFetched;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt as _};

use super::mind::Mind;
use super::write::{Cache, Write};

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

/// One item that a node is to have, with all that is said of it.
#[derive(Clone, Debug, Hash)]
pub(super) struct Wanted<'a> {
    item: &'a Item,
    /// The name under which pods ask for it.
    name: Option<&'a String>,
    size: Option<ItemSize>,
    /// Whether a pod waits for it.
    demanded: bool,
    pinned: bool,
    peers: &'a [String],
}

/// What a node is to have: what is to be fetched, what is there of it, and what its pods use.
pub(super) fn wanted<'a>(
    list: Option<&'a Prefetch>,
    used: impl IntoIterator<Item = &'a Item>,
    mind: &'a Mind,
) -> Vec<Wanted<'a>> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    let wanted = |item| Wanted {
        item,
        name: mind.names.get(item),
        size: mind.snapshot.items.get(item).copied(),
        demanded: false,
        pinned: false,
        peers: &[],
    };
    for asked in list.iter().flat_map(|list| &list.items) {
        if seen.insert(&asked.item) {
            let demanded = asked.urgency == Urgency::Demand;
            all.push(Wanted {
                demanded,
                pinned: demanded,
                peers: &asked.peers,
                ..wanted(&asked.item)
            });
        }
    }
    let present = list.iter().flat_map(|list| &list.skipped);
    let present = present.filter(|(_, why)| *why == NotFetched::Present);
    let present = present.map(|(item, _)| item);
    for item in present.chain(used) {
        if item.is_pinned() && seen.insert(item) {
            all.push(Wanted {
                pinned: true,
                ..wanted(item)
            });
        }
    }
    all.truncate(MOST_ITEMS);
    all
}

/// The same as an agent reads it.
pub(super) fn items(wanted: &[Wanted<'_>]) -> Vec<CacheItem> {
    wanted.iter().map(written).collect()
}

fn written(wanted: &Wanted<'_>) -> CacheItem {
    let known = wanted.size.filter(|size| size.basis == Basis::Known);
    let (image, model, files) = match wanted.item {
        Item::Image { repository, pin } => {
            let image = match pin {
                Pin::To(digest) => format!("{repository}@{}", digest.prefixed()),
                Pin::Name(name) => format!("{repository}:{name}"),
            };
            (Some(image), None, String::new())
        }
        Item::Model { repo, pin, files } => {
            let model = match pin {
                Pin::To(commit) => format!("{repo}@{commit}"),
                Pin::Name(name) => format!("{repo}@{name}"),
            };
            (None, Some(model), files.clone())
        }
    };
    CacheItem {
        image_name: image.as_ref().and_then(|_| wanted.name.cloned()),
        image,
        model,
        files,
        bytes: known.map(|size| Amount(size.transfer.to_string())),
        demanded: wanted.demanded,
        pinned: wanted.pinned,
        peers: wanted.peers.to_vec(),
        ..CacheItem::default()
    }
}

/// All that the intent of one node is made of: nothing else reaches it, so that equal inputs need not be
/// looked at again.
#[derive(Debug, Hash)]
pub(super) struct Inputs<'a> {
    /// Name of its node cache.
    pub(super) name: String,
    /// The node's.
    pub(super) node: &'a str,
    pub(super) is_told: bool,
    /// The claim that it was bought by.
    pub(super) claim: Option<Seen<'a, NodeClaim>>,
    /// The UID of its Node, once there is one.
    pub(super) registered: Option<Option<&'a str>>,
    /// What announced it, while it is neither bought nor registered.
    pub(super) announced: Option<Owner>,
    /// The intent as it is.
    pub(super) before: Option<Seen<'a, NodeCache>>,
    pub(super) wanted: Vec<Wanted<'a>>,
}

/// An object as the API server gave it out: of equal versions, equal.
#[derive(Debug)]
pub(super) struct Seen<'a, K>(pub(super) &'a K);

impl<K: Resource> Hash for Seen<'_, K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let metadata = self.0.meta();
        (&metadata.name, &metadata.uid, &metadata.resource_version).hash(state);
    }
}

/// Whose an intent is: of equal UIDs, the same.
#[derive(Debug)]
pub(super) struct Owner(pub(super) OwnerReference);

impl Hash for Owner {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.uid.hash(state);
    }
}

impl Inputs<'_> {
    /// What is to be written, if anything is.
    pub(super) fn write(&self) -> Option<Write> {
        let before = self.before.as_ref().map(|seen| seen.0);
        let claim = self.claim.as_ref().map(|seen| seen.0);
        if before.is_none() && !self.is_told {
            return None;
        }
        let owner = match (claim, self.registered) {
            (Some(claim), _) => claim.owner_ref(&()),
            (None, Some(uid)) => uid.map(|uid| OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.node.to_owned(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }),
            (None, None) => self.announced.as_ref().map(|owner| owner.0.clone()),
        };
        let of = before.and_then(|it| it.metadata.owner_references.as_ref()?.first());
        if let (Some(before), Some(of), Some(owner)) = (before, of, &owner)
            && of.uid != owner.uid
        {
            // Another machine has the name now: nothing that was said of the old one holds.
            return Some(Write::RemoveCache {
                name: self.name.clone(),
                uid: before.uid(),
            });
        }
        let registered = self.registered.map(|_| self.node);
        let labels = labels_of(&self.name, claim, registered);
        let spec = next(before.map(|it| &it.spec), items(&self.wanted));
        let lacks = before.is_some_and(|it| {
            (of.is_none() && owner.is_some())
                || labels
                    .iter()
                    .any(|(key, value)| it.labels().get(key) != Some(value))
        });
        let spec = match (spec, before) {
            (Some(spec), _) => spec,
            (None, Some(before)) if lacks => before.spec.clone(),
            _ => return None,
        };
        Some(Write::Cache(Box::new(Cache {
            name: self.name.clone(),
            owner,
            labels,
            spec,
        })))
    }
}

/// Labels of a node cache.
pub(super) fn labels_of(
    name: &str,
    claim: Option<&NodeClaim>,
    node: Option<&str>,
) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    if let Some(claim) = claim {
        labels.push((names::NODE_CLAIM.to_owned(), name.to_owned()));
        labels.push((names::NODE_POOL.to_owned(), claim.spec.node_pool.clone()));
    }
    if let Some(node) = node.filter(|node| node.len() <= 63) {
        labels.push((names::NODE.to_owned(), node.to_owned()));
    }
    labels
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
    fn what_is_said_of_an_item_or_of_its_node_is_another_input() {
        let item = Item::Image {
            repository: "docker.io/acme/engine".to_owned(),
            pin: Pin::Name("1".to_owned()),
        };
        let (name, peers) = ("acme/engine:1".to_owned(), ["n1".to_owned()]);
        let mut cache = NodeCache::new("a", NodeCacheSpec::default());
        let number = |inputs: &Inputs<'_>| {
            use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
            BuildHasherDefault::<DefaultHasher>::default().hash_one(inputs)
        };
        let plain = Wanted {
            item: &item,
            name: None,
            size: None,
            demanded: false,
            pinned: true,
            peers: &[],
        };
        let of = |wanted: &Wanted<'_>, registered, before: Option<&NodeCache>| {
            number(&Inputs {
                name: "a".to_owned(),
                node: "a",
                is_told: true,
                claim: None,
                registered,
                announced: None,
                before: before.map(Seen),
                wanted: vec![wanted.clone()],
            })
        };
        let demanded = Wanted {
            demanded: true,
            ..plain.clone()
        };
        let named = Wanted {
            name: Some(&name),
            ..plain.clone()
        };
        let shared = Wanted {
            peers: &peers,
            ..plain.clone()
        };
        let mut all = BTreeSet::from([
            of(&plain, None, None),
            of(&demanded, None, None),
            of(&named, None, None),
            of(&shared, None, None),
            of(&plain, Some(Some("uid")), None),
            of(&plain, None, Some(&cache)),
        ]);
        cache.metadata.resource_version = Some("7".to_owned());
        all.insert(of(&plain, None, Some(&cache)));
        assert_eq!(all.len(), 7);
        assert_eq!(of(&plain, None, None), of(&plain.clone(), None, None));
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
