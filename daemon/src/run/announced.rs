//! Nodes that another autoscaler has announced: Karpenter's NodeClaims, as nodes in flight.
//!
//! Only what says what the node will be is read; what is not there yet is taken from what its pods ask
//! for, which the node will have at least.
//!
//! Source: Karpenter v1 `pkg/apis/v1/nodeclaim.go`.

use headstart_core::amount::{self, PODS, Resources};
use headstart_core::label::{self, Effect, Labels, Taint};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{OfferingKey, Rates};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// How long Karpenter's nodes take to be ready when nobody has said otherwise: what `coldstart` of
/// this project's catalog takes for a GPU node on AWS.
const BOOT: Millis = Millis::from_secs(90);

/// Most pods a kubelet runs unless it is told otherwise.
const USUAL_PODS: i64 = 110;

/// One announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    node: Node,
    /// The Node it became, if it did.
    pub(super) node_name: Option<String>,
    pub(super) uid: String,
}

impl Announced {
    /// Reads one. `None` once it is to be deleted.
    pub(super) fn of(name: &str, tree: &Value) -> Option<Self> {
        if !tree["metadata"]["deletionTimestamp"].is_null() {
            return None;
        }
        let mut labels = Labels::new();
        for requirement in tree["spec"]["requirements"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let values = requirement["values"].as_array();
            if let (Some(key), Some("In"), Some([value])) = (
                requirement["key"].as_str(),
                requirement["operator"].as_str(),
                values.map(Vec::as_slice),
            ) {
                labels.extend(
                    value
                        .as_str()
                        .map(|value| (key.to_owned(), value.to_owned())),
                );
            }
        }
        labels.extend(texts(&tree["metadata"]["labels"]));
        crate::manifest::add_our_labels(&mut labels);
        labels
            .entry(label::HOSTNAME.to_owned())
            .or_insert_with(|| name.to_owned());
        let mut allocatable = amounts(&tree["status"]["allocatable"]);
        if allocatable.is_empty() {
            allocatable = amounts(&tree["spec"]["resources"]["requests"]);
        }
        if allocatable.of(PODS) == 0 {
            allocatable.set(PODS, USUAL_PODS);
        }
        let created = tree["metadata"]["creationTimestamp"].as_str();
        let created = created.and_then(|text| text.parse::<Timestamp>().ok());
        let created = created.and_then(|time| u64::try_from(time.as_millisecond()).ok());
        let created = Millis(created.unwrap_or(0));
        let capacity_type = labels
            .get(label::CAPACITY_TYPE)
            .and_then(|word| word.parse().ok());
        let offering = capacity_type.and_then(|capacity_type| {
            Some(OfferingKey {
                instance_type: labels.get(label::INSTANCE_TYPE)?.clone(),
                zone: labels.get(label::ZONE)?.clone(),
                capacity_type,
            })
        });
        let node = Node {
            name: name.to_owned(),
            labels,
            taints: taints(&tree["spec"]["taints"]),
            startup_taints: taints(&tree["spec"]["startupTaints"]),
            allocatable,
            volume_limits: std::collections::BTreeMap::new(),
            state: NodeState::InFlight {
                expected: created + BOOT,
            },
            pool: None,
            offering,
            price: None,
            rates: Rates::default(),
            created,
            disruption: NodeDisruption::default(),
        };
        Some(Self {
            node,
            node_name: tree["status"]["nodeName"]
                .as_str()
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            uid: tree["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// It, as the owner of what is made for its node.
    pub(super) fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "karpenter.sh/v1".to_owned(),
            kind: "NodeClaim".to_owned(),
            name: self.node.name.clone(),
            uid: self.uid.clone(),
            ..OwnerReference::default()
        }
    }

    /// The node in flight, seen at `now`.
    pub(super) fn at(&self, now: Millis) -> Node {
        let mut node = self.node.clone();
        if let NodeState::InFlight { expected } = &mut node.state {
            *expected = (*expected).max(now);
        }
        node
    }
}

fn texts(tree: &Value) -> impl Iterator<Item = (String, String)> {
    let all = tree.as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
}

fn amounts(tree: &Value) -> Resources {
    let mut read = Resources::new();
    for (name, value) in tree.as_object().into_iter().flatten() {
        let text = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        if let Ok(amount) = amount::parse(name, &text) {
            read.set(name.clone(), amount);
        }
    }
    read
}

fn taints(tree: &Value) -> Vec<Taint> {
    let all = tree.as_array().into_iter().flatten();
    all.filter_map(|taint| {
        Some(Taint {
            key: taint["key"].as_str()?.to_owned(),
            value: taint["value"].as_str().unwrap_or_default().to_owned(),
            effect: effect(taint["effect"].as_str()?)?,
        })
    })
    .collect()
}

/// The effect of this name.
pub(super) fn effect(word: &str) -> Option<Effect> {
    match word {
        "NoSchedule" => Some(Effect::NoSchedule),
        "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
        "NoExecute" => Some(Effect::NoExecute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_karpenter_claim_is_a_node_in_flight_before_it_was_launched() {
        let tree = json!({
            "metadata": {"name": "gpu-abc", "uid": "u", "creationTimestamp": "2026-11-25T00:00:00Z",
                         "labels": {"karpenter.sh/nodepool": "gpu"}},
            "spec": {
                "requirements": [
                    {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["g6.xlarge"]},
                    {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b"]},
                ],
                "resources": {"requests": {"cpu": "3", "nvidia.com/gpu": "1"}},
                "taints": [{"key": "gpu", "effect": "NoSchedule"}],
            },
        });
        let read = Announced::of("gpu-abc", &tree).unwrap();
        let node = read.at(Millis(1));
        assert_eq!(node.allocatable.of("nvidia.com/gpu"), 1);
        assert_eq!(node.labels.get(label::INSTANCE_TYPE).unwrap(), "g6.xlarge");
        assert!(!node.labels.contains_key(label::ZONE));
        assert_eq!(node.taints.len(), 1);
        assert!(matches!(node.state, NodeState::InFlight { .. }));
        assert_eq!(read.node_name, None);
    }

    #[test]
    fn anything_that_is_no_claim_is_read_without_harm() {
        let odd = json!({"spec": {"requirements": 3, "taints": [1, {"key": 2}], "resources": []},
                         "status": {"allocatable": {"cpu": [], "memory": "lots"}, "nodeName": 7}});
        assert!(Announced::of("x", &odd).is_some());
    }
}
