//! Why something was not done, or was done this way: data, never text.
//!
//! Logs, Events, `plan` and `explain` are rendered from these. Every variant carries the numbers that
//! decided.

use crate::label::{Expression, Taint};
use crate::money::{HourlyPrice, Millis, Money};
use crate::offer::{CapacityType, OfferingKey};
use crate::pod::ObjectKey;
use crate::ready::Timing;

/// Why one node or offering cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// The pool may not buy now.
    PoolNotReady {
        /// Its own words.
        why: String,
    },
    /// The pool has reached a limit.
    PoolLimit {
        /// The resource, or `nodes`.
        resource: String,
        /// What the pool has already, planned nodes included.
        used: i64,
        /// What this would add.
        adding: i64,
        /// The limit.
        limit: i64,
    },
    /// The cloud had none; not to be asked before `until`.
    Unavailable {
        /// When it may be asked again.
        until: Millis,
        /// What the cloud said.
        why: String,
    },
    /// The type is not sold in that zone under that capacity type.
    NotSold,
    /// As many as may be asked for in one round are asked for already.
    LaunchBudget {
        /// How many that is.
        allowed: u32,
    },
    /// It costs more than is allowed.
    Price {
        /// What it costs.
        price: HourlyPrice,
        /// The cap.
        cap: HourlyPrice,
        /// Who set the cap.
        by: Origin,
    },
    /// Its GPU is not one of those asked for.
    GpuSku {
        /// What it has, if any.
        found: Option<String>,
        /// What was asked for.
        wanted: Vec<String>,
        /// Who asked.
        by: Origin,
    },
    /// It has more GPUs than allowed.
    GpuCount {
        /// How many.
        found: u32,
        /// How many are allowed.
        most: u32,
        /// Who asked.
        by: Origin,
    },
    /// Its capacity type is not one of those asked for.
    CapacityType {
        /// What it is.
        found: CapacityType,
        /// What was asked for.
        wanted: Vec<CapacityType>,
        /// Who asked.
        by: Origin,
    },
    /// Its family is not one of those asked for, or one that is excluded.
    Family {
        /// Its family.
        found: String,
        /// Who asked.
        by: Origin,
    },
    /// Its name does not match the pattern.
    TypePattern {
        /// The pattern.
        pattern: String,
        /// Who asked.
        by: Origin,
    },
    /// A spot offering that costs no less than on-demand.
    SpotWithoutDiscount {
        /// What it costs.
        price: HourlyPrice,
        /// What on-demand costs.
        on_demand: HourlyPrice,
    },
    /// A label does not satisfy a condition of the pod or the pool.
    Label {
        /// The condition; of several alternatives, the first.
        expression: Expression,
        /// What the label is.
        found: Option<String>,
        /// Who asked.
        by: Origin,
    },
    /// A taint is not tolerated.
    Taint(Taint),
    /// There is not enough of a resource.
    Resource {
        /// The resource.
        resource: String,
        /// What the pod asks for.
        asked: i64,
        /// What is free; for an offering, what a new node would have for it.
        free: i64,
    },
    /// A host port is taken.
    HostPort {
        /// The port.
        port: u16,
    },
    /// A volume cannot be used there.
    Volume {
        /// Its claim.
        claim: ObjectKey,
    },
    /// No more volumes of a driver can be attached.
    AttachLimit {
        /// The driver.
        driver: String,
        /// How many it attaches.
        limit: u32,
    },
    /// A topology spread constraint would be violated.
    Spread {
        /// Topology key.
        key: String,
        /// The most allowed.
        max_skew: u32,
    },
    /// No pod that the affinity asks for is in the domain.
    Affinity {
        /// Topology key.
        key: String,
    },
    /// A pod that the anti-affinity of either excludes is in the domain.
    AntiAffinity {
        /// Topology key.
        key: String,
    },
    /// The node takes no pods: cordoned, being deleted, not Ready.
    Leaving,
    /// Another pod has the node for itself, or this one would need it for itself.
    Dedicated,
    /// The pool serves other pods.
    PodSelector {
        /// The pool.
        pool: String,
    },
    /// Fewer different values than the pool's `minValues` would be left to choose from.
    MinValues {
        /// The label key.
        key: String,
        /// How many are asked for.
        wanted: u32,
        /// How many there are.
        found: u32,
    },
    /// Members of the pod's group run in another domain.
    GroupDomain {
        /// Topology key.
        key: String,
    },
}

