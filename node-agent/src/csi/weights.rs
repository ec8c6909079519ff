//! Where weights come from: what the mounting side asks of the fetching side, and nothing more.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use headstart_core::model::{ModelRef, Revision};
use headstart_hub::endpoint::Token;
use headstart_hub::plan::{ModelPlan, PlanError, PlanId};
use headstart_hub::resolve::Audience;
use serde::Deserialize;
use tokio::sync::watch;

use crate::agent::{Stage as Warming, Warmth};
use crate::items::blocking;
use crate::report::chain;
use crate::store::{Store, StoreError};

/// A plan that the store knows.
#[derive(Clone, Debug)]
pub struct Known {
    /// The plan.
    pub plan: ModelPlan,
    /// When the Hub last said that anybody may read it, since 1970.
    pub public_since: Option<Duration>,
}

/// A plan whose files are to be here.
#[derive(Clone, Debug)]
pub struct Asked {
    /// By commit, whatever the pod asks for: so those who want the same files meet.
    pub model: ModelRef,
    /// What that is.
    pub plan: ModelPlan,
    /// Whose token may fetch it; the agent's own when absent.
    pub token: Option<Token>,
}

impl Asked {
    /// What `model` led to, by its commit.
    ///
    /// # Errors
    /// Never: the plan is one already.
    pub(super) fn new(
        model: &ModelRef,
        plan: &ModelPlan,
        token: Option<Token>,
    ) -> Result<Self, PlanError> {
        let revision = Revision::Commit(plan.commit);
        Ok(Self {
            model: ModelRef {
                revision: revision.clone(),
                ..model.clone()
            },
            plan: ModelPlan::new(
                plan.repo.clone(),
                revision,
                plan.commit,
                plan.format,
                plan.files.clone(),
                plan.absent.clone(),
            )?,
            token,
        })
    }
}

/// How far the files of a plan are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes of the whole.
    pub total: u64,
    /// What is waited for, while it is not bytes; for people.
    pub why: String,
    /// Whether more come.
    pub stage: Stage,
}

/// How a fetch is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bytes are on their way.
    Underway,
    /// All are there, verified, and in a tree.
    Ready {
        /// The plan that the tree is kept under.
        id: PlanId,
        /// Its root.
        root: Arc<Path>,
    },
    /// None come any more.
    Failed {
        /// One line for a person.
        said: String,
        /// Whether asking again may help.
        is_transient: bool,
    },
}

/// The fetching side.
pub trait Weights: Send + Sync + 'static {
    /// The plan in the store that `model` last led to, whether its files are there or not; for a
    /// branch that was never followed here, any of the same files of the same repository.
    fn known(&self, model: ModelRef) -> BoxFuture<'static, Option<Known>>;

    /// Makes the files of a plan ready, or joins whoever does. It goes on for a while when nobody
    /// listens any more.
    fn begin(&self, asked: Asked) -> watch::Receiver<Arrival>;
}

/// The running agent is where weights come from.
impl Weights for Warmth {
    fn known(&self, model: ModelRef) -> BoxFuture<'static, Option<Known>> {
        let store = self.store().clone();
        Box::pin(async move {
            let known = blocking(move || known(&store, &model)).await;
            known.unwrap_or_else(|error| {
                tracing::warn!(reason = %chain(&error), "the store cannot be read");
                None
            })
        })
    }

    fn begin(&self, asked: Asked) -> watch::Receiver<Arrival> {
        let mut last = Arrival {
            done: 0,
            total: asked.plan.bytes(),
            why: String::new(),
            stage: Stage::Underway,
        };
        let mut waited_for = self.want_now(&asked.model, asked.token);
        let (tell, arrival) = watch::channel(last.clone());
        tokio::spawn(async move {
            loop {
                last.take(waited_for.stage());
                tell.send_replace(last.clone());
                if last.stage != Stage::Underway {
                    return;
                }
                tokio::select! {
                    _ = waited_for.changed() => {}
                    () = tell.closed() => return,
                }
            }
        });
        arrival
    }
}

impl Arrival {
    fn take(&mut self, now: Warming) {
        match now {
            Warming::Waiting { why } => self.why = why,
            Warming::Fetching {
                done_bytes,
                total_bytes,
            } => {
                self.why.clear();
                (self.done, self.total) = (done_bytes, total_bytes);
            }
            Warming::Ready(warm) => {
                self.done = self.total;
                self.stage = Stage::Ready {
                    id: warm.plan.id(),
                    root: warm.tree.root().into(),
                };
            }
            // What may pass is waited for on the other side.
            Warming::Failed { why } => {
                self.stage = Stage::Failed {
                    said: why,
                    is_transient: false,
                };
            }
        }
    }
}

/// As the store keeps it with a plan.
#[derive(Deserialize)]
struct Detail {
    asked: String,
    plan: ModelPlan,
    #[serde(default)]
    audience: Option<Audience>,
}

/// See [`Weights::known`]. Blocks.
fn known(store: &Store, model: &ModelRef) -> Result<Option<Known>, StoreError> {
    let mut items = store.inventory()?.items;
    items.sort_by_key(|item| std::cmp::Reverse(item.uses.last_use));
    let mut others = Vec::new();
    for item in items {
        let Ok(detail) = serde_json::from_value::<Detail>(item.plan.detail) else {
            continue;
        };
        let Ok(asked) = detail.asked.parse::<ModelRef>() else {
            continue;
        };
        let same = asked.repo == model.repo && asked.selection == model.selection;
        // A plan that was tampered with or is of an older form is none.
        if !same || ModelPlan::from_json(&detail.plan.to_json()).is_err() {
            continue;
        }
        let public_since = match detail.audience {
            Some(Audience::Public) => fetched(store, &detail.plan),
            _ => None,
        };
        let known = Known {
            plan: detail.plan,
            public_since,
        };
        if asked.revision == model.revision {
            return Ok(Some(known));
        }
        others.push(known);
    }
    // What a branch is called elsewhere is not known here, only what was brought.
    let is_name = model.revision.commit().is_none();
    Ok(others.into_iter().next().filter(|_| is_name))
}

/// When the Hub gave the files of a plan, and with them its word about who may read them: the
/// modification time of the oldest.
fn fetched(store: &Store, plan: &ModelPlan) -> Option<Duration> {
    let times = plan.files.iter().map(|file| {
        let found = std::fs::symlink_metadata(store.object(&file.expected)).ok()?;
        u64::try_from(found.mtime()).ok().map(Duration::from_secs)
    });
    times.collect::<Option<Vec<_>>>()?.into_iter().min()
}
