//! Which nodes are given back, found out beside the rounds: it takes seconds in a large cluster, and
//! nobody waits for it.
//!
//! It is asked with a copy of what is planned with, one question at a time, and answered into a later
//! round, in which only what still holds counts: the node runs, with the pods it had, nothing is about
//! to be put onto it, and where its pods are to go is there. What is left out is found again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use headstart_core::node::NodeState;
use headstart_core::plan::{Plan, Retirement, RetirementPlan, Target};
use headstart_core::retire::retire;
use tokio::sync::mpsc;

use super::round::Rounds;
use crate::plan::now;

/// What was asked, and what was answered.
pub(super) struct Retiring {
    say: mpsc::Sender<(u64, RetirementPlan)>,
    asked: Option<Instant>,
    under_way: bool,
    /// Grows when what was asked before does not count any more.
    turn: u64,
    answer: Option<RetirementPlan>,
}

impl Retiring {
    /// Nothing was asked yet. Answers come through the second.
    pub(super) fn new() -> (Self, mpsc::Receiver<(u64, RetirementPlan)>) {
        let (say, answers) = mpsc::channel(1);
        let retiring = Self {
            say,
            asked: None,
            under_way: false,
            turn: 0,
            answer: None,
        };
        (retiring, answers)
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, (turn, answer): (u64, RetirementPlan)) {
        self.under_way = false;
        self.answer = (turn == self.turn).then_some(answer);
    }

    /// Another replica may have acted meanwhile.
    pub(super) fn forget(&mut self) {
        self.turn += 1;
        self.answer = None;
    }

    fn is_due(&self, every: Duration) -> bool {
        !self.under_way && self.asked.is_none_or(|last| last.elapsed() >= every)
    }
}

impl Rounds {
    /// What was answered since, as far as it still holds beside `plan`.
    pub(super) fn retirement(&mut self, plan: &Plan) -> Option<RetirementPlan> {
        let answer = self.retiring.answer.take()?;
        if answer.retire.is_empty() {
            return Some(answer);
        }
        let awaited: BTreeSet<&String> = plan
            .placements
            .iter()
            .filter_map(|placement| match &placement.target {
                Target::Node(name) => Some(name),
                Target::New(_) => None,
            })
            .collect();
        let runs = |name: &str| {
            let node = self.mind.node(name);
            node.is_some_and(|node| node.state == NodeState::Running)
        };
        let same = self.nodes.as_they_were(&self.mind);
        Some(holding(answer, |it| {
            let there = it.moves.iter().all(|(_, target)| match target {
                Target::Node(name) => self.mind.node(name).is_some(),
                Target::New(_) => true,
            });
            let node = it.node.as_str();
            there && runs(node) && same.contains(node) && !awaited.contains(&it.node)
        }))
    }

    /// Asks again, if it is time to.
    pub(super) fn ask_what_to_retire(&mut self) {
        if self.calls.is_none() || !self.retiring.is_due(self.settings.retire_every) {
            return;
        }
        self.retiring.asked = Some(Instant::now());
        self.retiring.under_way = true;
        let replaced = self.replaced();
        let mut copy = self.mind.copy(&self.picture.book);
        self.nodes.note_use(&mut copy, &replaced, now());
        let (plan, policy) = (self.plan.clone(), self.mind.policy.clone());
        let (say, turn) = (self.retiring.say.clone(), self.retiring.turn);
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let answer = retire(&copy, &policy, &plan);
            tracing::debug!(
                millis = began.elapsed().as_millis(),
                retire = answer.retire.len(),
                "what to give back is known"
            );
            let _ = say.blocking_send((turn, answer));
        });
    }
}

/// What of a plan holds. Nodes that are replaced go all or not at all: they may share what is bought.
fn holding(plan: RetirementPlan, holds: impl Fn(&Retirement) -> bool) -> RetirementPlan {
    let replaced = |it: &Retirement| {
        let mut targets = it.moves.iter().map(|(_, target)| target);
        !it.replacements.is_empty() || targets.any(|target| matches!(target, Target::New(_)))
    };
    let all = plan.retire.iter().filter(|it| replaced(it)).all(&holds);
    let RetirementPlan { mut retire, kept } = plan;
    retire.retain(|it| holds(it) && (all || !replaced(it)));
    RetirementPlan { retire, kept }
}

#[cfg(test)]
mod tests {
    use headstart_core::money::HourlyPrice;
    use headstart_core::pod::ObjectKey;
    use headstart_core::pool::DisruptionReason;

    use super::*;

    fn retired(node: &str, to: Target) -> Retirement {
        Retirement {
            node: node.to_owned(),
            reason: DisruptionReason::Underused,
            moves: vec![(ObjectKey::new("default", node), to)],
            replacements: Vec::new(),
            saves: HourlyPrice(1),
            cache_bytes: 0,
        }
    }

    #[test]
    fn what_does_not_hold_any_more_is_left_out_and_nothing_is_bought_for_it() {
        let there = || Target::Node("there".to_owned());
        let plan = RetirementPlan {
            retire: vec![
                retired("a", there()),
                retired("b", Target::New(0)),
                retired("c", Target::New(0)),
                retired("d", there()),
            ],
            kept: Vec::new(),
        };
        let left = |changed: &str| -> Vec<String> {
            let left = holding(plan.clone(), |it| it.node != changed);
            left.retire.into_iter().map(|it| it.node).collect()
        };
        assert_eq!(left("none"), ["a", "b", "c", "d"]);
        assert_eq!(left("a"), ["b", "c", "d"]);
        assert_eq!(left("c"), ["a", "d"]);
    }
}
