//! Google Cloud: nodes of a GKE cluster, machines of zonal managed instance groups.
//!
//! **One node pool for all machines that are alike** (type, spot, labels, taints, disks), named after a
//! hash of that, empty and not scaled by GKE; a machine is then one named instance more in the pool's
//! group of a zone, which is no operation of the cluster. The name is the claim's behind a mark of the
//! cluster and is unique in a zone: asked twice, there is one, whoever asked. A pool takes a minute and
//! GKE makes few at a time: until it is there a purchase is told to come back.
//!
//! That Compute Engine accepts a name says nothing of capacity. The group tries until it succeeds, for
//! ever; so a purchase is looked after until the machine has its resources, and **whatever failed is
//! taken out of the group before it is told**: nothing comes later and costs money.
//!
//! What a node is to fetch is not handed to it: GKE's bootstrap is GKE's, user data of its nodes is
//! reserved, and the pool's metadata is the same for all its machines. The agent asks the API server.
//! (A per-instance config could carry metadata, but makes the group a stateful one, which GKE's own
//! upgrades do not expect.)
//!
//! A group makes a machine anew that was preempted, under its old name. Names are never used again for
//! another claim, so whatever was preempted once under a name stays interrupted until it is given back.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{BoxFuture, try_join_all};
use headstart_clouds::bucket::Bucket;
use headstart_clouds::call::{CallError, Caller};
use headstart_clouds::gcp::api::Api;
use headstart_clouds::gcp::compute::{self, Compute, Group, ManagedInstance, last};
use headstart_clouds::gcp::container::Container;
use headstart_clouds::gcp::token::{Source, Tokens};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use self::order::{CLUSTER_LABEL, Names, Order};
use self::pools::{Looks, Pools};
use self::settings::Settings;
use crate::config::{ConfigError, url};
use crate::doctor::Finding;
use crate::{Instance, InstanceState, Offers, Provider, Refusal, Release, Site, Wanted};

mod examine;
mod offers;
mod order;
mod pools;
mod refusal;
mod settings;

/// The provider's word.
const GCP: &str = "gcp";

/// Calls at once and per second. Compute Engine allows 25 per second and region of most kinds.
const COMPUTE_CALLS: (u32, f64) = (100, 20.0);

/// GKE's API allows 3,000 per minute.
const CONTAINER_CALLS: (u32, f64) = (50, 10.0);

/// What Compute Engine does to a spot machine that it takes away.
const PREEMPTED: &str = "compute.instances.preempted";

/// What is the same for all pools.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Project of the cluster, by its id.
    pub project: String,
    /// Where the cluster is: `us-central1`, or `us-central1-a` for a cluster of one zone.
    pub location: String,
    /// Name of the cluster in GKE.
    pub cluster: String,
    /// Zones that nodes may be in; those of the cluster when none is named.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Where Google is.
    #[serde(default)]
    pub endpoints: Endpoints,
}

/// Where Google is, where that is not the public cloud.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Endpoints {
    /// GKE.
    #[serde(deserialize_with = "url")]
    pub container: Url,
    /// Compute Engine, with the version.
    #[serde(deserialize_with = "url")]
    pub compute: Url,
}

impl Default for Endpoints {
    fn default() -> Self {
        let url = |text: &str| Url::parse(text).expect("a URL that is written here");
        Self {
            container: url("https://container.googleapis.com"),
            compute: url("https://compute.googleapis.com/compute/v1"),
        }
    }
}

