//! Kubernetes' programs: a directory that is named, what was made before, Go modules built once,
//! or the official download.
//!
//! `tests/kubernetes/go.mod` says which version, and pins all it is built from. A directory of
//! ours has a stamp once it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::go::{Go, version};
use super::{directory, lock, output, put_stamp, run, stamped};

/// Names a directory with the programs, and says where tests find them.
pub(crate) const KUBERNETES: &str = "HEADSTART_KUBERNETES";

/// What a cluster consists of.
const PROGRAMS: [&str; 5] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// The directory with the programs.
///
/// # Errors
/// When they can be had in none of the ways.
pub(crate) fn kubernetes(workspace: &Path, target: &Path) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os(KUBERNETES) {
        let named = PathBuf::from(named);
        for program in PROGRAMS {
            let path = named.join(program);
            ensure!(
                path.exists(),
                "{KUBERNETES}: there is no {}",
                path.display()
            );
        }
        return Ok(named);
    }
    let module = workspace.join("tests/kubernetes");
    let sums = fs::read_to_string(module.join("go.sum")).context("read tests/kubernetes/go.sum")?;
    let version = version(&module, "k8s.io/kubernetes")?;
    let _lock = lock(target)?;
    let home = directory(target).join("kubernetes").join(&version);
    let stamp = format!("{}\n{sums}", PROGRAMS.join(" "));
    if stamped(&home, &stamp) {
        return Ok(home);
    }
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    if let Err(built) = build(&module, &version, &home) {
        eprintln!("provision: Kubernetes does not build: {built:#}");
        download(&version, &home)
            .with_context(|| format!("Kubernetes {version} can neither be built nor fetched"))?;
    }
    put_stamp(&home, &stamp)?;
    Ok(home)
}

/// Builds them one after the other, as gently as it goes. The version is stamped as upstream
/// stamps it: a server without one is refused by many clients.
fn build(module: &Path, version: &str, home: &Path) -> Result<()> {
    let go = Go::find()?;
    let numbers = version.trim_start_matches('v');
    let mut parts = numbers.split('.');
    let (major, minor) = (parts.next(), parts.next());
    let (major, minor) = major.zip(minor).context("a version without a minor one")?;
    let stamps = [
        ("gitVersion", version),
        ("gitMajor", major),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
        ("buildDate", "1970-01-01T00:00:00Z"),
    ];
    let mut flags = "-s -w".to_owned();
    for package in [
        "k8s.io/client-go/pkg/version",
        "k8s.io/component-base/version",
    ] {
        for (name, value) in stamps {
            flags += &format!(" -X {package}.{name}={value}");
        }
    }
    for program in PROGRAMS {
        eprintln!("provision: Kubernetes {version}, {program} (minutes, once)");
        let package = format!("k8s.io/kubernetes/cmd/{program}");
        go.build(module, &package, &flags, &home.join(program))?;
    }
    Ok(())
}

/// Fetches them from where Kubernetes is published.
fn download(version: &str, home: &Path) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("Kubernetes is not published for {other}"),
    };
    let origin = format!("https://dl.k8s.io/release/{version}/bin/linux/{architecture}");
    for program in PROGRAMS {
        let path = home.join(program);
        let fetch = |url: &str| {
            let mut curl = Command::new("curl");
            curl.args(["--fail", "--silent", "--show-error", "--location"]);
            curl.args(["--connect-timeout", "10", url]);
            curl
        };
        let url = format!("{origin}/{program}");
        let sum = output(&mut fetch(&format!("{url}.sha256")))?;
        run(fetch(&url).arg("--output").arg(&path))?;
        let found = output(Command::new("sha256sum").arg(&path))?;
        ensure!(
            found.split_whitespace().next() == Some(sum.trim()),
            "{url} has another sha256 than is published"
        );
        run(Command::new("chmod").arg("755").arg(&path))?;
    }
    Ok(())
}
