//! Claims, one step each: what is known of a claim is put together, `life` says the step, and it
//! becomes a write or a call. What a provider answers becomes facts here, and memory of capacity.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use headstart_api::{InterruptionKind, NodeClaim, names};
use headstart_core::capacity::{Outcome, Refusal as Refused, Scope};
use headstart_core::money::Millis;
use headstart_core::node::NodeState;
use headstart_core::pod::ObjectKey;
use headstart_provider::{Instance, InstanceState, Offers, Refusal};
use kube::{Resource as _, ResourceExt as _};
use tracing::{error, info, warn};

use super::calls::Answer;
use super::claim;
use super::life::{self, Facts, NodeFacts, NodeView, Replacement, Step, Why};
use super::notices;
use super::round::Rounds;
use super::say::{Reason, Say};
use super::status::{is_tainted, ready_since};
use super::tally::Goes;
use super::write::{NotDone, Write};
use crate::metrics::label::Notice;
use crate::plan::now;

/// For how long a pool does not buy after a provider said that its settings or rights are wrong.
const BLOCKED: Millis = Millis::from_secs(300);

/// Instances without a claim are given back only while they are few: when most of them have lost their
/// claims, it is the claims that were lost.
const FEW_ORPHANS: usize = 3;

impl Rounds {
    /// Every claim's next step.
    pub(super) fn step_claims(&mut self, writes: &mut Vec<Write>, now: Millis) {
        let left = self.left();
        let claims: Vec<_> = self.picture.claims.values().cloned().collect();
        for claim in claims {
            let name = claim.name_any();
            let node = self.nodes.of_claim(&name).map(str::to_owned);
            let pods = left.get(&name);
            let facts = self.facts(&claim, node.as_deref(), pods.map_or(0, Vec::len), now);
            let step = match self.hopeless.get(&name) {
                Some(why) if !facts.deleting => {
                    writes.push(Write::GiveUp {
                        uid: claim.uid(),
                        why: why.clone(),
                        name,
                    });
                    continue;
                }
                _ => life::next(&facts),
            };
            self.step(&claim, node.as_deref(), step, writes);
            if step == Step::Evict {
                self.evict(pods.map_or(&[][..], Vec::as_slice), writes);
            }
        }
        self.bury(writes);
        self.adopt(writes);
    }

    fn facts(
        &mut self,
        claim: &NodeClaim,
        node: Option<&str>,
        pods_left: usize,
        now: Millis,
    ) -> Facts {
        let name = claim.name_any();
        let status = claim.status.as_ref();
        let launched =
            status.is_some_and(|it| it.instance.is_some()) || self.ensured.contains_key(&name);
        let seen = node.and_then(|node| self.picture.nodes.get(node));
        let planned = node.and_then(|node| self.mind.node(node));
        let complete = planned.is_some_and(|node| node.state == NodeState::Running);
        let view = match seen {
            Some(seen) => {
                let object = &seen.raw.object;
                let is =
                    |key: &str, value: &str| object.labels().get(key).is_some_and(|it| it == value);
                NodeView::There(NodeFacts {
                    deleting: object.metadata.deletion_timestamp.is_some(),
                    ready: ready_since(object).is_some(),
                    labelled: is(names::NODE_CLAIM, &name)
                        && is(names::NODE_POOL, &claim.spec.node_pool),
                    complete,
                    initialised: is(claim::INITIALIZED, "true"),
                    tainted: is_tainted(object),
                    pods_left,
                })
            }
            None if status.is_some_and(|it| it.stages.registered.is_some()) => {
                NodeView::Away(self.nodes.away_for(&name, Instant::now()))
            }
            None => NodeView::NotYet,
        };
        if seen.is_some() {
            self.nodes.is_back(&name);
        }
        let age = now - claim::created(claim);
        Facts {
            deleting: claim.metadata.deletion_timestamp.is_some(),
            launched,
            age: Duration::from_millis(age.0),
            registration_limit: self.settings.registration_limit,
            instance: self.instance(claim),
            released: self.calls.as_ref().is_some_and(|it| it.is_released(&name)),
            node: view,
            replacement: self.replacement(claim),
        }
    }

    fn replacement(&self, claim: &NodeClaim) -> Replacement {
        let by = claim::replaced_by(claim);
        if by.is_empty() {
            return Replacement::None;
        }
        let mut all = Replacement::Ready;
        for name in &by {
            let other = self.picture.claims.get(name);
            let Some(other) = other.filter(|it| it.metadata.deletion_timestamp.is_none()) else {
                return Replacement::Lost;
            };
            let node = self.nodes.of_claim(&other.name_any());
            let node = node.and_then(|node| self.mind.node(node));
            if node.is_none_or(|node| node.state != NodeState::Running) {
                all = Replacement::Waited;
            }
        }
        all
    }

