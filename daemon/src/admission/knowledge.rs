//! What is known of pods from watching the cluster: annotations of namespaces, and what KubeRay's
//! objects say about the models of their pods.
//!
//! A cluster without KubeRay has no such objects, and what is not there says nothing.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use headstart_api::names;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DynamicObject, PartialObjectMeta};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Knowledge;
use super::inject::Known;
use crate::manifest::recognise;

/// Longest `serveConfigV2` that is read while a pod waits, in bytes.
const MOST_CONFIG: usize = 256 << 10;

/// Labels that KubeRay puts on pods and clusters.
const RAY_CLUSTER: &str = "ray.io/cluster";
const MADE_FROM: &str = "ray.io/originated-from-cr-name";
const MADE_FROM_KIND: &str = "ray.io/originated-from-crd";

type Namespaces = Store<PartialObjectMeta<Namespace>>;
type Objects = Store<DynamicObject>;

/// Knowledge from watches of this process.
pub(crate) struct Watched {
    namespaces: Namespaces,
    services: Objects,
    clusters: Objects,
    expected_start: Option<Duration>,
}

/// Watches until `stop`, by the future that comes with the knowledge. `expected_start` is how long a
/// worker of a Ray cluster is expected to take.
pub(crate) fn watch(
    client: &Client,
    expected_start: Option<Duration>,
    stop: CancellationToken,
) -> (Watched, impl Future<Output = ()> + Send + use<>) {
    let (namespaces, writer) = reflector::store();
    let api = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let of_namespaces = watcher(api, watcher::Config::default());
    let of_namespaces = of_namespaces.default_backoff().reflect(writer);
    let (services, of_services) = objects(client, "RayService");
    let (clusters, of_clusters) = objects(client, "RayCluster");
    let watched = Watched {
        namespaces,
        services,
        clusters,
        expected_start,
    };
    let watching = async move {
        let all = async { tokio::join!(drain(of_namespaces), of_services, of_clusters) };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = all => {}
        }
    };
    (watched, watching)
}

/// Objects of a kind that may not exist in this cluster.
fn objects(client: &Client, kind: &str) -> (Objects, impl Future<Output = ()> + Send + use<>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("ray.io", "v1", kind));
    let writer = reflector::store::Writer::new(resource.clone());
    let store = writer.as_reader();
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let stream = watcher(api, watcher::Config::default());
    let stream = stream.default_backoff().reflect(writer);
    (store, drain(stream))
}

/// Follows a watch. What fails is tried again by the watch itself.
async fn drain<T, E: Debug>(stream: impl futures_util::Stream<Item = Result<T, E>>) {
    let mut stream = pin!(stream);
    while let Some(event) = stream.next().await {
        if let Err(error) = event {
            tracing::debug!(?error, "a watch of admission failed");
        }
    }
}

impl Watched {
    /// Waits until namespaces are known: before, one that opted out is not.
    pub(crate) async fn ready(&self) {
        // A writer that is gone means that everything ends.
        let _ = self.namespaces.wait_until_ready().await;
    }

    /// The RayService that a pod of a cluster is part of.
    fn service(
        &self,
        namespace: &str,
        pod: &Pod,
        cluster: &str,
    ) -> Option<std::sync::Arc<DynamicObject>> {
        let of_cluster = self.cluster(namespace, cluster);
        let labels = |object: &DynamicObject, key: &str| object.labels().get(key).cloned();
        let named = of_cluster.as_ref().and_then(|cluster| {
            let owner = cluster.owner_references().iter();
            let mut owner = owner.filter(|owner| owner.kind == "RayService");
            let made_from = labels(cluster, MADE_FROM)
                .filter(|_| labels(cluster, MADE_FROM_KIND).as_deref() == Some("RayService"));
            made_from.or_else(|| owner.next().map(|owner| owner.name.clone()))
        });
        let named = named.or_else(|| pod.labels().get(MADE_FROM).cloned());
        if let Some(name) = named {
            let resource = self.reference("RayService", &name, namespace);
            if let Some(found) = self.services.get(&resource) {
                return Some(found);
            }
        }
        let runs = |service: &DynamicObject| {
            let status = |field: &str| {
                let path = format!("/status/{field}/rayClusterName");
                service.data.pointer(&path).and_then(Value::as_str) == Some(cluster)
            };
            service.namespace().as_deref() == Some(namespace)
                && (status("activeServiceStatus") || status("pendingServiceStatus"))
        };
        self.services.find(runs)
    }

    fn cluster(&self, namespace: &str, name: &str) -> Option<std::sync::Arc<DynamicObject>> {
        self.clusters
            .get(&self.reference("RayCluster", name, namespace))
    }

    fn reference(&self, kind: &str, name: &str, namespace: &str) -> ObjectRef<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("ray.io", "v1", kind));
        ObjectRef::new_with(name, resource).within(namespace)
    }
}

impl Knowledge for Watched {
    fn of(&self, namespace: &str, pod: &Pod) -> Known {
        let found = self.namespaces.get(&ObjectRef::new(namespace));
        let mut known = Known {
            namespace: found.map_or_else(Default::default, |found| found.annotations().clone()),
            expected_start: self.expected_start,
            ..Known::default()
        };
        let Some(cluster) = pod.labels().get(RAY_CLUSTER) else {
            return known;
        };
        let service = self.service(namespace, pod, cluster);
        let of_cluster = self.cluster(namespace, cluster);
        let levels = [of_cluster.as_ref(), service.as_ref()];
        let mut named = levels
            .into_iter()
            .flatten()
            .filter_map(|object| object.annotations().get(names::MODELS));
        known.owner_models = named.next().cloned();
        if let Some(service) = &service {
            let config = service
                .data
                .pointer("/spec/serveConfigV2")
                .and_then(Value::as_str);
            let config = config.filter(|config| config.len() <= MOST_CONFIG);
            known.served = config
                .and_then(|config| recognise::of_serve_config(config).ok())
                .unwrap_or_default();
        }
        known
    }
}
