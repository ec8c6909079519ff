//! A machine made of namespaces: network, mounts, host name and processes of its own.
//!
//! Nothing of it is visible outside but its first process, whose end takes everything along: the
//! other processes, their containers, mounts, links. No namespace has a name, so none can be
//! left behind.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::process::{Process, only_child, tail};

/// How long its first process may take to set itself up.
const BOOT_WAIT: Duration = Duration::from_secs(20);

/// How long its processes may take to end.
pub(super) const END_WAIT: Duration = Duration::from_secs(20);

/// Where programs are found inside.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every first process does: nothing until it is written down, then its set-up, then it
/// collects what has ended, as a first process must.
const INIT: &str = r#"
read -r go || exit 1
set -eu
ip link set lo up
mount --make-rslave /
"#;
const REST: &str = r#"
: > "$1/booted"
set +e
sleep infinity &
while :; do wait; done
"#;

/// A running machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its host name.
    pub name: String,
    /// What it keeps: logs, and what `set_up` binds.
    pub directory: PathBuf,
    /// Its first process.
    pub init: Process,
}

impl Machine {
    /// Boots a machine that runs the shell commands `set_up` first; `$1` is its directory.
    ///
    /// `record` is told of it before it does anything: a maker that is killed in between leaves
    /// nothing, since the first process ends with it.
    pub(super) fn boot(
        name: &str,
        directory: &Path,
        set_up: &str,
        record: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let _ = fs::remove_file(directory.join("booted"));
        let path = directory.join("init.log");
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let script = format!("{INIT}hostname {name}\n{set_up}{REST}");
        let mut outer = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child=KILL", "--mount-proc", "/bin/sh", "-c"])
            .args([&script, "init"])
            .arg(directory)
            .env("PATH", PATH)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("unshare cannot be started")?;
        let init = only_child(name, &mut outer, &path)?;
        let machine = Self {
            name: name.to_owned(),
            directory: directory.to_owned(),
            init,
        };
        record(&machine)?;
        let mut go = outer.stdin.take().context("no way to tell it to go")?;
        go.write_all(b"go\n")?;
        // Somebody must collect it.
        std::thread::spawn(move || outer.wait());
        let deadline = Instant::now() + BOOT_WAIT;
        while !directory.join("booted").exists() {
            let waiting = machine.init.is_alive() && Instant::now() < deadline;
            ensure!(waiting, "{name} does not boot: {}", tail(&path));
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(machine)
    }

    /// Starts a program inside; what it prints goes to `NAME.log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, name: &str, program: &Path, arguments: &[String]) -> Result<Process> {
        let path = self.log(name);
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let mut entered = self
            .enter()
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("nsenter cannot be started")?;
        let process = only_child(name, &mut entered, &path)?;
        std::thread::spawn(move || entered.wait());
        Ok(process)
    }

    /// Runs shell commands inside to success and returns what they printed.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn run(&self, script: &str) -> Result<String> {
        let output = self.enter().args(["/bin/sh", "-euc", script]).output();
        let output = output.context("nsenter cannot be started")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {script}: {errors}", self.name);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A file of its own as this machine's other processes reach it.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init.pid))
    }

    /// Where what the program `name` prints goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// If it goes on.
    pub fn power_off(&self) -> Result<()> {
        self.init.kill();
        self.init.until_gone(END_WAIT)
    }

    fn enter(&self) -> Command {
        let mut enter = Command::new("nsenter");
        let target = self.init.pid.to_string();
        enter.args(["--target", &target, "--net", "--mount", "--uts", "--ipc"]);
        enter.args(["--pid", "--"]).env("PATH", PATH);
        enter
    }
}
