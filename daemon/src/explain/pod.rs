//! One pod: where it goes and why, what else it could have had, or why nothing can take it.

use std::fmt::Write as _;

use headstart_core::amount::display;
use headstart_core::money::HourlyPrice;
use headstart_core::node::NodeState;
use headstart_core::offer::{Availability, OfferingKey};
use headstart_core::plan::{NewNode, Placement, Plan, Prefetch, Target};
use headstart_core::pod::{ObjectKey, Phase, Pod, Progress};
use headstart_core::ready::Timing;
use headstart_core::reason::Score;
use headstart_core::snapshot::{Policy, Snapshot};
use headstart_core::solve;

use super::{Answer, Served, unknown};
use crate::columns::{Align, Columns};
use crate::plan::input::Assembled;
use crate::plan::words;

/// Most alternatives that are shown.
const ALTERNATIVES: usize = 5;

/// Everything about the pod `key`.
pub(super) fn explain(
    key: &ObjectKey,
    plan: &Plan,
    fetches: &[Prefetch],
    assembled: &Assembled,
) -> Result<Answer, String> {
    let Assembled {
        snapshot,
        policy,
        prices,
        notes,
    } = assembled;
    let Some(pod) = snapshot.pods.iter().find(|pod| pod.key == *key) else {
        let known = snapshot.pods.iter().map(|pod| pod.key.to_string());
        return Err(unknown("pod", &key.to_string(), known));
    };
    let mut text = format!("pod {key}\n");
    asks(pod, snapshot, &mut text);
    let served = match &pod.phase {
        Phase::Bound { node, progress } => {
            let _ = writeln!(text, "  runs on node {node}{}", doing(*progress));
            Served::Yes
        }
        Phase::Pending => {
            let served = waiting(pod, plan, snapshot, &mut text);
            if let Some(placement) = plan.placements.iter().find(|p| p.pod == pod.key) {
                text += &super::node::prefetch(&placement.target, fetches);
            }
            others(pod, snapshot, policy, &mut text);
            served
        }
    };
    for basis in prices {
        let _ = writeln!(text, "\n  prices: {basis}");
    }
    for note in notes {
        let _ = writeln!(text, "  note: {note}");
    }
    Ok(Answer { text, served })
}

fn asks(pod: &Pod, snapshot: &Snapshot, text: &mut String) {
    let shape = &pod.shape;
    let requests: Vec<String> = shape
        .requests
        .iter()
        .filter(|(_, amount)| *amount > 0)
        .map(|(name, amount)| format!("{name} {}", display(name, amount)))
        .collect();
    let requests = match requests.is_empty() {
        true => "nothing".to_owned(),
        false => requests.join(", "),
    };
    let _ = writeln!(text, "  asks for {requests}");
    for (key, value) in &shape.node_selector {
        let _ = writeln!(text, "  on a node with {key} = {value}");
    }
    let wants = &shape.wants;
    let list = |values: Vec<&str>| values.join(", ");
    let mut want = |what: &str, value: String| {
        if !value.is_empty() {
            let _ = writeln!(text, "  {what} {value}");
        }
    };
    want(
        "GPU one of",
        list(wants.gpu_skus.iter().map(String::as_str).collect()),
    );
    want(
        "families one of",
        list(wants.families.iter().map(String::as_str).collect()),
    );
    want(
        "families not",
        list(wants.excluded_families.iter().map(String::as_str).collect()),
    );
    want(
        "capacity one of",
        list(wants.capacity_types.iter().map(|c| c.as_str()).collect()),
    );
    want(
        "GPUs at most",
        wants.max_gpus.map_or(String::new(), |n| n.to_string()),
    );
    want(
        "price at most",
        wants.max_price.map_or(String::new(), |p| p.to_string()),
    );
    want(
        "type name matching",
        wants
            .type_pattern
            .as_ref()
            .map_or(String::new(), |p| p.as_str().to_owned()),
    );
    if let Some(group) = &shape.group {
        let _ = writeln!(
            text,
            "  member of group {group}, placed as a whole or not at all"
        );
    }
    for item in &shape.items {
        let size = snapshot.items.get(item).map_or(String::new(), |size| {
            let basis = match size.basis {
                headstart_core::cache::Basis::Known => "",
                headstart_core::cache::Basis::Assumed => ", assumed",
            };
            format!(" ({}{basis})", words::gigabytes(size.transfer))
        });
        let _ = writeln!(text, "  starts with {}{size}", words::item(item));
    }
}

fn doing(progress: Progress) -> &'static str {
    match progress {
        Progress::Starting => " and is starting",
        Progress::Running => "",
        Progress::Terminating => " and is being deleted",
    }
}