impl Config {
    /// The region that the cluster is in, checking all else on the way.
    ///
    /// # Errors
    /// The field that makes no sense, and what to write.
    pub fn region(&self) -> Result<String, ConfigError> {
        let wrong = |field: &str, found: &str, fix: &str| {
            ConfigError::new(field, found.chars().take(80).collect::<String>(), fix)
        };
        let plain = |text: &str| {
            let letters =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !text.is_empty() && text.len() <= 63 && text.bytes().all(letters)
        };
        // Old projects are `domain.com:name`.
        if !plain(&self.project.replace([':', '.'], "-")) {
            return Err(wrong(
                "gcp.project",
                &self.project,
                "write the project's id",
            ));
        }
        if !plain(&self.cluster) {
            return Err(wrong(
                "gcp.cluster",
                &self.cluster,
                "write the name it has in GKE",
            ));
        }
        const LOCATION: &str = "write a region (us-central1) or a zone (us-central1-a)";
        let mut parts = self.location.rsplitn(2, '-');
        let (end, begin) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let is_zone = end.len() == 1 && begin.contains('-');
        let region = if is_zone { begin } else { &self.location };
        let numbered = region.ends_with(|last: char| last.is_ascii_digit());
        if !plain(region) || !region.contains('-') || !numbered {
            return Err(wrong("gcp.location", &self.location, LOCATION));
        }
        for zone in &self.zones {
            if !plain(zone) || !is_zone_of(zone, region) {
                let fix = "write zones of the cluster's region";
                return Err(wrong("gcp.zones", zone, fix));
            }
        }
        Ok(region.to_owned())
    }
}

fn is_zone_of(zone: &str, region: &str) -> bool {
    let rest = zone
        .strip_prefix(region)
        .and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains('-'))
}

/// Nodes of one GKE cluster.
#[derive(Debug)]
pub struct Gcp {
    project: String,
    region: String,
    zones: Vec<String>,
    names: Names,
    catalog: Offers,
    compute: Compute,
    pools: Pools,
    looking: Duration,
}

impl Gcp {
    /// Every address that is talked to, so that each may be private: endpoints inside of a network of
    /// one's own are.
    pub fn addresses(config: &Config, source: &Source) -> Vec<Url> {
        let identity = match source {
            Source::Given(_) | Source::File(_) => None,
            Source::Metadata { endpoint } => Some(endpoint),
        };
        let endpoints = &config.endpoints;
        [&endpoints.container, &endpoints.compute]
            .into_iter()
            .chain(identity)
            .cloned()
            .collect()
    }

    /// Buys for `site.cluster` as `config` says; tokens come from `source`.
    ///
    /// # Errors
    /// The field that makes no sense, and what to write.
    pub fn open(config: Config, site: Site, source: Source) -> Result<Self, ConfigError> {
        let region = config.region()?;
        let tokens = Arc::new(Tokens::new(site.http.clone(), source));
        let api = |(size, rate), endpoint| {
            let bucket = Bucket::new(size, rate, Instant::now());
            let caller = Caller::new(site.http.clone(), site.patience, bucket);
            Api::new(caller, Arc::clone(&tokens), endpoint)
        };
        let container = Container::new(
            api(CONTAINER_CALLS, config.endpoints.container),
            &config.project,
            &config.location,
            &config.cluster,
        );
        let looking = site.patience.total;
        Ok(Self {
            compute: Compute::new(
                api(COMPUTE_CALLS, config.endpoints.compute),
                &config.project,
            ),
            pools: Pools::new(container, config.zones.clone(), looking),
            names: Names::of(&site.cluster),
            catalog: site.catalog,
            project: config.project,
            zones: config.zones,
            region,
            looking,
        })
    }

    fn is_in_region(&self, zone: &str) -> bool {
        let named = self.zones.is_empty() || self.zones.iter().any(|one| one == zone);
        named && is_zone_of(zone, &self.region)
    }

    async fn buy(&self, wanted: &Wanted) -> Result<Instance, Refusal> {
        let settings = Settings::read(&wanted.settings)?;
        let order = Order::of(&self.names.mark, wanted, settings)?;
        let name = self.names.wanted(&wanted.claim)?;
        let zone = &wanted.offering.zone;
        let kinds = &self.catalog.types;
        let known = kinds
            .iter()
            .any(|kind| kind.name == wanted.offering.instance_type);
        if !known || !self.is_in_region(zone) {
            return Err(Refusal::Misconfigured {
                field: "offering".to_owned(),
                said: format!("{} is not sold in {}", wanted.offering, self.region),
            });
        }
        if let Some(found) = self.find(zone, &name).await?
            && has_resources(&found.status)
        {
            return self.bought(found);
        }
        let group = self.pools.group(&order, zone, &self.compute).await?;
        let there = match self.compute.managed(&group, Some(&name)).await {
            Err(error) if refusal::is_absent(&error) => return Err(self.lost(&group)),
            other => other.map_err(|error| refusal::of(&error))?,
        };
        if there.is_empty() {
            match self.compute.create_instance(&group, &name).await {
                Ok(_) => {}
                Err(error) if refusal::is_absent(&error) => return Err(self.lost(&group)),
                // By another replica, or by a call whose answer was lost.
                Err(error) if refusal::is_present(&error) => {}
                Err(error) => return Err(refusal::of(&error)),
            }
        }
        self.follow(&group, &name).await
    }

