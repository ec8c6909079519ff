//! `Prefetch`: images and models to keep warm on matching nodes, without a pod.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::{Deserialize, Serialize};

/// What to keep, and where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct PrefetchSpec {
    /// Images, most wanted first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) images: Vec<String>,
    /// Models, most wanted first: `hf://org/name[@revision]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) models: Vec<String>,
    /// On which nodes, by their labels. Without it, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_selector: Option<LabelSelector>,
}
