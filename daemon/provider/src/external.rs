//! Nodes of somebody else's making, asked for over HTTP: a fleet of one's own, a cloud without a
//! provider here, the machines of a test.
//!
//! The protocol, version 1. Bodies are JSON unless said otherwise; a bearer token is sent where one is
//! configured.
//!
//! | call | meaning | answer |
//! | --- | --- | --- |
//! | `GET /v1/offers` | what is sold | 200, CSV with the columns of `headstart catalog --catalog` |
//! | `PUT /v1/instances/CLAIM` | make sure that there is one instance under this key | 200, an instance |
//! | `DELETE /v1/instances/CLAIM` | give it back | 202 while it ends, 404 when there is none |
//! | `GET /v1/instances` | all that carry this cluster's keys | 200, `{"instances": […]}` |
//!
//! What a `PUT` asks for: `{"instanceType", "zone", "capacityType", "labels": {}, "taints": [{"key",
//! "value", "effect"}], "settings": {}, "intent": "…"}`. Asking again under the same key changes
//! nothing; the intent is for the agent of the machine, as a file. An instance is
//! `{"claim", "providerId", "nodeName", "state": "running"|"interrupted"|"ending", "created": RFC 3339}`.
//!
//! A refusal is any other status with `{"code", "message", "subject"}`; `code` is `OutOfCapacity`,
//! `Quota` (subject: which), `Forbidden` (which permission), `Misconfigured` (which field) or another
//! word. 429 and 503 are "too often", with `Retry-After`.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use headstart_clouds::bucket::Bucket;
use headstart_clouds::call::{Answer, CallError, Caller, Said, Verdict};
use headstart_transfer::chain;
use headstart_transfer::net::{Credential, Origin, Request};
use http::Method;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use crate::doctor::{self, Finding};
use crate::{Instance, InstanceState, Offers, Provider, Refusal, Release, Site, Wanted};

/// Calls per second on average, and at once.
const CALLS: (u32, f64) = (200, 100.0);

/// A provider behind a URL.
#[derive(Debug)]
pub struct External {
    caller: Caller,
    base: Url,
    token: Option<String>,
    read_offers: ReadOffers,
}

/// Reads a table of what is sold; else says every fault, a line each.
pub type ReadOffers = fn(&[u8]) -> Result<Offers, String>;

/// What is asked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'a> {
    instance_type: &'a str,
    zone: &'a str,
    capacity_type: &'a str,
    labels: &'a std::collections::BTreeMap<String, String>,
    taints: Vec<&'a headstart_api::PoolTaint>,
    settings: &'a Map<String, Value>,
    intent: &'a str,
}

/// An instance as it is told.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    claim: Option<String>,
    provider_id: String,
    #[serde(default)]
    node_name: Option<String>,
    state: ToldState,
    created: Time,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum ToldState {
    Running,
    Interrupted,
    Ending,
}

#[derive(Deserialize)]
struct Listed {
    instances: Vec<Told>,
}

/// A refusal as it is told.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    code: String,
    message: String,
    subject: String,
}

impl External {
    /// The provider at `base`; `token` is sent to nobody else.
    pub fn new(site: Site, base: Url, token: Option<String>, read_offers: ReadOffers) -> Self {
        let bucket = Bucket::new(CALLS.0, CALLS.1, Instant::now());
        Self {
            caller: Caller::new(site.http, site.patience, bucket),
            base,
            token,
            read_offers,
        }
    }

    fn request(&self, method: Method, path: &[&str], body: Option<Bytes>) -> Request {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        let credential = self
            .token
            .as_deref()
            .and_then(|token| Credential::bearer(Origin::of(&url)?, token));
        let mut request = Request::get(url).credential(credential);
        request.method = method;
        if body.is_some() {
            let json = http::HeaderValue::from_static("application/json");
            request.headers.insert(http::header::CONTENT_TYPE, json);
        }
        request.body = body;
        request
    }

    async fn call(
        &self,
        api: &'static str,
        method: Method,
        path: &[&str],
        body: Option<Bytes>,
    ) -> Result<Answer, Refusal> {
        let request = || self.request(method.clone(), path, body.clone());
        let called = self.caller.call(api, request, judge).await;
        called.map_err(refusal)
    }
}

