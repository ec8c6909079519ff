//! AWS, as far as the `aws` provider calls it: EC2, EKS, SSM, SQS, STS, Service Quotas, the price list
//! and what hands out credentials, all at one address.
//!
//! Signatures are checked, and so is every parameter: one that is not the API's is refused. EC2's
//! lists come in pages of two. A client token stands for its parameters, and outlives its instance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use headstart_clouds::aws::credentials::Source;
use headstart_clouds::aws::sign::Keys;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_provider::Provider;
use headstart_provider::aws::{Aws as AwsProvider, Config, Settings};
use serde_json::{Map, Value, json};

use self::door::Asker;
use crate::control::{Control, Fault, Machine, Verb};
use crate::server::{Server, hang_up};
use crate::{Cloud, Habit, Wares, market, site};

mod door;
mod ec2;
mod elsewhere;
mod told;

/// Its only region.
pub const REGION: &str = "us-east-1";

/// The cluster in EKS.
pub const EKS_CLUSTER: &str = "shop";

/// Keys that never expire: id and secret.
pub const KEYS: (&str, &str) = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");

/// AWS on loopback. It ends with this value.
#[derive(Debug)]
pub struct Aws {
    kept: Arc<Kept>,
    server: Server,
}

/// A request that was answered, for whoever knows the vendor's models.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Recorded {
    /// `ec2`.
    pub service: String,
    /// `RunInstances`.
    pub action: String,
    /// Parameters of the query protocol, by their flat names; else empty.
    pub form: Vec<(String, String)>,
    /// Body of a JSON protocol; else null.
    pub json: Value,
}

#[derive(Debug, Default)]
struct Kept {
    control: Control,
    url: Mutex<String>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Ids and requests are counted.
    count: u64,
    /// Temporary keys before this one have expired.
    serial: u64,
    /// What was ever run, by id.
    ran: BTreeMap<String, Machine>,
    /// What client tokens stand for: parameters, and an id.
    tokens: BTreeMap<String, (Vec<(String, String)>, String)>,
    /// Rest of lists, by the token for the next page.
    pages: BTreeMap<String, Vec<String>>,
    queue: Vec<Queued>,
    told: BTreeSet<String>,
    receives: u64,
    recorded: Vec<Recorded>,
}

#[derive(Clone, Debug)]
struct Queued {
    handle: String,
    body: String,
    /// Not handed out before so many receives.
    after: u64,
}

/// A no, in no service's form yet.
struct No {
    status: u16,
    code: &'static str,
    message: String,
}

impl Aws {
    /// Starts it. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> std::io::Result<Self> {
        let kept = Arc::new(Kept::default());
        let router = Router::new().fallback(serve).with_state(Arc::clone(&kept));
        let server = Server::start(router)?;
        *kept.url() = server.url();
        Ok(Self { kept, server })
    }

    /// Where all of its services are.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// URL of its queue.
    pub fn queue(&self) -> String {
        self.kept.queue_url()
    }

    /// Requests so far, in order.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.kept.inner().recorded.clone()
    }

    /// Puts a message into the queue.
    pub fn send(&self, body: &str) {
        self.kept.inner().enqueue(body.to_owned());
    }

    /// Messages that nobody deleted.
    pub fn waiting(&self) -> usize {
        self.kept.inner().queue.len()
    }

    /// A provider with keys from `source`.
    ///
    /// # Panics
    /// If the configuration makes no sense.
    pub fn provider_with(&self, cluster: &str, source: Source, nodes: Settings) -> AwsProvider {
        let config = Config {
            region: REGION.to_owned(),
            cluster: EKS_CLUSTER.to_owned(),
            interruption_queue: Some(self.queue().parse().expect("an address")),
            nodes,
            endpoint: Some(self.url().parse().expect("an address")),
        };
        let site = site(cluster, market::catalog(&wares()));
        AwsProvider::open(config, site, source).expect("a configuration")
    }

    /// Keys that never expire.
    pub fn given() -> Source {
        Source::Given(Keys {
            id: KEYS.0.to_owned(),
            secret: KEYS.1.to_owned(),
            session: None,
        })
    }
}

impl Cloud for Aws {
    fn provider(&self, cluster: &str) -> Arc<dyn Provider> {
        let source = Source::Container {
            uri: format!("{}/v1/credentials", self.url())
                .parse()
                .expect("an address"),
            token: None,
        };
        Arc::new(self.provider_with(cluster, source, Settings::default()))
    }

    fn settings(&self) -> Map<String, Value> {
        let settings = json!({
            "instanceProfile": "nodes",
            "securityGroups": ["sg-0c1"],
            "volume": {"sizeGib": 200, "throughputMib": 1000, "iops": 16000},
        });
        serde_json::from_value(settings).expect("a map")
    }

    fn offerings(&self) -> Wares {
        wares()
    }

    fn control(&self) -> &Control {
        &self.kept.control
    }

