//! Tests against real programs: containerd, registries, Python clients, failing disks.
//!
//! They need root on Debian, because they mount, make namespaces and install what they run
//! against. Elsewhere they are skipped as a whole, with the reason.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::test::Ended;
use crate::{cargo, images, provision};

mod together;

/// Debian packages of the programs they run against, and of what they call.
pub(crate) const PACKAGES: [&str; 14] = [
    "containerd",
    "containernetworking-plugins",
    "runc",
    "docker-registry",
    "skopeo",
    "umoci",
    "busybox-static",
    "iproute2",
    "iptables",
    "strace",
    "python3-venv",
    "util-linux",
    "prometheus",
    "chromium",
];

/// Names the agent's binary for the tests.
const AGENT: &str = "HEADSTART_AGENT";

/// Names the control plane's.
const DAEMON: &str = "HEADSTART_DAEMON";

/// Names the directory with both programs' images.
const IMAGES: &str = "HEADSTART_IMAGES";

/// The test binaries, in the order they run, and what each works on.
const BINARIES: &[(&str, On)] = &[
    ("store", On::Machine),
    ("unpack", On::Machine),
    ("containerd", On::Machine),
    ("agent", On::Machine),
    ("clients", On::Machine),
    ("clouds", On::Machine),
    ("page", On::Machine),
    // Looks for what it left on the machine, where others would leave their own.
    ("cluster", On::ClusterAlone),
    // The longest first, as they run side by side.
    ("live", On::Cluster),
    ("fleet", On::Cluster),
    ("admission", On::Cluster),
    ("daemon", On::Cluster),
    ("chart", On::Cluster),
    ("csi", On::Cluster),
    ("cloud", On::Cluster),
    ("serve", On::Cluster),
    ("kuberay", On::Cluster),
    ("ledger", On::Cluster),
];

/// What a test binary works on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// This machine, its Debian packages and clients of the Hub.
    Machine,
    /// A Kubernetes of its own; several at once. Building Kubernetes, helm and KubeRay takes minutes,
    /// once.
    Cluster,
    /// The same, with no other beside it.
    ClusterAlone,
}

/// Tests of the daemon against Prometheus.
const PROMETHEUS: &str = "prometheus";

/// The test of large files through Xet storage.
const XET: &str = "xet";

/// Which part to run.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only these test binaries
    #[arg(long, value_name = "BINARY", value_parser = names())]
    test: Vec<String>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<Ended> {
    if let Some(why) = unfit() {
        return Ok(Ended::Skipped(why));
    }
    let wanted = |name: &str| args.test.is_empty() || args.test.iter().any(|test| test == name);
    let chosen = || {
        let all = BINARIES.iter();
        all.filter(|(name, _)| wanted(name))
    };
    let clusters = chosen().any(|(_, on)| *on != On::Machine);
    let places = places(clusters, &images::Args::default())?;
    let test = |binary: &str| {
        let mut test = testbed(&places, ["--test", binary]);
        test.args(&args.filter);
        test
    };
    for (binary, _) in chosen().filter(|(_, on)| *on != On::Cluster) {
        cargo::run(&mut test(binary))?;
    }
    let clusters = chosen().filter(|(_, on)| *on == On::Cluster);
    together::run(
        clusters
            .map(|(binary, _)| (*binary, test(binary)))
            .collect(),
    )?;
    if wanted(PROMETHEUS) {
        let base = [
            "test",
            "--locked",
            "--package",
            "headstart",
            "--features",
            "e2e",
            "--bin",
            "headstart",
        ];
        cargo::run(cargo::cargo(&base).args(["--", "metrics::tests::prometheus"]))?;
    }
    if wanted(XET) {
        // Against the real client of Xet storage, which no default build contains.
        let base = [
            "test",
            "--locked",
            "--package",
            "headstart-hub",
            "--features",
            "xet-storage",
        ];
        cargo::run(cargo::cargo(&base).args(["--test", XET]))?;
    }
    Ok(Ended::Passed)
}

/// Runs a benchmark on a cluster, with the programs of a release.
pub(crate) fn bench(name: &str, arguments: &[String]) -> Result<()> {
    if let Some(why) = unfit() {
        bail!("{why}");
    }
    let places = places(true, &images::Args { release: true })?;
    let mut bench = testbed(&places, ["--bench", name]);
    bench.args(arguments);
    cargo::run(&mut bench)
}

/// Runs one of the testbed's binaries, told where everything is; arguments that follow are its own.
fn testbed(places: &[(&str, PathBuf)], binary: [&str; 2]) -> Command {
    let base = [
        "test",
        "--locked",
        "--package",
        "headstart-testbed",
        "--features",
        "e2e",
    ];
    let mut test = cargo::cargo(&base);
    test.args(binary).arg("--");
    test.envs(places.iter().map(|(name, path)| (name, path)));
    test
}

/// Builds and installs what tests run, and says where it is: variables with paths. What only clusters
/// need comes where they do.
fn places(clusters: bool, build: &images::Args) -> Result<Vec<(&'static str, PathBuf)>> {
    if let provision::Debian::Missing { packages, why } = provision::debian(&PACKAGES)? {
        bail!("{} cannot be installed: {why}", packages.join(", "));
    }
    let (root, target) = (cargo::root(), cargo::target()?);
    let clients = provision::clients(&root, &target)?;
    let programs = images::programs(build)?;
    let mut places = vec![
        (provision::PROVISIONED, clients),
        (AGENT, programs.join("headstart-agent")),
        (DAEMON, programs.join("headstart")),
    ];
    if clusters {
        places.push((
            provision::KUBERNETES,
            provision::kubernetes(&root, &target)?,
        ));
        for program in provision::PROGRAMS {
            let home = provision::program(&root, &target, &program)?;
            places.push((program.variable, home));
        }
        places.push((IMAGES, images::build(build)?));
    }
    Ok(places)
}

/// What `--test` may name.
fn names() -> Vec<&'static str> {
    let binaries = BINARIES.iter().map(|(name, _)| *name);
    binaries.chain([PROMETHEUS, XET]).collect()
}

/// Why they cannot run on this machine.
pub(crate) fn unfit() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |wanted: &str| release.lines().any(|line| line == wanted);
    if !(has("ID=debian") && has("VERSION_ID=\"12\"")) {
        return Some("needs Debian 12, whose packages it installs".to_owned());
    }
    let uid = fs::metadata("/proc/self").map(|found| std::os::unix::fs::MetadataExt::uid(&found));
    match uid {
        Ok(0) => None,
        _ => Some("needs root, to mount and to make namespaces".to_owned()),
    }
}
