//! `headstart catalog`: what the catalog knows, and how old it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use headstart_core::amount::{CPU, EPHEMERAL_STORAGE, MEMORY, PODS, display};
use headstart_core::offer::{InstanceType, Offering};
use jiff::civil::Date;

use super::choose::{CatalogArgs, Directory, Hint, market};
use super::update::{self, Update};
use super::{Cloud, Market, builtin, refreshed};
use crate::columns::{Align, Columns};
use crate::out;

/// Machine types and prices: what is known, from where, how old.
///
/// A file of your own (--catalog FILE) has one row per type: CSV with a header, or YAML with a list
/// under `types:`. Columns: type, vcpu, memory_mib and one of on_demand and spot (USD per hour) are
/// required; cloud, region, zones, family, arch, gpu_sku, gpu_count, gpu_memory_mib, gpu_resource,
/// network_mbps, disk_mbps, local_nvme_gb, max_pods, interruptions_per_million_h, agent_s, ready_s and
/// allocatable_s may be given. A row replaces the built-in type of its name.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Command {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    directory: Directory,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything known about one type
    Show {
        /// Name of the type, such as g6.xlarge
        name: String,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// What can be bought, cheapest first
    List {
        /// Only with this GPU, such as L4
        #[arg(long, value_name = "SKU")]
        gpu: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 40)]
        limit: usize,
        #[command(flatten)]
        catalog: CatalogArgs,
    },
    /// Refresh the prices of one region from the cloud's public price list
    Update(Update),
}

/// Exit code of a command line or file that is wrong.
const BAD_INPUT: u8 = 2;

/// Does what was asked for.
pub(crate) fn command(command: &Command) -> ExitCode {
    let today = jiff::tz::TimeZone::UTC
        .to_datetime(jiff::Timestamp::now())
        .date();
    let said = match &command.what {
        Some(What::Update(asked)) => return update::command(asked),
        None => Ok(summary(&command.directory, today)),
        Some(What::Show { name, catalog }) => {
            market(catalog, &Hint::default()).and_then(|market| show(&market, name))
        }
        Some(What::List {
            gpu,
            limit,
            catalog,
        }) => market(catalog, &Hint::default()).map(|market| list(&market, gpu.as_deref(), *limit)),
    };
    match said {
        Ok(text) => {
            out::print(&text);
            ExitCode::SUCCESS
        }
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {problem}");
            }
            ExitCode::from(BAD_INPUT)
        }
    }
}

/// Tables, sources, age, and what of them is offered.
fn summary(directory: &Directory, today: Date) -> String {
    let mut text = String::from("Built in:\n");
    let mut tables = Columns::new(&[
        ("cloud", Align::Left),
        ("rows", Align::Right),
        ("dated", Align::Left),
        ("age", Align::Right),
        ("what", Align::Left),
        ("source", Align::Left),
    ]);
    for table in builtin::TABLES {
        tables.row([
            table.cloud.to_string(),
            table.rows().len().to_string(),
            table.dated.to_owned(),
            age(table.dated, today),
            table.holds.to_owned(),
            format!("{} ({})", table.source, table.licence),
        ]);
    }
    text += &tables.render(2);
    text += "\nTypes that these price in any region, and what becomes of them:\n";
    for cloud in Cloud::ALL {
        let (offered, left_out) = builtin::coverage(cloud);
        let left: Vec<String> = left_out
            .iter()
            .map(|(why, n)| format!("{n} {why}"))
            .collect();
        let regions = builtin::priced_regions(cloud).len();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {cloud}: {offered} offered, in {regions} region{}; left out: {}",
            if regions == 1 { "" } else { "s" },
            left.join(", ")
        );
    }
    text += "\nFetched with `headstart catalog update`, used in place of the built-in prices:\n";
    text += &fetched(directory, today);
    text
}

fn fetched(directory: &Directory, today: Date) -> String {
    let Some(directory) = directory.path() else {
        return "  none: no home directory; give --catalog-dir\n".to_owned();
    };
    let mut lines = Vec::new();
    for (cloud, region) in refreshed::regions(&directory) {
        match refreshed::read(&directory, cloud, &region) {
            Ok(Some(kept)) => lines.push(format!(
                "  {cloud} {region}: {} types, {}, age {}\n",
                kept.prices.types.len(),
                kept.prices.basis,
                age(&kept.fetched, today)
            )),
            Ok(None) => {}
            Err(error) => lines.push(format!("  {error}\n")),
        }
    }
    match lines.is_empty() {
        true => format!("  none in {}\n", directory.display()),
        false => lines.concat(),
    }
}

/// Days from the date that `stamp` begins with.
fn age(stamp: &str, today: Date) -> String {
    let day = stamp.get(..10).and_then(|day| day.parse::<Date>().ok());
    let days = day
        .and_then(|day| today.since(day).ok())
        .map(|span| span.get_days());
    days.map_or_else(|| "unknown".to_owned(), |days| format!("{days} d"))
}

