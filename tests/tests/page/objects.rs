//! Objects of a cluster in which pods are deployed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A moment, in seconds from now.
pub(crate) fn at(seconds: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let then = now.as_secs_f64() + seconds;
    let then = UNIX_EPOCH + Duration::from_secs_f64(then);
    // RFC 3339 from the date that HTTP writes would be a detour: days are counted by hand.
    let seconds = then.duration_since(UNIX_EPOCH).unwrap();
    let (days, rest) = (seconds.as_secs() / 86_400, seconds.as_secs() % 86_400);
    let (year, month, day) = civil(i64::try_from(days).unwrap());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        seconds.subsec_micros()
    )
}

/// The date of a day after 1970-01-01, by the usual arithmetic on eras of 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// A pod with a GPU that was created `created` seconds from now.
pub(crate) fn pod(name: &str, node: Option<&str>, created: f64, status: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "creationTimestamp": at(created),
            "uid": format!("7d9c3d3e-0b7a-4a51-9d52-{:012x}", name.len()),
        },
        "spec": {"nodeName": node, "containers": [{
            "name": "vllm", "image": "docker.io/vllm/vllm-openai:v0.33.0",
            "args": ["--model", "Qwen/Qwen3-8B"],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }]},
        "status": status,
    })
}

/// What the status of a pod says that was bound, started and Ready at these moments.
pub(crate) fn served(scheduled: f64, started: f64, ready: f64) -> Value {
    let condition = |name: &str, when: f64| json!({"type": name, "status": "True", "lastTransitionTime": at(when)});
    json!({
        "phase": "Running",
        "conditions": [condition("PodScheduled", scheduled), condition("Ready", ready)],
        "containerStatuses": [{
            "name": "vllm", "image": "docker.io/vllm/vllm-openai:v0.33.0", "ready": true,
            "imageID": format!("docker.io/vllm/vllm-openai@{DIGEST}"), "restartCount": 0,
            "state": {"running": {"startedAt": at(started)}},
        }],
    })
}

pub(crate) fn node(name: &str, created: f64) -> Value {
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "creationTimestamp": at(created)}})
}

/// A claim for a pod, whose stages are `created` seconds from now and then as a cloud takes.
pub(crate) fn claim(name: &str, node: &str, pod: &str, created: f64) -> Value {
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeClaim",
        "metadata": {"name": name, "creationTimestamp": at(created)},
        "spec": {
            "nodePool": "gpu", "pods": [format!("default/{pod}")], "price": 0.41,
            "reason": "serves in 147 s for 0.10 USD less than g5.2xlarge",
            "offering": {"instanceType": "g6.2xlarge", "zone": "a", "capacityType": "spot"},
        },
        "status": {"nodeName": node, "instance": {"providerId": "test://1"}, "stages": {
            "requested": at(created + 1.2), "launched": at(created + 2.9),
            "registered": at(created + 24.1), "ready": at(created + 26.0),
            "gpuAllocatable": at(created + 90.3),
        }},
    })
}

/// A cache whose image and weights moved between these moments.
pub(crate) fn cache(name: &str, image: (f64, f64), weights: (f64, f64)) -> Value {
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache", "metadata": {"name": name},
        "spec": {"generation": 1, "items": [
            {"model": format!("hf://meta-llama/Llama-3.1-8B@{COMMIT}")},
        ]},
        "status": {"generation": 1, "observed": at(0.0), "room": "180Gi", "items": [
            {
                "image": format!("docker.io/vllm/vllm-openai@{DIGEST}"), "state": "Verified",
                "imageName": "docker.io/vllm/vllm-openai:v0.33.0",
                "started": at(image.0), "verified": at(image.1),
                "sources": [{"kind": "registry", "bytes": 10_600_000_000_u64}],
            },
            {
                "model": format!("hf://Qwen/Qwen3-8B@{COMMIT}"), "state": "Verified",
                "started": at(weights.0), "verified": at(weights.1),
                "sources": [{"kind": "hub", "bytes": 16_400_000_000_u64}],
            },
        ]},
    })
}
