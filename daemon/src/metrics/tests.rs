use std::sync::Arc;

use expect_test::expect;
use headstart_core::money::Millis;
use headstart_core::plan::Plan;
use headstart_core::reason::{NotFetched, NotServed, Rejection, Tally};
use serde_json::json;

use super::*;
use crate::ledger::{Moment, Objects, Once};

mod chart;
#[cfg(feature = "e2e")]
mod prometheus;

fn lines(metrics: &Metrics, beginnings: &[&str]) -> String {
    let text = metrics.encode(Format::Prometheus);
    let mut found: Vec<&str> = text
        .lines()
        .filter(|line| {
            beginnings.iter().any(|b| line.starts_with(b))
                && !line.ends_with(" 0")
                && !line.ends_with(" 0.0")
        })
        .collect();
    found.sort_unstable();
    found.join("\n") + "\n"
}

fn objects() -> Objects {
    let claim = |name: &str, capacity: &str, price: f64, bought: bool| {
        let instance = bought.then(|| json!({"providerId": name}));
        let claim = json!({
            "metadata": {"name": name},
            "spec": {"price": price, "offering": {
                "instanceType": "g6.xlarge", "zone": "a", "capacityType": capacity,
            }},
            "status": {"instance": instance, "stages": {}},
        });
        Arc::new(serde_json::from_value(claim).unwrap())
    };
    let cache = json!({
        "metadata": {"name": "n1"},
        "spec": {"generation": 1, "items": [
            {"model": "org/b@0123456789abcdef0123456789abcdef01234567", "bytes": "7G"},
        ]},
        "status": {"generation": 1, "observed": "2026-11-25T08:00:00Z", "room": "100G", "items": [
            {"image": "docker.io/a/b@sha256:1", "state": "Verified", "started": "2026-11-25T08:00:00Z",
             "verified": "2026-11-25T08:00:10.5Z", "sources": [
                {"kind": "registry", "bytes": 3000}, {"kind": "peer", "bytes": 1000},
                {"kind": "carrier-pigeon", "bytes": 1}]},
            {"model": "org/b@0123456789abcdef0123456789abcdef01234567", "state": "Verified"},
            {"model": "org/c@0123456789abcdef0123456789abcdef01234567", "state": "Partial", "bytes": "1G"},
            {"model": "org/d@0123456789abcdef0123456789abcdef01234567", "problem": "401"},
        ]},
    });
    Objects {
        claims: vec![
            claim("c1", "spot", 0.4, true),
            claim("c2", "on-demand", 0.8, true),
            claim("c3", "spot", 0.4, false),
        ],
        caches: vec![Arc::new(serde_json::from_value(cache).unwrap())],
        ..Objects::default()
    }
}

fn moment(text: &str) -> Moment {
    Moment::of(text.parse().unwrap())
}

