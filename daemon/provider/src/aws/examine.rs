//! Whether nodes could be bought: who we are, what we may, and whether what settings name is there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use headstart_clouds::aws::ec2::Permission;
use headstart_core::offer::{CapacityType, OfferingKey};
use serde_json::{Map, Value};

use super::refusal::refusal;
use super::{Aws, Settings, quota, system};
use crate::doctor::Finding;
use crate::{Provider as _, Wanted};

/// Largest difference of clocks: signatures hold for five minutes.
const SKEW: u64 = 60;

/// Addresses of a subnet that are few.
const FEW: u32 = 32;

impl Aws {
    pub(super) async fn look(&self, written: &Map<String, Value>) -> Vec<Finding> {
        let mut found = self.who().await;
        if found.iter().any(Finding::is_wrong) {
            // Nothing else can be asked.
            return found;
        }
        found.extend(self.cluster_is_there().await);
        match Settings::read(written) {
            Ok(settings) => {
                let settings = settings.over(&self.config.nodes);
                found.extend(self.places(&settings).await);
                found.push(self.may_buy(written, &settings).await);
                if let Some(id) = &settings.image_id {
                    found.push(self.image_is_there(id).await);
                }
            }
            Err(refused) => found.push(Finding::refused("spec.provider", &refused, "mend it")),
        }
        found.extend(self.quotas().await);
        found.push(self.queue().await);
        found.push(self.prices().await);
        found.push(match self.instances().await {
            Ok(running) => {
                Finding::sound("instances", format!("{} of this cluster", running.len()))
            }
            Err(refused) => Finding::refused("instances", &refused, "look at EC2"),
        });
        found
    }

    async fn who(&self) -> Vec<Finding> {
        let told = match self.sts.get_caller_identity().await {
            Ok(told) => told,
            Err(error) => {
                let refused = refusal(&error, None);
                let fix = "give the daemon a role by IRSA or EKS Pod Identity";
                return vec![Finding::refused("credentials", &refused, fix)];
            }
        };
        let clock = match httpdate(&told.date) {
            None => Finding::unknown("clock", "STS says no date"),
            Some(there) => {
                let now = SystemTime::now();
                let ahead = now.duration_since(there);
                let apart = ahead.unwrap_or_else(|behind| behind.duration()).as_secs();
                match apart {
                    0..=SKEW => Finding::sound("clock", format!("{apart} s from AWS's")),
                    _ => Finding::wrong(
                        "clock",
                        format!("{apart} s from AWS's, which refuses requests of another time"),
                        "keep this machine's time by NTP",
                    ),
                }
            }
        };
        vec![Finding::sound("credentials", told.arn), clock]
    }

    async fn cluster_is_there(&self) -> Vec<Finding> {
        let name = &self.config.cluster;
        let cluster = match self.home.cluster().await {
            Ok(cluster) => cluster,
            Err(refused) => {
                let fix = "write the cluster's name in EKS";
                return vec![Finding::refused("cluster", &refused, fix)];
            }
        };
        let mut found = vec![match &*cluster.status {
            "ACTIVE" | "UPDATING" => {
                Finding::sound("cluster", format!("{name}, Kubernetes {}", cluster.version))
            }
            status => Finding::doubtful(
                "cluster",
                format!("{name} is {status}"),
                "wait until it is ACTIVE",
            ),
        }];
        if cluster.access_config.authentication_mode == "CONFIG_MAP" {
            found.push(Finding::doubtful(
                "access of nodes",
                "the cluster knows no access entries",
                "see that the nodes' role is in the ConfigMap aws-auth",
            ));
        }
        found
    }

    /// Subnets by zone.
    async fn places(&self, settings: &Settings) -> Vec<Finding> {
        let subnets = match self.home.subnets(&self.ec2, settings).await {
            Ok(subnets) => subnets,
            Err(refused) => return vec![Finding::refused("subnets", &refused, "name others")],
        };
        let mut zones: BTreeMap<&str, u32> = BTreeMap::new();
        for subnet in &subnets {
            let left = zones.entry(&subnet.availability_zone).or_default();
            *left = left.saturating_add(subnet.available_addresses);
        }
        if zones.is_empty() {
            let fix = "set spec.provider.subnets or subnetTags to subnets of the cluster's VPC";
            return vec![Finding::wrong("subnets", "none are found", fix)];
        }
        let zones = zones.into_iter().map(|(zone, left)| {
            let subject = format!("subnets in {zone}");
            let seen = format!("{left} addresses are left");
            match left {
                0..FEW => Finding::doubtful(subject, seen, "add a subnet with more"),
                _ => Finding::sound(subject, seen),
            }
        });
        zones.collect()
    }

