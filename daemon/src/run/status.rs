//! What is reported of claims, pools and prefetches: from what was applied and seen, never from what
//! was meant. A condition keeps the time of its last change; a stage, once reached, its own.

use headstart_api::{NodeCache, NodeClaim, NodeClaimStatus, NodePoolStatus, Price, names};
use headstart_core::money::HourlyPrice;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;

use super::claim::INITIALIZED;

/// One condition as it is now.
pub(super) struct Now<'a> {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: &'a str,
}

/// The condition, with the time of its last change.
pub(super) fn condition(before: &[Condition], now: &Now<'_>, metadata: &ObjectMeta) -> Condition {
    let before = before.iter().find(|it| it.type_ == now.kind);
    let since = before.filter(|it| it.status == now.status);
    Condition {
        type_: now.kind.to_owned(),
        status: now.status.to_owned(),
        reason: now.reason.to_owned(),
        message: now.message.chars().take(1024).collect(),
        observed_generation: metadata.generation,
        last_transition_time: since.map_or_else(
            || Time(whole(Timestamp::now())),
            |it| it.last_transition_time.clone(),
        ),
    }
}

/// A moment in whole seconds: objects hold no more, and what was read must equal what was written.
pub(super) fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The Ready condition of a Node, if it is Ready: since when.
pub(super) fn ready_since(node: &core::Node) -> Option<Time> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|it| it.type_ == "Ready")?;
    match ready.status.as_str() {
        "True" => ready.last_transition_time.clone(),
        _ => None,
    }
}

/// What is seen of a claim.
pub(super) struct SeenOf<'a> {
    pub(super) node: Option<&'a core::Node>,
    pub(super) cache: Option<&'a NodeCache>,
    /// Whether the node has everything that was promised.
    pub(super) complete: bool,
    /// The instance, where a provider has just said it.
    pub(super) instance: Option<&'a headstart_provider::Instance>,
    /// What a provider said last when it did not give one.
    pub(super) refused: Option<(&'static str, String)>,
}

/// The status of a claim.
pub(super) fn of_claim(claim: &NodeClaim, seen: &SeenOf<'_>) -> NodeClaimStatus {
    let before = claim.status.clone().unwrap_or_default();
    let mut status = before.clone();
    let now = || Time(whole(Timestamp::now()));
    let stages = &mut status.stages;
    if stages.requested.is_none() {
        stages
            .requested
            .clone_from(&claim.metadata.creation_timestamp);
    }
    if let Some(instance) = seen.instance {
        status.instance = Some(headstart_api::Instance {
            provider_id: instance.provider_id.clone(),
            node_name: instance.node_name.clone(),
        });
        stages.launched.get_or_insert_with(now);
    }
    let reported = seen.cache.and_then(|cache| cache.status.as_ref());
    if stages.agent_started.is_none() {
        stages.agent_started = reported.and_then(|status| status.agent_started.clone());
    }
    if let Some(node) = seen.node {
        status.node_name.clone_from(&node.metadata.name);
        if stages.registered.is_none() {
            stages
                .registered
                .clone_from(&node.metadata.creation_timestamp);
        }
        if stages.ready.is_none() {
            stages.ready = ready_since(node);
        }
        if seen.complete {
            stages.gpu_allocatable.get_or_insert_with(now);
        }
    }
    let launched = status.instance.is_some();
    let initialised = seen
        .node
        .and_then(|node| node.metadata.labels.as_ref()?.get(INITIALIZED))
        .is_some_and(|value| value == "true");
    let yes = |yes: bool| if yes { "True" } else { "False" };
    let leaving = claim.metadata.deletion_timestamp.is_some();
    let (why, said) = seen.refused.clone().unwrap_or(("Asking", String::new()));
    let ready = initialised && !leaving && seen.node.is_some_and(|it| ready_since(it).is_some());
    let all = [
        Now {
            kind: "Launched",
            status: yes(launched),
            reason: if launched { "Launched" } else { why },
            message: if launched { "" } else { &said },
        },
        Now {
            kind: "Registered",
            status: yes(seen.node.is_some()),
            reason: if seen.node.is_some() {
                "Registered"
            } else {
                "NoNode"
            },
            message: "",
        },
        Now {
            kind: "Initialized",
            status: yes(initialised),
            reason: match (initialised, seen.node) {
                (true, _) => "Initialized",
                (false, None) => "NoNode",
                (false, Some(_)) => "Incomplete",
            },
            message: "",
        },
        Now {
            kind: "Ready",
            status: yes(ready),
            reason: match (ready, leaving) {
                (true, _) => "Ready",
                (_, true) => "Leaving",
                _ => "NotReady",
            },
            message: "",
        },
    ];
    let conditions = all
        .iter()
        .map(|now| condition(&before.conditions, now, &claim.metadata));
    status.conditions = conditions.collect();
    status
}

/// The status of a pool.
pub(super) fn of_pool(
    before: &NodePoolStatus,
    metadata: &ObjectMeta,
    ready: Result<(), (&'static str, &str)>,
    nodes: &[Option<HourlyPrice>],
) -> NodePoolStatus {
    let (status, reason, message) = match ready {
        Ok(()) => ("True", "Ready", ""),
        Err((reason, message)) => ("False", reason, message),
    };
    let now = Now {
        kind: "Ready",
        status,
        reason,
        message,
    };
    let cost: u64 = nodes.iter().flatten().map(|price| price.0).sum();
    NodePoolStatus {
        nodes: u32::try_from(nodes.len()).unwrap_or(u32::MAX),
        hourly_cost: (cost > 0).then_some(Price(HourlyPrice(cost))),
        resources: std::collections::BTreeMap::new(),
        conditions: vec![condition(&before.conditions, &now, metadata)],
    }
}

/// Whether a Node takes no pods because it is to go.
pub(super) fn is_tainted(node: &core::Node) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints
        .into_iter()
        .any(|taint| taint.key == names::LEAVING_TAINT)
}

#[cfg(test)]
mod tests {
    use headstart_api::NodeClaimSpec;

    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let old = Time(Timestamp::from_second(5).unwrap());
        let metadata = ObjectMeta::default();
        let mut now = Now {
            kind: "Ready",
            status: "True",
            reason: "Ready",
            message: "",
        };
        let mut first = condition(&[], &now, &metadata);
        first.last_transition_time = old.clone();
        let again = condition(std::slice::from_ref(&first), &now, &metadata);
        assert_eq!(again.last_transition_time, old);
        now.status = "False";
        let changed = condition(&[first], &now, &metadata);
        assert_ne!(changed.last_transition_time, old);
    }

    #[test]
    fn a_claim_whose_status_was_written_has_the_same_status_again() {
        let mut claim = NodeClaim::new("a", NodeClaimSpec::default());
        let instance = headstart_provider::Instance {
            claim: Some("a".to_owned()),
            provider_id: "kwok://a".to_owned(),
            node_name: None,
            state: headstart_provider::InstanceState::Running,
            created: std::time::SystemTime::UNIX_EPOCH,
        };
        let mut seen = SeenOf {
            node: None,
            cache: None,
            complete: false,
            instance: Some(&instance),
            refused: None,
        };
        let first = of_claim(&claim, &seen);
        assert_eq!(first.conditions[0].status, "True");
        claim.status = Some(first.clone());
        seen.instance = None;
        assert_eq!(of_claim(&claim, &seen), first);
    }
}
