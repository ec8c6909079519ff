//! The plan as JSON and YAML: a stable form of its own. Fields are added, never changed or removed.
//!
//! Prices are US dollars per hour, amounts of money US dollars, times seconds, sizes bytes. Reasons
//! have a `code` for programs and a `text` for people; the codes are the stable part.

use headstart_core::cache::{Basis, Item, ItemSize};
use headstart_core::money::{Millis, Money};
use headstart_core::plan::{NewNode, Placement, Plan, Target};
use headstart_core::pod::ObjectKey;
use headstart_core::ready::Timing;
use headstart_core::reason::{NotServed, RunnerUp, Score, Tally};
use headstart_core::snapshot::Snapshot;
use serde::Serialize;

use super::words;

/// Version of this form.
pub(crate) const API_VERSION: &str = "plan.headstart.dev/v1";

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlanForm {
    /// [`API_VERSION`].
    pub(crate) api_version: &'static str,
    /// `Plan`.
    pub(crate) kind: &'static str,
    /// What to buy; equal nodes are one entry.
    pub(crate) buy: Vec<BuyForm>,
    /// Price of all of it.
    pub(crate) total_usd_per_hour: f64,
    /// Pods that go onto nodes which exist, are in flight or stand by.
    pub(crate) existing: Vec<ExistingForm>,
    /// Pods that are not served, by reason.
    pub(crate) unserved: Vec<UnservedForm>,
    /// Images and models that pods start with.
    pub(crate) items: Vec<ItemForm>,
    /// Where prices come from.
    pub(crate) prices: Vec<String>,
    /// What was assumed or left out on the way.
    pub(crate) notes: Vec<String>,
}

/// Nodes to buy that are equal in everything but their pods.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BuyForm {
    /// How many.
    pub(crate) count: usize,
    /// The pool that buys them.
    pub(crate) pool: String,
    /// Instance type.
    pub(crate) instance_type: String,
    /// Zone.
    pub(crate) zone: String,
    /// `spot`, `on-demand` or `reserved`.
    pub(crate) capacity_type: String,
    /// Price of one.
    pub(crate) usd_per_hour: f64,
    /// Price of all.
    pub(crate) total_usd_per_hour: f64,
    /// Pods they are for.
    pub(crate) pods: Vec<String>,
    /// When the slowest of them serves on a new node with nothing cached.
    pub(crate) cold: TimingForm,
    /// The same on a running node that has the bytes.
    pub(crate) warm: TimingForm,
    /// Its score.
    pub(crate) score: ScoreForm,
    /// What came second.
    pub(crate) runner_up: Option<RunnerUpForm>,
    /// Preferences given up for its pods.
    pub(crate) given_up: Vec<GivenUpForm>,
}

/// One pod on a node that exists.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExistingForm {
    /// The pod.
    pub(crate) pod: String,
    /// The node.
    pub(crate) node: String,
    /// When it serves there.
    pub(crate) timing: TimingForm,
    /// What came second.
    pub(crate) runner_up: Option<RunnerUpForm>,
    /// Preferences given up for it.
    pub(crate) given_up: Vec<GivenUpForm>,
}

/// A preference that was given up.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GivenUpForm {
    /// For which pod.
    pub(crate) pod: String,
    /// What.
    pub(crate) preference: &'static str,
}

/// The parts of a time to serving, in seconds; they sum to `total`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TimingForm {
    /// Until it serves.
    pub(crate) total: f64,
    /// Until the pod can be bound: boot, and the GPU.
    pub(crate) boot: f64,
    /// What the image takes beyond that.
    pub(crate) image: f64,
    /// Container start and imports.
    pub(crate) start: f64,
    /// What the weights take beyond that.
    pub(crate) weights: f64,
    /// Weights into the GPU.
    pub(crate) load: f64,
    /// Compilation, graph capture, warm-up.
    pub(crate) engine: f64,
    /// What the bytes add: `image` and `weights`.
    pub(crate) exposed_byte_time: f64,
    /// The same for people, in words.
    #[serde(skip)]
    pub(crate) exact: Timing,
}

/// The parts of a score in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScoreForm {
    /// The sum; the least wins.
    pub(crate) total: f64,
    /// Price over the expected life and the time until it serves.
    pub(crate) money: f64,
    /// What the waiting is worth.
    pub(crate) waiting: f64,
    /// What interruptions are expected to cost.
    pub(crate) risk: f64,
}

