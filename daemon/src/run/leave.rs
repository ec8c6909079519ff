//! How nodes are emptied: which of their pods are asked to leave, which are waited for, and what is
//! removed of nodes that nobody knows any more.
//!
//! A pod is asked by the Eviction API and never deleted, so that its budgets hold.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use headstart_api::{NodeClaim, names};
use headstart_core::pod::{ObjectKey, Phase, Progress};
use kube::ResourceExt as _;
use tracing::info;

use super::moving::{self, Fate};
use super::round::Rounds;
use super::say::{Reason, Say};
use super::status::ready_since;
use super::write::Write;

/// A pod that was asked to leave is not asked again for this long.
const EVICT_PAUSE: Duration = Duration::from_secs(5);

/// Most pods asked to leave one node in one round.
const MOST_EVICTED: usize = 20;

/// A pod that must be gone before its node is given back, and what becomes of it.
pub(super) type Left = (ObjectKey, Progress, Fate);

impl Rounds {
    /// Pods on the nodes of claims that go, which must be gone first.
    pub(super) fn left(&self) -> BTreeMap<String, Vec<Left>> {
        let mut left: BTreeMap<String, Vec<Left>> = BTreeMap::new();
        let claims = self.picture.claims.iter();
        let going = claims.filter(|(_, claim)| claim.metadata.deletion_timestamp.is_some());
        let going: BTreeMap<&str, (&str, &NodeClaim)> = going
            .filter_map(|(name, claim)| {
                Some((self.nodes.of_claim(name)?, (name.as_str(), &**claim)))
            })
            .collect();
        if going.is_empty() {
            return left;
        }
        for pod in &self.mind.snapshot.pods {
            if let Phase::Bound { node, progress } = &pod.phase
                && let Some((name, claim)) = going.get(node.as_str())
            {
                let fate = moving::fate(pod, claim);
                if fate != Fate::Sinks {
                    let pods = left.entry((*name).to_owned()).or_default();
                    let leaving = *progress == Progress::Terminating;
                    let fate = if leaving { Fate::Ends } else { fate };
                    pods.push((pod.key.clone(), *progress, fate));
                }
            }
        }
        left
    }

    pub(super) fn evict(&mut self, pods: &[Left], writes: &mut Vec<Write>) {
        let now = Instant::now();
        self.evicted.retain(|_, at| now - *at < EVICT_PAUSE);
        for (pod, progress, fate) in pods {
            if *fate == Fate::Ends && *progress != Progress::Terminating {
                self.say_blocked(pod, "it may not be moved: its end is waited for");
            }
        }
        let staying = pods.iter().filter(|(_, _, fate)| *fate == Fate::Leaves);
        for (pod, ..) in staying.take(MOST_EVICTED) {
            if self.evicted.contains_key(pod) {
                continue;
            }
            self.evicted.insert(pod.clone(), now);
            let uid = self.picture.pods.get(pod).map(|seen| seen.uid.to_string());
            writes.push(Write::Evict {
                pod: pod.clone(),
                uid,
            });
        }
    }

    pub(super) fn say_blocked(&mut self, pod: &ObjectKey, why: &str) {
        if let Some(about) = self.pod_ref(pod) {
            self.speaker.say(Say {
                about,
                reason: Reason::EvictionBlocked,
                note: format!("its node is given back, but {why}"),
                news: String::new(),
            });
        }
    }

    /// Nodes whose claim and machine are gone: one that joined when it was given back already, and
    /// that no cloud controller removes.
    pub(super) fn bury(&self, writes: &mut Vec<Write>) {
        let Some((asked, instances)) = &self.instances else {
            return;
        };
        for (name, seen) in &self.picture.nodes {
            let node = &seen.raw.object;
            let Some(claim) = node.labels().get(names::NODE_CLAIM) else {
                continue;
            };
            let known = self.picture.claims.contains_key(claim) || instances.contains_key(claim);
            let goes = node.metadata.deletion_timestamp.is_some() || ready_since(node).is_some();
            let created = node
                .creation_timestamp()
                .map(|time| SystemTime::from(time.0));
            let old = created.is_some_and(|at| *asked > at + self.settings.orphan_limit);
            if !known && !goes && old {
                info!(
                    node = name,
                    claim, "a node without claim and machine is removed"
                );
                writes.push(Write::DeleteNode {
                    name: name.clone(),
                    uid: node.uid(),
                });
            }
        }
    }
}
