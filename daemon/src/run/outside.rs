//! What is outside of the cluster, from configuration: the provider, and where items are resolved.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use headstart_clouds::call::Patience;
use headstart_hub::endpoint::Hub;
use headstart_provider::external::External;
use headstart_provider::kwok::Kwok;
use headstart_provider::{Offers, Provider, Site};
use headstart_registry::{HostsDir, Keychain, Platform, Registries};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use kube::Client;
use url::Url;

use super::config::ProviderKind;
use super::mind::Resolve;
use crate::catalog;
use crate::catalog::choose::{CatalogArgs, Hint, market};
use crate::resolve::{Origins, Resolved, Resolver};

/// Hosts outside of the cluster, and what they are shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutsideArgs {
    /// File with the token that an external provider is shown
    #[arg(
        long,
        env = "HEADSTART_PROVIDER_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) provider_token_file: Option<PathBuf>,
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
    /// Hosts that may have a private address
    #[arg(
        long,
        env = "HEADSTART_ALLOW_PRIVATE",
        value_delimiter = ',',
        value_name = "HOST[:PORT]"
    )]
    pub(crate) allow_private: Vec<String>,
    /// Hosts that are spoken to in plain HTTP and may be private
    #[arg(
        long,
        env = "HEADSTART_PLAIN_HTTP",
        value_delimiter = ',',
        value_name = "HOST[:PORT]"
    )]
    pub(crate) plain_http: Vec<String>,
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Certificate authorities to trust besides the system's
    #[arg(long, env = "HEADSTART_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// How long a call to a cloud is gone on with, within a round's limit of one.
const PATIENCE: Patience = Patience {
    tries: 4,
    total: Duration::from_secs(20),
};

/// Where nodes come from, nowhere in companion mode; and what resolves items.
pub(super) fn open(
    args: &OutsideArgs,
    kind: &ProviderKind,
    cluster: &str,
    client: &Client,
) -> Result<(Option<Arc<dyn Provider>>, Resolver)> {
    let host = |text: &String| {
        HostPort::parse(text).with_context(|| format!("{text:?} is not HOST or HOST:PORT"))
    };
    let mut policy = HostPolicy::default();
    for named in &args.allow_private {
        policy.private_hosts.insert(host(named)?);
    }
    for named in &args.plain_http {
        policy.trust_plain_http(host(named)?);
    }
    // A person who wrote an address named its host.
    trust(&mut policy, &args.hub_endpoint);
    if let ProviderKind::External(url) = kind {
        trust(&mut policy, url);
    }
    if let Some(path) = &args.ca_file {
        let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        policy.extra_roots_pem.push(pem);
    }
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
    let provider: Option<Arc<dyn Provider>> = match kind {
        ProviderKind::None => None,
        ProviderKind::External(url) => {
            let token = text(args.provider_token_file.as_ref())?;
            let site = Site {
                cluster: cluster.to_owned(),
                http: http.clone(),
                patience: PATIENCE,
                catalog: Offers::default(),
            };
            Some(Arc::new(External::new(
                site,
                url.clone(),
                token,
                read_offers,
            )))
        }
        ProviderKind::Kwok => {
            let market = market(&args.catalog, &Hint::default());
            let market = market.map_err(|problems| anyhow::anyhow!(problems.join("\n")))?;
            Some(Arc::new(Kwok::new(client.clone(), market.into())))
        }
    };
    let resolver = Resolver::new(Origins {
        http: http.clone(),
        hub: Hub::new(args.hub_endpoint.clone(), token),
        registries: Registries::new(http, hosts, logins),
        platform: Platform::host(),
    });
    Ok((provider, resolver))
}

impl Resolve for Resolver {
    fn look_up(&self, item: &headstart_core::cache::Item) -> Option<Resolved> {
        Self::look_up(self, item)
    }

    fn is_asking(&self, item: &headstart_core::cache::Item) -> bool {
        Self::is_asking(self, item)
    }
}

fn read_offers(table: &[u8]) -> Result<Offers, String> {
    Ok(catalog::of_rows("offers.csv", table)?.into())
}

fn trust(policy: &mut HostPolicy, url: &Url) {
    let Some(host) = url.host_str().and_then(HostPort::parse) else {
        return;
    };
    let host = HostPort {
        port: url.port_or_known_default(),
        ..host
    };
    match url.scheme() {
        "http" => policy.trust_plain_http(host),
        _ => drop(policy.private_hosts.insert(host)),
    }
}

fn text(path: Option<&PathBuf>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}