/// What came second.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RunnerUpForm {
    /// A node or an offering.
    pub(crate) candidate: String,
    /// Its score.
    pub(crate) score: ScoreForm,
    /// When it would have served.
    pub(crate) timing: TimingForm,
    /// Why it lost, in a sentence.
    pub(crate) text: String,
}

/// Pods that are not served for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnservedForm {
    /// The pods.
    pub(crate) pods: Vec<String>,
    /// `NoCandidate`, `Impossible` or `Group`.
    pub(crate) code: &'static str,
    /// The reason, line by line.
    pub(crate) text: Vec<String>,
    /// What was tried and excluded.
    pub(crate) excluded: Vec<ExcludedForm>,
}

/// Candidates excluded for one reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExcludedForm {
    /// The pool, for offerings; absent for nodes.
    pub(crate) pool: Option<String>,
    /// The reason.
    pub(crate) code: &'static str,
    /// How many.
    pub(crate) count: usize,
    /// One of them.
    pub(crate) example: String,
    /// The reason in words.
    pub(crate) text: String,
}

/// One image or model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ItemForm {
    /// As it is written.
    pub(crate) item: String,
    /// Bytes to transfer.
    pub(crate) transfer_bytes: u64,
    /// Bytes on disk.
    pub(crate) unpacked_bytes: u64,
    /// `known` or `assumed`.
    pub(crate) basis: &'static str,
}

/// The plan for people and programs. `prices` and `notes` are passed on.
pub(crate) fn of(
    plan: &Plan,
    snapshot: &Snapshot,
    prices: &[String],
    notes: &[String],
) -> PlanForm {
    let buy = bought(plan);
    let total: u64 = plan.nodes.iter().map(|node| node.price.0).sum();
    PlanForm {
        api_version: API_VERSION,
        kind: "Plan",
        buy,
        total_usd_per_hour: total as f64 / 1e6,
        existing: plan.placements.iter().filter_map(existing).collect(),
        unserved: unserved(&plan.unserved, snapshot.now),
        items: snapshot.items.iter().map(|(i, s)| item(i, *s)).collect(),
        prices: prices.to_vec(),
        notes: notes.to_vec(),
    }
}

fn bought(plan: &Plan) -> Vec<BuyForm> {
    let same = |a: &NewNode, b: &NewNode| {
        (
            &a.pool,
            &a.offering,
            a.price,
            a.timing,
            a.score,
            &a.runner_up,
        ) == (
            &b.pool,
            &b.offering,
            b.price,
            b.timing,
            b.score,
            &b.runner_up,
        )
    };
    let mut groups: Vec<(usize, Vec<usize>)> = Vec::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        match groups
            .iter_mut()
            .find(|(first, _)| same(&plan.nodes[*first], node))
        {
            Some((_, members)) => members.push(index),
            None => groups.push((index, vec![index])),
        }
    }
    let groups = groups.into_iter().map(|(first, members)| {
        let node = &plan.nodes[first];
        let price = node.price.usd();
        let pods = members.iter().flat_map(|index| &plan.nodes[*index].pods);
        let placed = |placement: &&Placement| match placement.target {
            Target::New(index) => members.contains(&index),
            Target::Node(_) => false,
        };
        BuyForm {
            count: members.len(),
            pool: node.pool.clone(),
            instance_type: node.offering.instance_type.clone(),
            zone: node.offering.zone.clone(),
            capacity_type: node.offering.capacity_type.to_string(),
            usd_per_hour: price,
            total_usd_per_hour: node.price.0 as f64 * members.len() as f64 / 1e6,
            pods: pods.map(ToString::to_string).collect(),
            cold: timing(&node.timing),
            warm: timing(&warm(&node.timing)),
            score: score(&node.score),
            runner_up: node
                .runner_up
                .as_ref()
                .map(|r| runner_up(&node.score, &node.timing, r)),
            given_up: plan
                .placements
                .iter()
                .filter(placed)
                .flat_map(given_up)
                .collect(),
        }
    });
    groups.collect()
}

/// When a pod serves on a running node that has all the bytes: nothing but the start is left.
fn warm(cold: &Timing) -> Timing {
    Timing {
        start: cold.start,
        load: cold.load,
        engine: cold.engine,
        ..Timing::default()
    }
}

