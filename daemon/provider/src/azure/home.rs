//! Where nodes live: agent pools of one machine each, or machines of one agent pool. Both are found,
//! made and deleted by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::future::try_join_all;
use headstart_clouds::azure::aks::{self, AgentPool, Aks, Deleted, Made, ManagedCluster, Status};
use headstart_clouds::azure::arm::Condition;
use headstart_clouds::call::{Answer, CallError, Said};
use headstart_core::offer::OfferingKey;

use super::Nodes;
use super::order::{self, Order};

/// Most pools whose machines are looked at for one list. A look is a call, and AKS allows one a second.
const MOST_LOOKS: usize = 20;

/// How nodes are made, and by what.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) aks: Aks,
    nodes: Nodes,
    location: String,
    /// What looks at pools have found, and in which round of looks.
    looks: Mutex<Looks>,
}

#[derive(Debug, Default)]
struct Looks {
    round: u64,
    seen: BTreeMap<String, (u64, Option<Machine>)>,
}

/// One node's worth of Azure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// Its name, which its claim gives.
    pub(super) name: String,
    /// Its id.
    pub(super) id: String,
    pub(super) etag: String,
    /// Cluster and claim by its tags.
    pub(super) cluster: Option<String>,
    pub(super) claim: Option<String>,
    pub(super) offering: Option<OfferingKey>,
    pub(super) created: SystemTime,
    pub(super) stage: Stage,
    /// The machine, as far as it has been seen.
    pub(super) machine: Option<Machine>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Making,
    Made,
    Failed(Said),
    Ending,
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Its id.
    pub(super) resource: String,
    /// Name of its Node.
    pub(super) node: String,
}

impl Home {
    pub(super) fn new(aks: Aks, nodes: Nodes, location: &str) -> Self {
        Self {
            aks,
            nodes,
            location: location.to_owned(),
            looks: Mutex::default(),
        }
    }

    pub(super) async fn cluster(&self) -> Result<(ManagedCluster, Answer), CallError> {
        self.aks.managed_cluster().await
    }

    pub(super) async fn find(&self, name: &str) -> Result<Option<Kept>, CallError> {
        match &self.nodes {
            Nodes::AgentPools => {
                let found = self.aks.agent_pool(name).await?;
                Ok(found.map(|pool| self.of_pool(pool)))
            }
            Nodes::Machines { pool, api_version } => {
                let found = self.aks.machine(pool, name, api_version).await?;
                Ok(found.map(|machine| self.of_machine(machine)))
            }
        }
    }

    pub(super) async fn make(
        &self,
        name: &str,
        order: &Order,
        condition: Condition,
    ) -> Result<Made, CallError> {
        match &self.nodes {
            Nodes::AgentPools => {
                let pool = order.agent_pool();
                self.aks.put_agent_pool(name, &pool, condition).await
            }
            Nodes::Machines { pool, api_version } => {
                let machine = order.machine();
                let made = self
                    .aks
                    .put_machine(pool, name, &machine, api_version, condition);
                made.await
            }
        }
    }

    pub(super) async fn delete(&self, name: &str) -> Result<Deleted, CallError> {
        self.looks().seen.remove(name);
        match &self.nodes {
            Nodes::AgentPools => self.aks.delete_agent_pool(name).await,
            Nodes::Machines { pool, .. } => self.aks.delete_machines(pool, &[name]).await,
        }
    }

    /// All there are, whoever made them. In pools, machines are not looked at.
    pub(super) async fn list(&self) -> Result<Vec<Kept>, CallError> {
        match &self.nodes {
            Nodes::AgentPools => {
                let pools = self.aks.agent_pools().await?.into_iter();
                Ok(pools.map(|pool| self.of_pool(pool)).collect())
            }
            Nodes::Machines { pool, api_version } => {
                let machines = self.aks.machines_as(pool, api_version).await?.into_iter();
                Ok(machines.map(|machine| self.of_machine(machine)).collect())
            }
        }
    }

    /// The same with the machine that it has.
    pub(super) async fn look(&self, mut kept: Kept) -> Result<Kept, CallError> {
        if self.nodes == Nodes::AgentPools {
            let machines = self.aks.machines(&kept.name).await?;
            kept.machine = machines.into_iter().find_map(of_scale_set);
        }
        Ok(kept)
    }

