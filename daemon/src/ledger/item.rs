//! What a pod starts with, and what its node's agent says of it.

use std::collections::BTreeSet;
use std::time::Duration;

use headstart_api::{CacheItem, ItemPhase, NodeCache, names};
use headstart_core::amount;
use headstart_core::cache::{Item, Pin};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::deploy::{Cached, Interval, Stage};
use super::moment::{GRAIN, Moment, overlap};
use crate::manifest::{item, recognise};
use crate::plan::words;

/// An image or weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ItemKind {
    /// A container image.
    Image,
    /// A model's files.
    Weights,
}

impl ItemKind {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Image, Self::Weights];

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Weights => "weights",
        }
    }

    /// The stage in which it is waited for.
    pub(crate) fn stage(self) -> Stage {
        match self {
            Self::Image => Stage::ImageReady,
            Self::Weights => Stage::WeightsReady,
        }
    }
}

/// One item of a deploy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// As it is written for people.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: ItemKind,
    /// Whether the node's agent lists it.
    pub(crate) listed: bool,
    /// How much of it there was when the pod was created.
    pub(crate) cached: Cached,
    /// All its bytes, if known.
    pub(crate) bytes: Option<u64>,
    /// When its first byte was asked for.
    pub(crate) started: Option<Moment>,
    /// When it was verified.
    pub(crate) verified: Option<Moment>,
    /// Whether it is verified, whenever that was.
    pub(crate) there: bool,
    /// Bytes that arrived while the pod waited for them.
    pub(crate) exposed_bytes: u64,
    /// How long it was waited for.
    pub(crate) exposed: Duration,
    /// Where its bytes came from.
    pub(crate) sources: Vec<(String, u64)>,
}

impl Fetched {
    /// From when to when it moved.
    pub(crate) fn span(&self, now: Moment) -> Option<(Moment, Moment)> {
        let end = match (self.verified, self.there) {
            (Some(verified), _) => verified,
            (None, false) => now,
            (None, true) => return None,
        };
        Some((self.started?, end))
    }

    /// Bytes that moved for the pod while something else was waited for.
    pub(crate) fn hidden_bytes(&self) -> u64 {
        match (self.cached, self.there) {
            (Cached::Cold | Cached::Partial, true) => {
                self.bytes.unwrap_or(0).saturating_sub(self.exposed_bytes)
            }
            _ => 0,
        }
    }

    /// Notes which part of it was waited for in `intervals`.
    pub(crate) fn expose(&mut self, intervals: &[Interval], now: Moment) {
        let mut of_kind = intervals
            .iter()
            .filter(|one| one.stage == self.kind.stage());
        let Some(waited) = of_kind.next() else {
            return;
        };
        let arrived = match (self.verified, self.there) {
            (Some(verified), _) => verified,
            (None, false) => now,
            (None, true) => return,
        };
        self.exposed = arrived.min(waited.end).since(waited.start);
        let (Some(started), Some(bytes)) = (self.started, self.bytes) else {
            return;
        };
        let took = arrived.since(started).as_micros();
        let part = overlap(started, arrived, waited.start, waited.end).as_micros();
        let exposed = (u128::from(bytes) * part).checked_div(took).unwrap_or(0);
        self.exposed_bytes = u64::try_from(exposed).unwrap_or(bytes);
    }
}

/// The container that serves: the first that asks for an accelerator, else the first.
pub(crate) fn main_container(pod: &Pod) -> Option<&Container> {
    let containers = pod.spec.as_ref()?.containers.as_slice();
    let asks = containers.iter().find(|one| wants_accelerator(one));
    asks.or_else(|| containers.first())
}

/// Whether a container asks for a GPU or the like.
pub(crate) fn wants_accelerator(container: &Container) -> bool {
    let Some(resources) = &container.resources else {
        return false;
    };
    let asked = [&resources.requests, &resources.limits];
    let mut names = asked.into_iter().flatten().flatten();
    let claims = resources.claims.iter().flatten().next().is_some();
    claims || names.any(|(name, _)| crate::manifest::is_accelerator(name))
}

/// The models a pod starts with: what its annotation says, else its volumes, else its command line.
pub(crate) fn models(pod: &Pod) -> Vec<Item> {
    let annotations = pod.metadata.annotations.as_ref();
    if let Some(named) = annotations.and_then(|all| all.get(names::MODELS)) {
        let named = named.split(',').map(str::trim);
        return named.filter_map(|text| item::model(text).ok()).collect();
    }
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let volumes = spec.volumes.iter().flatten();
    let mounted: BTreeSet<Item> = volumes
        .filter_map(|volume| volume.csi.as_ref())
        .filter(|csi| csi.driver == names::CSI_DRIVER)
        .filter_map(|csi| csi.volume_attributes.as_ref()?.get(names::CSI_MODEL))
        .filter_map(|text| item::model(text).ok())
        .collect();
    if !mounted.is_empty() {
        return mounted.into_iter().collect();
    }
    let named: BTreeSet<Item> = spec
        .containers
        .iter()
        .flat_map(recognise::of_container)
        .map(item::of)
        .collect();
    named.into_iter().collect()
}

