//! Pods behind our scheduling gate: led to a node and let go, and let go in any case after a while.
//!
//! - A node is nominated first, then the gate is opened; only ours, by its name.
//! - [`steer`] runs where it is asked to choose; [`watch_gates`] runs on every replica and needs
//!   nothing but the API server.
//! - At its end the watch opens every gate there is, and those that come while the last answers of the
//!   webhook arrive. What it cannot help: a gate put on by a daemon whose every replica is killed at
//!   once; it is opened when one of them is back.
//! - A nomination reserves: one that did not lead to its node in time is withdrawn. That it is ours is
//!   written with it, so that it is known again by whoever comes after one that was killed.
//! - No call waits for an API server that does not answer, and none is given up: what failed is tried
//!   again until the gate is open.
//!
//! Source: Kubernetes KEP-3521 (gates), KEP-5278 (nominated node name for expectation).

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use headstart_api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::utils::Backoff;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Counts, Opened};

/// Annotation that says where we nominated a pod to.
pub(crate) const NOMINATED: &str = "headstart.dev/nominated";

/// After how long a nomination of ours that led nowhere is withdrawn.
const STALE: Duration = Duration::from_secs(15);

/// How long gates that still come are opened after the end was asked for.
const LINGER: Duration = Duration::from_secs(2);

/// Most pods that are worked on at a time.
const AT_ONCE: usize = 32;

/// After how long a gate that could not be opened is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// After how long a watch that failed is made again: pods that nobody sees wait behind their gates.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// What a call may take. A connection that leads nowhere any more is left, and another one made.
const CALL: Duration = Duration::from_secs(5);

/// Where a gated pod is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// To this node.
    Node(String),
    /// Wherever the scheduler likes.
    Anywhere,
    /// Not said yet, or another replica says; the watch bounds the wait.
    Wait,
}

/// Chooses nodes for gated pods.
pub(crate) trait Targets: Send + Sync {
    /// Where `pod` is to go. Asked again with every change of the pod, and after [`Targets::changed`].
    fn target(&self, pod: &Pod) -> Choice;

    /// Resolves when pods that were to wait are to be asked for again.
    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// What could not be done to a pod.
#[derive(Debug, thiserror::Error)]
#[error(
    "{verb} pod {pod}; the account of the control plane must be allowed to patch pods and pods/status"
)]
struct GateError {
    verb: &'static str,
    pod: String,
    #[source]
    source: kube::Error,
}

/// Leads gated pods to their nodes until `stop`.
pub(crate) async fn steer(
    client: Client,
    targets: Arc<dyn Targets>,
    counts: Arc<dyn Counts>,
    stop: CancellationToken,
) {
    let mut events = pin!(waiting(&client));
    let mut at_work: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
    let mut gated: HashMap<String, Gated> = HashMap::new();
    let mut stale: HashMap<String, Instant> = HashMap::new();
    let mut changed = targets.changed();
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        let asked: Vec<String> = tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = at_work.next(), if !at_work.is_empty() => {
                match done {
                    Done::Well => {}
                    Done::NotWithdrawn(key) => {
                        stale.entry(key).or_insert(Instant::now() + AGAIN);
                    }
                    Done::NotLed(key) => {
                        if let Some(pod) = gated.get_mut(&key) {
                            pod.stage = Stage::Waits;
                        }
                    }
                }
                continue;
            }
            event = events.next(), if at_work.len() < AT_ONCE => match event {
                Some(Seen::Here(pod)) => {
                    let key = key(&pod);
                    note_nomination(&pod, &mut stale);
                    match gate(&pod) {
                        Some(_) => {
                            Gated::note(&mut gated, key.clone(), *pod);
                            vec![key]
                        }
                        None => {
                            gated.remove(&key);
                            Vec::new()
                        }
                    }
                }
                Some(Seen::Gone(pod)) => {
                    let key = key(&pod);
                    gated.remove(&key);
                    stale.remove(&key);
                    Vec::new()
                }
                Some(Seen::Anew) => {
                    // All that is there comes again.
                    gated.clear();
                    Vec::new()
                }
                None => return,
            },
            () = &mut changed => {
                changed = targets.changed();
                gated.keys().cloned().collect()
            }
            _ = look.tick() => {
                let now = Instant::now();
                for (key, _) in stale.extract_if(|_, at| *at <= now) {
                    at_work.push(withdraw(&client, key).boxed());
                }
                Vec::new()
            }
        };
        for key in asked {
            let Some(pod) = gated.get_mut(&key).filter(|pod| pod.stage == Stage::Waits) else {
                continue;
            };
            let choice = match is_held_by_others(&pod.pod) {
                true => Choice::Anywhere,
                false => targets.target(&pod.pod),
            };
            if choice == Choice::Wait {
                continue;
            }
            pod.stage = Stage::Led;
            let led = lead(&client, pod.pod.clone(), choice, &*counts);
            at_work.push(led.boxed());
        }
    }
}

