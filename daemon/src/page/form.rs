//! What the page reads, as JSON: a stable form of its own. Fields are added, never changed or removed.
//!
//! Moments are milliseconds since 1970, spans seconds, sizes bytes, prices US dollars per hour.

use std::collections::{BTreeMap, BTreeSet};

use headstart_api::{CacheItem, NodeCache};
use kube::ResourceExt as _;
use serde::{Deserialize, Serialize};

use crate::ledger::clerk::Report;
use crate::ledger::{Deploy, Fetched, Interval, Moment, words};
use crate::metrics::inventory::{all_bytes, kind, state};
use crate::metrics::label::ItemState;

/// Version of these forms.
pub(crate) const API_VERSION: &str = "ledger.headstart.dev/v1";

/// Most deploys that are shown, the youngest.
const DEPLOYS: usize = 100;

/// Most nodes of the map.
const NODES: usize = 100;

/// Most items of the map.
const ITEMS: usize = 60;

/// All deploys.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeploysForm {
    /// [`API_VERSION`].
    pub(crate) api_version: String,
    /// When it was looked; 0 before that.
    pub(crate) at: i64,
    /// The youngest first.
    pub(crate) deploys: Vec<DeployForm>,
    /// How many older ones are left out.
    pub(crate) left_out: usize,
}

/// One deploy.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeployForm {
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) pod: String,
    /// Its UID, which without dashes is the trace's id.
    pub(crate) uid: String,
    /// The node.
    pub(crate) node: Option<String>,
    /// The claim it was bought by.
    pub(crate) claim: Option<String>,
    /// The pool.
    pub(crate) pool: Option<String>,
    /// Instance type.
    pub(crate) instance_type: Option<String>,
    /// `spot`, `on-demand` or `reserved`.
    pub(crate) capacity_type: Option<String>,
    /// Price of the node.
    pub(crate) usd_per_hour: Option<f64>,
    /// `cold`, `partial`, `warm` or `unknown`.
    pub(crate) cached: String,
    /// When the pod was created.
    pub(crate) created: i64,
    /// When it was Ready.
    pub(crate) served: Option<i64>,
    /// The stage it waits for.
    pub(crate) waits_for: Option<String>,
    /// From creation to serving, or until now.
    pub(crate) wall_seconds: f64,
    /// What of that it waited for bytes.
    pub(crate) exposed_byte_seconds: f64,
    /// Whether that is the most it can have been.
    pub(crate) exposed_at_most: bool,
    /// How long bytes moved while something else was waited for.
    pub(crate) hidden_byte_seconds: f64,
    /// The stages; they sum to `wallSeconds`.
    pub(crate) stages: Vec<StageForm>,
    /// What it starts with.
    pub(crate) items: Vec<ItemForm>,
    /// What has to be known to read this right.
    pub(crate) remarks: Vec<String>,
}

/// One stage.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StageForm {
    /// Its word.
    pub(crate) stage: String,
    /// When it began, after the pod's creation.
    pub(crate) start_seconds: f64,
    /// How long it held the deploy up.
    pub(crate) seconds: f64,
    /// `stamp`, `at-most`, `missing`, `nothing` or `open`.
    pub(crate) known: String,
}

/// One item of a deploy.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ItemForm {
    /// As it is written.
    pub(crate) name: String,
    /// `image` or `weights`.
    pub(crate) kind: String,
    /// How much of it was there beforehand.
    pub(crate) cached: String,
    /// All its bytes, if known.
    pub(crate) bytes: Option<u64>,
    /// Those that arrived while they were waited for.
    pub(crate) exposed_bytes: u64,
    /// How long it was waited for.
    pub(crate) exposed_seconds: f64,
    /// When it began to move, after the pod's creation; negative before it.
    pub(crate) start_seconds: Option<f64>,
    /// When it was verified.
    pub(crate) end_seconds: Option<f64>,
    /// Bytes by where they came from.
    pub(crate) sources: BTreeMap<String, u64>,
}

