//! The life of a claim, as a function: from what is known of it to the one thing to do next.
//!
//! It holds no state: after any crash the same facts give the same step, and every step may be done
//! twice. An instance is given back before its Node object goes, and both before the claim does.

use std::time::Duration;

/// How long a provider may take to say yes. AKS and GKE take minutes to say that there is a machine.
pub(super) const LAUNCH_LIMIT: Duration = Duration::from_secs(600);

/// How long a Node that was there may be away: a kubelet that lost its object makes it again.
const NODE_AWAY_LIMIT: Duration = Duration::from_secs(30);

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether it is to go.
    pub(super) deleting: bool,
    /// Whether a provider said yes.
    pub(super) launched: bool,
    /// How old it is.
    pub(super) age: Duration,
    /// How old it may be without being complete.
    pub(super) registration_limit: Duration,
    /// Its instance, as the provider last listed it.
    pub(super) instance: InstanceView,
    /// Whether the provider said that there is no instance any more.
    pub(super) released: bool,
    /// Its Node.
    pub(super) node: NodeView,
    /// What is to be there before it goes.
    pub(super) replacement: Replacement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InstanceView {
    /// No listing since it was launched.
    Unknown,
    Running,
    /// It was told that it will be taken away.
    Interrupted,
    /// A listing that should have it has not.
    Missing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeView {
    /// It has not come yet.
    NotYet,
    /// It was there, for this long it is not.
    Away(Duration),
    There(NodeFacts),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) deleting: bool,
    pub(super) ready: bool,
    /// It carries the claim's name and labels.
    pub(super) labelled: bool,
    /// Ready, with everything that was promised, startup taints gone.
    pub(super) complete: bool,
    /// It once was.
    pub(super) initialised: bool,
    pub(super) tainted: bool,
    /// Pods that must leave first.
    pub(super) pods_left: usize,
}

/// What is to be there before a claim goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacement {
    /// It is not to be replaced.
    None,
    Waited,
    Ready,
    /// It will not come.
    Lost,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Ask the provider for the instance.
    Ask,
    /// Delete the claim.
    GiveUp(Why),
    /// Give the Node its labels.
    Label,
    /// Say that the Node has all it should have.
    Initialise,
    /// The replacement will not come: the claim stays.
    Keep,
    Taint,
    Evict,
    /// Ask the provider to give the instance back.
    Release,
    DeleteNode,
    /// Let the claim go.
    Finish,
}

/// Why a claim is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    NotLaunched,
    InstanceGone,
    Interrupted,
    NeverJoined,
    NeverComplete,
    NodeGone,
    Replaced,
}

/// The one thing to do next.
pub(super) fn next(facts: &Facts) -> Step {
    match facts.deleting {
        true => leave(facts),
        false => live(facts),
    }
}

fn leave(facts: &Facts) -> Step {
    if let NodeView::There(node) = &facts.node
        && !facts.released
        && facts.instance != InstanceView::Missing
    {
        if !node.tainted && !node.deleting {
            return Step::Taint;
        }
        // On a node that is not ready nobody could stop a pod in an orderly way.
        if node.pods_left > 0 && node.ready {
            return Step::Evict;
        }
    }
    match &facts.node {
        _ if !facts.released => Step::Release,
        NodeView::There(node) if !node.deleting => Step::DeleteNode,
        NodeView::There(_) => Step::Wait,
        _ => Step::Finish,
    }
}

