//! AKS, API version 2026-08-01: agent pools and machines of one managed cluster. Machines are made with
//! the preview version that is given.
//!
//! Field names are the API's; what is only read is never written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::arm::{Arm, Ask, Condition, Fault, Operation, found, operation, read, said};
use crate::call::{Answer, CallError, Said};

/// Version of the API that the names here are of.
pub const VERSION: &str = "2026-08-01";

/// Version that machines are made with: in no stable version can they be made.
pub const MACHINES_VERSION: &str = "2025-10-02-preview";

/// One managed cluster.
#[derive(Debug)]
pub struct Aks {
    arm: Arc<Arm>,
    subscription: String,
    resource_group: String,
    cluster: String,
}

/// `AgentPool`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentPool {
    /// Id, only read.
    #[serde(skip_serializing)]
    pub id: String,
    /// Name, only read.
    #[serde(skip_serializing)]
    pub name: String,
    /// What it is.
    pub properties: AgentPoolProperties,
}

/// `ManagedClusterAgentPoolProfileProperties`, as far as it is written and read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AgentPoolProperties {
    /// Changes with every change, only read.
    #[serde(skip_serializing, rename = "eTag")]
    pub e_tag: String,
    /// `Creating`, `Succeeded`, `Failed`, `Deleting` and others, only read.
    #[serde(skip_serializing)]
    pub provisioning_state: String,
    /// Why it failed, only read.
    #[serde(skip_serializing)]
    pub status: Status,
    /// Machines.
    pub count: u32,
    /// `Standard_NC24ads_A100_v4`.
    pub vm_size: String,
    /// `VirtualMachineScaleSets`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `User`.
    pub mode: String,
    /// `Linux`.
    pub os_type: String,
    /// `Ubuntu`, `AzureLinux`.
    #[serde(rename = "osSKU", skip_serializing_if = "Option::is_none")]
    pub os_sku: Option<String>,
    /// `Ephemeral`, `Managed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_disk_type: Option<String>,
    /// Size of the system's disk.
    #[serde(rename = "osDiskSizeGB", skip_serializing_if = "Option::is_none")]
    pub os_disk_size_gb: Option<u32>,
    /// `OS`, `Temporary`: where containerd's root is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_disk_type: Option<String>,
    /// Most pods of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pods: Option<u32>,
    /// Version of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator_version: Option<String>,
    /// `1`, `2`, `3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub availability_zones: Vec<String>,
    /// `Spot`, `Regular`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_set_priority: Option<String>,
    /// `Delete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_set_eviction_policy: Option<String>,
    /// In USD per hour; -1 for up to the on-demand price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_max_price: Option<f64>,
    /// Tags of the pool, its scale set and its machines.
    pub tags: BTreeMap<String, String>,
    /// Labels of its nodes.
    pub node_labels: BTreeMap<String, String>,
    /// Taints of its nodes: `key=value:effect`. AKS lets nobody take them off.
    pub node_taints: Vec<String>,
    /// Subnet of nodes.
    #[serde(rename = "vnetSubnetID", skip_serializing_if = "Option::is_none")]
    pub vnet_subnet_id: Option<String>,
    /// Subnet of pods.
    #[serde(rename = "podSubnetID", skip_serializing_if = "Option::is_none")]
    pub pod_subnet_id: Option<String>,
    /// The GPU's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_profile: Option<GpuProfile>,
    /// What nodes are made from, if not the newest image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_data: Option<CreationData>,
    /// Whether images of a registry of Azure are streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_streaming_profile: Option<ArtifactStreaming>,
    /// Reserved capacity to take machines from.
    #[serde(
        rename = "capacityReservationGroupID",
        skip_serializing_if = "Option::is_none"
    )]
    pub capacity_reservation_group_id: Option<String>,
}

/// `GPUProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuProfile {
    /// `Install`, `None`.
    pub driver: String,
}

/// `CreationData`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CreationData {
    /// Id of a snapshot.
    pub source_resource_id: String,
}

/// `AgentPoolArtifactStreamingProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArtifactStreaming {
    /// Whether it is on.
    pub enabled: bool,
}

/// `AgentPoolStatus` and `MachineStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Why it failed.
    pub provisioning_error: Option<Fault>,
    /// `Running`, `Deleted` and others; of machines.
    pub vm_state: String,
}

/// `Machine`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Id, only read.
    #[serde(skip_serializing)]
    pub id: String,
    /// Name: of the node, in a pool of scale sets. Only read.
    #[serde(skip_serializing)]
    pub name: String,
    /// `1`, `2`, `3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// What it is.
    pub properties: MachineProperties,
}

