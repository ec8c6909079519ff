//! Between the agent and the API server: which `NodeCache` is this node's, what it asks for, and what
//! is here, in its status.
//!
//! - The status is written by this node's agent alone, by server-side apply under a name of its own,
//!   and bound to the object it was computed for: one made anew under the same name is another.
//! - A change of state is written within about a second, progress every [`PROGRESS_EVERY`], and
//!   nothing else but a sign of life every [`ALIVE_EVERY`].
//! - A deleted object takes nothing away: the intent known stays until there is another.
//! - Nothing waits for the API server; while it is away everything goes on.

use std::time::Duration;

use futures_util::StreamExt as _;
use headstart_api::names::{AGENT_FIELD_MANAGER, NODE_CLAIM};
use headstart_api::{NodeCache, NodeCacheStatus};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::{Agent, Me};
use crate::report::chain;

/// Least time between two writes.
const LEAST: Duration = Duration::from_secs(1);

/// How often bytes alone are worth a write.
pub(crate) const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// How often a status that says nothing new is written: the planner believes one for five minutes.
pub(crate) const ALIVE_EVERY: Duration = Duration::from_secs(120);

/// Longest pause after a write that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Pause after one that failed while a notice of the machine's end is to be told.
const URGENT: Duration = Duration::from_secs(2);

/// How long a write may take.
const WRITE: Duration = Duration::from_secs(20);

/// Which object is this node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ours {
    name: String,
    /// None while there is no such object.
    uid: Option<String>,
}

/// Follows the intent and reports, until dropped.
pub(crate) async fn announce(client: Client, node: String, agent: Agent) {
    let (names, mut name) = watch::channel(None);
    let (ours, told) = watch::channel(Ours::default());
    let following = async {
        loop {
            let now: Option<String> = name.borrow_and_update().clone();
            let follow = async {
                match now {
                    Some(name) => follow(&client, name, &agent, &ours).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = follow => {}
                changed = name.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = identify(&client, &node, &agent, &names) => {}
        () = following => {}
        () = report(&client, told, &agent) => {}
    }
}

/// Finds out which machine this is and how its `NodeCache` is called.
async fn identify(
    client: &Client,
    node: &str,
    agent: &Agent,
    names: &watch::Sender<Option<String>>,
) {
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let mut events = watcher::watcher(nodes, only(node))
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(found) | Event::InitApply(found)) => {
                let uid = found.uid();
                agent.introduce(Me { node: uid }).await;
                let name = claim_of(&found).unwrap_or_else(|| node.to_owned());
                names.send_if_modified(|known| {
                    let is_new = known.as_ref() != Some(&name);
                    if is_new {
                        tracing::info!(%node, cache = %name, "this node's cache object is known");
                        *known = Some(name);
                    }
                    is_new
                });
            }
            Ok(Event::Delete(_) | Event::Init | Event::InitDone) => {}
            Err(error) => tracing::warn!(reason = %chain(&error), "node is not watched"),
        }
    }
}

/// The claim that a node was bought for.
fn claim_of(node: &PartialObjectMeta<Node>) -> Option<String> {
    let claim = node.labels().get(NODE_CLAIM)?;
    (!claim.is_empty()).then(|| claim.clone())
}

/// Hears what the object of that name asks for.
async fn follow(client: &Client, name: String, agent: &Agent, ours: &watch::Sender<Ours>) {
    let caches: Api<NodeCache> = Api::all(client.clone());
    let mut events = watcher::watcher(caches, only(&name))
        .default_backoff()
        .boxed();
    let mut seen = false;
    let tell = |uid: Option<String>| {
        let name = name.clone();
        ours.send_replace(Ours { name, uid });
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(cache) | Event::InitApply(cache)) => {
                seen = true;
                match agent.hear(&cache).await {
                    true => tell(cache.uid()),
                    false => tell(None),
                }
            }
            Ok(Event::Init) => seen = false,
            Ok(Event::InitDone) if !seen => tell(None),
            Ok(Event::Delete(_)) => {
                tracing::warn!(cache = %name, "cache object is deleted; its last intent is kept");
                tell(None);
            }
            Ok(Event::InitDone) => {}
            Err(error) => tracing::warn!(reason = %chain(&error), "cache object is not watched"),
        }
    }
}

