//! What a pod asks for: requests, limits where they stand for requests, and overhead.

use std::collections::BTreeMap;

use headstart_core::amount::{self, Container, Resources, Role, pod_requests};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::finding::{Subject, quoted};

/// The most of anything that a pod may ask for: a thousandth of what can be counted, so that sums of
/// many pods can be, too.
const MOST: i64 = i64::MAX / 1024;

type Quantities = Option<BTreeMap<String, Quantity>>;

/// Amounts by name; each that cannot be read is a problem.
pub(crate) fn amounts(quantities: &Quantities, subject: &Subject<'_>) -> Resources {
    let mut amounts = Resources::new();
    for (name, quantity) in quantities.iter().flatten() {
        if name.is_empty() || name.len() > 317 || name.contains(char::is_whitespace) {
            let name = quoted(name);
            subject.problem(format!("{name} is not the name of a resource"));
            continue;
        }
        match amount::parse(name, &quantity.0) {
            Ok(amount) if amount > MOST => {
                let found = quoted(&quantity.0);
                subject.problem(format!("{name} {found} is too large; the most is {MOST}"));
            }
            read => {
                if let Some(amount) = subject.ok(read) {
                    amounts.set(name, amount);
                }
            }
        }
    }
    amounts
}

/// The requests of a pod as the kubelet counts them. `overhead` is used where the pod names none.
pub(crate) fn of_pod(
    spec: &core::PodSpec,
    overhead: &Resources,
    subject: &Subject<'_>,
) -> Resources {
    let mut containers = Vec::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (index, container) in init.iter().enumerate() {
        let role = match container.restart_policy.as_deref() {
            Some("Always") => Role::Sidecar,
            _ => Role::Init,
        };
        let at = subject.at("initContainers").nth(index);
        containers.push(of_container(container, role, &at));
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let at = subject.at("containers").nth(index);
        containers.push(of_container(container, Role::Main, &at));
    }
    let pod_level = pod_level(spec, &containers, subject);
    let overhead = match &spec.overhead {
        Some(_) => amounts(&spec.overhead, &subject.at("overhead")),
        None => overhead.clone(),
    };
    let requests = pod_requests(&containers, &pod_level, &overhead);
    for (name, amount) in requests.iter() {
        if amount > MOST {
            subject.problem(format!(
                "{name}: its containers ask for more than {MOST} in all"
            ));
        }
    }
    requests
}

/// A container asks for its limit where it has no request, as the API server fills it in.
fn of_container(container: &core::Container, role: Role, subject: &Subject<'_>) -> Container {
    let Some(resources) = &container.resources else {
        return Container {
            requests: Resources::new(),
            role,
        };
    };
    let at = subject.at("resources");
    let mut requests = amounts(&resources.requests, &at.at("requests"));
    let limits = amounts(&resources.limits, &at.at("limits"));
    let asked = resources.requests.as_ref();
    for (name, limit) in limits.iter() {
        let named = asked.is_some_and(|asked| asked.contains_key(name));
        if !named {
            requests.set(name, limit);
        } else if requests.of(name) > limit {
            let asked = amount::display(name, requests.of(name));
            let limit = amount::display(name, limit);
            at.at("requests").problem(format!(
                "{name} is {asked}, more than its limit of {limit}; lower it or raise the limit"
            ));
        }
    }
    if resources
        .claims
        .as_ref()
        .is_some_and(|claims| !claims.is_empty())
    {
        at.at("claims")
            .note("is not planned for: devices must be asked for as extended resources");
    }
    Container { requests, role }
}

/// Requests at the level of the pod. Where only a limit is given there, the containers' sum counts if
/// there is one, else the limit. Only CPU, memory and huge pages can be asked for so.
///
/// Source: KEP-2837 and the API server's defaulting of pod-level requests.
fn pod_level(spec: &core::PodSpec, containers: &[Container], subject: &Subject<'_>) -> Resources {
    let mut level = Resources::new();
    let Some(resources) = &spec.resources else {
        return level;
    };
    let at = subject.at("resources");
    let requests = amounts(&resources.requests, &at.at("requests"));
    let limits = amounts(&resources.limits, &at.at("limits"));
    let sum = pod_requests(containers, &Resources::new(), &Resources::new());
    let supported = |name: &str| {
        name == amount::CPU || name == amount::MEMORY || name.starts_with("hugepages-")
    };
    for (name, request) in requests.iter() {
        if supported(name) {
            level.set(name, request);
        } else {
            at.at("requests").problem(format!(
                "{name} cannot be asked for at the level of the pod; ask for it in a container"
            ));
        }
    }
    for (name, limit) in limits.iter() {
        let by_containers = sum.iter().any(|(summed, _)| summed == name);
        if supported(name) && requests.iter().all(|(asked, _)| asked != name) && !by_containers {
            level.set(name, limit);
        }
    }
    level
}

/// Whether a pod asks for devices that compute: GPUs and the like.
pub(crate) fn wants_accelerator(requests: &Resources) -> bool {
    requests
        .iter()
        .any(|(name, amount)| amount > 0 && is_accelerator(name))
}

/// Whether a resource is a device that computes.
pub(crate) fn is_accelerator(name: &str) -> bool {
    let (domain, device) = name.split_once('/').unwrap_or(("", name));
    let makers = [
        "nvidia.com",
        "amd.com",
        "aws.amazon.com",
        "habana.ai",
        "gpu.intel.com",
        "google.com",
    ];
    let devices = ["gpu", "mig-", "neuron", "gaudi", "tpu", "i915", "xe"];
    makers.contains(&domain) && devices.iter().any(|d| device.starts_with(d))
}
