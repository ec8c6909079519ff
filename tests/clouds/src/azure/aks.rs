//! AKS: agent pools and machines of the one cluster.

use std::time::SystemTime;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::answer::{action, answer, error, ok, refusal};
use super::arm::Call;
use super::state::{Inner, Kept, Operation, Seen, State};
use super::written::{self, Written, Wrong};
use super::{GROUP, LOCATION, MACHINES, NAME, SUBSCRIPTION};
use crate::control::{Life, Machine, Verb};

/// Most agent pools of a cluster.
const MOST_POOLS: usize = 100;

/// A call below the cluster.
pub(super) fn route(call: &Call<'_>) -> Response {
    let below = call.below.as_slice();
    let verb = match call.method {
        Method::PUT => Verb::Create,
        Method::DELETE | Method::POST => Verb::Delete,
        _ => Verb::List,
    };
    let work = || match (call.method.as_str(), below) {
        ("GET", ["agentPools"]) => list_pools(call),
        ("GET", ["agentPools", name]) => one(call, name),
        ("PUT", ["agentPools", name]) => put(call, name, name, written::pool),
        ("DELETE", ["agentPools", name]) => end(call, &[name]),
        ("POST", ["agentPools", pool, "deleteMachines"]) => delete_machines(call, pool),
        ("GET", ["agentPools", pool, "machines"]) => list_machines(call, pool),
        ("GET", ["agentPools", pool, "machines", name]) => match *pool {
            MACHINES => one(call, &format!("{pool}/{name}")),
            pool => machine_of(call, pool, name),
        },
        ("PUT", ["agentPools", pool, "machines", name]) if *pool == MACHINES => {
            put(call, &format!("{pool}/{name}"), name, written::machine)
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "InvalidResourceType",
            "The resource type could not be found.",
        ),
    };
    if below.is_empty() {
        return cluster();
    }
    let action = action(&call.method, below);
    let expire = || call.state.expire();
    answer(&call.state.control, verb, &action, expire, work)
}

/// How far an operation is.
pub(super) fn operation(state: &State, id: &str) -> Response {
    let mut inner = state.inner();
    let Some(operation) = inner.operations.get_mut(id) else {
        return not_found(&format!("operation {id}"));
    };
    let mut body = json!({"name": id, "startTime": "2026-11-25T08:00:00Z"});
    if let Some(left) = operation.looks.checked_sub(1) {
        operation.looks = left;
        body["status"] = "InProgress".into();
        return ([("retry-after", "0")], Json(body)).into_response();
    }
    body["endTime"] = "2026-11-25T08:01:00Z".into();
    match &operation.error {
        None => body["status"] = "Succeeded".into(),
        Some((code, message)) => {
            body["status"] = "Failed".into();
            body["error"] = detail(code, message);
        }
    }
    ok(body)
}

fn cluster() -> Response {
    ok(json!({
        "id": base(), "name": NAME, "type": "Microsoft.ContainerService/ManagedClusters",
        "location": LOCATION, "properties": {
            "provisioningState": "Succeeded", "currentKubernetesVersion": "1.34.1",
            "nodeResourceGroup": format!("MC_{GROUP}_{NAME}_{LOCATION}"),
        },
    }))
}

