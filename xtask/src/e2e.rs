//! Tests against real programs: containerd, registries, Python clients, failing disks.
//!
//! They need root on Debian, because they mount, make namespaces and install what they run
//! against. Elsewhere they are skipped as a whole, with the reason.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::test::Ended;
use crate::{cargo, images, provision};

/// Debian packages of the programs they run against, and of what they call.
pub(crate) const PACKAGES: [&str; 12] = [
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
    ("cluster", On::Cluster),
    ("cloud", On::Cluster),
    ("daemon", On::Cluster),
    ("fleet", On::Cluster),
    ("serve", On::Cluster),
    ("csi", On::Cluster),
    ("admission", On::Cluster),
    ("chart", On::Cluster),
    ("kuberay", On::Cluster),
];

/// What a test binary works on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// This machine, its Debian packages and clients of the Hub.
    Machine,
    /// A Kubernetes of its own. These run only when they are named: building Kubernetes, helm and
    /// KubeRay takes minutes, once, and not all of them have been seen to pass together.
    Cluster,
}

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
    if let provision::Debian::Missing { packages, why } = provision::debian(&PACKAGES)? {
        bail!("{} cannot be installed: {why}", packages.join(", "));
    }
    let target = cargo::target()?;
    let provisioned = provision::clients(&cargo::root(), &target)?;
    let build = [
        "build",
        "--locked",
        "--package",
        "headstart-agent",
        "--package",
        "headstart",
    ];
    cargo::run(&mut cargo::cargo(&build))?;
    let agent = target.join("debug/headstart-agent");
    let named = |name: &str| args.test.iter().any(|test| test == name);
    let wanted = |name: &str| args.test.is_empty() || named(name);
    let chosen = || {
        let all = BINARIES.iter();
        all.filter(|(name, on)| named(name) || (*on == On::Machine && wanted(name)))
    };
    let mut outside: Vec<(&str, PathBuf)> = Vec::new();
    if chosen().any(|(_, on)| *on == On::Cluster) {
        let root = cargo::root();
        let kubernetes = provision::kubernetes(&root, &target)?;
        outside.push((provision::KUBERNETES, kubernetes));
        for program in provision::PROGRAMS {
            let home = provision::program(&root, &target, &program)?;
            outside.push((program.variable, home));
        }
        outside.push((IMAGES, images::build(&images::Args::default())?));
    }
    for (binary, _) in chosen() {
        let base = [
            "test",
            "--locked",
            "--package",
            "headstart-testbed",
            "--features",
            "e2e",
        ];
        let mut test = cargo::cargo(&base);
        test.args(["--test", binary, "--"]).args(&args.filter);
        test.env(provision::PROVISIONED, &provisioned)
            .env(AGENT, &agent)
            .env(DAEMON, target.join("debug/headstart"))
            .envs(outside.iter().map(|(name, path)| (name, path)));
        cargo::run(&mut test)?;
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

/// What `--test` may name.
fn names() -> Vec<&'static str> {
    let binaries = BINARIES.iter().map(|(name, _)| *name);
    binaries.chain([XET]).collect()
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
