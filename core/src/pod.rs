//! Pods: all that scheduling reads of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::amount::Resources;
use crate::cache::Item;
use crate::label::{Expression, Labels, Term, Toleration};
use crate::money::{HourlyPrice, Millis};
use crate::offer::CapacityType;

/// A namespaced name. Displays as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// From its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A pod that exists, or one that a workload is about to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// When it was created; orders pods of equal standing.
    pub created: Millis,
    /// Where it is.
    pub phase: Phase,
    /// What it must meet. Replicas share one.
    pub shape: SharedShape,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a node.
    Pending,
    /// Bound to the named node.
    Bound {
        /// The node.
        node: String,
        /// Whether its containers run, as opposed to being pulled or started.
        progress: Progress,
    },
}

/// How far a bound pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its containers are not all running yet: its node is not idle.
    Starting,
    /// It runs.
    Running,
    /// It is being deleted; it holds its resources and counts for nothing else.
    Terminating,
}

/// Everything of a pod that decides where it can run. Two pods with equal shapes are planned once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// Namespace: selectors of other pods look only into some.
    pub namespace: String,
    /// Labels: selectors of other pods look at them.
    pub labels: Labels,
    /// What it asks for; see [`crate::amount::pod_requests`].
    pub requests: Resources,
    /// Higher first.
    pub priority: i32,
    /// All of these must hold on the node.
    pub node_selector: Labels,
    /// Required node affinity: one of these must hold. Empty when there is none.
    pub node_affinity: Vec<Term>,
    /// Preferred node affinity, with weights from 1 to 100.
    pub preferred_node_affinity: Vec<(i32, Term)>,
    /// Required pod affinity: all of these.
    pub affinity: Vec<PodTerm>,
    /// Required pod anti-affinity: all of these.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred pod affinity, with weights from 1 to 100.
    pub preferred_affinity: Vec<(i32, PodTerm)>,
    /// Preferred pod anti-affinity, with weights from 1 to 100.
    pub preferred_anti_affinity: Vec<(i32, PodTerm)>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// What it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Host ports it takes.
    pub host_ports: BTreeSet<HostPort>,
    /// Volumes that limit where it can run.
    pub volumes: Vec<Volume>,
    /// What it asks of the instance by annotation.
    pub wants: Wants,
    /// Images and models it starts with, in the order they are needed.
    pub items: Vec<Item>,
    /// The group it is planned with, if any.
    pub group: Option<ObjectKey>,
    /// Its controller, such as a ReplicaSet or a RayCluster.
    pub owner: Option<Owner>,
    /// Whether it may be moved.
    pub eviction: Eviction,
}

/// A shape that many pods have: cloning it copies nothing, and changing it copies it first. Compared as
/// the shape itself is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SharedShape(Arc<Shape>);

impl SharedShape {
    /// Whether somebody else has it as well.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl From<Shape> for SharedShape {
    fn from(shape: Shape) -> Self {
        Self(Arc::new(shape))
    }
}

impl From<SharedShape> for Shape {
    fn from(shared: SharedShape) -> Self {
        Arc::unwrap_or_clone(shared.0)
    }
}

impl Deref for SharedShape {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.0
    }
}

impl DerefMut for SharedShape {
    fn deref_mut(&mut self) -> &mut Shape {
        Arc::make_mut(&mut self.0)
    }
}

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Kind, such as `ReplicaSet`.
    pub kind: String,
    /// Name, in the pod's namespace.
    pub name: String,
}

/// Whether a running pod may be moved to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Eviction {
    /// It may.
    #[default]
    Allowed,
    /// An annotation forbids it: `headstart.dev/do-not-evict`, Luna's `pod.elotl.co/do-not-evict`,
    /// or `cluster-autoscaler.kubernetes.io/safe-to-evict: "false"`.
    Forbidden,
    /// It belongs to a DaemonSet or is a mirror pod: it never holds a node.
    Daemon,
    /// Nothing would create it again.
    Bare,
}

/// A required or preferred relation to other pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodTerm {
    /// Node label whose equal values make one domain.
    pub topology_key: String,
    /// Which pods. `None` selects none; an empty selector every pod.
    pub selector: Option<Term>,
    /// Where those pods live.
    pub namespaces: Namespaces,
}

/// Which namespaces a pod term looks into.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespaces {
    /// These.
    Listed(BTreeSet<String>),
    /// All of them: an empty namespace selector.
    All,
}

impl Namespaces {
    /// Whether `namespace` is one of them.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::Listed(names) => names.contains(namespace),
            Self::All => true,
        }
    }
}

/// One topology spread constraint. `matchLabelKeys` are resolved into `selector` where the pod is
/// read: a key that the pod does not have is ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spread {
    /// Node label whose equal values make one domain.
    pub topology_key: String,
    /// The most by which a domain may exceed the emptiest one; at least 1.
    pub max_skew: u32,
    /// Whether it may be violated.
    pub when: Unsatisfiable,
    /// Which pods of the same namespace are counted. `None` selects none.
    pub selector: Option<Term>,
    /// Fewer domains than this count as an empty one.
    pub min_domains: Option<u32>,
    /// Whether nodes that the pod's selector and affinity exclude are domains. API default: honor.
    pub node_affinity: NodePolicy,
    /// Whether nodes that the pod does not tolerate are domains. API default: ignore.
    pub node_taints: NodePolicy,
}

