//! What stands between this provider and buying, for a person.

use std::time::{Duration, SystemTime};

use headstart_clouds::gcp::api::skew;
use headstart_clouds::gcp::container::Cluster;
use serde_json::{Map, Value};

use super::settings::Settings;
use super::{Gcp, refusal};
use crate::Provider as _;
use crate::doctor::Finding;

/// Difference of clocks that tokens bear.
const SKEW: Duration = Duration::from_secs(60);

impl Gcp {
    pub(super) async fn examined(&self, settings: &Map<String, Value>) -> Vec<Finding> {
        let mut found = vec![match Settings::read(settings) {
            Ok(_) => Finding::sound("spec.provider", "can be read"),
            Err(refused) => Finding::refused("spec.provider", &refused, "mend it"),
        }];
        let asked = self.pools.container().cluster_answer().await;
        let answer = match asked {
            Ok(answer) => answer,
            Err(error) => {
                let refused = refusal::of(&error);
                let fix = "look at gcp.project, gcp.location and gcp.cluster";
                found.push(Finding::refused("cluster", &refused, fix));
                return found;
            }
        };
        found.push(Finding::sound("credentials", "the API takes them"));
        found.push(match skew(&answer, SystemTime::now()) {
            Some(skew) if skew > SKEW => Finding::doubtful(
                "clock",
                format!("{} s away from the API's", skew.as_secs()),
                "set it by NTP",
            ),
            Some(skew) => Finding::sound("clock", format!("{} s away", skew.as_secs())),
            None => Finding::unknown("clock", "the API's answer has no date"),
        });
        match serde_json::from_slice::<Cluster>(&answer.body) {
            Ok(cluster) => found.push(self.cluster_is(&cluster)),
            Err(_) => found.push(Finding::unknown("cluster", "the answer cannot be read")),
        }
        found.push(match self.instances().await {
            Ok(running) => {
                Finding::sound("instances", format!("{} of this cluster", running.len()))
            }
            Err(refused) => Finding::refused("instances", &refused, "look at the roles"),
        });
        found.push(self.quotas().await);
        found.push(self.machine_types().await);
        found.push(Finding::unknown(
            "permissions to make node pools and machines",
            "Google has no dry run of them; container.clusters.update, \
             compute.instanceGroupManagers.update and iam.serviceAccounts.actAs are needed",
        ));
        found
    }

    fn cluster_is(&self, cluster: &Cluster) -> Finding {
        let name = &cluster.name;
        if cluster.autopilot.enabled {
            let fix = "use a Standard cluster: nobody makes node pools in Autopilot";
            return Finding::wrong("cluster", format!("{name} is Autopilot"), fix);
        }
        match cluster.status.as_str() {
            "RUNNING" | "RECONCILING" => Finding::sound(
                "cluster",
                format!("{name} with {} node pools", cluster.node_pools.len()),
            ),
            status => Finding::doubtful(
                "cluster",
                format!("{name} is {status}"),
                "look at it in Google's console",
            ),
        }
    }

    async fn quotas(&self) -> Finding {
        const SUBJECT: &str = "quota";
        let region = match self.compute.region(&self.region).await {
            Ok(region) => region,
            Err(error) => {
                let refused = refusal::of(&error);
                return Finding::refused(SUBJECT, &refused, "look at gcp.location");
            }
        };
        let gpus = region
            .quotas
            .iter()
            .filter(|quota| quota.metric.contains("GPUS"));
        let left: Vec<_> = gpus
            .filter(|quota| quota.limit > quota.usage)
            .map(|quota| {
                format!(
                    "{} {} of {}",
                    quota.metric,
                    quota.limit - quota.usage,
                    quota.limit
                )
            })
            .collect();
        match left.is_empty() {
            true => Finding::doubtful(
                SUBJECT,
                format!("none of GPUs is left in {}", self.region),
                "ask for more, of PREEMPTIBLE_* for spot",
            ),
            false => Finding::sound(SUBJECT, left.join(", ")),
        }
    }

    async fn machine_types(&self) -> Finding {
        const SUBJECT: &str = "machine types";
        let offerings = self.catalog.offerings.iter();
        let mut zones = offerings.map(|offering| &offering.zone);
        let Some(zone) = zones.find(|zone| self.is_in_region(zone)) else {
            let found = format!("the catalog has nothing in {}", self.region);
            return Finding::wrong(SUBJECT, found, "look at gcp.location and the catalog");
        };
        match self.compute.machine_types(zone, None).await {
            Ok(kinds) => Finding::sound(SUBJECT, format!("{} in {zone}", kinds.len())),
            Err(error) => Finding::refused(SUBJECT, &refusal::of(&error), "look at the roles"),
        }
    }
}