/// Makes or changes an agent pool, or a machine: `key` is where it is kept.
fn put(
    call: &Call<'_>,
    key: &str,
    name: &str,
    read: fn(&Value) -> Result<Written, Wrong>,
) -> Response {
    let state = call.state;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.len() <= 12
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain);
    if !good {
        let words = format!("Agent pool name '{name}' is not valid.");
        return wrong(("InvalidParameter", words, "agentPoolProfile.name"));
    }
    let body: Value = match serde_json::from_slice(call.body) {
        Ok(body) => body,
        Err(error) => return wrong(("BadRequest", error.to_string(), "")),
    };
    let wanted = match read(&body) {
        Ok(wanted) => wanted,
        Err(error) => return wrong(error),
    };
    let seen = state.look();
    let mut inner = state.inner();
    if let Some(refused) = conflict(&inner, &seen, key, call.headers) {
        return refused;
    }
    let known = inner.kept.get(key).cloned();
    let pools = inner.kept.keys().filter(|key| !key.contains('/')).count();
    if known.is_none() && !key.contains('/') && pools >= MOST_POOLS {
        let words = format!("The number of agent pools exceeds the maximum of {MOST_POOLS}.");
        return wrong(("BadRequest", words, "agentPoolProfile"));
    }
    let mut kept = Kept {
        etag: known.as_ref().map_or(1, |known| known.etag + 1),
        body,
        ..known.clone().unwrap_or_default()
    };
    kept.failed = None;
    for number in 0..wanted.count {
        let machine = machine(key, number, &wanted);
        let id = machine.id.clone();
        match state.control.buy(machine) {
            Ok(_) => drop(kept.machines.insert(id)),
            Err(_) => kept.failed = Some(sold_out(&wanted)),
        }
    }
    let error = kept.failed.clone();
    inner.kept.insert(key.to_owned(), kept.clone());
    let id = start(&mut inner, error);
    drop(inner);
    // Accepted, and nothing is said yet of how it went.
    let mut said = body_of(key, &kept, "Creating");
    said["properties"]
        .as_object_mut()
        .and_then(|it| it.remove("status"));
    let status = match known {
        None => StatusCode::CREATED,
        Some(_) => StatusCode::OK,
    };
    let link = operation_link(call, &id);
    let headers = [
        ("azure-asyncoperation", link.as_str()),
        ("retry-after", "0"),
    ];
    (status, headers, Json(said)).into_response()
}

/// Why it cannot be changed now.
fn conflict(inner: &Inner, seen: &Seen, key: &str, headers: &HeaderMap) -> Option<Response> {
    if inner.busy {
        return Some(refusal(
            StatusCode::CONFLICT,
            "OperationNotAllowed",
            "Operation is not allowed: Another operation (Updating) is in progress, please wait \
             for it to finish before starting a new operation.",
            "",
        ));
    }
    let known = inner.kept.get(key);
    let changed = |words: &str| {
        Some(error(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailed",
            words,
        ))
    };
    if headers.contains_key(http::header::IF_NONE_MATCH) && known.is_some() {
        return changed("The resource exists, and If-None-Match is *.");
    }
    if let Some(wanted) = headers.get(http::header::IF_MATCH) {
        let etag = known.map(|known| format!("\"{}\"", known.etag));
        if etag.as_deref().map(str::as_bytes) != Some(wanted.as_bytes()) {
            return changed("The etag does not match.");
        }
    }
    let deleting = known.is_some_and(|known| seen.state(known) == "Deleting");
    deleting.then(|| {
        refusal(
            StatusCode::CONFLICT,
            "OperationNotAllowed",
            "Operation is not allowed: Another agentpool operation (Deleting) is in progress.",
            "",
        )
    })
}

fn one(call: &Call<'_>, key: &str) -> Response {
    let seen = call.state.look();
    let inner = call.state.inner();
    match inner.kept.get(key) {
        Some(kept) => ok(shown(key, kept, &seen)),
        None => {
            let name = key.split('/').next_back().unwrap_or(key);
            not_found(&format!("agentPool or machine {name}"))
        }
    }
}

/// A machine of a scale set.
fn machine_of(call: &Call<'_>, pool: &str, name: &str) -> Response {
    let seen = call.state.look();
    let inner = call.state.inner();
    let kept = inner.kept.get(pool);
    let machines = kept.map(|kept| seen.listed(kept)).unwrap_or_default();
    let mut shown = machines.iter().map(|it| of_scale_set(pool, it));
    match shown.find(|it| it["name"] == name) {
        Some(machine) => ok(machine),
        None => not_found(&format!("machine {name}")),
    }
}

