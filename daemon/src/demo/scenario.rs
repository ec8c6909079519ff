//! What the demo deploys, onto which node, and how it is scaled down. All the arithmetic of
//! scaling is here.
//!
//! Full-scale seconds ([`Seconds`]) and bytes are what the scenario and every report speak of;
//! real ones ([`std::time::Duration`], rates of the link that is built) are what this machine
//! spends. [`Scales`] is the only bridge:
//!
//! ```text
//! real time = full time / time scale
//! real bytes = full bytes / byte scale
//! real rate = full rate x time scale / byte scale
//! ```
//!
//! so a transfer takes, in full-scale seconds, exactly what the full one would take at the full
//! rate. What is not scaled, because it really runs here, counts times the time scale: starting
//! processes, requests, hashing, inflating, writing. Deliberately absent: any measured result.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use headstart_core::quantity::{Bytes, Rate};

/// Full-scale seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub(crate) struct Seconds(pub(crate) f64);

/// Clouds whose boot is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Cloud {
    /// Amazon EKS: Ready after 26 s, GPU after 90 s
    Eks,
    /// Google GKE: the fast end of what is published, GPU after 180 s
    Gke,
    /// Azure AKS: the fast end of what is published, GPU after 540 s
    Aks,
}

/// When a node can do what, counted from the pod that cannot be scheduled.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Boot {
    /// Whose node it is.
    pub(crate) name: &'static str,
    /// Where the figures come from.
    pub(crate) origin: &'static str,
    pub(crate) network_up: Seconds,
    pub(crate) node_ready: Seconds,
    pub(crate) gpu_allocatable: Seconds,
}

/// The network between the node and where the bytes come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Network {
    /// The node's own link.
    pub(crate) link: Rate,
    /// What one connection to a registry or a CDN gives.
    pub(crate) per_connection: Rate,
}

/// How long an engine takes that is not bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct EngineTimes {
    /// Container created and imports done.
    pub(crate) start: Seconds,
    /// Weights from disk to GPU, at least.
    pub(crate) load: Seconds,
    /// Compile cache, profiling, graph capture.
    pub(crate) init: Seconds,
}

/// A deploy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) boot: Boot,
    pub(crate) network: Network,
    pub(crate) image: Bytes,
    pub(crate) model: Bytes,
    pub(crate) engine: EngineTimes,
}

/// Files the weights come in: as an 8B model of 16 GB does, 4 to 5 GB each.
pub(crate) const SHARDS: usize = 4;

/// Layers that containerd fetches at once, one connection each: its `max_concurrent_downloads`.
pub(crate) const CONTAINERD_CONNECTIONS: u16 = 3;

/// Files that huggingface_hub fetches at once, one connection each: its `max_workers`.
pub(crate) const HUB_CLIENT_FILES: u16 = 8;

/// Connections of an agent that is not held back.
pub(crate) const AGENT_CONNECTIONS: u16 = 16;

/// vLLM with a warm compile cache. Imports take 16 s (published); creating the container is
/// taken as 2 s; loading an 8B model from NVMe at most 5 s and the rest of the start 34 s
/// (published).
pub(crate) const VLLM_8B: EngineTimes = EngineTimes {
    start: Seconds(18.0),
    load: Seconds(5.0),
    init: Seconds(34.0),
};

/// Real seconds that the two deploys together should take, so that the whole demo, making its
/// model and image included, stays below two minutes.
const REAL_SECONDS: f64 = 90.0;

/// Real rate that two cores can serve, forward, hash, inflate and write at the same time with
/// room to spare. Below it the link binds, as it would on the node.
pub(crate) const EASY_RATE: Rate = Rate(48_000_000);

/// Real bytes that a demo may make and move.
const MOST_BYTES: Bytes = Bytes(8_000_000_000);

/// How much smaller than the real thing the demo is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scales {
    /// Full-scale seconds per real second.
    pub(crate) time: f64,
    /// Full-scale bytes per real byte.
    pub(crate) bytes: f64,
}

