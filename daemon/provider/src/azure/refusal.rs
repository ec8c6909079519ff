//! What Azure's refusals mean. The same lack comes at once, in the operation, or in the pool; as a code
//! of its own, below a general one, or in the text of one: so codes are looked for in all of it.

use std::time::Duration;

use headstart_clouds::call::{CallError, Said};
use headstart_transfer::chain;

use crate::Refusal;

/// Words that mean: not now, not there.
const NO_CAPACITY: [&str; 10] = [
    "SkuNotAvailable",
    "ZonalAllocationFailed",
    "AllocationFailed",
    "OverconstrainedZonalAllocationRequest",
    "OverconstrainedAllocationRequest",
    "VMSizeNotSupported",
    "AvailabilityZoneNotSupported",
    "NotAvailableForSubscription",
    "CapacityNotAvailable",
    "Capacity Restrictions",
];

/// Codes that mean: may not.
const FORBIDDEN: [&str; 5] = [
    "AuthorizationFailed",
    "LinkedAuthorizationFailed",
    "AuthorizationPermissionMismatch",
    "RequestDisallowedByPolicy",
    "403",
];

/// What of a request is set where, by the words that AKS has for it.
const FIELDS: [(&str, &str); 17] = [
    ("podSubnet", "spec.provider.podSubnet"),
    ("subnet", "spec.provider.subnet"),
    ("osDiskSize", "spec.provider.osDiskSizeGb"),
    ("osDiskType", "spec.provider.osDisk"),
    ("ephemeral", "spec.provider.osDisk"),
    ("kubeletDisk", "spec.provider.kubeletDisk"),
    ("maxPods", "spec.provider.maxPods"),
    ("orchestratorVersion", "spec.provider.kubernetesVersion"),
    ("osSKU", "spec.provider.osSku"),
    ("snapshot", "spec.provider.snapshot"),
    (
        "capacityReservationGroup",
        "spec.provider.capacityReservationGroup",
    ),
    ("spotMaxPrice", "spec.provider.spotMaxPrice"),
    ("gpuProfile", "spec.provider.gpuDriver"),
    ("artifactStreaming", "spec.provider.artifactStreaming"),
    ("tags", "spec.provider.tags"),
    ("taint", "spec.taints"),
    ("label", "spec.labels"),
];

/// What a failed call means.
pub(super) fn of(error: &CallError) -> Refusal {
    match error {
        CallError::Throttled { wait, .. } => Refusal::Throttled {
            wait: (*wait).max(Duration::from_secs(1)),
        },
        CallError::Refused { said, .. } => of_said(said),
        CallError::Net { .. }
        | CallError::Failed { .. }
        | CallError::Unreadable { .. }
        | CallError::NoCredentials { .. } => Refusal::Other { said: chain(error) },
    }
}

/// What a refusal means, wherever it was said.
pub(super) fn of_said(told: &Said) -> Refusal {
    let text = format!("{} {}", told.code, told.message);
    let has = |word: &str| text.contains(word);
    let said = match told.request.as_str() {
        "" => format!("{}: {}", told.code, told.message),
        request => format!("{}: {} (request {request})", told.code, told.message),
    };
    if let Some(quota) = quota(&text) {
        return Refusal::Quota { quota, said };
    }
    if FORBIDDEN.contains(&told.code.as_str()) {
        let permission = between(&text, "perform action '", "'");
        return Refusal::Forbidden {
            permission: permission.map_or_else(|| told.code.clone(), str::to_owned),
            said,
        };
    }
    // In the sizes' own words, some come as a bad request.
    let no_size = has("Virtual Machine size:") && has("is not supported");
    if no_size || NO_CAPACITY.into_iter().any(has) {
        return Refusal::OutOfCapacity { said };
    }
    let named_wrongly = [
        "ResourceGroupNotFound",
        "ResourceNotFound",
        "SubscriptionNotFound",
        "InvalidSubscriptionId",
        "ParentResourceNotFound",
    ];
    if named_wrongly.contains(&told.code.as_str()) {
        let field = match told.code.as_str() {
            "ResourceGroupNotFound" => "azure.resourceGroup",
            code if code.contains("Subscription") => "azure.subscription",
            _ => "azure.cluster",
        };
        return Refusal::Misconfigured {
            field: field.to_owned(),
            said,
        };
    }
    let bad = ["InvalidParameter", "BadRequest", "InvalidRequestContent"];
    let bad = bad.contains(&told.code.as_str()) || told.code.ends_with("NotFound");
    if bad {
        let lower = text.to_lowercase();
        let field = FIELDS
            .iter()
            .find(|(word, _)| lower.contains(&word.to_lowercase()));
        return Refusal::Misconfigured {
            field: field.map_or("spec.provider", |(_, field)| field).to_owned(),
            said,
        };
    }
    Refusal::Other { said }
}

/// The quota that a text says is used up.
fn quota(text: &str) -> Option<String> {
    let approved = between(text, "exceeding approved ", " quota");
    let approved = approved.map(|name| name.trim_end_matches(" Cores").to_owned());
    // "Insufficient vcpu quota requested 24, remaining 0 for family standardX for region eastus."
    let family = || {
        let insufficient =
            text.contains("InsufficientVCPUQuota") || text.contains("Insufficient vcpu quota");
        let named = between(text, "for family ", " ").map(str::to_owned);
        insufficient.then(|| named.unwrap_or_else(|| "vCPUs".to_owned()))
    };
    let pools = || {
        let lower = text.to_lowercase();
        let many = lower.contains("maximum") || lower.contains("limit");
        let pools = lower.contains("agent pools") || lower.contains("node pools");
        (many && pools).then(|| "agent pools per cluster".to_owned())
    };
    let other = || {
        let coded = text.starts_with("QuotaExceeded") || text.contains("QuotaExceeded ");
        coded.then(|| "vCPUs".to_owned())
    };
    approved.or_else(family).or_else(pools).or_else(other)
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found)
}
