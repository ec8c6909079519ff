//! Answers in Azure's own words.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use crate::control::{Control, Fault, Verb};
use crate::server::hang_up;

/// A body.
pub(super) fn ok(body: Value) -> Response {
    (StatusCode::OK, Json(body)).into_response()
}

/// An error of Resource Manager, which is below `error`.
pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let error = json!({"error": {"code": code, "message": message}});
    (status, Json(error)).into_response()
}

/// An error of AKS, which is at the top.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str, target: &str) -> Response {
    let error = json!({
        "code": code, "details": null, "message": message, "subcode": "", "target": target,
    });
    (status, Json(error)).into_response()
}

/// Only a token that holds is let in.
pub(super) fn expired() -> Response {
    let (code, words) = (
        "ExpiredAuthenticationToken",
        "The access token expiry UTC time is earlier than current UTC time.",
    );
    error(StatusCode::UNAUTHORIZED, code, words)
}

/// With a request's id, as each answer has one.
pub(super) fn with_id(mut response: Response, id: u64) -> Response {
    let id = format!("00000000-0000-0000-0000-{id:012}");
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-ms-request-id", id);
    }
    response
}

/// Does `work`, unless what goes wrong with this call keeps it from being done or answered. `expire` is
/// what makes tokens end.
pub(super) fn answer(
    control: &Control,
    verb: Verb,
    action: &str,
    expire: impl FnOnce(),
    work: impl FnOnce() -> Response,
) -> Response {
    let Some(fault) = control.next(verb) else {
        return work();
    };
    const TOO_MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    let throttled = || {
        let words = "The request is being throttled as the limit has been reached.";
        error(TOO_MANY, "TooManyRequests", words)
    };
    match fault {
        Fault::Throttled => throttled(),
        Fault::ThrottledFor(seconds) => {
            let mut response = throttled();
            let headers = response.headers_mut();
            headers.insert(http::header::RETRY_AFTER, seconds.into());
            response
        }
        Fault::Quota => refusal(
            StatusCode::BAD_REQUEST,
            "ErrCode_InsufficientVCPUQuota",
            "Insufficient vcpu quota requested 24, remaining 0 for family \
             standardNCADSA100v4Family for region eastus.",
            "",
        ),
        Fault::Forbidden => error(
            StatusCode::FORBIDDEN,
            "AuthorizationFailed",
            &format!(
                "The client 'c' with object id 'o' does not have authorization to perform action \
                 '{action}' over scope '/subscriptions/s' or the scope is invalid. If access was \
                 recently granted, please refresh your credentials."
            ),
        ),
        Fault::Misconfigured => refusal(
            StatusCode::BAD_REQUEST,
            "InvalidParameter",
            "The value of parameter agentPoolProfile.vnetSubnetID is invalid: it was not found.",
            "agentPoolProfile.vnetSubnetID",
        ),
        Fault::Unknown => refusal(StatusCode::BAD_REQUEST, "TheSkyIsFalling", "Run.", ""),
        Fault::Failed => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            "Encountered internal server error.",
        ),
        Fault::Html => (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response(),
        Fault::Garbage => "<html>welcome</html>".into_response(),
        Fault::LostRequest => hang_up(),
        Fault::LostReply => {
            drop(work());
            hang_up()
        }
        Fault::Expired => {
            expire();
            expired()
        }
    }
}

/// The action that a call of AKS needs.
pub(super) fn action(method: &Method, below: &[&str]) -> String {
    let kinds: Vec<&str> = below.iter().step_by(2).copied().collect();
    let what = match *method {
        Method::PUT => "write",
        Method::DELETE => "delete",
        Method::POST => "action",
        _ => "read",
    };
    format!(
        "Microsoft.ContainerService/managedClusters/{}/{what}",
        kinds.join("/")
    )
}
