//! A model on a local Hub, and trees and views of it in every state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use headstart_core::digest::Expected;
use headstart_core::model::Format;
use headstart_hub::layout::{Published, Tree};
use headstart_hub::plan::{ModelPlan, PlannedFile};
use headstart_hub::view::{Listing, Owner, View, ViewSpec};
use headstart_testbed::hub::{Hub, Options, RepoFile};
use headstart_testbed::serve::{Door, Entry};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::case::Files;
use crate::pod::{Room, UID};
use crate::tiny;

/// The repository.
pub(crate) const REPO: &str = "org/name";

/// Files a partial or evicted tree lacks: a large one and two small ones, of different sizes.
pub(crate) const MISSING: [&str; 3] = [
    "generation_config.json",
    "model-00002-of-00003.safetensors",
    "tokenizer.json",
];

/// Files the model does not have, and clients ask for.
pub(crate) const ABSENT: [&str; 7] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
];

/// The revision a consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rev {
    Main,
    Commit,
}

/// What the tree has of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Have {
    Complete,
    /// Some files had not come when it was published.
    Partial,
    /// It was complete when the views were made; then files were withdrawn.
    Evicted,
}

/// A Hub with one model, and what an agent made of it.
pub(crate) struct Site {
    pub(crate) room: Room,
    hub: Hub,
    commit: String,
    files: BTreeMap<String, RepoFile>,
    _runtime: Runtime,
}

