//! A cloud on this machine: it sells nodes of a [`Cluster`] over the protocol of the `external`
//! provider.
//!
//! What a cloud does is done for real: a node boots in its time, its GPUs come later, an offering
//! runs out, a reply is lost, a new machine is not listed at once, a running one is taken away. How
//! and when is configured, also while it runs. The same claim never gets two machines.
//!
//! Deliberately absent: prices that move, quotas over several offerings.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::Cluster;

mod machine;

/// Where it listens, in the control plane's network.
const ADDRESS: &str = "10.99.0.1:7000";

/// Region of its zones: `test-1a`.
const REGION: &str = "test-1";

/// Where a node finds what it was told to fetch, below `/var/lib`.
const INTENT: &str = "headstart-intent/intent.json";

/// What it sells.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Name of the type.
    pub instance_type: String,
    /// Letter of the zone.
    pub zone: char,
    /// `spot` or `on-demand`.
    pub capacity_type: &'static str,
    /// Price.
    pub usd_per_hour: f64,
    /// GPUs of one.
    pub gpus: usize,
    /// What one receives, as `tc` writes it: `200mbit`.
    pub rate: Option<String>,
    /// How many there are.
    pub stock: usize,
}

/// How machines come up.
#[derive(Clone, Debug)]
pub struct Boot {
    /// From the request to the network, when the agent starts.
    pub network: Duration,
    /// From the request to the kubelet's start.
    pub kubelet: Duration,
    /// From the request to the GPUs' registration.
    pub gpus: Duration,
    /// From the request until the machine is listed.
    pub listed: Duration,
    /// The program that starts with the network, with its arguments: `{node}` is the node's name,
    /// `{intent}` the file with what it is to fetch. None starts nothing.
    pub agent: Vec<String>,
}

impl Default for Boot {
    fn default() -> Self {
        Self {
            network: Duration::ZERO,
            kubelet: Duration::ZERO,
            gpus: Duration::ZERO,
            listed: Duration::ZERO,
            agent: Vec::new(),
        }
    }
}

/// What its machines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machines {
    /// Nodes with kubelet and containerd.
    Real,
    /// Node objects only, kept ready.
    Objects,
}

/// What goes wrong with the next requests for a machine, one each.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It says no: a status and a code of the protocol. 429 and 503 ask for a pause of a second.
    Refuse(u16, &'static str),
    /// It makes the machine and answers with a failure.
    LoseReply,
    /// It makes the machine and answers after this long.
    Slow(Duration),
}

/// A running cloud. Its machines are the cluster's, and go with it.
#[derive(Debug)]
pub struct Cloud {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Of the network it listens in; its end closes the port.
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    cluster: Arc<Cluster>,
    kind: Machines,
    state: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    offers: Vec<Offer>,
    boot: Boot,
    faults: VecDeque<Fault>,
    machines: BTreeMap<String, Machine>,
    asked: Vec<String>,
    made: usize,
    lists: usize,
}

/// A machine that was sold.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its claim.
    pub claim: String,
    /// Index of what was sold.
    offer: usize,
    /// Its node, once that is known.
    pub node: Option<String>,
    /// `running`, `interrupted` or `ending`.
    pub state: &'static str,
    /// When it was asked for.
    pub created: SystemTime,
    at: Instant,
    number: usize,
    /// Its thread still starts its programs, and ends what it started if it was given back meanwhile.
    starting: bool,
}

/// What a machine is to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    instance_type: String,
    zone: String,
    capacity_type: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    taints: Vec<Taint>,
    #[serde(default)]
    intent: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Taint {
    key: String,
    #[serde(default)]
    value: String,
    effect: String,
}