    fn step(&mut self, claim: &NodeClaim, node: Option<&str>, step: Step, writes: &mut Vec<Write>) {
        let name = claim.name_any();
        let free = self
            .calls
            .as_ref()
            .is_some_and(|calls| calls.is_free(&name));
        let node = node.map(str::to_owned);
        let uid = claim.uid();
        match (step, node) {
            (Step::Wait | Step::Evict, _) => {}
            (Step::Ask, _) if free => self.ask(claim),
            (Step::Release, _) if free => {
                if let Some(calls) = &mut self.calls {
                    calls.release(&name);
                }
            }
            (Step::Ask | Step::Release, _) => {}
            (Step::GiveUp(why), _) => {
                let note = self.give_up(claim, why);
                let why = match why {
                    Why::Interrupted => claim::INTERRUPTED.to_owned(),
                    _ => note,
                };
                writes.push(Write::GiveUp { name, uid, why });
            }
            (Step::Label, Some(node)) => {
                let own = claim::promised_labels(claim);
                let own = own.map(|(key, value)| (key.clone(), value.clone()));
                let labels = own.chain([
                    (names::NODE_CLAIM.to_owned(), name),
                    (names::NODE_POOL.to_owned(), claim.spec.node_pool.clone()),
                ]);
                writes.push(Write::Label {
                    node,
                    labels: labels.collect(),
                });
            }
            (Step::Initialise, Some(node)) => {
                self.say(
                    claim,
                    Reason::NodeInitialized,
                    format!("node {node} has everything that was promised"),
                );
                let labels = vec![(claim::INITIALIZED.to_owned(), "true".to_owned())];
                writes.push(Write::Label { node, labels });
            }
            (Step::Keep, _) => {
                self.goes.remove(&name);
                writes.push(Write::ReplacedBy { name, by: None });
            }
            (Step::Taint, Some(node)) => writes.push(Write::Taint { node }),
            (Step::DeleteNode, Some(node)) => {
                let seen = self.picture.nodes.get(&node);
                let uid = seen.and_then(|seen| seen.raw.object.uid());
                self.nodes.lose(&node, claim);
                writes.push(Write::DeleteNode { name: node, uid });
            }
            (Step::Finish, _) => {
                if let Some(cache) = self.picture.caches.get(&name) {
                    let uid = cache.object.uid();
                    writes.push(Write::RemoveCache {
                        name: name.clone(),
                        uid,
                    });
                }
                let others = claim.finalizers().iter();
                let others = others.filter(|it| *it != names::INSTANCE_FINALIZER);
                writes.push(Write::Finish {
                    claim: name,
                    uid,
                    finalizers: others.cloned().collect(),
                });
            }
            (Step::Label | Step::Initialise | Step::Taint | Step::DeleteNode, None) => {}
        }
    }

    /// Asks the provider for a claim's instance.
    pub(super) fn ask(&mut self, claim: &NodeClaim) {
        let pool = self.picture.pools.get(&claim.spec.node_pool);
        let pool = pool.and_then(|seen| seen.object.as_ref());
        let settings = pool
            .map(|pool| pool.spec.provider.clone())
            .unwrap_or_default();
        let name = claim.name_any();
        let Some(cache) = self.picture.caches.get(&name) else {
            return warn!(
                claim = name,
                "has no intent; it is not asked for before it has one"
            );
        };
        let mut intent = headstart_api::NodeCache::new(&name, cache.object.spec.clone());
        intent
            .metadata
            .labels
            .clone_from(&cache.object.metadata.labels);
        let intent = serde_json::to_string(&intent).unwrap_or_default();
        let wanted = claim::wanted(claim, settings, intent);
        if let (Some(wanted), Some(calls)) = (wanted, &mut self.calls) {
            calls.ensure(wanted);
        }
    }

    /// A purchase was written: now the cloud is asked.
    pub(super) fn bought(&mut self, claim: NodeClaim) {
        let name = claim.name_any();
        info!(
            claim = name,
            pool = claim.spec.node_pool,
            instance_type = claim.spec.offering.instance_type,
            zone = claim.spec.offering.zone,
            capacity_type = claim.spec.offering.capacity_type,
            pods = claim.spec.pods.len(),
            "a node is bought"
        );
        if let Some(offering) = claim::offering(&claim) {
            self.capacity.record(&offering, &Outcome::Asked, now());
        }
        if let Some(note) = self.announcing.remove(&name) {
            self.say(
                &claim,
                Reason::NodeAnnounced,
                note.replace("for this pod", "for its pods"),
            );
            self.say_to_pods(&claim, Reason::NodeAnnounced, &note);
        }
        self.picture.set_claim(claim.clone());
        if self
            .calls
            .as_ref()
            .is_some_and(|calls| calls.is_free(&name))
        {
            self.ask(&claim);
        }
    }

