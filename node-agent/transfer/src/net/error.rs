//! Why no response came. A URL in an error never carries its query: signatures live there.

use std::net::IpAddr;

use url::Url;

use super::source_of;

/// Why a request got no response, or its body broke off.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The policy refuses private addresses.
    #[error(
        "{host} is at the private address {address}, which the host policy refuses: allow it with --allow-private {host} if it is meant"
    )]
    PrivateAddress {
        /// Host asked for.
        host: String,
        /// Where it would have led.
        address: IpAddr,
    },
    /// The policy refuses plain HTTP.
    #[error(
        "{host} would be spoken to in plain HTTP: allow it with --plain-http {host} if it is meant"
    )]
    PlainHttp {
        /// Host asked for.
        host: String,
    },
    /// A URL without host or with a scheme other than http and https.
    #[error("{url} is not a URL to fetch from")]
    InvalidUrl {
        /// The URL, without query.
        url: String,
    },
    /// A redirect without usable target.
    #[error("{url} redirects to nowhere that can be followed")]
    InvalidRedirect {
        /// Who redirects.
        url: String,
    },
    /// More redirects than allowed.
    #[error("more than {} redirects, the last to {url}", super::MAX_REDIRECTS)]
    TooManyRedirects {
        /// The hop not taken.
        url: String,
    },
    /// A redirect to where the request has been.
    #[error("redirects run in a loop through {url}")]
    RedirectLoop {
        /// The hop seen twice.
        url: String,
    },
    /// A redirect from https to http.
    #[error("refused a redirect from https to {to}")]
    Downgrade {
        /// Where to.
        to: String,
    },
    /// The name does not resolve.
    #[error("{host} does not resolve (check its spelling, and the resolver of this machine)")]
    Dns {
        /// Host asked for.
        host: String,
        /// The resolver's word.
        source: std::io::Error,
    },
    /// No connection.
    #[error("no connection to {url}")]
    Connect {
        /// URL, without query.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// The TLS handshake or stream failed.
    #[error("TLS with {url} failed: {reason}")]
    Tls {
        /// URL, without query.
        url: String,
        /// What TLS said.
        reason: String,
    },
    /// Nothing came in time.
    #[error("{url} sent no {what} in time (check that it is up, and the way there)")]
    Timeout {
        /// URL, without query.
        url: String,
        /// What was awaited.
        what: &'static str,
    },
    /// The exchange broke off.
    #[error("the exchange with {url} broke off")]
    Broken {
        /// URL, without query.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// A body larger than anything sensible.
    #[error("{url} sent more than the {cap} bytes allowed here")]
    BodyTooLarge {
        /// URL, without query.
        url: String,
        /// The cap in bytes.
        cap: usize,
    },
    /// A body that is not the JSON expected.
    #[error("{url} did not send the JSON expected")]
    Json {
        /// URL, without query.
        url: String,
        /// The parser's word.
        source: serde_json::Error,
    },
    /// The client could not be built.
    #[error("cannot build an HTTP client")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
    /// Extra roots that are no PEM certificates.
    #[error("the extra certificate authorities are not PEM certificates")]
    Roots,
    /// The TLS side could not be built.
    #[error("cannot set up TLS")]
    TlsSetup {
        /// Why.
        source: rustls::Error,
    },
}

impl NetError {
    /// Whether another try could end otherwise without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Dns { .. } | Self::Connect { .. } | Self::Timeout { .. } | Self::Broken { .. }
        )
    }

    pub(super) fn timeout(url: &Url, what: &'static str) -> Self {
        Self::Timeout {
            url: Self::shown(url),
            what,
        }
    }

    /// A URL as it may be shown: without user, password, query and fragment.
    pub fn shown(url: &Url) -> String {
        let mut url = url.clone();
        url.set_query(None);
        url.set_fragment(None);
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    pub(super) fn from_reqwest(url: &Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        let shown = Self::shown(url);
        if let Some(ours) = source_of::<NetError>(&error) {
            match ours {
                Self::PrivateAddress { host, address } => {
                    return Self::PrivateAddress {
                        host: host.clone(),
                        address: *address,
                    };
                }
                Self::Dns { host, source } => {
                    let source = std::io::Error::new(source.kind(), source.to_string());
                    return Self::Dns {
                        host: host.clone(),
                        source,
                    };
                }
                _ => {}
            }
        }
        if let Some(tls) = source_of::<rustls::Error>(&error) {
            return Self::Tls {
                url: shown,
                reason: tls.to_string(),
            };
        }
        match () {
            () if error.is_timeout() => Self::Timeout {
                url: shown,
                what: "handshake",
            },
            () if error.is_connect() => Self::Connect {
                url: shown,
                source: error,
            },
            () => Self::Broken {
                url: shown,
                source: error,
            },
        }
    }
}
