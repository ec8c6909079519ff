//! Pods that are going to lose their node, planned for before they do: each has a stand-in that waits,
//! so that what it will need is bought and fetched while it still runs.
//!
//! A stand-in is there as long as its pod is on a node that goes and has not been asked to leave, or on
//! one that went before it could be asked. Its name is no name of a pod, so that nobody else can mean it. Pods that do not come back, or that
//! nobody will move, have none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use headstart_api::{NodeClaim, names};
use headstart_core::label::{Effect, Taint};
use headstart_core::pod::{Eviction, ObjectKey, Phase, Pod, Progress};

use super::claim;
use super::mind::Mind;
use super::picture::Picture;

/// Ends the name of a stand-in.
const ENDING: &str = " (moves)";

/// For how long pods of a Node that is gone are planned for: the API server's own collector has removed
/// them by then (it looks every 20 s, and waits for 40 s).
const COLLECTED: Duration = Duration::from_secs(120);

/// The stand-ins that are planned with.
#[derive(Default)]
pub(super) struct Moving {
    all: BTreeSet<ObjectKey>,
    /// Nodes that went before they were empty, by name: their claims, and when.
    lost: BTreeMap<String, (NodeClaim, Instant)>,
}

impl Moving {
    /// The Node of a claim is deleted, pods or not.
    pub(super) fn lose(&mut self, node: &str, claim: &NodeClaim) {
        let lost = (claim.clone(), Instant::now());
        self.lost.insert(node.to_owned(), lost);
    }

    /// Takes the pods as they are now; `by_claim` names the Nodes of claims.
    pub(super) fn settle(
        &mut self,
        picture: &Picture,
        mind: &mut Mind,
        by_claim: &BTreeMap<String, String>,
    ) {
        let going = picture.claims.iter().filter(|(_, claim)| is_going(claim));
        let going = going
            .filter_map(|(name, claim)| Some((by_claim.get(name)?.as_str(), &**claim)))
            .filter(|(node, _)| picture.nodes.contains_key(*node));
        self.lost.retain(|_, (_, at)| at.elapsed() < COLLECTED);
        let lost = self
            .lost
            .iter()
            .map(|(node, (claim, _))| (node.as_str(), claim));
        let lost = lost.filter(|(node, _)| !picture.nodes.contains_key(*node));
        let going: BTreeMap<&str, &NodeClaim> = going.chain(lost).collect();
        if going.is_empty() && self.all.is_empty() {
            return;
        }
        let pods = mind.snapshot.pods.iter();
        let stand_ins: Vec<Pod> = pods.filter_map(|pod| stand_in(pod, &going)).collect();
        let now: BTreeSet<ObjectKey> = stand_ins.iter().map(|pod| pod.key.clone()).collect();
        for gone in self.all.difference(&now) {
            mind.remove_pod(gone);
        }
        stand_ins.into_iter().for_each(|pod| mind.set_pod(pod));
        self.all = now;
    }
}

/// What becomes of a pod whose node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is asked to leave.
    Leaves,
    /// Its end is waited for: it must not be moved, or would not come back.
    Ends,
    /// Nobody waits for it: it goes with its node, or would come back to it at once.
    Sinks,
}

/// The fate of a pod on the node of a claim that goes. A machine that will be taken away waits for
/// nobody, and a claim that a person deleted not for pods that nobody would make again.
pub(super) fn fate(pod: &Pod, claim: &NodeClaim) -> Fate {
    let leaving = Taint {
        key: names::LEAVING_TAINT.to_owned(),
        value: String::new(),
        effect: Effect::NoSchedule,
    };
    let mut tolerations = pod.shape.tolerations.iter();
    let sinks = tolerations.any(|toleration| toleration.tolerates(&leaving));
    match pod.shape.eviction {
        Eviction::Daemon => Fate::Sinks,
        _ if sinks => Fate::Sinks,
        _ if claim::is_interrupted(claim) => Fate::Leaves,
        Eviction::Forbidden => Fate::Ends,
        Eviction::Bare if !claim::is_unwanted(claim) => Fate::Ends,
        Eviction::Bare | Eviction::Allowed => Fate::Leaves,
    }
}

