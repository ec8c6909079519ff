//! Large files through Xet storage, by the `hf-hub` crate in a process of its own.
//!
//! That client is large, keeps up to gigabytes in memory, has stalled in the field, accepts
//! tampered content and cannot be told where it may connect. So it runs as a child that can be
//! lost: its memory has a limit, it ends with its parent, it is killed when its bytes stop, and
//! what it wrote is hashed here before anybody sees it. Whatever goes wrong, the caller fetches
//! the file in plain HTTP instead.
//!
//! Invariants:
//! - the token reaches the child by its standard input: not by arguments, environment or disk;
//! - everything it writes is below one scratch directory, removed with it;
//! - a file is handed over only durable, of the planned size and sha256.
//!
//! The child is this program started again with an argument of the caller's choice, which must
//! lead to `child_main`; that exists only in builds with the feature `xet`.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use headstart_core::digest::{Expected, Sha256};
use headstart_core::model::RepoPath;
use headstart_transfer::{Digesting, blocking};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::adopt::Cache;
use crate::endpoint::Hub;
use crate::plan::{ModelPlan, PlannedFile};

#[cfg(feature = "xet")]
pub use self::child::child_main;

#[cfg(feature = "xet")]
mod child;

/// Whether this build has the child.
pub const IS_BUILT: bool = cfg!(feature = "xet");

/// Longest line of a child's that is read.
const MAX_LINE: u64 = 64 << 10;

/// What a child may use and how long it is believed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XetLimits {
    /// Memory for data, in bytes: heap and anonymous mappings, not code.
    pub memory: u64,
    /// Progress is judged over so long.
    pub window: Duration,
    /// Least bytes in a window; fewer, and the child is killed.
    pub least: u64,
}

impl Default for XetLimits {
    /// 1 GiB, which a file at a time fits in with a quarter of it for buffers; half a minute, and
    /// the engine's own floor of 64 KiB/s.
    fn default() -> Self {
        let window = Duration::from_secs(30);
        Self {
            memory: 1 << 30,
            window,
            least: (64 << 10) * window.as_secs(),
        }
    }
}

/// How files are fetched through Xet.
#[derive(Clone, Debug)]
pub struct Xet {
    /// The program, usually this one.
    pub program: PathBuf,
    /// The arguments that make it the child.
    pub arguments: Vec<OsString>,
    /// A directory, on the store's file system, for what children write.
    pub scratch: PathBuf,
    /// Its whole environment besides what is set here: proxies, certificates.
    pub environment: Vec<(OsString, OsString)>,
    /// What it may use.
    pub limits: XetLimits,
}

/// A file that came through Xet: durable, of the planned size and sha256, mode 0444. It is the
/// caller's to rename; the scratch directory goes when this is dropped.
#[derive(Debug)]
pub struct Fetched {
    /// Where it is.
    pub path: PathBuf,
    /// Its sha256.
    pub sha256: Sha256,
    _scratch: Scratch,
}

/// A file that did not come through Xet; plain HTTP may still have it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: not fetched through Xet")]
pub struct XetError {
    /// The file.
    pub file: RepoPath,
    /// Why not.
    pub source: XetFault,
}

/// Why a file did not come through Xet.
#[derive(Debug, thiserror::Error)]
pub enum XetFault {
    /// The plan knows no Xet address or no sha256 of it.
    #[error("it is not in Xet storage")]
    Elsewhere,
    /// The scratch directory.
    #[error("cannot {operation} {}", path.display())]
    Scratch {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The child did not start, or could not be spoken to.
    #[error("cannot run {}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The child gave up.
    #[error("the Xet client gave up: {reason}")]
    GaveUp {
        /// In its own words.
        reason: String,
    },
    /// The child made no progress.
    #[error("only {bytes} bytes came in {} s", window.as_secs())]
    Stalled {
        /// Bytes in the window.
        bytes: u64,
        /// The window.
        window: Duration,
    },
    /// The child wanted more memory than it may have.
    #[error("it needs more than the {} MiB of memory allowed", limit >> 20)]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The child died.
    #[error("the Xet client ended with {status}")]
    Died {
        /// How.
        status: String,
    },
    /// The child said it was done and no such file is there.
    #[error("the Xet client left no file of {size} bytes")]
    Missing {
        /// The size planned.
        size: u64,
    },
    /// The bytes are not what was asked for.
    #[error("content mismatch: expected {expected}, Xet storage gave {found}; nothing was kept")]
    Mismatch {
        /// What it must be.
        expected: Expected,
        /// What it is.
        found: Expected,
    },
}

/// What the child is to do: one line of JSON on its standard input.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    endpoint: String,
    token: Option<String>,
    repo: String,
    commit: String,
    path: String,
    cache: PathBuf,
    memory: u64,
}

