//! A person's own catalog: CSV or YAML rows that replace built-in types or add to them.
//!
//! Columns (CSV) or keys (YAML, under `types:`), those marked * required:
//!
//! | column | meaning |
//! | --- | --- |
//! | `cloud`, `region` | whose type it is; those of the command line where absent |
//! | `type` * | the type's name |
//! | `family` | its family; the name up to the first `.` or `-` where absent |
//! | `arch` | `amd64` (where absent) or `arm64` |
//! | `vcpu` * | vCPUs, a decimal number |
//! | `memory_mib` * | memory in MiB |
//! | `gpu_sku`, `gpu_count`, `gpu_memory_mib` | GPU model, how many, memory of one; all three or none |
//! | `gpu_resource` | extended resource of the GPUs, `nvidia.com/gpu` where absent |
//! | `network_mbps` | baseline of the network interface |
//! | `disk_mbps` | writing to the disk that bytes go to |
//! | `local_nvme_gb` | local NVMe |
//! | `max_pods` | pods on a node, 110 where absent |
//! | `on_demand`, `spot` | USD per hour; at least one |
//! | `interruptions_per_million_h` | of spot; 394, a quarter of them in a month, where absent |
//! | `zones` | letters or names with blanks between (a list in YAML); those of the command line where absent |
//! | `agent_s`, `ready_s`, `allocatable_s` | boot times in seconds; all three, or the cloud's priors |
//!
//! Every fault of a file is found, not the first only.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::offer::{Arch, Boot, Gpu};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};

use super::csv;
use super::price::{Price, interruptions_per_million_h};
use super::row::{Row, Zoned};
use super::size::Size;
use super::{Cloud, Region};

/// Largest catalog file read, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// Most problems shown of one file.
const MAX_PROBLEMS: usize = 100;

/// All columns.
const COLUMNS: [&str; 20] = [
    "cloud",
    "region",
    "type",
    "family",
    "arch",
    "vcpu",
    "memory_mib",
    "gpu_sku",
    "gpu_count",
    "gpu_memory_mib",
    "gpu_resource",
    "network_mbps",
    "disk_mbps",
    "local_nvme_gb",
    "max_pods",
    "on_demand",
    "spot",
    "interruptions_per_million_h",
    "zones",
    "agent_s",
];

/// The rest of them: `COLUMNS` and these.
const BOOT_COLUMNS: [&str; 2] = ["ready_s", "allocatable_s"];

/// One fault of a catalog file, on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    file: String,
    line: usize,
    field: String,
    text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// One row, still text, and the line it is on.
struct Raw {
    line: usize,
    fields: BTreeMap<String, String>,
}

/// The rows of a file. YAML by its name (`.yaml`, `.yml`), else CSV. `place` is what the command line
/// says, for rows that do not.
///
/// # Errors
/// Every fault found, up to a hundred.
pub(crate) fn read(
    name: &str,
    bytes: &[u8],
    place: Option<&Region>,
) -> Result<Vec<Row>, Vec<Problem>> {
    let mut problems = Vec::new();
    let raw = match raw_rows(name, bytes) {
        Ok(raw) => raw,
        Err(problem) => return Err(vec![problem]),
    };
    let mut rows = Vec::new();
    let mut seen: BTreeMap<(Cloud, String, String), usize> = BTreeMap::new();
    for raw in &raw {
        let mut reader = Reader {
            file: name,
            raw,
            problems: Vec::new(),
        };
        let row = reader.row(place);
        problems.append(&mut reader.problems);
        let Some(row) = row else { continue };
        let key = (row.cloud, row.region.clone(), row.name.clone());
        if let Some(first) = seen.insert(key, raw.line) {
            problems.push(Problem {
                file: name.to_owned(),
                line: raw.line,
                field: "type".to_owned(),
                text: format!("{} is on line {first} already; remove one", row.name),
            });
        }
        rows.push(row);
    }
    if problems.is_empty() {
        Ok(rows)
    } else {
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        if more > 0 {
            problems.push(Problem {
                file: name.to_owned(),
                line: 0,
                field: String::new(),
                text: format!("and {more} more problems"),
            });
        }
        Err(problems)
    }
}

