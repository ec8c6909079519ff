//! Which provider is asked, from flags that `run` and `doctor` share.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use headstart_clouds::call::Patience;
use headstart_provider::aws::{self, Aws};
use headstart_provider::azure::{self, Azure};
use headstart_provider::external::External;
use headstart_provider::gcp::{self, Gcp};
use headstart_provider::kwok::Kwok;
use headstart_provider::{Offers, Provider, Site};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use kube::Client;
use serde::de::DeserializeOwned;
use url::Url;

use crate::catalog::choose::{CatalogArgs, Hint, market};
use crate::catalog::{self, Cloud};

/// Where nodes come from, and how it is reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProviderArgs {
    /// Name of the cluster; instances carry it
    #[arg(long, env = "HEADSTART_CLUSTER_NAME", default_value = "default")]
    pub(crate) cluster_name: String,
    /// Where nodes come from: `none` (somebody else buys them), `aws`, `gcp`, `azure`, `kwok` (nodes
    /// that are only objects) or `external=URL`
    #[arg(long, env = "HEADSTART_PROVIDER", default_value = "none")]
    pub(crate) provider: ProviderKind,
    /// What the provider of a cloud is told of the account and the cluster, YAML or JSON
    #[arg(long, env = "HEADSTART_PROVIDER_CONFIG", value_name = "FILE")]
    pub(crate) provider_config: Option<PathBuf>,
    /// File with the token that an external provider is shown
    #[arg(
        long,
        env = "HEADSTART_PROVIDER_TOKEN_FILE",
        hide_env_values = true,
        value_name = "FILE"
    )]
    pub(crate) provider_token_file: Option<PathBuf>,
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

/// Where nodes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProviderKind {
    /// Somebody else buys them: companion mode.
    None,
    /// Nodes that are only objects.
    Kwok,
    /// Nodes of EKS.
    Aws,
    /// Nodes of GKE.
    Gcp,
    /// Nodes of AKS.
    Azure,
    /// A program that answers over HTTP.
    External(Url),
}

impl FromStr for ProviderKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            None if text == "none" => Ok(Self::None),
            None if text == "kwok" => Ok(Self::Kwok),
            None if text == "aws" => Ok(Self::Aws),
            None if text == "gcp" => Ok(Self::Gcp),
            None if text == "azure" => Ok(Self::Azure),
            Some(("external", url)) => match Url::parse(url) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self::External(url)),
                Ok(url) => Err(format!(
                    "{}: is no scheme a provider is asked by; write external=https://host:port",
                    url.scheme()
                )),
                Err(error) => Err(format!("{url:?} is no URL: {error}")),
            },
            _ => Err(format!(
                "{text:?} is no provider; write none, aws, gcp, azure, kwok or external=URL"
            )),
        }
    }
}

/// How long a call to a cloud is gone on with, within a round's limit of one.
const PATIENCE: Patience = Patience {
    tries: 4,
    total: Duration::from_secs(20),
};

impl ProviderArgs {
    /// Which hosts may be talked to and how, besides public ones over TLS.
    ///
    /// # Errors
    /// What cannot be read.
    pub(crate) fn policy(&self) -> Result<HostPolicy> {
        let host = |text: &String| {
            HostPort::parse(text).with_context(|| format!("{text:?} is not HOST or HOST:PORT"))
        };
        let mut policy = HostPolicy::default();
        for named in &self.allow_private {
            policy.private_hosts.insert(host(named)?);
        }
        for named in &self.plain_http {
            policy.trust_plain_http(host(named)?);
        }
        if let Some(path) = &self.ca_file {
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            policy.extra_roots_pem.push(pem);
        }
        Ok(policy)
    }

