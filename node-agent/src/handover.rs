//! One agent takes over a store from another: the unix socket `agent/agent.sock` in the store, on
//! which whoever holds the lock answers.
//!
//! - The one that is asked to leave finishes what is under way, begins nothing new, and ends. Its
//!   record is on disk before its lock goes.
//! - The one that waits works on nothing, but reports what the other says of itself.
//! - Where a pod waits for something that has not begun, the other is told to hurry: weights stop at
//!   once, since what has arrived of them is gone on with; layers end first.
//! - Only processes of the same user are answered.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use headstart_api::NodeCacheStatus;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::agent::Agent;
use crate::cli::StorePlace;
use crate::items::blocking;
use crate::report::chain;
use crate::store::{Lock, Store, StoreError};

/// How long either side waits for the other's line.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the lock is tried for.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// Longest question, in bytes.
const QUESTION: u64 = 1024;

/// Longest answer, in bytes: some hundred items.
const ANSWER: u64 = 4 << 20;

/// What one agent asks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// How it is.
    Status,
    /// To finish what is under way, and leave.
    Leave,
    /// The same, at once with what can be gone on with.
    Hurry,
}

/// Answers on the store's socket until dropped; `leaving` is cancelled when the agent is asked to
/// leave.
pub(crate) async fn answer(agent: Agent, leaving: CancellationToken) -> io::Result<()> {
    let path = socket(agent.store());
    let listener = blocking(move || {
        // Whoever holds the lock owns the socket: one that is there is a dead agent's.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = UnixListener::from_std(listener.await?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (agent, leaving) = (agent.clone(), leaving.clone());
        tokio::spawn(async move {
            let answered = tokio::time::timeout(PATIENCE, serve(stream, &agent, &leaving));
            if let Ok(Err(error)) = answered.await {
                tracing::debug!(reason = %error, "another agent was not answered");
            }
        });
    }
}

async fn serve(
    mut stream: UnixStream,
    agent: &Agent,
    leaving: &CancellationToken,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != nix::unistd::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    BufReader::new(reader.take(QUESTION))
        .read_line(&mut line)
        .await?;
    let ask: Ask = serde_json::from_str(&line)?;
    if ask != Ask::Status {
        if !leaving.is_cancelled() {
            tracing::info!("another agent takes over; what is under way is finished");
        }
        agent.close();
        leaving.cancel();
    }
    if ask == Ask::Hurry {
        agent.hurry();
    }
    let status = agent.status().await.map_err(io::Error::other)?;
    let mut answer = serde_json::to_vec(&status)?;
    answer.push(b'\n');
    writer.write_all(&answer).await
}

async fn ask(path: &Path, ask: Ask) -> io::Result<NodeCacheStatus> {
    let asked = async {
        let mut stream = UnixStream::connect(path).await?;
        let mut question = serde_json::to_vec(&ask)?;
        question.push(b'\n');
        stream.write_all(&question).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(ANSWER))
            .read_line(&mut answer)
            .await?;
        Ok(serde_json::from_str(&answer)?)
    };
    let timed = tokio::time::timeout(PATIENCE, asked).await;
    timed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Opens a store to be written now, or by and by: without the lock where another agent has it.
///
/// # Errors
/// When there is no such store and none can be made.
pub(crate) fn open(place: &StorePlace) -> Result<(Arc<Store>, Option<Lock>), StoreError> {
    match place.open_or_make() {
        Ok((store, lock)) => Ok((Arc::new(store), Some(lock))),
        Err(StoreError::Locked { .. }) => Ok((Arc::new(place.open()?), None)),
        Err(error) => Err(error),
    }
}

/// Waits for the lock, asking whoever has it to leave; then the store may be written.
///
/// # Errors
/// When the store cannot be locked for another reason than that somebody holds it.
pub(crate) async fn take_over(agent: &Agent) -> Result<Lock, StoreError> {
    let path = socket(agent.store());
    let mut told = false;
    loop {
        let store = agent.store().clone();
        let locked = blocking(move || {
            let lock = store.lock()?;
            store.begin()?;
            Ok(lock)
        });
        match locked.await {
            Err(error @ StoreError::Locked { .. }) if !told => {
                tracing::info!(reason = %error, "waiting for another agent to finish");
                told = true;
            }
            Err(StoreError::Locked { .. }) => {}
            other => return other,
        }
        let question = if agent.is_awaited() {
            Ask::Hurry
        } else {
            Ask::Leave
        };
        match ask(&path, question).await {
            Ok(status) => agent.relay(status),
            // It may be a one-shot run, which answers nobody, or one that has just left.
            Err(error) => {
                tracing::debug!(reason = %chain(&error), "no answer from the other agent");
            }
        }
        tokio::time::sleep(TRY_EVERY).await;
    }
}

fn socket(store: &Store) -> PathBuf {
    store.root().join("agent/agent.sock")
}
