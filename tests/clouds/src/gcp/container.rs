//! `container` v1: one cluster, its node pools, and what is being done to them.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::answers::{Api, answer, error};
use super::{Asked, GKE_CLUSTER, PROJECT, REGION, Shared, TYPES, ZONES};
use crate::control::Verb;

/// Pools that can be made at once.
const AT_ONCE: usize = 5;

/// A node pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// As it was asked for.
    pub(super) asked: Value,
    /// Looks until it is there.
    pub(super) takes: usize,
    /// What it ends with instead.
    pub(super) fails: Option<Value>,
}

impl Pool {
    /// Its groups: a zone and a name each.
    pub(super) fn groups(&self) -> Vec<(String, String)> {
        if self.takes > 0 || self.fails.is_some() {
            return Vec::new();
        }
        let name = self.asked["name"].as_str().unwrap_or("");
        let zones = self.asked["locations"].as_array().cloned();
        let zones = zones.unwrap_or_else(|| ZONES.map(Value::from).into());
        let group = |zone: &Value| {
            let zone = zone.as_str().unwrap_or("").to_owned();
            let name = format!("gke-{GKE_CLUSTER}-{name}-{}-grp", &zone[zone.len() - 1..]);
            (zone, name)
        };
        zones.iter().map(group).collect()
    }

    fn told(&self) -> Value {
        let mut told = self.asked.clone();
        told["status"] = match (self.takes, &self.fails) {
            (1.., _) => "PROVISIONING",
            (_, Some(_)) => "ERROR",
            (_, None) => "RUNNING",
        }
        .into();
        let url = |(zone, name): (String, String)| {
            json!(format!(
                "https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}/instanceGroupManagers/{name}"
            ))
        };
        told["instanceGroupUrls"] = self.groups().into_iter().map(url).collect();
        told
    }
}

pub(super) fn serve(shared: &Shared, asked: &Asked) -> Response {
    let base = format!("/v1/projects/{PROJECT}/locations/{REGION}/");
    let Some(rest) = asked.path.strip_prefix(&base) else {
        let said = format!("Not found: {}.", asked.path);
        return error(Api::Container, 404, "NOT_FOUND", &said);
    };
    let known = ["alt", "fields", "key", "prettyPrint"];
    if let Some(other) = asked
        .query
        .keys()
        .find(|key| !known.contains(&key.as_str()))
    {
        let said = format!("Invalid JSON payload received. Unknown name \"{other}\"");
        return error(Api::Container, 400, "INVALID_ARGUMENT", &said);
    }
    let path: Vec<_> = rest.split('/').collect();
    let look = |work: &dyn Fn() -> Response| {
        let permission = "container.clusters.get";
        answer(shared, Api::Container, Verb::List, permission, |_| work())
    };
    match (asked.method.as_str(), &path[..]) {
        ("GET", ["clusters", GKE_CLUSTER]) => look(&|| {
            let inner = shared.inner();
            Json(json!({
                "name": GKE_CLUSTER,
                "location": REGION,
                "locations": ZONES,
                "status": "RUNNING",
                "nodePools": inner.pools.values().map(Pool::told).collect::<Vec<_>>(),
            }))
            .into_response()
        }),
        ("GET", ["clusters", GKE_CLUSTER, "nodePools"]) => look(&|| {
            let inner = shared.inner();
            let pools: Vec<_> = inner.pools.values().map(Pool::told).collect();
            Json(json!({"nodePools": pools})).into_response()
        }),
        ("GET", ["clusters", GKE_CLUSTER, "nodePools", name]) => {
            look(&|| match shared.inner().pools.get_mut(*name) {
                None => absent(name),
                Some(pool) => {
                    let told = pool.told();
                    pool.takes = pool.takes.saturating_sub(1);
                    Json(told).into_response()
                }
            })
        }
        ("GET", ["operations", name]) => look(&|| operation(shared, name)),
        // A purchase is what machines are bought by; what goes wrong here is planned beside it.
        ("POST", ["clusters", GKE_CLUSTER, "nodePools"]) => create(shared, asked),
        ("DELETE", ["clusters", GKE_CLUSTER, "nodePools", name]) => {
            if !remove(shared, name) {
                return absent(name);
            }
            Json(begin(shared, "DELETE_NODE_POOL", name)).into_response()
        }
        _ => {
            let said = format!("Not found: {}.", asked.path);
            error(Api::Container, 404, "NOT_FOUND", &said)
        }
    }
}

