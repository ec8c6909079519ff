//! The tables that are part of the binary, and where each came from.
//!
//! They are packed by `cargo xtask generate catalog` and never changed by hand; `daemon/catalog/NOTE.md`
//! is their note of origin, of which [`TABLES`] is the part that a person is shown.

use std::collections::{BTreeMap, BTreeSet};

use super::aws::gpu_size;
use super::csv::{self, Record};
use super::gcp::Listed;
use super::price::{Bucket, Price, Prices, spot_price, usd};
use super::size::{LeftOut, Size};
use super::{Cloud, Sizes};

/// One packed table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The cloud it is about.
    pub(crate) cloud: Cloud,
    /// What its rows hold.
    pub(crate) holds: &'static str,
    /// Where it was taken from, and at which commit.
    pub(crate) source: &'static str,
    /// Licence of that source.
    pub(crate) licence: &'static str,
    /// The day of its data.
    pub(crate) dated: &'static str,
    separator: u8,
    packed: &'static [u8],
}

macro_rules! packed {
    ($name:literal) => {
        include_bytes!(concat!("../../catalog/", $name, ".csv.zst"))
    };
}

const AWS_PRICES: Table = Table {
    cloud: Cloud::Aws,
    holds: "on-demand prices, us-east-1 only",
    source: "aws/karpenter-provider-aws 1d927085dd81, zz_generated.pricing_aws.go",
    licence: "Apache-2.0",
    dated: "2026-07-20",
    separator: b',',
    packed: packed!("aws_ondemand_us-east-1"),
};

const AWS_GPUS: Table = Table {
    cloud: Cloud::Aws,
    holds: "GPU types: sizes, NIC and EBS baselines",
    source: "aws/karpenter-provider-aws 1d927085dd81, instance-types.md",
    licence: "Apache-2.0",
    dated: "2026-07-20",
    separator: b',',
    packed: packed!("aws_gpu_types"),
};

const AWS_SPOT: Table = Table {
    cloud: Cloud::Aws,
    holds: "spot saving and interruption bucket",
    source: "alexei-led/spotinfo 05e933139449, spot-advisor-data.json (AWS Spot Advisor)",
    licence: "Apache-2.0",
    dated: "2025-06-28",
    separator: b',',
    packed: packed!("aws_spot_advisor"),
};

const GCP_PRICES: Table = Table {
    cloud: Cloud::Gcp,
    holds: "on-demand and spot list prices",
    source: "cloudpilot-ai/karpenter-provider-gcp 417f047b1175, initial-prices.json",
    licence: "Apache-2.0",
    dated: "2026-08-03",
    separator: b',',
    packed: packed!("gcp_prices"),
};

const GCP_ZONES: Table = Table {
    cloud: Cloud::Gcp,
    holds: "machine types by zone: vCPU and memory",
    source: "Cyclenerd/google-cloud-pricing-cost-calculator dac31281f2a4, machinetypezone.csv",
    licence: "Apache-2.0",
    dated: "2026-08-20",
    separator: b';',
    packed: packed!("gcp_machine_type_zones"),
};

const AZURE_PRICES: Table = Table {
    cloud: Cloud::Azure,
    holds: "on-demand prices; no spot prices",
    source: "Azure/karpenter-provider-azure 352646f59928, zz_generated.pricing.go",
    licence: "Apache-2.0",
    dated: "2026-06-18",
    separator: b',',
    packed: packed!("azure_ondemand"),
};

/// All of them.
pub(crate) const TABLES: [&Table; 6] = [
    &AWS_PRICES,
    &AWS_SPOT,
    &AWS_GPUS,
    &GCP_PRICES,
    &GCP_ZONES,
    &AZURE_PRICES,
];

/// Room for the largest table unpacked.
const MAX_UNPACKED: usize = 8 << 20;

impl Table {
    /// Its rows without the header.
    pub(crate) fn rows(&self) -> Vec<Record> {
        let table = zstd::bulk::decompress(self.packed, MAX_UNPACKED)
            .expect("a packed table is part of the binary and a test unpacks each");
        let mut rows = csv::records(self.separator, &table)
            .expect("a packed table is part of the binary and a test reads each");
        rows.remove(0);
        rows
    }
}

/// A field that may be absent.
fn field(record: &Record, index: usize) -> &str {
    record.fields.get(index).map_or("", String::as_str)
}

fn number(record: &Record, index: usize) -> u64 {
    field(record, index).parse().unwrap_or(0)
}

/// Sizes of AWS's GPU types. GPU memory is `gpu_memory_mib` each.
pub(crate) fn aws_gpu_sizes() -> BTreeMap<String, Size> {
    let rows = AWS_GPUS.rows();
    let sizes = rows.iter().map(|row| {
        let name = field(row, 0).to_owned();
        let count = u32::try_from(number(row, 2)).unwrap_or(0);
        let gpu = (field(row, 1), count, number(row, 3));
        let machine = (number(row, 4), number(row, 5));
        let size = gpu_size(
            &name,
            gpu,
            machine,
            number(row, 6),
            number(row, 7),
            number(row, 8),
        );
        (name, size)
    });
    sizes.collect()
}

