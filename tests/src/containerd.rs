//! Real containerd in a private directory: Debian bookworm's own, or a later release's package
//! unpacked beside it.
//!
//! Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::debian;

const START_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(60);

/// A line of releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian bookworm's, installed.
    V1_6,
    /// Debian trixie's.
    V1_7,
    /// Debian sid's.
    V2,
}

/// How containerd is configured, beyond what the tests' machine needs.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The CRI's snapshotter, if not the default.
    pub snapshotter: Option<String>,
    /// Whether layer blobs are dropped after a pull.
    pub discard_unpacked_layers: bool,
    /// A directory with `hosts.toml` files, for the CRI.
    pub registry_config: Option<PathBuf>,
    /// Fetches layers in ranges over several connections; of [`Version::V2`] only.
    pub parallel_fetch: bool,
}

/// A running containerd. Stops when dropped, and takes what it stored along.
#[derive(Debug)]
pub struct Containerd {
    version: Version,
    programs: PathBuf,
    directory: PathBuf,
    child: Child,
}

impl Version {
    /// All, oldest first.
    pub const ALL: [Self; 3] = [Self::V1_6, Self::V1_7, Self::V2];

    /// How its version number begins.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::V1_6 => "1.6.",
            Self::V1_7 => "1.7.",
            Self::V2 => "2.",
        }
    }

    fn suite(self) -> Option<&'static str> {
        match self {
            Self::V1_6 => None,
            Self::V1_7 => Some("trixie"),
            Self::V2 => Some("sid"),
        }
    }
}

/// The directory with the programs of `version`, fetched if they are not there yet.
///
/// # Errors
/// If they can neither be found nor fetched, or are of another version.
pub fn provision(version: Version) -> Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(suite) = version.suite() else {
        let programs = PathBuf::from("/usr/bin");
        check(&programs, version).context("install Debian bookworm's package containerd")?;
        return Ok(programs);
    };
    let unpacked = debian::place("containerd", suite);
    let programs = unpacked.join("usr/bin");
    if check(&programs, version).is_err() {
        debian::unpack(suite, "containerd", &unpacked)?;
    }
    check(&programs, version)?;
    Ok(programs)
}

impl Containerd {
    /// Starts containerd with all it keeps in `directory`, which is made.
    ///
    /// # Errors
    /// If it cannot be had or does not answer in time.
    pub fn start(version: Version, directory: PathBuf, settings: &Settings) -> Result<Self> {
        let programs = provision(version)?;
        fs::create_dir_all(&directory)?;
        fs::write(
            directory.join("config.toml"),
            settings.config(version, &directory),
        )?;
        let child = spawn(&programs, &directory)?;
        let mut containerd = Self {
            version,
            programs,
            directory,
            child,
        };
        containerd.until_it_answers()?;
        Ok(containerd)
    }

    /// Ends the daemon as a service manager would, and starts it anew.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.child = spawn(&self.programs, &self.directory)?;
        self.until_it_answers()
    }

    /// Which line of releases it is of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The socket of both its own API and the CRI.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// The directory of the overlayfs snapshotter.
    pub fn snapshots(&self) -> PathBuf {
        self.state()
            .join("io.containerd.snapshotter.v1.overlayfs/snapshots")
    }

    /// Where it keeps everything that lasts.
    pub fn state(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Runs `ctr` in the kubelet's namespace.
    ///
    /// # Errors
    /// If `ctr` fails.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_ctr(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr {arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs `ctr` in the kubelet's namespace, whatever comes of it.
    ///
    /// # Errors
    /// If `ctr` cannot be started.
    pub fn try_ctr(&self, arguments: &[&str]) -> Result<Output> {
        let mut ctr = command(&self.programs, "ctr");
        ctr.arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(arguments);
        ctr.output().context("ctr cannot be started")
    }

    /// The last lines of its log, for a failed test's message.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_WAIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended with {status}:\n{}", self.log());
            }
            // The CRI is the last to be loaded.
            let log = fs::read_to_string(self.directory.join("log"))?;
            if log.contains("containerd successfully booted")
                && self.try_ctr(&["version"])?.status.success()
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("containerd does not answer:\n{}", self.log())
    }

    fn stop(&mut self) -> Result<()> {
        // Of a process that is reaped the id may be somebody else's by now.
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let deadline = Instant::now() + STOP_WAIT;
        while Instant::now() < deadline {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("containerd does not end:\n{}", self.log())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Settings {
    fn config(&self, version: Version, directory: &Path) -> String {
        let at = directory.display();
        // Configuration version 3 knows the CRI as three plugins, one before as one.
        let (number, images, containerd, runtime) = match version {
            Version::V1_6 | Version::V1_7 => {
                let cri = "io.containerd.grpc.v1.cri";
                (2, cri, format!("\"{cri}\".containerd"), cri)
            }
            Version::V2 => {
                let images = "io.containerd.cri.v1.images";
                let runtime = "io.containerd.cri.v1.runtime";
                (3, images, format!("\"{images}\""), runtime)
            }
        };
        let mut config = format!(
            "version = {number}\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             [grpc]\naddress = \"{at}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{at}/opt\"\n\
             [plugins.\"{runtime}\"]\nrestrict_oom_score_adj = true\n"
        );
        if version != Version::V1_6 {
            config += "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n";
        }
        config += &format!(
            "[plugins.{containerd}]\ndiscard_unpacked_layers = {}\n",
            self.discard_unpacked_layers
        );
        if let Some(snapshotter) = &self.snapshotter {
            config += &format!("snapshotter = \"{snapshotter}\"\n");
            if version == Version::V2 {
                // The transfer service unpacks for the default snapshotter only.
                config += "use_local_image_pull = true\n";
            }
        }
        if self.parallel_fetch {
            config += "[plugins.\"io.containerd.transfer.v1.local\"]\n\
                       max_concurrent_downloads = 10\nconcurrent_layer_fetch_buffer = 8388608\n";
        }
        if let Some(path) = &self.registry_config {
            config += &format!(
                "[plugins.\"{images}\".registry]\nconfig_path = \"{}\"\n",
                path.display()
            );
        }
        config
    }
}

fn spawn(programs: &Path, directory: &Path) -> Result<Child> {
    let log = fs::File::create(directory.join("log"))?;
    let mut containerd = command(programs, "containerd");
    containerd.arg("-c").arg(directory.join("config.toml"));
    containerd
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    containerd.spawn().context("containerd cannot be started")
}

/// A program of one version, which also finds its companions before those of the machine.
fn command(programs: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display());
    command.env("PATH", path);
    command
}

fn check(programs: &Path, version: Version) -> Result<()> {
    let output = command(programs, "containerd").arg("--version").output();
    let output = output.with_context(|| format!("no containerd in {}", programs.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = said.split_whitespace().nth(2).unwrap_or_default();
    let prefix = version.prefix();
    ensure!(
        number.starts_with(prefix),
        "found containerd {number:?}, expected {prefix}x"
    );
    Ok(())
}
