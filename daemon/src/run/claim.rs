//! From a purchase to its NodeClaim and back: what was asked for, as a node in flight, as what a
//! provider is asked, and what its Node still lacks of it.

use std::collections::BTreeMap;

use headstart_api::{Amount, ClaimOffering, NodeClaim, NodeClaimSpec, PoolTaint, Price, names};
use headstart_core::amount::{self, Resources};
use headstart_core::label::{self, Effect, Labels, Taint};
use headstart_core::money::Millis;
use headstart_core::node::{Node, NodeDisruption, NodeState};
use headstart_core::offer::{InstanceType, OfferingKey, Rates};
use headstart_core::plan::NewNode;
use headstart_core::pool::NodePool;
use headstart_provider::Wanted;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::announced::effect;
use super::moving::meant;

/// Most pods that a claim lists.
const MOST_PODS: usize = 64;

/// Annotation on claims: claims that must be initialised before this one is given back.
pub(super) const REPLACED_BY: &str = "headstart.dev/replaced-by";

/// Annotation on claims: why they are given back, in a word.
pub(super) const GIVEN_BACK: &str = "headstart.dev/given-back-for";

/// That annotation's word for a node whose instance will be taken away.
pub(super) const INTERRUPTED: &str = "interrupted";

/// Label on nodes that once had all they should have.
pub(super) const INITIALIZED: &str = "headstart.dev/initialized";

/// The claim for a purchase. `salt` makes the name one that was never used: a provider remembers keys.
pub(super) fn of(
    new: &NewNode,
    pool: Option<&NodePool>,
    kind: Option<&InstanceType>,
    salt: &str,
    reason: String,
) -> NodeClaim {
    let name = name(new, salt);
    let offering = &new.offering;
    let mut labels = kind.map(InstanceType::node_labels).unwrap_or_default();
    let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
    set(label::ZONE, &offering.zone);
    set(label::INSTANCE_TYPE, &offering.instance_type);
    set(names::CAPACITY_TYPE, offering.capacity_type.as_str());
    set(names::NODE_POOL, &new.pool);
    set(names::NODE_CLAIM, &name);
    labels.extend(pool.iter().flat_map(|pool| pool.labels.clone()));
    // A label that is no label would make the API server refuse the node.
    labels.retain(|_, value| value.len() <= 63);
    let taints = |all: &[Taint]| all.iter().map(written).collect::<Vec<_>>();
    let boot = new.timing.allocatable.0.div_ceil(1000);
    let spec = NodeClaimSpec {
        node_pool: new.pool.clone(),
        offering: ClaimOffering {
            instance_type: offering.instance_type.clone(),
            zone: offering.zone.clone(),
            capacity_type: offering.capacity_type.as_str().to_owned(),
        },
        price: Some(Price(new.price)),
        requests: amounts(&new.requests),
        allocatable: amounts(&new.allocatable),
        labels,
        taints: pool.map(|pool| taints(&pool.taints)).unwrap_or_default(),
        startup_taints: pool
            .map(|pool| taints(&pool.startup_taints))
            .unwrap_or_default(),
        pods: new
            .pods
            .iter()
            .take(MOST_PODS)
            .map(|pod| meant(pod).to_string())
            .collect(),
        reason,
        expected_boot_seconds: u32::try_from(boot).ok(),
    };
    let own = [
        (names::NODE_POOL.to_owned(), new.pool.clone()),
        (
            names::CAPACITY_TYPE.to_owned(),
            offering.capacity_type.to_string(),
        ),
    ];
    let mut claim = NodeClaim::new(&name, spec);
    claim.metadata = ObjectMeta {
        labels: Some(own.into()),
        finalizers: Some(vec![names::INSTANCE_FINALIZER.to_owned()]),
        ..claim.metadata
    };
    claim
}

fn name(new: &NewNode, salt: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update(new.offering.to_string());
    for pod in &new.pods {
        hash.update(pod.to_string());
        hash.update([0]);
    }
    let digest = hash.finalize();
    let tail: String = digest[..5]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Clouds name machines after it: 54 letters, digits and dashes are what all of them take.
    let letters = new.pool.chars().map(|it| if it == '.' { '-' } else { it });
    let pool: String = letters.take(43).collect();
    format!("{}-{tail}", pool.trim_end_matches('-'))
}

fn written(taint: &Taint) -> PoolTaint {
    PoolTaint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: match taint.effect {
            Effect::NoSchedule => "NoSchedule",
            Effect::PreferNoSchedule => "PreferNoSchedule",
            Effect::NoExecute => "NoExecute",
        }
        .to_owned(),
    }
}

fn amounts(resources: &Resources) -> BTreeMap<String, Amount> {
    let written = resources.iter().map(|(name, amount)| {
        let text = match name {
            amount::CPU => format!("{amount}m"),
            _ => amount.to_string(),
        };
        (name.to_owned(), Amount(text))
    });
    written.collect()
}

