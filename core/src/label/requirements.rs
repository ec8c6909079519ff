//! What conditions on labels add up to: intersection, contradiction, and the key that was meant.
//!
//! Conditions on one key intersect to a [`Requirement`]: a set of allowed values, or of forbidden ones,
//! within bounds. Planning does not use this: it matches conditions against the labels of what exists
//! or is sold. It serves at the door, where pods and pools are read, to refuse what nothing could ever
//! meet and to say what was probably meant.
//!
//! As in Karpenter, "nothing is allowed" and "must be absent" are one and the same requirement, and an
//! intersection of `NotIn` with `Exists` is `NotIn`. [`contradiction`] tells them apart by what was
//! asked.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Expression, Operator};

/// Keys that every node has, or that nodes of some types have.
pub const WELL_KNOWN: [&str; 16] = [
    super::ZONE,
    super::REGION,
    super::HOSTNAME,
    super::ARCH,
    super::OS,
    super::INSTANCE_TYPE,
    super::CAPACITY_TYPE,
    super::NODE_POOL,
    super::INSTANCE_FAMILY,
    super::GPU_SKU,
    super::GPU_COUNT,
    super::GPU_MEMORY,
    super::LOCAL_NVME,
    super::INSTANCE_CPU,
    super::INSTANCE_MEMORY,
    super::INSTANCE_NETWORK,
];

/// Keys that mean the same as a stable one. Beta names of Kubernetes before 1.17, and the zone as CSI
/// drivers write it into volumes.
const ALIASES: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", super::ARCH),
    ("beta.kubernetes.io/os", super::OS),
    ("beta.kubernetes.io/instance-type", super::INSTANCE_TYPE),
    ("failure-domain.beta.kubernetes.io/zone", super::ZONE),
    ("failure-domain.beta.kubernetes.io/region", super::REGION),
    ("topology.ebs.csi.aws.com/zone", super::ZONE),
    ("topology.disk.csi.azure.com/zone", super::ZONE),
    ("topology.gke.io/zone", super::ZONE),
];

/// The stable name of a label key: itself, unless it is an old alias.
pub fn stable(key: &str) -> &str {
    (ALIASES.iter())
        .find(|(alias, _)| *alias == key)
        .map_or(key, |(_, stable)| stable)
}

/// The well-known key that was probably meant by one that is not well known: one or two letters off,
/// or the right name behind another prefix or none.
pub fn meant(key: &str) -> Option<&'static str> {
    if WELL_KNOWN.contains(&key) {
        return None;
    }
    if let Some((_, stable)) = ALIASES.iter().find(|(alias, _)| *alias == key) {
        return Some(stable);
    }
    // A label key is at most 317 characters; anything longer is no typing error.
    if key.len() > 320 {
        return None;
    }
    let lower = key.to_ascii_lowercase();
    let name = last_part(&lower);
    let same_name = WELL_KNOWN.iter().find(|known| last_part(known) == name);
    let nearly = || {
        (WELL_KNOWN.iter())
            .map(|known| (distance(&lower, known), known))
            .filter(|(distance, _)| *distance <= 2)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, known)| known)
    };
    let nearly_the_name = || {
        (WELL_KNOWN.iter()).find(|known| {
            let known = last_part(known);
            known.len() >= 4 && distance(name, known) <= 1
        })
    };
    let bare = !lower.contains('/');
    (same_name.or_else(nearly))
        .or_else(|| nearly_the_name().filter(|_| bare))
        .copied()
}

fn last_part(key: &str) -> &str {
    key.rsplit_once('/').map_or(key, |(_, name)| name)
}

/// How many letters must be added, removed or changed to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

/// A bound that is no integer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {operator:?} {found:?}: the bound must be one integer")]
pub struct InvalidBound {
    /// The label's key.
    pub key: String,
    /// The comparison.
    pub operator: Operator,
    /// What was written.
    pub found: Vec<String>,
}