impl Cloud {
    /// Opens for business.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn open(
        cluster: Arc<Cluster>,
        kind: Machines,
        offers: Vec<Offer>,
        boot: Boot,
    ) -> Result<Self> {
        let runtime = cluster.network()?;
        let shared = Arc::new(Shared {
            cluster,
            kind,
            state: Mutex::new(Inside {
                offers,
                boot,
                faults: VecDeque::new(),
                machines: BTreeMap::new(),
                asked: Vec::new(),
                made: 0,
                lists: 0,
            }),
        });
        let router = Router::new()
            .route("/v1/offers", get(offered))
            .route("/v1/instances", get(listed))
            .route("/v1/instances/{claim}", put(ensure).delete(release))
            .with_state(shared.clone());
        let listening = runtime.spawn(async { tokio::net::TcpListener::bind(ADDRESS).await });
        let listener = runtime.block_on(listening)?.context("listen")?;
        let address = listener.local_addr()?;
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            shared,
            address,
            _runtime: runtime,
        })
    }

    /// Where the control plane and nodes reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes how machines come up from now on.
    pub fn boot(&self, boot: Boot) {
        self.shared.state().boot = boot;
    }

    /// Changes how many there are of a type.
    pub fn stock(&self, instance_type: &str, stock: usize) {
        for offer in &mut self.shared.state().offers {
            if offer.instance_type == instance_type {
                offer.stock = stock;
            }
        }
    }

    /// The next requests for a machine meet these, in order.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.state().faults.extend(faults);
    }

    /// Claims that machines were asked for, each time they were.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state().asked.clone()
    }

    /// How many machines were ever made.
    pub fn made(&self) -> usize {
        self.shared.state().made
    }

    /// Machines that are there.
    pub fn machines(&self) -> Vec<Machine> {
        self.shared.state().machines.values().cloned().collect()
    }

    /// Tells that a machine will be taken away, and takes it after `notice`.
    pub fn interrupt(&self, claim: &str, notice: Duration) {
        if let Some(machine) = self.shared.state().machines.get_mut(claim) {
            machine.state = "interrupted";
        }
        let (shared, claim) = (self.shared.clone(), claim.to_owned());
        std::thread::spawn(move || {
            // One that is given back before keeps nothing waiting.
            if shared.wait(&claim, Instant::now() + notice) {
                shared.end(&claim);
            }
        });
    }

    /// A machine is gone from one moment to the next, without a word. Its Node object stays.
    pub fn vanish(&self, claim: &str) {
        self.shared.state().machines.remove(claim);
    }

    /// How often it was asked what machines there are.
    pub fn lists(&self) -> usize {
        self.shared.state().lists
    }

    /// A machine that nobody claims appears.
    pub fn stray(&self, claim: &str) {
        let mut state = self.shared.state();
        let number = state.made;
        let machine = Machine {
            claim: claim.to_owned(),
            offer: 0,
            node: None,
            state: "running",
            created: SystemTime::UNIX_EPOCH,
            at: Instant::now(),
            number,
            starting: false,
        };
        state.made += 1;
        state.machines.insert(claim.to_owned(), machine);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    fn told(&self) -> Value {
        let created = self.created.duration_since(SystemTime::UNIX_EPOCH);
        let created = created.unwrap_or_default().as_secs();
        let created = i64::try_from(created).unwrap_or(0);
        let created = jiff::Timestamp::from_second(created).unwrap_or_default();
        json!({
            "claim": self.claim, "providerId": provider_id(&self.claim), "nodeName": self.node,
            "state": self.state, "created": created.to_string(),
        })
    }
}

/// Whole seconds, as a catalog takes them.
fn seconds(span: Duration) -> u64 {
    span.as_millis()
        .div_ceil(1000)
        .try_into()
        .unwrap_or(u64::MAX)
}

fn provider_id(claim: &str) -> String {
    format!("test://{claim}")
}

async fn offered(State(shared): State<Arc<Shared>>) -> String {
    let state = shared.state();
    let mut rows: BTreeMap<(&str, char), (f64, f64, &Offer)> = BTreeMap::new();
    for offer in &state.offers {
        let at = (offer.instance_type.as_str(), offer.zone);
        let row = rows.entry(at).or_insert((f64::NAN, f64::NAN, offer));
        match offer.capacity_type {
            "spot" => row.1 = offer.usd_per_hour,
            _ => row.0 = offer.usd_per_hour,
        }
    }
    let boot = &state.boot;
    let mut csv = "cloud,region,type,vcpu,memory_mib,gpu_sku,gpu_count,gpu_memory_mib,\
                   network_mbps,on_demand,spot,zones,agent_s,ready_s,allocatable_s\n"
        .to_owned();
    for ((name, zone), (on_demand, spot, offer)) in rows {
        let price = |usd: f64| match usd.is_nan() {
            true => String::new(),
            false => usd.to_string(),
        };
        let gpu = match offer.gpus {
            0 => ",,".to_owned(),
            count => format!("L4,{count},24576"),
        };
        let rate = offer
            .rate
            .as_deref()
            .and_then(|rate| rate.strip_suffix("mbit"));
        csv.push_str(&format!(
            "aws,{REGION},{name},2,16384,{gpu},{},{},{},{zone},{},{},{}\n",
            rate.unwrap_or("1000"),
            price(on_demand),
            price(spot),
            seconds(boot.network),
            seconds(boot.kubelet) + 2,
            seconds(boot.gpus.max(boot.kubelet)) + 3,
        ));
    }
    csv
}