/// Amounts as they were written down; what cannot be read is none.
pub(super) fn resources(written: &BTreeMap<String, Amount>) -> Resources {
    let mut read = Resources::new();
    for (name, amount) in written {
        if let Ok(amount) = amount::parse(name, &amount.0) {
            read.set(name.clone(), amount);
        }
    }
    read
}

/// What was bought.
pub(super) fn offering(claim: &NodeClaim) -> Option<OfferingKey> {
    let written = &claim.spec.offering;
    Some(OfferingKey {
        instance_type: written.instance_type.clone(),
        zone: written.zone.clone(),
        capacity_type: written.capacity_type.parse().ok()?,
    })
}

/// When a claim was made.
pub(super) fn created(claim: &NodeClaim) -> Millis {
    millis(
        claim
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| time.0),
    )
}

/// A moment; 0 when there is none.
pub(super) fn millis(time: Option<Timestamp>) -> Millis {
    let millis = time.map_or(0, Timestamp::as_millisecond);
    Millis(u64::try_from(millis).unwrap_or(0))
}

/// When its node is expected to be initialised.
pub(super) fn expected(claim: &NodeClaim, now: Millis) -> Millis {
    let boot = claim.spec.expected_boot_seconds.unwrap_or(0);
    (created(claim) + Millis::from_secs(boot.into())).max(now)
}

/// The node that a claim will be, while it has no Node object.
pub(super) fn in_flight(claim: &NodeClaim, now: Millis) -> Node {
    let spec = &claim.spec;
    let read = |all: &[PoolTaint]| all.iter().filter_map(taint).collect();
    let mut labels: Labels = spec.labels.clone();
    let name = claim.name_any();
    labels
        .entry(label::HOSTNAME.to_owned())
        .or_insert_with(|| name.clone());
    Node {
        labels,
        taints: read(&spec.taints),
        startup_taints: read(&spec.startup_taints),
        allocatable: resources(&spec.allocatable),
        volume_limits: BTreeMap::new(),
        state: NodeState::InFlight {
            expected: expected(claim, now),
        },
        pool: Some(spec.node_pool.clone()),
        offering: offering(claim),
        price: spec.price.map(|price| price.0),
        rates: Rates::default(),
        created: created(claim),
        disruption: NodeDisruption::default(),
        name,
    }
}

/// The same once it has a Node object that says nothing of itself yet.
pub(super) fn registered(claim: &NodeClaim, node: &str, now: Millis) -> Node {
    Node {
        name: node.to_owned(),
        state: NodeState::Starting {
            expected: expected(claim, now),
        },
        ..in_flight(claim, now)
    }
}

fn taint(written: &PoolTaint) -> Option<Taint> {
    Some(Taint {
        key: written.key.clone(),
        value: written.value.clone(),
        effect: effect(&written.effect)?,
    })
}

/// Says of a Node what its claim knows: price, offering, and what is still to come.
pub(super) fn complete(node: &mut Node, claim: &NodeClaim, now: Millis) {
    node.price = node.price.or(claim.spec.price.map(|price| price.0));
    // They may still be on their way. Its own stand, but for whose it is: what it has to have is told
    // to the claim's cache, and nowhere else.
    for (key, value) in promised_labels(claim) {
        let own = node.labels.entry(key.clone());
        own.or_insert_with(|| value.clone());
    }
    node.labels
        .insert(names::NODE_CLAIM.to_owned(), claim.name_any());
    if let Some(offering) = offering(claim) {
        node.offering = Some(offering);
    }
    if node.pool.is_none() && !claim.spec.node_pool.is_empty() {
        node.pool = Some(claim.spec.node_pool.clone());
    }
    let initialised = node
        .labels
        .get(INITIALIZED)
        .is_some_and(|value| value == "true");
    if claim.metadata.deletion_timestamp.is_some() {
        node.state = NodeState::Leaving;
    }
    if initialised || node.state == NodeState::Leaving {
        return;
    }
    let promised = resources(&claim.spec.allocatable);
    let lacks = lacking(&promised, &node.allocatable);
    if !lacks.is_empty() || matches!(node.state, NodeState::Starting { .. }) {
        node.state = NodeState::Starting {
            expected: expected(claim, now),
        };
        for name in lacks {
            node.allocatable.set(name.clone(), promised.of(&name));
        }
    }
}

/// Labels that its Node gets from a claim. Host names are the node's own.
pub(super) fn promised_labels(claim: &NodeClaim) -> impl Iterator<Item = (&String, &String)> {
    let labels = claim.spec.labels.iter();
    labels.filter(|(key, _)| !key.ends_with("kubernetes.io/hostname"))
}

/// Extended resources that were promised and are not there: a device plugin comes late, CPU does not.
pub(super) fn lacking(promised: &Resources, there: &Resources) -> Vec<String> {
    let extended = |name: &str| name.contains('/');
    let missing = promised
        .iter()
        .filter(|(name, amount)| extended(name) && *amount > 0 && there.of(name) == 0);
    missing.map(|(name, _)| name.to_owned()).collect()
}