/// Who set a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The pod.
    Pod,
    /// The pool.
    Pool,
}

/// How many candidates were rejected for one reason, and one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The reason.
    pub rejection: Rejection,
    /// How many.
    pub count: usize,
    /// One of them: the cheapest offering, or the first node by name.
    pub example: String,
}

/// Why a pod is not served by this plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotServed {
    /// Neither a node nor an offering can take it.
    NoCandidate {
        /// Why not the nodes, most frequent first.
        nodes: Vec<Tally>,
        /// Why not the offerings, by pool, most frequent first.
        offerings: Vec<(String, Vec<Tally>)>,
    },
    /// A required relation to itself cannot be met: a volume that is lost, a selector that is empty.
    Impossible {
        /// What.
        what: String,
    },
    /// Its group cannot be placed as a whole.
    Group {
        /// The group.
        group: ObjectKey,
        /// The role that lacks members.
        role: String,
        /// How many of it can be placed.
        placed: u32,
        /// How many must be.
        minimum: u32,
        /// Why the next one cannot, if a member could not be placed.
        because: Option<Box<NotServed>>,
    },
}

/// The parts of a candidate's score; the least sum wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// The node's price over its expected life and the time until it serves; for a node that is
    /// there anyway, nothing.
    pub money: Money,
    /// What the waiting is worth.
    pub waiting: Money,
    /// What interruptions are expected to cost.
    pub risk: Money,
}

impl Score {
    /// The sum.
    pub fn total(&self) -> Money {
        self.money + self.waiting + self.risk
    }
}

/// The candidate that came second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerUp {
    /// What it is.
    pub what: Candidate,
    /// Its score.
    pub score: Score,
    /// When it would have served.
    pub timing: Timing,
}

/// A node or an offering.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Candidate {
    /// A node by name.
    Node(String),
    /// An offering of a pool.
    Offering {
        /// The pool.
        pool: String,
        /// The offering.
        offering: OfferingKey,
    },
}

/// Why an item is not fetched to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFetched {
    /// It is verified there already.
    Present,
    /// Its tag or branch is not resolved yet.
    Unresolved {
        /// The name as written.
        name: String,
    },
    /// Nobody knows its size, so no room can be reserved.
    SizeUnknown,
    /// The round's budget for bytes ahead of demand is used up.
    Budget {
        /// Bytes it lacks.
        bytes: u64,
        /// Bytes of the budget that are left.
        left: u64,
    },
    /// The disk has no room for it.
    Room {
        /// Bytes it needs.
        bytes: u64,
        /// Bytes there are.
        room: u64,
    },
    /// The node's agent reported nothing, or too long ago.
    NoInventory {
        /// Age of the last report, if there was one.
        age: Option<Millis>,
    },
}

/// Why a node is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is used enough.
    Used {
        /// Share of its CPU or memory that is requested, whichever is greater; of its GPUs for a GPU
        /// node. Per cent.
        percent: u32,
        /// The share below which it would be under-used.
        threshold: u32,
    },
    /// It has not been empty or under-used for long enough.
    TooSoon {
        /// For how long it has.
        since: Millis,
        /// How long is asked for.
        after: Millis,
    },
    /// It is starting, or being fetched to for a pod that waits for it.
    Starting,
    /// A pod on it is starting.
    PodStarting(ObjectKey),
    /// A pod on it may not be moved.
    PodForbids(ObjectKey),
    /// A budget of a pod on it is used up.
    PodBudget {
        /// The pod.
        pod: ObjectKey,
        /// The budget.
        budget: ObjectKey,
    },
    /// A pod on it fits nowhere else.
    PodStuck {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        why: Box<NotServed>,
    },
    /// A group of which a member runs on it cannot be moved as a whole.
    Group(ObjectKey),
    /// Its own annotation forbids it.
    NodeForbids,
    /// The pool's budget is used up.
    Budget {
        /// How many nodes it allows.
        allowed: u32,
    },
    /// A pending pod is about to run on it.
    Nominated(ObjectKey),
    /// Nothing else would be cheaper.
    Cheapest,
    /// It belongs to no pool of ours.
    Foreign,
    /// It stands by: being empty is its purpose.
    Standby,
    /// As many removals as one round may simulate were simulated before its turn.
    NotTried {
        /// How many.
        simulated: u32,
    },
}