    /// The same with their machines: looked at for those that it is longest ago for, remembered of the
    /// others.
    pub(super) async fn machines(&self, all: Vec<Kept>) -> Result<Vec<Kept>, CallError> {
        if self.nodes != Nodes::AgentPools {
            return Ok(all);
        }
        let (round, due) = {
            let mut looks = self.looks();
            looks.round += 1;
            let known = |name: &str| all.iter().any(|kept| kept.name == name);
            looks.seen.retain(|name, _| known(name));
            let mut due: Vec<usize> = (0..all.len()).collect();
            due.retain(|at| matches!(all[*at].stage, Stage::Made | Stage::Making));
            due.sort_by_key(|at| looks.seen.get(&all[*at].name).map(|(round, _)| *round));
            due.truncate(MOST_LOOKS);
            (looks.round, due)
        };
        let looked = due.iter().map(|at| self.look_in_list(&all[*at]));
        let looked = try_join_all(looked).await?;
        let mut looks = self.looks();
        let mut gone = BTreeSet::new();
        for kept in looked {
            if kept.stage == Stage::Ending {
                gone.insert(kept.name.clone());
            }
            let seen = (round, kept.machine);
            looks.seen.insert(kept.name, seen);
        }
        let with = all.into_iter().map(|mut kept| {
            match looks.seen.get(&kept.name) {
                Some(_) if gone.contains(&kept.name) => kept.stage = Stage::Ending,
                Some((_, machine)) => kept.machine.clone_from(machine),
                // Nobody has looked yet: that is no word about its machine.
                None if kept.stage == Stage::Made => kept.stage = Stage::Making,
                None => {}
            }
            kept
        });
        Ok(with.collect())
    }

    /// The same for one of a list, which may be gone since the list was made.
    async fn look_in_list(&self, kept: &Kept) -> Result<Kept, CallError> {
        match self.look(kept.clone()).await {
            Err(CallError::Refused { said, .. }) if said.code.ends_with("NotFound") => Ok(Kept {
                stage: Stage::Ending,
                ..kept.clone()
            }),
            looked => looked,
        }
    }

    fn of_pool(&self, pool: AgentPool) -> Kept {
        let properties = pool.properties;
        let zone = properties.availability_zones.first();
        let priority = properties.scale_set_priority.as_deref();
        Kept {
            stage: stage(&properties.provisioning_state, &properties.status),
            offering: self.offering(&properties.vm_size, zone, priority),
            machine: None,
            ..self.marked(pool.id, pool.name, properties.e_tag, &properties.tags)
        }
    }

    fn of_machine(&self, machine: aks::Machine) -> Kept {
        let properties = machine.properties;
        let zone = machine.zones.first();
        let priority = properties.priority.as_deref();
        let gone = properties.status.vm_state == "Deleted" || properties.resource_id.is_empty();
        let node = match properties.kubernetes.node_name.as_str() {
            "" => format!("aks-{}-vm", machine.name),
            name => name.to_owned(),
        };
        Kept {
            stage: stage(&properties.provisioning_state, &properties.status),
            offering: self.offering(&properties.hardware.vm_size, zone, priority),
            machine: (!gone).then(|| Machine {
                resource: properties.resource_id.clone(),
                node,
            }),
            ..self.marked(machine.id, machine.name, properties.e_tag, &properties.tags)
        }
    }

    fn marked(
        &self,
        id: String,
        name: String,
        etag: String,
        tags: &BTreeMap<String, String>,
    ) -> Kept {
        Kept {
            id,
            etag,
            cluster: order::tag(tags, order::CLUSTER_TAG).map(str::to_owned),
            claim: order::tag(tags, order::CLAIM_TAG).map(str::to_owned),
            created: order::created(tags),
            name,
            offering: None,
            stage: Stage::Making,
            machine: None,
        }
    }

    fn offering(
        &self,
        size: &str,
        zone: Option<&String>,
        priority: Option<&str>,
    ) -> Option<OfferingKey> {
        let location = &self.location;
        let capacity_type = match priority {
            Some("Spot") => "spot",
            _ => "on-demand",
        };
        Some(OfferingKey {
            instance_type: size.to_owned(),
            zone: zone.map_or_else(|| location.clone(), |zone| format!("{location}-{zone}")),
            capacity_type: capacity_type.parse().ok()?,
        })
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A machine of a scale set: its name is its Node's.
fn of_scale_set(machine: aks::Machine) -> Option<Machine> {
    let resource = machine.properties.resource_id;
    (!resource.is_empty()).then_some(Machine {
        resource,
        node: machine.name,
    })
}

fn stage(state: &str, status: &Status) -> Stage {
    match state {
        "Succeeded" => Stage::Made,
        "Failed" | "Canceled" => {
            let error = status.provisioning_error.clone().unwrap_or_default();
            let mut said = error.said("");
            if said.code.is_empty() {
                state.clone_into(&mut said.code);
            }
            Stage::Failed(said)
        }
        "Deleting" => Stage::Ending,
        // Creating, Updating, Scaling, Upgrading and what else there may be.
        _ => Stage::Making,
    }
}
