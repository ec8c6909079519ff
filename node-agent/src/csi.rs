//! The CSI plugin `csi.headstart.dev`: models as inline volumes of pods, mounted by the agent.
//!
//! A volume is a Hugging Face cache of the pod's own, small and writable, with the trees it asks for
//! inside, read-only; its mount path is the pod's `HF_HUB_CACHE`. [`serve`] is the one door: it
//! registers with the kubelet and answers it.
//!
//! Deliberately absent: a controller, persistent volumes, staging, the API server. All that is known
//! of a pod and its credential comes with the kubelet's call.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use headstart_hub::endpoint::{Hub, Patience};
use headstart_transfer::net::Http;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::args::CsiArgs;
use self::find::Finder;
pub use self::grants::GrantRules;
use self::grants::Grants;
pub use self::hold::HoldRules;
pub use self::metrics::{Lacking, Metrics, Outcome};
use self::mounts::{Kernel, Mounts};
use self::node::{OnNode, Who};
use self::publish::Publisher;
use self::sockets::Sockets;
use self::volumes::Volumes;
pub use self::weights::{Arrival, Asked, Known, Stage, Weights};
use self::wire::csi::identity_server::IdentityServer;
use self::wire::csi::node_server::NodeServer;
use crate::agent::Warmth;
use crate::items::blocking;
use crate::report::chain;
use crate::store::Store;

mod args;
mod authority;
mod find;
mod grants;
mod hold;
mod metrics;
mod mounts;
mod node;
mod publish;
mod readahead;
mod request;
mod sockets;
mod volumes;
mod weights;
mod wire;

#[cfg(test)]
mod tests;

/// How often volumes of pods that went unnoticed are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(300);

/// What is done for a pod while the Hub does not answer and nothing of its model is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutHub {
    /// It starts with an empty cache: its client may know another way.
    #[default]
    FallBack,
    /// It waits until the deadline.
    Wait,
}

/// What an operator may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// How long pods wait for weights.
    pub hold: HoldRules,
    /// How long the Hub's word about who may read a model counts.
    pub grants: GrantRules,
    /// What happens without the Hub.
    pub without_hub: WithoutHub,
}

/// What the plugin is given.
pub struct Config {
    /// The name of this node, as its Node object has it.
    pub node: String,
    /// The kubelet's root, the same here and for the kubelet: `/var/lib/kubelet`.
    pub kubelet: PathBuf,
    /// Where the plugin listens, below that root.
    pub socket: PathBuf,
    /// The Hub; its token is the agent's own and grants a pod nothing.
    pub hub: Hub,
    /// The door to the network.
    pub http: Http,
    /// Where the weights are; the caller has its lock.
    pub store: Arc<Store>,
    /// What the operator chose.
    pub rules: Rules,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Told what went wrong last, for the node's status.
    pub problem: watch::Sender<String>,
}

impl Config {
    /// As the command line says, for the running agent whose door is `warmth`; nothing if no volume
    /// is to be mounted.
    pub(crate) fn of(
        args: &CsiArgs,
        node: &str,
        warmth: &Warmth,
        metrics: Arc<Metrics>,
        problem: watch::Sender<String>,
    ) -> Option<Self> {
        Some(Self {
            node: node.to_owned(),
            kubelet: args.kubelet_root.clone(),
            socket: args.csi_socket.clone()?,
            hub: warmth.hub().clone(),
            http: warmth.http().clone(),
            store: warmth.store().clone(),
            rules: args.rules(),
            metrics,
            problem,
        })
    }
}

/// Why the plugin cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CsiError {
    /// A socket.
    #[error("cannot listen at {}: is the kubelet's directory mounted here, and writable?", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A server that ended.
    #[error("cannot serve at {}", path.display())]
    Serve {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// Serves the kubelet of this node until `stop`. Volumes stay mounted; the next agent finds them.
///
/// # Errors
/// When a socket cannot be had, or a server ends by itself.
pub async fn serve(
    config: Config,
    weights: Arc<dyn Weights>,
    stop: CancellationToken,
) -> Result<(), CsiError> {
    serve_with(config, weights, Arc::new(Kernel), stop).await
}

async fn serve_with(
    config: Config,
    weights: Arc<dyn Weights>,
    mounts: Arc<dyn Mounts>,
    stop: CancellationToken,
) -> Result<(), CsiError> {
    let Config {
        node,
        kubelet,
        socket,
        hub,
        http,
        store,
        rules,
        metrics,
        problem,
    } = config;
    let volumes = Arc::new(Volumes::new(store.clone(), mounts, kubelet.clone()));
    // Before the first call: what is mounted must be held.
    restore(&volumes, &metrics).await;
    let asking = hub.with_token(None).with_patience(PATIENCE);
    let remembered = store.root().join("views/grants.json");
    let grants = {
        let (hub, http) = (asking.clone(), http.clone());
        blocking(move || Grants::open(hub, http, rules.grants, remembered)).await
    };
    let publisher = Arc::new(Publisher {
        rules,
        store,
        finder: Finder::new(asking, http, grants, weights.clone()),
        weights,
        volumes: volumes.clone(),
        metrics: metrics.clone(),
        problem,
        told: Mutex::default(),
        reading: Mutex::default(),
        stop: stop.clone(),
    });
    let sweeping = tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        loop {
            tokio::time::sleep(SWEEP_EVERY).await;
            restore(&volumes, &metrics).await;
        }
    }));
    let sockets = Sockets::of(&kubelet, socket);
    let on_node = OnNode {
        name: node,
        kubelet,
        publisher,
    };
    let (who, on_node) = (IdentityServer::new(Who), NodeServer::new(on_node));
    let served = sockets.serve(who, on_node, &stop).await;
    sweeping.abort();
    served
}

/// What the Hub may make a pod's call wait: the rest of the call is for the bytes.
const PATIENCE: Patience = Patience {
    tries: 4,
    headers: Duration::from_secs(5),
    pause: Duration::from_millis(300),
    trouble: Duration::from_secs(12),
    told: Duration::from_secs(20),
};

async fn restore(volumes: &Arc<Volumes>, metrics: &Metrics) {
    let restoring = volumes.clone();
    match blocking(move || restoring.restore()).await {
        Ok(found) => {
            for record in found {
                tracing::info!(volume = %record.id, pod = %record.pod.name, "volume found mounted");
            }
        }
        Err(error) => tracing::warn!(reason = %chain(&error), "volumes cannot be looked for"),
    }
    metrics.mounted(volumes.count());
}
