//! The truth of a cloud of the tests: its machines, its stock, and what goes wrong next.
//!
//! Everything is counted in calls, never in time: a machine is missing in the next two lists, the
//! next three purchases are throttled. The same key never gets two machines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::response::Response;
use headstart_core::offer::OfferingKey;

use crate::server::hang_up;

/// Kinds of calls that faults are planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Makes a machine.
    Create,
    /// Ends one.
    Delete,
    /// Lists machines, or looks at one.
    List,
    /// Says what is sold or for how much.
    Offers,
}

/// What can go wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Too many calls, without a word about when again.
    Throttled,
    /// Too many calls; to be asked again after so many seconds.
    ThrottledFor(u64),
    /// Over an account's limit.
    Quota,
    /// The identity may not.
    Forbidden,
    /// Something that the settings name is not there: an image, a template, a subnet, a pool.
    Misconfigured,
    /// An error code that nobody has seen.
    Unknown,
    /// 500.
    Failed,
    /// 502 with a page of a proxy.
    Html,
    /// A good status with a body that is nothing of the API.
    Garbage,
    /// The connection ends before anything was done.
    LostRequest,
    /// It was done, and the connection ends before a byte of the answer.
    LostReply,
    /// The credentials have just expired; with new ones the call succeeds.
    Expired,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The cloud's id.
    pub id: String,
    /// Key it was bought under: a client token, a name.
    pub key: String,
    /// What it is.
    pub offering: OfferingKey,
    /// Tags or labels that the cloud keeps for it.
    pub marks: BTreeMap<String, String>,
    /// Labels that its Node will have, as far as the cloud was told.
    pub labels: BTreeMap<String, String>,
    /// Taints that its Node will have, each as `key=value:effect`.
    pub taints: Vec<String>,
    /// What its agent finds to fetch, if anything was handed to it.
    pub intent: Option<String>,
    /// Where it is in its life.
    pub life: Life,
    /// When it was made.
    pub created: SystemTime,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Running, or on its way there.
    Running,
    /// Told that it will be taken away, and still running.
    Interrupted,
    /// Ending; gone after so many looks at it.
    Ending(usize),
}

/// Nothing of an offering is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoldOut;

/// Machines, stock and faults of one cloud.
#[derive(Debug, Default)]
pub struct Control {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    machines: BTreeMap<String, Kept>,
    stock: BTreeMap<OfferingKey, usize>,
    prices: BTreeMap<OfferingKey, f64>,
    faults: BTreeMap<Verb, VecDeque<Fault>>,
    calls: BTreeMap<Verb, usize>,
    asked: BTreeMap<OfferingKey, usize>,
    bought: usize,
    /// Lists that a new machine is missing in.
    hidden: usize,
    /// Looks at an ending machine until it is gone.
    ending: usize,
}

#[derive(Debug)]
struct Kept {
    machine: Machine,
    hidden: usize,
}

impl Control {
    /// The next `times` calls of this kind meet `fault`, after those planned before.
    pub fn plan(&self, verb: Verb, fault: Fault, times: usize) {
        let mut inner = self.inner();
        let planned = inner.faults.entry(verb).or_default();
        planned.extend(std::iter::repeat_n(fault, times));
    }

    /// Counts a call and says what goes wrong with it. A server asks once per request, before it does
    /// anything.
    pub fn next(&self, verb: Verb) -> Option<Fault> {
        let mut inner = self.inner();
        *inner.calls.entry(verb).or_default() += 1;
        inner.faults.get_mut(&verb)?.pop_front()
    }

    /// Does `work`, unless what goes wrong with this call keeps it from being done or answered.
    /// `answer` says what a fault is; nothing, when the call is to be done and not answered.
    pub fn answer(
        &self,
        verb: Verb,
        answer: impl FnOnce(Fault) -> Option<Response>,
        work: impl FnOnce() -> Response,
    ) -> Response {
        match self.next(verb) {
            None => work(),
            Some(planned) => answer(planned).unwrap_or_else(|| {
                work();
                hang_up()
            }),
        }
    }

    /// Requests of this kind so far.
    pub fn calls(&self, verb: Verb) -> usize {
        self.inner().calls.get(&verb).copied().unwrap_or(0)
    }

