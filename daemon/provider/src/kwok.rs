//! Nodes that are only objects: a cloud to try, for any cluster, without an account.
//!
//! A Node named after its claim is all there is of an instance, and everything is found again by
//! listing Nodes with our mark: after a restart a boot goes on where its creation time says it is.
//! [`keep::keep`] plays the kubelet for them, beside KWOK's own controller or without. The controller
//! runs their pods as well; start it with `--manage-nodes-with-label-selector=kwok.x-k8s.io/node=fake`,
//! so that it takes a node once that is Ready.
//!
//! How machines behave is said by a pool, in `spec.provider`, and holds for nodes made from then on
//! (`Settings`); a running one is interrupted by annotating its Node with [`INTERRUPT`].
//!
//! A Node without the mark is never touched, whatever its name is.

use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use headstart_api::names;
use headstart_core::label;
use headstart_core::money::Millis;
use headstart_core::offer::{InstanceType, Offering};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use self::node::Fake;
use self::settings::{Rule, Settings};
use crate::doctor::{self, Finding};
use crate::{Instance, InstanceState, Offers, Provider, Refusal, Release, Wanted};

pub mod keep;
mod node;
mod settings;

/// Label on Nodes: the provider that made them.
const PROVIDER: &str = "headstart.dev/provider";

/// Its value here, and the provider's word.
const KWOK: &str = "kwok";

/// Annotation that a person sets on a Node: it is interrupted now, and goes after its notice. Holds
/// the moment, in RFC 3339; anything else is replaced by the moment it was seen.
pub const INTERRUPT: &str = "headstart.dev/interrupt";

/// What kube's client gives as the reason of an error that is no `Status`.
const UNREADABLE: &str = "Failed to parse error data";

/// Most Nodes in one page of a list.
const PAGE: u32 = 500;

/// Fake nodes of one cluster.
pub struct Kwok {
    nodes: Api<Node>,
    offers: Offers,
    /// Held from counting what is sold of an offering until the next is made.
    counting: Mutex<()>,
}

impl Kwok {
    /// Sells `offers` as Nodes of the cluster behind `client`.
    pub fn new(client: Client, offers: Offers) -> Self {
        Self {
            nodes: Api::all(client),
            offers,
            counting: Mutex::new(()),
        }
    }

    fn sold(&self, wanted: &Wanted) -> Option<(&InstanceType, &Offering)> {
        let key = &wanted.offering;
        let mut offerings = self.offers.offerings.iter();
        offerings.find_map(|offering| {
            let kind = self.offers.types.get(offering.instance_type)?;
            let same = kind.name == key.instance_type
                && offering.zone == key.zone
                && offering.capacity_type == key.capacity_type;
            same.then_some((kind, offering))
        })
    }

    /// The instance of a claim, if its Node is there.
    async fn instance(&self, claim: &str) -> Result<Option<Instance>, Refusal> {
        let found = self.nodes.get_metadata_opt(claim).await;
        let Some(found) = found.map_err(|error| refusal(&error, "get nodes"))? else {
            return Ok(None);
        };
        match instance(&found.metadata, now()) {
            Some(instance) if instance.claim.as_deref() == Some(claim) => Ok(Some(instance)),
            _ => Err(Refusal::Other {
                said: format!("there is a Node {claim} that is not of this provider"),
            }),
        }
    }

    /// Whether there are fewer nodes of what a rule names than it allows.
    async fn has_room(&self, rule: &Rule) -> Result<bool, Refusal> {
        let of = ListParams::default()
            .labels(&rule.selector())
            .limit(rule.nodes.saturating_add(1));
        match rule.nodes {
            0 => Ok(false),
            most => {
                let there = self.nodes.list_metadata(&of).await;
                let there = there.map_err(|error| refusal(&error, "list nodes"))?;
                Ok(there.items.len() < most as usize)
            }
        }
    }

    async fn make(&self, wanted: &Wanted) -> Result<Instance, Refusal> {
        let settings = Settings::read(&wanted.settings)?;
        let Some((kind, _)) = self.sold(wanted) else {
            return Err(Refusal::Misconfigured {
                field: "offering".to_owned(),
                said: format!("{} is not sold", wanted.offering),
            });
        };
        let node = node::make(wanted, kind, &settings).map_err(|error| Refusal::Other {
            said: format!("the Node cannot be written: {error}"),
        })?;
        let _counting = self.counting.lock().await;
        for rule in settings.rules(&wanted.offering) {
            if !self.has_room(rule).await? {
                return Err(Refusal::OutOfCapacity {
                    said: format!(
                        "spec.provider.capacity of the pool allows {} nodes of {}",
                        rule.nodes, wanted.offering
                    ),
                });
            }
        }
        match self.nodes.create(&PostParams::default(), &node).await {
            Ok(made) => instance(&made.metadata, now()).ok_or_else(|| Refusal::Other {
                said: format!("Node {} was changed while it was made", wanted.claim),
            }),
            // By another replica, or by a call whose answer was lost.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let there = self.instance(&wanted.claim).await?;
                there.ok_or_else(|| Refusal::Other {
                    said: format!("Node {} was there and is gone", wanted.claim),
                })
            }
            Err(error) => Err(refusal(&error, "create nodes")),
        }
    }
}

