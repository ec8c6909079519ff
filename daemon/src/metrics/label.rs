//! Labels of metrics. Every value is one of a fixed set: no pod, object or model names one.

use headstart_core::offer::CapacityType;
use headstart_core::plan::RetirementPlan;
use headstart_core::pool::DisruptionReason;
use headstart_core::reason::{Kept, NotFetched, NotServed};
use headstart_provider::Refusal;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

use crate::ledger::{Cached, ItemKind, Stage};
use crate::plan::words;

/// A label value from a type that has a word for each of its values.
macro_rules! word {
    ($($type:ty),*) => {$(
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.word(), encoder)
            }
        }
    )*};
}

/// An enum whose values have words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $value:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum $name {
            $($(#[$of])* $value,)*
        }

        impl $name {
            /// All of them.
            #[allow(dead_code, reason = "not every label is written before it is known")]
            pub(crate) const ALL: &[Self] = &[$(Self::$value,)*];

            /// Its word.
            pub(crate) fn word(self) -> &'static str {
                match self {
                    $(Self::$value => $word,)*
                }
            }
        }

        word!($name);
    };
}

word!(Stage, Cached, ItemKind, Capacity, Reason);

/// A capacity type, or none that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Capacity(pub(crate) Option<CapacityType>);

impl Capacity {
    fn word(&self) -> &'static str {
        self.0.map_or("unknown", CapacityType::as_str)
    }
}

words! {
    /// What became of bytes that a deploy starts with.
    Exposure {
        /// They were there before the pod was.
        Cached = "cached",
        /// They came while something else was waited for.
        Hidden = "hidden",
        /// They were waited for.
        Exposed = "exposed",
    }
}

words! {
    /// Where bytes came from.
    Source {
        /// A registry.
        Registry = "registry",
        /// A mirror of one.
        Mirror = "mirror",
        /// The model hub.
        Hub = "hub",
        /// Another node.
        Peer = "peer",
        /// This node's own disk.
        Disk = "disk",
        /// A word that this version does not know.
        Other = "other",
    }
}

impl Source {
    /// By its word.
    pub(crate) fn of(word: &str) -> Self {
        let mut known = Self::ALL.iter().copied();
        known.find(|one| one.word() == word).unwrap_or(Self::Other)
    }
}

words! {
    /// What a deploy found of an item when its pod was created.
    Found {
        /// All of it.
        Hit = "hit",
        /// It was on its way.
        Partial = "partial",
        /// Nothing.
        Miss = "miss",
        /// No agent reports on the node.
        Unknown = "unknown",
    }
}

impl Found {
    /// From how much of it there was.
    pub(crate) fn of(cached: Cached) -> Self {
        match cached {
            Cached::Warm => Self::Hit,
            Cached::Partial => Self::Partial,
            Cached::Cold => Self::Miss,
            Cached::Unknown => Self::Unknown,
        }
    }
}

words! {
    /// How far an item is on a node.
    ItemState {
        /// All of it is there and verified.
        Verified = "verified",
        /// Some of it is there.
        Partial = "partial",
        /// It is there, unverified.
        Unverified = "unverified",
        /// It cannot be had; the agent says why.
        Failed = "failed",
    }
}

words! {
    /// Whether a node's agent reports.
    Reports {
        /// It does.
        Fresh = "fresh",
        /// It did not for a while.
        Stale = "stale",
        /// It never did.
        Never = "never",
    }
}

words! {
    /// A step of a round.
    Phase {
        /// Reading what there is.
        Observe = "observe",
        /// Deciding.
        Plan = "plan",
        /// Doing it.
        Apply = "apply",
        /// Saying it.
        Publish = "publish",
    }
}

words! {
    /// How a round ended.
    RoundEnd {
        /// Something was done.
        Applied = "applied",
        /// Nothing was to be done.
        Quiet = "quiet",
        /// Something that was to be done could not be.
        Failed = "failed",
        /// It could not be planned: a watch has not listed yet, or this replica does not lead.
        Skipped = "skipped",
    }
}

words! {
    /// A kind of object that is written.
    Object {
        /// A claim.
        NodeClaim = "nodeclaim",
        /// What a node is to have.
        NodeCache = "nodecache",
        /// A pool.
        NodePool = "nodepool",
        /// A prefetch.
        Prefetch = "prefetch",
        /// A node.
        Node = "node",
        /// A pod.
        Pod = "pod",
        /// An event.
        Event = "event",
        /// The lease.
        Lease = "lease",
        /// What was learned about offerings.
        ConfigMap = "configmap",
        /// A configuration of admission.
        Admission = "admission",
    }
}

