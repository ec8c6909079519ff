//! From what was planned to what is written: purchases, nodes to give back, intents, and what is left
//! over from nodes that are gone. Nothing is chosen here, and nothing awaited.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::time::{Duration, Instant};

use headstart_api::NodeCacheSpec;
use headstart_core::cache::Item;
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeState};
use headstart_core::plan::{NewNode, Plan, Prefetch, RetirementPlan, Target};
use headstart_core::pod::{ObjectKey, Phase, Progress};
use headstart_core::pool::DisruptionReason;
use headstart_core::reason::NotServed;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Resource as _, ResourceExt as _};

use super::announced::Announced;
use super::claim;
use super::drift;
use super::intent::{self, Inputs, Owner, Seen};
use super::nodes::{Replacing, cache_name};
use super::picture::SeenPool;
use super::round::Rounds;
use super::say::{Reason, Say};
use super::tally::Goes;
use super::write::{Cache, Write};
use crate::plan::words;

/// How long a node cache may be without the claim or node that it is for.
const ORPHAN_CACHE: Millis = Millis::from_secs(120);

/// Most pods spoken about in one round.
const MOST_SAID: usize = 50;

/// Longest time between saying the same of one pod.
const SAY_AGAIN: Duration = Duration::from_secs(600);

impl Rounds {
    /// What this round writes, most urgent first.
    pub(super) fn decide(
        &mut self,
        plan: &Plan,
        lists: &[Prefetch],
        retirement: Option<&RetirementPlan>,
        now: Millis,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        let lists: BTreeMap<&Target, &Prefetch> =
            lists.iter().map(|list| (&list.target, list)).collect();
        self.hear_notices(now);
        if self.calls.is_some() {
            self.step_claims(&mut writes, now);
            let mind = &self.mind;
            let waits = self.batch.waits(
                plan.nodes.iter().flat_map(|node| &node.pods),
                |pod| mind.is_about_to_know(pod),
                Instant::now(),
            );
            for (number, node) in plan.nodes.iter().enumerate().filter(|_| !waits) {
                let list = lists.get(&Target::New(number)).copied();
                writes.push(self.buy(node, number, list, now));
            }
            if let Some(retirement) = retirement {
                self.give_back(retirement, plan.nodes.len(), &mut writes, now);
            }
            self.say_unserved(plan, now);
        }
        self.intents(&lists, &mut writes);
        self.sweep(&mut writes, now);
        writes
    }

    /// The intent and the claim for a purchase.
    fn buy(
        &mut self,
        node: &NewNode,
        number: usize,
        list: Option<&Prefetch>,
        now: Millis,
    ) -> Write {
        let snapshot = &self.mind.snapshot;
        let pool = snapshot.pools.iter().find(|pool| pool.name == node.pool);
        let name = &node.offering.instance_type;
        let kind = snapshot.types.iter().find(|kind| kind.name == *name);
        let why = match &node.runner_up {
            Some(second) => words::runner_up(&node.score, &node.timing, second),
            None => "nothing else would do".to_owned(),
        };
        let salt = format!("{} {number}", now.0);
        let mut claim = claim::of(node, pool, kind, &salt, why.clone());
        let written = self.picture.pools.get(&node.pool);
        drift::mark(&mut claim, written.and_then(|pool| pool.object.as_ref()));
        claim.metadata.owner_references = written.and_then(SeenPool::as_owner).map(|it| vec![it]);
        let name = claim.name_any();
        let note = format!(
            "buying {} for this pod: serves in {}, {}; {why}",
            node.offering,
            node.timing.total(),
            node.price
        );
        self.announcing.insert(name.clone(), note);
        let cache = Cache {
            labels: intent::labels_of(&name, Some(&claim), None),
            name,
            owner: None,
            spec: NodeCacheSpec {
                generation: 1,
                items: intent::items(&intent::wanted(list, [], &self.mind)),
            },
        };
        Write::Buy(Box::new(cache), Box::new(claim))
    }

