//! From stamps to intervals: which stage each second of a deploy belongs to.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::Place;
use super::deploy::{Interval, Known, Remark, Stage};
use super::item::{Fetched, ItemKind, main_container};
use super::moment::{GRAIN, Moment};

/// When the stages of one deploy were reached, as far as objects say.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamps {
    requested: Option<Moment>,
    launched: Option<Moment>,
    registered: Option<Moment>,
    gpu: Option<Moment>,
    scheduled: Option<Moment>,
    image: Bytes,
    weights: Bytes,
    started: Option<Moment>,
    serving: Option<Moment>,
    restarts: u32,
    /// Whether a claim says when the node was asked for.
    claimed: bool,
}

/// When bytes were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Bytes {
    /// There is nothing to wait for.
    #[default]
    None,
    /// All of them then.
    There(Moment),
    /// They were there before anybody stamped it.
    Before,
    /// Not yet.
    Coming,
    /// Nobody watches them.
    Unseen,
}

impl Stamps {
    pub(super) fn of(pod: &Pod, place: &Place<'_>, accelerated: bool, items: &[Fetched]) -> Self {
        let status = place.claim.and_then(|claim| claim.status.as_ref());
        let stages = status.map(|status| &status.stages);
        let created = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            meta.creation_timestamp.as_ref().map(Moment::at)
        };
        let stamp = |pick: fn(
            &headstart_api::Stages,
        )
            -> &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            stages
                .and_then(|stages| pick(stages).as_ref())
                .map(Moment::at)
        };
        let claim_created = place.claim.and_then(|claim| created(&claim.metadata));
        let (started, restarts) = started(pod);
        Self {
            requested: stamp(|s| &s.requested).or(claim_created),
            launched: stamp(|s| &s.launched),
            registered: stamp(|s| &s.registered)
                .or_else(|| place.node.and_then(|node| created(&node.metadata))),
            gpu: match accelerated {
                true => stamp(|s| &s.gpu_allocatable),
                false => stamp(|s| &s.ready).or_else(|| node_ready_since(place)),
            },
            scheduled: condition_since(pod, "PodScheduled"),
            image: bytes(items, ItemKind::Image),
            weights: bytes(items, ItemKind::Weights),
            started,
            serving: ready_since(pod),
            restarts,
            claimed: place.claim.is_some(),
        }
    }

    /// When the pod was Ready; not before it was created.
    pub(super) fn served(&self, created: Moment) -> Option<Moment> {
        self.serving.map(|serving| serving.max(created))
    }
}

/// When a pod became Ready, if it is.
pub(super) fn ready_since(pod: &Pod) -> Option<Moment> {
    condition_since(pod, "Ready")
}

fn condition_since(pod: &Pod, name: &str) -> Option<Moment> {
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let mut named = conditions.filter(|found| found.type_ == name && found.status == "True");
    named.next()?.last_transition_time.as_ref().map(Moment::at)
}

fn node_ready_since(place: &Place<'_>) -> Option<Moment> {
    let conditions = place.node?.status.as_ref()?.conditions.iter().flatten();
    let mut ready = conditions.filter(|found| found.type_ == "Ready" && found.status == "True");
    ready.next()?.last_transition_time.as_ref().map(Moment::at)
}

/// The first start of the serving container that is known, and how often it was started again.
fn started(pod: &Pod) -> (Option<Moment>, u32) {
    let name = main_container(pod).map(|container| container.name.as_str());
    let statuses = pod
        .status
        .iter()
        .flat_map(|s| s.container_statuses.iter().flatten());
    let mut of_main = statuses.filter(|status| Some(status.name.as_str()) == name);
    let Some(status) = of_main.next() else {
        return (None, 0);
    };
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        let ended = state.as_ref()?.terminated.as_ref()?;
        ended.started_at.as_ref().map(Moment::at)
    };
    let running = || {
        let running = status.state.as_ref()?.running.as_ref()?;
        running.started_at.as_ref().map(Moment::at)
    };
    let last = ended(&status.last_state);
    let this = running().or_else(|| ended(&status.state));
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    (last.or(this), restarts)
}

fn bytes(items: &[Fetched], kind: ItemKind) -> Bytes {
    let mut all = Bytes::None;
    for item in items.iter().filter(|item| item.kind == kind) {
        let this = match (item.listed, item.there, item.verified) {
            (false, ..) => Bytes::Unseen,
            (true, true, Some(verified)) => Bytes::There(verified),
            (true, true, None) => Bytes::Before,
            (true, false, _) => Bytes::Coming,
        };
        all = match (all, this) {
            (Bytes::None | Bytes::Before, this) => this,
            (all, Bytes::None | Bytes::Before) => all,
            (Bytes::There(a), Bytes::There(b)) => Bytes::There(a.max(b)),
            (Bytes::Coming, _) | (_, Bytes::Coming) => Bytes::Coming,
            (Bytes::Unseen, _) | (_, Bytes::Unseen) => Bytes::Unseen,
        };
    }
    all
}

/// The intervals from `created` on, and what has to be known to read them.
pub(super) fn intervals(
    created: Moment,
    stamps: &Stamps,
    now: Moment,
) -> (Vec<Interval>, Vec<Remark>) {
    let mut remarks = Vec::new();
    out_of_order(created, stamps, &mut remarks);
    if stamps.restarts > 0 {
        remarks.push(Remark::Restarted(stamps.restarts));
    }
    let (ends, late) = ends(created, stamps, &mut remarks);
    let last = stamps.served(created).unwrap_or(Moment(i64::MAX));
    let mut reached = created;
    let mut intervals = Vec::with_capacity(ends.len());
    for (stage, end) in order(late, ends[&Stage::ImageReady]).map(|stage| (stage, ends[&stage])) {
        let (end, known) = match end {
            End::At(end) => (end, Known::Stamp),
            End::AtMost(end) => {
                if end > reached {
                    remarks.push(Remark::AtMost(stage));
                }
                (end, Known::AtMost)
            }
            End::Missing => (reached, Known::Missing),
            End::Nothing => (reached, Known::Nothing),
            End::Open => (now, Known::Open),
        };
        let end = end.min(last).max(reached);
        intervals.push(Interval {
            stage,
            start: reached,
            end,
            known,
        });
        reached = end;
        if known == Known::Open {
            break;
        }
    }
    (intervals, remarks)
}