/// `MachineProperties`. All but the first is in preview versions only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineProperties {
    /// Id of the virtual machine, only read.
    #[serde(skip_serializing)]
    pub resource_id: String,
    /// Only read.
    #[serde(skip_serializing)]
    pub provisioning_state: String,
    /// Only read.
    #[serde(skip_serializing)]
    pub status: Status,
    /// Only read.
    #[serde(skip_serializing, rename = "eTag")]
    pub e_tag: String,
    /// Size and GPU.
    pub hardware: MachineHardware,
    /// System and its disk.
    pub operating_system: MachineSystem,
    /// What the kubelet is told.
    pub kubernetes: MachineKubernetes,
    /// `Spot`, `Regular`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// `MachineHardwareProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineHardware {
    /// Size.
    pub vm_size: String,
    /// The GPU's driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_profile: Option<GpuProfile>,
}

/// `MachineOSProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineSystem {
    /// `Linux`.
    pub os_type: String,
    /// `Ubuntu`, `AzureLinux`.
    #[serde(rename = "osSKU", skip_serializing_if = "Option::is_none")]
    pub os_sku: Option<String>,
    /// `Ephemeral`, `Managed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_disk_type: Option<String>,
    /// Size of the system's disk.
    #[serde(rename = "osDiskSizeGB", skip_serializing_if = "Option::is_none")]
    pub os_disk_size_gb: Option<u32>,
}

/// `MachineKubernetesProfile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MachineKubernetes {
    /// Name of the node, only read.
    #[serde(skip_serializing)]
    pub node_name: String,
    /// Labels of the node.
    pub node_labels: BTreeMap<String, String>,
    /// Taints of the node that anybody may take off.
    pub node_initialization_taints: Vec<String>,
    /// `OS`, `Temporary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet_disk_type: Option<String>,
    /// Most pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pods: Option<u32>,
    /// Version of Kubernetes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orchestrator_version: Option<String>,
    /// Whether images of a registry of Azure are streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_streaming_profile: Option<ArtifactStreaming>,
}

/// `ManagedCluster`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ManagedCluster {
    /// Region.
    pub location: String,
    /// What it is.
    pub properties: ManagedClusterProperties,
}

/// `ManagedClusterProperties`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ManagedClusterProperties {
    /// `Succeeded` and others.
    pub provisioning_state: String,
    /// Version of Kubernetes.
    pub current_kubernetes_version: String,
    /// Group of its machines.
    pub node_resource_group: String,
}

/// What became of making something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// It is being made; the operation says how far it is.
    Accepted(Option<Operation>),
    /// The condition does not hold: it is there, or was changed.
    Changed,
    /// Another operation is under way; when to ask again, if the API said.
    Busy(Said, Option<Duration>),
}

/// What became of deleting something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It is ending.
    Ending,
    /// It is not there.
    Absent,
    /// Another operation is under way; when to ask again, if the API said.
    Busy(Said, Option<Duration>),
}

impl Aks {
    /// The cluster of these names.
    pub fn new(arm: Arc<Arm>, subscription: &str, resource_group: &str, cluster: &str) -> Self {
        Self {
            arm,
            subscription: subscription.to_owned(),
            resource_group: resource_group.to_owned(),
            cluster: cluster.to_owned(),
        }
    }

