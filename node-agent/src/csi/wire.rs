//! The generated protocols, one module per protobuf package.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated from proto/, where the names are explained"
)]

/// The Container Storage Interface.
pub(crate) mod csi {
    tonic::include_proto!("csi.v1");
}

/// How the kubelet learns of a plugin.
pub(crate) mod registration {
    tonic::include_proto!("pluginregistration");
}
