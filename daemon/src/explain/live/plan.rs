//! The daemon's plan, as it publishes it: `plan.headstart.dev/v1`, of which only what is shown is read.

use std::fmt::Write as _;
use std::time::Duration;

use http::Request;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use serde::Deserialize;

use super::super::Served;
use crate::kubectl::said;

/// What the daemon's Service carries.
const SERVICE: &str = "app.kubernetes.io/part-of=headstart,app.kubernetes.io/component=daemon";

/// Name of the Service's port that serves the plan.
const PORT: &str = "metrics";

/// How long it may take: the daemon answers between two rounds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A plan.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Published {
    buy: Vec<Buy>,
    existing: Vec<Existing>,
    unserved: Vec<Unserved>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Buy {
    instance_type: String,
    zone: String,
    capacity_type: String,
    usd_per_hour: f64,
    pool: String,
    pods: Vec<String>,
    cold: Timing,
    runner_up: Option<RunnerUp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Existing {
    pod: String,
    node: String,
    timing: Timing,
    runner_up: Option<RunnerUp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Timing {
    total: f64,
    exposed_byte_time: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunnerUp {
    text: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unserved {
    pods: Vec<String>,
    text: Vec<String>,
}

impl Published {
    /// What it says of a pod that is not bound; none if it says nothing.
    pub(super) fn pod(&self, key: &str, text: &mut String) -> Option<Served> {
        let named = |pods: &[String]| pods.iter().any(|pod| pod == key);
        if let Some(found) = self.existing.iter().find(|one| one.pod == key) {
            let _ = writeln!(
                text,
                "\n  planned onto node {}: serves {}",
                found.node,
                expected(&found.timing)
            );
            second(found.runner_up.as_ref(), text);
            return Some(Served::Yes);
        }
        if let Some(found) = self.buy.iter().find(|one| named(&one.pods)) {
            let _ = writeln!(
                text,
                "\n  to be bought for it: {} {} in {} for {:.2} USD/h (pool {}): serves {}",
                found.instance_type,
                found.capacity_type,
                found.zone,
                found.usd_per_hour,
                found.pool,
                expected(&found.cold)
            );
            second(found.runner_up.as_ref(), text);
            return Some(Served::Yes);
        }
        let found = self.unserved.iter().find(|one| named(&one.pods))?;
        text.push_str("\n  the plan does not serve it:\n");
        for line in &found.text {
            let _ = writeln!(text, "    {line}");
        }
        Some(Served::No)
    }

    /// What it puts onto a node.
    pub(super) fn node(&self, name: &str, text: &mut String) {
        for found in self.existing.iter().filter(|one| one.node == name) {
            let _ = writeln!(text, "  pod {} is planned for it", found.pod);
        }
    }
}

fn expected(timing: &Timing) -> String {
    format!(
        "{:.0} s after that, exposed byte time {:.1} s",
        timing.total, timing.exposed_byte_time
    )
}

fn second(runner_up: Option<&RunnerUp>, text: &mut String) {
    if let Some(second) = runner_up.filter(|second| !second.text.is_empty()) {
        let _ = writeln!(text, "  {}", second.text);
    }
}

/// Asks the daemon, wherever its Service is.
///
/// # Errors
/// In one line, if none answers.
pub(super) async fn published(client: &Client) -> Result<Published, String> {
    let services: Api<Service> = Api::all(client.clone());
    let found = services.list(&ListParams::default().labels(SERVICE)).await;
    let found = found.map_err(|error| format!("services cannot be listed: {}", said(&error)))?;
    let Some(service) = found.items.first() else {
        return Err("no Service of the daemon is in the cluster".to_owned());
    };
    let namespace = service.namespace().unwrap_or_default();
    let name = service.name_any();
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}:{PORT}/proxy/plan");
    let request = Request::get(path)
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    let service = format!("the daemon's Service {namespace}/{name}");
    let asked = client.request::<Published>(request);
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(plan)) => Ok(plan),
        Ok(Err(error)) => Err(format!("{service} does not answer: {}", said(&error))),
        Err(_) => Err(format!(
            "{service} does not answer in {} s",
            PATIENCE.as_secs()
        )),
    }
}
