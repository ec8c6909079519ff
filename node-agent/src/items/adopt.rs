//! Files that another client downloaded into a Hugging Face cache become objects, once their bytes
//! were hashed on the way into a file of our own.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headstart_hub::adopt::{Cache, Offer};
use headstart_hub::plan::{ModelPlan, PlannedFile};
use headstart_transfer::Digesting;

use super::objects::{Objects, blocking};
use crate::report::chain;
use crate::store::{Sealed, Store, StoreError, is_sealed};

/// Bytes copied at once.
const COPY: usize = 1 << 20;

/// Adopts what it can of `plan` from `caches`. What is wrong with a cache is logged: the files are
/// fetched then.
pub(super) async fn adopt(
    objects: &Objects,
    plan: &ModelPlan,
    caches: &[PathBuf],
) -> Result<u64, StoreError> {
    let mut adopted = 0;
    for path in caches {
        let opened = blocking({
            let (path, plan) = (path.clone(), plan.clone());
            move || Cache::open(&path, &plan)
        });
        let cache = match opened.await {
            Ok(Some(cache)) => Arc::new(cache),
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(cache = %path.display(), reason = %chain(&error), "cache not usable");
                continue;
            }
        };
        for file in &plan.files {
            let _alone = objects.alone(&file.expected).await;
            let (store, cache, file) = (objects.store.clone(), cache.clone(), file.clone());
            adopted += blocking(move || adopt_file(&store, &cache, &file)).await?;
        }
    }
    Ok(adopted)
}

/// Bytes adopted: all of the file or none.
fn adopt_file(store: &Store, cache: &Cache, file: &PlannedFile) -> Result<u64, StoreError> {
    let object = store.object(&file.expected);
    let found = is_sealed(&object, &file.expected, file.size);
    if found.map_err(StoreError::io("look at", &object))? != Sealed::Absent {
        return Ok(0);
    }
    let offers = match cache.offers(file) {
        Ok(offers) => offers,
        Err(error) => {
            tracing::warn!(file = %file.path, reason = %chain(&error), "cache not readable");
            return Ok(0);
        }
    };
    for offer in offers {
        let at = offer.at.clone();
        if copy_verified(store, offer, file)? {
            return Ok(file.size);
        }
        tracing::warn!(file = %file.path, at = %at.display(), "not what was planned, not adopted");
    }
    Ok(0)
}

fn copy_verified(store: &Store, offer: Offer, file: &PlannedFile) -> Result<bool, StoreError> {
    // Swept at the next start if this one dies.
    let copy = store.partial(&file.expected).with_extension("adopting");
    let hashed = hash_while_copying(offer.file, &copy, file);
    let good = hashed.map_err(StoreError::io("copy to", &copy))?;
    if good {
        store.take_in(&copy, &file.expected)?;
    } else {
        crate::store::remove(&copy)?;
    }
    Ok(good)
}

fn hash_while_copying(from: File, to: &Path, file: &PlannedFile) -> std::io::Result<bool> {
    // Its owner may be writing to it: no more than was planned is read.
    let mut from = from.take(file.size + 1);
    let mut copy = File::create(to)?;
    let mut digesting = Digesting::new(&file.expected, file.size);
    let mut buffer = vec![0; COPY];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                digesting.update(&buffer[..read]);
                copy.write_all(&buffer[..read])?;
                copied += read as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(file = %file.path, reason = %error, "cache not readable");
                return Ok(false);
            }
        }
    }
    copy.sync_all()?;
    Ok(copied == file.size && digesting.finish().1 == file.expected)
}
