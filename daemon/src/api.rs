//! `headstart.dev/v1alpha1`: the objects as they are written down and stored.
//!
//! Only form lives here: what a field means to the planner is said where it is read
//! (`crate::manifest`). Fields may be added as long as they are optional; none changes its meaning.
//! A field that is not known is an error. The specs carry no metadata, so that a custom resource can
//! be derived from them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

pub(crate) use self::node_cache::{CacheItem, ItemPhase, NodeCacheSpec, NodeCacheStatus};
pub(crate) use self::node_pool::{
    Budget, BudgetReason, GpuSharing, NodePoolSpec, NodePoolStatus, PoolTaint,
};
pub(crate) use self::prefetch::PrefetchSpec;
pub(crate) use self::scalar::{Amount, CountOrPercent, Expiry};

mod node_cache;
mod node_pool;
mod prefetch;
mod scalar;

/// An object: what is wanted, and what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Resource<Spec, Status> {
    /// API group and version.
    pub(crate) api_version: String,
    /// Kind.
    pub(crate) kind: String,
    /// Name, labels, annotations.
    pub(crate) metadata: ObjectMeta,
    /// What is wanted.
    pub(crate) spec: Spec,
    /// What is.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
}

/// Nothing is reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct NoStatus {}

/// What may be bought for whom, and when it is given back. Cluster-wide.
pub(crate) type NodePool = Resource<NodePoolSpec, NodePoolStatus>;

/// What one node is to have, and what it has. Cluster-wide, named as the node.
pub(crate) type NodeCache = Resource<NodeCacheSpec, NodeCacheStatus>;

/// Images and models that nodes keep without a pod that waits for them.
pub(crate) type Prefetch = Resource<PrefetchSpec, NoStatus>;