/// A scenario that cannot be played.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Unplayable {
    #[error(
        "--boot {0}: the network comes up first, then the kubelet, then the GPU: give three rising numbers of seconds"
    )]
    Order(String),
    #[error(
        "--byte-scale {scale}: this would make and move {real} here, and at most {MOST_BYTES} is reasonable: give a larger --byte-scale"
    )]
    TooManyBytes { scale: f64, real: Bytes },
    #[error(
        "--byte-scale {bytes} with --time-scale {time}: the link would be {real} here, and below 100 kB/s requests weigh more than bytes: give a smaller --byte-scale or a larger --time-scale"
    )]
    TooSlow { bytes: f64, time: f64, real: Rate },
}

impl Cloud {
    /// Its boot profile. Published figures, of nodes without anything cached.
    pub(crate) fn boot(self) -> Boot {
        let seconds = |network_up, node_ready, gpu_allocatable| {
            (
                Seconds(network_up),
                Seconds(node_ready),
                Seconds(gpu_allocatable),
            )
        };
        let (name, (network_up, node_ready, gpu_allocatable), origin) = match self {
            Self::Eks => (
                "EKS",
                seconds(17.0, 26.0, 90.0),
                "network 17 s and Ready 24 to 26 s (node-latency-for-k8s, CPU types), GPU allocatable \
                 about 90 s after launch (k8s-device-plugin issue 291); GPU types may boot later, which \
                 shifts both sides alike",
            ),
            Self::Gke => (
                "GKE",
                seconds(111.0, 120.0, 180.0),
                "GPU nodes take 3 to 8 minutes, the GPU about a minute after Ready \
                 (karpenter-provider-gcp issue 148): the fast end is taken; when the network comes up is \
                 not published and taken as 9 s before Ready, as on EKS",
            ),
            Self::Aks => (
                "AKS",
                seconds(471.0, 480.0, 540.0),
                "GPU nodes take 8 to more than 10 minutes to be Ready (AKS issue 3652): the fast end is \
                 taken; when the network comes up is not published and taken as 9 s before Ready, as on \
                 EKS; the GPU a minute after Ready, as on GKE",
            ),
        };
        Boot {
            name,
            origin,
            network_up,
            node_ready,
            gpu_allocatable,
        }
    }
}

impl Boot {
    /// A boot of the user's own, in seconds.
    pub(crate) fn own([network_up, node_ready, gpu]: [f64; 3]) -> Result<Self, Unplayable> {
        if !(0.0 < network_up && network_up <= node_ready && node_ready <= gpu) {
            return Err(Unplayable::Order(format!(
                "{network_up},{node_ready},{gpu}"
            )));
        }
        Ok(Self {
            name: "your",
            origin: "given on the command line",
            network_up: Seconds(network_up),
            node_ready: Seconds(node_ready),
            gpu_allocatable: Seconds(gpu),
        })
    }
}

impl Network {
    /// What so many connections give together, in bytes per second.
    fn rate(self, connections: u16) -> f64 {
        (self.per_connection.0 as f64 * f64::from(connections)).min(self.link.0 as f64)
    }
}

impl Scenario {
    /// Today's connections for the weights: one per file, and no more than are open at once.
    pub(crate) fn hub_client_connections(&self) -> u16 {
        HUB_CLIENT_FILES.min(SHARDS as u16)
    }

    /// The same deploy with next to no bytes.
    pub(crate) fn without_bytes(&self) -> Self {
        Self {
            image: Bytes(0),
            model: Bytes(0),
            ..self.clone()
        }
    }

    /// What today's order should take if bytes move at the full rates and nothing else costs.
    pub(crate) fn expected_today(&self) -> Seconds {
        let image = self.image.0 as f64 / self.network.rate(CONTAINERD_CONNECTIONS);
        let model = self.model.0 as f64 / self.network.rate(self.hub_client_connections());
        self.boot.gpu_allocatable + Seconds(image + model) + self.engine_total()
    }

