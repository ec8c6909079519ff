//! One AdmissionReview: a pod that is about to be created comes in, a patch goes out.
//!
//! Every answer allows the pod. What cannot be read is let through as it is.

use std::time::{Duration, Instant};

use base64::Engine as _;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inject::{InjectConfig, Injection, Reason, inject};
use super::{Admitted, Knowledge};

/// A request that has no answer, since nothing says what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidReview {
    /// It is no AdmissionReview.
    #[error(
        "the body is no AdmissionReview of admission.k8s.io/v1; only the API server is to call this"
    )]
    NotAReview(#[source] serde_json::Error),
    /// It asks nothing.
    #[error("the AdmissionReview has no request.uid; only the API server is to call this")]
    NoRequest,
}

#[derive(Deserialize)]
struct Review {
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Request {
    uid: String,
    operation: String,
    namespace: String,
    sub_resource: String,
    resource: Resource,
    object: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resource {
    group: String,
    resource: String,
}

/// An answer, and what it came to.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The AdmissionReview to send.
    pub(crate) body: Value,
    /// What to count.
    pub(crate) outcome: Admitted,
    /// What to log of it.
    pub(crate) reason: &'static str,
}

/// Answers a review.
///
/// # Errors
/// When nothing says what was asked; the API server then goes on as if nobody had answered.
pub(crate) fn answer(
    body: &[u8],
    knowledge: &dyn Knowledge,
    config: &InjectConfig,
) -> Result<Answer, InvalidReview> {
    let review: Review = serde_json::from_slice(body).map_err(InvalidReview::NotAReview)?;
    let request = review.request.filter(|request| !request.uid.is_empty());
    let request = request.ok_or(InvalidReview::NoRequest)?;
    let is_new_pod = request.operation == "CREATE"
        && request.resource.group.is_empty()
        && request.resource.resource == "pods"
        && request.sub_resource.is_empty();
    if !is_new_pod {
        return Ok(allowed(&request.uid, None, "not_a_new_pod"));
    }
    let Ok(pod) = Pod::deserialize(&request.object) else {
        let mut answer = allowed(&request.uid, None, "not_understood");
        answer.outcome = Admitted::NotUnderstood;
        return Ok(answer);
    };
    let known = knowledge.of(&request.namespace, &pod);
    let injection = inject(&pod, &request.object, &known, config);
    let word = injection.reason.word();
    Ok(allowed(&request.uid, Some(&injection), word))
}

fn allowed(uid: &str, injection: Option<&Injection>, reason: &'static str) -> Answer {
    let mut response = json!({"uid": uid, "allowed": true});
    let mut outcome = Admitted::Untouched;
    if let Some(injection) = injection {
        response["auditAnnotations"] = json!({"reason": reason});
        if !injection.warnings.is_empty() {
            let warnings = injection.warnings.iter().map(|warning| short(warning));
            response["warnings"] = warnings.collect();
        }
        let patch = serde_json::to_vec(&injection.patch).ok();
        if let Some(patch) = patch.filter(|_| !injection.patch.0.is_empty()) {
            response["patchType"] = json!("JSONPatch");
            let patch = base64::engine::general_purpose::STANDARD.encode(patch);
            response["patch"] = json!(patch);
            outcome = Admitted::Changed;
        }
        if matches!(
            injection.reason,
            Reason::Left(super::inject::Left::Unreadable)
        ) {
            outcome = Admitted::NotUnderstood;
        }
    }
    let body = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "response": response,
    });
    Answer {
        body,
        outcome,
        reason,
    }
}

/// A warning as clients show it: one line, as long as the API server passes on.
fn short(warning: &str) -> String {
    let plain = warning
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    plain.take(250).collect()
}

/// How long an answer took.
pub(crate) fn timed<T>(answer: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let value = answer();
    (value, started.elapsed())
}