/// A pod behind our gate.
struct Gated {
    pod: Pod,
    stage: Stage,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has said yet where it is to go.
    Waits,
    /// It is on its way. Until that is seen, its events tell of our own writes.
    Led,
}

impl Gated {
    fn note(gated: &mut HashMap<String, Self>, key: String, pod: Pod) {
        let stage = match gated.get(&key) {
            Some(known) if known.pod.metadata.uid == pod.metadata.uid => known.stage,
            _ => Stage::Waits,
        };
        gated.insert(key, Self { pod, stage });
    }
}

/// What became of work on a pod.
enum Done {
    /// There is no more to do.
    Well,
    /// A nomination is to be looked at again.
    NotWithdrawn(String),
    /// A pod is to be led again.
    NotLed(String),
}

/// Opens every gate of ours that is older than `deadline`, until `stop`; then all of them.
pub(crate) async fn watch_gates(
    client: Client,
    deadline: Duration,
    counts: Arc<dyn Counts>,
    stop: CancellationToken,
) {
    let mut events = pin!(waiting(&client));
    let mut due: HashMap<String, (Instant, Pod)> = HashMap::new();
    let mut at_work = FuturesUnordered::new();
    let mut until: Option<Instant> = None;
    loop {
        let first = due.values().map(|(at, _)| *at).min();
        let wake = first.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let end = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = stop.cancelled(), if until.is_none() => {
                let now = Instant::now();
                until = Some(now + LINGER);
                for (at, _) in due.values_mut() {
                    *at = now;
                }
            }
            () = tokio::time::sleep_until(end), if until.is_some() && at_work.is_empty() => return,
            Some((key, again)) = at_work.next(), if !at_work.is_empty() => {
                let again: Option<Pod> = again;
                if let Some(pod) = again {
                    due.entry(key).or_insert((Instant::now() + AGAIN, pod));
                }
            }
            event = events.next() => match event {
                Some(Seen::Here(pod)) => match gate(&pod) {
                    Some(_) => {
                        let left = match until {
                            Some(_) => Duration::ZERO,
                            None => left(&pod, deadline),
                        };
                        // A change of the pod gives it no more time.
                        let at = due.get(&key(&pod)).map_or(Instant::now() + left, |(at, _)| *at);
                        due.insert(key(&pod), (at, *pod));
                    }
                    None => {
                        due.remove(&key(&pod));
                    }
                },
                Some(Seen::Gone(pod)) => {
                    due.remove(&key(&pod));
                }
                // What has gone meanwhile is found out when its time is up.
                Some(Seen::Anew) => {}
                None => return,
            },
            () = tokio::time::sleep_until(wake), if first.is_some() && at_work.len() < AT_ONCE => {
                let now = Instant::now();
                let overdue: Vec<String> = due
                    .iter()
                    .filter(|(_, (at, _))| *at <= now)
                    .map(|(key, _)| key.clone())
                    .take(AT_ONCE)
                    .collect();
                for key in overdue {
                    let Some((_, pod)) = due.remove(&key) else {
                        continue;
                    };
                    let (client, counts) = (client.clone(), Arc::clone(&counts));
                    at_work.push(async move {
                        match open(&client, &pod).await {
                            Ok(Outcome::Opened) => {
                                counts.gate_opened(Opened::Deadline);
                                tracing::info!(pod = key, "a gate was opened since its time was up");
                                (key, None)
                            }
                            Ok(Outcome::Changed) => (key, None),
                            Err(error) => {
                                tracing::warn!(error = &error as &dyn std::error::Error, "a gate could not be opened");
                                (key, Some(pod))
                            }
                        }
                    });
                }
            }
        }
    }
}

