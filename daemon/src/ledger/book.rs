//! What the ledger remembers from round to round: deploys that are done, and which were counted.
//!
//! A deploy is counted once, when it first serves, and its figures stand from then on: a pod that is
//! Ready again later has not been deployed again. Memory is bounded, however many pods come and go.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::deploy::Deploy;
use super::moment::Moment;
use super::once::Once;

/// Deploys that are done and still shown.
const SHOWN: usize = 200;

/// The book.
#[derive(Debug)]
pub(crate) struct Book {
    counted: Once,
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
            counted: Once::since(since),
            done: HashMap::new(),
            shown: VecDeque::new(),
        }
    }

    /// Takes the deploys of a moment in.
    pub(crate) fn round(&mut self, deploys: Vec<Deploy>, now: Moment) -> Round {
        self.counted.forget(now);
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
                if self.counted.count(&deploy.uid, served) {
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
}
