//! `advice` of Compute Engine: what spot costs, how often it is taken away, how likely it is to be had.

use serde::Deserialize;
use serde_json::json;

use super::api::Ask;
use super::compute::Compute;
use crate::call::CallError;

/// What is known of a type's spot capacity in a place.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapacityHistory {
    /// How often it was taken away.
    pub preemption_history: Vec<PreemptionRecord>,
    /// What it cost.
    pub price_history: Vec<PriceRecord>,
}

/// How often spot was taken away in a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreemptionRecord {
    /// When.
    pub interval: Interval,
    /// Preempted over all that ended: a share, not a rate in time.
    pub preemption_rate: f64,
}

/// What spot cost in a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PriceRecord {
    /// When.
    pub interval: Interval,
    /// Per hour.
    pub list_price: Money,
}

/// From when to when, in RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Interval {
    /// Inclusive.
    pub start_time: String,
    /// Exclusive.
    pub end_time: String,
}

/// An amount of money.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Money {
    /// `USD`.
    pub currency_code: String,
    /// Whole units, as text.
    pub units: String,
    /// Billionths.
    pub nanos: i32,
}

impl Money {
    /// In US dollars; none in another currency, or if it cannot be read.
    pub fn usd(&self) -> Option<f64> {
        if self.currency_code != "USD" {
            return None;
        }
        let units: f64 = match self.units.as_str() {
            "" => 0.0,
            units => units.parse::<i64>().ok()? as f64,
        };
        Some(units + f64::from(self.nanos) / 1e9)
    }
}

/// How likely spot is to be had, and how long it stays.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Scores {
    /// 0 to 1.
    pub obtainability: Option<f64>,
    /// `3600s`: most are taken away after it.
    pub estimated_uptime: Option<String>,
}

impl Scores {
    /// The estimated uptime in hours.
    pub fn uptime_hours(&self) -> Option<f64> {
        let text = self.estimated_uptime.as_deref()?;
        let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
        Some(seconds / 3600.0).filter(|hours| hours.is_finite() && *hours > 0.0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Advice {
    recommendations: Vec<Recommendation>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Recommendation {
    scores: Scores,
}

impl Compute {
    /// `advice.capacityHistory` of spot machines of a type in a zone.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn capacity_history(
        &self,
        region: &str,
        zone: &str,
        machine_type: &str,
    ) -> Result<CapacityHistory, CallError> {
        let (api, project) = self.parts();
        let body = json!({
            "instanceProperties": {
                "machineType": machine_type,
                "scheduling": {"provisioningModel": "SPOT"},
            },
            "locationPolicy": {"location": format!("projects/{project}/zones/{zone}")},
            "types": ["PRICE", "PREEMPTION"],
        });
        let path = vec![
            "projects",
            project,
            "regions",
            region,
            "advice",
            "capacityHistory",
        ];
        api.call(&Ask::post("advice.capacityHistory", path, Some(body)))
            .await
    }

    /// `advice.capacity` for one more spot machine of a type in a zone.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn capacity(
        &self,
        region: &str,
        zone: &str,
        machine_type: &str,
    ) -> Result<Option<Scores>, CallError> {
        let (api, project) = self.parts();
        let body = json!({
            "size": 1,
            "instanceProperties": {"scheduling": {"provisioningModel": "SPOT"}},
            "instanceFlexibilityPolicy": {
                "instanceSelections": {"only": {"machineTypes": [machine_type]}},
            },
            "distributionPolicy": {
                "targetShape": "ANY",
                "zones": [{"zone": format!("projects/{project}/zones/{zone}")}],
            },
        });
        let path = vec!["projects", project, "regions", region, "advice", "capacity"];
        let ask = Ask::post("advice.capacity", path, Some(body));
        let advice: Advice = api.call(&ask).await?;
        Ok(advice
            .recommendations
            .into_iter()
            .map(|one| one.scores)
            .next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_read_in_dollars_only() {
        let money = |text: &str| serde_json::from_str::<Money>(text).unwrap().usd();
        let price = r#"{"currencyCode": "USD", "units": "1", "nanos": 250000000}"#;
        assert_eq!(money(price), Some(1.25));
        assert_eq!(
            money(r#"{"currencyCode": "USD", "nanos": 5000000}"#),
            Some(0.005)
        );
        assert_eq!(money(r#"{"currencyCode": "EUR", "units": "1"}"#), None);
        assert_eq!(money(r#"{"currencyCode": "USD", "units": "one"}"#), None);
    }

    #[test]
    fn an_uptime_is_read_in_hours() {
        let hours = |text: &str| {
            let scores = Scores {
                estimated_uptime: Some(text.to_owned()),
                ..Scores::default()
            };
            scores.uptime_hours()
        };
        assert_eq!(hours("5400s"), Some(1.5));
        for wrong in ["", "s", "-4s", "0s", "NaNs", "infs", "1h"] {
            assert_eq!(hours(wrong), None, "{wrong}");
        }
    }
}
