//! One image or model, from its reference to where it is of use: resolved, reserved, fetched,
//! verified, published. Whoever starts the work and waits for it lives elsewhere.
//!
//! What fails fails alone, and says whether the same work may succeed later. Work that is dropped
//! stops; what has arrived is gone on with by the next work on the same item.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headstart_core::model::ModelRef;
use headstart_core::quantity::Rate;
use headstart_hub::endpoint::{Hub, Token};
use headstart_hub::plan::ModelPlan;
use headstart_registry::{ImageRef, Registries};
use headstart_transfer::BootId;
use headstart_transfer::engine::{Engine, Limits};
use headstart_transfer::net::{Http, NetError};
use headstart_transfer::source::Priority;

pub(crate) use self::image::{Images, RuntimeAt, Unpackers};
pub(crate) use self::model::{Known, known as known_model, resolve as resolve_model};
pub(crate) use self::objects::{Objects, Sums, Tally, blocking};
use crate::cli::{Own, XetWhen};
use crate::report::{Bound, Report, chain};
use crate::settings::Reach;
use crate::store::{Holding, Quota, Store, StoreError};

mod adopt;
mod image;
mod model;
mod objects;
mod xet;

/// Why an item is not ready.
#[derive(Clone, Debug)]
pub(crate) struct ItemError {
    /// One line for a person.
    pub(crate) said: String,
    /// What a later try could change.
    pub(crate) again: Again,
}

/// Whether the same work may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Not before somebody changes something.
    Lasting,
    /// At any time.
    Soon,
    /// Not before this long from now.
    After(Duration),
}

impl ItemError {
    pub(crate) fn lasting(error: &dyn std::error::Error) -> Self {
        Self::new(error, Again::Lasting)
    }

    pub(crate) fn new(error: &dyn std::error::Error, again: Again) -> Self {
        let said = chain(error);
        Self { said, again }
    }

    pub(crate) fn is_transient(&self) -> bool {
        self.again != Again::Lasting
    }
}

impl Again {
    /// What an error that is transient or not says, with the wait it asks for.
    pub(crate) fn of(transient: bool, wait: Option<Duration>) -> Self {
        match (transient, wait) {
            (false, _) => Self::Lasting,
            (true, None) => Self::Soon,
            (true, Some(wait)) => Self::After(wait),
        }
    }
}

/// What all items share.
pub(crate) struct Job {
    pub(crate) http: Http,
    pub(crate) objects: Objects,
    pub(crate) hub: Hub,
    pub(crate) images: Images,
    pub(crate) adopt: Vec<PathBuf>,
    pub(crate) own: Own,
    pub(crate) xet: XetWhen,
    pub(crate) quota: Quota,
}

/// How much of the machine items may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) connections: usize,
    pub(crate) bandwidth: Option<Rate>,
    pub(crate) patience: Duration,
}

impl Job {
    /// Starts an engine on the present tokio runtime.
    pub(crate) fn new(
        store: Arc<Store>,
        reach: Reach,
        share: Share,
        own: Own,
    ) -> Result<Self, NetError> {
        let limits = Limits {
            connections: share.connections,
            bandwidth: share.bandwidth,
            patience: share.patience,
            ..Limits::default()
        };
        let http = Http::new(reach.policy)?;
        let engine = Engine::new(&http, limits, BootId::of_this_machine())?;
        let registries = Registries::new(http.clone(), reach.hosts, reach.keychain);
        Ok(Self {
            hub: Hub::new(reach.endpoint, reach.token).with_patience(reach.patience),
            images: Images {
                registries: registries.trust_realms(reach.trusted_realms),
                platform: reach.platform,
                runtime: reach.containerd.map(RuntimeAt::new),
                depth: reach.depth,
                unpackers: Unpackers::of_this_machine(),
            },
            http,
            quota: store.quota(),
            objects: Objects::new(store, engine),
            adopt: reach.adopt,
            own,
            xet: reach.xet,
        })
    }

    /// Does one item's work.
    pub(crate) async fn run(&self, work: &Work, ticket: &Ticket) -> Result<Warmed, ItemError> {
        match work {
            Work::Model {
                model,
                token,
                known,
            } => {
                let asked = token.clone().map(|token| self.hub.with_token(Some(token)));
                let hub = asked.as_ref().unwrap_or(&self.hub);
                let known = match known {
                    Some(known) => known.clone(),
                    None => model::resolve(self, hub, model).await?,
                };
                model::bring(self, hub, ticket, model, known).await
            }
            Work::Image { image, name } => image::warm(self, ticket, image, name.as_ref()).await,
        }
    }
}

/// What is to be done for one item.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A model, with a token of somebody's own instead of the agent's.
    Model {
        model: ModelRef,
        token: Option<Token>,
        /// What it is, if that is known.
        known: Option<Known>,
    },
    /// An image, and a name that it gets beside its own where everybody may use it.
    Image {
        image: ImageRef,
        name: Option<ImageRef>,
    },
}

/// One item's work, as others see and steer it.
pub(crate) struct Ticket {
    /// As asked for.
    pub(crate) item: String,
    /// Keep it at least this long, whatever else needs room.
    pub(crate) pin: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) tally: Tally,
    /// Bytes of the whole, once they are known.
    pub(crate) total: AtomicU64,
    /// Microseconds that fetching waited for unpacking.
    pub(crate) unpack_wait: Arc<AtomicU64>,
    pub(crate) report: Arc<dyn Report>,
}

impl Ticket {
    pub(crate) fn new(
        item: impl Into<String>,
        pin: Option<Duration>,
        priority: Priority,
        report: Arc<dyn Report>,
    ) -> Self {
        Self {
            item: item.into(),
            pin,
            priority,
            tally: Tally::default(),
            total: AtomicU64::new(0),
            unpack_wait: Arc::default(),
            report,
        }
    }

    /// Bytes there, of how many.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let (sums, total) = (self.tally.sums(), self.total.load(Ordering::Relaxed));
        ((sums.had + sums.landed + sums.resumed).min(total), total)
    }

    /// What kept it from being done sooner.
    pub(crate) fn bound(&self, took: Duration, bandwidth: Option<Rate>) -> Bound {
        let sums = self.tally.sums();
        let unpack_wait = self.unpack_wait.load(Ordering::Relaxed);
        let rate = sums.landed as f64 / took.as_secs_f64().max(0.001);
        match bandwidth {
            _ if sums.landed == 0 => Bound::Nothing,
            Some(limit) if rate > 0.85 * limit.0 as f64 => Bound::Limit,
            _ if unpack_wait > sums.network_wait => Bound::Inflate,
            _ if sums.disk_wait > sums.network_wait => Bound::Disk,
            _ => Bound::Link,
        }
    }
}

/// What an item's work comes back with.
pub(crate) struct Warmed {
    pub(crate) pinned: String,
    /// Where it is, for a person.
    pub(crate) place: String,
    /// The model, kept from eviction; none for images.
    pub(crate) model: Option<(ModelPlan, Holding)>,
}

impl From<StoreError> for ItemError {
    fn from(error: StoreError) -> Self {
        Self::lasting(&error)
    }
}