fn only(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

/// Writes the status whenever it is worth it.
async fn report(client: &Client, mut ours: watch::Receiver<Ours>, agent: &Agent) {
    let caches: Api<NodeCache> = Api::all(client.clone());
    let mut happened = agent.happened();
    let mut pace = Pace::default();
    let mut known = Ours::default();
    loop {
        let now = ours.borrow_and_update().clone();
        if now != known {
            (known, pace) = (now, Pace::default());
        }
        happened.borrow_and_update();
        let mut pause = ALIVE_EVERY;
        if let Some(uid) = &known.uid {
            pause = match agent.status().await {
                Ok(status) => match pace.judge(&status, Instant::now()) {
                    Write::Now => {
                        let written = write(&caches, &known.name, uid, status.clone()).await;
                        pace.wrote(status, written, Instant::now())
                    }
                    Write::In(pause) => pause,
                },
                Err(error) => {
                    tracing::warn!(reason = %chain(&error), "store is not readable");
                    LONGEST_PAUSE
                }
            };
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = ours.changed() => if changed.is_err() { return },
            // What happens meanwhile is judged when a write is allowed again.
            _ = happened.changed(), if pause > LEAST => {}
        }
    }
}

async fn write(
    caches: &Api<NodeCache>,
    name: &str,
    uid: &str,
    mut status: NodeCacheStatus,
) -> Result<(), String> {
    status.observed = Some(Time(k8s_openapi::jiff::Timestamp::now()));
    let object = serde_json::json!({
        "apiVersion": NodeCache::api_version(&()),
        "kind": NodeCache::kind(&()),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    let params = PatchParams::apply(AGENT_FIELD_MANAGER).force();
    let patch = Patch::Apply(&object);
    let written = tokio::time::timeout(WRITE, caches.patch_status(name, &params, &patch));
    match written.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", WRITE.as_secs())),
    }
}

/// When the next write is due.
#[derive(Default)]
struct Pace {
    last: Option<(NodeCacheStatus, Instant)>,
    tried: Option<Instant>,
    failures: u32,
}

/// Whether to write.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    Now,
    /// Not before this long from now, whatever happens.
    In(Duration),
}

impl Pace {
    fn judge(&self, status: &NodeCacheStatus, now: Instant) -> Write {
        let since = |at: Instant| now.saturating_duration_since(at);
        let not_before = match (self.failures, self.tried) {
            (_, None) => Duration::ZERO,
            (0, Some(tried)) => LEAST.saturating_sub(since(tried)),
            (_, Some(tried)) if self.is_notice(status) => URGENT.saturating_sub(since(tried)),
            (failures, Some(tried)) => {
                let pause = LEAST * 2_u32.saturating_pow(failures.min(6));
                pause.min(LONGEST_PAUSE).saturating_sub(since(tried))
            }
        };
        if !not_before.is_zero() {
            return Write::In(not_before);
        }
        let Some((last, at)) = &self.last else {
            return Write::Now;
        };
        let every = match (
            last == status,
            without_progress(last) == without_progress(status),
        ) {
            (true, _) => ALIVE_EVERY,
            (_, true) => PROGRESS_EVERY,
            (_, false) => LEAST,
        };
        let left = every.saturating_sub(since(*at));
        // While bytes arrive nothing else may happen for long.
        let look = if status.fetching.is_empty() {
            ALIVE_EVERY
        } else {
            PROGRESS_EVERY
        };
        match left.is_zero() {
            true => Write::Now,
            false => Write::In(left.min(look)),
        }
    }

    /// Whether it says of the machine's end what was not written yet.
    fn is_notice(&self, status: &NodeCacheStatus) -> bool {
        let last = self.last.as_ref();
        let last = last.and_then(|(last, _)| last.interruption.as_ref());
        status.interruption.is_some() && status.interruption.as_ref() != last
    }

    fn wrote(
        &mut self,
        status: NodeCacheStatus,
        written: Result<(), String>,
        now: Instant,
    ) -> Duration {
        self.tried = Some(now);
        match written {
            Ok(()) => {
                self.failures = 0;
                self.last = Some((status, now));
            }
            Err(reason) => {
                tracing::warn!(%reason, "status not written");
                self.failures = self.failures.saturating_add(1);
            }
        }
        LEAST
    }
}

/// A status without what changes by itself while bytes arrive.
fn without_progress(status: &NodeCacheStatus) -> NodeCacheStatus {
    let mut bare = status.clone();
    bare.room = None;
    for item in bare.items.iter_mut().chain(&mut bare.fetching) {
        item.bytes = None;
        item.sources.clear();
    }
    bare
}

#[cfg(test)]
mod tests {
    use headstart_api::{
        Amount, CacheItem, Interruption, InterruptionKind, ItemPhase, NoticeSource,
    };

    use super::*;

    fn status(state: ItemPhase, bytes: u64) -> NodeCacheStatus {
        let item = CacheItem {
            model: Some("org/m@x".to_owned()),
            state: Some(state),
            bytes: Some(Amount(bytes.to_string())),
            ..CacheItem::default()
        };
        NodeCacheStatus {
            items: vec![item.clone()],
            fetching: vec![item],
            ..NodeCacheStatus::default()
        }
    }

    #[test]
    fn states_are_written_within_a_second_progress_every_ten_and_nothing_new_every_two_minutes() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut pace = Pace::default();
        let half = status(ItemPhase::Partial, 5);
        assert_eq!(pace.judge(&half, at(0.0)), Write::Now);
        pace.wrote(half.clone(), Ok(()), at(0.0));
        let more = status(ItemPhase::Partial, 6);
        let whole = status(ItemPhase::Verified, 10);
        assert_eq!(
            pace.judge(&whole, at(0.5)),
            Write::In(Duration::from_millis(500))
        );
        assert_eq!(pace.judge(&whole, at(1.0)), Write::Now);
        assert_eq!(
            pace.judge(&more, at(4.0)),
            Write::In(Duration::from_secs(6))
        );
        assert_eq!(pace.judge(&more, at(10.0)), Write::Now);
        assert_eq!(pace.judge(&half, at(10.0)), Write::In(PROGRESS_EVERY));
        assert_eq!(pace.judge(&half, at(120.0)), Write::Now);
    }

    #[test]
    fn a_notice_of_the_end_is_tried_every_two_seconds_however_often_it_failed() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut half = status(ItemPhase::Partial, 5);
        pace.wrote(half.clone(), Ok(()), start);
        half.interruption = Some(Interruption {
            kind: InterruptionKind::Taken,
            source: NoticeSource::Gcp,
            noticed: None,
            at: None,
        });
        assert_eq!(pace.judge(&half, start + LEAST), Write::Now);
        for _ in 0..9 {
            pace.wrote(half.clone(), Err("away".to_owned()), start);
            assert_eq!(pace.judge(&half, start), Write::In(URGENT));
        }
        pace.wrote(half.clone(), Ok(()), start);
        assert_eq!(pace.judge(&half, start + LEAST), Write::In(PROGRESS_EVERY));
    }

    #[test]
    fn a_write_that_fails_is_tried_again_ever_later_up_to_half_a_minute() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let half = status(ItemPhase::Partial, 5);
        for wait in [2, 4, 8, 16, 30, 30] {
            pace.wrote(half.clone(), Err("away".to_owned()), start);
            assert_eq!(
                pace.judge(&half, start),
                Write::In(Duration::from_secs(wait))
            );
            assert_eq!(
                pace.judge(&half, start + Duration::from_secs(wait)),
                Write::Now
            );
        }
        pace.wrote(half.clone(), Ok(()), start);
        assert_eq!(
            pace.judge(&status(ItemPhase::Verified, 9), start + LEAST),
            Write::Now
        );
    }
}
