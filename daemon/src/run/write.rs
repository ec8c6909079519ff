//! What a round writes to the API server: each write is one value, may be done twice, and is refused
//! when this replica does not lead any more.
//!
//! At most [`MOST_WRITES`] a round, the rest waits for the next one; [`AT_ONCE`] at a time. Objects are
//! named with their uid wherever they go away, so that a name that was used again is not hit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use headstart_agent::report::chain;
use headstart_api::{
    NodeCache, NodeCacheSpec, NodeClaim, NodeClaimStatus, NodePool, NodePoolStatus, Prefetch,
    PrefetchStatus, names,
};
use headstart_core::pod::ObjectKey;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};

use super::lease::Lead;
use crate::metrics::label::{Object, Verb};

/// Most writes of one round, of one request each, but for a purchase (two) and a claim that is given up
/// (three). The pace of rounds keeps them below 200 a second, which is below what one client of an API
/// server is let through with (priority and fairness, level `workload-low`, on three replicas).
pub(super) const MOST_WRITES: usize = 200;

/// Writes at a time.
const AT_ONCE: usize = 16;

/// How long a write may take. Whether it was done is then known from the watches.
const LIMIT: Duration = Duration::from_secs(10);

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Write {
    /// What a node is to have.
    Cache(Box<Cache>),
    /// The same for a node that is to be bought, then its claim.
    Buy(Box<Cache>, Box<NodeClaim>),
    /// A node cache whose node is gone.
    RemoveCache {
        name: String,
        uid: Option<String>,
    },
    /// A claim is to go, for this reason.
    GiveUp {
        name: String,
        uid: Option<String>,
        why: String,
    },
    /// A claim goes when the ones named are there; `None` takes that back.
    ReplacedBy {
        name: String,
        by: Option<Vec<String>>,
    },
    /// A claim goes with its pool.
    Own {
        name: String,
        uid: Option<String>,
        owner: OwnerReference,
    },
    /// Labels of a Node.
    Label {
        node: String,
        labels: Vec<(String, String)>,
    },
    /// A Node takes no more pods.
    Taint {
        node: String,
    },
    Evict {
        pod: ObjectKey,
        uid: Option<String>,
    },
    DeleteNode {
        name: String,
        uid: Option<String>,
    },
    /// The claim may go.
    Finish {
        claim: String,
        uid: Option<String>,
        finalizers: Vec<String>,
    },
    ClaimStatus {
        name: String,
        status: Box<NodeClaimStatus>,
    },
    PoolStatus {
        name: String,
        status: Box<NodePoolStatus>,
    },
    PrefetchStatus {
        key: ObjectKey,
        status: Box<PrefetchStatus>,
    },
    /// What was learned about offerings.
    Memory {
        text: String,
    },
}

/// The intent for one node, as it is applied.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cache {
    pub(super) name: String,
    /// The claim or node it is for, once there is one.
    pub(super) owner: Option<OwnerReference>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) spec: NodeCacheSpec,
}

/// What a write did.
#[derive(Debug)]
pub(super) enum Done {
    Cache(Box<NodeCache>),
    Bought(Box<NodeCache>, Box<NodeClaim>),
    Claim(Box<NodeClaim>),
    ClaimGone(String),
    CacheGone(String),
    Nothing,
}

/// A write that was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDone {
    #[error("another replica leads")]
    NotLeading,
    #[error("no answer in {} s", LIMIT.as_secs())]
    Silent,
    #[error("the API server refused")]
    Refused(#[source] kube::Error),
}

impl NotDone {
    /// The status that the API server answered with.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }
}

/// Does writes.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    lead: Lead,
    namespace: Arc<str>,
    memory: Arc<str>,
}

impl Writer {
    pub(super) fn new(client: Client, lead: Lead, namespace: &str, lease: &str) -> Self {
        Self {
            client,
            lead,
            namespace: namespace.into(),
            memory: format!("{lease}-memory").into(),
        }
    }

