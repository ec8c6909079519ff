//! What a planner says of a scenario, in the form that Karpenter's driver writes too, and what the
//! verifier says of it.

use std::collections::BTreeMap;

use headstart_core::amount::Resources;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::OfferingKey;
use headstart_core::plan::{NewNode, Placement, Plan, Target};
use headstart_core::pod::ObjectKey;
use headstart_core::ready::Timing;
use headstart_core::reason::{NotServed, Score};
use headstart_core::snapshot::{Policy, Snapshot};
use headstart_core::verify::{Violation, justify, verify};
use serde::{Deserialize, Serialize};

use crate::scenario::Error;

/// What is bought, what goes where, and the CPU seconds it took.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// Compiling the world.
    pub(crate) setup: f64,
    /// Planning.
    pub(crate) solve: f64,
    /// Planning, in seconds of wall time.
    pub(crate) solve_wall: f64,
    pub(crate) nodes: Option<Vec<Bought>>,
    pub(crate) existing: Option<Vec<Existing>>,
    pub(crate) unplaced: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bought {
    pool: String,
    #[serde(rename = "type")]
    kind: String,
    zone: String,
    capacity_type: String,
    price: f64,
    pods: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Existing {
    node: String,
    pods: Vec<String>,
}

impl Outcome {
    /// Of our own plan.
    pub(crate) fn of(plan: &Plan) -> Self {
        let mut existing: BTreeMap<&String, Vec<String>> = BTreeMap::new();
        for placement in &plan.placements {
            if let Target::Node(name) = &placement.target {
                existing
                    .entry(name)
                    .or_default()
                    .push(placement.pod.to_string());
            }
        }
        let bought = plan.nodes.iter().map(|node| Bought {
            pool: node.pool.clone(),
            kind: node.offering.instance_type.clone(),
            zone: node.offering.zone.clone(),
            capacity_type: node.offering.capacity_type.to_string(),
            price: node.price.usd(),
            pods: node.pods.iter().map(ObjectKey::to_string).collect(),
        });
        let there = existing.into_iter().map(|(node, pods)| Existing {
            node: node.clone(),
            pods,
        });
        Self {
            nodes: Some(bought.collect()),
            existing: Some(there.collect()),
            unplaced: (plan.unserved.iter())
                .map(|(pod, why)| (pod.to_string(), format!("{why:?}")))
                .collect(),
            ..Self::default()
        }
    }

    /// How many nodes are bought.
    pub(crate) fn bought(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    /// What they cost, in USD per hour.
    pub(crate) fn usd(&self) -> f64 {
        self.nodes.iter().flatten().map(|node| node.price).sum()
    }

    /// As a plan, as far as an outcome says what a plan says.
    fn plan(&self) -> Result<Plan, Error> {
        let mut plan = Plan::default();
        let mut place = |pods: &[String], target: &Target| -> Result<Vec<ObjectKey>, Error> {
            let keys: Vec<ObjectKey> = pods.iter().map(|pod| key(pod)).collect::<Result<_, _>>()?;
            plan.placements.extend(keys.iter().map(|pod| Placement {
                pod: pod.clone(),
                target: target.clone(),
                timing: Timing::default(),
                runner_up: None,
                relaxed: Vec::new(),
            }));
            Ok(keys)
        };
        for (index, node) in self.nodes.iter().flatten().enumerate() {
            let pods = place(&node.pods, &Target::New(index))?;
            plan.nodes.push(NewNode {
                pool: node.pool.clone(),
                offering: OfferingKey {
                    instance_type: node.kind.clone(),
                    zone: node.zone.clone(),
                    capacity_type: node.capacity_type.parse()?,
                },
                price: HourlyPrice::from_usd(node.price)?,
                requests: Resources::new(),
                allocatable: Resources::new(),
                pods,
                timing: Timing::default(),
                score: Score::default(),
                runner_up: None,
            });
        }
        for node in self.existing.iter().flatten() {
            place(&node.pods, &Target::Node(node.node.clone()))?;
        }
        for (pod, why) in &self.unplaced {
            let what = why.clone();
            plan.unserved
                .push((key(pod)?, NotServed::Impossible { what }));
        }
        Ok(plan)
    }

    /// What is wrong with where somebody else put the pods. What an outcome does not say, such as
    /// preferences given up, is not held against it.
    pub(crate) fn judge(&self, snapshot: &Snapshot, policy: &Policy) -> Result<Vec<String>, Error> {
        let violations = verify(snapshot, policy, &self.plan()?);
        let counts = |violation: &&Violation| {
            !matches!(
                violation,
                Violation::NewNode { .. } | Violation::Unsaid { .. }
            )
        };
        let said = violations.iter().filter(counts);
        Ok(said.map(Violation::to_string).collect())
    }
}

/// What is wrong with our own plan, refusals included.
pub(crate) fn judge(snapshot: &Snapshot, policy: &Policy, plan: &Plan) -> Vec<String> {
    let mut violations = verify(snapshot, policy, plan);
    violations.extend(justify(snapshot, policy, plan));
    violations.iter().map(Violation::to_string).collect()
}

fn key(written: &str) -> Result<ObjectKey, Error> {
    let parts = written.split_once('/');
    let (namespace, name) = parts.ok_or_else(|| format!("{written:?} is no namespace/name"))?;
    Ok(ObjectKey::new(namespace, name))
}