/// What the child says, a line of JSON each on its standard output.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// Bytes so far.
    Bytes(u64),
    /// The file is in the cache.
    Done,
    /// It is not, and why.
    GaveUp(String),
}

/// How a child's words ended, if it did not fail by them.
enum Heard {
    /// It is done; whether it is so is looked at afterwards.
    Done,
    /// It closed its output without a last word.
    End,
}

impl Xet {
    /// Fetches `file` through Xet. `progress` is told the bytes so far, now and then.
    ///
    /// # Errors
    /// See [`XetFault`]. Nothing is left of the file then, nor when the future is dropped.
    pub async fn fetch(
        &self,
        hub: &Hub,
        plan: &ModelPlan,
        file: &PlannedFile,
        progress: impl Fn(u64) + Send,
    ) -> Result<Fetched, XetError> {
        let fetched = self.try_fetch(hub, plan, file, progress).await;
        fetched.map_err(|source| XetError {
            file: file.path.clone(),
            source,
        })
    }

    async fn try_fetch(
        &self,
        hub: &Hub,
        plan: &ModelPlan,
        file: &PlannedFile,
        progress: impl Fn(u64) + Send,
    ) -> Result<Fetched, XetFault> {
        let (Some(_), Expected::Sha256(_)) = (file.xet_hash, file.expected) else {
            return Err(XetFault::Elsewhere);
        };
        let scratch = self.scratch.join(file.etag());
        let scratch = blocking(move || Scratch::make(scratch)).await?;
        let order = Order {
            endpoint: hub.endpoint().to_string(),
            token: hub.reveal_token(),
            repo: plan.repo.to_string(),
            commit: plan.commit.to_string(),
            path: file.path.to_string(),
            cache: scratch.cache(),
            memory: self.limits.memory,
        };
        self.run(&order, &scratch, progress).await?;
        let (plan, file) = (plan.clone(), file.clone());
        blocking(move || scratch.verified(&plan, &file)).await
    }

    async fn run(
        &self,
        order: &Order,
        scratch: &Scratch,
        progress: impl Fn(u64) + Send,
    ) -> Result<(), XetFault> {
        let wrong = |source| XetFault::Run {
            program: self.program.clone(),
            source,
        };
        let mut child = self.command(scratch).spawn().map_err(wrong)?;
        let mut stdin = child.stdin.take().expect("asked to be piped");
        let stderr = child.stderr.take().expect("asked to be piped");
        let complaints = tokio::spawn(complaints(stderr));
        let mut line = serde_json::to_vec(order).expect("an order holds only strings and a number");
        line.push(b'\n');
        // It ends when this pipe closes, so the pipe is kept while it works.
        if let Err(source) = stdin.write_all(&line).await {
            tracing::debug!(%source, "the xet client did not read its order");
        }
        let said = self.listen(&mut child, progress).await;
        drop(stdin);
        if !matches!(said, Ok(Heard::End)) {
            let _ = child.start_kill();
        }
        let mut ended = tokio::time::timeout(self.limits.window, child.wait()).await;
        if ended.is_err() {
            // It closed its output and lives on.
            let _ = child.start_kill();
            ended = Ok(child.wait().await);
        }
        let out_of_memory = complaints.await.unwrap_or_default();
        match said? {
            Heard::Done => Ok(()),
            Heard::End if out_of_memory => Err(XetFault::Memory {
                limit: self.limits.memory,
            }),
            Heard::End => Err(XetFault::Died {
                status: ended
                    .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                    .map_err(wrong)?
                    .to_string(),
            }),
        }
    }