    /// How often this offering was asked for, sold out or not.
    pub fn asked(&self, offering: &OfferingKey) -> usize {
        self.inner().asked.get(offering).copied().unwrap_or(0)
    }

    /// Machines ever made.
    pub fn bought(&self) -> usize {
        self.inner().bought
    }

    /// So many more of this offering can be had; without a word there is no end to them.
    pub fn stock(&self, offering: &OfferingKey, machines: usize) {
        self.inner().stock.insert(offering.clone(), machines);
    }

    /// What is left of the offerings that have an end.
    pub fn left(&self) -> BTreeMap<OfferingKey, usize> {
        self.inner().stock.clone()
    }

    /// There is no end to any offering.
    pub fn restock(&self) {
        self.inner().stock.clear();
    }

    /// Sets a price, in USD per hour. Nothing keeps it sensible.
    pub fn price(&self, offering: &OfferingKey, usd: f64) {
        self.inner().prices.insert(offering.clone(), usd);
    }

    /// A price that was set.
    pub fn priced(&self, offering: &OfferingKey) -> Option<f64> {
        self.inner().prices.get(offering).copied()
    }

    /// Machines made from now on are missing in the first `lists` lists.
    pub fn hide_new(&self, lists: usize) {
        self.inner().hidden = lists;
    }

    /// A machine that is ended from now on is seen ending `looks` times before it is gone.
    pub fn end_slowly(&self, looks: usize) {
        self.inner().ending = looks;
    }

    /// Makes `machine` under its key, or says which one the key has already made.
    ///
    /// # Errors
    /// If nothing of its offering is left.
    pub fn buy(&self, machine: Machine) -> Result<Machine, SoldOut> {
        let mut inner = self.inner();
        let asked = inner.asked.entry(machine.offering.clone()).or_default();
        *asked += 1;
        let known = inner.machines.values();
        let known = known.map(|kept| &kept.machine);
        if let Some(same) = known.clone().find(|known| known.key == machine.key) {
            return Ok(same.clone());
        }
        if let Some(left) = inner.stock.get_mut(&machine.offering) {
            *left = left.checked_sub(1).ok_or(SoldOut)?;
        }
        let hidden = inner.hidden;
        inner.bought += 1;
        let kept = Kept {
            machine: machine.clone(),
            hidden,
        };
        inner.machines.insert(machine.id.clone(), kept);
        Ok(machine)
    }

    /// Every machine there is, whoever may see it: the truth.
    pub fn machines(&self) -> Vec<Machine> {
        let inner = self.inner();
        let kept = inner.machines.values();
        kept.map(|kept| kept.machine.clone()).collect()
    }

    /// What a list shows now. Each list brings hidden machines nearer to being seen, and ending ones
    /// nearer to being gone.
    pub fn list(&self) -> Vec<Machine> {
        let mut inner = self.inner();
        let mut seen = Vec::new();
        inner.machines.retain(|_, kept| {
            if let Some(left) = kept.hidden.checked_sub(1) {
                kept.hidden = left;
                return true;
            }
            if let Life::Ending(left) = &mut kept.machine.life {
                let Some(next) = left.checked_sub(1) else {
                    return false;
                };
                *left = next;
            }
            seen.push(kept.machine.clone());
            true
        });
        seen
    }

    /// Ends a machine; says whether there was one.
    pub fn end(&self, id: &str) -> bool {
        let mut inner = self.inner();
        let looks = inner.ending;
        match inner.machines.get_mut(id) {
            Some(kept) => {
                if !matches!(kept.machine.life, Life::Ending(_)) {
                    kept.machine.life = Life::Ending(looks);
                }
                true
            }
            None => false,
        }
    }

    /// Takes a machine away without a word, as a person at the console does.
    pub fn vanish(&self, id: &str) {
        self.inner().machines.remove(id);
    }

    /// Tells a machine that it will be taken away. The server passes it on as its cloud does.
    pub fn interrupt(&self, id: &str) {
        if let Some(kept) = self.inner().machines.get_mut(id) {
            kept.machine.life = Life::Interrupted;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