/// What is cached where.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CachesForm {
    /// [`API_VERSION`].
    pub(crate) api_version: String,
    /// When it was looked; 0 before that.
    pub(crate) at: i64,
    /// Columns.
    pub(crate) nodes: Vec<NodeForm>,
    /// Rows.
    pub(crate) items: Vec<RowForm>,
    /// How many nodes are left out.
    pub(crate) nodes_left_out: usize,
    /// How many items are left out.
    pub(crate) items_left_out: usize,
}

/// One node with a cache.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeForm {
    /// Its name.
    pub(crate) name: String,
    /// When its agent reported last.
    pub(crate) observed: Option<i64>,
    /// Bytes it may still write, as it says.
    pub(crate) room: Option<String>,
    /// What went wrong last.
    pub(crate) problem: String,
}

/// One item over all nodes of the map.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowForm {
    /// As the agents write it.
    pub(crate) name: String,
    /// `image` or `weights`.
    pub(crate) kind: String,
    /// One per node, in their order.
    pub(crate) cells: Vec<CellForm>,
}

/// One item on one node.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CellForm {
    /// `verified`, `partial`, `unverified`, `failed`, `wanted` or `absent`.
    pub(crate) state: String,
    /// How much of it is there, of a hundred.
    pub(crate) percent: Option<u8>,
    /// Why it is not, if it is not.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub(crate) problem: String,
}

/// The deploys of a report.
pub(crate) fn deploys(report: &Report) -> DeploysForm {
    DeploysForm {
        api_version: API_VERSION.to_owned(),
        at: report.at.millis(),
        deploys: report
            .deploys
            .iter()
            .take(DEPLOYS)
            .map(|one| deploy(one))
            .collect(),
        left_out: report.deploys.len().saturating_sub(DEPLOYS),
    }
}

/// One deploy.
pub(crate) fn deploy(deploy: &Deploy) -> DeployForm {
    let text = |value: &Option<String>| value.clone();
    let stage = |one: &Interval| StageForm {
        stage: one.stage.word().to_owned(),
        start_seconds: after(one.start, deploy.created),
        seconds: one.took().as_secs_f64(),
        known: words::known(one.known).to_owned(),
    };
    DeployForm {
        namespace: deploy.pod.namespace.clone(),
        pod: deploy.pod.name.clone(),
        uid: deploy.uid.clone(),
        node: text(&deploy.node),
        claim: text(&deploy.claim),
        pool: text(&deploy.pool),
        instance_type: text(&deploy.instance_type),
        capacity_type: deploy.capacity.map(|capacity| capacity.to_string()),
        usd_per_hour: deploy.price.map(headstart_core::money::HourlyPrice::usd),
        cached: deploy.cached.word().to_owned(),
        created: deploy.created.millis(),
        served: deploy.served.map(Moment::millis),
        waits_for: deploy.waits_for().map(|stage| stage.word().to_owned()),
        wall_seconds: deploy.wall().as_secs_f64(),
        exposed_byte_seconds: deploy.exposed().as_secs_f64(),
        exposed_at_most: deploy.exposed_at_most(),
        hidden_byte_seconds: deploy.hidden().as_secs_f64(),
        stages: deploy.intervals.iter().map(stage).collect(),
        items: deploy.items.iter().map(|one| item(one, deploy)).collect(),
        remarks: deploy.remarks.iter().map(words::remark).collect(),
    }
}

fn item(item: &Fetched, deploy: &Deploy) -> ItemForm {
    let span = item.span(deploy.seen);
    ItemForm {
        name: item.name.clone(),
        kind: item.kind.word().to_owned(),
        cached: item.cached.word().to_owned(),
        bytes: item.bytes,
        exposed_bytes: item.exposed_bytes,
        exposed_seconds: item.exposed.as_secs_f64(),
        start_seconds: span.map(|(start, _)| after(start, deploy.created)),
        end_seconds: span.map(|(_, end)| after(end, deploy.created)),
        sources: item.sources.iter().cloned().collect(),
    }
}

fn after(moment: Moment, created: Moment) -> f64 {
    moment.0.saturating_sub(created.0) as f64 / 1e6
}