    /// Looks until a machine has its resources, or has failed and is out of the group.
    async fn follow(&self, group: &Group, name: &str) -> Result<Instance, Refusal> {
        let mut looks = Looks::new(self.looking);
        loop {
            if let Some(found) = self.find(&group.zone, name).await?
                && has_resources(&found.status)
            {
                return self.bought(found);
            }
            let managed = self.compute.managed(group, Some(name)).await;
            let managed = managed.map_err(|error| refusal::of(&error))?;
            if let Some(one) = managed.first() {
                if one.current_action == "DELETING" {
                    let said = format!("{name} is being deleted");
                    return Err(Refusal::Other { said });
                }
                if let Some(refused) = refusal::of_errors(&one.last_attempt.errors) {
                    return Err(self.take_out(group, one, refused).await);
                }
            }
            if !looks.again().await {
                return Err(Refusal::Other {
                    said: format!(
                        "{name} is being made, and it is not known yet whether it will be"
                    ),
                });
            }
        }
    }

    /// Takes what failed out of its group, which would go on trying; says what there is to say.
    async fn take_out(&self, group: &Group, one: &ManagedInstance, refused: Refusal) -> Refusal {
        match self.compute.delete_instance(group, one.name()).await {
            Ok(_) => refused,
            Err(error) => Refusal::Other {
                said: format!(
                    "{refused}; and {} cannot be taken out of {}, which goes on trying: {}",
                    one.name(),
                    group.name,
                    headstart_transfer::chain(&error)
                ),
            },
        }
    }

    fn lost(&self, group: &Group) -> Refusal {
        self.pools.forget(group);
        Refusal::Other {
            said: format!(
                "group {} is gone, and its pool with it: it is made anew",
                group.name
            ),
        }
    }

    async fn find(&self, zone: &str, name: &str) -> Result<Option<compute::Instance>, Refusal> {
        let found = self.compute.instance(zone, name).await;
        found.map_err(|error| refusal::of(&error))
    }

    fn is_ours(&self, instance: &compute::Instance) -> bool {
        let label = instance.labels.get(CLUSTER_LABEL);
        label.is_some_and(|found| *found == self.names.mark)
    }

    fn bought(&self, found: compute::Instance) -> Result<Instance, Refusal> {
        if !self.is_ours(&found) {
            return Err(Refusal::Other {
                said: format!(
                    "there is an instance {} that is not of this cluster",
                    found.name
                ),
            });
        }
        if state(&found.status) == InstanceState::Ending {
            let said = format!("{} is {}", found.name, found.status);
            return Err(Refusal::Other { said });
        }
        Ok(self.instance(found, InstanceState::Running))
    }

    fn instance(&self, found: compute::Instance, state: InstanceState) -> Instance {
        let zone = last(&found.zone);
        Instance {
            claim: self.names.claim(&found.name),
            provider_id: format!("gce://{}/{zone}/{}", self.project, found.name),
            created: moment(&found.creation_timestamp),
            node_name: Some(found.name),
            state,
        }
    }

