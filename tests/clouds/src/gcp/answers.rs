//! What both APIs say alike, each in its own shape; and where tokens come from.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Asked, Shared};
use crate::control::{Fault, Verb};
use crate::server::hang_up;

/// Items of one page.
const PAGE: usize = 2;

/// Which of Google's two shapes an error has.
#[derive(Clone, Copy, Debug)]
pub(super) enum Api {
    Compute,
    Container,
}

/// An error.
pub(super) fn error(api: Api, status: u16, code: &str, message: &str) -> Response {
    let body = match api {
        Api::Compute => json!({"error": {
            "code": status,
            "message": message,
            "errors": [{"message": message, "domain": "global", "reason": code}],
        }}),
        Api::Container => json!({"error": {"code": status, "message": message, "status": code}}),
    };
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(body)).into_response()
}

pub(super) fn unauthenticated(is_compute: bool) -> Response {
    let said = "Request had invalid authentication credentials. Expected OAuth 2 access token, \
                login cookie or other valid authentication credential.";
    match is_compute {
        true => error(Api::Compute, 401, "authError", said),
        false => error(Api::Container, 401, "UNAUTHENTICATED", said),
    }
}

/// Does `work`, unless what goes wrong with this call keeps it from being done or answered. What the
/// work itself is to fail with is handed to it.
pub(super) fn answer(
    shared: &Shared,
    api: Api,
    verb: Verb,
    permission: &str,
    work: impl FnOnce(Option<Fault>) -> Response,
) -> Response {
    let Some(fault) = shared.control.next(verb) else {
        return work(None);
    };
    let is_create = verb == Verb::Create;
    match fault {
        Fault::Quota | Fault::Misconfigured | Fault::Unknown if is_create => work(Some(fault)),
        Fault::Quota => error(api, 403, "quotaExceeded", "Quota 'INSTANCES' exceeded."),
        Fault::Misconfigured => error(api, 404, "notFound", "The resource was not found"),
        Fault::Unknown => error(api, 418, "aTeapot", "I'm a teapot"),
        Fault::Throttled => throttled(api).into_response(),
        Fault::ThrottledFor(seconds) => {
            let mut response = throttled(api);
            let wait = seconds.to_string().parse().expect("a number");
            response.headers_mut().insert("retry-after", wait);
            response
        }
        Fault::Forbidden => match api {
            Api::Compute => {
                let said = format!("Required '{permission}' permission for 'projects/x/zones/y'");
                error(api, 403, "forbidden", &said)
            }
            Api::Container => {
                let said = format!("Required \"{permission}\" permission(s) for \"projects/x\".");
                error(api, 403, "PERMISSION_DENIED", &said)
            }
        },
        Fault::Failed => error(api, 503, "backendError", "Internal error"),
        Fault::Html => (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response(),
        Fault::Garbage => "<html>welcome</html>".into_response(),
        Fault::LostRequest => hang_up(),
        Fault::LostReply => {
            work(None);
            hang_up()
        }
        Fault::Expired => {
            shared.inner().token += 1;
            unauthenticated(matches!(api, Api::Compute))
        }
    }
}

fn throttled(api: Api) -> Response {
    let said = "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'";
    match api {
        Api::Compute => error(api, 429, "rateLimitExceeded", said),
        Api::Container => error(api, 429, "RESOURCE_EXHAUSTED", said),
    }
}

/// One page of `all`, under `name`.
pub(super) fn page(asked: &Asked, name: &str, all: &[Value]) -> Response {
    let from: usize = match asked.query.get("pageToken").map(|token| token.parse()) {
        None => 0,
        Some(Ok(from)) if from <= all.len() => from,
        Some(_) => {
            return error(
                Api::Compute,
                400,
                "invalid",
                "Invalid value for field 'pageToken'",
            );
        }
    };
    let to = (from + PAGE).min(all.len());
    let mut body = json!({});
    // An empty list has no such field.
    if from < to {
        body[name] = all[from..to].into();
    }
    if to < all.len() {
        body["nextPageToken"] = to.to_string().into();
    }
    Json(body).into_response()
}

/// What `filter` says must be equal to what: `a = b`.
pub(super) fn filter(asked: &Asked) -> Option<(String, String)> {
    let (key, value) = asked.query.get("filter")?.split_once('=')?;
    let value = value.trim().trim_matches('"');
    Some((key.trim().to_owned(), value.to_owned()))
}

/// The metadata server.
pub(super) fn metadata(shared: &Shared, path: &str, flavor: &str) -> Response {
    if flavor != "Google" {
        let said = "Missing required header \"Metadata-Flavor\": \"Google\"";
        return (StatusCode::FORBIDDEN, said).into_response();
    }
    match path {
        "/computeMetadata/v1/instance/service-accounts/default/token" => {
            let token = format!("token-{}", shared.inner().token);
            Json(json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
                .into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Security Token Service: for the token `subject`.
pub(super) fn exchange(shared: &Shared, body: &[u8]) -> Response {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
    let is = |name: &str, value: &str| form.get(name).is_some_and(|found| found == value);
    let refused = |error: &str, description: &str| {
        let body = json!({"error": error, "error_description": description});
        (StatusCode::BAD_REQUEST, Json(body)).into_response()
    };
    if !is(
        "grant_type",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ) {
        return refused("unsupported_grant_type", "Unsupported grant_type");
    }
    if !is("subject_token", "subject") || !form.contains_key("audience") {
        return refused(
            "invalid_grant",
            "The given credential is rejected by the attribute condition.",
        );
    }
    let token = format!("token-{}", shared.inner().token);
    Json(json!({
        "access_token": token,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 3600,
    }))
    .into_response()
}
