//! A long-running agent, and what it says of itself.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use headstart_core::quantity::Rate;
use headstart_testbed::hub::Options;
use headstart_testbed::link::{Link, Shape};
use headstart_testbed::model::Recipe;
use headstart_testbed::serve::Door;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::bed::{Bed, text_of};

pub(crate) const MIB: u64 = 1 << 20;

const DEADLINE: Duration = Duration::from_secs(120);

/// A running agent.
pub(crate) struct Running {
    pub(crate) child: Child,
    log: std::path::PathBuf,
}

/// A Hub whose large files come over a link of that rate.
pub(crate) async fn slow(rate: u64) -> (Bed, Link) {
    let link = Link::new(Shape {
        total: Some(Rate(rate)),
        ..Shape::default()
    });
    let cdn = Door {
        link: link.clone(),
        ..Door::default()
    };
    let options = Options {
        cdn,
        ..Options::default()
    };
    (Bed::with(options).await, link)
}

/// A model of one large file.
pub(crate) fn large(seed: u64, bytes: u64) -> Recipe {
    Recipe {
        seed,
        bytes,
        shards: 1,
        pickles: false,
    }
}

/// A NodeCache that asks for models, each `org/name@commit`.
pub(crate) fn intent(generation: u64, models: &[&str]) -> Value {
    let items: Vec<Value> = models.iter().map(|model| json!({"model": model})).collect();
    json!({
        "apiVersion": "headstart.dev/v1alpha1", "kind": "NodeCache",
        "metadata": {"name": "claim-1"},
        "spec": {"generation": generation, "items": items},
    })
}

/// Puts an intent in place of the one that is there, as user data and projected volumes do.
pub(crate) fn place(bed: &Bed, intent: &Value) -> String {
    let (new, path) = (bed.path("intent.new"), bed.path("intent.json"));
    std::fs::write(&new, intent.to_string()).unwrap();
    std::fs::rename(&new, &path).unwrap();
    text_of(&path)
}

/// `boot` on the bed's store, following its `intent.json`.
pub(crate) fn boot(bed: &Bed, args: &[&str]) -> Running {
    let path = text_of(&bed.path("intent.json"));
    let mut agent = bed.command(
        "boot",
        &["--intent", &path, "--endpoint", &bed.hub.endpoint()],
    );
    agent.args(["--plain-http", &bed.cdn()]).args(args);
    start(bed, agent, "boot.log")
}

/// `serve` on the bed's store, with an API server that is away.
pub(crate) fn serve(bed: &Bed, args: &[&str]) -> Running {
    let mut agent = bed.command(
        "serve",
        &["--node-name", "n1", "--endpoint", &bed.hub.endpoint()],
    );
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "away",
        "clusters": [{"name": "away", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "away", "context": {"cluster": "away", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    });
    let config = bed.write("kubeconfig", &config.to_string());
    agent
        .args(["--kubeconfig", &config, "--plain-http", &bed.cdn()])
        .args(args);
    start(bed, agent, "serve.log")
}

fn start(bed: &Bed, mut agent: Command, log: &str) -> Running {
    let log = bed.path(log);
    let file = std::fs::File::create(&log).unwrap();
    agent.stdout(Stdio::null()).stderr(file);
    agent.env("HEADSTART_LOG", "info");
    Running {
        child: agent.spawn().unwrap(),
        log,
    }
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.id().unwrap().cast_signed();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Its exit code, and how long it took to end.
    pub(crate) async fn end(mut self) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        let ended = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        (
            ended.expect("the agent ends").unwrap().code(),
            asked.elapsed(),
        )
    }

    /// Kilobytes of memory it has in use.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// What the agent that has the store says of itself; none while nobody answers.
pub(crate) fn status(root: &Path) -> Option<Value> {
    ask(root, "status")
}

pub(crate) fn ask(root: &Path, question: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(root.join("agent/agent.sock")).ok()?;
    stream
        .write_all(format!("\"{question}\"\n").as_bytes())
        .ok()?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).ok()?;
    serde_json::from_str(&answer).ok()
}

/// Waits until the agent that has the store says so.
pub(crate) async fn until_status(bed: &Bed, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = status(&bed.root());
        if let Some(status) = &found
            && holds(status)
        {
            return status.clone();
        }
        assert!(
            Instant::now() < deadline,
            "waited too long until {what}: {found:#?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One model in a status.
pub(crate) fn item<'a>(status: &'a Value, model: &str) -> Option<&'a Value> {
    let items = status["items"].as_array()?;
    items.iter().find(|item| item["model"] == model)
}

pub(crate) fn is_verified(status: &Value, model: &str) -> bool {
    item(status, model).is_some_and(|item| item["state"] == "Verified")
}

pub(crate) fn bytes(status: &Value, model: &str) -> u64 {
    let bytes = item(status, model).and_then(|item| item["bytes"].as_str());
    bytes.map_or(0, |bytes| bytes.parse().unwrap())
}

/// A page of the agent's HTTP: status code and body.
pub(crate) fn page(address: &str, path: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    (code, text)
}