    /// What Headstart's order should take, likewise.
    pub(crate) fn expected_headstart(&self) -> Seconds {
        let bytes = (self.image.0 + self.model.0) as f64 / self.network.rate(AGENT_CONNECTIONS);
        let there = self.boot.network_up + Seconds(bytes);
        self.boot.gpu_allocatable.max(there) + self.engine_total()
    }

    fn engine_total(&self) -> Seconds {
        self.engine.start + self.engine.load + self.engine.init
    }
}

impl Scales {
    /// Scales at which `scenario` plays in a minute and a half on two cores, unless given.
    pub(crate) fn fitting(
        scenario: &Scenario,
        time: Option<f64>,
        bytes: Option<f64>,
    ) -> Result<Self, Unplayable> {
        let both = scenario.expected_today() + scenario.expected_headstart();
        let time = time.unwrap_or_else(|| (both.0 / REAL_SECONDS).ceil().max(1.0));
        let fastest = scenario.network.link.0 as f64;
        let bytes = bytes.unwrap_or_else(|| round_up(fastest * time / EASY_RATE.0 as f64));
        let scales = Self { time, bytes };
        let real = scales.bytes(Bytes(scenario.image.0.saturating_add(scenario.model.0)));
        if real > MOST_BYTES {
            return Err(Unplayable::TooManyBytes { scale: bytes, real });
        }
        let slowest = scales.rate(scenario.network.link);
        if slowest < Rate(100_000) {
            return Err(Unplayable::TooSlow {
                bytes,
                time,
                real: slowest,
            });
        }
        Ok(scales)
    }

    /// How long `full` takes here.
    pub(crate) fn real(&self, full: Seconds) -> Duration {
        Duration::from_secs_f64((full.0 / self.time).max(0.0))
    }

    /// What `real` stands for.
    pub(crate) fn full(&self, real: Duration) -> Seconds {
        Seconds(real.as_secs_f64() * self.time)
    }

    /// How many bytes are made and moved here for `full`.
    pub(crate) fn bytes(&self, full: Bytes) -> Bytes {
        Bytes((full.0 as f64 / self.bytes) as u64)
    }

    /// What `real` bytes stand for.
    pub(crate) fn full_bytes(&self, real: Bytes) -> Bytes {
        Bytes((real.0 as f64 * self.bytes) as u64)
    }

    /// The rate here that stands for `full`.
    pub(crate) fn rate(&self, full: Rate) -> Rate {
        Rate((full.0 as f64 * self.time / self.bytes) as u64)
    }
}

/// The next larger of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten: numbers a person can
/// divide by.
fn round_up(value: f64) -> f64 {
    if value <= 1.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let fits = |step: &&f64| **step * power >= value * (1.0 - 1e-9);
    steps.iter().find(fits).unwrap_or(&10.0) * power
}

impl Seconds {
    pub(crate) const ZERO: Self = Self(0.0);

    pub(crate) fn max(self, other: Self) -> Self {
        Self(self.0.max(other.0))
    }

    /// Whether it shows in tenths.
    pub(crate) fn is_felt(self) -> bool {
        self.0 >= 0.05
    }
}

impl Add for Seconds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Seconds {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl std::iter::Sum for Seconds {
    fn sum<I: Iterator<Item = Self>>(seconds: I) -> Self {
        seconds.fold(Self::ZERO, Self::add)
    }
}

impl fmt::Display for Seconds {
    /// Tenths of a second, and no negative zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0 + 0.0;
        f.pad(&format!("{tenths:.1} s"))
    }
}

/// A link rate as networks name it: `5 Gb/s`.
pub(crate) fn bits(rate: Rate) -> String {
    let bits = rate.0 as f64 * 8.0;
    match bits {
        b if b >= 999.5e6 => format!("{} Gb/s", short(b / 1e9)),
        b if b >= 999.5e3 => format!("{} Mb/s", short(b / 1e6)),
        b => format!("{} kb/s", short(b / 1e3)),
    }
}

/// At most one decimal, and none that says nothing.
pub(crate) fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests;
