//! The calls of the Container Storage Interface, turned into ours and back.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use headstart_api::names::CSI_DRIVER;

use super::metrics::Outcome;
use super::publish::{Publisher, Unpublished};
use super::request::{Wanted, target};
use super::wire::csi;
use super::wire::csi::identity_server::Identity;
use super::wire::csi::node_server::Node;
use crate::report::chain;

/// Answers who this is.
pub(super) struct Who;

#[tonic::async_trait]
impl Identity for Who {
    async fn get_plugin_info(
        &self,
        _: Request<csi::GetPluginInfoRequest>,
    ) -> Result<Response<csi::GetPluginInfoResponse>, Status> {
        Ok(Response::new(csi::GetPluginInfoResponse {
            name: CSI_DRIVER.to_owned(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<csi::GetPluginCapabilitiesRequest>,
    ) -> Result<Response<csi::GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::GetPluginCapabilitiesResponse {}))
    }

    async fn probe(
        &self,
        _: Request<csi::ProbeRequest>,
    ) -> Result<Response<csi::ProbeResponse>, Status> {
        Ok(Response::new(csi::ProbeResponse { ready: Some(true) }))
    }
}

/// Answers the kubelet of this node.
pub(super) struct OnNode {
    pub(super) name: String,
    pub(super) kubelet: PathBuf,
    pub(super) publisher: Arc<Publisher>,
}

#[tonic::async_trait]
impl Node for OnNode {
    async fn node_publish_volume(
        &self,
        request: Request<csi::NodePublishVolumeRequest>,
    ) -> Result<Response<csi::NodePublishVolumeResponse>, Status> {
        let began = Instant::now();
        let wanted = Wanted::read(request.into_inner(), &self.kubelet);
        let (outcome, answer) = match wanted {
            Err(error) => (
                Outcome::Invalid,
                Err(Status::invalid_argument(chain(&error))),
            ),
            Ok(wanted) => match self.publisher.publish(wanted).await {
                Ok(outcome) => (outcome, Ok(csi::NodePublishVolumeResponse {})),
                Err(error) => {
                    let (outcome, code) = match error {
                        // With this code the kubelet will take the volume away if the pod goes.
                        Unpublished::Waiting(_) => (Outcome::Waiting, Code::Aborted),
                        Unpublished::Refused(_) => (Outcome::Refused, Code::PermissionDenied),
                        Unpublished::Failed(_) => (Outcome::Failed, Code::Internal),
                    };
                    (outcome, Err(Status::new(code, chain(&error))))
                }
            },
        };
        self.publisher.metrics.published(outcome, began.elapsed());
        answer.map(Response::new)
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<csi::NodeUnpublishVolumeRequest>,
    ) -> Result<Response<csi::NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        let invalid = |error: &dyn std::error::Error| Status::invalid_argument(chain(error));
        let id = request.volume_id.parse().map_err(|error| invalid(&error))?;
        let target =
            target(&request.target_path, &self.kubelet).map_err(|error| invalid(&error))?;
        match self.publisher.unpublish(id, target).await {
            Ok(()) => Ok(Response::new(csi::NodeUnpublishVolumeResponse {})),
            Err(error) => {
                let said = chain(&error);
                tracing::warn!(volume = %request.volume_id, reason = %said, "volume not taken away");
                Err(Status::internal(said))
            }
        }
    }

    async fn node_get_capabilities(
        &self,
        _: Request<csi::NodeGetCapabilitiesRequest>,
    ) -> Result<Response<csi::NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(csi::NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<csi::NodeGetInfoRequest>,
    ) -> Result<Response<csi::NodeGetInfoResponse>, Status> {
        Ok(Response::new(csi::NodeGetInfoResponse {
            node_id: self.name.clone(),
            max_volumes_per_node: 0,
        }))
    }
}
