//! What Google's no means.
//!
//! It comes in three shapes: a status with a reason, a code in an operation or in the last attempt of a
//! managed instance, and a condition of a node pool. Codes nobody has seen are no reason to stop.

use std::time::Duration;

use headstart_clouds::call::{CallError, Said};
use headstart_clouds::gcp::api::{UNAUTHENTICATED, permission};
use headstart_clouds::gcp::compute::{Errors, Fault};
use headstart_clouds::gcp::container::{NodePool, Operation};
use headstart_transfer::chain;

use crate::Refusal;

/// When to ask again while the cluster is busy with another operation.
pub(super) const BUSY: Duration = Duration::from_secs(20);

/// What the failure of a call means.
pub(super) fn of(error: &CallError) -> Refusal {
    match error {
        CallError::Throttled { wait, .. } => Refusal::Throttled { wait: *wait },
        CallError::Refused { api, said } => of_said(api, said),
        CallError::NoCredentials { .. } => Refusal::Forbidden {
            permission: "an access token".to_owned(),
            said: chain(error),
        },
        error => Refusal::Other { said: chain(error) },
    }
}

/// Whether there is no such thing.
pub(super) fn is_absent(error: &CallError) -> bool {
    matches!(error, CallError::Refused { said, .. }
        if matches!(said.code.as_str(), "notFound" | "NOT_FOUND" | "404"))
}

/// Whether there is such a thing already.
pub(super) fn is_present(error: &CallError) -> bool {
    let CallError::Refused { said, .. } = error else {
        return false;
    };
    matches!(
        said.code.as_str(),
        "alreadyExists" | "ALREADY_EXISTS" | "409"
    ) || said.message.to_ascii_lowercase().contains("already exist")
}

fn of_said(api: &str, said: &Said) -> Refusal {
    let words = format!("{api}: {} (request {})", said.message, said.request);
    match said.code.as_str() {
        "forbidden" | "403" | "PERMISSION_DENIED" | "IAM_PERMISSION_DENIED" => Refusal::Forbidden {
            permission: permission(&said.message)
                .unwrap_or_else(|| needed(api))
                .to_owned(),
            said: words,
        },
        "accessNotConfigured" | "SERVICE_DISABLED" => Refusal::Forbidden {
            permission: match api.split('.').next() {
                Some("clusters" | "nodePools" | "operations") => "container.googleapis.com",
                _ => "compute.googleapis.com",
            }
            .to_owned(),
            said: words,
        },
        UNAUTHENTICATED => Refusal::Forbidden {
            permission: "an access token".to_owned(),
            said: words,
        },
        "FAILED_PRECONDITION" | "failedPrecondition" | "resourceNotReady"
            if is_busy(&said.message) =>
        {
            Refusal::Throttled { wait: BUSY }
        }
        "notFound" | "NOT_FOUND" | "404" if api.starts_with("clusters") => Refusal::Misconfigured {
            field: "gcp.cluster".to_owned(),
            said: format!("{words}; name a cluster of gcp.project in gcp.location"),
        },
        "INVALID_ARGUMENT"
        | "invalid"
        | "badRequest"
        | "FAILED_PRECONDITION"
        | "notFound"
        | "NOT_FOUND" => Refusal::Misconfigured {
            field: field(&said.message).to_owned(),
            said: words,
        },
        code => {
            let fault = Fault {
                code: code.to_owned(),
                message: said.message.clone(),
                ..Fault::default()
            };
            match of_fault(&fault) {
                Refusal::Other { .. } => Refusal::Other {
                    said: format!("{code}: {words}"),
                },
                known => known,
            }
        }
    }
}

