//! `compute` v1: groups, their instances, operations, machine types, advice.

use std::time::SystemTime;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use headstart_core::offer::{CapacityType, OfferingKey};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::{Api, answer, error, filter, page};
use super::container::Pool;
use super::{Asked, PROJECT, REGION, Shared, TYPES, ZONES};
use crate::control::{Fault, Life, Machine, Verb};

/// Looks after which a group tries again what failed.
const TRIES_AFTER: usize = 8;

const URL: &str = "https://www.googleapis.com/compute/v1/projects";

/// A name that waits in a group, and why.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) group: String,
    machine: Machine,
    error: Value,
    looks: usize,
}

pub(super) fn serve(shared: &Shared, asked: &Asked) -> Response {
    let known = [
        "alt",
        "fields",
        "filter",
        "key",
        "maxResults",
        "orderBy",
        "pageToken",
        "prettyPrint",
        "requestId",
    ];
    if let Some(other) = asked
        .query
        .keys()
        .find(|key| !known.contains(&key.as_str()))
    {
        let said = format!("Invalid JSON payload received. Unknown name \"{other}\"");
        return error(Api::Compute, 400, "badRequest", &said);
    }
    let base = format!("/compute/v1/projects/{PROJECT}/");
    let Some(rest) = asked.path.strip_prefix(&base) else {
        return absent(&asked.path);
    };
    let path: Vec<_> = rest.split('/').collect();
    let on = |verb, permission, work: &dyn Fn(Option<Fault>) -> Response| {
        answer(shared, Api::Compute, verb, permission, work)
    };
    match (asked.method.as_str(), &path[..]) {
        ("GET", ["zones", zone, "instances"]) => on(Verb::List, "compute.instances.list", &|_| {
            list(shared, asked, zone)
        }),
        ("GET", ["zones", zone, "instances", name]) => {
            on(Verb::List, "compute.instances.get", &|_| {
                let machines = shared.control.machines().into_iter();
                let mut there =
                    machines.filter(|one| one.id == *name && one.offering.zone == *zone);
                match there.next() {
                    Some(machine) => Json(instance(&machine)).into_response(),
                    None => absent(&asked.path),
                }
            })
        }
        ("GET", ["zones", zone, "operations"]) => {
            on(Verb::List, "compute.zoneOperations.list", &|_| {
                operations(shared, asked, zone)
            })
        }
        ("GET", ["zones", zone, "machineTypes"]) => {
            on(Verb::Offers, "compute.machineTypes.list", &|_| {
                types(asked, zone)
            })
        }
        ("GET", ["regions", REGION]) => on(Verb::List, "compute.regions.get", &|_| {
            Json(json!({
                "name": REGION,
                "zones": ZONES.map(|zone| format!("{URL}/{PROJECT}/zones/{zone}")),
                "quotas": [{"metric": "PREEMPTIBLE_NVIDIA_L4_GPUS", "limit": 16.0, "usage": 1.0}],
            }))
            .into_response()
        }),
        ("POST", ["regions", REGION, "advice", "capacityHistory"]) => {
            on(Verb::Offers, "compute.advice.capacityHistory", &|_| {
                history(shared, asked)
            })
        }
        ("POST", ["regions", REGION, "advice", "capacity"]) => {
            on(Verb::Offers, "compute.advice.capacity", &|_| {
                let scores = json!({"obtainability": 0.8, "estimatedUptime": "36000s"});
                Json(json!({"recommendations": [{"scores": scores}]})).into_response()
            })
        }
        (method, ["zones", zone, "instanceGroupManagers", name, verb @ ..]) => {
            let Some(pool) = pool_of(shared, zone, name) else {
                // Counted all the same.
                return on(Verb::List, "compute.instanceGroupManagers.get", &|_| {
                    absent(&asked.path)
                });
            };
            let get = "compute.instanceGroupManagers.get";
            let update = "compute.instanceGroupManagers.update";
            match (method, verb) {
                ("GET", []) => on(Verb::List, get, &|_| {
                    let size = of_group(shared, name).len();
                    let waiting = shared
                        .inner()
                        .waiting
                        .values()
                        .filter(|one| one.group == *name)
                        .count();
                    Json(json!({"name": name, "targetSize": size + waiting})).into_response()
                }),
                ("GET", ["listErrors"]) => on(Verb::List, get, &|_| {
                    let inner = shared.inner();
                    let ours = inner.waiting.values().filter(|one| one.group == *name);
                    let told: Vec<_> = ours.map(|one| json!({"error": one.error})).collect();
                    page(asked, "items", &told)
                }),
                ("POST", ["listManagedInstances"]) => {
                    on(Verb::List, get, &|_| managed(shared, asked, name))
                }
                ("POST", ["createInstances"]) => on(Verb::Create, update, &|fault| {
                    create(shared, asked, zone, name, &pool, fault)
                }),
                ("POST", ["deleteInstances"]) => {
                    on(Verb::Delete, update, &|_| delete(shared, asked, zone, name))
                }
                _ => absent(&asked.path),
            }
        }
        _ => absent(&asked.path),
    }
}

