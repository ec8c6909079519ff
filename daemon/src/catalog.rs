//! What can be bought: the machine types of one region with their prices, as the planner wants them.
//!
//! Three layers, each over the one before: tables in the binary, prices that `headstart catalog update`
//! fetched, rows of a person's own file. What is not certain is left out and counted, never guessed;
//! what is assumed is said. Nothing here reads the clock but the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use headstart_core::offer::{Boot, InstanceType, Offering};

use self::price::Prices;
use self::row::{Row, Zoned};
use self::size::{LeftOut, Size};

mod aws;
mod azure;
mod builtin;
pub(crate) mod choose;
pub(crate) mod command;
mod csv;
mod file;
mod gcp;
mod node;
mod price;
mod refreshed;
mod row;
mod size;
mod update;

/// A cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub(crate) enum Cloud {
    /// Amazon EC2, EKS.
    Aws,
    /// Google Compute Engine, GKE.
    Gcp,
    /// Azure, AKS.
    Azure,
}

impl Cloud {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Aws, Self::Gcp, Self::Azure];

    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
        }
    }

    /// The name of a zone of `region` by its letter or number.
    fn zone(self, region: &str, letter: &str) -> String {
        match self {
            _ if letter.starts_with(region) => letter.to_owned(),
            Self::Aws => format!("{region}{letter}"),
            Self::Gcp | Self::Azure => format!("{region}-{letter}"),
        }
    }

    /// Zones taken where nobody names any.
    fn default_zones(self) -> [&'static str; 3] {
        match self {
            Self::Aws | Self::Gcp => ["a", "b", "c"],
            Self::Azure => ["1", "2", "3"],
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Cloud {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|cloud| cloud.as_str() == text)
            .ok_or_else(|| format!("{text:?} is no cloud: use aws, gcp or azure"))
    }
}

/// A region of a cloud, and the zones of it that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region {
    /// The cloud.
    pub(crate) cloud: Cloud,
    /// The region's name.
    pub(crate) name: String,
    /// Letters or names of its zones; empty for the default.
    pub(crate) zones: Vec<String>,
}

