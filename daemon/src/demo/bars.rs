//! A timeline as lines of text, one per lane, for a terminal.

use console::{Color, Style};

use super::scenario::Seconds;
use super::timeline::{Lane, Order, Span, Timeline};

/// Columns of a lane's name.
const LABEL: usize = 18;

/// Columns of what is said after a bar.
const NOTE: usize = 32;

/// Fewest columns of a bar, however narrow the terminal.
const LEAST_BAR: usize = 20;

/// Most columns of a bar: longer ones are not clearer.
const MOST_BAR: usize = 100;

/// Whether lines carry colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Coloured,
}

/// The lines of `timeline` at `now`, on an axis of `axis` seconds, in `columns` columns.
pub(crate) fn lines(
    timeline: &Timeline,
    now: Seconds,
    axis: Seconds,
    columns: usize,
    paint: Paint,
) -> Vec<String> {
    let width = columns
        .saturating_sub(2 + LABEL + 1 + 1 + NOTE)
        .clamp(LEAST_BAR, MOST_BAR);
    let mut lines = vec![title(timeline, now, paint)];
    for lane in Lane::ALL {
        let label = lane.label();
        let Some(span) = timeline.span(lane) else {
            lines.push(format!("  {label:<LABEL$}"));
            continue;
        };
        let bar = bar(&span, now, axis, width);
        let pad = " ".repeat(width.saturating_sub(bar.chars().count()));
        let bar = styled(&bar, Style::new().fg(colour(lane)), paint);
        let note = note(timeline, lane, &span, now);
        lines.push(format!("  {label:<LABEL$} {bar}{pad} {note}"));
    }
    lines
}

fn title(timeline: &Timeline, now: Seconds, paint: Paint) -> String {
    let name = match timeline.order {
        Order::Today => "TODAY      one after the other",
        Order::Headstart => "HEADSTART  bytes move while the node boots",
    };
    let name = styled(name, Style::new().bold(), paint);
    match timeline.serving() {
        Some(serving) => format!("{name}: serving after {serving}"),
        None => format!("{name}: {now:>7}"),
    }
}

fn styled(text: &str, style: Style, paint: Paint) -> String {
    match paint {
        Paint::Plain => text.to_owned(),
        Paint::Coloured => style.force_styling(true).apply_to(text).to_string(),
    }
}

fn bar(span: &Span, now: Seconds, axis: Seconds, width: usize) -> String {
    let column = |at: Seconds| ((at.0 / axis.0.max(0.001)) * width as f64).round() as usize;
    let start = column(span.start).min(width - 1);
    let end = column(span.end.unwrap_or(now)).clamp(start + 1, width.max(start + 1));
    format!("{}{}", " ".repeat(start), "█".repeat(end - start))
}

/// How long it took, and for bytes how many, and how far or how hidden they are.
fn note(timeline: &Timeline, lane: Lane, span: &Span, now: Seconds) -> String {
    let took = span.took(now);
    let Some(moved) = span.moved else {
        return format!("{took:>8}");
    };
    if span.end.is_none() {
        return format!("{took:>8}  {} / {}", moved.done, moved.total);
    }
    let total = moved.total;
    match (timeline.order, timeline.exposed(lane)) {
        (Order::Today, _) => format!("{took:>8}  {total}"),
        (Order::Headstart, Some(exposed)) if exposed.is_felt() => {
            format!("{took:>8}  {total}, {exposed} exposed")
        }
        (Order::Headstart, _) => format!("{took:>8}  {total}, hidden"),
    }
}

fn colour(lane: Lane) -> Color {
    match lane {
        Lane::Network | Lane::Kubelet | Lane::Gpu => Color::Color256(245),
        Lane::Image => Color::Cyan,
        Lane::Weights => Color::Magenta,
        Lane::Container | Lane::Engine => Color::Green,
    }
}

#[cfg(test)]
mod tests;
