//! A scenario of plain Kubernetes objects, read into a snapshot.
//!
//! The same file is read by Karpenter's driver. Only what the generators write is read; what else a
//! manifest may hold is the business of the manifest reader.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::amount::{self, Container, Resources, Role};
use headstart_core::label::{self, Effect, Expression, Labels, Operator, Taint, Term, Toleration};
use headstart_core::money::{HourlyPrice, Millis};
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{
    Arch, Availability, Boot, CapacityType, InstanceType, Offering, OfferingKey, Rates,
};
use headstart_core::pod::{
    Eviction, HostPort, Namespaces, NodePolicy, ObjectKey, Owner, Phase, Pod, PodTerm, Progress,
    Shape, Spread, Unsatisfiable,
};
use headstart_core::pool::{NodePool, PoolRequirement};
use headstart_core::snapshot::{Policy, Preferences, Snapshot};
use serde::Deserialize;
use serde_json::Value;

/// What went wrong, for a person.
pub(crate) type Error = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Scenario {
    preferences: String,
    types: Vec<Type>,
    node_pools: Vec<Value>,
    #[serde(default)]
    nodes: Vec<Value>,
    #[serde(default)]
    bound: Vec<ApiPod>,
    #[serde(default)]
    daemons: Vec<ApiPod>,
    pods: Vec<ApiPod>,
}

