//! What is sold: the catalog's sizes, cut down to what the subscription may have in the region, at the
//! prices of the Retail Prices API. Spot prices are in no catalog: an offering of spot is there when
//! the API has a price for it that is believed.

use std::collections::BTreeMap;

use headstart_clouds::azure::compute::ResourceSku;
use headstart_clouds::azure::prices::Price;
use headstart_core::offer::{CapacityType, Offering, OfferingKey};
use headstart_transfer::chain;
use tracing::warn;

use super::Azure;
use crate::{Offers, Refusal, price};

/// Interruptions of spot per million hours: a quarter of all machines in a month. Azure tells its
/// eviction rates in no price list, so it is the same for all sizes.
const INTERRUPTIONS: u32 = 394;

impl Azure {
    pub(super) async fn sold(&self) -> Result<Offers, Refusal> {
        let mut offers = self.catalog.clone();
        match self.compute.resource_skus(&self.config.location).await {
            Ok(skus) => self.cut(&mut offers, &skus),
            Err(error) => warn!(error = chain(&error), "what the region sells is not known"),
        }
        let mut sizes: Vec<&str> = offers
            .offerings
            .iter()
            .filter_map(|it| offers.types.get(it.instance_type))
            .map(|kind| kind.name.as_str())
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        let told = self
            .retail
            .virtual_machines(&self.config.location, &sizes)
            .await;
        match told {
            Ok(told) => put(&mut offers, &told),
            Err(error) => warn!(error = chain(&error), "prices are the catalog's"),
        }
        Ok(offers)
    }

    /// Takes out what cannot be had. A list that knows none of the sizes is not believed.
    fn cut(&self, offers: &mut Offers, skus: &[ResourceSku]) {
        let location = &self.config.location;
        let by_name: BTreeMap<String, &ResourceSku> = skus
            .iter()
            .map(|sku| (sku.name.to_lowercase(), sku))
            .collect();
        let known = |name: &str| by_name.get(&name.to_lowercase()).copied();
        if !offers.types.iter().any(|kind| known(&kind.name).is_some()) {
            return warn!(
                listed = skus.len(),
                "the region's list knows no size of the catalog"
            );
        }
        let types = &offers.types;
        offers.offerings.retain(|offering| {
            let sku = types.get(offering.instance_type);
            let Some(sku) = sku.and_then(|kind| known(&kind.name)) else {
                return false;
            };
            let Some(zones) = sku.zones(location) else {
                return false;
            };
            let zone = offering.zone.strip_prefix(location.as_str());
            let zone = zone.and_then(|rest| rest.strip_prefix('-'));
            let there = zone.is_none_or(|zone| zones.contains(&zone));
            there && (offering.capacity_type != CapacityType::Spot || sku.is_spot_capable())
        });
    }
}

/// Puts what was told over the catalog's prices.
fn put(offers: &mut Offers, told: &BTreeMap<String, Price>) {
    add_spot(offers, told);
    let mut prices = BTreeMap::new();
    for offering in &offers.offerings {
        let Some(kind) = offers.types.get(offering.instance_type) else {
            continue;
        };
        let row = told.get(&kind.name).copied().unwrap_or_default();
        let usd = match offering.capacity_type {
            CapacityType::Spot => row.spot,
            CapacityType::OnDemand => row.on_demand,
            CapacityType::Reserved => None,
        };
        let key = OfferingKey {
            instance_type: kind.name.clone(),
            zone: offering.zone.clone(),
            capacity_type: offering.capacity_type,
        };
        prices.extend(usd.map(|usd| (key, usd)));
    }
    for (offering, doubt) in price::refresh(offers, &prices) {
        warn!(%offering, %doubt, "a price is not believed");
    }
}

/// Offerings of spot for those on demand that a believable spot price was told of.
fn add_spot(offers: &mut Offers, told: &BTreeMap<String, Price>) {
    let is_spot = |of: &Offering, it: &Offering| {
        (it.instance_type, &it.zone) == (of.instance_type, &of.zone)
            && it.capacity_type == CapacityType::Spot
    };
    let mut added = Vec::new();
    for offering in &offers.offerings {
        let lacks = offering.capacity_type == CapacityType::OnDemand
            && !offers.offerings.iter().any(|it| is_spot(offering, it));
        let kind = offers.types.get(offering.instance_type).filter(|_| lacks);
        let Some(usd) = kind.and_then(|kind| told.get(&kind.name)?.spot) else {
            continue;
        };
        if let Ok(price) = price::believed(usd, None, Some(offering.price)) {
            added.push(Offering {
                capacity_type: CapacityType::Spot,
                price,
                interruptions_per_million_h: INTERRUPTIONS,
                ..offering.clone()
            });
        }
    }
    offers.offerings.append(&mut added);
}
