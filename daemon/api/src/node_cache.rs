//! `NodeCache`: what one node is to have (written by the control plane), and what it has (written by
//! the agent of that node).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fine;
use crate::scalar::{Amount, Span};

/// What a node is to have, in order. The object is named as the node; for a node in flight, as its
/// claim, and the agent finds it by the label `headstart.dev/node-claim` of its Node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "headstart.dev",
    version = "v1alpha1",
    kind = "NodeCache",
    plural = "nodecaches",
    shortname = "hscache",
    category = "headstart",
    status = "NodeCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Wanted", "type": "integer", "jsonPath": ".spec.generation"}"#,
    printcolumn = r#"{"name": "Working on", "type": "integer", "jsonPath": ".status.generation"}"#,
    printcolumn = r#"{"name": "Room", "type": "string", "jsonPath": ".status.room"}"#,
    printcolumn = r#"{"name": "Interruption", "type": "string", "jsonPath": ".status.interruption.kind"}"#,
    printcolumn = r#"{"name": "Observed", "type": "date", "jsonPath": ".status.observed"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.generation >= oldSelf.generation",
    "message": "generation only grows: an agent refuses an older one"
}]))]
pub struct NodeCacheSpec {
    /// Grows with every change; an agent refuses an older one.
    pub generation: u64,
    /// The items, most wanted first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub items: Vec<CacheItem>,
}

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCacheStatus {
    /// The generation of the spec that the agent works on.
    pub generation: u64,
    /// When this was reported.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub observed: Option<Time>,
    /// When the agent first had a network, in this boot of the node.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub agent_started: Option<Time>,
    /// When it asked for its first byte.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub first_request: Option<Time>,
    /// Bytes that may still be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<Amount>,
    /// The items; one that is not listed is absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<CacheItem>,
    /// Items being fetched now, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fetching: Vec<CacheItem>,
    /// What the cloud has announced of this machine's end; absent while it has announced nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interruption: Option<Interruption>,
    /// What went wrong last, for people; empty when nothing did.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// What a cloud has announced to a machine of its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Interruption {
    /// What will become of it.
    pub kind: InterruptionKind,
    /// Who said so.
    pub source: NoticeSource,
    /// When the agent heard of it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub noticed: Option<Time>,
    /// When it happens at the earliest: as the cloud said, or as long after the notice as it promises
    /// where it names no time.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub at: Option<Time>,
}

/// What will become of a machine. In order: the later is the worse.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
pub enum InterruptionKind {
    /// Nothing yet, but it is more likely to be taken away than others are.
    AtRisk,
    /// It will be stopped for the host's maintenance.
    Maintenance,
    /// It will be taken away within minutes.
    Taken,
}

/// Whose metadata service told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NoticeSource {
    /// EC2's.
    Aws,
    /// Compute Engine's.
    Gcp,
    /// Azure's.
    Azure,
}

impl NoticeSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aws, Self::Gcp, Self::Azure];

    /// Its word, as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
        }
    }
}

/// An image or a model; one of the two is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.image) != has(self.model)",
    "message": "give either image or model"
}]))]
pub struct CacheItem {
    /// An image, by digest: `docker.io/vllm/vllm-openai@sha256:…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// A name under which pods ask for the image, such as `docker.io/vllm/vllm-openai:v0.33.0`; given
    /// to containerd beside the digest, so that the kubelet finds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// A model, by commit: `org/name@<commit>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Digest of the file set chosen from the model, or its `include=…&exclude=…`; none for the
    /// default choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub files: String,
    /// How far it is; only in a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ItemPhase>,
    /// How many bytes are there, when only some are; in a spec, how many are expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Amount>,
    /// Whether it may not be evicted; only in a spec.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// Whether a pod waits for it; only in a spec.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub demanded: bool,
    /// Nodes that have it, most useful first; only in a spec.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// When the first byte of it was asked for; only in a status.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub started: Option<Time>,
    /// When it was verified; only in a status.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "fine::write"
    )]
    pub verified: Option<Time>,
    /// How long fetching it took; only in a status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took: Option<Span>,
    /// Bytes by where they came from; only in a status.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<ItemSource>,
    /// Why it is not there, for people; only in a status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// Where some bytes of an item came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ItemSource {
    /// `registry`, `mirror`, `hub`, `peer`, `disk`.
    pub kind: String,
    /// How many.
    pub bytes: u64,
}

/// How far an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ItemPhase {
    /// Some of its bytes are there.
    Partial,
    /// Something is there that nobody has verified.
    Unknown,
    /// All of it is there and was verified.
    Verified,
}
