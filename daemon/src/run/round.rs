//! The loop: observe, plan, apply, publish, one round at a time, woken by events and a timer.
//!
//! What woke a round is not asked: every round looks at everything that is known. A replica that does
//! not lead keeps its picture up to date and does nothing else. Nothing is planned before every watch
//! has listed once, nor while one has failed for [`STALE_LIMIT`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use headstart_agent::report::chain;
use headstart_core::capacity::memory::CapacityMemory;
use headstart_core::capacity::{Boots, Capacity};
use headstart_core::money::Millis;
use headstart_core::plan::{Plan, RetirementPlan};
use headstart_core::pod::{ObjectKey, Phase};
use headstart_core::pool::PoolState;
use headstart_provider::{Instance, Offers};
use kube::Client;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::batch::Batch;
use super::calls::{Answer, Calls};
use super::gauges::{Gauges, Took};
use super::lease::Lead;
use super::listed::Missed;
use super::mind::Mind;
use super::nodes::Nodes;
use super::notices::Noted;
use super::pace::{Pace, Spent};
use super::picture::Picture;
use super::retire::Retiring;
use super::say::Speaker;
use super::watch::{self, Change};
use super::write::{Done, NotDone, Write, Writer};
use crate::manifest::pool;
use crate::metrics::label::Reason;
use crate::plan::{form, now};

/// For how long a watch may fail before its facts are too old to buy or to give back by.
const STALE_LIMIT: Duration = Duration::from_secs(60);

/// How often it is asked what is sold.
const OFFERS_EVERY: Duration = Duration::from_secs(3600);

/// How often it is shown what was decided.
const SHOW_EVERY: Duration = Duration::from_secs(10);

/// How often what was learned is stored, if it changed.
const STORE_EVERY: Duration = Duration::from_secs(20);

/// Pause between rounds while purchases are waited with.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How often what is not watched is looked at while nothing is known yet.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that one replica knows and does.
pub(super) struct Rounds {
    pub(super) picture: Picture,
    pub(super) mind: Mind,
    pub(super) nodes: Nodes,
    pub(super) capacity: Capacity,
    pub(super) boots: Boots,
    pub(super) offers: Offers,
    pub(super) calls: Option<Calls>,
    pub(super) writer: Writer,
    pub(super) speaker: Speaker,
    pub(super) lead: Lead,
    pub(super) gauges: Arc<Gauges>,
    pub(super) settings: Settings,
    /// Instances, as of when.
    pub(super) instances: Option<(SystemTime, BTreeMap<String, Instance>)>,
    /// Instances without a claim that were seen before.
    pub(super) orphans: BTreeSet<String>,
    /// Claims that the provider was asked about, and what it last answered instead of an instance.
    pub(super) refused: BTreeMap<String, (&'static str, String)>,
    /// Instances that a provider gave and no status says yet.
    pub(super) ensured: BTreeMap<String, Instance>,
    /// Pools that may not buy for a while, and why.
    pub(super) blocked: BTreeMap<String, (Millis, String)>,
    /// Claims to be given up, and why.
    pub(super) hopeless: BTreeMap<String, String>,
    /// What to say of a purchase once it was written.
    pub(super) announcing: BTreeMap<String, String>,
    /// Pods that were asked to leave, and when.
    pub(super) evicted: BTreeMap<ObjectKey, Instant>,
    /// Statuses as they were last written, by kind and name.
    pub(super) pool_statuses: BTreeMap<String, headstart_api::NodePoolStatus>,
    pub(super) prefetch_statuses: BTreeMap<ObjectKey, headstart_api::PrefetchStatus>,
    /// What the intent of each node was last made of, as a number, for nodes that know it.
    pub(super) told: HashMap<String, u64>,
    /// What agents were told, as far as it was said.
    pub(super) noted: Noted,
    /// Claims whose instance was listed once and may be listed no more.
    pub(super) missed: Missed,
    /// Claims that are going to go, and why.
    pub(super) goes: BTreeMap<String, Reason>,
    /// Purchases that are planned.
    pub(super) batch: Batch,
    /// Claims whose boot was learned from.
    pub(super) learned: BTreeSet<String>,
    pub(super) plan: Plan,
    pub(super) retiring: Retiring,
    /// What was last found out about nodes that stay and go.
    retired: RetirementPlan,
    stored: Option<String>,
    recalled: bool,
    asked_list: Option<Instant>,
    asked_offers: Option<Instant>,
    shown: Option<Instant>,
    asked_store: Option<Instant>,
    number: u64,
}

/// What does not change.
pub(super) struct Settings {
    pub(super) interval: Duration,
    pub(super) delay: Duration,
    pub(super) batch_idle: Duration,
    pub(super) batch_most: Duration,
    pub(super) registration_limit: Duration,
    pub(super) orphan_limit: Duration,
    /// How often it is asked what instances there are, and what is sold while nothing is.
    pub(super) list_every: Duration,
    /// How often nodes to give back are looked for.
    pub(super) retire_every: Duration,
}

/// Doors into the loop.
pub(super) struct Doors {
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) answers: mpsc::UnboundedReceiver<Answer>,
    /// Who wants to see the last plan.
    pub(super) plans: mpsc::Receiver<oneshot::Sender<String>>,
    /// What the resolver learned.
    pub(super) resolved: mpsc::Receiver<()>,
    /// Which nodes to give back.
    pub(super) retired: mpsc::Receiver<(u64, RetirementPlan)>,
}

