use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::amount::Resources;
use crate::label::Labels;
use crate::money::HourlyPrice;
use crate::offer::{Arch, Boot, Rates};

pub(super) fn key(instance_type: &str, zone: &str, capacity_type: CapacityType) -> OfferingKey {
    OfferingKey {
        instance_type: instance_type.to_owned(),
        zone: zone.to_owned(),
        capacity_type,
    }
}

pub(super) fn instance_type(name: &str) -> InstanceType {
    InstanceType {
        name: name.to_owned(),
        family: "g6".to_owned(),
        arch: Arch::Amd64,
        capacity: Resources::new(),
        overhead: Resources::new(),
        gpu: None,
        rates: Rates::default(),
        local_nvme: 0,
        boot: Boot::default(),
        labels: Labels::new(),
    }
}

pub(super) fn offering(instance_type: usize, zone: &str, capacity_type: CapacityType) -> Offering {
    Offering {
        instance_type,
        zone: zone.to_owned(),
        capacity_type,
        price: HourlyPrice(800_000),
        interruptions_per_million_h: 0,
        availability: Availability::Available,
        launch_budget: None,
    }
}

fn at(seconds: u64) -> Millis {
    Millis::from_secs(1_000_000 + seconds)
}

fn refused(scope: Scope, refusal: Refusal) -> Outcome {
    Outcome::Refused {
        scope,
        refusal,
        why: "InsufficientInstanceCapacity".to_owned(),
        until: None,
    }
}

fn exhausted(key: &OfferingKey) -> Outcome {
    refused(Scope::offering(key), Refusal::NoCapacity)
}

/// Spot and on-demand of two types in two zones.
fn market() -> ([InstanceType; 2], Vec<Offering>) {
    let mut offerings = Vec::new();
    for index in 0..2 {
        for zone in ["z1", "z2"] {
            for capacity_type in [CapacityType::Spot, CapacityType::OnDemand] {
                offerings.push(offering(index, zone, capacity_type));
            }
        }
    }
    (
        [instance_type("g6.xlarge"), instance_type("g6.12xlarge")],
        offerings,
    )
}

/// What can be bought, one line per offering.
fn seen(capacity: &Capacity, now: Millis) -> String {
    let (types, mut offerings) = market();
    capacity.apply(&types, &mut offerings, now);
    let mut lines = String::new();
    for offering in &offerings {
        let name = &types[offering.instance_type].name;
        let state = match &offering.availability {
            Availability::Available => "available".to_owned(),
            Availability::Until { until, why } => {
                format!("{why} for {}", Millis(until.0 - now.0))
            }
            Availability::Never => "never".to_owned(),
        };
        let budget = offering.launch_budget.unwrap();
        lines += &format!(
            "{name} {} {}: {state}, {budget}\n",
            offering.capacity_type, offering.zone
        );
    }
    lines
}

/// Launches of `key` that may be asked for now.
fn allowed(capacity: &Capacity, key: &OfferingKey, now: Millis) -> u32 {
    let types = [instance_type(&key.instance_type)];
    let mut offerings = [offering(0, &key.zone, key.capacity_type)];
    capacity.apply(&types, &mut offerings, now);
    match offerings[0].availability {
        Availability::Available => offerings[0].launch_budget.unwrap(),
        _ => 0,
    }
}

fn launch(capacity: &mut Capacity, key: &OfferingKey, outcome: &Outcome, now: Millis) {
    capacity.record(key, &Outcome::Asked, now);
    capacity.record(key, outcome, now);
}

fn g6() -> OfferingKey {
    key("g6.xlarge", "z1", CapacityType::Spot)
}

