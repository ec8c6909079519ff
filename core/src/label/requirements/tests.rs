use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::label::{CAPACITY_TYPE, HOSTNAME, INSTANCE_TYPE, ZONE};

fn expression(key: &str, operator: Operator, values: &[&str]) -> Expression {
    Expression {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    }
}

fn asks(operator: Operator, values: &[&str]) -> Requirement {
    Requirement::new(&expression("k", operator, values), None).expect("a valid condition")
}

fn shown(requirement: &Requirement) -> String {
    list(&requirement.expressions()).to_string()
}

/// One of each operator, on values that meet and miss each other.
fn each() -> Vec<Requirement> {
    vec![
        asks(Operator::In, &["1", "5", "x"]),
        asks(Operator::NotIn, &["5", "y"]),
        asks(Operator::Exists, &[]),
        asks(Operator::DoesNotExist, &[]),
        asks(Operator::Gt, &["2"]),
        asks(Operator::Lt, &["7"]),
        asks(Operator::Gte, &["5"]),
        asks(Operator::Lte, &["1"]),
    ]
}

/// Behaviour 1.
#[test]
fn every_pair_of_operators_intersects_to_the_documented_result() {
    let mut table = String::new();
    for one in each() {
        for other in each() {
            let both = one.intersect(&other);
            assert_eq!(both, other.intersect(&one));
            let line = format!(
                "{:18} & {:18} = {}\n",
                shown(&one),
                shown(&other),
                shown(&both)
            );
            table.push_str(&line);
        }
    }
    expect![[r#"
        In 1, 5, x         & In 1, 5, x         = In 1, 5, x
        In 1, 5, x         & NotIn 5, y         = In 1, x
        In 1, 5, x         & Exists             = In 1, 5, x
        In 1, 5, x         & DoesNotExist       = DoesNotExist
        In 1, 5, x         & Gte 3              = In 5
        In 1, 5, x         & Lte 6              = In 1, 5
        In 1, 5, x         & Gte 5              = In 5
        In 1, 5, x         & Lte 1              = In 1
        NotIn 5, y         & In 1, 5, x         = In 1, x
        NotIn 5, y         & NotIn 5, y         = NotIn 5, y
        NotIn 5, y         & Exists             = NotIn 5, y
        NotIn 5, y         & DoesNotExist       = DoesNotExist
        NotIn 5, y         & Gte 3              = Gte 3 and NotIn 5, y
        NotIn 5, y         & Lte 6              = Lte 6 and NotIn 5, y
        NotIn 5, y         & Gte 5              = Gte 5 and NotIn 5, y
        NotIn 5, y         & Lte 1              = Lte 1 and NotIn 5, y
        Exists             & In 1, 5, x         = In 1, 5, x
        Exists             & NotIn 5, y         = NotIn 5, y
        Exists             & Exists             = Exists
        Exists             & DoesNotExist       = DoesNotExist
        Exists             & Gte 3              = Gte 3
        Exists             & Lte 6              = Lte 6
        Exists             & Gte 5              = Gte 5
        Exists             & Lte 1              = Lte 1
        DoesNotExist       & In 1, 5, x         = DoesNotExist
        DoesNotExist       & NotIn 5, y         = DoesNotExist
        DoesNotExist       & Exists             = DoesNotExist
        DoesNotExist       & DoesNotExist       = DoesNotExist
        DoesNotExist       & Gte 3              = DoesNotExist
        DoesNotExist       & Lte 6              = DoesNotExist
        DoesNotExist       & Gte 5              = DoesNotExist
        DoesNotExist       & Lte 1              = DoesNotExist
        Gte 3              & In 1, 5, x         = In 5
        Gte 3              & NotIn 5, y         = Gte 3 and NotIn 5, y
        Gte 3              & Exists             = Gte 3
        Gte 3              & DoesNotExist       = DoesNotExist
        Gte 3              & Gte 3              = Gte 3
        Gte 3              & Lte 6              = Gte 3 and Lte 6
        Gte 3              & Gte 5              = Gte 5
        Gte 3              & Lte 1              = DoesNotExist
        Lte 6              & In 1, 5, x         = In 1, 5
        Lte 6              & NotIn 5, y         = Lte 6 and NotIn 5, y
        Lte 6              & Exists             = Lte 6
        Lte 6              & DoesNotExist       = DoesNotExist
        Lte 6              & Gte 3              = Gte 3 and Lte 6
        Lte 6              & Lte 6              = Lte 6
        Lte 6              & Gte 5              = Gte 5 and Lte 6
        Lte 6              & Lte 1              = Lte 1
        Gte 5              & In 1, 5, x         = In 5
        Gte 5              & NotIn 5, y         = Gte 5 and NotIn 5, y
        Gte 5              & Exists             = Gte 5
        Gte 5              & DoesNotExist       = DoesNotExist
        Gte 5              & Gte 3              = Gte 5
        Gte 5              & Lte 6              = Gte 5 and Lte 6
        Gte 5              & Gte 5              = Gte 5
        Gte 5              & Lte 1              = DoesNotExist
        Lte 1              & In 1, 5, x         = In 1
        Lte 1              & NotIn 5, y         = Lte 1 and NotIn 5, y
        Lte 1              & Exists             = Lte 1
        Lte 1              & DoesNotExist       = DoesNotExist
        Lte 1              & Gte 3              = DoesNotExist
        Lte 1              & Lte 6              = Lte 1
        Lte 1              & Gte 5              = DoesNotExist
        Lte 1              & Lte 1              = Lte 1
    "#]]
    .assert_eq(&table);
}

/// Behaviour 2.
#[test]
fn strict_bounds_equal_the_next_integer_and_contradictory_bounds_allow_nothing() {
    assert_eq!(asks(Operator::Gt, &["4"]), asks(Operator::Gte, &["5"]));
    assert_eq!(asks(Operator::Lt, &["4"]), asks(Operator::Lte, &["3"]));
    let none = asks(Operator::DoesNotExist, &[]);
    assert_eq!(
        asks(Operator::Gt, &["4"]).intersect(&asks(Operator::Lt, &["5"])),
        none
    );
    assert_eq!(asks(Operator::Gt, &[&i64::MAX.to_string()]), none);
    assert_eq!(asks(Operator::Lt, &[&i64::MIN.to_string()]), none);
    let seven = asks(Operator::Gte, &["7"]).intersect(&asks(Operator::Lte, &["7"]));
    assert!(!seven.is_empty() && seven.allows(Some("7")) && !seven.allows(Some("8")));
    assert!(seven.intersect(&asks(Operator::NotIn, &["7"])).is_empty());
}

/// Behaviour 3.
#[test]
fn a_value_that_is_no_integer_never_satisfies_a_bound() {
    let bound = asks(Operator::Gte, &["1"]);
    for value in ["x", "1.5", "", "9223372036854775808"] {
        assert!(!bound.allows(Some(value)), "{value}");
    }
    let set = bound.intersect(&asks(Operator::In, &["x", "2"]));
    assert_eq!(set, asks(Operator::In, &["2"]));
    let wrong = Requirement::new(&expression("k", Operator::Gt, &["a"]), None);
    assert_eq!(
        wrong.unwrap_err().to_string(),
        r#"k Gt ["a"]: the bound must be one integer"#
    );
}

fn on(key: &str, operator: Operator, values: &[&str]) -> Requirements {
    Requirements::new([&expression(key, operator, values)]).expect("a valid condition")
}

/// Behaviour 4.
#[test]
fn an_absent_custom_label_fails_in_and_exists_and_passes_the_others() {
    let node = Requirements::default();
    for (operator, values, passes) in [
        (Operator::In, &["a"][..], false),
        (Operator::Exists, &[], false),
        (Operator::Gt, &["1"], false),
        (Operator::NotIn, &["a"], true),
        (Operator::DoesNotExist, &[], true),
    ] {
        let asked = on("team", operator, values);
        let found = node.compatible(&asked, WellKnown::Open);
        assert_eq!(found.is_ok(), passes, "{operator:?}");
    }
}

/// Behaviour 5.
#[test]
fn an_absent_well_known_label_is_compatible_with_any_operator_when_allowed() {
    let node = Requirements::default();
    for operator in [
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
    ] {
        let asked = on(ZONE, operator, &["a"]);
        assert_eq!(node.compatible(&asked, WellKnown::Open), Ok(()));
    }
    let asked = on(ZONE, Operator::In, &["a"]);
    assert!(node.compatible(&asked, WellKnown::Absent).is_err());
}

/// Behaviour 6.
#[test]
fn beta_names_of_labels_become_their_stable_names() {
    assert_eq!(stable("failure-domain.beta.kubernetes.io/zone"), ZONE);
    assert_eq!(stable("beta.kubernetes.io/instance-type"), INSTANCE_TYPE);
    assert_eq!(stable("topology.ebs.csi.aws.com/zone"), ZONE);
    assert_eq!(stable("team"), "team");
    for (_, stable_name) in ALIASES {
        assert!(WELL_KNOWN.contains(&stable_name));
        assert_eq!(stable(stable_name), stable_name);
    }
}

/// Behaviour 7.
#[test]
fn an_intersection_keeps_the_larger_min_values() {
    let with = |min| Requirement::new(&expression("k", Operator::Exists, &[]), min).unwrap();
    for (one, other, both) in [
        (Some(2), Some(3), Some(3)),
        (None, Some(1), Some(1)),
        (Some(4), None, Some(4)),
        (None, None, None),
    ] {
        assert_eq!(with(one).intersect(&with(other)).min_values(), both);
    }
}

/// Behaviour 8.
#[test]
fn both_bounds_are_written_as_two_conditions_and_read_back() {
    let both = asks(Operator::Gt, &["1"]).intersect(&asks(Operator::Lte, &["9"]));
    let written = both.expressions();
    assert_eq!(
        written,
        [
            expression("k", Operator::Gte, &["2"]),
            expression("k", Operator::Lte, &["9"])
        ]
    );
    let read = Requirements::new(&written).unwrap();
    assert_eq!(read.of("k"), Some(&both));
}

/// Behaviour 9.
#[test]
fn exists_never_widens_a_set_of_values() {
    let set = asks(Operator::In, &["a", "b"]);
    let exists = asks(Operator::Exists, &[]);
    assert_eq!(exists.intersect(&set), set);
    assert_eq!(set.intersect(&exists), set);
}

/// Behaviour 10.
#[test]
fn a_mistyped_well_known_label_names_the_one_that_was_meant() {
    for (written, right) in [
        ("topology.kubernetes.io/zon", ZONE),
        ("topology.kubernetesio/zone", ZONE),
        ("zone", ZONE),
        ("Zone", ZONE),
        ("zones", ZONE),
        ("karpenter.sh/capacity-type", CAPACITY_TYPE),
        ("failure-domain.beta.kubernetes.io/zone", ZONE),
        ("kubernetes.io/hostnam", HOSTNAME),
    ] {
        assert_eq!(meant(written), Some(right), "{written}");
    }
    for fine in [ZONE, "team", "example.com/tier", "", &"x".repeat(1_000_000)] {
        assert_eq!(meant(fine), None, "{}", &fine[..fine.len().min(40)]);
    }
    let asked = on("topology.kubernetes.io/zon", Operator::In, &["a"]);
    let error = Requirements::default().compatible(&asked, WellKnown::Open);
    assert_eq!(
        error.unwrap_err().to_string(),
        "label topology.kubernetes.io/zon is not known here; \
         topology.kubernetes.io/zone was probably meant"
    );
}

#[test]
fn conditions_that_nothing_can_meet_are_named() {
    let both = |a: Expression, b: Expression| contradiction(&[a, b]).map(|c| c.to_string());
    assert_eq!(
        both(
            expression("k", Operator::In, &["a", "b"]),
            expression("k", Operator::NotIn, &["a", "b"])
        ),
        Some("label k: nothing satisfies In a, b and NotIn a, b".to_owned())
    );
    assert_eq!(
        both(
            expression("k", Operator::Exists, &[]),
            expression("k", Operator::DoesNotExist, &[])
        ),
        Some("label k: nothing satisfies Exists and DoesNotExist".to_owned())
    );
    let fine = both(
        expression("k", Operator::NotIn, &["a"]),
        expression("k", Operator::DoesNotExist, &[]),
    );
    assert_eq!(fine, None);
    let alone = contradiction(&[expression("k", Operator::Gt, &["many"])]);
    assert_eq!(alone.map(|c| c.expressions.len()), Some(1));
    let three = contradiction(&[
        expression("k", Operator::In, &["a", "b"]),
        expression("k", Operator::NotIn, &["a"]),
        expression("k", Operator::NotIn, &["b"]),
    ]);
    assert_eq!(three.map(|c| c.expressions.len()), Some(3));
}

fn any_expression() -> impl Strategy<Value = Expression> {
    let operator = prop::sample::select(vec![
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
        Operator::Gt,
        Operator::Lt,
        Operator::Gte,
        Operator::Lte,
    ]);
    let value = || prop::sample::select(vec!["-1", "0", "1", "2", "3", "x", "y"]);
    (operator, prop::collection::vec(value(), 1..4), -2_i64..5).prop_map(
        |(operator, values, bound)| match operator {
            Operator::Exists | Operator::DoesNotExist => expression("k", operator, &[]),
            Operator::In | Operator::NotIn => expression("k", operator, &values),
            _ => expression("k", operator, &[&bound.to_string()]),
        },
    )
}

const PROBES: [&str; 10] = ["-3", "-1", "0", "1", "2", "3", "9", "x", "y", "other"];

proptest! {
    #[test]
    fn an_intersection_allows_exactly_the_values_that_all_conditions_allow(
        expressions in prop::collection::vec(any_expression(), 1..4),
    ) {
        let all = Requirements::new(&expressions).unwrap();
        let sum = all.of("k").unwrap();
        for value in PROBES {
            let each = expressions.iter().all(|e| e.matches(Some(value)));
            prop_assert_eq!(sum.allows(Some(value)), each, "{}", value);
        }
        let again = Requirements::new(&sum.expressions()).unwrap();
        for value in PROBES {
            prop_assert_eq!(again.of("k").unwrap().allows(Some(value)), sum.allows(Some(value)));
        }
    }

    #[test]
    fn a_contradiction_is_found_exactly_when_nothing_satisfies_all(
        expressions in prop::collection::vec(any_expression(), 1..5),
    ) {
        // Every value that the conditions name, one on each side of every bound, and a stranger.
        let integers = (-4..8).map(|n: i64| n.to_string());
        let mut values: Vec<Option<String>> = integers.map(Some).collect();
        values.extend([None, Some("x".to_owned()), Some("y".to_owned()), Some("?".to_owned())]);
        let possible = (values.iter())
            .any(|value| expressions.iter().all(|e| e.matches(value.as_deref())));
        prop_assert_eq!(contradiction(&expressions).is_none(), possible);
    }
}
