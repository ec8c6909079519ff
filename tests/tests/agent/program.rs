//! The agent's binary on a world of its own.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::{Child, Command};

use crate::world::{Image, World};

const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Agent {
    program: PathBuf,
    socket: PathBuf,
    directory: PathBuf,
    host: String,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    code: Option<i32>,
    pub(crate) out: String,
    #[expect(dead_code, reason = "shown when a test fails")]
    err: String,
}

/// A process, which no later one with its number is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    id: u32,
    started: String,
}

impl Agent {
    pub(crate) fn of(world: &World, image: &Image) -> Self {
        Self::at(world.containerd.socket(), world, image)
    }

    pub(crate) fn at(socket: PathBuf, world: &World, image: &Image) -> Self {
        let program = std::env::var_os("HEADSTART_AGENT");
        Self {
            program: program
                .expect("`cargo xtask e2e` sets HEADSTART_AGENT")
                .into(),
            socket,
            directory: world.directory().to_owned(),
            host: image.spec.source.host.clone(),
        }
    }

    /// Writes a Docker configuration with a login to the registry.
    pub(crate) fn login(&self, user: &str, password: &str) -> Result<String> {
        let login = serde_json::json!({ "username": user, "password": password });
        let config = serde_json::json!({ "auths": { (self.host.clone()): login } });
        let path = self.directory.join("login.json");
        fs::write(&path, config.to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Starts warming an image into containerd: its reference, then further flags.
    pub(crate) fn start(&self, image_and_flags: &[&str]) -> Result<Child> {
        let mut agent = Command::new(&self.program);
        agent.args(["warm", "--json", "--keep-free", "0", "--plain-http"]);
        agent.arg(&self.host).arg("--root").arg(self.store());
        agent.arg("--containerd").arg(&self.socket);
        agent.arg("--image").args(image_and_flags);
        agent.stdin(Stdio::null()).stdout(Stdio::piped());
        agent.stderr(Stdio::piped()).kill_on_drop(true);
        agent.spawn().context("the agent cannot be started")
    }

    pub(crate) async fn warm(&self, image_and_flags: &[&str]) -> Result<Ran> {
        let child = self.start(image_and_flags)?;
        let ended = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
        let output = ended.context("the agent does not end")??;
        Ok(Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout)?,
            err: String::from_utf8(output.stderr)?,
        })
    }

    /// Checks that nothing unfinished is in the store.
    pub(crate) fn assert_clean(&self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(self.store().join("partial"))?.collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    fn store(&self) -> PathBuf {
        self.directory.join("store")
    }
}

impl Ran {
    pub(crate) fn expect(&self, code: i32) -> Result<()> {
        ensure!(
            self.code == Some(code),
            "expected exit code {code}: {self:#?}"
        );
        Ok(())
    }
}

/// The processes that any thread of `parent` started.
pub(crate) fn children(parent: u32) -> Vec<Process> {
    let threads = fs::read_dir(format!("/proc/{parent}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let lists = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut ids = BTreeSet::new();
    for list in lists {
        ids.extend(
            list.split_whitespace()
                .filter_map(|id| id.parse::<u32>().ok()),
        );
    }
    let process = |id| {
        Some(Process {
            id,
            started: started(id)?,
        })
    };
    ids.into_iter().filter_map(process).collect()
}

pub(crate) fn is_alive(process: &Process) -> bool {
    started(process.id).as_ref() == Some(&process.started)
}

/// When a process started, in the kernel's words; none of one that is no more, or only waits for
/// its parent to ask.
fn started(id: u32) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?;
    (state != "Z").then(|| words.nth(18).map(str::to_owned))?
}
