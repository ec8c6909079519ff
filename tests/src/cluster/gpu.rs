//! Fake GPUs: a device plugin whose devices are names.
//!
//! It registers late if it is told to, and again whenever the kubelet has started anew. A
//! container that gets some finds their names in `NVIDIA_VISIBLE_DEVICES`.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use self::wire::device_plugin_server::{DevicePlugin, DevicePluginServer};
use self::wire::registration_client::RegistrationClient;

#[expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
mod wire {
    tonic::include_proto!("v1beta1");
}

/// Where the kubelet keeps the sockets.
const DIRECTORY: &str = "/var/lib/kubelet/device-plugins";

/// The plugin's socket there.
const SOCKET: &str = "headstart-gpu.sock";

/// How often it looks whether the kubelet has come or gone.
const LOOK: Duration = Duration::from_millis(100);

/// Which GPUs a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gpus {
    /// How many.
    pub count: usize,
    /// How long after the node's start the plugin registers them.
    pub after: Duration,
}

/// Offers `gpus` as `nvidia.com/gpu` to the kubelet of the node it runs on, until it is ended.
///
/// # Errors
/// If it cannot listen.
pub async fn serve(gpus: Gpus) -> Result<()> {
    tokio::time::sleep(gpus.after).await;
    let directory = Path::new(DIRECTORY);
    let (own, kubelet) = (directory.join(SOCKET), directory.join("kubelet.sock"));
    loop {
        while !kubelet.exists() {
            tokio::time::sleep(LOOK).await;
        }
        let _ = std::fs::remove_file(&own);
        let listener =
            UnixListener::bind(&own).with_context(|| format!("listen at {}", own.display()))?;
        let plugin = Server::builder()
            .add_service(DevicePluginServer::new(Plugin { count: gpus.count }))
            .serve_with_incoming(futures_util::stream::unfold(listener, |listener| async {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            }));
        let serving = tokio::spawn(plugin);
        match register(&kubelet).await {
            // A kubelet that starts empties the directory.
            Ok(()) => {
                while own.exists() {
                    tokio::time::sleep(LOOK).await;
                }
            }
            Err(error) => {
                eprintln!("not registered: {error:#}");
                tokio::time::sleep(LOOK).await;
            }
        }
        serving.abort();
    }
}

async fn register(kubelet: &Path) -> Result<()> {
    let path = kubelet.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await?;
    let request = wire::RegisterRequest {
        version: "v1beta1".to_owned(),
        endpoint: SOCKET.to_owned(),
        resource_name: "nvidia.com/gpu".to_owned(),
        options: Some(wire::DevicePluginOptions::default()),
    };
    RegistrationClient::new(channel).register(request).await?;
    Ok(())
}

struct Plugin {
    count: usize,
}

type Devices = Pin<Box<dyn Stream<Item = Result<wire::ListAndWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl DevicePlugin for Plugin {
    async fn get_device_plugin_options(
        &self,
        _: Request<wire::Empty>,
    ) -> Result<Response<wire::DevicePluginOptions>, Status> {
        Ok(Response::new(wire::DevicePluginOptions::default()))
    }

    type ListAndWatchStream = Devices;

    /// All devices once; then nothing ever changes.
    async fn list_and_watch(&self, _: Request<wire::Empty>) -> Result<Response<Devices>, Status> {
        let device = |number| wire::Device {
            id: format!("gpu-{number}"),
            health: "Healthy".to_owned(),
        };
        let devices = (0..self.count).map(device).collect();
        let all = futures_util::stream::iter([Ok(wire::ListAndWatchResponse { devices })]);
        let all = futures_util::StreamExt::chain(all, futures_util::stream::pending());
        Ok(Response::new(Box::pin(all)))
    }

    async fn allocate(
        &self,
        request: Request<wire::AllocateRequest>,
    ) -> Result<Response<wire::AllocateResponse>, Status> {
        let wanted = request.into_inner().container_requests;
        let given = wanted.into_iter().map(|wanted| {
            let names = wanted.devices_ids.join(",");
            let envs = HashMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), names)]);
            wire::ContainerAllocateResponse { envs }
        });
        let container_responses = given.collect();
        Ok(Response::new(wire::AllocateResponse {
            container_responses,
        }))
    }
}
