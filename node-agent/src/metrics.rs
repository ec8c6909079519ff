//! Figures over HTTP: `/metrics` for Prometheus, `/healthz` and `/readyz` for the kubelet.
//!
//! Labels come from enums: no model, image or pod is named, since whoever reads metrics need not be
//! allowed to know what runs here.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use headstart_transfer::net::AnswerClass;
use headstart_transfer::source::SourceKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;

use crate::agent::{Agent, Kind, source_name};
use crate::items::blocking;
use crate::report::chain;
use crate::store::StoreError;

/// What a scraper takes: OpenMetrics text.
const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until dropped; without a listener it does nothing.
pub(crate) async fn serve(
    listener: Option<TcpListener>,
    agent: Agent,
    csi: Arc<crate::csi::Metrics>,
) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let figures = Arc::new(Mutex::new(Figures::new(&csi)));
    let ready = agent.clone();
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/readyz",
            get(async move || match ready.is_open() {
                true => (StatusCode::OK, "ok\n"),
                false => (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "another agent has the store\n",
                ),
            }),
        )
        .route(
            "/metrics",
            get(async move || {
                let (figures, agent) = (figures.clone(), agent.clone());
                let text = blocking(move || {
                    let mut figures = figures.lock().unwrap_or_else(|e| e.into_inner());
                    figures.text(&agent)
                });
                match text.await {
                    Ok(text) => ([(CONTENT_TYPE, TEXT)], text).into_response(),
                    Err(error) => {
                        let said = format!("{}\n", chain(&error));
                        (StatusCode::INTERNAL_SERVER_ERROR, said).into_response()
                    }
                }
            }),
        );
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(reason = %chain(&error), "metrics are no longer served");
    }
    std::future::pending::<()>().await;
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfItem {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSource {
    kind: &'static str,
    source: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAnswer {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBuild {
    version: &'static str,
}

/// Everything that is measured.
struct Figures {
    registry: Registry,
    bytes: Family<OfSource, Counter>,
    seconds: Family<OfItem, Histogram, fn() -> Histogram>,
    requests: Family<OfAnswer, Counter>,
    items: Family<OfState, Gauge>,
    cache: Gauge,
    room: Gauge,
    evicted: Counter,
    evicted_bytes: Counter,
    mismatches: Counter,
}

impl Figures {
    fn new(csi: &crate::csi::Metrics) -> Self {
        // From half a second to about an hour and a half.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.5, 2.0, 14));
        let mut figures = Self {
            registry: Registry::with_prefix("headstart_agent"),
            bytes: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            requests: Family::default(),
            items: Family::default(),
            cache: Gauge::default(),
            room: Gauge::default(),
            evicted: Counter::default(),
            evicted_bytes: Counter::default(),
            mismatches: Counter::default(),
        };
        let mut registry = std::mem::take(&mut figures.registry);
        registry.register(
            "fetched_bytes",
            "Bytes fetched, by kind of item and where they came from",
            figures.bytes.clone(),
        );
        registry.register_with_unit(
            "item",
            "Time from the first request for an item to all of it verified",
            Unit::Seconds,
            figures.seconds.clone(),
        );
        registry.register(
            "upstream_requests",
            "Requests to registries and the Hub, by how they were answered",
            figures.requests.clone(),
        );
        registry.register("items", "Items by how far they are", figures.items.clone());
        registry.register("cache_bytes", "Bytes in the store", figures.cache.clone());
        registry.register(
            "room_bytes",
            "Bytes that may still be written to the store",
            figures.room.clone(),
        );
        registry.register(
            "evictions",
            "Models and images removed to make room",
            figures.evicted.clone(),
        );
        registry.register(
            "evicted_bytes",
            "Bytes removed to make room",
            figures.evicted_bytes.clone(),
        );
        registry.register(
            "verify_failures",
            "Blobs whose bytes were all there and wrong",
            figures.mismatches.clone(),
        );
        let build = Family::<OfBuild, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&OfBuild { version }).set(1);
        registry.register("build_info", "Always 1", build);
        csi.register(&mut registry);
        figures.registry = registry;
        figures
    }

    fn text(&mut self, agent: &Agent) -> Result<String, StoreError> {
        let (bytes, mismatches) = agent.bytes();
        for kind in Kind::ALL {
            for source in SourceKind::ALL {
                let of = OfSource {
                    kind: kind.name(),
                    source: source_name(source),
                };
                let found = bytes[kind as usize][source as usize];
                raise(&self.bytes.get_or_create(&of), found);
            }
            for (state, count) in agent.states(kind) {
                let of = OfState {
                    kind: kind.name(),
                    state,
                };
                self.items.get_or_create(&of).set(count);
            }
        }
        for (kind, took) in agent.took() {
            let of = OfItem { kind: kind.name() };
            self.seconds.get_or_create(&of).observe(took.as_secs_f64());
        }
        for class in AnswerClass::ALL {
            let of = OfAnswer {
                class: class_name(class),
            };
            raise(
                &self.requests.get_or_create(&of),
                agent.tally().count(class),
            );
        }
        let inventory = agent.store().inventory()?;
        let models: u64 = inventory.items.iter().map(|item| item.bytes).sum();
        let images: u64 = inventory.images.iter().map(|image| image.note.bytes).sum();
        let held = models + images + inventory.orphan_bytes + inventory.partial_bytes;
        self.cache.set(i64::try_from(held).unwrap_or(i64::MAX));
        let room = i64::try_from(inventory.usable_bytes);
        self.room.set(room.unwrap_or(i64::MAX));
        let (evicted, evicted_bytes) = agent.store().evicted();
        raise(&self.evicted, evicted);
        raise(&self.evicted_bytes, evicted_bytes);
        raise(&self.mismatches, mismatches);
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes every text");
        Ok(text)
    }
}

/// Brings a counter to what was counted elsewhere.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

fn class_name(class: AnswerClass) -> &'static str {
    match class {
        AnswerClass::Success => "success",
        AnswerClass::Redirect => "redirect",
        AnswerClass::Denied => "denied",
        AnswerClass::Limited => "rate_limited",
        AnswerClass::Client => "client_error",
        AnswerClass::Server => "server_error",
        AnswerClass::None => "none",
    }
}
