//! What is worked on, what comes next, and when: the intent and what pods wait for, reconciled
//! with what is under way.
//!
//! - No I/O and no clock: the time is an argument, and whoever holds the queue starts what
//!   [`Queue::steps`] says.
//! - The order of the intent is the order of priority; what a pod waits for goes before all of it.
//! - What nobody wants any more is stopped, and what had arrived of it stays.
//! - A failure that may pass is tried again, after what its source asked for or a pause that
//!   doubles; any other only when the intent changes, somebody asks, or a long time has passed.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use headstart_hub::endpoint::Token;
use headstart_transfer::source::Priority;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fact::Fact;
use super::wish::{Key, Kind, Wish};
use crate::items::{Again, Known, Ticket};
use crate::store::Holding;

/// An item begins while fewer than this many that are wanted more are under way. The engine gives
/// connections by priority, so this bounds what is open, not what is fast.
const AT_ONCE: usize = 8;

/// Pause after the first failure that may pass; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between tries that may succeed.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// After this long, what failed for good is tried once more: somebody may have changed something.
const LASTING: Duration = Duration::from_secs(600);

/// How often it is seen whether what was ready still is.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// What a pod waited for is wanted for this long after nobody asks any more: the kubelet asks again.
const LINGER: Duration = Duration::from_secs(900);

/// Most items that are kept track of though nobody wants them.
const MOST_UNWANTED: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Images wait until it is there.
    runtime: Runtime,
    course: Course,
    /// When the machine is taken away, if it is.
    end: Option<Instant>,
    jitter: RandomState,
}

/// Whether there is something to hand images to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Runtime {
    /// Not yet.
    #[default]
    Awaited,
    /// Yes.
    There,
}

/// Whether anything new begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Course {
    /// Not before the store may be written.
    #[default]
    Waiting,
    /// Yes.
    Open,
    /// No: what is under way ends, and then all does.
    Closing,
}

/// One item.
pub(super) struct Entry {
    pub(super) wish: Wish,
    /// Its place in the intent, if it has one.
    pub(super) rank: Option<u32>,
    /// Who waits for it now.
    pub(super) wants: usize,
    lingers_until: Option<Instant>,
    pub(super) token: Option<Token>,
    pub(super) phase: Phase,
    pub(super) priority: Priority,
    pub(super) fact: Fact,
    pub(super) held: Option<Holding>,
    /// While it is under way.
    pub(super) ticket: Option<Arc<Ticket>>,
    /// What it was resolved to when somebody asked for it.
    pub(super) known: Option<Known>,
}

/// How far an item is.
pub(super) enum Phase {
    /// To be begun.
    Waiting { tries: u32, due: Instant },
    /// Under way.
    Running {
        stop: CancellationToken,
        tries: u32,
        /// Whether it is begun again when it has stopped.
        anew: bool,
    },
    /// Ready; looked at again then.
    Ready { look: Instant },
    /// Being looked at.
    Looking,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Step {
    /// Begin the item's work.
    Start { key: Key, stop: CancellationToken },
    /// See whether it is still there.
    Look { key: Key },
}

/// How an item's work ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is ready.
    Ready,
    /// It was stopped.
    Stopped,
    /// It failed.
    Failed { said: String, again: Again },
}

impl Entry {
    fn new(wish: Wish, now: Instant) -> Self {
        Self {
            wish,
            rank: None,
            wants: 0,
            lingers_until: None,
            token: None,
            phase: Phase::Waiting { tries: 0, due: now },
            priority: Priority::default(),
            fact: Fact::default(),
            held: None,
            ticket: None,
            known: None,
        }
    }

    /// Whether anybody wants it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        self.rank.is_some() || self.is_awaited(now)
    }

    /// Whether a pod waits for it.
    fn is_awaited(&self, now: Instant) -> bool {
        self.wants > 0 || self.lingers_until.is_some_and(|until| now < until)
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Whether a pod waits for it and it can be there by `end`. What is not known is taken for good.
    fn is_here_by(&self, end: Instant, rate: Option<f64>, now: Instant) -> bool {
        let left = end.saturating_duration_since(now);
        let needs = rate.map_or(0.0, |rate| self.fact.total as f64 / rate);
        self.is_awaited(now) && !left.is_zero() && needs <= left.as_secs_f64()
    }

    fn order(&self, now: Instant) -> u32 {
        match (self.is_awaited(now), self.rank) {
            (true, _) => 0,
            (false, Some(rank)) => rank.saturating_add(1),
            (false, None) => u32::MAX,
        }
    }
}