    async fn give_back(&self, claim: &str) -> Result<Release, Refusal> {
        // What has no such name was never bought.
        let Some(name) = self.names.machine(claim) else {
            return Ok(Release::Gone);
        };
        let groups = self.pools.groups(&self.names.mark).await?;
        let mut zones: Vec<_> = groups.iter().map(|group| group.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        // A list may lag behind: what is there is asked for by its name.
        let there = try_join_all(zones.iter().map(|zone| self.find(zone, &name))).await?;
        let there = there.into_iter().flatten().find(|one| self.is_ours(one));
        let made_by = there.as_ref().and_then(compute::Instance::group);
        let places: Vec<_> = match (&there, made_by) {
            (Some(_), Some(group)) => vec![group],
            (Some(one), None) => {
                let zone = last(&one.zone);
                groups
                    .into_iter()
                    .filter(|group| group.zone == zone)
                    .collect()
            }
            // It may wait in its group.
            (None, _) => groups,
        };
        let known = there.is_some() && places.len() == 1;
        let managed = places.iter().map(|group| self.managed(group, &name));
        let managed = try_join_all(managed).await?;
        let mut release = match there {
            Some(_) => Release::Ending,
            None => Release::Gone,
        };
        for (group, one) in places.iter().zip(managed) {
            let ends = one
                .as_ref()
                .is_some_and(|one| one.current_action == "DELETING");
            if one.is_some() || known {
                release = Release::Ending;
                if !ends {
                    let deleted = self.compute.delete_instance(group, &name).await;
                    deleted.map_err(|error| refusal::of(&error))?;
                }
            }
        }
        Ok(release)
    }

    async fn managed(&self, group: &Group, name: &str) -> Result<Option<ManagedInstance>, Refusal> {
        match self.compute.managed(group, Some(name)).await {
            Ok(found) => Ok(found.into_iter().next()),
            // Its pool was deleted since, and all that was in it.
            Err(error) if refusal::is_absent(&error) => Ok(None),
            Err(error) => Err(refusal::of(&error)),
        }
    }

    /// Instances of a zone, and whatever was preempted under which name.
    async fn of_zone(&self, zone: &str) -> Result<Vec<Instance>, Refusal> {
        let told = |error: CallError| refusal::of(&error);
        let listed = self
            .compute
            .instances(zone, CLUSTER_LABEL, &self.names.mark);
        let listed = listed.await.map_err(told)?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let preempted = self
            .compute
            .operations(zone, PREEMPTED)
            .await
            .map_err(told)?;
        let is_preempted = |name: &str| preempted.iter().any(|one| last(&one.target_link) == name);
        let instances = listed.into_iter().map(|found| {
            let state = match is_preempted(&found.name) {
                true => InstanceState::Interrupted,
                false => state(&found.status),
            };
            self.instance(found, state)
        });
        Ok(instances.collect())
    }
}

impl Provider for Gcp {
    fn name(&self) -> &'static str {
        GCP
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, Refusal>> {
        Box::pin(async { Ok(self.sold().await) })
    }

    fn ensure<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Instance, Refusal>> {
        Box::pin(self.buy(wanted))
    }

    fn release<'a>(&'a self, claim: &'a str) -> BoxFuture<'a, Result<Release, Refusal>> {
        Box::pin(self.give_back(claim))
    }

    fn instances(&self) -> BoxFuture<'_, Result<Vec<Instance>, Refusal>> {
        Box::pin(async {
            let groups = self.pools.groups(&self.names.mark).await?;
            let mut zones: Vec<_> = groups.into_iter().map(|group| group.zone).collect();
            zones.sort();
            zones.dedup();
            let all = try_join_all(zones.iter().map(|zone| self.of_zone(zone))).await?;
            Ok(all.into_iter().flatten().collect())
        })
    }

    fn examine<'a>(&'a self, settings: &'a Map<String, Value>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.examined(settings))
    }
}

/// Whether an instance has what it needs to run: before that it may still fail for want of capacity.
fn has_resources(status: &str) -> bool {
    !matches!(status, "" | "PENDING" | "PROVISIONING")
}

fn state(status: &str) -> InstanceState {
    match status {
        "STOPPING" | "PENDING_STOP" | "STOPPED" | "TERMINATED" | "DEPROVISIONING"
        | "SUSPENDING" | "SUSPENDED" => InstanceState::Ending,
        _ => InstanceState::Running,
    }
}

/// A moment as Compute Engine writes it; the beginning of time if it cannot be read.
fn moment(text: &str) -> SystemTime {
    let read: Option<jiff::Timestamp> = text.parse().ok();
    let seconds = read.and_then(|read| u64::try_from(read.as_second()).ok());
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(test)]
mod tests;
