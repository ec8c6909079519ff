//! Watches that fill a shelf, for commands that look at a cluster from outside. The daemon fills its
//! shelf from the watches it has anyway.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use headstart_api::{NodeCache, NodeClaim};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::shelf::{Kind, Shelf};

/// Objects per page of a list.
const PAGE: u32 = 500;

/// Fills `shelf` for as long as it is polled. What goes wrong is said to `problems` and tried again.
pub(crate) async fn fill(client: Client, shelf: Arc<Shelf>, problems: mpsc::Sender<String>) {
    let pods = watch::<Pod>(
        &client,
        &shelf,
        &problems,
        Kind::Pod,
        |shelf, change| match change {
            Change::Now(pod) => shelf.pod(&pod),
            Change::Gone(pod) => shelf.pod_gone(&pod),
        },
    );
    let nodes = watch::<Node>(
        &client,
        &shelf,
        &problems,
        Kind::Node,
        |shelf, change| match change {
            Change::Now(node) => shelf.node(&node),
            Change::Gone(node) => shelf.gone(Kind::Node, &node.name_any()),
        },
    );
    let claims =
        watch::<NodeClaim>(
            &client,
            &shelf,
            &problems,
            Kind::Claim,
            |shelf, change| match change {
                Change::Now(claim) => shelf.claim(Arc::new(claim)),
                Change::Gone(claim) => shelf.gone(Kind::Claim, &claim.name_any()),
            },
        );
    let caches =
        watch::<NodeCache>(
            &client,
            &shelf,
            &problems,
            Kind::Cache,
            |shelf, change| match change {
                Change::Now(cache) => shelf.cache(Arc::new(cache)),
                Change::Gone(cache) => shelf.gone(Kind::Cache, &cache.name_any()),
            },
        );
    tokio::join!(pods, nodes, claims, caches);
}

/// What became of an object.
enum Change<K> {
    Now(K),
    Gone(K),
}

async fn watch<K>(
    client: &Client,
    shelf: &Shelf,
    problems: &mpsc::Sender<String>,
    kind: Kind,
    put: fn(&Shelf, Change<K>),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let config = watcher::Config::default().page_size(PAGE);
    let mut stream = watcher(api, config).default_backoff().boxed();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => shelf.list_begins(kind),
            Ok(Event::InitApply(mut object) | Event::Apply(mut object)) => {
                object.meta_mut().managed_fields = None;
                put(shelf, Change::Now(object));
            }
            Ok(Event::Delete(object)) => put(shelf, Change::Gone(object)),
            Ok(Event::InitDone) => shelf.list_done(kind),
            Err(error) => {
                let plural = K::plural(&());
                let said = problem(&plural, &error);
                // Nobody listens to the second one before the first is read.
                let _ = problems.try_send(said);
            }
        }
    }
}

/// How long a first list may take before it is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

fn problem(plural: &str, error: &watcher::Error) -> String {
    let answer = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    };
    match answer {
        Some(404) => format!(
            "the cluster has no {plural}: install Headstart's definitions, `headstart crd | kubectl \
             apply --server-side -f -`"
        ),
        Some(403) => {
            format!("{plural} may not be listed: ask for the right to list and watch them")
        }
        _ => {
            let mut said = format!("{plural} cannot be listed");
            let mut cause: Option<&dyn std::error::Error> = Some(error);
            while let Some(error) = cause {
                said += &format!(": {error}");
                cause = error.source();
            }
            said
        }
    }
}
