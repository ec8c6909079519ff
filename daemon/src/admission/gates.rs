//! Pods behind our scheduling gate: led to a node and let go, and let go in any case after a while.
//!
//! - A node is nominated first, then the gate is opened; only ours, by its name.
//! - [`steer`] runs where it is asked to choose; [`watch_gates`] runs on every replica and needs
//!   nothing but the API server.
//! - At its end the watch opens every gate there is, and those that come while the last answers of the
//!   webhook arrive. What it cannot help: a gate put on by a daemon whose every replica is killed at
//!   once; it is opened when one of them is back.
//! - A nomination reserves: one that did not lead to its node in time is withdrawn.
//!
//! Source: Kubernetes KEP-3521 (gates), KEP-5278 (nominated node name for expectation).

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use headstart_api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
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
    fn changed(&self) -> futures_util::future::BoxFuture<'_, ()> {
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
    let mut pods: HashMap<String, Pod> = HashMap::new();
    let mut at_work = FuturesUnordered::new();
    let mut stale: HashMap<String, Instant> = HashMap::new();
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = at_work.next(), if !at_work.is_empty() => continue,
            event = events.next(), if at_work.len() < AT_ONCE => match event {
                Some(Seen::Here(pod)) => {
                    let key = key(&pod);
                    note_nomination(&pod, &mut stale);
                    match gate(&pod) {
                        Some(_) => {
                            pods.insert(key, (*pod).clone());
                            vec![*pod]
                        }
                        None => {
                            pods.remove(&key);
                            Vec::new()
                        }
                    }
                }
                Some(Seen::Gone(pod)) => {
                    let key = key(&pod);
                    pods.remove(&key);
                    stale.remove(&key);
                    Vec::new()
                }
                None => return,
            },
            () = targets.changed() => pods.values().cloned().collect(),
            _ = look.tick() => {
                let now = Instant::now();
                let due: Vec<String> = stale
                    .iter()
                    .filter(|(_, at)| **at <= now)
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in due {
                    stale.remove(&key);
                    withdraw(&client, &key).await;
                }
                Vec::new()
            }
        };
        for pod in next {
            let choice = targets.target(&pod);
            if choice == Choice::Wait {
                continue;
            }
            pods.remove(&key(&pod));
            let (client, counts) = (client.clone(), Arc::clone(&counts));
            at_work.push(async move {
                lead(&client, &pod, &choice, &*counts).await;
            });
        }
    }
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
                        match open(&client, &pod, None).await {
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

/// A pod without a node, or one that was and is no more.
enum Seen {
    Here(Box<Pod>),
    Gone(Box<Pod>),
}

/// Pods without a node, as they come and go.
fn waiting(client: &Client) -> impl Stream<Item = Seen> + Send + use<> {
    let config = watcher::Config::default().fields("spec.nodeName=");
    let events = watcher(Api::<Pod>::all(client.clone()), config).default_backoff();
    events.filter_map(async |event| match event {
        Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
            Some(Seen::Here(Box::new(pod)))
        }
        Ok(watcher::Event::Delete(pod)) => Some(Seen::Gone(Box::new(pod))),
        Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the watch of pods failed"
            );
            None
        }
    })
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
async fn lead(client: &Client, pod: &Pod, choice: &Choice, counts: &dyn Counts) {
    let node = match choice {
        Choice::Node(node) => Some(node.as_str()),
        _ => None,
    };
    let done = async {
        if let Some(node) = node {
            nominate(client, pod, Some(node)).await?;
        }
        open(client, pod, node).await
    };
    match done.await {
        Ok(Outcome::Opened) => {
            counts.gate_opened(match node {
                Some(_) => Opened::Nominated,
                None => Opened::NoWarmNode,
            });
            tracing::debug!(pod = key(pod), node, "a pod was led");
        }
        Ok(Outcome::Changed) => {}
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a pod could not be led"
            );
        }
    }
}

/// Writes, or takes back, the node that a pod is nominated for.
async fn nominate(client: &Client, pod: &Pod, node: Option<&str>) -> Result<(), GateError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patch = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"nominatedNodeName": node},
    });
    let patched = api
        .patch_status(&pod.name_any(), &params(), &Patch::Merge(patch))
        .await;
    match patched {
        Err(error) if !is_gone(&error) => Err(GateError {
            verb: "nominate",
            pod: key(pod),
            source: error,
        }),
        _ => Ok(()),
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
async fn open(client: &Client, pod: &Pod, nominated: Option<&str>) -> Result<Outcome, GateError> {
    let Some(index) = gate(pod) else {
        return Ok(Outcome::Changed);
    };
    let (mut at, mut pod_now) = (index, None);
    // Other gates may go meanwhile, and ours stand elsewhere.
    for _ in 0..3 {
        match remove(client, pod_now.as_ref().unwrap_or(pod), at, nominated).await {
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
        let found = api
            .get_opt(&pod.name_any())
            .await
            .map_err(|source| GateError {
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

async fn remove(
    client: &Client,
    pod: &Pod,
    index: usize,
    nominated: Option<&str>,
) -> Result<(), kube::Error> {
    let at = format!("/spec/schedulingGates/{index}");
    let mut operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": pod.metadata.uid},
        {"op": "test", "path": format!("{at}/name"), "value": names::STEERING_GATE},
        {"op": "remove", "path": at},
    ]);
    if let (Some(node), Some(list)) = (nominated, operations.as_array_mut()) {
        if pod.metadata.annotations.is_none() {
            list.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
        }
        let path = format!("/metadata/annotations/{}", NOMINATED.replace('/', "~1"));
        list.push(json!({"op": "add", "path": path, "value": node}));
    }
    let patch: json_patch::Patch =
        serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let patched = api
        .patch(&pod.name_any(), &params(), &Patch::Json::<()>(patch))
        .await;
    patched.map(drop)
}

/// Remembers when a nomination of ours is to be withdrawn.
fn note_nomination(pod: &Pod, stale: &mut HashMap<String, Instant>) {
    let ours = pod.annotations().get(NOMINATED);
    let now = pod
        .status
        .as_ref()
        .and_then(|status| status.nominated_node_name.as_ref());
    match ours.is_some() && ours == now && gate(pod).is_none() {
        true => {
            stale.entry(key(pod)).or_insert(Instant::now() + STALE);
        }
        false => {
            stale.remove(&key(pod));
        }
    }
}

/// Takes a nomination of ours back, if the pod still waits with it.
async fn withdraw(client: &Client, key: &str) {
    let (namespace, name) = key.split_once('/').unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let Ok(Some(pod)) = api.get_opt(name).await else {
        return;
    };
    let waits = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_none());
    let ours = pod.annotations().get(NOMINATED);
    let now = pod
        .status
        .as_ref()
        .and_then(|status| status.nominated_node_name.as_ref());
    if !waits || ours.is_none() || ours != now {
        return;
    }
    match nominate(client, &pod, None).await {
        Ok(()) => tracing::info!(pod = key, "a nomination that led nowhere was withdrawn"),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a nomination could not be withdrawn"
            );
        }
    }
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