/// Offerings by price; one line per type and price, whatever the zone.
fn list(market: &Market, gpu: Option<&str>, limit: usize) -> String {
    let wanted = |kind: &InstanceType| match gpu {
        None => true,
        Some(sku) => kind
            .gpu
            .as_ref()
            .is_some_and(|g| g.sku.eq_ignore_ascii_case(sku)),
    };
    let mut lines: BTreeMap<(u64, &str, &str), Vec<&Offering>> = BTreeMap::new();
    for offering in &market.offerings {
        let kind = &market.types[offering.instance_type];
        if wanted(kind) {
            let key = (
                offering.price.0,
                kind.name.as_str(),
                offering.capacity_type.as_str(),
            );
            lines.entry(key).or_default().push(offering);
        }
    }
    if lines.is_empty() {
        return match gpu {
            Some(sku) => format!("no type with GPU {sku}; GPUs here: {}\n", skus(market)),
            None => "no type\n".to_owned(),
        };
    }
    let mut columns = Columns::new(&[
        ("USD/h", Align::Right),
        ("capacity", Align::Left),
        ("type", Align::Left),
        ("vCPU", Align::Right),
        ("memory", Align::Right),
        ("GPU", Align::Left),
        ("Gbit/s", Align::Right),
        ("NVMe", Align::Right),
        ("zones", Align::Left),
    ]);
    let more = lines.len().saturating_sub(limit);
    for offered in lines.values().take(limit) {
        let kind = &market.types[offered[0].instance_type];
        let zones: Vec<&str> = offered.iter().map(|o| o.zone.as_str()).collect();
        columns.row([
            format!("{:.4}", offered[0].price.usd()),
            offered[0].capacity_type.to_string(),
            kind.name.clone(),
            display(CPU, kind.capacity.of(CPU)).to_string(),
            display(MEMORY, kind.capacity.of(MEMORY)).to_string(),
            gpu_words(kind),
            gbit(kind.rates.network),
            gigabytes(kind.local_nvme),
            zones.join(" "),
        ]);
    }
    let mut text = columns.render(0);
    if more > 0 {
        let _ = writeln!(text, "and {more} more; --limit shows them");
    }
    text
}

/// Everything about one type.
fn show(market: &Market, name: &str) -> Result<String, Vec<String>> {
    let Some(index) = market.types.iter().position(|kind| kind.name == name) else {
        let near: Vec<&str> = market
            .types
            .iter()
            .map(|kind| kind.name.as_str())
            .filter(|known| known.split('.').next() == name.split('.').next())
            .take(8)
            .collect();
        let near = match near.is_empty() {
            true => "`headstart catalog list` shows what is offered".to_owned(),
            false => format!("there are {}", near.join(", ")),
        };
        return Err(vec![format!("no type {name:?} is offered here; {near}")]);
    };
    let kind = &market.types[index];
    let (capacity, allocatable) = (&kind.capacity, kind.allocatable());
    let mut text = format!("{name}  ({}, family {})\n", kind.arch.as_str(), kind.family);
    let mut line = |what: &str, value: String| {
        let _ = writeln!(text, "  {what:<12} {value}");
    };
    for (what, resource) in [
        ("CPU", CPU),
        ("memory", MEMORY),
        ("disk", EPHEMERAL_STORAGE),
    ] {
        let shown = |amount| display(resource, amount);
        line(
            what,
            format!(
                "{}, of which pods get {}",
                shown(capacity.of(resource)),
                shown(allocatable.of(resource))
            ),
        );
    }
    line(
        "pods",
        format!(
            "{}, the default of the cloud's Kubernetes",
            capacity.of(PODS)
        ),
    );
    if let Some(gpu) = &kind.gpu {
        let memory = gpu.memory_mib;
        line(
            "GPU",
            format!(
                "{}, {memory} MiB each, as {}",
                gpu_words(kind),
                gpu.resource
            ),
        );
    }
    line(
        "network",
        known(gbit(kind.rates.network), "Gbit/s baseline"),
    );
    line(
        "disk rate",
        known(
            gbit(kind.rates.disk),
            "Gbit/s planned with (for local disks of AWS and Azure the rate of remote ones stands in)",
        ),
    );
    line(
        "local NVMe",
        match kind.local_nvme {
            0 => "none".to_owned(),
            bytes => gigabytes(bytes),
        },
    );
    let boot = kind.boot;
    line(
        "boot",
        format!(
            "agent {}, Ready {}, allocatable {} (published figures of others, not measured)",
            boot.agent, boot.ready, boot.allocatable
        ),
    );
    for offering in market.offerings.iter().filter(|o| o.instance_type == index) {
        let interrupted = match offering.interruptions_per_million_h {
            0 => String::new(),
            often => format!(", {often} interruptions in a million hours"),
        };
        let what = format!("{} {}", offering.capacity_type, offering.zone);
        let _ = writeln!(
            text,
            "  {what:<28} {:.4} USD/h{interrupted}",
            offering.price.usd()
        );
    }
    for basis in &market.basis {
        let _ = writeln!(text, "  prices: {basis}");
    }
    Ok(text)
}

/// All GPU models of a market.
fn skus(market: &Market) -> String {
    let skus = market
        .types
        .iter()
        .filter_map(|kind| Some(kind.gpu.as_ref()?.sku.as_str()));
    let skus: std::collections::BTreeSet<&str> = skus.collect();
    match skus.is_empty() {
        true => "none".to_owned(),
        false => skus.into_iter().collect::<Vec<_>>().join(", "),
    }
}

/// `1x L4`, or nothing.
pub(crate) fn gpu_words(kind: &InstanceType) -> String {
    let words = |gpu: &headstart_core::offer::Gpu| format!("{}x {}", gpu.count, gpu.sku);
    kind.gpu.as_ref().map(words).unwrap_or_default()
}

/// Gbit/s of a rate in bytes per second; nothing where it is not known.
fn gbit(rate: u64) -> String {
    match rate {
        0 => String::new(),
        rate => format!("{}", (rate as f64 / 125e5).round() / 10.0),
    }
}

fn gigabytes(bytes: u64) -> String {
    match bytes {
        0 => String::new(),
        bytes => format!("{} GB", bytes / 1_000_000_000),
    }
}

fn known(number: String, unit: &str) -> String {
    match number.is_empty() {
        true => "not known".to_owned(),
        false => format!("{number} {unit}"),
    }
}

#[cfg(test)]
mod tests;