    /// The provider; none in companion mode. `client` is for nodes that are only objects, and
    /// `variable` is the environment, in which clouds tell their programs who they are.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub(crate) fn open(
        &self,
        client: Option<&Client>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Arc<dyn Provider>>> {
        let mut policy = self.policy()?;
        Ok(match &self.provider {
            ProviderKind::None => None,
            ProviderKind::External(url) => {
                // A person who wrote an address named its host.
                trust(&mut policy, url);
                let token = text(self.provider_token_file.as_ref())?;
                let site = self.site(policy, Offers::default())?;
                Some(Arc::new(External::new(
                    site,
                    url.clone(),
                    token,
                    read_offers,
                )))
            }
            ProviderKind::Kwok => {
                let client =
                    client.context("no cluster is reached; its nodes are objects of one")?;
                Some(Arc::new(Kwok::new(client.clone(), self.market(None)?)))
            }
            ProviderKind::Aws => {
                let config: aws::Config = self.config()?;
                config.check()?;
                config.trust(&mut policy);
                let of = headstart_clouds::aws::credentials::Source::of;
                let source = of(variable, &config.region)?;
                let market = self.market(Some((Cloud::Aws, &config.region)))?;
                let site = self.site(policy, market)?;
                Some(Arc::new(Aws::open(config, site, source)?))
            }
            ProviderKind::Gcp => {
                let config: gcp::Config = self.config()?;
                let source = headstart_clouds::gcp::token::Source::of(variable)?;
                for address in Gcp::addresses(&config, &source) {
                    trust(&mut policy, &address);
                }
                let market = self.market(Some((Cloud::Gcp, &config.region()?)))?;
                let site = self.site(policy, market)?;
                Some(Arc::new(Gcp::open(config, site, source)?))
            }
            ProviderKind::Azure => {
                let config: azure::Config = self.config()?;
                let source = headstart_clouds::azure::token::Source::of(variable)?;
                for address in Azure::addresses(&config, &source) {
                    trust(&mut policy, &address);
                }
                let market = self.market(Some((Cloud::Azure, &config.location)))?;
                let site = self.site(policy, market)?;
                Some(Arc::new(Azure::open(config, site, source)?))
            }
        })
    }

    fn site(&self, policy: HostPolicy, catalog: Offers) -> Result<Site> {
        Ok(Site {
            cluster: self.cluster_name.clone(),
            http: Http::new(policy)?,
            patience: PATIENCE,
            catalog,
        })
    }

    /// What `--provider-config` says.
    fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.provider_config.as_ref();
        let path = path.context("this provider needs --provider-config FILE")?;
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let read = serde_saphyr::from_slice(&bytes);
        read.map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    }

    /// What the catalog knows; of a cloud's region, unless flags name another.
    fn market(&self, of: Option<(Cloud, &str)>) -> Result<Offers> {
        let mut catalog = self.catalog.clone();
        if let Some((cloud, region)) = of {
            catalog.cloud.get_or_insert(cloud);
            catalog.region.get_or_insert_with(|| region.to_owned());
        }
        let market = market(&catalog, &Hint::default());
        let market = market.map_err(|problems| anyhow::anyhow!(problems.join("\n")))?;
        Ok(market.into())
    }
}

fn read_offers(table: &[u8]) -> Result<Offers, String> {
    Ok(catalog::of_rows("offers.csv", table)?.into())
}

/// Lets a host that a person named be private, and spoken to as the address says.
pub(crate) fn trust(policy: &mut HostPolicy, url: &Url) {
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

/// What a file says, without the space around it.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn text(path: Option<&PathBuf>) -> Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Some(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_one_of_few_words() {
        let read = |text: &str| text.parse::<ProviderKind>();
        assert_eq!(read("none"), Ok(ProviderKind::None));
        assert_eq!(read("kwok"), Ok(ProviderKind::Kwok));
        assert!(matches!(
            read("external=http://127.0.0.1:8"),
            Ok(ProviderKind::External(_))
        ));
        for wrong in [
            "amazon",
            "external",
            "external=ftp://a",
            "external=x",
            "kwok=1",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
