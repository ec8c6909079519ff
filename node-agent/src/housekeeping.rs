//! Looking after a store: what it holds, whether that is still true, and what may go.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use headstart_core::digest::{Expected, Sha256};
use headstart_core::quantity::Bytes;
use headstart_transfer::Digesting;
use serde::Serialize;

use crate::cli::{EvictArgs, Exit, InspectArgs, StoreArgs};
use crate::report::chain;
use crate::store::{Image, Inventory, Item, Lock, Removed, State, Store, StoreError};

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
    /// Images kept as plain directories.
    images: Vec<VerifiedImage>,
}

#[derive(Debug, Serialize)]
struct VerifiedImage {
    name: String,
    digest: Sha256,
    found: ImageFound,
}

/// What an image's root file system was found to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum ImageFound {
    /// What it was when it was made.
    Good,
    /// Something else; it has been removed.
    Removed {
        /// Its fingerprint now, or why there is none.
        found: String,
    },
    /// Made by an agent that did not write down what it was.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Bad {
    repo: String,
    path: String,
    expected: Expected,
    found: String,
}

impl Verified {
    fn is_all_good(&self) -> bool {
        let is_removed = |image: &VerifiedImage| matches!(image.found, ImageFound::Removed { .. });
        self.removed.is_empty() && !self.images.iter().any(is_removed)
    }
}

/// Hashes every object and every unpacked image again and removes those that are wrong.
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
            for image in &verified.images {
                let named = format!("{}@sha256:{}", image.name, image.digest);
                match &image.found {
                    ImageFound::Good => {}
                    ImageFound::Removed { found } => println!(
                        "removed {named}: its files are not what they were when it was unpacked, found {found}; fetch the image again"
                    ),
                    ImageFound::Unknown => println!(
                        "unknown {named}: an older agent unpacked it and did not note what it was; evict it and fetch it again to have it verified"
                    ),
                }
            }
            let count = |wanted| {
                let images = verified.images.iter();
                images.filter(|image| image.found == wanted).count()
            };
            println!(
                "{} objects verified ({}), {} removed; {} of {} images verified",
                verified.good,
                Bytes(verified.good_bytes),
                verified.removed.len(),
                count(ImageFound::Good),
                verified.images.len()
            );
        }
        match verified.is_all_good() {
            true => Exit::Done,
            false => Exit::Failed,
        }
    })
}

/// Makes room.
pub fn evict(args: &EvictArgs) -> Exit {
    let removed = open_locked(&args.store).and_then(|(store, _lock)| {
        let mut removed = Removed::default();
        let Inventory { items, images, .. } = store.inventory()?;
        let unknown = |wanted: &&String| !items.iter().any(|item| is(item, wanted));
        if let Some(unknown) = args.models.iter().find(unknown) {
            eprintln!("error: --model {unknown}: the store holds no such model; see `inspect`");
            return Ok(None);
        }
        let unknown = |wanted: &&String| !images.iter().any(|image| is_image(image, wanted));
        if let Some(unknown) = args.images.iter().find(unknown) {
            eprintln!("error: --image {unknown}: the store holds no such image; see `inspect`");
            return Ok(None);
        }
        let named = |item: &&Item| args.models.iter().any(|wanted| is(item, wanted));
        for item in items.iter().filter(named) {
            store.forget(&item.plan)?;
            removed.names.push(format!("{}@{}", item.repo, item.commit));
        }
        let named = |image: &&Image| args.images.iter().any(|wanted| is_image(image, wanted));
        for image in images.iter().filter(named) {
            store.forget_image(&image.note.digest)?;
            removed.names.push(image.note.name.clone());
            removed.bytes += image.note.bytes;
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
    let inventory = store.inventory()?;
    for image in inventory.images {
        let found = match (
            headstart_unpack::fingerprint(&image.rootfs),
            image.note.fingerprint,
        ) {
            (Ok(found), Some(expected)) if found == expected => ImageFound::Good,
            (Ok(_), None) => ImageFound::Unknown,
            (found, _) => {
                store.forget_image(&image.note.digest)?;
                ImageFound::Removed {
                    found: match found {
                        Ok(found) => found.prefixed(),
                        Err(error) => chain(&error),
                    },
                }
            }
        };
        verified.images.push(VerifiedImage {
            name: image.note.name,
            digest: image.note.digest,
            found,
        });
    }
    for item in inventory.items {
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

/// Whether an image is the one named, by what it was asked for or with its digest.
fn is_image(image: &Image, wanted: &str) -> bool {
    let note = &image.note;
    wanted == note.name || wanted == format!("{}@{}", note.name, note.digest.prefixed())
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
