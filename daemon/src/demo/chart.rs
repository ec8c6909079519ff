//! Both timelines as one SVG picture on one time axis.
//!
//! The picture stands alone (fonts are the reader's, colours follow the reader's light or dark
//! preference) and is well-formed XML, so it can lie in a README or inside the page.

use std::fmt::Write as _;

use super::report::{Deploy, Report};
use super::scenario::{Seconds, short};
use super::timeline::{Lane, Order, Span};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 84.0;
const ROW: f64 = 24.0;
const BAR: f64 = 16.0;
const HEAD: f64 = 34.0;
const TOP: f64 = 8.0;
const GAP: f64 = 14.0;
const AXIS: f64 = 40.0;

/// Colours by class, light and dark.
const STYLE: &str = "
.ink{fill:#1c2330}.dim{fill:#5d6878}.grid{stroke:#d9dee7}.base{stroke:#9aa4b2}
.boot{fill:#a9b4c2}.image{fill:#1f8fc6}.weights{fill:#8a55c9}.engine{fill:#2e9e5b}
.hidden{opacity:.42}.saved{fill:#2e9e5b;opacity:.13}.mark{stroke:#2e9e5b;stroke-width:1.5}
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
.title{font-weight:650;font-size:14px}.small{font-size:12px}.end{text-anchor:end}.mid{text-anchor:middle}
@media (prefers-color-scheme:dark){
.ink{fill:#e8ecf3}.dim{fill:#9aa6b8}.grid{stroke:#2d3645}.base{stroke:#55617a}
.boot{fill:#64718a}.image{fill:#3fb1ea}.weights{fill:#b184ee}.engine{fill:#48c07a}
.saved{fill:#48c07a;opacity:.16}.mark{stroke:#48c07a}}
@media print{.ink{fill:#000}.dim{fill:#444}.grid{stroke:#ccc}.base{stroke:#888}
.boot{fill:#a9b4c2}.image{fill:#1f8fc6}.weights{fill:#8a55c9}.engine{fill:#2e9e5b}}
";

/// The picture.
pub(crate) fn svg(report: &Report) -> String {
    let rows = Lane::ALL.len() as f64;
    let block = HEAD + rows * ROW;
    let height = TOP + 2.0 * block + GAP + AXIS;
    let axis = Axis::to(report.axis());
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">
<style>{STYLE}</style>
"#,
        label = escape(&summary(report)),
    );
    let bottom = height - AXIS;
    for tick in axis.ticks() {
        let x = axis.x(tick);
        put(
            &mut out,
            format_args!(
                r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{TOP}" y2="{bottom}"/><text class="dim small mid" x="{x:.1}" y="{y:.1}">{tick}</text>"#,
                tick = short(tick.0),
                y = bottom + 16.0,
            ),
        );
    }
    put(
        &mut out,
        format_args!(
            r#"<text class="dim small end" x="{x:.1}" y="{y:.1}">full-scale seconds since the pod could not be scheduled</text>"#,
            x = WIDTH - 4.0,
            y = bottom + 33.0,
        ),
    );
    deploy(&mut out, report, &report.today, &axis, TOP);
    deploy(
        &mut out,
        report,
        &report.headstart,
        &axis,
        TOP + block + GAP,
    );
    out.push_str("</svg>\n");
    out
}

/// One deploy's lanes, its top at `top`.
fn deploy(out: &mut String, report: &Report, deploy: &Deploy, axis: &Axis, top: f64) {
    let order = deploy.timeline.order;
    let serving = deploy.serving();
    let (name, how) = match order {
        Order::Today => ("Today", "one after the other"),
        Order::Headstart => ("Headstart", "bytes move while the node boots"),
    };
    put(
        out,
        format_args!(
            r#"<text class="ink title" x="4" y="{y:.1}">{name}<tspan class="dim" font-weight="400">: {how}; serving after {serving}, exposed byte time {exposed}</tspan></text>"#,
            y = top + 18.0,
            exposed = report.exposed(deploy),
        ),
    );
    let first = top + HEAD;
    let below = first + Lane::ALL.len() as f64 * ROW;
    if order == Order::Headstart && report.saved().is_felt() {
        let (from, to) = (axis.x(serving), axis.x(report.today.serving()));
        put(
            out,
            format_args!(
                r#"<rect class="saved" x="{from:.1}" y="{first}" width="{w:.1}" height="{h:.1}"/><text class="ink small mid" x="{x:.1}" y="{y:.1}">{saved} saved</text>"#,
                w = to - from,
                h = below - first,
                x = f64::midpoint(from, to),
                y = f64::midpoint(first, below),
                saved = report.saved(),
            ),
        );
    }
    for (row, lane) in Lane::ALL.into_iter().enumerate() {
        let y = first + row as f64 * ROW;
        put(
            out,
            format_args!(
                r#"<text class="ink end" x="{x:.1}" y="{y:.1}">{label}</text>"#,
                x = LEFT - 10.0,
                y = y + 16.5,
                label = escape(lane.label()),
            ),
        );
        if let Some(span) = deploy.timeline.span(lane) {
            bar(out, report, deploy, lane, &span, axis, y);
        }
    }
    let x = axis.x(serving);
    let from = below - ROW;
    put(
        out,
        format_args!(
            r#"<line class="mark" x1="{x:.1}" x2="{x:.1}" y1="{from:.1}" y2="{below:.1}"/>"#
        ),
    );
}

fn bar(
    out: &mut String,
    report: &Report,
    deploy: &Deploy,
    lane: Lane,
    span: &Span,
    axis: &Axis,
    y: f64,
) {
    let end = span.end.unwrap_or(span.start);
    let (from, to) = (axis.x(span.start), axis.x(end));
    let took = span.took(span.start);
    let exposed = deploy.timeline.exposed(lane).unwrap_or(took);
    // What nobody waited for is drawn pale: it begins first and ends where the wait begins.
    let split = match lane.is_bytes() {
        true => to - (axis.x(exposed) - axis.x(Seconds::ZERO)).min(to - from),
        false => from,
    };
    let class = class(lane);
    for (left, right, hidden) in [(from, split, " hidden"), (split, to, "")] {
        if right - left < 0.05 {
            continue;
        }
        put(
            out,
            format_args!(
                r#"<rect class="{class}{hidden}" x="{left:.1}" y="{top:.1}" width="{w:.1}" height="{BAR}" rx="2"/>"#,
                top = y + (ROW - BAR) / 2.0,
                w = (right - left).max(1.0),
            ),
        );
    }
    let bytes = match span.moved {
        Some(moved) => format!("{}, ", moved.total),
        None => String::new(),
    };
    let hidden = match lane.is_bytes() && !exposed.is_felt() {
        true => ", hidden",
        false => "",
    };
    let bound = match deploy.fetch(lane) {
        Some(fetch) => format!(", bound by {}", report.bound(deploy.timeline.order, fetch)),
        None => String::new(),
    };
    put(
        out,
        format_args!(
            r#"<text class="dim small" x="{x:.1}" y="{ty:.1}">{bytes}{took}{hidden}<title>{title}</title></text>"#,
            x = to + 6.0,
            ty = y + 16.0,
            title = escape(&format!(
                "{}: {} to {}{bound}",
                lane.label(),
                span.start,
                end
            )),
        ),
    );
}

fn class(lane: Lane) -> &'static str {
    match lane {
        Lane::Network | Lane::Kubelet | Lane::Gpu => "boot",
        Lane::Image => "image",
        Lane::Weights => "weights",
        Lane::Container | Lane::Engine => "engine",
    }
}

/// Where a second is.
struct Axis {
    end: Seconds,
    step: f64,
}

impl Axis {
    fn to(end: Seconds) -> Self {
        let end = end.max(Seconds(0.1));
        let raw = end.0 / 8.0;
        let power = 10f64.powf(raw.log10().floor());
        let steps = [1.0, 2.0, 3.0, 5.0, 10.0];
        let step = steps.iter().map(|step| step * power).find(|s| *s >= raw);
        Self {
            end,
            step: step.unwrap_or(power * 10.0),
        }
    }

    fn x(&self, at: Seconds) -> f64 {
        LEFT + at.0 / self.end.0 * (WIDTH - LEFT - RIGHT)
    }

    fn ticks(&self) -> impl Iterator<Item = Seconds> {
        let count = (self.end.0 / self.step + 1e-9).floor() as u32;
        (0..=count).map(|n| Seconds(f64::from(n) * self.step))
    }
}

/// The picture in a sentence.
pub(crate) fn summary(report: &Report) -> String {
    format!(
        "Time to serving: today {}, Headstart {}; exposed byte time {} and {}",
        report.today.serving(),
        report.headstart.serving(),
        report.exposed(&report.today),
        report.exposed(&report.headstart),
    )
}

/// `text` inside XML.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

fn put(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{line}");
}
