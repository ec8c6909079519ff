//! What a cache is worth when nodes are otherwise equal.

use super::*;

/// Equal empty nodes of which one may go.
fn one_of(nodes: &[&str]) -> World {
    let mut world = world();
    for node in nodes {
        world.node(node, "small");
    }
    world.pool().disruption.budgets = vec![Budget {
        reasons: Vec::new(),
        nodes: BudgetSize::Count(1),
    }];
    world
}

#[test]
fn of_equal_nodes_the_one_whose_cache_is_cheaper_to_rebuild_goes_first() {
    let mut world = one_of(&["a", "b"]);
    world.has("a", &[image(1), model(1)]);
    world.has("b", &[image(1)]);
    assert_eq!(world.retired(), ["b"]);
    assert_eq!(world.retire().retire[0].cache_bytes, 10 << 30);
}

#[test]
fn a_copy_that_only_this_node_has_counts_more_than_several_that_others_have_too() {
    let mut world = one_of(&["a", "b", "c"]);
    world.has("a", &[model(1)]);
    world.has("b", &[image(1), image(2), model(2)]);
    world.has("c", &[image(1), image(2), model(2), image(3)]);
    assert_eq!(world.retired(), ["b"]);
}

#[test]
fn when_one_of_two_copies_goes_the_other_has_become_the_last() {
    let mut world = one_of(&["a", "b", "c"]);
    world.pool().disruption.budgets[0].nodes = BudgetSize::Count(2);
    world.has("a", &[model(1)]);
    world.has("b", &[model(1)]);
    world.has("c", &[image(1), image(2), image(3)]);
    world.node("d", "large");
    world.pod("d", "d", 4000);
    world.has("d", &[image(1), image(2), image(3)]);
    assert_eq!(world.retired(), ["a", "c"]);
}

#[test]
fn a_copy_in_another_zone_or_in_a_stale_report_is_no_other_copy() {
    let mut world = one_of(&["a", "b"]);
    world.has("a", &[model(1)]);
    world.has("b", &[image(1), image(2)]);
    let far = world.node("far", "large");
    far.labels.insert(label::ZONE.to_owned(), "z2".to_owned());
    world.node("stale", "large");
    for node in ["far", "stale"] {
        world.has(node, &[model(1)]);
        world.pod(node, node, 7000);
    }
    world.has("stale", &[model(1)]).observed = Millis(0);
    let near = world.node("near", "large");
    near.disruption.forbidden = true;
    world.has("near", &[image(1), image(2)]);
    assert_eq!(world.retired(), ["b"]);
}

#[test]
fn what_costs_more_goes_first_whatever_its_cache() {
    let mut world = one_of(&["a"]);
    world.has("a", &[]);
    world.node("b", "large");
    world.has("b", &[model(1)]);
    assert_eq!(world.retired(), ["b"]);
}
