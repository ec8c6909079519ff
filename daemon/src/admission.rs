//! Pods as they are created: what they are given, and how they come to the node that has their models.
//!
//! Three parts that run on every replica, whoever leads: the webhook ([`serve`]), what chooses a node
//! for gated pods ([`steer`]), and what opens gates that nobody opened in time ([`watch_gates`]).
//!
//! Nothing here can keep a pod from being created or from starting: what is not understood is let
//! through as it is, and every gate of ours is opened by whoever is there. Gates are put on by the
//! webhook alone, so that none is while no daemon answers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::certificate::{Serving, files, secret};
use self::inject::{InjectConfig, Known};

pub(crate) use self::gates::{steer, watch_gates};

pub(crate) mod certificate;
pub(crate) mod command;
mod gates;
pub(crate) mod inject;
pub(crate) mod knowledge;
mod review;
mod server;
pub(crate) mod steering;

/// Says what is known of a pod. Asked in the way of every pod that is created: it answers from memory.
pub(crate) trait Knowledge: Send + Sync {
    /// What is known of `pod`, which is to be in `namespace`.
    fn of(&self, namespace: &str, pod: &Pod) -> Known;
}

/// What admission did with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It was changed.
    Changed,
    /// There was nothing to change.
    Untouched,
    /// It could not be understood, and was let through as it is.
    NotUnderstood,
}

/// Whether this replica is the one that leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It is.
    Ours,
    /// Another is, or nobody.
    Theirs,
}

/// Says whose turn it is, at any time.
pub(crate) type Leading = Arc<dyn Fn() -> Turn + Send + Sync>;

/// Why a gate of ours was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// The pod was nominated for a node.
    Nominated,
    /// There was nothing to steer it to.
    NoWarmNode,
    /// It had waited for as long as it may, or everybody who could steer it ends.
    Deadline,
}

/// Counts what happens here.
pub(crate) trait Counts: Send + Sync {
    /// The webhook answered.
    fn admitted(&self, outcome: Admitted, took: Duration);
    /// A gate was opened.
    fn gate_opened(&self, reason: Opened);
}

/// Where the webhook's certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum CertificateSource {
    /// Files that somebody else renews: `tls.crt` and `tls.key` in a directory.
    Files(PathBuf),
    /// Our own, in a Secret.
    Own(secret::Place),
}

/// What the webhook goes by.
#[derive(Clone, Debug)]
pub(crate) struct WebhookConfig {
    /// Where it listens.
    pub(crate) listen: SocketAddr,
    /// With which certificate.
    pub(crate) certificate: CertificateSource,
    /// What it injects.
    pub(crate) inject: InjectConfig,
}

/// The webhook cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the webhook cannot listen on {listen}; free the port or give another one")]
pub(crate) struct ListenError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Serves the webhook until `stop`. `ready` is told once there is a certificate to serve.
///
/// # Errors
/// When it cannot listen; anything later is logged and tried again.
pub(crate) async fn serve(
    config: WebhookConfig,
    client: Client,
    knowledge: Arc<dyn Knowledge>,
    counts: Arc<dyn Counts>,
    serving: Arc<Serving>,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    let WebhookConfig {
        listen,
        certificate,
        inject,
    } = config;
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| ListenError { listen, source })?;
    let kept = {
        let (serving, stop) = (Arc::clone(&serving), stop.clone());
        async move {
            match certificate {
                CertificateSource::Files(directory) => {
                    files::follow(directory, serving, stop).await;
                }
                CertificateSource::Own(place) => secret::keep(client, place, serving, stop).await,
            }
        }
    };
    let served = server::serve(listener, serving, knowledge, inject, counts, stop);
    tokio::join!(kept, served);
    Ok(())
}