/// A pod without a node, or one that was and is no more; or that all are told of again.
enum Seen {
    Here(Box<Pod>),
    Gone(Box<Pod>),
    Anew,
}

/// Pods without a node, as they come and go.
fn waiting(client: &Client) -> impl Stream<Item = Seen> + Send + use<> {
    let config = watcher::Config::default().fields("spec.nodeName=");
    let events = watcher(Api::<Pod>::all(client.clone()), config).backoff(Steady);
    events.filter_map(async |event| match event {
        Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
            Some(Seen::Here(Box::new(pod)))
        }
        Ok(watcher::Event::Delete(pod)) => Some(Seen::Gone(Box::new(pod))),
        Ok(watcher::Event::Init) => Some(Seen::Anew),
        Ok(watcher::Event::InitDone) => None,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the watch of pods failed"
            );
            None
        }
    })
}

/// Always the same wait: one that grows would keep pods waiting after an API server that was away.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(WATCH_AGAIN)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// A call to the API server, which may hang.
async fn call<T>(called: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    let answer = tokio::time::timeout(CALL, called).await;
    answer.unwrap_or_else(|late| Err(kube::Error::Service(late.into())))
}

fn key(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// Where our gate stands among a pod's.
fn gate(pod: &Pod) -> Option<usize> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    gates
        .iter()
        .position(|gate| gate.name == names::STEERING_GATE)
}

/// Whether somebody else keeps a pod from being scheduled, nobody knows for how long. A nomination would
/// reserve all that time.
fn is_held_by_others(pod: &Pod) -> bool {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduling_gates.as_ref());
    let mut gates = gates.into_iter().flatten();
    gates.any(|gate| gate.name != names::STEERING_GATE)
}

/// How much of `deadline` is left for a pod. A clock that is behind gives it no more than all of it.
fn left(pod: &Pod, deadline: Duration) -> Duration {
    let created = pod.metadata.creation_timestamp.as_ref();
    let age = created.map_or(0, |time| {
        Timestamp::now().as_millisecond() - time.0.as_millisecond()
    });
    let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
    // Times of creation are cut to the second.
    let age = age.saturating_sub(Duration::from_secs(1));
    deadline.saturating_sub(age)
}

/// Nominates and opens.
async fn lead(client: &Client, pod: Pod, choice: Choice, counts: &dyn Counts) -> Done {
    let node = match &choice {
        Choice::Node(node) => Some(node.as_str()),
        _ => None,
    };
    let done = async {
        if let Some(node) = node {
            nominate(client, &pod, Some(node)).await?;
        }
        open(client, &pod).await
    };
    let key = key(&pod);
    match done.await {
        Ok(Outcome::Opened) => {
            counts.gate_opened(match node {
                Some(_) => Opened::Nominated,
                None => Opened::NoWarmNode,
            });
            tracing::debug!(pod = key, node, "a pod was led");
            Done::Well
        }
        Ok(Outcome::Changed) => Done::Well,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a pod could not be led");
            Done::NotLed(key)
        }
    }
}

