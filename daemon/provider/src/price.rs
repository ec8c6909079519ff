//! Which prices of a cloud's own are believed.
//!
//! A list that is empty, cut off or absurd never makes a purchase: what is not believed leaves the
//! price that was known, and is said. A spot price that is no discount is no offer.

use std::collections::BTreeMap;

use headstart_core::money::HourlyPrice;
use headstart_core::offer::{CapacityType, OfferingKey};

use crate::Offers;

/// How many times the price that was known a new one may be, either way. Spot prices have fallen and
/// risen by three within a year; list prices hardly move.
const STEP: f64 = 20.0;

/// The least share of the on-demand price that a spot price may be. The deepest discount seen in any
/// cloud is 90 %.
const LEAST_SHARE: f64 = 0.02;

/// Why a price is not believed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Doubt {
    /// Not a number from zero on.
    #[error("{0} is not a price in USD per hour")]
    NoPrice(f64),
    /// Nothing is free.
    #[error("a price of 0 USD per hour")]
    Free,
    /// Too far from what was known.
    #[error("{told} USD per hour, {known} was known")]
    Far {
        /// What was told.
        told: f64,
        /// What was known.
        known: f64,
    },
    /// Too little for spot.
    #[error("{told} USD per hour for spot, {on_demand} on demand")]
    TooCheap {
        /// What was told.
        told: f64,
        /// The on-demand price.
        on_demand: f64,
    },
}

/// A price that was told, if it is believed beside what was `known` and the on-demand price, which is
/// given for spot only.
///
/// # Errors
/// Why not.
pub fn believed(
    told: f64,
    known: Option<HourlyPrice>,
    on_demand: Option<HourlyPrice>,
) -> Result<HourlyPrice, Doubt> {
    let price = HourlyPrice::from_usd(told).map_err(|_| Doubt::NoPrice(told))?;
    if price == HourlyPrice::default() {
        return Err(Doubt::Free);
    }
    if let Some(known) = known.map(HourlyPrice::usd).filter(|known| *known > 0.0)
        && !(known / STEP..=known * STEP).contains(&told)
    {
        return Err(Doubt::Far { told, known });
    }
    match on_demand.map(HourlyPrice::usd) {
        Some(on_demand) if told < on_demand * LEAST_SHARE => {
            Err(Doubt::TooCheap { told, on_demand })
        }
        _ => Ok(price),
    }
}

/// Puts the prices that a cloud told, in USD per hour, over those of `offers`, and takes out what is
/// no discount. Returns what was not believed.
pub fn refresh(
    offers: &mut Offers,
    told: &BTreeMap<OfferingKey, f64>,
) -> Vec<(OfferingKey, Doubt)> {
    let mut doubts = Vec::new();
    let mut on_demand: BTreeMap<(usize, String), HourlyPrice> = BTreeMap::new();
    // On demand first: spot is judged by it.
    for of in [
        CapacityType::Reserved,
        CapacityType::OnDemand,
        CapacityType::Spot,
    ] {
        let types = &offers.types;
        for offering in &mut offers.offerings {
            if offering.capacity_type != of {
                continue;
            }
            let Some(kind) = types.get(offering.instance_type) else {
                continue;
            };
            let place = (offering.instance_type, offering.zone.clone());
            let key = OfferingKey {
                instance_type: kind.name.clone(),
                zone: offering.zone.clone(),
                capacity_type: of,
            };
            if let Some(told) = told.get(&key) {
                let beside = on_demand.get(&place).copied();
                let beside = beside.filter(|_| of == CapacityType::Spot);
                match believed(*told, Some(offering.price), beside) {
                    Ok(price) => offering.price = price,
                    Err(doubt) => doubts.push((key, doubt)),
                }
            }
            if of == CapacityType::OnDemand {
                on_demand.insert(place, offering.price);
            }
        }
    }
    offers.offerings.retain(|offering| {
        let place = (offering.instance_type, offering.zone.clone());
        let dearer = on_demand
            .get(&place)
            .is_some_and(|price| offering.price >= *price);
        offering.capacity_type != CapacityType::Spot || !dearer
    });
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::sold;

    fn usd(usd: f64) -> Option<HourlyPrice> {
        Some(HourlyPrice::from_usd(usd).unwrap())
    }

    #[test]
    fn absurd_prices_are_not_believed() {
        assert!(matches!(
            believed(f64::NAN, None, None),
            Err(Doubt::NoPrice(_))
        ));
        assert_eq!(believed(-0.4, None, None), Err(Doubt::NoPrice(-0.4)));
        assert_eq!(believed(0.0, usd(0.4), None), Err(Doubt::Free));
        assert_eq!(believed(1e-9, usd(0.4), None), Err(Doubt::Free));
        for told in [0.4 * 1000.0, 0.4 / 1000.0] {
            let known = 0.4;
            assert_eq!(
                believed(told, usd(known), None),
                Err(Doubt::Far { told, known })
            );
        }
        let (told, on_demand) = (0.5, 55.04);
        let doubt = Doubt::TooCheap { told, on_demand };
        assert_eq!(believed(told, None, usd(on_demand)), Err(doubt));
        assert_eq!(believed(0.26, usd(0.41), usd(0.805)).ok(), usd(0.26));
    }

    /// Spot at 0.4 and on demand at 1.0, with what is told of each.
    fn after(spot: f64, on_demand: f64) -> (Vec<f64>, usize) {
        let mut offers = sold("box.l4", 0.4);
        let mut listed = offers.offerings[0].clone();
        listed.capacity_type = CapacityType::OnDemand;
        listed.price = HourlyPrice::from_usd(1.0).unwrap();
        offers.offerings.push(listed);
        let key = |capacity_type| OfferingKey {
            instance_type: "box.l4".to_owned(),
            zone: "homea".to_owned(),
            capacity_type,
        };
        let told = [
            (key(CapacityType::Spot), spot),
            (key(CapacityType::OnDemand), on_demand),
        ];
        let doubts = refresh(&mut offers, &told.into());
        let prices = offers.offerings.iter().map(|offering| offering.price.usd());
        (prices.collect(), doubts.len())
    }

    #[test]
    fn what_is_told_goes_over_what_was_known_and_what_is_not_believed_does_not() {
        assert_eq!(after(0.3, 1.1), (vec![0.3, 1.1], 0));
        assert_eq!(after(400.0, 1.1), (vec![0.4, 1.1], 1));
        assert_eq!(after(0.3, 0.0), (vec![0.3, 1.0], 1));
    }

    #[test]
    fn spot_at_the_on_demand_price_is_no_offer() {
        assert_eq!(after(1.1, 1.1), (vec![1.1], 0));
        assert_eq!(after(1.2, 1.1), (vec![1.1], 0));
    }
}
