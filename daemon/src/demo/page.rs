//! The result as one HTML page: nothing to load, nothing to run, well-formed as XML.

use std::fmt::Write as _;

use super::chart::{self, escape};
use super::report::{Deploy, Report};
use super::scenario::{Scenario, short};
use super::table;
use super::timeline::Lane;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2330;--dim:#5d6878;--line:#d9dee7;--paper:#fff;--card:#f5f7fa;--good:#1f7a45}
@media (prefers-color-scheme:dark){:root{--ink:#e8ecf3;--dim:#9aa6b8;--line:#2d3645;--paper:#12161d;--card:#1a202a;--good:#5fd391}}
@media print{:root{--ink:#000;--dim:#444;--line:#ccc;--paper:#fff;--card:#fff}.card{border:1px solid #ccc}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 48px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}
p{margin:0 0 8px}.dim{color:var(--dim)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:20px 0}
.card{background:var(--card);border-radius:8px;padding:14px 16px}
.card b{display:block;font-size:26px;line-height:1.2;font-variant-numeric:tabular-nums}
.card span{color:var(--dim);font-size:13px}.good{color:var(--good)}
figure{margin:0;overflow-x:auto}figure svg{display:block;min-width:720px;width:100%;height:auto}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child,td.remark,th.remark{text-align:left}td.remark{white-space:normal;color:var(--dim);font-size:13px}
th{font-weight:600;color:var(--dim);font-size:13px}tr.sum td{font-weight:650;border-top:2px solid var(--line)}
ul{margin:0;padding-left:20px}li{margin:4px 0}
";

/// The page.
pub(crate) fn html(report: &Report) -> String {
    let mut out = String::new();
    let title = format!(
        "Serving after {} instead of {}",
        report.headstart.serving(),
        report.today.serving()
    );
    put(
        &mut out,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <title>Headstart demo: {title}</title>\n<style>{STYLE}</style>\n</head>\n<body><main>\n\
             <h1>{title}</h1>\n<p class=\"dim\">{deployed}. Seconds are those of the full-scale deploy; it \
             was played {time} times faster, with a {bytes}th of its bytes.</p>",
            time = short(report.scales.time),
            bytes = short(report.scales.bytes),
            title = escape(&title),
            deployed = escape(&capitalised(&Report::deployed(&report.scenario))),
        ),
    );
    cards(&mut out, report);
    put(
        &mut out,
        format_args!(
            "<figure>{}</figure>\n<p class=\"dim\">Pale bars are bytes that nobody waited for.</p>",
            chart::svg(report)
        ),
    );
    stages(&mut out, report);
    bounds(&mut out, report);
    scenario(&mut out, report);
    list(&mut out, "What is real, and what is not", &report.honesty());
    out.push_str("</main></body>\n</html>\n");
    out
}

fn cards(out: &mut String, report: &Report) {
    let cards = [
        (
            format!("{:.1}x", report.factor()),
            format!("sooner: {} saved", report.saved()),
        ),
        (
            report.exposed(&report.headstart).to_string(),
            "exposed byte time with Headstart".to_owned(),
        ),
        (
            report.exposed(&report.today).to_string(),
            "exposed byte time today".to_owned(),
        ),
        (
            report.empty.serving().to_string(),
            "to serving if there were no bytes at all".to_owned(),
        ),
    ];
    out.push_str("<div class=\"cards\">\n");
    for (index, (figure, what)) in cards.iter().enumerate() {
        let good = if index < 2 { " class=\"good\"" } else { "" };
        put(
            out,
            format_args!(
                "<div class=\"card\"><b{good}>{}</b><span>{}</span></div>",
                escape(figure),
                escape(what)
            ),
        );
    }
    out.push_str("</div>\n");
}

fn stages(out: &mut String, report: &Report) {
    put(
        out,
        format_args!(
            "<h2>Where the time goes</h2>\n<div class=\"wide\"><table>\n<tr><th>stage</th><th>today</th>\
         <th>Headstart</th><th>saved</th><th class=\"remark\">{}</th></tr>",
            table::REMARK
        ),
    );
    for lane in Lane::ALL {
        let today = report.today.timeline.stage(lane);
        let headstart = report.headstart.timeline.stage(lane);
        let saved = table::saved(today - headstart);
        let remark = escape(&table::remark(report, lane));
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td>{today}</td><td>{headstart}</td><td>{saved}</td>\
                 <td class=\"remark\">{remark}</td></tr>",
                escape(lane.label()),
            ),
        );
    }
    put(
        out,
        format_args!(
            "<tr class=\"sum\"><td>serving after</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class=\"remark\">the sum of the stages</td></tr>",
            report.today.serving(),
            report.headstart.serving(),
            table::saved(report.saved()),
        ),
    );
    put(
        out,
        format_args!(
            "<tr class=\"sum\"><td>exposed byte time</td><td>{}</td><td>{}</td><td></td>\
             <td class=\"remark\">beyond the {} of a run without bytes</td></tr>\n</table></div>",
            report.exposed(&report.today),
            report.exposed(&report.headstart),
            report.empty.serving(),
        ),
    );
}

fn bounds(out: &mut String, report: &Report) {
    let of = |name: &str, deploy: &Deploy| {
        let fetches = table::fetches(report, deploy).into_iter();
        fetches
            .map(|fetch| format!("{name}, {fetch}."))
            .collect::<Vec<_>>()
    };
    let mut bounds = of("Today", &report.today);
    bounds.extend(of("Headstart", &report.headstart));
    list(out, "What bounded the bytes", &bounds);
}

fn scenario(out: &mut String, report: &Report) {
    let Scenario { boot, .. } = &report.scenario;
    let facts = [
        format!("{}.", capitalised(&Report::deployed(&report.scenario))),
        format!(
            "{} node: network up after {}, Ready after {}, GPU allocatable after {}. Origin: {}.",
            boot.name, boot.network_up, boot.node_ready, boot.gpu_allocatable, boot.origin
        ),
        format!(
            "Scales: {}.",
            Report::scaled(&report.scenario, &report.scales)
        ),
        format!("Images go to {}.", report.runtime()),
        format!(
            "The whole demo took {:.0} s on this machine.",
            report.took.as_secs_f64()
        ),
    ];
    list(out, "The scenario", &facts);
}

fn list(out: &mut String, heading: &str, items: &[String]) {
    put(out, format_args!("<h2>{heading}</h2>\n<ul>"));
    for item in items {
        put(out, format_args!("<li>{}</li>", escape(item)));
    }
    out.push_str("</ul>\n");
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests;
