//! What a pool says of its nodes, in `spec.provider`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::Refusal;

/// `spec.provider` of a pool. What is not given is as AKS has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Id of the subnet of nodes.
    pub(super) subnet: Option<String>,
    /// Id of the subnet of pods.
    pub(super) pod_subnet: Option<String>,
    /// `Ubuntu`, `AzureLinux` or another.
    pub(super) os_sku: Option<String>,
    /// Where the system is; on the local disk, which is ephemeral, where the size has one.
    pub(super) os_disk: Option<OsDisk>,
    /// Size of the system's disk, at most 2048.
    pub(super) os_disk_size_gb: Option<u32>,
    /// Where containerd and the kubelet have their files.
    pub(super) kubelet_disk: Option<KubeletDisk>,
    /// Most pods of a node.
    pub(super) max_pods: Option<u32>,
    /// Version of Kubernetes; the cluster's when not given.
    pub(super) kubernetes_version: Option<String>,
    /// Whether AKS installs the GPU's driver.
    pub(super) gpu_driver: Option<GpuDriver>,
    /// Id of a snapshot of an agent pool, whose image nodes are made from.
    pub(super) snapshot: Option<String>,
    /// Whether images of an Azure registry are streamed.
    pub(super) artifact_streaming: Option<bool>,
    /// Id of a group of reserved capacity.
    pub(super) capacity_reservation_group: Option<String>,
    /// Most that spot may cost, in USD per hour; the on-demand price when not given.
    pub(super) spot_max_price: Option<f64>,
    /// Who sees to it that pods tolerate what AKS puts on spot nodes.
    pub(super) spot_taint: SpotTaint,
    /// More tags.
    pub(super) tags: BTreeMap<String, String>,
}

/// Where the system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum OsDisk {
    Ephemeral,
    Managed,
}

/// Where containerd and the kubelet have their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum KubeletDisk {
    #[serde(rename = "OS")]
    Os,
    Temporary,
}

/// Whether AKS installs the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum GpuDriver {
    Install,
    None,
}

/// Who sees to it that pods tolerate spot's taint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum SpotTaint {
    /// The pool lists it among its taints, so that only pods are planned that do.
    #[default]
    Listed,
    /// All its pods do.
    Tolerated,
}

impl OsDisk {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ephemeral => "Ephemeral",
            Self::Managed => "Managed",
        }
    }
}

impl GpuDriver {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Install => "Install",
            Self::None => "None",
        }
    }
}

impl Settings {
    /// Reads them; the refusal names the field.
    pub(super) fn read(written: &Map<String, Value>) -> Result<Self, Refusal> {
        let value = Value::Object(written.clone());
        let settings: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let field = match path.as_str() {
                "." => "spec.provider".to_owned(),
                path => format!("spec.provider.{path}"),
            };
            misconfigured(field, error.inner().to_string())
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Refuses what machines of a pool have from their pool.
    pub(super) fn check_machines(&self) -> Result<(), Refusal> {
        let of_pool = [
            ("subnet", self.subnet.is_some()),
            ("podSubnet", self.pod_subnet.is_some()),
            ("snapshot", self.snapshot.is_some()),
            (
                "capacityReservationGroup",
                self.capacity_reservation_group.is_some(),
            ),
            ("spotMaxPrice", self.spot_max_price.is_some()),
        ];
        match of_pool.iter().find(|(_, set)| *set) {
            None => Ok(()),
            Some((field, _)) => Err(misconfigured(
                format!("spec.provider.{field}"),
                "machines of an agent pool have it from their pool: set it there".to_owned(),
            )),
        }
    }

    pub(super) fn kubelet_disk(&self) -> Option<String> {
        let word = self.kubelet_disk.map(|disk| match disk {
            KubeletDisk::Os => "OS",
            KubeletDisk::Temporary => "Temporary",
        });
        word.map(str::to_owned)
    }

    fn check(&self) -> Result<(), Refusal> {
        let ids = [
            ("subnet", &self.subnet, "/subnets/"),
            ("podSubnet", &self.pod_subnet, "/subnets/"),
            ("snapshot", &self.snapshot, "/snapshots/"),
            (
                "capacityReservationGroup",
                &self.capacity_reservation_group,
                "/capacityReservationGroups/",
            ),
        ];
        for (field, id, kind) in ids {
            let Some(id) = id else { continue };
            let (lower, kind_lower) = (id.to_lowercase(), kind.to_lowercase());
            if !lower.starts_with("/subscriptions/") || !lower.contains(&kind_lower) {
                return Err(misconfigured(
                    format!("spec.provider.{field}"),
                    format!("{id:?} is no id: write /subscriptions/…{kind}NAME"),
                ));
            }
        }
        if self.os_disk_size_gb.is_some_and(|gb| gb > 2048) {
            return Err(misconfigured(
                "spec.provider.osDiskSizeGb".to_owned(),
                "AKS makes system disks of at most 2048 GB".to_owned(),
            ));
        }
        let price = self.spot_max_price;
        if price.is_some_and(|usd| usd != -1.0 && usd <= 0.0) {
            return Err(misconfigured(
                "spec.provider.spotMaxPrice".to_owned(),
                "write USD per hour, or leave it out for up to the on-demand price".to_owned(),
            ));
        }
        let wrong = |text: &str| text.contains(['<', '>', '%', '&', '\\', '?', '/']);
        let ours = |tag: &str| tag.to_lowercase().starts_with("headstart.dev_");
        match self.tags.keys().find(|tag| wrong(tag) || ours(tag)) {
            None => Ok(()),
            Some(tag) => Err(misconfigured(
                "spec.provider.tags".to_owned(),
                format!("{tag:?} is no name for a tag of Azure, or is one of Headstart's own"),
            )),
        }
    }
}

fn misconfigured(field: String, said: String) -> Refusal {
    Refusal::Misconfigured { field, said }
}
