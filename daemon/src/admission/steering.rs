//! Which nodes have which models, for whoever steers pods: labels on nodes and on the agent's pods, and
//! the node that a gated pod is led to.
//!
//! What is known is kept up to date by watches (`follow`); what follows from it is computed by
//! synchronous code that is fed objects (`view`). Nothing is labelled before every watch has listed.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{Stream, StreamExt as _};
use headstart_api::{NodeCache, names};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::view::{Change, Event, Labelled, View};
use super::gates::{Choice, Targets};
use super::{Leading, Turn};

mod admits;
mod view;

/// Labels are looked at at most this often; changes come in bursts.
const AT_MOST: Duration = Duration::from_millis(500);

/// Labels are looked at though nothing changed.
const AT_LEAST: Duration = Duration::from_secs(30);

/// How often a gated pod is looked at again that was to wait.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Most writes at a time.
const AT_ONCE: usize = 8;

/// What is watched and labelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SteeringConfig {
    /// Namespace of the agent's pods, and a selector for them.
    pub(crate) agents: (String, String),
}

/// What nodes have. Clones are the same.
#[derive(Clone)]
pub(crate) struct WarmNodes {
    view: Arc<Mutex<View>>,
    changed: Arc<Notify>,
    leading: Leading,
}

impl WarmNodes {
    /// Nothing is known yet.
    pub(crate) fn new(leading: Leading) -> Self {
        Self {
            view: Arc::default(),
            changed: Arc::default(),
            leading,
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, event: Event) {
        self.view().hear(event);
        self.changed.notify_one();
    }

    /// Follows the cluster, and keeps the labels while it leads, until `stop`.
    pub(crate) async fn follow(
        &self,
        client: Client,
        config: SteeringConfig,
        stop: CancellationToken,
    ) {
        let all = watcher::Config::default;
        let (namespace, selector) = &config.agents;
        let pods: Api<Pod> = Api::all(client.clone());
        let agents: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let caches: Api<NodeCache> = Api::all(client.clone());
        let nodes: Api<Node> = Api::all(client.clone());
        let follow = async {
            tokio::join!(
                self.listen(watcher(nodes, all()), Event::Node),
                self.listen(watcher(caches, all()), Event::Cache),
                self.listen(watcher(pods, all().fields("spec.nodeName!=")), Event::Pod),
                self.listen(watcher(agents, all().labels(selector)), Event::Agent),
                self.label(client),
            )
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = follow => {}
        }
    }

    async fn listen<K>(
        &self,
        stream: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
        event: fn(watcher::Event<K>) -> Event,
    ) {
        let mut stream = pin!(stream.default_backoff());
        while let Some(next) = stream.next().await {
            match next {
                Ok(next) => self.hear(event(next)),
                Err(error) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a watch of steering failed"
                    );
                }
            }
        }
    }

    /// Brings labels to what nodes have, whenever that changes.
    async fn label(&self, client: Client) {
        loop {
            let _ = tokio::time::timeout(AT_LEAST, self.changed.notified()).await;
            if (self.leading)() == Turn::Ours {
                let changes = self.view().changes();
                let writes = changes.into_iter().map(|change| write(&client, change));
                let written: Vec<()> = futures_util::stream::iter(writes)
                    .buffer_unordered(AT_ONCE)
                    .collect()
                    .await;
                if !written.is_empty() {
                    tracing::debug!(objects = written.len(), "warm labels were written");
                }
            }
            tokio::time::sleep(AT_MOST).await;
        }
    }
}

/// Writes the labels of one object. What fails is found again by the next look.
async fn write(client: &Client, change: Change) {
    let params = PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let Change { of, labels } = change;
    let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": labels}}));
    let written = match &of {
        Labelled::Node(name) => {
            let api: Api<Node> = Api::all(client.clone());
            api.patch(name, &params, &patch).await.map(drop)
        }
        Labelled::Agent { namespace, name } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            api.patch(name, &params, &patch).await.map(drop)
        }
    };
    match written {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            tracing::warn!(object = ?of, error = &error as &dyn std::error::Error, "warm labels could not be written");
        }
        Ok(()) => {}
    }
}

impl Targets for WarmNodes {
    fn target(&self, pod: &Pod) -> Choice {
        match (self.leading)() {
            Turn::Theirs => Choice::Wait,
            Turn::Ours => self.view().target(pod, Instant::now()),
        }
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(ASK_AGAIN))
    }
}
