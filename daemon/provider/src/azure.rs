//! Azure: nodes of an AKS cluster, each an agent pool of one machine.
//!
//! **One agent pool per claim**, of one machine, named after the claim. AKS scales a pool by writing
//! how many machines it is to have, and "one more than there were" under two daemons, or after a reply
//! that was lost, is two more; which machine is whose would be another question, and AKS gives a pool
//! five writes in five minutes after the first twenty. A pool that a name stands for is made by a `PUT`
//! that must find nothing (`If-None-Match: *`): asked twice it is there once, whoever asked. It carries
//! the claim's own labels and taints, pools are made beside each other, and when it goes so does all
//! that was made for it. The price is a cluster's limit of 100 pools, said as a quota: who needs more
//! nodes than that sets `nodes: machines`, where a machine of one pool has a name, is made by a `PUT`
//! alike, and a thousand fit. That call is in preview, so it is not the default.
//!
//! A purchase is not done when it is accepted: AKS says minutes later that there was no capacity. So
//! `ensure` follows the operation until there is a machine or a failure, for a while, and asks to be
//! asked again. A pool that fails after that is listed as interrupted, and the next purchase of the
//! same offering is refused once, with what was said.
//!
//! What a node is to fetch cannot be handed to it: AKS has no user data for its nodes. The agent on it
//! asks the API server.
//!
//! Taints of agent pools are AKS's: nobody can take them off. A pool that has startup taints needs
//! `nodes: machines`. Spot nodes have the taint `kubernetes.azure.com/scalesetpriority=spot:NoSchedule`
//! besides, so a pool that buys spot lists it, or says that its pods tolerate it.
//!
//! An interruption is told on the node (Scheduled Events); what is listed here is that a machine was
//! taken away: its pool is there, and it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use headstart_clouds::azure::aks::{Aks, Deleted, MACHINES_VERSION, Made};
use headstart_clouds::azure::arm::{Arm, Condition, Operation, Progress};
use headstart_clouds::azure::compute::Compute;
use headstart_clouds::azure::prices::Retail;
use headstart_clouds::azure::token::{Source, Tokens};
use headstart_clouds::bucket::Bucket;
use headstart_clouds::call::Caller;
use headstart_core::offer::OfferingKey;
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use self::home::{Home, Kept, Stage};
use self::settings::Settings;
use crate::config::{ConfigError, url};
use crate::doctor::Finding;
use crate::{Instance, InstanceState, Offers, Provider, Refusal, Release, Site, Wanted};

mod examine;
mod home;
mod offers;
mod order;
mod refusal;
mod settings;

/// The provider's word.
const AZURE: &str = "azure";

/// Calls of Resource Manager at once and per second. AKS allows 60, and one more each second.
const CALLS: (u32, f64) = (50, 1.0);

/// The same of questions how far an operation is. AKS allows 200, and two more each second.
const STATUS_CALLS: (u32, f64) = (150, 2.0);

/// Calls of the Retail Prices API at once and per second.
const PRICE_CALLS: (u32, f64) = (10, 2.0);

/// Looks at what is being made, in one purchase, and how long they may take: less than a caller's
/// patience with one call.
const LOOKS: usize = 20;
const LOOKING: Duration = Duration::from_secs(75);

/// Pause between looks where the API names none, and the longest where it does.
const PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// How often it is looked for a machine while its operation goes on: such a look counts as two of
/// [`CALLS`], and thirty purchases may be under way.
const MACHINE_EVERY: Duration = Duration::from_secs(20);

/// When to ask again while another operation is under way.
const BUSY: Duration = Duration::from_secs(20);

/// How long a failure that came late keeps the next purchase of its offering from being made.
const LATE: Duration = Duration::from_secs(600);

/// What is the same for all pools.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Subscription of the cluster.
    pub subscription: String,
    /// Resource group of the cluster.
    pub resource_group: String,
    /// Name of the cluster in Azure.
    pub cluster: String,
    /// Region: `eastus`.
    pub location: String,
    /// How nodes are made.
    #[serde(default)]
    pub nodes: Nodes,
    /// Where Azure is.
    #[serde(default)]
    pub endpoints: Endpoints,
}