/// What happens when a spread constraint cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unsatisfiable {
    /// The pod waits.
    DoNotSchedule,
    /// It is scheduled all the same.
    ScheduleAnyway,
}

/// Whether nodes that a pod cannot use count as domains of its spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NodePolicy {
    /// They do not.
    Honor,
    /// They do.
    Ignore,
}

/// A port of the host. Address `0.0.0.0` conflicts with every other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Address; `0.0.0.0` when none was given.
    pub address: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be on one host.
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |port: &Self| port.address == "0.0.0.0" || port.address == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self) || any(other) || self.address == other.address)
    }
}

/// A volume that limits where its pod can run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Volume {
    /// Its claim; pods that share a claim attach it once per node.
    pub claim: ObjectKey,
    /// CSI driver, whose attach limit counts.
    pub driver: String,
    /// Where it can be used: one of these must hold. Empty when anywhere.
    pub node_affinity: Vec<Term>,
    /// Why it can be used nowhere, if so: lost, being deleted, unbound although it should be bound.
    pub unusable: Option<String>,
}

/// What a pod asks of the instance it runs on, by annotation. All of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Wants {
    /// GPU models, upper case; empty for any.
    pub gpu_skus: BTreeSet<String>,
    /// Most GPUs on the node.
    pub max_gpus: Option<u32>,
    /// Highest price of the node.
    pub max_price: Option<HourlyPrice>,
    /// Capacity types; empty for whatever the pool allows.
    pub capacity_types: BTreeSet<CapacityType>,
    /// Instance families that may be used; empty for any.
    pub families: BTreeSet<String>,
    /// Instance families that may not.
    pub excluded_families: BTreeSet<String>,
    /// A regular expression for the whole instance type name.
    pub type_pattern: Option<TypePattern>,
}

impl Wants {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A regular expression that compiled. Unanchored, as Luna's is: `^g6\.` and `48xlarge$` anchor.
#[derive(Clone)]
pub struct TypePattern(regex_lite::Regex);

/// A regular expression that does not compile, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression: {reason}")]
pub struct InvalidPattern {
    /// What was written.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl TypePattern {
    /// Compiles `pattern`.
    ///
    /// # Errors
    /// When it is no regular expression, or one that would need too much memory.
    pub fn new(pattern: &str) -> Result<Self, InvalidPattern> {
        regex_lite::RegexBuilder::new(pattern)
            .size_limit(1 << 18)
            .build()
            .map(Self)
            .map_err(|error| InvalidPattern {
                pattern: pattern.chars().take(80).collect(),
                reason: error.to_string(),
            })
    }

    /// Whether it is found in `instance_type`.
    pub fn matches(&self, instance_type: &str) -> bool {
        self.0.is_match(instance_type)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for TypePattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for TypePattern {}

impl std::hash::Hash for TypePattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for TypePattern {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TypePattern {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// Pods that are of use only together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub key: ObjectKey,
    /// How many of each role must be placed for any to be; what is beyond is elastic. The role is
    /// the value of the members' [`GROUP_ROLE`] label; a group without roles has one, `""`.
    pub minimum: BTreeMap<String, u32>,
    /// Roles whose members come in sets that are of use only whole, such as the hosts of a Ray replica,
    /// with how many make one. All others come one by one.
    pub sets: BTreeMap<String, u32>,
    /// Label whose domain members must share, such as a zone, if any.
    pub same: Option<String>,
    /// Who shares it.
    pub sharing: Sharing,
}

/// Who of a group shares a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All members, one.
    #[default]
    Group,
    /// The members of each role, one per role: the subgroups of a LeaderWorkerSet.
    Role,
}

impl Group {
    /// How many members of a role are of use only together; 1 where they come one by one.
    pub fn set_of(&self, role: &str) -> u32 {
        self.sets.get(role).copied().unwrap_or(1).max(1)
    }

    /// How many members of a role there are once the next set is whole, `there` being there.
    pub fn next_whole(&self, role: &str, there: u32) -> u32 {
        let set = self.set_of(role);
        (there - there % set).saturating_add(set)
    }
}

/// Label that names a pod's role in its group.
pub const GROUP_ROLE: &str = "headstart.dev/group-role";

impl Shape {
    /// The shape's role in its group.
    pub fn role(&self) -> &str {
        self.labels.get(GROUP_ROLE).map_or("", String::as_str)
    }

    /// Expressions of the node selector.
    pub fn selector_expressions(&self) -> impl Iterator<Item = Expression> {
        self.node_selector
            .iter()
            .map(|(key, value)| Expression::equals(key, value))
    }
}
