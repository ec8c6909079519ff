//! Something strictly cheaper.

use super::*;

// 95

#[test]
fn a_node_is_replaced_by_the_cheaper_one_that_still_takes_its_pods() {
    let mut world = world();
    world.node("n", "large");
    world.pod("a", "n", 1500);
    world.pod("b", "n", 1500);
    world.check(expect![[r#"
        n: Replaceable, saves 0.20 USD/h
          a to New(0)
          b to New(0)
          buy medium on-demand in z1 at 0.20 USD/h
    "#]]);
}

#[test]
fn a_node_is_not_replaced_by_one_of_the_same_price() {
    let mut world = world();
    world.sell("twin", 8, 0, CapacityType::OnDemand, 0.40);
    world.node("n", "large");
    world.pod("a", "n", 7000);
    world.check(expect![[r#"
        n stays: Cheapest
    "#]]);
}

#[test]
fn an_on_demand_node_is_replaced_by_spot_only_where_the_pool_allows_spot_and_by_nothing_else() {
    let mut world = world();
    world.sell("large", 8, 0, CapacityType::Spot, 0.15);
    world.node("n", "large");
    world.pod("a", "n", 7000);
    world.check(expect![[r#"
        n: Replaceable, saves 0.25 USD/h
          a to New(0)
          buy large spot in z1 at 0.15 USD/h
    "#]]);
    world.pool().wants.capacity_types = BTreeSet::from([CapacityType::OnDemand]);
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
}

#[test]
fn a_replacement_must_earn_what_the_move_costs() {
    let mut world = world();
    world.sell("almost", 8, 0, CapacityType::OnDemand, 0.395);
    world.node("n", "large");
    world.pod("a", "n", 7000);
    // Saves 0.005 an hour for an hour; the new node idles for a minute first: 0.007.
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
    world.pool().expected_life = Millis::from_secs(36_000);
    assert_eq!(world.kept("n"), None);
    world.pool().value_of_time = HourlyPrice::from_usd(10.0).unwrap();
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
}

#[test]
fn a_node_that_is_young_or_whose_pods_came_lately_is_not_replaced() {
    let mut world = world();
    world.node("n", "large").created = NOW - Millis::from_secs(299);
    world.pod("a", "n", 1700);
    assert!(matches!(world.kept("n"), Some(Kept::Used { .. })));
    world.snapshot.nodes[0].created = Millis(0);
    assert_eq!(world.kept("n"), None);
    world.snapshot.pods[0].created = NOW - Millis::from_secs(299);
    assert!(matches!(world.kept("n"), Some(Kept::Used { .. })));
}

#[test]
fn a_replacement_never_exceeds_a_limit_of_the_pool_while_both_are_there() {
    let mut world = world();
    world.node("n", "large");
    world.pod("a", "n", 1700);
    world.pool().limits.set(crate::pool::NODES, 1);
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
    world.pool().limits.set(crate::pool::NODES, 2);
    assert_eq!(world.kept("n"), None);
}

#[test]
fn a_replacement_keeps_within_the_launch_budget_that_the_plan_has_used() {
    let mut world = world();
    world.snapshot.offerings.retain(|o| o.instance_type == 0);
    for offering in &mut world.snapshot.offerings {
        offering.launch_budget = Some(1);
        offering.availability = match offering.zone.as_str() {
            "z1" => Availability::Available,
            _ => Availability::Never,
        };
    }
    world.snapshot.types.push(kind("sold-out", 8, 0));
    world.snapshot.offerings.push(Offering {
        instance_type: 4,
        price: HourlyPrice::from_usd(0.4).unwrap(),
        launch_budget: None,
        ..world.snapshot.offerings[0].clone()
    });
    world.node("n", "sold-out");
    world.pod("a", "n", 1700);
    assert_eq!(world.kept("n"), None);
    let pod = world.waiting("w", 1700);
    let elsewhere = Expression {
        key: label::HOSTNAME.to_owned(),
        operator: Operator::NotIn,
        values: vec!["n".to_owned()],
    };
    pod.shape.node_affinity = vec![Term(vec![elsewhere])];
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
}

// 96

/// A spot node, and `count` cheaper spot types of which each would do.
fn spot(count: usize, cores: i64) -> World {
    let mut world = world();
    world.snapshot.offerings.clear();
    world.sell("large", 8, 0, CapacityType::Spot, 0.40);
    for n in 0..count {
        let usd = 0.10 + 0.01 * n as f64;
        world.sell(&format!("spot{n:02}"), cores, 0, CapacityType::Spot, usd);
    }
    world.node_as("n", "large", CapacityType::Spot);
    world.pod("a", "n", 3500);
    world
}

#[test]
fn spot_is_replaced_by_cheaper_spot_only_with_enough_types_to_choose_from() {
    assert_eq!(spot(14, 4).kept("n"), Some(Kept::Cheapest));
    spot(15, 4).check(expect![[r#"
        n: Replaceable, saves 0.30 USD/h
          a to New(0)
          buy spot00 spot in z1 at 0.10 USD/h
    "#]]);
}

#[test]
fn cheaper_spot_types_that_are_too_small_do_not_count() {
    let mut world = spot(14, 4);
    for n in 0..30 {
        world.sell(&format!("tiny{n:02}"), 2, 0, CapacityType::Spot, 0.05);
    }
    assert_eq!(world.kept("n"), Some(Kept::Cheapest));
}

#[test]
fn spot_that_was_replaced_by_spot_is_not_replaced_again() {
    let mut world = spot(15, 4);
    let new = world.retire().retire[0].replacements[0].clone();
    let node = &mut world.snapshot.nodes[0];
    node.offering = Some(new.offering.clone());
    node.price = Some(new.price);
    node.allocatable = new.allocatable;
    assert!(world.kept("n").is_some());
}

// 97

#[test]
fn nodes_that_cannot_be_replaced_alone_are_merged_into_one_that_is_cheaper() {
    let mut world = world();
    world.snapshot.offerings.clear();
    world.sell("small", 2, 0, CapacityType::OnDemand, 0.10);
    world.sell("medium", 4, 0, CapacityType::OnDemand, 0.15);
    for n in 0..2 {
        world.node(&format!("n{n}"), "small");
        world.pod(&format!("a{n}"), &format!("n{n}"), 1500);
    }
    world.check(expect![[r#"
        n0: Replaceable, saves 0.0000 USD/h
          a0 to New(0)
          buy medium on-demand in z1 at 0.15 USD/h
        n1: Replaceable, saves 0.0500 USD/h
          a1 to New(0)
    "#]]);
}

#[test]
fn nodes_are_not_merged_when_one_costs_as_much_as_both() {
    let mut world = world();
    for n in 0..2 {
        world.node(&format!("n{n}"), "small");
        world.pod(&format!("a{n}"), &format!("n{n}"), 1500);
    }
    world.check(expect![[r#"
        n0 stays: Used { percent: 75, threshold: 20 }
        n1 stays: Used { percent: 75, threshold: 20 }
    "#]]);
}

#[test]
fn the_most_saved_per_pod_that_moves_goes_first() {
    let mut world = world();
    world.pool().disruption.budgets = vec![Budget {
        reasons: Vec::new(),
        nodes: BudgetSize::Count(1),
    }];
    world.node("many", "large");
    world.node("few", "large");
    for n in 0..4 {
        world.pod(&format!("m{n}"), "many", 450);
    }
    world.pod("f", "few", 1800);
    assert_eq!(world.retired(), ["few"]);
}
