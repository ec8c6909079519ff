//! How long nodes took to come up, by offering.
//!
//! The estimate is the median of the last [`SAMPLES`] boots: one node that hung does not move it,
//! and a change of image or driver is believed after five. Each of the three times is estimated by
//! itself, for not every boot reports all of them. Fewer than [`SAMPLES_NEEDED`] boots of an offering
//! are no estimate; then all boots of its type are taken together.

use std::collections::BTreeMap;

use crate::money::Millis;
use crate::offer::{Boot, InstanceType, OfferingKey};

/// How many boots of one offering are remembered.
pub const SAMPLES: usize = 9;

/// How many it takes for an estimate.
pub const SAMPLES_NEEDED: usize = 3;

/// Most offerings whose boots are remembered; the one that was observed longest ago is forgotten.
pub const MOST_BOOTS: usize = 512;

/// A boot that took longer says that something was broken, not how long boots take: launches are
/// given up long before.
const LONGEST: Millis = Millis::from_secs(3600);

/// Boots that were observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boots {
    pub(super) seen: BTreeMap<OfferingKey, Seen>,
}

/// The boots of one offering, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) last: Millis,
    pub(super) boots: Vec<Boot>,
}

impl Boots {
    /// Learns from one boot. A time of zero was not observed; one over an hour is left out.
    pub fn observe(&mut self, offering: &OfferingKey, boot: Boot, now: Millis) {
        let believed = |time: Millis| if time > LONGEST { Millis(0) } else { time };
        let boot = Boot {
            agent: believed(boot.agent),
            ready: believed(boot.ready),
            allocatable: believed(boot.allocatable),
        };
        let names = offering.instance_type.len().max(offering.zone.len());
        if boot == Boot::default() || names > super::MOST_NAME {
            return;
        }
        let seen = self.seen.entry(offering.clone()).or_default();
        seen.last = now;
        seen.boots.push(boot);
        if seen.boots.len() > SAMPLES {
            seen.boots.remove(0);
        }
        if self.seen.len() > MOST_BOOTS
            && let Some(oldest) = self
                .seen
                .iter()
                .min_by_key(|(_, seen)| seen.last)
                .map(|(key, _)| key.clone())
        {
            self.seen.remove(&oldest);
        }
    }

    /// How long `offering` takes to come up, if enough was seen of it, or else of its type. A time
    /// that was never observed is zero.
    pub fn of(&self, offering: &OfferingKey) -> Option<Boot> {
        let own = self.seen.get(offering).map(|seen| estimate(&seen.boots));
        own.flatten()
            .or_else(|| self.of_type(&offering.instance_type))
    }

    /// How long instances of a type take to come up, wherever they were bought.
    pub fn of_type(&self, instance_type: &str) -> Option<Boot> {
        let boots: Vec<Boot> = self
            .seen
            .iter()
            .filter(|(key, _)| key.instance_type == instance_type)
            .flat_map(|(_, seen)| seen.boots.iter().copied())
            .collect();
        estimate(&boots)
    }

    /// Fills in [`InstanceType::boot`] where enough was seen. What was not seen stays as it is.
    pub fn apply(&self, types: &mut [InstanceType]) {
        let mut by_type: BTreeMap<&str, Vec<Boot>> = BTreeMap::new();
        for (key, seen) in &self.seen {
            let boots = by_type.entry(&key.instance_type).or_default();
            boots.extend(&seen.boots);
        }
        for instance_type in types {
            let seen = by_type.get(instance_type.name.as_str());
            if let Some(learned) = seen.and_then(|boots| estimate(boots)) {
                let boot = &mut instance_type.boot;
                let known = |learned, before| {
                    if learned == Millis(0) {
                        before
                    } else {
                        learned
                    }
                };
                boot.agent = known(learned.agent, boot.agent);
                boot.ready = known(learned.ready, boot.ready);
                boot.allocatable = known(learned.allocatable, boot.allocatable).max(boot.ready);
            }
        }
    }
}