impl Rounds {
    /// One that knows what `picture` and `mind` do.
    pub(super) fn new(
        (picture, mind, retiring): (Picture, Mind, Retiring),
        calls: Option<Calls>,
        writer: Writer,
        speaker: Speaker,
        lead: Lead,
        gauges: Arc<Gauges>,
        settings: Settings,
    ) -> Self {
        let batch = Batch::new(settings.batch_idle, settings.batch_most);
        Self {
            picture,
            mind,
            nodes: Nodes::default(),
            capacity: Capacity::default(),
            boots: Boots::default(),
            offers: Offers::default(),
            calls,
            writer,
            speaker,
            lead,
            gauges,
            settings,
            instances: None,
            orphans: BTreeSet::new(),
            refused: BTreeMap::new(),
            ensured: BTreeMap::new(),
            blocked: BTreeMap::new(),
            hopeless: BTreeMap::new(),
            announcing: BTreeMap::new(),
            evicted: BTreeMap::new(),
            pool_statuses: BTreeMap::new(),
            prefetch_statuses: BTreeMap::new(),
            told: HashMap::new(),
            noted: Noted::default(),
            missed: Missed::default(),
            goes: BTreeMap::new(),
            batch,
            learned: BTreeSet::new(),
            plan: Plan::default(),
            retiring,
            retired: RetirementPlan::default(),
            stored: None,
            recalled: false,
            asked_list: None,
            asked_offers: None,
            shown: None,
            asked_store: None,
            number: 0,
        }
    }

    /// Runs until `stop`.
    pub(super) async fn run(
        mut self,
        client: Client,
        out: mpsc::Sender<Change>,
        mut doors: Doors,
        stop: CancellationToken,
    ) {
        watch::start(&client, &out, &stop);
        let mut watches_pods = false;
        let mut lead = self.lead.clone();
        let mut batch = Vec::new();
        let mut told = Instant::now();
        let (delay, interval) = (self.settings.delay, self.settings.interval);
        let mut pace = Pace::new(delay, interval, Instant::now());
        loop {
            let wait = tokio::time::sleep_until(pace.next().into());
            tokio::select! {
                () = stop.cancelled() => return,
                () = lead.changed() => self.leading_changed(),
                count = doors.changes.recv_many(&mut batch, watch::QUEUE) => {
                    if count == 0 {
                        return;
                    }
                    for change in batch.drain(..) {
                        self.picture.take(change, &mut self.mind);
                    }
                }
                Some(answer) = doors.answers.recv() => self.answered(answer),
                Some(asked) = doors.plans.recv() => {
                    let _ = asked.send(self.rendered());
                    continue;
                }
                Some(()) = doors.resolved.recv() => {}
                Some(answer) = doors.retired.recv() => self.retiring.answered(answer),
                () = wait => {
                    if !self.picture.is_ready() && told.elapsed() > PATIENCE {
                        told = Instant::now();
                        info!(missing = ?self.picture.missing(), "waiting for the first lists");
                    }
                    let spent = self.round().await;
                    pace.over(spent, self.pause(), Instant::now());
                    continue;
                }
            }
            if !watches_pods && self.picture.is_ready_for_pods() {
                watches_pods = true;
                watch::pods(&client, &out, &stop);
            }
            pace.event(Instant::now());
        }
    }

    fn pause(&self) -> Duration {
        let now = Instant::now();
        let pause = self.calls.as_ref().and_then(Calls::next_pause);
        let pause = pause.map(|until| until.saturating_duration_since(now));
        let open = self.batch.is_open().then_some(LOOK_AGAIN);
        let pause = pause.into_iter().chain(open).min();
        let least = Duration::from_millis(100);
        pause.map_or(self.settings.interval, |pause| {
            pause.max(least).min(self.settings.interval)
        })
    }

