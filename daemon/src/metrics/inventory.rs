//! From caches and claims to what is shown of them: items, bytes, nodes, money.

use std::collections::BTreeMap;
use std::time::Duration;

use headstart_api::{CacheItem, ClaimOffering, ItemPhase, NodeCache};
use headstart_core::amount;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::CapacityType;
use kube::ResourceExt as _;

use super::label::{Held, ItemState, Kind, Reporting, Reports, Source};
use super::{Fleet, Metrics};
use crate::ledger::{ItemKind, Moment, Objects, Once};

/// How old a report may be: an agent writes at least once a minute while something changes, and its
/// own age limit of the planner is longer.
const FRESH: Duration = Duration::from_secs(180);

/// The on-demand list price of an offering, whatever its capacity type; none if it is not known.
pub(crate) type OnDemand<'a> = &'a dyn Fn(&ClaimOffering) -> Option<HourlyPrice>;

impl Metrics {
    /// Shows what is cached where, and counts what was fetched since.
    pub(crate) fn caches(&self, objects: &Objects, once: &mut Once, now: Moment) {
        let mut held = BTreeMap::<(usize, usize), i64>::new();
        let mut bytes = [0_i64; ItemKind::ALL.len()];
        let mut room = 0_i64;
        let mut reports = [0_i64; Reports::ALL.len()];
        once.forget(now);
        for cache in &objects.caches {
            reports[reporting(cache, now) as usize] += 1;
            let Some(status) = &cache.status else {
                continue;
            };
            let left = status.room.as_ref().and_then(|room| size(&room.0));
            room = room.saturating_add(left.unwrap_or(0));
            for item in &status.items {
                let kind = kind(item);
                if let Some(state) = state(item) {
                    *held.entry((kind as usize, state as usize)).or_default() += 1;
                }
                if item.state == Some(ItemPhase::Verified) {
                    let of_kind = &mut bytes[kind as usize];
                    *of_kind = of_kind.saturating_add(all_bytes(cache, item).unwrap_or(0));
                    self.count(cache, item, once);
                }
            }
        }
        for kind in ItemKind::ALL {
            for state in ItemState::ALL.iter().copied() {
                let count = held.get(&(kind as usize, state as usize)).copied();
                let gauge = self.cache_items.get_or_create(&Held { kind, state });
                gauge.set(count.unwrap_or(0));
            }
            let gauge = self.cache_bytes.get_or_create(&Kind { kind });
            gauge.set(bytes[kind as usize]);
        }
        self.cache_room.set(room);
        for (reports, count) in Reports::ALL.iter().copied().zip(reports) {
            self.cache_nodes
                .get_or_create(&Reporting { reports })
                .set(count);
        }
    }

    fn count(&self, cache: &NodeCache, item: &CacheItem, once: &mut Once) {
        let Some(verified) = item.verified.as_ref().map(Moment::at) else {
            return;
        };
        // Nearly all of what there is was counted long ago.
        if !once.is_news(verified) {
            return;
        }
        let name = item.image.as_ref().or(item.model.as_ref());
        let name = name.map_or("", String::as_str);
        let id = format!("{} {name} {} {}", cache.name_any(), item.files, verified.0);
        if !once.count(&id, verified) {
            return;
        }
        let took = match (&item.took, &item.started) {
            (Some(took), _) => Some(Duration::from_millis(took.0.0)),
            (None, Some(started)) => Some(verified.since(Moment::at(started))),
            (None, None) => None,
        };
        let sources = item.sources.iter();
        let sources = sources.map(|source| (Source::of(&source.kind), source.bytes));
        self.fetched(kind(item), took, sources);
    }

    /// Shows what claims have bought and what it costs.
    pub(crate) fn claims(&self, objects: &Objects, on_demand: OnDemand<'_>) {
        let types = [
            CapacityType::OnDemand,
            CapacityType::Reserved,
            CapacityType::Spot,
        ];
        let types = types.into_iter().map(Some).chain([None]);
        let mut fleets: BTreeMap<Option<CapacityType>, Fleet> =
            types.map(|capacity| (capacity, Fleet::default())).collect();
        for claim in &objects.claims {
            let bought = claim
                .status
                .as_ref()
                .is_some_and(|status| status.instance.is_some());
            if !bought {
                continue;
            }
            let offering = &claim.spec.offering;
            let capacity = offering.capacity_type.parse().ok();
            let fleet = fleets.entry(capacity).or_default();
            fleet.nodes += 1;
            let Some(price) = claim.spec.price.map(|price| price.0.0) else {
                continue;
            };
            fleet.cost.0 = fleet.cost.0.saturating_add(price);
            if let Some(list) = on_demand(offering) {
                let less = list.0.saturating_sub(price);
                fleet.saved.0 = fleet.saved.0.saturating_add(less);
            }
        }
        for (capacity, fleet) in fleets {
            self.fleet(capacity, fleet);
        }
    }
}

fn reporting(cache: &NodeCache, now: Moment) -> Reports {
    let observed = cache.status.as_ref().map(|status| status.observed.as_ref());
    match observed {
        None | Some(None) => Reports::Never,
        Some(Some(observed)) if now.since(Moment::at(observed)) > FRESH => Reports::Stale,
        Some(Some(_)) => Reports::Fresh,
    }
}

/// What an item is.
pub(crate) fn kind(item: &CacheItem) -> ItemKind {
    match item.image {
        Some(_) => ItemKind::Image,
        None => ItemKind::Weights,
    }
}

/// How far it is; none where nothing of it is there.
pub(crate) fn state(item: &CacheItem) -> Option<ItemState> {
    match item.state {
        Some(ItemPhase::Verified) => Some(ItemState::Verified),
        _ if !item.problem.is_empty() => Some(ItemState::Failed),
        Some(ItemPhase::Partial) => Some(ItemState::Partial),
        Some(ItemPhase::Unknown) => Some(ItemState::Unverified),
        None => None,
    }
}

/// All bytes of an item, as far as anybody says.
pub(crate) fn all_bytes(cache: &NodeCache, item: &CacheItem) -> Option<i64> {
    let moved = item.sources.iter();
    let moved = moved.fold(0_u64, |sum, source| sum.saturating_add(source.bytes));
    if moved > 0 {
        return i64::try_from(moved).ok();
    }
    let same = |other: &&CacheItem| {
        (&other.image, &other.model, &other.files) == (&item.image, &item.model, &item.files)
    };
    let intended = cache.spec.items.iter().find(same);
    let said = [Some(item), intended].into_iter().flatten();
    said.filter_map(|item| size(&item.bytes.as_ref()?.0)).next()
}

fn size(text: &str) -> Option<i64> {
    amount::parse(amount::EPHEMERAL_STORAGE, text).ok()
}