/// Writes, or takes back, the node that a pod is nominated for, and that it is us who did.
async fn nominate(client: &Client, pod: &Pod, node: Option<&str>) -> Result<(), GateError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = Patch::Merge(json!({
        "metadata": {"uid": pod.metadata.uid, "annotations": {NOMINATED: node}},
        "status": {"nominatedNodeName": node},
    }));
    let (name, params) = (pod.name_any(), params());
    match call(api.patch_status(&name, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        // Another pod has its name.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(source) => Err(GateError {
            verb: "nominate",
            pod: key(pod),
            source,
        }),
    }
}

/// What became of an attempt to open a gate.
enum Outcome {
    /// It is open, by us.
    Opened,
    /// The pod is another one by now, gone, or has no such gate; its next event says more.
    Changed,
}

/// Opens our gate, and only ours.
async fn open(client: &Client, pod: &Pod) -> Result<Outcome, GateError> {
    let Some(index) = gate(pod) else {
        return Ok(Outcome::Changed);
    };
    let (mut at, mut pod_now) = (index, None);
    // Other gates may go meanwhile, and ours stand elsewhere.
    for _ in 0..3 {
        match remove(client, pod_now.as_ref().unwrap_or(pod), at).await {
            Ok(()) => return Ok(Outcome::Opened),
            Err(error) if is_gone(&error) => return Ok(Outcome::Changed),
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 409 => {}
            Err(source) => {
                return Err(GateError {
                    verb: "open the gate of",
                    pod: key(pod),
                    source,
                });
            }
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
        let found = call(api.get_opt(&pod.name_any())).await;
        let found = found.map_err(|source| GateError {
            verb: "read",
            pod: key(pod),
            source,
        })?;
        let same = found.filter(|found| found.metadata.uid == pod.metadata.uid);
        let Some((found, index)) = same.and_then(|found| gate(&found).map(|at| (found, at))) else {
            return Ok(Outcome::Changed);
        };
        (pod_now, at) = (Some(found), index);
    }
    Ok(Outcome::Changed)
}

async fn remove(client: &Client, pod: &Pod, index: usize) -> Result<(), kube::Error> {
    let at = format!("/spec/schedulingGates/{index}");
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
        {"op": "test", "path": format!("{at}/name"), "value": names::STEERING_GATE},
        {"op": "remove", "path": at},
    ]);
    let patch: json_patch::Patch =
        serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let (name, params, patch) = (pod.name_any(), params(), Patch::Json::<()>(patch));
    call(api.patch(&name, &params, &patch)).await.map(drop)
}

/// Remembers when a nomination of ours is to be withdrawn.
fn note_nomination(pod: &Pod, stale: &mut HashMap<String, Instant>) {
    match nomination(pod).is_some() && gate(pod).is_none() {
        true => {
            stale.entry(key(pod)).or_insert(Instant::now() + STALE);
        }
        false => {
            stale.remove(&key(pod));
        }
    }
}

/// Takes a nomination of ours back, if the pod still waits with it.
async fn withdraw(client: &Client, key: String) -> Done {
    let withdrawn = async {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let found = call(api.get_opt(name)).await;
        let found = found.map_err(|source| GateError {
            verb: "read",
            pod: key.clone(),
            source,
        })?;
        let waits = |pod: &Pod| {
            let spec = pod.spec.as_ref();
            spec.is_some_and(|spec| spec.node_name.is_none()) && nomination(pod).is_some()
        };
        if let Some(pod) = found.filter(waits) {
            nominate(client, &pod, None).await?;
            tracing::info!(pod = key, "a nomination that led nowhere was withdrawn");
        }
        Ok::<_, GateError>(())
    };
    match withdrawn.await {
        Ok(()) => Done::Well,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a nomination could not be withdrawn");
            Done::NotWithdrawn(key)
        }
    }
}

/// The node that a pod is nominated for by us.
fn nomination(pod: &Pod) -> Option<&String> {
    let now = pod.status.as_ref()?.nominated_node_name.as_ref()?;
    (pod.annotations().get(NOMINATED) == Some(now)).then_some(now)
}

fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}
