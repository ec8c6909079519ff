//! What a pool or a pod does not accept of an offering, and why.

use std::collections::BTreeMap;

use crate::label::{self, Effect, Labels, Taint, Toleration};
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
    refused_by_wants(
        &pool.wants,
        &Machine::of_offering(kind, offering),
        Origin::Pool,
    )
}

/// What annotations ask about: a type that could be bought, or a node as far as anything is known.
#[derive(Clone, Default)]
pub(crate) struct Machine<'a> {
    pub(crate) name: Option<&'a str>,
    pub(crate) family: Option<&'a str>,
    /// `Some(None)`: it has no GPU.
    pub(crate) sku: Option<Option<&'a str>>,
    pub(crate) gpus: u32,
    pub(crate) capacity_type: Option<CapacityType>,
    pub(crate) price: Option<HourlyPrice>,
}

impl<'a> Machine<'a> {
    pub(crate) fn of_type(kind: &'a InstanceType) -> Self {
        Self {
            name: Some(&kind.name),
            family: Some(&kind.family),
            sku: Some(kind.gpu.as_ref().map(|gpu| gpu.sku.as_str())),
            gpus: kind.gpu.as_ref().map_or(0, |gpu| gpu.count),
            capacity_type: None,
            price: None,
        }
    }

    pub(crate) fn of_offering(kind: &'a InstanceType, offering: &Offering) -> Self {
        Self {
            capacity_type: Some(offering.capacity_type),
            price: Some(offering.price),
            ..Self::of_type(kind)
        }
    }

    /// A node: by its type where that is one of `types`, else by its labels.
    pub(crate) fn of_node(node: &'a Node, types: &'a [InstanceType]) -> Self {
        let of = |key: &str| node.labels.get(key).map(String::as_str);
        let offering = node.offering.as_ref();
        let name = offering
            .map(|o| o.instance_type.as_str())
            .or_else(|| of(label::INSTANCE_TYPE));
        let labelled = || of(label::CAPACITY_TYPE)?.parse().ok();
        let capacity_type = offering.map(|o| o.capacity_type).or_else(labelled);
        if let Some(kind) = name.and_then(|name| types.iter().find(|kind| kind.name == name)) {
            return Self {
                capacity_type,
                price: node.price,
                ..Self::of_type(kind)
            };
        }
        let mut resources: Vec<&str> = types
            .iter()
            .filter_map(|t| Some(t.gpu.as_ref()?.resource.as_str()))
            .collect();
        resources.sort_unstable();
        resources.dedup();
        let devices: i64 = resources
            .iter()
            .map(|gpu| node.allocatable.of(gpu))
            .fold(0, i64::saturating_add);
        let gpus = of(label::GPU_COUNT)
            .and_then(|count| count.parse().ok())
            .unwrap_or(u32::try_from(devices).unwrap_or(u32::MAX));
        let sku = match of(label::GPU_SKU) {
            Some(sku) => Some(Some(sku)),
            None if gpus == 0 => Some(None),
            None => None,
        };
        Self {
            name,
            family: of(label::INSTANCE_FAMILY),
            sku,
            gpus,
            capacity_type,
            price: node.price,
        }
    }
}

/// Why a machine is not what was asked for, if so. What nobody knows of it is no reason.
pub(crate) fn refused_by_wants(
    wants: &Wants,
    machine: &Machine<'_>,
    by: Origin,
) -> Option<Rejection> {
    if !wants.gpu_skus.is_empty()
        && let Some(sku) = machine.sku
        && !sku.is_some_and(|sku| wants.gpu_skus.contains(sku))
    {
        let wanted = wants.gpu_skus.iter().cloned().collect();
        return Some(Rejection::GpuSku {
            found: sku.map(str::to_owned),
            wanted,
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
    if !wants.capacity_types.is_empty()
        && let Some(found) = machine.capacity_type
        && !wants.capacity_types.contains(&found)
    {
        let wanted = wants.capacity_types.iter().copied().collect();
        return Some(Rejection::CapacityType { found, wanted, by });
    }
    if let Some(family) = machine.family
        && ((!wants.families.is_empty() && !wants.families.contains(family))
            || wants.excluded_families.contains(family))
    {
        return Some(Rejection::Family {
            found: family.to_owned(),
            by,
        });
    }
    if let (Some(pattern), Some(name)) = (&wants.type_pattern, machine.name)
        && !pattern.matches(name)
    {
        return Some(Rejection::TypePattern {
            pattern: pattern.as_str().to_owned(),
            by,
        });
    }
    if let (Some(cap), Some(price)) = (wants.max_price, machine.price)
        && price > cap
    {
        return Some(Rejection::Price { price, cap, by });
    }
    None
}

pub(super) type OnDemand = BTreeMap<usize, HourlyPrice>;

pub(super) fn cheapest_on_demand(offerings: &[Offering]) -> OnDemand {
    let mut cheapest = OnDemand::new();
    for offering in offerings {
        if offering.capacity_type == CapacityType::OnDemand
            && offering.availability != Availability::Never
        {
            let least = cheapest
                .entry(offering.instance_type)
                .or_insert(offering.price);
            *least = (*least).min(offering.price);
        }
    }
    cheapest
}

/// A spot price at or over the on-demand price of the same type is no offer.
pub(super) fn undiscounted(offering: &Offering, on_demand: &OnDemand) -> Option<Rejection> {
    let on_demand = *on_demand.get(&offering.instance_type)?;
    (offering.capacity_type == CapacityType::Spot && offering.price >= on_demand).then_some(
        Rejection::SpotWithoutDiscount {
            price: offering.price,
            on_demand,
        },
    )
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