words! {
    /// How an object is written.
    Verb {
        /// By server-side apply.
        Apply = "apply",
        /// By patch.
        Patch = "patch",
        /// By creation.
        Create = "create",
        /// By deletion.
        Delete = "delete",
    }
}

words! {
    /// How something that was tried ended.
    Outcome {
        /// Well.
        Ok = "ok",
        /// Somebody else was faster.
        Conflict = "conflict",
        /// Otherwise.
        Error = "error",
    }
}

words! {
    /// Who told that a machine will not stay.
    Notice {
        /// The provider, by listing it so.
        Provider = "provider",
        /// EC2's metadata service, to the agent.
        Aws = "aws",
        /// Compute Engine's.
        Gcp = "gcp",
        /// Azure's.
        Azure = "azure",
    }
}

impl From<headstart_api::NoticeSource> for Notice {
    fn from(source: headstart_api::NoticeSource) -> Self {
        match source {
            headstart_api::NoticeSource::Aws => Self::Aws,
            headstart_api::NoticeSource::Gcp => Self::Gcp,
            headstart_api::NoticeSource::Azure => Self::Azure,
        }
    }
}

words! {
    /// What will become of it.
    Threat {
        /// It will be taken away.
        Taken = "taken",
        /// It will be stopped for maintenance.
        Maintenance = "maintenance",
        /// It is likely to be taken away.
        AtRisk = "at-risk",
    }
}

impl From<headstart_api::InterruptionKind> for Threat {
    fn from(kind: headstart_api::InterruptionKind) -> Self {
        match kind {
            headstart_api::InterruptionKind::Taken => Self::Taken,
            headstart_api::InterruptionKind::Maintenance => Self::Maintenance,
            headstart_api::InterruptionKind::AtRisk => Self::AtRisk,
        }
    }
}

words! {
    /// What admission did with a pod.
    Admitted {
        /// It was changed.
        Changed = "changed",
        /// There was nothing to change.
        Untouched = "untouched",
        /// It could not be understood, and was let through as it is.
        NotUnderstood = "not-understood",
    }
}

words! {
    /// Why a scheduling gate of ours was opened.
    Opened {
        /// The pod was nominated for a node.
        Nominated = "nominated",
        /// It had waited for as long as it may.
        Deadline = "deadline",
        /// There was nothing to steer it to.
        NoWarmNode = "no-warm-node",
    }
}

words! {
    /// What a plan decides.
    Decision {
        /// A node is bought.
        Buy = "buy",
        /// A pod goes onto a node that is there.
        Place = "place",
        /// A pod is not served.
        Wait = "wait",
        /// An item is fetched.
        Fetch = "fetch",
        /// An item is not.
        NotFetch = "not-fetch",
        /// A node is given back.
        Retire = "retire",
        /// A node is kept.
        Keep = "keep",
    }
}

/// Why; only a reason of the planner's makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reason(&'static str);

impl Reason {
    /// It was the best there was.
    pub(crate) const BEST: Self = Self("Best");
    /// A pod waits for it.
    pub(crate) const DEMANDED: Self = Self("Demanded");
    /// It is wished for without a pod.
    pub(crate) const AHEAD: Self = Self("Ahead");

