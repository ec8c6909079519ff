//! Watches: every kind that is read, as a stream of changes into one channel.
//!
//! A watch never ends: kube-runtime lists, watches, and lists again after errors. A kind that may not
//! exist (Ray's, LeaderWorkerSets, Karpenter's) counts as listed with nothing in it until it does.
//! What is not read is dropped here, before an object is kept anywhere.

use std::fmt::Debug;

use futures_util::StreamExt as _;
use headstart_agent::report::chain;
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, node::v1 as node};
use k8s_openapi::api::{
    policy::v1 as policy, scheduling::v1 as scheduling, storage::v1 as storage,
};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::slim;
use crate::ledger::shelf;

/// How many changes may wait to be taken; then watches wait.
pub(super) const QUEUE: usize = 4096;

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Pod,
    Node,
    Namespace,
    VolumeClaim,
    Volume,
    StorageClass,
    CsiNode,
    PodBudget,
    PriorityClass,
    RuntimeClass,
    DaemonSet,
    RayCluster,
    RayService,
    RayJob,
    LeaderWorkerSet,
    JobSet,
    NodePool,
    NodeClaim,
    NodeCache,
    Prefetch,
    KarpenterClaim,
}

impl Kind {
    /// The row of the ledger's shelf that a kind is on.
    pub(super) fn shelved(self) -> Option<shelf::Kind> {
        match self {
            Self::Pod => Some(shelf::Kind::Pod),
            Self::Node => Some(shelf::Kind::Node),
            Self::NodeClaim => Some(shelf::Kind::Claim),
            Self::NodeCache => Some(shelf::Kind::Cache),
            _ => None,
        }
    }
}

/// An object as it came.
#[derive(Debug)]
pub(super) enum Object {
    Pod(Box<core::Pod>),
    Node(Box<core::Node>),
    Namespace(core::Namespace),
    VolumeClaim(Box<core::PersistentVolumeClaim>),
    Volume(Box<core::PersistentVolume>),
    StorageClass(Box<storage::StorageClass>),
    CsiNode(storage::CSINode),
    PodBudget(Box<policy::PodDisruptionBudget>),
    PriorityClass(scheduling::PriorityClass),
    RuntimeClass(Box<node::RuntimeClass>),
    DaemonSet(Box<apps::DaemonSet>),
    /// Of a kind that is decoded later, each by itself.
    Dynamic(Box<DynamicObject>),
}

impl Object {
    /// Its namespace and name.
    pub(super) fn key(&self) -> (String, String) {
        let metadata = match self {
            Self::Pod(it) => &it.metadata,
            Self::Node(it) => &it.metadata,
            Self::Namespace(it) => &it.metadata,
            Self::VolumeClaim(it) => &it.metadata,
            Self::Volume(it) => &it.metadata,
            Self::StorageClass(it) => &it.metadata,
            Self::CsiNode(it) => &it.metadata,
            Self::PodBudget(it) => &it.metadata,
            Self::PriorityClass(it) => &it.metadata,
            Self::RuntimeClass(it) => &it.metadata,
            Self::DaemonSet(it) => &it.metadata,
            Self::Dynamic(it) => &it.metadata,
        };
        (
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    }
}

/// What a watch says.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// A list begins: what is not in it is gone.
    Begins,
    /// An object of a list.
    Listed(Object),
    /// The list is complete.
    Complete,
    /// An object as it is now.
    Is(Object),
    /// An object that is gone.
    Gone(Object),
    /// The kind does not exist in this cluster.
    Absent,
    /// The watch fails.
    Fails,
}

/// Kinds without which nothing is planned: the API server has them, or the installation is broken.
pub(super) const REQUIRED: [Kind; 15] = [
    Kind::Pod,
    Kind::Node,
    Kind::Namespace,
    Kind::VolumeClaim,
    Kind::Volume,
    Kind::StorageClass,
    Kind::CsiNode,
    Kind::PodBudget,
    Kind::PriorityClass,
    Kind::RuntimeClass,
    Kind::DaemonSet,
    Kind::NodePool,
    Kind::NodeClaim,
    Kind::NodeCache,
    Kind::Prefetch,
];

/// Kinds that may be absent, and appear later.
pub(super) const OPTIONAL: [Kind; 6] = [
    Kind::RayCluster,
    Kind::RayService,
    Kind::RayJob,
    Kind::LeaderWorkerSet,
    Kind::JobSet,
    Kind::KarpenterClaim,
];

