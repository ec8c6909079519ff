//! From a model that a pod asks for to the plan it may see: the Hub decides what the revision is
//! and who may read it; the store answers only for whom the Hub has opened it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headstart_core::digest::Sha256;
use headstart_core::model::ModelRef;
use headstart_hub::endpoint::{Hub, HubError, Token};
use headstart_hub::plan::ModelPlan;
use headstart_hub::resolve::{Audience, Problem, ResolveError};
use headstart_transfer::net::Http;
use tokio::time::Instant;

use super::grants::{Access, Grants, Opened};
use super::weights::Weights;
use crate::report::chain;

/// How long a branch is believed to be where it was found: pods that start together ask once.
const RESOLVED: Duration = Duration::from_secs(30);

/// What is known of a model.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    /// What the pod may see, and with whose token it may be fetched.
    Plan(ModelPlan, Opened),
    /// Why it may not, or why there is no such model: for the pod's owner.
    Refused(String),
    /// The Hub does not answer, and nothing is known.
    NoAnswer(String),
}

/// Who asked for which model.
type Asked = (Option<Sha256>, ModelRef);

/// Finds models on behalf of pods.
pub(crate) struct Finder {
    hub: Hub,
    http: Http,
    grants: Grants,
    weights: Arc<dyn Weights>,
    resolved: Mutex<HashMap<Asked, (Instant, ModelPlan)>>,
}

impl Finder {
    pub(crate) fn new(hub: Hub, http: Http, grants: Grants, weights: Arc<dyn Weights>) -> Self {
        Self {
            hub,
            http,
            grants,
            weights,
            resolved: Mutex::default(),
        }
    }

    /// What whoever has `token` may see of `model`.
    pub(crate) async fn find(&self, model: &ModelRef, token: Option<&Token>) -> Found {
        match model.revision.commit() {
            Some(commit) => match self.grants.ask(&model.repo, &commit, token).await {
                Access::Granted(opened) => self.at_commit(model, token, opened).await,
                Access::Refused(said) => Found::Refused(said),
                Access::NoAnswer(said) => self.remembered(model, token, said).await,
            },
            None => self.at_name(model, token).await,
        }
    }

    /// A pinned model that may be seen.
    async fn at_commit(&self, model: &ModelRef, token: Option<&Token>, opened: Opened) -> Found {
        let known = self.weights.known(model.clone()).await;
        if let Some(known) = known.filter(|known| known.plan.revision == model.revision) {
            return Found::Plan(known.plan, opened);
        }
        let asker = token.filter(|_| opened == Opened::ToAsker);
        match self.resolve(model, asker).await {
            Ok((plan, _)) => Found::Plan(plan, opened),
            Err(error) if error.is_transient() => Found::NoAnswer(chain(&error)),
            Err(error) => Found::Refused(chain(&error)),
        }
    }

    /// A model at a branch or a tag, which only the Hub knows.
    async fn at_name(&self, model: &ModelRef, token: Option<&Token>) -> Found {
        let mut refused = None;
        let mut unanswered = None;
        for asker in [None].into_iter().chain(token.map(Some)) {
            let error = match self.resolve(model, asker).await {
                Ok((plan, Audience::Public)) => {
                    self.grants.note_public(&plan.repo, &plan.commit).await;
                    return Found::Plan(plan, Opened::ToAnybody);
                }
                Ok((plan, Audience::Gated | Audience::Private)) => {
                    match self.grants.ask(&plan.repo, &plan.commit, asker).await {
                        Access::Granted(opened) => return Found::Plan(plan, opened),
                        Access::Refused(said) => refused = Some(said),
                        Access::NoAnswer(said) => unanswered = Some(said),
                    }
                    continue;
                }
                Err(error) => error,
            };
            // The reason itself: a refusal is worded the same, pinned or not.
            let said = match &error.source {
                Problem::Hub(source) => chain(source),
                _ => chain(&error),
            };
            if !error.is_transient() {
                refused = Some(said);
                continue;
            }
            unanswered = Some(said);
            // A limit is one asker's; an outage is everybody's.
            if !matches!(error.source, Problem::Hub(HubError::RateLimit { .. })) {
                break;
            }
        }
        match (unanswered, refused) {
            (Some(said), _) => self.remembered(model, token, said).await,
            (None, said) => Found::Refused(said.unwrap_or_default()),
        }
    }

    /// What the store holds and the asker is remembered to be allowed, while the Hub is silent.
    async fn remembered(&self, model: &ModelRef, token: Option<&Token>, said: String) -> Found {
        let Some(known) = self.weights.known(model.clone()).await else {
            return Found::NoAnswer(said);
        };
        let (repo, commit) = (&known.plan.repo, &known.plan.commit);
        let public = known.public_since.filter(|at| self.grants.counts(*at));
        let opened = self.grants.remembered(repo, commit, token);
        match opened.or(public.map(|_| Opened::ToAnybody)) {
            Some(opened) => {
                tracing::warn!(%model, %commit, reason = %said, "hub did not answer, what is remembered counts");
                // To the pod it is what it asked for.
                let revision = model.revision.clone();
                Found::Plan(
                    ModelPlan {
                        revision,
                        ..known.plan
                    },
                    opened,
                )
            }
            None => Found::NoAnswer(said),
        }
    }

    async fn resolve(
        &self,
        model: &ModelRef,
        asker: Option<&Token>,
    ) -> Result<(ModelPlan, Audience), ResolveError> {
        let asked = (asker.map(Token::fingerprint), model.clone());
        {
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.retain(|_, (at, _)| at.elapsed() < RESOLVED);
            if let Some((_, plan)) = resolved.get(&asked) {
                // A private one's asker is asked about again by the caller.
                let audience = match asker {
                    None => Audience::Public,
                    Some(_) => Audience::Private,
                };
                return Ok((plan.clone(), audience));
            }
        }
        let hub = self.hub.with_token(asker.cloned());
        let resolution = hub.resolve(&self.http, model).await?;
        if asker.is_some() || resolution.audience == Audience::Public {
            let entry = (Instant::now(), resolution.plan.clone());
            let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
            resolved.insert(asked, entry);
        }
        Ok((resolution.plan, resolution.audience))
    }
}