fn raw_rows(name: &str, bytes: &[u8]) -> Result<Vec<Raw>, Problem> {
    let whole = |line, text: String| Problem {
        file: name.to_owned(),
        line,
        field: String::new(),
        text,
    };
    if bytes.len() > MAX_BYTES {
        let most = MAX_BYTES >> 20;
        return Err(whole(0, format!("is larger than {most} MiB; split it")));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        whole(
            0,
            format!("is not UTF-8 (byte {}); save it as such", e.valid_up_to()),
        )
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(whole(
            0,
            "is empty; it needs a header and one row per type".to_owned(),
        ));
    }
    let raw = if name.ends_with(".yaml") || name.ends_with(".yml") {
        from_yaml(text).map_err(|(line, text)| whole(line, text))?
    } else {
        from_csv(text).map_err(|(line, text)| whole(line, text))?
    };
    if raw.is_empty() {
        return Err(whole(0, "has no row; it needs one per type".to_owned()));
    }
    Ok(raw)
}

fn known(column: &str) -> Result<(), String> {
    if COLUMNS.contains(&column) || BOOT_COLUMNS.contains(&column) {
        return Ok(());
    }
    let column: String = column.chars().take(40).collect();
    Err(format!(
        "{column:?} is no column; there are {}, {}",
        COLUMNS.join(", "),
        BOOT_COLUMNS.join(", ")
    ))
}

fn from_csv(text: &str) -> Result<Vec<Raw>, (usize, String)> {
    let records = csv::records(b',', text.as_bytes()).map_err(|e| (0, e.to_string()))?;
    let mut records = records
        .into_iter()
        .filter(|record| !record.fields[0].trim_start().starts_with('#'));
    let Some(header) = records.next() else {
        return Ok(Vec::new());
    };
    let columns: Vec<String> = header.fields.iter().map(|f| f.trim().to_owned()).collect();
    for (index, column) in columns.iter().enumerate() {
        known(column).map_err(|text| (header.line, text))?;
        if columns[..index].contains(column) {
            return Err((
                header.line,
                format!("column {column} stands twice; remove one"),
            ));
        }
    }
    let mut raw = Vec::new();
    for record in records {
        if record.fields.len() != columns.len() {
            let text = format!(
                "has {} fields where the header has {}: the row or the file is cut short",
                record.fields.len(),
                columns.len()
            );
            return Err((record.line, text));
        }
        let fields = columns.iter().cloned().zip(record.fields);
        raw.push(Raw {
            line: record.line,
            fields: fields.map(|(k, v)| (k, v.trim().to_owned())).collect(),
        });
    }
    Ok(raw)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    types: Vec<serde_saphyr::Spanned<BTreeMap<String, Text>>>,
}

fn from_yaml(text: &str) -> Result<Vec<Raw>, (usize, String)> {
    let form: Form = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |l| l.line());
        let said = error.without_snippet().to_string();
        let said = said.lines().next().unwrap_or_default();
        let line = usize::try_from(line).unwrap_or(0);
        (line, format!("{said}; rows stand in a list under `types:`"))
    })?;
    let mut raw = Vec::new();
    for row in form.types {
        let line = usize::try_from(row.referenced.line()).unwrap_or(0);
        let mut fields = BTreeMap::new();
        for (key, Text(value)) in row.value {
            known(&key).map_err(|text| (line, text))?;
            fields.insert(key, value);
        }
        raw.push(Raw { line, fields });
    }
    Ok(raw)
}

