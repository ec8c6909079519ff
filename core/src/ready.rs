//! How long until a pod serves on a candidate node: the arithmetic of time to ready.
//!
//! Formula (the symbols are the fields below):
//!
//! ```text
//! image   = max(image bytes / rate, unpacked / disk, largest layer / inflate)
//! bytes   = max(all bytes / rate, (unpacked + weights) / disk, largest layer / inflate)
//! rate    = min(network, sources)
//! ready   = max(max(allocatable, agent + image) + start, agent + bytes) + load + engine
//! exposed = ready - ready with no bytes missing
//! ```
//!
//! A perfectly pipelined transfer is assumed: what is fetched is written and inflated meanwhile.

use crate::money::Millis;
use crate::offer::{Boot, Rates};

/// Bytes a node still lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Missing {
    /// Image bytes to transfer.
    pub image: u64,
    /// Their size on disk.
    pub image_unpacked: u64,
    /// Compressed bytes of the largest layer among them.
    pub largest_layer: u64,
    /// Weight bytes.
    pub weights: u64,
}

impl Missing {
    /// Whether nothing is.
    pub fn is_nothing(self) -> bool {
        self.image == 0 && self.weights == 0
    }
}

/// Values used where nothing better is known. Learned values replace them per offering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priors {
    /// Bytes per second that origins and peers give one node together.
    pub sources: u64,
    /// Network rate of a type that states none, bytes per second.
    pub network: u64,
    /// Disk write rate of a type that states none, bytes per second.
    pub disk: u64,
    /// Compressed bytes per second that one core inflates.
    pub inflate: u64,
    /// Container start and the engine's imports.
    pub start: Millis,
    /// Weights from disk into the GPU.
    pub load: Millis,
    /// Compilation, graph capture, warm-up.
    pub engine: Millis,
    /// Boot of a type that states none.
    pub boot: Boot,
    /// Boot of a GPU type that states none.
    pub gpu_boot: Boot,
}

impl Default for Priors {
    /// Published figures of others, none measured on a cloud by us: an EKS-like node has its network
    /// after 17 s, is Ready after 26 s and has its GPU after 90 s; imports take 16 s and a container
    /// 2 s; an 8B model loads in 5 s and warms up in 34 s. Sources: 10 Gbit/s. A GPU node without
    /// known disk: a gp3 root volume of 125 MiB/s. Inflate: 0.25 GB/s of compressed bytes per core is
    /// more than Go's 0.1 and what our unpacker reaches on a slow core.
    fn default() -> Self {
        let boot = |allocatable| Boot {
            agent: Millis::from_secs(19),
            ready: Millis::from_secs(26),
            allocatable: Millis::from_secs(allocatable),
        };
        Self {
            sources: 1_250_000_000,
            network: 625_000_000,
            disk: 125 << 20,
            inflate: 125_000_000,
            start: Millis::from_secs(18),
            load: Millis::from_secs(5),
            engine: Millis::from_secs(34),
            boot: boot(26),
            gpu_boot: boot(90),
        }
    }
}

/// The parts of one time to ready. They sum to `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Until the pod could be bound: boot, and the GPU.
    pub allocatable: Millis,
    /// What the image takes beyond that.
    pub image: Millis,
    /// Container start and imports.
    pub start: Millis,
    /// What the weights take beyond that.
    pub weights: Millis,
    /// Weights into the GPU.
    pub load: Millis,
    /// Compilation, graph capture, warm-up.
    pub engine: Millis,
}

impl Timing {
    /// Until the pod serves.
    pub fn total(&self) -> Millis {
        self.allocatable + self.image + self.start + self.weights + self.load + self.engine
    }

    /// Exposed byte time: what the bytes add.
    pub fn exposed(&self) -> Millis {
        self.image + self.weights
    }
}

/// When a pod that lacks `missing` serves on a node that boots like `boot` and gets bytes like
/// `rates`. A rate of zero is replaced by its prior.
pub fn timing(boot: Boot, rates: Rates, missing: Missing, priors: &Priors) -> Timing {
    let known = |rate: u64, prior: u64| if rate == 0 { prior.max(1) } else { rate };
    let rate = known(rates.network, priors.network).min(priors.sources.max(1));
    let disk = known(rates.disk, priors.disk);
    let inflate = known(rates.inflate, priors.inflate);
    let took = |bytes: u64, rate: u64| match bytes.checked_mul(1000) {
        Some(product) => Millis(product / rate),
        None => Millis((bytes / rate).saturating_mul(1000)),
    };
    let inflating = took(missing.largest_layer, inflate);
    let image = took(missing.image, rate)
        .max(took(missing.image_unpacked, disk))
        .max(inflating);
    let all = took(missing.image.saturating_add(missing.weights), rate)
        .max(took(
            missing.image_unpacked.saturating_add(missing.weights),
            disk,
        ))
        .max(inflating);
    let image_there = if missing.image == 0 {
        Millis(0)
    } else {
        boot.agent + image
    };
    let bytes_there = if missing.is_nothing() {
        Millis(0)
    } else {
        boot.agent + all
    };
    let startable = boot.allocatable.max(image_there);
    let started = startable + priors.start;
    Timing {
        allocatable: boot.allocatable,
        image: startable - boot.allocatable,
        start: priors.start,
        weights: bytes_there - started,
        load: priors.load,
        engine: priors.engine,
    }
}
