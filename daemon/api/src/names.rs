//! Labels, annotations, finalizers, taints and other names that objects carry.

/// API group, and the prefix of every name below.
pub const GROUP: &str = "headstart.dev";

/// Label on nodes and claims: the pool that bought it.
pub const NODE_POOL: &str = "headstart.dev/node-pool";

/// Label on nodes: the claim they were bought for.
pub const NODE_CLAIM: &str = "headstart.dev/node-claim";

/// Label on node caches: the Node they are for, once it has a name. Labels hold 63 characters; a node
/// with a longer name has none.
pub const NODE: &str = "headstart.dev/node";

/// Label on nodes: `spot`, `on-demand` or `reserved`.
pub const CAPACITY_TYPE: &str = "headstart.dev/capacity-type";

/// Prefix of labels on nodes that say which items are warm; the rest is [`warm_label`]'s.
pub const WARM_PREFIX: &str = "headstart.dev/warm-";

/// Finalizer of claims: the instance is given back before the claim goes.
pub const INSTANCE_FINALIZER: &str = "headstart.dev/instance";

/// Annotation on claims and pools: digest of what a node was bought by; another one is drift.
pub const POOL_HASH: &str = "headstart.dev/pool-hash";

/// Scheduling gate put on pods that wait to be steered.
pub const STEERING_GATE: &str = "headstart.dev/steering";

/// Annotation on pods: models they start with, separated by commas.
pub const MODELS: &str = "headstart.dev/models";

/// Annotation on pods: images to fetch besides those of their containers, separated by commas.
pub const IMAGES: &str = "headstart.dev/images";

/// Annotation on pods and namespaces: nothing of Headstart touches them when `true`.
pub const IGNORE: &str = "headstart.dev/ignore";

/// Annotation on pods: `gate` steers by a scheduling gate, `none` not at all; by preference when absent.
pub const STEERING: &str = "headstart.dev/steering";

/// Annotation that the webhook leaves on pods it changed: what was injected, and why.
pub const INJECTED: &str = "headstart.dev/injected";

/// Name of the CSI driver that mounts models.
pub const CSI_DRIVER: &str = "csi.headstart.dev";

/// Attribute of a CSI volume: the model to mount, `hf://org/name[@revision][?include=…]`.
pub const CSI_MODEL: &str = "headstart.dev/model";

/// Attribute of a CSI volume: what a pod gets whose model it may not read or that does not exist.
/// `fail`, which is the default, keeps it from starting; `empty` mounts an empty cache, and so what
/// the pod would have without Headstart.
pub const CSI_ON_REFUSAL: &str = "headstart.dev/on-refusal";

/// Field manager of the control plane, in server-side apply.
pub const FIELD_MANAGER: &str = "headstart";

/// Field manager of agents.
pub const AGENT_FIELD_MANAGER: &str = "headstart-agent";

/// Taint on nodes that were asked to leave.
pub const LEAVING_TAINT: &str = "headstart.dev/leaving";