    /// Does as many as one round may, in that order; the outcome of each.
    pub(super) async fn all(&self, mut writes: Vec<Write>) -> Vec<(Write, Result<Done, NotDone>)> {
        if writes.len() > MOST_WRITES {
            tracing::info!(
                left = writes.len() - MOST_WRITES,
                "writes are left to the next round"
            );
            writes.truncate(MOST_WRITES);
        }
        let each = writes.into_iter().map(|write| async move {
            let done = self.one(&write).await;
            if let Err(error) = &done {
                let error = chain(error);
                tracing::warn!(
                    write = write.word(),
                    on = write.on(),
                    error,
                    "a write was not done"
                );
            }
            (write, done)
        });
        futures_util::stream::iter(each)
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn one(&self, write: &Write) -> Result<Done, NotDone> {
        if !self.lead.is_held() {
            return Err(NotDone::NotLeading);
        }
        let done = tokio::time::timeout(LIMIT, self.done(write)).await;
        match done.map_err(|_| NotDone::Silent)? {
            // What is to go and is not there has gone.
            Err(NotDone::Refused(kube::Error::Api(status))) if status.code == 404 => {
                Ok(match write {
                    Write::RemoveCache { name, .. } => Done::CacheGone(name.clone()),
                    Write::GiveUp { name, .. } | Write::ClaimStatus { name, .. } => {
                        Done::ClaimGone(name.clone())
                    }
                    Write::Finish { claim, .. } => Done::ClaimGone(claim.clone()),
                    _ => Done::Nothing,
                })
            }
            other => other,
        }
    }

    async fn done(&self, write: &Write) -> Result<Done, NotDone> {
        let refused = NotDone::Refused;
        match write {
            Write::Cache(cache) => self.cache(cache).await.map(Done::Cache),
            Write::Buy(cache, claim) => {
                let cache = self.cache(cache).await?;
                if !self.lead.is_held() {
                    return Err(NotDone::NotLeading);
                }
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let claim = api
                    .patch(&claim.name_any(), &apply(), &Patch::Apply(&**claim))
                    .await
                    .map_err(refused)?;
                Ok(Done::Bought(cache, Box::new(claim)))
            }
            Write::RemoveCache { name, uid } => {
                let api: Api<NodeCache> = Api::all(self.client.clone());
                api.delete(name, &gone(uid.clone()))
                    .await
                    .map_err(refused)?;
                Ok(Done::CacheGone(name.clone()))
            }
            Write::GiveUp { name, uid, why } => {
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let said = json!({"metadata": {"annotations": {super::claim::GIVEN_BACK: why}}});
                api.patch(name, &merge(), &Patch::Merge(&said))
                    .await
                    .map_err(refused)?;
                api.delete(name, &gone(uid.clone()))
                    .await
                    .map_err(refused)?;
                let claim = api.get_opt(name).await.map_err(refused)?;
                Ok(match claim {
                    Some(claim) => Done::Claim(Box::new(claim)),
                    None => Done::ClaimGone(name.clone()),
                })
            }
            Write::ReplacedBy { name, by } => {
                let by = by.as_ref().map(|names| names.join(","));
                let said = json!({"metadata": {"annotations": {super::claim::REPLACED_BY: by}}});
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let claim = api.patch(name, &merge(), &Patch::Merge(&said)).await;
                claim
                    .map(|claim| Done::Claim(Box::new(claim)))
                    .map_err(refused)
            }
            Write::Own { name, uid, owner } => {
                let said = json!({"metadata": {"uid": uid, "ownerReferences": [owner]}});
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let claim = api.patch(name, &merge(), &Patch::Merge(&said)).await;
                claim
                    .map(|claim| Done::Claim(Box::new(claim)))
                    .map_err(refused)
            }
            Write::Label { node, labels } => {
                let labels: serde_json::Map<String, Value> = labels
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone().into()))
                    .collect();
                let said = json!({"metadata": {"labels": labels}});
                self.node(node, &Patch::Merge(&said)).await
            }
            Write::Taint { node } => {
                let taint = json!({"key": names::LEAVING_TAINT, "effect": "NoSchedule"});
                let said = json!({"spec": {"unschedulable": true, "taints": [taint]}});
                self.node(node, &Patch::Strategic(&said)).await
            }
            Write::Evict { pod, uid } => {
                let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
                let params = EvictParams {
                    delete_options: Some(gone(uid.clone())),
                    ..EvictParams::default()
                };
                api.evict(&pod.name, &params).await.map_err(refused)?;
                Ok(Done::Nothing)
            }
            Write::DeleteNode { name, uid } => {
                let api: Api<core::Node> = Api::all(self.client.clone());
                api.delete(name, &gone(uid.clone()))
                    .await
                    .map_err(refused)?;
                Ok(Done::Nothing)
            }
            Write::Finish {
                claim,
                uid,
                finalizers,
            } => {
                let said = json!({"metadata": {"uid": uid, "finalizers": finalizers}});
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                api.patch(claim, &merge(), &Patch::Merge(&said))
                    .await
                    .map_err(refused)?;
                Ok(Done::ClaimGone(claim.clone()))
            }
            Write::ClaimStatus { name, status } => {
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let said = status_of::<NodeClaim>("NodeClaim", name, status);
                let claim = api.patch_status(name, &apply(), &Patch::Apply(&said)).await;
                claim
                    .map(|claim| Done::Claim(Box::new(claim)))
                    .map_err(refused)
            }
            Write::PoolStatus { name, status } => {
                let api: Api<NodePool> = Api::all(self.client.clone());
                // Read as it is stored: a pool that cannot be decoded has a status, too.
                let api = api.into_client();
                let resource = kube::api::ApiResource::erase::<NodePool>(&());
                let api: Api<kube::api::DynamicObject> = Api::all_with(api, &resource);
                let said = status_of::<NodePool>("NodePool", name, status);
                api.patch_status(name, &apply(), &Patch::Apply(&said))
                    .await
                    .map_err(refused)?;
                Ok(Done::Nothing)
            }
            Write::PrefetchStatus { key, status } => {
                let api: Api<Prefetch> = Api::namespaced(self.client.clone(), &key.namespace);
                let said = status_of::<Prefetch>("Prefetch", &key.name, status);
                api.patch_status(&key.name, &apply(), &Patch::Apply(&said))
                    .await
                    .map_err(refused)?;
                Ok(Done::Nothing)
            }
            Write::Memory { text } => {
                let api: Api<core::ConfigMap> =
                    Api::namespaced(self.client.clone(), &self.namespace);
                let map = core::ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(self.memory.to_string()),
                        ..ObjectMeta::default()
                    },
                    data: Some([(MEMORY_KEY.to_owned(), text.clone())].into()),
                    ..core::ConfigMap::default()
                };
                api.patch(&self.memory, &apply(), &Patch::Apply(&map))
                    .await
                    .map_err(refused)?;
                Ok(Done::Nothing)
            }
        }
    }

    /// What was written as [`Write::Memory`], by whichever replica.
    pub(super) async fn memory(&self) -> Result<Option<String>, NotDone> {
        let api: Api<core::ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = tokio::time::timeout(LIMIT, api.get_opt(&self.memory)).await;
        let found = found
            .map_err(|_| NotDone::Silent)?
            .map_err(NotDone::Refused)?;
        Ok(found.and_then(|map| map.data?.remove(MEMORY_KEY)))
    }

    async fn cache(&self, cache: &Cache) -> Result<Box<NodeCache>, NotDone> {
        let object = cache.object();
        let api: Api<NodeCache> = Api::all(self.client.clone());
        let done = api
            .patch(&cache.name, &apply(), &Patch::Apply(&object))
            .await;
        done.map(Box::new).map_err(NotDone::Refused)
    }

    async fn node(&self, name: &str, patch: &Patch<&Value>) -> Result<Done, NotDone> {
        let api: Api<core::Node> = Api::all(self.client.clone());
        api.patch(name, &merge(), patch)
            .await
            .map_err(NotDone::Refused)?;
        Ok(Done::Nothing)
    }
}