impl Region {
    /// Full names of the zones that were named, or of the default ones.
    fn zone_names(&self) -> Vec<String> {
        let default = self.cloud.default_zones();
        let letters: Vec<&str> = match self.zones.as_slice() {
            [] => default.to_vec(),
            named => named.iter().map(String::as_str).collect(),
        };
        let names = letters.iter().map(|z| self.cloud.zone(&self.name, z));
        names.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// What can be bought in one region, and how that is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Market {
    /// Machine types, by name.
    pub(crate) types: Vec<InstanceType>,
    /// What of them is sold where.
    pub(crate) offerings: Vec<Offering>,
    /// Where the prices come from.
    pub(crate) basis: Vec<String>,
    /// Types that the price list names and that are not offered, by reason.
    pub(crate) left_out: BTreeMap<LeftOut, usize>,
}

/// A region that no table prices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no prices for {cloud} region {region:?}; there are some for {known}. Fetch them with `headstart \
     catalog update --cloud {cloud} --region {region}`, or give them with --catalog FILE"
)]
pub(crate) struct UnknownRegion {
    cloud: Cloud,
    region: String,
    known: String,
}

/// The built-in rows of `region`, at `refreshed` prices where there are some.
///
/// # Errors
/// When neither knows the region.
pub(crate) fn rows(
    region: &Region,
    refreshed: Option<Prices>,
) -> Result<(Vec<Row>, Market), UnknownRegion> {
    let prices = refreshed.unwrap_or_else(|| builtin::prices(region.cloud, &region.name));
    if prices.types.is_empty() {
        let regions: Vec<String> = builtin::priced_regions(region.cloud).into_iter().collect();
        let known = match regions.len() {
            0..=8 => regions.join(", "),
            count => format!("{} and {} others", regions[..8].join(", "), count - 8),
        };
        return Err(UnknownRegion {
            cloud: region.cloud,
            region: region.name.clone(),
            known,
        });
    }
    let sizes = Sizes::of(region.cloud);
    let mut market = Market {
        basis: vec![format!(
            "{} {}: {}",
            region.cloud, region.name, prices.basis
        )],
        ..Market::default()
    };
    let mut rows = Vec::new();
    for (name, price) in &prices.types {
        let found = sizes.size(name, price.size).and_then(|size| {
            if price.on_demand.is_none() && price.spot.is_none() {
                return Err(LeftOut::NoPrice);
            }
            let zoned = sizes.zones(name, region)?;
            Ok(Row::of(region, name, size, price, zoned))
        });
        match found {
            Ok(row) => rows.push(row),
            Err(reason) => *market.left_out.entry(reason).or_default() += 1,
        }
    }
    Ok((rows, market))
}

/// Sizes of one cloud's types.
#[derive(Debug)]
enum Sizes {
    Aws(BTreeMap<String, Size>),
    Gcp(BTreeMap<String, gcp::Listed>),
    Azure,
}

impl Sizes {
    fn of(cloud: Cloud) -> Self {
        match cloud {
            Cloud::Aws => Self::Aws(builtin::aws_gpu_sizes()),
            Cloud::Gcp => Self::Gcp(builtin::gcp_listed()),
            Cloud::Azure => Self::Azure,
        }
    }

    fn size(&self, name: &str, stated: Option<(u64, u64)>) -> Result<Size, LeftOut> {
        match self {
            Self::Aws(gpus) => aws::size(name, gpus, stated),
            Self::Gcp(listed) => gcp::size(name, listed.get(name)),
            Self::Azure => azure::size(name),
        }
    }

    /// Zones of `region` that sell `name`. AWS and Azure name zones per account, so the zones that
    /// were asked for are taken to sell it; of GCP it is known, except for types in no table.
    fn zones(&self, name: &str, region: &Region) -> Result<Zoned, LeftOut> {
        let Self::Gcp(listed) = self else {
            return Ok(Zoned::In(region.zone_names()));
        };
        let Some(listed) = listed.get(name) else {
            return Ok(Zoned::Somewhere);
        };
        let named = region.zone_names();
        let inside = |zone: &&String| match region.zones.is_empty() {
            true => zone
                .rsplit_once('-')
                .is_some_and(|(of, _)| of == region.name),
            false => named.contains(zone),
        };
        let zones: Vec<String> = listed.zones.iter().filter(inside).cloned().collect();
        match zones.is_empty() {
            true => Err(LeftOut::NoZone),
            false => Ok(Zoned::In(zones)),
        }
    }
}

/// The market that a catalog file alone describes; each row must say its cloud and region.
///
/// # Errors
/// Every fault of the file, a line each.
pub(crate) fn of_rows(name: &str, bytes: &[u8]) -> Result<Market, String> {
    match file::read(name, bytes, None) {
        Ok(rows) => Ok(Market::default().with(rows)),
        Err(problems) => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(lines.join("\n"))
        }
    }
}

impl Market {
    /// Types and offerings of `rows`; of several rows of one type in one region the last counts.
    pub(crate) fn with(mut self, rows: Vec<Row>) -> Self {
        let mut last: BTreeMap<(String, String), Row> = BTreeMap::new();
        for row in rows {
            last.insert((row.name.clone(), row.region.clone()), row);
        }
        for row in last.into_values() {
            let (instance_type, mut offerings) = row.offered();
            for offering in &mut offerings {
                offering.instance_type = self.types.len();
            }
            self.types.push(instance_type);
            self.offerings.append(&mut offerings);
        }
        self
    }
}

impl From<Market> for headstart_provider::Offers {
    fn from(market: Market) -> Self {
        Self {
            types: market.types,
            offerings: market.offerings,
        }
    }
}

/// Boot of a node with `gpu` on `cloud`, for rows that state none.
fn boot(cloud: Cloud, size: &Size) -> Boot {
    node::boot(cloud, size.gpu.as_ref())
}

#[cfg(test)]
mod tests;