    /// Claims that go, after what replaces them is there.
    fn give_back(
        &mut self,
        retirement: &RetirementPlan,
        bought: usize,
        writes: &mut Vec<Write>,
        now: Millis,
    ) {
        let mut replacements = Vec::new();
        for node in retirement.retire.iter().flat_map(|it| &it.replacements) {
            let write = self.buy(node, bought + replacements.len(), None, now);
            if let Write::Buy(cache, _) = &write {
                replacements.push(cache.name.clone());
            }
            writes.push(write);
        }
        for retired in &retirement.retire {
            let claim = self.mind.claim_of(&retired.node);
            let claim = claim.and_then(|name| self.picture.claims.get(name).cloned());
            let Some(claim) = claim.filter(|it| it.metadata.deletion_timestamp.is_none()) else {
                continue;
            };
            let by: BTreeSet<&String> = retired
                .moves
                .iter()
                .filter_map(|(_, target)| match target {
                    Target::New(index) => replacements.get(*index),
                    Target::Node(_) => None,
                })
                .collect();
            let drift = self.mind.node(&retired.node);
            let drift = drift.and_then(|node| node.disruption.drift.as_deref());
            let why = match (retired.reason, drift) {
                (DisruptionReason::Drifted, Some(drift)) => drift,
                (reason, _) => words::disruption(reason),
            };
            let why = why.to_owned();
            self.goes_for(&claim.name_any(), Goes::Retired(retired.reason));
            let saves = retired.saves;
            tracing::info!(node = retired.node, why, %saves, "a node is given back");
            self.speaker.say(Say {
                about: claim.object_ref(&()),
                reason: Reason::NodeGivenBack,
                note: format!("node {} is given back: {why}; saves {saves}", retired.node),
                news: String::new(),
            });
            writes.push(match by.is_empty() {
                true => Write::GiveUp {
                    name: claim.name_any(),
                    uid: claim.uid(),
                    why,
                },
                false => Write::ReplacedBy {
                    name: claim.name_any(),
                    by: Some(by.into_iter().cloned().collect()),
                },
            });
        }
    }

    /// Nodes that are being replaced, and by which.
    pub(super) fn replaced(&self) -> Replacing {
        let node = |claim: &str| self.nodes.of_claim(claim).unwrap_or(claim).to_owned();
        let mut replacing = Replacing::default();
        for (name, claim) in &self.picture.claims {
            let by = claim::replaced_by(claim);
            if !by.is_empty() {
                replacing.old.insert(node(name));
                replacing.new.extend(by.iter().map(|name| node(name)));
            }
        }
        replacing
    }

    /// What nodes that exist or are on their way are to have. One that was told so is not told again.
    fn intents(&mut self, lists: &BTreeMap<&Target, &Prefetch>, writes: &mut Vec<Write>) {
        let mut used: HashMap<&str, Vec<&Item>> = HashMap::new();
        for pod in &self.mind.snapshot.pods {
            if let Phase::Bound { node, progress } = &pod.phase
                && *progress != Progress::Terminating
                && !pod.shape.items.is_empty()
            {
                used.entry(node).or_default().extend(&pod.shape.items);
            }
        }
        let mut told = HashMap::new();
        for node in &self.mind.snapshot.nodes {
            if node.state == NodeState::Leaving && !self.is_interrupted(node) {
                continue;
            }
            let list = lists.get(&Target::Node(node.name.clone())).copied();
            let used = used.remove(node.name.as_str()).unwrap_or_default();
            let inputs = self.inputs(node, list, used);
            let number = BuildHasherDefault::<DefaultHasher>::default().hash_one(&inputs);
            let write = match self.told.get(&node.name) {
                Some(same) if *same == number => None,
                _ => inputs.write(),
            };
            match write {
                // Until it was written it is looked at again.
                Some(write) => writes.push(write),
                None => drop(told.insert(node.name.clone(), number)),
            }
        }
        self.told = told;
    }

