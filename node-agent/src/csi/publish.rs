//! One call to publish a volume: every model is found on behalf of the pod, waited for, and what is
//! there is mounted.
//!
//! - A call may be cancelled at any moment and made again: what it began goes on, and the next call
//!   joins it. Mounting itself is not cut in two.
//! - A pod never does worse than without this: what cannot be had in time is left to its own client,
//!   with the reason told. Only a refusal keeps a pod from starting, where its volume says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use headstart_core::model::ModelRef;
use headstart_hub::endpoint::Token;
use headstart_hub::layout::Tree;
use headstart_hub::plan::ModelPlan;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::find::{Finder, Found};
use super::grants::{Opened, now};
use super::hold::{Next, Pace, Told};
use super::metrics::{Lacking, Metrics, Outcome};
use super::mounts::Access;
use super::readahead::read_ahead;
use super::request::{OnRefusal, VolumeId, Wanted};
use super::volumes::{From, Record, Shown, VolumeError, Volumes};
use super::weights::{Arrival, Asked, Stage, Weights};
use super::{Rules, WithoutHub};
use crate::items::blocking;
use crate::report::chain;
use crate::store::{Holding, Store};

/// How often a call looks how things are.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long after a failure it is tried again, within one call.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// Why a volume is not mounted, for the pod's Events.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unpublished {
    /// It will be, when the call is made again.
    #[error("{0}")]
    Waiting(String),
    /// It will not be.
    #[error("{0}")]
    Refused(String),
    /// This machine's fault.
    #[error("the volume cannot be mounted")]
    Failed(#[source] VolumeError),
}

/// What publishes volumes.
pub(super) struct Publisher {
    pub(super) rules: Rules,
    pub(super) store: Arc<Store>,
    pub(super) finder: Finder,
    pub(super) weights: Arc<dyn Weights>,
    pub(super) volumes: Arc<Volumes>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) problem: watch::Sender<String>,
    pub(super) told: Mutex<HashMap<VolumeId, Told>>,
    pub(super) reading: Mutex<HashMap<VolumeId, CancellationToken>>,
    pub(super) stop: CancellationToken,
}

/// How one model of a volume is.
enum Model {
    /// Its bytes are on their way, or here.
    Coming {
        /// As the pod asked for it.
        plan: ModelPlan,
        /// The same by its commit.
        pinned: ModelPlan,
        arrival: watch::Receiver<Arrival>,
        /// Bytes that were there when the call began.
        before: Option<u64>,
        held: Holding,
    },
    /// Something passing is in the way: it is looked at again then.
    Stuck { said: String, again: Instant },
    /// It will not come.
    Without {
        /// As asked for, and by its commit, if it was found.
        plans: Option<(ModelPlan, ModelPlan)>,
        reason: Lacking,
        said: String,
    },
}

impl Publisher {
    /// Mounts a volume, or says why it is not mounted yet or ever.
    pub(super) async fn publish(&self, wanted: Wanted) -> Result<Outcome, Unpublished> {
        let record = match self.record(&wanted).await.map_err(Unpublished::Failed)? {
            Some(record) => record,
            None => return Ok(Outcome::Again),
        };
        let (began, asked) = (Instant::now(), Duration::from_secs(record.asked));
        let token = wanted.token.as_ref();
        let models = wanted.models.iter();
        let mut models: Vec<Model> =
            join_all(models.map(|model| self.look(model, token, wanted.on_refusal))).await;
        loop {
            if let Some(said) = self.refusal(&wanted, &models) {
                self.forget(&wanted.id).await;
                return Err(Unpublished::Refused(said));
            }
            for (model, state) in wanted.models.iter().zip(&mut models) {
                self.step(model, token, wanted.on_refusal, state).await;
            }
            let held = began.elapsed();
            let lefts: Vec<Option<Duration>> =
                models.iter().filter_map(|state| state.left(held)).collect();
            if lefts.is_empty() {
                break;
            }
            let left = lefts
                .into_iter()
                .try_fold(Duration::ZERO, |most, left| left.map(|left| most.max(left)));
            let told = self.told().get(&wanted.id).copied();
            let asked = now().saturating_sub(asked);
            let told = told.unwrap_or(Told::NotYet);
            match self.rules.hold.next(held, asked, left, told) {
                Next::Wait => {
                    let looking = sleep(LOOK_EVERY);
                    if self.stop.run_until_cancelled(looking).await.is_none() {
                        let said = "the agent of this node starts anew, weights go on arriving";
                        return Err(Unpublished::Waiting(said.to_owned()));
                    }
                }
                Next::Mount => break,
                Next::Tell => {
                    self.told().insert(wanted.id.clone(), Told::Before);
                    return Err(Unpublished::Waiting(sentence(&wanted, &models, held)));
                }
            }
        }
        self.mount(wanted, record, models).await
    }

