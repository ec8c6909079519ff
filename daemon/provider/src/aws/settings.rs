//! What a pool says of its nodes on AWS, in `spec.provider`.

use std::collections::BTreeMap;

use headstart_clouds::aws::ec2::BlockDevice;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use url::Url;

use crate::Refusal;
use crate::config::url;

/// `spec.provider` of a pool. What is absent is as the provider's `nodes` say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Which of EKS's images; Amazon Linux 2023 when nobody says.
    pub image: Option<Family>,
    /// A certain image of that family instead of the newest: `ami-…`.
    pub image_id: Option<String>,
    /// Instance profile of the nodes' role, by name. Needed, here or in the provider's `nodes`.
    pub instance_profile: Option<String>,
    /// Subnets, by id. Those of the cluster when nobody says.
    pub subnets: Option<Vec<String>>,
    /// Subnets by their tags, instead.
    pub subnet_tags: Option<BTreeMap<String, String>>,
    /// Security groups, by id. The cluster's own when nobody says.
    pub security_groups: Option<Vec<String>>,
    /// The disk with images and pods' files.
    pub volume: Option<Volume>,
    /// What becomes of local NVMe disks.
    pub local_nvme: Option<LocalNvme>,
    /// The agent before the kubelet. Of Amazon Linux only.
    pub agent: Option<Agent>,
    /// More tags.
    pub tags: Option<BTreeMap<String, String>>,
}

/// A family of images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Amazon Linux 2023.
    #[default]
    Al2023,
    /// Bottlerocket.
    Bottlerocket,
}

/// What becomes of local NVMe disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LocalNvme {
    /// One striped file system for containerd, pods and the store.
    #[default]
    Raid0,
    /// They are left alone.
    None,
}

/// A disk of gp3.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Volume {
    /// Size in GiB.
    pub size_gib: u32,
    /// MiB/s; 125 when absent.
    pub throughput_mib: Option<u32>,
    /// Operations per second; 3,000 when absent.
    pub iops: Option<u32>,
    /// What it starts with: `snap-…`.
    pub snapshot_id: Option<String>,
}

impl Default for Volume {
    fn default() -> Self {
        Self {
            size_gib: 100,
            throughput_mib: None,
            iops: None,
            snapshot_id: None,
        }
    }
}

/// Where the agent is that starts before the kubelet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Agent {
    /// The program, over HTTPS. In the image it is expected at `/usr/bin/headstart-agent`.
    #[serde(deserialize_with = "url")]
    pub url: Url,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) found: String,
    pub(super) fix: &'static str,
}

