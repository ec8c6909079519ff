//! Clouds on loopback that behave as clouds do: they run out, throttle, lose replies, list a new
//! machine late and take a running one away. And the cases that every provider passes on them.
//!
//! Each cloud is an HTTP server that speaks the vendor's own API, as far as a provider calls it; the
//! vendors' own Python clients drive the same servers elsewhere. What all of them share, the truth
//! about machines and the faults to come, is [`control::Control`].

use std::sync::Arc;
use std::time::Duration;

use headstart_clouds::call::Patience;
use headstart_core::offer::OfferingKey;
use headstart_provider::{Offers, Provider, Site};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use serde_json::{Map, Value};

use self::control::{Control, Fault};

pub mod aws;
pub mod azure;
pub mod conformance;
pub mod control;
pub mod external;
pub mod gcp;
pub mod kwok;

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

    /// Why it does without this, if it does.
    fn lacks(&self, habit: Habit) -> Option<&'static str> {
        let _ = habit;
        None
    }
}

/// What not every cloud's provider does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Hands the intent to the machine, before there is a Node.
    HandsIntent,
    /// Asks the cloud for spot prices.
    AsksSpotPrices,
    /// Asks the cloud for list prices.
    AsksListPrices,
    /// Hears from the cloud that a machine will be taken away.
    HearsInterruptions,
    /// Has something of a pool's own to set.
    ReadsSettings,
}

/// What a provider for `cluster` is given here: a patience that tests can bear, and `catalog`.
///
/// # Panics
/// Never: loopback can be trusted.
pub fn site(cluster: &str, catalog: Offers) -> Site {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").expect("an address"));
    Site {
        cluster: cluster.to_owned(),
        http: Http::new(policy).expect("a client"),
        patience: Patience {
            tries: 3,
            total: Duration::from_secs(10),
        },
        catalog,
    }
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
