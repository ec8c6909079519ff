//! `core` decides: it reaches nothing that does I/O, and reads no clock, environment or disk.
//!
//! Both halves have a positive control, so that a check that sees nothing is not taken for a pass.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use crate::cargo;

/// What `core` must not reach, by any path of dependencies.
const IMPURE: [&str; 10] = [
    "tokio",
    "kube",
    "reqwest",
    "oci-client",
    "hf-hub",
    "notify",
    "nix",
    "rustix",
    "hyper",
    "rand",
];

/// A crate that must be seen to reach some of them.
const CONTROL: &str = "headstart-transfer";

/// Calls that `core/clippy.toml` must refuse, one of each kind.
const IMPURE_CALLS: [&str; 4] = [
    "std::time::SystemTime::now()",
    "std::time::Instant::now()",
    "std::env::var(\"HOME\")",
    "std::fs::read(\"/etc/hostname\")",
];

pub(crate) fn run() -> Result<()> {
    let reached = impure_crates("headstart-core")?;
    ensure!(
        reached.is_empty(),
        "core reaches {}: decide in core, do it elsewhere",
        reached.join(", ")
    );
    ensure!(
        !impure_crates(CONTROL)?.is_empty(),
        "the dependency check sees nothing in {CONTROL} either: it is broken"
    );
    lints_refuse_impure_calls()?;
    println!("purity: core reaches none of {}", IMPURE.join(", "));
    Ok(())
}

fn impure_crates(package: &str) -> Result<Vec<String>> {
    let tree = [
        "tree",
        "--locked",
        "--edges=normal,build",
        "--prefix=none",
        "--format={p}",
    ];
    let listed = cargo::output(cargo::cargo(&tree).args(["--package", package]))?;
    let names: BTreeSet<&str> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    ensure!(
        names.contains(package),
        "cargo tree does not list {package}: the check is broken"
    );
    let reached = IMPURE.iter().filter(|name| names.contains(**name));
    Ok(reached.map(|name| (*name).to_owned()).collect())
}

/// Lints a crate of one impure call each under `core`'s own configuration.
fn lints_refuse_impure_calls() -> Result<()> {
    let control = cargo::target()?.join("purity-control");
    let source = control.join("src");
    std::fs::create_dir_all(&source)?;
    std::fs::copy(
        cargo::root().join("core/clippy.toml"),
        control.join("clippy.toml"),
    )?;
    std::fs::write(
        control.join("Cargo.toml"),
        "[package]\nname = \"purity-control\"\nedition = \"2024\"\n[workspace]\n",
    )?;
    let calls = IMPURE_CALLS.iter().enumerate();
    let functions = calls.map(|(i, call)| format!("pub fn f{i}() {{ let _ = {call}; }}\n"));
    std::fs::write(source.join("lib.rs"), functions.collect::<String>())?;
    let mut clippy = cargo::cargo(&["clippy", "--quiet", "--offline"]);
    clippy
        .current_dir(&control)
        .env("CARGO_TARGET_DIR", control.join("target"));
    let output = clippy
        .args(["--", "-D", "clippy::disallowed_methods"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let refused = said.matches("use of a disallowed method").count();
    if refused != IMPURE_CALLS.len() {
        bail!(
            "core/clippy.toml refuses {refused} of {} impure calls:\n{said}",
            IMPURE_CALLS.len()
        );
    }
    Ok(())
}