fn live(facts: &Facts) -> Step {
    if !facts.launched {
        return match facts.age > LAUNCH_LIMIT {
            true => Step::GiveUp(Why::NotLaunched),
            false => Step::Ask,
        };
    }
    let late = facts.age > facts.registration_limit;
    match (facts.instance, &facts.node) {
        (InstanceView::Missing, _) => Step::GiveUp(Why::InstanceGone),
        (InstanceView::Interrupted, _) => Step::GiveUp(Why::Interrupted),
        (_, NodeView::NotYet) if late => Step::GiveUp(Why::NeverJoined),
        (_, NodeView::NotYet) => Step::Wait,
        (_, NodeView::Away(away)) if *away > NODE_AWAY_LIMIT => Step::GiveUp(Why::NodeGone),
        (_, NodeView::Away(_)) => Step::Wait,
        (_, NodeView::There(node)) if node.deleting => Step::GiveUp(Why::NodeGone),
        (_, NodeView::There(node)) if !node.labelled => Step::Label,
        (_, NodeView::There(node)) if node.complete && !node.initialised => Step::Initialise,
        (_, NodeView::There(node)) if !node.initialised && late => Step::GiveUp(Why::NeverComplete),
        _ => match facts.replacement {
            Replacement::Ready => Step::GiveUp(Why::Replaced),
            Replacement::Lost => Step::Keep,
            Replacement::None | Replacement::Waited => Step::Wait,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            deleting: false,
            launched: true,
            age: Duration::from_secs(60),
            registration_limit: Duration::from_secs(900),
            instance: InstanceView::Running,
            released: false,
            node: NodeView::NotYet,
            replacement: Replacement::None,
        }
    }

    fn there(node: NodeFacts) -> NodeView {
        NodeView::There(node)
    }

    #[test]
    fn a_claim_asks_until_it_has_an_instance_and_then_waits_for_its_node() {
        let asks = Facts {
            launched: false,
            ..facts()
        };
        assert_eq!(next(&asks), Step::Ask);
        let in_vain = Facts {
            age: LAUNCH_LIMIT * 2,
            ..asks
        };
        assert_eq!(next(&in_vain), Step::GiveUp(Why::NotLaunched));
        assert_eq!(next(&facts()), Step::Wait);
        let late = Facts {
            age: Duration::from_secs(901),
            ..facts()
        };
        assert_eq!(next(&late), Step::GiveUp(Why::NeverJoined));
    }

    #[test]
    fn a_node_is_labelled_then_initialised_then_left_alone() {
        let mut node = NodeFacts {
            ready: true,
            ..NodeFacts::default()
        };
        let step = |node: &NodeFacts| {
            next(&Facts {
                node: there(node.clone()),
                ..facts()
            })
        };
        assert_eq!(step(&node), Step::Label);
        node.labelled = true;
        assert_eq!(step(&node), Step::Wait);
        node.complete = true;
        assert_eq!(step(&node), Step::Initialise);
        node.initialised = true;
        assert_eq!(step(&node), Step::Wait);
        node.complete = false;
        assert_eq!(step(&node), Step::Wait);
    }

    #[test]
    fn a_claim_that_goes_empties_its_node_then_gives_back_then_removes_what_stood_for_it() {
        let mut it = Facts {
            deleting: true,
            node: there(NodeFacts {
                ready: true,
                pods_left: 2,
                ..NodeFacts::default()
            }),
            ..facts()
        };
        let node = |it: &mut Facts, change: &dyn Fn(&mut NodeFacts)| {
            if let NodeView::There(node) = &mut it.node {
                change(node);
            }
        };
        assert_eq!(next(&it), Step::Taint);
        node(&mut it, &|node| node.tainted = true);
        assert_eq!(next(&it), Step::Evict);
        node(&mut it, &|node| node.pods_left = 0);
        assert_eq!(next(&it), Step::Release);
        it.released = true;
        assert_eq!(next(&it), Step::DeleteNode);
        it.node = NodeView::NotYet;
        assert_eq!(next(&it), Step::Finish);
    }

    #[test]
    fn nothing_is_evicted_from_a_node_whose_machine_is_gone() {
        let it = Facts {
            deleting: true,
            instance: InstanceView::Missing,
            node: there(NodeFacts {
                ready: true,
                pods_left: 2,
                ..NodeFacts::default()
            }),
            ..facts()
        };
        assert_eq!(next(&it), Step::Release);
    }

    #[test]
    fn a_claim_without_an_instance_finishes_only_after_the_provider_said_so() {
        let mut it = Facts {
            deleting: true,
            launched: false,
            instance: InstanceView::Unknown,
            ..facts()
        };
        assert_eq!(next(&it), Step::Release);
        it.released = true;
        assert_eq!(next(&it), Step::Finish);
    }

    #[test]
    fn a_replaced_claim_goes_when_its_replacement_is_ready_and_stays_when_that_is_lost() {
        let complete = there(NodeFacts {
            ready: true,
            labelled: true,
            complete: true,
            initialised: true,
            ..NodeFacts::default()
        });
        let step = |replacement| {
            next(&Facts {
                node: complete.clone(),
                replacement,
                ..facts()
            })
        };
        assert_eq!(step(Replacement::Waited), Step::Wait);
        assert_eq!(step(Replacement::Ready), Step::GiveUp(Why::Replaced));
        assert_eq!(step(Replacement::Lost), Step::Keep);
    }
}