/// A scalar as text, or a list of them with blanks between.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl<'de> Visitor<'de> for Scalar {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Text, E> {
                Ok(Text(v.trim().to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Text, E> {
                Ok(Text(String::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element::<String>()? {
                    if item.contains(char::is_whitespace) {
                        return Err(A::Error::custom("an item of a list has a blank inside"));
                    }
                    all.push(item);
                }
                Ok(Text(all.join(" ")))
            }
        }

        deserializer.deserialize_any(Scalar)
    }
}

/// Reads one row, noting each fault.
struct Reader<'a> {
    file: &'a str,
    raw: &'a Raw,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn row(&mut self, place: Option<&Region>) -> Option<Row> {
        let name = self.required("type", "the type's name");
        let region = self.region(place);
        let vcpu = self.vcpu();
        let memory_mib = self.memory();
        let gpu = self.gpu();
        let arch = match self.text("arch") {
            None | Some("amd64") => Arch::Amd64,
            Some("arm64") => Arch::Arm64,
            Some(other) => {
                let other = other.to_owned();
                self.wrong(
                    "arch",
                    format!("{other:?} is no architecture: amd64 or arm64"),
                );
                Arch::Amd64
            }
        };
        let network_mbps = self.whole("network_mbps").unwrap_or(0);
        let disk_mbps = self.whole("disk_mbps").unwrap_or(0);
        let local_nvme_gb = self.whole("local_nvme_gb").unwrap_or(0);
        let max_pods = self.whole("max_pods");
        let interruptions = self.whole("interruptions_per_million_h");
        let (on_demand, spot) = (self.price("on_demand"), self.price("spot"));
        let priced = self.text("on_demand").is_some() || self.text("spot").is_some();
        if !priced {
            self.wrong(
                "on_demand",
                "neither on_demand nor spot has a price".to_owned(),
            );
        }
        let boot = self.boot();
        if !self.problems.is_empty() {
            return None;
        }
        let (name, region) = (name?, region?);
        let family = self.text("family").map_or_else(
            || name.split(['.', '-']).next().unwrap_or(&name).to_owned(),
            str::to_owned,
        );
        let size = Size {
            cpu_millis: vcpu?,
            gpu,
            network_mbps,
            disk_mbps,
            local_nvme_gb,
            ..Size::plain(&family, arch, 0, memory_mib?)
        };
        let price = Price {
            on_demand,
            spot,
            ..Price::default()
        };
        let zones = Zoned::In(region.zone_names());
        let mut row = Row::of(&region, &name, size, &price, zones);
        row.interruptions_per_million_h = interruptions
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or_else(|| interruptions_per_million_h(None));
        row.max_pods = max_pods
            .and_then(|n| i64::try_from(n).ok())
            .unwrap_or(row.max_pods);
        row.boot = boot.unwrap_or(row.boot);
        Some(row)
    }

    fn region(&mut self, place: Option<&Region>) -> Option<Region> {
        let cloud = match self.text("cloud").map(Cloud::from_str) {
            Some(Ok(cloud)) => Some(cloud),
            Some(Err(text)) => {
                self.wrong("cloud", text);
                return None;
            }
            None => place.map(|place| place.cloud),
        };
        let name = self.text("region").map(str::to_owned);
        let name = name.or_else(|| place.map(|place| place.name.clone()));
        let (Some(cloud), Some(name)) = (cloud, name) else {
            let field = if cloud.is_none() { "cloud" } else { "region" };
            self.wrong(field, format!("is empty; write it, or give --{field}"));
            return None;
        };
        let zones = match self.text("zones") {
            Some(zones) => zones.split_whitespace().map(str::to_owned).collect(),
            None => place.map(|place| place.zones.clone()).unwrap_or_default(),
        };
        Some(Region { cloud, name, zones })
    }

    fn vcpu(&mut self) -> Option<i64> {
        let text = self.required("vcpu", "a number of vCPUs such as 4")?;
        match text.parse::<f64>() {
            Ok(vcpu) if (0.001..=100_000.0).contains(&vcpu) => Some((vcpu * 1000.0).round() as i64),
            _ => {
                self.wrong(
                    "vcpu",
                    format!("{text:?} is no number of vCPUs: write one such as 4"),
                );
                None
            }
        }
    }

    fn memory(&mut self) -> Option<u64> {
        self.required("memory_mib", "memory in MiB such as 16384")?;
        let memory = self.whole("memory_mib")?;
        if !(64..=1 << 30).contains(&memory) {
            let text = format!("{memory} MiB is no machine's memory: write MiB such as 16384");
            self.wrong("memory_mib", text);
            return None;
        }
        Some(memory)
    }

    fn gpu(&mut self) -> Option<Gpu> {
        let sku = self.text("gpu_sku").map(str::to_ascii_uppercase);
        let (count, memory_mib) = (self.whole("gpu_count"), self.whole("gpu_memory_mib"));
        match (sku, count, memory_mib) {
            (None, None | Some(0), None) => None,
            (Some(sku), Some(count @ 1..=1024), Some(memory_mib @ 1..)) => Some(Gpu {
                sku,
                count: u32::try_from(count).ok()?,
                memory_mib,
                resource: self
                    .text("gpu_resource")
                    .unwrap_or("nvidia.com/gpu")
                    .to_owned(),
            }),
            _ => {
                let text = "gpu_sku, gpu_count (1 to 1024) and gpu_memory_mib go together: write all \
                            three or none";
                self.wrong("gpu_sku", text.to_owned());
                None
            }
        }
    }

    fn boot(&mut self) -> Option<Boot> {
        let names = ["agent_s", "ready_s", "allocatable_s"];
        let seconds = names.map(|name| self.whole(name));
        match seconds {
            [None, None, None] => None,
            [Some(agent), Some(ready), Some(allocatable)]
                if ready <= allocatable && allocatable <= 86_400 && agent <= 86_400 =>
            {
                Some(Boot {
                    agent: Millis::from_secs(agent),
                    ready: Millis::from_secs(ready),
                    allocatable: Millis::from_secs(allocatable),
                })
            }
            _ => {
                let text = "agent_s, ready_s and allocatable_s go together, ready_s at most \
                            allocatable_s, all within a day: write all three or none";
                self.wrong("agent_s", text.to_owned());
                None
            }
        }
    }

    fn price(&mut self, field: &'static str) -> Option<HourlyPrice> {
        let text = self.text(field)?.to_owned();
        let usd = text.parse::<f64>().ok();
        match usd.map(HourlyPrice::from_usd) {
            Some(Ok(price)) if price.0 > 0 => Some(price),
            Some(Err(error)) => {
                self.wrong(field, error.to_string());
                None
            }
            Some(Ok(_)) => {
                self.wrong(
                    field,
                    format!("{text} is free, which nothing is: leave it empty if unsold"),
                );
                None
            }
            None => {
                self.wrong(
                    field,
                    format!("{text:?} is no price: write USD per hour such as 0.8048"),
                );
                None
            }
        }
    }

    fn whole(&mut self, field: &'static str) -> Option<u64> {
        let text = self.text(field)?.to_owned();
        match text.parse::<u64>() {
            Ok(number) if number <= 1 << 40 => Some(number),
            _ => {
                self.wrong(
                    field,
                    format!("{text:?} is no whole number from 0 to {}", 1_u64 << 40),
                );
                None
            }
        }
    }

    fn required(&mut self, field: &'static str, example: &str) -> Option<String> {
        let found = self.text(field).map(str::to_owned);
        if found.is_none() {
            self.wrong(field, format!("is empty; write {example}"));
        }
        found
    }

    fn text(&self, field: &str) -> Option<&str> {
        let text = self.raw.fields.get(field)?;
        (!text.is_empty()).then_some(text.as_str())
    }

    fn wrong(&mut self, field: &str, text: String) {
        let already = self.problems.iter().any(|p| p.field == field);
        if !already {
            self.problems.push(Problem {
                file: self.file.to_owned(),
                line: self.raw.line,
                field: field.to_owned(),
                text,
            });
        }
    }
}

#[cfg(test)]
mod tests;
