//! OTLP's JSON form of traces, as far as it is used. Source: opentelemetry-proto 1.x,
//! `trace/v1/trace.proto`, and the JSON encoding of the OTLP specification: ids in hexadecimal, 64-bit
//! integers as text.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::ledger::{Deploy, Moment, words};

/// `SPAN_KIND_INTERNAL`.
const INTERNAL: u8 = 1;

/// A request to export.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    resource: Resource,
    scope_spans: [ScopeSpans; 1],
}

#[derive(Debug, Serialize)]
struct Resource {
    attributes: Vec<Attribute>,
}

#[derive(Debug, Serialize)]
struct ScopeSpans {
    scope: Scope,
    spans: Vec<Span>,
}

#[derive(Debug, Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    trace_id: String,
    span_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    parent_span_id: String,
    name: String,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Attribute>,
}

#[derive(Debug, Serialize)]
struct Attribute {
    key: &'static str,
    value: BTreeMap<&'static str, Value>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Number(f64),
    Flag(bool),
}

fn text(key: &'static str, value: impl Into<String>) -> Attribute {
    Attribute {
        key,
        value: BTreeMap::from([("stringValue", Value::Text(value.into()))]),
    }
}

fn number(key: &'static str, value: f64) -> Attribute {
    Attribute {
        key,
        value: BTreeMap::from([("doubleValue", Value::Number(value))]),
    }
}

fn flag(key: &'static str, value: bool) -> Attribute {
    Attribute {
        key,
        value: BTreeMap::from([("boolValue", Value::Flag(value))]),
    }
}

/// Bytes are an integer, which OTLP's JSON writes as text.
fn bytes(key: &'static str, value: u64) -> Attribute {
    Attribute {
        key,
        value: BTreeMap::from([("intValue", Value::Text(value.to_string()))]),
    }
}

/// The request that exports these deploys.
pub(super) fn request(deploys: &[Arc<Deploy>]) -> Request {
    Request {
        resource_spans: deploys.iter().map(|deploy| of(deploy)).collect(),
    }
}

fn of(deploy: &Deploy) -> ResourceSpans {
    let mut attributes = vec![
        text("service.name", "headstart"),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("k8s.namespace.name", &deploy.pod.namespace),
        text("k8s.pod.name", &deploy.pod.name),
        text("k8s.pod.uid", &deploy.uid),
    ];
    attributes.extend(deploy.node.as_ref().map(|node| text("k8s.node.name", node)));
    let host = deploy.instance_type.as_ref();
    attributes.extend(host.map(|kind| text("host.type", kind)));
    let scope = Scope {
        name: "headstart.ledger",
        version: env!("CARGO_PKG_VERSION"),
    };
    ResourceSpans {
        resource: Resource { attributes },
        scope_spans: [ScopeSpans {
            scope,
            spans: spans(deploy),
        }],
    }
}

fn spans(deploy: &Deploy) -> Vec<Span> {
    const ROOT: &str = "headstart.deploy";
    let trace = trace_id(&deploy.uid);
    let root = span_id(&deploy.uid, ROOT);
    let end = deploy.served.unwrap_or(deploy.seen);
    let span = |name: String, parent: &str, from: Moment, to: Moment, attributes| Span {
        trace_id: trace.clone(),
        span_id: span_id(&deploy.uid, &name),
        parent_span_id: parent.to_owned(),
        name,
        kind: INTERNAL,
        start_time_unix_nano: nanos(from),
        end_time_unix_nano: nanos(to.max(from)),
        attributes,
    };
    let mut of_deploy = vec![
        text("headstart.cached", deploy.cached.word()),
        number(
            "headstart.exposed_byte_seconds",
            deploy.exposed().as_secs_f64(),
        ),
        number(
            "headstart.hidden_byte_seconds",
            deploy.hidden().as_secs_f64(),
        ),
        flag("headstart.exposed_at_most", deploy.exposed_at_most()),
    ];
    let capacity = deploy
        .capacity
        .map(|one| text("headstart.capacity_type", one.as_str()));
    of_deploy.extend(capacity);
    let remarks: Vec<String> = deploy.remarks.iter().map(words::remark).collect();
    if !remarks.is_empty() {
        of_deploy.push(text("headstart.remarks", remarks.join("; ")));
    }
    let mut spans = vec![Span {
        span_id: root.clone(),
        ..span(ROOT.to_owned(), "", deploy.created, end, of_deploy)
    }];
    let took = deploy.intervals.iter().filter(|one| !one.took().is_zero());
    spans.extend(took.map(|one| {
        let name = format!("headstart.stage.{}", one.stage.word());
        let known = vec![text("headstart.known", words::known(one.known))];
        span(name, &root, one.start, one.end, known)
    }));
    for item in &deploy.items {
        let Some((from, to)) = item.span(deploy.seen) else {
            continue;
        };
        let mut attributes = vec![
            text("headstart.item", &item.name),
            text("headstart.cached", item.cached.word()),
            number("headstart.exposed_seconds", item.exposed.as_secs_f64()),
        ];
        attributes.extend(item.bytes.map(|n| bytes("headstart.bytes", n)));
        let name = format!("headstart.fetch.{}", item.kind.word());
        spans.push(Span {
            // Two items of a kind are two spans.
            span_id: span_id(&deploy.uid, &item.name),
            ..span(name, &root, from, to, attributes)
        });
    }
    spans
}

/// The pod's UID, which is 128 bits; what is no UUID is hashed to as many.
pub(super) fn trace_id(uid: &str) -> String {
    let digits: String = uid.chars().filter(|c| *c != '-').collect();
    let is_uuid = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
    let zero = digits.chars().all(|c| c == '0');
    match is_uuid && !zero {
        true => digits.to_ascii_lowercase(),
        false => hex(&Sha256::digest(uid.as_bytes())[..16]),
    }
}

fn span_id(uid: &str, name: &str) -> String {
    hex(&Sha256::digest(format!("{uid}/{name}").as_bytes())[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn nanos(moment: Moment) -> String {
    (i128::from(moment.0.max(0)) * 1000).to_string()
}