/// The pod that a key means, be it a stand-in's.
pub(super) fn meant(key: &ObjectKey) -> ObjectKey {
    match key.name.strip_suffix(ENDING) {
        Some(name) => ObjectKey::new(&key.namespace, name),
        None => key.clone(),
    }
}

fn is_going(claim: &NodeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some()
}

fn stand_in(pod: &Pod, going: &BTreeMap<&str, &NodeClaim>) -> Option<Pod> {
    let Phase::Bound { node, progress } = &pod.phase else {
        return None;
    };
    let claim = going.get(node.as_str())?;
    let returns = pod.shape.eviction != Eviction::Bare;
    if !returns || *progress == Progress::Terminating || fate(pod, claim) != Fate::Leaves {
        return None;
    }
    let name = format!("{}{ENDING}", pod.key.name);
    Some(Pod {
        key: ObjectKey::new(&pod.key.namespace, name),
        phase: Phase::Pending,
        ..pod.clone()
    })
}

#[cfg(test)]
mod tests {
    use headstart_api::NodeClaimSpec;
    use headstart_core::label::Toleration;
    use headstart_core::money::Millis;
    use headstart_core::pod::Shape;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn pod(eviction: Eviction) -> Pod {
        Pod {
            key: ObjectKey::new("default", "p"),
            created: Millis(0),
            phase: Phase::Bound {
                node: "n".to_owned(),
                progress: Progress::Running,
            },
            shape: Shape {
                eviction,
                ..Shape::default()
            }
            .into(),
        }
    }

    fn going(why: Option<&str>) -> NodeClaim {
        let mut claim = NodeClaim::new("c", NodeClaimSpec::default());
        claim.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let why = why.map(|why| (claim::GIVEN_BACK.to_owned(), why.to_owned()));
        claim.metadata.annotations = Some(why.into_iter().collect());
        claim
    }

    #[test]
    fn what_becomes_of_a_pod_depends_on_who_wants_its_node_to_go() {
        let retired = going(Some("it is empty"));
        let (deleted, interrupted) = (going(None), going(Some(claim::INTERRUPTED)));
        for (eviction, by_us, by_hand, taken) in [
            (Eviction::Allowed, Fate::Leaves, Fate::Leaves, Fate::Leaves),
            (Eviction::Forbidden, Fate::Ends, Fate::Ends, Fate::Leaves),
            (Eviction::Bare, Fate::Ends, Fate::Leaves, Fate::Leaves),
            (Eviction::Daemon, Fate::Sinks, Fate::Sinks, Fate::Sinks),
        ] {
            let pod = pod(eviction);
            assert_eq!(fate(&pod, &retired), by_us, "{eviction:?}");
            assert_eq!(fate(&pod, &deleted), by_hand, "{eviction:?}");
            assert_eq!(fate(&pod, &interrupted), taken, "{eviction:?}");
        }
        let mut stubborn = pod(Eviction::Allowed);
        stubborn.shape.tolerations.push(Toleration {
            key: None,
            value: None,
            effect: None,
        });
        assert_eq!(fate(&stubborn, &deleted), Fate::Sinks);
    }

    #[test]
    fn a_stand_in_waits_for_a_pod_that_will_come_back_until_it_is_asked_to_leave() {
        let claim = going(None);
        let going = BTreeMap::from([("n", &claim)]);
        let it = stand_in(&pod(Eviction::Allowed), &going).unwrap();
        assert_eq!(it.phase, Phase::Pending);
        assert_ne!(it.key, ObjectKey::new("default", "p"));
        assert_eq!(meant(&it.key), ObjectKey::new("default", "p"));
        assert!(stand_in(&it, &going).is_none());
        assert!(stand_in(&pod(Eviction::Bare), &going).is_none());
        assert!(stand_in(&pod(Eviction::Forbidden), &going).is_none());
        let mut leaving = pod(Eviction::Allowed);
        leaving.phase = Phase::Bound {
            node: "n".to_owned(),
            progress: Progress::Terminating,
        };
        assert!(stand_in(&leaving, &going).is_none());
    }
}
