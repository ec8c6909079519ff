//! The door for those who show models to pods: ask for one, and hear how far it is.
//!
//! - What is asked for goes before everything else and joins a transfer that is under way.
//! - Having the bytes says nothing about who may read them: whoever asks has settled that.
//! - A token given with [`Warmth::want_now`] fetches; it is sent to the Hub and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use headstart_core::model::{ModelRef, Revision};
use headstart_hub::endpoint::{Hub, Token};
use headstart_hub::layout::Tree;
use headstart_hub::plan::ModelPlan;
use headstart_transfer::net::Http;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::queue::Phase;
use super::wish::{Key, Wish};
use super::{Agent, Inner};
use crate::items::{Again, ItemError, Known, Ticket, resolve_model};
use crate::report::Quiet;
use crate::store::{Holding, Store};

/// How often progress is looked at for whoever waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Pause before the Hub is asked again what a name stands for; it doubles up to half a minute.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// See the module. Clones are the same door.
#[derive(Clone)]
pub(crate) struct Warmth {
    agent: Agent,
}

/// A model that somebody waits for. Dropped, it is wanted for some minutes more, so that whoever
/// asks again finds it further on.
pub(crate) struct Asked {
    stage: watch::Receiver<Stage>,
    task: AbortHandle,
}

/// How far a model is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Nothing has been fetched yet; why, for people.
    Waiting {
        /// What is waited for.
        why: String,
    },
    /// Bytes arrive.
    Fetching {
        /// Bytes there.
        done_bytes: u64,
        /// Bytes of the whole.
        total_bytes: u64,
    },
    /// It can be shown.
    Ready(Arc<Warm>),
    /// It will not come until somebody changes something; why, for people.
    Failed {
        /// One line.
        why: String,
    },
}

/// A model that can be shown; not evicted while this is held.
#[derive(Debug)]
pub(crate) struct Warm {
    /// Its files.
    pub(crate) plan: ModelPlan,
    /// Where they are.
    pub(crate) tree: Tree,
    _held: Holding,
}

impl Asked {
    /// How far it is now.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Waits until that has changed.
    pub(crate) async fn changed(&mut self) -> Stage {
        // The task ends after its last word, which then stays.
        if self.stage.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.stage()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Warmth {
    pub(super) fn of(agent: Agent) -> Self {
        Self { agent }
    }

    /// Wants `model` before everything else, fetched with `token` where one is given.
    pub(crate) fn want_now(&self, model: &ModelRef, token: Option<Token>) -> Asked {
        let (stage, receiver) = watch::channel(Stage::Waiting {
            why: "the Hub is asked what it is".to_owned(),
        });
        let asking = Asking {
            inner: self.agent.inner.clone(),
            model: model.clone(),
            token,
            stage,
        };
        Asked {
            stage: receiver,
            task: tokio::spawn(asking.answer()).abort_handle(),
        }
    }

    /// The Hub, with the agent's own token.
    pub(crate) fn hub(&self) -> &Hub {
        &self.agent.inner.job.hub
    }

    /// The door to the network.
    pub(crate) fn http(&self) -> &Http {
        &self.agent.inner.job.http
    }

    /// The store that everything is in.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.agent.inner.store
    }
}

/// One [`Warmth::want_now`] at work.
struct Asking {
    inner: Arc<Inner>,
    model: ModelRef,
    token: Option<Token>,
    stage: watch::Sender<Stage>,
}

/// Ends a want when whoever wanted has gone.
struct Want {
    inner: Arc<Inner>,
    key: Key,
}

impl Drop for Want {
    fn drop(&mut self) {
        self.inner.queue().unwant(&self.key, Instant::now());
        self.inner.woken.notify_one();
    }
}

impl Asking {
    async fn answer(self) {
        let last = match self.bring().await {
            Ok(warm) => Stage::Ready(Arc::new(warm)),
            Err(error) => Stage::Failed { why: error.said },
        };
        self.stage.send_replace(last);
    }

