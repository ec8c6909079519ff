//! What a `Prefetch` object says of itself: on how many nodes it is warm, and what keeps it from the
//! others.

use std::collections::BTreeMap;

use headstart_api::PrefetchStatus;
use headstart_core::cache::{Inventory, Item, ItemState};
use headstart_core::reason::NotFetched;
use headstart_core::snapshot::Wish;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::status::{Now, condition};
use crate::plan::words;

/// A node that a prefetch is for.
pub(super) struct Selected<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// What it reports.
    pub(super) inventory: Option<&'a Inventory>,
    /// What was left out of its list, and why.
    pub(super) skipped: &'a [(Item, NotFetched)],
}

/// The status, from what the nodes that it selects report.
pub(super) fn status<'a>(
    before: &PrefetchStatus,
    metadata: &ObjectMeta,
    wishes: &[Wish],
    problems: &[String],
    nodes: impl Iterator<Item = Selected<'a>>,
) -> PrefetchStatus {
    let has = |inventory: &Inventory, wish: &Wish| {
        inventory.items.get(&wish.item) == Some(&ItemState::Verified)
    };
    let (mut count, mut warm) = (0, 0);
    let mut kept_from = KeptFrom::default();
    for node in nodes {
        count += 1;
        let all = |inventory: &Inventory| wishes.iter().all(|wish| has(inventory, wish));
        match node.inventory.is_some_and(all) {
            true => warm += 1,
            false => kept_from.look(&node, wishes),
        }
    }
    let said = problems.join("; ");
    let accepted = match problems.is_empty() {
        true => Now {
            kind: "Accepted",
            status: "True",
            reason: "Accepted",
            message: "",
        },
        false => Now {
            kind: "Accepted",
            status: "False",
            reason: "Unreadable",
            message: &said,
        },
    };
    let (reason, said) = match (count, kept_from.most()) {
        (0, _) => ("NoNodes", "no node is selected".to_owned()),
        (_, Some((reason, said))) => (reason, said),
        (_, None) if warm == count => ("Everywhere", String::new()),
        (_, None) => ("Fetching", format!("{} nodes fetch it", count - warm)),
    };
    let everywhere = Now {
        kind: "Warm",
        status: if reason == "Everywhere" {
            "True"
        } else {
            "False"
        },
        reason,
        message: &said,
    };
    let conditions =
        [accepted, everywhere].map(|now| condition(&before.conditions, &now, metadata));
    PrefetchStatus {
        nodes: count,
        warm,
        conditions: conditions.into(),
    }
}

/// What keeps a prefetch from nodes, by reason: how many, and the first with the words for it.
#[derive(Default)]
struct KeptFrom(BTreeMap<&'static str, (u32, String)>);

impl KeptFrom {
    fn look(&mut self, node: &Selected<'_>, wishes: &[Wish]) {
        let mut skipped = node.skipped.iter();
        let found = skipped.find_map(|(item, why)| {
            let wish = wishes.iter().find(|wish| wish.item == *item)?;
            Some((reason(why)?, wish, why))
        });
        let Some((reason, wish, why)) = found else {
            return;
        };
        let first = self.0.entry(reason).or_insert_with(|| {
            let (name, said) = (node.name, words::not_fetched(why));
            (0, format!("{} on {name}: {said}", words::item(&wish.item)))
        });
        first.0 += 1;
    }

    /// What keeps it from most.
    fn most(self) -> Option<(&'static str, String)> {
        let most = self.0.into_iter().max_by_key(|(_, (count, _))| *count);
        most.map(|(reason, (count, said))| match count {
            1 => (reason, said),
            _ => (reason, format!("{said}; and on {} more nodes", count - 1)),
        })
    }
}

/// The word for it, if it keeps an item from a node that would fetch it otherwise.
fn reason(why: &NotFetched) -> Option<&'static str> {
    match why {
        NotFetched::Present => None,
        NotFetched::Unresolved { .. } => Some("Unresolved"),
        NotFetched::SizeUnknown => Some("SizeUnknown"),
        NotFetched::Budget { .. } => Some("Waiting"),
        NotFetched::Room { .. } => Some("NoRoom"),
        NotFetched::NoInventory { .. } => Some("NoAgent"),
    }
}

#[cfg(test)]
mod tests {
    use headstart_core::cache::Pin;
    use headstart_core::label::Term;

    use super::*;

    fn item() -> Item {
        Item::Model {
            repo: "acme/small".parse().unwrap(),
            pin: Pin::To("0123456789012345678901234567890123456789".parse().unwrap()),
            files: String::new(),
        }
    }

    fn said(nodes: &[(&str, &[(Item, NotFetched)])], item: &Item) -> (String, String) {
        let wish = Wish {
            item: item.clone(),
            asked_by: headstart_core::pod::ObjectKey::new("default", "first"),
            nodes: Term(Vec::new()),
        };
        let nodes = nodes.iter().map(|(name, skipped)| Selected {
            name,
            inventory: None,
            skipped,
        });
        let (before, metadata) = (PrefetchStatus::default(), ObjectMeta::default());
        let status = status(&before, &metadata, &[wish], &[], nodes);
        let warm = status.conditions.into_iter().find(|it| it.type_ == "Warm");
        let warm = warm.unwrap();
        assert_eq!(warm.status, "False");
        (warm.reason, warm.message)
    }

    #[test]
    fn what_keeps_it_from_most_nodes_is_told_with_the_first_of_them() {
        let item = item();
        let room = NotFetched::Room {
            bytes: 1 << 30,
            room: 0,
        };
        let no_room = [(item.clone(), room)];
        let no_agent = [(item.clone(), NotFetched::NoInventory { age: None })];
        let (reason, message) = said(&[("a", &no_agent), ("b", &no_room), ("c", &no_room)], &item);
        assert_eq!(reason, "NoRoom");
        assert!(
            message.contains(" on b: ") && message.ends_with("and on 1 more nodes"),
            "{message}"
        );
    }

    #[test]
    fn nothing_that_keeps_it_away_is_fetching_and_no_node_is_said() {
        let item = item();
        assert_eq!(said(&[("a", &[])], &item).0, "Fetching");
        assert_eq!(said(&[], &item).0, "NoNodes");
    }
}
