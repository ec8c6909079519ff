//! What agents heard from their clouds: which machines will be taken away, and which may be.
//!
//! A machine that is taken away is interrupted whatever a provider says of it. One that is stopped for
//! maintenance, or at risk only, differs from what its pool would make today: it is replaced as drift
//! is, as many at a time as the pool's budgets let go, so that a recommendation for every node is no
//! reason to replace all at once.

use std::collections::{BTreeMap, BTreeSet};

use headstart_api::{Interruption, InterruptionKind, NodeCache, NodeClaim};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeState};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource as _, ResourceExt as _};

use super::claim;
use super::picture::Picture;
use super::round::Rounds;
use super::say::{Reason, Say};
use crate::metrics::label::Notice;

/// For how long a notice to a node that no claim bought is believed after its agent was heard last: an
/// agent that is gone takes nothing back.
const BELIEVED: Millis = Millis::from_secs(300);

/// A machine that is only at risk is not replaced before it has been there for so long: where every one
/// is at risk, the next would be as well.
const SETTLED: Millis = Millis::from_secs(1800);

/// What was said and counted, by the node cache that told of it.
#[derive(Default)]
pub(super) struct Noted {
    all: BTreeMap<String, InterruptionKind>,
    /// Claims that were counted because a provider listed them so.
    listed: BTreeSet<String>,
    /// Another replica has counted what is there at the beginning.
    counts: bool,
}

/// What the agent of a claim's machine was told.
pub(super) fn of_claim<'a>(picture: &'a Picture, claim: &NodeClaim) -> Option<&'a Interruption> {
    let cache = &picture.caches.get(&claim.name_any())?.object;
    told(cache, claim.metadata.uid.as_deref())
}

/// What the agent of a node that no claim bought was told.
fn of_node<'a>(picture: &'a Picture, node: &str, now: Millis) -> Option<&'a Interruption> {
    let cache = &picture.caches.get(node)?.object;
    let node = picture.nodes.get(node)?;
    let observed = cache.status.as_ref()?.observed.as_ref();
    let heard = claim::millis(observed.map(|time| time.0));
    let notice = told(cache, node.raw.object.metadata.uid.as_deref())?;
    (now - heard <= BELIEVED).then_some(notice)
}

/// What a cache tells, if it is of the object with this UID.
fn told<'a>(cache: &'a NodeCache, uid: Option<&str>) -> Option<&'a Interruption> {
    let owner = cache.metadata.owner_references.as_ref();
    let owner = owner.and_then(|all| all.first());
    let is_its = owner.is_none_or(|owner| Some(owner.uid.as_str()) == uid);
    cache
        .status
        .as_ref()?
        .interruption
        .as_ref()
        .filter(|_| is_its)
}

/// Whether anything was told of a node: it then changes with time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Something,
}

/// Says of a node as it is planned with what its agent was told.
pub(super) fn tell(
    node: &mut Node,
    claim: Option<&NodeClaim>,
    picture: &Picture,
    now: Millis,
) -> Told {
    let notice = match claim {
        Some(claim) => of_claim(picture, claim),
        None => of_node(picture, &node.name, now),
    };
    let Some(notice) = notice else {
        return Told::Nothing;
    };
    let born = claim.map_or(node.created, claim::created);
    match notice.kind {
        InterruptionKind::Taken => node.state = NodeState::Leaving,
        InterruptionKind::AtRisk if now - born < SETTLED => {}
        kind @ (InterruptionKind::Maintenance | InterruptionKind::AtRisk) => {
            let drift = &mut node.disruption.drift;
            drift.get_or_insert_with(|| risk(kind).to_owned());
        }
    }
    Told::Something
}

fn risk(kind: InterruptionKind) -> &'static str {
    match kind {
        InterruptionKind::AtRisk => "its machine is likely to be taken away",
        InterruptionKind::Maintenance => "its machine will be stopped for maintenance",
        InterruptionKind::Taken => "its machine will be taken away",
    }
}

/// What is said of it, for people.
pub(super) fn words(notice: &Interruption) -> String {
    let source = notice.source.as_str();
    let at = notice.at.as_ref();
    let at = at.map_or_else(String::new, |at| format!(" at {}", seconds(at.0)));
    format!("{}{at}, as {source} told its agent", risk(notice.kind))
}

/// A moment without its fraction.
fn seconds(time: k8s_openapi::jiff::Timestamp) -> String {
    let whole = k8s_openapi::jiff::Timestamp::from_second(time.as_second());
    whole.unwrap_or(time).to_string()
}

impl Noted {
    /// Another replica may have spoken meanwhile.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether a claim is listed as interrupted for the first time.
    pub(super) fn is_first(&mut self, claim: &str) -> bool {
        self.listed.insert(claim.to_owned())
    }

    /// A claim is gone.
    pub(super) fn gone(&mut self, claim: &str) {
        self.listed.remove(claim);
    }

    /// Takes the notices as they are now; those that are new, and whether they are to be counted.
    fn take<'a>(
        &mut self,
        now: BTreeMap<String, &'a Interruption>,
    ) -> (BTreeMap<String, &'a Interruption>, bool) {
        let counts = std::mem::replace(&mut self.counts, true);
        let kinds = now.iter().map(|(name, it)| (name.clone(), it.kind));
        let before = std::mem::replace(&mut self.all, kinds.collect());
        let is_new = |name: &String, it: &Interruption| before.get(name) != Some(&it.kind);
        let new = now.into_iter().filter(|(name, it)| is_new(name, it));
        (new.collect(), counts)
    }
}

