//! What is sold: the catalog's types where Compute Engine has them, with spot's price of today, how
//! often it is taken away, and how likely it is to be had.
//!
//! What cannot be asked leaves what the catalog says. List prices are the catalog's: their API speaks
//! of SKUs, not of machine types.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use futures_util::stream;
use headstart_clouds::gcp::advice::{CapacityHistory, Scores};
use headstart_core::offer::{CapacityType, OfferingKey};

use super::Gcp;
use crate::{Offers, price};

/// Questions at once.
const AT_ONCE: usize = 8;

/// An offering less likely to be had than this is asked for one machine at a time.
const UNLIKELY: f64 = 0.3;

/// Hours that a machine is taken to live where only the share of preempted ones is known.
const LIFE_HOURS: f64 = 24.0;

/// Most interruptions per million hours that are believed: one in six minutes.
const MOST_INTERRUPTIONS: f64 = 10e6;

/// What was asked of one offering.
struct Asked {
    index: usize,
    history: Option<CapacityHistory>,
    scores: Option<Scores>,
}

impl Gcp {
    pub(super) async fn sold(&self) -> Offers {
        let mut offers = self.catalog.clone();
        offers
            .offerings
            .retain(|offering| self.is_in_region(&offering.zone));
        self.cut(&mut offers).await;
        let spot = offers.offerings.iter().enumerate();
        let spot: Vec<_> = spot
            .filter(|(_, offering)| offering.capacity_type == CapacityType::Spot)
            .filter_map(|(index, offering)| {
                let kind = offers.types.get(offering.instance_type)?;
                Some((index, offering.zone.clone(), kind.name.clone()))
            })
            .collect();
        let asked: Vec<_> = stream::iter(spot)
            .map(|(index, zone, kind)| self.ask(index, zone, kind))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut told = BTreeMap::new();
        for Asked {
            index,
            history,
            scores,
        } in asked
        {
            let Some(offering) = offers.offerings.get_mut(index) else {
                continue;
            };
            if let Some(rate) = interruptions(history.as_ref(), scores.as_ref()) {
                offering.interruptions_per_million_h = rate;
            }
            let chance = scores.and_then(|scores| scores.obtainability);
            if chance.is_some_and(|chance| chance < UNLIKELY) {
                offering.launch_budget = Some(1);
            }
            let usd = history.as_ref().and_then(latest);
            if let Some((usd, kind)) = usd.zip(offers.types.get(offering.instance_type)) {
                let key = OfferingKey {
                    instance_type: kind.name.clone(),
                    zone: offering.zone.clone(),
                    capacity_type: CapacityType::Spot,
                };
                told.insert(key, usd);
            }
        }
        for (offering, doubt) in price::refresh(&mut offers, &told) {
            let doubt = doubt.to_string();
            tracing::warn!(%offering, doubt, "price is not believed");
        }
        offers
    }

    /// Takes out what is not sold where the catalog has it.
    async fn cut(&self, offers: &mut Offers) {
        let zones: BTreeSet<_> = offers
            .offerings
            .iter()
            .map(|one| one.zone.clone())
            .collect();
        for zone in zones {
            let sold = match self.compute.machine_types(&zone, None).await {
                Ok(sold) => sold,
                Err(error) => {
                    let error = headstart_transfer::chain(&error);
                    tracing::warn!(zone, error, "machine types of a zone are not known");
                    continue;
                }
            };
            let sold: BTreeSet<_> = sold.into_iter().map(|kind| kind.name).collect();
            let types = &offers.types;
            offers.offerings.retain(|offering| {
                let kind = types.get(offering.instance_type);
                offering.zone != zone || kind.is_some_and(|kind| sold.contains(&kind.name))
            });
        }
    }

    async fn ask(&self, index: usize, zone: String, kind: String) -> Asked {
        let region = &self.region;
        let history = self.compute.capacity_history(region, &zone, &kind).await;
        let scores = self.compute.capacity(region, &zone, &kind).await;
        let note = |error: headstart_clouds::call::CallError| {
            let error = headstart_transfer::chain(&error);
            tracing::debug!(zone, kind, error, "no advice on capacity");
        };
        Asked {
            index,
            history: history.map_err(note).ok(),
            scores: scores.map_err(note).ok().flatten(),
        }
    }
}

/// The newest price.
pub(super) fn latest(history: &CapacityHistory) -> Option<f64> {
    let records = history.price_history.iter();
    let newest = records.max_by(|a, b| a.interval.start_time.cmp(&b.interval.start_time))?;
    newest.list_price.usd()
}

/// Interruptions per million hours: from the time after which most machines are taken away (half of
/// them are left after ln 2 over the rate), else from the share of machines that were.
pub(super) fn interruptions(
    history: Option<&CapacityHistory>,
    scores: Option<&Scores>,
) -> Option<u32> {
    let by_uptime = scores.and_then(Scores::uptime_hours);
    let by_uptime = by_uptime.map(|hours| std::f64::consts::LN_2 / hours);
    let by_share = || {
        let records = &history?.preemption_history;
        let shares = records.iter().map(|record| record.preemption_rate);
        let shares: Vec<_> = shares.filter(|share| (0.0..=1.0).contains(share)).collect();
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        let mean = Some(mean).filter(|mean| mean.is_finite())?;
        Some(-(1.0 - mean.min(0.999)).ln() / LIFE_HOURS)
    };
    let per_hour = by_uptime.or_else(by_share)?;
    Some((per_hour * 1e6).min(MOST_INTERRUPTIONS) as u32)
}
