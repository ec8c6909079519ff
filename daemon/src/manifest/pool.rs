//! Node pools: from their written form to what the planner reads.

use headstart_core::amount::{self, Resources};
use headstart_core::label::{self, Expression, Operator, Taint};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::pod::{TypePattern, Wants};
use headstart_core::pool::{
    Budget, BudgetSize, DisruptionReason, GpuPacking, NODES, NodePool, Packing, PoolDisruption,
    PoolRequirement, PoolState,
};

use super::annotation::{family, sku};
use super::finding::{Findings, Subject};
use super::object::Placed;
use super::window::Window;
use super::{alias, select};
use headstart_api::{self as api, Amount, BudgetReason, CountOrPercent, Expiry, GpuSharing};

/// A pool, and when each of its disruption budgets holds.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) pool: NodePool,
    /// One for each budget; `None` holds always.
    windows: Vec<Option<Window>>,
}

/// All pools.
pub(crate) fn all(placed: &[Placed<api::NodePool>], findings: &Findings) -> Vec<Read> {
    let pools = placed.iter();
    pools
        .map(|pool| {
            let subject = findings.about(&pool.place);
            Read {
                pool: one(pool, &subject),
                windows: windows(&pool.object.spec, &subject.at("spec.disruption.budgets")),
            }
        })
        .collect()
}

impl Read {
    /// The pool as it is at `now`: without the budgets that do not hold.
    pub(crate) fn at(self, now: Millis) -> NodePool {
        let Self { mut pool, windows } = self;
        let mut windows = windows.into_iter();
        let holds = |_: &Budget| {
            let window = windows.next().flatten();
            window.is_none_or(|window| window.is_open(now))
        };
        pool.disruption.budgets.retain(holds);
        pool
    }
}

fn windows(written: &api::NodePoolSpec, subject: &Subject<'_>) -> Vec<Option<Window>> {
    let budgets = written.disruption.budgets.iter().flatten().enumerate();
    budgets
        .map(|(index, budget)| {
            let at = subject.nth(index);
            match (&budget.schedule, budget.duration) {
                (None, None) => None,
                (Some(schedule), Some(duration)) => {
                    at.at("schedule").ok(Window::new(schedule, duration.0))
                }
                (Some(_), None) => {
                    at.at("duration")
                        .problem("is missing; say how long the budget holds then");
                    None
                }
                (None, Some(_)) => {
                    at.at("schedule")
                        .problem("is missing; say when the budget begins to hold");
                    None
                }
            }
        })
        .collect()
}

fn one(placed: &Placed<api::NodePool>, subject: &Subject<'_>) -> NodePool {
    let written = &placed.object.spec;
    let at = subject.at("spec");
    let mut pool = NodePool::new(&placed.name);
    pool.serves = (written.pod_selector.as_ref())
        .map(|selector| select::label_selector(selector, &at.at("podSelector")));
    pool.weight = written.weight;
    pool.state = state(&placed.object);
    pool.requirements = requirements(written, &at);
    pool.wants = wants(written, &at);
    pool.limits = limits(written, &at.at("limits"));
    pool.labels = written.labels.clone();
    for key in pool.labels.keys().filter(|key| key.is_empty()) {
        at.at("labels").problem(format!("{key:?} is no label"));
    }
    pool.taints = taints(&written.taints, &at.at("taints"));
    pool.startup_taints = taints(&written.startup_taints, &at.at("startupTaints"));
    pool.value_of_time = written
        .value_of_time
        .map_or(HourlyPrice(0), |price| price.0);
    if let Some(life) = written.expected_life {
        if life.0 == Millis(0) {
            at.at("expectedLife")
                .problem("is 0; write how long a node is used, such as 1h");
        }
        pool.expected_life = life.0;
    }
    let packing = &written.packing;
    let at_packing = at.at("packing");
    let threshold = |amount: &Option<Amount>, resource, field| {
        let amount = amount.as_ref()?;
        at_packing.at(field).ok(amount::parse(resource, &amount.0))
    };
    pool.packing = Packing {
        dedicated_cpu: threshold(&packing.dedicated_cpu, amount::CPU, "dedicatedCpu"),
        dedicated_memory: threshold(&packing.dedicated_memory, amount::MEMORY, "dedicatedMemory"),
        gpu: match packing.gpu {
            GpuSharing::Share => GpuPacking::Share,
            GpuSharing::Dedicated => GpuPacking::Dedicated,
        },
    };
    pool.disruption = disruption(written, &at.at("disruption"));
    pool.volume_limits = written.volume_limits.clone();
    pool
}

fn state(pool: &api::NodePool) -> PoolState {
    if pool.metadata.deletion_timestamp.is_some() {
        return PoolState::NotReady("it is being deleted".to_owned());
    }
    let conditions = pool.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    match ready.find(|condition| condition.status == "False") {
        Some(condition) => {
            let words = [&condition.reason, &condition.message];
            let words = words.map(|word| word.chars().take(200).collect::<String>());
            PoolState::NotReady(words.join(": "))
        }
        None => PoolState::Ready,
    }
}

