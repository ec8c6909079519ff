//! What the daemon says over HTTP: `/healthz`, `/readyz`, `/metrics`, `/plan`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::gauges::Gauges;

/// How long a page waits for the loop.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the pages are made of.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) gauges: Arc<Gauges>,
    pub(super) registry: Arc<Mutex<Registry>>,
    pub(super) plans: mpsc::Sender<oneshot::Sender<String>>,
}

/// Listens at `address`.
///
/// # Errors
/// If it is taken.
pub(super) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until `stop`. Pages of other parts are merged in by `more`.
pub(super) async fn serve(
    listener: TcpListener,
    pages: Pages,
    more: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let own = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/plan", get(plan))
        .with_state(pages);
    axum::serve(listener, own.merge(more))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
}

async fn healthz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    match pages.gauges.is_alive() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the loop does not turn\n"),
    }
}

async fn readyz(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    match pages.gauges.is_ready() {
        true => (StatusCode::OK, "ok\n"),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not every watch has listed yet\n",
        ),
    }
}

async fn metrics(State(pages): State<Pages>) -> Response {
    let mut text = String::new();
    let registry = pages
        .registry
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn plan(State(pages): State<Pages>) -> Response {
    let (ask, answer) = oneshot::channel();
    let asked = pages.plans.send(ask);
    let answered = tokio::time::timeout(PATIENCE, async {
        asked.await.ok()?;
        answer.await.ok()
    });
    match answered.await {
        Ok(Some(text)) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the loop is busy\n").into_response(),
    }
}
