//! A market of one type, for tests.

use headstart_core::amount::{self, Resources};
use headstart_core::label::Labels;
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, Gpu, InstanceType, Offering, Rates,
};

use crate::Offers;

/// `name` with two GPUs, spot in one zone for `usd` an hour. Its agent begins after 10 s, it is Ready
/// after 30 s and has its GPUs after 90 s.
pub(crate) fn sold(name: &str, usd: f64) -> Offers {
    let capacity = [
        ("cpu", "8"),
        ("memory", "32Gi"),
        ("pods", "110"),
        ("nvidia.com/gpu", "2"),
    ];
    let capacity = capacity
        .into_iter()
        .fold(Resources::new(), |all, (name, text)| {
            all.with(name, amount::parse(name, text).unwrap())
        });
    let kind = InstanceType {
        name: name.to_owned(),
        family: "box".to_owned(),
        arch: Arch::Amd64,
        capacity,
        overhead: Resources::new(),
        gpu: Some(Gpu {
            sku: "L4".to_owned(),
            count: 2,
            memory_mib: 24_576,
            resource: "nvidia.com/gpu".to_owned(),
        }),
        rates: Rates::default(),
        local_nvme: 0,
        boot: Boot {
            agent: Millis(10_000),
            ready: Millis(30_000),
            allocatable: Millis(90_000),
        },
        labels: Labels::new(),
    };
    let offering = Offering {
        instance_type: 0,
        zone: "homea".to_owned(),
        capacity_type: CapacityType::Spot,
        price: HourlyPrice::from_usd(usd).unwrap(),
        interruptions_per_million_h: 0,
        availability: Availability::Available,
        launch_budget: None,
    };
    Offers {
        types: vec![kind],
        offerings: vec![offering],
    }
}
