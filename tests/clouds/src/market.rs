//! What is sold, as a catalog says it.

use headstart_core::amount::{self, Resources};
use headstart_core::label::Labels;
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, Gpu, InstanceType, Offering, OfferingKey, Rates,
};
use headstart_provider::Offers;

use crate::Wares;

/// What a seller without a cloud's names sells.
pub fn home() -> Wares {
    let key = |instance_type: &str, zone: &str, capacity_type| OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: zone.to_owned(),
        capacity_type,
    };
    Wares {
        spot: key("box.l4", "home-a", CapacityType::Spot),
        elsewhere: key("box.l4", "home-b", CapacityType::Spot),
        on_demand: key("box.l4", "home-a", CapacityType::OnDemand),
        other: key("crate.l4", "home-a", CapacityType::Spot),
    }
}

/// What of `wares` costs, in USD per hour: spot, the same elsewhere, on demand, the other type.
pub const PRICES: [f64; 4] = [0.4, 0.45, 1.0, 0.6];

/// A catalog of `wares` at [`PRICES`], each type with one L4.
///
/// # Panics
/// Never: what is written here can be read.
pub fn catalog(wares: &Wares) -> Offers {
    let mut offers = Offers::default();
    let keys = [
        &wares.spot,
        &wares.elsewhere,
        &wares.on_demand,
        &wares.other,
    ];
    for (key, usd) in keys.into_iter().zip(PRICES) {
        let known = offers
            .types
            .iter()
            .position(|kind| kind.name == key.instance_type);
        let instance_type = known.unwrap_or_else(|| {
            offers.types.push(kind(&key.instance_type));
            offers.types.len() - 1
        });
        offers.offerings.push(Offering {
            instance_type,
            zone: key.zone.clone(),
            capacity_type: key.capacity_type,
            price: HourlyPrice::from_usd(usd).expect("a price"),
            interruptions_per_million_h: match key.capacity_type {
                CapacityType::Spot => 100,
                CapacityType::OnDemand | CapacityType::Reserved => 0,
            },
            availability: Availability::Available,
            launch_budget: None,
        });
    }
    offers
}

fn kind(name: &str) -> InstanceType {
    let amounts = [
        ("cpu", "4"),
        ("memory", "16Gi"),
        ("pods", "58"),
        ("nvidia.com/gpu", "1"),
    ];
    let capacity = amounts
        .into_iter()
        .fold(Resources::new(), |all, (name, text)| {
            all.with(name, amount::parse(name, text).expect("an amount"))
        });
    InstanceType {
        name: name.to_owned(),
        family: name.split(['.', '-']).next().unwrap_or(name).to_owned(),
        arch: Arch::Amd64,
        capacity,
        overhead: Resources::new(),
        gpu: Some(Gpu {
            sku: "L4".to_owned(),
            count: 1,
            memory_mib: 24_576,
            resource: "nvidia.com/gpu".to_owned(),
        }),
        rates: Rates::default(),
        local_nvme: 250_000_000_000,
        boot: Boot {
            agent: Millis(20_000),
            ready: Millis(60_000),
            allocatable: Millis(90_000),
        },
        labels: Labels::new(),
    }
}
