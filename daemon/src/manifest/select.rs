//! Selectors and expressions, from the API's form to ours.

use headstart_core::label::{Effect, Expression, Labels, Operator, Taint, Term};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::alias;
use super::finding::{Subject, likely, quoted};

/// A label selector as conditions; empty conditions select everything.
pub(crate) fn label_selector(selector: &LabelSelector, subject: &Subject<'_>) -> Term {
    let mut term = Term::default();
    for (key, value) in selector.match_labels.iter().flatten() {
        term.0.push(Expression::equals(key, value));
    }
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    for (index, asked) in expressions.iter().enumerate() {
        let at = subject.at("matchExpressions").nth(index);
        let operators = ["In", "NotIn", "Exists", "DoesNotExist"];
        let values = asked.values.as_deref().unwrap_or_default();
        term.0.extend(expression(
            &asked.key,
            &asked.operator,
            values,
            &operators,
            &at,
        ));
    }
    term
}

/// Conditions on a node, by our names; `metadata.name` becomes the host name.
pub(crate) fn node_term(term: &core::NodeSelectorTerm, subject: &Subject<'_>) -> Term {
    let operators = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
    let read = |asked: &[core::NodeSelectorRequirement], field: &str, operators: &[&str]| {
        let read = asked.iter().enumerate().filter_map(|(index, asked)| {
            let at = subject.at(field).nth(index);
            let values = asked.values.as_deref().unwrap_or_default();
            expression(&asked.key, &asked.operator, values, operators, &at)
        });
        read.collect::<Vec<_>>()
    };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let mut all: Vec<Expression> = read(expressions, "matchExpressions", &operators)
        .into_iter()
        .map(alias::expression)
        .collect();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    for (index, mut field) in read(fields, "matchFields", &["In", "NotIn"])
        .into_iter()
        .enumerate()
    {
        if field.key != "metadata.name" {
            let found = quoted(&field.key);
            let at = subject.at("matchFields").nth(index);
            at.problem(format!(
                "key is {found}; only metadata.name can be selected"
            ));
        }
        field.key = headstart_core::label::HOSTNAME.to_owned();
        all.push(field);
    }
    Term(all)
}

/// One condition; the API's rules for the number of values hold.
pub(crate) fn expression(
    key: &str,
    operator: &str,
    values: &[String],
    operators: &[&str],
    subject: &Subject<'_>,
) -> Option<Expression> {
    if key.is_empty() {
        subject.at("key").problem("is empty; name a label");
        return None;
    }
    let read = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        "Gte" => Operator::Gte,
        "Lte" => Operator::Lte,
        _ => {
            unknown(operator, operators, &subject.at("operator"));
            return None;
        }
    };
    if !operators.contains(&operator) {
        unknown(operator, operators, &subject.at("operator"));
        return None;
    }
    let at = subject.at("values");
    let found = values.len();
    match read {
        Operator::In | Operator::NotIn if values.is_empty() => {
            at.problem(format!("is empty; {operator} needs at least one value"));
            return None;
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            at.problem(format!("has {found} entries; {operator} takes none"));
            return None;
        }
        Operator::Gt | Operator::Lt | Operator::Gte | Operator::Lte => match values {
            [value] if value.parse::<i64>().is_ok() => {}
            [value] => {
                let value = quoted(value);
                at.problem(format!("is {value}; {operator} needs one integer"));
                return None;
            }
            _ => {
                at.problem(format!("has {found} entries; {operator} needs one integer"));
                return None;
            }
        },
        _ => {}
    }
    Some(Expression {
        key: key.to_owned(),
        operator: read,
        values: values.to_vec(),
    })
}

/// Says that a word is not one of those that the field takes.
pub(crate) fn unknown(found: &str, known: &[&str], subject: &Subject<'_>) {
    let hint = match likely(found, known.iter().copied()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("use one of {}", known.join(", ")),
    };
    subject.problem(format!("is {}; {hint}", quoted(found)));
}

/// A taint.
pub(crate) fn taint(key: &str, value: &str, effect: &str, subject: &Subject<'_>) -> Option<Taint> {
    if key.is_empty() {
        subject.at("key").problem("is empty; a taint has a key");
        return None;
    }
    Some(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: self::effect(effect, &subject.at("effect"))?,
    })
}

/// What a taint does.
pub(crate) fn effect(found: &str, subject: &Subject<'_>) -> Option<Effect> {
    let effects = [
        ("NoSchedule", Effect::NoSchedule),
        ("PreferNoSchedule", Effect::PreferNoSchedule),
        ("NoExecute", Effect::NoExecute),
    ];
    let effect = effects.iter().find(|(name, _)| *name == found);
    if effect.is_none() {
        unknown(found, &effects.map(|(name, _)| name), subject);
    }
    effect.map(|(_, effect)| *effect)
}

/// Labels that are asked of a node, by our names.
pub(crate) fn node_labels(asked: impl IntoIterator<Item = (String, String)>) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in asked {
        let mut ours = alias::expression(Expression::equals(key, value));
        labels.extend(ours.values.pop().map(|value| (ours.key, value)));
    }
    labels
}
