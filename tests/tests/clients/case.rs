//! One client, online or offline, and every view it is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use headstart_hub::view::Listing;
use serde_json::{Value, json};

use crate::pod::{Client, Failure, Outcome, Provisioned, UID};
use crate::site::{ABSENT, Asked, Have, MISSING, REPO, Rev, Site};

/// What differs between client versions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// What `snapshot_download` asks the API, online: for a commit, for `main`.
    pub(crate) lookups: [usize; 2],
    /// Whether it takes `trees` for the list of the repository's files.
    pub(crate) reads_trees: bool,
}

/// Every tree and listing that makes a difference.
const VIEWS: [(Have, Listing); 4] = [
    (Have::Complete, Listing::Planned),
    (Have::Partial, Listing::Planned),
    (Have::Partial, Listing::Cached),
    (Have::Evicted, Listing::Planned),
];

/// Whether a client may use the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Online,
    Offline,
}

/// A view that a client is asked about.
#[derive(Clone, Debug)]
struct Case {
    rev: Rev,
    have: Have,
    listing: Listing,
    cache: PathBuf,
}

/// One client before its views.
pub(crate) struct Session {
    name: &'static str,
    habits: Habits,
    net: Net,
    site: Site,
    client: Client,
    cases: Vec<Case>,
}

/// Files by path: the sha256 of what was read, or why it was not.
pub(crate) type Files = BTreeMap<String, Result<String, Failure>>;

impl Session {
    /// Starts the client `name` in front of fresh views.
    pub(crate) fn start(name: &'static str, habits: Habits, net: Net) -> Self {
        let provisioned = Provisioned::find();
        let site = Site::new();
        let mut cases = Vec::new();
        for rev in [Rev::Commit, Rev::Main] {
            for (have, listing) in VIEWS {
                let name = format!("{rev:?}-{have:?}-{listing:?}");
                let cache = site.view(&name, rev, have, listing);
                cases.push(Case {
                    rev,
                    have,
                    listing,
                    cache,
                });
            }
        }
        site.evict();
        let env = site.env(net == Net::Offline);
        let client = match name {
            "hf-hub" => site.room.hf_hub(&provisioned),
            name => site.room.python(&provisioned, name, &env),
        };
        Self {
            name,
            habits,
            net,
            site,
            client,
            cases,
        }
    }

    /// Asks about every view.
    pub(crate) fn run(mut self) {
        if self.is_python() {
            self.introduce();
        }
        for case in self.cases.clone() {
            let context = format!("{} {:?} {case:?}", self.name, self.net);
            eprintln!("{context}");
            match self.net {
                Net::Online => self.online(&case),
                Net::Offline => self.offline(&case),
            }
            if self.is_python() {
                self.lists(&case);
            }
        }
        if self.habits.reads_trees {
            self.tree_itself();
        }
    }

    /// The client is the one meant, and is locked in as meant.
    fn introduce(&mut self) {
        let told = self.ask(json!({"op": "versions"})).unwrap();
        let version = self.name.strip_prefix("hub-").unwrap();
        assert_eq!(told["huggingface_hub"], version);
        let tree = self.site.tree_inside(Rev::Main, Have::Complete);
        let store = self.site.room.path("store");
        let told = self
            .ask(json!({"op": "probe", "tree": tree, "store": store}))
            .unwrap();
        let locked_in = json!({"uid": UID, "read_only": true, "tree": "EROFS", "store": "EACCES"});
        assert_eq!(told, locked_in);
        let other = |asked: &&Asked| !asked.is_about_agents();
        assert_eq!(self.site.asked().iter().filter(other).count(), 0);
    }

    fn online(&mut self, case: &Case) {
        let missing: BTreeSet<&str> = match case.have {
            Have::Complete => BTreeSet::new(),
            Have::Partial | Have::Evicted => MISSING.into(),
        };
        // Told by `trees` to leave the rest alone, if it believes that.
        let hidden = self.habits.reads_trees && case.listing == Listing::Cached;
        let (late, soon) = match hidden {
            true => (missing, BTreeSet::new()),
            false => (BTreeSet::new(), missing),
        };

        let found = self.snapshot(case).unwrap();
        let asked = self.site.asked();
        let lookups = self.habits.lookups[usize::from(case.rev == Rev::Main)];
        assert_eq!(count(&asked, Asked::is_lookup), lookups, "{asked:#?}");
        for resolved in asked
            .iter()
            .filter(|asked| asked.path().contains("/resolve/"))
        {
            let wanted = soon.iter().any(|path| resolved.path().ends_with(path));
            assert!(wanted, "not missing: {resolved:?}");
        }
        self.assert_downloads(&asked, &soon);
        assert_eq!(found, self.site.digests_except(&late));

        let found = self.files(case);
        let asked = self.site.asked();
        let heads = match case.rev {
            Rev::Commit => late.len(),
            Rev::Main => found.len(),
        };
        assert_eq!(count(&asked, Asked::is_head), heads, "{asked:#?}");
        assert_eq!(count(&asked, Asked::is_lookup), 0, "{asked:#?}");
        self.assert_downloads(&asked, &late);
        assert_eq!(found, self.site.digests_except(&BTreeSet::new()));
    }

