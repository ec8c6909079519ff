//! What a pod asks of nodes and of other pods: affinity, anti-affinity, spread, tolerations.

use std::collections::BTreeSet;

use headstart_core::label::{Expression, Labels, Operator, Term, Toleration};
use headstart_core::pod::{Namespaces, NodePolicy, PodTerm, Spread, Unsatisfiable};
use k8s_openapi::api::core::v1 as core;

use super::alias;
use super::cluster::Cluster;
use super::finding::{Subject, quoted};
use super::select;

/// Required node affinity; empty when there is none.
pub(crate) fn required_nodes(affinity: &core::NodeAffinity, subject: &Subject<'_>) -> Vec<Term> {
    let field = "requiredDuringSchedulingIgnoredDuringExecution";
    let Some(required) = &affinity.required_during_scheduling_ignored_during_execution else {
        return Vec::new();
    };
    let at = subject.at(field).at("nodeSelectorTerms");
    if required.node_selector_terms.is_empty() {
        at.problem("is empty; give at least one term, or leave the affinity away");
    }
    let terms = required.node_selector_terms.iter().enumerate();
    terms
        .map(|(index, term)| select::node_term(term, &at.nth(index)))
        .collect()
}

/// Preferred node affinity, with weights.
pub(crate) fn preferred_nodes(
    affinity: &core::NodeAffinity,
    subject: &Subject<'_>,
) -> Vec<(i32, Term)> {
    let preferred = &affinity.preferred_during_scheduling_ignored_during_execution;
    let at = subject.at("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = preferred.iter().flatten().enumerate();
    terms
        .filter_map(|(index, term)| {
            let at = at.nth(index);
            let weight = weight(term.weight, &at)?;
            let read = select::node_term(&term.preference, &at.at("preference"));
            // The scheduler ignores a preference without conditions.
            (!read.0.is_empty()).then_some((weight, read))
        })
        .collect()
}

fn weight(weight: i32, subject: &Subject<'_>) -> Option<i32> {
    if (1..=100).contains(&weight) {
        return Some(weight);
    }
    subject
        .at("weight")
        .problem(format!("is {weight}; write a number from 1 to 100"));
    None
}

/// Who asks: a relation to other pods depends on the pod's own namespace and labels.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) labels: &'a Labels,
    pub(crate) cluster: &'a Cluster<'a>,
}