/// What a pod starts with, as its node's agent tells it. `created` is the pod's creation.
pub(crate) fn items(pod: &Pod, cache: Option<&NodeCache>, created: Moment) -> Vec<Fetched> {
    let main = main_container(pod).map(|one| one.name.as_str());
    let mut found: Vec<Fetched> = Vec::new();
    let mut add = |one: Fetched| {
        if found.iter().all(|known| known.name != one.name) {
            found.push(one);
        }
    };
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref());
    let containers = spec.map(|spec| spec.containers.as_slice());
    let containers = containers.into_iter().flatten();
    for container in containers.chain(init.into_iter().flatten()) {
        let Some(asked) = container.image.as_deref() else {
            continue;
        };
        let record = cache.and_then(|cache| image_record(cache, asked, ran(pod, &container.name)));
        // Of images that nobody watches only the one that serves is worth a line.
        if record.is_some() || main == Some(container.name.as_str()) {
            let name = match item::image(asked) {
                Ok(image) => words::item(&image),
                Err(_) => asked.chars().take(200).collect(),
            };
            add(fetched(name, ItemKind::Image, record, cache, created));
        }
    }
    for model in models(pod) {
        let record = cache.and_then(|cache| model_record(cache, &model));
        let name = words::item(&model);
        add(fetched(name, ItemKind::Weights, record, cache, created));
    }
    found
}

fn fetched(
    name: String,
    kind: ItemKind,
    record: Option<&CacheItem>,
    cache: Option<&NodeCache>,
    created: Moment,
) -> Fetched {
    let reports = cache.is_some_and(|cache| cache.status.is_some());
    let Some(record) = record else {
        return Fetched {
            name,
            kind,
            listed: false,
            cached: if reports {
                Cached::Cold
            } else {
                Cached::Unknown
            },
            bytes: None,
            started: None,
            verified: None,
            there: false,
            exposed_bytes: 0,
            exposed: Duration::ZERO,
            sources: Vec::new(),
        };
    };
    let there = record.state == Some(ItemPhase::Verified);
    let started = record.started.as_ref().map(Moment::at);
    let verified = record.verified.as_ref().map(Moment::at).filter(|_| there);
    // The creation is cut to whole seconds: what came within that one was there.
    let before = |moment: Option<Moment>| moment.is_some_and(|at| at < created.plus(GRAIN));
    let cached = match there {
        true if before(verified) || verified.is_none() => Cached::Warm,
        _ if before(started) => Cached::Partial,
        _ => Cached::Cold,
    };
    let sources = record.sources.iter();
    let sources: Vec<(String, u64)> = sources.map(|s| (s.kind.clone(), s.bytes)).collect();
    let moved = sources
        .iter()
        .fold(0_u64, |sum, (_, n)| sum.saturating_add(*n));
    let bytes = match moved {
        0 => size(record).or_else(|| expected(cache?, record)),
        moved => Some(moved),
    };
    Fetched {
        name,
        kind,
        listed: true,
        cached,
        bytes,
        started,
        verified,
        there,
        exposed_bytes: 0,
        exposed: Duration::ZERO,
        sources,
    }
}

fn size(record: &CacheItem) -> Option<u64> {
    let amount = record.bytes.as_ref()?;
    let bytes = amount::parse(amount::EPHEMERAL_STORAGE, &amount.0).ok()?;
    u64::try_from(bytes).ok()
}

/// How many bytes the intent says an item has.
pub(crate) fn expected(cache: &NodeCache, record: &CacheItem) -> Option<u64> {
    let same = |other: &&CacheItem| {
        (&other.image, &other.model, &other.files) == (&record.image, &record.model, &record.files)
    };
    size(cache.spec.items.iter().find(same)?)
}

/// The sha256 of the image that a container ran, if it did.
fn ran<'a>(pod: &'a Pod, container: &str) -> Option<&'a str> {
    let status = pod.status.as_ref()?;
    let main = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let found = main.chain(init).find(|one| one.name == container)?;
    let (_, digest) = found.image_id.rsplit_once("@sha256:")?;
    Some(digest)
}

fn image_record<'a>(cache: &'a NodeCache, asked: &str, ran: Option<&str>) -> Option<&'a CacheItem> {
    let wanted = item::image(asked).ok()?;
    let Item::Image { repository, .. } = &wanted else {
        return None;
    };
    let records = || {
        let listed = cache.status.iter().flat_map(|status| &status.items);
        listed.filter_map(|record| Some((record, item::image(record.image.as_deref()?).ok()?)))
    };
    let digest = |image: &Item| match image {
        Item::Image {
            pin: Pin::To(digest),
            ..
        } => Some(digest.to_string()),
        _ => None,
    };
    let same_name = |record: &CacheItem| {
        let name = record.image_name.as_deref();
        name.and_then(|name| item::image(name).ok()) == Some(wanted.clone())
    };
    let exact = records().find(|(record, image)| {
        *image == wanted
            || same_name(record)
            || ran.is_some_and(|ran| digest(image).is_some_and(|found| found == ran))
    });
    let of_repository = || {
        let mut same = records().filter(
            |(_, image)| matches!(image, Item::Image { repository: other, .. } if other == repository),
        );
        let first = same.next();
        // Of several versions none is known to be the one.
        first.filter(|_| same.next().is_none() && ran.is_none())
    };
    exact.or_else(of_repository).map(|(record, _)| record)
}

fn model_record<'a>(cache: &'a NodeCache, wanted: &Item) -> Option<&'a CacheItem> {
    let Item::Model { repo, pin, .. } = wanted else {
        return None;
    };
    let listed = cache.status.iter().flat_map(|status| &status.items);
    let same = listed.filter(|record| {
        let found = record
            .model
            .as_deref()
            .and_then(|text| item::model(text).ok());
        match found {
            Some(Item::Model {
                repo: other,
                pin: at,
                ..
            }) => other == *repo && (at == *pin || matches!(pin, Pin::Name(_))),
            _ => false,
        }
    });
    same.max_by_key(|record| record.verified.as_ref().map(Moment::at))
}
