//! Prices of one region, whoever stated them.

use std::collections::BTreeMap;

use headstart_core::money::HourlyPrice;

/// Prices of one region.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Prices {
    /// Where they come from, for a person.
    pub(crate) basis: String,
    /// By machine type.
    pub(crate) types: BTreeMap<String, Price>,
}

/// What one type costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Price {
    /// On-demand.
    pub(crate) on_demand: Option<HourlyPrice>,
    /// Spot.
    pub(crate) spot: Option<HourlyPrice>,
    /// How often spot is taken away, where that is published.
    pub(crate) bucket: Option<Bucket>,
    /// vCPUs and MiB, where the price list says them.
    pub(crate) size: Option<(u64, u64)>,
}

/// How often AWS took spot capacity of a type away in a month, in the classes of its Spot Advisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket(u8);

impl Bucket {
    /// Class 0 to 4.
    pub(crate) fn of(class: u8) -> Option<Self> {
        (class <= 4).then_some(Self(class))
    }

    /// Its number.
    pub(crate) fn class(self) -> u8 {
        self.0
    }

    /// The share of instances taken away in a month: the middle of the class, and 25 % for the class
    /// without upper bound.
    fn monthly(self) -> f64 {
        [0.025, 0.075, 0.125, 0.175, 0.25][usize::from(self.0)]
    }
}

/// Expected interruptions in a million hours.
///
/// A share `p` of instances taken away in a month of 730 h is a rate of `-ln(1 - p) / 730` an hour:
/// between 35 and 394 in a million hours over all classes. The highest is taken where nothing is
/// published (GCP).
pub(crate) fn interruptions_per_million_h(bucket: Option<Bucket>) -> u32 {
    const HOURS_OF_A_MONTH: f64 = 730.0;
    let monthly = bucket.map_or(0.25, Bucket::monthly);
    (-(1.0 - monthly).ln() / HOURS_OF_A_MONTH * 1e6).round() as u32
}

/// Spot from on-demand and the Advisor's saving in whole per cent, which may be below zero: such a row
/// is kept, as it is what AWS says.
pub(crate) fn spot_price(on_demand: HourlyPrice, saving_percent: i32) -> Option<HourlyPrice> {
    let share = u64::try_from(100_i32.checked_sub(saving_percent)?).ok()?;
    Some(HourlyPrice(on_demand.0.checked_mul(share)? / 100))
}

/// A price from a table, if it is one. Zero means that nothing is sold.
pub(crate) fn usd(text: &str) -> Option<HourlyPrice> {
    let usd: f64 = text.parse().ok()?;
    HourlyPrice::from_usd(usd).ok().filter(|price| price.0 > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_interruption_are_rates_by_the_hour() {
        let rates: Vec<u32> = (0..=4)
            .map(|class| interruptions_per_million_h(Bucket::of(class)))
            .collect();
        assert_eq!(rates, [35, 107, 183, 264, 394]);
        assert_eq!(interruptions_per_million_h(None), 394);
        assert_eq!(Bucket::of(5), None);
    }

    #[test]
    fn a_saving_below_zero_is_a_price_above_on_demand() {
        let on_demand = HourlyPrice(1_000_000);
        assert_eq!(spot_price(on_demand, -62), Some(HourlyPrice(1_620_000)));
        assert_eq!(spot_price(on_demand, 66), Some(HourlyPrice(340_000)));
        assert_eq!(spot_price(on_demand, 101), None);
    }

    #[test]
    fn what_is_no_price_is_none() {
        for text in ["", "NaN", "-1", "inf", "0", "0.0", "1e9", "free"] {
            assert_eq!(usd(text), None, "{text}");
        }
        assert_eq!(usd("0.8048"), Some(HourlyPrice(804_800)));
    }
}