const MEMORY_KEY: &str = "capacity.json";

impl Cache {
    /// The object, without a status: that is the agent's.
    pub(super) fn object(&self) -> NodeCache {
        let mut object = NodeCache::new(&self.name, self.spec.clone());
        object.metadata.labels = Some(self.labels.iter().cloned().collect());
        object.metadata.owner_references = self.owner.clone().map(|owner| vec![owner]);
        object
    }
}

impl Write {
    /// What it is, in a word.
    fn word(&self) -> &'static str {
        match self {
            Self::Cache(_) => "cache",
            Self::Buy(..) => "buy",
            Self::RemoveCache { .. } => "remove-cache",
            Self::GiveUp { .. } => "give-up",
            Self::ReplacedBy { .. } => "replaced-by",
            Self::Own { .. } => "own",
            Self::Label { .. } => "label",
            Self::Taint { .. } => "taint",
            Self::Evict { .. } => "evict",
            Self::DeleteNode { .. } => "delete-node",
            Self::Finish { .. } => "finish",
            Self::ClaimStatus { .. } => "claim-status",
            Self::PoolStatus { .. } => "pool-status",
            Self::PrefetchStatus { .. } => "prefetch-status",
            Self::Memory { .. } => "memory",
        }
    }

    /// Which object it writes last, and how, for metrics.
    pub(super) fn counted(&self) -> (Object, Verb) {
        match self {
            Self::Cache(_) => (Object::NodeCache, Verb::Apply),
            Self::Buy(..) | Self::ClaimStatus { .. } => (Object::NodeClaim, Verb::Apply),
            Self::RemoveCache { .. } => (Object::NodeCache, Verb::Delete),
            Self::GiveUp { .. } => (Object::NodeClaim, Verb::Delete),
            Self::ReplacedBy { .. } | Self::Own { .. } | Self::Finish { .. } => {
                (Object::NodeClaim, Verb::Patch)
            }
            Self::Label { .. } | Self::Taint { .. } => (Object::Node, Verb::Patch),
            Self::Evict { .. } => (Object::Pod, Verb::Create),
            Self::DeleteNode { .. } => (Object::Node, Verb::Delete),
            Self::PoolStatus { .. } => (Object::NodePool, Verb::Apply),
            Self::PrefetchStatus { .. } => (Object::Prefetch, Verb::Apply),
            Self::Memory { .. } => (Object::ConfigMap, Verb::Apply),
        }
    }

    /// On what.
    fn on(&self) -> String {
        match self {
            Self::Cache(cache) => cache.name.clone(),
            Self::Buy(_, claim) => claim.name_any(),
            Self::RemoveCache { name, .. }
            | Self::GiveUp { name, .. }
            | Self::ReplacedBy { name, .. }
            | Self::Own { name, .. }
            | Self::DeleteNode { name, .. }
            | Self::ClaimStatus { name, .. }
            | Self::PoolStatus { name, .. } => name.clone(),
            Self::Label { node, .. } | Self::Taint { node } => node.clone(),
            Self::Evict { pod, .. } => pod.to_string(),
            Self::Finish { claim, .. } => claim.clone(),
            Self::PrefetchStatus { key, .. } => key.to_string(),
            Self::Memory { .. } => String::new(),
        }
    }
}

fn status_of<K: kube::Resource<DynamicType = ()>>(
    kind: &str,
    name: &str,
    status: &impl serde::Serialize,
) -> Value {
    json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": {"name": name},
        "status": status,
    })
}

fn apply() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

fn merge() -> PatchParams {
    PatchParams {
        field_manager: Some(names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn gone(uid: Option<String>) -> DeleteParams {
    DeleteParams {
        preconditions: uid.map(|uid| Preconditions {
            uid: Some(uid),
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}
