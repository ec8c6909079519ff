//! Packages of Debian suites other than the machine's own.
//!
//! They are fetched once, by apt with lists of its own, into `target/programs`; nothing of the
//! machine's own apt is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Where a package of a suite is unpacked, or would be.
pub fn place(package: &str, suite: &str) -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/programs");
    cache.join(format!("{package}-{suite}"))
}

/// Fetches a package of a Debian suite and unpacks it into `unpacked`.
///
/// # Errors
/// If it cannot be had.
pub fn unpack(suite: &str, package: &str, unpacked: &Path) -> Result<()> {
    fetch(suite, package, unpacked).with_context(|| format!("{package} of Debian {suite}"))
}

fn fetch(suite: &str, package: &str, unpacked: &Path) -> Result<()> {
    let name = format!("apt-{suite}-{package}");
    let apt = unpacked.with_file_name(name);
    for directory in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(apt.join(directory))?;
    }
    let apt = apt.canonicalize()?;
    let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let mirror = mirror()?;
    let source = format!("deb [signed-by={key}] {mirror} {suite} main\n");
    fs::write(apt.join("sources.list"), source)?;
    let at = apt.display();
    let options = [
        format!("Dir::Etc::sourcelist={at}/sources.list"),
        "Dir::Etc::sourceparts=/dev/null".to_owned(),
        format!("Dir::State::lists={at}/lists"),
        format!("Dir::Cache={at}"),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ];
    let options = || options.iter().flat_map(|option| ["-o", option]);
    run(Command::new("apt-get")
        .args(options())
        .args(["-q", "update"]))?;
    let mut download = Command::new("apt-get");
    run(download
        .current_dir(&apt)
        .args(options())
        .args(["-q", "download", package]))?;
    let packages = fs::read_dir(&apt)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut packages = packages.filter(|path| path.extension().is_some_and(|end| end == "deb"));
    let archive = packages.next().context("apt-get downloaded no package")?;
    run(Command::new("dpkg").arg("-x").arg(&archive).arg(unpacked))?;
    fs::remove_dir_all(&apt)?;
    Ok(())
}

/// The mirror that this machine gets its own packages from; it has the other suites too.
fn mirror() -> Result<String> {
    let mut apt = Command::new("apt-get");
    let targets = [
        "indextargets",
        "--format",
        "$(SITE)",
        "Created-By: Packages",
        "Codename: bookworm",
    ];
    let output = apt
        .args(targets)
        .output()
        .context("apt-get cannot be started")?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = listed.lines().next().map(str::to_owned);
    first.context("apt knows no mirror of bookworm: run `apt-get update`")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {errors}");
    Ok(())
}