    async fn bring(&self) -> Result<Warm, ItemError> {
        let known = self.resolve().await?;
        // The commit is what others fetch too, whatever name each has for it.
        let mut plan = known.plan.clone();
        plan.revision = Revision::Commit(plan.commit);
        let model = ModelRef {
            revision: plan.revision.clone(),
            ..self.model.clone()
        };
        let wish = Wish::of_model(model);
        let want = Want {
            inner: self.inner.clone(),
            key: wish.key.clone(),
        };
        {
            let mut queue = self.inner.queue();
            queue.want(wish, self.token.clone(), Instant::now());
            if let Some(entry) = queue.entries.get_mut(&want.key) {
                let audience = known.audience;
                entry.known.get_or_insert(Known { plan, audience });
            }
        }
        self.inner.tell();
        self.until_ready(&want.key).await?;
        let id = known.plan.id().to_string();
        let held = self.inner.store.hold(&id);
        if known.plan.revision.commit().is_none() {
            self.publish(known.clone()).await?;
        }
        drop(want);
        let warm = warm(&self.inner.store, known);
        drop(held);
        Ok(warm)
    }

    /// What the model is; the Hub is asked until it answers.
    async fn resolve(&self) -> Result<Known, ItemError> {
        let job = &self.inner.job;
        let own = self.token.clone();
        let hub = own.map_or_else(|| job.hub.clone(), |own| job.hub.with_token(Some(own)));
        let mut pause = ASK_AGAIN;
        loop {
            let error = match resolve_model(job, &hub, &self.model).await {
                Ok(known) => return Ok(known),
                Err(error) => error,
            };
            let wait = match error.again {
                Again::Lasting => return Err(error),
                Again::Soon => pause,
                Again::After(wait) => pause.max(wait),
            };
            self.stage.send_replace(Stage::Waiting { why: error.said });
            pause = (pause * 2).min(ASK_AGAIN * 32);
            tokio::time::sleep(wait).await;
        }
    }

    async fn until_ready(&self, key: &Key) -> Result<(), ItemError> {
        loop {
            let stage = {
                let queue = self.inner.queue();
                let Some(entry) = queue.entries.get(key) else {
                    return Err(ItemError {
                        said: format!("{key} is worked on no more: ask again"),
                        again: Again::Soon,
                    });
                };
                match (&entry.phase, &entry.ticket) {
                    (Phase::Ready { .. } | Phase::Looking, _) => return Ok(()),
                    (Phase::Waiting { .. }, _) if entry.fact.is_lasting => {
                        return Err(ItemError {
                            said: entry.fact.problem.clone(),
                            again: Again::Lasting,
                        });
                    }
                    (_, Some(ticket)) if ticket.progress().1 > 0 => {
                        let (done_bytes, total_bytes) = ticket.progress();
                        Stage::Fetching {
                            done_bytes,
                            total_bytes,
                        }
                    }
                    _ if entry.fact.problem.is_empty() => Stage::Waiting {
                        why: queue.delay().to_owned(),
                    },
                    _ => Stage::Waiting {
                        why: entry.fact.problem.clone(),
                    },
                }
            };
            self.stage.send_replace(stage);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Makes the tree of a name, of objects that are there.
    async fn publish(&self, known: Known) -> Result<(), ItemError> {
        let job = &self.inner.job;
        let first = headstart_transfer::source::Priority::default();
        let ticket = Ticket::new(self.model.to_string(), None, first, Arc::new(Quiet));
        let work = crate::items::Work::Model {
            model: self.model.clone(),
            token: self.token.clone(),
            known: Some(known),
        };
        job.run(&work, &ticket).await.map(drop)
    }
}

fn warm(store: &Arc<Store>, known: Known) -> Warm {
    let id = known.plan.id().to_string();
    Warm {
        tree: Tree::at(store.model(&id)),
        _held: store.hold(&id),
        plan: known.plan,
    }
}
