//! Certificates of our own, in a Secret that all replicas share, and the authority's place in the
//! webhook's configuration.
//!
//! Every replica does the same: it reads the Secret, renews what is due, serves what is there, and
//! writes the bundle where callers read it. Who writes second finds a newer version and reads again.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{CertificateError, Kept, Serving, due, seconds};

/// The Secret's only key.
const DATA: &str = "certificates.json";

/// How often certificates are looked at though nothing changed.
const AT_LEAST: Duration = Duration::from_secs(60);

/// After how long what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What is kept where.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Namespace of the Secret.
    pub(crate) namespace: String,
    /// The Secret.
    pub(crate) secret: String,
    /// Names by which the webhook is called.
    pub(crate) names: Vec<String>,
    /// The webhook's configuration, which is to trust the authority.
    pub(crate) webhook: Option<String>,
}

/// A round of renewal that did not get through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// A certificate could not be made or used.
    #[error("certificates of the webhook")]
    Certificate(#[source] CertificateError),
    /// A call to the API server failed.
    #[error("cannot {verb} {object}")]
    Call {
        /// What was to be done.
        verb: &'static str,
        /// With what.
        object: String,
        /// Why not.
        #[source]
        source: kube::Error,
    },
}

impl KeepError {
    /// Whether another replica was first, whose certificates are read next.
    fn is_a_race(&self) -> bool {
        matches!(self, Self::Call { source: kube::Error::Api(status), .. } if status.code == 409)
    }
}

/// Makes, renews and serves certificates until `stop`.
pub(crate) async fn keep(
    client: Client,
    place: Place,
    serving: Arc<Serving>,
    stop: CancellationToken,
) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &place.namespace);
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client);
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let of_secret = watcher(secrets.clone(), named(&place.secret));
    let of_secret = of_secret.default_backoff().touched_objects().map(drop);
    // Without a configuration to keep, the second stream says nothing that matters.
    let of_webhook = watcher(
        webhooks.clone(),
        named(place.webhook.as_deref().unwrap_or("-")),
    );
    let of_webhook = of_webhook.default_backoff().touched_objects().map(drop);
    let mut woken = pin!(futures_util::stream::select(of_secret, of_webhook));
    let mut served = None;
    loop {
        let wait = match round(&secrets, &webhooks, &place, &serving, &mut served).await {
            Ok(()) => AT_LEAST,
            Err(error) if error.is_a_race() => {
                tracing::debug!("another replica was first with certificates");
                AGAIN
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "certificates are not in order"
                );
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            _ = woken.next() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Reads, renews, serves, publishes.
async fn round(
    secrets: &Api<Secret>,
    webhooks: &Api<MutatingWebhookConfiguration>,
    place: &Place,
    serving: &Serving,
    served: &mut Option<Kept>,
) -> Result<(), KeepError> {
    let kept = renewed(secrets, place).await?;
    if let Some(name) = &place.webhook {
        publish(webhooks, name, &kept.bundle()).await?;
    }
    if served.as_ref().map(|served| &served.serving) != Some(&kept.serving) {
        let certified = kept.certified(&format!("Secret {}/{}", place.namespace, place.secret));
        serving.set(certified.map_err(KeepError::Certificate)?);
        tracing::info!(secret = place.secret, "a certificate is served");
    }
    *served = Some(kept);
    Ok(())
}

/// What is kept, after what was due.
async fn renewed(secrets: &Api<Secret>, place: &Place) -> Result<Kept, KeepError> {
    let failed = |verb| {
        let object = format!("Secret {}/{}", place.namespace, place.secret);
        move |source| KeepError::Call {
            verb,
            object,
            source,
        }
    };
    let found = secrets
        .get_opt(&place.secret)
        .await
        .map_err(failed("read"))?;
    let kept = found.as_ref().and_then(|secret| {
        let data = secret.data.as_ref()?.get(DATA)?;
        serde_json::from_slice::<Kept>(&data.0).ok()
    });
    // One whose key does not fit is as good as none.
    let kept = kept.filter(|kept| kept.certified("the Secret").is_ok());
    let now = seconds(SystemTime::now()).map_err(KeepError::Certificate)?;
    let due = due(kept.as_ref(), &place.names, now);
    let next = Kept::after(kept.as_ref(), due, &place.names, now);
    let Some(next) = next.map_err(KeepError::Certificate)? else {
        return Ok(kept.expect("nothing is due only for what is there"));
    };
    let data = serde_json::to_vec(&next).unwrap_or_default();
    let data = BTreeMap::from([(DATA.to_owned(), ByteString(data))]);
    let params = PostParams {
        field_manager: Some(headstart_api::names::FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let written = match found {
        Some(mut secret) => {
            secret.data = Some(data);
            secret.metadata.managed_fields = None;
            let replaced = secrets.replace(&place.secret, &params, &secret).await;
            replaced.map_err(failed("replace"))
        }
        None => {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(place.secret.clone()),
                    ..ObjectMeta::default()
                },
                type_: Some("Opaque".to_owned()),
                data: Some(data),
                ..Secret::default()
            };
            secrets
                .create(&params, &secret)
                .await
                .map_err(failed("create"))
        }
    };
    written?;
    tracing::info!(secret = place.secret, ?due, "certificates were renewed");
    Ok(next)
}

/// Makes the API server trust the bundle, if it does not.
async fn publish(
    webhooks: &Api<MutatingWebhookConfiguration>,
    name: &str,
    bundle: &str,
) -> Result<(), KeepError> {
    let failed = |verb| {
        move |source| KeepError::Call {
            verb,
            object: format!("MutatingWebhookConfiguration {name}"),
            source,
        }
    };
    let found = webhooks.get_opt(name).await.map_err(failed("read"))?;
    let Some(found) = found else {
        // The chart makes it; until then nobody calls.
        return Ok(());
    };
    let webhooks_of = found.webhooks.as_deref().unwrap_or_default();
    let stale = webhooks_of.iter().filter(|webhook| {
        let trusted = webhook.client_config.ca_bundle.as_ref();
        trusted.is_none_or(|trusted| trusted.0 != bundle.as_bytes())
    });
    let stale: Vec<_> = stale
        .map(|webhook| {
            let bundle = ByteString(bundle.as_bytes().to_vec());
            json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})
        })
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    let patch = json!({"webhooks": stale});
    let params = PatchParams {
        field_manager: Some(headstart_api::names::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = webhooks
        .patch(name, &params, &Patch::Strategic(patch))
        .await;
    let patched = patched.map_err(failed("patch"))?;
    tracing::info!(
        webhook = patched.name_any(),
        "the webhook's authority was published"
    );
    Ok(())
}
