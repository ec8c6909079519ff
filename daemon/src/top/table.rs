//! What `headstart top` shows, as text. Pure: objects and a moment in, text out.

use std::sync::Arc;

use headstart_api::{ItemPhase, NodeCache, NodeClaim};
use headstart_core::quantity::Bytes;
use kube::ResourceExt as _;

use crate::columns::{Align, Columns};
use crate::ledger::{Deploy, Moment, Objects, deploys, words};
use crate::metrics::inventory::{kind, state};
use crate::metrics::label::ItemState;

/// Most rows of one table.
const ROWS: usize = 50;

/// Most characters of a name that many have.
const WIDTH: usize = 60;

/// Everything, with deploys of one namespace if one is named.
pub(super) fn top(objects: &Objects, namespace: Option<&str>, now: Moment) -> String {
    let mut text = nodes(objects, now) + "\n";
    let mut deploys = deploys(objects, now);
    deploys.retain(|deploy| namespace.is_none_or(|only| deploy.pod.namespace == only));
    // What is under way first; it is what one looks for.
    deploys.sort_by_key(|deploy| deploy.served.is_some());
    text += &of_deploys(&deploys);
    text
}

/// Claims and caches.
pub(crate) fn nodes(objects: &Objects, now: Moment) -> String {
    let mut text = String::new();
    claims(objects, now, &mut text);
    caches(objects, now, &mut text);
    text
}

fn claims(objects: &Objects, now: Moment, text: &mut String) {
    let mut claims: Vec<&NodeClaim> = objects.claims.iter().map(Arc::as_ref).collect();
    claims.sort_by_cached_key(|claim| {
        let created = claim.metadata.creation_timestamp.as_ref().map(Moment::at);
        (std::cmp::Reverse(created), claim.name_any())
    });
    let mut columns = Columns::new(&[
        ("CLAIM", Align::Left),
        ("NODE", Align::Left),
        ("TYPE", Align::Left),
        ("CAPACITY", Align::Left),
        ("USD/h", Align::Right),
        ("REACHED", Align::Left),
        ("AGE", Align::Right),
        ("FOR", Align::Left),
    ]);
    for claim in claims.iter().take(ROWS) {
        let spec = &claim.spec;
        let status = claim.status.as_ref();
        let price = spec.price.map(|price| format!("{:.2}", price.0.usd()));
        let first = spec.pods.first().map_or("", String::as_str);
        let pods = match spec.pods.len() {
            0 | 1 => first.to_owned(),
            more => format!("{first} and {} more", more - 1),
        };
        columns.row([
            claim.name_any(),
            status.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            spec.offering.instance_type.clone(),
            spec.offering.capacity_type.clone(),
            price.unwrap_or_default(),
            reached(claim).to_owned(),
            age(
                claim.metadata.creation_timestamp.as_ref().map(Moment::at),
                now,
            ),
            cut(&pods),
        ]);
    }
    put("no claims", claims.len(), &columns, text);
}

/// The last stage that a claim has reached.
fn reached(claim: &NodeClaim) -> &'static str {
    let failed = claim.status.iter().flat_map(|status| &status.conditions);
    let mut failed = failed.filter(|found| found.type_ == "Failed" && found.status == "True");
    if failed.next().is_some() {
        return "failed";
    }
    let Some(status) = &claim.status else {
        return "wanted";
    };
    let stages = &status.stages;
    match stages {
        stages if stages.gpu_allocatable.is_some() => "gpu-allocatable",
        stages if stages.ready.is_some() => "ready",
        stages if stages.registered.is_some() => "registered",
        stages if stages.agent_started.is_some() => "agent-started",
        stages if stages.launched.is_some() => "launched",
        stages if stages.requested.is_some() => "requested",
        _ => "wanted",
    }
}

fn caches(objects: &Objects, now: Moment, text: &mut String) {
    let mut caches: Vec<&NodeCache> = objects.caches.iter().map(Arc::as_ref).collect();
    caches.sort_by_cached_key(|cache| cache.name_any());
    let mut columns = Columns::new(&[
        ("CACHE", Align::Left),
        ("VERIFIED", Align::Right),
        ("COMING", Align::Right),
        ("FAILED", Align::Right),
        ("ROOM", Align::Right),
        ("REPORTED", Align::Right),
        ("FETCHING", Align::Left),
    ]);
    for cache in caches.iter().take(ROWS) {
        let status = cache.status.as_ref();
        let items = || status.into_iter().flat_map(|status| &status.items);
        let count = |wanted: ItemState| {
            let of_state = items().filter(|item| state(item) == Some(wanted));
            of_state.count().to_string()
        };
        let coming = cache.spec.items.iter().filter(|wanted| {
            let same = |item: &&headstart_api::CacheItem| {
                (&item.image, &item.model, &item.files)
                    == (&wanted.image, &wanted.model, &wanted.files)
            };
            items()
                .find(same)
                .is_none_or(|item| item.state != Some(ItemPhase::Verified))
        });
        let fetching = status.and_then(|status| status.fetching.first());
        let fetching = fetching.map(|item| {
            let name = item.image.as_ref().or(item.model.as_ref());
            format!("{} {}", kind(item).word(), name.map_or("", String::as_str))
        });
        let observed = status.and_then(|status| status.observed.as_ref());
        columns.row([
            cache.name_any(),
            count(ItemState::Verified),
            coming.count().to_string(),
            count(ItemState::Failed),
            status
                .and_then(|s| s.room.as_ref())
                .map_or(String::new(), |room| {
                    let bytes = room.0.parse::<Bytes>();
                    bytes.map_or_else(|_| room.0.clone(), |bytes| bytes.to_string())
                }),
            age(observed.map(Moment::at), now),
            cut(&fetching.unwrap_or_default()),
        ]);
    }
    put("no caches", caches.len(), &columns, text);
}

/// The table of deploys.
pub(crate) fn of_deploys(deploys: &[Deploy]) -> String {
    let mut text = String::new();
    let mut columns = Columns::new(&[
        ("DEPLOY", Align::Left),
        ("NODE", Align::Left),
        ("CACHE", Align::Left),
        ("STATE", Align::Left),
        ("TIME", Align::Right),
        ("EXPOSED", Align::Right),
        ("HIDDEN", Align::Right),
    ]);
    for deploy in deploys.iter().take(ROWS) {
        let state = match deploy.waits_for() {
            Some(stage) => format!("waits for {}", stage.word()),
            None => "serves".to_owned(),
        };
        let most = if deploy.exposed_at_most() { "<= " } else { "" };
        columns.row([
            deploy.pod.to_string(),
            deploy.node.clone().unwrap_or_default(),
            deploy.cached.word().to_owned(),
            state,
            words::span(deploy.wall()),
            format!("{most}{}", words::span(deploy.exposed())),
            words::span(deploy.hidden()),
        ]);
    }
    put("no deploys", deploys.len(), &columns, &mut text);
    text
}

fn put(none: &str, rows: usize, columns: &Columns, text: &mut String) {
    if !text.is_empty() {
        text.push('\n');
    }
    match rows {
        0 => {
            text.push_str(none);
            text.push('\n');
        }
        rows => {
            text.push_str(&columns.render(0));
            if rows > ROWS {
                text.push_str(&format!("and {} more\n", rows - ROWS));
            }
        }
    }
}

fn age(since: Option<Moment>, now: Moment) -> String {
    since.map_or(String::new(), |since| words::span(now.since(since)))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
