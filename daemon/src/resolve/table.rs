//! What is known of items, and when to ask again. Pure; time is an argument, since the start.

use std::collections::HashMap;
use std::time::Duration;

use headstart_core::cache::Item;

use super::Resolved;

/// How long what a moving name stands for is believed.
const FRESH: Duration = Duration::from_secs(300);

/// First pause after a refusal that may pass by itself; doubles up to [`FRESH`].
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// Entries before those that nobody asked for lately are forgotten.
const MOST: usize = 8192;

/// How long an entry that nobody asks for is kept then.
const KEEP: Duration = Duration::from_secs(3600);

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is known.
    Found(Resolved),
    /// It is not.
    Refused {
        /// Why, for a person.
        said: String,
        /// Whether that may pass by itself.
        transient: bool,
    },
}

#[derive(Debug, Default)]
struct Entry {
    found: Option<Resolved>,
    refused: Option<String>,
    /// Refusals in a row.
    refusals: u32,
    asking: bool,
    /// Not to be asked again before.
    next: Duration,
    used: Duration,
}

/// What is known of items.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: HashMap<Item, Entry>,
}

impl Table {
    /// What is known of `item`, and whether to ask now; whoever is told so asks.
    pub(super) fn look_up(&mut self, item: &Item, now: Duration) -> (Option<Resolved>, bool) {
        if self.entries.len() >= MOST && !self.entries.contains_key(item) {
            self.entries
                .retain(|_, entry| entry.asking || now.saturating_sub(entry.used) < KEEP);
        }
        let entry = self.entries.entry(item.clone()).or_default();
        entry.used = now;
        let settled = entry.found.is_some() && item.is_pinned();
        let ask = !entry.asking && !settled && now >= entry.next;
        entry.asking |= ask;
        (entry.found.clone(), ask)
    }

    /// Whether the first answer is awaited.
    pub(super) fn is_asking(&self, item: &Item) -> bool {
        let entry = self.entries.get(item);
        entry.is_some_and(|it| it.asking && it.found.is_none() && it.refused.is_none())
    }

    /// Why nothing newer is known.
    #[allow(dead_code, reason = "explain does not tell it yet")]
    pub(super) fn refusal(&self, item: &Item) -> Option<&str> {
        self.entries.get(item)?.refused.as_deref()
    }

    /// Takes an answer, and says whether anything differs from before.
    pub(super) fn answered(&mut self, item: &Item, answer: Answer, now: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(item) else {
            return false;
        };
        entry.asking = false;
        match answer {
            Answer::Found(found) => {
                entry.next = now + FRESH;
                entry.refusals = 0;
                let refused = entry.refused.take();
                let differs = entry.found.as_ref() != Some(&found) || refused.is_some();
                entry.found = Some(found);
                differs
            }
            Answer::Refused { said, transient } => {
                let doubled = FIRST_PAUSE * 2_u32.pow(entry.refusals.min(10));
                entry.next = now + if transient { doubled.min(FRESH) } else { FRESH };
                entry.refusals = entry.refusals.saturating_add(1);
                let differs = entry.refused.as_ref() != Some(&said);
                entry.refused = Some(said);
                differs
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_core::cache::{Basis, ItemSize};

    use super::*;
    use crate::manifest::item;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn found(bytes: u64) -> Answer {
        Answer::Found(Resolved {
            item: item::model(&format!("hf://a/b@{COMMIT}")).unwrap(),
            size: ItemSize {
                transfer: bytes,
                unpacked: bytes,
                largest_layer: 0,
                basis: Basis::Known,
            },
        })
    }

    fn refused(transient: bool) -> Answer {
        Answer::Refused {
            said: "no".to_owned(),
            transient,
        }
    }

    #[test]
    fn a_branch_is_asked_for_once_at_a_time_and_again_after_minutes() {
        let branch = item::model("hf://a/b@main").unwrap();
        let mut table = Table::default();
        assert_eq!(table.look_up(&branch, at(0)), (None, true));
        assert_eq!(table.look_up(&branch, at(1)), (None, false));
        assert!(table.is_asking(&branch));
        assert!(table.answered(&branch, found(1), at(2)));
        assert!(!table.is_asking(&branch));
        let (known, ask) = table.look_up(&branch, at(100));
        assert!(known.is_some() && !ask);
        let (known, ask) = table.look_up(&branch, at(302));
        assert!(known.is_some() && ask, "what was known holds meanwhile");
        assert!(
            !table.answered(&branch, found(1), at(303)),
            "nothing is new"
        );
    }

    #[test]
    fn a_commit_is_never_asked_for_again() {
        let commit = item::model(&format!("hf://a/b@{COMMIT}")).unwrap();
        let mut table = Table::default();
        assert!(table.look_up(&commit, at(0)).1);
        table.answered(&commit, found(1), at(1));
        assert!(!table.look_up(&commit, at(1_000_000)).1);
    }

    #[test]
    fn a_refusal_that_may_pass_is_asked_again_soon_and_then_less_often() {
        let branch = item::model("hf://a/b@main").unwrap();
        let mut table = Table::default();
        let (mut now, mut pauses) = (at(0), Vec::new());
        for _ in 0..8 {
            assert!(table.look_up(&branch, now).1);
            table.answered(&branch, refused(true), now);
            let next = table.entries[&branch].next;
            assert!(!table.look_up(&branch, next - at(1)).1);
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(table.refusal(&branch), Some("no"));
        assert!(table.look_up(&branch, now + at(1000)).1);
        assert!(table.answered(&branch, found(1), now + at(1000)));
        assert_eq!(table.refusal(&branch), None);
    }

    #[test]
    fn a_refusal_that_stays_is_asked_again_after_minutes() {
        let branch = item::model("hf://a/b@main").unwrap();
        let mut table = Table::default();
        table.look_up(&branch, at(0));
        assert!(table.answered(&branch, refused(false), at(0)));
        assert!(!table.look_up(&branch, at(299)).1);
        assert!(table.look_up(&branch, at(300)).1);
        assert!(
            !table.answered(&branch, refused(false), at(301)),
            "it was said"
        );
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_once_there_is_much() {
        let mut table = Table::default();
        let model = |n: usize| item::model(&format!("hf://a/m{n}")).unwrap();
        for n in 0..MOST {
            table.look_up(&model(n), at(0));
            table.answered(&model(n), found(1), at(0));
        }
        table.look_up(&model(MOST), at(3599));
        assert_eq!(table.entries.len(), MOST + 1);
        table.look_up(&model(MOST + 1), at(3600));
        assert_eq!(table.entries.len(), 2);
    }
}