/// The median of each time, over the boots in which it was observed.
fn estimate(boots: &[Boot]) -> Option<Boot> {
    let median = |part: fn(&Boot) -> Millis| {
        let mut times: Vec<Millis> = boots.iter().map(part).filter(|t| t.0 > 0).collect();
        times.sort_unstable();
        if times.len() < SAMPLES_NEEDED {
            return Millis(0);
        }
        let middle = times.len() / 2;
        if times.len() % 2 == 1 {
            times[middle]
        } else {
            Millis(u64::midpoint(times[middle - 1].0, times[middle].0))
        }
    };
    let ready = median(|boot| boot.ready);
    let allocatable = median(|boot| boot.allocatable);
    let boot = Boot {
        agent: median(|boot| boot.agent),
        ready,
        // Medians of different boots need not be in order; these two times always are.
        allocatable: if allocatable == Millis(0) {
            allocatable
        } else {
            allocatable.max(ready)
        },
    };
    (boot != Boot::default()).then_some(boot)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offer::CapacityType;

    fn key(zone: &str) -> OfferingKey {
        OfferingKey {
            instance_type: "g6.xlarge".to_owned(),
            zone: zone.to_owned(),
            capacity_type: CapacityType::Spot,
        }
    }

    fn boot(agent: u64, ready: u64, allocatable: u64) -> Boot {
        Boot {
            agent: Millis(agent),
            ready: Millis(ready),
            allocatable: Millis(allocatable),
        }
    }

    fn seen(zone: &str, boots: &[Boot]) -> Boots {
        let mut all = Boots::default();
        for (index, boot) in boots.iter().enumerate() {
            all.observe(&key(zone), *boot, Millis(index as u64));
        }
        all
    }

    #[test]
    fn one_node_that_hung_does_not_move_the_estimate() {
        let usual = boot(17_000, 26_000, 90_000);
        let hung = boot(17_000, 900_000, 3_000_000);
        let boots = seen("z1", &[usual, hung, usual, usual]);
        assert_eq!(boots.of(&key("z1")), Some(usual));
    }

    #[test]
    fn a_lasting_change_is_believed_after_five_boots() {
        let (before, after) = (boot(1, 2, 90_000), boot(1, 2, 40_000));
        let mut boots = seen("z1", &[before; SAMPLES]);
        for n in 0..5 {
            assert_eq!(boots.of(&key("z1")), Some(before), "after {n}");
            boots.observe(&key("z1"), after, Millis(100 + n));
        }
        assert_eq!(boots.of(&key("z1")), Some(after));
    }

    #[test]
    fn two_boots_are_no_estimate_but_those_of_another_zone_help() {
        let mut boots = seen("z1", &[boot(1, 2, 3), boot(1, 2, 3)]);
        assert_eq!(boots.of(&key("z1")), None);
        boots.observe(&key("z2"), boot(1, 2, 9), Millis(9));
        assert_eq!(boots.of(&key("z1")), Some(boot(1, 2, 3)));
    }

    #[test]
    fn a_time_that_nobody_saw_stays_what_the_catalog_says() {
        let mut types = [crate::capacity::tests::instance_type("g6.xlarge")];
        types[0].boot = boot(19_000, 26_000, 90_000);
        seen("z1", &[boot(0, 20_000, 50_000); 3]).apply(&mut types);
        assert_eq!(types[0].boot, boot(19_000, 20_000, 50_000));
        let once = types[0].boot;
        seen("z1", &[boot(0, 20_000, 50_000); 3]).apply(&mut types);
        assert_eq!(types[0].boot, once);
    }

    #[test]
    fn absurd_times_are_no_observation() {
        let boots = seen("z1", &[boot(u64::MAX, 4_000_000, 3_600_001); 9]);
        assert_eq!(boots, Boots::default());
    }

    proptest! {
        #[test]
        fn the_estimate_lies_within_what_was_seen_and_memory_is_bounded(
            times in prop::collection::vec((0_u64..5_000_000, 0_u64..5_000_000, 0_u64..600), 0..700),
        ) {
            let mut boots = Boots::default();
            for (index, (ready, allocatable, zone)) in times.iter().enumerate() {
                let boot = boot(1, *ready, *allocatable);
                boots.observe(&key(&format!("z{zone}")), boot, Millis(index as u64));
            }
            prop_assert!(boots.seen.len() <= MOST_BOOTS);
            prop_assert!(boots.seen.values().all(|seen| seen.boots.len() <= SAMPLES));
            if let Some(estimate) = boots.of(&key("z1")) {
                prop_assert!(estimate.ready <= LONGEST && estimate.allocatable <= LONGEST);
                prop_assert!(estimate.allocatable.0 == 0 || estimate.allocatable >= estimate.ready);
            }
        }
    }
}
