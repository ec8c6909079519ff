//! The chart's dashboards and alerts ask for nothing that is not counted.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// An expression with where it stands.
pub(super) struct Asked {
    pub(super) place: String,
    pub(super) expression: String,
}

pub(super) fn chart(directory: &str) -> Vec<PathBuf> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/headstart");
    let entries = std::fs::read_dir(chart.join(directory)).expect("the chart has them");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{directory}");
    paths
}

/// Every query of every panel.
pub(super) fn panels() -> Vec<Asked> {
    let mut all = Vec::new();
    for path in chart("dashboards") {
        let text = std::fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&text).expect("a dashboard is JSON");
        for panel in dashboard["panels"].as_array().unwrap() {
            let place = format!("{}: {}", dashboard["title"], panel["title"]);
            assert!(
                panel["description"]
                    .as_str()
                    .is_some_and(|d| d.ends_with('.')),
                "{place}"
            );
            for target in panel["targets"].as_array().unwrap() {
                let expression = target["expr"].as_str().expect("a query");
                all.push(Asked {
                    place: place.clone(),
                    // What Grafana puts in for a scrape every 30 s.
                    expression: expression.replace("$__rate_interval", "2m"),
                });
            }
        }
    }
    all
}

fn rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for path in chart("alerts") {
        let text = std::fs::read_to_string(&path).unwrap();
        let file: Value = serde_saphyr::from_str(&text).expect("rules are YAML");
        for group in file["groups"].as_array().unwrap() {
            rules.extend(group["rules"].as_array().unwrap().iter().cloned());
        }
    }
    rules
}

/// The names in an expression that are metrics of ours.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("headstart_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_of_panels_and_alerts_is_counted_and_every_one_counted_is_shown() {
    let mut known = BTreeSet::new();
    for (name, kind) in Metrics::new().families() {
        if kind == MetricType::Histogram {
            known.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        } else {
            known.insert(name);
        }
    }
    let mut asked = panels();
    asked.extend(rules().iter().map(|rule| Asked {
        place: rule["alert"].to_string(),
        expression: rule["expr"].as_str().unwrap().to_owned(),
    }));
    let mut shown = BTreeSet::new();
    for Asked { place, expression } in &asked {
        let metrics = metrics_of(expression);
        assert!(!metrics.is_empty(), "{place}: {expression}");
        for metric in metrics {
            assert!(
                known.contains(&metric),
                "{place} asks for {metric}, which nobody counts"
            );
            shown.insert(metric);
        }
    }
    for (name, _) in Metrics::new().families() {
        assert!(
            shown.iter().any(|metric| metric.starts_with(&name)),
            "no panel shows {name}"
        );
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    for rule in rules() {
        let name = rule["alert"].as_str().expect("alerts only");
        let annotations = &rule["annotations"];
        for key in ["summary", "description", "runbook"] {
            let text = annotations[key].as_str().unwrap_or_default().trim();
            assert!(
                text.ends_with('.') || text.ends_with('?'),
                "{name}: {key}: {text:?}"
            );
        }
        assert!(
            annotations["runbook"].as_str().unwrap().starts_with("1. "),
            "{name}"
        );
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("warning" | "critical")), "{name}");
        assert!(rule["for"].is_string(), "{name} speaks at the first sight");
    }
}
