//! Who gives tokens: Microsoft Entra for the token of a service account, and the metadata service.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Of};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::state::State;
use super::{ASSERTION, CLIENT, TENANT};

/// `GET /metadata/identity/oauth2/token`.
pub(super) async fn metadata(
    Of(state): Of<Arc<State>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let is = |name: &str, value: &str| query.get(name).is_some_and(|it| it == value);
    let asked = headers.get("metadata").is_some_and(|it| it == "true")
        && is("api-version", "2018-02-01")
        && is("resource", "https://management.azure.com/");
    if !asked {
        let error = json!({"error": "invalid_request", "error_description": "Required metadata \
            header not specified, or another parameter is wrong"});
        return (StatusCode::BAD_REQUEST, Json(error)).into_response();
    }
    // It writes numbers as text.
    Json(json!({
        "access_token": state.token(), "expires_in": "86399", "token_type": "Bearer",
        "resource": "https://management.azure.com/",
    }))
    .into_response()
}

/// `POST /{tenant}/oauth2/v2.0/token`.
pub(super) async fn entra(
    Of(state): Of<Arc<State>>,
    Path(tenant): Path<String>,
    body: String,
) -> Response {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes())
        .into_owned()
        .collect();
    let is = |name: &str, value: &str| form.get(name).is_some_and(|it| it == value);
    let jwt = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let refused = |code: &str, words: &str| {
        let error = json!({
            "error": code,
            "error_description": format!("{words}\r\nTrace ID: 1\r\nCorrelation ID: 2"),
        });
        (StatusCode::BAD_REQUEST, Json(error)).into_response()
    };
    if tenant != TENANT {
        return refused("invalid_request", "AADSTS90002: Tenant not found.");
    }
    if !is("client_id", CLIENT) {
        let words = "AADSTS700016: Application was not found in the directory.";
        return refused("unauthorized_client", words);
    }
    if !is("grant_type", "client_credentials")
        || !is("client_assertion_type", jwt)
        || !is("scope", "https://management.azure.com/.default")
    {
        return refused("invalid_request", "AADSTS900144: a parameter is missing.");
    }
    if !is("client_assertion", ASSERTION) {
        let words = "AADSTS700211: No matching federated identity record found for presented \
                     assertion issuer.";
        return refused("invalid_client", words);
    }
    Json(json!({"access_token": state.token(), "expires_in": 3599, "token_type": "Bearer"}))
        .into_response()
}
