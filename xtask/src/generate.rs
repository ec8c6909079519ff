//! What is committed but made: each is rebuilt the same from its sources.
//!
//! Nothing here is read by a build; the sources may lie anywhere.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use crate::cargo;

/// What can be made.
#[derive(Subcommand)]
pub(crate) enum Generate {
    /// The catalog's tables, from the CSV files that NOTE.md beside them describes
    Catalog {
        /// Directory with the CSV files and NOTE.md
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
    },
    /// The chart's CustomResourceDefinitions, from the types in daemon/api
    Crds,
}

/// Names of the definitions; each is a file of the chart.
const CRDS: [&str; 4] = [
    "nodecaches.headstart.dev",
    "nodeclaims.headstart.dev",
    "nodepools.headstart.dev",
    "prefetches.headstart.dev",
];

/// Tables of the catalog, and the first line that each must have.
const TABLES: [(&str, &str); 6] = [
    (
        "aws_gpu_types",
        "instance_type,gpu_name,gpu_count,gpu_memory_mib,vcpus,memory_mib,local_nvme_gb,network_mbps,ebs_mbps",
    ),
    (
        "aws_ondemand_us-east-1",
        "region,instance_type,usd_per_hour",
    ),
    (
        "aws_spot_advisor",
        "region,instance_type,savings_pct,interruption_bucket",
    ),
    ("azure_ondemand", "region,vm_size,on_demand_usd_per_hour"),
    (
        "gcp_machine_type_zones",
        "NAME;CPUS;SHARED_CPU;MEMORY_GB;DEPRECATED;ZONE",
    ),
    (
        "gcp_prices",
        "region,machine_type,on_demand_usd_per_hour,spot_usd_per_hour",
    ),
];

/// Compression level: the tables are packed once and unpacked at each use, which costs the same.
const LEVEL: i32 = 19;

/// Most bytes that all packed tables may have: they are part of the binary.
const MAX_BYTES: usize = 1_500_000;

pub(crate) fn run(what: &Generate) -> Result<()> {
    match what {
        Generate::Catalog { from } => catalog(from, &cargo::root().join("daemon/catalog")),
        Generate::Crds => crds(),
    }
}

/// Where the chart has its definitions.
fn crd_path(name: &str) -> PathBuf {
    cargo::root().join(format!("charts/headstart/files/crds/{name}.yaml"))
}

/// What the types say now, by `headstart crd`.
fn made(name: &str) -> Result<Vec<u8>> {
    let mut program = cargo::cargo(&[
        "run",
        "--quiet",
        "--locked",
        "--package=headstart",
        "--bin=headstart",
        "--",
        "crd",
        name,
    ]);
    let output = program.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "headstart crd {name} failed");
    Ok(output.stdout)
}

fn crds() -> Result<()> {
    for name in CRDS {
        let path = crd_path(name);
        let text = made(name)?;
        fs::create_dir_all(path.parent().context("the chart's directory")?)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("crds: {} definitions", CRDS.len());
    Ok(())
}

/// Whether the chart's definitions are those of the types.
pub(crate) fn check() -> Result<()> {
    for name in CRDS {
        let path = crd_path(name);
        let there = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            there == made(name)?,
            "{} is not what daemon/api says: run `cargo xtask generate crds` and commit it",
            path.display()
        );
    }
    println!("crds: {} definitions are as the types say", CRDS.len());
    Ok(())
}

/// Packs the tables unchanged, and takes their note of origin along.
fn catalog(from: &Path, to: &Path) -> Result<()> {
    let mut packed = Vec::new();
    for (name, header) in TABLES {
        let path = from.join(format!("{name}.csv"));
        let table = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let first = table.split(|byte| *byte == b'\n').next();
        ensure!(
            first == Some(header.as_bytes()),
            "{}: line 1 is not {header:?}: the reader in daemon/src/catalog would misread it",
            path.display()
        );
        ensure!(
            table.ends_with(b"\n"),
            "{}: the last line has no end: the file is cut short",
            path.display()
        );
        packed.push((name, zstd::bulk::compress(&table, LEVEL)?));
    }
    let total: usize = packed.iter().map(|(_, bytes)| bytes.len()).sum();
    ensure!(
        total <= MAX_BYTES,
        "the packed tables have {total} bytes, more than {MAX_BYTES}"
    );
    fs::create_dir_all(to)?;
    for (name, bytes) in packed {
        fs::write(to.join(format!("{name}.csv.zst")), bytes)?;
    }
    let note = fs::read(from.join("NOTE.md")).context("cannot read NOTE.md")?;
    fs::write(to.join("NOTE.md"), note)?;
    println!("catalog: {} tables, {total} bytes", TABLES.len());
    Ok(())
}
