//! What is remembered of offerings between rounds: which the cloud refused and until when, and how
//! many launches each may be asked for at once.
//!
//! Two guarantees hold whatever is demanded. While an offering has no capacity it is asked at most
//! once per [`PROBE_INTERVAL`], beyond the launches that its budget allowed when the outage began.
//! And once capacity is back it is asked again at the latest when the interval of its last refusal
//! ends, which is never longer than [`Limits::longest`]. No offering waits for another, unless the
//! cloud's answer covers both.
//!
//! Throttling, and failures that say nothing about capacity, never mark anything. Memory is bounded;
//! what must be forgotten is what ends soonest. The clock is an argument; a mark that lies further
//! ahead than its kind's limit, because the clock went back, counts for nothing.

use std::collections::BTreeMap;

use crate::money::Millis;
use crate::offer::{Availability, CapacityType, InstanceType, Offering, OfferingKey};

mod boots;
pub mod memory;

pub use boots::{Boots, MOST_BOOTS, SAMPLES, SAMPLES_NEEDED};

/// No offering that refuses, or that does not answer, is asked more often than this.
pub const PROBE_INTERVAL: Millis = Millis::from_secs(30);

/// A budget that has seen no success for this long is one again: what a cloud could give ten minutes
/// ago says little about now.
pub const BUDGET_LASTS: Millis = Millis::from_secs(600);

/// Most launches of one offering that are asked for at once.
pub const MOST_LAUNCHES: u32 = 64;

/// Most scopes remembered as refused; with [`MOST_WINDOWS`] and [`MOST_BOOTS`] small enough for the
/// whole memory to fit into one Kubernetes object of 1 MiB.
pub const MOST_MARKS: usize = 2048;

/// Most offerings whose launch budget is remembered; any other has a budget of one.
pub const MOST_WINDOWS: usize = 2048;

/// What was learned about how long a refusal lasts is forgotten after a day without another.
const LESSON_LASTS: Millis = Millis::from_secs(86_400);

/// Longest piece of the cloud's words that is kept, in characters.
const MOST_WHY: usize = 60;

/// Longest name of a type or zone that is remembered, in bytes: that of a label value.
const MOST_NAME: usize = 63;

/// What a refusal covers: every offering that agrees with all that is given. Nothing given is
/// everything there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Only this instance type.
    pub instance_type: Option<String>,
    /// Only this zone.
    pub zone: Option<String>,
    /// Only this capacity type.
    pub capacity_type: Option<CapacityType>,
}

impl Scope {
    /// One offering.
    pub fn offering(key: &OfferingKey) -> Self {
        Self {
            instance_type: Some(key.instance_type.clone()),
            zone: Some(key.zone.clone()),
            capacity_type: Some(key.capacity_type),
        }
    }

    /// A whole zone: its addresses are exhausted.
    pub fn zone(zone: impl Into<String>) -> Self {
        Self {
            zone: Some(zone.into()),
            ..Self::default()
        }
    }

    /// A whole capacity type: spot is not allowed, or its quota is used up.
    pub fn capacity_type(capacity_type: CapacityType) -> Self {
        Self {
            capacity_type: Some(capacity_type),
            ..Self::default()
        }
    }

    /// A whole instance type, in every zone.
    pub fn instance_type(name: impl Into<String>) -> Self {
        Self {
            instance_type: Some(name.into()),
            ..Self::default()
        }
    }

    /// Whether `key` is covered.
    pub fn covers(&self, key: &OfferingKey) -> bool {
        let agrees = |wanted: &Option<String>, found: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == found)
        };
        agrees(&self.instance_type, &key.instance_type)
            && agrees(&self.zone, &key.zone)
            && self.capacity_type.is_none_or(|c| c == key.capacity_type)
    }

    fn is_remembered(&self) -> bool {
        [&self.instance_type, &self.zone]
            .into_iter()
            .flatten()
            .all(|name| name.len() <= MOST_NAME)
    }
}

/// Why a cloud refused, as far as it decides when to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// It has none now.
    NoCapacity,
    /// The account may not have more.
    Quota,
    /// The zone's subnets have no address left.
    NoAddresses,
    /// The account is not sold this at all.
    NotSold,
}

/// How long a refusal is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At least.
    pub shortest: Millis,
    /// The first time, before anything is learned.
    pub start: Millis,
    /// At most.
    pub longest: Millis,
}

