//! Many exclusions as few: those that one condition caused are said together.

use headstart_core::reason::{Rejection, Tally};

/// Tallies of which no two are about the same condition, most frequent first. Of those that become
/// one, the candidate that missed by least stands for all: the cheapest over a cap, the one with most
/// room, else the most frequent.
pub(crate) fn condensed(tallies: &[Tally]) -> Vec<Tally> {
    let mut merged: Vec<Tally> = Vec::new();
    for tally in tallies {
        let same = |known: &&mut Tally| same_condition(&known.rejection, &tally.rejection);
        let Some(known) = merged.iter_mut().find(same) else {
            merged.push(tally.clone());
            continue;
        };
        let count = known.count.saturating_add(tally.count);
        if nearer(&tally.rejection, &known.rejection) {
            *known = tally.clone();
        }
        known.count = count;
    }
    merged.sort_by_key(|tally| std::cmp::Reverse(tally.count));
    merged
}

/// Whether both say that the same condition was not met, whatever was found.
fn same_condition(a: &Rejection, b: &Rejection) -> bool {
    use Rejection as R;
    match (a, b) {
        (R::PoolNotReady { .. }, R::PoolNotReady { .. })
        | (R::NotSold, R::NotSold)
        | (R::LaunchBudget { .. }, R::LaunchBudget { .. })
        | (R::SpotWithoutDiscount { .. }, R::SpotWithoutDiscount { .. })
        | (R::Leaving, R::Leaving)
        | (R::Dedicated, R::Dedicated)
        | (R::PodSelector { .. }, R::PodSelector { .. }) => true,
        (R::PoolLimit { resource: a, .. }, R::PoolLimit { resource: b, .. })
        | (R::Resource { resource: a, .. }, R::Resource { resource: b, .. }) => a == b,
        (R::Unavailable { why: a, .. }, R::Unavailable { why: b, .. }) => a == b,
        (R::Price { cap: a, by: x, .. }, R::Price { cap: b, by: y, .. }) => (a, x) == (b, y),
        (
            R::GpuSku {
                wanted: a, by: x, ..
            },
            R::GpuSku {
                wanted: b, by: y, ..
            },
        ) => (a, x) == (b, y),
        (R::GpuCount { most: a, by: x, .. }, R::GpuCount { most: b, by: y, .. }) => {
            (a, x) == (b, y)
        }
        (
            R::CapacityType {
                wanted: a, by: x, ..
            },
            R::CapacityType {
                wanted: b, by: y, ..
            },
        ) => (a, x) == (b, y),
        (R::Family { by: x, .. }, R::Family { by: y, .. }) => x == y,
        (
            R::Label {
                expression: a,
                by: x,
                ..
            },
            R::Label {
                expression: b,
                by: y,
                ..
            },
        ) => (a, x) == (b, y),
        (R::MinValues { key: a, .. }, R::MinValues { key: b, .. })
        | (R::Spread { key: a, .. }, R::Spread { key: b, .. })
        | (R::AttachLimit { driver: a, .. }, R::AttachLimit { driver: b, .. }) => a == b,
        _ => a == b,
    }
}

/// Whether `a` missed by less than `b`, which is about the same condition.
fn nearer(a: &Rejection, b: &Rejection) -> bool {
    match (a, b) {
        (Rejection::Price { price: a, .. }, Rejection::Price { price: b, .. }) => a < b,
        (Rejection::Resource { free: a, .. }, Rejection::Resource { free: b, .. }) => a > b,
        (Rejection::GpuCount { found: a, .. }, Rejection::GpuCount { found: b, .. }) => a < b,
        (Rejection::Unavailable { until: a, .. }, Rejection::Unavailable { until: b, .. }) => a < b,
        (Rejection::MinValues { found: a, .. }, Rejection::MinValues { found: b, .. }) => a > b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use headstart_core::money::HourlyPrice;
    use headstart_core::reason::Origin;

    use super::*;

    fn price(price: f64, cap: f64, count: usize) -> Tally {
        let usd = |usd| HourlyPrice::from_usd(usd).unwrap();
        Tally {
            rejection: Rejection::Price {
                price: usd(price),
                cap: usd(cap),
                by: Origin::Pod,
            },
            count,
            example: String::new(),
        }
    }

    #[test]
    fn the_cheapest_stands_for_all_over_one_cap() {
        let many = [
            price(5.0, 0.4, 3),
            price(0.41, 0.4, 3),
            price(9.0, 5.0, 100),
        ];
        assert_eq!(
            condensed(&many),
            [price(9.0, 5.0, 100), price(0.41, 0.4, 6)]
        );
    }
}
