//! Kubernetes' programs: a directory that is named, what was made before, Go modules built once,
//! or the official download.
//!
//! `tests/kubernetes/go.mod` says which version, and pins all it is built from. A directory of
//! ours has a stamp once it is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

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

/// The Go line Kubernetes is built with. A later one builds programs that publish a broken
/// OpenAPI, so that `kubectl apply` fails.
const GO: (&str, &str) = ("go1.26.", "go1.26.4");

/// Packages built at a time: each takes most of a gigabyte.
const PARALLEL: &str = "2";

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
    let version = version(&module)?;
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

/// The version that the module requires.
fn version(module: &Path) -> Result<String> {
    let path = module.join("go.mod");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let required = text.lines().find_map(|line| {
        let line = line.trim().trim_start_matches("require ");
        line.strip_prefix("k8s.io/kubernetes ")
    });
    let version = required.with_context(|| format!("{} requires no Kubernetes", path.display()))?;
    let version = version.split_whitespace().next().unwrap_or_default();
    Ok(version.to_owned())
}

/// Builds them one after the other, as gently as it goes. The version is stamped as upstream
/// stamps it: a server without one is refused by many clients.
fn build(module: &Path, version: &str, home: &Path) -> Result<()> {
    let go = toolchain(module)?;
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
        let mut build = Command::new("nice");
        build.args(["-n", "10", "go", "build", "-p", PARALLEL, "-trimpath"]);
        build.args(["-mod=readonly", "-buildvcs=false", "-ldflags", &flags, "-o"]);
        build.arg(home.join(program));
        build.arg(format!("k8s.io/kubernetes/cmd/{program}"));
        build.current_dir(module);
        run(build.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", &go))?;
    }
    Ok(())
}

/// What `GOTOOLCHAIN` must be: the installed Go if it is of the right line, else one it fetches.
fn toolchain(module: &Path) -> Result<String> {
    let mut ask = Command::new("go");
    ask.args(["env", "GOVERSION"]).current_dir(module);
    let installed = output(ask.env("GOTOOLCHAIN", "local"))?;
    let (line, fetched) = GO;
    let chosen = if installed.starts_with(line) {
        "local"
    } else {
        fetched
    };
    Ok(chosen.to_owned())
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
