//! EKS: what a node has to know of its cluster.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use url::Url;

use super::credentials::Credentials;
use super::wire::Wire;
use crate::call::{CallError, Caller};

/// EKS in one region.
#[derive(Debug)]
pub struct Eks {
    wire: Wire,
}

/// A cluster, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// `ACTIVE`, `CREATING`, `UPDATING`, `FAILED`.
    pub status: String,
    /// `1.34`.
    pub version: String,
    /// URL of its API server.
    pub endpoint: String,
    /// Who signed that server's certificate.
    #[serde(deserialize_with = "some")]
    pub certificate_authority: Certificate,
    /// Addresses of Services.
    #[serde(deserialize_with = "some")]
    pub kubernetes_network_config: KubernetesNetworkConfig,
    /// Its place in the network.
    #[serde(deserialize_with = "some")]
    pub resources_vpc_config: VpcConfig,
    /// Who may join and call.
    #[serde(deserialize_with = "some")]
    pub access_config: AccessConfig,
}

/// A certificate authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// PEM in base64.
    pub data: String,
}

/// Addresses of Services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesNetworkConfig {
    /// `10.100.0.0/16`; empty for a cluster of IPv6.
    pub service_ipv4_cidr: String,
    /// `fd00::/108`, for a cluster of IPv6.
    pub service_ipv6_cidr: String,
}

/// Place in the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VpcConfig {
    /// Subnets that the control plane has a foot in.
    pub subnet_ids: Vec<String>,
    /// Group that nodes and the control plane share.
    pub cluster_security_group_id: String,
    /// `vpc-…`.
    pub vpc_id: String,
}

/// Who may join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AccessConfig {
    /// `API`, `API_AND_CONFIG_MAP`, `CONFIG_MAP`.
    pub authentication_mode: String,
}

#[derive(Deserialize)]
struct Described {
    cluster: Cluster,
}

impl Eks {
    /// EKS of `region` at `endpoint` (`https://eks.us-east-1.amazonaws.com`).
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "eks"),
        }
    }

    /// A cluster by its name: letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// As [`CallError`] says; `ResourceNotFoundException` when there is none.
    pub async fn describe_cluster(&self, name: &str) -> Result<Cluster, CallError> {
        let path = format!("/clusters/{}", super::sign::encode(name));
        let described: Described = self.wire.get("DescribeCluster", path).await?;
        Ok(described.cluster)
    }
}

/// What a cluster has nothing of can be written as null.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    let read: Option<T> = Deserialize::deserialize(from)?;
    Ok(read.unwrap_or_default())
}