impl Rounds {
    /// Says and counts each notice once. Of what is only at risk nothing is learned: a cloud that advises
    /// against all it sells would be asked for nothing.
    pub(super) fn hear_notices(&mut self, now: Millis) {
        let picture = &self.picture;
        let all = picture.caches.keys().filter_map(|name| {
            let notice = match picture.claims.get(name) {
                Some(claim) => of_claim(picture, claim),
                None => of_node(picture, name, now),
            };
            Some((name.clone(), notice?))
        });
        let (new, counts) = self.noted.take(all.collect());
        for (name, notice) in new {
            if counts {
                let metrics = self.gauges.metrics();
                metrics.noticed(Notice::from(notice.source), notice.kind.into());
            }
            let claim = self.picture.claims.get(&name);
            let said = words(notice);
            tracing::warn!(node = name, said, "a machine will not stay");
            let (reason, note) = match (notice.kind, claim) {
                // Of a claim that is given up for it more is said then.
                (InterruptionKind::Taken, Some(_)) => continue,
                (InterruptionKind::Taken, None) => {
                    (Reason::NodeInterrupted, "nothing new is planned for it")
                }
                (_, Some(_)) => (
                    Reason::NodeAtRisk,
                    "it is replaced in its turn, as its pool's budgets allow",
                ),
                (_, None) => (Reason::NodeAtRisk, "it is of no pool of ours and stays"),
            };
            let about = match claim {
                Some(claim) => claim.object_ref(&()),
                None => ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Node".to_owned()),
                    name: Some(name.clone()),
                    // By which `kubectl describe node` finds Events: the kubelet's own say the name.
                    uid: Some(name),
                    ..ObjectReference::default()
                },
            };
            self.speaker.say(Say {
                about,
                reason,
                note: format!("{said}; {note}"),
                news: String::new(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use headstart_api::{NodeCacheSpec, NodeCacheStatus, NodeClaimSpec, NoticeSource};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn notice(kind: InterruptionKind) -> Interruption {
        Interruption {
            kind,
            source: NoticeSource::Aws,
            noticed: None,
            at: Timestamp::from_second(1_795_000_000).ok().map(Time),
        }
    }

    fn cache(name: &str, owner: &str, notice: Interruption) -> NodeCache {
        let mut cache = NodeCache::new(name, NodeCacheSpec::default());
        cache.metadata.owner_references = Some(vec![OwnerReference {
            uid: owner.to_owned(),
            ..OwnerReference::default()
        }]);
        cache.status = Some(NodeCacheStatus {
            observed: Timestamp::from_second(1_795_000_000).ok().map(Time),
            interruption: Some(notice),
            ..NodeCacheStatus::default()
        });
        cache
    }

    fn claim() -> NodeClaim {
        let mut claim = NodeClaim::new("c", NodeClaimSpec::default());
        claim.metadata.uid = Some("u".to_owned());
        claim
    }

    fn planned(kind: InterruptionKind, owner: &str, now: Millis) -> (Node, Told) {
        let mut picture = Picture::default();
        picture.set_cache(cache("c", owner, notice(kind)));
        let claim = claim();
        let mut node = claim::registered(&claim, "n", now);
        node.state = NodeState::Running;
        let told = tell(&mut node, Some(&claim), &picture, now);
        (node, told)
    }

    #[test]
    fn a_machine_that_is_taken_away_takes_no_pods_and_one_at_risk_is_replaced_in_its_turn() {
        let young = SETTLED - Millis(1);
        for now in [young, SETTLED] {
            let (taken, _) = planned(InterruptionKind::Taken, "u", now);
            assert_eq!(taken.state, NodeState::Leaving);
            for kind in [InterruptionKind::AtRisk, InterruptionKind::Maintenance] {
                let (risky, told) = planned(kind, "u", now);
                assert_eq!((risky.state, told), (NodeState::Running, Told::Something));
                // Where every machine is at risk, its successor would be as well.
                let waits = kind == InterruptionKind::AtRisk && now == young;
                let expected = (!waits).then_some(risk(kind));
                assert_eq!(risky.disruption.drift.as_deref(), expected);
            }
        }
        // Another machine had the name.
        let (other, told) = planned(InterruptionKind::Taken, "before", young);
        assert_eq!((other.state, told), (NodeState::Running, Told::Nothing));
    }

    #[test]
    fn a_notice_is_new_once_and_again_when_it_gets_worse() {
        let (risk, taken) = (
            notice(InterruptionKind::AtRisk),
            notice(InterruptionKind::Taken),
        );
        let now = |it| BTreeMap::from([("c".to_owned(), it)]);
        let mut noted = Noted::default();
        let (new, counts) = noted.take(BTreeMap::new());
        assert!(new.is_empty() && !counts);
        let mut is_new = |all| noted.take(all).0.len();
        assert_eq!(is_new(now(&risk)), 1);
        assert_eq!(is_new(now(&risk)), 0);
        assert_eq!(is_new(now(&taken)), 1);
        assert_eq!(is_new(BTreeMap::new()), 0);
        assert_eq!(is_new(now(&taken)), 1);
        // What was there before this replica led was counted by another.
        noted.forget();
        assert_eq!(noted.take(now(&taken)), (now(&taken), false));
    }

    #[test]
    fn what_is_said_names_the_cloud_and_the_time() {
        let said = words(&notice(InterruptionKind::Taken));
        assert_eq!(
            said,
            "its machine will be taken away at 2026-11-18T11:06:40Z, as aws told its agent"
        );
    }
}
