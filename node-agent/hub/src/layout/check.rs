//! Looking at a tree: what it shows, and whether that is what the plan says.
//!
//! Reads only. [`Tree::inspect`] costs a few system calls per file; [`Tree::verify`] reads every
//! byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

use headstart_core::digest::{Expected, GitSha1, Sha256};
use headstart_core::model::{RepoPath, Revision};
use sha2::Digest as _;

use super::{LayoutError, Tree, listing, pointer};
use crate::dir::{Dir, Entry, FileError};
use crate::plan::{ModelPlan, PlannedFile};

/// Bytes read at a time while hashing.
const BUFFER: usize = 1 << 20;

/// How much of a plan a tree shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Absent,
    /// Some files, or all of them with something around them wrong.
    Partial,
    /// All files, with everything that clients look for around them.
    Complete,
}

/// Something that is not as the plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file it concerns; none for the tree as a whole.
    pub path: Option<RepoPath>,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file is not there.
    Missing,
    /// The blob is no regular file.
    NotAFile,
    /// The blob has another size.
    Size {
        /// Bytes found.
        found: u64,
    },
    /// The blob is there and the snapshot does not lead to it.
    Pointer,
    /// The bytes hash to something else.
    Content {
        /// What they hash to.
        found: Expected,
    },
    /// `trees/<commit>.json` does not list exactly the files that are there.
    Listing,
    /// `refs/<revision>` does not name the commit.
    Ref,
    /// The marks for files known not to exist are incomplete.
    Absences,
}

/// What a tree shows of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Files that are there with the right size, in the plan's order.
    pub present: Vec<RepoPath>,
    /// Their bytes; content shared by two paths counts once.
    pub bytes: u64,
    /// What is not as planned.
    pub findings: Vec<Finding>,
}

impl Inventory {
    /// The whole in one word.
    pub fn state(&self) -> State {
        match (self.present.is_empty(), self.findings.is_empty()) {
            (_, true) => State::Complete,
            (true, false) => State::Absent,
            (false, false) => State::Partial,
        }
    }
}

impl Tree {
    /// Looks at names, kinds, sizes and metadata; reads no weights.
    ///
    /// # Errors
    /// When the file system refuses; a tree that is not there is no error.
    pub fn inspect(&self, plan: &ModelPlan) -> Result<Inventory, LayoutError> {
        let Some(repo) = self.repo(plan)? else {
            let missing = |file: &PlannedFile| finding(file, Fault::Missing);
            let mut findings: Vec<Finding> = plan.files.iter().map(missing).collect();
            findings.push(Finding {
                path: None,
                fault: Fault::Listing,
            });
            return Ok(Inventory {
                present: Vec::new(),
                bytes: 0,
                findings,
            });
        };
        let commit = plan.commit.to_string();
        let blobs = repo.dir("blobs")?;
        let snapshot = repo.dir(&format!("snapshots/{commit}"))?;
        let mut findings = Vec::new();
        let mut there: Vec<&PlannedFile> = Vec::new();
        for file in &plan.files {
            match look(blobs.as_ref(), snapshot.as_ref(), file)? {
                None => there.push(file),
                Some(fault) => findings.push(finding(file, fault)),
            }
        }
        let whole = |fault| Finding { path: None, fault };
        let listed = repo.read(&format!("trees/{commit}.json"), 64 << 20)?;
        if listed.as_deref() != Some(&listing(there.iter().copied())[..]) {
            findings.push(whole(Fault::Listing));
        }
        if let Revision::Name(name) = &plan.revision {
            let named = repo.read(&format!("refs/{name}"), 64)?;
            if named.as_deref() != Some(commit.as_bytes()) {
                findings.push(whole(Fault::Ref));
            }
        }
        let no_exist = repo.dir(&format!(".no_exist/{commit}"))?;
        let marked = |path: &RepoPath| match &no_exist {
            Some(dir) => dir.file(path.as_str()).map(|file| file.is_some()),
            None => Ok(false),
        };
        for path in &plan.absent {
            if !marked(path)? {
                findings.push(whole(Fault::Absences));
                break;
            }
        }
        let sizes: BTreeMap<Expected, u64> = there
            .iter()
            .map(|file| (file.expected, file.size))
            .collect();
        let present = there.iter().map(|file| file.path.clone()).collect();
        Ok(Inventory {
            present,
            bytes: sizes.values().sum(),
            findings,
        })
    }

