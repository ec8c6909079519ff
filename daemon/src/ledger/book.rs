//! What the ledger remembers from round to round: deploys that are done, and which were counted.
//!
//! A deploy is counted once, when it first serves, and its figures stand from then on: a pod that is
//! Ready again later has not been deployed again. What served before this book was opened was counted
//! by whoever watched then, so a restart counts nothing twice; what served in the same second, or
//! while nobody watched, is not counted at all. Memory is bounded, however many pods come and go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::deploy::Deploy;
use super::moment::Moment;

/// Deploys that are done and still shown.
const SHOWN: usize = 200;

/// Deploys that are known to be counted.
const COUNTED: usize = 16_384;

/// How late after serving a deploy may first be seen, and still counts.
const LATEST: Duration = Duration::from_secs(3600);

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    /// What served before this counts as counted.
    floor: Moment,
    counted: HashSet<String>,
    /// The same by the moment they served, the earliest first but for skewed clocks.
    order: VecDeque<(Moment, String)>,
    done: HashMap<String, Arc<Deploy>>,
    shown: VecDeque<String>,
}

/// What one round found.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Deploys under way and done, the youngest first.
    pub(crate) deploys: Vec<Arc<Deploy>>,
    /// Those that serve now, did not before, and are to be counted.
    pub(crate) served: Vec<Arc<Deploy>>,
}

impl Book {
    /// Opens a book at `since`: what served before was counted by others.
    pub(crate) fn since(since: Moment) -> Self {
        Self {
            floor: since,
            counted: HashSet::new(),
            order: VecDeque::new(),
            done: HashMap::new(),
            shown: VecDeque::new(),
        }
    }

    /// Takes the deploys of a moment in.
    pub(crate) fn round(&mut self, deploys: Vec<Deploy>, now: Moment) -> Round {
        self.floor = self.floor.max(now.minus(LATEST));
        let mut round = Round::default();
        let mut present = HashSet::new();
        for deploy in deploys {
            present.insert(deploy.uid.clone());
            if let Some(done) = self.done.get(&deploy.uid) {
                round.deploys.push(done.clone());
                continue;
            }
            let deploy = Arc::new(deploy);
            if let Some(served) = deploy.served {
                self.done.insert(deploy.uid.clone(), deploy.clone());
                self.shown.push_back(deploy.uid.clone());
                if self.count(&deploy.uid, served) {
                    round.served.push(deploy.clone());
                }
            }
            round.deploys.push(deploy);
        }
        // Whose pods are gone stay to be seen, as long as there is room.
        while self.shown.len() > SHOWN {
            if let Some(uid) = self.shown.pop_front() {
                self.done.remove(&uid);
            }
        }
        let gone = self
            .done
            .values()
            .filter(|done| !present.contains(&done.uid));
        round.deploys.extend(gone.cloned());
        round
            .deploys
            .sort_by(|a, b| (b.created, &a.pod, &a.uid).cmp(&(a.created, &b.pod, &b.uid)));
        round
    }

    /// Whether a deploy that served then is to be counted; it is from now on.
    fn count(&mut self, uid: &str, served: Moment) -> bool {
        while let Some((at, _)) = self.order.front() {
            if *at >= self.floor && self.order.len() < COUNTED {
                break;
            }
            if let Some((at, uid)) = self.order.pop_front() {
                // What is forgotten must not look new.
                self.floor = self.floor.max(Moment(at.0.saturating_add(1)));
                self.counted.remove(&uid);
            }
        }
        if served < self.floor || !self.counted.insert(uid.to_owned()) {
            return false;
        }
        self.order.push_back((served, uid.to_owned()));
        true
    }
}
