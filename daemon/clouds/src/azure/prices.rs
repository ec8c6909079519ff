//! Azure's Retail Prices API, version 2023-01-01-preview: nobody needs a token for it.
//!
//! Rows of Windows, of Cloud Services, of low priority, of other units than an hour and of other
//! currencies are passed over. A size with several rows has the dearest of them.

use std::collections::BTreeMap;

use headstart_transfer::net::{Origin, Request};
use serde::Deserialize;
use url::Url;

use crate::call::{Answer, CallError, Caller, Said, Verdict};

/// Version of the API.
const VERSION: &str = "2023-01-01-preview";

/// Sizes asked for at once: what has six rows each fits a page, and the address stays short.
const SIZES: usize = 12;

/// Most pages of one question.
const MOST_PAGES: usize = 50;

/// The API.
#[derive(Debug)]
pub struct Retail {
    caller: Caller,
    endpoint: Url,
}

/// What a size costs in a region, in USD per hour, as it was told: nothing here keeps it sensible.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// On demand.
    pub on_demand: Option<f64>,
    /// As spot.
    pub spot: Option<f64>,
}

impl Retail {
    /// The API at `endpoint` (`https://prices.azure.com`).
    pub fn new(caller: Caller, endpoint: Url) -> Self {
        Self { caller, endpoint }
    }

    /// What virtual machines of these sizes cost in a region. Sizes without a row are left out.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn virtual_machines(
        &self,
        region: &str,
        sizes: &[&str],
    ) -> Result<BTreeMap<String, Price>, CallError> {
        let mut prices = BTreeMap::new();
        for some in sizes.chunks(SIZES) {
            let mut next = Some(self.first(region, some));
            for _ in 0..MOST_PAGES {
                let Some(url) = next.take() else { break };
                let answer = self.caller.call(API, || Request::get(url.clone()), judge);
                let page: Page = read(&answer.await?)?;
                for item in &page.items {
                    item.count(region, &mut prices);
                }
                let link = page.next_page_link.filter(|link| !link.is_empty());
                let link = link.and_then(|link| Url::parse(&link).ok());
                next = link.filter(|url| Origin::of(url) == Origin::of(&self.endpoint));
            }
        }
        Ok(prices)
    }

    fn first(&self, region: &str, sizes: &[&str]) -> Url {
        let sizes: Vec<String> = sizes
            .iter()
            .map(|size| format!("armSkuName eq '{size}'"))
            .collect();
        let filter = format!(
            "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' \
             and armRegionName eq '{region}' and ({})",
            sizes.join(" or ")
        );
        let mut url = self.endpoint.clone();
        url.set_path("/api/retail/prices");
        url.query_pairs_mut()
            .append_pair("api-version", VERSION)
            .append_pair("$filter", &filter);
        url
    }
}

const API: &str = "retail prices";

fn judge(answer: &Answer) -> (Verdict, String) {
    let verdict = match answer.status.as_u16() {
        200 => Verdict::Answer,
        429 => Verdict::Throttled,
        500.. => Verdict::Failed,
        status => Verdict::Refused(Said {
            code: status.to_string(),
            ..Said::default()
        }),
    };
    (verdict, String::new())
}

fn read(answer: &Answer) -> Result<Page, CallError> {
    serde_json::from_slice(&answer.body).map_err(|error| CallError::Unreadable {
        api: API,
        what: error.to_string(),
        request: String::new(),
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    items: Vec<Item>,
    #[serde(default)]
    next_page_link: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Item {
    currency_code: String,
    retail_price: Option<f64>,
    arm_region_name: String,
    arm_sku_name: String,
    sku_name: String,
    product_name: String,
    unit_of_measure: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Item {
    fn count(&self, region: &str, prices: &mut BTreeMap<String, Price>) {
        let counts = self.currency_code == "USD"
            && self.arm_region_name.eq_ignore_ascii_case(region)
            && self.kind == "Consumption"
            && self.unit_of_measure == "1 Hour"
            && !self.arm_sku_name.is_empty()
            && !self.product_name.contains("Windows")
            && !self.product_name.contains("CloudServices")
            && !self.sku_name.ends_with("Low Priority");
        let Some(usd) = self.retail_price.filter(|_| counts) else {
            return;
        };
        let row = prices.entry(self.arm_sku_name.clone()).or_default();
        let known = match self.sku_name.ends_with(" Spot") {
            true => &mut row.spot,
            false => &mut row.on_demand,
        };
        *known = Some(known.map_or(usd, |known| known.max(usd)));
    }
}
