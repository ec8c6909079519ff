//! Azure's Retail Prices API: JSON in pages, each naming the next.
//!
//! Source: Azure Retail Prices REST API. Rows whose `skuName` ends in ` Spot` are spot prices; those
//! of Windows, of low priority and of other units than an hour are passed over.

use headstart_core::money::HourlyPrice;
use serde::Deserialize;

use super::Listed;

/// Most pages of one region; there are about a dozen per thousand rows.
pub(super) const MAX_PAGES: usize = 500;

/// The first page for a region.
pub(super) fn first_page(region: &str) -> String {
    format!(
        "https://prices.azure.com/api/retail/prices?api-version=2023-01-01-preview&$filter=\
         serviceName%20eq%20'Virtual%20Machines'%20and%20priceType%20eq%20'Consumption'%20and%20\
         armRegionName%20eq%20'{region}'"
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    items: Vec<Item>,
    next_page_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    currency_code: String,
    retail_price: f64,
    arm_region_name: String,
    #[serde(default)]
    arm_sku_name: String,
    #[serde(default)]
    sku_name: String,
    #[serde(default)]
    product_name: String,
    #[serde(default)]
    unit_of_measure: String,
    #[serde(rename = "type", default)]
    kind: String,
}

/// Takes one page; the address of the next one, if there is one.
pub(super) fn page(
    page: &[u8],
    region: &str,
    listed: &mut Listed,
) -> Result<Option<String>, String> {
    let page: Page = serde_json::from_slice(page)
        .map_err(|error| format!("is no page of the Retail Prices API: {error}"))?;
    for item in page.items {
        let counts = item.currency_code == "USD"
            && item.arm_region_name == region
            && item.kind == "Consumption"
            && item.unit_of_measure == "1 Hour"
            && !item.arm_sku_name.is_empty()
            && !item.product_name.contains("Windows")
            && !item.product_name.contains("CloudServices")
            && !item.sku_name.ends_with("Low Priority");
        if !counts {
            continue;
        }
        let name = &item.arm_sku_name;
        let price = match HourlyPrice::from_usd(item.retail_price) {
            Ok(HourlyPrice(0)) => {
                listed.free += 1;
                continue;
            }
            Ok(price) => price,
            Err(_) => {
                let usd = item.retail_price;
                listed.absurd.push(format!("{name} at {usd} USD/h"));
                continue;
            }
        };
        let row = listed.types.entry(name.clone()).or_default();
        let known = match item.sku_name.ends_with(" Spot") {
            true => &mut row.spot,
            false => &mut row.on_demand,
        };
        *known = (*known).max(Some(price));
    }
    Ok(page.next_page_link.filter(|link| !link.is_empty()))
}
