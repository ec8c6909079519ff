//! Nodes that go together or not at all, and the order in which they are tried.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::TURN;
use super::caches::Caches;
use super::candidate::Facts;
use crate::money::{HourlyPrice, Millis};
use crate::pod::{ObjectKey, Phase, Pod, Progress};
use crate::pool::DisruptionReason;
use crate::snapshot::Snapshot;

/// One node; or several, because they run one group; or several that are merged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit<'a> {
    /// By name.
    pub(super) nodes: Vec<&'a str>,
}

impl<'a> Unit<'a> {
    pub(super) fn join(units: &[Self]) -> Self {
        let mut nodes: Vec<&str> = units.iter().flat_map(|unit| &unit.nodes).copied().collect();
        nodes.sort_unstable();
        Self { nodes }
    }

    /// Pods that have to find another place, with the node they are on.
    pub(super) fn pods(&self, facts: &BTreeMap<&'a str, Facts<'a>>) -> Vec<(&'a str, &'a Pod)> {
        let nodes = self.nodes.iter();
        nodes
            .flat_map(|name| facts[name].pods().map(|pod| (*name, pod)))
            .collect()
    }

    /// Pods that have to be evicted.
    pub(super) fn evicted(
        &self,
        facts: &BTreeMap<&'a str, Facts<'a>>,
    ) -> impl Iterator<Item = &'a Pod> {
        let nodes = self.nodes.iter();
        nodes.flat_map(|name| facts[name].running.iter().copied())
    }

    /// What its nodes cost; one of unknown price costs nothing.
    pub(super) fn price(&self, facts: &BTreeMap<&'a str, Facts<'a>>) -> HourlyPrice {
        let prices = self.nodes.iter().filter_map(|name| facts[name].node.price);
        HourlyPrice(prices.fold(0, |sum, price| sum.saturating_add(price.0)))
    }
}

/// Where the running members of every group are.
#[derive(Default)]
struct Members<'a> {
    nodes: BTreeSet<&'a str>,
    waiting: bool,
}

/// Splits the nodes that may be retired into units. A node that runs part of a group whose rest would
/// stay, or is still waiting, is in none; it comes with that group.
pub(super) fn units<'a>(
    facts: &BTreeMap<&'a str, Facts<'a>>,
    able: &BTreeSet<&'a str>,
    snapshot: &'a Snapshot,
) -> (Vec<Unit<'a>>, Vec<(&'a str, ObjectKey)>) {
    let mut able = able.clone();
    let on = |name: &str| {
        let pods = facts.get(name).into_iter().flat_map(Facts::pods);
        pods.filter_map(|pod| pod.shape.group.as_ref())
    };
    let concerned: BTreeSet<&ObjectKey> = able.iter().flat_map(|name| on(name)).collect();
    let mut groups: BTreeMap<&ObjectKey, Members<'_>> = BTreeMap::new();
    if !concerned.is_empty() {
        for pod in &snapshot.pods {
            let Some(group) = pod.shape.group.as_ref().filter(|g| concerned.contains(g)) else {
                continue;
            };
            let members = groups.entry(group).or_default();
            match &pod.phase {
                Phase::Pending => members.waiting = true,
                Phase::Bound {
                    progress: Progress::Terminating,
                    ..
                } => {}
                Phase::Bound { node, .. } => {
                    members.nodes.insert(node);
                }
            }
        }
    }
    let mut partial = Vec::new();
    loop {
        let whole = |group: &&ObjectKey| {
            groups
                .get(group)
                .is_none_or(|members| !members.waiting && members.nodes.is_subset(&able))
        };
        let broken: Vec<(&str, ObjectKey)> = able
            .iter()
            .filter_map(|name| on(name).find(|g| !whole(g)).map(|g| (*name, g.clone())))
            .collect();
        if broken.is_empty() {
            break;
        }
        for (name, _) in &broken {
            able.remove(name);
        }
        partial.extend(broken);
    }
    // Each node starts alone; a group joins all of its nodes.
    let mut leader: BTreeMap<&str, &str> = able.iter().map(|name| (*name, *name)).collect();
    for members in groups.values().filter(|m| m.nodes.is_subset(&able)) {
        let Some(to) = members.nodes.iter().map(|name| leader[name]).min() else {
            continue;
        };
        let from: BTreeSet<&str> = members.nodes.iter().map(|name| leader[name]).collect();
        for lead in leader.values_mut().filter(|lead| from.contains(*lead)) {
            *lead = to;
        }
    }
    let mut units: BTreeMap<&str, Unit<'_>> = BTreeMap::new();
    for (name, lead) in leader {
        let unit = units.entry(lead).or_insert(Unit { nodes: Vec::new() });
        unit.nodes.push(name);
    }
    (units.into_values().collect(), partial)
}

