//! Where bytes come from and where they go, as the command line says it, understood: hosts,
//! secrets, the runtime. What is wrong fails the command before anything begins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headstart_containerd::Depth;
use headstart_hub::endpoint::{Patience, Token};
use headstart_registry::{HostsDir, Keychain, Platform};
use headstart_transfer::net::{HostPolicy, HostPort};
use url::Url;

use crate::cli::{ReachArgs, XetWhen};

/// Where bytes come from and go, understood.
pub(crate) struct Reach {
    pub(crate) endpoint: Url,
    pub(crate) token: Option<Token>,
    pub(crate) patience: Patience,
    pub(crate) keychain: Keychain,
    pub(crate) hosts: HostsDir,
    pub(crate) platform: Platform,
    pub(crate) policy: HostPolicy,
    pub(crate) trusted_realms: Vec<HostPort>,
    pub(crate) containerd: Option<PathBuf>,
    pub(crate) depth: Option<Depth>,
    pub(crate) adopt: Vec<PathBuf>,
    pub(crate) xet: XetWhen,
}

impl Reach {
    /// Reads the command line and the files it names.
    ///
    /// # Errors
    /// One line that names the flag, what was found and what was expected.
    pub(crate) fn read(args: &ReachArgs) -> Result<Self, String> {
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
            endpoint: endpoint(&args.endpoint, &mut policy)?,
            token: args.token_file.as_deref().map(token).transpose()?,
            patience: patience(args),
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
            containerd: args.containerd.clone(),
            depth: args.depth(),
            adopt: args.adopt.clone(),
            xet: args.xet,
        })
    }
}

/// What the Hub may make us wait: its own measure, unless less was asked for.
fn patience(args: &ReachArgs) -> Patience {
    let default = Patience::default();
    let most = Duration::from_secs(args.patience);
    Patience {
        trouble: default.trouble.min(most),
        told: default.told.min(most.max(Duration::from_secs(1))),
        ..default
    }
}

fn host(flag: &str, text: &str) -> Result<HostPort, String> {
    let host = HostPort::parse(text);
    host.ok_or_else(|| format!("{flag} {text:?}: expected HOST or HOST:PORT"))
}

fn policy(args: &ReachArgs) -> Result<HostPolicy, String> {
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