    fn leading_changed(&mut self) {
        // Another replica may have written and asked meanwhile.
        if let Some(calls) = &mut self.calls {
            calls.forget_all();
        }
        self.instances = None;
        self.missed = Missed::default();
        self.noted.forget();
        self.refused.clear();
        self.ensured.clear();
        self.orphans.clear();
        self.hopeless.clear();
        self.goes.clear();
        self.retiring.forget();
        self.pool_statuses.clear();
        self.prefetch_statuses.clear();
        self.recalled = false;
        (self.asked_list, self.asked_offers) = (None, None);
    }

    /// One round; says what it took.
    async fn round(&mut self) -> Spent {
        let started = Instant::now();
        self.number += 1;
        let now = now();
        self.settle(now);
        let observed = started.elapsed();
        let ready = self.picture.is_ready();
        let leads = self.lead.is_held();
        self.gauges.observed(ready, leads);
        if !ready || !leads {
            return Spent {
                processor: started.elapsed(),
                writes: 0,
            };
        }
        let stale = self.picture.stale_for(started);
        if stale > STALE_LIMIT {
            warn!(
                seconds = stale.as_secs(),
                "facts are too old; nothing is planned"
            );
            return Spent {
                processor: started.elapsed(),
                writes: 0,
            };
        }
        if !self.recall().await {
            return Spent {
                processor: started.elapsed(),
                writes: 0,
            };
        }
        self.ask_provider(started);
        if self.calls.is_some() && self.asked_offers.is_none() {
            return Spent {
                processor: started.elapsed(),
                writes: 0,
            };
        }
        let (plan, lists) = self.mind.plan(now);
        let planned = started.elapsed();
        let retirement = self.retirement(&plan);
        let mut writes = self.decide(&plan, &lists, retirement.as_ref(), now);
        if let Some(retirement) = retirement {
            self.retired = retirement;
        }
        let decided = started.elapsed();
        writes.extend(self.report(&lists));
        writes.extend(self.store());
        if due(&mut self.shown, SHOW_EVERY) {
            self.gauges.decided(&plan, &lists, &self.retired);
        }
        self.plan = plan;
        let planning = started.elapsed();
        tracing::debug!(
            round = self.number,
            micros = planning.as_micros(),
            observed = observed.as_micros(),
            planned = planned.as_micros(),
            decided = decided.as_micros(),
            writes = writes.len(),
            "a round is planned"
        );
        if !writes.is_empty() {
            let count = writes.len().min(super::write::MOST_WRITES);
            info!(round = self.number, writes = count, "a round writes");
        }
        let done = self.writer.all(writes).await;
        let took = Took {
            planning,
            whole: started.elapsed(),
        };
        self.gauges.round(took, &done);
        let writes = u32::try_from(done.len()).unwrap_or(u32::MAX);
        self.applied(done);
        let copying = Instant::now();
        self.ask_what_to_retire();
        Spent {
            processor: planning + copying.elapsed(),
            writes,
        }
    }

    /// Brings what is planned with up to date.
    fn settle(&mut self, now: Millis) {
        self.blocked.retain(|_, (until, _)| *until > now);
        let pools: Vec<pool::Read> = self
            .picture
            .pools
            .values()
            .filter_map(|seen| seen.read.as_ref().ok().cloned())
            .collect();
        self.picture.settle(&mut self.mind);
        self.nodes.settle(
            &mut self.picture,
            &mut self.mind,
            &pools,
            &self.offers.types,
            now,
        );
        let mut types = self.offers.types.clone();
        let mut offerings = self.offers.offerings.clone();
        self.boots.apply(&mut types);
        self.capacity.apply(&types, &mut offerings, now);
        let mut pools: Vec<_> = pools.into_iter().map(|read| read.at(now)).collect();
        for pool in &mut pools {
            // What this process reported itself is no reason to go on so.
            pool.state = match self.blocked.get(&pool.name) {
                Some((_, why)) => PoolState::NotReady(why.clone()),
                None => match self.is_going(&pool.name) {
                    true => PoolState::NotReady("it is being deleted".to_owned()),
                    false => PoolState::Ready,
                },
            };
        }
        let daemons = match std::mem::take(&mut self.picture.changed.daemons) {
            true => self.picture.book.daemons(),
            false => self.mind.snapshot.daemons.clone(),
        };
        if self.mind.set_market(pools, types, offerings, daemons) {
            self.picture.read_again();
            self.picture.settle(&mut self.mind);
        }
        let wishes = self.picture.book.wishes();
        let wishes = wishes
            .into_iter()
            .flat_map(|(_, wishes, _)| wishes)
            .collect();
        self.mind.set_wishes(wishes);
        self.mind.resolve_again();
        self.nominate();
    }