/// What conditions on one key add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    values: Values,
    /// Least integer allowed; only together with [`Values::AllBut`].
    least: Option<i64>,
    /// Greatest integer allowed; likewise.
    most: Option<i64>,
    min_values: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Values {
    /// Only these. None at all: the label must be absent, or nothing can be right.
    Among(BTreeSet<String>),
    /// Any but these.
    AllBut(BTreeSet<String>),
}

impl Requirement {
    /// What one condition asks for. `min_values` is how many different values must be left to choose
    /// from.
    ///
    /// # Errors
    /// When the condition is a bound and its value is not one integer.
    pub fn new(expression: &Expression, min_values: Option<u32>) -> Result<Self, InvalidBound> {
        let given = || expression.values.iter().cloned().collect();
        let bound = || {
            match &expression.values[..] {
                [value] => value.parse::<i64>().ok(),
                _ => None,
            }
            .ok_or_else(|| InvalidBound {
                key: expression.key.clone(),
                operator: expression.operator,
                found: expression.values.iter().take(4).cloned().collect(),
            })
        };
        // `Gt` the greatest integer has no integer left: the bound is then contradictory.
        let nothing = (Some(i64::MAX), Some(i64::MIN));
        let (values, (least, most)) = match expression.operator {
            Operator::In => (Values::Among(given()), (None, None)),
            Operator::NotIn => (Values::AllBut(given()), (None, None)),
            Operator::Exists => (Values::AllBut(BTreeSet::new()), (None, None)),
            Operator::DoesNotExist => (Values::Among(BTreeSet::new()), (None, None)),
            Operator::Gte => (Values::AllBut(BTreeSet::new()), (Some(bound()?), None)),
            Operator::Lte => (Values::AllBut(BTreeSet::new()), (None, Some(bound()?))),
            Operator::Gt => (
                Values::AllBut(BTreeSet::new()),
                bound()?.checked_add(1).map_or(nothing, |n| (Some(n), None)),
            ),
            Operator::Lt => (
                Values::AllBut(BTreeSet::new()),
                bound()?.checked_sub(1).map_or(nothing, |n| (None, Some(n))),
            ),
        };
        let requirement = Self {
            key: expression.key.clone(),
            values,
            least,
            most,
            min_values,
        };
        Ok(requirement.settled())
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How many different values must be left to choose from.
    pub fn min_values(&self) -> Option<u32> {
        self.min_values
    }

    /// What is allowed by both. The key is that of `self`.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        use Values::{AllBut, Among};
        let values = match (&self.values, &other.values) {
            (Among(a), Among(b)) => Among(a & b),
            (Among(a), AllBut(b)) | (AllBut(b), Among(a)) => Among(a - b),
            (AllBut(a), AllBut(b)) => AllBut(a | b),
        };
        let requirement = Self {
            key: self.key.clone(),
            values,
            least: self.least.max(other.least),
            most: match (self.most, other.most) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            min_values: self.min_values.max(other.min_values),
        };
        requirement.settled()
    }

    /// Bounds applied to a set of values and then dropped; contradictory bounds allow nothing.
    fn settled(mut self) -> Self {
        if let (Some(least), Some(most)) = (self.least, self.most)
            && least > most
        {
            self.values = Values::Among(BTreeSet::new());
        }
        let (least, most) = (self.least, self.most);
        if let Values::Among(values) = &mut self.values {
            values.retain(|value| is_within(value, least, most));
            (self.least, self.most) = (None, None);
        }
        self
    }

    /// Whether a label of this value, or its absence, is allowed.
    pub fn allows(&self, value: Option<&str>) -> bool {
        match (&self.values, value) {
            (Values::Among(values), Some(value)) => values.contains(value),
            (Values::Among(values), None) => values.is_empty(),
            (Values::AllBut(values), Some(value)) => {
                !values.contains(value) && is_within(value, self.least, self.most)
            }
            (Values::AllBut(values), None) => !values.is_empty() && !self.is_bounded(),
        }
    }

