//! Resource Manager: who may come in, which version is asked for, and to whom a call goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State as Of;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::answer::{answer, error, expired, ok, with_id};
use super::state::{Entry, State};
use super::{GROUP, LOCATION, NAME, SUBSCRIPTION, aks, wares};
use crate::control::Verb;

/// The preview version that makes machines.
pub(super) const PREVIEW: &str = "2025-10-02-preview";

/// Version of AKS's API that is spoken here.
const STABLE: &str = "2026-08-01";

/// Entries of a page.
const PAGE: usize = 3;

/// A call that may be made.
pub(super) struct Call<'a> {
    pub(super) state: &'a State,
    pub(super) method: Method,
    /// Below the cluster.
    pub(super) below: Vec<&'a str>,
    pub(super) query: &'a BTreeMap<String, String>,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) path: &'a str,
}

/// Any call.
pub(super) async fn manager(
    Of(state): Of<Arc<State>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or("").as_bytes())
            .into_owned()
            .collect();
    let response = match state.admit(&headers) {
        Entry::Allowed => {
            state.record(&method, uri.path(), &query, &headers, &body);
            route(&state, method, uri.path(), &query, &headers, &body)
        }
        Entry::Expired => expired(),
        Entry::Unknown => error(
            StatusCode::UNAUTHORIZED,
            "InvalidAuthenticationToken",
            "The access token is invalid.",
        ),
    };
    with_id(response, state.number())
}

fn route(
    state: &State,
    method: Method,
    path: &str,
    query: &BTreeMap<String, String>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    let Some(version) = query.get("api-version") else {
        let words = "The api-version query parameter (?api-version=) is required.";
        return error(StatusCode::BAD_REQUEST, "MissingApiVersionParameter", words);
    };
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if parts.get(1) != Some(&SUBSCRIPTION) {
        let words = "The subscription could not be found.";
        return error(StatusCode::NOT_FOUND, "SubscriptionNotFound", words);
    }
    let call = |below: &[&'static str]| Call {
        state,
        method: method.clone(),
        below: below.to_vec(),
        query,
        headers,
        body,
        path,
    };
    match parts[2..] {
        ["providers", "Microsoft.Compute", "skus"] => match version.as_str() {
            "2021-07-01" => call(&[]).skus(),
            _ => unknown_version(version, "skus"),
        },
        ["providers", "Microsoft.Compute", "locations", _, "usages"] => usages(&call(&[])),
        [
            "providers",
            "Microsoft.ContainerService",
            "locations",
            _,
            "operations",
            id,
        ] => aks::operation(state, id),
        ["resourceGroups", group, ..] if !group.eq_ignore_ascii_case(GROUP) => error(
            StatusCode::NOT_FOUND,
            "ResourceGroupNotFound",
            &format!("Resource group '{group}' could not be found."),
        ),
        [
            "resourceGroups",
            _,
            "providers",
            "Microsoft.ContainerService",
            "managedClusters",
            cluster,
            ref below @ ..,
        ] => {
            if cluster != NAME {
                let words = format!(
                    "The Resource 'Microsoft.ContainerService/managedClusters/{cluster}' under \
                     resource group '{GROUP}' was not found."
                );
                return error(StatusCode::NOT_FOUND, "ResourceNotFound", &words);
            }
            if below == ["providers", "Microsoft.Authorization", "permissions"] {
                return permissions();
            }
            let machines = below.get(2) == Some(&"machines");
            if version != STABLE && !(machines && version == PREVIEW) {
                return unknown_version(version, "managedClusters");
            }
            aks::route(&Call {
                state,
                method,
                below: below.to_vec(),
                query,
                headers,
                body,
                path,
            })
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "InvalidResourceType",
            "The resource type could not be found.",
        ),
    }
}

fn unknown_version(version: &str, kind: &str) -> Response {
    let words = format!(
        "No registered resource provider found for location '{LOCATION}' and API version \
         '{version}' for type '{kind}'."
    );
    error(StatusCode::BAD_REQUEST, "NoRegisteredProviderFound", &words)
}

impl Call<'_> {
    /// A list, cut into pages.
    pub(super) fn page(&self, all: Vec<Value>) -> Response {
        let skip = self.query.get("$skiptoken");
        let skip: usize = skip.and_then(|text| text.parse().ok()).unwrap_or(0);
        let page: Vec<Value> = all.iter().skip(skip).take(PAGE).cloned().collect();
        let mut body = json!({"value": page});
        if skip + PAGE < all.len() {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.extend_pairs(self.query.iter().filter(|(name, _)| *name != "$skiptoken"));
            form.append_pair("$skiptoken", &(skip + PAGE).to_string());
            let next = format!("http://{}{}?{}", self.host(), self.path, form.finish());
            body["nextLink"] = next.into();
        }
        ok(body)
    }

    /// Where this server is, as the client calls it.
    pub(super) fn host(&self) -> &str {
        let host = self.headers.get(http::header::HOST);
        host.and_then(|host| host.to_str().ok()).unwrap_or("")
    }

    fn skus(&self) -> Response {
        let state = self.state;
        answer(
            &state.control,
            Verb::Offers,
            "",
            || state.expire(),
            || {
                let filter = format!("location eq '{LOCATION}'");
                if self.query.get("$filter") != Some(&filter) {
                    return self.page(Vec::new());
                }
                let wares = wares();
                let sku = |name: &str, family: &str, zones: &[&str]| {
                    json!({
                        "resourceType": "virtualMachines", "name": name, "tier": "Standard",
                        "size": name.trim_start_matches("Standard_"), "family": family,
                        "locations": [LOCATION],
                        "locationInfo": [{"location": LOCATION, "zones": zones, "zoneDetails": []}],
                        "capabilities": [{"name": "LowPriorityCapable", "value": "True"}],
                        "restrictions": [],
                    })
                };
                let mut closed = sku(
                    "Standard_ND96isr_H100_v5",
                    "standardNDSH100v5Family",
                    &["1"],
                );
                closed["restrictions"] = json!([{
                    "type": "Location", "values": [LOCATION],
                    "restrictionInfo": {"locations": [LOCATION]},
                    "reasonCode": "NotAvailableForSubscription",
                }]);
                self.page(vec![
                json!({"resourceType": "disks", "name": "Premium_LRS", "locations": [LOCATION]}),
                sku(&wares.spot.instance_type, "standardNCASv3Family", &["1", "2", "3"]),
                closed,
                sku(&wares.other.instance_type, "standardNCADSA100v4Family", &["1"]),
            ])
            },
        )
    }
}

fn usages(call: &Call<'_>) -> Response {
    let usage = |name: &str, used: i64, limit: i64| {
        json!({
            "unit": "Count", "currentValue": used, "limit": limit,
            "name": {"value": name, "localizedValue": name},
        })
    };
    call.page(vec![
        usage("cores", 10, 200),
        usage("lowPriorityCores", 0, 100),
        usage("standardNCASv3Family", 0, 64),
    ])
}

fn permissions() -> Response {
    ok(json!({"value": [
        {"actions": ["Microsoft.ContainerService/managedClusters/*"], "notActions": []},
        {"actions": ["*/read"], "notActions": [], "dataActions": []},
    ]}))
}