fn waiting(pod: &Pod, plan: &Plan, snapshot: &Snapshot, text: &mut String) -> Served {
    if let Some(placement) = plan.placements.iter().find(|p| p.pod == pod.key) {
        text.push('\n');
        placed(placement, plan, text);
        return Served::Yes;
    }
    text.push_str("\n  not served:\n");
    let reason = plan.unserved.iter().find(|(key, _)| *key == pod.key);
    let lines = reason.map(|(_, reason)| words::not_served(reason, snapshot.now));
    for line in lines.unwrap_or_else(|| vec!["the plan says nothing of it".to_owned()]) {
        let _ = writeln!(text, "    {line}");
    }
    Served::No
}

fn placed(placement: &Placement, plan: &Plan, text: &mut String) {
    let mut line = |said: String| {
        let _ = writeln!(text, "  {said}");
    };
    match &placement.target {
        Target::Node(node) => {
            line(format!("goes onto node {node}, which exists"));
            line(serves(&placement.timing));
        }
        Target::New(index) => {
            if let Some(node) = plan.nodes.get(*index) {
                line(bought(node));
                line(serves(&placement.timing));
                line(scored(&node.score));
                if let Some(second) = &node.runner_up {
                    line(words::runner_up(&node.score, &node.timing, second));
                }
                let others = node.pods.iter().filter(|key| **key != placement.pod);
                let others: Vec<String> = others.map(ToString::to_string).collect();
                if !others.is_empty() {
                    line(format!("shared with {}", crate::plan::pods(&others)));
                }
            }
        }
    }
    for relaxed in &placement.relaxed {
        line(format!("given up for it: {}", words::relaxed(*relaxed)));
    }
}

fn bought(node: &NewNode) -> String {
    format!(
        "goes onto a new node: {} of pool {} for {}",
        node.offering, node.pool, node.price
    )
}

fn serves(timing: &Timing) -> String {
    format!("serves in {} = {}", timing.total(), words::timing(timing))
}

fn scored(score: &Score) -> String {
    format!(
        "scored {} = price over its life {} + waiting {} + interruptions {}",
        score.total(),
        score.money,
        score.waiting,
        score.risk
    )
}

/// One more way to serve a pod.
struct Alternative {
    what: String,
    price: Option<HourlyPrice>,
    serves: Timing,
    score: Option<Score>,
}

/// What the pod could have if it were alone, best first.
fn others(pod: &Pod, snapshot: &Snapshot, policy: &Policy, text: &mut String) {
    let found = alternatives(pod, snapshot, policy);
    if found.is_empty() {
        return;
    }
    text.push_str("\n  alone it could have, best first:\n");
    let mut columns = Columns::new(&[
        ("where", Align::Left),
        ("price", Align::Right),
        ("serves in", Align::Right),
        ("exposed", Align::Right),
        ("score", Align::Right),
    ]);
    for one in found {
        let show = |shown: Option<String>| shown.unwrap_or_default();
        columns.row([
            one.what,
            show(one.price.map(|p| p.to_string())),
            one.serves.total().to_string(),
            one.serves.exposed().to_string(),
            show(one.score.map(|s| s.total().to_string())),
        ]);
    }
    text.push_str(&columns.render(4));
}

fn alternatives(pod: &Pod, snapshot: &Snapshot, policy: &Policy) -> Vec<Alternative> {
    let mut world = snapshot.clone();
    world.pods.retain(|other| other.phase != Phase::Pending);
    let mut alone = pod.clone();
    // Alone it is no group, and alternatives are about places.
    alone.shape.group = None;
    world.pods.push(alone);
    world.groups.clear();
    world.nominations.clear();
    let mut found = Vec::new();
    while found.len() < ALTERNATIVES {
        let plan = solve::plan(&world, policy);
        let Some(placement) = plan.placements.first() else {
            break;
        };
        match &placement.target {
            Target::Node(name) => {
                found.push(Alternative {
                    what: format!("node {name}"),
                    price: None,
                    serves: placement.timing,
                    score: None,
                });
                let node = world.nodes.iter_mut().find(|node| node.name == *name);
                let Some(node) = node else { break };
                node.state = NodeState::Leaving;
            }
            Target::New(index) => {
                let Some(node) = plan.nodes.get(*index) else {
                    break;
                };
                found.push(Alternative {
                    what: format!("{} (pool {})", any_zone(&node.offering), node.pool),
                    price: Some(node.price),
                    serves: placement.timing,
                    score: Some(node.score),
                });
                withdraw(&mut world, &node.offering);
            }
        }
    }
    found
}

/// The offering without its zone: the same thing elsewhere is no alternative to show.
fn any_zone(offering: &OfferingKey) -> String {
    format!("{} {}", offering.instance_type, offering.capacity_type)
}

/// Takes a type under its capacity type off the market, in every zone.
fn withdraw(world: &mut Snapshot, offering: &OfferingKey) {
    let types = &world.types;
    for sold in &mut world.offerings {
        let name = types.get(sold.instance_type).map(|kind| kind.name.as_str());
        if name == Some(offering.instance_type.as_str())
            && sold.capacity_type == offering.capacity_type
        {
            sold.availability = Availability::Never;
        }
    }
}