    /// Whether no value at all is allowed, so that the label must be absent.
    pub fn is_empty(&self) -> bool {
        match (&self.values, self.least, self.most) {
            (Values::Among(values), ..) => values.is_empty(),
            // Every integer in the bounds may be forbidden one by one.
            (Values::AllBut(values), Some(least), Some(most)) => {
                let forbidden: BTreeSet<i64> = (values.iter())
                    .filter_map(|value| value.parse().ok())
                    .filter(|n| (least..=most).contains(n))
                    .collect();
                // `007` forbids no other way to write 7.
                let canonical = forbidden.iter().all(|n| values.contains(&n.to_string()));
                let width = i128::from(most) - i128::from(least) + 1;
                canonical && i128::try_from(forbidden.len()).is_ok_and(|count| count >= width)
            }
            (Values::AllBut(_), ..) => false,
        }
    }

    /// Whether the label may be absent: `NotIn` or `DoesNotExist`.
    fn forgives_absence(&self) -> bool {
        self.allows(None)
    }

    fn is_bounded(&self) -> bool {
        self.least.is_some() || self.most.is_some()
    }

    /// The same as conditions in the API's notation; both bounds are two conditions.
    pub fn expressions(&self) -> Vec<Expression> {
        let one = |operator, values: Vec<String>| Expression {
            key: self.key.clone(),
            operator,
            values,
        };
        match &self.values {
            Values::Among(values) if values.is_empty() => {
                vec![one(Operator::DoesNotExist, Vec::new())]
            }
            Values::Among(values) => vec![one(Operator::In, values.iter().cloned().collect())],
            Values::AllBut(values) => {
                let mut list = Vec::new();
                list.extend(self.least.map(|n| one(Operator::Gte, vec![n.to_string()])));
                list.extend(self.most.map(|n| one(Operator::Lte, vec![n.to_string()])));
                if !values.is_empty() {
                    list.push(one(Operator::NotIn, values.iter().cloned().collect()));
                }
                if list.is_empty() {
                    list.push(one(Operator::Exists, Vec::new()));
                }
                list
            }
        }
    }
}

/// Whether a value is an integer in the bounds, where there are any.
fn is_within(value: &str, least: Option<i64>, most: Option<i64>) -> bool {
    if least.is_none() && most.is_none() {
        return true;
    }
    value
        .parse::<i64>()
        .is_ok_and(|n| least.is_none_or(|least| n >= least) && most.is_none_or(|most| n <= most))
}

/// Requirements by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements(BTreeMap<String, Requirement>);

/// Why two sets of requirements cannot both be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// A key that only one side has, and that is not well known.
    #[error("label {key} is not known here{}", hint(meant))]
    Unknown {
        /// The key.
        key: String,
        /// What was probably meant.
        meant: Option<&'static str>,
    },
    /// No value is right for both.
    #[error("label {key}: no value satisfies {} and {}", list(ours), list(theirs))]
    NoValue {
        /// The key.
        key: String,
        /// What one side asks for.
        ours: Vec<Expression>,
        /// What the other side asks for.
        theirs: Vec<Expression>,
    },
}

/// Whether a well-known key that is absent may still come to have any value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WellKnown {
    /// It may: a node that is not bought yet.
    Open,
    /// It may not: a node that exists.
    Absent,
}

