//! One machine type of one region: its size, its price and where it is sold.

use headstart_core::amount::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, Resources};
use headstart_core::label::{self, Labels};
use headstart_core::money::HourlyPrice;
use headstart_core::offer::{Availability, Boot, CapacityType, InstanceType, Offering, Rates};

use super::price::{Price, interruptions_per_million_h};
use super::size::Size;
use super::{Cloud, Region, boot, gcp, node};

/// What stands behind the region in the name of a zone that nobody knows.
pub(crate) const ANY_ZONE: &str = "any";

/// Bytes per second of one Mbit/s.
const MBPS: u64 = 125_000;

/// One machine type of one region.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The cloud.
    pub(crate) cloud: Cloud,
    /// The region.
    pub(crate) region: String,
    /// The type's name.
    pub(crate) name: String,
    /// What it is.
    pub(crate) size: Size,
    /// How many pods its node takes.
    pub(crate) max_pods: i64,
    /// How long its node takes to come up.
    pub(crate) boot: Boot,
    /// On-demand price.
    pub(crate) on_demand: Option<HourlyPrice>,
    /// Spot price.
    pub(crate) spot: Option<HourlyPrice>,
    /// Expected interruptions of spot in a million hours.
    pub(crate) interruptions_per_million_h: u32,
    /// Where it is sold.
    pub(crate) zones: Zoned,
}

/// Where a type is sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Zoned {
    /// In these zones.
    In(Vec<String>),
    /// In some zone of the region: planned with as a zone of its own, `<region>-any`.
    Somewhere,
}

impl Row {
    /// A row with what follows from cloud and size.
    pub(crate) fn of(region: &Region, name: &str, size: Size, price: &Price, zones: Zoned) -> Self {
        Self {
            cloud: region.cloud,
            region: region.name.clone(),
            name: name.to_owned(),
            max_pods: node::MAX_PODS,
            boot: boot(region.cloud, &size),
            size,
            on_demand: price.on_demand,
            spot: price.spot,
            interruptions_per_million_h: interruptions_per_million_h(price.bucket),
            zones,
        }
    }

    /// As the planner has it. The offerings' index is still to be set.
    pub(crate) fn offered(&self) -> (InstanceType, Vec<Offering>) {
        let size = &self.size;
        let local_nvme = size.local_nvme_gb.saturating_mul(1_000_000_000);
        let memory = i64::try_from(size.memory_mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX);
        let mut capacity = Resources::new()
            .with(CPU, size.cpu_millis)
            .with(MEMORY, memory)
            .with(PODS, self.max_pods)
            .with(EPHEMERAL_STORAGE, node::disk(local_nvme));
        if let Some(gpu) = &size.gpu {
            capacity.set(gpu.resource.clone(), i64::from(gpu.count));
        }
        let instance_type = InstanceType {
            name: self.name.clone(),
            family: size.family.clone(),
            arch: size.arch,
            overhead: node::overhead(self.cloud, &capacity),
            capacity,
            gpu: size.gpu.clone(),
            rates: Rates {
                network: size.network_mbps.saturating_mul(MBPS),
                disk: size.disk_mbps.saturating_mul(MBPS),
                inflate: 0,
            },
            local_nvme,
            boot: self.boot,
            labels: self.labels(),
        };
        let prices = [
            (CapacityType::OnDemand, self.on_demand, 0),
            (
                CapacityType::Spot,
                self.spot,
                self.interruptions_per_million_h,
            ),
        ];
        let zones = self.zone_names();
        let sold = zones.iter().flat_map(|zone| {
            prices
                .iter()
                .filter_map(|(capacity_type, price, interruptions)| {
                    Some(Offering {
                        instance_type: 0,
                        zone: zone.clone(),
                        capacity_type: *capacity_type,
                        price: (*price)?,
                        interruptions_per_million_h: *interruptions,
                        availability: Availability::Available,
                        launch_budget: None,
                    })
                })
        });
        (instance_type, sold.collect())
    }

    /// Its zones, or the one that stands for them.
    pub(crate) fn zone_names(&self) -> Vec<String> {
        match &self.zones {
            Zoned::In(zones) => zones.clone(),
            Zoned::Somewhere => vec![format!("{}-{ANY_ZONE}", self.region)],
        }
    }

    /// Labels of its nodes that do not follow from the planner's own fields.
    fn labels(&self) -> Labels {
        let mut labels = Labels::from([(label::REGION.to_owned(), self.region.clone())]);
        if let (Cloud::Gcp, Some(gpu)) = (self.cloud, gcp::accelerator_label(&self.size)) {
            labels.insert(
                "cloud.google.com/gke-accelerator".to_owned(),
                gpu.to_owned(),
            );
        }
        labels
    }
}