    /// Takes a volume away.
    pub(super) async fn unpublish(
        &self,
        id: VolumeId,
        target: std::path::PathBuf,
    ) -> Result<(), VolumeError> {
        self.told().remove(&id);
        if let Some(reading) = self.reading().remove(&id) {
            reading.cancel();
        }
        let volumes = self.volumes.clone();
        let unmounted = blocking(move || volumes.unmount(&id, &target)).await;
        self.metrics.mounted(self.volumes.count());
        unmounted
    }

    /// What is remembered of a volume, noted if it is new; nothing of one that is mounted.
    async fn record(&self, wanted: &Wanted) -> Result<Option<Record>, VolumeError> {
        let (volumes, wanted) = (self.volumes.clone(), wanted.clone());
        blocking(move || {
            if volumes.is_mounted(&wanted.id, &wanted.target)? {
                return Ok(None);
            }
            if let Some(record) = volumes.record(&wanted.id)
                && record.shown.is_none()
                && record.target == wanted.target
            {
                return Ok(Some(record));
            }
            let record = Record {
                id: wanted.id,
                target: wanted.target,
                pod: wanted.pod,
                asked: now().as_secs(),
                shown: None,
            };
            volumes.note(&record)?;
            Ok(Some(record))
        })
        .await
    }

    /// Finds a model on behalf of the pod and asks for its bytes.
    async fn look(&self, model: &ModelRef, token: Option<&Token>, on: OnRefusal) -> Model {
        match self.finder.find(model, token).await {
            Found::Plan(plan, opened) => {
                let token = token.filter(|_| opened == Opened::ToAsker).cloned();
                let asked = match Asked::new(model, &plan, token) {
                    Ok(asked) => asked,
                    Err(error) => {
                        return Model::Without {
                            plans: None,
                            reason: Lacking::Unfetchable,
                            said: chain(&error),
                        };
                    }
                };
                let pinned = asked.plan.clone();
                Model::Coming {
                    held: self.store.hold(&pinned.id().to_string()),
                    arrival: self.weights.begin(asked),
                    before: None,
                    pinned,
                    plan,
                }
            }
            Found::Refused(said) => {
                tracing::info!(%model, ?on, reason = %said, "a pod may not see a model");
                Model::Without {
                    plans: None,
                    reason: Lacking::Refused,
                    said,
                }
            }
            Found::NoAnswer(said) => match self.rules.without_hub {
                WithoutHub::Wait => Model::Stuck {
                    said,
                    again: Instant::now() + AGAIN_AFTER,
                },
                WithoutHub::FallBack => Model::Without {
                    plans: None,
                    reason: Lacking::NoHub,
                    said,
                },
            },
        }
    }

    /// Brings the state of one model up to date.
    async fn step(
        &self,
        model: &ModelRef,
        token: Option<&Token>,
        on: OnRefusal,
        state: &mut Model,
    ) {
        let next = match state {
            Model::Coming {
                plan,
                pinned,
                arrival,
                before,
                ..
            } => {
                let now = arrival.borrow();
                // The first look at the disk comes a moment after the fetch has begun.
                if before.is_none() && (now.done > 0 || now.stage != Stage::Underway) {
                    *before = Some(now.done);
                }
                match &now.stage {
                    Stage::Underway | Stage::Ready { .. } => return,
                    Stage::Failed {
                        said,
                        is_transient: true,
                    } => Model::Stuck {
                        said: said.clone(),
                        again: Instant::now() + AGAIN_AFTER,
                    },
                    Stage::Failed { said, .. } => Model::Without {
                        plans: Some((plan.clone(), pinned.clone())),
                        reason: Lacking::Unfetchable,
                        said: said.clone(),
                    },
                }
            }
            Model::Stuck { again, .. } if *again <= Instant::now() => {
                self.look(model, token, on).await
            }
            Model::Stuck { .. } | Model::Without { .. } => return,
        };
        *state = next;
    }

    /// Why the pod is not to start, if so.
    fn refusal(&self, wanted: &Wanted, models: &[Model]) -> Option<String> {
        if wanted.on_refusal == OnRefusal::Empty {
            return None;
        }
        let mut refused = wanted.models.iter().zip(models);
        refused.find_map(|(model, state)| match state {
            Model::Without {
                reason: Lacking::Refused,
                said,
                ..
            } => Some(format!(
                "{model}: {said} (here a token is key `token` of the Secret that the volume's nodePublishSecretRef names)"
            )),
            _ => None,
        })
    }