/// GKE does one thing at a time to some of a cluster, and says so in words only.
fn is_busy(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    [
        "incompatible operation",
        "currently",
        "in progress",
        "concurrent operation",
        "please wait",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// What the errors of an attempt mean: the first that is understood, else the first.
pub(super) fn of_errors(errors: &Errors) -> Option<Refusal> {
    let all: Vec<_> = errors.errors.iter().map(of_fault).collect();
    let known = all.iter().find(|one| !matches!(one, Refusal::Other { .. }));
    known.or(all.first()).cloned()
}

/// What one error means.
pub(super) fn of_fault(fault: &Fault) -> Refusal {
    let said = match fault.message.as_str() {
        "" => fault.code.clone(),
        message => format!("{}: {message}", fault.code),
    };
    let code = fault.code.to_ascii_uppercase();
    let names = |words: &[&str]| words.iter().any(|word| code.contains(word));
    if names(&[
        "RESOURCE_POOL_EXHAUSTED",
        "INSUFFICIENT_CAPACITY",
        "STOCKOUT",
    ]) {
        return Refusal::OutOfCapacity { said };
    }
    if names(&["IP_SPACE_EXHAUSTED"]) {
        return Refusal::Quota {
            quota: "addresses of the subnet".to_owned(),
            said,
        };
    }
    if names(&["QUOTA"]) {
        let mut told = fault
            .error_details
            .iter()
            .filter_map(|one| one.quota_info.as_ref());
        let quota = match told.next() {
            Some(quota) if !quota.limit_name.is_empty() => &quota.limit_name,
            Some(quota) if !quota.metric_name.is_empty() => &quota.metric_name,
            // "Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded.  Limit: 1.0 in region us-central1."
            _ => fault.message.split('\'').nth(1).unwrap_or(&fault.code),
        };
        return Refusal::Quota {
            quota: quota.to_owned(),
            said,
        };
    }
    if names(&["PERMISSION"]) {
        let named = permission(&fault.message);
        return Refusal::Forbidden {
            permission: named
                .unwrap_or("roles/container.nodeServiceAccount")
                .to_owned(),
            said,
        };
    }
    // A reservation that is used up or not there is capacity that is not there.
    if names(&["CONDITION_NOT_MET", "RESERVATION"]) && fault.message.contains("reservation") {
        return Refusal::OutOfCapacity { said };
    }
    if names(&["NOT_FOUND", "INVALID", "CONDITION_NOT_MET"]) {
        return Refusal::Misconfigured {
            field: field(&fault.message).to_owned(),
            said,
        };
    }
    Refusal::Other { said }
}

/// Why a pool was not made.
pub(super) fn of_operation(operation: &Operation) -> Option<Refusal> {
    let error = operation.error.as_ref()?;
    let message = match error.message.as_str() {
        "" => &operation.status_message,
        message => message,
    };
    // `google.rpc.Code`.
    let code = match error.code {
        3 => "INVALID_ARGUMENT",
        5 => "NOT_FOUND",
        7 => "PERMISSION_DENIED",
        8 => "QUOTA_EXCEEDED",
        9 => "FAILED_PRECONDITION",
        _ => "",
    };
    // The code of what failed below is in the words: "… [GCE_STOCKOUT]: …".
    let below = ["GCE_STOCKOUT", "RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED"];
    let below = below.into_iter().find(|code| message.contains(code));
    Some(of_said(
        "nodePools.create",
        &Said {
            code: below.unwrap_or(code).to_owned(),
            message: message.chars().take(1500).collect(),
            request: operation.name.clone(),
        },
    ))
}

/// What is wrong with a pool.
pub(super) fn of_pool(pool: &NodePool) -> Refusal {
    let faults = pool.conditions.iter().map(|condition| Fault {
        code: match condition.code.as_str() {
            "" => condition.canonical_code.clone(),
            code => code.to_owned(),
        },
        message: condition.message.clone(),
        ..Fault::default()
    });
    let errors = Errors {
        errors: faults.collect(),
    };
    of_errors(&errors).unwrap_or_else(|| Refusal::Other {
        said: format!(
            "node pool {} is in status {}; delete it",
            pool.name, pool.status
        ),
    })
}

/// The field of the pool that a message is about.
fn field(message: &str) -> &'static str {
    let message = message.to_ascii_lowercase();
    let words = [
        ("/images/", "spec.provider.secondaryBootDisks"),
        ("secondary", "spec.provider.secondaryBootDisks"),
        ("service account", "spec.provider.serviceAccount"),
        ("serviceaccount", "spec.provider.serviceAccount"),
        ("image type", "spec.provider.imageType"),
        ("image_type", "spec.provider.imageType"),
        ("ssd", "spec.provider.localSsds"),
        ("disk size", "spec.provider.diskSizeGb"),
        ("disk type", "spec.provider.diskType"),
        ("disktypes", "spec.provider.diskType"),
        ("network tag", "spec.provider.networkTags"),
        ("taint", "spec.taints"),
        ("label", "spec.labels"),
    ];
    let known = words.into_iter().find(|(word, _)| message.contains(word));
    known.map_or("spec.provider", |(_, field)| field)
}

/// The permission that a call needs.
fn needed(api: &str) -> &'static str {
    match api {
        "clusters.get" | "nodePools.get" | "nodePools.list" => "container.clusters.get",
        "nodePools.create" | "nodePools.delete" => "container.clusters.update",
        "operations.get" => "container.operations.get",
        "instanceGroupManagers.createInstances" | "instanceGroupManagers.deleteInstances" => {
            "compute.instanceGroupManagers.update"
        }
        "instanceGroupManagers.get"
        | "instanceGroupManagers.listManagedInstances"
        | "instanceGroupManagers.listErrors" => "compute.instanceGroupManagers.get",
        "instances.get" => "compute.instances.get",
        "instances.list" => "compute.instances.list",
        "zoneOperations.list" => "compute.zoneOperations.list",
        "machineTypes.list" => "compute.machineTypes.list",
        "regions.get" => "compute.regions.get",
        "advice.capacity" => "compute.advice.capacity",
        "advice.capacityHistory" => "compute.advice.capacityHistory",
        _ => "roles/container.clusterAdmin",
    }
}
