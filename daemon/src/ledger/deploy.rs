//! One deploy: what it waited for, second by second.

use std::time::Duration;

use headstart_core::money::HourlyPrice;
use headstart_core::offer::CapacityType;
use headstart_core::pod::ObjectKey;

use super::item::Fetched;
use super::moment::Moment;

/// What a deploy waits for, in the order in which one thing holds up the next.
///
/// Binding stands before bytes although bytes move first: a pod is bound no sooner for having no
/// bytes to wait for, so what bytes add is only what they take beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Until a node was asked for.
    Requested,
    /// Until the provider said yes.
    Launched,
    /// Until its Node was there.
    Registered,
    /// Until its GPU, or whatever else was expected of it, could be allocated.
    GpuAllocatable,
    /// Until the pod was bound.
    Scheduled,
    /// Until the last byte of its images was there.
    ImageReady,
    /// Until the last byte of its weights was there.
    WeightsReady,
    /// Until its container ran.
    Started,
    /// Until it was Ready.
    Serving,
}

impl Stage {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Requested,
        Self::Launched,
        Self::Registered,
        Self::GpuAllocatable,
        Self::Scheduled,
        Self::ImageReady,
        Self::WeightsReady,
        Self::Started,
        Self::Serving,
    ];

    /// Its word in metrics, traces, tables and on the page.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Launched => "launched",
            Self::Registered => "registered",
            Self::GpuAllocatable => "gpu-allocatable",
            Self::Scheduled => "scheduled",
            Self::ImageReady => "image-ready",
            Self::WeightsReady => "weights-ready",
            Self::Started => "started",
            Self::Serving => "serving",
        }
    }

    /// Whether bytes are what is waited for.
    pub(crate) fn is_bytes(self) -> bool {
        matches!(self, Self::ImageReady | Self::WeightsReady)
    }
}

/// What one stage held the deploy up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    /// Which.
    pub(crate) stage: Stage,
    /// When everything before it was done.
    pub(crate) start: Moment,
    /// When it was done; the moment of looking while it is not.
    pub(crate) end: Moment,
    /// Where its end comes from.
    pub(crate) known: Known,
}

impl Interval {
    /// How long it held the deploy up.
    pub(crate) fn took(&self) -> Duration {
        self.end.since(self.start)
    }
}

/// Where the end of an interval comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// An object says it.
    Stamp,
    /// Nothing says it; it was no later than this, because of what came after.
    AtMost,
    /// Nothing says it, and its time is part of the next stage's.
    Missing,
    /// Nothing was to be waited for.
    Nothing,
    /// It is not done.
    Open,
}

/// How much of what a pod starts with its node had when the pod was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Cached {
    /// Nothing. A node that was bought for the pod always begins like this.
    Cold,
    /// Something.
    Partial,
    /// All of it.
    Warm,
    /// No agent reports on the node.
    Unknown,
}

impl Cached {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Partial => "partial",
            Self::Warm => "warm",
            Self::Unknown => "unknown",
        }
    }
}

/// What has to be known to read the figures right; data, rendered elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remark {
    /// Nothing says when a stage was reached; its time is part of the next one's.
    NoStamp(Stage),
    /// Nothing says when a stage was reached; the time given is the most it can have been.
    AtMost(Stage),
    /// The node was bought by somebody else: when it was asked for is not known.
    ForeignNode,
    /// A stage is stamped earlier than what must come before it: two clocks differ. It counts as
    /// reached at the same moment.
    OutOfOrder {
        /// The later one.
        stage: Stage,
        /// The one that must come before; the pod's creation if none.
        after: Option<Stage>,
        /// By how much.
        by: Duration,
    },
    /// No agent reports on the node: what the pod fetched is part of `image-ready` at most, and for
    /// weights of `serving`.
    NoInventory,
    /// The node's agent does not list this item: if the pod fetched it by itself, that is part of
    /// `serving` for weights.
    NotListed(String),
    /// The container ran before its weights were there.
    StartedBeforeWeights,
    /// Its container was restarted so many times; `started` is the last start that is known.
    Restarted(u32),
}

/// One pod on its way to serving, or there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Deploy {
    /// The pod.
    pub(crate) pod: ObjectKey,
    /// Its UID, which no other pod ever has.
    pub(crate) uid: String,
    /// When it was created.
    pub(crate) created: Moment,
    /// When it was Ready, if it is.
    pub(crate) served: Option<Moment>,
    /// When this was looked at.
    pub(crate) seen: Moment,
    /// Every moment since its creation, by what was waited for: without a gap or an overlap, up to
    /// serving or, while it does not, to the moment of looking.
    pub(crate) intervals: Vec<Interval>,
    /// What it starts with.
    pub(crate) items: Vec<Fetched>,
    /// How much of that was there beforehand.
    pub(crate) cached: Cached,
    /// The node it is bound to, nominated for, or waits for.
    pub(crate) node: Option<String>,
    /// The claim that the node was bought by.
    pub(crate) claim: Option<String>,
    /// The pool.
    pub(crate) pool: Option<String>,
    /// Instance type.
    pub(crate) instance_type: Option<String>,
    /// Capacity type.
    pub(crate) capacity: Option<CapacityType>,
    /// What the node costs.
    pub(crate) price: Option<HourlyPrice>,
    /// What has to be known to read this right.
    pub(crate) remarks: Vec<Remark>,
}

impl Deploy {
    /// From creation to serving, or to the moment of looking.
    pub(crate) fn wall(&self) -> Duration {
        self.served.unwrap_or(self.seen).since(self.created)
    }

    /// How long a stage held it up.
    pub(crate) fn took(&self, stage: Stage) -> Duration {
        let of_stage = self.intervals.iter().filter(|one| one.stage == stage);
        of_stage.map(Interval::took).sum()
    }

    /// What it waits for now.
    pub(crate) fn waits_for(&self) -> Option<Stage> {
        let last = self.intervals.last()?;
        (last.known == Known::Open).then_some(last.stage)
    }

    /// Exposed byte time: what it waited for bytes, and nothing else. How much sooner it would have
    /// served with none.
    pub(crate) fn exposed(&self) -> Duration {
        Stage::ALL
            .into_iter()
            .filter(|stage| stage.is_bytes())
            .map(|stage| self.took(stage))
            .sum()
    }

    /// Whether the exposed byte time is the most it can have been, and not what was measured.
    pub(crate) fn exposed_at_most(&self) -> bool {
        let mut bytes = self.intervals.iter().filter(|one| one.stage.is_bytes());
        bytes.any(|one| one.known == Known::AtMost)
    }

    /// How long bytes moved while something else was waited for.
    pub(crate) fn hidden(&self) -> Duration {
        let end = self.served.unwrap_or(self.seen);
        let mut spans: Vec<(Moment, Moment)> = self
            .items
            .iter()
            .filter_map(|item| item.span(self.seen))
            .map(|(start, stop)| (start.max(self.created), stop.min(end)))
            .filter(|(start, stop)| start < stop)
            .collect();
        spans.sort_unstable();
        let mut hidden = Duration::ZERO;
        let mut reached = self.created;
        for (start, stop) in spans {
            let start = start.max(reached);
            if start < stop {
                let waited: Duration = self.waiting_between(start, stop);
                hidden += stop.since(start).saturating_sub(waited);
                reached = stop;
            }
        }
        hidden
    }

    fn waiting_between(&self, start: Moment, stop: Moment) -> Duration {
        let bytes = self.intervals.iter().filter(|one| one.stage.is_bytes());
        bytes
            .map(|one| super::moment::overlap(start, stop, one.start, one.end))
            .sum()
    }
}