    /// Whether a node's machine will be taken away: it is told once more what to have, which is what
    /// its pods use and nothing else.
    fn is_interrupted(&self, node: &Node) -> bool {
        let claim = self.mind.claim_of(&node.name);
        let claim = claim.and_then(|name| self.picture.claims.get(name));
        let is_known = claim.is_some_and(|it| self.picture.caches.contains_key(&it.name_any()));
        is_known && claim.is_some_and(|it| claim::is_interrupted(it))
    }

    fn inputs<'a>(
        &'a self,
        node: &'a Node,
        list: Option<&'a Prefetch>,
        used: Vec<&'a Item>,
    ) -> Inputs<'a> {
        let picture = &self.picture;
        let claim = self.mind.claim_of(&node.name);
        let claim = claim.and_then(|name| picture.claims.get(name));
        let claim = claim.map(|claim| &**claim);
        let name = cache_name(node, claim);
        let registered = picture.nodes.get(&node.name);
        let announced = match (claim, registered) {
            (None, None) => picture.announced.get(&name).map(Announced::owner),
            _ => None,
        };
        Inputs {
            before: picture.caches.get(&name).map(|seen| Seen(&*seen.object)),
            announced: announced.map(Owner),
            name,
            node: &node.name,
            is_told: intent::is_told(node),
            claim: claim.map(Seen),
            registered: registered.map(|seen| seen.raw.object.metadata.uid.as_deref()),
            wanted: intent::wanted(list, used, &self.mind),
        }
    }

    /// Node caches that belong to nothing any more.
    fn sweep(&self, writes: &mut Vec<Write>, now: Millis) {
        let picture = &self.picture;
        for (name, seen) in &picture.caches {
            let flies = picture.announced.get(name).is_some_and(|it| {
                let node = it.node_name.as_ref();
                node.is_none_or(|node| !picture.nodes.contains_key(node))
            });
            let metadata = &seen.object.metadata;
            let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
            let young = now - claim::millis(created) < ORPHAN_CACHE;
            let wanted = picture.claims.contains_key(name) || picture.nodes.contains_key(name);
            // One whose owner is gone goes at once; one that had none yet may be about to get it.
            let owned = metadata.owner_references.is_some();
            if !flies && !wanted && (owned || !young) && metadata.deletion_timestamp.is_none() {
                writes.push(Write::RemoveCache {
                    name: name.clone(),
                    uid: metadata.uid.clone(),
                });
            }
        }
    }

    fn say_unserved(&mut self, plan: &Plan, now: Millis) {
        let again = now.0 / u64::try_from(SAY_AGAIN.as_millis()).unwrap_or(1);
        for (pod, why) in plan.unserved.iter().take(MOST_SAID) {
            let Some(about) = self.pod_ref(pod) else {
                continue;
            };
            self.speaker.say(Say {
                about,
                reason: Reason::NotServed,
                note: words::not_served(why, now)
                    .iter()
                    .map(|line| line.trim())
                    .collect::<Vec<_>>()
                    .join("; "),
                news: format!("{again} {}", codes(why)),
            });
        }
    }

    /// A pod, as Events name it.
    pub(super) fn pod_ref(&self, pod: &ObjectKey) -> Option<ObjectReference> {
        let seen = self.picture.pods.get(pod)?;
        Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.clone()),
            name: Some(pod.name.clone()),
            uid: Some(seen.uid.to_string()),
            ..ObjectReference::default()
        })
    }
}

/// What of a reason is news when it differs: the kinds of obstacles, without their numbers.
fn codes(why: &NotServed) -> String {
    match why {
        NotServed::NoCandidate { nodes, offerings } => {
            let all = offerings
                .iter()
                .flat_map(|(_, tallies)| tallies)
                .chain(nodes);
            let codes: BTreeSet<&str> = all
                .map(|tally| words::rejection_code(&tally.rejection))
                .collect();
            codes.into_iter().collect::<Vec<_>>().join(" ")
        }
        NotServed::Impossible { what } => what.clone(),
        NotServed::Group { group, role, .. } => format!("{group} {role}"),
    }
}