#[test]
fn a_second_attempt_avoids_exactly_what_was_refused() {
    let mut capacity = Capacity::default();
    launch(&mut capacity, &g6(), &exhausted(&g6()), at(0));
    expect![[r"
        g6.xlarge spot z1: InsufficientInstanceCapacity for 170 s, 1
        g6.xlarge on-demand z1: available, 1
        g6.xlarge spot z2: available, 1
        g6.xlarge on-demand z2: available, 1
        g6.12xlarge spot z1: available, 1
        g6.12xlarge on-demand z1: available, 1
        g6.12xlarge spot z2: available, 1
        g6.12xlarge on-demand z2: available, 1
    "]]
    .assert_eq(&seen(&capacity, at(10)));
}

#[test]
fn a_zone_a_capacity_type_and_a_type_can_be_refused_as_a_whole() {
    let mut capacity = Capacity::default();
    let on_demand = key("g6.12xlarge", "z2", CapacityType::OnDemand);
    for (key, scope, refusal) in [
        (g6(), Scope::zone("z1"), Refusal::NoAddresses),
        (
            g6(),
            Scope::capacity_type(CapacityType::Spot),
            Refusal::Quota,
        ),
        (
            on_demand,
            Scope::instance_type("g6.12xlarge"),
            Refusal::NotSold,
        ),
    ] {
        launch(&mut capacity, &key, &refused(scope, refusal), at(0));
    }
    expect![[r"
        g6.xlarge spot z1: InsufficientInstanceCapacity for 600 s, 1
        g6.xlarge on-demand z1: InsufficientInstanceCapacity for 30 s, 1
        g6.xlarge spot z2: InsufficientInstanceCapacity for 600 s, 1
        g6.xlarge on-demand z2: available, 1
        g6.12xlarge spot z1: InsufficientInstanceCapacity for 3600 s, 1
        g6.12xlarge on-demand z1: InsufficientInstanceCapacity for 3600 s, 1
        g6.12xlarge spot z2: InsufficientInstanceCapacity for 3600 s, 1
        g6.12xlarge on-demand z2: InsufficientInstanceCapacity for 3600 s, 1
    "]]
    .assert_eq(&seen(&capacity, at(0)));
}

#[test]
fn an_answer_that_does_not_cover_what_was_asked_marks_only_what_was_asked() {
    let mut capacity = Capacity::default();
    let elsewhere = refused(Scope::zone("z2"), Refusal::NoCapacity);
    launch(&mut capacity, &g6(), &elsewhere, at(0));
    assert_eq!(allowed(&capacity, &g6(), at(1)), 0);
    let other = key("g6.xlarge", "z2", CapacityType::Spot);
    assert_eq!(allowed(&capacity, &other, at(1)), 1);
}

#[test]
fn marking_again_extends_the_mark_and_many_refusals_at_once_teach_one_lesson() {
    let mut capacity = Capacity::default();
    for seconds in [0, 0, 0, 100] {
        capacity.record(&g6(), &exhausted(&g6()), at(seconds));
    }
    assert_eq!(allowed(&capacity, &g6(), at(279)), 0);
    assert_eq!(allowed(&capacity, &g6(), at(280)), 1);
    let scope = Scope::offering(&g6());
    let start = Refusal::NoCapacity.limits().start;
    assert_eq!(capacity.interval(&scope, Refusal::NoCapacity), start);
}

#[test]
fn a_mark_expires() {
    let mut capacity = Capacity::default();
    launch(&mut capacity, &g6(), &exhausted(&g6()), at(0));
    assert_eq!(allowed(&capacity, &g6(), at(179)), 0);
    assert_eq!(allowed(&capacity, &g6(), at(180)), 1);
}

fn over_quota() -> Outcome {
    Outcome::Refused {
        scope: Scope::offering(&g6()),
        refusal: Refusal::Quota,
        why: "VcpuLimitExceeded".to_owned(),
        until: None,
    }
}

#[test]
fn no_capacity_is_asked_about_again_after_three_minutes_however_long_there_is_none() {
    let mut capacity = Capacity::default();
    let mut now = at(0);
    for _ in 0..20 {
        launch(&mut capacity, &g6(), &exhausted(&g6()), now);
        let interval = capacity.interval(&Scope::offering(&g6()), Refusal::NoCapacity);
        assert_eq!(interval, Millis::from_secs(180));
        now = now + interval;
    }
}

#[test]
fn the_interval_doubles_while_the_cloud_keeps_refusing_and_halves_when_it_gives() {
    let mut capacity = Capacity::default();
    let scope = Scope::offering(&g6());
    let mut now = at(0);
    let mut intervals = Vec::new();
    for outcome in [
        over_quota(),
        over_quota(),
        over_quota(),
        over_quota(),
        over_quota(),
        over_quota(),
        Outcome::Launched,
        over_quota(),
        Outcome::Launched,
        over_quota(),
    ] {
        launch(&mut capacity, &g6(), &outcome, now);
        let interval = capacity.interval(&scope, Refusal::Quota);
        intervals.push(interval.0 / 1000);
        now = now + interval;
    }
    let expected = [600, 1200, 2400, 3600, 3600, 3600, 1800, 1800, 900, 900];
    assert_eq!(intervals, expected);
}

#[test]
fn a_lesson_is_forgotten_after_a_day() {
    let mut capacity = Capacity::default();
    let scope = Scope::offering(&g6());
    launch(&mut capacity, &g6(), &over_quota(), at(0));
    launch(&mut capacity, &g6(), &over_quota(), at(600));
    let interval = |capacity: &Capacity| capacity.interval(&scope, Refusal::Quota).0 / 1000;
    assert_eq!(interval(&capacity), 1200);
    launch(&mut capacity, &g6(), &over_quota(), at(2 * 86_400));
    assert_eq!(interval(&capacity), 600);
}

#[test]
fn the_cloud_may_say_until_when_within_limits() {
    let mut capacity = Capacity::default();
    let mut until = |until| {
        let outcome = Outcome::Refused {
            scope: Scope::offering(&g6()),
            refusal: Refusal::Quota,
            why: String::new(),
            until: Some(until),
        };
        launch(&mut capacity, &g6(), &outcome, at(0));
        let marks: Vec<_> = capacity.marks.values().map(|m| m.until).collect();
        marks[0]
    };
    assert_eq!(until(at(5)), at(600), "never sooner than learned");
    assert_eq!(until(at(700)), at(700));
    assert_eq!(until(Millis(u64::MAX)), at(3600), "never beyond the limit");
}

#[test]
fn throttling_and_other_failures_never_mark_capacity_unavailable() {
    let mut capacity = Capacity::default();
    for outcome in [Outcome::Throttled, Outcome::Failed] {
        for _ in 0..100 {
            launch(&mut capacity, &g6(), &outcome, at(0));
        }
    }
    assert_eq!(capacity.len().0, 0);
    assert_eq!(allowed(&capacity, &g6(), at(0)), 1);
}

#[test]
fn an_interruption_says_the_same_as_a_refusal() {
    let mut capacity = Capacity::default();
    capacity.record(&g6(), &Outcome::Interrupted, at(0));
    assert_eq!(allowed(&capacity, &g6(), at(179)), 0);
    assert_eq!(allowed(&capacity, &g6(), at(180)), 1);
}

#[test]
fn the_budget_doubles_with_every_window_that_succeeds_and_is_one_after_a_refusal() {
    let mut capacity = Capacity::default();
    let mut budgets = Vec::new();
    for second in 0..8 {
        let budget = allowed(&capacity, &g6(), at(second));
        budgets.push(budget);
        for _ in 0..budget {
            capacity.record(&g6(), &Outcome::Asked, at(second));
        }
        assert_eq!(
            allowed(&capacity, &g6(), at(second)),
            0,
            "all are under way"
        );
        for _ in 0..budget {
            capacity.record(&g6(), &Outcome::Launched, at(second));
        }
    }
    assert_eq!(budgets, [1, 2, 4, 8, 16, 32, 64, 64]);
    launch(&mut capacity, &g6(), &exhausted(&g6()), at(10));
    assert_eq!(allowed(&capacity, &g6(), at(190)), 1);
}

#[test]
fn a_budget_that_was_earned_long_ago_is_one_again() {
    let mut capacity = Capacity::default();
    for second in 0..8 {
        launch(&mut capacity, &g6(), &Outcome::Launched, at(second));
    }
    assert_eq!(allowed(&capacity, &g6(), at(600)), 9);
    assert_eq!(allowed(&capacity, &g6(), at(608)), 1);
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for_longer_than_a_probe_interval() {
    let mut capacity = Capacity::default();
    capacity.record(&g6(), &Outcome::Asked, at(0));
    assert_eq!(allowed(&capacity, &g6(), at(29)), 0);
    assert_eq!(allowed(&capacity, &g6(), at(30)), 1);
}

#[test]
fn what_is_never_sold_stays_so_and_an_offering_of_no_known_type_is_not_sold() {
    let types = [instance_type("g6.xlarge")];
    let mut offerings = [
        offering(0, "z1", CapacityType::Spot),
        offering(7, "z1", CapacityType::Spot),
    ];
    offerings[0].availability = Availability::Never;
    Capacity::default().apply(&types, &mut offerings, at(0));
    assert!(
        offerings
            .iter()
            .all(|offering| offering.availability == Availability::Never)
    );
}

#[test]
fn memory_is_bounded_and_what_is_forgotten_has_run_out() {
    let mut capacity = Capacity::default();
    let old = key("old", "z1", CapacityType::Spot);
    launch(&mut capacity, &old, &exhausted(&old), at(0));
    for n in 0..MOST_MARKS {
        let key = key(&format!("t{n}"), "z1", CapacityType::Spot);
        launch(&mut capacity, &key, &exhausted(&key), at(1_000));
    }
    assert_eq!(capacity.len(), (MOST_MARKS, MOST_WINDOWS));
    assert!(!capacity.marks.contains_key(&Scope::offering(&old)));
    let long = key(&"x".repeat(64), "z1", CapacityType::Spot);
    let before = capacity.clone();
    launch(&mut capacity, &long, &exhausted(&long), at(1_000));
    assert_eq!(capacity, before);
}

/// One step of a storm: how long after the one before, how many launches are wanted, and how the
/// cloud answers while it has capacity.
type Step = (u64, u32);

/// Plays `steps` against a cloud that has no `g6` between two moments (in seconds). Returns the
/// moments of its calls for `g6`, and how many times another offering could not be asked.
fn storm(capacity: &mut Capacity, steps: &[Step], outage: std::ops::Range<u64>) -> (Vec<u64>, u32) {
    let other = key("g6.xlarge", "z2", CapacityType::Spot);
    let (mut second, mut calls, mut delayed) = (0, Vec::new(), 0);
    for (pause, wanted) in steps {
        second += pause;
        let now = at(second);
        let outcome = if outage.contains(&second) {
            exhausted(&g6())
        } else {
            Outcome::Launched
        };
        let asked = allowed(capacity, &g6(), now).min(*wanted);
        for _ in 0..asked {
            capacity.record(&g6(), &Outcome::Asked, now);
            calls.push(second);
        }
        for _ in 0..asked {
            capacity.record(&g6(), &outcome, now);
        }
        if allowed(capacity, &other, now) == 0 {
            delayed += 1;
        }
        launch(capacity, &other, &Outcome::Launched, now);
    }
    (calls, delayed)
}

proptest! {
    #[test]
    fn a_storm_during_an_outage_makes_few_calls_and_delays_no_other_offering(
        before in 0_u64..100,
        steps in prop::collection::vec((0_u64..60, 0_u32..1000), 1..300),
    ) {
        let mut capacity = Capacity::default();
        for _ in 0..before {
            launch(&mut capacity, &g6(), &Outcome::Launched, at(0));
        }
        let at_first = u64::from(allowed(&capacity, &g6(), at(0)));
        let outage: u64 = steps.iter().map(|step| step.0).sum();
        let (calls, delayed) = storm(&mut capacity, &steps, 0..u64::MAX);
        let most = outage * 1000 / PROBE_INTERVAL.0 + at_first;
        prop_assert!(calls.len() as u64 <= most, "{} calls, {most} allowed", calls.len());
        prop_assert_eq!(delayed, 0);
    }

    #[test]
    fn capacity_that_returns_is_used_within_one_probe_interval(
        steps in prop::collection::vec((0_u64..60, 1_u32..10), 1..300),
        outage in 1_u64..6_000,
    ) {
        let mut capacity = Capacity::default();
        let (calls, _) = storm(&mut capacity, &steps, 0..outage);
        let scope = Scope::offering(&g6());
        // From the end of the outage on, with somebody waiting all the time.
        let mut second = outage.max(steps.iter().map(|step| step.0).sum());
        let interval = capacity.interval(&scope, Refusal::NoCapacity).0 / 1000;
        let last = calls.iter().copied().filter(|call| *call < outage).max().unwrap_or(0);
        while allowed(&capacity, &g6(), at(second)) == 0 {
            second += 1;
        }
        prop_assert!(second <= outage.max(steps.iter().map(|step| step.0).sum()).max(last + interval));
        prop_assert!(interval <= Refusal::NoCapacity.limits().longest.0 / 1000);
    }

    #[test]
    fn applying_twice_or_in_another_order_changes_nothing(
        events in prop::collection::vec((0_usize..4, 0_usize..6, 0_u64..2_000), 0..60),
        now in 0_u64..4_000,
    ) {
        let mut capacity = Capacity::default();
        let scopes = [Scope::zone("z1"), Scope::capacity_type(CapacityType::Spot), Scope::default()];
        for (index, outcome, second) in events {
            let key = key(
                ["g6.xlarge", "g6.12xlarge"][index % 2],
                ["z1", "z2"][index / 2],
                CapacityType::Spot,
            );
            let outcome = match outcome {
                0 => Outcome::Launched,
                1 => Outcome::Throttled,
                2 => Outcome::Interrupted,
                n => refused(scopes[n - 3].clone(), Refusal::Quota),
            };
            launch(&mut capacity, &key, &outcome, at(second));
        }
        let (types, mut offerings) = market();
        capacity.apply(&types, &mut offerings, at(now));
        let once = offerings.clone();
        capacity.apply(&types, &mut offerings, at(now));
        prop_assert_eq!(&once, &offerings);
        offerings.reverse();
        capacity.apply(&types, &mut offerings, at(now));
        offerings.reverse();
        prop_assert_eq!(once, offerings);
    }
}