fn requirements(written: &api::NodePoolSpec, subject: &Subject<'_>) -> Vec<PoolRequirement> {
    let operators = [
        "In",
        "NotIn",
        "Exists",
        "DoesNotExist",
        "Gt",
        "Lt",
        "Gte",
        "Lte",
    ];
    let mut all = Vec::new();
    for (index, asked) in written.requirements.iter().enumerate() {
        let at = subject.at("requirements").nth(index);
        let operator = format!("{:?}", asked.operator);
        let read = select::expression(&asked.key, &operator, &asked.values, &operators, &at);
        select::note_slip(&asked.key, &at.at("key"));
        if asked.min_values == Some(0) {
            at.at("minValues")
                .problem("is 0; write 1 or more, or leave it away");
        }
        all.extend(read.map(|expression| PoolRequirement {
            expression: alias::expression(expression),
            min_values: asked.min_values,
        }));
    }
    if !written.zones.is_empty() {
        all.push(PoolRequirement {
            expression: Expression {
                key: label::ZONE.to_owned(),
                operator: Operator::In,
                values: written.zones.clone(),
            },
            min_values: None,
        });
    }
    all
}

fn wants(written: &api::NodePoolSpec, subject: &Subject<'_>) -> Wants {
    let each = |words: &[String], field: &str, read: fn(&str, &Subject<'_>) -> Option<String>| {
        let words = words.iter().enumerate();
        words
            .filter_map(|(index, word)| read(word.trim(), &subject.at(field).nth(index)))
            .collect()
    };
    let capacity_types = written.capacity_types.iter().enumerate();
    Wants {
        gpu_skus: each(&written.gpu_skus, "gpuSkus", sku),
        max_gpus: written.max_gpus,
        max_price: written.max_hourly_cost.map(|price| price.0),
        capacity_types: capacity_types
            .filter_map(|(index, word)| subject.at("capacityTypes").nth(index).ok(word.parse()))
            .collect(),
        families: each(&written.families, "families", family),
        excluded_families: each(&written.exclude_families, "excludeFamilies", family),
        type_pattern: written.instance_type_regexp.as_ref().and_then(|pattern| {
            subject
                .at("instanceTypeRegexp")
                .ok(TypePattern::new(pattern))
        }),
    }
}

fn limits(written: &api::NodePoolSpec, subject: &Subject<'_>) -> Resources {
    let mut limits = Resources::new();
    for (resource, limit) in &written.limits {
        if resource.is_empty() {
            subject.problem("\"\" is not the name of a resource");
            continue;
        }
        let resource = match resource.as_str() {
            "gpu" | "gpus" => amount::NVIDIA_GPU,
            "node" => NODES,
            resource => resource,
        };
        if let Some(limit) = subject.ok(amount::parse(resource, &limit.0)) {
            limits.set(resource, limit);
        }
    }
    limits
}

fn taints(written: &[api::PoolTaint], subject: &Subject<'_>) -> Vec<Taint> {
    let taints = written.iter().enumerate();
    taints
        .filter_map(|(index, taint)| {
            select::taint(&taint.key, &taint.value, &taint.effect, &subject.nth(index))
        })
        .collect()
}

fn disruption(written: &api::NodePoolSpec, subject: &Subject<'_>) -> PoolDisruption {
    let written = &written.disruption;
    let defaults = PoolDisruption::default();
    let percent = |found: Option<u32>, default, field| match found {
        None => default,
        Some(percent) if percent <= 100 => percent,
        Some(found) => {
            subject
                .at(field)
                .problem(format!("is {found}; write a number from 0 to 100"));
            default
        }
    };
    let budgets = written.budgets.as_ref();
    PoolDisruption {
        after: written
            .consolidate_after
            .map_or(defaults.after, |span| span.0),
        underused_shared_percent: percent(
            written.underused_shared_percent,
            defaults.underused_shared_percent,
            "underusedSharedPercent",
        ),
        underused_dedicated_percent: percent(
            written.underused_dedicated_percent,
            defaults.underused_dedicated_percent,
            "underusedDedicatedPercent",
        ),
        expire_after: match written.expire_after {
            Some(Expiry::After(age)) => Some(age),
            Some(Expiry::Never) | None => None,
        },
        budgets: budgets.map_or(defaults.budgets, |budgets| {
            budgets.iter().map(self::budget).collect()
        }),
    }
}

fn budget(written: &api::Budget) -> Budget {
    Budget {
        nodes: match written.nodes {
            CountOrPercent::Count(count) => BudgetSize::Count(count),
            CountOrPercent::Percent(percent) => BudgetSize::Percent(percent),
        },
        reasons: written
            .reasons
            .iter()
            .map(|reason| match reason {
                BudgetReason::Empty => DisruptionReason::Empty,
                BudgetReason::Underused => DisruptionReason::Underused,
                BudgetReason::Replaceable => DisruptionReason::Replaceable,
                BudgetReason::Drifted => DisruptionReason::Drifted,
                BudgetReason::Expired => DisruptionReason::Expired,
            })
            .collect(),
    }
}
