//! What end-to-end tests and benchmarks need from outside the workspace: Debian packages, one
//! Python environment per client version, programs built from other people's crates.
//!
//! Everything lies below `target/provision`, made once:
//!
//! ```text
//! python/<name>/bin/python     an environment; <name>/stamp says what is in it
//! hf-hub/debug/hf-hub-client   tests/clients/hf-hub, built
//! kubernetes/<version>/        Kubernetes' programs; stamp says what from
//! helm/<version>/              helm
//! kuberay/<version>/           KubeRay's operator, and its CRDs in files
//! karpenter/<version>/         Karpenter's CRDs in files
//! kwok/<version>/              KWOK's controller, and its stages in files
//! lock                         held while something is being made
//! ```
//!
//! Invariants: versions are exact, down to the last dependency, and checked to agree. A stamp is
//! written last, so whatever has the right stamp is whole; anything else is made anew. Nothing
//! here needs network when it is warm.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use self::go::{PROGRAMS, program};
pub(crate) use self::kubernetes::{KUBERNETES, kubernetes};

mod go;
mod kubernetes;

/// Where tests find what was provisioned: the directory that holds `python` and `hf-hub`.
pub(crate) const PROVISIONED: &str = "HEADSTART_PROVISIONED";

/// The oldest Python that every environment runs on.
const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// A Python environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PythonEnv {
    /// The directory it gets.
    pub(crate) name: &'static str,
    /// Every distribution in it, dependencies too: `name==version` per line.
    pub(crate) requirements: &'static str,
}

macro_rules! env {
    ($name:literal) => {
        PythonEnv {
            name: $name,
            requirements: include_str!(concat!("provision/python/", $name, ".txt")),
        }
    };
}

/// The newest huggingface_hub on PyPI in October 2026, with the newest
/// transformers. A newer release is a new file beside the others and a new line below.
pub(crate) const NEWEST: PythonEnv = env!("hub-2.4.0");

/// The Hugging Face clients that must read what Headstart publishes.
///
/// - 0.23.5 and 0.36.2: `requests`, old caches, still in many images;
/// - 1.0.1: httpx;
/// - 1.26.1, 1.33.0 (with the transformers that vLLM asks for) and 2.1.1: cannot load a cached
///   commit offline without `trees`; 1.33.0 also has the first shared blobs;
/// - [`NEWEST`].
pub(crate) const CLIENTS: [PythonEnv; 7] = [
    env!("hub-0.23.5"),
    env!("hub-0.36.2"),
    env!("hub-1.0.1"),
    env!("hub-1.26.1"),
    env!("hub-1.33.0"),
    env!("hub-2.1.1"),
    NEWEST,
];

/// Stand-ins for clouds: a server that speaks AWS's wire formats, with AWS's own Python client.
const MOTO: PythonEnv = env!("moto-5.2.5");

/// Azure's own Python clients of AKS and of Compute.
const AZURE: PythonEnv = env!("azure-mgmt-41.8.0");

/// Google's own client, with the discovery documents of its APIs.
const GOOGLE: PythonEnv = env!("google-api-2.202.0");

/// What became of a request for Debian packages.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Debian {
    /// All were there.
    Present,
    /// These were installed now.
    Installed(Vec<String>),
    /// These are missing and cannot be installed here.
    Missing {
        /// The packages; all of them where there is no `dpkg`.
        packages: Vec<String>,
        /// Why they were not installed.
        why: &'static str,
    },
}

/// Makes everything that the client tests need.
///
/// # Errors
/// When one cannot be made; what was made before stays.
pub(crate) fn clients(workspace: &Path, target: &Path) -> Result<PathBuf> {
    for env in &CLIENTS {
        python(target, env)?;
    }
    python(target, &MOTO)?;
    python(target, &AZURE)?;
    python(target, &GOOGLE)?;
    hf_hub(workspace, target)?;
    Ok(directory(target))
}

/// The interpreter of `env`, which is made unless it is there already.
///
/// # Errors
/// When there is no Python to make it with, or a distribution cannot be had.
pub(crate) fn python(target: &Path, env: &PythonEnv) -> Result<PathBuf> {
    let base = BasePython::find()?;
    let _lock = lock(target)?;
    let python = directory(target).join("python");
    let home = python.join(env.name);
    let interpreter = home.join("bin/python");
    let stamp = format!("{base}\n{}", env.requirements);
    if stamped(&home, &stamp) {
        return Ok(interpreter);
    }
    eprintln!("provision: Python environment {}", env.name);
    let pip = pip(&python, &base)?;
    base.venv(&home, &["--without-pip"])?;
    let list = home.join("requirements.txt");
    fs::write(&list, env.requirements).with_context(|| format!("write {}", list.display()))?;
    let at = |command: &mut Command| {
        command.args(["-m", "pip", "--python"]).arg(&interpreter);
    };
    let mut install = Command::new(&pip);
    at(&mut install);
    // Nothing is resolved and nothing is built: the list is whole, which `check` proves.
    install.args(["install", "--quiet", "--no-deps", "--only-binary", ":all:"]);
    install.arg("--requirement").arg(&list);
    run(&mut install)?;
    let mut check = Command::new(&pip);
    at(&mut check);
    run(check.args(["check", "--quiet"]))?;
    put_stamp(&home, &stamp)?;
    Ok(interpreter)
}