impl Site {
    /// Every file an object, every tree published, no view.
    pub(crate) fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let files = tiny::files().into_iter().map(|(path, bytes)| {
            let file = RepoFile::new(path.clone(), bytes).unwrap();
            (path, file)
        });
        let files: BTreeMap<String, RepoFile> = files.collect();
        // Another host, as in life: some versions take another port of the same one for the Hub.
        let listen = SocketAddr::from(([127, 0, 0, 2], 0));
        let cdn = Door {
            listen,
            ..Door::default()
        };
        let options = Options {
            cdn,
            ..Options::default()
        };
        let hub = runtime.block_on(Hub::start(options)).unwrap();
        let commit = hub.commit(REPO, "main", files.values().cloned().collect());
        let room = Room::new();
        let _runtime = runtime;
        let site = Self {
            room,
            hub,
            commit,
            files,
            _runtime,
        };
        for file in &site.plan(Rev::Main).files {
            let content = &site.files[file.path.as_str()].content;
            fs::write(site.object(&file.expected), content.to_bytes().unwrap()).unwrap();
        }
        for rev in [Rev::Main, Rev::Commit] {
            for have in [Have::Complete, Have::Partial, Have::Evicted] {
                site.publish(rev, have);
            }
        }
        site
    }

    /// The tree as it is before anything is withdrawn, and a place to mount it.
    fn publish(&self, rev: Rev, have: Have) {
        let plan = self.plan(rev);
        let late: BTreeSet<Expected> = plan
            .files
            .iter()
            .filter(|file| MISSING.contains(&file.path.as_str()))
            .map(|file| file.expected)
            .collect();
        let object = |expected: &Expected| match have {
            Have::Partial if late.contains(expected) => self.room.path("not/here"),
            _ => self.object(expected),
        };
        let published = self.tree(rev, have).publish(&plan, &object).unwrap();
        assert_eq!(published == Published::Complete, have != Have::Partial);
        fs::create_dir(self.tree_inside(rev, have)).unwrap();
    }

    /// Takes [`MISSING`] out of the trees that are to lose them. Views made before keep links.
    pub(crate) fn evict(&self) {
        for rev in [Rev::Main, Rev::Commit] {
            let paths = MISSING.map(|path| path.parse().unwrap());
            let tree = self.tree(rev, Have::Evicted);
            tree.withdraw(&self.plan(rev), &paths).unwrap();
        }
    }

    /// Makes a view and returns what `HF_HUB_CACHE` must be.
    pub(crate) fn view(&self, name: &str, rev: Rev, have: Have, listing: Listing) -> PathBuf {
        let spec = ViewSpec {
            tree_inside: self.tree_inside(rev, have),
            at: self.room.path("pod/views").join(name),
            // Both kinds have to work; there is no third dimension of the matrix for them.
            owner: match rev {
                Rev::Main => Owner::Anyone,
                Rev::Commit => Owner::User { uid: UID, gid: UID },
            },
            listing,
        };
        let view = View::of(spec);
        view.refresh(&self.plan(rev), &self.tree(rev, have))
            .unwrap();
        view.hub()
    }

    /// Where the consumer sees a tree.
    pub(crate) fn tree_inside(&self, rev: Rev, have: Have) -> PathBuf {
        self.room.tree_inside(&tree_name(rev, have))
    }

    /// What every client gets told by its environment.
    pub(crate) fn env(&self, offline: bool) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("HF_ENDPOINT", self.hub.endpoint()),
            ("HF_HUB_OFFLINE", u8::from(offline).to_string()),
        ])
    }

    /// What every request to a client says.
    pub(crate) fn request(&self, rev: Rev, cache: &Path, offline: bool) -> Value {
        json!({
            "repo": REPO,
            "revision": self.revision(rev),
            "cache": cache,
            "endpoint": self.hub.endpoint(),
            "offline": offline,
        })
    }

    pub(crate) fn revision(&self, rev: Rev) -> String {
        match rev {
            Rev::Main => "main".to_owned(),
            Rev::Commit => self.commit.clone(),
        }
    }

    /// What a client reads of every file but these: the sha256, by path.
    pub(crate) fn digests_except(&self, paths: &BTreeSet<&str>) -> Files {
        let read = |file: &RepoFile| Ok(file.content.sha256().unwrap().to_string());
        let files = self.files.iter();
        files
            .filter(|(path, _)| !paths.contains(path.as_str()))
            .map(|(path, file)| (path.clone(), read(file)))
            .collect()
    }

    pub(crate) fn size(&self, path: &str) -> u64 {
        self.files[path].content.len()
    }

    /// Bytes of these files; content shared by two paths counts once.
    pub(crate) fn bytes<'a>(&self, paths: impl Iterator<Item = &'a String>) -> u64 {
        let blobs: BTreeMap<String, u64> = paths
            .map(|path| &self.files[path])
            .map(|file| (file.etag(), file.content.len()))
            .collect();
        blobs.values().sum()
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let entries = self.hub.log().entries();
        self.hub.log().clear();
        entries.into_iter().map(Asked).collect()
    }

    fn plan(&self, rev: Rev) -> ModelPlan {
        let files = self.files.values().map(|file| PlannedFile {
            path: file.path.parse().unwrap(),
            size: file.content.len(),
            expected: match file.large {
                Some(large) => Expected::Sha256(large.sha256),
                None => Expected::GitSha1(file.blob_id),
            },
            blob_id: file.blob_id,
            xet_hash: None,
        });
        ModelPlan::new(
            REPO.parse().unwrap(),
            self.revision(rev).parse().unwrap(),
            self.commit.parse().unwrap(),
            Format::Safetensors,
            files.collect(),
            ABSENT.iter().map(|path| path.parse().unwrap()).collect(),
        )
        .unwrap()
    }

    fn object(&self, expected: &Expected) -> PathBuf {
        self.room.path("objects").join(expected.to_string())
    }

    fn tree(&self, rev: Rev, have: Have) -> Tree {
        Tree::at(self.room.store(&tree_name(rev, have)))
    }
}

fn tree_name(rev: Rev, have: Have) -> String {
    format!("{have:?}-{rev:?}").to_lowercase()
}

/// A request to the Hub or to the origin of its large files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked(Entry);

impl Asked {
    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }

    pub(crate) fn is_head(&self) -> bool {
        self.0.method == "HEAD"
    }

    /// Whether it is about the model, and not for a file of it.
    pub(crate) fn is_lookup(&self) -> bool {
        self.path().starts_with("/api/") && !self.is_about_agents()
    }

    /// Clients from 1.20 or so on ask, once per process and day, which coding agents there are.
    pub(crate) fn is_about_agents(&self) -> bool {
        self.path() == "/api/agent-harnesses"
    }

    /// How much of a file was sent.
    pub(crate) fn body(&self) -> Option<u64> {
        let sent = self.0.method == "GET" && matches!(self.0.status, 200 | 206);
        let is_file = sent && !self.path().starts_with("/api/");
        is_file.then_some(self.0.bytes)
    }
}
