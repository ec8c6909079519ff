//! AWS's price list: what types cost on demand.
//!
//! Each product comes as a text that is JSON once more; one that cannot be read is left out.

use std::sync::Arc;

use serde_json::{Value, json};
use url::Url;

use super::credentials::Credentials;
use super::wire::Wire;
use crate::call::{CallError, Caller};

/// Most pages of one list.
const MOST_PAGES: usize = 100;

/// The price list. It lies in few regions, and has all of them.
#[derive(Debug)]
pub struct Pricing {
    wire: Wire,
}

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Page {
    price_list: Vec<String>,
    next_token: String,
}

impl Pricing {
    /// The list at `endpoint` (`https://api.pricing.us-east-1.amazonaws.com`), which lies in `region`.
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "pricing"),
        }
    }

    /// What these types cost in `region` on demand, in USD per hour: Linux, shared hardware, nothing
    /// installed, no reservation (`GetProducts`).
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn on_demand(
        &self,
        region: &str,
        types: &[&str],
    ) -> Result<Vec<(String, f64)>, CallError> {
        let is = |field: &str, value: &str| json!({"Type": "TERM_MATCH", "Field": field, "Value": value});
        let any = types.join(",");
        let mut prices = Vec::new();
        let mut next = String::new();
        for _ in 0..MOST_PAGES {
            let mut body = json!({
                "ServiceCode": "AmazonEC2",
                "FormatVersion": "aws_v1",
                "MaxResults": 100,
                "Filters": [
                    is("regionCode", region),
                    is("operatingSystem", "Linux"),
                    is("tenancy", "Shared"),
                    is("preInstalledSw", "NA"),
                    is("capacitystatus", "Used"),
                    {"Type": "ANY_OF", "Field": "instanceType", "Value": any},
                ],
            });
            if !next.is_empty() {
                body["NextToken"] = next.into();
            }
            let form = ("AWSPriceListService", "application/x-amz-json-1.1");
            let page: Page = self.wire.json("GetProducts", form, &body).await?;
            prices.extend(page.price_list.iter().filter_map(|text| price(text)));
            next = page.next_token;
            if next.is_empty() {
                break;
            }
        }
        Ok(prices)
    }
}

/// Type and price of one product.
fn price(text: &str) -> Option<(String, f64)> {
    let product: Value = serde_json::from_str(text).ok()?;
    let kind = product.pointer("/product/attributes/instanceType")?;
    let terms = product.pointer("/terms/OnDemand")?.as_object()?.values();
    let mut dimensions = terms.filter_map(|term| term.get("priceDimensions")?.as_object());
    let dimension = dimensions.next()?.values().next()?;
    let usd = dimension.pointer("/pricePerUnit/USD")?.as_str()?;
    Some((kind.as_str()?.to_owned(), usd.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_read_and_what_is_none_is_left_out() {
        let product = json!({
            "product": {"attributes": {"instanceType": "g6.xlarge"}},
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": {
                "unit": "Hrs", "pricePerUnit": {"USD": "0.8048000000"},
            }}}}},
        });
        let read = price(&product.to_string());
        assert_eq!(read, Some(("g6.xlarge".to_owned(), 0.8048)));
        for none in [
            "",
            "{}",
            r#"{"product":{"attributes":{"instanceType":"a"}}}"#,
        ] {
            assert_eq!(price(none), None);
        }
    }
}