/// The caches of a report: nodes where something is on its way or wrong come first.
pub(crate) fn caches(report: &Report) -> CachesForm {
    let mut caches: Vec<&NodeCache> = report.objects.caches.iter().map(|cache| &**cache).collect();
    caches.sort_by_cached_key(|cache| (!is_busy(cache), cache.name_any()));
    let all_nodes = caches.len();
    caches.truncate(NODES);
    let mut names: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for cache in &caches {
        let found = cache.status.iter().flat_map(|status| &status.items);
        let seen: BTreeSet<_> = found.chain(&cache.spec.items).map(key).collect();
        for key in seen {
            *names.entry(key).or_default() += 1;
        }
    }
    let all_items = names.len();
    let mut items: Vec<((&'static str, String), usize)> = names.into_iter().collect();
    // On most nodes first.
    items.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    items.truncate(ITEMS);
    let rows = items.into_iter().map(|((kind, name), _)| RowForm {
        cells: caches
            .iter()
            .map(|cache| cell(cache, kind, &name))
            .collect(),
        kind: kind.to_owned(),
        name,
    });
    CachesForm {
        api_version: API_VERSION.to_owned(),
        at: report.at.millis(),
        items: rows.collect(),
        nodes: caches.iter().map(|cache| node(cache)).collect(),
        nodes_left_out: all_nodes - caches.len(),
        items_left_out: all_items.saturating_sub(ITEMS),
    }
}

fn is_busy(cache: &NodeCache) -> bool {
    let found = cache.status.iter().flat_map(|status| &status.items);
    let mut states = found.filter_map(state);
    states.any(|state| state != ItemState::Verified)
        || cache
            .status
            .as_ref()
            .is_some_and(|status| !status.problem.is_empty())
}

fn node(cache: &NodeCache) -> NodeForm {
    let status = cache.status.as_ref();
    let observed = status.and_then(|status| status.observed.as_ref());
    NodeForm {
        name: cache.name_any(),
        observed: observed.map(|time| Moment::at(time).millis()),
        room: status.and_then(|status| Some(status.room.as_ref()?.0.clone())),
        problem: status.map_or(String::new(), |status| cut(&status.problem)),
    }
}

fn key(item: &CacheItem) -> (&'static str, String) {
    let name = item.image.as_ref().or(item.model.as_ref());
    let name = name.map_or("", String::as_str);
    let files = match item.files.as_str() {
        "" => String::new(),
        files => format!("?{files}"),
    };
    (kind(item).word(), cut(&format!("{name}{files}")))
}

fn cell(cache: &NodeCache, of_kind: &str, name: &str) -> CellForm {
    let same = |item: &&CacheItem| {
        let (kind, found) = key(item);
        (kind, found.as_str()) == (of_kind, name)
    };
    let absent = |state: &str| CellForm {
        state: state.to_owned(),
        ..CellForm::default()
    };
    let mut found = cache.status.iter().flat_map(|status| &status.items);
    let Some(item) = found.find(same) else {
        let wanted = cache.spec.items.iter().any(|item| same(&item));
        return absent(if wanted { "wanted" } else { "absent" });
    };
    let Some(state) = state(item) else {
        return absent("absent");
    };
    let percent = match state {
        ItemState::Partial => part(cache, item),
        _ => None,
    };
    CellForm {
        state: state.word().to_owned(),
        percent,
        problem: cut(&item.problem),
    }
}

/// How much of a partial item is there, of a hundred, as far as its size is known.
fn part(cache: &NodeCache, item: &CacheItem) -> Option<u8> {
    let there = item.bytes.as_ref()?;
    let there = headstart_core::amount::parse("ephemeral-storage", &there.0).ok()?;
    let whole = cache
        .spec
        .items
        .iter()
        .find(|other| key(other) == key(item));
    let whole = all_bytes(
        cache,
        &CacheItem {
            bytes: None,
            ..whole?.clone()
        },
    )
    .or_else(|| all_bytes(cache, whole?))?;
    let percent = there.checked_mul(100)?.checked_div(whole)?;
    Some(u8::try_from(percent.clamp(0, 99)).unwrap_or(99))
}

fn cut(text: &str) -> String {
    text.chars().take(300).collect()
}
