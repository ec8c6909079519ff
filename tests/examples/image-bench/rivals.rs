//! Who brings the image, and one run of each: from nothing, to a runtime that says it has it.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use headstart_containerd::{Config, Runtime};
use headstart_testbed::containerd::{Containerd, Settings, Version};
use tokio::task::block_in_place;

use crate::Part;
use crate::measure::{Sample, Used, Watch};

/// Who brings the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rival {
    /// The agent, into containerd 1.6
    Headstart,
    /// Another build of the agent
    Before,
    /// containerd 1.6, asked as the kubelet asks
    Containerd1,
    /// containerd 2 as it comes, asked as the kubelet asks
    Containerd2,
    /// The same, fetching ten layers at once in ranges of 8 MiB
    Containerd2Best,
    /// podman pull
    Podman,
}

impl Rival {
    /// Those that a part compares.
    pub(crate) fn of(part: Part, before: bool) -> Vec<Self> {
        let peers: &[Self] = match part {
            Part::Processor => &[Self::Containerd1, Self::Containerd2Best, Self::Podman],
            Part::Link => &[Self::Containerd2, Self::Containerd2Best],
            Part::Disk => &[Self::Containerd1, Self::Containerd2],
        };
        let mut rivals = vec![Self::Headstart];
        rivals.extend(before.then_some(Self::Before));
        rivals.extend(peers);
        rivals
    }
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Headstart => "headstart",
            Self::Before => "headstart, before",
            Self::Containerd1 => "containerd 1.6, CRI",
            Self::Containerd2 => "containerd 2, CRI",
            Self::Containerd2Best => "containerd 2, best",
            Self::Podman => "podman",
        })
    }
}

/// What every run uses.
pub(crate) struct Bench<'a> {
    pub(crate) agent: &'a Path,
    pub(crate) before: Option<&'a Path>,
    /// The registry's process.
    pub(crate) registry: u32,
    /// Where the image is fetched from.
    pub(crate) host: String,
    /// Where runtimes keep what they have; emptied before each run.
    pub(crate) directory: PathBuf,
    pub(crate) image_id: String,
}

impl Bench<'_> {
    /// One run, from an empty directory.
    pub(crate) async fn run(&self, rival: Rival) -> Result<Sample> {
        let _ = fs::remove_dir_all(&self.directory);
        fs::create_dir_all(&self.directory)?;
        let registry = self.registry.to_string();
        let before = Used::by(&registry)?;
        let mut sample = match rival {
            Rival::Headstart => self.warm(self.agent).await?,
            Rival::Before => self.warm(self.before.context("no other build")?).await?,
            Rival::Containerd1 => self.pull(Version::V1_6, &Settings::default()).await?,
            Rival::Containerd2 => self.pull(Version::V2, &Settings::default()).await?,
            Rival::Containerd2Best => {
                let settings = Settings {
                    parallel_fetch: true,
                    ..Settings::default()
                };
                self.pull(Version::V2, &settings).await?
            }
            Rival::Podman => block_in_place(|| self.podman())?,
        };
        sample.registry = Used::by(&registry)?.since(before).cpu;
        let _ = fs::remove_dir_all(&self.directory);
        Ok(sample)
    }

    fn reference(&self) -> String {
        format!("{}/bench:1", self.host)
    }

    fn containerd(&self, version: Version, settings: &Settings) -> Result<Containerd> {
        block_in_place(|| Containerd::start(version, self.directory.join("containerd"), settings))
    }

    async fn warm(&self, agent: &Path) -> Result<Sample> {
        let containerd = self.containerd(Version::V1_6, &Settings::default())?;
        let daemon = containerd.id().to_string();
        let mut warm = Command::new(agent);
        warm.args(["warm", "--json", "--image", &self.reference()]);
        warm.args(["--plain-http", &self.host, "--containerd"]);
        warm.arg(containerd.socket())
            .arg("--root")
            .arg(self.directory.join("store"));
        let before = Used::by(&daemon)?;
        let (mut sample, said) = block_in_place(|| watched(&mut warm))?;
        let daemon = Used::by(&daemon)?.since(before);
        sample.daemon = daemon.cpu;
        sample.cpu += daemon.cpu;
        sample.written += daemon.written;
        let ready = said
            .lines()
            .find(|line| line.contains("\"ready\""))
            .unwrap_or_default();
        let bound = serde_json::from_str::<serde_json::Value>(ready).unwrap_or_default();
        sample.bound = bound["bound"].as_str().map(str::to_owned);
        self.seen_by(&containerd).await?;
        sample.needed = block_in_place(|| allocated(&containerd.snapshots()))?;
        block_in_place(|| drop(containerd));
        Ok(sample)
    }

    async fn pull(&self, version: Version, settings: &Settings) -> Result<Sample> {
        let containerd = self.containerd(version, settings)?;
        let runtime = Runtime::connect(Config::new(containerd.socket())).await?;
        let daemon = containerd.id().to_string();
        let before = Used::by(&daemon)?;
        let watch = Watch::start(containerd.id());
        let begun = Instant::now();
        runtime
            .pull(&self.reference(), None)
            .await
            .with_context(|| containerd.log())?;
        let wall = begun.elapsed().as_secs_f64();
        let peak = block_in_place(|| watch.stop());
        let used = Used::by(&daemon)?.since(before);
        self.seen_by(&containerd).await?;
        let needed = block_in_place(|| allocated(&containerd.snapshots()))?;
        block_in_place(|| drop(containerd));
        Ok(Sample {
            wall,
            cpu: used.cpu,
            daemon: used.cpu,
            written: used.written,
            needed,
            together: peak.together,
            largest: peak.largest,
            ..Sample::default()
        })
    }

    async fn seen_by(&self, containerd: &Containerd) -> Result<()> {
        let runtime = Runtime::connect(Config::new(containerd.socket())).await?;
        let image = runtime.status(&self.reference()).await?;
        let image = image.context("the runtime does not have the image")?;
        ensure!(image.id == self.image_id, "the runtime has {}", image.id);
        Ok(())
    }

    fn podman(&self) -> Result<Sample> {
        let at = |name: &str| self.directory.join(name);
        fs::create_dir_all(at("tmp"))?;
        let mut podman = Command::new("podman");
        podman.env("TMPDIR", at("tmp"));
        podman
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"));
        podman.args([
            "--storage-driver",
            "overlay",
            "pull",
            "--quiet",
            "--tls-verify=false",
        ]);
        podman.arg(self.reference());
        let (sample, said) = watched(&mut podman)?;
        let id = format!("sha256:{}", said.trim());
        ensure!(id == self.image_id, "podman has {id}");
        // podman leaves its directory mounted onto itself.
        let _ = Command::new("umount")
            .arg(at("root/overlay"))
            .stderr(Stdio::null())
            .status();
        Ok(sample)
    }
}

/// Runs a program to its end; what it and its children used, and what it said.
fn watched(command: &mut Command) -> Result<(Sample, String)> {
    let before = Used::by("self")?;
    let begun = Instant::now();
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.with_context(|| format!("cannot run {command:?}"))?;
    let watch = Watch::start(child.id());
    let output = child.wait_with_output()?;
    let wall = begun.elapsed().as_secs_f64();
    let peak = watch.stop();
    let used = Used::by("self")?.since(before);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}{said}");
    let sample = Sample {
        wall,
        cpu: used.of_children,
        unpackers: peak.of_children,
        written: used.written,
        together: peak.together,
        largest: peak.largest,
        ..Sample::default()
    };
    Ok((sample, said))
}

/// Bytes of disk that a tree takes.
fn allocated(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(bytes)
}