    /// Like [`Tree::inspect`], and hashes every blob. `read` is told the bytes of each step, and
    /// hashing stops early, with what was found so far, when it answers `false`.
    ///
    /// # Errors
    /// When the file system refuses or a file cannot be read.
    pub fn verify(
        &self,
        plan: &ModelPlan,
        read: &mut dyn FnMut(u64) -> Go,
    ) -> Result<Inventory, LayoutError> {
        let mut inventory = self.inspect(plan)?;
        let Some(repo) = self.repo(plan)? else {
            return Ok(inventory);
        };
        let mut seen: BTreeMap<Expected, Expected> = BTreeMap::new();
        for file in plan
            .files
            .iter()
            .filter(|file| inventory.present.contains(&file.path))
        {
            let found = match seen.get(&file.expected) {
                Some(found) => *found,
                None => {
                    let below = format!("blobs/{}", file.etag());
                    let Some(mut blob) = repo.file(&below)? else {
                        continue;
                    };
                    let path = repo.path().join(&below);
                    let hashed = hash(&mut blob, &file.expected, file.size, read);
                    let Some(found) = hashed.map_err(|source| FileError {
                        operation: "read",
                        path,
                        source,
                    })?
                    else {
                        return Ok(inventory);
                    };
                    seen.insert(file.expected, found);
                    found
                }
            };
            if found != file.expected {
                inventory
                    .findings
                    .push(finding(file, Fault::Content { found }));
            }
        }
        let damaged = |path: &RepoPath| {
            let concerns = |f: &Finding| f.path.as_ref() == Some(path);
            inventory.findings.iter().any(concerns)
        };
        let present = inventory
            .present
            .iter()
            .filter(|path| !damaged(path))
            .cloned()
            .collect();
        inventory.present = present;
        Ok(inventory)
    }

    /// The digests whose blobs are there with the right size.
    pub(crate) fn blobs_present(
        &self,
        plan: &ModelPlan,
    ) -> Result<std::collections::BTreeSet<Expected>, LayoutError> {
        let mut present = std::collections::BTreeSet::new();
        if let Some(repo) = self.repo(plan)?
            && let Some(blobs) = repo.dir("blobs")?
        {
            for file in &plan.files {
                if blobs.entry(&file.etag())? == Entry::File(file.size) {
                    present.insert(file.expected);
                }
            }
        }
        Ok(present)
    }

    fn repo(&self, plan: &ModelPlan) -> Result<Option<Dir>, LayoutError> {
        match Dir::open(&self.root) {
            Ok(root) => Ok(root.dir(&format!("hub/{}", plan.repo.cache_dir()))?),
            Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a long reading goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It does.
    On,
    /// It stops here.
    Stop,
}

fn finding(file: &PlannedFile, fault: Fault) -> Finding {
    Finding {
        path: Some(file.path.clone()),
        fault,
    }
}

fn look(
    blobs: Option<&Dir>,
    snapshot: Option<&Dir>,
    file: &PlannedFile,
) -> Result<Option<Fault>, FileError> {
    let Some(blobs) = blobs else {
        return Ok(Some(Fault::Missing));
    };
    match blobs.entry(&file.etag())? {
        Entry::File(size) if size == file.size => {}
        Entry::File(found) => return Ok(Some(Fault::Size { found })),
        Entry::Absent => return Ok(Some(Fault::Missing)),
        _ => return Ok(Some(Fault::NotAFile)),
    }
    let dir = match (snapshot, file.path.parent()) {
        (Some(snapshot), Some(parent)) => snapshot.dir(parent)?,
        _ => None,
    };
    let dir = match file.path.parent() {
        Some(_) => dir.as_ref(),
        None => snapshot,
    };
    let entry = dir
        .map(|dir| dir.entry(file.path.file_name()))
        .transpose()?;
    let leads = match entry {
        Some(Entry::Link(target)) => target == pointer(file).as_os_str().as_encoded_bytes(),
        _ => false,
    };
    Ok((!leads).then_some(Fault::Pointer))
}

/// Hashes `file` the way `expected` is made; none if it was stopped.
pub(crate) fn hash(
    file: &mut File,
    expected: &Expected,
    size: u64,
    read: &mut dyn FnMut(u64) -> Go,
) -> std::io::Result<Option<Expected>> {
    let mut sha256 = sha2::Sha256::new();
    let mut sha1 = sha1::Sha1::new();
    let large = matches!(expected, Expected::Sha256(_));
    if !large {
        sha1.update(format!("blob {size}\0"));
    }
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match large {
            true => sha256.update(&buffer[..n]),
            false => sha1.update(&buffer[..n]),
        }
        if read(n as u64) == Go::Stop {
            return Ok(None);
        }
    }
    Ok(Some(match large {
        true => Expected::Sha256(Sha256(sha256.finalize().into())),
        false => Expected::GitSha1(GitSha1(sha1.finalize().into())),
    }))
}
