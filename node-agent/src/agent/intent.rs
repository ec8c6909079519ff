//! What the control plane wants here, as last heard: kept on disk, so that the agent works on while
//! the API server is away, also across its own restart.
//!
//! An intent is taken when it is meant for this node and is not older than the one known. What
//! belongs to another machine of the same name is never taken.

use headstart_api::{CacheItem, NodeCache};
use serde::{Deserialize, Serialize};

use super::wish::Wish;
use crate::report::chain;

/// Most items of one intent that are worked on.
const MOST_ITEMS: usize = 1000;

/// What is wanted here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Intent {
    /// The object's name.
    pub(crate) name: String,
    /// The object's uid; none for one from a file.
    pub(crate) uid: Option<String>,
    /// The uid of the node it was taken for, where that was known.
    pub(crate) node: Option<String>,
    pub(crate) generation: u64,
    pub(crate) items: Vec<CacheItem>,
}

/// Who takes an intent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Me {
    /// The uid of this machine's Node, where there is one yet.
    pub(crate) node: Option<String>,
}

/// What becomes of an intent that was heard of.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    /// It is the one to work on.
    Taken(Intent),
    /// It is the one worked on.
    Known,
    /// It is an older one of the same; why, for people.
    Outdated(String),
    /// It is another node's; why, for people.
    Foreign(String),
}

/// Judges an intent beside the one known.
pub(crate) fn hear(known: Option<&Intent>, offered: &NodeCache, me: &Me) -> Heard {
    let name = offered.metadata.name.clone().unwrap_or_default();
    let owners = offered.metadata.owner_references.iter().flatten();
    let mut nodes = owners.filter(|owner| owner.kind == "Node");
    if let (Some(me), Some(owner)) = (&me.node, nodes.next())
        && owner.uid != *me
    {
        return Heard::Foreign(format!(
            "NodeCache {name} belongs to another node of this name (uid {}, this one is {me})",
            owner.uid
        ));
    }
    let intent = Intent {
        uid: offered.metadata.uid.clone(),
        node: me.node.clone(),
        generation: offered.spec.generation,
        items: offered.spec.items.clone(),
        name,
    };
    match known {
        Some(known) if is_same_object(known, &intent) => {
            let (found, had) = (intent.generation, known.generation);
            match found < had {
                true => Heard::Outdated(format!(
                    "NodeCache {} has generation {found}, older than {had} that is worked on",
                    intent.name
                )),
                false if intent == *known => Heard::Known,
                false => Heard::Taken(intent),
            }
        }
        _ => Heard::Taken(intent),
    }
}

/// Whether two are states of one object, so that their generations can be compared. One from a file
/// was embedded by whoever wrote the object.
fn is_same_object(known: &Intent, offered: &Intent) -> bool {
    match (&known.uid, &offered.uid) {
        (Some(known), Some(offered)) => known == offered,
        _ => known.name == offered.name,
    }
}

impl Intent {
    /// Whether it may have been meant for another machine than the one with that Node.
    pub(crate) fn is_foreign(&self, me: &Me) -> bool {
        matches!((&self.node, &me.node), (Some(then), Some(now)) if then != now)
    }

    /// Its items, in order, and what is wrong with those that are none.
    pub(crate) fn wishes(&self) -> (Vec<Wish>, Vec<String>) {
        let (mut wishes, mut problems) = (Vec::new(), Vec::new());
        for (index, item) in self.items.iter().take(MOST_ITEMS).enumerate() {
            match Wish::read(item) {
                Ok(wish) => wishes.push(wish),
                Err(error) => problems.push(format!("spec.items[{index}]: {}", chain(&error))),
            }
        }
        if self.items.len() > MOST_ITEMS {
            let more = self.items.len() - MOST_ITEMS;
            problems.push(format!(
                "spec.items: {more} more than {MOST_ITEMS} are left out"
            ));
        }
        (wishes, problems)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn cache(uid: Option<&str>, generation: u64) -> NodeCache {
        let mut cache = NodeCache::default();
        cache.metadata.name = Some("n1".to_owned());
        cache.metadata.uid = uid.map(str::to_owned);
        cache.spec.generation = generation;
        cache
    }

    fn owned(mut cache: NodeCache, node: &str) -> NodeCache {
        cache.metadata.owner_references = Some(vec![OwnerReference {
            kind: "Node".to_owned(),
            name: "n1".to_owned(),
            uid: node.to_owned(),
            ..OwnerReference::default()
        }]);
        cache
    }

    fn me(node: &str) -> Me {
        Me {
            node: Some(node.to_owned()),
        }
    }

    #[track_caller]
    fn taken(heard: Heard) -> Intent {
        match heard {
            Heard::Taken(intent) => intent,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_older_generation_of_the_same_object_is_refused_and_the_same_is_known() {
        let known = taken(hear(None, &cache(Some("a"), 5), &me("x")));
        let known = Some(&known);
        assert_eq!(hear(known, &cache(Some("a"), 5), &me("x")), Heard::Known);
        assert!(matches!(
            hear(known, &cache(Some("a"), 4), &me("x")),
            Heard::Outdated(_)
        ));
        assert_eq!(
            taken(hear(known, &cache(Some("a"), 6), &me("x"))).generation,
            6
        );
    }

    #[test]
    fn an_object_made_anew_counts_from_its_own_beginning() {
        let known = taken(hear(None, &cache(Some("a"), 5), &me("x")));
        let anew = taken(hear(Some(&known), &cache(Some("b"), 1), &me("x")));
        assert_eq!((anew.uid.as_deref(), anew.generation), (Some("b"), 1));
    }

    #[test]
    fn what_came_by_user_data_is_followed_by_the_object_but_not_by_its_past() {
        let file = taken(hear(None, &cache(None, 3), &Me::default()));
        assert!(matches!(
            hear(Some(&file), &cache(Some("a"), 2), &me("x")),
            Heard::Outdated(_)
        ));
        assert_eq!(
            taken(hear(Some(&file), &cache(Some("a"), 3), &me("x")))
                .uid
                .as_deref(),
            Some("a")
        );
    }

    #[test]
    fn the_intent_of_another_machine_of_the_same_name_is_never_taken() {
        let theirs = owned(cache(Some("a"), 9), "old");
        assert!(matches!(hear(None, &theirs, &me("new")), Heard::Foreign(_)));
        let ours = owned(cache(Some("a"), 9), "new");
        let ours = taken(hear(None, &ours, &me("new")));
        assert!(ours.is_foreign(&me("newer")));
        assert!(!ours.is_foreign(&me("new")));
        assert!(!ours.is_foreign(&Me::default()));
    }
}