/// How nodes are made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Nodes {
    /// Each is an agent pool.
    #[default]
    AgentPools,
    /// Each is a machine of one agent pool in mode `Machines`, which must be there. In preview.
    Machines {
        /// The pool.
        pool: String,
        /// Version of the API that makes machines.
        #[serde(default = "machines_version")]
        api_version: String,
    },
}

/// Where Azure is, where that is not the public cloud.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Endpoints {
    /// Resource Manager.
    #[serde(deserialize_with = "url")]
    pub resource_manager: Url,
    /// The Retail Prices API.
    #[serde(deserialize_with = "url")]
    pub prices: Url,
}

impl Default for Endpoints {
    fn default() -> Self {
        let url = |text: &str| Url::parse(text).expect("a URL that is written here");
        Self {
            resource_manager: url("https://management.azure.com"),
            prices: url("https://prices.azure.com"),
        }
    }
}

fn machines_version() -> String {
    MACHINES_VERSION.to_owned()
}

/// Nodes of one AKS cluster.
#[derive(Debug)]
pub struct Azure {
    config: Config,
    cluster: String,
    catalog: Offers,
    home: Home,
    arm: Arc<Arm>,
    compute: Compute,
    retail: Retail,
    memory: Mutex<Memory>,
}

/// What saves questions. Nothing is lost with it.
#[derive(Debug, Default)]
struct Memory {
    /// Failures that came after a purchase was accepted.
    late: BTreeMap<OfferingKey, (Refusal, Instant)>,
    /// Names whose failure has been told to whoever bought.
    told: BTreeSet<String>,
}

impl Azure {
    /// Buys for `site.cluster` as `config` says; tokens come from `source`.
    ///
    /// # Errors
    /// The field that makes no sense, and what to write.
    pub fn open(config: Config, site: Site, source: Source) -> Result<Self, ConfigError> {
        config.check()?;
        let tokens = Arc::new(Tokens::new(site.http.clone(), source));
        let caller = |(size, rate)| {
            let bucket = Bucket::new(size, rate, Instant::now());
            Caller::new(site.http.clone(), site.patience, bucket)
        };
        let endpoint = config.endpoints.resource_manager.clone();
        let arm = Arc::new(Arm::new(
            caller(CALLS),
            caller(STATUS_CALLS),
            tokens,
            endpoint,
        ));
        let aks = Aks::new(
            Arc::clone(&arm),
            &config.subscription,
            &config.resource_group,
            &config.cluster,
        );
        Ok(Self {
            home: Home::new(aks, config.nodes.clone(), &config.location),
            compute: Compute::new(Arc::clone(&arm), &config.subscription),
            retail: Retail::new(caller(PRICE_CALLS), config.endpoints.prices.clone()),
            cluster: site.cluster,
            catalog: site.catalog,
            arm,
            memory: Mutex::default(),
            config,
        })
    }

    /// Every address that is talked to, so that each may be private: endpoints inside of a network of
    /// one's own are.
    pub fn addresses(config: &Config, source: &Source) -> Vec<Url> {
        let identity = match source {
            Source::Given(_) => None,
            Source::Federated { authority, .. } => Some(authority),
            Source::Managed { endpoint, .. } => Some(endpoint),
        };
        let endpoints = &config.endpoints;
        [&endpoints.resource_manager, &endpoints.prices]
            .into_iter()
            .chain(identity)
            .cloned()
            .collect()
    }

    async fn buy(&self, wanted: &Wanted) -> Result<Instance, Refusal> {
        let settings = Settings::read(&wanted.settings)?;
        let order = self.order(wanted, &settings)?;
        let name = order::name(&self.cluster, &wanted.claim);
        let condition = match self.find(&name).await? {
            None => match self.came_late(&wanted.offering) {
                Some(refusal) => return Err(refusal),
                None => Some(Condition::Absent),
            },
            Some(kept) => {
                self.check_ours(&kept, &wanted.claim)?;
                match kept.stage {
                    Stage::Failed(_) => Some(Condition::Unchanged(kept.etag)),
                    Stage::Making | Stage::Made | Stage::Ending => None,
                }
            }
        };
        let mut operation = None;
        if let Some(condition) = condition {
            let made = self.home.make(&name, &order, condition).await;
            match made.map_err(|error| refusal::of(&error))? {
                Made::Accepted(started) => operation = started,
                // By another replica, or by a call whose answer was lost.
                Made::Changed => {}
                Made::Busy(said, wait) => return Err(busy(&said.message, wait)),
            }
        }
        self.follow(&name, &wanted.claim, operation).await
    }

