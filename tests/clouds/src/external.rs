//! A program that sells machines over the protocol of the `external` provider.

use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use headstart_core::offer::OfferingKey;
use headstart_provider::external::External;
use headstart_provider::{Offers, Provider};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::control::{Control, Fault, Life, Machine, Verb};
use crate::server::{Server, hang_up};
use crate::{Cloud, Habit, Wares, market, site};

/// One such program.
#[derive(Debug)]
pub struct Fleet {
    control: Arc<Control>,
    server: Server,
}

impl Fleet {
    /// Starts one. To be called in a runtime.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> std::io::Result<Self> {
        let control = Arc::new(Control::default());
        let router = Router::new()
            .route("/{cluster}/v1/offers", get(offers))
            .route("/{cluster}/v1/instances", get(list))
            .route("/{cluster}/v1/instances/{claim}", put(ensure).delete(end))
            .with_state(Arc::clone(&control));
        let server = Server::start(router)?;
        Ok(Self { control, server })
    }
}

impl Cloud for Fleet {
    fn provider(&self, cluster: &str) -> Arc<dyn Provider> {
        let base = format!("{}/{cluster}", self.server.url());
        let site = site(cluster, Offers::default());
        let base = base.parse().expect("an address");
        let token = Some(cluster.to_owned());
        Arc::new(External::new(site, base, token, |_| {
            Ok(market::catalog(&market::home()))
        }))
    }

    fn settings(&self) -> Map<String, Value> {
        Map::new()
    }

    fn offerings(&self) -> Wares {
        market::home()
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn spared(&self, fault: Fault) -> Option<&'static str> {
        (fault == Fault::Expired).then_some("its token does not change")
    }

    fn lacks(&self, habit: Habit) -> Option<&'static str> {
        match habit {
            Habit::AsksSpotPrices | Habit::AsksListPrices => {
                Some("a table is all it says of prices")
            }
            Habit::ReadsSettings => Some("settings are the other side's"),
            Habit::HandsIntent | Habit::HearsInterruptions => None,
        }
    }
}

/// What a fault is here; `None` when the call is to be done and not answered.
fn fault(fault: Fault) -> Option<Response> {
    let refused = |status, code: &str, subject: &str| {
        let said = json!({"code": code, "message": "not today", "subject": subject});
        (status, Json(said)).into_response()
    };
    Some(match fault {
        Fault::Throttled => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Fault::ThrottledFor(seconds) => (
            StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", seconds.to_string())],
        )
            .into_response(),
        Fault::Quota => refused(StatusCode::CONFLICT, "Quota", "machines"),
        Fault::Forbidden => refused(StatusCode::FORBIDDEN, "Forbidden", "machines.create"),
        Fault::Misconfigured => refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Misconfigured",
            "spec.provider.image",
        ),
        Fault::Unknown => refused(StatusCode::IM_A_TEAPOT, "Teapot", ""),
        Fault::Failed => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Fault::Html => (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response(),
        Fault::Garbage => "<html>welcome</html>".into_response(),
        Fault::LostRequest => hang_up(),
        Fault::Expired => StatusCode::UNAUTHORIZED.into_response(),
        Fault::LostReply => return None,
    })
}

async fn offers(State(control): State<Arc<Control>>) -> Response {
    control.answer(Verb::Offers, fault, || "read by the test".into_response())
}

async fn list(State(control): State<Arc<Control>>, Path(cluster): Path<String>) -> Response {
    control.answer(Verb::List, fault, || {
        let machines = control.list().into_iter();
        let of_cluster = machines.filter(|machine| machine.marks["cluster"] == cluster);
        let instances: Vec<_> = of_cluster.map(|machine| told(&machine)).collect();
        Json(json!({"instances": instances})).into_response()
    })
}

async fn ensure(
    State(control): State<Arc<Control>>,
    Path((cluster, claim)): Path<(String, String)>,
    headers: HeaderMap,
    Json(asked): Json<Value>,
) -> Response {
    if headers
        .get("authorization")
        .is_none_or(|it| *it != format!("Bearer {cluster}"))
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    control.answer(Verb::Create, fault, || {
        match machine(&cluster, &claim, &asked) {
        None => (
            StatusCode::UNPROCESSABLE_ENTITY,
            Json(json!({
                "code": "Misconfigured", "message": "nobody sells it", "subject": "instanceType",
            })),
        )
            .into_response(),
        Some(machine) => match control.buy(machine) {
            Ok(machine) => Json(told(&machine)).into_response(),
            Err(_) => (
                StatusCode::CONFLICT,
                Json(json!({"code": "OutOfCapacity", "message": "sold out", "subject": ""})),
            )
                .into_response(),
        },
    }
    })
}

async fn end(
    State(control): State<Arc<Control>>,
    Path((cluster, claim)): Path<(String, String)>,
) -> Response {
    control.answer(Verb::Delete, fault, || {
        // Looking at it is what brings an ending one nearer to being gone.
        control.list();
        match control.end(&format!("{cluster}-{claim}")) {
            true => StatusCode::ACCEPTED.into_response(),
            false => StatusCode::NOT_FOUND.into_response(),
        }
    })
}

fn machine(cluster: &str, claim: &str, asked: &Value) -> Option<Machine> {
    let text = |field: &str| asked[field].as_str().map(str::to_owned);
    let offering = OfferingKey {
        instance_type: text("instanceType")?,
        zone: text("zone")?,
        capacity_type: asked["capacityType"].as_str()?.parse().ok()?,
    };
    let wares = market::home();
    let sold = [
        &wares.spot,
        &wares.elsewhere,
        &wares.on_demand,
        &wares.other,
    ];
    if !sold.contains(&&offering) {
        return None;
    }
    let taints = asked["taints"].as_array()?.iter();
    let word = |taint: &Value, field: &str| taint[field].as_str().unwrap_or("").to_owned();
    let id = format!("{cluster}-{claim}");
    Some(Machine {
        key: id.clone(),
        id,
        offering,
        marks: [("cluster", cluster), ("claim", claim)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        labels: serde_json::from_value(asked["labels"].clone()).ok()?,
        taints: taints
            .map(|taint| {
                let [key, value, effect] = ["key", "value", "effect"].map(|it| word(taint, it));
                format!("{key}={value}:{effect}")
            })
            .collect(),
        intent: text("intent"),
        life: Life::Running,
        created: SystemTime::now(),
    })
}

fn told(machine: &Machine) -> Value {
    let created = Timestamp::try_from(machine.created).expect("this century");
    json!({
        "claim": machine.marks["claim"],
        "providerId": format!("home:///{}", machine.id),
        "nodeName": machine.id,
        "state": match machine.life {
            Life::Running => "running",
            Life::Interrupted => "interrupted",
            Life::Ending(_) => "ending",
        },
        "created": created.to_string(),
    })
}
