//! One node: what runs on it, what it has cached, what would be fetched to it, and whether it goes.

use std::fmt::Write as _;

use headstart_core::amount::{Resources, display};
use headstart_core::cache::{Inventory, ItemState};
use headstart_core::node::{Node, NodeState};
use headstart_core::plan::{Plan, Prefetch, RetirementPlan, Target};
use headstart_core::snapshot::Snapshot;

use super::{Answer, Served, bound_to, placed_on, unknown};
use crate::plan::words;

/// Everything about the node `name`.
pub(super) fn explain(
    name: &str,
    plan: &Plan,
    fetches: &[Prefetch],
    removals: &RetirementPlan,
    snapshot: &Snapshot,
) -> Result<Answer, String> {
    let Some(node) = snapshot.nodes.iter().find(|node| node.name == name) else {
        let known = snapshot.nodes.iter().map(|node| node.name.clone());
        return Err(unknown("node", name, known));
    };
    let mut text = format!("node {name}\n");
    is(node, snapshot, &mut text);
    runs(node, plan, snapshot, &mut text);
    match snapshot.inventories.get(name) {
        Some(inventory) => has(inventory, snapshot, &mut text),
        None => text.push_str("  its agent has reported nothing\n"),
    }
    text += &prefetch(&Target::Node(name.to_owned()), fetches);
    text += &retirement(name, removals, snapshot);
    Ok(Answer {
        text,
        served: Served::Yes,
    })
}

fn is(node: &Node, snapshot: &Snapshot, text: &mut String) {
    let mut line = |said: String| {
        let _ = writeln!(text, "  {said}");
    };
    if let Some(offering) = &node.offering {
        let price = node
            .price
            .map_or(String::new(), |price| format!(" for {price}"));
        line(format!("{offering}{price}"));
    }
    line(match &node.pool {
        Some(pool) => format!("of pool {pool}"),
        None => "of no pool of ours".to_owned(),
    });
    line(match &node.state {
        NodeState::Running => "runs".to_owned(),
        NodeState::Starting { expected } => {
            format!("starts, expected in {}", *expected - snapshot.now)
        }
        NodeState::InFlight { expected } => {
            format!("is on its way, expected in {}", *expected - snapshot.now)
        }
        NodeState::Standby { boot } => format!("stands by, Ready in {}", boot.ready),
        NodeState::Leaving => "takes no pods: cordoned, being deleted or not Ready".to_owned(),
    });
    for taint in node.taints.iter().chain(&node.startup_taints) {
        line(format!("taint {}", words::taint(taint)));
    }
    if node.disruption.forbidden {
        line("an annotation forbids to remove it".to_owned());
    }
    if let Some(drift) = &node.disruption.drift {
        line(format!("differs from what its pool says now: {drift}"));
    }
    for (since, what) in [
        (node.disruption.empty_since, "empty"),
        (node.disruption.underused_since, "under-used"),
    ] {
        if let Some(since) = since {
            line(format!("{what} for {}", snapshot.now - since));
        }
    }
}

fn runs(node: &Node, plan: &Plan, snapshot: &Snapshot, text: &mut String) {
    let mut used = Resources::new();
    let mut pods: Vec<String> = Vec::new();
    for pod in bound_to(snapshot, &node.name) {
        used.add(&pod.shape.requests);
        pods.push(pod.key.to_string());
    }
    pods.sort_unstable();
    let used_of = node.allocatable.iter().filter(|(_, amount)| *amount > 0);
    let shares: Vec<String> = used_of
        .map(|(name, whole)| {
            let used = display(name, used.of(name));
            format!("{name} {used} of {}", display(name, whole))
        })
        .collect();
    if !shares.is_empty() {
        let _ = writeln!(text, "  requested of it: {}", shares.join(", "));
    }
    let _ = match pods.is_empty() {
        true => writeln!(text, "  no pod runs on it"),
        false => writeln!(text, "  pods on it: {}", pods.join(", ")),
    };
    for pod in placed_on(plan, &node.name) {
        let _ = writeln!(text, "  pod {pod} is planned for it");
    }
}

fn has(inventory: &Inventory, snapshot: &Snapshot, text: &mut String) {
    let _ = writeln!(
        text,
        "  its agent reported {} ago, room for {}",
        snapshot.now - inventory.observed,
        words::gigabytes(inventory.room)
    );
    for (item, state) in &inventory.items {
        let state = match state {
            ItemState::Partial { bytes } => format!("{} of it", words::gigabytes(*bytes)),
            ItemState::Unknown => "something, unverified".to_owned(),
            ItemState::Verified => "verified".to_owned(),
        };
        let _ = writeln!(text, "    has {}: {state}", words::item(item));
    }
    for item in &inventory.fetching {
        let _ = writeln!(text, "    is fetching {}", words::item(item));
    }
}

/// Whether the node goes, and if not, why it stays.
pub(super) fn retirement(name: &str, plan: &RetirementPlan, snapshot: &Snapshot) -> String {
    // Replacements are counted over all removals, in their order.
    let replacements = || {
        plan.retire
            .iter()
            .flat_map(|retirement| &retirement.replacements)
    };
    let mut text = String::new();
    if let Some(goes) = plan.retire.iter().find(|r| r.node == name) {
        let _ = writeln!(
            text,
            "  goes: {}; saves {}, {} of verified bytes are lost",
            words::disruption(goes.reason),
            goes.saves,
            words::gigabytes(goes.cache_bytes)
        );
        for node in &goes.replacements {
            let _ = writeln!(text, "    first buy {} for {}", node.offering, node.price);
        }
        for (pod, target) in &goes.moves {
            let to = match target {
                Target::Node(node) => format!("node {node}"),
                Target::New(index) => match replacements().nth(*index) {
                    Some(node) => format!("the new {}", node.offering.instance_type),
                    None => "a new node".to_owned(),
                },
            };
            let _ = writeln!(text, "    pod {pod} moves to {to}");
        }
    }
    if let Some((_, kept)) = plan.kept.iter().find(|(node, _)| node == name) {
        for (index, line) in words::kept(kept, snapshot.now).iter().enumerate() {
            let mark = if index == 0 { "stays: " } else { "  " };
            let _ = writeln!(text, "  {mark}{line}");
        }
    }
    text
}

/// What would be fetched to a node, and what not.
pub(super) fn prefetch(target: &Target, plan: &[Prefetch]) -> String {
    let mut text = String::new();
    for fetch in plan.iter().filter(|fetch| fetch.target == *target) {
        for item in &fetch.items {
            let from = match item.peers.as_slice() {
                [] => "from its origin".to_owned(),
                peers => format!("from its origin and {}", peers.join(", ")),
            };
            let _ = writeln!(
                text,
                "  fetches {} {}: {from}, {}",
                words::gigabytes(item.bytes),
                words::item(&item.item),
                words::urgency(item.urgency)
            );
        }
        for (item, why) in &fetch.skipped {
            let _ = writeln!(
                text,
                "  does not fetch {}: {}",
                words::item(item),
                words::not_fetched(why)
            );
        }
    }
    text
}
