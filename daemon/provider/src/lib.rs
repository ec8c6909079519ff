//! Where nodes come from: one verb, *ensure capacity for this claim at this offering, under this key*.
//!
//! A provider is asked again and again until it answers for good, by any replica, after any crash: the
//! claim's name is the key, and the same key never buys twice. It keeps nothing that it cannot find
//! again by asking the cloud.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use headstart_api::PoolTaint;
use headstart_clouds::call::Patience;
use headstart_core::offer::{InstanceType, Offering, OfferingKey};
use headstart_transfer::net::Http;
use serde_json::{Map, Value};

use self::doctor::Finding;

pub mod aws;
pub mod azure;
pub mod config;
pub mod doctor;
pub mod external;
pub mod gcp;
pub mod kwok;
pub mod price;
pub mod trial;

/// One cloud, or what stands for one.
pub trait Provider: Send + Sync {
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

    /// What stands between it and buying, for a person; `settings` are `spec.provider` of a pool.
    /// Buys nothing and changes nothing.
    fn examine<'a>(&'a self, settings: &'a Map<String, Value>) -> BoxFuture<'a, Vec<Finding>>;
}

/// What every cloud's provider is given.
#[derive(Clone, Debug)]
pub struct Site {
    /// Name of the cluster that nodes are for. Every instance carries it, and no other is touched.
    pub cluster: String,
    /// Opens connections.
    pub http: Http,
    /// How long a failing call is gone on with.
    pub patience: Patience,
    /// What the catalog knows of the region: types that the cloud itself says too little about, and
    /// prices for as long as it says none.
    pub catalog: Offers,
}

/// What is sold.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    /// Types.
    pub types: Vec<InstanceType>,
    /// What of them, where and for how much.
    pub offerings: Vec<Offering>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The claim's name, which is the key.
    pub claim: String,
    /// What to buy.
    pub offering: OfferingKey,
    /// Labels its Node is to have.
    pub labels: BTreeMap<String, String>,
    /// Taints its Node is to have and keep.
    pub taints: Vec<PoolTaint>,
    /// Taints its Node is to have at first, which somebody in the cluster takes off.
    pub startup_taints: Vec<PoolTaint>,
    /// `spec.provider` of its pool.
    pub settings: Map<String, Value>,
    /// What the agent on it should fetch, as the agent reads it from a file: a `NodeCache` in JSON.
    pub intent: String,
}

impl Wanted {
    /// Every taint its Node is to have at first.
    pub fn first_taints(&self) -> impl Iterator<Item = &PoolTaint> {
        self.taints.iter().chain(&self.startup_taints)
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Claim it was made for, if its mark says.
    pub claim: Option<String>,
    /// As the node's `spec.providerID` will be.
    pub provider_id: String,
    /// Name its Node has or will have, if known.
    pub node_name: Option<String>,
    /// Where it is in its life.
    pub state: InstanceState,
    /// When it was made.
    pub created: SystemTime,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// On its way or running.
    Running,
    /// It was told that it will be taken away.
    Interrupted,
    /// Ending or ended.
    Ending,
}

/// How far giving back is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// There is no such instance, any more or ever.
    Gone,
    /// It is ending.
    Ending,
}

/// Why not, in the terms that the caller acts on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
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

#[cfg(test)]
mod market;
