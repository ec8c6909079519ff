//! Removes what dead sessions left and what is past its time.

use std::collections::HashSet;
use std::time::Duration;

use headstart_core::digest::Sha256;

use crate::client::{Runtime, unique};
use crate::detect::{Verdict, blocking};
use crate::error::Error;
use crate::fields;
use crate::lease::{Collect, Kind};
use crate::proto::images::Image;
use crate::proto::leases::Lease;
use crate::proto::snapshots::Info;
use crate::snapshots::Snapshots;
use crate::staging;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Staging directories of dead sessions.
    pub staging: usize,
    /// Snapshots that dead sessions had prepared and not committed.
    pub snapshots: usize,
    /// Leases past their time.
    pub leases: usize,
    /// Holds whose image has been pulled.
    pub holds: usize,
    /// Pins past their time.
    pub pins: usize,
}

impl Runtime {
    /// Removes staging directories and half-made snapshots of dead sessions, leases and pins past
    /// their time, and holds whose image has been pulled. What a dead session committed or began
    /// to write stays until its lease ends, so that its successor finds it. Safe beside living
    /// sessions. To be called at start and every few minutes.
    ///
    /// # Errors
    /// The first thing that could not be removed.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let mut swept = Swept::default();
        let detected = self.detect().await?;
        let leases = self.our_leases().await?;
        let mut living = None;
        if let (Verdict::Fast { staging }, Some(snapshotter)) =
            (&detected.verdict, &detected.snapshotter)
        {
            let snapshots = Snapshots {
                runtime: self,
                snapshotter,
                lease: "",
            };
            // In this order, as with the leases above: a session has its staging before anything
            // else, so one that starts meanwhile is either not listed or known to live.
            let ours = snapshots.ours().await?;
            let base = staging.clone();
            let sessions = blocking(move || staging::living(&base)).await?;
            swept.snapshots = sweep_snapshots(&snapshots, ours, &sessions).await?;
            living = Some(sessions);
            let base = staging.clone();
            swept.staging = blocking(move || staging::remove_dead(&base)).await?;
        }
        let records = self.records().await?;
        for record in &records {
            let until = record.labels.get(fields::PINNED_UNTIL);
            if until.is_some_and(|until| fields::is_past(until)) {
                self.set_pin(record, None).await?;
                swept.pins += 1;
            }
        }
        let pulled: HashSet<&str> = records
            .iter()
            .filter_map(|record| Some(record.target.as_ref()?.digest.as_str()))
            .collect();
        let mut removed = Vec::new();
        for lease in &leases {
            let target = lease.labels.get(fields::TARGET);
            let is_living = |session| {
                living
                    .as_ref()
                    .is_none_or(|living| living.contains(session))
            };
            let dead_probe = lease.is_a(Kind::Probe) && !lease.session().is_some_and(is_living);
            if lease.is_expired() || dead_probe {
                swept.leases += 1;
                removed.push(lease);
            } else if lease.is_a(Kind::Hold) && target.is_some_and(|t| pulled.contains(t.as_str()))
            {
                swept.holds += 1;
                removed.push(lease);
            }
        }
        self.delete_leases(&removed).await?;
        Ok(swept)
    }

    /// Moves the end of an image's pin or hold to `hold` from now; false if it has neither.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn renew(&self, target: &Sha256, hold: Duration) -> Result<bool, Error> {
        let mut found = false;
        let holds = self.holds_on(target).await?;
        if !holds.is_empty() {
            let next = self
                .create_lease(Kind::Hold, &unique(), target, hold)
                .await?;
            for lease in &holds {
                for resource in self.resources(&lease.id).await? {
                    self.add_resource(&next, &resource.r#type, &resource.id)
                        .await?;
                }
            }
            for lease in &holds {
                self.delete_lease(&lease.id, Collect::Later).await?;
            }
            found = true;
        }
        let until = fields::after(hold);
        for record in self.pinned_records(target).await? {
            self.set_pin(&record, Some(&until)).await?;
            found = true;
        }
        Ok(found)
    }

    /// Ends an image's pin or hold; false if it has neither. What nothing else holds is collected.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn release(&self, target: &Sha256) -> Result<bool, Error> {
        let holds = self.holds_on(target).await?;
        self.delete_leases(&holds.iter().collect::<Vec<_>>())
            .await?;
        let pinned = self.pinned_records(target).await?;
        for record in &pinned {
            self.set_pin(record, None).await?;
        }
        Ok(!holds.is_empty() || !pinned.is_empty())
    }

    async fn holds_on(&self, target: &Sha256) -> Result<Vec<Lease>, Error> {
        let mut leases = self.our_leases().await?;
        leases.retain(|lease| lease.is_for(Kind::Hold, target));
        Ok(leases)
    }

    async fn pinned_records(&self, target: &Sha256) -> Result<Vec<Image>, Error> {
        let digest = target.prefixed();
        let mut records = self.records().await?;
        records.retain(|record| {
            let ours = record.labels.contains_key(fields::PINNED_UNTIL);
            ours && record
                .target
                .as_ref()
                .is_some_and(|target| target.digest == digest)
        });
        Ok(records)
    }

    /// An expired lease frees nothing until a collection, which the last deletion waits for.
    async fn delete_leases(&self, leases: &[&Lease]) -> Result<(), Error> {
        let Some((last, others)) = leases.split_last() else {
            return Ok(());
        };
        for lease in others {
            self.delete_lease(&lease.id, Collect::Later).await?;
        }
        self.delete_lease(&last.id, Collect::Now).await
    }
}

/// Removes those of `ours` whose session is not among the `living`.
async fn sweep_snapshots(
    snapshots: &Snapshots<'_>,
    mut ours: Vec<Info>,
    living: &HashSet<String>,
) -> Result<usize, Error> {
    // A probe's second snapshot stands on its first.
    ours.sort_by_key(|info| info.parent.is_empty());
    let mut removed = 0;
    for info in ours {
        if !info
            .labels
            .get(fields::SESSION)
            .is_some_and(|session| living.contains(session))
        {
            snapshots.remove(&info.name).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
