//! The real agent, in a process of its own: this very program, started as `headstart agent`.
//!
//! What it says are the JSON lines that it prints for any program. It is killed when the future
//! that waits for it is dropped, and ends by itself when the demo dies, because its input ends.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use headstart_core::quantity::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// What an agent is asked to bring onto the node.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) image: Option<String>,
    pub(crate) model: Option<String>,
    /// The Hub, as seen from the node.
    pub(crate) endpoint: String,
    /// Hosts that are spoken to in plain HTTP.
    pub(crate) plain_http: Vec<String>,
    pub(crate) connections: u16,
    /// The node's store.
    pub(crate) root: PathBuf,
    pub(crate) containerd: Option<PathBuf>,
    /// Where its log goes.
    pub(crate) log: PathBuf,
}

/// What it says while it works.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Said {
    Resolved {
        item: String,
        total_bytes: u64,
    },
    Progress {
        item: String,
        done_bytes: u64,
        total_bytes: u64,
    },
    Ready(Ready),
    Failed {
        item: String,
        error: String,
    },
    /// Whatever else it says is not needed here.
    #[serde(other)]
    Other,
}

/// An item that is on the node.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Ready {
    pub(crate) item: String,
    pub(crate) total_bytes: u64,
    pub(crate) fetched_bytes: u64,
    /// Seconds.
    took: f64,
    pub(crate) bound: String,
    pub(crate) place: String,
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("cannot start an agent: {0}")]
    Start(#[source] std::io::Error),
    #[error("the agent could not fetch {item}: {error}")]
    Item { item: String, error: String },
    #[error("the agent ended with {status}: {said}")]
    Ended { status: String, said: String },
}

impl Ready {
    pub(crate) fn took(&self) -> Duration {
        Duration::try_from_secs_f64(self.took).unwrap_or_default()
    }

    pub(crate) fn fetched(&self) -> Bytes {
        Bytes(self.fetched_bytes)
    }
}

impl Ask {
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["agent", "--end-with-input", "warm", "--json"]
            .map(Into::into)
            .into();
        let mut give = |flag: &str, value: &dyn AsRef<std::ffi::OsStr>| {
            arguments.push(flag.into());
            arguments.push(value.as_ref().into());
        };
        if let Some(image) = &self.image {
            give("--image", image);
        }
        if let Some(model) = &self.model {
            give("--model", model);
        }
        give("--root", &self.root);
        give("--endpoint", &self.endpoint);
        for host in &self.plain_http {
            give("--plain-http", host);
        }
        give("--max-connections", &self.connections.to_string());
        give("--patience", &"30");
        give("--keep-free", &"1");
        if let Some(socket) = &self.containerd {
            give("--containerd", socket);
        }
        arguments
    }
}

/// Runs an agent until everything asked for is on the node. `hear` is told what it says, as it
/// says it.
pub(crate) async fn warm(
    ask: &Ask,
    program: &Path,
    mut hear: impl FnMut(&Said),
) -> Result<(), AgentError> {
    let log = File::create(&ask.log).map_err(AgentError::Start)?;
    let mut child = Command::new(program)
        .args(ask.arguments())
        // Neither a proxy nor a token of whoever runs the demo is any business of it.
        .env_clear()
        // Kept open as long as it is wanted.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(AgentError::Start)?;
    let stdout = child.stdout.take().expect("its output is piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut failed = None;
    while let Some(line) = lines.next_line().await.map_err(AgentError::Start)? {
        let Ok(said) = serde_json::from_str::<Said>(&line) else {
            continue;
        };
        if let Said::Failed { item, error } = &said {
            let (item, error) = (item.clone(), error.clone());
            failed.get_or_insert(AgentError::Item { item, error });
        }
        hear(&said);
    }
    // Waiting closes its input; by now it has nothing left to do.
    let status = child.wait().await.map_err(AgentError::Start)?;
    match failed {
        Some(error) => Err(error),
        None if status.success() => Ok(()),
        None => Err(AgentError::Ended {
            status: status.to_string(),
            said: last_words(&ask.log),
        }),
    }
}

/// The end of a log, in one line.
pub(crate) fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    match last.is_empty() {
        true => "it said nothing".to_owned(),
        false => last.into_iter().rev().collect::<Vec<_>>().join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_an_agent_are_understood_and_unknown_ones_passed_over() {
        let read = |line: &str| serde_json::from_str::<Said>(line).ok();
        assert_eq!(
            read(r#"{"event":"progress","item":"m","done_bytes":3,"total_bytes":9}"#),
            Some(Said::Progress {
                item: "m".to_owned(),
                done_bytes: 3,
                total_bytes: 9
            })
        );
        let ready = r#"{"event":"ready","item":"m","pinned":"m@c","total_bytes":9,"fetched_bytes":9,
            "resumed_bytes":0,"took":1.5,"bound":"link","place":"HF_HUB_CACHE=/x"}"#;
        let Some(Said::Ready(ready)) = read(ready) else {
            panic!("not understood");
        };
        assert_eq!(ready.took(), Duration::from_millis(1500));
        assert_eq!(read(r#"{"event":"summary","ready":1}"#), Some(Said::Other));
    }
}
