//! The form in which what was learned about offerings outlives the daemon.
//!
//! Small enough for one Kubernetes object. What does not belong in it any more (an unknown field, a
//! word of a newer version, a mark beyond its limit) is left out or cut when it is read, never an
//! error: a memory that cannot be read costs a few requests to the cloud.

use serde::{Deserialize, Serialize};

use super::boots::{Boots, SAMPLES};
use super::{
    Capacity, MOST_BOOTS, MOST_LAUNCHES, MOST_MARKS, MOST_NAME, MOST_WHY, MOST_WINDOWS, Mark,
    MarkState, Refusal, Scope, Window,
};
use crate::money::Millis;
use crate::offer::{Boot, CapacityType, OfferingKey};

/// Everything learned, to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CapacityMemory {
    refused: Vec<MarkMemory>,
    budgets: Vec<WindowMemory>,
    boots: Vec<BootMemory>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MarkMemory {
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity_type: Option<String>,
    refusal: String,
    why: String,
    interval_ms: u64,
    until_ms: u64,
    /// Whether a launch succeeded since.
    succeeded: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WindowMemory {
    instance_type: String,
    zone: String,
    capacity_type: String,
    allowed: u32,
    unanswered: u32,
    asked_ms: u64,
    succeeded_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BootMemory {
    instance_type: String,
    zone: String,
    capacity_type: String,
    last_ms: u64,
    /// Agent, ready, allocatable; oldest boot first.
    boots_ms: Vec<[u64; 3]>,
}

impl CapacityMemory {
    /// What is to be stored of both.
    pub fn new(capacity: &Capacity, boots: &Boots) -> Self {
        let word = |capacity_type: CapacityType| capacity_type.as_str().to_owned();
        Self {
            refused: capacity
                .marks
                .iter()
                .map(|(scope, mark)| MarkMemory {
                    instance_type: scope.instance_type.clone(),
                    zone: scope.zone.clone(),
                    capacity_type: scope.capacity_type.map(word),
                    refusal: refusal_word(mark.refusal).to_owned(),
                    why: mark.why.clone(),
                    interval_ms: mark.interval.0,
                    until_ms: mark.until.0,
                    succeeded: mark.state == MarkState::Succeeded,
                })
                .collect(),
            budgets: capacity
                .windows
                .iter()
                .map(|(key, window)| WindowMemory {
                    instance_type: key.instance_type.clone(),
                    zone: key.zone.clone(),
                    capacity_type: word(key.capacity_type),
                    allowed: window.allowed,
                    unanswered: window.unanswered,
                    asked_ms: window.asked.0,
                    succeeded_ms: window.succeeded.0,
                })
                .collect(),
            boots: boots
                .seen
                .iter()
                .map(|(key, seen)| BootMemory {
                    instance_type: key.instance_type.clone(),
                    zone: key.zone.clone(),
                    capacity_type: word(key.capacity_type),
                    last_ms: seen.last.0,
                    boots_ms: seen
                        .boots
                        .iter()
                        .map(|boot| [boot.agent.0, boot.ready.0, boot.allocatable.0])
                        .collect(),
                })
                .collect(),
        }
    }

    /// What was stored, as far as it still makes sense.
    pub fn recall(&self) -> (Capacity, Boots) {
        let mut capacity = Capacity::default();
        for stored in self.refused.iter().take(MOST_MARKS) {
            if let Some((scope, mark)) = stored.recall() {
                capacity.marks.insert(scope, mark);
            }
        }
        for stored in self.budgets.iter().take(MOST_WINDOWS) {
            if let Some(key) = key(&stored.instance_type, &stored.zone, &stored.capacity_type) {
                let window = Window {
                    allowed: stored.allowed.clamp(1, MOST_LAUNCHES),
                    unanswered: stored.unanswered,
                    asked: Millis(stored.asked_ms),
                    succeeded: Millis(stored.succeeded_ms),
                };
                capacity.windows.insert(key, window);
            }
        }
        let mut boots = Boots::default();
        for stored in self.boots.iter().take(MOST_BOOTS) {
            let Some(key) = key(&stored.instance_type, &stored.zone, &stored.capacity_type) else {
                continue;
            };
            let late = stored.boots_ms.len().saturating_sub(SAMPLES);
            for &[agent, ready, allocatable] in &stored.boots_ms[late..] {
                let boot = Boot {
                    agent: Millis(agent),
                    ready: Millis(ready),
                    allocatable: Millis(allocatable),
                };
                boots.observe(&key, boot, Millis(stored.last_ms));
            }
        }
        (capacity, boots)
    }
}

impl MarkMemory {
    fn recall(&self) -> Option<(Scope, Mark)> {
        let refusal = ALL.into_iter().find(|r| refusal_word(*r) == self.refusal)?;
        let capacity_type = match &self.capacity_type {
            Some(word) => Some(word.parse().ok()?),
            None => None,
        };
        let scope = Scope {
            instance_type: self.instance_type.clone(),
            zone: self.zone.clone(),
            capacity_type,
        };
        let limits = refusal.limits();
        let mark = Mark {
            refusal,
            why: self.why.chars().take(MOST_WHY).collect(),
            interval: Millis(self.interval_ms).clamp(limits.shortest, limits.longest),
            until: Millis(self.until_ms),
            state: if self.succeeded {
                MarkState::Succeeded
            } else {
                MarkState::Refused
            },
        };
        scope.is_remembered().then_some((scope, mark))
    }
}

const ALL: [Refusal; 4] = [
    Refusal::NoCapacity,
    Refusal::Quota,
    Refusal::NoAddresses,
    Refusal::NotSold,
];

fn refusal_word(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoCapacity => "no-capacity",
        Refusal::Quota => "quota",
        Refusal::NoAddresses => "no-addresses",
        Refusal::NotSold => "not-sold",
    }
}

fn key(instance_type: &str, zone: &str, capacity_type: &str) -> Option<OfferingKey> {
    let known = !instance_type.is_empty() && instance_type.len().max(zone.len()) <= MOST_NAME;
    Some(OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: zone.to_owned(),
        capacity_type: capacity_type.parse().ok()?,
    })
    .filter(|_| known)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::capacity::{Outcome, tests::key};

    #[test]
    fn what_is_stored_is_read_back_as_it_was() {
        let (mut capacity, mut boots) = (Capacity::default(), Boots::default());
        let now = Millis::from_secs(1_000);
        let g6 = key("g6.xlarge", "z1", CapacityType::Spot);
        let p5 = key("p5.48xlarge", "z2", CapacityType::OnDemand);
        capacity.record(&g6, &Outcome::Asked, now);
        capacity.record(&g6, &Outcome::Interrupted, now);
        capacity.record(&p5, &Outcome::Asked, now);
        capacity.record(&p5, &Outcome::Launched, now);
        boots.observe(
            &g6,
            Boot {
                agent: Millis(17_000),
                ready: Millis(26_000),
                allocatable: Millis(90_000),
            },
            now,
        );
        let memory = CapacityMemory::new(&capacity, &boots);
        assert_eq!(memory.recall(), (capacity, boots));
        expect![[r#"{"refused":[{"instanceType":"g6.xlarge","zone":"z1","capacityType":"spot","refusal":"no-capacity","why":"interrupted","intervalMs":180000,"untilMs":1180000,"succeeded":false}],"budgets":[{"instanceType":"g6.xlarge","zone":"z1","capacityType":"spot","allowed":1,"unanswered":1,"askedMs":1000000,"succeededMs":1000000},{"instanceType":"p5.48xlarge","zone":"z2","capacityType":"on-demand","allowed":2,"unanswered":0,"askedMs":1000000,"succeededMs":1000000}],"boots":[{"instanceType":"g6.xlarge","zone":"z1","capacityType":"spot","lastMs":1000000,"bootsMs":[[17000,26000,90000]]}]}"#]]
        .assert_eq(&serde_json::to_string(&memory).unwrap());
    }

    #[test]
    fn a_full_memory_fits_into_one_kubernetes_object() {
        let (mut capacity, mut boots) = (Capacity::default(), Boots::default());
        let now = Millis(1_700_000_000_000);
        for n in 0..3_000 {
            let key = key(
                &format!("g6e-{n:07}.metal"),
                "us-central1-a",
                CapacityType::OnDemand,
            );
            capacity.record(
                &key,
                &Outcome::Refused {
                    scope: Scope::offering(&key),
                    refusal: Refusal::NoCapacity,
                    why: "x".repeat(1_000),
                    until: None,
                },
                now,
            );
            let boot = Boot {
                agent: Millis(1_000_000),
                ready: Millis(1_000_000),
                allocatable: Millis(1_000_000),
            };
            for _ in 0..20 {
                boots.observe(&key, boot, now);
            }
        }
        let memory = CapacityMemory::new(&capacity, &boots);
        let bytes = serde_json::to_string(&memory).unwrap().len();
        assert!(bytes < 1 << 20, "{bytes}");
    }

    #[test]
    fn words_of_another_version_are_left_out() {
        let memory: CapacityMemory = serde_json::from_str(
            r#"{"refused": [{"refusal": "bored"}, {"refusal": "quota", "capacityType": "lent"},
                {"refusal": "quota", "zone": "z1", "intervalMs": 1, "untilMs": 99, "colour": 1}],
                "budgets": [{"instanceType": "a", "capacityType": "spot", "allowed": 4000000000}],
                "later": true}"#,
        )
        .unwrap();
        let (capacity, _) = memory.recall();
        assert_eq!(capacity.len(), (1, 1));
        assert_eq!(
            capacity.interval(&Scope::zone("z1"), Refusal::Quota),
            Refusal::Quota.limits().shortest
        );
    }

    proptest! {
        #[test]
        fn any_stored_numbers_are_read_without_harm(
            interval: u64, until: u64, succeeded: bool, allowed: u32, unanswered: u32, asked: u64,
            now: u64,
        ) {
            let memory = CapacityMemory {
                refused: vec![MarkMemory {
                    zone: Some("z1".to_owned()),
                    refusal: "no-capacity".to_owned(),
                    interval_ms: interval,
                    until_ms: until,
                    succeeded,
                    ..MarkMemory::default()
                }],
                budgets: vec![WindowMemory {
                    instance_type: "a".to_owned(),
                    zone: "z1".to_owned(),
                    capacity_type: "spot".to_owned(),
                    allowed,
                    unanswered,
                    asked_ms: asked,
                    succeeded_ms: asked,
                }],
                boots: Vec::new(),
            };
            let (mut capacity, _) = memory.recall();
            let a = key("a", "z1", CapacityType::Spot);
            capacity.record(&a, &Outcome::Asked, Millis(now));
            capacity.record(&a, &Outcome::Launched, Millis(now));
            let mut offerings = [crate::capacity::tests::offering(0, "z1", CapacityType::Spot)];
            let types = [crate::capacity::tests::instance_type("a")];
            capacity.apply(&types, &mut offerings, Millis(now));
            let longest = Refusal::NoCapacity.limits().longest;
            if let crate::offer::Availability::Until { until, .. } = &offerings[0].availability {
                prop_assert!(*until <= Millis(now) + longest);
            }
            prop_assert!(offerings[0].launch_budget <= Some(MOST_LAUNCHES));
        }
    }
}