fn absent(name: &str) -> Response {
    let said = format!("Not found: node pool \"{name}\" not found.");
    error(Api::Container, 404, "NOT_FOUND", &said)
}

/// Takes a pool away with all that is in it; says whether there was one.
pub(super) fn remove(shared: &Shared, name: &str) -> bool {
    let Some(pool) = shared.inner().pools.remove(name) else {
        return false;
    };
    let groups = pool.groups();
    let ours = |group: &str| groups.iter().any(|(_, name)| name == group);
    shared.inner().waiting.retain(|_, one| !ours(&one.group));
    for machine in shared.control.machines() {
        if machine.marks.get("created-by").is_some_and(|by| ours(by)) {
            shared.control.vanish(&machine.id);
        }
    }
    true
}

fn create(shared: &Shared, asked: &Asked) -> Response {
    let invalid = |said: &str| error(Api::Container, 400, "INVALID_ARGUMENT", said);
    let body = asked.body.clone().unwrap_or_default();
    let mut pool = body["nodePool"].clone();
    let name = pool["name"].as_str().unwrap_or("").to_owned();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
        return invalid("Invalid value for field \"node_pool.name\"");
    }
    if pool["locations"].is_null() {
        pool["locations"] = json!(ZONES);
    }
    let kind = pool["config"]["machineType"].as_str().unwrap_or("");
    let sold = TYPES.iter().find(|(name, _, _)| *name == kind);
    let zones = pool["locations"].as_array().into_iter().flatten();
    for zone in zones.map(|zone| zone.as_str().unwrap_or("")) {
        if !sold.is_some_and(|(_, zones, _)| zones.contains(&zone)) {
            return invalid(&format!(
                "Machine type \"{kind}\" is not available in zone \"{zone}\"."
            ));
        }
    }
    let labels = pool["config"]["labels"].as_object();
    if let Some(key) = labels
        .into_iter()
        .flat_map(|all| all.keys())
        .find(|key| key.contains("kubernetes.io/"))
    {
        return invalid(&format!("Node label \"{key}\" is reserved by Kubernetes."));
    }
    let mut inner = shared.inner();
    if inner.pools.contains_key(&name) {
        let said = format!("Already exists: node pool \"{name}\".");
        return error(Api::Container, 409, "ALREADY_EXISTS", &said);
    }
    let making = inner.pools.values().filter(|pool| pool.takes > 0).count();
    if making >= AT_ONCE {
        let said = "Cluster hits the concurrent operations quota 5. Please wait.";
        return error(Api::Container, 429, "RESOURCE_EXHAUSTED", said);
    }
    let made = Pool {
        asked: pool,
        takes: inner.pool_takes,
        fails: inner.pool_fails.clone(),
    };
    inner.pools.insert(name.clone(), made);
    drop(inner);
    Json(begin(shared, "CREATE_NODE_POOL", &name)).into_response()
}

fn begin(shared: &Shared, kind: &str, pool: &str) -> Value {
    let mut inner = shared.inner();
    let name = format!("operation-{}", inner.number());
    let link = format!(
        "https://container.googleapis.com/v1/projects/{PROJECT}/locations/{REGION}/clusters/{GKE_CLUSTER}/nodePools/{pool}"
    );
    let told = json!({
        "name": name,
        "operationType": kind,
        "status": "RUNNING",
        "targetLink": link,
        "startTime": jiff::Timestamp::now().to_string(),
    });
    inner.operations.insert(name, told.clone());
    told
}

fn operation(shared: &Shared, name: &str) -> Response {
    let inner = shared.inner();
    let Some(mut told) = inner.operations.get(name).cloned() else {
        let said = format!("Not found: operation \"{name}\".");
        return error(Api::Container, 404, "NOT_FOUND", &said);
    };
    let link = told["targetLink"].as_str().unwrap_or("");
    let pool = inner.pools.get(link.rsplit('/').next().unwrap_or(""));
    if pool.is_none_or(|pool| pool.takes == 0) {
        told["status"] = "DONE".into();
        if let Some(fails) = pool.and_then(|pool| pool.fails.clone()) {
            told["error"] = fails;
        }
    }
    Json(told).into_response()
}