    fn word(self) -> &'static str {
        self.0
    }

    /// Why a pod is not served: of what can be told apart, what excluded most.
    pub(crate) fn not_served(reason: &NotServed) -> Self {
        Self(match reason {
            NotServed::Impossible { .. } => "Impossible",
            NotServed::Group { .. } => "Group",
            NotServed::NoCandidate { nodes, offerings } => {
                let offered = offerings.iter().flat_map(|(_, tallies)| tallies);
                let most = offered.max_by_key(|tally| tally.count);
                let most = most.or_else(|| nodes.iter().max_by_key(|tally| tally.count));
                most.map_or("NoCandidate", |tally| {
                    words::rejection_code(&tally.rejection)
                })
            }
        })
    }

    /// Why an item is not fetched.
    pub(crate) fn not_fetched(reason: &NotFetched) -> Self {
        Self(match reason {
            NotFetched::Present => "Present",
            NotFetched::Unresolved { .. } => "Unresolved",
            NotFetched::SizeUnknown => "SizeUnknown",
            NotFetched::Budget { .. } => "Budget",
            NotFetched::Room { .. } => "Room",
            NotFetched::NoInventory { .. } => "NoInventory",
        })
    }

    /// Why a node is kept.
    pub(crate) fn kept(reason: &Kept) -> Self {
        Self(match reason {
            Kept::Used { .. } => "Used",
            Kept::TooSoon { .. } => "TooSoon",
            Kept::Starting => "Starting",
            Kept::PodStarting(_) => "PodStarting",
            Kept::PodForbids(_) => "PodForbids",
            Kept::PodBudget { .. } => "PodBudget",
            Kept::PodStuck { .. } => "PodStuck",
            Kept::Group(_) => "Group",
            Kept::NodeForbids => "NodeForbids",
            Kept::Budget { .. } => "Budget",
            Kept::Nominated(_) => "Nominated",
            Kept::Cheapest => "Cheapest",
            Kept::Foreign => "Foreign",
            Kept::Standby => "Standby",
            Kept::NotTried { .. } => "NotTried",
        })
    }

    /// Why a node is given back.
    pub(crate) fn retired(reason: DisruptionReason) -> Self {
        Self(match reason {
            DisruptionReason::Empty => "Empty",
            DisruptionReason::Underused => "Underused",
            DisruptionReason::Replaceable => "Replaceable",
            DisruptionReason::Drifted => "Drifted",
            DisruptionReason::Expired => "Expired",
        })
    }

    /// The cloud took it.
    pub(crate) const INTERRUPTED: Self = Self("Interrupted");
    /// It never joined the cluster.
    pub(crate) const NEVER_JOINED: Self = Self("NeverJoined");
    /// Somebody deleted its claim.
    pub(crate) const DELETED: Self = Self("Deleted");

    /// All that [`refused`](Self::refused) gives.
    pub(crate) const REFUSALS: [Self; 6] = [
        Self("OutOfCapacity"),
        Self("Quota"),
        Self("Throttled"),
        Self("Forbidden"),
        Self("Misconfigured"),
        Self("Other"),
    ];

    /// Why a provider refused.
    pub(crate) fn refused(refusal: &Refusal) -> Self {
        Self(match refusal {
            Refusal::OutOfCapacity { .. } => "OutOfCapacity",
            Refusal::Quota { .. } => "Quota",
            Refusal::Throttled { .. } => "Throttled",
            Refusal::Forbidden { .. } => "Forbidden",
            Refusal::Misconfigured { .. } => "Misconfigured",
            Refusal::Other { .. } => "Other",
        })
    }
}

/// How many items and nodes one removal plan holds, by reason.
pub(crate) fn removals(plan: &RetirementPlan) -> impl Iterator<Item = (Decision, Reason)> {
    let retired = plan
        .retire
        .iter()
        .map(|one| (Decision::Retire, Reason::retired(one.reason)));
    let kept = plan
        .kept
        .iter()
        .map(|(_, why)| (Decision::Keep, Reason::kept(why)));
    retired.chain(kept)
}

/// Of a deploy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfDeploy {
    /// Cold, partial or warm.
    pub(crate) cached: Cached,
    /// Spot, on-demand or reserved.
    pub(crate) capacity_type: Capacity,
}

/// Of one stage of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfStage {
    /// Which.
    pub(crate) stage: Stage,
    /// Cold, partial or warm.
    pub(crate) cached: Cached,
    /// Spot, on-demand or reserved.
    pub(crate) capacity_type: Capacity,
}

/// Sets of one label.
macro_rules! set {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(crate) struct $name {
            $(
                #[allow(missing_docs, reason = "its type says it")]
                pub(crate) $field: $type,
            )*
        }
    )*};
}

set! {
    /// Of what is waited for.
    Waiting { stage: Stage }
    /// Of bytes of a deploy.
    Moved { kind: ItemKind, exposure: Exposure }
    /// Of what a deploy found.
    Request { kind: ItemKind, result: Found }
    /// Of bytes that agents fetched.
    Fetch { kind: ItemKind, source: Source }
    /// Of an item.
    Kind { kind: ItemKind }
    /// Of items on nodes.
    Held { kind: ItemKind, state: ItemState }
    /// Of nodes with a cache.
    Reporting { reports: Reports }
    /// Of decisions.
    Decided { decision: Decision, reason: Reason }
    /// Of nodes bought.
    Created { provider: &'static str, capacity_type: Capacity }
    /// Of nodes given back.
    Terminated { provider: &'static str, capacity_type: Capacity, reason: Reason }
    /// Of purchases that failed.
    Refused { provider: &'static str, reason: Reason }
    /// Of money.
    OfCapacity { capacity_type: Capacity }
    /// Of rounds.
    Ended { outcome: RoundEnd }
    /// Of their steps.
    Step { phase: Phase }
    /// Of writes.
    Write { object: Object, verb: Verb, outcome: Outcome }
    /// Of pods admitted.
    Admission { outcome: Admitted }
    /// Of notices.
    Noticed { source: Notice, kind: Threat }
    /// Of gates.
    Gate { reason: Opened }
    /// Of this program.
    Build { version: &'static str, revision: &'static str }
}