    async fn mount(
        &self,
        wanted: Wanted,
        record: Record,
        models: Vec<Model>,
    ) -> Result<Outcome, Unpublished> {
        let (mut shown, mut held) = (Vec::new(), Vec::new());
        let mut lacking = Vec::new();
        for (model, state) in wanted.models.iter().zip(models) {
            let (plans, reason, said) = match state {
                Model::Coming {
                    plan,
                    pinned,
                    arrival,
                    held: holding,
                    ..
                } => {
                    held.push(holding);
                    let stage = arrival.borrow().stage.clone();
                    if let Stage::Ready { id, root } = stage {
                        held.push(self.store.hold(&id.to_string()));
                        let from = From::Whole(Tree::at(&*root));
                        shown.push(Shown { plan, id, from });
                        continue;
                    }
                    let said = "its weights did not arrive in time".to_owned();
                    (Some((plan, pinned)), Lacking::Deadline, said)
                }
                Model::Stuck { said, .. } => (None, Lacking::Deadline, said),
                Model::Without {
                    plans,
                    reason,
                    said,
                } => (plans, reason, said),
            };
            lacking.push(format!("{model}: {said}"));
            self.metrics.lacks(reason);
            if let Some((plan, pinned)) = plans {
                let (id, from) = (pinned.id(), From::Parts);
                shown.push(Shown { plan, id, from });
            }
        }
        let access = match wanted.is_read_only {
            true => Access::Read,
            false => Access::Write,
        };
        let (id, pod) = (wanted.id, wanted.pod);
        let (volumes, to_mount) = (self.volumes.clone(), shown.clone());
        let mounted = blocking(move || {
            let trees = volumes.mount(record, &to_mount, held, access)?;
            for one in &to_mount {
                volumes.note_use(&one.id);
            }
            Ok(trees)
        })
        .await;
        let trees = match mounted {
            Ok(trees) => trees,
            Err(error) => {
                self.forget(&id).await;
                return Err(Unpublished::Failed(error));
            }
        };
        let outcome = match (trees, lacking.is_empty()) {
            (_, true) => Outcome::Weights,
            (0, false) => Outcome::Empty,
            (_, false) => Outcome::Partial,
        };
        self.told().remove(&id);
        self.metrics.mounted(self.volumes.count());
        tracing::info!(
            volume = %id, namespace = %pod.namespace, pod = %pod.name, models = trees, "volume mounted"
        );
        if lacking.is_empty() {
            let changed = |said: &mut String| !std::mem::take(said).is_empty();
            self.problem.send_if_modified(changed);
        } else {
            let reason = lacking.join("; ");
            tracing::warn!(
                namespace = %pod.namespace, pod = %pod.name, %reason, "volume mounted without all its weights"
            );
            let said = format!(
                "pod {}/{} started without all its weights and downloads them itself: {reason}",
                pod.namespace, pod.name
            );
            self.problem.send_replace(said);
        }
        self.read_ahead(id, shown);
        Ok(outcome)
    }

    /// Reads what was mounted into memory, in the background.
    fn read_ahead(&self, id: VolumeId, shown: Vec<Shown>) {
        let stop = CancellationToken::new();
        if let Some(before) = self.reading().insert(id, stop.clone()) {
            before.cancel();
        }
        let metrics = self.metrics.clone();
        tokio::task::spawn_blocking(move || {
            for Shown { plan, from, .. } in shown {
                if let From::Whole(tree) = from {
                    metrics.read_ahead(read_ahead(&plan, &tree, &stop));
                }
            }
        });
    }

    /// Forgets a volume that the kubelet will not ask to take away.
    async fn forget(&self, id: &VolumeId) {
        self.told().remove(id);
        let (volumes, id) = (self.volumes.clone(), id.clone());
        if let Err(error) = blocking(move || volumes.forget(&id)).await {
            tracing::warn!(reason = %chain(&error), "a volume is not forgotten");
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<VolumeId, Told>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reading(&self) -> MutexGuard<'_, HashMap<VolumeId, CancellationToken>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    fn pace(&self) -> Option<Pace> {
        let Self::Coming {
            arrival, before, ..
        } = self
        else {
            return None;
        };
        let now = arrival.borrow();
        Some(Pace {
            done: now.done,
            total: now.total,
            before: before.unwrap_or(now.done),
        })
    }

    /// When the rest will be there, if that is known; nothing at all of a model that is not waited
    /// for.
    fn left(&self, held: Duration) -> Option<Option<Duration>> {
        match self {
            Self::Coming { arrival, .. } => match arrival.borrow().stage {
                Stage::Ready { .. } => None,
                _ => Some(self.pace().and_then(|pace| pace.left(held))),
            },
            Self::Stuck { .. } => Some(None),
            Self::Without { .. } => None,
        }
    }
}

/// What a waiting pod's Events say.
fn sentence(wanted: &Wanted, models: &[Model], held: Duration) -> String {
    let waiting = wanted.models.iter().zip(models);
    let each = waiting.filter_map(|(model, state)| {
        state.left(held)?;
        let said = match state {
            Model::Coming { arrival, .. } => {
                let why = arrival.borrow().why.clone();
                let pace = state.pace().map(|pace| pace.sentence(held));
                match (pace, why.is_empty()) {
                    (Some(pace), false) => format!("{pace}: {why}"),
                    (pace, _) => pace.unwrap_or(why),
                }
            }
            Model::Stuck { said, .. } => format!("{said}; trying again"),
            Model::Without { said, .. } => said.clone(),
        };
        Some(format!("{}: {said}", model.repo))
    });
    let each: Vec<String> = each.collect();
    format!("waiting for weights: {}", each.join("; "))
}
