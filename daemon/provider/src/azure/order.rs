//! What is written for a claim: names, tags, and the body that makes its node.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use headstart_api::{PoolTaint, names};
use headstart_clouds::azure::aks::{
    AgentPool, AgentPoolProperties, ArtifactStreaming, CreationData, GpuProfile, Machine,
    MachineHardware, MachineKubernetes, MachineProperties, MachineSystem,
};
use headstart_core::offer::{CapacityType, OfferingKey};
use sha2::{Digest as _, Sha256};

use super::settings::{Settings, SpotTaint};
use super::{Azure, Nodes};
use crate::{Refusal, Wanted};

/// Tag: name of the cluster that a node is for. Azure's tags hold no slash.
pub(super) const CLUSTER_TAG: &str = "headstart.dev_cluster";

/// Tag: the claim.
pub(super) const CLAIM_TAG: &str = "headstart.dev_node-claim";

/// Tag: when it was asked for, in seconds since 1970. AKS does not say when a pool was made.
const CREATED_TAG: &str = "headstart.dev_created";

/// What AKS puts on every spot node, and lets nobody take off.
const SPOT_TAINT: (&str, &str, &str) = (
    "kubernetes.azure.com/scalesetpriority",
    "spot",
    "NoSchedule",
);

/// Longest name of an agent pool.
const NAME: usize = 12;

/// A node to make, in AKS's words.
#[derive(Clone, Debug)]
pub(super) struct Order {
    size: String,
    zones: Vec<String>,
    priority: &'static str,
    tags: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    taints: Vec<String>,
    os_disk: Option<String>,
    settings: Settings,
}

impl Azure {
    /// What to write for a claim; refused where it makes no sense, before anything is asked.
    pub(super) fn order(&self, wanted: &Wanted, settings: &Settings) -> Result<Order, Refusal> {
        let kind = &wanted.offering.instance_type;
        let known = self.catalog.types.iter().find(|it| it.name == *kind);
        let local_disk = known.is_some_and(|kind| kind.local_nvme > 0);
        if self.config.nodes != Nodes::AgentPools {
            settings.check_machines()?;
        } else if let Some(taint) = wanted.startup_taints.first() {
            return Err(Refusal::Misconfigured {
                field: "spec.startupTaints".to_owned(),
                said: format!(
                    "AKS keeps {} on the nodes of an agent pool for ever: take it out, or set \
                     nodes.machines of the provider's configuration",
                    taint.key
                ),
            });
        }
        let priority = match wanted.offering.capacity_type {
            CapacityType::Spot => {
                check_spot_taint(&wanted.taints, settings)?;
                "Spot"
            }
            CapacityType::OnDemand => "Regular",
            CapacityType::Reserved if settings.capacity_reservation_group.is_some() => "Regular",
            CapacityType::Reserved => {
                return Err(Refusal::Misconfigured {
                    field: "spec.provider.capacityReservationGroup".to_owned(),
                    said: "reserved capacity is to be bought: write the id of its group".to_owned(),
                });
            }
        };
        let mut tags = settings.tags.clone();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs().to_string();
        for (tag, value) in [
            (CLUSTER_TAG, self.cluster.clone()),
            (CLAIM_TAG, wanted.claim.clone()),
            (CREATED_TAG, now),
        ] {
            tags.insert(tag.to_owned(), value);
        }
        let mut labels = wanted.labels.clone();
        labels.retain(|key, _| !is_akss_own(key));
        labels.insert(names::NODE_CLAIM.to_owned(), wanted.claim.clone());
        let taints = wanted.first_taints().filter(|taint| !is_spot_taint(taint));
        Ok(Order {
            size: kind.clone(),
            zones: self.zones(&wanted.offering)?,
            priority,
            tags,
            labels,
            taints: taints.map(written).collect(),
            // On the local disk is where containerd's and the agent's bytes are to be.
            os_disk: settings
                .os_disk
                .map(|disk| disk.word().to_owned())
                .or_else(|| local_disk.then(|| "Ephemeral".to_owned())),
            settings: settings.clone(),
        })
    }

    /// Zones as AKS writes them: `1` of `eastus-1`, none of the region itself.
    fn zones(&self, offering: &OfferingKey) -> Result<Vec<String>, Refusal> {
        let location = &self.config.location;
        if offering.zone == *location {
            return Ok(Vec::new());
        }
        let number = offering.zone.strip_prefix(location.as_str());
        let number = number.and_then(|rest| rest.strip_prefix('-'));
        match number {
            Some(zone) if zone.parse::<u8>().is_ok() => Ok(vec![zone.to_owned()]),
            _ => Err(Refusal::Misconfigured {
                field: "spec.requirements".to_owned(),
                said: format!(
                    "zone {:?} is none of {location}, whose zones are {location}-1 and so on",
                    offering.zone
                ),
            }),
        }
    }
}

