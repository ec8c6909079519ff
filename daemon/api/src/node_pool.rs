//! `NodePool`: which pods it serves, what may be bought, and when it is given back.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::scalar::{Amount, CountOrPercent, Expiry, Price, Span};

/// What is wanted of a pool. Everything that narrows the choice holds together.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "headstart.dev",
    version = "v1alpha1",
    kind = "NodePool",
    plural = "nodepools",
    shortname = "hspool",
    category = "headstart",
    status = "NodePoolStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}"#,
    printcolumn = r#"{"name": "USD/h", "type": "number", "jsonPath": ".status.hourlyCost"}"#,
    printcolumn = r#"{"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name": "Weight", "type": "integer", "jsonPath": ".spec.weight"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.families) || !has(self.excludeFamilies) || !self.families.exists(f, f in self.excludeFamilies)",
    "message": "a family is in both families and excludeFamilies"
}]))]
pub struct NodePoolSpec {
    /// Which pods it serves, by their labels. Without it, all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Conditions on the labels of its nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub requirements: Vec<Requirement>,
    /// `spot`, `on-demand`, `reserved`. Without it, any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 3),
        inner(regex(pattern = r"^(spot|on-demand|reserved)$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub capacity_types: Vec<String>,
    /// GPU models, such as `L4` and `A10G`. Without it, any or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpu_skus: Vec<String>,
    /// Most GPUs on one node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gpus: Option<u32>,
    /// Instance families that may be bought, such as `g6`. Without it, any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub families: Vec<String>,
    /// Instance families that may not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub exclude_families: Vec<String>,
    /// A regular expression that is found in the name of the instance type, such as `^g6\.`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type_regexp: Option<String>,
    /// Highest price of one node, USD per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hourly_cost: Option<Price>,
    /// Zones. Without it, any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Most of each resource over all its nodes: `cpu`, `memory`, `nvidia.com/gpu`, and `nodes`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, Amount>,
    /// Labels its nodes get.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints its nodes get.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<PoolTaint>,
    /// Taints its nodes get that something takes away once they are ready.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub startup_taints: Vec<PoolTaint>,
    /// Pools of higher weight are tried first. 0 when not given.
    pub weight: i32,
    /// What an hour of waiting for a node is worth, in USD. 0 when not given: the cheapest wins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_of_time: Option<Price>,
    /// How long a node is expected to be used; the price counts over this time. One hour when not
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_life: Option<Span>,
    /// When a pod gets a node of its own.
    pub packing: Packing,
    /// When nodes are given back.
    pub disruption: Disruption,
    /// How many volumes of each CSI driver a new node attaches.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_limits: BTreeMap<String, u32>,
    /// Settings of the cloud provider, read by it alone.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub provider: Map<String, Value>,
}

/// What is reported of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePoolStatus {
    /// Its nodes, those on their way included.
    pub nodes: u32,
    /// What they cost, USD per hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly_cost: Option<Price>,
    /// What they have of each resource that `limits` counts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, Amount>,
    /// `Ready` says whether it may buy.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One condition on the labels of a pool's nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!(self.operator in ['In', 'NotIn']) || (has(self.values) && self.values.size() > 0)",
        "message": "In and NotIn need at least one value"
    },
    {
        "rule": "!(self.operator in ['Exists', 'DoesNotExist']) || !has(self.values) || self.values.size() == 0",
        "message": "Exists and DoesNotExist take no value"
    },
    {
        "rule": "!(self.operator in ['Gt', 'Lt', 'Gte', 'Lte']) || (has(self.values) && self.values.size() == 1 && self.values[0].matches('^-?[0-9]+$'))",
        "message": "Gt, Lt, Gte and Lte take one integer"
    }
]))]
pub struct Requirement {
    /// Label.
    pub key: String,
    /// How it compares.
    pub operator: RequirementOperator,
    /// With what: none for `Exists` and `DoesNotExist`, one integer for `Gt`, `Lt`, `Gte`, `Lte`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(max = 63)))]
    pub values: Vec<String>,
    /// How many different values the types considered for one node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_values: Option<u32>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RequirementOperator {
    /// One of the values.
    In,
    /// None of the values, or absent.
    NotIn,
    /// There.
    Exists,
    /// Absent.
    DoesNotExist,
    /// Greater.
    Gt,
    /// Less.
    Lt,
    /// Not less.
    Gte,
    /// Not greater.
    Lte,
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolTaint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[schemars(extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: String,
}

/// When a pod gets a node of its own instead of sharing one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Packing {
    /// When it asks for at least this much CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated_cpu: Option<Amount>,
    /// When it asks for at least this much memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedicated_memory: Option<Amount>,
    /// Whether GPU pods share nodes.
    pub gpu: GpuSharing,
}

/// Whether GPU pods share nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GpuSharing {
    /// Where it is cheaper per pod.
    #[default]
    Share,
    /// Each has a node of its own.
    Dedicated,
}

/// When nodes are given back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Disruption {
    /// How long a node must have been empty or under-used. Five minutes when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consolidate_after: Option<Span>,
    /// Requested share of CPU or memory, in per cent, below which a shared node is under-used. 20
    /// when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underused_shared_percent: Option<u32>,
    /// The same for a node that one pod has of its own. 75 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underused_dedicated_percent: Option<u32>,
    /// Greatest age of a node, or `Never`, which holds when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<Expiry>,
    /// How many nodes may be disrupted at once; the strictest counts. A tenth when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50))]
    pub budgets: Option<Vec<Budget>>,
}

/// A limit on nodes disrupted at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.schedule) == has(self.duration)",
    "message": "schedule and duration go together"
}]))]
pub struct Budget {
    /// How many, or which share.
    pub nodes: CountOrPercent,
    /// For which reasons; for all when not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<BudgetReason>,
    /// When it begins to hold, as five cron fields in UTC. With `duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// For how long it holds then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Span>,
}

/// Why a node is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BudgetReason {
    /// Nothing but daemons runs on it.
    Empty,
    /// Its pods fit elsewhere.
    #[serde(alias = "Underutilized")]
    Underused,
    /// Something cheaper would do.
    Replaceable,
    /// It differs from what its pool says now.
    Drifted,
    /// It is too old.
    Expired,
}
