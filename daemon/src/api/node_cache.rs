//! `NodeCache`: what one node is to have (written by the control plane), and what it has (written by
//! the agent of that node).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::scalar::Amount;

/// What a node is to have, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct NodeCacheSpec {
    /// Grows with every change; an agent refuses an older one.
    pub(crate) generation: u64,
    /// The items, most wanted first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<CacheItem>,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct NodeCacheStatus {
    /// The generation of the spec that the agent works on.
    pub(crate) generation: u64,
    /// When this was reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) observed: Option<Time>,
    /// Bytes that may still be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) room: Option<Amount>,
    /// The items; one that is not listed is absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<CacheItem>,
    /// Items being fetched now, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) fetching: Vec<CacheItem>,
}

/// An image or a model; one of the two is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct CacheItem {
    /// An image, by digest: `docker.io/vllm/vllm-openai@sha256:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// A model, by commit: `org/name@<commit>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// Digest of the file set chosen from the model; none for the default choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) files: String,
    /// How far it is; only in a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<ItemPhase>,
    /// How many bytes are there, when only some are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<Amount>,
    /// Whether it may not be evicted; only in a spec.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pinned: bool,
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ItemPhase {
    /// Some of its bytes are there.
    Partial,
    /// Something is there that nobody has verified.
    Unknown,
    /// All of it is there and was verified.
    Verified,
}
