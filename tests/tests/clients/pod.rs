//! A consumer: a client program as a user of its own, in a mount namespace of its own.
//!
//! ```text
//! <room>/store/<tree>/         trees; only root gets in here
//! <room>/pod/trees/<tree>/     empty; in the namespace the tree, bound read-only
//! <room>/pod/views/<view>/     views, writable
//! <room>/pod/bin/              empty; in the namespace what was provisioned, read-only
//! <room>/pod/home              the client's home
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

/// Who the clients are: nobody, of nogroup.
pub(crate) const UID: u32 = 65534;

/// How long any one request may take before the client counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// Binds each tree and what was provisioned, then becomes the client: same process, no root left.
const ENTER: &str = r#"
bind() { mount --bind "$1" "$2"; mount -o remount,bind,ro "$2"; }
for tree in "$ROOM"/store/*; do bind "$tree" "$ROOM/pod/trees/${tree##*/}"; done
bind "$PROVISIONED" "$ROOM/pod/bin"
unset ROOM PROVISIONED
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --inh-caps=-all \
    --bounding-set=-all -- "$@"
"#;

/// What `cargo xtask e2e` provisioned.
#[derive(Clone, Debug)]
pub(crate) struct Provisioned(PathBuf);

impl Provisioned {
    /// # Panics
    /// When nothing was provisioned, or this is not root.
    pub(crate) fn find() -> Self {
        let dir = std::env::var_os("HEADSTART_PROVISIONED").map(PathBuf::from);
        let dir = dir.expect("HEADSTART_PROVISIONED is not set: run `cargo xtask e2e`");
        let python = dir.join("python");
        assert!(
            python.is_dir(),
            "{} is missing: run `cargo xtask e2e`",
            python.display()
        );
        let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").unwrap());
        assert_eq!(
            uid, 0,
            "mount namespaces and other users need root: run `cargo xtask e2e`"
        );
        Self(dir)
    }
}

/// The directories of one test.
#[derive(Debug)]
pub(crate) struct Room {
    temp: tempfile::TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let room = Self { temp };
        for (dir, mode) in [
            ("", 0o711),
            ("store", 0o700),
            ("objects", 0o700),
            ("pod", 0o711),
            ("pod/trees", 0o711),
            ("pod/views", 0o711),
            ("pod/bin", 0o711),
            ("pod/home", 0o700),
        ] {
            let dir = room.path(dir);
            fs::create_dir_all(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        }
        std::os::unix::fs::chown(room.path("pod/home"), Some(UID), Some(UID)).unwrap();
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/driver.py");
        fs::copy(driver, room.path("pod/driver.py")).unwrap();
        let open = fs::Permissions::from_mode(0o644);
        fs::set_permissions(room.path("pod/driver.py"), open).unwrap();
        room
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.temp.path().join(below)
    }

    /// Where a tree is kept.
    pub(crate) fn store(&self, tree: &str) -> PathBuf {
        self.path("store").join(tree)
    }

    /// Where the consumer sees it.
    pub(crate) fn tree_inside(&self, tree: &str) -> PathBuf {
        self.path("pod/trees").join(tree)
    }

    /// A command that runs `program` of what was provisioned as the consumer. Every tree of the
    /// store at this moment is mounted.
    pub(crate) fn command(
        &self,
        provisioned: &Provisioned,
        program: &str,
        env: &BTreeMap<&str, String>,
    ) -> Command {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            ENTER,
            "sh",
        ]);
        command.arg(self.path("pod/bin").join(program));
        command.env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.path("pod/home"));
        command.env("ROOM", self.temp.path());
        command.env("PROVISIONED", &provisioned.0);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        // Asks PyPI, which is not what is tested here.
        command.env("HF_HUB_DISABLE_UPDATE_CHECK", "1");
        command.envs(env);
        command
    }

    /// The Python client of one environment, waiting for requests.
    pub(crate) fn python(
        &self,
        provisioned: &Provisioned,
        name: &str,
        env: &BTreeMap<&str, String>,
    ) -> Client {
        let program = format!("python/{name}/bin/python");
        let mut command = self.command(provisioned, &program, env);
        command.arg(self.path("pod/driver.py"));
        Client::start(command)
    }

    /// The Rust client, waiting for requests.
    pub(crate) fn hf_hub(&self, provisioned: &Provisioned) -> Client {
        let program = "hf-hub/debug/hf-hub-client";
        Client::start(self.command(provisioned, program, &BTreeMap::new()))
    }
}

/// A client that runs and answers.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    requests: ChildStdin,
    answers: Receiver<String>,
    complaints: tempfile::NamedTempFile,
}

/// What a client said, and when.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

/// What a client said.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Ok(Value),
    Error(Failure),
}

/// Why a client could not do it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct Failure {
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Client {
    fn start(mut command: Command) -> Self {
        let complaints = tempfile::NamedTempFile::new().unwrap();
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(complaints.reopen().unwrap());
        let mut child = command.spawn().expect("unshare (util-linux) runs");
        let requests = child.stdin.take().expect("piped above");
        let output = BufReader::new(child.stdout.take().expect("piped above"));
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            requests,
            answers,
            complaints,
        }
    }

    /// Puts one request and waits for its answer.
    ///
    /// # Panics
    /// With what the client printed, when it ends or is silent for too long.
    pub(crate) fn ask(&mut self, request: &Value) -> Answer {
        let asked = Instant::now();
        let sent = writeln!(self.requests, "{request}").and_then(|()| self.requests.flush());
        let answer = self.answers.recv_timeout(PATIENCE);
        let reason = match (sent, answer) {
            (Ok(()), Ok(line)) => match serde_json::from_str(&line) {
                Ok(outcome) => {
                    return Answer {
                        outcome,
                        took: asked.elapsed(),
                    };
                }
                Err(error) => format!("answered {line} ({error})"),
            },
            (_, Err(RecvTimeoutError::Timeout)) => format!("said nothing for {PATIENCE:?}"),
            (sent, _) => format!("ended ({sent:?})"),
        };
        let complaints = fs::read_to_string(self.complaints.path()).unwrap_or_default();
        panic!("{request}: the client {reason}; it printed:\n{complaints}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