impl Order {
    /// As an agent pool of one machine.
    pub(super) fn agent_pool(&self) -> AgentPool {
        let settings = &self.settings;
        let spot = self.priority == "Spot";
        let properties = AgentPoolProperties {
            count: 1,
            vm_size: self.size.clone(),
            kind: "VirtualMachineScaleSets".to_owned(),
            mode: "User".to_owned(),
            os_type: "Linux".to_owned(),
            os_sku: settings.os_sku.clone(),
            os_disk_type: self.os_disk.clone(),
            os_disk_size_gb: settings.os_disk_size_gb,
            kubelet_disk_type: settings.kubelet_disk(),
            max_pods: settings.max_pods,
            orchestrator_version: settings.kubernetes_version.clone(),
            availability_zones: self.zones.clone(),
            scale_set_priority: Some(self.priority.to_owned()),
            scale_set_eviction_policy: spot.then(|| "Delete".to_owned()),
            spot_max_price: spot.then(|| settings.spot_max_price.unwrap_or(-1.0)),
            tags: self.tags.clone(),
            node_labels: self.labels.clone(),
            node_taints: self.taints.clone(),
            vnet_subnet_id: settings.subnet.clone(),
            pod_subnet_id: settings.pod_subnet.clone(),
            gpu_profile: self.gpu_profile(),
            creation_data: settings.snapshot.clone().map(|id| CreationData {
                source_resource_id: id,
            }),
            artifact_streaming_profile: self.streaming(),
            capacity_reservation_group_id: settings.capacity_reservation_group.clone(),
            ..AgentPoolProperties::default()
        };
        AgentPool {
            properties,
            ..AgentPool::default()
        }
    }

    /// As a machine of a pool.
    pub(super) fn machine(&self) -> Machine {
        let settings = &self.settings;
        let properties = MachineProperties {
            hardware: MachineHardware {
                vm_size: self.size.clone(),
                gpu_profile: self.gpu_profile(),
            },
            operating_system: MachineSystem {
                os_type: "Linux".to_owned(),
                os_sku: settings.os_sku.clone(),
                os_disk_type: self.os_disk.clone(),
                os_disk_size_gb: settings.os_disk_size_gb,
            },
            kubernetes: MachineKubernetes {
                node_labels: self.labels.clone(),
                node_initialization_taints: self.taints.clone(),
                kubelet_disk_type: settings.kubelet_disk(),
                max_pods: settings.max_pods,
                orchestrator_version: settings.kubernetes_version.clone(),
                artifact_streaming_profile: self.streaming(),
                ..MachineKubernetes::default()
            },
            priority: Some(self.priority.to_owned()),
            tags: self.tags.clone(),
            ..MachineProperties::default()
        };
        Machine {
            zones: self.zones.clone(),
            properties,
            ..Machine::default()
        }
    }

    fn gpu_profile(&self) -> Option<GpuProfile> {
        let driver = self.settings.gpu_driver.map(|it| it.word().to_owned());
        driver.map(|driver| GpuProfile { driver })
    }

    fn streaming(&self) -> Option<ArtifactStreaming> {
        let enabled = self.settings.artifact_streaming;
        enabled.map(|enabled| ArtifactStreaming { enabled })
    }
}

/// The name that a claim gives: 11 characters of base 32, 55 bits, behind a letter that says whose.
pub(super) fn name(cluster: &str, claim: &str) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut hash = Sha256::new();
    hash.update(cluster.as_bytes());
    hash.update([0]);
    hash.update(claim.as_bytes());
    let digest = hash.finalize();
    let letters = digest.iter().take(NAME - 1);
    let letters = letters.map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    std::iter::once('h').chain(letters).collect()
}

/// `spec.providerID` of a node, which has the resource group in small letters.
pub(super) fn provider_id(resource: &str) -> String {
    let mut group_is_next = false;
    let segments = resource.split('/').map(|segment| {
        let is_group = std::mem::replace(
            &mut group_is_next,
            segment.eq_ignore_ascii_case("resourceGroups"),
        );
        match is_group {
            true => segment.to_lowercase(),
            false => segment.to_owned(),
        }
    });
    let segments: Vec<String> = segments.collect();
    format!("azure://{}", segments.join("/"))
}

/// A tag's value, whatever case its name was given back in.
pub(super) fn tag<'a>(tags: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let mut tags = tags.iter();
    let found = tags.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

/// When a node was asked for; now, where nothing says so: it counts as young.
pub(super) fn created(tags: &BTreeMap<String, String>) -> SystemTime {
    let seconds = tag(tags, CREATED_TAG).and_then(|text| text.parse().ok());
    let at = seconds.and_then(|it| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(it)));
    at.unwrap_or_else(SystemTime::now)
}

/// Labels that AKS and the kubelet set, and that AKS takes from nobody.
fn is_akss_own(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    below("kubernetes.io") || below("k8s.io") || below("kubernetes.azure.com")
}

fn is_spot_taint(taint: &PoolTaint) -> bool {
    (&*taint.key, &*taint.value, &*taint.effect) == SPOT_TAINT
}

fn check_spot_taint(taints: &[PoolTaint], settings: &Settings) -> Result<(), Refusal> {
    if settings.spot_taint == SpotTaint::Tolerated || taints.iter().any(is_spot_taint) {
        return Ok(());
    }
    let (key, value, effect) = SPOT_TAINT;
    Err(Refusal::Misconfigured {
        field: "spec.taints".to_owned(),
        said: format!(
            "AKS puts {key}={value}:{effect} on every spot node, and pods without a toleration \
             would never run there: add it here, or say spec.provider.spotTaint: tolerated if all \
             of them have one"
        ),
    })
}

fn written(taint: &PoolTaint) -> String {
    format!("{}={}:{}", taint.key, taint.value, taint.effect)
}