impl Refusal {
    /// The interval doubles when the first request after it is refused again, and halves when that
    /// request gets its instance, within these limits. What was learned is forgotten after a day.
    ///
    /// No capacity is asked about again after 3 minutes at the latest, as long as AWS's autoscaler
    /// believes it: a call costs nothing, and somebody waits for the machine. Other starting points
    /// are what the autoscalers of the three clouds have settled on: low quota 10 minutes and subscription quota an hour (Azure),
    /// addresses 30 seconds (GCP), a type that is not sold an hour for spot and 23 hours otherwise
    /// (Azure).
    pub fn limits(self) -> Limits {
        let of = |shortest, start, longest| Limits {
            shortest: Millis::from_secs(shortest),
            start: Millis::from_secs(start),
            longest: Millis::from_secs(longest),
        };
        match self {
            Self::NoCapacity => of(30, 180, 180),
            Self::Quota => of(60, 600, 3600),
            Self::NoAddresses => of(30, 30, 600),
            Self::NotSold => of(3600, 3600, 82_800),
        }
    }
}

/// What happened to one request for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cloud is being asked. Recorded before the call, so that a round that starts meanwhile
    /// does not spend the same budget again.
    Asked,
    /// The cloud gave the instance: not merely accepted the request, where it may still fail.
    Launched,
    /// The cloud has none to give.
    Refused {
        /// What the answer covers.
        scope: Scope,
        /// Why.
        refusal: Refusal,
        /// Its words: `InsufficientInstanceCapacity`.
        why: String,
        /// When the cloud says to ask again, if it does.
        until: Option<Millis>,
    },
    /// A running instance was taken away. Says the same as a refusal.
    Interrupted,
    /// Too many requests. Says nothing about capacity.
    Throttled,
    /// It failed for a reason that says nothing about capacity.
    Failed,
}

/// What is remembered. A plain value: the daemon keeps it between rounds and stores its
/// [`memory::CapacityMemory`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    marks: BTreeMap<Scope, Mark>,
    windows: BTreeMap<OfferingKey, Window>,
}

/// One refusal, or what was learned from those before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    refusal: Refusal,
    why: String,
    /// How long the next refusal will be believed.
    interval: Millis,
    /// Not to be asked before this, unless a launch succeeded since.
    until: Millis,
    state: MarkState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MarkState {
    Refused,
    Succeeded,
}

/// How many launches may be under way at once. Grows by one with each success, so that it doubles
/// over one full window; the requests of the window after a success need not wait for a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    allowed: u32,
    unanswered: u32,
    /// When the last request was made.
    asked: Millis,
    /// When the last one succeeded.
    succeeded: Millis,
}

impl Capacity {
    /// Learns from what happened to a request for `offering`.
    pub fn record(&mut self, offering: &OfferingKey, outcome: &Outcome, now: Millis) {
        if !Scope::offering(offering).is_remembered() {
            return;
        }
        let window = self
            .windows
            .entry(offering.clone())
            .or_insert(Window::new(now));
        match outcome {
            Outcome::Asked => window.ask(now),
            Outcome::Launched => {
                window.succeed(now);
                self.succeed(offering, now);
            }
            Outcome::Throttled | Outcome::Failed => window.answer(),
            Outcome::Refused {
                scope,
                refusal,
                why,
                until,
            } => {
                window.refuse();
                // An answer that does not cover what was asked is about what was asked.
                let scope = if scope.covers(offering) && scope.is_remembered() {
                    scope.clone()
                } else {
                    Scope::offering(offering)
                };
                self.mark(scope, *refusal, why, *until, now);
            }
            Outcome::Interrupted => {
                window.allowed = 1;
                let scope = Scope::offering(offering);
                self.mark(scope, Refusal::NoCapacity, "interrupted", None, now);
            }
        }
        self.forget(now);
    }

    /// Fills in what may be bought now, and how often: [`Offering::availability`] and
    /// [`Offering::launch_budget`] of each. One that is never sold stays so.
    pub fn apply(&self, types: &[InstanceType], offerings: &mut [Offering], now: Millis) {
        let live: BTreeMap<_, &Mark> = self
            .marks
            .iter()
            .filter(|(_, mark)| mark.is_live(now))
            .map(|(scope, mark)| (scope.parts(), mark))
            .collect();
        let windows: BTreeMap<_, u32> = self
            .windows
            .iter()
            .map(|(key, window)| (parts(key), window.budget(now)))
            .collect();
        for offering in offerings {
            let Some(instance_type) = types.get(offering.instance_type) else {
                offering.availability = Availability::Never;
                continue;
            };
            let own = (
                Some(instance_type.name.as_str()),
                Some(offering.zone.as_str()),
                Some(offering.capacity_type),
            );
            let budget = windows.get(&own).copied().unwrap_or(1);
            let refused = (0..8_u8)
                .filter(|_| !live.is_empty())
                .filter_map(|mask| {
                    live.get(&(
                        own.0.filter(|_| mask & 1 == 0),
                        own.1.filter(|_| mask & 2 == 0),
                        own.2.filter(|_| mask & 4 == 0),
                    ))
                })
                .max_by_key(|mark| mark.until);
            if offering.availability != Availability::Never {
                offering.availability = match refused {
                    Some(mark) => Availability::Until {
                        until: mark.until,
                        why: mark.why.clone(),
                    },
                    None => Availability::Available,
                };
            }
            offering.launch_budget = Some(budget);
        }
    }

