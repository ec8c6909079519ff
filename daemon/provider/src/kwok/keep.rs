//! Plays the kubelet for fake nodes: lets them come up, beat and go, each at its time.
//!
//! It works from a watch of the Nodes with our mark and holds a few words of each; which of two
//! replicas does it is the caller's to say. Writes for one node: two or three while it comes up, then
//! a lease every ten seconds, every twenty where there are many nodes, in the pages of
//! `kube-node-lease` that nodes use. Where KWOK's controller has taken a node's lease, it is left to
//! the controller.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use headstart_transfer::chain;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::node::{Due, Fake, Reached};
use super::{INTERRUPT, KWOK, PROVIDER, now};

/// Where nodes' leases are.
const LEASES: &str = "kube-node-lease";

/// Who writes in server-side apply.
const MANAGER: &str = "headstart-kwok";

/// How often a lease is renewed; its nodes are given 50 s by default, 20 s where somebody is strict.
const BEAT: Duration = Duration::from_secs(10);

/// More nodes than this beat half as often.
const MANY: usize = 1000;

/// How soon it is looked again at a lease that is another's.
const ANOTHERS: Duration = Duration::from_secs(60);

/// Longest time between two looks at the clock.
const LOOK: Duration = Duration::from_secs(1);

/// Pause of a node after a write that failed, or that others undo.
const PAUSE: Duration = Duration::from_secs(2);

/// Most writes at once.
const AT_ONCE: usize = 16;

/// Longest time for one write.
const LIMIT: Duration = Duration::from_secs(10);

/// A node, and what it did last.
struct Kept {
    fake: Fake,
    reached: Reached,
    uid: Option<String>,
    paused: Option<Instant>,
    beat: Instant,
    seen: bool,
}

/// Something to write.
enum Task {
    Do(String, Fake, Option<String>, Due),
    Beat(String, Option<String>),
}

/// What became of it.
enum Done {
    Written,
    Failed,
    /// Its lease is another's.
    Anothers,
}

/// Keeps all fake nodes until it is cancelled; writes only while `leads` says so.
pub async fn keep(client: Client, leads: impl Fn() -> bool + Send + Sync, stop: CancellationToken) {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client, LEASES);
    let ours = watcher::Config::default().labels(&format!("{PROVIDER}={KWOK}"));
    let mut events = std::pin::pin!(watcher::watcher(nodes.clone(), ours).default_backoff());
    let mut all: BTreeMap<String, Kept> = BTreeMap::new();
    let mut wait = LOOK;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => match event {
                Some(Ok(event)) => take(&mut all, event),
                Some(Err(error)) => warn!(error = chain(&error), "fake nodes cannot be watched"),
                None => return,
            },
            () = tokio::time::sleep(wait) => {}
        }
        if !leads() {
            wait = LOOK;
            continue;
        }
        let (tasks, next) = tasks(&mut all, Instant::now());
        wait = next;
        let (nodes, leases) = (&nodes, &leases);
        let written = futures_util::stream::iter(tasks).map(|task| async move {
            let limited = tokio::time::timeout(LIMIT, write(nodes, leases, &task)).await;
            (task, limited.unwrap_or(Done::Failed))
        });
        let written: Vec<_> = written.buffer_unordered(AT_ONCE).collect().await;
        for (task, done) in written {
            settle(&mut all, &task, &done, Instant::now());
        }
    }
}

/// Takes what was seen.
fn take(all: &mut BTreeMap<String, Kept>, event: Event<Node>) {
    match event {
        Event::Init => all.values_mut().for_each(|kept| kept.seen = false),
        Event::Apply(node) | Event::InitApply(node) => {
            let Some(fake) = Fake::read(&node.metadata) else {
                return;
            };
            let (uid, name) = (node.uid(), node.name_any());
            let before = all.get(&name).filter(|before| before.uid == uid);
            let kept = Kept {
                reached: fake.reached(node.status.as_ref()),
                uid,
                paused: before.and_then(|before| before.paused),
                beat: before.map_or_else(|| first_beat(&fake), |before| before.beat),
                seen: true,
                fake,
            };
            all.insert(name, kept);
        }
        Event::Delete(node) => drop(all.remove(&node.name_any())),
        Event::InitDone => all.retain(|_, kept| kept.seen),
    }
}

