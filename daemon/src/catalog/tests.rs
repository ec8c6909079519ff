use expect_test::expect;
use headstart_core::amount::{CPU, MEMORY, NVIDIA_GPU};
use headstart_core::offer::CapacityType;

use super::*;

fn region(cloud: Cloud, name: &str, zones: &[&str]) -> Region {
    Region {
        cloud,
        name: name.to_owned(),
        zones: zones.iter().map(|z| (*z).to_owned()).collect(),
    }
}

fn market(cloud: Cloud, name: &str, zones: &[&str]) -> Market {
    let (rows, market) = rows(&region(cloud, name, zones), None).unwrap();
    market.with(rows)
}

fn offers<'a>(market: &'a Market, name: &str) -> (&'a InstanceType, Vec<&'a Offering>) {
    let index = market.types.iter().position(|t| t.name == name).unwrap();
    let sold = market.offerings.iter();
    (
        &market.types[index],
        sold.filter(|o| o.instance_type == index).collect(),
    )
}

#[test]
fn an_aws_gpu_type_has_its_gpu_rates_and_both_prices_in_each_zone() {
    let market = market(Cloud::Aws, "us-east-1", &["a", "us-east-1d"]);
    let (g6, sold) = offers(&market, "g6.xlarge");
    assert_eq!(g6.capacity.of(NVIDIA_GPU), 1);
    assert_eq!(
        (g6.rates.network, g6.rates.disk),
        (312_500_000, 625_000_000)
    );
    assert_eq!(g6.local_nvme, 250_000_000_000);
    let sold: Vec<String> = sold
        .iter()
        .map(|o| format!("{} {} {}", o.zone, o.capacity_type, o.price))
        .collect();
    expect![[r#"
        [
            "us-east-1a on-demand 0.80 USD/h",
            "us-east-1a spot 0.41 USD/h",
            "us-east-1d on-demand 0.80 USD/h",
            "us-east-1d spot 0.41 USD/h",
        ]
    "#]]
    .assert_debug_eq(&sold);
}

#[test]
fn a_gcp_type_is_sold_where_the_table_has_it_and_an_unlisted_one_somewhere() {
    let market = market(Cloud::Gcp, "us-central1", &[]);
    let zones = |name| {
        let (_, sold) = offers(&market, name);
        let on_demand = sold
            .iter()
            .filter(|o| o.capacity_type == CapacityType::OnDemand);
        on_demand.map(|o| o.zone.clone()).collect::<Vec<_>>()
    };
    assert_eq!(zones("a2-ultragpu-1g"), ["us-central1-a", "us-central1-c"]);
    assert_eq!(zones("a3-highgpu-8g"), ["us-central1-any"]);
    let (a3, _) = offers(&market, "a3-highgpu-8g");
    assert_eq!(
        a3.labels["cloud.google.com/gke-accelerator"],
        "nvidia-h100-80gb"
    );
}

#[test]
fn azure_is_sold_on_demand_only() {
    let market = market(Cloud::Azure, "eastus", &[]);
    let (_, sold) = offers(&market, "Standard_NC24ads_A100_v4");
    assert_eq!(sold.len(), 3);
    assert_eq!(sold[0].zone, "eastus-1");
    let spot = |o: &Offering| o.capacity_type == CapacityType::Spot;
    assert!(!market.offerings.iter().any(spot));
}

#[test]
fn every_type_leaves_something_to_pods_and_every_offering_has_a_price() {
    for (cloud, name) in [
        (Cloud::Aws, "us-east-1"),
        (Cloud::Gcp, "europe-west4"),
        (Cloud::Azure, "westeurope"),
    ] {
        let market = market(cloud, name, &[]);
        for kind in &market.types {
            let allocatable = kind.allocatable();
            assert!(allocatable.of(CPU) > 0, "{}", kind.name);
            assert!(allocatable.of(MEMORY) >= 0, "{}", kind.name);
        }
        for offering in &market.offerings {
            assert!(offering.price.0 > 0);
            assert!(offering.instance_type < market.types.len());
        }
    }
}

#[test]
fn a_region_without_prices_says_which_there_are_and_what_to_do() {
    let error = rows(&region(Cloud::Aws, "eu-west-1", &[]), None).unwrap_err();
    expect![[r#"no prices for aws region "eu-west-1"; there are some for us-east-1. Fetch them with `headstart catalog update --cloud aws --region eu-west-1`, or give them with --catalog FILE"#]]
    .assert_eq(&error.to_string());
}

#[test]
fn what_is_left_out_is_counted_by_reason() {
    let counts = |cloud, name| {
        let market = market(cloud, name, &[]);
        let reasons = market.left_out.iter();
        let mut lines: Vec<String> = reasons.map(|(why, n)| format!("{n} {why}")).collect();
        lines.insert(0, format!("{cloud} {name}: {} types", market.types.len()));
        lines
    };
    expect![[r#"
        [
            [
                "aws us-east-1: 535 types",
                "401 vCPU and memory in no table here",
                "284 size of the local disk in no table here",
                "142 bare metal: boot time unknown",
                "5 a share of a GPU",
            ],
            [
                "gcp us-central1: 181 types",
                "327 vCPU and memory in no table here",
                "3 a share of a GPU",
                "5 a share of a core",
            ],
            [
                "azure eastus: 176 types",
                "1090 vCPU and memory in no table here",
                "411 size of the local disk in no table here",
                "11 a share of a GPU",
                "17 retired by the cloud",
            ],
        ]
    "#]]
    .assert_debug_eq(&[
        counts(Cloud::Aws, "us-east-1"),
        counts(Cloud::Gcp, "us-central1"),
        counts(Cloud::Azure, "eastus"),
    ]);
}
