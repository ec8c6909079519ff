//! What forbids a removal: budgets, pods that may not move, nodes that somebody waits for.

use super::*;

fn budget(nodes: BudgetSize, reasons: &[DisruptionReason]) -> Budget {
    Budget {
        reasons: reasons.to_vec(),
        nodes,
    }
}

/// A node that is under-used, and one with room.
fn low_and_high() -> World {
    let mut world = world();
    world.node("high", "large");
    world.node("low", "large");
    world.pod("h", "high", 4000);
    world.pod("l", "low", 500);
    world
}

/// The pod on the under-used node.
fn low(world: &mut World) -> &mut Pod {
    &mut world.snapshot.pods[1]
}

#[test]
fn without_an_obstacle_it_goes() {
    assert_eq!(low_and_high().retired(), ["low"]);
}

// 98

#[test]
fn no_running_pod_becomes_pending() {
    let mut world = low_and_high();
    low(&mut world).shape.node_selector =
        Labels::from([(label::HOSTNAME.to_owned(), "low".to_owned())]);
    world.snapshot.offerings.clear();
    world.check(expect![[r#"
        high stays: Used { percent: 50, threshold: 20 }
        low stays: PodStuck { pod: ObjectKey { namespace: "ns", name: "l" }, why: NoCandidate { nodes: [Tally { rejection: Label { expression: Expression { key: "kubernetes.io/hostname", operator: In, values: ["low"] }, found: Some("high"), by: Pod }, count: 1, example: "high" }], offerings: [("p", [])] } }
    "#]]);
}

#[test]
fn no_anti_affinity_and_no_spread_is_violated_by_a_move() {
    let selector = Some(Term(vec![Expression::equals("app", "a")]));
    let mut world = low_and_high();
    world.snapshot.offerings.clear();
    low(&mut world).shape.anti_affinity = vec![PodTerm {
        topology_key: label::HOSTNAME.to_owned(),
        selector: selector.clone(),
        namespaces: crate::pod::Namespaces::All,
    }];
    assert!(matches!(world.kept("low"), Some(Kept::PodStuck { .. })));

    let mut world = low_and_high();
    world.node("third", "large").disruption.forbidden = true;
    world.pod("t", "third", 8000);
    world.snapshot.offerings.clear();
    let spread = Spread {
        topology_key: label::HOSTNAME.to_owned(),
        max_skew: 1,
        when: Unsatisfiable::DoNotSchedule,
        selector,
        min_domains: Some(3),
        node_affinity: NodePolicy::Honor,
        node_taints: NodePolicy::Ignore,
    };
    low(&mut world).shape.spread = vec![spread];
    assert!(matches!(world.kept("low"), Some(Kept::PodStuck { .. })));
}

#[test]
fn nothing_is_moved_onto_a_node_that_is_not_initialised() {
    for state in [
        NodeState::Starting { expected: NOW },
        NodeState::InFlight { expected: NOW },
        NodeState::Standby {
            boot: Boot::default(),
        },
        NodeState::Leaving,
    ] {
        let mut world = low_and_high();
        world.snapshot.offerings.clear();
        world.snapshot.nodes[0].state = state;
        assert!(matches!(world.kept("low"), Some(Kept::PodStuck { .. })));
    }
}

#[test]
fn what_the_plan_places_takes_its_room_before_anything_is_moved() {
    let mut world = low_and_high();
    world.waiting("w", 3800);
    world.snapshot.offerings.clear();
    let plan = crate::solve::plan(&world.snapshot, &world.policy);
    assert_eq!(plan.placements[0].target, Target::Node("high".to_owned()));
    assert!(matches!(world.kept("low"), Some(Kept::PodStuck { .. })));
}

// 99

#[test]
fn a_pod_budget_that_is_used_up_keeps_the_node() {
    let mut world = low_and_high();
    let budget = |name: &str, allowed| PodBudget {
        key: ObjectKey::new("ns", name),
        selector: Term(vec![Expression::equals("app", "a")]),
        allowed,
    };
    world.snapshot.pod_budgets = vec![budget("pdb", 0)];
    world.check(expect![[r#"
        high stays: Used { percent: 50, threshold: 20 }
        low stays: PodBudget { pod: ObjectKey { namespace: "ns", name: "l" }, budget: ObjectKey { namespace: "ns", name: "pdb" } }
    "#]]);
    world.snapshot.pod_budgets = vec![budget("pdb", 1)];
    assert_eq!(world.retired(), ["low"]);
    world.snapshot.pod_budgets.push(budget("second", 9));
    assert!(matches!(world.kept("low"), Some(Kept::PodBudget { .. })));
}

#[test]
fn pod_budgets_count_over_all_moves_of_the_round() {
    let mut world = low_and_high();
    world.node("low2", "large");
    world.pod("l2", "low2", 500);
    world.snapshot.pod_budgets = vec![PodBudget {
        key: ObjectKey::new("ns", "pdb"),
        selector: Term(Vec::new()),
        allowed: 1,
    }];
    assert_eq!(world.retired(), ["low"]);
    world.snapshot.pod_budgets[0].key.namespace = "other".to_owned();
    assert_eq!(world.retired(), ["low", "low2"]);
}

#[test]
fn a_pod_that_may_not_be_moved_or_would_not_come_back_keeps_its_node_whatever_the_reason() {
    for eviction in [Eviction::Forbidden, Eviction::Bare] {
        let mut world = low_and_high();
        low(&mut world).shape.eviction = eviction;
        let forbids = Some(Kept::PodForbids(ObjectKey::new("ns", "l")));
        assert_eq!(world.kept("low"), forbids);
        world.snapshot.nodes[1].disruption.drift = Some("image".to_owned());
        world.pool().disruption.expire_after = Some(Millis(1));
        assert_eq!(world.kept("low"), forbids);
    }
}

#[test]
fn an_annotation_on_the_node_keeps_it() {
    let mut world = low_and_high();
    world.snapshot.nodes[1].disruption.forbidden = true;
    assert_eq!(world.kept("low"), Some(Kept::NodeForbids));
}

#[test]
fn a_node_of_other_origin_or_of_a_pool_that_is_gone_is_not_ours_to_remove() {
    let mut world = low_and_high();
    world.snapshot.nodes[0].pool = None;
    world.snapshot.nodes[1].pool = Some("gone".to_owned());
    world.check(expect![[r#"
        high stays: Foreign
        low stays: Foreign
    "#]]);
}

// 100

#[test]
fn budgets_count_nodes_that_are_leaving_and_the_strictest_holds() {
    let mut world = world();
    for n in 0..9 {
        world.node(&format!("n{n}"), "small");
    }
    world.node("leaving", "small").state = NodeState::Leaving;
    let mut with = |budgets: Vec<Budget>| {
        world.pool().disruption.budgets = budgets;
        world.retired().len()
    };
    let (count, percent) = (BudgetSize::Count, BudgetSize::Percent);
    assert_eq!(with(vec![]), 9);
    assert_eq!(with(vec![budget(count(3), &[])]), 2);
    assert_eq!(with(vec![budget(count(1), &[])]), 0);
    assert_eq!(with(vec![budget(count(0), &[])]), 0);
    assert_eq!(with(vec![budget(percent(21), &[])]), 2, "2.1 of 10 is 3");
    assert_eq!(with(vec![budget(percent(100), &[])]), 9);
    assert_eq!(
        with(vec![budget(count(5), &[]), budget(percent(40), &[])]),
        3
    );
    let empty = [DisruptionReason::Empty];
    let drifted = [DisruptionReason::Drifted];
    assert_eq!(
        with(vec![budget(count(5), &empty), budget(count(0), &drifted)]),
        4
    );
}

#[test]
fn budgets_are_those_of_each_pool() {
    let mut world = world();
    let mut other = NodePool::new("q");
    other.disruption.budgets = vec![budget(BudgetSize::Count(0), &[])];
    world.snapshot.pools.push(other);
    world.node("p", "small");
    world.node("q", "small").pool = Some("q".to_owned());
    world.check(expect![[r#"
        p: Empty, saves 0.10 USD/h
        q stays: Budget { allowed: 0 }
    "#]]);
}

#[test]
fn a_budget_holds_across_reasons() {
    let mut world = low_and_high();
    world.node("empty", "small");
    world.node("drifted", "small").disruption.drift = Some("image".to_owned());
    world.pool().disruption.budgets = vec![budget(BudgetSize::Count(2), &[])];
    assert_eq!(world.retired(), ["drifted", "empty"]);
    assert_eq!(world.kept("low"), Some(Kept::Budget { allowed: 2 }));
}

// 102

#[test]
fn when_a_fifth_of_a_pool_is_gone_already_nothing_more_is_retired() {
    let mut world = world();
    world.pool().disruption = crate::pool::PoolDisruption::default();
    for n in 0..10 {
        let node = world.node(&format!("n{n}"), "small");
        if n < 2 {
            node.state = NodeState::Leaving;
        }
    }
    assert_eq!(world.retired(), [""; 0]);
}

// 103

#[test]
fn buffer_pods_hold_a_node_against_being_empty_or_under_used_but_not_against_drift() {
    let mut world = world();
    world.node("n", "small");
    let buffer = world.waiting("buffer", 1000);
    owned(buffer, BUFFER);
    let nominated = Some(Kept::Nominated(ObjectKey::new("ns", "buffer")));
    assert_eq!(world.kept("n"), nominated);
    world.pod("tiny", "n", 100);
    assert_eq!(world.kept("n"), nominated);
    world.snapshot.nodes[0].disruption.drift = Some("image".to_owned());
    world.check(expect![[r#"
        n: Drifted, saves 0.0000 USD/h
          buffer to New(0)
          tiny to New(0)
          buy small on-demand in z1 at 0.10 USD/h
    "#]]);
}

#[test]
fn buffer_pods_do_not_hold_a_node_against_a_cheaper_one() {
    let mut world = world();
    world.node("n", "large");
    owned(world.waiting("buffer", 1000), BUFFER);
    world.check(expect![[r#"
        n: Replaceable, saves 0.30 USD/h
          buffer to New(0)
          buy small on-demand in z1 at 0.10 USD/h
    "#]]);
}

// 114

#[test]
fn a_node_that_is_starting_or_on_its_way_is_kept_even_when_drifted() {
    for state in [
        NodeState::Starting { expected: NOW },
        NodeState::InFlight { expected: NOW },
    ] {
        let mut world = world();
        let node = world.node("n", "small");
        node.state = state;
        node.disruption.drift = Some("image".to_owned());
        assert_eq!(world.kept("n"), Some(Kept::Starting));
    }
}

#[test]
fn a_node_that_is_fetching_for_a_pod_that_waits_is_not_empty_until_its_deadline() {
    let mut world = world();
    let since = |seconds| Some(NOW - Millis::from_secs(seconds));
    world.node("n", "small").disruption.empty_since = since(600);
    world.has("n", &[]).fetching = vec![model(1)];
    assert_eq!(world.kept("n"), None, "nobody waits for it");
    let pod = world.waiting("gated", 64_000);
    pod.shape.items = vec![model(1)];
    assert_eq!(world.kept("n"), Some(Kept::Starting));
    world.snapshot.nodes[0].disruption.empty_since = since(1799);
    assert_eq!(world.kept("n"), Some(Kept::Starting));
    world.snapshot.nodes[0].disruption.empty_since = since(1800);
    assert_eq!(world.kept("n"), None, "stuck beyond its deadline");
}

#[test]
fn what_a_silent_agent_said_it_was_fetching_holds_nothing() {
    let mut world = world();
    world.node("n", "small");
    world.waiting("gated", 64_000).shape.items = vec![model(1)];
    let inventory = world.has("n", &[]);
    inventory.fetching = vec![model(1)];
    inventory.observed = NOW - Millis::from_secs(301);
    assert_eq!(world.kept("n"), None);
}

#[test]
fn a_node_with_a_pod_that_starts_is_kept() {
    let mut world = low_and_high();
    progress(low(&mut world), Progress::Starting);
    world.snapshot.nodes[1].disruption.drift = Some("image".to_owned());
    let starting = Kept::PodStarting(ObjectKey::new("ns", "l"));
    assert_eq!(world.kept("low"), Some(starting));
}

#[test]
fn a_node_that_a_waiting_pod_is_about_to_use_is_kept() {
    let mut world = world();
    world.node("n", "small");
    world.waiting("w", 1000);
    let nominated = Kept::Nominated(ObjectKey::new("ns", "w"));
    assert_eq!(world.kept("n"), Some(nominated));
}

// Groups

/// A group of two of `role`, each member on a node of its own.
fn gang(world: &mut World, nodes: &[&str]) {
    let key = ObjectKey::new("ns", "gang");
    world.snapshot.groups = vec![Group {
        key: key.clone(),
        minimum: BTreeMap::from([(String::new(), 2)]),
        sets: Default::default(),
        sharing: Default::default(),
        same: None,
    }];
    for node in nodes {
        let name = format!("g-{node}");
        world.pod(&name, node, 500).shape.group = Some(key.clone());
    }
}

#[test]
fn a_group_moves_whole() {
    let mut world = world();
    for node in ["a", "b", "room"] {
        world.node(node, "large");
    }
    world.pod("r", "room", 4000);
    gang(&mut world, &["a", "b"]);
    world.check(expect![[r#"
        a: Underused, saves 0.40 USD/h
          g-a to Node("room")
        b: Underused, saves 0.40 USD/h
          g-b to Node("room")
        room stays: Used { percent: 50, threshold: 20 }
    "#]]);
}

#[test]
fn a_group_of_which_a_member_must_stay_or_still_waits_does_not_move_at_all() {
    let mut world = world();
    for node in ["a", "b", "room"] {
        world.node(node, "large");
    }
    world.pod("r", "room", 4000);
    gang(&mut world, &["a", "b"]);
    let group = Some(Kept::Group(ObjectKey::new("ns", "gang")));
    let mut busy = world.clone();
    busy.pod("busy", "b", 4000);
    busy.snapshot.offerings.clear();
    assert_eq!(busy.kept("a"), group);
    let mut waits = world.clone();
    waits.snapshot.pods[2].phase = Phase::Pending;
    waits.snapshot.pods[2].shape.requests.set(CPU, 64_000);
    assert_eq!(waits.kept("a"), group);
    let mut narrow = world.clone();
    narrow.pool().disruption.budgets = vec![budget(BudgetSize::Count(1), &[])];
    assert_eq!(narrow.kept("a"), Some(Kept::Budget { allowed: 1 }));
    assert_eq!(narrow.kept("b"), Some(Kept::Budget { allowed: 1 }));
}

// Large clusters

#[test]
fn where_one_round_cannot_try_all_nodes_each_has_its_turn() {
    let mut world = world();
    for n in 0..5 {
        let name = format!("n{n}");
        world.node(&name, "small");
        world.pod(&name, &name, 100);
    }
    let plan = Plan::default();
    let (facts, _) = candidate::facts(&world.snapshot, &world.policy, &plan);
    let caches = Caches::new(&world.snapshot, &world.policy);
    let able: BTreeSet<&str> = facts.keys().copied().collect();
    let order = |most, seconds| {
        let (units, _) = unit::units(&facts, &able, &world.snapshot);
        let reason = DisruptionReason::Underused;
        let mut queue = unit::Queue::new(units, reason, &facts, &caches);
        queue.turn(most, Millis::from_secs(seconds));
        std::iter::from_fn(|| queue.next(&caches))
            .map(|unit| unit.nodes[0])
            .collect::<Vec<_>>()
    };
    assert_eq!(order(2, 0), ["n0", "n1", "n2", "n3", "n4"]);
    assert_eq!(order(2, 59), order(2, 0));
    assert_eq!(order(2, 60), ["n2", "n3", "n4", "n0", "n1"]);
    assert_eq!(order(2, 120), ["n4", "n0", "n1", "n2", "n3"]);
    assert_eq!(order(5, 60), order(2, 0), "all can be tried");
}

#[test]
fn when_most_nodes_are_under_used_their_pods_still_find_each_other() {
    let mut world = world();
    for n in 0..12 {
        let name = format!("n{n:02}");
        world.node(&name, "large");
        world.pod(&name, &name, 500);
    }
    let plan = world.retire();
    assert_eq!(plan.retire.len(), 11);
    assert_eq!(plan.kept.len(), 1);
}

#[test]
fn a_node_whose_replacement_is_on_its_way_uses_the_budget_and_takes_nothing() {
    let mut world = world();
    world.pool().disruption.budgets = vec![budget(BudgetSize::Count(1), &[])];
    for name in ["first", "second"] {
        world.node(name, "large").disruption.drift = Some("labels".to_owned());
    }
    assert_eq!(world.retired(), ["first"]);
    world.snapshot.nodes[0].disruption.replaced = true;
    assert_eq!(world.retired(), [""; 0]);
    assert_eq!(world.kept("second"), Some(Kept::Budget { allowed: 1 }));

    let mut world = low_and_high();
    world.snapshot.offerings.clear();
    world.snapshot.nodes[0].disruption.replaced = true;
    assert!(matches!(world.kept("low"), Some(Kept::PodStuck { .. })));
}

#[test]
fn a_pool_refuses_the_node_that_it_would_not_buy_any_more() {
    let mut world = world();
    let node = world.node("n", "large").clone();
    let kind = world.snapshot.types[2].clone();
    let pool = world.pool();
    assert_eq!(pool.refuses(&node, Some(&kind)), None);
    pool.wants.max_price = HourlyPrice::from_usd(0.3).ok();
    let Some(crate::reason::Rejection::Price { price, .. }) = pool.refuses(&node, Some(&kind))
    else {
        panic!("it costs 0.40");
    };
    assert_eq!(price, HourlyPrice::from_usd(0.4).unwrap());
    pool.wants.max_price = None;
    pool.requirements.push(crate::pool::PoolRequirement {
        expression: Expression::equals(label::ZONE, "z2"),
        min_values: None,
    });
    assert!(pool.refuses(&node, None).is_some());
}
