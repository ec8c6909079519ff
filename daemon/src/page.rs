//! A page with the deploys and the caches as they are now, and the JSON it reads.
//!
//! Everything it needs is compiled in and comes from its own origin; a policy forbids anything else.
//! Addresses are relative, so it works below any path: behind the API server's proxy as well. It shows
//! names of pods, nodes and models and takes no input; who may see it is up to whoever serves it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;

use crate::ledger::clerk::Report;
use crate::metrics::{Format, Metrics};

pub(crate) mod command;
pub(crate) mod form;

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
const JS: &str = include_str!("page/page.js");
const ICON: &str = include_str!("page/icon.svg");

/// Nothing but the page's own files and its own origin.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `/`, its files, `/api/deploys` and `/api/caches`.
pub(crate) fn router(shown: watch::Receiver<Arc<Report>>) -> Router {
    let deploys = shown.clone();
    Router::new()
        .route("/", get(async || file(HTML, "text/html; charset=utf-8")))
        .route(
            "/page.css",
            get(async || file(CSS, "text/css; charset=utf-8")),
        )
        .route(
            "/page.js",
            get(async || file(JS, "text/javascript; charset=utf-8")),
        )
        .route("/icon.svg", get(async || file(ICON, "image/svg+xml")))
        .route(
            "/api/deploys",
            get(async move || json(&form::deploys(&latest(&deploys)))),
        )
        .route(
            "/api/caches",
            get(async move || json(&form::caches(&latest(&shown)))),
        )
}

/// `/metrics`.
pub(crate) fn metrics(metrics: Arc<Metrics>) -> Router {
    let answer = async move |headers: HeaderMap| -> Result<Response<Body>, Infallible> {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok());
        let format = Format::accepted(accept.unwrap_or_default());
        Ok(answer(metrics.encode(format), format.content_type()))
    };
    Router::new().route("/metrics", get(answer))
}

fn latest(shown: &watch::Receiver<Arc<Report>>) -> Arc<Report> {
    shown.borrow().clone()
}

fn json<T: Serialize>(form: &T) -> Response<Body> {
    match serde_json::to_string(form) {
        Ok(text) => answer(text, "application/json"),
        Err(_) => {
            let mut broken = answer(String::new(), "text/plain");
            *broken.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            broken
        }
    }
}

fn file(text: &'static str, kind: &'static str) -> Response<Body> {
    answer(text, kind)
}

fn answer(body: impl Into<Body>, kind: &'static str) -> Response<Body> {
    let mut answer = Response::new(body.into());
    let headers = answer.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, kind);
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    answer
}

#[cfg(test)]
mod tests;
