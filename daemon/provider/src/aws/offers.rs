//! What is sold: the catalog, cut down to what the region's zones have and the cluster has subnets in,
//! at AWS's own prices where it says them.
//!
//! A question that fails leaves what the catalog says, and is said.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use headstart_clouds::call::CallError;
use headstart_core::offer::{CapacityType, OfferingKey};

use super::Aws;
use crate::{Offers, price};

/// Most types in one question; EC2 takes 200 values of a filter.
const MOST_TYPES: usize = 100;

/// Most types in one question about list prices.
const MOST_PRICED: usize = 20;

impl Aws {
    pub(super) async fn sold(&self) -> Offers {
        let mut offers = self.catalog.clone();
        match self.zones().await {
            Ok(zones) => offers.offerings.retain(|offering| {
                let kind = offers.types.get(offering.instance_type);
                let place = kind.map(|kind| (kind.name.clone(), offering.zone.clone()));
                place.is_some_and(|place| zones.contains(&place))
            }),
            Err(error) => {
                tracing::warn!(%error, "which zones have which types cannot be asked");
            }
        }
        match self.home.subnets(&self.ec2, &self.config.nodes).await {
            Ok(subnets) => offers.offerings.retain(|offering| {
                let zones = subnets.iter().map(|one| &one.availability_zone);
                zones.into_iter().any(|zone| *zone == offering.zone)
            }),
            Err(error) => tracing::warn!(%error, "subnets cannot be listed"),
        }
        let mut told = BTreeMap::new();
        if let Err(error) = self.list_prices(&offers, &mut told).await {
            tracing::warn!(%error, "on-demand prices cannot be asked; the catalog's are used");
        }
        if let Err(error) = self.spot_prices(&mut told).await {
            tracing::warn!(%error, "spot prices cannot be asked; the catalog's are used");
        }
        for (key, doubt) in price::refresh(&mut offers, &told) {
            tracing::warn!(offering = %key, %doubt, "a price is not believed");
        }
        offers
    }

    fn types(&self) -> Vec<&str> {
        let types = self.catalog.types.iter();
        types.map(|kind| &*kind.name).collect()
    }

    /// Types by zone.
    async fn zones(&self) -> Result<BTreeSet<(String, String)>, CallError> {
        let mut zones = BTreeSet::new();
        for types in self.types().chunks(MOST_TYPES) {
            let found = self.ec2.describe_instance_type_offerings(types).await?;
            let found = found.into_iter();
            zones.extend(found.map(|one| (one.instance_type, one.location)));
        }
        Ok(zones)
    }

    async fn list_prices(
        &self,
        offers: &Offers,
        told: &mut BTreeMap<OfferingKey, f64>,
    ) -> Result<(), CallError> {
        for types in self.types().chunks(MOST_PRICED) {
            let prices = self.pricing.on_demand(&self.config.region, types).await?;
            for (instance_type, usd) in prices {
                let kinds = &offers.types;
                let of_type = offers.offerings.iter().filter(|offering| {
                    let kind = kinds.get(offering.instance_type);
                    kind.is_some_and(|kind| kind.name == instance_type)
                });
                told.extend(of_type.map(|offering| {
                    let key = OfferingKey {
                        instance_type: instance_type.clone(),
                        zone: offering.zone.clone(),
                        capacity_type: CapacityType::OnDemand,
                    };
                    (key, usd)
                }));
            }
        }
        Ok(())
    }

    pub(super) async fn spot_prices(
        &self,
        told: &mut BTreeMap<OfferingKey, f64>,
    ) -> Result<(), CallError> {
        for types in self.types().chunks(MOST_TYPES) {
            let prices = self.ec2.describe_spot_prices(types, SystemTime::now());
            told.extend(prices.await?.into_iter().map(|price| {
                let key = OfferingKey {
                    instance_type: price.instance_type,
                    zone: price.availability_zone,
                    capacity_type: CapacityType::Spot,
                };
                (key, price.usd_per_hour)
            }));
        }
        Ok(())
    }
}
