//! What is bought for a claim, in GKE's terms: the pool that its machine is of, and the machine's name.
//!
//! A pool's name is a hash of all that its nodes have in common, so that the same purchase finds the
//! same pool, whoever made it, and a change makes another. A machine's name is its claim's, behind a
//! mark of the cluster: it is the key under which it is bought, and all that says whose it is.

use headstart_api::names;
use headstart_clouds::gcp::compute::MachineType;
use headstart_clouds::gcp::container::{
    AcceleratorConfig, Autoscaling, EphemeralStorageLocalSsdConfig, GcfsConfig,
    GpuDriverInstallationConfig, NodeConfig, NodePool, NodeTaint, SecondaryBootDisk,
};
use headstart_core::offer::CapacityType;
use sha2::{Digest as _, Sha256};

use super::settings::Settings;
use crate::{Refusal, Wanted};

/// Label of machines in Compute Engine, and of pools: the cluster they are for.
pub(super) const CLUSTER_LABEL: &str = "headstart-cluster";

/// Most characters of a name.
const LONGEST: usize = 63;

/// Names in one cluster.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Value of [`CLUSTER_LABEL`].
    pub(super) mark: String,
    prefix: String,
}

impl Names {
    pub(super) fn of(cluster: &str) -> Self {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
        let digest = hex(&[cluster], 16);
        let fits = (1..=LONGEST).contains(&cluster.len()) && cluster.bytes().all(plain);
        Self {
            mark: match fits {
                true => cluster.to_owned(),
                false => format!("x{digest}"),
            },
            prefix: format!("hs{}-", &digest[..6]),
        }
    }

    /// Name of the machine of a claim; none if Compute Engine takes no such name.
    pub(super) fn machine(&self, claim: &str) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = !claim.is_empty() && self.prefix.len() + claim.len() <= LONGEST;
        let fits = fits && claim.bytes().all(plain) && !claim.ends_with('-');
        fits.then(|| format!("{}{claim}", self.prefix))
    }

    /// The claim of a machine.
    pub(super) fn claim(&self, machine: &str) -> Option<String> {
        machine.strip_prefix(&self.prefix).map(str::to_owned)
    }

    /// As [`Self::machine`], or why not.
    pub(super) fn wanted(&self, claim: &str) -> Result<String, Refusal> {
        self.machine(claim).ok_or_else(|| Refusal::Misconfigured {
            field: "metadata.name".to_owned(),
            said: format!(
                "{claim:?} makes no name of a machine: give the pool a name of letters, digits and \
                 dashes so short that those of its claims have up to {} characters",
                LONGEST - self.prefix.len()
            ),
        })
    }
}

/// All that the nodes of a pool have in common.
#[derive(Clone, Debug)]
pub(super) struct Order {
    config: NodeConfig,
    settings: Settings,
    digest: String,
}