/// How a stage ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    At(Moment),
    AtMost(Moment),
    Missing,
    Nothing,
    Open,
}

/// Whether the container ran before its weights were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    Yes,
    No,
}

/// The order in which stages held the deploy up. Weights that came after the container ran held up
/// only what is after it; an image of which only the latest moment is known yields to what is known.
fn order(late: Late, image: End) -> impl Iterator<Item = Stage> {
    use Stage::{ImageReady, Started, WeightsReady};
    let last = match (late, image) {
        (Late::Yes, _) => [ImageReady, Started, WeightsReady],
        (Late::No, End::AtMost(_)) => [WeightsReady, ImageReady, Started],
        (Late::No, _) => [ImageReady, WeightsReady, Started],
    };
    Stage::ALL[..5]
        .iter()
        .copied()
        .chain(last)
        .chain([Stage::Serving])
}

type Ends = std::collections::BTreeMap<Stage, End>;

fn ends(created: Moment, stamps: &Stamps, remarks: &mut Vec<Remark>) -> (Ends, Late) {
    // A node that was there before the pod was not waited for, whatever its stamps lack.
    let waited_for_node = stamps.registered.is_none_or(|at| at > created);
    let chain = [
        (Stage::Requested, stamps.requested),
        (Stage::Launched, stamps.launched),
        (Stage::Registered, stamps.registered),
        (Stage::GpuAllocatable, stamps.gpu),
        (Stage::Scheduled, stamps.scheduled),
        (Stage::Started, stamps.started),
        (Stage::Serving, stamps.serving),
    ];
    let mut ends = Ends::new();
    for (index, (stage, stamp)) in chain.into_iter().enumerate() {
        let passed = chain[index + 1..].iter().any(|(_, later)| later.is_some());
        let of_node = stage < Stage::Scheduled;
        let end = match stamp {
            Some(at) => End::At(at),
            None if !passed => End::Open,
            None if of_node && !waited_for_node => End::Nothing,
            None if stage == Stage::GpuAllocatable => match stamps.scheduled {
                Some(scheduled) => End::AtMost(scheduled),
                None => End::Missing,
            },
            None if of_node && !stamps.claimed => {
                if stage == Stage::Requested {
                    remarks.push(Remark::ForeignNode);
                }
                End::Missing
            }
            None => {
                remarks.push(Remark::NoStamp(stage));
                End::Missing
            }
        };
        ends.insert(stage, end);
    }
    let ran = stamps.started.or(stamps.serving);
    let image = match (stamps.image, ran) {
        (Bytes::None | Bytes::Before, _) => End::Nothing,
        // The runtime had it, whatever the agent was still doing.
        (Bytes::There(at), Some(ran)) if at > ran.plus(GRAIN) => End::AtMost(ran),
        (Bytes::There(at), _) => End::At(at),
        (Bytes::Coming | Bytes::Unseen, Some(ran)) => End::AtMost(ran),
        (Bytes::Coming | Bytes::Unseen, None) => End::Open,
    };
    let weights = match (stamps.weights, ran) {
        (Bytes::None | Bytes::Before, _) => End::Nothing,
        (Bytes::There(at), _) => End::At(at),
        (Bytes::Coming, _) if stamps.serving.is_none() => End::Open,
        // Nobody holds the container back for what nobody watches: it is known as soon as it runs.
        (Bytes::Unseen, None) => End::Nothing,
        (Bytes::Coming | Bytes::Unseen, _) => End::Missing,
    };
    let late = match (weights, stamps.started) {
        (End::At(at), Some(started)) if at > started.plus(GRAIN) => Late::Yes,
        (End::Open, Some(_)) => Late::Yes,
        _ => Late::No,
    };
    if late == Late::Yes {
        remarks.push(Remark::StartedBeforeWeights);
    }
    ends.insert(Stage::ImageReady, image);
    ends.insert(Stage::WeightsReady, weights);
    (ends, late)
}

/// What is stamped earlier than what must come before it, by more than whole seconds explain.
fn out_of_order(created: Moment, stamps: &Stamps, remarks: &mut Vec<Remark>) {
    let chain = [
        (Stage::Requested, stamps.requested),
        (Stage::Launched, stamps.launched),
        (Stage::Registered, stamps.registered),
        (Stage::GpuAllocatable, stamps.gpu),
        (Stage::Scheduled, stamps.scheduled),
        (Stage::Started, stamps.started),
        (Stage::Serving, stamps.serving),
    ];
    let mut before: Option<(Option<Stage>, Moment)> = None;
    for (stage, stamp) in chain {
        let Some(at) = stamp else {
            continue;
        };
        // From here on it is the pod, which cannot be bound before it is there.
        if stage == Stage::Scheduled && before.is_none_or(|(_, earlier)| created > earlier) {
            before = Some((None, created));
        }
        if let Some((after, earlier)) = before {
            let by: Duration = earlier.since(at);
            if by > GRAIN {
                remarks.push(Remark::OutOfOrder { stage, after, by });
                continue;
            }
        }
        before = Some((Some(stage), at));
    }
}
