//! Where weights come from: what the mounting side asks of the fetching side, and nothing more.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use headstart_core::model::{ModelRef, Revision};
use headstart_hub::endpoint::Token;
use headstart_hub::layout::Tree;
use headstart_hub::plan::{ModelPlan, PlanError};
use tokio::sync::watch;

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
    /// Whether more come.
    pub stage: Stage,
}

/// How a fetch is going.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bytes are on their way.
    Underway,
    /// All are there, verified, and in a tree: its root.
    Ready(Arc<Path>),
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

    /// Makes the files of a plan ready, or joins whoever does. It goes on when nobody listens.
    fn begin(&self, asked: Asked) -> watch::Receiver<Arrival>;

    /// The tree of a plan with what is there of it; nothing if nothing is.
    fn show(&self, plan: ModelPlan) -> BoxFuture<'static, Option<Tree>>;
}
