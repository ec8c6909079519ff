//! What a pool or a pod does not accept of an offering, and why.

use crate::label::{self, Effect, Expression, Labels, Operator, Taint, Toleration};
use crate::money::{HourlyPrice, Millis};
use crate::node::Node;
use crate::offer::{Availability, CapacityType, InstanceType, Offering};
use crate::pod::Wants;
use crate::pool::{NodePool, PoolState};
use crate::reason::{Origin, Rejection};

/// Which taints keep a pod away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeTaints {
    /// `NoSchedule` and `NoExecute`.
    Hard,
    /// `PreferNoSchedule` as well.
    All,
}

/// The first taint that keeps the pod away.
pub(crate) fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    which: NodeTaints,
) -> Option<&'a Taint> {
    taints.iter().find(|taint| {
        (which == NodeTaints::All || taint.effect != Effect::PreferNoSchedule)
            && !tolerations
                .iter()
                .any(|toleration| toleration.tolerates(taint))
    })
}

/// Labels of a node of one pool and offering, looked up without merging them.
pub(super) struct PoolLabels<'a> {
    pub(super) pool: &'a NodePool,
    pub(super) of_type: &'a Labels,
    pub(super) offering: &'a Offering,
}

impl PoolLabels<'_> {
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        match key {
            label::ZONE => Some(&self.offering.zone),
            label::CAPACITY_TYPE => Some(self.offering.capacity_type.as_str()),
            label::NODE_POOL => Some(&self.pool.name),
            _ => self
                .pool
                .labels
                .get(key)
                .or_else(|| self.of_type.get(key))
                .map(String::as_str),
        }
    }

    pub(super) fn merged(&self) -> Labels {
        let mut labels = self.of_type.clone();
        labels.extend(self.pool.labels.clone());
        labels.insert(label::NODE_POOL.to_owned(), self.pool.name.clone());
        labels
    }
}

pub(super) fn refused_by_pool(
    pool: &NodePool,
    kind: &InstanceType,
    offering: &Offering,
    labels: &PoolLabels<'_>,
) -> Option<Rejection> {
    if let PoolState::NotReady(why) = &pool.state {
        return Some(Rejection::PoolNotReady { why: why.clone() });
    }
    for requirement in &pool.requirements {
        let found = labels.value(&requirement.expression.key);
        if !requirement.expression.matches(found) {
            return Some(Rejection::Label {
                expression: requirement.expression.clone(),
                found: found.map(str::to_owned),
                by: Origin::Pool,
            });
        }
    }
    refused_by_wants(&pool.wants, &Machine::new(kind, offering), Origin::Pool)
}

/// What is known of a machine that is there or would be bought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine<'a> {
    name: Option<&'a str>,
    family: Option<&'a str>,
    sku: Option<&'a str>,
    gpus: u32,
    capacity_type: Option<CapacityType>,
    price: Option<HourlyPrice>,
}

impl<'a> Machine<'a> {
    /// A new node.
    pub(crate) fn new(kind: &'a InstanceType, offering: &Offering) -> Self {
        Self {
            capacity_type: Some(offering.capacity_type),
            price: Some(offering.price),
            ..Self::of_kind(kind)
        }
    }

    /// A node that is there: by its type, or as far as its labels say.
    pub(crate) fn of_node(node: &'a Node, kind: Option<&'a InstanceType>) -> Self {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        let known = kind.map_or_else(
            || Self {
                name: label(label::INSTANCE_TYPE),
                family: label(label::INSTANCE_FAMILY),
                sku: label(label::GPU_SKU),
                gpus: label(label::GPU_COUNT)
                    .and_then(|count| count.parse().ok())
                    .unwrap_or_else(|| {
                        let devices = node.allocatable.of(crate::amount::NVIDIA_GPU);
                        u32::try_from(devices).unwrap_or(u32::MAX)
                    }),
                capacity_type: None,
                price: None,
            },
            Self::of_kind,
        );
        Self {
            capacity_type: match &node.offering {
                Some(offering) => Some(offering.capacity_type),
                None => label(label::CAPACITY_TYPE).and_then(|word| word.parse().ok()),
            },
            price: node.price,
            ..known
        }
    }

    fn of_kind(kind: &'a InstanceType) -> Self {
        Self {
            name: Some(&kind.name),
            family: Some(&kind.family),
            sku: kind.gpu.as_ref().map(|gpu| gpu.sku.as_str()),
            gpus: kind.gpu.as_ref().map_or(0, |gpu| gpu.count),
            capacity_type: None,
            price: None,
        }
    }
}

/// Why a machine is not what was asked for, if so. What nobody knows of it is not what was asked for.
pub(crate) fn refused_by_wants(
    wants: &Wants,
    machine: &Machine<'_>,
    by: Origin,
) -> Option<Rejection> {
    let unknown = |key: &str| Rejection::Label {
        expression: Expression {
            key: key.to_owned(),
            operator: Operator::Exists,
            values: Vec::new(),
        },
        found: None,
        by,
    };
    if !wants.gpu_skus.is_empty() && !machine.sku.is_some_and(|sku| wants.gpu_skus.contains(sku)) {
        return Some(Rejection::GpuSku {
            found: machine.sku.map(str::to_owned),
            wanted: wants.gpu_skus.iter().cloned().collect(),
            by,
        });
    }
    if let Some(most) = wants.max_gpus
        && machine.gpus > most
    {
        return Some(Rejection::GpuCount {
            found: machine.gpus,
            most,
            by,
        });
    }
    if !wants.capacity_types.is_empty() {
        let Some(found) = machine.capacity_type else {
            return Some(unknown(label::CAPACITY_TYPE));
        };
        if !wants.capacity_types.contains(&found) {
            let wanted = wants.capacity_types.iter().copied().collect();
            return Some(Rejection::CapacityType { found, wanted, by });
        }
    }
    if !wants.families.is_empty() || !wants.excluded_families.is_empty() {
        let Some(family) = machine.family else {
            return Some(unknown(label::INSTANCE_FAMILY));
        };
        if (!wants.families.is_empty() && !wants.families.contains(family))
            || wants.excluded_families.contains(family)
        {
            return Some(Rejection::Family {
                found: family.to_owned(),
                by,
            });
        }
    }
    if let Some(pattern) = &wants.type_pattern {
        let Some(name) = machine.name else {
            return Some(unknown(label::INSTANCE_TYPE));
        };
        if !pattern.matches(name) {
            return Some(Rejection::TypePattern {
                pattern: pattern.as_str().to_owned(),
                by,
            });
        }
    }
    if let Some(cap) = wants.max_price {
        let Some(price) = machine.price else {
            return Some(unknown(label::INSTANCE_TYPE));
        };
        if price > cap {
            return Some(Rejection::Price { price, cap, by });
        }
    }
    None
}

/// Why an offering cannot be had now, if so.
pub(crate) fn unavailable(offering: &Offering, now: Millis) -> Option<Rejection> {
    match &offering.availability {
        Availability::Until { until, why } if *until > now => Some(Rejection::Unavailable {
            until: *until,
            why: why.clone(),
        }),
        _ if offering.launch_budget == Some(0) => Some(Rejection::LaunchBudget { allowed: 0 }),
        _ => None,
    }
}
