//! What tags and branches stand for, and how many bytes that is: asked in the background, remembered.
//!
//! A round never waits: it gets what is known now, and is woken when more is. A digest or a commit is
//! asked for once; a name that moves is asked again after some minutes, and what it stood for holds
//! until then, also when nobody answers. What was refused is told with the reason.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use headstart_agent::report::chain;
use headstart_core::cache::{Basis, Item, ItemSize, Pin};
use headstart_core::model::ModelRef;
use headstart_hub::endpoint::Hub;
use headstart_registry::{ImageRef, Platform, Registries};
use headstart_transfer::net::Http;
use tokio::sync::{Notify, Semaphore};

use self::table::{Answer, Table};

mod table;

/// Most questions at once.
const AT_ONCE: usize = 8;

/// Longest time for one answer, tries among it.
const PATIENCE: Duration = Duration::from_secs(120);

/// An item by what it stands for, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The same item with its pin.
    pub(crate) item: Item,
    /// Its bytes.
    pub(crate) size: ItemSize,
}

/// Whom to ask.
pub(crate) struct Origins {
    /// Connections to the Hub.
    pub(crate) http: Http,
    /// The Hub, with the token of the control plane if it has one.
    pub(crate) hub: Hub,
    /// Registries, with the logins of the control plane.
    pub(crate) registries: Registries,
    /// Platform whose layers are counted.
    pub(crate) platform: Platform,
}

/// Resolves items. Clones share what is known.
#[derive(Clone)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    origins: Origins,
    started: Instant,
    table: Mutex<Table>,
    turns: Semaphore,
    changed: Notify,
}

impl Resolver {
    /// Knows nothing yet. To be used within a runtime, in which it asks.
    pub(crate) fn new(origins: Origins) -> Self {
        Self {
            shared: Arc::new(Shared {
                origins,
                started: Instant::now(),
                table: Mutex::default(),
                turns: Semaphore::new(AT_ONCE),
                changed: Notify::new(),
            }),
        }
    }

    /// What is known of `item` now. What is not known, or known for long, is asked in the background.
    pub(crate) fn look_up(&self, item: &Item) -> Option<Resolved> {
        let now = self.shared.now();
        let (known, ask) = self.shared.table().look_up(item, now);
        if ask {
            let (shared, item) = (self.shared.clone(), item.clone());
            tokio::spawn(async move { shared.ask(item).await });
        }
        known
    }

    /// Whether the first answer about `item` is on its way.
    pub(crate) fn is_asking(&self, item: &Item) -> bool {
        self.shared.table().is_asking(item)
    }

    /// Why nothing newer is known of `item`, for a person.
    #[allow(dead_code, reason = "explain does not tell it yet")]
    pub(crate) fn refusal(&self, item: &Item) -> Option<String> {
        self.shared.table().refusal(item).map(str::to_owned)
    }

    /// Waits until something is known that was not before. What became known while nobody waited
    /// counts.
    pub(crate) async fn changed(&self) {
        self.shared.changed.notified().await;
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, item: Item) {
        let Ok(_turn) = self.turns.acquire().await else {
            return;
        };
        let asked = tokio::time::timeout(PATIENCE, self.origins.ask(&item)).await;
        let answer = asked.unwrap_or_else(|_| Answer::Refused {
            said: format!("no answer within {} s", PATIENCE.as_secs()),
            transient: true,
        });
        if let Answer::Refused { said, transient } = &answer {
            tracing::warn!(?item, reason = %said, transient, "item not resolved");
        }
        if self.table().answered(&item, answer, self.now()) {
            self.changed.notify_one();
        }
    }
}

impl Origins {
    async fn ask(&self, item: &Item) -> Answer {
        match item {
            Item::Image { repository, pin } => {
                let name = match pin {
                    Pin::To(digest) => format!("{repository}@{}", digest.prefixed()),
                    Pin::Name(tag) => format!("{repository}:{tag}"),
                };
                match name.parse::<ImageRef>() {
                    Ok(image) => self.image(repository, &image).await,
                    Err(error) => lasting(&error),
                }
            }
            Item::Model { repo, pin, files } => {
                let revision = match pin {
                    Pin::To(commit) => commit.to_string(),
                    Pin::Name(name) => name.clone(),
                };
                let choice = if files.is_empty() { "" } else { "?" };
                let name = format!("hf://{repo}@{revision}{choice}{files}");
                match name.parse::<ModelRef>() {
                    Ok(model) => self.model(item, &model).await,
                    Err(error) => lasting(&error),
                }
            }
        }
    }

    async fn image(&self, repository: &str, image: &ImageRef) -> Answer {
        let resolved = match self.registries.resolve(image, &self.platform).await {
            Ok(resolved) => resolved,
            Err(error) => {
                let transient = error.is_transient();
                return refused(&error, transient);
            }
        };
        let layers = resolved.layers.iter().map(|layer| layer.descriptor.size);
        let transfer = resolved.layer_bytes();
        Answer::Found(Resolved {
            item: Item::Image {
                repository: repository.to_owned(),
                pin: Pin::To(resolved.target.digest),
            },
            size: ItemSize {
                transfer,
                // As where a person gives only the bytes to transfer.
                unpacked: transfer.saturating_mul(2),
                largest_layer: layers.max().unwrap_or(0),
                basis: Basis::Known,
            },
        })
    }

    async fn model(&self, item: &Item, model: &ModelRef) -> Answer {
        let plan = match self.hub.resolve(&self.http, model).await {
            Ok(resolution) => resolution.plan,
            Err(error) => {
                let transient = error.is_transient();
                return refused(&error, transient);
            }
        };
        let mut pinned = item.clone();
        if let Item::Model { pin, .. } = &mut pinned {
            *pin = Pin::To(plan.commit);
        }
        let bytes = plan.bytes();
        Answer::Found(Resolved {
            item: pinned,
            size: ItemSize {
                transfer: bytes,
                unpacked: bytes,
                largest_layer: 0,
                basis: Basis::Known,
            },
        })
    }
}

fn lasting(error: &dyn std::error::Error) -> Answer {
    refused(error, false)
}

fn refused(error: &dyn std::error::Error, transient: bool) -> Answer {
    let said = chain(error);
    Answer::Refused { said, transient }
}

#[cfg(test)]
mod tests;