/// The program in `tests/clients/hf-hub`, built with the crates of its own lock file. Cargo knows
/// whether it is up to date.
///
/// # Errors
/// When it does not build.
pub(crate) fn hf_hub(workspace: &Path, target: &Path) -> Result<PathBuf> {
    let _lock = lock(target)?;
    let out = directory(target).join("hf-hub");
    let program = out.join("debug/hf-hub-client");
    if !program.exists() {
        eprintln!("provision: hf-hub client (minutes, once)");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--manifest-path"]);
    build.arg(workspace.join("tests/clients/hf-hub/Cargo.toml"));
    build.arg("--target-dir").arg(&out);
    run(&mut build)?;
    Ok(program)
}

/// Sees to it that Debian packages are installed: as root on Debian by installing what is missing.
///
/// # Errors
/// When apt fails. That packages are missing where they cannot be installed is no error.
pub(crate) fn debian(packages: &[&str]) -> Result<Debian> {
    let Some(missing) = missing(packages)? else {
        let packages = packages.iter().map(ToString::to_string).collect();
        let why = "this is no Debian system";
        return Ok(Debian::Missing { packages, why });
    };
    if missing.is_empty() {
        return Ok(Debian::Present);
    }
    if !is_root() {
        let why = "only root can install packages";
        let packages = missing;
        return Ok(Debian::Missing { packages, why });
    }
    eprintln!("provision: Debian packages {}", missing.join(" "));
    run(&mut apt(&["update", "--quiet=2"]))?;
    let mut install = apt(&["install", "--quiet=2", "--yes", "--no-install-recommends"]);
    run(install.args(&missing))?;
    Ok(Debian::Installed(missing))
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The Python that environments are made with.
struct BasePython {
    program: PathBuf,
    version: String,
}

impl BasePython {
    /// The system's own first: other users can run it, one below a home directory they cannot.
    fn find() -> Result<Self> {
        let mut seen = Vec::new();
        for program in ["/usr/bin/python3", "python3"] {
            match Self::ask(program) {
                Ok(python) => return Ok(python),
                Err(reason) => seen.push(format!("{program}: {reason:#}")),
            }
        }
        let (major, minor) = OLDEST_PYTHON;
        bail!(
            "no Python {major}.{minor} or newer with venv ({}): install python3 and python3-venv",
            seen.join("; ")
        )
    }

    fn ask(program: &str) -> Result<Self> {
        let script = "import ensurepip, sys, venv; \
            print(sys.version_info[0], sys.version_info[1], sys.version.split()[0], sys.executable)";
        let told = output(Command::new(program).args(["-I", "-c", script]))?;
        let words: Vec<&str> = told.trim().splitn(4, ' ').collect();
        let [major, minor, version, executable] = words[..] else {
            bail!("it answered {told:?}")
        };
        let found: (u32, u32) = (major.parse()?, minor.parse()?);
        ensure!(found >= OLDEST_PYTHON, "it is {version}");
        let (program, version) = (executable.into(), version.to_owned());
        Ok(Self { program, version })
    }

    /// Makes a fresh environment. It cannot be moved afterwards: its scripts hold its path.
    fn venv(&self, home: &Path, options: &[&str]) -> Result<()> {
        let mut make = Command::new(&self.program);
        make.args(["-m", "venv", "--clear"]).args(options).arg(home);
        run(&mut make)
    }
}

impl std::fmt::Display for BasePython {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.program.display(), self.version)
    }
}

/// An interpreter with the pip that its Python ships; it installs into all the others.
fn pip(python: &Path, base: &BasePython) -> Result<PathBuf> {
    let home = python.join("pip");
    let stamp = base.to_string();
    if !stamped(&home, &stamp) {
        base.venv(&home, &[])?;
        put_stamp(&home, &stamp)?;
    }
    Ok(home.join("bin/python"))
}

fn directory(target: &Path) -> PathBuf {
    target.join("provision")
}

/// Held until dropped: two runs on one target directory take turns.
fn lock(target: &Path) -> Result<File> {
    let directory = directory(target);
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

fn stamped(home: &Path, stamp: &str) -> bool {
    fs::read_to_string(home.join("stamp")).is_ok_and(|found| found == stamp)
}

/// By rename: a stamp cut short must not be taken for another one.
fn put_stamp(home: &Path, stamp: &str) -> Result<()> {
    let (new, path) = (home.join("stamp.new"), home.join("stamp"));
    fs::write(&new, stamp).with_context(|| format!("write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("write {}", path.display()))
}

/// Those of `packages` that dpkg does not call installed; none where there is no dpkg.
fn missing(packages: &[&str]) -> Result<Option<Vec<String>>> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    // It fails when it does not know one of them; what it prints counts.
    match query.args(packages).output() {
        Ok(output) => {
            let listed = String::from_utf8_lossy(&output.stdout);
            Ok(Some(not_installed(packages, &listed)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("run dpkg-query"),
    }
}

fn not_installed(packages: &[&str], listed: &str) -> Vec<String> {
    let installed = |package: &str| {
        listed
            .lines()
            .any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    let missing = packages.iter().filter(|package| !installed(package));
    missing.map(ToString::to_string).collect()
}

fn apt(arguments: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    // A machine that has just booted may be upgrading itself.
    apt.args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    apt.args(arguments);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    // What invoke-rc.d takes for "do not start it": tests start their own services.
    apt.env("RUNLEVEL", "1");
    apt
}

/// Runs a command to success. What it prints is shown only when it fails.
fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.output().with_context(|| format!("run {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(said.into_owned());
    }
    let arguments: Vec<_> = command
        .get_args()
        .map(|argument| argument.to_string_lossy())
        .collect();
    let complaint = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{program} {} failed ({}):\n{said}{complaint}",
        arguments.join(" "),
        output.status
    )
}

#[cfg(test)]
mod tests;
