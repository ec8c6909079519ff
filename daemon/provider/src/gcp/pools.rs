//! GKE's node pools: made once for all machines that are alike, empty, and never scaled by GKE.
//!
//! A pool is found by its name before it is made, and its name makes it happen once: whoever else makes
//! the same is no conflict. Making one takes a minute and GKE makes few at a time, so a pool that is
//! not there yet is a reason to come back, never a failure.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headstart_clouds::gcp::compute::{Compute, Group, MachineType};
use headstart_clouds::gcp::container::{Cluster, Container, NodePool};

use super::order::{CLUSTER_LABEL, Order};
use super::refusal;
use crate::Refusal;

/// Pause between looks at what is being made, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// Pools of this cluster's mark.
#[derive(Debug)]
pub(super) struct Pools {
    container: Container,
    zones: Vec<String>,
    looking: Duration,
    /// Groups of pools that are ready. Saves questions; nothing is lost with it.
    ready: Mutex<BTreeMap<(String, String), Group>>,
    /// Held from looking for a pool until it has been asked for.
    making: tokio::sync::Mutex<()>,
}

/// Looks at something until a time is over.
#[derive(Debug)]
pub(super) struct Looks {
    deadline: Instant,
    pause: Duration,
}

impl Looks {
    pub(super) fn new(looking: Duration) -> Self {
        Self {
            deadline: Instant::now() + looking,
            pause: PAUSES.0,
        }
    }

    /// Waits for the next look; false when there is none.
    pub(super) async fn again(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}

impl Pools {
    /// Pools of the cluster behind `container`; nodes only in `zones`, or wherever the cluster is when
    /// none is named. What is being made is waited for as long as `looking`.
    pub(super) fn new(container: Container, zones: Vec<String>, looking: Duration) -> Self {
        Self {
            container,
            zones,
            looking,
            ready: Mutex::default(),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// The cluster.
    pub(super) fn container(&self) -> &Container {
        &self.container
    }

    /// The cluster, as it is now.
    pub(super) async fn cluster(&self) -> Result<Cluster, Refusal> {
        let cluster = self.container.cluster().await;
        cluster.map_err(|error| refusal::of(&error))
    }

    /// Groups of all pools that carry `mark`.
    pub(super) async fn groups(&self, mark: &str) -> Result<Vec<Group>, Refusal> {
        let cluster = self.cluster().await?;
        let pools = cluster.node_pools.iter();
        let ours = pools.filter(|pool| is_marked(pool, mark));
        let urls = ours.flat_map(|pool| &pool.instance_group_urls);
        Ok(urls.filter_map(|url| Group::of(url)).collect())
    }

    /// The group in `zone` of the pool that `order` is bought from, which is made if it is not there.
    pub(super) async fn group(
        &self,
        order: &Order,
        zone: &str,
        compute: &Compute,
    ) -> Result<Group, Refusal> {
        for name in [order.pool_name(None), order.pool_name(Some(zone))] {
            let key = (name.clone(), zone.to_owned());
            if let Some(group) = self.ready().get(&key) {
                return Ok(group.clone());
            }
            let pool = self.pool(order, &name, zone, compute).await?;
            let urls = pool.instance_group_urls.iter();
            let mut groups = urls.filter_map(|url| Group::of(url));
            // A pool made when its type was not sold here has a sister of this zone alone.
            if let Some(group) = groups.find(|group| group.zone == zone) {
                self.ready().insert(key, group.clone());
                return Ok(group);
            }
        }
        Err(Refusal::Other {
            said: format!("GKE made a pool for {zone} without a group there"),
        })
    }

    /// A group was not found: its pool was deleted by somebody.
    pub(super) fn forget(&self, group: &Group) {
        self.ready().retain(|_, known| known != group);
    }

    async fn pool(
        &self,
        order: &Order,
        name: &str,
        zone: &str,
        compute: &Compute,
    ) -> Result<NodePool, Refusal> {
        let mut operation = None;
        {
            let _making = self.making.lock().await;
            match self.container.node_pool(name).await {
                Ok(pool) if is_ready(&pool) => return Ok(pool),
                Ok(_) => {}
                Err(error) if refusal::is_absent(&error) => {
                    let pool = self.drawn(order, name, zone, compute).await?;
                    match self.container.create(&pool).await {
                        Ok(started) => operation = Some(started),
                        // By another replica, or by a call whose answer was lost.
                        Err(error) if refusal::is_present(&error) => {}
                        Err(error) => return Err(refusal::of(&error)),
                    }
                }
                Err(error) => return Err(refusal::of(&error)),
            }
        }
        let mut looks = Looks::new(self.looking);
        loop {
            match self.container.node_pool(name).await {
                Ok(pool) if is_ready(&pool) => return Ok(pool),
                Ok(pool) if pool.status == "ERROR" => return Err(refusal::of_pool(&pool)),
                Ok(_) => {}
                Err(error) if refusal::is_absent(&error) && operation.is_none() => {
                    return Err(Refusal::Throttled {
                        wait: refusal::BUSY,
                    });
                }
                Err(error) if refusal::is_absent(&error) => {}
                Err(error) => return Err(refusal::of(&error)),
            }
            if let Some(started) = operation.as_ref().map(|one| &one.name) {
                let found = self.container.operation(started).await;
                let found = found.map_err(|error| refusal::of(&error))?;
                if found.status == "DONE"
                    && let Some(refusal) = refusal::of_operation(&found)
                {
                    return Err(refusal);
                }
            }
            if !looks.again().await {
                return Err(Refusal::Throttled {
                    wait: refusal::BUSY,
                });
            }
        }
    }

    /// The pool, in every zone where its type is sold and nodes may be.
    async fn drawn(
        &self,
        order: &Order,
        name: &str,
        zone: &str,
        compute: &Compute,
    ) -> Result<NodePool, Refusal> {
        let mut zones = self.zones.clone();
        if zones.is_empty() {
            zones = self.cluster().await?.locations;
        }
        let alone = name == order.pool_name(Some(zone));
        zones.retain(|other| other != zone && !alone);
        let kind = order.machine_type();
        let sold = sold(compute, kind, zone).await?;
        let sold = sold.ok_or_else(|| Refusal::Misconfigured {
            field: "offering".to_owned(),
            said: format!("{kind} is not sold in {zone}"),
        })?;
        let mut places = vec![zone.to_owned()];
        for other in zones {
            if self::sold(compute, kind, &other).await?.is_some() {
                places.push(other);
            }
        }
        places.sort();
        Ok(order.pool(name, places, &sold))
    }

    fn ready(&self) -> MutexGuard<'_, BTreeMap<(String, String), Group>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sold(compute: &Compute, kind: &str, zone: &str) -> Result<Option<MachineType>, Refusal> {
    let found = compute.machine_types(zone, Some(kind)).await;
    let found = found.map_err(|error| refusal::of(&error))?;
    Ok(found.into_iter().next())
}

fn is_ready(pool: &NodePool) -> bool {
    let runs = matches!(
        pool.status.as_str(),
        "RUNNING" | "RUNNING_WITH_ERROR" | "RECONCILING"
    );
    runs && !pool.instance_group_urls.is_empty()
}

fn is_marked(pool: &NodePool, mark: &str) -> bool {
    let label = pool.config.resource_labels.get(CLUSTER_LABEL);
    label.is_some_and(|found| found == mark)
}