    fn spared(&self, _: Fault) -> Option<&'static str> {
        None
    }

    fn lacks(&self, _: Habit) -> Option<&'static str> {
        None
    }
}

fn wares() -> Wares {
    let key = |instance_type: &str, zone: &str, capacity_type| OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: zone.to_owned(),
        capacity_type,
    };
    Wares {
        spot: key("g6.xlarge", "us-east-1a", CapacityType::Spot),
        elsewhere: key("g6.xlarge", "us-east-1b", CapacityType::Spot),
        on_demand: key("g6.xlarge", "us-east-1a", CapacityType::OnDemand),
        other: key("g5.xlarge", "us-east-1a", CapacityType::Spot),
    }
}

/// What costs how much.
fn price(control: &Control, key: &OfferingKey) -> Option<f64> {
    let wares = wares();
    let sold = [
        &wares.spot,
        &wares.elsewhere,
        &wares.on_demand,
        &wares.other,
    ];
    let place = sold.iter().position(|sold| *sold == key)?;
    Some(control.priced(key).unwrap_or(market::PRICES[place]))
}

impl Kept {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn url(&self) -> MutexGuard<'_, String> {
        self.url.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue_url(&self) -> String {
        format!("{}/123456789012/headstart", self.url())
    }
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn enqueue(&mut self, body: String) {
        let handle = format!("receipt-{}", self.next());
        let queued = Queued {
            handle,
            body,
            after: 0,
        };
        self.queue.push(queued);
    }
}

fn no(status: u16, code: &'static str, message: impl Into<String>) -> No {
    No {
        status,
        code,
        message: message.into(),
    }
}

/// Does `work`, unless what goes wrong with this call keeps it from being done or answered.
fn answer(
    kept: &Kept,
    asker: &Asker,
    verb: Option<Verb>,
    work: impl FnOnce() -> Result<Response, No>,
) -> Response {
    let say = |no: No| door::refuse(kept, &asker.service, &no);
    let done = |worked: Result<Response, No>| worked.unwrap_or_else(say);
    let Some(fault) = verb.and_then(|verb| kept.control.next(verb)) else {
        return done(work());
    };
    let action = &asker.action;
    match fault {
        Fault::Throttled => say(no(503, "RequestLimitExceeded", "Request limit exceeded.")),
        Fault::ThrottledFor(seconds) => {
            let mut response = say(no(503, "RequestLimitExceeded", "Request limit exceeded."));
            response.headers_mut().insert("retry-after", seconds.into());
            response
        }
        Fault::Quota => say(no(
            400,
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the \
             instance bucket that the specified instance type belongs to. Please visit \
             http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
        )),
        Fault::Forbidden => say(no(
            403,
            "UnauthorizedOperation",
            format!(
                "You are not authorized to perform this operation. User: \
                 arn:aws:sts::123456789012:assumed-role/headstart/1 is not authorized to perform: \
                 ec2:{action} because no identity-based policy allows the ec2:{action} action"
            ),
        )),
        Fault::Misconfigured => say(no(
            400,
            "InvalidAMIID.NotFound",
            "The image id '[ami-0123456789abcdef0]' does not exist",
        )),
        Fault::Unknown => say(no(400, "QuantumFluctuation", "The cat is both.")),
        Fault::Failed => say(no(500, "InternalError", "An internal error has occurred")),
        Fault::Html => (
            StatusCode::BAD_GATEWAY,
            "<html><body><h1>502 Bad Gateway</h1></body></html>",
        )
            .into_response(),
        Fault::Garbage => "<html><p>welcome<br></html>".into_response(),
        Fault::LostRequest => hang_up(),
        Fault::LostReply => {
            drop(work());
            hang_up()
        }
        Fault::Expired => {
            kept.inner().serial += 1;
            say(door::expired(&asker.service))
        }
    }
}

async fn serve(
    State(kept): State<Arc<Kept>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(handed) = door::hand_out(&kept, &method, &uri, &headers, &body) {
        return handed;
    }
    let asker = match door::who(&kept, &method, &uri, &headers, &body) {
        Ok(asker) => asker,
        Err((service, refused)) => return door::refuse(&kept, &service, &refused),
    };
    kept.inner().recorded.push(Recorded {
        service: asker.service.clone(),
        action: asker.action.clone(),
        form: asker.form.clone(),
        json: asker.json.clone(),
    });
    let verb = match &*asker.action {
        "RunInstances" => Some(Verb::Create),
        "TerminateInstances" => Some(Verb::Delete),
        "DescribeInstances" => Some(Verb::List),
        "DescribeSpotPriceHistory" | "DescribeInstanceTypeOfferings" | "GetProducts" => {
            Some(Verb::Offers)
        }
        _ => None,
    };
    answer(&kept, &asker, verb, || match &*asker.service {
        "ec2" => ec2::answer(&kept, &asker),
        _ => elsewhere::answer(&kept, &asker),
    })
}
