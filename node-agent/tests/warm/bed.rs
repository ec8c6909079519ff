//! A Hub, a store and the agent's binary for one test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use headstart_testbed::hub::{Hub, Options};
use headstart_testbed::model::{Model, Recipe};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Longest that any run of the agent may take under load.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Bed {
    directory: TempDir,
    pub(crate) hub: Hub,
}

/// A run of the agent that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Bed {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            hub: Hub::start(options).await.unwrap(),
        }
    }

    /// Commits a small model to `repo`; the commit and the model.
    pub(crate) fn commit(&self, repo: &str, recipe: Recipe) -> (String, Model) {
        let model = Model::make(recipe).unwrap();
        let commit = self.hub.commit(repo, "main", model.files.clone());
        (commit, model)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file that only its owner reads.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        text_of(&path)
    }

    /// A command of the agent on this bed's store.
    pub(crate) fn command(&self, command: &str, args: &[&str]) -> Command {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_headstart-agent"));
        for name in ["HF_ENDPOINT", "HEADSTART_ROOT", "HEADSTART_LOG"] {
            agent.env_remove(name);
        }
        agent.arg(command).arg("--root").arg(self.root());
        // However full this machine's disk is.
        agent.args(["--keep-free", "0"]).args(args);
        agent.stdin(Stdio::null()).stdout(Stdio::piped());
        agent.stderr(Stdio::piped()).kill_on_drop(true);
        agent
    }

    /// The origin of large files as `--plain-http` names it.
    pub(crate) fn cdn(&self) -> String {
        let endpoint = self.hub.cdn_endpoint();
        endpoint.strip_prefix("http://").unwrap().to_owned()
    }

    /// `warm` with JSON lines and this bed's Hub.
    pub(crate) fn warming(&self, args: &[&str]) -> Command {
        let mut agent = self.command("warm", &["--json", "--endpoint", &self.hub.endpoint()]);
        agent.args(["--plain-http", &self.cdn()]).args(args);
        agent
    }

    pub(crate) async fn warm(&self, args: &[&str]) -> Ran {
        finish(self.warming(args)).await
    }

    pub(crate) async fn run(&self, command: &str, args: &[&str]) -> Ran {
        finish(self.command(command, args)).await
    }

    /// What `inspect` shows.
    pub(crate) async fn inventory(&self) -> Value {
        self.run("inspect", &["--json"]).await.done().json()
    }

    /// Requests to the Hub and its origin of large files.
    pub(crate) fn requests(&self) -> usize {
        self.hub.log().count(|_| true)
    }

    /// The objects in the store, by name.
    pub(crate) fn objects(&self) -> Vec<PathBuf> {
        files_below(&self.root().join("objects"))
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn done(self) -> Self {
        self.exits(0)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }

    /// The lines of a `warm --json`: each is an event, and the last is the summary.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str::<Value>(line).unwrap();
        let events: Vec<Value> = self.out.lines().map(parse).collect();
        let summaries = events.iter().filter(|event| event["event"] == "summary");
        assert_eq!(summaries.count(), 1, "{self:#?}");
        assert_eq!(events.last().unwrap()["event"], "summary", "{self:#?}");
        events
    }

    #[track_caller]
    pub(crate) fn summary(&self) -> Value {
        self.events().pop().unwrap()
    }

    #[track_caller]
    pub(crate) fn of(&self, kind: &str, item: &str) -> Value {
        let mut events = self.events().into_iter();
        let event = events.find(|event| event["event"] == kind && event["item"] == item);
        event.unwrap_or_else(|| panic!("no {kind} of {item}: {self:#?}"))
    }

    #[track_caller]
    pub(crate) fn ready(&self, item: &str) -> Value {
        self.of("ready", item)
    }

    /// Why an item failed: one line.
    #[track_caller]
    pub(crate) fn failed(&self, item: &str) -> String {
        let error = self.of("failed", item)["error"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(!error.contains('\n') && !error.is_empty(), "{error:?}");
        error
    }

    /// The only line on standard error.
    #[track_caller]
    pub(crate) fn only_line(&self) -> &str {
        let lines: Vec<&str> = self.err.lines().collect();
        let [line] = lines[..] else {
            panic!("expected one line: {self:#?}");
        };
        assert!(line.starts_with("error: "), "{line}");
        line
    }

    /// The directory for `HF_HUB_CACHE`.
    #[track_caller]
    pub(crate) fn cache(&self, item: &str) -> PathBuf {
        let place = self.ready(item)["place"].as_str().unwrap().to_owned();
        place.strip_prefix("HF_HUB_CACHE=").unwrap().into()
    }

    pub(crate) fn is_fast(&self, most: Duration) -> bool {
        self.took < most
    }
}

pub(crate) async fn finish(mut command: Command) -> Ran {
    let started = Instant::now();
    let child = command.spawn().unwrap();
    end(child, started).await
}

/// Waits for a started agent.
pub(crate) async fn end(child: Child, started: Instant) -> Ran {
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.expect("the agent ends").unwrap();
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        took: started.elapsed(),
    }
}

/// Waits until a running `warm --json` tells that so many bytes of an item are on the disk.
pub(crate) async fn until_has(child: &mut Child, bytes: u64) {
    let told = async {
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["done_bytes"]
                .as_u64()
                .is_some_and(|done| done >= bytes)
            {
                return;
            }
        }
        panic!("it ended before it had {bytes} bytes");
    };
    let waited = tokio::time::timeout(DEADLINE, told).await;
    waited.unwrap_or_else(|_| panic!("waited too long until it has {bytes} bytes"));
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Checks that the snapshot in a Hugging Face cache has exactly these files of the model, each
/// behind a link that resolves to its bytes.
#[track_caller]
pub(crate) fn assert_snapshot(
    cache: &Path,
    repo: &str,
    commit: &str,
    model: &Model,
    expected: &[&str],
) {
    let folder = cache.join(format!("models--{}", repo.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(commit);
    let mut found = Vec::new();
    for path in files_below(&snapshot) {
        found.push(text_of(path.strip_prefix(&snapshot).unwrap()));
    }
    found.sort();
    let mut expected: Vec<String> = expected.iter().map(|path| (*path).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
    for name in found {
        let wanted = model.file(&name).unwrap().content.to_bytes().unwrap();
        let there = std::fs::read(snapshot.join(&name)).unwrap();
        assert!(there == wanted, "{name} differs");
    }
}

/// The files and links below a directory.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_below(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

pub(crate) fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