impl Requirements {
    /// What conditions add up to, by key.
    ///
    /// # Errors
    /// When a bound is not one integer.
    pub fn new<'e>(
        expressions: impl IntoIterator<Item = &'e Expression>,
    ) -> Result<Self, InvalidBound> {
        let mut all = Self::default();
        for expression in expressions {
            all.add(Requirement::new(expression, None)?);
        }
        Ok(all)
    }

    /// Adds one more; both must hold.
    pub fn add(&mut self, requirement: Requirement) {
        let both = match self.0.get(requirement.key()) {
            Some(before) => before.intersect(&requirement),
            None => requirement,
        };
        self.0.insert(both.key.clone(), both);
    }

    /// The requirement on `key`, if there is one.
    pub fn of(&self, key: &str) -> Option<&Requirement> {
        self.0.get(key)
    }

    /// Whether something that meets these can meet `asked`.
    ///
    /// # Errors
    /// The first key, by name, for which nothing can.
    pub fn compatible(&self, asked: &Self, well_known: WellKnown) -> Result<(), Incompatible> {
        for (key, theirs) in &asked.0 {
            let Some(ours) = self.0.get(key) else {
                let open = well_known == WellKnown::Open && WELL_KNOWN.contains(&key.as_str());
                if open || theirs.forgives_absence() {
                    continue;
                }
                return Err(Incompatible::Unknown {
                    key: key.clone(),
                    meant: meant(key),
                });
            };
            let both_forgive = ours.forgives_absence() && theirs.forgives_absence();
            if !both_forgive && ours.intersect(theirs).is_empty() {
                return Err(Incompatible::NoValue {
                    key: key.clone(),
                    ours: ours.expressions(),
                    theirs: theirs.expressions(),
                });
            }
        }
        Ok(())
    }
}

/// Conditions on one key that nothing can meet together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label {key}: nothing satisfies {}", list(expressions))]
pub struct Contradiction {
    /// The key.
    pub key: String,
    /// The conditions: one, if it is impossible by itself, the first two that exclude each other, or
    /// all on that key.
    pub expressions: Vec<Expression>,
}

/// Conditions among `all` that no label, and no absence of one, can meet together. A bound that is no
/// integer is one by itself.
pub fn contradiction(all: &[Expression]) -> Option<Contradiction> {
    let mut by_key: BTreeMap<&str, Vec<&Expression>> = BTreeMap::new();
    for expression in all {
        by_key.entry(&expression.key).or_default().push(expression);
    }
    by_key.into_iter().find_map(|(key, expressions)| {
        if can_hold(&expressions) {
            return None;
        }
        let alone = expressions
            .iter()
            .find(|e| !can_hold(&[e]))
            .map(|e| vec![*e]);
        // Not every pair of very many is tried: the message would be no better for it.
        let few = &expressions[..expressions.len().min(64)];
        let pair = || {
            few.iter().enumerate().find_map(|(i, a)| {
                let b = few[..i].iter().find(|b| !can_hold(&[a, b]))?;
                Some(vec![*b, *a])
            })
        };
        let guilty = alone.or_else(pair).unwrap_or(expressions);
        Some(Contradiction {
            key: key.to_owned(),
            expressions: guilty.into_iter().cloned().collect(),
        })
    })
}

/// Whether some value, or absence, satisfies all of these conditions on one key.
fn can_hold(expressions: &[&Expression]) -> bool {
    if expressions.iter().all(|e| e.matches(None)) {
        return true;
    }
    let mut sum: Option<Requirement> = None;
    for expression in expressions {
        let Ok(one) = Requirement::new(expression, None) else {
            return false;
        };
        sum = Some(match sum {
            Some(before) => before.intersect(&one),
            None => one,
        });
    }
    sum.is_none_or(|sum| !sum.is_empty())
}

fn hint(meant: &Option<&'static str>) -> impl fmt::Display {
    let meant = *meant;
    fmt::from_fn(move |f| match meant {
        Some(meant) => write!(f, "; {meant} was probably meant"),
        None => Ok(()),
    })
}

fn list(expressions: &[Expression]) -> impl fmt::Display {
    let words: Vec<String> = (expressions.iter().take(8))
        .map(|e| {
            let values: Vec<&str> = e.values.iter().take(8).map(String::as_str).collect();
            match e.operator {
                Operator::Exists | Operator::DoesNotExist => format!("{:?}", e.operator),
                _ => format!("{:?} {}", e.operator, values.join(", ")),
            }
        })
        .collect();
    words.join(" and ")
}
