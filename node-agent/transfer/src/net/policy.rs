//! Which hosts may be spoken to, and how. Data only: nothing here opens a socket.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use url::Url;

use super::{NetError, literal_address};

/// A host, and a port where only that one is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// Host name or address, lower case, without brackets.
    pub host: String,
    /// Any port when absent.
    pub port: Option<u16>,
}

impl HostPort {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(&format!("http://{text}/")).ok()?;
        let bare = url.host_str()?.trim_matches(['[', ']']).to_owned();
        // `Url` hides port 80 as the default of http.
        let port = text
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok());
        let rest_is_plain = url.path() == "/" && url.query().is_none() && url.username().is_empty();
        rest_is_plain.then_some(Self { host: bare, port })
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        self.host == host && (self.port.is_none() || port.is_none() || self.port == port)
    }
}

/// Which hosts may be spoken to, and how. The default speaks HTTPS to public addresses only.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    /// Hosts that may resolve to private addresses: an in-cluster registry, a proxy.
    pub private_hosts: BTreeSet<HostPort>,
    /// Networks that may be dialled although private.
    pub private_networks: Vec<IpNet>,
    /// Hosts that may be spoken to in plain HTTP.
    pub plain_http: BTreeSet<HostPort>,
    /// Certificate authorities trusted besides the system's, as PEM.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Whether requests may go through a proxy.
    pub proxy: ProxyRule,
}

/// Whether requests may go through a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyRule {
    /// Through the one that the environment names.
    #[default]
    System,
    /// Never: what answers on this machine alone must not be asked by somebody else for it.
    Never,
}

impl HostPolicy {
    /// Allows `host` to be private and to speak plain HTTP: what a registry or Hub that a person
    /// named on the command line with `http://` gets.
    pub fn trust_plain_http(&mut self, host: HostPort) {
        self.private_hosts.insert(host.clone());
        self.plain_http.insert(host);
    }

    /// Whether `address`, which `host` resolved to, may be dialled.
    pub fn allows_address(&self, host: &str, address: IpAddr) -> bool {
        !is_private(address)
            || self
                .private_hosts
                .iter()
                .any(|known| known.covers(host, None))
            || self
                .private_networks
                .iter()
                .any(|net| net.contains(&canonical(address)))
    }

    /// Refuses URLs that no connection should be opened for.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), NetError> {
        let shown = || NetError::shown(url);
        let host = url
            .host_str()
            .ok_or_else(|| NetError::InvalidUrl { url: shown() })?;
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        let port = url.port_or_known_default();
        match url.scheme() {
            "https" => {}
            "http"
                if self
                    .plain_http
                    .iter()
                    .any(|known| known.covers(&host, port)) => {}
            "http" => return Err(NetError::PlainHttp { host }),
            _ => return Err(NetError::InvalidUrl { url: shown() }),
        }
        match literal_address(url) {
            Some(address)
                if is_private(address)
                    && !self
                        .private_hosts
                        .iter()
                        .any(|known| known.covers(&host, port))
                    && !self
                        .private_networks
                        .iter()
                        .any(|n| n.contains(&canonical(address))) =>
            {
                Err(NetError::PrivateAddress { host, address })
            }
            _ => Ok(()),
        }
    }

    /// The TLS side of the policy: system roots plus the configured ones, TLS 1.2 and 1.3.
    pub(super) fn tls(&self) -> Result<rustls::ClientConfig, NetError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut extra = Vec::new();
        for pem in &self.extra_roots_pem {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                extra.push(certificate.map_err(|_| NetError::Roots)?);
            }
        }
        let verifier =
            rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider.clone())
                .map_err(|source| NetError::TlsSetup { source })?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| NetError::TlsSetup { source })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// An IPv4 address hidden in an IPv6 one is judged as the IPv4 address it reaches.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                IpAddr::from([a, b, c, d])
            }
            _ => v6.to_canonical(),
        },
        v4 => v4,
    }
}

/// Addresses that are no part of the public internet (IANA special-purpose registries).
pub(super) fn is_private(address: IpAddr) -> bool {
    match canonical(address) {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (18..20).contains(&b))
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || (v6.segments()[0] & 0xfe00) == 0xfc00
                || (v6.segments()[0] & 0xffc0) == 0xfe80
        }
    }
}