impl Provider for Kwok {
    fn name(&self) -> &'static str {
        KWOK
    }

    fn offers(&self) -> BoxFuture<'_, Result<Offers, Refusal>> {
        Box::pin(async { Ok(self.offers.clone()) })
    }

    fn ensure<'a>(&'a self, wanted: &'a Wanted) -> BoxFuture<'a, Result<Instance, Refusal>> {
        Box::pin(async {
            match self.instance(&wanted.claim).await? {
                Some(instance) => Ok(instance),
                None => self.make(wanted).await,
            }
        })
    }

    fn release<'a>(&'a self, claim: &'a str) -> BoxFuture<'a, Result<Release, Refusal>> {
        Box::pin(async move {
            let found = self.nodes.get_metadata_opt(claim).await;
            let found = found.map_err(|error| refusal(&error, "get nodes"))?;
            // A Node of that name that is somebody else's is no instance of ours.
            let Some(node) = found.filter(|node| instance(&node.metadata, now()).is_some()) else {
                return Ok(Release::Gone);
            };
            if node.metadata.deletion_timestamp.is_some() {
                return Ok(Release::Ending);
            }
            let only_it = DeleteParams::default().preconditions(Preconditions {
                uid: node.uid(),
                resource_version: None,
            });
            match self.nodes.delete(claim, &only_it).await {
                // The object comes back while something holds it.
                Ok(done) if done.is_left() => Ok(Release::Ending),
                Ok(_) => Ok(Release::Gone),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Release::Gone),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Release::Ending),
                Err(error) => Err(refusal(&error, "delete nodes")),
            }
        })
    }

    fn instances(&self) -> BoxFuture<'_, Result<Vec<Instance>, Refusal>> {
        Box::pin(async {
            let mut pages = ListParams::default()
                .labels(&format!("{PROVIDER}={KWOK}"))
                .limit(PAGE);
            let mut instances = Vec::new();
            loop {
                let page = self.nodes.list_metadata(&pages).await;
                let page = page.map_err(|error| refusal(&error, "list nodes"))?;
                let now = now();
                let told = page.items.iter();
                instances.extend(told.filter_map(|node| instance(&node.metadata, now)));
                match page.metadata.continue_ {
                    Some(next) if !next.is_empty() => pages = pages.continue_token(&next),
                    _ => return Ok(instances),
                }
            }
        })
    }

    fn examine<'a>(&'a self, _: &'a Map<String, Value>) -> BoxFuture<'a, Vec<Finding>> {
        Box::pin(doctor::lists(self))
    }
}

/// The instance that a Node is; none if it is not one of ours.
fn instance(metadata: &ObjectMeta, now: Millis) -> Option<Instance> {
    let fake = Fake::read(metadata)?;
    let state = match () {
        () if metadata.deletion_timestamp.is_some() => InstanceState::Ending,
        () if fake.is_interrupted(now) => InstanceState::Interrupted,
        () => InstanceState::Running,
    };
    Some(Instance {
        claim: metadata.labels.as_ref()?.get(names::NODE_CLAIM).cloned(),
        provider_id: node::provider_id(metadata.name.as_deref()?),
        node_name: metadata.name.clone(),
        state,
        created: SystemTime::UNIX_EPOCH + Duration::from_millis(fake.created.0),
    })
}

fn now() -> Millis {
    millis(k8s_openapi::jiff::Timestamp::now())
}

fn millis(time: k8s_openapi::jiff::Timestamp) -> Millis {
    Millis(u64::try_from(time.as_millisecond()).unwrap_or(0))
}

/// What the API server's no means; `permission` is what the call needs.
fn refusal(error: &kube::Error, permission: &str) -> Refusal {
    let kube::Error::Api(status) = error else {
        return Refusal::Other {
            said: headstart_transfer::chain(error),
        };
    };
    let said = status.message.clone();
    let details = status.details.as_ref();
    match status.code {
        401 | 403 => Refusal::Forbidden {
            permission: permission.to_owned(),
            said,
        },
        429 => Refusal::Throttled {
            wait: Duration::from_secs(
                details.map_or(1, |it| u64::from(it.retry_after_seconds).max(1)),
            ),
        },
        400 | 422 => Refusal::Misconfigured {
            field: details
                .and_then(|it| it.causes.first())
                .map_or_else(|| "the Node".to_owned(), |cause| cause.field.clone()),
            said,
        },
        // The page of a proxy, as it came.
        code if status.reason == UNREADABLE => Refusal::Other {
            said: format!("what is before the API server answers {code}"),
        },
        code => Refusal::Other {
            said: format!("the API server answers {code}: {said}"),
        },
    }
}

impl Rule {
    /// Selects its nodes.
    fn selector(&self) -> String {
        let mut selector = format!("{PROVIDER}={KWOK}");
        let narrowed = [
            (label::INSTANCE_TYPE, &self.instance_type),
            (label::ZONE, &self.zone),
            (names::CAPACITY_TYPE, &self.capacity_type),
        ];
        for (key, value) in narrowed {
            if let Some(value) = value {
                selector.push_str(&format!(",{key}={value}"));
            }
        }
        selector
    }
}

#[cfg(test)]
mod tests;