fn absent(path: &str) -> Response {
    let what = path.trim_start_matches("/compute/v1/");
    error(
        Api::Compute,
        404,
        "notFound",
        &format!("The resource '{what}' was not found"),
    )
}

fn pool_of(shared: &Shared, zone: &str, group: &str) -> Option<Pool> {
    let inner = shared.inner();
    let is_of = |pool: &&Pool| {
        let groups = pool.groups();
        groups
            .iter()
            .any(|(in_zone, name)| in_zone == zone && name == group)
    };
    inner.pools.values().find(is_of).cloned()
}

fn of_group(shared: &Shared, group: &str) -> Vec<Machine> {
    let machines = shared.control.machines().into_iter();
    let is_of = |machine: &Machine| {
        machine
            .marks
            .get("created-by")
            .is_some_and(|by| by == group)
    };
    machines.filter(is_of).collect()
}

fn operation(shared: &Shared, kind: &str, zone: &str, target: &str) -> Value {
    let number = shared.inner().number();
    json!({
        "kind": "compute#operation",
        "name": format!("operation-{number}"),
        "operationType": kind,
        "status": "DONE",
        "targetLink": format!("{URL}/{PROJECT}/zones/{zone}/instanceGroupManagers/{target}"),
        "zone": format!("{URL}/{PROJECT}/zones/{zone}"),
        "insertTime": Timestamp::now().to_string(),
    })
}

fn create(
    shared: &Shared,
    asked: &Asked,
    zone: &str,
    group: &str,
    pool: &Pool,
    fault: Option<Fault>,
) -> Response {
    let request = asked.query.get("requestId").cloned().unwrap_or_default();
    if let Some(done) = shared.inner().requests.get(&request) {
        return Json(done.clone()).into_response();
    }
    let body = asked.body.clone().unwrap_or_default();
    let instances = body["instances"].as_array().cloned().unwrap_or_default();
    let names: Option<Vec<_>> = instances.iter().map(|one| one["name"].as_str()).collect();
    let Some(names) = names.filter(|names| !names.is_empty()) else {
        return error(
            Api::Compute,
            400,
            "required",
            "Required field 'instances' not specified",
        );
    };
    for name in &names {
        let waits = shared.inner().waiting.contains_key(*name);
        if waits || shared.control.machines().iter().any(|one| one.id == *name) {
            let said = format!("Instance '{name}' already exists in the instance group.");
            return error(Api::Compute, 409, "alreadyExists", &said);
        }
    }
    for name in names {
        let machine = machine(name, zone, group, pool);
        let failed = match fault {
            Some(Fault::Quota) => Some(json!({
                "code": "QUOTA_EXCEEDED",
                "message": "Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded.  Limit: 1.0 in region us-central1.",
                "errorDetails": [{"quotaInfo": {
                    "metricName": "compute.googleapis.com/preemptible_nvidia_l4_gpus",
                    "limitName": "PREEMPTIBLE-NVIDIA-L4-GPUS-per-project-region",
                }}],
            })),
            Some(Fault::Misconfigured) => Some(json!({
                "code": "RESOURCE_NOT_FOUND",
                "message": "The resource 'projects/x/global/images/warm' was not found",
            })),
            Some(_) => Some(json!({"code": "SOMETHING_NEW", "message": "Nobody has seen this"})),
            None => shared
                .control
                .buy(machine.clone())
                .err()
                .map(|_| exhausted(zone)),
        };
        if let Some(error) = failed {
            let waiting = Waiting {
                group: group.to_owned(),
                machine,
                error,
                looks: 0,
            };
            shared.inner().waiting.insert(name.to_owned(), waiting);
        }
    }
    let told = operation(
        shared,
        "compute.instanceGroupManagers.createInstances",
        zone,
        group,
    );
    if !request.is_empty() {
        shared.inner().requests.insert(request, told.clone());
    }
    Json(told).into_response()
}

fn exhausted(zone: &str) -> Value {
    json!({
        "code": "ZONE_RESOURCE_POOL_EXHAUSTED",
        "message": format!(
            "The zone 'projects/{PROJECT}/zones/{zone}' does not have enough resources available to \
             fulfill the request.  Try a different zone, or try again later."
        ),
    })
}

