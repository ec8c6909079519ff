//! What may be depended on: licences, where crates come from, and crates that are banned.
//!
//! Deliberately absent: advisories. Their database is fetched over the network, so `cargo deny
//! check advisories` belongs to a scheduled job, not to a test that must pass offline.

use anyhow::{Context, Result, ensure};
use spdx::{Expression, LicenseReq};

use crate::cargo;

/// Licences that Apache-2.0 software may link.
const LICENCES: [&str; 11] = [
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "Unicode-3.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

/// Crates that are not wanted, and why.
const BANNED: [(&str, &str); 4] = [
    (
        "openssl-sys",
        "TLS is rustls, so that a static binary needs no system library",
    ),
    (
        "native-tls",
        "TLS is rustls, so that a static binary needs no system library",
    ),
    (
        "aws-lc-sys",
        "the crypto provider is ring: aws-lc needs cmake and triples the build",
    ),
    (
        "aws-sdk-ec2",
        "takes 8 GB of memory to build; clouds are thin REST clients",
    ),
];

/// Where crates may come from.
const SOURCE: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(crate) fn run() -> Result<()> {
    let metadata = cargo::metadata(&[])?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let used = used(&metadata)?;
    let mut wrong = Vec::new();
    for package in packages
        .iter()
        .filter(|package| used.contains(&package["id"].as_str()))
    {
        wrong.extend(faults(package));
    }
    ensure!(!used.is_empty(), "no package is used: the check is broken");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("deny: {} packages, all allowed", used.len());
    Ok(())
}

/// Ids of the packages that a build of the workspace uses.
fn used(metadata: &serde_json::Value) -> Result<Vec<Option<&str>>> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let nodes = nodes.context("cargo metadata resolves nothing")?;
    Ok(nodes.iter().map(|node| node["id"].as_str()).collect())
}

fn faults(package: &serde_json::Value) -> Vec<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let mut faults = Vec::new();
    if let Some((_, why)) = BANNED.iter().find(|(banned, _)| *banned == name) {
        faults.push(format!("{name} is banned: {why}"));
    }
    if let Some(source) = package["source"].as_str()
        && source != SOURCE
    {
        faults.push(format!(
            "{name} comes from {source}, not from the crate registry"
        ));
    }
    let licence = package["license"].as_str().unwrap_or_default();
    if !allowed(licence) {
        faults.push(format!(
            "{name} has licence {licence:?}, which is not on the list"
        ));
    }
    faults
}

/// Whether some way to satisfy the expression uses allowed licences only.
fn allowed(licence: &str) -> bool {
    let is_allowed = |required: &LicenseReq| {
        let id = required.license.id();
        id.is_some_and(|id| LICENCES.contains(&id.name))
    };
    // `MIT/Apache-2.0` is how old crates write OR.
    let parsed = Expression::parse(&licence.replace('/', " OR "));
    parsed.is_ok_and(|expression| expression.evaluate(is_allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_allowed_when_one_way_to_read_it_is() {
        assert!(allowed("MIT OR GPL-3.0-only"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("Apache-2.0 WITH LLVM-exception"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!allowed("GPL-3.0-only"));
        assert!(!allowed("MIT AND GPL-3.0-only"));
        assert!(!allowed(""));
    }

    #[test]
    fn a_crate_from_elsewhere_under_another_licence_and_banned_has_three_faults() {
        let package = serde_json::json!({
            "name": "openssl-sys", "license": "GPL-3.0-only", "source": "git+https://example.org",
        });
        assert_eq!(faults(&package).len(), 3);
        let ours = serde_json::json!({"name": "headstart-core", "license": "Apache-2.0"});
        assert!(faults(&ours).is_empty());
    }
}
