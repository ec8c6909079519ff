//! The two sockets: the plugin's own, and the one by which the kubelet finds it.
//!
//! ```text
//! <kubelet>/plugins_registry/csi.headstart.dev-reg.sock   looked for by the kubelet, asked who it is
//! <kubelet>/plugins/csi.headstart.dev/csi.sock            the plugin
//! ```
//!
//! The kubelet looks when it starts and when a socket appears. So a socket of an agent before this
//! one is replaced, and one that somebody removed is made again.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use headstart_api::names::CSI_DRIVER;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::CsiError;
use super::authority::Local;
use super::wire::csi::identity_server::IdentityServer;
use super::wire::csi::node_server::NodeServer;
use super::wire::registration as wire;
use super::wire::registration::registration_server::{Registration, RegistrationServer};
use crate::items::blocking;

/// How often it is looked whether the sockets are still there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long calls under way may take to end when the agent does.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The sockets below a kubelet's root.
#[derive(Clone, Debug)]
pub(super) struct Sockets {
    plugin: PathBuf,
    registration: PathBuf,
}

/// A socket that is listened at, known by its inode.
struct Listening {
    path: PathBuf,
    inode: u64,
}

impl Sockets {
    pub(super) fn of(kubelet: &Path, plugin: PathBuf) -> Self {
        Self {
            plugin,
            registration: kubelet
                .join("plugins_registry")
                .join(format!("{CSI_DRIVER}-reg.sock")),
        }
    }

    /// Serves at both until `stop`; what was asked before is answered. The sockets are removed.
    pub(super) async fn serve(
        &self,
        identity: IdentityServer<super::node::Who>,
        node: NodeServer<super::node::OnNode>,
        stop: &CancellationToken,
    ) -> Result<(), CsiError> {
        let answers = RegistrationServer::new(Registered {
            endpoint: self.plugin.clone(),
        });
        let until = stop.child_token();
        let mut servers = JoinSet::new();
        loop {
            let (plugin, at_plugin) = listen(&self.plugin).await?;
            // The kubelet calls the plugin as soon as it finds this one.
            let (registration, at_registration) = listen(&self.registration).await?;
            let sockets = [plugin, registration];
            // What is asked at a socket that is removed is answered all the same.
            let until = until.child_token();
            let calls = Server::builder()
                .add_service(identity.clone())
                .add_service(node.clone())
                .serve_with_incoming_shutdown(at_plugin, until.clone().cancelled_owned());
            let asks = Server::builder()
                .add_service(answers.clone())
                .serve_with_incoming_shutdown(at_registration, until.clone().cancelled_owned());
            for (path, served) in [
                (self.plugin.clone(), calls.boxed()),
                (self.registration.clone(), asks.boxed()),
            ] {
                servers.spawn(async move {
                    served
                        .await
                        .map_err(|source| CsiError::Serve { path, source })
                });
            }
            let failed = tokio::select! {
                () = stop.cancelled() => break,
                path = gone(&sockets) => {
                    tracing::warn!(socket = %path.display(), "a socket of the plugin was removed, made again");
                    until.cancel();
                    continue;
                }
                failed = first_failure(&mut servers) => failed,
            };
            return Err(failed);
        }
        let ended = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(ENDS_WITHIN, ended).await.is_err() {
            tracing::info!("calls of the kubelet are cut off, it will make them again");
        }
        let sockets = [self.registration.clone(), self.plugin.clone()];
        blocking(move || {
            for path in sockets {
                // A socket without a listener is replaced by the next agent anyway.
                let _ = fs::remove_file(path);
            }
        })
        .await;
        Ok(())
    }
}

/// Returns when one of `sockets` is no longer there.
async fn gone(sockets: &[Listening]) -> PathBuf {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for socket in sockets {
            let found = tokio::fs::symlink_metadata(&socket.path).await;
            if !found.is_ok_and(|found| found.ino() == socket.inode) {
                return socket.path.clone();
            }
        }
    }
}

/// Returns when a server ends that was not told to.
async fn first_failure(servers: &mut JoinSet<Result<(), CsiError>>) -> CsiError {
    loop {
        match servers.join_next().await {
            Some(Ok(Err(error))) => return error,
            // One whose socket was removed.
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

async fn listen(
    path: &Path,
) -> Result<
    (
        Listening,
        impl Stream<Item = io::Result<Local<UnixStream>>> + use<>,
    ),
    CsiError,
> {
    let failed = |source| CsiError::Listen {
        path: path.to_owned(),
        source,
    };
    let prepared = path.to_owned();
    blocking(move || {
        if let Some(directory) = prepared.parent() {
            let mut make = fs::DirBuilder::new();
            make.recursive(true).mode(0o750).create(directory)?;
        }
        match fs::remove_file(&prepared) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    })
    .await
    .map_err(failed)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let inode = tokio::fs::symlink_metadata(path)
        .await
        .map_err(failed)?
        .ino();
    let listening = Listening {
        path: path.to_owned(),
        inode,
    };
    let accepted = stream::unfold(listener, |listener| async {
        let accepted = listener
            .accept()
            .await
            .map(|(stream, _)| Local::new(stream));
        Some((accepted, listener))
    });
    Ok((listening, accepted))
}

/// Answers a kubelet that has found the socket.
#[derive(Clone)]
struct Registered {
    endpoint: PathBuf,
}

#[tonic::async_trait]
impl Registration for Registered {
    async fn get_info(
        &self,
        _: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::PluginInfo>, Status> {
        Ok(Response::new(wire::PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: CSI_DRIVER.to_owned(),
            endpoint: self.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        }))
    }

    async fn notify_registration_status(
        &self,
        status: Request<wire::RegistrationStatus>,
    ) -> Result<Response<wire::RegistrationStatusResponse>, Status> {
        let status = status.into_inner();
        match status.plugin_registered {
            true => tracing::info!("the kubelet has registered the csi plugin"),
            // The kubelet tries again by itself.
            false => {
                tracing::warn!(reason = %status.error, "the kubelet has not registered the csi plugin");
            }
        }
        Ok(Response::new(wire::RegistrationStatusResponse {}))
    }
}