impl Settings {
    /// Reads them; the refusal names the field.
    pub(super) fn read(written: &Map<String, Value>) -> Result<Self, Refusal> {
        let value = Value::Object(written.clone());
        let read: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let field = match path.as_str() {
                "." => "spec.provider".to_owned(),
                path => format!("spec.provider.{path}"),
            };
            let said = error.inner().to_string();
            Refusal::Misconfigured { field, said }
        })?;
        read.check().map_err(|fault| Refusal::Misconfigured {
            field: format!("spec.provider.{}", fault.field),
            said: format!("{:?} was found: {}", fault.found, fault.fix),
        })?;
        Ok(read)
    }

    /// These, with `nodes` where they say nothing.
    pub(super) fn over(self, nodes: &Self) -> Self {
        let nodes = nodes.clone();
        // One way to name subnets takes the place of the other.
        let names_subnets = self.subnets.is_some() || self.subnet_tags.is_some();
        let (subnets, subnet_tags) = match names_subnets {
            true => (self.subnets, self.subnet_tags),
            false => (nodes.subnets, nodes.subnet_tags),
        };
        // An image of one family is none of another.
        let image_id = match self.image.is_some() {
            true => self.image_id,
            false => self.image_id.or(nodes.image_id),
        };
        Self {
            image: self.image.or(nodes.image),
            image_id,
            instance_profile: self.instance_profile.or(nodes.instance_profile),
            subnets,
            subnet_tags,
            security_groups: self.security_groups.or(nodes.security_groups),
            volume: self.volume.or(nodes.volume),
            local_nvme: self.local_nvme.or(nodes.local_nvme),
            agent: self.agent.or(nodes.agent),
            tags: self.tags.or(nodes.tags),
        }
    }

    pub(super) fn family(&self) -> Family {
        self.image.unwrap_or_default()
    }

    pub(super) fn stripes(&self) -> bool {
        self.local_nvme.unwrap_or_default() == LocalNvme::Raid0
    }

    pub(super) fn needed_profile(&self) -> Result<String, Refusal> {
        self.instance_profile
            .clone()
            .ok_or_else(|| Refusal::Misconfigured {
                field: "spec.provider.instanceProfile".to_owned(),
                said: "it is absent: name the instance profile of the nodes' role, here or in the \
                       provider's nodes"
                    .to_owned(),
            })
    }

    /// The disk with images: the only one on Amazon Linux, the second on Bottlerocket.
    pub(super) fn block_devices(&self) -> Vec<BlockDevice> {
        let volume = self.volume.clone().unwrap_or_default();
        let device_name = match self.family() {
            Family::Al2023 => "/dev/xvda",
            Family::Bottlerocket => "/dev/xvdb",
        };
        vec![BlockDevice {
            device_name: device_name.to_owned(),
            volume_size: volume.size_gib,
            volume_type: "gp3".to_owned(),
            throughput: volume.throughput_mib,
            iops: volume.iops,
            snapshot_id: volume.snapshot_id,
        }]
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        let fault = |field, found: &str, fix| {
            Err(Fault {
                field,
                found: found.chars().take(100).collect(),
                fix,
            })
        };
        let is_id = |id: &str, prefix: &str| {
            let id = id.strip_prefix(prefix);
            id.is_some_and(|id| !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric()))
        };
        if let Some(id) = self.image_id.as_ref().filter(|id| !is_id(id, "ami-")) {
            return fault("imageId", id, "write the id of an image, ami-…");
        }
        if let Some(name) = &self.instance_profile {
            let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@-_".contains(c);
            if !(1..=128).contains(&name.len()) || !name.chars().all(plain) {
                let fix = "write the name of an instance profile, not its ARN";
                return fault("instanceProfile", name, fix);
            }
        }
        let lists = [
            (
                "subnets",
                &self.subnets,
                "subnet-",
                "write ids of subnets, subnet-…",
            ),
            (
                "securityGroups",
                &self.security_groups,
                "sg-",
                "write ids of security groups, sg-…",
            ),
        ];
        for (field, list, prefix, fix) in lists {
            let Some(list) = list else {
                continue;
            };
            if list.is_empty() {
                return fault(field, "[]", fix);
            }
            if let Some(id) = list.iter().find(|id| !is_id(id, prefix)) {
                return fault(field, id, fix);
            }
        }
        if self.subnets.is_some() && self.subnet_tags.is_some() {
            let fix = "name subnets by id or by tag, not both";
            return fault("subnetTags", "subnets", fix);
        }
        if let Some(tags) = self.subnet_tags.as_ref().filter(|tags| tags.is_empty()) {
            let fix = "write at least one tag";
            return fault("subnetTags", &format!("{tags:?}"), fix);
        }
        if let Some(volume) = &self.volume {
            if !(8..=65_536).contains(&volume.size_gib) {
                let found = volume.size_gib.to_string();
                return fault("volume.sizeGib", &found, "write 8 to 65536");
            }
            let rate = volume.throughput_mib.unwrap_or(125);
            if !(125..=2_000).contains(&rate) {
                return fault(
                    "volume.throughputMib",
                    &rate.to_string(),
                    "write 125 to 2000",
                );
            }
            let iops = volume.iops.unwrap_or(3_000);
            if !(3_000..=80_000).contains(&iops) {
                return fault("volume.iops", &iops.to_string(), "write 3000 to 80000");
            }
            if let Some(id) = volume.snapshot_id.as_ref().filter(|id| !is_id(id, "snap-")) {
                return fault(
                    "volume.snapshotId",
                    id,
                    "write the id of a snapshot, snap-…",
                );
            }
        }
        if let Some(agent) = &self.agent {
            let url = agent.url.as_str();
            if agent.url.scheme() != "https" || url.contains('\'') {
                return fault("agent.url", url, "write a URL with https");
            }
            let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
            if agent.sha256.len() != 64 || !agent.sha256.chars().all(is_hex) {
                let fix = "write 64 hexadecimal digits, as sha256sum prints them";
                return fault("agent.sha256", &agent.sha256, fix);
            }
        }
        for key in self.tags.iter().flatten().map(|(key, _)| key) {
            let taken = ["aws:", "headstart.dev/", "kubernetes.io/cluster/", "eks:"];
            if key.is_empty() || taken.iter().any(|taken| key.starts_with(taken)) {
                let fix = "leave it out: tags of this kind are not a pool's";
                return fault("tags", key, fix);
            }
        }
        Ok(())
    }
}

pub(super) fn some_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Url>, D::Error> {
    url(from).map(Some)
}
