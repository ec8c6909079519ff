//! One model: resolved to a commit, its files made objects, its tree published.
//!
//! A commit never changes, so one that was resolved before is not asked for again; a branch is,
//! and when nobody answers the last commit known of it serves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use headstart_core::model::ModelRef;
use headstart_hub::endpoint::Hub;
use headstart_hub::layout::{Published, Tree};
use headstart_hub::plan::{ModelPlan, PlannedFile};
use headstart_hub::resolve::{Audience, ResolveError};
use headstart_transfer::source::Blob;
use serde::{Deserialize, Serialize};

use super::objects::{ObjectError, blocking};
use super::{Again, ItemError, Job, Ticket, Warmed};
use crate::report::{Event, chain};
use crate::store::{Plan, PlanFile, Store, StoreError};

/// What the store keeps with a plan: how it was asked for, and the whole of it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Detail {
    /// The reference, in its canonical form.
    asked: String,
    plan: ModelPlan,
    /// Who may read it, as the Hub said when it was resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<Audience>,
}

/// What a model is.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) plan: ModelPlan,
    /// Who may read it, if the Hub has said.
    pub(crate) audience: Option<Audience>,
}

/// Makes `model`, which is `known` to be that, ready.
pub(crate) async fn bring(
    job: &Job,
    hub: &Hub,
    ticket: &Ticket,
    model: &ModelRef,
    known: Known,
) -> Result<Warmed, ItemError> {
    let store = &job.objects.store;
    let plan = &known.plan;
    let files = plan.files.iter();
    let blobs: Vec<Blob> = files.map(|file| blob(hub, plan, file, ticket)).collect();
    ticket.total.store(plan.bytes(), Ordering::Relaxed);
    // What is noted first can be found, and removed, whatever happens next.
    let noted = note(model, &known);
    // Its own need for room must not take what it already has.
    let held = store.hold(&noted.id);
    on_store(store, {
        let noted = noted.clone();
        move |store| store.note_plan(&noted)
    })
    .await?;
    let (missing, reservation) = job.objects.reserve(&blobs).await?;
    ticket.report.tell(Event::Resolved {
        item: ticket.item.clone(),
        pinned: pinned(plan),
        total_bytes: plan.bytes(),
        missing_bytes: missing,
    });
    if !job.adopt.is_empty() {
        let adopted = super::adopt::adopt(&job.objects, plan, &job.adopt).await?;
        tracing::info!(bytes = adopted, "files adopted from other caches");
    }
    super::xet::fetch(job, hub, plan, ticket).await?;
    let errors = job.objects.ensure(blobs, &ticket.tally).await;
    drop(reservation);
    if !errors.is_empty() {
        return Err(summed_up(&errors));
    }
    let tree = publish(store, plan, &noted.id).await?;
    on_store(store, {
        let pin = ticket.pin;
        move |store| store.note_use(&noted.id, pin)
    })
    .await?;
    Ok(Warmed {
        pinned: pinned(plan),
        place: format!("HF_HUB_CACHE={}", tree.display()),
        model: Some((known.plan, held)),
    })
}

/// What the store knows of `model`: the plan that it last led to.
pub(crate) fn known(store: &Store, model: &ModelRef) -> Result<Option<Known>, StoreError> {
    let asked = model.to_string();
    let mut items = store.inventory()?.items;
    items.sort_by_key(|item| std::cmp::Reverse(item.uses.last_use));
    let details = items
        .into_iter()
        .filter_map(|item| serde_json::from_value::<Detail>(item.plan.detail).ok());
    let mut plans = details
        .filter(|detail| detail.asked == asked)
        // A plan that was tampered with or is of an older form is resolved again.
        .filter_map(|detail| {
            let plan = ModelPlan::from_json(&detail.plan.to_json()).ok()?;
            let audience = detail.audience;
            Some(Known { plan, audience })
        });
    Ok(plans.next())
}

/// What `model` is: a commit that was resolved before is not asked for again.
pub(crate) async fn resolve(job: &Job, hub: &Hub, model: &ModelRef) -> Result<Known, ItemError> {
    let known = on_store(&job.objects.store, {
        let model = model.clone();
        move |store| known(store, &model)
    })
    .await?;
    match known {
        Some(known) if model.revision.commit().is_some() => Ok(known),
        known => match (hub.resolve(&job.http, model).await, known) {
            (Ok(resolution), _) => Ok(Known {
                plan: resolution.plan,
                audience: Some(resolution.audience),
            }),
            (Err(error), Some(known)) if error.is_transient() => {
                let (commit, reason) = (known.plan.commit.to_string(), chain(&error));
                tracing::warn!(%model, %commit, %reason, "hub did not answer, last known commit used");
                Ok(known)
            }
            (Err(error), _) => Err(error.into()),
        },
    }
}

fn blob(hub: &Hub, plan: &ModelPlan, file: &PlannedFile, ticket: &Ticket) -> Blob {
    Blob {
        name: format!("{}/{}", plan.repo, file.path),
        size: file.size,
        expected: file.expected,
        priority: ticket.priority.clone(),
        sources: vec![hub.source(plan, file)],
    }
}

fn note(model: &ModelRef, known: &Known) -> Plan {
    let plan = &known.plan;
    let detail = Detail {
        asked: model.to_string(),
        plan: plan.clone(),
        audience: known.audience,
    };
    Plan {
        id: plan.id().to_string(),
        repo: plan.repo.to_string(),
        commit: plan.commit.to_string(),
        files: plan
            .files
            .iter()
            .map(|file| PlanFile {
                path: file.path.to_string(),
                size: file.size,
                expected: file.expected,
            })
            .collect(),
        detail: serde_json::to_value(detail).expect("a plan is plain data"),
    }
}

async fn publish(store: &Arc<Store>, plan: &ModelPlan, id: &str) -> Result<PathBuf, ItemError> {
    let (store, plan) = (store.clone(), plan.clone());
    let tree = Tree::at(store.model(id));
    blocking(move || {
        let published = tree.publish(&plan, &|expected| store.object(expected));
        match published.map_err(|error| ItemError::lasting(&error))? {
            Published::Complete => Ok(tree.hub()),
            // Every object was there a moment ago.
            Published::Partial { missing } => Err(ItemError {
                said: format!("{} was removed while the model was made ready", missing[0]),
                again: Again::Soon,
            }),
        }
    })
    .await
}

fn pinned(plan: &ModelPlan) -> String {
    format!("{}@{}", plan.repo, plan.commit)
}

/// One line for all that went wrong: the first in full, the others counted.
fn summed_up(errors: &[ObjectError]) -> ItemError {
    let transient = errors.iter().all(ObjectError::is_transient);
    let first = errors
        .iter()
        .find(|error| error.is_transient() == transient);
    let mut said = first.map(|error| chain(error)).unwrap_or_default();
    if errors.len() > 1 {
        said += &format!(" (and {} more files)", errors.len() - 1);
    }
    let wait = errors.iter().filter_map(ObjectError::asked_wait).max();
    ItemError {
        said,
        again: Again::of(transient, wait),
    }
}

/// Runs `work` on the store where it may block.
async fn on_store<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    blocking(move || work(&store)).await
}

impl From<ResolveError> for ItemError {
    fn from(error: ResolveError) -> Self {
        let again = Again::of(error.is_transient(), error.asked_wait());
        Self::new(&error, again)
    }
}