#[test]
fn caches_are_shown_and_what_was_fetched_is_counted_once() {
    let metrics = Metrics::new();
    let mut once = Once::since(moment("2026-11-25T08:00:00Z"));
    let now = moment("2026-11-25T08:01:00Z");
    metrics.caches(&objects(), &mut once, now);
    metrics.caches(&objects(), &mut once, now);
    expect![[r#"
        headstart_cache_bytes{kind="image"} 4001
        headstart_cache_bytes{kind="weights"} 7000000000
        headstart_cache_items{kind="image",state="verified"} 1
        headstart_cache_items{kind="weights",state="failed"} 1
        headstart_cache_items{kind="weights",state="partial"} 1
        headstart_cache_items{kind="weights",state="verified"} 1
        headstart_cache_nodes{reports="fresh"} 1
        headstart_cache_room_bytes 100000000000
        headstart_prefetch_bytes_total{kind="image",source="other"} 1
        headstart_prefetch_bytes_total{kind="image",source="peer"} 1000
        headstart_prefetch_bytes_total{kind="image",source="registry"} 3000
        headstart_prefetch_duration_seconds_sum{kind="image"} 10.5
    "#]]
    .assert_eq(&lines(
        &metrics,
        &[
            "headstart_cache",
            "headstart_prefetch_bytes",
            "headstart_prefetch_duration_seconds_sum",
        ],
    ));
}

#[test]
fn what_is_saved_is_what_the_same_instances_would_cost_more_on_demand() {
    let metrics = Metrics::new();
    metrics.claims(&objects(), &|_| HourlyPrice::from_usd(0.8).ok());
    expect![[r#"
        headstart_nodes_cost_usd_per_hour{capacity_type="on-demand"} 0.8
        headstart_nodes_cost_usd_per_hour{capacity_type="spot"} 0.4
        headstart_nodes_saved_usd_per_hour{capacity_type="spot"} 0.4
        headstart_nodes{capacity_type="on-demand"} 1
        headstart_nodes{capacity_type="spot"} 1
    "#]]
    .assert_eq(&lines(&metrics, &["headstart_nodes"]));
}

#[test]
fn decisions_are_those_of_the_last_plan_by_what_excluded_most() {
    let metrics = Metrics::new();
    let tally = |rejection, count| Tally {
        rejection,
        count,
        example: "x".to_owned(),
    };
    let mut plan = Plan::default();
    let waits = NotServed::NoCandidate {
        nodes: vec![tally(Rejection::Leaving, 9)],
        offerings: vec![(
            "p".to_owned(),
            vec![tally(Rejection::NotSold, 2), tally(Rejection::Dedicated, 5)],
        )],
    };
    plan.unserved
        .push((headstart_core::pod::ObjectKey::new("a", "b"), waits));
    let fetch = Prefetch {
        target: Target::Node("n".to_owned()),
        items: Vec::new(),
        skipped: vec![(
            crate::manifest::item::image("a/b:c").unwrap(),
            NotFetched::NoInventory {
                age: Some(Millis(1)),
            },
        )],
    };
    metrics.planned(&plan, &[fetch], &RetirementPlan::default());
    expect![[r#"
        headstart_decisions{decision="not-fetch",reason="NoInventory"} 1
        headstart_decisions{decision="wait",reason="Dedicated"} 1
    "#]]
    .assert_eq(&lines(&metrics, &["headstart_decisions"]));
    metrics.planned(&Plan::default(), &[], &RetirementPlan::default());
    assert_eq!(lines(&metrics, &["headstart_decisions"]).trim(), "");
}

#[test]
fn every_family_is_named_by_the_conventions() {
    let families = Metrics::new().families();
    assert!(families.len() > 25, "{families:?}");
    for (name, kind) in &families {
        assert!(name.starts_with("headstart_"), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            *kind == MetricType::Counter,
            "{name} is a {kind:?}"
        );
        if *kind == MetricType::Histogram {
            assert!(name.ends_with("_seconds"), "{name}");
        }
    }
}

#[test]
fn a_scraper_gets_the_format_it_asks_for() {
    let metrics = Metrics::new();
    let open = Format::accepted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    assert!(metrics.encode(open).ends_with("# EOF\n"));
    let plain = metrics.encode(Format::accepted("text/plain"));
    assert!(!plain.contains("# EOF"), "{plain}");
    assert!(plain.contains("headstart_build_info{version="), "{plain}");
}

#[test]
fn notices_are_counted_by_who_told_of_them_and_begin_at_nothing() {
    use super::label::{Notice, Threat};
    let metrics = Metrics::new();
    metrics.noticed(Notice::Aws, Threat::AtRisk);
    metrics.noticed(Notice::Aws, Threat::AtRisk);
    metrics.noticed(Notice::Provider, Threat::Taken);
    expect![[r#"
        headstart_interruption_notices_total{source="aws",kind="at-risk"} 2
        headstart_interruption_notices_total{source="provider",kind="taken"} 1
    "#]]
    .assert_eq(&lines(&metrics, &["headstart_interruption"]));
    let text = metrics.encode(Format::Prometheus);
    let all = text
        .lines()
        .filter(|line| line.starts_with("headstart_interruption"));
    assert_eq!(all.count(), 12);
}
