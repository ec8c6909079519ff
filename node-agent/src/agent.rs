//! The long-running agent: an ordered queue of items, worked on beside each other, reconciled with
//! an intent that changes and with what pods wait for.
//!
//! - Whoever starts it (`serve`, `boot`) tells it the intent; it never asks anybody for one.
//! - Nothing is written to the store before [`Agent::open`], which takes the store's lock.
//! - What has happened survives the process: that an item is ready is on disk before it is told.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use headstart_api::NodeCacheStatus;
use headstart_transfer::net::{AnswerClass, NetError};
use headstart_transfer::source::SourceKind;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::fact::name as source_name;
use self::fact::{Fact, Record};
use self::figures::Counters;
pub(crate) use self::intent::Me;
use self::intent::{Heard, Intent};
pub(crate) use self::outside::{Changes, until_listening, watch_network};
use self::queue::{Course, Ended, Phase, Queue, Runtime, Step};
pub(crate) use self::warmth::{Stage, Warmth};
pub(crate) use self::wish::Kind;
use self::wish::{Key, What};
use crate::cli::Own;
use crate::items::{Again, Job, Share, Sums, Ticket, Work, blocking, known_model};
use crate::report::{Quiet, chain};
use crate::settings::Reach;
use crate::store::{Holding, Lock, Store, StoreError, make_dir, read_json, write_json};

mod ending;
mod fact;
mod figures;
mod intent;
mod outside;
mod queue;
mod status;
mod warmth;
mod wish;

/// How long an image that is kept stays pinned in the runtime; it is renewed long before.
const PIN: Duration = Duration::from_secs(3600);

/// How long tasks that were told to stop are waited for.
const STOPPING: Duration = Duration::from_secs(3);

/// The agent. Clones are the same agent.
#[derive(Clone)]
pub(crate) struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    job: Job,
    queue: Mutex<Queue>,
    heard: Mutex<Ears>,
    /// Wakes whoever starts what is next.
    woken: Notify,
    /// Counts what has happened; whoever reports looks again.
    happened: watch::Sender<u64>,
    tasks: TaskTracker,
    counters: Counters,
    lock: Mutex<Option<Lock>>,
}

/// What was heard last.
#[derive(Default)]
struct Ears {
    intent: Option<Intent>,
    me: Me,
    record: Record,
    /// What is wrong with the intent.
    problem: String,
    /// What went wrong last for a pod.
    trouble: String,
    /// What the cloud announced of this machine's end.
    notice: Option<headstart_api::Interruption>,
    /// What the agent that still has the store says of itself.
    relayed: Option<NodeCacheStatus>,
}

/// Bytes by kind of item and of source, for metrics.
pub(crate) type BytesBySource = [[u64; SourceKind::ALL.len()]; 2];