/// A machine, as its pool and its name make it.
fn machine(name: &str, zone: &str, group: &str, pool: &Pool) -> Machine {
    let config = &pool.asked["config"];
    let texts = |value: &Value| serde_json::from_value(value.clone()).unwrap_or_default();
    let mut marks: std::collections::BTreeMap<String, String> = texts(&config["resourceLabels"]);
    // All that tells a named instance from another is its name.
    marks.insert(name.to_owned(), "name".to_owned());
    marks.insert("created-by".to_owned(), group.to_owned());
    let taint = |taint: &Value| {
        let effect = match taint["effect"].as_str() {
            Some("NO_EXECUTE") => "NoExecute",
            Some("PREFER_NO_SCHEDULE") => "PreferNoSchedule",
            _ => "NoSchedule",
        };
        let word = |field: &str| taint[field].as_str().unwrap_or("").to_owned();
        format!("{}={}:{effect}", word("key"), word("value"))
    };
    let taints = config["taints"].as_array();
    Machine {
        id: name.to_owned(),
        key: format!("{zone}/{name}"),
        offering: OfferingKey {
            instance_type: config["machineType"].as_str().unwrap_or("").to_owned(),
            zone: zone.to_owned(),
            capacity_type: match config["spot"].as_bool() {
                Some(true) => CapacityType::Spot,
                _ => CapacityType::OnDemand,
            },
        },
        marks,
        labels: texts(&config["labels"]),
        taints: taints.into_iter().flatten().map(taint).collect(),
        intent: None,
        life: Life::Running,
        created: SystemTime::now(),
    }
}

fn delete(shared: &Shared, asked: &Asked, zone: &str, group: &str) -> Response {
    let body = asked.body.clone().unwrap_or_default();
    let urls = body["instances"].as_array().cloned().unwrap_or_default();
    if urls.is_empty() {
        return error(
            Api::Compute,
            400,
            "required",
            "Required field 'instances' not specified",
        );
    }
    let skips = body["skipInstancesOnValidationError"] == json!(true);
    for url in urls.iter().filter_map(Value::as_str) {
        let name = url.rsplit('/').next().unwrap_or(url);
        let mut known = shared.inner().waiting.remove(name).is_some();
        if of_group(shared, group)
            .iter()
            .any(|machine| machine.id == name)
        {
            known |= shared.control.end(name);
        }
        if !known && !skips {
            let said = format!("Instance '{url}' is not a member of the instance group.");
            return error(Api::Compute, 400, "invalid", &said);
        }
    }
    let told = operation(
        shared,
        "compute.instanceGroupManagers.deleteInstances",
        zone,
        group,
    );
    Json(told).into_response()
}

/// A group tries again what failed, as soon as it may succeed.
fn try_again(shared: &Shared) {
    let left = shared.control.left();
    let mut due = Vec::new();
    for (name, waiting) in &mut shared.inner().waiting {
        waiting.looks += 1;
        let sold_out = left.get(&waiting.machine.offering) == Some(&0);
        if waiting.looks > TRIES_AFTER && !sold_out {
            due.push((name.clone(), waiting.machine.clone()));
        }
    }
    for (name, machine) in due {
        if shared.control.buy(machine).is_ok() {
            shared.inner().waiting.remove(&name);
        }
    }
}

fn managed(shared: &Shared, asked: &Asked, group: &str) -> Response {
    try_again(shared);
    let url = |machine: &Machine| {
        let (zone, name) = (&machine.offering.zone, &machine.id);
        format!("{URL}/{PROJECT}/zones/{zone}/instances/{name}")
    };
    let listed = shared.control.list().into_iter();
    let listed = listed.filter(|machine| {
        machine
            .marks
            .get("created-by")
            .is_some_and(|by| by == group)
    });
    let mut all: Vec<_> = listed
        .map(|machine| {
            let (action, status) = match machine.life {
                Life::Ending(_) => ("DELETING", "STOPPING"),
                Life::Running | Life::Interrupted => ("NONE", "RUNNING"),
            };
            json!({
                "name": machine.id,
                "instance": url(&machine),
                "id": number(&machine.id),
                "currentAction": action,
                "instanceStatus": status,
            })
        })
        .collect();
    let inner = shared.inner();
    let waiting = inner.waiting.values().filter(|one| one.group == group);
    all.extend(waiting.map(|one| {
        json!({
            "name": one.machine.id,
            "instance": url(&one.machine),
            "currentAction": "CREATING",
            "lastAttempt": {"errors": {"errors": [one.error]}},
        })
    }));
    if let Some((key, value)) = filter(asked) {
        all.retain(|one| one[&key] == json!(value));
    }
    page(asked, "managedInstances", &all)
}