    /// A claim is gone.
    pub(super) fn gone(&mut self, name: &str) {
        if let Some(calls) = &mut self.calls {
            calls.forget(name);
        }
        self.hopeless.remove(name);
        self.refused.remove(name);
        self.ensured.remove(name);
        self.learned.remove(name);
        self.missed.forget(name);
        self.noted.gone(name);
        self.nodes.is_back(name);
    }

    /// A write was not done; the next round decides anew.
    pub(super) fn not_done(&mut self, write: &Write, error: &NotDone) {
        if let Write::Buy(cache, _) = write {
            self.announcing.remove(&cache.name);
        }
        if let (Write::Evict { pod, .. }, Some(429)) = (write, error.code()) {
            self.say_blocked(
                pod,
                "a PodDisruptionBudget does not let it go; it is asked again",
            );
        }
    }

    fn give_up(&mut self, claim: &NodeClaim, why: Why) -> String {
        self.goes_for(&claim.name_any(), Goes::Given(why));
        let (reason, note) = match why {
            Why::NotLaunched => (
                Reason::ProviderRefused,
                format!("no instance after {} s", life::LAUNCH_LIMIT.as_secs()),
            ),
            Why::NeverJoined => (
                Reason::NodeNeverJoined,
                format!(
                    "its instance did not join the cluster within {} s; it is given back",
                    self.settings.registration_limit.as_secs()
                ),
            ),
            Why::NeverComplete => (
                Reason::NodeNeverJoined,
                format!(
                    "its node lacks what was promised after {} s; it is given back",
                    self.settings.registration_limit.as_secs()
                ),
            ),
            Why::InstanceGone => (Reason::NodeGone, "its instance is gone".to_owned()),
            Why::NodeGone => (Reason::NodeGone, "its Node was deleted".to_owned()),
            Why::Interrupted => {
                let notice = notices::of_claim(&self.picture, claim);
                let said = match notice {
                    Some(notice) => notices::words(notice),
                    None => "its instance will be taken away".to_owned(),
                };
                if notice.is_none() && self.noted.is_first(&claim.name_any()) {
                    let metrics = self.gauges.metrics();
                    metrics.noticed(Notice::Provider, InterruptionKind::Taken.into());
                }
                (
                    Reason::NodeInterrupted,
                    format!("{said}; its pods are moved"),
                )
            }
            Why::Replaced => (
                Reason::NodeGivenBack,
                "what replaces it is there; its pods are moved".to_owned(),
            ),
        };
        let outcome = match why {
            Why::NeverJoined | Why::NeverComplete => Some(Outcome::Refused {
                scope: claim::offering(claim)
                    .map(|it| Scope::offering(&it))
                    .unwrap_or_default(),
                refusal: Refused::NoCapacity,
                why: "nodes of it do not join".to_owned(),
                until: None,
            }),
            Why::Interrupted => Some(Outcome::Interrupted),
            Why::NotLaunched => Some(Outcome::Failed),
            Why::InstanceGone | Why::NodeGone | Why::Replaced => None,
        };
        if let (Some(outcome), Some(offering)) = (outcome, claim::offering(claim)) {
            self.capacity.record(&offering, &outcome, now());
        }
        info!(claim = claim.name_any(), why = note, "a claim is given up");
        self.say(claim, reason, note.clone());
        if matches!(
            why,
            Why::NeverJoined | Why::NeverComplete | Why::NotLaunched
        ) {
            self.say_to_pods(claim, reason, &note);
        }
        note
    }

    /// Takes what a provider answered.
    pub(super) fn answered(&mut self, answer: Answer) {
        if let Some(calls) = &mut self.calls {
            calls.answered(&answer);
        }
        match answer {
            Answer::Ensured(name, result) => self.ensured(&name, result),
            Answer::Released(name, Err(refusal)) => {
                warn!(claim = name, %refusal, "an instance is not given back yet");
            }
            Answer::Released(..) => {}
            Answer::Listed(asked, Ok(instances)) => self.listed(asked, instances),
            Answer::Listed(_, Err(refusal)) => warn!(%refusal, "instances cannot be listed"),
            Answer::Offered(Ok(offers)) => self.offered(offers),
            Answer::Offered(Err(refusal)) => warn!(%refusal, "it is not known what is sold"),
        }
    }

    fn offered(&mut self, offers: Offers) {
        info!(
            types = offers.types.len(),
            offerings = offers.offerings.len(),
            "what is sold is known"
        );
        self.gauges.sells(&offers);
        self.offers = offers;
        // What nodes are follows from their types.
        self.picture.changed.pools = true;
    }

