//! Azure on loopback: its login, Resource Manager with AKS and Compute, and its price list.
//!
//! One cluster, whose people have a system pool of their own. A purchase is accepted and decided
//! afterwards, as AKS does: there is an operation to ask, and a pool that failed stays there until it
//! is deleted. AKS tells nobody that a machine will be taken away: an interrupted one is missing from
//! its pool.

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post};
use headstart_clouds::azure::token::Source;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_provider::Provider;
use headstart_provider::azure::{Azure as AzureProvider, Config, Nodes};
use serde_json::{Map, Value, json};

use self::state::State;
pub use self::state::{Pools, Recorded};
use crate::control::{Control, Fault};
use crate::server::Server;
use crate::{Cloud, Habit, Wares, market, site};

mod aks;
mod answer;
mod arm;
mod login;
mod prices;
mod state;
mod written;

/// Subscription of the cluster.
pub const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";

/// Resource group of the cluster.
pub const GROUP: &str = "ml";

/// Its name.
pub const NAME: &str = "serving";

/// Its region.
pub const LOCATION: &str = "eastus";

/// A pool in mode `Machines` that it has.
pub const MACHINES: &str = "gpus";

/// A directory, and an identity in it.
pub const TENANT: &str = "99999999-8888-7777-6666-555555555555";

/// The identity.
pub const CLIENT: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";

/// What the identity's service account shows.
pub const ASSERTION: &str = "a.service.account";

/// Azure.
#[derive(Debug)]
pub struct Azure {
    state: Arc<State>,
    server: Server,
    nodes: Nodes,
}

impl Azure {
    /// Starts one whose providers make an agent pool per node. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> std::io::Result<Self> {
        Self::with(Nodes::AgentPools)
    }

    /// Starts one whose providers make machines of [`MACHINES`]. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start_with_machines() -> std::io::Result<Self> {
        Self::with(Nodes::Machines {
            pool: MACHINES.to_owned(),
            api_version: arm::PREVIEW.to_owned(),
        })
    }

    fn with(nodes: Nodes) -> std::io::Result<Self> {
        let state = Arc::new(State::new());
        let router = Router::new()
            .route("/metadata/identity/oauth2/token", get(login::metadata))
            .route("/{tenant}/oauth2/v2.0/token", post(login::entra))
            .route("/api/retail/prices", get(prices::prices))
            .route("/subscriptions/{*rest}", any(arm::manager))
            .with_state(Arc::clone(&state));
        let server = Server::start(router)?;
        Ok(Self {
            state,
            server,
            nodes,
        })
    }

    /// Where all of it is.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// What Resource Manager was sent so far.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.state.recorded()
    }

    /// Its agent pools as they are, and ways to change them as a person does.
    pub fn pools(&self) -> Pools<'_> {
        Pools::of(&self.state)
    }

    /// A configuration of the provider.
    ///
    /// # Panics
    /// Never: it is written here.
    pub fn config(&self) -> Config {
        let endpoints = json!({"resourceManager": self.url(), "prices": self.url()});
        let config = json!({
            "subscription": SUBSCRIPTION, "resourceGroup": GROUP, "cluster": NAME,
            "location": LOCATION, "endpoints": endpoints,
        });
        Config {
            nodes: self.nodes.clone(),
            ..serde_json::from_value(config).expect("a configuration")
        }
    }

    /// A provider as it is: not behind its trait.
    ///
    /// # Panics
    /// Never: the configuration is right.
    pub fn open(&self, cluster: &str, source: Source) -> AzureProvider {
        let site = site(cluster, market::catalog(&wares()));
        AzureProvider::open(self.config(), site, source).expect("a provider")
    }

    /// Tokens by the metadata service of this Azure.
    ///
    /// # Panics
    /// Never: a server has an address.
    pub fn managed(&self) -> Source {
        Source::Managed {
            endpoint: self.url().parse().expect("an address"),
            client: None,
        }
    }
}

impl Cloud for Azure {
    fn provider(&self, cluster: &str) -> Arc<dyn Provider> {
        Arc::new(self.open(cluster, self.managed()))
    }

    fn settings(&self) -> Map<String, Value> {
        let settings = json!({"osSku": "AzureLinux", "maxPods": 60, "spotTaint": "tolerated"});
        settings.as_object().cloned().unwrap_or_default()
    }

    fn offerings(&self) -> Wares {
        wares()
    }

    fn control(&self) -> &Control {
        &self.state.control
    }

    fn spared(&self, _: Fault) -> Option<&'static str> {
        None
    }

    fn lacks(&self, habit: Habit) -> Option<&'static str> {
        (habit == Habit::HandsIntent).then_some("AKS has no user data for its nodes")
    }
}

/// What is sold here.
pub fn wares() -> Wares {
    let key = |size: &str, zone: &str, capacity_type| OfferingKey {
        instance_type: size.to_owned(),
        zone: format!("{LOCATION}-{zone}"),
        capacity_type,
    };
    let (t4, a100) = ("Standard_NC4as_T4_v3", "Standard_NC24ads_A100_v4");
    Wares {
        spot: key(t4, "1", CapacityType::Spot),
        elsewhere: key(t4, "2", CapacityType::Spot),
        on_demand: key(t4, "1", CapacityType::OnDemand),
        other: key(a100, "1", CapacityType::Spot),
    }
}