    /// A purchase that is not made.
    async fn may_buy(&self, written: &Map<String, Value>, settings: &Settings) -> Finding {
        const SUBJECT: &str = "permission ec2:RunInstances";
        let Some(offering) = self.sample(settings).await else {
            return Finding::unknown(SUBJECT, "the catalog has nothing to try it with");
        };
        let wanted = Wanted {
            claim: "examination".to_owned(),
            offering,
            labels: BTreeMap::new(),
            startup_taints: Vec::new(),
            taints: Vec::new(),
            settings: written.clone(),
            intent: String::new(),
        };
        let order = match self.order(&wanted).await {
            Ok(order) => order,
            Err(refused) => return Finding::refused("a node's order", &refused, "mend it"),
        };
        match self.ec2.may_run(&order).await {
            Ok(Permission::Allowed) => Finding::sound(
                SUBJECT,
                format!("{} with {}", wanted.offering, order.image_id),
            ),
            Ok(Permission::Denied(said)) => Finding::wrong(
                SUBJECT,
                format!("{}: {}", said.code, said.message),
                "grant the permissions that README lists, iam:PassRole among them",
            ),
            Err(error) => {
                let refused = refusal(&error, Some(&wanted.offering));
                Finding::refused(SUBJECT, &refused, "mend it")
            }
        }
    }

    /// An offering in a zone that there is a subnet in.
    async fn sample(&self, settings: &Settings) -> Option<OfferingKey> {
        let subnets = self.home.subnets(&self.ec2, settings).await;
        let subnets = subnets.unwrap_or_default();
        let offering = self.catalog.offerings.iter().find(|offering| {
            let mut zones = subnets.iter().map(|one| &one.availability_zone);
            offering.capacity_type != CapacityType::Reserved
                && zones.any(|zone| *zone == offering.zone)
        })?;
        Some(OfferingKey {
            instance_type: self.catalog.types.get(offering.instance_type)?.name.clone(),
            zone: offering.zone.clone(),
            capacity_type: offering.capacity_type,
        })
    }

    async fn image_is_there(&self, id: &str) -> Finding {
        const SUBJECT: &str = "image";
        match self.ec2.describe_images(&[id]).await {
            Ok(images) => match images.first() {
                Some(image) if image.state == "available" => {
                    Finding::sound(SUBJECT, format!("{id}, {}", image.name))
                }
                Some(image) => {
                    let found = format!("{id} is {}", image.state);
                    Finding::wrong(SUBJECT, found, "set spec.provider.imageId to another")
                }
                None => {
                    let found = format!("{id} is not in this region");
                    Finding::wrong(SUBJECT, found, "set spec.provider.imageId to another")
                }
            },
            Err(error) => Finding::refused(SUBJECT, &refusal(&error, None), "name another"),
        }
    }

    async fn quotas(&self) -> Vec<Finding> {
        let keys = self.catalog.offerings.iter().filter_map(|offering| {
            Some(quota(&OfferingKey {
                instance_type: self.catalog.types.get(offering.instance_type)?.name.clone(),
                zone: String::new(),
                capacity_type: offering.capacity_type,
            }))
        });
        let keys: BTreeSet<_> = keys.collect();
        let mut found = Vec::new();
        for (name, code) in keys {
            let subject = format!("quota {name}");
            found.push(match self.quotas.get_service_quota(code).await {
                Ok(quota) if quota.value > 0.0 => {
                    Finding::sound(subject, format!("{} vCPUs", quota.value))
                }
                Ok(_) => {
                    let fix = format!("ask for more of {code} in Service Quotas");
                    Finding::doubtful(subject, "no vCPU is allowed", fix)
                }
                // Nothing is bought by it.
                Err(error) => Finding::unknown(subject, error.to_string()),
            });
        }
        found
    }

    async fn queue(&self) -> Finding {
        const SUBJECT: &str = "interruption queue";
        let Some(sqs) = &self.sqs else {
            let fix = "set provider.interruptionQueue, so that they are heard without an agent too";
            return Finding::doubtful(SUBJECT, "none is configured", fix);
        };
        match sqs.approximate_number_of_messages().await {
            Ok(waiting) => Finding::sound(SUBJECT, format!("{waiting} messages wait")),
            Err(error) => {
                Finding::refused(SUBJECT, &refusal(&error, None), "write the queue's URL")
            }
        }
    }

    async fn prices(&self) -> Finding {
        let mut told = BTreeMap::new();
        match self.spot_prices(&mut told).await {
            Ok(()) => Finding::sound("spot prices", format!("{} are told", told.len())),
            Err(error) => Finding::doubtful(
                "spot prices",
                refusal(&error, None).to_string(),
                "grant ec2:DescribeSpotPriceHistory, or live with the catalog's",
            ),
        }
    }
}

/// A moment as HTTP writes it.
fn httpdate(text: &str) -> Option<SystemTime> {
    let time = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(system(time.timestamp()))
}