fn list_pools(call: &Call<'_>) -> Response {
    let seen = call.state.look();
    let inner = call.state.inner();
    let pools = inner.kept.iter();
    // One that was made just now is missing.
    let listed = pools.filter(|(key, kept)| {
        !key.contains('/') && (seen.is_visible(kept) || kept.failed.is_some())
    });
    call.page(listed.map(|(key, kept)| shown(key, kept, &seen)).collect())
}

fn list_machines(call: &Call<'_>, pool: &str) -> Response {
    let seen = call.state.look();
    let inner = call.state.inner();
    if pool == MACHINES {
        let all = inner.kept.iter();
        let all = all.filter(|(key, kept)| {
            key.contains('/') && (seen.is_visible(kept) || kept.failed.is_some())
        });
        return call.page(all.map(|(key, kept)| shown(key, kept, &seen)).collect());
    }
    let Some(kept) = inner.kept.get(pool) else {
        return not_found(&format!("agentPool {pool}"));
    };
    let machines = seen.listed(kept).into_iter();
    call.page(machines.map(|it| of_scale_set(pool, it)).collect())
}

fn delete_machines(call: &Call<'_>, pool: &str) -> Response {
    let body: Value = serde_json::from_slice(call.body).unwrap_or_default();
    let Some(names) = body["machineNames"].as_array() else {
        let words = "machineNames is required.".to_owned();
        return wrong(("InvalidParameter", words, "machineNames"));
    };
    let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
    if pool == MACHINES {
        let keys: Vec<String> = names.iter().map(|name| format!("{pool}/{name}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        return end(call, &keys);
    }
    let seen = call.state.look();
    let inner = call.state.inner();
    let kept = inner.kept.get(pool);
    let machines = kept.map(|kept| seen.listed(kept)).unwrap_or_default();
    for machine in machines {
        let shown = of_scale_set(pool, machine);
        if names.iter().any(|name| shown["name"] == *name) {
            call.state.control.end(&machine.id);
        }
    }
    drop(inner);
    accepted(call)
}

/// Ends what these names stand for.
fn end(call: &Call<'_>, keys: &[&str]) -> Response {
    let mut inner = call.state.inner();
    if inner.busy {
        let seen_nothing = "Operation is not allowed: Another operation (Updating) is in progress.";
        return refusal(
            StatusCode::CONFLICT,
            "OperationNotAllowed",
            seen_nothing,
            "",
        );
    }
    let mut found = false;
    for key in keys {
        let Some(kept) = inner.kept.get_mut(*key) else {
            continue;
        };
        found = true;
        for id in &kept.machines {
            call.state.control.end(id);
        }
        // A failed one has nothing more to end than itself.
        kept.failed = None;
        if kept.machines.is_empty() {
            inner.kept.remove(*key);
        }
    }
    drop(inner);
    match found {
        true => accepted(call),
        false => StatusCode::NO_CONTENT.into_response(),
    }
}

fn accepted(call: &Call<'_>) -> Response {
    let id = start(&mut call.state.inner(), None);
    let link = operation_link(call, &id);
    let headers = [
        ("azure-asyncoperation", link.as_str()),
        ("location", link.as_str()),
        ("retry-after", "0"),
    ];
    (StatusCode::ACCEPTED, headers).into_response()
}

fn start(inner: &mut Inner, error: Option<(String, String)>) -> String {
    let id = format!("{:08}-0000", inner.operations.len() + 1);
    let operation = Operation { looks: 1, error };
    inner.operations.insert(id.clone(), operation);
    id
}

fn operation_link(call: &Call<'_>, id: &str) -> String {
    format!(
        "http://{}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.ContainerService/locations/\
         {LOCATION}/operations/{id}?api-version=2017-08-31",
        call.host()
    )
}

fn sold_out(wanted: &Written) -> (String, String) {
    let size = &wanted.offering.instance_type;
    let words = format!(
        "Code=\"SkuNotAvailable\" Message=\"The requested VM size for resource 'Following SKUs \
         have failed for Capacity Restrictions: {size}' is currently not available in location \
         '{LOCATION}'. Please try another size or deploy to a different location or different \
         zone. See https://aka.ms/azureskunotavailable for details.\" Target=\"sku.name\""
    );
    ("SkuNotAvailable".to_owned(), words)
}

fn machine(key: &str, number: usize, wanted: &Written) -> Machine {
    let name = key.split('/').next_back().unwrap_or(key);
    let id = match key.contains('/') {
        true => format!("virtualMachines/aks-{MACHINES}-{name}-vm"),
        false => {
            format!("virtualMachineScaleSets/aks-{name}-17305246-vmss/virtualMachines/{number}")
        }
    };
    Machine {
        key: format!("{key}/{number}"),
        id,
        offering: wanted.offering.clone(),
        marks: wanted.tags.clone(),
        labels: wanted.labels.clone(),
        taints: wanted.taints.clone(),
        intent: None,
        life: Life::Running,
        created: SystemTime::now(),
    }
}

/// As it is shown: what was written, and what became of it.
fn shown(key: &str, kept: &Kept, seen: &Seen) -> Value {
    let mut body = body_of(key, kept, seen.state(kept));
    if key.contains('/')
        && let [machine] = seen.of(kept)[..]
    {
        let gone = machine.life == Life::Interrupted;
        let name = key.split('/').next_back().unwrap_or(key);
        body["properties"]["resourceId"] = resource(&machine.id).into();
        body["properties"]["kubernetes"]["nodeName"] = format!("aks-{MACHINES}-{name}-vm").into();
        let state = if gone { "Deleted" } else { "Running" };
        body["properties"]["status"]["vmState"] = state.into();
    }
    body
}

fn body_of(key: &str, kept: &Kept, state: &str) -> Value {
    let mut body = kept.body.clone();
    let (name, id, kind) = match key.split_once('/') {
        Some((pool, name)) => (
            name,
            format!("{}/agentPools/{pool}/machines/{name}", base()),
            "Microsoft.ContainerService/managedClusters/agentPools/machines",
        ),
        None => (
            key,
            format!("{}/agentPools/{key}", base()),
            "Microsoft.ContainerService/managedClusters/agentPools",
        ),
    };
    body["id"] = id.into();
    body["name"] = name.into();
    body["type"] = kind.into();
    let properties = &mut body["properties"];
    properties["provisioningState"] = state.into();
    properties["eTag"] = kept.etag.to_string().into();
    if let Some((code, message)) = &kept.failed {
        properties["status"] = json!({"provisioningError": detail(code, message)});
    }
    body
}

fn of_scale_set(pool: &str, machine: &Machine) -> Value {
    let number = machine.id.rsplit('/').next().unwrap_or("0");
    let name = format!("aks-{pool}-17305246-vmss{number:0>6}");
    let zone = machine.offering.zone.rsplit('-').next().unwrap_or("");
    json!({
        "id": format!("{}/agentPools/{pool}/machines/{name}", base()),
        "name": name,
        "type": "Microsoft.ContainerService/managedClusters/agentPools/machines",
        "zones": [zone],
        "properties": {
            "resourceId": resource(&machine.id),
            "network": {"ipAddresses": [{"family": "IPv4", "ip": "10.224.0.4"}]},
        },
    })
}

fn detail(code: &str, message: &str) -> Value {
    json!({
        "code": code, "message": message,
        "details": [{"code": code, "message": message}],
    })
}

fn resource(id: &str) -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/MC_{GROUP}_{NAME}_{LOCATION}/providers/\
         Microsoft.Compute/{id}"
    )
}

fn base() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/\
         Microsoft.ContainerService/managedClusters/{NAME}"
    )
}

fn not_found(what: &str) -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "NotFound",
        &format!("Could not find the {what}."),
        "",
    )
}

fn wrong((code, message, target): Wrong) -> Response {
    refusal(StatusCode::BAD_REQUEST, code, &message, target)
}
