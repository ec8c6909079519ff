//! Whether a new price list is believed, against what was known before.

use headstart_core::money::HourlyPrice;

use super::Listed;
use crate::catalog::price::Prices;

/// A price that moved by more than this is a mistake somewhere, not a market.
const MOST_TIMES: u64 = 10;

/// Per cent of the types known before that must still be there.
const FEWEST_PERCENT: usize = 60;

/// Per cent of free rows beyond which a list is broken, and not only odd.
const MOST_FREE_PERCENT: usize = 5;

/// Most examples of one fault.
const EXAMPLES: usize = 3;

/// What changed, in words.
///
/// # Errors
/// Every reason not to believe the list.
pub(super) fn check(listed: &Listed, before: &Prices) -> Result<String, Vec<String>> {
    let mut why = Vec::new();
    let (now, then) = (listed.types.len(), before.types.len());
    if now == 0 {
        why.push("it prices no type".to_owned());
    } else if now * 100 < then * FEWEST_PERCENT {
        why.push(format!(
            "it prices {now} types where {then} were known: cut short?"
        ));
    }
    if !listed.absurd.is_empty() {
        let (shown, count) = (examples(&listed.absurd), listed.absurd.len());
        why.push(format!("prices that are none: {count}, such as {shown}"));
    }
    if listed.free * 100 > (now + listed.free) * MOST_FREE_PERCENT {
        why.push(format!("{} of its rows are free", listed.free));
    }
    let (mut jumps, mut dearer, mut cheaper) = (Vec::new(), 0, 0);
    for (name, price) in &listed.types {
        let Some(old) = before.types.get(name) else {
            continue;
        };
        for (what, old, new) in [
            ("on-demand", old.on_demand, price.on_demand),
            ("spot", old.spot, price.spot),
        ] {
            let (Some(old), Some(new)) = (old, new) else {
                continue;
            };
            if jumped(old, new) {
                jumps.push(format!("{name} {what} from {old} to {new}"));
            }
            match new.cmp(&old) {
                std::cmp::Ordering::Greater => dearer += 1,
                std::cmp::Ordering::Less => cheaper += 1,
                std::cmp::Ordering::Equal => {}
            }
        }
    }
    if !jumps.is_empty() {
        let (shown, count) = (examples(&jumps), jumps.len());
        why.push(format!(
            "prices that moved more than {MOST_TIMES} times: {count}, such as {shown}"
        ));
    }
    if why.is_empty() {
        let free = match listed.free {
            0 => String::new(),
            free => format!(", {free} free rows passed over"),
        };
        Ok(format!(
            "{cheaper} prices cheaper than before, {dearer} dearer{free}"
        ))
    } else {
        Err(why)
    }
}

fn jumped(old: HourlyPrice, new: HourlyPrice) -> bool {
    new.0 > old.0.saturating_mul(MOST_TIMES) || old.0 > new.0.saturating_mul(MOST_TIMES)
}

fn examples(all: &[String]) -> String {
    let shown = all.iter().take(EXAMPLES).cloned().collect::<Vec<_>>();
    shown.join(", ")
}
