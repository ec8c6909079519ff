//! The plugin on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{HoldRules, Rules, WithoutHub};

/// Most seconds that a pod may be made to wait: a day.
const LONGEST: u64 = 24 * 3600;

/// Weights into pods.
#[derive(Clone, Debug, Args)]
pub struct CsiArgs {
    /// Socket of the CSI plugin, below the kubelet's root; without it no volume is mounted
    #[arg(long, value_name = "SOCKET")]
    pub(crate) csi_socket: Option<PathBuf>,
    /// The kubelet's root, the same here as for the kubelet
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet")]
    pub(crate) kubelet_root: PathBuf,
    /// Seconds that a pod's start waits for its weights, before it gets what lets it download by
    /// itself
    #[arg(long, value_name = "SECONDS", default_value_t = HoldRules::default().deadline.as_secs(),
          value_parser = clap::value_parser!(u64).range(..=LONGEST))]
    pub(crate) csi_deadline: u64,
    /// What a pod gets while the Hub does not answer and nothing of its model is remembered
    #[arg(long, value_name = "WHAT", value_enum, default_value = "fall-back")]
    pub(crate) csi_without_hub: WithoutHubArg,
}

/// [`WithoutHub`] on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WithoutHubArg {
    /// An empty cache: its client may know another way
    FallBack,
    /// Nothing until the deadline
    Wait,
}

impl CsiArgs {
    /// What the operator chose.
    pub(crate) fn rules(&self) -> Rules {
        Rules {
            hold: HoldRules {
                deadline: Duration::from_secs(self.csi_deadline),
                ..HoldRules::default()
            },
            without_hub: match self.csi_without_hub {
                WithoutHubArg::FallBack => WithoutHub::FallBack,
                WithoutHubArg::Wait => WithoutHub::Wait,
            },
            ..Rules::default()
        }
    }
}