fn list(shared: &Shared, asked: &Asked, zone: &str) -> Response {
    try_again(shared);
    let wanted = filter(asked);
    let is_wanted = |machine: &Machine| match &wanted {
        None => true,
        Some((key, value)) => {
            let label = key
                .strip_prefix("labels.")
                .and_then(|label| machine.marks.get(label));
            label == Some(value)
        }
    };
    let listed = shared.control.list().into_iter();
    let listed = listed.filter(|one| one.offering.zone == zone && is_wanted(one));
    let all: Vec<_> = listed.map(|machine| instance(&machine)).collect();
    page(asked, "items", &all)
}

fn instance(machine: &Machine) -> Value {
    let zone = format!("{URL}/{PROJECT}/zones/{}", machine.offering.zone);
    let created = Timestamp::try_from(machine.created).expect("this century");
    let labels = machine
        .marks
        .iter()
        .filter(|(key, value)| *key != "created-by" && *value != "name");
    let by = machine.marks.get("created-by").map_or("", String::as_str);
    json!({
        "id": number(&machine.id),
        "name": machine.id,
        "zone": zone,
        "machineType": format!("{zone}/machineTypes/{}", machine.offering.instance_type),
        "status": match machine.life {
            Life::Running | Life::Interrupted => "RUNNING",
            Life::Ending(_) => "STOPPING",
        },
        "creationTimestamp": created.to_string(),
        "labels": labels.collect::<std::collections::BTreeMap<_, _>>(),
        "metadata": {"items": [{
            "key": "created-by",
            "value": format!("projects/7/zones/{}/instanceGroupManagers/{by}", machine.offering.zone),
        }]},
        "selfLink": format!("{zone}/instances/{}", machine.id),
    })
}

/// A number for a name, as text.
fn number(name: &str) -> String {
    let mix = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, mix).to_string()
}

fn operations(shared: &Shared, asked: &Asked, zone: &str) -> Response {
    for machine in shared.control.machines() {
        if machine.life == Life::Interrupted {
            let at = (machine.id, machine.offering.zone);
            shared.inner().preempted.insert(at.0, at.1);
        }
    }
    let inner = shared.inner();
    let here = inner
        .preempted
        .iter()
        .filter(|(_, in_zone)| *in_zone == zone);
    let mut all: Vec<_> = here
        .map(|(name, _)| {
            json!({
                "name": format!("systemevent-{}", number(name)),
                "operationType": "compute.instances.preempted",
                "status": "DONE",
                "targetLink": format!("{URL}/{PROJECT}/zones/{zone}/instances/{name}"),
                "targetId": number(name),
                "insertTime": Timestamp::now().to_string(),
            })
        })
        .collect();
    if let Some((key, value)) = filter(asked) {
        all.retain(|one| one[&key] == json!(value));
    }
    page(asked, "items", &all)
}

fn types(asked: &Asked, zone: &str) -> Response {
    let here = TYPES.iter().filter(|(_, zones, _)| zones.contains(&zone));
    let mut all: Vec<_> = here
        .map(|(name, _, gpu)| {
            json!({
                "name": name,
                "guestCpus": 4,
                "memoryMb": 16_384,
                "accelerators": [{"guestAcceleratorType": gpu, "guestAcceleratorCount": 1}],
            })
        })
        .collect();
    if let Some((key, value)) = filter(asked) {
        all.retain(|one| one[&key] == json!(value));
    }
    page(asked, "items", &all)
}

fn history(shared: &Shared, asked: &Asked) -> Response {
    let body = asked.body.clone().unwrap_or_default();
    let properties = &body["instanceProperties"];
    if properties["scheduling"]["provisioningModel"] != json!("SPOT") {
        let said = "Invalid value for field 'instanceProperties.scheduling.provisioningModel'";
        return error(Api::Compute, 400, "invalid", said);
    }
    let location = body["locationPolicy"]["location"].as_str().unwrap_or("");
    let key = OfferingKey {
        instance_type: properties["machineType"].as_str().unwrap_or("").to_owned(),
        zone: location.rsplit('/').next().unwrap_or("").to_owned(),
        capacity_type: CapacityType::Spot,
    };
    let price = |start: &str, usd: f64| {
        let units = usd.trunc();
        json!({
            "interval": {"startTime": start},
            "listPrice": {
                "currencyCode": "USD",
                "units": format!("{units}"),
                "nanos": ((usd - units) * 1e9).round() as i64,
            },
        })
    };
    let prices = shared.control.priced(&key).map(|usd| {
        // The newest is not always the last.
        vec![
            price("2026-11-25T00:00:00Z", usd),
            price("2026-11-01T00:00:00Z", 0.41),
        ]
    });
    Json(json!({
        "machineType": key.instance_type,
        "location": location,
        "priceHistory": prices.unwrap_or_default(),
        "preemptionHistory": [{"interval": {"startTime": "2026-11-24T00:00:00Z"}, "preemptionRate": 0.2}],
    }))
    .into_response()
}