impl Provider for External {
    fn name(&self) -> &'static str {
        "external"
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, Refusal>> {
        Box::pin(async {
            let answer = self.call("offers", Method::GET, &["offers"], None).await?;
            (self.read_offers)(&answer.body).map_err(|problem| Refusal::Misconfigured {
                field: "GET /v1/offers".to_owned(),
                said: problem,
            })
        })
    }

    fn ensure<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Instance, Refusal>> {
        Box::pin(async {
            let asked = Asked {
                instance_type: &wanted.offering.instance_type,
                zone: &wanted.offering.zone,
                capacity_type: wanted.offering.capacity_type.as_str(),
                labels: &wanted.labels,
                taints: wanted.first_taints().collect(),
                settings: &wanted.settings,
                intent: &wanted.intent,
            };
            let body = serde_json::to_vec(&asked).map_err(|error| Refusal::Other {
                said: format!("the request cannot be written: {error}"),
            })?;
            let path = ["instances", &wanted.claim];
            let answer = self.call("ensure", Method::PUT, &path, Some(body.into()));
            instance(read(&answer.await?)?)
        })
    }

    fn release<'a>(&'a self, claim: &'a str) -> BoxFuture<'a, Result<Release, Refusal>> {
        Box::pin(async {
            let path = ["instances", claim];
            let answer = self.call("release", Method::DELETE, &path, None).await?;
            Ok(match answer.status.as_u16() {
                404 => Release::Gone,
                _ => Release::Ending,
            })
        })
    }

    fn instances(&self) -> BoxFuture<'_, Result<Vec<Instance>, Refusal>> {
        Box::pin(async {
            let answer = self.call("instances", Method::GET, &["instances"], None);
            let listed: Listed = read(&answer.await?)?;
            listed.instances.into_iter().map(instance).collect()
        })
    }

    fn examine<'a>(&'a self, _: &'a Map<String, Value>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(doctor::lists(self))
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: &Answer) -> Result<T, Refusal> {
    serde_json::from_slice(&answer.body).map_err(|error| Refusal::Other {
        said: format!("the provider's answer cannot be read: {error}"),
    })
}

fn instance(told: Told) -> Result<Instance, Refusal> {
    let seconds = u64::try_from(told.created.0.as_second()).map_err(|_| Refusal::Other {
        said: format!("the provider made {} before 1970", told.provider_id),
    })?;
    Ok(Instance {
        claim: told.claim,
        provider_id: told.provider_id,
        node_name: told.node_name,
        state: match told.state {
            ToldState::Running => InstanceState::Running,
            ToldState::Interrupted => InstanceState::Interrupted,
            ToldState::Ending => InstanceState::Ending,
        },
        created: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
    })
}

/// 404 is an answer: there is no such instance.
fn judge(answer: &Answer) -> (Verdict, String) {
    let verdict = match answer.status.as_u16() {
        200..=299 | 404 => Verdict::Answer,
        429 | 503 => Verdict::Throttled,
        500.. => Verdict::Failed,
        status => {
            let refused: Refused = serde_json::from_slice(&answer.body).unwrap_or_default();
            let code = match refused.code.as_str() {
                "" => status.to_string(),
                code => code.to_owned(),
            };
            Verdict::Refused(Said {
                code,
                message: refused.message,
                request: refused.subject,
            })
        }
    };
    (verdict, answer.header("x-request-id").to_owned())
}

fn refusal(error: CallError) -> Refusal {
    match error {
        CallError::Throttled { wait, .. } => Refusal::Throttled { wait },
        CallError::Refused { said, .. } => match said.code.as_str() {
            "OutOfCapacity" => Refusal::OutOfCapacity { said: said.message },
            "Quota" => Refusal::Quota {
                quota: said.request,
                said: said.message,
            },
            "Forbidden" | "401" | "403" => Refusal::Forbidden {
                permission: said.request,
                said: said.message,
            },
            "Misconfigured" => Refusal::Misconfigured {
                field: said.request,
                said: said.message,
            },
            "413" => Refusal::Misconfigured {
                field: "spec.provider".to_owned(),
                said: "labels, settings and what is to be fetched are more than it takes; fewer \
                       prefetched items help"
                    .to_owned(),
            },
            code => Refusal::Other {
                said: format!("{code}: {}", said.message),
            },
        },
        error => Refusal::Other {
            said: chain(&error),
        },
    }
}

#[cfg(test)]
mod tests;