/// Units, the one to be tried first on top. What a cache is worth only grows while others go, so a
/// unit whose worth has changed is put back.
pub(super) struct Queue<'a>(BinaryHeap<Reverse<Rank<'a>>>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    /// Those whose turn it is first; see [`Queue::turn`].
    turn: Turn,
    /// What retiring it is good for: more first.
    gain: Reverse<u64>,
    /// What its caches are worth: less first.
    caches: u64,
    unit: Unit<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Now,
    Later,
}

impl<'a> Queue<'a> {
    pub(super) fn new(
        units: Vec<Unit<'a>>,
        reason: DisruptionReason,
        facts: &BTreeMap<&'a str, Facts<'a>>,
        caches: &Caches<'a>,
    ) -> Self {
        let ranked = units.into_iter().map(|unit| {
            Reverse(Rank {
                turn: Turn::Now,
                gain: Reverse(gain(&unit, reason, facts)),
                caches: worth(&unit, caches),
                unit,
            })
        });
        Self(ranked.collect())
    }

    /// Where there are more units than the `most` that one round can try, lets each have its turn: as
    /// many of the first are put last as had theirs in the turns before `now`.
    pub(super) fn turn(&mut self, most: usize, now: Millis) {
        let all = self.0.len();
        if all <= most {
            return;
        }
        let turns = usize::try_from(now.0 / TURN.0).unwrap_or(0) % all;
        let skipped = (turns * most.max(1)) % all;
        let mut ranks = std::mem::take(&mut self.0).into_vec();
        ranks.sort_unstable_by(|Reverse(a), Reverse(b)| a.cmp(b));
        for Reverse(rank) in ranks.iter_mut().take(skipped) {
            rank.turn = Turn::Later;
        }
        self.0 = ranks.into();
    }

    pub(super) fn next(&mut self, caches: &Caches<'a>) -> Option<Unit<'a>> {
        loop {
            let Reverse(mut top) = self.0.pop()?;
            let now = worth(&top.unit, caches);
            if now <= top.caches {
                return Some(top.unit);
            }
            top.caches = now;
            self.0.push(Reverse(top));
        }
    }
}

/// The oldest first, what disturbs the fewest pods first, or the most saved per pod that moves.
fn gain<'a>(
    unit: &Unit<'a>,
    reason: DisruptionReason,
    facts: &BTreeMap<&'a str, Facts<'a>>,
) -> u64 {
    let pods = u64::try_from(unit.pods(facts).len()).unwrap_or(u64::MAX);
    match reason {
        DisruptionReason::Expired => {
            let created = unit.nodes.iter().map(|name| facts[name].node.created.0);
            u64::MAX - created.min().unwrap_or(0)
        }
        DisruptionReason::Drifted => u64::MAX - pods,
        DisruptionReason::Empty | DisruptionReason::Underused | DisruptionReason::Replaceable => {
            unit.price(facts).0 / (1 + pods)
        }
    }
}

fn worth(unit: &Unit<'_>, caches: &Caches<'_>) -> u64 {
    let nodes = unit.nodes.iter();
    nodes.fold(0, |sum, name| sum.saturating_add(caches.worth(name)))
}
