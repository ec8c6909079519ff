//! Where items are resolved, from configuration.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use headstart_hub::endpoint::Hub;
use headstart_registry::{HostsDir, Keychain, Platform, Registries};
use headstart_transfer::net::{HostPolicy, Http};
use url::Url;

use super::mind::Resolve;
use crate::provider::{text, trust};
use crate::resolve::{Origins, Resolved, Resolver};

/// Hosts outside of the cluster, and what they are shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutsideArgs {
    /// The Hugging Face Hub
    #[arg(
        long,
        env = "HEADSTART_HUB_ENDPOINT",
        default_value = "https://huggingface.co"
    )]
    pub(crate) hub_endpoint: Url,
    /// File with a token of the Hub: gated models are resolved with it
    #[arg(long, env = "HEADSTART_HUB_TOKEN_FILE", value_name = "FILE")]
    pub(crate) hub_token_file: Option<PathBuf>,
    /// Directory of mirrors, laid out as containerd's certs.d
    #[arg(long, env = "HEADSTART_REGISTRY_HOSTS", value_name = "DIR")]
    pub(crate) registry_hosts: Option<PathBuf>,
    /// Logins of registries, as Docker's config.json
    #[arg(long, env = "HEADSTART_REGISTRY_LOGINS", value_name = "FILE")]
    pub(crate) registry_logins: Option<PathBuf>,
}

/// What resolves items. `policy` is widened by what its configuration names.
pub(super) fn open(args: &OutsideArgs, mut policy: HostPolicy) -> Result<Resolver> {
    // A person who wrote an address named its host.
    trust(&mut policy, &args.hub_endpoint);
    let hosts = match &args.registry_hosts {
        Some(path) => HostsDir::open(path).with_context(|| format!("read {}", path.display()))?,
        None => HostsDir::default(),
    };
    hosts.allow(&mut policy);
    let logins = match &args.registry_logins {
        Some(path) => Keychain::open(path)?,
        None => Keychain::default(),
    };
    let token = match text(args.hub_token_file.as_ref())? {
        Some(text) => Some(text.parse().context("the Hub's token")?),
        None => None,
    };
    let http = Http::new(policy)?;
    Ok(Resolver::new(Origins {
        http: http.clone(),
        hub: Hub::new(args.hub_endpoint.clone(), token),
        registries: Registries::new(http, hosts, logins),
        platform: Platform::host(),
    }))
}

impl Resolve for Resolver {
    fn look_up(&self, item: &headstart_core::cache::Item) -> Option<Resolved> {
        Self::look_up(self, item)
    }

    fn is_asking(&self, item: &headstart_core::cache::Item) -> bool {
        Self::is_asking(self, item)
    }
}