    /// `ManagedClusters - Get`, with the answer it came in.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn managed_cluster(&self) -> Result<(ManagedCluster, Answer), CallError> {
        const API: &str = "managedClusters get";
        let path = self.path(&[]);
        let answer = self.arm.call(&Ask::get(API, &path, VERSION)).await?;
        let answer = found(API, answer)?;
        Ok((read(API, &answer)?, answer))
    }

    /// `Agent Pools - List`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn agent_pools(&self) -> Result<Vec<AgentPool>, CallError> {
        let path = self.path(&["agentPools"]);
        let ask = Ask::get("agentPools list", &path, VERSION);
        self.arm.list(&ask).await
    }

    /// `Agent Pools - Get`; none if the cluster is there and has no such pool.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn agent_pool(&self, name: &str) -> Result<Option<AgentPool>, CallError> {
        let path = self.path(&["agentPools", name]);
        let ask = Ask::get("agentPools get", &path, VERSION);
        self.one(&ask, name).await
    }

    /// `Agent Pools - Create Or Update`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn put_agent_pool(
        &self,
        name: &str,
        pool: &AgentPool,
        condition: Condition,
    ) -> Result<Made, CallError> {
        let path = self.path(&["agentPools", name]);
        let ask = Ask {
            method: Method::PUT,
            condition,
            body: Some(written(pool)),
            ..Ask::get("agentPools createOrUpdate", &path, VERSION)
        };
        self.make::<AgentPool>(&ask).await
    }

    /// `Agent Pools - Delete`, without waiting for disruption budgets: whoever gives a node back has
    /// asked its pods to leave.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn delete_agent_pool(&self, name: &str) -> Result<Deleted, CallError> {
        let path = self.path(&["agentPools", name]);
        let ask = Ask {
            method: Method::DELETE,
            query: &[("ignore-pod-disruption-budget", "true")],
            ..Ask::get("agentPools delete", &path, VERSION)
        };
        self.end(&ask).await
    }

    /// `Machines - List`: the machines of a pool.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn machines(&self, pool: &str) -> Result<Vec<Machine>, CallError> {
        self.machines_as(pool, VERSION).await
    }

    /// The same with all that a preview version says of them.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn machines_as(&self, pool: &str, version: &str) -> Result<Vec<Machine>, CallError> {
        let path = self.path(&["agentPools", pool, "machines"]);
        self.arm
            .list(&Ask::get("machines list", &path, version))
            .await
    }

    /// `Machines - Get`; none if its pool has no such machine.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn machine(
        &self,
        pool: &str,
        name: &str,
        version: &str,
    ) -> Result<Option<Machine>, CallError> {
        let path = self.path(&["agentPools", pool, "machines", name]);
        self.one(&Ask::get("machines get", &path, version), name)
            .await
    }

    /// `Machines - Create Or Update`, in preview versions only.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn put_machine(
        &self,
        pool: &str,
        name: &str,
        machine: &Machine,
        version: &str,
        condition: Condition,
    ) -> Result<Made, CallError> {
        let path = self.path(&["agentPools", pool, "machines", name]);
        let ask = Ask {
            method: Method::PUT,
            condition,
            body: Some(written(machine)),
            ..Ask::get("machines createOrUpdate", &path, version)
        };
        self.make::<Machine>(&ask).await
    }

    /// `Agent Pools - Delete Machines`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn delete_machines(&self, pool: &str, names: &[&str]) -> Result<Deleted, CallError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Parameter<'a> {
            machine_names: &'a [&'a str],
        }
        let machine_names = names;
        let path = self.path(&["agentPools", pool, "deleteMachines"]);
        let ask = Ask {
            method: Method::POST,
            body: Some(written(&Parameter { machine_names })),
            ..Ask::get("agentPools deleteMachines", &path, VERSION)
        };
        self.end(&ask).await
    }

    /// Id of an agent pool.
    pub fn pool_id(&self, pool: &str) -> String {
        format!("/{}", self.path(&["agentPools", pool]).join("/"))
    }

    async fn one<T: serde::de::DeserializeOwned>(
        &self,
        ask: &Ask<'_>,
        name: &str,
    ) -> Result<Option<T>, CallError> {
        let answer = self.arm.call(ask).await?;
        if answer.status != StatusCode::NOT_FOUND {
            return read(ask.api, &found(ask.api, answer)?).map(Some);
        }
        // A pool of a cluster that is not there is not "gone": the cluster may be named wrongly.
        if !said(&answer).message.contains(name) {
            self.managed_cluster().await?;
        }
        Ok(None)
    }

    async fn make<T: serde::de::DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<Made, CallError> {
        let answer = self.arm.call(ask).await?;
        if answer.status == StatusCode::PRECONDITION_FAILED {
            return Ok(Made::Changed);
        }
        if let Some(said) = busy(&answer) {
            return Ok(Made::Busy(said, answer.retry_after(SystemTime::now())));
        }
        let answer = found(ask.api, answer)?;
        read::<T>(ask.api, &answer)?;
        Ok(Made::Accepted(operation(&answer)))
    }

    async fn end(&self, ask: &Ask<'_>) -> Result<Deleted, CallError> {
        let answer = self.arm.call(ask).await?;
        if let Some(said) = busy(&answer) {
            return Ok(Deleted::Busy(said, answer.retry_after(SystemTime::now())));
        }
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(Deleted::Absent),
            _ => found(ask.api, answer).map(|_| Deleted::Ending),
        }
    }

    fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec![
            "subscriptions",
            &self.subscription,
            "resourceGroups",
            &self.resource_group,
            "providers",
            "Microsoft.ContainerService",
            "managedClusters",
            &self.cluster,
        ];
        path.extend(below);
        path
    }
}

/// What a conflict says, if it is one with another operation and nothing else: a quota is told by the
/// same status and code.
fn busy(answer: &Answer) -> Option<Said> {
    if !matches!(
        answer.status,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED
    ) {
        return None;
    }
    let said = said(answer);
    let under_way = ["in progress", "is being", "pending operation", "preempted"];
    let text = said.message.to_lowercase();
    let known = said.code.contains("InProgress") || under_way.iter().any(|it| text.contains(it));
    (known || answer.status == StatusCode::PRECONDITION_FAILED).then_some(said)
}

fn written(value: &impl Serialize) -> Bytes {
    // Maps with text as keys, and numbers: nothing here can fail to be written.
    serde_json::to_vec(value).unwrap_or_default().into()
}
