//! One trace per deploy, sent to a collector over OTLP/HTTP when one is named.
//!
//! The trace's id is the pod's UID without its dashes: whoever knows the pod knows the trace, and
//! another program that adds a span to it needs no context handed over. Ids of spans follow from the
//! UID and the span's name, so that sending twice makes no second span. Spans: `headstart.deploy`, one
//! per stage that took time, one per item as it moved. Their times are those of the objects' stamps.
//!
//! The form is OTLP's JSON, written with plain structs over the HTTP client that is there anyway: the
//! SDK would add eight crates and a batching runtime of its own for one request per deploy. Delivery is
//! tried three times; what is not taken then is dropped, and said.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use headstart_agent::report::chain;
use reqwest::StatusCode;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use url::Url;

use super::Deploy;

mod form;

/// Deploys that may wait to be sent.
const QUEUE: usize = 256;

/// Most deploys in one request.
const BATCH: usize = 32;

/// How often a request is tried, and how long after the first failure the second is.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// How long a collector may take for a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where traces go.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TraceArgs {
    /// OTLP/HTTP endpoint of a collector, such as http://collector:4318; `/v1/traces` is added. Without
    /// it nothing is traced
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<Url>,
}

/// Starts sending, if a collector is named. What is sent to the sender is traced, until `end`.
///
/// # Errors
/// In one line, if the endpoint cannot be used.
pub(crate) fn sender(
    args: &TraceArgs,
    end: CancellationToken,
) -> Result<Option<mpsc::Sender<Arc<Deploy>>>, String> {
    let Some(base) = &args.otlp_endpoint else {
        return Ok(None);
    };
    if !matches!(base.scheme(), "http" | "https") {
        return Err(format!(
            "--otlp-endpoint {base}: write http://HOST:4318 or https://HOST"
        ));
    }
    let mut target = base.clone();
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    target.set_path(&path);
    // Both ends of a second installation would be the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| format!("--otlp-endpoint: {}", chain(&error)))?;
    let (sender, deploys) = mpsc::channel(QUEUE);
    tokio::spawn(send(client, target, deploys, end));
    Ok(Some(sender))
}

async fn send(
    client: reqwest::Client,
    target: Url,
    mut deploys: mpsc::Receiver<Arc<Deploy>>,
    end: CancellationToken,
) {
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let taken = tokio::select! {
            () = end.cancelled() => return,
            taken = deploys.recv_many(&mut batch, BATCH) => taken,
        };
        if taken == 0 {
            return;
        }
        let body = match serde_json::to_vec(&form::request(&batch)) {
            Ok(body) => body,
            Err(error) => {
                warn!(problem = %error, "traces cannot be written");
                continue;
            }
        };
        tokio::select! {
            () = end.cancelled() => return,
            () = deliver(&client, &target, body, batch.len()) => {}
        }
    }
}

async fn deliver(client: &reqwest::Client, target: &Url, body: Vec<u8>, traces: usize) {
    let mut pause = PAUSE;
    for attempt in 1..=TRIES {
        let request = client
            .post(target.clone())
            .header("content-type", "application/json")
            .body(body.clone());
        let problem = match request.send().await {
            Ok(answer) if answer.status().is_success() => {
                debug!(traces, "traces sent");
                return;
            }
            Ok(answer) if may_succeed_later(answer.status()) => answer.status().to_string(),
            Ok(answer) => {
                warn!(traces, status = %answer.status(), "traces refused");
                return;
            }
            Err(error) => chain(&error),
        };
        if attempt == TRIES {
            warn!(traces, problem, "traces dropped");
            return;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// By OTLP's own list.
fn may_succeed_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

#[cfg(test)]
mod tests;
