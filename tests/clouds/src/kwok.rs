//! As much of an API server as the `kwok` provider calls: Nodes.
//!
//! A cluster is one server, at a path of its own; what another has cannot be seen from here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use headstart_core::offer::OfferingKey;
use headstart_provider::Provider;
use headstart_provider::kwok::{INTERRUPT, Kwok};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::control::{Control, Fault, Life, Machine, Verb};
use crate::server::{Server, hang_up};
use crate::{Cloud, Habit, Wares, market};

/// Most Nodes in one page, whatever is asked for.
const PAGE: usize = 2;

/// Nodes and nothing else.
#[derive(Debug)]
pub struct Nodes {
    kept: Arc<Kept>,
    server: Server,
}

#[derive(Debug, Default)]
struct Kept {
    control: Control,
    /// As they were written, by the id of their machine.
    objects: Mutex<BTreeMap<String, Value>>,
}

impl Nodes {
    /// Starts a server. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> std::io::Result<Self> {
        let kept = Arc::new(Kept::default());
        let router = Router::new()
            .route("/{cluster}/api/v1/nodes", get(list).post(make))
            .route("/{cluster}/api/v1/nodes/{name}", get(look).delete(end))
            .with_state(Arc::clone(&kept));
        let server = Server::start(router)?;
        Ok(Self { kept, server })
    }
}

impl Cloud for Nodes {
    fn provider(&self, cluster: &str) -> Arc<dyn Provider> {
        let url = format!("{}/{cluster}", self.server.url());
        let mut config = kube::Config::new(url.parse().expect("an address"));
        // What is seen here is the provider's doing.
        config.default_retry = false;
        let client = kube::Client::try_from(config).expect("a client");
        Arc::new(Kwok::new(client, market::catalog(&market::home())))
    }

    fn settings(&self) -> Map<String, Value> {
        let rules = self.kept.control.left().into_iter().map(|(key, left)| {
            json!({
                "instanceType": key.instance_type,
                "zone": key.zone,
                "capacityType": key.capacity_type.as_str(),
                "nodes": left,
            })
        });
        let capacity: Vec<Value> = rules.collect();
        [("capacity".to_owned(), Value::from(capacity))]
            .into_iter()
            .collect()
    }

    fn offerings(&self) -> Wares {
        market::home()
    }

    fn control(&self) -> &Control {
        &self.kept.control
    }

    fn spared(&self, fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::Quota => Some("Nodes have no quota"),
            Fault::Expired => Some("the token is the daemon's own, and the API's client renews it"),
            _ => None,
        }
    }

    fn lacks(&self, habit: Habit) -> Option<&'static str> {
        match habit {
            Habit::HandsIntent => Some("nodes that are only objects fetch nothing"),
            Habit::AsksSpotPrices | Habit::AsksListPrices => Some("the catalog is the price list"),
            Habit::HearsInterruptions | Habit::ReadsSettings => None,
        }
    }
}

impl Kept {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object of a machine as it is now.
    fn object(&self, machine: &Machine) -> Value {
        let mut object = self.objects()[&machine.id].clone();
        match machine.life {
            Life::Running => {}
            Life::Interrupted => object["metadata"]["annotations"][INTERRUPT] = json!("now"),
            Life::Ending(_) => {
                let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                object["metadata"]["deletionTimestamp"] = json!(now);
            }
        }
        object
    }

    fn machine(&self, cluster: &str, id: &str) -> Option<Machine> {
        let mut machines = self.control.machines().into_iter();
        machines.find(|machine| machine.id == id && machine.marks["cluster"] == cluster)
    }
}

fn status(code: u16, reason: &str, details: &Value) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "not today", "reason": reason, "code": code, "details": details,
    });
    let code = StatusCode::from_u16(code).expect("a status");
    (code, Json(status)).into_response()
}

