//! `Prefetch`: images and models to keep warm on matching nodes, without a pod.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Images and models that nodes keep without a pod that waits for them.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "headstart.dev",
    version = "v1alpha1",
    kind = "Prefetch",
    plural = "prefetches",
    category = "headstart",
    namespaced,
    status = "PrefetchStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}"#,
    printcolumn = r#"{"name": "Warm", "type": "integer", "jsonPath": ".status.warm"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Warm\")].reason"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.images) && self.images.size() > 0) || (has(self.models) && self.models.size() > 0)",
    "message": "name at least one image or model"
}]))]
pub struct PrefetchSpec {
    /// Images, most wanted first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 512)))]
    pub images: Vec<String>,
    /// Models, most wanted first: `hf://org/name[@revision]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 512)))]
    pub models: Vec<String>,
    /// On which nodes, by their labels. Without it, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PrefetchStatus {
    /// Nodes it is for.
    pub nodes: u32,
    /// Those of them that have all of it.
    pub warm: u32,
    /// `Accepted` says whether it can be read, `Warm` whether every node has it, and else what keeps it
    /// from the most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