/// What GCP's table of zones says of each machine type.
pub(crate) fn gcp_listed() -> BTreeMap<String, Listed> {
    let mut listed: BTreeMap<String, Listed> = BTreeMap::new();
    for row in GCP_ZONES.rows() {
        let gib: f64 = field(&row, 3).parse().unwrap_or(0.0);
        let entry = listed.entry(field(&row, 0).to_owned()).or_default();
        entry.vcpus = number(&row, 1);
        entry.memory_mib = (gib * 1024.0) as u64;
        entry.offered = match (field(&row, 2), field(&row, 4)) {
            ("True", _) => Some(LeftOut::SharedCore),
            (_, "") if entry.memory_mib > 0 => None,
            (_, "") => Some(LeftOut::NoSize),
            _ => Some(LeftOut::Retired),
        };
        entry.zones.push(field(&row, 5).to_owned());
    }
    for entry in listed.values_mut() {
        entry.zones.sort_unstable();
        entry.zones.dedup();
    }
    listed
}

/// Regions that the cloud's tables name, with or without prices.
pub(crate) fn region_names(cloud: Cloud) -> BTreeSet<String> {
    let mut names = priced_regions(cloud);
    if cloud == Cloud::Aws {
        names.extend(AWS_SPOT.rows().iter().map(|row| field(row, 0).to_owned()));
    }
    names
}

/// Regions that the cloud's price table has.
pub(crate) fn priced_regions(cloud: Cloud) -> BTreeSet<String> {
    let rows = prices_of(cloud).rows();
    rows.iter().map(|row| field(row, 0).to_owned()).collect()
}

/// How many types that the cloud prices in any region are offered, and how many are not, by reason.
pub(crate) fn coverage(cloud: Cloud) -> (usize, BTreeMap<LeftOut, usize>) {
    let rows = prices_of(cloud).rows();
    let names: BTreeSet<&str> = rows.iter().map(|row| field(row, 1)).collect();
    let sizes = Sizes::of(cloud);
    let (mut offered, mut left_out) = (0, BTreeMap::new());
    for name in names {
        match sizes.size(name, None) {
            Ok(_) => offered += 1,
            Err(reason) => *left_out.entry(reason).or_default() += 1,
        }
    }
    (offered, left_out)
}

/// Prices of one region; empty when the tables have none.
pub(crate) fn prices(cloud: Cloud, region: &str) -> Prices {
    let mut prices = Prices {
        basis: format!("built-in tables of {}", prices_of(cloud).dated),
        types: BTreeMap::new(),
    };
    for row in prices_of(cloud).rows() {
        if field(&row, 0) != region {
            continue;
        }
        let price = Price {
            on_demand: usd(field(&row, 2)),
            spot: usd(field(&row, 3)),
            ..Price::default()
        };
        prices.types.insert(field(&row, 1).to_owned(), price);
    }
    if cloud == Cloud::Aws && !prices.types.is_empty() {
        prices.basis += &format!(", spot savings of {}", AWS_SPOT.dated);
        for (name, (saving, class)) in savings(region) {
            if let Some(price) = prices.types.get_mut(&name) {
                price.spot = price.on_demand.and_then(|p| spot_price(p, saving));
                price.bucket = Bucket::of(class);
            }
        }
    }
    prices
}

/// AWS's spot savings in per cent and classes of interruption in `region`.
pub(crate) fn savings(region: &str) -> BTreeMap<String, (i32, u8)> {
    let rows = AWS_SPOT.rows();
    let rows = rows.iter().filter(|row| field(row, 0) == region);
    let savings = rows.filter_map(|row| {
        let advice = (field(row, 2).parse().ok()?, field(row, 3).parse().ok()?);
        Some((field(row, 1).to_owned(), advice))
    });
    savings.collect()
}

fn prices_of(cloud: Cloud) -> &'static Table {
    match cloud {
        Cloud::Aws => &AWS_PRICES,
        Cloud::Gcp => &GCP_PRICES,
        Cloud::Azure => &AZURE_PRICES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packed_table_unpacks_to_the_rows_its_note_counts() {
        let rows: Vec<usize> = TABLES.iter().map(|table| table.rows().len()).collect();
        assert_eq!(rows, [1367, 14_962, 70, 12_721, 13_374, 67_327]);
    }

    #[test]
    fn spot_is_on_demand_less_the_advisors_saving() {
        let prices = prices(Cloud::Aws, "us-east-1");
        let g6 = &prices.types["g6.xlarge"];
        assert_eq!(g6.on_demand.map(|p| p.0), Some(804_800));
        assert_eq!(g6.spot.map(|p| p.0), Some(410_448));
    }

    #[test]
    fn azure_has_no_spot_price() {
        let prices = prices(Cloud::Azure, "eastus");
        assert!(prices.types.len() > 500);
        assert!(prices.types.values().all(|price| price.spot.is_none()));
    }

    #[test]
    fn gcp_lists_zones_memory_and_shared_cores() {
        let listed = gcp_listed();
        let g2 = &listed["g2-standard-4"];
        assert_eq!((g2.vcpus, g2.memory_mib, g2.offered), (4, 16 << 10, None));
        assert!(g2.zones.iter().any(|zone| zone == "us-central1-a"));
        assert_eq!(listed["e2-small"].offered, Some(LeftOut::SharedCore));
    }
}
