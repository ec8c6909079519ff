//! What the command line asks for, understood: references, hosts, secrets, limits.
//!
//! A mistyped reference fails alone, as an item; anything else that is wrong fails the command
//! before anything begins.

use std::collections::BTreeSet;
use std::path::Path;

use headstart_core::model::ModelRef;
use headstart_hub::endpoint::Token;
use headstart_registry::{HostsDir, ImageRef, Keychain, Platform};
use headstart_transfer::net::{HostPolicy, HostPort};
use url::Url;

use super::ItemError;
use crate::cli::{WarmArgs, XetWhen};

/// The command line, understood.
pub(super) struct Wanted {
    pub(super) images: Vec<(String, Result<ImageRef, ItemError>)>,
    pub(super) models: Vec<(String, Result<ModelRef, ItemError>)>,
    pub(super) endpoint: Url,
    pub(super) token: Option<Token>,
    pub(super) keychain: Keychain,
    pub(super) hosts: HostsDir,
    pub(super) platform: Platform,
    pub(super) policy: HostPolicy,
    pub(super) trusted_realms: Vec<HostPort>,
}

impl Wanted {
    /// Reads the command line and the files it names.
    ///
    /// # Errors
    /// One line that names the flag, what was found and what was expected.
    pub(super) fn read(args: &WarmArgs) -> Result<Self, String> {
        if !headstart_hub::xet::IS_BUILT && args.xet == XetWhen::Always {
            return Err(
                "--xet always: this build has no Xet client, build it with `--features xet`".into(),
            );
        }
        let (hosts, mut policy) = (hosts(args.hosts_dir.as_deref())?, policy(args)?);
        hosts.allow(&mut policy);
        let mut keychain = Keychain::default();
        for path in &args.registry_configs {
            let opened = Keychain::open(path);
            keychain.extend(opened.map_err(|error| format!("--registry-config: {error}"))?);
        }
        Ok(Self {
            images: items(&args.images),
            models: items(&args.models),
            endpoint: endpoint(&args.endpoint, &mut policy)?,
            token: args.token_file.as_deref().map(token).transpose()?,
            keychain,
            hosts,
            platform: match &args.platform {
                Some(text) => {
                    let platform = text.parse();
                    platform.map_err(|error| format!("--platform: {error}"))?
                }
                None => Platform::host(),
            },
            policy,
            trusted_realms: args
                .trust_realm
                .iter()
                .map(|text| host("--trust-realm", text))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Each reference once, read.
fn items<T>(texts: &[String]) -> Vec<(String, Result<T, ItemError>)>
where
    T: std::str::FromStr,
    T::Err: std::error::Error,
{
    let mut seen = BTreeSet::new();
    let once = texts.iter().filter(|text| seen.insert(text.as_str()));
    let read = |text: &String| {
        let item = text
            .parse::<T>()
            .map_err(|error| ItemError::lasting(&error));
        (text.clone(), item)
    };
    once.map(read).collect()
}

fn host(flag: &str, text: &str) -> Result<HostPort, String> {
    let host = HostPort::parse(text);
    host.ok_or_else(|| format!("{flag} {text:?}: expected HOST or HOST:PORT"))
}

fn policy(args: &WarmArgs) -> Result<HostPolicy, String> {
    let mut policy = HostPolicy::default();
    for text in &args.allow_private {
        policy.private_hosts.insert(host("--allow-private", text)?);
    }
    for text in &args.plain_http {
        policy.trust_plain_http(host("--plain-http", text)?);
    }
    if let Some(path) = &args.ca_file {
        let pem = std::fs::read(path);
        let pem = pem.map_err(|error| format!("--ca-file {}: {error}", path.display()))?;
        policy.extra_roots_pem.push(pem);
    }
    Ok(policy)
}

fn endpoint(text: &str, policy: &mut HostPolicy) -> Result<Url, String> {
    let wrong = |problem: &str| format!("--endpoint {text:?}: {problem}");
    let endpoint = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match (endpoint.scheme(), endpoint.host_str()) {
        ("https", Some(_)) => {}
        // Whoever writes http:// means it.
        ("http", Some(name)) => policy.trust_plain_http(HostPort {
            host: name.trim_matches(['[', ']']).to_owned(),
            port: endpoint.port_or_known_default(),
        }),
        _ => return Err(wrong("expected an https URL")),
    }
    Ok(endpoint)
}

fn hosts(dir: Option<&Path>) -> Result<HostsDir, String> {
    let Some(dir) = dir else {
        return Ok(HostsDir::default());
    };
    if !dir.is_dir() {
        return Err(format!("--hosts-dir {}: no such directory", dir.display()));
    }
    HostsDir::open(dir).map_err(|error| format!("--hosts-dir {}: {error}", dir.display()))
}

fn token(path: &Path) -> Result<Token, String> {
    let wrong = |error: &dyn std::error::Error| format!("--token-file {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    text.parse().map_err(|error| wrong(&error))
}