impl Asking<'_> {
    /// Required relations to other pods.
    pub(crate) fn required_pods(
        self,
        terms: &Option<Vec<core::PodAffinityTerm>>,
        subject: &Subject<'_>,
    ) -> Vec<PodTerm> {
        let at = subject.at("requiredDuringSchedulingIgnoredDuringExecution");
        let terms = terms.iter().flatten().enumerate();
        terms
            .filter_map(|(index, term)| self.pod_term(term, &at.nth(index)))
            .collect()
    }

    /// Preferred relations to other pods, with weights.
    pub(crate) fn preferred_pods(
        self,
        terms: &Option<Vec<core::WeightedPodAffinityTerm>>,
        subject: &Subject<'_>,
    ) -> Vec<(i32, PodTerm)> {
        let at = subject.at("preferredDuringSchedulingIgnoredDuringExecution");
        let terms = terms.iter().flatten().enumerate();
        terms
            .filter_map(|(index, term)| {
                let at = at.nth(index);
                let weight = weight(term.weight, &at)?;
                let read = self.pod_term(&term.pod_affinity_term, &at.at("podAffinityTerm"))?;
                Some((weight, read))
            })
            .collect()
    }

    fn pod_term(self, term: &core::PodAffinityTerm, subject: &Subject<'_>) -> Option<PodTerm> {
        let topology_key = topology_key(&term.topology_key, subject)?;
        let selector = term.label_selector.as_ref().map(|selector| {
            let mut selector = select::label_selector(selector, &subject.at("labelSelector"));
            self.match_keys(&term.match_label_keys, Operator::In, &mut selector);
            self.match_keys(&term.mismatch_label_keys, Operator::NotIn, &mut selector);
            selector
        });
        Some(PodTerm {
            topology_key,
            selector,
            namespaces: self.namespaces(term, subject),
        })
    }

    /// Conditions for keys whose value is the pod's own; a key that it does not have is ignored.
    fn match_keys(self, keys: &Option<Vec<String>>, operator: Operator, selector: &mut Term) {
        for key in keys.iter().flatten() {
            if let Some(value) = self.labels.get(key) {
                selector.0.push(Expression {
                    key: key.clone(),
                    operator,
                    values: vec![value.clone()],
                });
            }
        }
    }

    fn namespaces(self, term: &core::PodAffinityTerm, subject: &Subject<'_>) -> Namespaces {
        let mut names: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        if let Some(selector) = &term.namespace_selector {
            let at = subject.at("namespaceSelector");
            let selector = select::label_selector(selector, &at);
            if selector.0.is_empty() {
                return Namespaces::All;
            }
            let known = &self.cluster.namespaces;
            let selected = known.iter().filter(|(_, labels)| selector.matches(labels));
            names.extend(selected.map(|(name, _)| (*name).to_owned()));
            if known.is_empty() {
                names.insert(self.namespace.to_owned());
                at.note("no namespaces are among the files; only the pod's own is looked into");
            }
        } else if names.is_empty() {
            names.insert(self.namespace.to_owned());
        }
        Namespaces::Listed(names)
    }

    /// One topology spread constraint.
    pub(crate) fn spread(
        self,
        constraint: &core::TopologySpreadConstraint,
        subject: &Subject<'_>,
    ) -> Option<Spread> {
        let topology_key = topology_key(&constraint.topology_key, subject)?;
        let skew = constraint.max_skew;
        let max_skew = u32::try_from(skew).ok().filter(|skew| *skew > 0);
        if max_skew.is_none() {
            let at = subject.at("maxSkew");
            at.problem(format!("is {skew}; write a number greater than 0"));
        }
        let anyway = "ScheduleAnyway";
        let when = match constraint.when_unsatisfiable.as_str() {
            "DoNotSchedule" => Unsatisfiable::DoNotSchedule,
            found if found == anyway => Unsatisfiable::ScheduleAnyway,
            found => {
                let at = subject.at("whenUnsatisfiable");
                select::unknown(found, &["DoNotSchedule", anyway], &at);
                return None;
            }
        };
        let min_domains = constraint.min_domains.and_then(|found| {
            let domains = u32::try_from(found).ok().filter(|domains| *domains > 0);
            if domains.is_none() {
                let at = subject.at("minDomains");
                at.problem(format!("is {found}; write a number greater than 0"));
            }
            domains
        });
        let policy = |found: &Option<String>, default, field| match found.as_deref() {
            None => default,
            Some("Honor") => NodePolicy::Honor,
            Some("Ignore") => NodePolicy::Ignore,
            Some(found) => {
                select::unknown(found, &["Honor", "Ignore"], &subject.at(field));
                default
            }
        };
        let selector = constraint.label_selector.as_ref().map(|selector| {
            let mut selector = select::label_selector(selector, &subject.at("labelSelector"));
            self.match_keys(&constraint.match_label_keys, Operator::In, &mut selector);
            selector
        });
        Some(Spread {
            topology_key,
            max_skew: max_skew?,
            when,
            selector,
            min_domains,
            node_affinity: policy(
                &constraint.node_affinity_policy,
                NodePolicy::Honor,
                "nodeAffinityPolicy",
            ),
            node_taints: policy(
                &constraint.node_taints_policy,
                NodePolicy::Ignore,
                "nodeTaintsPolicy",
            ),
        })
    }
}

fn topology_key(key: &str, subject: &Subject<'_>) -> Option<String> {
    if key.is_empty() {
        let at = subject.at("topologyKey");
        at.problem("is empty; name a node label such as topology.kubernetes.io/zone");
        return None;
    }
    Some(alias::key(key).to_owned())
}

/// One toleration.
pub(crate) fn toleration(found: &core::Toleration, subject: &Subject<'_>) -> Option<Toleration> {
    let key = found.key.clone().filter(|key| !key.is_empty());
    let value = found.value.clone().unwrap_or_default();
    let effect = match found.effect.as_deref().unwrap_or_default() {
        "" => None,
        effect => Some(select::effect(effect, &subject.at("effect"))?),
    };
    let value = match found.operator.as_deref().unwrap_or_default() {
        "Exists" if value.is_empty() => None,
        "Exists" => {
            let value = quoted(&value);
            let at = subject.at("value");
            at.problem(format!("is {value}; with operator Exists leave it away"));
            return None;
        }
        "" | "Equal" if key.is_none() => {
            let at = subject.at("key");
            at.problem("is empty; name a taint, or write operator: Exists to tolerate all");
            return None;
        }
        "" | "Equal" => Some(value),
        operator @ ("Lt" | "Gt") => {
            let at = subject.at("operator");
            at.note(format!(
                "{operator} is not planned for: this toleration counts for nothing"
            ));
            return None;
        }
        operator => {
            select::unknown(operator, &["Equal", "Exists"], &subject.at("operator"));
            return None;
        }
    };
    Some(Toleration { key, value, effect })
}
