//! The Retail Prices API: rows of what is sold and of what is not meant, two to a page.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State as Of};
use axum::response::Response;
use headstart_core::offer::CapacityType;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::answer::{answer, error, ok};
use super::state::State;
use super::{LOCATION, wares};
use crate::control::Verb;

/// Rows of a page.
const PAGE: usize = 2;

/// `GET /api/retail/prices`.
pub(super) async fn prices(
    Of(state): Of<Arc<State>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    answer(
        &state.control,
        Verb::Offers,
        "",
        || {},
        || {
            let empty = String::new();
            let filter = query.get("$filter").unwrap_or(&empty);
            if !filter.contains("serviceName eq 'Virtual Machines'")
                || !query.contains_key("api-version")
            {
                return error(StatusCode::BAD_REQUEST, "BadRequest", "Invalid OData query");
            }
            let rows = rows(&state, filter);
            let skip: usize = query
                .get("$skip")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0);
            let page: Vec<&Value> = rows.iter().skip(skip).take(PAGE).collect();
            let host = headers.get(http::header::HOST);
            let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
            let next = (skip + PAGE < rows.len()).then(|| {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs(query.iter().filter(|(name, _)| *name != "$skip"));
                form.append_pair("$skip", &(skip + PAGE).to_string());
                format!("http://{host}/api/retail/prices?{}", form.finish())
            });
            let count = page.len();
            ok(json!({
                "BillingCurrency": "USD", "CustomerEntityId": "Default", "CustomerEntityType": "Retail",
                "Items": page, "NextPageLink": next, "Count": count,
            }))
        },
    )
}

fn rows(state: &State, filter: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let wares = wares();
    if !filter.contains(&format!("armRegionName eq '{LOCATION}'")) {
        return rows;
    }
    for size in [&wares.spot.instance_type, &wares.other.instance_type] {
        if !filter.contains(&format!("armSkuName eq '{size}'")) {
            continue;
        }
        let short = size.trim_start_matches("Standard_").replace('_', " ");
        let row = |sku: String, product: &str, usd: f64| {
            json!({
                "currencyCode": "USD", "retailPrice": usd, "unitPrice": usd,
                "armRegionName": LOCATION, "location": "US East", "productName": product,
                "skuName": sku, "serviceName": "Virtual Machines", "unitOfMeasure": "1 Hour",
                "type": "Consumption", "armSkuName": size, "isPrimaryMeterRegion": true,
            })
        };
        // Nobody means these.
        rows.push(row(
            short.clone(),
            "Virtual Machines NC Series Windows",
            9.9,
        ));
        rows.push(row(
            format!("{short} Low Priority"),
            "Virtual Machines NC",
            0.1,
        ));
        for capacity_type in [CapacityType::OnDemand, CapacityType::Spot] {
            let is_it = |key: &&headstart_core::offer::OfferingKey| {
                key.instance_type == *size && key.capacity_type == capacity_type
            };
            let keys = [
                &wares.spot,
                &wares.elsewhere,
                &wares.on_demand,
                &wares.other,
            ];
            let mut keys = keys.into_iter().filter(is_it);
            let Some(usd) = keys.find_map(|key| state.control.priced(key)) else {
                continue;
            };
            let sku = match capacity_type {
                CapacityType::Spot => format!("{short} Spot"),
                CapacityType::OnDemand | CapacityType::Reserved => short.clone(),
            };
            rows.push(row(sku, "Virtual Machines NC Series", usd));
        }
    }
    rows
}