    fn ensured(&mut self, name: &str, result: Result<Instance, Refusal>) {
        let Some(claim) = self.picture.claims.get(name).cloned() else {
            return;
        };
        match &result {
            Ok(_) => self.count_given(&claim),
            Err(refusal) => self.count_refused(refusal),
        }
        let now = now();
        let offering = claim::offering(&claim);
        let mut record = |outcome: &Outcome| {
            if let Some(offering) = &offering {
                self.capacity.record(offering, outcome, now);
            }
        };
        let refusal = match result {
            Ok(instance) => {
                record(&Outcome::Launched);
                let id = &instance.provider_id;
                self.refused.remove(name);
                info!(claim = name, id, "a node is on its way");
                let note = format!("instance {id} is on its way");
                self.ensured.insert(name.to_owned(), instance);
                return self.say(&claim, Reason::NodeLaunched, note);
            }
            Err(refusal) => refusal,
        };
        let said = refusal.to_string();
        warn!(claim = name, refusal = said, "a provider gives no instance");
        let refused = |refusal, why: &str| Outcome::Refused {
            scope: offering.as_ref().map(Scope::offering).unwrap_or_default(),
            refusal,
            why: why.to_owned(),
            until: None,
        };
        let (word, reason, ends) = match &refusal {
            Refusal::OutOfCapacity { said } => {
                record(&refused(Refused::NoCapacity, said));
                ("InsufficientCapacity", Reason::InsufficientCapacity, true)
            }
            Refusal::Quota { quota, .. } => {
                record(&refused(Refused::Quota, quota));
                ("QuotaExceeded", Reason::QuotaExceeded, true)
            }
            Refusal::Throttled { .. } => {
                record(&Outcome::Throttled);
                ("Throttled", Reason::ProviderRefused, false)
            }
            Refusal::Forbidden { .. } | Refusal::Misconfigured { .. } => {
                record(&Outcome::Failed);
                let until = now + BLOCKED;
                let pool = claim.spec.node_pool.clone();
                self.blocked.insert(pool, (until, said.clone()));
                ("ProviderRefused", Reason::ProviderRefused, true)
            }
            Refusal::Other { .. } => ("ProviderFailed", Reason::ProviderRefused, false),
        };
        self.refused.insert(name.to_owned(), (word, said.clone()));
        if matches!(refusal, Refusal::Throttled { .. }) {
            return;
        }
        self.say(&claim, reason, said.clone());
        if ends {
            let note = format!("{}: {said}; something else is tried", offered_as(&claim));
            self.say_to_pods(&claim, reason, &note);
            self.hopeless.insert(name.to_owned(), said);
        }
    }

    fn listed(&mut self, asked: SystemTime, instances: Vec<Instance>) {
        let all = instances.len();
        let mut by_claim = BTreeMap::new();
        let mut orphans = std::collections::BTreeSet::new();
        for instance in instances {
            let Some(claim) = instance.claim.clone() else {
                continue;
            };
            let age = asked.duration_since(instance.created).unwrap_or_default();
            let known = self.picture.claims.contains_key(&claim);
            if !known && age > self.settings.orphan_limit && instance.state != InstanceState::Ending
            {
                orphans.insert(claim.clone());
            }
            by_claim.insert(claim, instance);
        }
        self.note_missed(&by_claim);
        self.instances = Some((asked, by_claim));
        let sure: Vec<_> = orphans.intersection(&self.orphans).cloned().collect();
        self.orphans = orphans;
        if !self.picture.is_ready() || !self.lead.is_held() || sure.is_empty() {
            return;
        }
        if sure.len() > FEW_ORPHANS.max(all / 2) {
            return error!(
                orphans = sure.len(),
                instances = all,
                "most instances have no claim: they are kept; restore the claims, or end the \
                 instances by hand"
            );
        }
        for claim in sure {
            if let Some(calls) = self.calls.as_mut().filter(|calls| calls.is_free(&claim)) {
                warn!(claim, "an instance without a claim is given back");
                calls.release(&claim);
            }
        }
    }

    pub(super) fn say(&mut self, claim: &NodeClaim, reason: Reason, note: String) {
        self.speaker.say(Say {
            about: claim.object_ref(&()),
            reason,
            note,
            news: String::new(),
        });
    }

    fn say_to_pods(&mut self, claim: &NodeClaim, reason: Reason, note: &str) {
        for pod in &claim.spec.pods {
            let key = pod
                .split_once('/')
                .map(|(ns, name)| ObjectKey::new(ns, name));
            if let Some(about) = key.and_then(|key| self.pod_ref(&key)) {
                self.speaker.say(Say {
                    about,
                    reason,
                    note: note.to_owned(),
                    news: String::new(),
                });
            }
        }
    }
}

fn offered_as(claim: &NodeClaim) -> String {
    claim::offering(claim).map_or_else(String::new, |offering| offering.to_string())
}
