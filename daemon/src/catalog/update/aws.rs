//! AWS's public lists: the bulk price list of one region (CSV, hundreds of megabytes, read as it
//! arrives) and the Spot Advisor's document (JSON).
//!
//! Source: AWS Price List, bulk API: five lines of metadata, a header that begins with `SKU`, one row
//! per price. A row counts when it is the on-demand hour of a Linux machine of shared tenancy without
//! software, in use.

use std::collections::BTreeMap;

use headstart_core::money::HourlyPrice;
use serde::Deserialize;

use super::Listed;
use crate::catalog::csv::{Record, Records};
use crate::catalog::price::Price;

/// Columns that decide whether a row counts, and the value that counts. The last one is newer than
/// the others and may be missing.
const FILTER: [(&str, &str); 9] = [
    ("TermType", "OnDemand"),
    ("Unit", "Hrs"),
    ("Currency", "USD"),
    ("Tenancy", "Shared"),
    ("Operating System", "Linux"),
    ("CapacityStatus", "Used"),
    ("Pre Installed S/W", "NA"),
    ("Region Code", ""),
    ("MarketOption", "OnDemand"),
];

/// A price list as it arrives.
pub(super) struct PriceList {
    region: String,
    records: Records,
    columns: Option<Columns>,
    listed: Listed,
}

/// Where the columns are.
struct Columns {
    width: usize,
    instance_type: usize,
    price: usize,
    vcpu: Option<usize>,
    memory: Option<usize>,
    filter: Vec<(usize, &'static str)>,
    region: Option<usize>,
}

impl PriceList {
    /// The list of `region`.
    pub(super) fn new(region: &str) -> Self {
        Self {
            region: region.to_owned(),
            records: Records::new(b','),
            columns: None,
            listed: Listed::default(),
        }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), String> {
        for record in self.records.feed(bytes).map_err(|e| e.to_string())? {
            self.record(&record)?;
        }
        Ok(())
    }

    /// What it said.
    pub(super) fn finish(mut self) -> Result<Listed, String> {
        let records = std::mem::replace(&mut self.records, Records::new(b','));
        if let Some(last) = records.finish().map_err(|e| e.to_string())? {
            self.record(&last)?;
        }
        match self.columns {
            Some(_) => Ok(self.listed),
            None => Err("has no header that begins with SKU: this is no price list".to_owned()),
        }
    }

    fn record(&mut self, record: &Record) -> Result<(), String> {
        let Some(columns) = &self.columns else {
            if record.fields.first().is_some_and(|first| first == "SKU") {
                self.columns = Some(Columns::find(&record.fields)?);
            } else if record.line > 100 {
                return Err("has no header that begins with SKU in its first lines".to_owned());
            }
            return Ok(());
        };
        if record.fields.len() != columns.width {
            return Err(format!(
                "line {}: {} fields where the header has {}: the list is cut short",
                record.line,
                record.fields.len(),
                columns.width
            ));
        }
        let field = |index: usize| record.fields[index].as_str();
        let elsewhere = columns
            .region
            .is_some_and(|region| field(region) != self.region);
        if elsewhere
            || columns
                .filter
                .iter()
                .any(|(index, value)| field(*index) != *value)
        {
            return Ok(());
        }
        let name = field(columns.instance_type);
        if name.is_empty() || !name.contains('.') {
            return Ok(());
        }
        let text = field(columns.price);
        let price = match text.parse::<f64>().map(HourlyPrice::from_usd) {
            Ok(Ok(HourlyPrice(0))) => {
                self.listed.free += 1;
                return Ok(());
            }
            Ok(Ok(price)) => price,
            _ => {
                let shown: String = text.chars().take(40).collect();
                self.listed
                    .absurd
                    .push(format!("{name} at {shown:?} USD/h"));
                return Ok(());
            }
        };
        let vcpu = columns.vcpu.and_then(|index| field(index).parse().ok());
        let memory = columns.memory.and_then(|index| mebibytes(field(index)));
        let row = self.listed.types.entry(name.to_owned()).or_insert(Price {
            size: vcpu.zip(memory),
            ..Price::default()
        });
        // Two prices of one type: the dearer one, so that no plan promises too much.
        row.on_demand = row.on_demand.max(Some(price));
        Ok(())
    }
}

impl Columns {
    fn find(header: &[String]) -> Result<Self, String> {
        let find = |name: &str| header.iter().position(|column| column == name);
        let need = |name: &str| find(name).ok_or_else(|| format!("has no column {name:?}"));
        let mut filter = Vec::new();
        for (name, value) in FILTER {
            match (find(name), name) {
                (Some(_), "Region Code") | (None, "Region Code" | "MarketOption") => {}
                (Some(index), _) => filter.push((index, value)),
                (None, _) => return Err(format!("has no column {name:?}")),
            }
        }
        Ok(Self {
            width: header.len(),
            instance_type: need("Instance Type")?,
            price: need("PricePerUnit")?,
            vcpu: find("vCPU"),
            memory: find("Memory"),
            filter,
            region: find("Region Code"),
        })
    }
}

/// `1,952 GiB` in MiB.
fn mebibytes(text: &str) -> Option<u64> {
    let number = text.strip_suffix(" GiB")?.replace(',', "");
    let gib: f64 = number.parse().ok()?;
    (0.0..1e6).contains(&gib).then_some((gib * 1024.0) as u64)
}

#[derive(Deserialize)]
struct Advisor {
    spot_advisor: BTreeMap<String, BTreeMap<String, BTreeMap<String, Advice>>>,
}

#[derive(Deserialize)]
struct Advice {
    /// Saving against on-demand, per cent.
    s: i32,
    /// Class of interruption.
    r: u8,
}

/// Savings in per cent and classes of interruption of Linux machines in `region`.
pub(super) fn savings(
    document: &[u8],
    region: &str,
) -> Result<BTreeMap<String, (i32, u8)>, String> {
    let advisor: Advisor = serde_json::from_slice(document)
        .map_err(|error| format!("is not the Spot Advisor's document: {error}"))?;
    let linux = advisor
        .spot_advisor
        .get(region)
        .and_then(|r| r.get("Linux"));
    let linux = linux.ok_or_else(|| format!("says nothing of Linux in {region}"))?;
    let savings = linux.iter().map(|(name, a)| (name.clone(), (a.s, a.r)));
    Ok(savings.collect())
}