    /// Looks until there is a machine, or a failure.
    async fn follow(
        &self,
        name: &str,
        claim: &str,
        mut operation: Option<Operation>,
    ) -> Result<Instance, Refusal> {
        let deadline = Instant::now() + LOOKING;
        let mut looked = Instant::now();
        for look in 0..LOOKS {
            let wait = operation.as_ref().and_then(|operation| operation.wait);
            let pause = wait.unwrap_or(PAUSE).min(LONGEST_PAUSE);
            if look > 0 {
                if Instant::now() + pause > deadline {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
            if let Some(started) = &mut operation {
                let progress = self.arm.progress(started).await;
                match progress.map_err(|error| refusal::of(&error))? {
                    Progress::Running(wait) => {
                        started.wait = wait.or(started.wait);
                        if looked.elapsed() < MACHINE_EVERY {
                            continue;
                        }
                    }
                    Progress::Done | Progress::Forgotten => operation = None,
                    Progress::Failed(said) => {
                        self.memory().told.insert(name.to_owned());
                        return Err(refusal::of_said(&said));
                    }
                }
            }
            looked = Instant::now();
            let Some(kept) = self.find(name).await? else {
                let said = format!("{name} was deleted while it was made");
                return Err(Refusal::Other { said });
            };
            self.check_ours(&kept, claim)?;
            match &kept.stage {
                Stage::Failed(said) => {
                    self.memory().told.insert(name.to_owned());
                    return Err(refusal::of_said(said));
                }
                Stage::Ending => {
                    let said = format!("{name}, which was made for {claim}, is being deleted");
                    return Err(Refusal::Other { said });
                }
                Stage::Making | Stage::Made => {
                    let kept = self.look(kept).await?;
                    if kept.machine.is_some() {
                        return Ok(self.instance(kept));
                    }
                    if kept.stage == Stage::Made {
                        let said = format!("the machine of {name} was taken away");
                        return Err(Refusal::Other { said });
                    }
                }
            }
        }
        Err(Refusal::Other {
            said: format!("{name} is being made and has no machine yet"),
        })
    }

    async fn give_back(&self, claim: &str) -> Result<Release, Refusal> {
        let name = order::name(&self.cluster, claim);
        let Some(kept) = self.find(&name).await? else {
            self.memory().told.remove(&name);
            return Ok(Release::Gone);
        };
        // What has this name and another mark was not made for this claim.
        if self.check_ours(&kept, claim).is_err() {
            return Ok(Release::Gone);
        }
        if kept.stage == Stage::Ending {
            return Ok(Release::Ending);
        }
        let deleted = self.home.delete(&name).await;
        match deleted.map_err(|error| refusal::of(&error))? {
            // It is gone when it cannot be found.
            Deleted::Ending | Deleted::Absent => Ok(Release::Ending),
            Deleted::Busy(said, wait) => Err(busy(&said.message, wait)),
        }
    }

    async fn all(&self) -> Result<Vec<Instance>, Refusal> {
        let listed = self.home.list().await;
        let mut ours = listed.map_err(|error| refusal::of(&error))?;
        ours.retain(|kept| kept.cluster.as_deref() == Some(&self.cluster));
        let ours = self.home.machines(ours).await;
        let ours = ours.map_err(|error| refusal::of(&error))?;
        for kept in &ours {
            self.note_late(kept);
        }
        Ok(ours.into_iter().map(|kept| self.instance(kept)).collect())
    }

    async fn find(&self, name: &str) -> Result<Option<Kept>, Refusal> {
        let found = self.home.find(name).await;
        found.map_err(|error| refusal::of(&error))
    }

    async fn look(&self, kept: Kept) -> Result<Kept, Refusal> {
        let looked = self.home.look(kept).await;
        looked.map_err(|error| refusal::of(&error))
    }

    fn check_ours(&self, kept: &Kept, claim: &str) -> Result<(), Refusal> {
        let ours = kept.cluster.as_deref() == Some(&self.cluster);
        if ours && kept.claim.as_deref() == Some(claim) {
            return Ok(());
        }
        Err(Refusal::Other {
            said: format!(
                "{} is there and has no tag {} of {} for {claim}: delete or rename it",
                kept.name,
                order::CLAIM_TAG,
                self.cluster
            ),
        })
    }

    fn instance(&self, kept: Kept) -> Instance {
        let state = match (&kept.stage, &kept.machine) {
            (Stage::Ending, _) => InstanceState::Ending,
            // It will never be a node, or was taken away.
            (Stage::Failed(_), _) | (Stage::Made, None) => InstanceState::Interrupted,
            (Stage::Made | Stage::Making, _) => InstanceState::Running,
        };
        let (provider_id, node_name) = match kept.machine {
            Some(machine) => (order::provider_id(&machine.resource), Some(machine.node)),
            None => (order::provider_id(&kept.id), None),
        };
        Instance {
            claim: kept.claim,
            provider_id,
            node_name,
            state,
            created: kept.created,
        }
    }

    /// A failure that nobody was told, because it came after the purchase was accepted.
    fn note_late(&self, kept: &Kept) {
        let (Stage::Failed(said), Some(offering)) = (&kept.stage, &kept.offering) else {
            return;
        };
        let refusal = refusal::of_said(said);
        let lasting = matches!(
            refusal,
            Refusal::OutOfCapacity { .. } | Refusal::Quota { .. }
        );
        let mut memory = self.memory();
        if lasting && memory.told.insert(kept.name.clone()) {
            let until = Instant::now() + LATE;
            memory.late.insert(offering.clone(), (refusal, until));
        }
    }

    fn came_late(&self, offering: &OfferingKey) -> Option<Refusal> {
        let (refusal, until) = self.memory().late.remove(offering)?;
        (Instant::now() < until).then_some(refusal)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for Azure {
    fn name(&self) -> &'static str {
        AZURE
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, Refusal>> {
        Box::pin(self.sold())
    }

    fn ensure<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Instance, Refusal>> {
        Box::pin(self.buy(wanted))
    }

    fn release<'a>(&'a self, claim: &'a str) -> BoxFuture<'a, Result<Release, Refusal>> {
        Box::pin(self.give_back(claim))
    }

    fn instances(&self) -> BoxFuture<'_, Result<Vec<Instance>, Refusal>> {
        Box::pin(self.all())
    }

    fn examine<'a>(&'a self, settings: &'a Map<String, Value>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(self.findings(settings))
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |field: &str, found: &str, fix: &str| Err(ConfigError::new(field, found, fix));
        let is_id = |text: &str| {
            text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
        };
        let is_name = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.()".contains(c);
            (1..=90).contains(&text.len()) && text.chars().all(plain) && !text.ends_with('.')
        };
        let is_word = |text: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            !text.is_empty() && text.chars().all(plain)
        };
        if !is_id(&self.subscription) {
            let fix = "write the subscription's id, as `az account show --query id` prints it";
            return wrong("subscription", &self.subscription, fix);
        }
        if !is_name(&self.resource_group) {
            let fix = "write the name of the cluster's resource group";
            return wrong("resourceGroup", &self.resource_group, fix);
        }
        if !is_name(&self.cluster) {
            let fix = "write the name that the cluster has in Azure";
            return wrong("cluster", &self.cluster, fix);
        }
        if !is_word(&self.location) {
            let fix = "write the region as Azure does: eastus, westeurope";
            return wrong("location", &self.location, fix);
        }
        match &self.nodes {
            Nodes::Machines { pool, .. } if !is_word(pool) || pool.len() > 12 => wrong(
                "nodes.machines.pool",
                pool,
                "write the name of an agent pool in mode Machines",
            ),
            Nodes::AgentPools | Nodes::Machines { .. } => Ok(()),
        }
    }
}

fn busy(said: &str, wait: Option<Duration>) -> Refusal {
    tracing::debug!(said, "another operation of the cluster is under way");
    Refusal::Throttled {
        wait: wait.unwrap_or(BUSY),
    }
}

#[cfg(test)]
mod tests;
