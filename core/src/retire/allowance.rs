//! What budgets of pools and of pods still allow in this round.

use std::collections::BTreeMap;

use crate::node::{Node, NodeState};
use crate::pod::{ObjectKey, Pod};
use crate::pool::{BudgetSize, DisruptionReason, NodePool};
use crate::reason::Kept;
use crate::snapshot::{PodBudget, Snapshot};

/// Budgets, with what this round has used of them already.
pub(super) struct Allowance<'a> {
    pools: BTreeMap<&'a str, Use>,
    /// By namespace, each with how many pods may still be moved.
    pods: BTreeMap<&'a str, Vec<(&'a PodBudget, u32)>>,
}

#[derive(Clone, Copy, Default)]
struct Use {
    /// Nodes of the pool that are not stopped.
    nodes: u32,
    /// Of them, those that are leaving, being replaced or were chosen to.
    leaving: u32,
}

impl<'a> Allowance<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut pools: BTreeMap<&str, Use> = BTreeMap::new();
        for node in &snapshot.nodes {
            let Some(pool) = counted(node) else { continue };
            let counts = pools.entry(pool).or_default();
            counts.nodes += 1;
            let leaves = node.state == NodeState::Leaving || node.disruption.replaced;
            counts.leaving += u32::from(leaves);
        }
        let mut pods: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for budget in &snapshot.pod_budgets {
            let namespace = budget.key.namespace.as_str();
            let budgets = pods.entry(namespace).or_default();
            budgets.push((budget, budget.allowed));
        }
        for budgets in pods.values_mut() {
            budgets.sort_by_key(|(budget, _)| &budget.key);
        }
        Self { pools, pods }
    }

    /// Whether one more node of each of these pools may be disrupted.
    pub(super) fn nodes<'p>(
        &self,
        pools: impl Iterator<Item = &'p NodePool>,
        reason: DisruptionReason,
    ) -> Result<(), Kept> {
        let mut asked: BTreeMap<&str, (&NodePool, u32)> = BTreeMap::new();
        for pool in pools {
            asked.entry(&pool.name).or_insert((pool, 0)).1 += 1;
        }
        for (name, (pool, count)) in asked {
            let used = self.pools.get(name).copied().unwrap_or_default();
            if let Some(allowed) = strictest(pool, reason, used.nodes)
                && used.leaving.saturating_add(count) > allowed
            {
                return Err(Kept::Budget { allowed });
            }
        }
        Ok(())
    }

    /// Whether these pods may be evicted together. One that two budgets select cannot be evicted at
    /// all: the API server refuses it.
    pub(super) fn pods(&self, pods: &[&Pod]) -> Result<(), Kept> {
        let mut asked: BTreeMap<&ObjectKey, u32> = BTreeMap::new();
        for pod in pods {
            let mut budgets = self.budgets(pod);
            let Some((budget, left)) = budgets.next() else {
                continue;
            };
            let refused = |budget: &PodBudget| Kept::PodBudget {
                pod: pod.key.clone(),
                budget: budget.key.clone(),
            };
            if let Some((second, _)) = budgets.next() {
                return Err(refused(second));
            }
            let asked = asked.entry(&budget.key).or_default();
            *asked += 1;
            if *asked > left {
                return Err(refused(budget));
            }
        }
        Ok(())
    }

    /// Counts a node that was chosen.
    pub(super) fn take_node(&mut self, pool: &'a NodePool) {
        self.pools.entry(&pool.name).or_default().leaving += 1;
    }

    /// Counts pods that will be evicted.
    pub(super) fn take_pods(&mut self, pods: &[&Pod]) {
        for pod in pods {
            let budgets = self.pods.get_mut(pod.key.namespace.as_str());
            for (budget, left) in budgets.into_iter().flatten() {
                if budget.selector.matches(&pod.shape.labels) {
                    *left = left.saturating_sub(1);
                }
            }
        }
    }

    fn budgets(&self, pod: &Pod) -> impl Iterator<Item = (&'a PodBudget, u32)> {
        let budgets = self.pods.get(pod.key.namespace.as_str());
        budgets
            .into_iter()
            .flatten()
            .filter(|(budget, _)| budget.selector.matches(&pod.shape.labels))
            .copied()
    }
}

/// The pool against whose budgets a node counts; a stopped node disrupts nobody.
fn counted(node: &Node) -> Option<&str> {
    match node.state {
        NodeState::Standby { .. } => None,
        _ => node.pool.as_deref(),
    }
}

/// How many of a pool's `nodes` may be disrupted at once for `reason`; `None` for any number.
fn strictest(pool: &NodePool, reason: DisruptionReason, nodes: u32) -> Option<u32> {
    let budgets = pool.disruption.budgets.iter();
    budgets
        .filter(|budget| budget.reasons.is_empty() || budget.reasons.contains(&reason))
        .map(|budget| match budget.nodes {
            BudgetSize::Count(count) => count,
            BudgetSize::Percent(percent) => {
                let share = (u64::from(nodes) * u64::from(percent)).div_ceil(100);
                u32::try_from(share).unwrap_or(u32::MAX)
            }
        })
        .min()
}