impl Queue {
    /// Takes a new intent, in order.
    pub(super) fn take(&mut self, wishes: Vec<Wish>, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.rank = None;
        }
        for (rank, wish) in wishes.into_iter().enumerate() {
            let entry = self
                .entries
                .entry(wish.key.clone())
                .or_insert_with(|| Entry::new(wish.clone(), now));
            if entry.rank.is_some() {
                continue;
            }
            entry.rank = Some(u32::try_from(rank).unwrap_or(u32::MAX));
            // Another name: what is there is called by it too.
            let renamed = entry.wish.name() != wish.name();
            entry.wish = wish;
            match &mut entry.phase {
                Phase::Waiting { due, .. } if entry.fact.is_lasting => *due = now,
                Phase::Ready { .. } if renamed => {
                    entry.phase = Phase::Waiting { tries: 0, due: now };
                }
                Phase::Running { anew, .. } if renamed => *anew = true,
                _ => {}
            }
        }
    }

    /// Somebody waits for an item from now on.
    pub(super) fn want(&mut self, wish: Wish, token: Option<Token>, now: Instant) {
        let key = wish.key.clone();
        let entry = self
            .entries
            .entry(key)
            .or_insert_with(|| Entry::new(wish, now));
        entry.wants += 1;
        let is_new = token.is_some() && token != entry.token;
        if token.is_some() {
            entry.token = token;
        }
        if let Phase::Waiting { due, .. } = &mut entry.phase
            && (is_new || !entry.fact.is_lasting)
        {
            *due = (*due).min(now);
        }
        if is_new {
            entry.fact.is_lasting = false;
        }
    }

    /// One of those who waited does so no more.
    pub(super) fn unwant(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.wants = entry.wants.saturating_sub(1);
            entry.lingers_until = Some(now + LINGER);
        }
    }

    /// There is something to hand images to.
    pub(super) fn runtime(&mut self, runtime: Runtime) {
        self.runtime = runtime;
    }

    /// Whether new work begins from now on.
    pub(super) fn steer(&mut self, course: Course) {
        self.course = course;
    }

    /// The machine is taken away then; nothing takes that back.
    pub(super) fn ends(&mut self, end: Option<Instant>) {
        self.end = end;
    }

    /// Why an item that a pod waits for has not begun, for people.
    pub(super) fn delay(&self) -> &'static str {
        match self.end {
            Some(_) => "this machine is taken away before it could be here",
            None => "its turn has not come",
        }
    }

    pub(super) fn course(&self) -> Course {
        self.course
    }

    /// The network has changed: what could not reach anybody tries again at once.
    pub(super) fn kick(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            let moved = entry
                .ticket
                .as_ref()
                .is_some_and(|ticket| ticket.progress().0 > 0);
            match &mut entry.phase {
                Phase::Waiting { tries, due } if !entry.fact.is_lasting => {
                    (*tries, *due) = (0, now);
                }
                Phase::Running { stop, anew, tries } if !moved => {
                    (*anew, *tries) = (true, 0);
                    stop.cancel();
                }
                _ => {}
            }
        }
    }

    /// Stops what can be gone on with elsewhere without losing a byte: models.
    pub(super) fn hurry(&mut self) {
        for entry in self.entries.values() {
            if let (Phase::Running { stop, .. }, Kind::Model) = (&entry.phase, entry.wish.kind()) {
                stop.cancel();
            }
        }
    }

    /// What is to be done now. Priorities are set on the way.
    pub(super) fn steps(&mut self, now: Instant) -> Vec<Step> {
        self.forget(now);
        let mut order: Vec<(u32, Key)> = Vec::new();
        let end = self.end;
        let rate = end.and_then(|_| self.rate());
        for (key, entry) in &self.entries {
            let place = entry.order(now);
            entry.priority.set(place);
            if let Phase::Running { stop, .. } = &entry.phase
                && (!entry.is_wanted(now) || (end.is_some() && !entry.is_awaited(now)))
            {
                stop.cancel();
            }
            order.push((place, key.clone()));
        }
        if self.course != Course::Open {
            return Vec::new();
        }
        order.sort();
        let (mut steps, mut under_way) = (Vec::new(), 0);
        for (place, key) in order {
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let ready_for = entry.wish.kind() == Kind::Model || self.runtime == Runtime::There;
            match &entry.phase {
                Phase::Running { .. } => under_way += 1,
                Phase::Ready { look } if *look <= now => {
                    entry.phase = Phase::Looking;
                    steps.push(Step::Look { key });
                }
                Phase::Waiting { tries, due }
                    if *due <= now
                        && entry.is_wanted(now)
                        && ready_for
                        && end.is_none_or(|end| entry.is_here_by(end, rate, now))
                        && (under_way < AT_ONCE || place == 0) =>
                {
                    let stop = CancellationToken::new();
                    entry.phase = Phase::Running {
                        stop: stop.clone(),
                        tries: *tries,
                        anew: false,
                    };
                    under_way += 1;
                    steps.push(Step::Start { key, stop });
                }
                _ => {}
            }
        }
        steps
    }

    /// The most bytes that an item came with per second on this machine.
    fn rate(&self) -> Option<f64> {
        let rates = self.entries.values().filter_map(|entry| {
            let took = entry.fact.took?.as_secs_f64();
            (entry.fact.total > 0 && took > 0.0).then(|| entry.fact.total as f64 / took)
        });
        rates.max_by(f64::total_cmp)
    }

    /// When there may be something to do although nothing happens.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.course != Course::Open {
            return None;
        }
        let times = self.entries.values().filter_map(|entry| {
            let due = match entry.phase {
                Phase::Waiting { due, .. } if entry.is_wanted(now) => Some(due),
                Phase::Ready { look } => Some(look),
                _ => None,
            };
            let lingers = entry.lingers_until.filter(|until| *until > now);
            due.into_iter().chain(lingers).filter(|at| *at > now).min()
        });
        times.min()
    }

    /// An item's work has ended.
    pub(super) fn ended(&mut self, key: &Key, ended: Ended, now: Instant) {
        let jitter = 0.75 + (self.jitter.hash_one(now) % 512) as f64 / 1024.0;
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let (tries, anew) = match entry.phase {
            Phase::Running { tries, anew, .. } => (tries, anew),
            _ => (0, false),
        };
        entry.fact.is_lasting = false;
        entry.phase = match ended {
            Ended::Ready if !anew => Phase::Ready {
                look: now + LOOK_EVERY.mul_f64(jitter),
            },
            Ended::Ready | Ended::Stopped => Phase::Waiting { tries, due: now },
            Ended::Failed { said, again } => {
                tracing::warn!(item = %key, reason = %said, "item not brought");
                entry.fact.problem = said;
                entry.fact.is_lasting = again == Again::Lasting;
                let pause = FIRST_PAUSE * 2_u32.saturating_pow(tries.min(10));
                let pause = pause.min(LONGEST_PAUSE).mul_f64(jitter);
                let pause = match again {
                    Again::Lasting => LASTING.mul_f64(jitter),
                    Again::Soon => pause,
                    Again::After(wait) => pause.max(wait),
                };
                Phase::Waiting {
                    tries: tries + 1,
                    due: now + pause,
                }
            }
        };
    }

    /// It was seen whether an item is still there.
    pub(super) fn looked(&mut self, key: &Key, is_there: bool, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if matches!(entry.phase, Phase::Looking) {
            entry.phase = match is_there {
                true => Phase::Ready {
                    look: now + LOOK_EVERY,
                },
                false => Phase::Waiting { tries: 0, due: now },
            };
        }
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.entries.values().any(Entry::is_running)
    }

    /// Drops what nobody wants and nobody has.
    fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, entry| {
            entry.is_wanted(now) || !matches!(entry.phase, Phase::Waiting { .. })
        });
        let unwanted = self.entries.iter().filter(|(_, entry)| {
            !entry.is_wanted(now) && matches!(entry.phase, Phase::Ready { .. })
        });
        let unwanted: Vec<Key> = unwanted.map(|(key, _)| key.clone()).collect();
        for key in unwanted.iter().skip(MOST_UNWANTED) {
            self.entries.remove(key);
        }
        for entry in self.entries.values_mut() {
            if !entry.is_wanted(now) {
                entry.held = None;
            }
        }
    }
}

#[cfg(test)]
mod tests;
