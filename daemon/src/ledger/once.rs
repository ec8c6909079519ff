//! Counting each thing once, across restarts, in bounded memory.
//!
//! What happened before this was opened was counted by whoever watched then, so a restart counts
//! nothing twice. The price: what happened in the same second (stamps are cut to whole ones), or
//! while nobody watched, is not counted at all.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use super::moment::Moment;

/// How late a thing may first be seen, and still counts.
pub(super) const LATEST: Duration = Duration::from_secs(3600);

/// Things that are remembered.
const REMEMBERED: usize = 16_384;

/// What was counted.
#[derive(Debug)]
pub(crate) struct Once {
    /// What happened before this counts as counted.
    floor: Moment,
    counted: HashSet<String>,
    by_age: BTreeSet<(Moment, String)>,
}

impl Once {
    /// What happened before `since` was counted by others.
    pub(crate) fn since(since: Moment) -> Self {
        Self {
            floor: since,
            counted: HashSet::new(),
            by_age: BTreeSet::new(),
        }
    }

    /// Forgets what is too old to come up again.
    pub(crate) fn forget(&mut self, now: Moment) {
        self.floor = self.floor.max(now.minus(LATEST));
        while self.by_age.len() > REMEMBERED || self.oldest().is_some_and(|at| at < self.floor) {
            let Some((at, id)) = self.by_age.pop_first() else {
                break;
            };
            // What is forgotten must not look new.
            self.floor = self.floor.max(Moment(at.0.saturating_add(1)));
            self.counted.remove(&id);
        }
    }

    /// Whether what happened then may have to be counted.
    pub(crate) fn is_news(&self, at: Moment) -> bool {
        at >= self.floor
    }

    /// Whether what happened then is to be counted. It is counted from now on.
    pub(crate) fn count(&mut self, id: &str, at: Moment) -> bool {
        if at < self.floor || !self.counted.insert(id.to_owned()) {
            return false;
        }
        self.by_age.insert((at, id.to_owned()));
        true
    }

    fn oldest(&self) -> Option<Moment> {
        self.by_age.first().map(|(at, _)| *at)
    }
}