    fn offline(&mut self, case: &Case) {
        let missing: BTreeSet<&str> = match case.have {
            Have::Complete => BTreeSet::new(),
            Have::Partial | Have::Evicted => MISSING.into(),
        };
        let there = self.site.digests_except(&missing);
        let tells = self.habits.reads_trees && case.listing == Listing::Planned;
        match self.snapshot(case) {
            Err(failure) => {
                assert!(tells && !missing.is_empty(), "{failure:?}");
                let kinds = ["IncompleteSnapshotError", "LocalEntryNotFoundError"];
                assert!(kinds.contains(&failure.kind.as_str()), "{failure:?}");
            }
            Ok(mut found) => {
                assert!(
                    !tells || missing.is_empty(),
                    "taken for complete: {found:?}"
                );
                if case.have == Have::Evicted {
                    // Links that lead nowhere: no client reads anything else through them.
                    found.retain(|path, file| !(missing.contains(path.as_str()) && file.is_err()));
                }
                assert_eq!(found, there);
            }
        }
        let mut found = self.files(case);
        found.retain(|path, file| match file {
            Err(failure) if failure.kind.starts_with("LocalEntryNotFound") => {
                !missing.contains(path.as_str())
            }
            _ => true,
        });
        assert_eq!(found, there);
        assert_eq!(self.site.asked(), []);
    }

    /// `scan_cache_dir`, which `hf cache` prints, lists what is there and complains about nothing.
    fn lists(&mut self, case: &Case) {
        let absent = self.request(case, json!({"op": "absent", "names": ABSENT}));
        let told = self.ask(absent).unwrap();
        assert_eq!(told, json!(BTreeMap::from(ABSENT.map(|path| (path, true)))));
        let told = self
            .ask(json!({"op": "scan", "cache": case.cache}))
            .unwrap();
        assert_eq!(self.site.asked(), []);
        if self.net == Net::Offline && case.have == Have::Evicted {
            let warnings = told["warnings"].as_array().unwrap();
            let broken = |warning: &Value| warning.as_str().unwrap().contains("broken symlink");
            assert!(warnings.iter().all(broken), "{warnings:?}");
            return;
        }
        let there = match (self.net, case.have) {
            (Net::Offline, Have::Partial) => self.site.digests_except(&MISSING.into()),
            _ => self.site.digests_except(&BTreeSet::new()),
        };
        let mut names: Vec<&str> = there.keys().map(|path| file_name(path)).collect();
        names.sort_unstable();
        let refs = match case.rev {
            Rev::Main => vec!["main"],
            Rev::Commit => vec![],
        };
        let revision = json!({
            "refs": refs,
            "files": names,
            "bytes": self.site.bytes(there.keys()),
        });
        let repos = json!({ REPO: { self.site.revision(Rev::Commit): revision } });
        assert_eq!(told, json!({"warnings": [], "repos": repos}));
    }

    /// Without a view, the read-only tree serves clients that know `trees`: the fallback.
    fn tree_itself(&mut self) {
        let revs = match self.net {
            Net::Online => &[Rev::Commit][..],
            Net::Offline => &[Rev::Commit, Rev::Main],
        };
        for rev in revs {
            let case = Case {
                rev: *rev,
                have: Have::Complete,
                listing: Listing::Cached,
                cache: self.site.tree_inside(*rev, Have::Complete).join("hub"),
            };
            let all = self.site.digests_except(&BTreeSet::new());
            assert_eq!(self.snapshot(&case).unwrap(), all);
            assert_eq!(self.files(&case), all);
            assert_eq!(self.site.asked(), []);
        }
    }

    fn snapshot(&mut self, case: &Case) -> Result<Files, Failure> {
        let request = self.request(case, json!({"op": "snapshot"}));
        self.ask(request).map(files)
    }

    /// Every file of the model, one by one.
    fn files(&mut self, case: &Case) -> Files {
        let names: Vec<String> = self
            .site
            .digests_except(&BTreeSet::new())
            .into_keys()
            .collect();
        let request = self.request(case, json!({"op": "files", "names": names}));
        files(self.ask(request).unwrap())
    }

    fn request(&self, case: &Case, operation: Value) -> Value {
        let mut request = self
            .site
            .request(case.rev, &case.cache, self.net == Net::Offline);
        merge(&mut request, operation);
        request
    }

    fn ask(&mut self, request: Value) -> Result<Value, Failure> {
        match self.client.ask(&request).outcome {
            Outcome::Ok(told) => Ok(told),
            Outcome::Error(failure) => Err(failure),
        }
    }

    /// The bodies sent are those of `paths`, each once and whole.
    fn assert_downloads(&self, asked: &[Asked], paths: &BTreeSet<&str>) {
        let mut sent: Vec<u64> = asked.iter().filter_map(Asked::body).collect();
        let mut wanted: Vec<u64> = paths.iter().map(|path| self.site.size(path)).collect();
        sent.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(sent, wanted, "{asked:#?}");
    }

    fn is_python(&self) -> bool {
        self.name != "hf-hub"
    }
}

fn count(asked: &[Asked], wanted: impl Fn(&Asked) -> bool) -> usize {
    asked.iter().filter(|asked| wanted(asked)).count()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn merge(request: &mut Value, more: Value) {
    if let (Value::Object(request), Value::Object(more)) = (request, more) {
        request.extend(more);
    }
}

/// What a client tells of files.
pub(crate) fn files(told: Value) -> Files {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum File {
        Sha256(String),
        Error(Failure),
    }
    let told: BTreeMap<String, File> = serde_json::from_value(told).unwrap();
    let result = |file| match file {
        File::Sha256(digest) => Ok(digest),
        File::Error(failure) => Err(failure),
    };
    told.into_iter()
        .map(|(path, file)| (path, result(file)))
        .collect()
}
