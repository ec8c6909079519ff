//! What stands between the daemon and buying: token, cluster, permissions, pools, quota, prices, clock.

use std::time::{Duration, SystemTime};

use headstart_clouds::azure::aks::ManagedCluster;
use headstart_clouds::azure::arm::Arm;
use headstart_clouds::call::{Answer, CallError};
use headstart_transfer::chain;
use serde_json::{Map, Value};

use super::settings::Settings;
use super::{Azure, Nodes, refusal};
use crate::doctor::Finding;

/// Most agent pools of a cluster.
const MOST_POOLS: usize = 100;

/// How far clocks may be apart: tokens hold for an hour, and are refused before their time.
const SKEW: Duration = Duration::from_secs(120);

/// What the identity must be allowed.
const ACTIONS: [&str; 5] = [
    "Microsoft.ContainerService/managedClusters/read",
    "Microsoft.ContainerService/managedClusters/agentPools/read",
    "Microsoft.ContainerService/managedClusters/agentPools/write",
    "Microsoft.ContainerService/managedClusters/agentPools/delete",
    "Microsoft.ContainerService/managedClusters/agentPools/machines/read",
];

/// The same for machines of a pool.
const MACHINE_ACTIONS: [&str; 5] = [
    "Microsoft.ContainerService/managedClusters/read",
    "Microsoft.ContainerService/managedClusters/agentPools/read",
    "Microsoft.ContainerService/managedClusters/agentPools/deleteMachines/action",
    "Microsoft.ContainerService/managedClusters/agentPools/machines/read",
    "Microsoft.ContainerService/managedClusters/agentPools/machines/write",
];

impl Azure {
    pub(super) async fn findings(&self, settings: &Map<String, Value>) -> Vec<Finding> {
        let mut found = vec![match Settings::read(settings) {
            Ok(_) => Finding::sound("spec.provider", "can be read"),
            Err(refused) => Finding::refused("spec.provider", &refused, "see its documentation"),
        }];
        match self.home.cluster().await {
            Ok((cluster, answer)) => {
                found.push(Finding::sound("credentials", "a token that Azure takes"));
                found.push(self.cluster_found(&cluster));
                found.extend(clock(&answer));
            }
            Err(error @ CallError::NoCredentials { .. }) => {
                let fix = "set up workload identity for the daemon's service account, or give its \
                           machine a managed identity";
                found.push(Finding::wrong("credentials", chain(&error), fix));
                return found;
            }
            Err(error) => found.push(Finding::refused(
                format!("cluster {}", self.config.cluster),
                &refusal::of(&error),
                "look at its name, its resource group and the subscription",
            )),
        }
        found.extend(self.permissions().await);
        found.push(self.pools().await);
        found.extend(self.quotas().await);
        found.push(self.prices().await);
        found
    }

    fn cluster_found(&self, cluster: &ManagedCluster) -> Finding {
        let subject = format!("cluster {}", self.config.cluster);
        let location = cluster.location.replace(' ', "").to_lowercase();
        if location != self.config.location {
            let fix = format!("set location: {location}");
            let found = format!(
                "it is in {location}, and location is {}",
                self.config.location
            );
            return Finding::wrong(subject, found, fix);
        }
        let state = &cluster.properties.provisioning_state;
        let version = &cluster.properties.current_kubernetes_version;
        match state.as_str() {
            "Succeeded" => Finding::sound(subject, format!("in {location}, Kubernetes {version}")),
            _ => Finding::doubtful(
                subject,
                format!("its state is {state}"),
                "no pool can be made while another operation is under way: wait for it, or mend it",
            ),
        }
    }