#[derive(Deserialize)]
struct Type {
    name: String,
    arch: String,
    #[serde(default)]
    labels: Labels,
    capacity: Amounts,
    overhead: Amounts,
    offerings: Vec<Sold>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sold {
    zone: String,
    capacity_type: String,
    price: f64,
    available: bool,
}

type Amounts = BTreeMap<String, String>;

#[derive(Deserialize)]
struct ApiPod {
    metadata: Meta,
    spec: Spec,
}

#[derive(Deserialize)]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    containers: Vec<ApiContainer>,
    #[serde(default)]
    init_containers: Vec<ApiContainer>,
    #[serde(default)]
    node_selector: Labels,
    #[serde(default)]
    affinity: ApiAffinity,
    #[serde(default)]
    topology_spread_constraints: Vec<ApiSpread>,
    #[serde(default)]
    tolerations: Vec<ApiToleration>,
    #[serde(default)]
    overhead: Amounts,
    #[serde(default)]
    priority: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiContainer {
    #[serde(default)]
    resources: ApiRequests,
    #[serde(default)]
    ports: Vec<ApiPort>,
    restart_policy: Option<String>,
}

#[derive(Default, Deserialize)]
struct ApiRequests {
    #[serde(default)]
    requests: Amounts,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiPort {
    #[serde(default)]
    host_port: u16,
    #[serde(rename = "hostIP", default)]
    host_ip: String,
    #[serde(default)]
    protocol: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ApiAffinity {
    node_affinity: NodeAffinity,
    pod_affinity: PodAffinity,
    pod_anti_affinity: PodAffinity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Required,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<Preferred>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Required {
    node_selector_terms: Vec<Selector>,
}

#[derive(Deserialize)]
struct Preferred {
    weight: i32,
    preference: Selector,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    required: Vec<ApiPodTerm>,
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution")]
    preferred: Vec<PreferredPodTerm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PreferredPodTerm {
    weight: i32,
    pod_affinity_term: ApiPodTerm,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiPodTerm {
    topology_key: String,
    label_selector: Option<Selector>,
    #[serde(default)]
    namespaces: BTreeSet<String>,
}

/// A label selector or a node selector term: they are written alike.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Selector {
    match_labels: Labels,
    match_expressions: Vec<ApiExpression>,
}

#[derive(Deserialize)]
struct ApiExpression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiSpread {
    max_skew: u32,
    topology_key: String,
    when_unsatisfiable: String,
    label_selector: Option<Selector>,
    min_domains: Option<u32>,
    node_affinity_policy: Option<String>,
    node_taints_policy: Option<String>,
}

#[derive(Deserialize)]
struct ApiToleration {
    key: Option<String>,
    operator: Option<String>,
    value: Option<String>,
    effect: Option<String>,
}

/// Reads a scenario.
pub(crate) fn read(text: &str) -> Result<(Snapshot, Policy), Error> {
    let scenario: Scenario = serde_json::from_str(text)?;
    let mut snapshot = Snapshot::default();
    for t in &scenario.types {
        for sold in &t.offerings {
            snapshot.offerings.push(Offering {
                instance_type: snapshot.types.len(),
                zone: sold.zone.clone(),
                capacity_type: sold.capacity_type.parse()?,
                price: HourlyPrice::from_usd(sold.price)?,
                interruptions_per_million_h: 0,
                availability: match sold.available {
                    true => Availability::Available,
                    false => Availability::Until {
                        until: Millis(u64::MAX),
                        why: "InsufficientInstanceCapacity".to_owned(),
                    },
                },
                launch_budget: None,
            });
        }
        snapshot.types.push(InstanceType {
            name: t.name.clone(),
            family: t
                .name
                .split(['.', '-'])
                .next()
                .unwrap_or_default()
                .to_owned(),
            arch: match t.arch.as_str() {
                "arm64" => Arch::Arm64,
                _ => Arch::Amd64,
            },
            capacity: amounts(&t.capacity)?,
            overhead: amounts(&t.overhead)?,
            gpu: None,
            rates: Rates::default(),
            local_nvme: 0,
            boot: Boot::default(),
            labels: labels(&t.labels),
        });
    }
    for pool in &scenario.node_pools {
        snapshot.pools.push(node_pool(pool)?);
    }
    for object in &scenario.nodes {
        let node = node(object, &snapshot)?;
        snapshot.nodes.push(node);
    }
    for daemon in &scenario.daemons {
        let mut shape = shape(daemon)?;
        shape.eviction = Eviction::Daemon;
        shape.owner = Some(Owner {
            kind: "DaemonSet".to_owned(),
            name: daemon.metadata.name.clone(),
        });
        snapshot.daemons.push(shape);
    }
    for pod in scenario.bound.iter().chain(&scenario.pods) {
        snapshot.pods.push(Pod {
            key: ObjectKey::new(&pod.metadata.namespace, &pod.metadata.name),
            created: Millis(0),
            phase: match pod.spec.node_name.as_str() {
                "" => Phase::Pending,
                node => Phase::Bound {
                    node: node.to_owned(),
                    progress: Progress::Running,
                },
            },
            shape: shape(pod)?.into(),
        });
    }
    let policy = Policy {
        preferences: match scenario.preferences.as_str() {
            "ignore" => Preferences::Ignore,
            _ => Preferences::Respect,
        },
        ..Policy::default()
    };
    Ok((snapshot, policy))
}

fn amounts(written: &Amounts) -> Result<Resources, Error> {
    let read = |(name, text): (&String, &String)| Ok((name.clone(), amount::parse(name, text)?));
    written.iter().map(read).collect()
}

/// Karpenter's label keys in our words.
fn key(written: &str) -> String {
    match written {
        "karpenter.sh/capacity-type" => label::CAPACITY_TYPE,
        "karpenter.sh/nodepool" => label::NODE_POOL,
        _ => written,
    }
    .to_owned()
}

fn labels(written: &Labels) -> Labels {
    let renamed = |(k, v): (&String, &String)| (key(k), v.clone());
    written.iter().map(renamed).collect()
}

fn expression(written: &ApiExpression) -> Result<Expression, Error> {
    let operator = match written.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        other => return Err(format!("no operator {other:?}").into()),
    };
    Ok(Expression {
        key: key(&written.key),
        operator,
        values: written.values.clone(),
    })
}

fn term(written: &Selector) -> Result<Term, Error> {
    let mut all: Vec<Expression> = (written.match_labels.iter())
        .map(|(k, v)| Expression::equals(key(k), v.clone()))
        .collect();
    for one in &written.match_expressions {
        all.push(expression(one)?);
    }
    Ok(Term(all))
}

fn shape(pod: &ApiPod) -> Result<Shape, Error> {
    let spec = &pod.spec;
    let mut containers = Vec::new();
    let mut host_ports = BTreeSet::new();
    let roles = (spec.init_containers.iter().map(|c| (c, true)))
        .chain(spec.containers.iter().map(|c| (c, false)));
    for (container, init) in roles {
        let role = match (init, container.restart_policy.as_deref()) {
            (false, _) => Role::Main,
            (true, Some("Always")) => Role::Sidecar,
            (true, _) => Role::Init,
        };
        containers.push(Container {
            requests: amounts(&container.resources.requests)?,
            role,
        });
        for port in container.ports.iter().filter(|port| port.host_port != 0) {
            host_ports.insert(HostPort {
                address: match port.host_ip.as_str() {
                    "" => "0.0.0.0".to_owned(),
                    given => given.to_owned(),
                },
                protocol: match port.protocol.as_str() {
                    "" => "TCP".to_owned(),
                    given => given.to_owned(),
                },
                port: port.host_port,
            });
        }
    }
    let namespace = &pod.metadata.namespace;
    let pod_term = |written: &ApiPodTerm| -> Result<PodTerm, Error> {
        Ok(PodTerm {
            topology_key: key(&written.topology_key),
            selector: written.label_selector.as_ref().map(term).transpose()?,
            namespaces: Namespaces::Listed(match written.namespaces.is_empty() {
                true => BTreeSet::from([namespace.clone()]),
                false => written.namespaces.clone(),
            }),
        })
    };
    let terms = |written: &[ApiPodTerm]| written.iter().map(pod_term).collect::<Result<_, _>>();
    let weighted = |written: &[PreferredPodTerm]| {
        let one = |p: &PreferredPodTerm| Ok((p.weight, pod_term(&p.pod_affinity_term)?));
        written.iter().map(one).collect::<Result<_, Error>>()
    };
    let affinity = &spec.affinity;
    let required = &affinity.node_affinity.required.node_selector_terms;
    let preferred = affinity.node_affinity.preferred.iter();
    Ok(Shape {
        namespace: namespace.clone(),
        labels: pod.metadata.labels.clone(),
        requests: amount::pod_requests(&containers, &Resources::new(), &amounts(&spec.overhead)?),
        priority: spec.priority,
        node_selector: labels(&spec.node_selector),
        node_affinity: required.iter().map(term).collect::<Result<_, _>>()?,
        preferred_node_affinity: preferred
            .map(|p| Ok((p.weight, term(&p.preference)?)))
            .collect::<Result<_, Error>>()?,
        affinity: terms(&affinity.pod_affinity.required)?,
        anti_affinity: terms(&affinity.pod_anti_affinity.required)?,
        preferred_affinity: weighted(&affinity.pod_affinity.preferred)?,
        preferred_anti_affinity: weighted(&affinity.pod_anti_affinity.preferred)?,
        spread: (spec.topology_spread_constraints.iter())
            .map(spread)
            .collect::<Result<_, _>>()?,
        tolerations: (spec.tolerations.iter())
            .map(toleration)
            .collect::<Result<_, _>>()?,
        host_ports,
        ..Shape::default()
    })
}

fn spread(written: &ApiSpread) -> Result<Spread, Error> {
    let policy = |written: &Option<String>, default| match written.as_deref() {
        Some("Honor") => NodePolicy::Honor,
        Some("Ignore") => NodePolicy::Ignore,
        _ => default,
    };
    Ok(Spread {
        topology_key: key(&written.topology_key),
        max_skew: written.max_skew,
        when: match written.when_unsatisfiable.as_str() {
            "ScheduleAnyway" => Unsatisfiable::ScheduleAnyway,
            _ => Unsatisfiable::DoNotSchedule,
        },
        selector: written.label_selector.as_ref().map(term).transpose()?,
        min_domains: written.min_domains,
        node_affinity: policy(&written.node_affinity_policy, NodePolicy::Honor),
        node_taints: policy(&written.node_taints_policy, NodePolicy::Ignore),
    })
}

fn effect(written: &str) -> Result<Effect, Error> {
    match written {
        "NoSchedule" => Ok(Effect::NoSchedule),
        "PreferNoSchedule" => Ok(Effect::PreferNoSchedule),
        "NoExecute" => Ok(Effect::NoExecute),
        other => Err(format!("no taint effect {other:?}").into()),
    }
}

fn toleration(written: &ApiToleration) -> Result<Toleration, Error> {
    let exists = written.operator.as_deref() == Some("Exists");
    Ok(Toleration {
        key: written.key.clone().filter(|key| !key.is_empty()),
        value: match exists {
            true => None,
            false => Some(written.value.clone().unwrap_or_default()),
        },
        effect: written.effect.as_deref().map(effect).transpose()?,
    })
}

fn taints(written: &Value) -> Result<Vec<Taint>, Error> {
    let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
    let all = written.as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .map(|taint| {
            Ok(Taint {
                key: text(taint, "key"),
                value: text(taint, "value"),
                effect: effect(&text(taint, "effect"))?,
            })
        })
        .collect()
}

fn node_pool(object: &Value) -> Result<NodePool, Error> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let spec = &object["spec"];
    let template = &spec["template"];
    let mut pool = NodePool::new(name);
    pool.weight = i32::try_from(spec["weight"].as_i64().unwrap_or(0))?;
    if !spec["limits"].is_null() {
        pool.limits = amounts(&serde_json::from_value(spec["limits"].clone())?)?;
    }
    let written = &template["spec"]["requirements"];
    for one in written.as_array().map_or(&[][..], Vec::as_slice) {
        pool.requirements.push(PoolRequirement {
            expression: expression(&serde_json::from_value(one.clone())?)?,
            min_values: one["minValues"].as_u64().map(u32::try_from).transpose()?,
        });
    }
    if !template["metadata"]["labels"].is_null() {
        let written = serde_json::from_value(template["metadata"]["labels"].clone())?;
        pool.labels = labels(&written);
    }
    pool.taints = taints(&template["spec"]["taints"])?;
    Ok(pool)
}

fn node(object: &Value, snapshot: &Snapshot) -> Result<Node, Error> {
    let meta: Meta = serde_json::from_value(object["metadata"].clone())?;
    let labels = labels(&meta.labels);
    let of = |key: &str| labels.get(key).cloned();
    let offering = match (
        of(label::INSTANCE_TYPE),
        of(label::ZONE),
        of(label::CAPACITY_TYPE),
    ) {
        (Some(instance_type), Some(zone), Some(paid)) => Some(OfferingKey {
            instance_type,
            zone,
            capacity_type: paid.parse::<CapacityType>()?,
        }),
        _ => None,
    };
    let price = offering.as_ref().and_then(|key| {
        let sold = snapshot.offerings.iter().find(|sold| {
            snapshot.types[sold.instance_type].name == key.instance_type
                && sold.zone == key.zone
                && sold.capacity_type == key.capacity_type
        });
        sold.map(|sold| sold.price)
    });
    let allocatable = serde_json::from_value(object["status"]["allocatable"].clone())?;
    Ok(Node {
        name: meta.name,
        taints: taints(&object["spec"]["taints"])?,
        startup_taints: Vec::new(),
        allocatable: amounts(&allocatable)?,
        volume_limits: BTreeMap::new(),
        state: NodeState::Running,
        pool: of(label::NODE_POOL),
        offering,
        price,
        rates: Rates::default(),
        created: Millis(0),
        disruption: NodeDisruption::default(),
        labels,
    })
}
