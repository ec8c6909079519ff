//! Labels and what may be asked of them: selectors, node affinity expressions, tolerations.
//!
//! This is the form in which the API writes them. Nothing is interned here; the planner compiles
//! these into bitsets once per round (`crate::market`).

pub mod requirements;

use std::collections::BTreeMap;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// `topology.kubernetes.io/zone`
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// `topology.kubernetes.io/region`
pub const REGION: &str = "topology.kubernetes.io/region";
/// `kubernetes.io/hostname`
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// `kubernetes.io/arch`
pub const ARCH: &str = "kubernetes.io/arch";
/// `kubernetes.io/os`
pub const OS: &str = "kubernetes.io/os";
/// `node.kubernetes.io/instance-type`
pub const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// `headstart.dev/capacity-type`: `spot`, `on-demand` or `reserved`.
pub const CAPACITY_TYPE: &str = "headstart.dev/capacity-type";
/// `headstart.dev/node-pool`: the pool a node belongs to.
pub const NODE_POOL: &str = "headstart.dev/node-pool";
/// `headstart.dev/instance-family`
pub const INSTANCE_FAMILY: &str = "headstart.dev/instance-family";
/// `headstart.dev/gpu-sku`: the GPU model, upper case, such as `L4`.
pub const GPU_SKU: &str = "headstart.dev/gpu-sku";
/// `headstart.dev/gpu-count`
pub const GPU_COUNT: &str = "headstart.dev/gpu-count";
/// `headstart.dev/gpu-memory-mib`: memory of one GPU.
pub const GPU_MEMORY: &str = "headstart.dev/gpu-memory-mib";
/// `headstart.dev/local-nvme-gib`
pub const LOCAL_NVME: &str = "headstart.dev/local-nvme-gib";
/// `headstart.dev/cpu`: vCPUs of the type.
pub const INSTANCE_CPU: &str = "headstart.dev/cpu";
/// `headstart.dev/memory-mib`: memory of the type.
pub const INSTANCE_MEMORY: &str = "headstart.dev/memory-mib";
/// `headstart.dev/network-mbps`: baseline NIC rate of the type.
pub const INSTANCE_NETWORK: &str = "headstart.dev/network-mbps";

/// How an expression compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer greater than the one value.
    Gt,
    /// The label is an integer less than the one value.
    Lt,
    /// The label is an integer not less than the one value. (Ours and Karpenter's, not the API's.)
    Gte,
    /// The label is an integer not greater than the one value. (Ours and Karpenter's.)
    Lte,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expression {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`, one integer for the bounds.
    pub values: Vec<String>,
}

impl Expression {
    /// `key In [value]`.
    pub fn equals(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            operator: Operator::In,
            values: vec![value.into()],
        }
    }

    /// Whether a label of this value, or its absence, satisfies the condition. A value that is no
    /// integer never satisfies a bound.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let among = |value: &str| self.values.iter().any(|v| v == value);
        let against = |holds: fn(i64, i64) -> bool| {
            let bound = self.values.first().and_then(|v| v.parse().ok());
            let found = value.and_then(|v| v.parse().ok());
            matches!((found, bound), (Some(found), Some(bound)) if holds(found, bound))
        };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => against(|found, bound| found > bound),
            Operator::Lt => against(|found, bound| found < bound),
            Operator::Gte => against(|found, bound| found >= bound),
            Operator::Lte => against(|found, bound| found <= bound),
        }
    }
}

/// Conditions that must all hold. Without any, a node selector term matches nothing and a label
/// selector everything: each caller says which it means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Term(pub Vec<Expression>);

impl Term {
    /// Whether every condition holds for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0
            .iter()
            .all(|e| e.matches(labels.get(&e.key).map(String::as_str)))
    }
}

/// A taint on a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, empty when there is none.
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: Effect,
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Pods are not scheduled.
    NoSchedule,
    /// Pods are not scheduled if it can be avoided.
    PreferNoSchedule,
    /// Pods are not scheduled, and running ones are evicted.
    NoExecute,
}

/// What a pod tolerates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Toleration {
    /// Key; `None` tolerates every key (operator `Exists` only).
    pub key: Option<String>,
    /// Value that must be equal; `None` for operator `Exists`.
    pub value: Option<String>,
    /// Effect; `None` tolerates every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// Tolerates every taint.
    pub fn everything() -> Self {
        Self {
            key: None,
            value: None,
            effect: None,
        }
    }

    /// Whether this tolerates `taint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
    }
}