    async fn permissions(&self) -> Vec<Finding> {
        let (group, cluster) = (&self.config.resource_group, &self.config.cluster);
        let allowed = match self.compute.permissions(group, cluster).await {
            Ok(allowed) => allowed,
            Err(error) => return vec![Finding::unknown("permissions", chain(&error))],
        };
        let actions = match self.config.nodes {
            Nodes::AgentPools => ACTIONS,
            Nodes::Machines { .. } => MACHINE_ACTIONS,
        };
        let each = actions.into_iter().map(|action| {
            let subject = format!("permission {action}");
            match allowed.iter().any(|it| it.allows(action)) {
                true => Finding::sound(subject, "given"),
                false => Finding::wrong(
                    subject,
                    "it is missing",
                    "give the identity the role Azure Kubernetes Service Contributor on the cluster",
                ),
            }
        });
        each.collect()
    }

    async fn pools(&self) -> Finding {
        const SUBJECT: &str = "agent pools";
        let pools = match self.home.aks.agent_pools().await {
            Ok(pools) => pools,
            Err(error) => {
                return Finding::refused(SUBJECT, &refusal::of(&error), "look at the cluster");
            }
        };
        if let Nodes::Machines { pool, .. } = &self.config.nodes {
            let there = pools.iter().find(|it| it.name == *pool);
            let fix = format!("add an agent pool {pool} in mode Machines");
            return match there {
                None => Finding::wrong(SUBJECT, format!("there is no {pool}"), fix),
                Some(there) if there.properties.mode != "Machines" => {
                    let mode = &there.properties.mode;
                    Finding::wrong(SUBJECT, format!("{pool} is in mode {mode}"), fix)
                }
                Some(_) => Finding::sound(SUBJECT, format!("{pool} holds machines")),
            };
        }
        let (used, left) = (pools.len(), MOST_POOLS.saturating_sub(pools.len()));
        match left {
            0..=5 => Finding::doubtful(
                SUBJECT,
                format!("{used} of {MOST_POOLS} are in use, and each node needs one"),
                "delete some, or set nodes: machines",
            ),
            _ => Finding::sound(SUBJECT, format!("{left} more can be made, one per node")),
        }
    }

    async fn quotas(&self) -> Vec<Finding> {
        let usages = match self.compute.usages(&self.config.location).await {
            Ok(usages) => usages,
            Err(error) => return vec![Finding::unknown("quota", chain(&error))],
        };
        let of = |name: &str| usages.iter().find(|it| it.name.value == name);
        let each = [
            ("cores", "all vCPUs"),
            ("lowPriorityCores", "vCPUs of spot"),
        ];
        let each = each.into_iter().map(|(name, words)| {
            let subject = format!("quota {name}");
            let Some(usage) = of(name) else {
                return Finding::unknown(subject, "Azure lists no such quota");
            };
            let (used, limit) = (usage.current_value, usage.limit);
            match limit - used {
                ..=0 => Finding::doubtful(
                    subject,
                    format!("{used} of {limit} {words} are in use"),
                    format!("ask Azure for more in {}", self.config.location),
                ),
                left => Finding::sound(subject, format!("{left} of {limit} {words} are left")),
            }
        });
        each.collect()
    }

    async fn prices(&self) -> Finding {
        const SUBJECT: &str = "prices";
        let location = &self.config.location;
        let some: Vec<&str> = self
            .catalog
            .types
            .iter()
            .map(|it| it.name.as_str())
            .collect();
        let some = &some[..some.len().min(12)];
        match self.retail.virtual_machines(location, some).await {
            Ok(prices) if prices.is_empty() => Finding::doubtful(
                SUBJECT,
                format!("the Retail Prices API has none for {location}"),
                "look at location; without prices no spot is bought",
            ),
            Ok(prices) => Finding::sound(SUBJECT, format!("of {} sizes", prices.len())),
            Err(error) => Finding::doubtful(
                SUBJECT,
                chain(&error),
                "let the daemon reach the Retail Prices API; without it no spot is bought",
            ),
        }
    }
}

fn clock(answer: &Answer) -> Option<Finding> {
    let skew = Arm::skew(answer, SystemTime::now())?;
    let apart = format!("{} s from Azure's", skew.as_secs());
    Some(match skew > SKEW {
        true => Finding::wrong("clock", apart, "set this machine's clock, by NTP"),
        false => Finding::sound("clock", apart),
    })
}