impl Order {
    pub(super) fn of(mark: &str, wanted: &Wanted, settings: Settings) -> Result<Self, Refusal> {
        let spot = match wanted.offering.capacity_type {
            CapacityType::Spot => true,
            CapacityType::OnDemand => false,
            CapacityType::Reserved => {
                return Err(Refusal::Misconfigured {
                    field: "offering".to_owned(),
                    said: "reservations are not bought here: use spot or on-demand".to_owned(),
                });
            }
        };
        let labels = wanted.labels.iter().filter(|(key, _)| is_ours_to_set(key));
        let mut taints: Vec<_> = wanted.first_taints().map(taint).collect();
        taints.sort_by(|a, b| (&a.key, &a.effect).cmp(&(&b.key, &b.effect)));
        let disk = |image: &String| SecondaryBootDisk {
            disk_image: image.clone(),
            mode: "CONTAINER_IMAGE_CACHE".to_owned(),
        };
        let disks: Vec<_> = settings.secondary_boot_disks.iter().map(disk).collect();
        let config = NodeConfig {
            machine_type: wanted.offering.instance_type.clone(),
            spot,
            disk_size_gb: settings.disk_size_gb,
            disk_type: settings.disk_type.clone(),
            image_type: settings.image_type.clone(),
            service_account: settings.service_account.clone(),
            oauth_scopes: vec!["https://www.googleapis.com/auth/cloud-platform".to_owned()],
            labels: labels
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            taints,
            resource_labels: [(CLUSTER_LABEL.to_owned(), mark.to_owned())].into(),
            tags: settings.network_tags.clone(),
            gcfs_config: (!disks.is_empty()).then_some(GcfsConfig { enabled: true }),
            secondary_boot_disks: disks,
            ..NodeConfig::default()
        };
        let written = |value: Result<String, serde_json::Error>| {
            value.map_err(|error| Refusal::Other {
                said: format!("the pool cannot be written: {error}"),
            })
        };
        let content = written(serde_json::to_string(&config))?;
        // What the machine type adds follows from its name, and is not known yet.
        let rest = written(serde_json::to_string(&(
            settings.local_ssds,
            settings.gpu_driver,
        )))?;
        Ok(Self {
            digest: hex(&[&content, &rest], 16),
            config,
            settings,
        })
    }

    /// Name of the pool in all zones that sell the type, or in one alone.
    pub(super) fn pool_name(&self, zone: Option<&str>) -> String {
        match zone {
            None => format!("hs-{}", self.digest),
            Some(zone) => format!("hs-{}", hex(&[&self.digest, zone], 16)),
        }
    }

    /// The machine type.
    pub(super) fn machine_type(&self) -> &str {
        &self.config.machine_type
    }

    /// The pool, with what its machine type brings.
    pub(super) fn pool(&self, name: &str, zones: Vec<String>, kind: &MachineType) -> NodePool {
        let mut config = self.config.clone();
        let gpus = kind
            .accelerators
            .iter()
            .filter(|gpu| gpu.guest_accelerator_count > 0);
        let gpu = |gpu: &headstart_clouds::gcp::compute::Accelerator| AcceleratorConfig {
            accelerator_count: gpu.guest_accelerator_count.to_string(),
            accelerator_type: gpu.guest_accelerator_type.clone(),
            gpu_driver_installation_config: GpuDriverInstallationConfig {
                gpu_driver_version: self.settings.gpu_driver.version().to_owned(),
            },
        };
        config.accelerators = gpus.map(gpu).collect();
        let ssds = match kind.bundled_local_ssds.partition_count {
            0 => self.settings.local_ssds.unwrap_or(0),
            bundled => bundled,
        };
        config.ephemeral_storage_local_ssd_config =
            (ssds > 0).then_some(EphemeralStorageLocalSsdConfig {
                local_ssd_count: ssds,
            });
        NodePool {
            name: name.to_owned(),
            config,
            initial_node_count: 0,
            locations: zones,
            autoscaling: Autoscaling { enabled: false },
            ..NodePool::default()
        }
    }
}

fn taint(taint: &headstart_api::PoolTaint) -> NodeTaint {
    NodeTaint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: match taint.effect.as_str() {
            "NoExecute" => "NO_EXECUTE",
            "PreferNoSchedule" => "PREFER_NO_SCHEDULE",
            _ => "NO_SCHEDULE",
        }
        .to_owned(),
    }
}

/// GKE sets what is Kubernetes' own, and its own, and refuses them from others; a claim's label would
/// make a pool for each.
fn is_ours_to_set(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    key != names::NODE_CLAIM
        && !["kubernetes.io", "k8s.io", "cloud.google.com"]
            .into_iter()
            .any(below)
}

/// The first `length` hexadecimal digits of a SHA-256, each part by itself.
fn hex(parts: &[&str], length: usize) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.len().to_le_bytes());
        digest.update(part);
    }
    let bytes = digest.finalize();
    let mut hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(length);
    hex
}
