//! Looking after a store: what it holds, whether that is still true, and what may go.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use headstart_core::digest::Expected;
use headstart_core::quantity::Bytes;
use headstart_transfer::Digesting;
use serde::Serialize;

use crate::cli::{EvictArgs, Exit, InspectArgs, StoreArgs};
use crate::report::chain;
use crate::store::{Inventory, Item, Lock, Removed, State, Store, StoreError};

/// Bytes hashed at once.
const READ: usize = 1 << 20;

/// Shows the inventory.
pub fn inspect(args: &InspectArgs) -> Exit {
    answer(
        args.store
            .place()
            .open()
            .and_then(|store| store.inventory()),
        |inventory| {
            match args.json {
                true => print_json(&inventory),
                false => print_inventory(&inventory),
            }
            Exit::Done
        },
    )
}

/// What `verify` found.
#[derive(Debug, Default, Serialize)]
struct Verified {
    /// Objects that are what they should be.
    good: usize,
    /// Bytes of them.
    good_bytes: u64,
    /// Objects that were not, and have been removed.
    removed: Vec<Bad>,
}

#[derive(Debug, Serialize)]
struct Bad {
    repo: String,
    path: String,
    expected: Expected,
    found: String,
}

/// Hashes every object again and removes those that are wrong.
pub fn verify(args: &InspectArgs) -> Exit {
    let verified = open_locked(&args.store).and_then(|(store, _lock)| rehash(&store));
    answer(verified, |verified| {
        if args.json {
            print_json(&verified);
        } else {
            for bad in &verified.removed {
                println!(
                    "removed {} of {}: expected {}, found {}; fetch the model again",
                    bad.path, bad.repo, bad.expected, bad.found
                );
            }
            println!(
                "{} objects verified ({}), {} removed",
                verified.good,
                Bytes(verified.good_bytes),
                verified.removed.len()
            );
        }
        match verified.removed.is_empty() {
            true => Exit::Done,
            false => Exit::Failed,
        }
    })
}

/// Makes room.
pub fn evict(args: &EvictArgs) -> Exit {
    let removed = open_locked(&args.store).and_then(|(store, _lock)| {
        let mut removed = Removed::default();
        let items = store.inventory()?.items;
        if let Some(unknown) = args
            .models
            .iter()
            .find(|wanted| !items.iter().any(|item| is(item, wanted)))
        {
            eprintln!("error: --model {unknown}: the store holds no such model; see `inspect`");
            return Ok(None);
        }
        for item in items
            .iter()
            .filter(|item| args.models.iter().any(|wanted| is(item, wanted)))
        {
            store.forget(&item.plan)?;
            removed.names.push(format!("{}@{}", item.repo, item.commit));
        }
        removed.bytes += store.remove_orphans()?;
        if let Some(bytes) = args.bytes.filter(|bytes| bytes.0 > removed.bytes) {
            let more = store.evict(bytes.0 - removed.bytes)?;
            removed.names.extend(more.names);
            removed.bytes += more.bytes;
        }
        Ok(Some(removed))
    });
    answer(removed, |removed| match removed {
        Some(removed) => print_removed(&removed, args.json),
        None => Exit::Failed,
    })
}

/// Removes what nobody can use.
pub fn gc(args: &InspectArgs) -> Exit {
    let removed = open_locked(&args.store).and_then(|(store, _lock)| store.gc());
    answer(removed, |removed| print_removed(&removed, args.json))
}

/// Hashes one object; what it was found to be.
pub(crate) fn hash(path: &Path, expected: &Expected, size: u64) -> std::io::Result<Expected> {
    let mut file = File::open(path)?;
    let mut digesting = Digesting::new(expected, size);
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digesting.finish().1),
            Ok(read) => digesting.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn rehash(store: &Store) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    let mut seen = std::collections::BTreeSet::new();
    for item in store.inventory()?.items {
        for file in &item.plan.files {
            let path = store.object(&file.expected);
            if !path.exists() || !seen.insert(file.expected) {
                continue;
            }
            match hash(&path, &file.expected, file.size) {
                Ok(found) if found == file.expected => {
                    store.seal(&file.expected)?;
                    verified.good += 1;
                    verified.good_bytes += file.size;
                }
                found => {
                    crate::store::remove(&path)?;
                    verified.removed.push(Bad {
                        repo: item.repo.clone(),
                        path: file.path.clone(),
                        expected: file.expected,
                        found: match found {
                            Ok(found) => found.to_string(),
                            Err(error) => error.to_string(),
                        },
                    });
                }
            }
        }
    }
    Ok(verified)
}

/// Whether a model is the one named, by any or by that commit.
fn is(item: &Item, wanted: &str) -> bool {
    let wanted = wanted.strip_prefix("hf://").unwrap_or(wanted);
    wanted == item.repo || wanted == format!("{}@{}", item.repo, item.commit)
}

fn open_locked(args: &StoreArgs) -> Result<(Store, Lock), StoreError> {
    let store = args.place().open()?;
    let lock = store.lock()?;
    Ok((store, lock))
}

fn answer<T>(result: Result<T, StoreError>, tell: impl FnOnce(T) -> Exit) -> Exit {
    match result {
        Ok(value) => tell(value),
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            Exit::Store
        }
    }
}

fn print_json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("plain data serializes");
    println!("{text}");
}

fn print_inventory(inventory: &Inventory) {
    for item in &inventory.items {
        let state = match item.state {
            State::Absent => "absent",
            State::Partial => "partial",
            State::Unknown => "unknown",
            State::Verified => "verified",
        };
        let pinned = match item.uses.pinned_until {
            Some(_) => ", pinned",
            None => "",
        };
        println!(
            "{state:<9} {}@{}\n          {} of {}{pinned}\n          {}",
            item.repo,
            item.commit,
            Bytes(item.bytes),
            Bytes(item.total_bytes),
            item.tree.display()
        );
    }
    for image in &inventory.images {
        println!(
            "unpacked  {}@sha256:{}\n          {}\n          {}",
            image.note.name,
            image.note.digest,
            Bytes(image.note.bytes),
            image.rootfs.display()
        );
    }
    println!(
        "{} models, {} images; {} unfinished, {} without a model; {} may still be written",
        inventory.items.len(),
        inventory.images.len(),
        Bytes(inventory.partial_bytes),
        Bytes(inventory.orphan_bytes),
        Bytes(inventory.usable_bytes)
    );
}

fn print_removed(removed: &Removed, json: bool) -> Exit {
    if json {
        print_json(removed);
    } else {
        removed
            .names
            .iter()
            .for_each(|name| println!("removed {name}"));
        println!("{} freed", Bytes(removed.bytes));
    }
    Exit::Done
}
