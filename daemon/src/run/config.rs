//! What `headstart run` is told, read once: flags, each with an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::beside::BesideArgs;
use super::outside::OutsideArgs;
use crate::provider::ProviderArgs;

/// Run the control plane: watch the cluster, buy nodes, say what they fetch
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
    /// Namespace of the lease and of what is remembered
    #[arg(long, env = "HEADSTART_NAMESPACE", default_value = "headstart")]
    pub(crate) namespace: String,
    /// Name of this replica; the pod's
    #[arg(long, env = "HEADSTART_IDENTITY")]
    pub(crate) identity: Option<String>,
    /// Longest time between two rounds, in milliseconds
    #[arg(
        long,
        env = "HEADSTART_ROUND_INTERVAL_MS",
        default_value_t = 5_000,
        value_parser = clap::value_parser!(u64).range(100..=600_000)
    )]
    pub(crate) round_interval_ms: u64,
    /// How long an event may wait for others before a round starts, in milliseconds
    #[arg(
        long,
        env = "HEADSTART_ROUND_DELAY_MS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(0..=10_000)
    )]
    pub(crate) round_delay_ms: u64,
    /// How long no more pods must have come before nodes are bought for those that wait, in
    /// milliseconds: pods of one deploy may share a node
    #[arg(
        long,
        env = "HEADSTART_BATCH_IDLE_MS",
        default_value_t = 200,
        value_parser = clap::value_parser!(u64).range(0..=60_000)
    )]
    pub(crate) batch_idle_ms: u64,
    /// Longest time that a purchase waits for more pods, or for what their images and models stand
    /// for, in milliseconds
    #[arg(
        long,
        env = "HEADSTART_BATCH_MOST_MS",
        default_value_t = 3_000,
        value_parser = clap::value_parser!(u64).range(0..=600_000)
    )]
    pub(crate) batch_most_ms: u64,
    /// Address of `/healthz`, `/readyz`, `/metrics` and `/plan`
    #[arg(long, env = "HEADSTART_HTTP", default_value = "0.0.0.0:8080")]
    pub(crate) http: SocketAddr,
    /// Name of the lease that replicas share
    #[arg(long, env = "HEADSTART_LEASE", default_value = "headstart")]
    pub(crate) lease: String,
    /// How long a replica leads without renewing, in seconds
    #[arg(
        long,
        env = "HEADSTART_LEASE_SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u32).range(3..=300)
    )]
    pub(crate) lease_seconds: u32,
    /// How long a new node may take to join, in seconds; then it is given back
    #[arg(
        long,
        env = "HEADSTART_REGISTRATION_SECONDS",
        default_value_t = 900,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub(crate) registration_seconds: u64,
    /// How long an instance of ours may be without a claim before it is given back, in seconds
    #[arg(
        long,
        env = "HEADSTART_ORPHAN_SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    pub(crate) orphan_seconds: u64,
    /// How often the provider is asked which instances there are, in seconds: an interruption is
    /// noticed within that time
    #[arg(
        long,
        env = "HEADSTART_LIST_SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub(crate) list_seconds: u64,
    /// How often nodes are looked for that could be given back, in seconds
    #[arg(
        long,
        env = "HEADSTART_RETIRE_SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=600)
    )]
    pub(crate) retire_seconds: u64,
    #[command(flatten)]
    pub(crate) outside: OutsideArgs,
    #[command(flatten)]
    pub(super) beside: BesideArgs,
}

impl RunArgs {
    /// Name of this replica: what was given, else the host's with the process.
    pub(crate) fn identity(&self) -> String {
        self.identity.clone().unwrap_or_else(|| {
            let host = nix::unistd::gethostname().unwrap_or_default();
            format!("{}-{}", host.to_string_lossy(), std::process::id())
        })
    }

    /// Longest time between two rounds.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(self.round_interval_ms)
    }

    /// How long an event may wait for others.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.round_delay_ms)
    }
}