/// What a fault is here; `None` when the call is to be done and not answered.
fn fault(fault: Fault) -> Option<Response> {
    let none = Value::Null;
    Some(match fault {
        Fault::Throttled => status(429, "TooManyRequests", &json!({"retryAfterSeconds": 1})),
        Fault::ThrottledFor(seconds) => status(
            429,
            "TooManyRequests",
            &json!({"retryAfterSeconds": seconds}),
        ),
        Fault::Forbidden => status(403, "Forbidden", &none),
        Fault::Misconfigured => status(
            422,
            "Invalid",
            &json!({"causes": [{"field": "metadata.labels", "message": "no", "reason": "no"}]}),
        ),
        Fault::Unknown => status(418, "Teapot", &none),
        Fault::Failed => status(500, "InternalError", &none),
        Fault::Html => (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response(),
        Fault::Garbage => "<html>welcome</html>".into_response(),
        Fault::LostRequest => hang_up(),
        Fault::Quota | Fault::Expired => unreachable!("spared"),
        Fault::LostReply => return None,
    })
}

async fn list(
    State(kept): State<Arc<Kept>>,
    Path(cluster): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    kept.control.answer(Verb::List, fault, || {
        let selector = query.get("labelSelector").map_or("", String::as_str);
        let is_selected = |machine: &Machine| {
            let terms = selector.split(',').filter_map(|term| term.split_once('='));
            machine.marks["cluster"] == cluster
                && terms
                    .into_iter()
                    .all(|(key, value)| machine.labels.get(key).map(String::as_str) == Some(value))
        };
        let from: usize = query
            .get("continue")
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        let machines: Vec<_> = kept
            .control
            .list()
            .into_iter()
            .filter(is_selected)
            .collect();
        let limit = query
            .get("limit")
            .and_then(|it| it.parse().ok())
            .unwrap_or(PAGE);
        let page = machines.iter().skip(from).take(limit.min(PAGE));
        let items: Vec<_> = page.map(|machine| kept.object(machine)).collect();
        let next = from + items.len();
        let more = (next < machines.len()).then(|| next.to_string());
        Json(json!({
            "kind": "NodeList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "1", "continue": more.unwrap_or_default()},
            "items": items,
        }))
        .into_response()
    })
}

async fn look(
    State(kept): State<Arc<Kept>>,
    Path((cluster, name)): Path<(String, String)>,
) -> Response {
    kept.control.answer(Verb::List, fault, || {
        // Looking is what brings an ending one nearer to being gone.
        kept.control.list();
        match kept.machine(&cluster, &name) {
            Some(machine) => Json(kept.object(&machine)).into_response(),
            None => status(404, "NotFound", &Value::Null),
        }
    })
}

async fn make(
    State(kept): State<Arc<Kept>>,
    Path(cluster): Path<String>,
    Json(mut node): Json<Value>,
) -> Response {
    kept.control.answer(Verb::Create, fault, || {
        let Some(machine) = machine(&cluster, &node) else {
            return status(400, "BadRequest", &Value::Null);
        };
        let id = machine.id.clone();
        if kept.machine(&cluster, &id).is_some() {
            return status(409, "AlreadyExists", &Value::Null);
        }
        node["metadata"]["uid"] = json!(format!("uid-{id}"));
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        node["metadata"]["creationTimestamp"] = json!(now);
        kept.objects().insert(id, node.clone());
        match kept.control.buy(machine) {
            Ok(_) => (StatusCode::CREATED, Json(node)).into_response(),
            // Its stock is counted by the provider, from settings.
            Err(_) => status(500, "InternalError", &Value::Null),
        }
    })
}

async fn end(
    State(kept): State<Arc<Kept>>,
    Path((cluster, id)): Path<(String, String)>,
    Json(asked): Json<Value>,
) -> Response {
    kept.control.answer(Verb::Delete, fault, || {
        let Some(machine) = kept.machine(&cluster, &id) else {
            return status(404, "NotFound", &Value::Null);
        };
        if asked["preconditions"]["uid"] != format!("uid-{id}") {
            return status(409, "Conflict", &Value::Null);
        }
        kept.control.end(&id);
        let ending = kept.machine(&cluster, &id).unwrap_or(machine);
        match ending.life {
            Life::Ending(0) => {
                kept.control.vanish(&id);
                Json(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
                    .into_response()
            }
            _ => Json(kept.object(&ending)).into_response(),
        }
    })
}

fn machine(cluster: &str, node: &Value) -> Option<Machine> {
    let name = node["metadata"]["name"].as_str()?;
    let labels: BTreeMap<String, String> =
        serde_json::from_value(node["metadata"]["labels"].clone()).ok()?;
    let label = |key: &str| labels.get(key).cloned();
    let word = |taint: &Value, field: &str| taint[field].as_str().unwrap_or("").to_owned();
    let taints = node["spec"]["taints"].as_array()?.iter().map(|taint| {
        let [key, value, effect] = ["key", "value", "effect"].map(|field| word(taint, field));
        format!("{key}={value}:{effect}")
    });
    Some(Machine {
        key: format!("{cluster}/{name}"),
        id: name.to_owned(),
        offering: OfferingKey {
            instance_type: label("node.kubernetes.io/instance-type")?,
            zone: label("topology.kubernetes.io/zone")?,
            capacity_type: label("headstart.dev/capacity-type")?.parse().ok()?,
        },
        marks: BTreeMap::from([
            ("cluster".to_owned(), cluster.to_owned()),
            ("claim".to_owned(), label("headstart.dev/node-claim")?),
        ]),
        taints: taints.collect(),
        labels,
        intent: None,
        life: Life::Running,
        created: SystemTime::now(),
    })
}
