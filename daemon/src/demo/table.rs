//! The result as text: the table of stages, and the exposed byte time.

use std::fmt::Write as _;

use super::report::{Deploy, Report};
use super::scenario::{Seconds, bits};
use super::timeline::{Lane, Order};

/// What the last column says of bytes.
pub(crate) const REMARK: &str = "its fetch (bound by)";

/// Columns: stage, today, Headstart, saved, a remark.
pub(crate) fn table(report: &Report) -> String {
    let mut text = String::new();
    let mut row = |stage: &str, today: &str, headstart: &str, saved: &str, remark: &str| {
        let line = format!("{stage:<20} {today:>9} {headstart:>10} {saved:>9}  {remark}");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row("stage", "today", "Headstart", "saved", REMARK);
    for lane in Lane::ALL {
        let today = report.today.timeline.stage(lane);
        let headstart = report.headstart.timeline.stage(lane);
        row(
            lane.label(),
            &today.to_string(),
            &headstart.to_string(),
            &saved(today - headstart),
            &remark(report, lane),
        );
    }
    row(
        "serving after",
        &report.today.serving().to_string(),
        &report.headstart.serving().to_string(),
        &saved(report.saved()),
        &format!("{:.1}x sooner", report.factor()),
    );
    row(
        "exposed byte time",
        &report.exposed(&report.today).to_string(),
        &report.exposed(&report.headstart).to_string(),
        "",
        "beyond a run without bytes",
    );
    text
}

/// A difference, or nothing where there is none to a tenth of a second.
pub(crate) fn saved(difference: Seconds) -> String {
    match difference.0.abs() < 0.05 {
        true => "-".to_owned(),
        false => difference.to_string(),
    }
}

/// What became of the bytes of a lane under Headstart.
pub(crate) fn remark(report: &Report, lane: Lane) -> String {
    let fetched = report.headstart.fetch(lane);
    let span = report.headstart.timeline.span(lane);
    let (Some(fetch), Some(span)) = (fetched, span) else {
        return String::new();
    };
    let took = span.took(Seconds::ZERO);
    let exposed = report.headstart.timeline.stage(lane);
    let bound = report.bound(Order::Headstart, fetch);
    match (exposed.is_felt(), (took - exposed).is_felt()) {
        (false, _) => format!("{took} during boot ({bound})"),
        (true, true) => format!("{took}, {exposed} exposed ({bound})"),
        (true, false) => format!("{took} ({bound})"),
    }
}

/// What each fetch of a deploy moved, how fast, and what bound it.
pub(crate) fn fetches(report: &Report, deploy: &Deploy) -> Vec<String> {
    let describe = |fetch: &super::report::Fetch| {
        format!(
            "{}: {} at {}, bound by {}",
            fetch.lane.label(),
            report.scales.full_bytes(fetch.fetched),
            bits(report.full_rate(fetch)),
            report.bound(deploy.timeline.order, fetch),
        )
    };
    deploy.fetches.iter().map(describe).collect()
}

/// `text` broken at spaces into lines of at most `columns`, all but the first indented by two.
pub(crate) fn wrap(text: &str, columns: usize) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if length > 0 && length + 1 + letters > columns {
            lines.push_str("\n  ");
            length = 2;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += letters;
    }
    lines
}

#[cfg(test)]
mod tests;
