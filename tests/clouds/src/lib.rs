//! Clouds on loopback that behave as clouds do: they run out, throttle, lose replies, list a new
//! machine late and take a running one away. And the cases that every provider passes on them.
//!
//! Each cloud is an HTTP server that speaks the vendor's own API, as far as a provider calls it; the
//! vendors' own Python clients drive the same servers elsewhere. What all of them share, the truth
//! about machines and the faults to come, is [`control::Control`].

use std::sync::Arc;

use headstart_core::offer::OfferingKey;
use headstart_provider::Provider;
use serde_json::{Map, Value};

use self::control::{Control, Fault};

pub mod control;
pub mod market;
pub mod server;

/// One cloud on loopback, as the cases see it. It ends with the value.
pub trait Cloud: Send + Sync {
    /// A provider for the cluster of this name, as a daemon that has just started makes one: it knows
    /// nothing of what earlier ones did.
    fn provider(&self, cluster: &str) -> Arc<dyn Provider>;

    /// `spec.provider` of a pool that is right.
    fn settings(&self) -> Map<String, Value>;

    /// What the cases buy.
    fn offerings(&self) -> Wares;

    /// What it has, and what it does wrong next.
    fn control(&self) -> &Control;

    /// Why this fault cannot happen here, if it cannot.
    fn spared(&self, fault: Fault) -> Option<&'static str>;
}

/// Offerings of a cloud of the tests.
#[derive(Clone, Debug)]
pub struct Wares {
    /// Spot of a type with GPUs in a zone.
    pub spot: OfferingKey,
    /// The same in another zone.
    pub elsewhere: OfferingKey,
    /// The same as the first, on demand.
    pub on_demand: OfferingKey,
    /// Another type, spot, in the first zone.
    pub other: OfferingKey,
}

/// Name of the cluster that the cases buy for.
pub const CLUSTER: &str = "here";