    fn command(&self, scratch: &Scratch) -> Command {
        let mut command = Command::new(&self.program);
        let quarter = (self.limits.memory / 4).to_string();
        let eighth = (self.limits.memory / 8).to_string();
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env("HF_HOME", scratch.path.join("home"))
            .env("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
            .env("HF_HUB_DISABLE_TELEMETRY", "1")
            .env("HF_XET_TELEMETRY_ENABLED", "0")
            .env("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_LIMIT", &quarter)
            .env("HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_SIZE", &eighth)
            .env(
                "HF_XET_RECONSTRUCTION_DOWNLOAD_BUFFER_PERFILE_SIZE",
                &eighth,
            )
            .env("HF_XET_RECONSTRUCTION_MIN_PREFETCH_BUFFER", &eighth)
            // Each arena of the allocator would keep what another could use.
            .env("MALLOC_ARENA_MAX", "2")
            .current_dir(&scratch.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Reads what the child says until it is done, ends, gives up or stalls.
    async fn listen(
        &self,
        child: &mut Child,
        progress: impl Fn(u64) + Send,
    ) -> Result<Heard, XetFault> {
        let stdout = child.stdout.take().expect("asked to be piped");
        let mut lines = BufReader::new(stdout);
        let (mut bytes, mut before) = (0, 0);
        let mut until = Instant::now() + self.limits.window;
        let mut line = Vec::new();
        loop {
            let mut capped = (&mut lines).take(MAX_LINE);
            let read = tokio::time::timeout_at(until, capped.read_until(b'\n', &mut line)).await;
            match read {
                Ok(Ok(0)) => return Ok(Heard::End),
                Ok(Ok(_)) => {
                    match serde_json::from_slice(&line) {
                        Ok(Word::Bytes(now)) => {
                            bytes = now;
                            progress(bytes);
                        }
                        Ok(Word::Done) => return Ok(Heard::Done),
                        Ok(Word::GaveUp(reason)) => return Err(XetFault::GaveUp { reason }),
                        // Its libraries may print whatever they like.
                        Err(_) => {}
                    }
                    line.clear();
                }
                Ok(Err(source)) => {
                    let program = self.program.clone();
                    return Err(XetFault::Run { program, source });
                }
                Err(_) => {}
            }
            if Instant::now() >= until {
                let (came, window) = (bytes.saturating_sub(before), self.limits.window);
                if came < self.limits.least {
                    return Err(XetFault::Stalled {
                        bytes: came,
                        window,
                    });
                }
                (before, until) = (bytes, until + window);
            }
        }
    }
}

/// Reads away what a child complains about; whether it was about memory.
async fn complaints(mut stderr: tokio::process::ChildStderr) -> bool {
    let wanted = b"memory allocation of";
    let (mut buffer, mut tail, mut found) = (vec![0; 4096], Vec::new(), false);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..read]);
        found |= tail.windows(wanted.len()).any(|window| window == wanted);
        tail.drain(..tail.len().saturating_sub(wanted.len()));
    }
    found
}

/// The directory of one child, removed with everything in it when dropped.
#[derive(Debug)]
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make(path: PathBuf) -> Result<Self, XetFault> {
        let wrong = |operation, source| XetFault::Scratch {
            operation,
            path: path.clone(),
            source,
        };
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(wrong("remove what was left in", source));
            }
            _ => {}
        }
        let made = std::fs::create_dir(&path).and_then(|()| {
            std::fs::create_dir(path.join("home"))?;
            std::fs::create_dir(path.join("cache"))
        });
        match made {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(wrong("make", source)),
        }
    }

    fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The file that the child wrote, if it is what was planned.
    fn verified(self, plan: &ModelPlan, file: &PlannedFile) -> Result<Fetched, XetFault> {
        let missing = XetFault::Missing { size: file.size };
        let Some((mut opened, path)) = self.found(plan, file) else {
            return Err(missing);
        };
        let wrong = |operation: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| XetFault::Scratch {
                operation,
                path,
                source,
            }
        };
        let mut digesting = Digesting::new(&file.expected, file.size);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = opened.read(&mut buffer).map_err(wrong("read", &path))?;
            if read == 0 {
                break;
            }
            digesting.update(&buffer[..read]);
        }
        let (sha256, found) = digesting.finish();
        if found != file.expected {
            let expected = file.expected;
            return Err(XetFault::Mismatch { expected, found });
        }
        let mode = std::fs::Permissions::from_mode(0o444);
        opened
            .set_permissions(mode)
            .and_then(|()| opened.sync_all())
            .map_err(wrong("sync", &path))?;
        Ok(Fetched {
            path,
            sha256,
            _scratch: self,
        })
    }

    fn found(&self, plan: &ModelPlan, file: &PlannedFile) -> Option<(std::fs::File, PathBuf)> {
        let cache = Cache::open(&self.cache(), plan).ok()??;
        let offer = cache.offers(file).ok()?.into_iter().next()?;
        Some((offer.file, offer.at))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "scratch directory left behind");
        }
    }
}

#[cfg(test)]
mod tests;
