//! What can be bought: instance types, and the offerings of each by zone and capacity type.

use std::fmt;
use std::str::FromStr;

use crate::amount::Resources;
use crate::label::{self, Labels};
use crate::money::{HourlyPrice, Millis};

/// How capacity is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CapacityType {
    /// Paid for already.
    Reserved,
    /// Cheap, and taken away when somebody pays more.
    Spot,
    /// Kept until given back.
    OnDemand,
}

impl CapacityType {
    /// The word for it in labels and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Spot => "spot",
            Self::OnDemand => "on-demand",
        }
    }
}

impl fmt::Display for CapacityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no capacity type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capacity type: use spot, on-demand or reserved")]
pub struct InvalidCapacityType(pub String);

impl FromStr for CapacityType {
    type Err = InvalidCapacityType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "reserved" => Ok(Self::Reserved),
            "spot" => Ok(Self::Spot),
            "on-demand" => Ok(Self::OnDemand),
            _ => Err(InvalidCapacityType(text.chars().take(40).collect())),
        }
    }
}

/// A machine type of one cloud in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceType {
    /// The cloud's name for it: `g6.xlarge`.
    pub name: String,
    /// Its family: `g6`.
    pub family: String,
    /// `amd64` or `arm64`.
    pub arch: Arch,
    /// What the machine has: CPU, memory, pods, GPUs as extended resources.
    pub capacity: Resources,
    /// What of it the system and the kubelet keep.
    pub overhead: Resources,
    /// Its GPUs.
    pub gpu: Option<Gpu>,
    /// How fast it gets bytes.
    pub rates: Rates,
    /// Local NVMe, in bytes; 0 when there is none.
    pub local_nvme: u64,
    /// How long it takes to come up.
    pub boot: Boot,
    /// Labels its nodes have beyond those that follow from the fields above.
    pub labels: Labels,
}

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Arch {
    /// The word for it in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// The GPUs of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Model, upper case: `L4`.
    pub sku: String,
    /// How many.
    pub count: u32,
    /// Memory of one, in MiB.
    pub memory_mib: u64,
    /// Extended resource they appear as: `nvidia.com/gpu`.
    pub resource: String,
}

/// Byte rates of a type, bytes per second; 0 where nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rates {
    /// Baseline of the network interface.
    pub network: u64,
    /// Writing to the disk that images and weights go to.
    pub disk: u64,
    /// Compressed bytes per second that one core inflates.
    pub inflate: u64,
}

/// How long a type takes to come up, from the cloud's acceptance of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Boot {
    /// Until the agent requests its first byte.
    pub agent: Millis,
    /// Until the node is Ready.
    pub ready: Millis,
    /// Until its GPUs can be allocated; the same as `ready` for a type without.
    pub allocatable: Millis,
}

/// One instance type in one zone under one capacity type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offering {
    /// Index of its [`InstanceType`] in the market.
    pub instance_type: usize,
    /// Zone.
    pub zone: String,
    /// How it is paid for.
    pub capacity_type: CapacityType,
    /// Its price.
    pub price: HourlyPrice,
    /// Expected interruptions per million hours; 0 for on-demand.
    pub interruptions_per_million_h: u32,
    /// Whether it can be bought now.
    pub availability: Availability,
    /// How many may be asked for in this round.
    pub launch_budget: Option<u32>,
}

/// Whether an offering can be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// As far as is known.
    Available,
    /// The cloud said no; not to be asked again before this moment.
    Until {
        /// The moment.
        until: Millis,
        /// What the cloud said, in a word: `InsufficientInstanceCapacity`.
        why: String,
    },
    /// Not sold.
    Never,
}

/// Names one offering for a person and for the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OfferingKey {
    /// Instance type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// How it is paid for.
    pub capacity_type: CapacityType,
}

impl fmt::Display for OfferingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} in {}",
            self.instance_type, self.capacity_type, self.zone
        )
    }
}

impl InstanceType {
    /// What pods can have of it.
    pub fn allocatable(&self) -> Resources {
        let mut rest = self.capacity.clone();
        rest.subtract(&self.overhead);
        rest
    }

    /// The labels of a node of this type, without those that depend on the offering.
    pub fn node_labels(&self) -> Labels {
        let mut labels = self.labels.clone();
        let mut set = |key: &str, value: String| labels.insert(key.to_owned(), value);
        set(label::INSTANCE_TYPE, self.name.clone());
        set(label::INSTANCE_FAMILY, self.family.clone());
        set(label::ARCH, self.arch.as_str().to_owned());
        set(label::OS, "linux".to_owned());
        set(
            label::INSTANCE_CPU,
            (self.capacity.of(crate::amount::CPU) / 1000).to_string(),
        );
        set(
            label::INSTANCE_MEMORY,
            (self.capacity.of(crate::amount::MEMORY) >> 20).to_string(),
        );
        if self.rates.network > 0 {
            set(
                label::INSTANCE_NETWORK,
                (self.rates.network / 125_000).to_string(),
            );
        }
        if self.local_nvme > 0 {
            set(label::LOCAL_NVME, (self.local_nvme >> 30).to_string());
        }
        if let Some(gpu) = &self.gpu {
            set(label::GPU_SKU, gpu.sku.clone());
            set(label::GPU_COUNT, gpu.count.to_string());
            set(label::GPU_MEMORY, gpu.memory_mib.to_string());
        }
        labels
    }
}