/// Group, version, kind and plural of what is decoded later.
fn dynamic(kind: Kind) -> Option<ApiResource> {
    let (group, version, kind, plural) = match kind {
        Kind::RayCluster => ("ray.io", "v1", "RayCluster", "rayclusters"),
        Kind::RayService => ("ray.io", "v1", "RayService", "rayservices"),
        Kind::RayJob => ("ray.io", "v1", "RayJob", "rayjobs"),
        Kind::LeaderWorkerSet => (
            "leaderworkerset.x-k8s.io",
            "v1",
            "LeaderWorkerSet",
            "leaderworkersets",
        ),
        Kind::JobSet => ("jobset.x-k8s.io", "v1alpha2", "JobSet", "jobsets"),
        Kind::NodePool => ("headstart.dev", "v1alpha1", "NodePool", "nodepools"),
        Kind::NodeClaim => ("headstart.dev", "v1alpha1", "NodeClaim", "nodeclaims"),
        Kind::NodeCache => ("headstart.dev", "v1alpha1", "NodeCache", "nodecaches"),
        Kind::Prefetch => ("headstart.dev", "v1alpha1", "Prefetch", "prefetches"),
        Kind::KarpenterClaim => ("karpenter.sh", "v1", "NodeClaim", "nodeclaims"),
        _ => return None,
    };
    Some(ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    })
}

/// Starts every watch but that of pods, which is started by [`pods`] once the others have listed:
/// what a pod refers to is known then.
pub(super) fn start(client: &Client, out: &mpsc::Sender<Change>, stop: &CancellationToken) {
    let (client, out, stop) = (client.clone(), out.clone(), stop.clone());
    macro_rules! typed {
        ($kind:ident, $type:ty, $wrap:expr) => {
            let api: Api<$type> = Api::all(client.clone());
            spawn(Kind::$kind, api, (), out.clone(), stop.clone(), $wrap);
        };
    }
    typed!(Node, core::Node, |it| Object::Node(Box::new(it)));
    typed!(Namespace, core::Namespace, Object::Namespace);
    typed!(VolumeClaim, core::PersistentVolumeClaim, |it| {
        Object::VolumeClaim(Box::new(it))
    });
    typed!(Volume, core::PersistentVolume, |it| Object::Volume(
        Box::new(it)
    ));
    typed!(StorageClass, storage::StorageClass, |it| {
        Object::StorageClass(Box::new(it))
    });
    typed!(CsiNode, storage::CSINode, Object::CsiNode);
    typed!(PodBudget, policy::PodDisruptionBudget, |it| {
        Object::PodBudget(Box::new(it))
    });
    typed!(
        PriorityClass,
        scheduling::PriorityClass,
        Object::PriorityClass
    );
    typed!(RuntimeClass, node::RuntimeClass, |it| {
        Object::RuntimeClass(Box::new(it))
    });
    typed!(DaemonSet, apps::DaemonSet, |it| Object::DaemonSet(
        Box::new(it)
    ));
    for kind in REQUIRED.into_iter().chain(OPTIONAL) {
        if let Some(resource) = dynamic(kind) {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let wrap = |it| Object::Dynamic(Box::new(it));
            spawn(kind, api, resource, out.clone(), stop.clone(), wrap);
        }
    }
}

/// Starts the watch of pods.
pub(super) fn pods(client: &Client, out: &mpsc::Sender<Change>, stop: &CancellationToken) {
    let api: Api<core::Pod> = Api::all(client.clone());
    let wrap = |it| Object::Pod(Box::new(it));
    spawn(Kind::Pod, api, (), out.clone(), stop.clone(), wrap);
}

fn spawn<K>(
    kind: Kind,
    api: Api<K>,
    _resource: K::DynamicType,
    out: mpsc::Sender<Change>,
    stop: CancellationToken,
    wrap: impl Fn(K) -> Object + Send + 'static,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    K::DynamicType: Send,
{
    tokio::spawn(async move {
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                () = stop.cancelled() => return,
            };
            let what = match event {
                None => return,
                Some(Ok(Event::Init)) => What::Begins,
                Some(Ok(Event::InitApply(mut object))) => {
                    slim::metadata(object.meta_mut());
                    What::Listed(wrap(object))
                }
                Some(Ok(Event::InitDone)) => What::Complete,
                Some(Ok(Event::Apply(mut object))) => {
                    slim::metadata(object.meta_mut());
                    What::Is(wrap(object))
                }
                Some(Ok(Event::Delete(object))) => What::Gone(wrap(object)),
                Some(Err(error)) if OPTIONAL.contains(&kind) && is_absent(&error) => What::Absent,
                Some(Err(error)) => {
                    let said = chain(&error);
                    match is_expired(&error) {
                        true => debug!(?kind, error = said, "the watch is started again"),
                        false => warn!(?kind, error = said, "the watch fails"),
                    }
                    What::Fails
                }
            };
            if out.send(Change { kind, what }).await.is_err() {
                return;
            }
        }
    });
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

fn is_absent(error: &watcher::Error) -> bool {
    code(error) == Some(404)
}

fn is_expired(error: &watcher::Error) -> bool {
    code(error) == Some(410)
}
