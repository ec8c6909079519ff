//! `NodeClaim`: one node that was asked for.
//!
//! The spec never changes once written: another wish is another claim. The claim's name is also the
//! key under which a provider is asked, so that asking twice buys once.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fine;
use crate::node_pool::PoolTaint;
use crate::scalar::{Amount, Price};

/// One node that was asked for.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "headstart.dev",
    version = "v1alpha1",
    kind = "NodeClaim",
    plural = "nodeclaims",
    shortname = "hsclaim",
    category = "headstart",
    status = "NodeClaimStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Type", "type": "string", "jsonPath": ".spec.offering.instanceType"}"#,
    printcolumn = r#"{"name": "Capacity", "type": "string", "jsonPath": ".spec.offering.capacityType"}"#,
    printcolumn = r#"{"name": "Zone", "type": "string", "jsonPath": ".spec.offering.zone"}"#,
    printcolumn = r#"{"name": "USD/h", "type": "number", "jsonPath": ".spec.price"}"#,
    printcolumn = r#"{"name": "Node", "type": "string", "jsonPath": ".status.nodeName"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name": "Reason", "type": "string", "jsonPath": ".spec.reason", "priority": 1}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self == oldSelf",
    "message": "a claim never changes; another wish is another claim"
}]))]
pub struct NodeClaimSpec {
    /// The pool that buys it.
    #[schemars(length(min = 1, max = 63))]
    pub node_pool: String,
    /// What is bought.
    pub offering: ClaimOffering,
    /// Price when it was chosen, USD per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// What its pods and daemons ask for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requests: BTreeMap<String, Amount>,
    /// What pods are expected to have of it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allocatable: BTreeMap<String, Amount>,
    /// Labels the node gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints the node gets and keeps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<PoolTaint>,
    /// Taints the node gets that something takes away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub startup_taints: Vec<PoolTaint>,
    /// Pods it was bought for, `namespace/name`; at most 64 are listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub pods: Vec<String>,
    /// Why this offering, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it is expected to be initialised, in seconds after it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_boot_seconds: Option<u32>,
}

/// An offering, by what names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimOffering {
    /// Instance type: `g6.xlarge`.
    pub instance_type: String,
    /// Zone: `us-east-1a`.
    pub zone: String,
    /// `spot`, `on-demand` or `reserved`.
    #[schemars(extend("enum" = ["spot", "on-demand", "reserved"]))]
    pub capacity_type: String,
}

/// What became of a claim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeClaimStatus {
    /// The instance, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// The Node object, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// When each stage was reached.
    pub stages: Stages,
    /// `Launched`, `Registered`, `Initialized`, `Ready`; `Failed` with why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A machine of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// The provider's identifier, as the node's `spec.providerID` will be.
    pub provider_id: String,
    /// Name that its Node will have, where the provider knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// When each stage of a node was reached; absent until it is. Times are those of whoever saw it happen
/// first-hand, not of when it was noticed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Stages {
    /// The provider was asked.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub requested: Option<Time>,
    /// The provider said yes.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub launched: Option<Time>,
    /// The agent on it had a network.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub agent_started: Option<Time>,
    /// Its Node object was made.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub registered: Option<Time>,
    /// Its Node became Ready.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub ready: Option<Time>,
    /// Everything expected was allocatable, GPUs included.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub gpu_allocatable: Option<Time>,
}
