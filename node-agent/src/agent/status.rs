//! What the agent says of its node: the status of its `NodeCache`, computed from what is on disk and
//! under way, never from the intent.

use std::collections::BTreeSet;
use std::time::SystemTime;

use headstart_api::{Amount, CacheItem, ItemPhase, ItemSource, NodeCacheStatus, Span};
use headstart_core::model::ModelRef;
use headstart_core::money::Millis;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::queue::{Entry, Phase};
use super::wish::{What, Wish};
use super::{Agent, Kind};
use crate::items::{blocking, known_model};
use crate::store::{Inventory, State, Store, StoreError};

/// Most items in one status.
const MOST_ITEMS: usize = 500;

/// Longest text for people, in characters.
const LONGEST: usize = 400;

impl Agent {
    /// What is here now. `observed` is whoever publishes it to fill.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn status(&self) -> Result<NodeCacheStatus, StoreError> {
        if !self.is_open()
            && let heard = self.inner.heard()
            && let Some(status) = &heard.relayed
        {
            // Either of the two may have heard of it first.
            let own = heard.notice.clone();
            return Ok(NodeCacheStatus {
                interruption: own.or_else(|| status.interruption.clone()),
                ..status.clone()
            });
        }
        let store = self.inner.store.clone();
        let inventory = blocking(move || store.inventory()).await?;
        let queue = self.inner.queue();
        let heard = self.inner.heard();
        let mut entries: Vec<&Entry> = queue.entries.values().collect();
        entries.sort_by_key(|entry| entry.rank.unwrap_or(u32::MAX));
        let (mut items, mut named) = (Vec::new(), BTreeSet::new());
        for entry in &entries {
            let item = item(entry, &inventory);
            if named.insert(identity(&item)) && item.state.is_some() {
                items.push(item);
            }
        }
        for item in inventory.items.iter().filter_map(of_the_store) {
            if named.insert(identity(&item)) {
                items.push(item);
            }
        }
        items.truncate(MOST_ITEMS);
        let mut running: Vec<&&Entry> = entries.iter().filter(|e| e.is_running()).collect();
        running.sort_by_key(|entry| entry.priority.rank());
        let first = self.inner.job.http.tally().first();
        Ok(NodeCacheStatus {
            generation: heard.intent.as_ref().map_or(0, |intent| intent.generation),
            observed: None,
            agent_started: heard.record.agent_started.and_then(time),
            first_request: heard.record.first_request.or(first).and_then(time),
            room: Some(Amount(inventory.usable_bytes.to_string())),
            fetching: running
                .iter()
                .map(|entry| entry.wish.shown.clone())
                .collect(),
            interruption: heard.notice.clone(),
            problem: shortened(match heard.problem.as_str() {
                "" => &heard.trouble,
                problem => problem,
            }),
            items,
        })
    }
}

/// One item that is wanted, or was.
fn item(entry: &Entry, inventory: &Inventory) -> CacheItem {
    let fact = &entry.fact;
    let (done, total) = fact.progress(entry.ticket.as_deref());
    let stored = || stored_bytes(&entry.wish, inventory);
    let (state, bytes) = match entry.phase {
        Phase::Ready { .. } | Phase::Looking => (Some(ItemPhase::Verified), total),
        Phase::Running { .. } => (Some(ItemPhase::Partial), done.max(stored())),
        // An earlier agent saw it whole; nobody has looked since.
        Phase::Waiting { .. } if fact.verified.is_some() => (Some(ItemPhase::Unknown), stored()),
        Phase::Waiting { .. } => match stored() {
            0 if fact.problem.is_empty() => (None, 0),
            bytes => (Some(ItemPhase::Partial), bytes),
        },
    };
    let mut sources = fact.sources.clone();
    if let Some(ticket) = &entry.ticket {
        let mut running = super::fact::Fact::default();
        running.add(&ticket.tally.sums(), 0);
        for (kind, bytes) in running.sources {
            *sources.entry(kind).or_default() += bytes;
        }
    }
    CacheItem {
        state,
        bytes: Some(Amount(bytes.to_string())),
        started: fact.started.and_then(time),
        verified: fact.verified.and_then(time),
        took: fact
            .took
            .map(|took| Span(Millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))),
        sources: sources
            .into_iter()
            .map(|(kind, bytes)| ItemSource { kind, bytes })
            .collect(),
        problem: shortened(&fact.problem),
        ..entry.wish.shown.clone()
    }
}

/// A model in the store that nobody wants now.
fn of_the_store(item: &crate::store::Item) -> Option<CacheItem> {
    let asked = item
        .plan
        .detail
        .get("asked")
        .and_then(|asked| asked.as_str());
    let files = asked
        .and_then(|asked| asked.split_once('?'))
        .map_or("", |(_, files)| files);
    let state = match item.state {
        State::Absent => return None,
        State::Partial => ItemPhase::Partial,
        State::Unknown => ItemPhase::Unknown,
        State::Verified => ItemPhase::Verified,
    };
    Some(CacheItem {
        model: Some(format!("{}@{}", item.repo, item.commit)),
        files: files.to_owned(),
        state: Some(state),
        bytes: Some(Amount(item.bytes.to_string())),
        ..CacheItem::default()
    })
}

/// Bytes of a model that are on disk, verified or on their way.
fn stored_bytes(wish: &Wish, inventory: &Inventory) -> u64 {
    let What::Model(model) = &wish.what else {
        return 0;
    };
    let (repo, commit) = (model.repo.to_string(), model.revision.to_string());
    let same = |item: &&crate::store::Item| item.repo == repo && item.commit == commit;
    inventory
        .items
        .iter()
        .find(same)
        .map_or(0, |item| item.bytes)
}

/// What tells items in a status apart.
fn identity(item: &CacheItem) -> (Option<String>, Option<String>, String) {
    let bare = |text: &String| text.strip_prefix("hf://").unwrap_or(text).to_owned();
    (
        item.image.clone(),
        item.model.as_ref().map(bare),
        item.files.clone(),
    )
}

/// Whether everything of a model is there and verified.
pub(super) fn is_verified(store: &Store, model: &ModelRef) -> bool {
    let known = known_model(store, model).ok().flatten();
    known.is_some_and(|known| is_whole(store, &known.plan.id().to_string()))
}

/// Whether everything of a plan is there and verified.
pub(super) fn is_whole(store: &Store, id: &str) -> bool {
    let items = store.inventory().map(|inventory| inventory.items);
    let mut items = items.unwrap_or_default().into_iter();
    let found = items.find(|item| item.plan.id == id);
    found.is_some_and(|item| item.state == State::Verified && item.tree.is_dir())
}

impl Kind {
    /// As metrics call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Model => "model",
        }
    }
}

fn time(at: SystemTime) -> Option<Time> {
    // To the second, as the API server keeps it.
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let at = k8s_openapi::jiff::Timestamp::from_millisecond(i64::try_from(since.as_millis()).ok()?)
        .ok()?;
    Some(Time(at))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
