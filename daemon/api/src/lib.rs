//! `headstart.dev/v1alpha1`: the objects as they are written down and stored, and the names that
//! labels and annotations go by.
//!
//! Only form lives here: what a field means to the planner is said where it is read. Fields may be
//! added as long as they are optional; none changes its meaning. In what people write (`NodePool`,
//! `Prefetch`) a field that is not known is an error; in what programs write it is left alone, so that
//! two versions can work side by side.

pub use self::node_cache::{
    CacheItem, Interruption, InterruptionKind, ItemPhase, ItemSource, NodeCache, NodeCacheSpec,
    NodeCacheStatus, NoticeSource,
};
pub use self::node_claim::{
    ClaimOffering, Instance, NodeClaim, NodeClaimSpec, NodeClaimStatus, Stages,
};
pub use self::node_pool::{
    Budget, BudgetReason, Disruption, GpuSharing, NodePool, NodePoolSpec, NodePoolStatus, Packing,
    PoolTaint, Requirement, RequirementOperator,
};
pub use self::prefetch::{Prefetch, PrefetchSpec, PrefetchStatus};
pub use self::scalar::{Amount, CountOrPercent, Expiry, Price, Span};

pub mod crd;
mod fine;
pub mod names;
mod node_cache;
mod node_claim;
mod node_pool;
mod prefetch;
mod scalar;
