//! From a file to a purchase: what is read is what the planner needs.

use std::collections::BTreeMap;

use headstart_core::amount::Resources;
use headstart_core::label::Labels;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, Gpu, InstanceType, Offering, Rates,
};
use headstart_core::snapshot::Policy;
use headstart_core::solve;

use super::*;

/// Name, cores, GiB, GPUs, their model, USD per hour.
const TYPES: [(&str, i64, i64, u32, &str, f64); 4] = [
    ("m5.xlarge", 4, 16, 0, "", 0.19),
    ("g6.4xlarge", 16, 64, 1, "L4", 1.3),
    ("g6e.4xlarge", 16, 128, 1, "L40S", 3.0),
    ("p5.48xlarge", 192, 2048, 8, "H100", 55.0),
];

/// Sells every type in two zones, spot at half the price.
pub(super) fn with_offers(mut snapshot: Snapshot) -> Snapshot {
    for (index, (name, cores, gib, count, sku, usd)) in TYPES.into_iter().enumerate() {
        let gpu = (count > 0).then(|| Gpu {
            sku: sku.to_owned(),
            count,
            memory_mib: 24_000,
            resource: amount::NVIDIA_GPU.to_owned(),
        });
        let capacity = Resources::new()
            .with(amount::CPU, cores * 1000)
            .with(amount::MEMORY, gib << 30)
            .with(amount::PODS, 50)
            .with(amount::EPHEMERAL_STORAGE, 2 << 40)
            .with(amount::NVIDIA_GPU, i64::from(count));
        snapshot.types.push(InstanceType {
            name: name.to_owned(),
            family: name.split('.').next().unwrap_or_default().to_owned(),
            arch: Arch::Amd64,
            capacity,
            overhead: Resources::new(),
            gpu,
            rates: Rates::default(),
            local_nvme: 0,
            boot: Boot::default(),
            labels: Labels::new(),
        });
        for zone in ["us-east-1a", "us-east-1b"] {
            for (capacity_type, share) in [(CapacityType::Spot, 0.5), (CapacityType::OnDemand, 1.0)]
            {
                snapshot.offerings.push(Offering {
                    instance_type: index,
                    zone: zone.to_owned(),
                    capacity_type,
                    price: HourlyPrice::from_usd(usd * share).unwrap(),
                    interruptions_per_million_h: 0,
                    availability: Availability::Available,
                    launch_budget: None,
                });
            }
        }
    }
    snapshot
}

/// What is bought for a manifest, with the pods on each node.
fn bought(manifest: &str) -> Vec<(String, Vec<String>)> {
    let pool = "\n---\napiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: any}\nspec: {}\n";
    let snapshot = with_offers(snapshot(&(manifest.to_owned() + pool)));
    let plan = solve::plan(&snapshot, &Policy::default());
    assert_eq!(plan.unserved, []);
    let nodes = plan.nodes.iter().map(|node| {
        let pods = node.pods.iter().map(|pod| pod.name.clone()).collect();
        (node.offering.to_string(), pods)
    });
    nodes.collect()
}

#[test]
fn a_ray_service_gets_one_node_with_one_of_the_gpus_that_its_worker_asks_for() {
    let nodes = bought(RAY_SERVICE);
    let (offering, pods) = &nodes[0];
    assert_eq!((nodes.len(), pods.len()), (1, 2));
    assert!(offering.starts_with("g6.4xlarge spot"), "{offering}");
}

#[test]
fn replicas_of_vllm_get_a_gpu_each_below_their_price_cap_and_on_spot() {
    let nodes = bought(DEPLOYMENT);
    assert_eq!(nodes.len(), 2);
    for (offering, _) in nodes {
        assert!(offering.starts_with("g6e.4xlarge spot"), "{offering}");
    }
}

#[test]
fn groups_of_a_leader_worker_set_get_a_zone_each() {
    let mut zones: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (offering, pods) in bought(LWS) {
        assert!(offering.starts_with("p5.48xlarge"), "{offering}");
        zones.entry(offering).or_default().extend(pods);
    }
    let mut groups: Vec<Vec<String>> = zones.into_values().collect();
    groups.iter_mut().for_each(|pods| pods.sort());
    groups.sort();
    assert_eq!(groups, [["big-0", "big-0-1"], ["big-1", "big-1-1"]]);
}

#[test]
fn pods_of_a_stateful_set_are_bought_for_where_the_first_disk_is() {
    let nodes = bought(STATEFUL_SET);
    let holds = |(_, pods): &&(String, Vec<String>)| pods.contains(&"store-0".to_owned());
    let first = nodes.iter().find(holds).unwrap();
    assert!(first.0.ends_with("in us-east-1b"), "{}", first.0);
}