/// What a provider is asked for.
pub(super) fn wanted(
    claim: &NodeClaim,
    settings: Map<String, Value>,
    intent: String,
) -> Option<Wanted> {
    let spec = &claim.spec;
    Some(Wanted {
        claim: claim.name_any(),
        offering: offering(claim)?,
        labels: spec.labels.clone(),
        taints: spec.taints.clone(),
        startup_taints: spec.startup_taints.clone(),
        settings,
        intent,
    })
}

/// Whether a claim is given back because its instance will be taken away.
pub(super) fn is_interrupted(claim: &NodeClaim) -> bool {
    let why = claim.annotations().get(GIVEN_BACK);
    why.is_some_and(|why| why == INTERRUPTED)
}

/// Whether a person wants a claim to go, rather than a decision of ours.
pub(super) fn is_unwanted(claim: &NodeClaim) -> bool {
    claim.metadata.deletion_timestamp.is_some() && !claim.annotations().contains_key(GIVEN_BACK)
}

/// Claims that must be initialised before this one is given back.
pub(super) fn replaced_by(claim: &NodeClaim) -> Vec<String> {
    let written = claim.annotations().get(REPLACED_BY);
    let names = written.into_iter().flat_map(|text| text.split(','));
    names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use headstart_core::money::HourlyPrice;
    use headstart_core::offer::CapacityType;
    use headstart_core::pod::ObjectKey;
    use headstart_core::ready::Timing;
    use headstart_core::reason::Score;

    use super::*;

    fn bought() -> NewNode {
        NewNode {
            pool: "gpu".to_owned(),
            offering: OfferingKey {
                instance_type: "g6.xlarge".to_owned(),
                zone: "a".to_owned(),
                capacity_type: CapacityType::Spot,
            },
            price: HourlyPrice(410_000),
            requests: Resources::new().with("cpu", 500),
            allocatable: Resources::new()
                .with("cpu", 3_500)
                .with("nvidia.com/gpu", 1),
            pods: vec![ObjectKey::new("default", "p")],
            timing: Timing {
                allocatable: Millis(90_400),
                ..Timing::default()
            },
            score: Score::default(),
            runner_up: None,
        }
    }

    #[test]
    fn what_was_bought_comes_back_as_the_node_in_flight_it_was() {
        let claim = of(&bought(), None, None, "1", "cheapest".to_owned());
        let node = in_flight(&claim, Millis(5));
        assert_eq!(node.allocatable, bought().allocatable);
        assert_eq!(node.offering.as_ref(), Some(&bought().offering));
        assert_eq!(node.price, Some(bought().price));
        assert_eq!(node.labels.get(names::NODE_CLAIM), Some(&node.name));
        assert_eq!(
            node.state,
            NodeState::InFlight {
                expected: Millis(91_000)
            }
        );
    }

    #[test]
    fn a_node_that_says_nothing_of_itself_yet_is_what_was_promised() {
        let claim = of(&bought(), None, None, "1", String::new());
        let mut node = registered(&claim, "ip-10-0-0-7", Millis(5));
        complete(&mut node, &claim, Millis(5));
        assert_eq!(node.allocatable, bought().allocatable);
        assert!(matches!(node.state, NodeState::Starting { .. }));
    }

    #[test]
    fn the_same_purchase_in_another_round_is_another_key() {
        let name = |salt| of(&bought(), None, None, salt, String::new()).name_any();
        assert_eq!(name("1"), name("1"));
        assert_ne!(name("1"), name("2"));
        assert!(name("1").len() <= 54);
    }

    #[test]
    fn a_node_that_only_its_provider_names_has_its_claims_labels_at_once() {
        let claim = of(&bought(), None, None, "1", String::new());
        let mut node = in_flight(&claim, Millis(5));
        node.labels = Labels::from([
            (label::ZONE.to_owned(), "its own".to_owned()),
            (names::NODE_CLAIM.to_owned(), "of another time".to_owned()),
        ]);
        complete(&mut node, &claim, Millis(5));
        assert_eq!(node.labels.get(names::NODE_CLAIM), Some(&claim.name_any()));
        assert_eq!(node.labels.get(label::ZONE).unwrap(), "its own");
        assert_eq!(
            node.labels.get(label::INSTANCE_TYPE),
            Some(&bought().offering.instance_type)
        );
    }

    #[test]
    fn a_registered_node_without_its_gpus_is_starting_with_what_was_promised() {
        let claim = of(&bought(), None, None, "1", String::new());
        let mut node = in_flight(&claim, Millis(5));
        node.state = NodeState::Running;
        node.allocatable.set("nvidia.com/gpu", 0);
        complete(&mut node, &claim, Millis(5));
        assert!(matches!(node.state, NodeState::Starting { .. }));
        assert_eq!(node.allocatable.of("nvidia.com/gpu"), 1);
        // Once it was complete, a device plugin that restarts takes nothing back.
        node.state = NodeState::Running;
        node.labels
            .insert(INITIALIZED.to_owned(), "true".to_owned());
        node.allocatable.set("nvidia.com/gpu", 0);
        complete(&mut node, &claim, Millis(5));
        assert_eq!(node.state, NodeState::Running);
    }
}