    /// How long the next refusal that covers `scope` will be believed.
    pub fn interval(&self, scope: &Scope, refusal: Refusal) -> Millis {
        match self.marks.get(scope) {
            Some(mark) if mark.refusal == refusal => mark.interval,
            _ => refusal.limits().start,
        }
    }

    /// How many scopes and offerings are remembered.
    pub fn len(&self) -> (usize, usize) {
        (self.marks.len(), self.windows.len())
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn mark(
        &mut self,
        scope: Scope,
        refusal: Refusal,
        why: &str,
        said: Option<Millis>,
        now: Millis,
    ) {
        let limits = refusal.limits();
        let before = self.marks.get(&scope);
        // The answers to requests that were made together are one refusal, not many.
        let interval = match before {
            None => limits.start,
            Some(mark) if mark.refusal != refusal => limits.start,
            Some(mark) if mark.is_live(now) => mark.interval,
            Some(mark) if now - mark.until > LESSON_LASTS => limits.start,
            Some(mark) if now - mark.until > limits.longest => mark.interval,
            Some(mark) if mark.state == MarkState::Succeeded => mark.interval,
            Some(mark) => Millis(mark.interval.0.saturating_mul(2)).min(limits.longest),
        };
        let least = before
            .filter(|mark| mark.is_live(now))
            .map_or(Millis(0), |mark| mark.until);
        let until = said
            .unwrap_or(Millis(0))
            .min(now + limits.longest)
            .max(now + interval)
            .max(least);
        self.marks.insert(
            scope,
            Mark {
                refusal,
                why: why.chars().take(MOST_WHY).collect(),
                interval,
                until,
                state: MarkState::Refused,
            },
        );
    }

    /// A launch succeeded: what covered it and has run out was right to end, and might end sooner
    /// next time. A success that arrives while a refusal is live was asked for before it.
    fn succeed(&mut self, offering: &OfferingKey, now: Millis) {
        for (scope, mark) in &mut self.marks {
            if mark.state == MarkState::Refused && !mark.is_live(now) && scope.covers(offering) {
                let shortest = mark.refusal.limits().shortest;
                mark.interval = Millis(mark.interval.0 / 2).max(shortest);
                mark.state = MarkState::Succeeded;
            }
        }
    }

    fn forget(&mut self, now: Millis) {
        if self.marks.len() > MOST_MARKS
            && let Some(scope) = self
                .marks
                .iter()
                .min_by_key(|(_, mark)| (mark.is_live(now), mark.until))
                .map(|(scope, _)| scope.clone())
        {
            self.marks.remove(&scope);
        }
        if self.windows.len() > MOST_WINDOWS
            && let Some(key) = self
                .windows
                .iter()
                .min_by_key(|(_, window)| window.asked.max(window.succeeded))
                .map(|(key, _)| key.clone())
        {
            self.windows.remove(&key);
        }
    }
}

impl Scope {
    fn parts(&self) -> (Option<&str>, Option<&str>, Option<CapacityType>) {
        (
            self.instance_type.as_deref(),
            self.zone.as_deref(),
            self.capacity_type,
        )
    }
}

fn parts(key: &OfferingKey) -> (Option<&str>, Option<&str>, Option<CapacityType>) {
    (
        Some(&key.instance_type),
        Some(&key.zone),
        Some(key.capacity_type),
    )
}

impl Mark {
    fn is_live(&self, now: Millis) -> bool {
        self.state == MarkState::Refused
            && now < self.until
            // A clock that went back must not make a mark outlast its limit.
            && self.until <= now + self.refusal.limits().longest
    }
}

impl Window {
    fn new(now: Millis) -> Self {
        Self {
            allowed: 1,
            unanswered: 0,
            asked: now,
            succeeded: now,
        }
    }

    fn allowed(&self, now: Millis) -> u32 {
        if now - self.succeeded > BUDGET_LASTS {
            1
        } else {
            self.allowed
        }
    }

    /// Launches that are under way; one that nobody answered for a probe interval is not counted.
    fn under_way(&self, now: Millis) -> u32 {
        if now - self.asked >= PROBE_INTERVAL || now < self.asked {
            0
        } else {
            self.unanswered
        }
    }

    fn budget(&self, now: Millis) -> u32 {
        self.allowed(now).saturating_sub(self.under_way(now))
    }

    fn ask(&mut self, now: Millis) {
        self.allowed = self.allowed(now);
        self.unanswered = self.under_way(now).saturating_add(1);
        self.asked = now;
    }

    fn answer(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
    }

    fn succeed(&mut self, now: Millis) {
        self.answer();
        self.allowed = self.allowed(now).saturating_add(1).min(MOST_LAUNCHES);
        self.succeeded = now;
    }

    fn refuse(&mut self) {
        self.answer();
        self.allowed = 1;
    }
}

#[cfg(test)]
mod tests;
