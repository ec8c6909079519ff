//! Google Cloud as far as GKE's nodes go: the metadata server, Security Token Service, `container` v1
//! and `compute` v1, on one port.
//!
//! As the real one: a node pool takes looks to be made, and five at once are too many; a group accepts
//! a name whatever the capacity, says in a list why it failed, and tries again by itself; a token that
//! expired is refused until a new one is fetched; pages are short.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use headstart_clouds::call::Patience;
use headstart_clouds::gcp::token::Source;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_provider::gcp::{Config, Gcp};
use headstart_provider::{Offers, Provider};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::control::{Control, Fault};
use crate::server::Server;
use crate::{Cloud, Habit, Wares, market, site};

mod answers;
mod compute;
mod container;

/// The project.
pub const PROJECT: &str = "proving-ground";

/// The region, where the cluster is.
pub const REGION: &str = "us-central1";

/// The cluster's name in GKE.
pub const GKE_CLUSTER: &str = "prod";

/// Zones of the region.
const ZONES: [&str; 2] = ["us-central1-a", "us-central1-b"];

/// Machine types, where they are sold, and the GPU of each.
const TYPES: [(&str, &[&str], &str); 2] = [
    ("g2-standard-4", &ZONES, "nvidia-l4"),
    ("a2-highgpu-1g", &["us-central1-a"], "nvidia-tesla-a100"),
];

/// Most bytes of a request.
const MAX_REQUEST: usize = 16 << 20;

/// Google, on loopback.
#[derive(Debug)]
pub struct Google {
    shared: Arc<Shared>,
    server: Server,
}

/// What was asked, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// `POST`.
    pub method: String,
    /// Path.
    pub path: String,
    /// Parameters.
    pub query: BTreeMap<String, String>,
    /// JSON.
    pub body: Option<Value>,
}

#[derive(Debug)]
struct Shared {
    control: Control,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Number of the token that is valid.
    token: usize,
    asked: Vec<Asked>,
    pools: BTreeMap<String, container::Pool>,
    /// Looks that a pool takes to be made.
    pool_takes: usize,
    /// Why the next pools cannot be made.
    pool_fails: Option<Value>,
    operations: BTreeMap<String, Value>,
    requests: BTreeMap<String, Value>,
    waiting: BTreeMap<String, compute::Waiting>,
    preempted: BTreeMap<String, String>,
    numbers: usize,
}

impl Google {
    /// Starts it. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            control: Control::default(),
            inner: Mutex::new(Inner {
                pool_takes: 1,
                ..Inner::default()
            }),
        });
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        let server = Server::start(router)?;
        Ok(Self { shared, server })
    }

    /// `http://127.0.0.1:PORT`, of the metadata server and of all APIs.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Every request to an API so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.inner().asked.clone()
    }

    /// Names of the node pools there are.
    pub fn pools(&self) -> Vec<String> {
        self.shared.inner().pools.keys().cloned().collect()
    }

    /// Deletes a node pool with all in it, as a person at the console does.
    pub fn delete_pool(&self, name: &str) {
        container::remove(&self.shared, name);
    }

    /// Pools take so many looks to be made from now on.
    pub fn make_pools_slowly(&self, looks: usize) {
        self.shared.inner().pool_takes = looks;
    }

    /// Pools asked for from now on end with this `google.rpc.Status`.
    pub fn fail_pools(&self, status: Value) {
        self.shared.inner().pool_fails = Some(status);
    }

    /// Names that wait in some group.
    pub fn waiting(&self) -> Vec<String> {
        self.shared.inner().waiting.keys().cloned().collect()
    }

    /// A provider whose tokens come from `source`.
    ///
    /// # Panics
    /// Never: the configuration is right.
    pub fn provider_with(&self, cluster: &str, source: Source, patience: Patience) -> Arc<Gcp> {
        let url = self.url();
        let config: Config = serde_json::from_value(json!({
            "project": PROJECT,
            "location": REGION,
            "cluster": GKE_CLUSTER,
            "endpoints": {"container": url, "compute": format!("{url}/compute/v1")},
        }))
        .expect("a configuration");
        let mut site = site(cluster, market::catalog(&wares()));
        site.patience = patience;
        Arc::new(Gcp::open(config, site, source).expect("a configuration"))
    }
}

impl Cloud for Google {
    fn provider(&self, cluster: &str) -> Arc<dyn Provider> {
        let endpoint = self.url().parse().expect("an address");
        let patience = site(cluster, Offers::default()).patience;
        self.provider_with(cluster, Source::Metadata { endpoint }, patience)
    }

    fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "serviceAccount": "nodes@proving-ground.iam.gserviceaccount.com",
            "imageType": "COS_CONTAINERD",
            "localSsds": 1,
        });
        settings.as_object().cloned().unwrap_or_default()
    }

    fn offerings(&self) -> Wares {
        wares()
    }

    fn control(&self) -> &Control {
        &self.shared.control
    }

    fn spared(&self, _: Fault) -> Option<&'static str> {
        None
    }

    fn lacks(&self, habit: Habit) -> Option<&'static str> {
        match habit {
            Habit::HandsIntent => {
                Some("GKE's nodes have no user data: the agent asks the API server")
            }
            Habit::AsksListPrices => Some("list prices are told by SKU, not by machine type"),
            Habit::AsksSpotPrices | Habit::HearsInterruptions | Habit::ReadsSettings => None,
        }
    }
}

fn wares() -> Wares {
    let key = |instance_type: &str, zone: &str, capacity_type| OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: zone.to_owned(),
        capacity_type,
    };
    let [g2, a2] = TYPES.map(|(name, _, _)| name);
    Wares {
        spot: key(g2, ZONES[0], CapacityType::Spot),
        elsewhere: key(g2, ZONES[1], CapacityType::Spot),
        on_demand: key(g2, ZONES[0], CapacityType::OnDemand),
        other: key(a2, ZONES[0], CapacityType::Spot),
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn number(&mut self) -> usize {
        self.numbers += 1;
        self.numbers
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let path = parts.uri.path().to_owned();
    let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or("").as_bytes());
    let query = query.into_owned().collect();
    let header = |name: &str| {
        let value = parts.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    };
    if path.starts_with("/computeMetadata/") {
        return answers::metadata(&shared, &path, header("metadata-flavor"));
    }
    if path == "/sts/v1/token" {
        return answers::exchange(&shared, &body);
    }
    let asked = Asked {
        method: parts.method.to_string(),
        path,
        query,
        body: serde_json::from_slice(&body).ok(),
    };
    shared.inner().asked.push(asked.clone());
    let is_compute = asked.path.starts_with("/compute/v1/");
    let bearer = format!("Bearer token-{}", shared.inner().token);
    if header("authorization") != bearer {
        return answers::unauthenticated(is_compute);
    }
    match is_compute {
        true => compute::serve(&shared, &asked),
        false => container::serve(&shared, &asked),
    }
}