/// A beat after it is ready: until then KWOK's controller may take it.
fn first_beat(fake: &Fake) -> Instant {
    let left = fake.ready_at().0.saturating_sub(now().0);
    Instant::now() + Duration::from_millis(left) + if left > 0 { BEAT } else { Duration::ZERO }
}

/// What is to be written now, and how long to wait for more.
fn tasks(all: &mut BTreeMap<String, Kept>, at: Instant) -> (Vec<Task>, Duration) {
    let (mut tasks, mut wait, now) = (Vec::new(), LOOK, now());
    for (name, kept) in all {
        if kept.reached.ready && at >= kept.beat {
            tasks.push(Task::Beat(name.clone(), kept.uid.clone()));
        }
        if kept.paused.is_some_and(|until| at < until) {
            continue;
        }
        match kept.fake.due(kept.reached, now) {
            Due::Never => {}
            Due::At(then) => wait = wait.min(Duration::from_millis(then.0 - now.0)),
            due => {
                let fake = kept.fake.clone();
                tasks.push(Task::Do(name.clone(), fake, kept.uid.clone(), due));
            }
        }
    }
    (tasks, wait)
}

/// Remembers what was written.
fn settle(all: &mut BTreeMap<String, Kept>, task: &Task, done: &Done, at: Instant) {
    let beat = if all.len() > MANY { BEAT * 2 } else { BEAT };
    let name = match task {
        Task::Do(name, ..) | Task::Beat(name, _) => name,
    };
    let Some(kept) = all.get_mut(name) else {
        return;
    };
    match task {
        // What came of it is seen; a pause keeps what others undo from becoming a quarrel.
        Task::Do(..) => kept.paused = Some(at + PAUSE),
        Task::Beat(..) => {
            kept.beat = at
                + match done {
                    Done::Written => beat,
                    Done::Failed => PAUSE,
                    Done::Anothers => ANOTHERS,
                };
        }
    }
    if let (Task::Do(_, _, _, Due::Report(reached)), Done::Written) = (task, done) {
        kept.reached = *reached;
        kept.paused = None;
    }
}

async fn write(nodes: &Api<Node>, leases: &Api<Lease>, task: &Task) -> Done {
    let (name, result) = match task {
        Task::Do(name, fake, uid, due) => (name, act(nodes, name, fake, uid, *due).await),
        Task::Beat(name, uid) => (name, renew(leases, name, uid.as_deref()).await),
    };
    match (result, task) {
        (Ok(()), _) => Done::Written,
        (Err(kube::Error::Api(status)), Task::Beat(..)) if status.code == 409 => {
            debug!(node = name, "another keeps this node's lease");
            Done::Anothers
        }
        (Err(kube::Error::Api(status)), Task::Do(..)) if matches!(status.code, 404 | 409) => {
            Done::Failed
        }
        (Err(error), _) => {
            warn!(
                node = name,
                error = chain(&error),
                "a fake node is not kept"
            );
            Done::Failed
        }
    }
}

async fn act(
    nodes: &Api<Node>,
    name: &str,
    fake: &Fake,
    uid: &Option<String>,
    due: Due,
) -> Result<(), kube::Error> {
    let params = PatchParams::default();
    match due {
        Due::Never | Due::At(_) => {}
        Due::Report(reached) => {
            let patch = fake.report(reached, Timestamp::now());
            nodes
                .patch_status(name, &params, &Patch::Strategic(patch))
                .await?;
        }
        Due::Date => {
            let since = Timestamp::now().to_string();
            let patch = json!({"metadata": {"uid": uid, "annotations": {INTERRUPT: since}}});
            nodes.patch(name, &params, &Patch::Merge(patch)).await?;
        }
        Due::TakeAway => {
            info!(node = name, "a fake node is taken away");
            let only_it = DeleteParams::default().preconditions(Preconditions {
                uid: uid.clone(),
                resource_version: None,
            });
            nodes.delete(name, &only_it).await?;
        }
    }
    Ok(())
}

/// Renews a lease, unless it is another's: nothing is taken by force.
async fn renew(leases: &Api<Lease>, name: &str, uid: Option<&str>) -> Result<(), kube::Error> {
    let renewed = Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
        .to_string();
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}],
        },
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed},
    });
    let apply = PatchParams::apply(MANAGER);
    leases.patch(name, &apply, &Patch::Apply(lease)).await?;
    Ok(())
}
