//! Where nodes come from: one verb, *ensure capacity for this claim at this offering, under this key*.
//!
//! A provider is asked again and again until it answers for good, by any replica, after any crash: the
//! claim's name is the key, and the same key never buys twice. It keeps nothing that it cannot find
//! again by asking the cloud.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use headstart_api::PoolTaint;
use headstart_core::offer::{InstanceType, Offering, OfferingKey};
use serde_json::{Map, Value};

pub(crate) mod external;
pub(crate) mod kwok;

/// One cloud, or what stands for one.
pub(crate) trait Provider: Send + Sync {
    /// Its word in configuration and metrics.
    fn name(&self) -> &'static str;

    /// What it sells now. Asked at every start and from time to time, not each round.
    fn offers(&self) -> BoxFuture<'_, Result<Offers, Refusal>>;

    /// Makes sure that there is one instance for this claim, and says which.
    fn ensure<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Instance, Refusal>>;

    /// Gives back the instance of this claim, if there is one. To be asked until it says
    /// [`Release::Gone`].
    fn release<'a>(&'a self, claim: &'a str) -> BoxFuture<'a, Result<Release, Refusal>>;

    /// Every instance that carries this cluster's mark, with or without a claim.
    fn instances(&self) -> BoxFuture<'_, Result<Vec<Instance>, Refusal>>;
}

/// What is sold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offers {
    /// Types.
    pub(crate) types: Vec<InstanceType>,
    /// What of them, where and for how much.
    pub(crate) offerings: Vec<Offering>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The claim's name, which is the key.
    pub(crate) claim: String,
    /// What to buy.
    pub(crate) offering: OfferingKey,
    /// Labels its Node is to have.
    pub(crate) labels: BTreeMap<String, String>,
    /// Taints its Node is to have, startup taints among them.
    pub(crate) taints: Vec<PoolTaint>,
    /// `spec.provider` of its pool.
    pub(crate) settings: Map<String, Value>,
    /// What the agent on it should fetch, as the agent reads it from a file: a `NodeCache` in JSON.
    pub(crate) intent: String,
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Claim it was made for, if its mark says.
    pub(crate) claim: Option<String>,
    /// As the node's `spec.providerID` will be.
    pub(crate) provider_id: String,
    /// Name its Node has or will have, if known.
    pub(crate) node_name: Option<String>,
    /// Where it is in its life.
    pub(crate) state: InstanceState,
    /// When it was made.
    pub(crate) created: SystemTime,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstanceState {
    /// On its way or running.
    Running,
    /// It was told that it will be taken away.
    Interrupted,
    /// Ending or ended.
    Ending,
}

/// How far giving back is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// There is no such instance, any more or ever.
    Gone,
    /// It is ending.
    Ending,
}

/// Why not, in the terms that the caller acts on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// This offering has no capacity.
    #[error("no capacity: {said}")]
    OutOfCapacity {
        /// In the provider's words.
        said: String,
    },
    /// An account's limit.
    #[error("over the quota {quota}: {said}")]
    Quota {
        /// Its name.
        quota: String,
        /// In the provider's words.
        said: String,
    },
    /// Asked too often.
    #[error("throttled for {} s", .wait.as_secs())]
    Throttled {
        /// How long to wait.
        wait: std::time::Duration,
    },
    /// A permission is missing.
    #[error("forbidden, {permission} is missing: {said}")]
    Forbidden {
        /// Which.
        permission: String,
        /// In the provider's words.
        said: String,
    },
    /// Something asked for makes no sense to it.
    #[error("{field} is wrong: {said}")]
    Misconfigured {
        /// Field of the pool.
        field: String,
        /// In the provider's words.
        said: String,
    },
    /// Anything else; the same may succeed later.
    #[error("{said}")]
    Other {
        /// What happened.
        said: String,
    },
}
