//! What a machine type is, whatever it costs; and why a type of a price list is left out.

use std::fmt;

use headstart_core::offer::{Arch, Gpu};

/// A machine type's size, as published.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Size {
    /// Its family.
    pub(crate) family: String,
    /// Processor architecture.
    pub(crate) arch: Arch,
    /// vCPUs in thousandths.
    pub(crate) cpu_millis: i64,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// GPUs, all of them whole.
    pub(crate) gpu: Option<Gpu>,
    /// Baseline of the network interface in Mbit/s; 0 where it is not known.
    pub(crate) network_mbps: u64,
    /// Writing to the disk that bytes go to, in Mbit/s; 0 where it is not known.
    pub(crate) disk_mbps: u64,
    /// Local NVMe in GB; 0 when there is none.
    pub(crate) local_nvme_gb: u64,
}

impl Size {
    /// A size without GPU, of whole vCPUs and with rates that nobody states.
    pub(crate) fn plain(family: &str, arch: Arch, vcpus: u64, memory_mib: u64) -> Self {
        Self {
            family: family.to_owned(),
            arch,
            cpu_millis: i64::try_from(vcpus.saturating_mul(1000)).unwrap_or(i64::MAX),
            memory_mib,
            gpu: None,
            network_mbps: 0,
            disk_mbps: 0,
            local_nvme_gb: 0,
        }
    }
}

/// GPUs that appear as `nvidia.com/gpu`.
pub(crate) fn nvidia(sku: &str, count: u32, memory_mib: u64) -> Gpu {
    Gpu {
        sku: sku.to_owned(),
        count,
        memory_mib,
        resource: "nvidia.com/gpu".to_owned(),
    }
}

/// GPUs that appear as `amd.com/gpu`.
pub(crate) fn amd(sku: &str, count: u32, memory_mib: u64) -> Gpu {
    Gpu {
        resource: "amd.com/gpu".to_owned(),
        ..nvidia(sku, count, memory_mib)
    }
}

/// Why a type that a price list names is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LeftOut {
    /// Its vCPU and memory follow from no table here.
    NoSize,
    /// Its local disk is part of the type, and its size is in no table here.
    LocalDisk,
    /// It boots for minutes that nobody publishes.
    BareMetal,
    /// It has a share of a GPU, which Kubernetes does not count as one.
    GpuShare,
    /// It has a share of a core.
    SharedCore,
    /// The cloud gives it up.
    Retired,
    /// No zone of the region is known to have it.
    NoZone,
    /// Its price is no price.
    NoPrice,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSize => "vCPU and memory in no table here",
            Self::LocalDisk => "size of the local disk in no table here",
            Self::BareMetal => "bare metal: boot time unknown",
            Self::GpuShare => "a share of a GPU",
            Self::SharedCore => "a share of a core",
            Self::Retired => "retired by the cloud",
            Self::NoZone => "no zone of the region known to have it",
            Self::NoPrice => "no price",
        })
    }
}