async fn listed(State(shared): State<Arc<Shared>>) -> axum::Json<Value> {
    let mut state = shared.state();
    state.lists += 1;
    let visible = |machine: &&Machine| machine.at.elapsed() >= state.boot.listed;
    let machines: Vec<Value> = state
        .machines
        .values()
        .filter(visible)
        .map(Machine::told)
        .collect();
    axum::Json(json!({"instances": machines}))
}

async fn ensure(
    State(shared): State<Arc<Shared>>,
    Path(claim): Path<String>,
    axum::Json(asked): axum::Json<Asked>,
) -> Response {
    let fault = {
        let mut state = shared.state();
        state.asked.push(claim.clone());
        state.faults.pop_front()
    };
    if let Some(Fault::Refuse(status, code)) = fault {
        return refuse(status, code, "as configured");
    }
    let made = match sell(&shared, &claim, &asked) {
        Ok(made) => made,
        Err((status, code, said)) => return refuse(status, code, &said),
    };
    match fault {
        Some(Fault::LoseReply) => return refuse(500, "Lost", "as configured"),
        Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
        _ => {}
    }
    axum::Json(made).into_response()
}

/// A refusal: status, code, words.
type Refused = (u16, &'static str, String);

/// The machine of a claim, made unless it is there.
fn sell(shared: &Arc<Shared>, claim: &str, asked: &Asked) -> Result<Value, Refused> {
    let mut state = shared.state();
    if let Some(machine) = state.machines.get(claim) {
        return Ok(machine.told());
    }
    let wanted = |offer: &Offer| {
        offer.instance_type == asked.instance_type
            && format!("{REGION}{}", offer.zone) == asked.zone
            && offer.capacity_type == asked.capacity_type
    };
    let Some(index) = state.offers.iter().position(wanted) else {
        let said = format!("{} is not sold in {}", asked.instance_type, asked.zone);
        return Err((422, "Misconfigured", said));
    };
    let sold = |machine: &&Machine| machine.offer == index && machine.state != "ending";
    if state.machines.values().filter(sold).count() >= state.offers[index].stock {
        return Err((409, "OutOfCapacity", "all are sold".to_owned()));
    }
    let machine = Machine {
        claim: claim.to_owned(),
        offer: index,
        node: None,
        state: "running",
        created: SystemTime::now(),
        at: Instant::now(),
        number: state.made,
        starting: false,
    };
    let told = machine.told();
    state.made += 1;
    state.machines.insert(claim.to_owned(), machine);
    drop(state);
    let (shared, claim, asked) = (shared.clone(), claim.to_owned(), asked.clone());
    std::thread::spawn(move || {
        if let Err(error) = shared.bring_up(&claim, &asked) {
            eprintln!("the machine of {claim} does not come up: {error:#}");
        }
    });
    Ok(told)
}

async fn release(State(shared): State<Arc<Shared>>, Path(claim): Path<String>) -> StatusCode {
    let mut state = shared.state();
    match state.machines.get_mut(&claim) {
        None => StatusCode::NOT_FOUND,
        Some(machine) if machine.state == "ending" => StatusCode::ACCEPTED,
        Some(machine) => {
            machine.state = "ending";
            drop(state);
            std::thread::spawn(move || shared.end(&claim));
            StatusCode::ACCEPTED
        }
    }
}

fn refuse(status: u16, code: &str, said: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({"code": code, "message": said, "subject": "test"});
    let mut response = (status, axum::Json(body)).into_response();
    if matches!(status.as_u16(), 429 | 503) {
        let soon = http::HeaderValue::from_static("1");
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, soon);
    }
    response
}
