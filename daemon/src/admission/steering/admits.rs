//! Whether a node takes a pod: what the scheduler would refuse in any case is not nominated.
//!
//! Deliberately incomplete: relations to other pods, ports and volumes are the scheduler's. A node that
//! is nominated and does not do costs the pod its steering, nothing else.

use std::collections::BTreeMap;

use headstart_core::label::{Expression, Operator};
use k8s_openapi::api::core::v1 as core;

/// What a node says of itself.
pub(super) struct Machine<'m> {
    pub(super) name: &'m str,
    pub(super) labels: &'m BTreeMap<String, String>,
    pub(super) taints: &'m [core::Taint],
}

impl Machine<'_> {
    /// Whether a pod may run on it by selectors, required affinity, taints and tolerations.
    pub(super) fn admits(&self, spec: &core::PodSpec) -> bool {
        let mut selected = spec.node_selector.iter().flatten();
        let repels = |taint: &&core::Taint| taint.effect != "PreferNoSchedule";
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        selected.all(|(key, value)| self.labels.get(key) == Some(value))
            && self.is_required_by(spec)
            && self.taints.iter().filter(repels).all(|taint| {
                let mut all = tolerations.iter();
                all.any(|toleration| tolerates(toleration, taint))
            })
    }

    /// Whether one of the terms of a required affinity holds, if there is one.
    fn is_required_by(&self, spec: &core::PodSpec) -> bool {
        let affinity = spec.affinity.as_ref();
        let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let required = nodes.and_then(|nodes| {
            let required = &nodes.required_during_scheduling_ignored_during_execution;
            required.as_ref()
        });
        required.is_none_or(|required| {
            let mut terms = required.node_selector_terms.iter();
            terms.any(|term| self.meets(term))
        })
    }

    fn meets(&self, term: &core::NodeSelectorTerm) -> bool {
        let labels = term.match_expressions.iter().flatten();
        let labels = labels.map(|asked| (asked, self.labels.get(&asked.key).map(String::as_str)));
        let fields = term.match_fields.iter().flatten();
        let fields = fields.map(|asked| {
            let is_name = asked.key == "metadata.name";
            (asked, is_name.then_some(self.name))
        });
        let mut asked = labels.chain(fields).peekable();
        // A term without conditions selects nothing.
        asked.peek().is_some() && asked.all(|(asked, value)| matches(asked, value))
    }
}

/// Whether a condition holds; one that cannot be read does not.
fn matches(asked: &core::NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match asked.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => return false,
    };
    let expression = Expression {
        key: asked.key.clone(),
        operator,
        values: asked.values.clone().unwrap_or_default(),
    };
    expression.matches(value)
}

fn tolerates(toleration: &core::Toleration, taint: &core::Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let any = toleration.operator.as_deref() == Some("Exists");
    (key.is_empty() && any || key == taint.key)
        && (effect.is_empty() || effect == taint.effect)
        && (any || value == taint.value.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn admits(spec: Value) -> bool {
        let labels = [("zone", "a"), ("gpus", "8")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let taint = json!({"key": "gpu", "value": "yes", "effect": "NoSchedule"});
        let rather = json!({"key": "rather", "effect": "PreferNoSchedule"});
        let taints: Vec<core::Taint> = serde_json::from_value(json!([taint, rather])).unwrap();
        let machine = Machine {
            name: "n1",
            labels: &BTreeMap::from(labels),
            taints: &taints,
        };
        let mut spec = spec;
        spec["containers"] = json!([]);
        if spec["tolerations"].is_null() {
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        machine.admits(&serde_json::from_value(spec).unwrap())
    }

    fn requires(terms: Value) -> bool {
        admits(json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}))
    }

    #[test]
    fn a_node_takes_what_tolerates_its_taints_and_selects_its_labels() {
        assert!(admits(json!({})));
        assert!(admits(json!({"nodeSelector": {"zone": "a"}})));
        assert!(!admits(json!({"nodeSelector": {"zone": "b"}})));
        assert!(!admits(json!({"tolerations": []})));
        assert!(admits(
            json!({"tolerations": [{"key": "gpu", "value": "yes"}]})
        ));
        assert!(!admits(
            json!({"tolerations": [{"key": "gpu", "value": "no"}]})
        ));
    }

    #[test]
    fn one_term_of_a_required_affinity_has_to_hold_with_all_its_conditions() {
        let on = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
        let zone = on("zone", "In", json!(["a"]));
        let other = on("zone", "In", json!(["b"]));
        assert!(requires(json!([{"matchExpressions": [zone]}])));
        assert!(!requires(json!([{"matchExpressions": [other]}])));
        assert!(!requires(json!([{"matchExpressions": [zone, other]}])));
        assert!(requires(
            json!([{"matchExpressions": [other]}, {"matchExpressions": [zone]}])
        ));
        assert!(requires(
            json!([{"matchExpressions": [on("gpus", "Gt", json!(["4"]))]}])
        ));
        assert!(!requires(
            json!([{"matchExpressions": [on("new", "Near", json!(["4"]))]}])
        ));
        assert!(requires(
            json!([{"matchFields": [on("metadata.name", "In", json!(["n1"]))]}])
        ));
        assert!(!requires(
            json!([{"matchFields": [on("metadata.name", "NotIn", json!(["n1"]))]}])
        ));
        assert!(!requires(json!([{}])));
    }
}