fn existing(placement: &Placement) -> Option<ExistingForm> {
    let Target::Node(node) = &placement.target else {
        return None;
    };
    let second = placement.runner_up.as_ref();
    let chosen = second.map_or_else(Score::default, |r| standing(&placement.timing, r));
    Some(ExistingForm {
        pod: placement.pod.to_string(),
        node: node.clone(),
        timing: timing(&placement.timing),
        runner_up: second.map(|r| runner_up(&chosen, &placement.timing, r)),
        given_up: given_up(placement).collect(),
    })
}

/// The score of a node that is there anyway: it costs nothing, and waiting is worth as much a second
/// as for the one that came second.
fn standing(timing: &Timing, second: &RunnerUp) -> Score {
    let (waited, whole) = (second.score.waiting.0, second.timing.total().0);
    let waiting = match whole {
        0 => 0,
        whole => i128::from(waited) * i128::from(timing.total().0) / i128::from(whole),
    };
    Score {
        waiting: Money(i64::try_from(waiting).unwrap_or(i64::MAX)),
        ..Score::default()
    }
}

fn given_up(placement: &Placement) -> impl Iterator<Item = GivenUpForm> {
    placement.relaxed.iter().map(|relaxed| GivenUpForm {
        pod: placement.pod.to_string(),
        preference: words::relaxed(*relaxed),
    })
}

fn unserved(unserved: &[(ObjectKey, NotServed)], now: Millis) -> Vec<UnservedForm> {
    let mut forms: Vec<(&NotServed, Vec<String>)> = Vec::new();
    for (pod, reason) in unserved {
        match forms.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, pods)) => pods.push(pod.to_string()),
            None => forms.push((reason, vec![pod.to_string()])),
        }
    }
    let forms = forms.into_iter().map(|(reason, pods)| UnservedForm {
        pods,
        code: code(reason),
        text: words::not_served(reason, now),
        excluded: excluded(reason, now),
    });
    forms.collect()
}

fn code(reason: &NotServed) -> &'static str {
    match reason {
        NotServed::NoCandidate { .. } => "NoCandidate",
        NotServed::Impossible { .. } => "Impossible",
        NotServed::Group { .. } => "Group",
    }
}

fn excluded(reason: &NotServed, now: Millis) -> Vec<ExcludedForm> {
    let form = |pool: Option<&String>, tally: &Tally| ExcludedForm {
        pool: pool.cloned(),
        code: words::rejection_code(&tally.rejection),
        count: tally.count,
        example: tally.example.clone(),
        text: words::rejection(&tally.rejection, now),
    };
    match reason {
        NotServed::NoCandidate { nodes, offerings } => {
            let nodes = nodes.iter().map(|tally| form(None, tally));
            let offerings = offerings.iter();
            let offerings = offerings
                .flat_map(|(pool, tallies)| tallies.iter().map(move |t| form(Some(pool), t)));
            nodes.chain(offerings).collect()
        }
        NotServed::Impossible { .. } => Vec::new(),
        NotServed::Group { because, .. } => because
            .as_ref()
            .map(|inner| excluded(inner, now))
            .unwrap_or_default(),
    }
}

fn item(item: &Item, size: ItemSize) -> ItemForm {
    ItemForm {
        item: words::item(item),
        transfer_bytes: size.transfer,
        unpacked_bytes: size.unpacked,
        basis: match size.basis {
            Basis::Known => "known",
            Basis::Assumed => "assumed",
        },
    }
}

/// A time in its parts.
pub(crate) fn timing(timing: &Timing) -> TimingForm {
    TimingForm {
        total: timing.total().secs(),
        boot: timing.allocatable.secs(),
        image: timing.image.secs(),
        start: timing.start.secs(),
        weights: timing.weights.secs(),
        load: timing.load.secs(),
        engine: timing.engine.secs(),
        exposed_byte_time: timing.exposed().secs(),
        exact: *timing,
    }
}

/// A score in its parts.
pub(crate) fn score(score: &Score) -> ScoreForm {
    ScoreForm {
        total: score.total().usd(),
        money: score.money.usd(),
        waiting: score.waiting.usd(),
        risk: score.risk.usd(),
    }
}

fn runner_up(chosen: &Score, serves: &Timing, second: &RunnerUp) -> RunnerUpForm {
    RunnerUpForm {
        candidate: words::candidate(&second.what),
        score: score(&second.score),
        timing: timing(&second.timing),
        text: words::runner_up(chosen, serves, second),
    }
}