    fn is_going(&self, pool: &str) -> bool {
        let seen = self.picture.pools.get(pool);
        seen.is_some_and(|seen| seen.metadata.deletion_timestamp.is_some())
    }

    /// Waiting pods stay with the node they were meant for: where the last plan put them, or the claim
    /// that was made for them.
    fn nominate(&mut self) {
        let mut nominations: BTreeMap<ObjectKey, String> = BTreeMap::new();
        let waits = |mind: &Mind, key: &ObjectKey| {
            mind.pod(key).is_some_and(|pod| pod.phase == Phase::Pending)
        };
        for (name, claim) in &self.picture.claims {
            if claim.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let node = self.nodes.of_claim(name).unwrap_or(name);
            for pod in &claim.spec.pods {
                if let Some((namespace, pod)) = pod.split_once('/') {
                    let key = ObjectKey::new(namespace, pod);
                    if waits(&self.mind, &key) {
                        nominations.insert(key, node.to_owned());
                    }
                }
            }
        }
        for placement in &self.plan.placements {
            if let headstart_core::plan::Target::Node(node) = &placement.target
                && waits(&self.mind, &placement.pod)
            {
                let node = self.nodes.of_claim(node).unwrap_or(node);
                nominations.insert(placement.pod.clone(), node.to_owned());
            }
        }
        self.mind.set_nominations(nominations);
    }

    /// Remembers what an earlier leader learned; says whether that was possible.
    async fn recall(&mut self) -> bool {
        if self.recalled {
            return true;
        }
        match self.writer.memory().await {
            Ok(text) => {
                let memory = text.as_deref().map(serde_json::from_str::<CapacityMemory>);
                // A memory that cannot be read costs a few requests to the cloud.
                let memory = memory.and_then(Result::ok).unwrap_or_default();
                (self.capacity, self.boots) = memory.recall();
                self.stored = text;
                self.recalled = true;
            }
            Err(error) => {
                let error = chain(&error);
                warn!(
                    error,
                    "cannot read what was learned; nothing is planned yet"
                );
            }
        }
        self.recalled
    }

    fn ask_provider(&mut self, now: Instant) {
        let Some(calls) = &mut self.calls else { return };
        let list_every = self.settings.list_every;
        if self.asked_list.is_none_or(|last| now - last >= list_every) {
            self.asked_list = Some(now);
            calls.list();
        }
        let empty = self.offers.offerings.is_empty();
        let every = if empty { list_every } else { OFFERS_EVERY };
        if self.asked_offers.is_none_or(|last| now - last >= every) {
            self.asked_offers = Some(now);
            calls.offers();
        }
    }

    /// Stores what was learned, if it changed.
    fn store(&mut self) -> Option<Write> {
        if !due(&mut self.asked_store, STORE_EVERY) {
            return None;
        }
        let memory = CapacityMemory::new(&self.capacity, &self.boots);
        let text = serde_json::to_string(&memory).ok()?;
        let empty = self.stored.is_none() && self.capacity.is_empty();
        (!empty && self.stored.as_ref() != Some(&text)).then_some(Write::Memory { text })
    }

    /// Takes what was written before its watch shows it.
    fn applied(&mut self, done: Vec<(Write, Result<Done, NotDone>)>) {
        for (write, result) in done {
            match result {
                Ok(Done::Cache(cache)) => self.picture.set_cache(*cache),
                Ok(Done::Bought(cache, claim)) => {
                    self.picture.set_cache(*cache);
                    self.bought(*claim);
                }
                Ok(Done::Claim(claim)) => self.picture.set_claim(*claim),
                Ok(Done::ClaimGone(name)) => {
                    self.count_gone(&name);
                    self.picture.forget_claim(&name);
                    self.gone(&name);
                }
                Ok(Done::CacheGone(name)) => self.picture.forget_cache(&name),
                Ok(Done::Nothing) => {
                    if let Write::Memory { text } = write {
                        self.stored = Some(text);
                    }
                }
                Err(error) => self.not_done(&write, &error),
            }
        }
    }

    /// The last plan, for a person.
    fn rendered(&self) -> String {
        let form = form::of(&self.plan, &self.mind.snapshot, &[], &[]);
        serde_json::to_string_pretty(&form).unwrap_or_default()
    }
}

/// Whether something that is done from time to time is due; then it counts as done.
fn due(last: &mut Option<Instant>, every: Duration) -> bool {
    let now = Instant::now();
    let due = last.is_none_or(|last| now - last >= every);
    if due {
        *last = Some(now);
    }
    due
}
