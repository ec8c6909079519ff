//! What a node is given of its cluster: endpoint, subnet, image. Asked for once in a while.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headstart_clouds::aws::ec2::{Ec2, Subnet};
use headstart_clouds::aws::eks::{Cluster, Eks};
use headstart_clouds::aws::ssm::Ssm;
use headstart_core::offer::{Arch, InstanceType};
use tokio::sync::Mutex;

use super::refusal::refusal;
use super::settings::{Family, Settings};
use crate::Refusal;

/// How long what changes by hand only is used: a version, an image.
const LONG: Duration = Duration::from_secs(600);

/// How long counts of free addresses are used.
const SHORT: Duration = Duration::from_secs(60);

/// Addresses that are left in a subnet that is used first: a node with pods takes several.
const ROOMY: u32 = 16;

/// The cluster and what it says of nodes.
#[derive(Debug)]
pub(super) struct Home {
    eks: Eks,
    ssm: Ssm,
    name: String,
    // Held while asking: a burst of purchases asks once.
    cluster: Mutex<Option<(Instant, Cluster)>>,
    images: Mutex<BTreeMap<String, (Instant, String)>>,
    subnets: Mutex<BTreeMap<String, (Instant, Vec<Subnet>)>>,
}

impl Home {
    pub(super) fn new(eks: Eks, ssm: Ssm, name: &str) -> Self {
        Self {
            eks,
            ssm,
            name: name.to_owned(),
            cluster: Mutex::default(),
            images: Mutex::default(),
            subnets: Mutex::default(),
        }
    }

    /// The cluster, as EKS describes it.
    pub(super) async fn cluster(&self) -> Result<Cluster, Refusal> {
        let mut held = self.cluster.lock().await;
        if let Some((_, cluster)) = held.as_ref().filter(|(at, _)| at.elapsed() < LONG) {
            return Ok(cluster.clone());
        }
        let found = self.eks.describe_cluster(&self.name).await;
        let found = found.map_err(|error| refusal(&error, None))?;
        if found.endpoint.is_empty() || found.certificate_authority.data.is_empty() {
            return Err(Refusal::Other {
                said: format!(
                    "cluster {} is {} and has no endpoint yet",
                    self.name, found.status
                ),
            });
        }
        *held = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// Subnets as the settings name them, in order of their ids.
    pub(super) async fn subnets(
        &self,
        ec2: &Ec2,
        settings: &Settings,
    ) -> Result<Vec<Subnet>, Refusal> {
        let filters: Vec<(String, Vec<String>)> = match (&settings.subnets, &settings.subnet_tags) {
            (Some(ids), _) => vec![("subnet-id".to_owned(), ids.clone())],
            (None, Some(tags)) => tags
                .iter()
                .map(|(key, value)| (format!("tag:{key}"), vec![value.clone()]))
                .collect(),
            (None, None) => {
                let ids = self.cluster().await?.resources_vpc_config.subnet_ids;
                vec![("subnet-id".to_owned(), ids)]
            }
        };
        let key = format!("{filters:?}");
        let mut held = self.subnets.lock().await;
        if let Some((_, found)) = held.get(&key).filter(|(at, _)| at.elapsed() < SHORT) {
            return Ok(found.clone());
        }
        let values: Vec<Vec<&str>> = filters
            .iter()
            .map(|(_, values)| values.iter().map(|value| &**value).collect())
            .collect();
        let named: Vec<(&str, &[&str])> = filters
            .iter()
            .zip(&values)
            .map(|((name, _), values)| (&**name, &**values))
            .collect();
        let found = ec2.describe_subnets(&named).await;
        let mut found = found.map_err(|error| refusal(&error, None))?;
        found.sort_by(|a, b| a.subnet_id.cmp(&b.subnet_id));
        held.retain(|_, (at, _)| at.elapsed() < SHORT);
        held.insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// The subnet of a zone to buy in: the first with room, so that asking again asks for the same;
    /// else the emptiest.
    pub(super) async fn subnet(
        &self,
        ec2: &Ec2,
        settings: &Settings,
        zone: &str,
    ) -> Result<String, Refusal> {
        let found = self.subnets(ec2, settings).await?;
        let here = || found.iter().filter(|one| one.availability_zone == zone);
        let roomy = here().find(|one| one.available_addresses >= ROOMY);
        let chosen = roomy.or_else(|| here().max_by_key(|one| one.available_addresses));
        if let Some(chosen) = chosen {
            return Ok(chosen.subnet_id.clone());
        }
        let field = match settings.subnet_tags.is_some() {
            true => "spec.provider.subnetTags",
            false => "spec.provider.subnets",
        };
        let zones: Vec<&str> = found.iter().map(|one| &*one.availability_zone).collect();
        Err(Refusal::Misconfigured {
            field: field.to_owned(),
            said: format!(
                "none of the {} subnets found is in {zone}, but in [{}]: name one that is, or take \
                 the zone out of the pool",
                found.len(),
                zones.join(", ")
            ),
        })
    }

    /// The image for a type: the one that is named, or EKS's newest for the cluster's version.
    pub(super) async fn image(
        &self,
        settings: &Settings,
        kind: &InstanceType,
    ) -> Result<String, Refusal> {
        if let Some(id) = &settings.image_id {
            return Ok(id.clone());
        }
        let version = self.cluster().await?.version;
        let name = parameter(settings.family(), &version, kind);
        let mut held = self.images.lock().await;
        if let Some((_, id)) = held.get(&name).filter(|(at, _)| at.elapsed() < LONG) {
            return Ok(id.clone());
        }
        let id = self.ssm.get_parameter(&name).await;
        let id = id.map_err(|error| match refusal(&error, None) {
            Refusal::Misconfigured { field, said } => Refusal::Misconfigured {
                field,
                said: format!("{name}: {said}"),
            },
            other => other,
        })?;
        if !id.starts_with("ami-") {
            return Err(Refusal::Other {
                said: format!("the parameter {name} is not the id of an image"),
            });
        }
        held.insert(name, (Instant::now(), id.clone()));
        Ok(id)
    }
}

/// The parameter of SSM with the newest image's id, as "Retrieve recommended Amazon Linux AMI IDs" and
/// "Retrieve recommended Bottlerocket AMI IDs" of the EKS User Guide have them.
fn parameter(family: Family, version: &str, kind: &InstanceType) -> String {
    let arch = match kind.arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "arm64",
    };
    let device = kind.gpu.as_ref().map(|gpu| &*gpu.resource);
    let is_nvidia = device == Some("nvidia.com/gpu");
    match family {
        Family::Al2023 => {
            let variant = match device {
                Some("nvidia.com/gpu") => "nvidia",
                Some("aws.amazon.com/neuron") => "neuron",
                _ => "standard",
            };
            format!(
                "/aws/service/eks/optimized-ami/{version}/amazon-linux-2023/{arch}/{variant}/\
                 recommended/image_id"
            )
        }
        Family::Bottlerocket => {
            let variant = if is_nvidia { "-nvidia" } else { "" };
            format!("/aws/service/bottlerocket/aws-k8s-{version}{variant}/{arch}/latest/image_id")
        }
    }
}
