//! GKE's API, `container` v1: a cluster, and its node pools.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::api::{Api, Ask};
use crate::call::{Answer, CallError};

/// The node pools of one cluster.
#[derive(Debug)]
pub struct Container {
    api: Api,
    project: String,
    location: String,
    cluster: String,
}

/// A cluster, as far as it is read. Names are the API's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Zones that its nodes are in.
    pub locations: Vec<String>,
    /// `RUNNING`, `RECONCILING`, `DEGRADED`.
    pub status: String,
    /// Its pools.
    pub node_pools: Vec<NodePool>,
    /// Whether it is Autopilot, where nobody makes pools.
    pub autopilot: Autopilot,
}

/// `Cluster.autopilot`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Autopilot {
    /// Whether it is.
    pub enabled: bool,
}

/// A node pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodePool {
    /// Its name, which is its key.
    pub name: String,
    /// What its nodes are.
    pub config: NodeConfig,
    /// Nodes to begin with, in each zone.
    pub initial_node_count: u32,
    /// Zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<String>,
    /// Its managed instance groups, one per zone.
    #[serde(skip_serializing)]
    pub instance_group_urls: Vec<String>,
    /// `PROVISIONING`, `RUNNING`, `RUNNING_WITH_ERROR`, `RECONCILING`, `STOPPING`, `ERROR`.
    #[serde(skip_serializing)]
    pub status: String,
    /// Why it is as it is.
    #[serde(skip_serializing)]
    pub conditions: Vec<StatusCondition>,
    /// Whether GKE scales it.
    pub autoscaling: Autoscaling,
}

/// `NodePool.autoscaling`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Autoscaling {
    /// Whether GKE scales it.
    pub enabled: bool,
}

/// A condition of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusCondition {
    /// `GCE_STOCKOUT`, `GCE_QUOTA_EXCEEDED`.
    pub code: String,
    /// `RESOURCE_EXHAUSTED`.
    pub canonical_code: String,
    /// Words.
    pub message: String,
}

/// What the nodes of a pool are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfig {
    /// `g2-standard-4`.
    pub machine_type: String,
    /// Whether they are spot.
    pub spot: bool,
    /// Size of the boot disk; GKE's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_size_gb: Option<u32>,
    /// `pd-balanced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_type: Option<String>,
    /// `COS_CONTAINERD`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_type: Option<String>,
    /// Account that nodes run as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// What that account may be used for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oauth_scopes: Vec<String>,
    /// Labels of the Nodes.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Nodes.
    pub taints: Vec<NodeTaint>,
    /// Labels of the machines, in Compute Engine.
    pub resource_labels: BTreeMap<String, String>,
    /// Network tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accelerators: Vec<AcceleratorConfig>,
    /// Local SSDs, striped, for the kubelet's directory, containerd's and `emptyDir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage_local_ssd_config: Option<EphemeralStorageLocalSsdConfig>,
    /// Disks with images on them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secondary_boot_disks: Vec<SecondaryBootDisk>,
    /// Image streaming, without which there are no secondary boot disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gcfs_config: Option<GcfsConfig>,
}

/// A taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeTaint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// `NO_SCHEDULE`, `PREFER_NO_SCHEDULE`, `NO_EXECUTE`.
    pub effect: String,
}

/// GPUs of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AcceleratorConfig {
    /// How many, as the API writes 64 bits: as text.
    pub accelerator_count: String,
    /// `nvidia-l4`.
    pub accelerator_type: String,
    /// Whose driver.
    pub gpu_driver_installation_config: GpuDriverInstallationConfig,
}

/// Who installs the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GpuDriverInstallationConfig {
    /// `DEFAULT`, `LATEST`, `INSTALLATION_DISABLED`.
    pub gpu_driver_version: String,
}

/// Local SSDs as ephemeral storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EphemeralStorageLocalSsdConfig {
    /// How many.
    pub local_ssd_count: u32,
}

/// A disk with images on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SecondaryBootDisk {
    /// `projects/P/global/images/I`.
    pub disk_image: String,
    /// `CONTAINER_IMAGE_CACHE`.
    pub mode: String,
}

/// Image streaming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcfsConfig {
    /// Whether it is on.
    pub enabled: bool,
}

/// Something that GKE is doing.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Its id.
    pub name: String,
    /// `PENDING`, `RUNNING`, `DONE`, `ABORTING`.
    pub status: String,
    /// Why it failed.
    pub error: Option<Status>,
    /// The same, in words; older.
    pub status_message: String,
}

/// `google.rpc.Status`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Status {
    /// A `google.rpc.Code`.
    pub code: u32,
    /// Words.
    pub message: String,
}

impl Container {
    /// The cluster of this name; its location is a region or a zone.
    pub fn new(api: Api, project: &str, location: &str, cluster: &str) -> Self {
        Self {
            api,
            project: project.to_owned(),
            location: location.to_owned(),
            cluster: cluster.to_owned(),
        }
    }

    fn location(&self) -> Vec<&str> {
        vec!["v1", "projects", &self.project, "locations", &self.location]
    }

    fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = self.location();
        path.extend(["clusters", &self.cluster]);
        path.extend(below);
        path
    }

    /// `clusters.get`: the cluster and all its pools.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn cluster(&self) -> Result<Cluster, CallError> {
        let ask = Ask::get("clusters.get", self.path(&[]));
        self.api.call(&ask).await
    }

    /// The same as it came, for a look at its headers.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn cluster_answer(&self) -> Result<Answer, CallError> {
        let ask = Ask::get("clusters.get", self.path(&[]));
        self.api.answer(&ask).await
    }

    /// `nodePools.get`.
    ///
    /// # Errors
    /// As [`CallError`] says; `notFound` or `NOT_FOUND` where there is none.
    pub async fn node_pool(&self, name: &str) -> Result<NodePool, CallError> {
        let ask = Ask::get("nodePools.get", self.path(&["nodePools", name]));
        self.api.call(&ask).await
    }

    /// `nodePools.list`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn node_pools(&self) -> Result<Vec<NodePool>, CallError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Listed {
            #[serde(default)]
            node_pools: Vec<NodePool>,
        }
        let ask = Ask::get("nodePools.list", self.path(&["nodePools"]));
        let listed: Listed = self.api.call(&ask).await?;
        Ok(listed.node_pools)
    }

    /// `nodePools.create`. There is no request id: the pool's name makes it happen once.
    ///
    /// # Errors
    /// As [`CallError`] says; of note are `ALREADY_EXISTS`, `FAILED_PRECONDITION` while another
    /// operation is under way, `INVALID_ARGUMENT`.
    pub async fn create(&self, pool: &NodePool) -> Result<Operation, CallError> {
        const API: &str = "nodePools.create";
        let body = json!({"nodePool": written(API, pool)?});
        let ask = Ask::post(API, self.path(&["nodePools"]), Some(body));
        self.api.call(&ask).await
    }

    /// `nodePools.delete`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn delete(&self, name: &str) -> Result<Operation, CallError> {
        let mut ask = Ask::get("nodePools.delete", self.path(&["nodePools", name]));
        ask.method = http::Method::DELETE;
        self.api.call(&ask).await
    }

    /// `operations.get`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn operation(&self, name: &str) -> Result<Operation, CallError> {
        let mut path = self.location();
        path.extend(["operations", name]);
        self.api.call(&Ask::get("operations.get", path)).await
    }
}

fn written(api: &'static str, pool: &NodePool) -> Result<Value, CallError> {
    serde_json::to_value(pool).map_err(|error| CallError::Unreadable {
        api,
        what: error.to_string(),
        request: "-".to_owned(),
    })
}
