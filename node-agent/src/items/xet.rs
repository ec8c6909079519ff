//! Files that come through Xet storage, one at a time, by a child that can be lost. What does not
//! come that way is fetched in plain HTTP like the rest.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use headstart_hub::endpoint::Hub;
use headstart_hub::plan::{ModelPlan, PlannedFile};
use headstart_hub::xet::{Fetched, Xet, XetLimits};
use headstart_transfer::engine::Progress;
use headstart_transfer::source::SourceKind;

use super::objects::blocking;
use super::{Job, Ticket};
use crate::cli::{Own, XetWhen};
use crate::report::chain;
use crate::store::{Sealed, StoreError, is_sealed};

/// The Hub serves no larger file in plain HTTP.
const PLAIN_HTTP_BYTES: u64 = 50_000_000_000;

/// Fetches the files of `plan` for which `when` says so.
pub(super) async fn fetch(
    job: &Job,
    hub: &Hub,
    plan: &ModelPlan,
    ticket: &Ticket,
) -> Result<(), StoreError> {
    let wanted: Vec<&PlannedFile> = plan
        .files
        .iter()
        .filter(|file| is_wanted(job.xet, file))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let store = job.objects.store.clone();
    let xet = child(job.own, blocking(move || store.scratch()).await?);
    for file in wanted {
        let _alone = job.objects.alone(&file.expected).await;
        if is_there(job, file).await? {
            continue;
        }
        let progress = ticket.tally.transfer();
        let told = progress.clone();
        let tell = move |bytes| count(&told, bytes);
        match xet.fetch(hub, plan, file, tell).await {
            Ok(fetched) => publish(job, file, fetched).await?,
            Err(error) => {
                // Its bytes are gone; the engine counts its own.
                count(&progress, 0);
                tracing::warn!(reason = %chain(&error), "fetched in plain HTTP instead");
            }
        }
    }
    Ok(())
}

/// Sets what a file has come to; Xet storage is the Hub's.
fn count(progress: &Progress, bytes: u64) {
    progress.landed.store(bytes, Ordering::Relaxed);
    progress.by_kind[SourceKind::Hub as usize].store(bytes, Ordering::Relaxed);
}

fn is_wanted(when: XetWhen, file: &PlannedFile) -> bool {
    let by_size = match when {
        XetWhen::Never => false,
        XetWhen::Large => file.size > PLAIN_HTTP_BYTES,
        XetWhen::Always => true,
    };
    by_size && file.xet_hash.is_some()
}

fn child(own: Own, scratch: PathBuf) -> Xet {
    let arguments = own.prefix.iter().chain(&["xet-fetch"]);
    Xet {
        // This very program, even if its file was replaced meanwhile.
        program: "/proc/self/exe".into(),
        arguments: arguments.map(|argument| argument.into()).collect(),
        scratch,
        environment: Vec::new(),
        limits: XetLimits::default(),
    }
}

async fn is_there(job: &Job, file: &PlannedFile) -> Result<bool, StoreError> {
    let (store, file) = (job.objects.store.clone(), file.clone());
    blocking(move || {
        let object = store.object(&file.expected);
        let found = is_sealed(&object, &file.expected, file.size);
        Ok(found.map_err(StoreError::io("look at", &object))? != Sealed::Absent)
    })
    .await
}

async fn publish(job: &Job, file: &PlannedFile, fetched: Fetched) -> Result<(), StoreError> {
    let (store, expected) = (job.objects.store.clone(), file.expected);
    blocking(move || store.take_in(&fetched.path, &expected)).await
}
