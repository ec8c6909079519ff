//! The plan as text for a person.

use std::fmt::Write as _;

use super::form::{BuyForm, ExistingForm, GivenUpForm, ItemForm, PlanForm, TimingForm};
use super::words;
use crate::columns::{Align, Columns};

/// Most pod names of one line.
const MOST_PODS: usize = 3;

/// What is always said of times.
const TIMES: &str = "Times: boot, engine start and rates are published figures of others, none was \
                     measured on a cloud or a GPU by us.";

/// The whole plan.
pub(crate) fn table(plan: &PlanForm) -> String {
    let mut sections = vec![buy(plan)];
    if !plan.existing.is_empty() {
        sections.push(existing(&plan.existing));
    }
    if !plan.unserved.is_empty() {
        sections.push(unserved(plan));
    }
    if !plan.items.is_empty() {
        sections.push(items(&plan.items));
    }
    sections.push(basis(plan));
    sections.join("\n")
}

fn buy(plan: &PlanForm) -> String {
    let nodes: usize = plan.buy.iter().map(|group| group.count).sum();
    if nodes == 0 {
        return "Nothing to buy.\n".to_owned();
    }
    let mut text = format!(
        "Buy {nodes} node{} for {} in all:\n\n",
        words::plural(nodes as u64),
        usd_per_hour(plan.total_usd_per_hour)
    );
    let mut columns = Columns::new(&[
        ("", Align::Left),
        ("count", Align::Right),
        ("offering", Align::Left),
        ("pool", Align::Left),
        ("USD/h", Align::Right),
        ("in all", Align::Right),
        ("cold", Align::Right),
        ("warm", Align::Right),
        ("for", Align::Left),
    ]);
    for (index, group) in plan.buy.iter().enumerate() {
        columns.row([
            format!("[{}]", index + 1),
            group.count.to_string(),
            format!(
                "{} {} in {}",
                group.instance_type, group.capacity_type, group.zone
            ),
            group.pool.clone(),
            usd(group.usd_per_hour),
            usd(group.total_usd_per_hour),
            group.cold.exact.total().to_string(),
            group.warm.exact.total().to_string(),
            pods(&group.pods),
        ]);
    }
    text += &columns.render(2);
    text += "\n  cold: the new node, nothing cached; warm: a running node that has the bytes\n";
    for (index, group) in plan.buy.iter().enumerate() {
        text.push('\n');
        text += &details(index + 1, group);
    }
    text
}

fn details(number: usize, group: &BuyForm) -> String {
    let mut text = String::new();
    let mark = format!("[{number}]");
    let mut line = |mark: &str, what: &str| {
        let _ = writeln!(text, "  {mark:<4} {what}");
    };
    line(&mark, &format!("cold {}", parts(&group.cold)));
    line("", &format!("warm {}", parts(&group.warm)));
    match &group.runner_up {
        Some(second) => line("", &second.text),
        None => line("", "nothing else could have been bought"),
    }
    for said in given_up(&group.given_up) {
        line("", &said);
    }
    text
}

fn parts(timing: &TimingForm) -> String {
    format!(
        "{} = {}",
        timing.exact.total(),
        words::timing(&timing.exact)
    )
}

fn existing(placements: &[ExistingForm]) -> String {
    let mut text = String::from("On nodes that exist:\n\n");
    for placement in placements {
        let _ = writeln!(
            text,
            "  {} -> {}: serves in {}",
            placement.pod,
            placement.node,
            parts(&placement.timing)
        );
        if let Some(second) = &placement.runner_up {
            let _ = writeln!(text, "       {}", second.text);
        }
        for said in given_up(&placement.given_up) {
            let _ = writeln!(text, "       {said}");
        }
    }
    text
}

fn given_up(given_up: &[GivenUpForm]) -> Vec<String> {
    let mut said: Vec<(&str, Vec<String>)> = Vec::new();
    for one in given_up {
        match said.iter_mut().find(|(what, _)| *what == one.preference) {
            Some((_, pods)) => pods.push(one.pod.clone()),
            None => said.push((one.preference, vec![one.pod.clone()])),
        }
    }
    let said = said.into_iter();
    said.map(|(what, of)| format!("given up: {what} of {}", pods(&of)))
        .collect()
}

fn unserved(plan: &PlanForm) -> String {
    let count: usize = plan.unserved.iter().map(|group| group.pods.len()).sum();
    let mut text = format!("Not served: {count} pod{}\n", words::plural(count as u64));
    for group in &plan.unserved {
        let _ = writeln!(text, "\n  {}:", pods(&group.pods));
        for line in &group.text {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

fn items(items: &[ItemForm]) -> String {
    let mut columns = Columns::new(&[
        ("what pods start with", Align::Left),
        ("to transfer", Align::Right),
        ("on disk", Align::Right),
        ("size", Align::Left),
    ]);
    for item in items {
        columns.row([
            words::short_item(&item.item),
            words::gigabytes(item.transfer_bytes),
            words::gigabytes(item.unpacked_bytes),
            item.basis.to_owned(),
        ]);
    }
    let mut text = columns.render(2);
    if items.iter().any(|item| item.basis == "assumed") {
        text += "  assumed: nobody said (a model by the parameters in its name, else 16 GB); --items FILE does\n";
    }
    text
}

fn basis(plan: &PlanForm) -> String {
    let mut text = String::new();
    for prices in &plan.prices {
        let _ = writeln!(text, "Prices: {prices}.");
    }
    let _ = writeln!(text, "{TIMES}");
    for note in &plan.notes {
        let _ = writeln!(text, "Note: {note}");
    }
    text
}

/// Names of pods, the first few.
pub(crate) fn pods(pods: &[String]) -> String {
    let shown = pods.iter().take(MOST_PODS).cloned().collect::<Vec<_>>();
    match pods.len().saturating_sub(MOST_PODS) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn usd(usd: f64) -> String {
    if usd < 0.1 {
        format!("{usd:.4}")
    } else {
        format!("{usd:.2}")
    }
}

fn usd_per_hour(price: f64) -> String {
    format!("{} USD/h", usd(price))
}