impl Agent {
    /// An agent that does nothing yet.
    ///
    /// # Errors
    /// When there is no way to the network at all.
    pub(crate) fn new(
        store: Arc<Store>,
        reach: Reach,
        share: Share,
        own: Own,
    ) -> Result<Self, NetError> {
        let mut queue = Queue::default();
        if reach.containerd.is_none() {
            queue.runtime(Runtime::There);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                job: Job::new(store.clone(), reach, share, own)?,
                store,
                queue: Mutex::new(queue),
                heard: Mutex::default(),
                woken: Notify::new(),
                happened: watch::Sender::new(0),
                tasks: TaskTracker::new(),
                counters: Counters::default(),
                lock: Mutex::default(),
            }),
        })
    }

    /// Takes over the store under its lock: what an earlier agent noted is read, and work begins.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub(crate) async fn open(&self, lock: Lock) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        let (record, intent) = blocking(move || {
            make_dir(&inner.store.root().join("agent"))?;
            *inner.lock.lock().unwrap_or_else(|e| e.into_inner()) = Some(lock);
            let record: Record = read_json(&inner.record_path()).unwrap_or_default();
            Ok::<_, StoreError>((record.resumed(), read_json(&inner.intent_path())))
        })
        .await?;
        {
            let mut heard = self.inner.heard();
            let first = heard.record.agent_started;
            heard.record = record;
            heard.record.agent_started = heard.record.agent_started.or(first);
            let intent: Option<Intent> = intent;
            // What was heard while another agent held the store is newer than what it wrote.
            if heard.intent.is_none() {
                heard.intent = intent.filter(|intent| !intent.is_foreign(&heard.me));
            }
        }
        self.inner.reconcile().await;
        self.inner.queue().steer(Course::Open);
        self.inner.tell();
        Ok(())
    }

    /// Works until it is told to stop, then ends within seconds; what has arrived is kept.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        loop {
            let woken = inner.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let now = Instant::now();
            let (steps, due) = {
                let mut queue = inner.queue();
                (queue.steps(now), queue.due(now))
            };
            for step in steps {
                inner.clone().take(step);
            }
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = woken => {}
                () = due => {}
                () = stop.cancelled() => break,
            }
        }
        {
            let mut queue = inner.queue();
            queue.steer(Course::Closing);
            for entry in queue.entries.values() {
                if let Phase::Running { stop, .. } = &entry.phase {
                    stop.cancel();
                }
            }
        }
        inner.tasks.close();
        if tokio::time::timeout(STOPPING, inner.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some work did not stop in time");
        }
        inner.write_record(None).await;
    }

    /// Takes an intent, if it is for this node and not outdated. False if it is another node's.
    pub(crate) async fn hear(&self, offered: &headstart_api::NodeCache) -> bool {
        let intent = {
            let mut heard = self.inner.heard();
            match intent::hear(heard.intent.as_ref(), offered, &heard.me) {
                Heard::Known => return true,
                Heard::Foreign(why) => {
                    tracing::warn!(%why, "intent refused");
                    return false;
                }
                Heard::Outdated(why) => {
                    tracing::warn!(%why, "intent refused");
                    heard.problem = why;
                    None
                }
                Heard::Taken(intent) => {
                    heard.intent = Some(intent.clone());
                    Some(intent)
                }
            }
        };
        if let Some(intent) = intent {
            tracing::info!(
                name = %intent.name, generation = intent.generation, items = intent.items.len(),
                "intent taken"
            );
            self.inner.write_intent(intent).await;
            self.inner.reconcile().await;
        }
        self.inner.tell();
        true
    }

    /// Which machine this is. An intent known so far that is another's is dropped.
    pub(crate) async fn introduce(&self, me: Me) {
        let foreign = {
            let mut heard = self.inner.heard();
            if heard.me == me {
                return;
            }
            let foreign = heard.intent.as_ref().is_some_and(|i| i.is_foreign(&me));
            if foreign {
                tracing::warn!("the intent kept on disk belongs to another node of this name");
                heard.intent = None;
            }
            heard.me = me;
            foreign
        };
        if foreign {
            self.inner.reconcile().await;
            self.inner.tell();
        }
    }

    /// Something went wrong for a pod, for the report; nothing does any more when it is empty.
    pub(crate) fn trouble(&self, said: String) {
        self.inner.heard().trouble = said;
        self.inner.tell();
    }

    /// The container runtime has come up.
    pub(crate) fn runtime_is_there(&self) {
        self.inner.queue().runtime(Runtime::There);
        self.inner.woken.notify_one();
    }

    /// There is a network, from now on at the latest.
    pub(crate) fn network_is_there(&self) {
        let mut heard = self.inner.heard();
        let record = &mut heard.record;
        record.agent_started.get_or_insert_with(SystemTime::now);
    }

    /// The network has changed: what waits tries again.
    pub(crate) fn network_changed(&self) {
        self.inner.queue().kick(Instant::now());
        self.inner.woken.notify_one();
    }

    /// Begins nothing new from now on.
    pub(crate) fn close(&self) {
        self.inner.queue().steer(Course::Closing);
        self.inner.tell();
    }

    /// Stops what another agent can go on with without losing a byte.
    pub(crate) fn hurry(&self) {
        self.inner.queue().hurry();
    }

    /// Waits until nothing is under way.
    pub(crate) async fn idle(&self) {
        let mut happened = self.inner.happened.subscribe();
        while self.inner.queue().is_busy() {
            if happened.changed().await.is_err() {
                return;
            }
        }
    }

    /// Counts what has happened.
    pub(crate) fn happened(&self) -> watch::Receiver<u64> {
        self.inner.happened.subscribe()
    }

    /// Whether anybody out there has ever answered.
    pub(crate) fn was_answered(&self) -> bool {
        let tally = self.inner.job.http.tally();
        let all = AnswerClass::ALL.into_iter();
        all.filter(|class| *class != AnswerClass::None)
            .any(|class| tally.count(class) > 0)
    }

    /// What the agent that still has the store says of itself: reported until this one has it.
    pub(crate) fn relay(&self, status: NodeCacheStatus) {
        let mut heard = self.inner.heard();
        if heard.relayed.as_ref() != Some(&status) {
            heard.relayed = Some(status);
            drop(heard);
            self.inner.tell();
        }
    }

    /// Whether it may write to the store.
    pub(crate) fn is_open(&self) -> bool {
        self.inner.queue().course() == Course::Open
    }

    /// What other parts of the process use it by.
    pub(crate) fn warmth(&self) -> Warmth {
        Warmth::of(self.clone())
    }

    /// The network's answers so far.
    pub(crate) fn tally(&self) -> &Arc<headstart_transfer::net::Tally> {
        self.inner.job.http.tally()
    }

    /// The store.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.inner.store
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn heard(&self) -> MutexGuard<'_, Ears> {
        self.heard.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn record_path(&self) -> PathBuf {
        self.store.root().join("agent/record.json")
    }

    fn intent_path(&self) -> PathBuf {
        self.store.root().join("agent/intent.json")
    }

    /// Something happened: there may be something to begin, and something to report.
    fn tell(&self) {
        self.woken.notify_one();
        self.happened.send_modify(|count| *count += 1);
    }

    /// Brings the queue in line with the intent.
    async fn reconcile(&self) {
        let (wishes, known) = {
            let mut heard = self.heard();
            let (wishes, problems) = match &heard.intent {
                Some(intent) => intent.wishes(),
                None => Default::default(),
            };
            heard.problem = problems.first().cloned().unwrap_or_default();
            (wishes, heard.record.facts.clone())
        };
        // What is there already must not make room for what is not.
        let models: Vec<_> = wishes
            .iter()
            .filter_map(|wish| match &wish.what {
                What::Model(model) => Some((wish.key.clone(), model.clone())),
                What::Image { .. } => None,
            })
            .collect();
        let store = self.store.clone();
        let held = blocking(move || {
            let held = models.into_iter().filter_map(|(key, model)| {
                let plan = known_model(&store, &model).ok()??.plan;
                Some((key, store.hold(&plan.id().to_string())))
            });
            held.collect::<Vec<_>>()
        })
        .await;
        let mut queue = self.queue();
        queue.take(wishes, Instant::now());
        for (key, holding) in held {
            if let Some(entry) = queue.entries.get_mut(&key) {
                entry.held.get_or_insert(holding);
            }
        }
        for (key, entry) in &mut queue.entries {
            if let Some(fact) = known.get(key)
                && entry.fact == Fact::default()
            {
                entry.fact = fact.clone();
            }
        }
    }

    fn take(self: Arc<Self>, step: Step) {
        let tracker = self.tasks.clone();
        match step {
            Step::Start { key, stop } => {
                tracker.spawn(async move {
                    let working = tokio::spawn(self.clone().bring(key.clone(), stop));
                    if let Err(broken) = working.await {
                        let ended = Ended::Failed {
                            said: chain(&broken),
                            again: Again::Lasting,
                        };
                        self.ended(&key, ended, None, SystemTime::now());
                    }
                });
            }
            Step::Look { key } => {
                tracker.spawn(async move {
                    let is_there = self.look(&key).await;
                    let mut queue = self.queue();
                    if !is_there && let Some(entry) = queue.entries.get_mut(&key) {
                        tracing::warn!(item = %key, "item is gone, brought again if it is wanted");
                        entry.fact.lost();
                    }
                    queue.looked(&key, is_there, Instant::now());
                    drop(queue);
                    self.tell();
                });
            }
        }
    }

    /// Does an item's work until it ends or is told to stop.
    async fn bring(self: Arc<Self>, key: Key, stop: CancellationToken) {
        let Some((work, ticket)) = self.begin(&key) else {
            return;
        };
        self.tell();
        let outcome = stop.run_until_cancelled(self.job.run(&work, &ticket)).await;
        let (ended, held) = match outcome {
            None => (Ended::Stopped, None),
            Some(Ok(warmed)) => (Ended::Ready, warmed.model.map(|(_, held)| held)),
            Some(Err(error)) => {
                let (said, again) = (error.said, error.again);
                (Ended::Failed { said, again }, None)
            }
        };
        let sums = ticket.tally.sums();
        self.count(&key, &sums, ticket.total.load(Ordering::Relaxed));
        let now = SystemTime::now();
        let ready = matches!(ended, Ended::Ready).then_some((&key, now));
        self.write_record(ready).await;
        self.ended(&key, ended, held, now);
        if ready.is_none() {
            self.write_record(None).await;
        }
        self.tell();
    }

    fn begin(&self, key: &Key) -> Option<(Work, Arc<Ticket>)> {
        let mut queue = self.queue();
        let entry = queue.entries.get_mut(key)?;
        let pin = entry.wish.is_kept.then_some(PIN);
        let ticket = Ticket::new(
            key.to_string(),
            pin,
            entry.priority.clone(),
            Arc::new(Quiet),
        );
        let ticket = Arc::new(ticket);
        entry.ticket = Some(ticket.clone());
        entry.fact.begin(SystemTime::now());
        let work = match &entry.wish.what {
            What::Image { image, name } => Work::Image {
                image: (**image).clone(),
                name: name.as_deref().cloned(),
            },
            What::Model(model) => Work::Model {
                model: model.clone(),
                token: entry.token.clone(),
                known: entry.known.clone(),
            },
        };
        Some((work, ticket))
    }

    fn count(&self, key: &Key, sums: &Sums, total: u64) {
        let mut queue = self.queue();
        let Some(entry) = queue.entries.get_mut(key) else {
            return;
        };
        // Under the queue's lock, so that nobody sees the bytes twice or not at all.
        entry.ticket = None;
        entry.fact.add(sums, total);
        let counters = &self.counters.bytes[entry.wish.kind() as usize];
        for (counter, bytes) in counters.iter().zip(sums.by_kind) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
        self.counters
            .mismatches
            .fetch_add(sums.mismatches, Ordering::Relaxed);
    }

    fn ended(&self, key: &Key, ended: Ended, held: Option<Holding>, now: SystemTime) {
        let mut queue = self.queue();
        if let Some(entry) = queue.entries.get_mut(key) {
            entry.ticket = None;
            if matches!(ended, Ended::Ready) {
                let was_ready = entry.fact.verified.is_some();
                entry.fact.end(now);
                entry.held = held.or(entry.held.take());
                if let (false, Some(took)) = (was_ready, entry.fact.took) {
                    tracing::info!(item = %key, seconds = took.as_secs_f64(), "item is ready");
                    let mut ready = self
                        .counters
                        .ready
                        .lock()
                        .unwrap_or_else(|e| e.into_inner());
                    ready.push((entry.wish.kind(), took));
                }
            }
        }
        queue.ended(key, ended, Instant::now());
        drop(queue);
        self.tell();
    }

    /// Whether a ready item is still there.
    async fn look(&self, key: &Key) -> bool {
        let (what, is_kept) = match self.queue().entries.get(key) {
            Some(entry) => (entry.wish.what.clone(), entry.wish.is_kept),
            None => return false,
        };
        match what {
            What::Image { image, .. } => {
                let pin = is_kept.then_some(PIN);
                self.job.images.are_there(&self.store, &image, pin).await
            }
            What::Model(model) => {
                let store = self.store.clone();
                blocking(move || status::is_verified(&store, &model)).await
            }
        }
    }

    fn has_store(&self) -> bool {
        let lock = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        lock.is_some()
    }

    async fn write_intent(&self, intent: Intent) {
        if !self.has_store() {
            return;
        }
        let path = self.intent_path();
        if let Err(error) = blocking(move || write_json(&path, &intent)).await {
            tracing::warn!(reason = %chain(&error), "intent not kept on disk");
        }
    }

    /// Writes down what is known, and that an item became ready then, which nobody has been told yet.
    async fn write_record(&self, ready: Option<(&Key, SystemTime)>) {
        let record = {
            let queue = self.queue();
            let mut heard = self.heard();
            let first = self.job.http.tally().first();
            let record = &mut heard.record;
            record.first_request = record.first_request.or(first);
            for (key, entry) in &queue.entries {
                record.facts.insert(key.clone(), entry.fact.clone());
            }
            if let Some((key, now)) = ready
                && let Some(fact) = record.facts.get_mut(key)
            {
                fact.end(now);
            }
            record.bound();
            record.clone()
        };
        if !self.has_store() {
            return;
        }
        let path = self.record_path();
        if let Err(error) = blocking(move || write_json(&path, &record)).await {
            tracing::warn!(reason = %chain(&error), "record not kept on disk");
        }
    }
}
