//! HTTP under a host policy: the only door to the network.
//!
//! Three rules hold for every request, whoever makes it:
//! - a connection to a private address (loopback, link-local, RFC 1918, unique-local, shared
//!   address space) is refused on the *resolved* address unless the policy names the host or the
//!   network, so no redirect, realm or rebinding resolver reaches a metadata service;
//! - plain HTTP is spoken only to hosts that the policy names;
//! - a credential travels to the origin it was made for and nowhere else: it is dropped on any
//!   redirect that leaves that origin.
//!
//! Deliberately absent: retries (the engine decides), decompression (bodies are verified as they
//! are on the wire), cookies.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, StatusCode};
use url::{Host, Url};

pub use self::error::NetError;
pub use self::policy::{HostPolicy, HostPort, ProxyRule};
pub use self::tally::{AnswerClass, Tally};

mod error;
mod policy;
mod tally;

/// Redirects followed before giving up.
pub const MAX_REDIRECTS: usize = 5;

/// How long a TCP and TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept for the next request of its lane.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that an HTTP/2 peer may send ahead of their reader: what a stopped one holds in memory,
/// and 70 MB/s per connection over 30 ms.
const WINDOW: u32 = 2 << 20;

/// An origin: scheme, host and port. Credentials are bound to one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of `url`; none for URLs without a host.
    pub fn of(url: &Url) -> Option<Self> {
        Some(Self {
            scheme: url.scheme().to_owned(),
            host: url.host_str()?.to_ascii_lowercase(),
            port: url.port_or_known_default()?,
        })
    }
}

/// Secret headers and the one origin they may be sent to.
#[derive(Clone)]
pub struct Credential {
    origin: Origin,
    headers: HeaderMap,
}

impl Credential {
    /// An `Authorization` header for `origin`; none if `value` is not a header value.
    pub fn new(origin: Origin, value: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(value).ok()?;
        value.set_sensitive(true);
        let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
        Some(Self { origin, headers })
    }

    /// Headers of any name for `origin`: what an administrator configured for one host.
    pub fn headers(origin: Origin, headers: HeaderMap) -> Self {
        Self { origin, headers }
    }

    /// `Authorization: Bearer <token>` for `origin`.
    pub fn bearer(origin: Origin, token: &str) -> Option<Self> {
        Self::new(origin, &format!("Bearer {token}"))
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Headers that are no secret.
    pub headers: HeaderMap,
    /// The secret, sent only to its origin.
    pub credential: Option<Credential>,
    /// Body, if any.
    pub body: Option<Bytes>,
    /// How long the response headers may take, each hop.
    pub header_timeout: Duration,
}

impl Request {
    /// A GET without headers, whose response headers may take 30 s.
    pub fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            credential: None,
            body: None,
            header_timeout: Duration::from_secs(30),
        }
    }

    /// A HEAD.
    pub fn head(url: Url) -> Self {
        Self {
            method: Method::HEAD,
            ..Self::get(url)
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// The same with a credential.
    #[must_use]
    pub fn credential(mut self, credential: Option<Credential>) -> Self {
        self.credential = credential;
        self
    }
}

/// A hop that was followed: what a redirect said.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Where the request went.
    pub url: Url,
    /// Its status, 3xx.
    pub status: StatusCode,
    /// Its headers. The Hub puts size, digest and commit of a large file here.
    pub headers: HeaderMap,
}

/// A response whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    /// Status of the last hop.
    pub status: StatusCode,
    /// Headers of the last hop.
    pub headers: HeaderMap,
    /// Where the last hop was.
    pub url: Url,
    /// The redirects followed on the way, first first.
    pub hops: Vec<Hop>,
    body: reqwest::Response,
}

impl Response {
    /// The next piece of the body, as it came; none at its end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, NetError> {
        self.body
            .chunk()
            .await
            .map_err(|error| NetError::from_reqwest(&self.url, error))
    }

    /// The whole body, refused beyond `cap` bytes, each piece within 30 s.
    pub async fn bytes(mut self, cap: usize) -> Result<Bytes, NetError> {
        let mut whole = BytesMut::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.chunk()).await;
            let Some(chunk) = next.map_err(|_| NetError::timeout(&self.url, "body"))?? else {
                return Ok(whole.freeze());
            };
            if whole.len() + chunk.len() > cap {
                return Err(NetError::BodyTooLarge {
                    url: NetError::shown(&self.url),
                    cap,
                });
            }
            whole.extend_from_slice(&chunk);
        }
    }

    /// The body as JSON, refused beyond `cap` bytes.
    pub async fn json<T: serde::de::DeserializeOwned>(self, cap: usize) -> Result<T, NetError> {
        let url = NetError::shown(&self.url);
        let body = self.bytes(cap).await?;
        serde_json::from_slice(&body).map_err(|source| NetError::Json { url, source })
    }

    /// A header of the last hop as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header of the last hop, else of the nearest redirect before it that has it.
    pub fn header_of_any_hop(&self, name: &str) -> Option<&str> {
        let earlier = self.hops.iter().rev().map(|hop| &hop.headers);
        let mut found = std::iter::once(&self.headers)
            .chain(earlier)
            .filter_map(|h| h.get(name));
        found.next()?.to_str().ok()
    }
}

/// An HTTP client under a policy. Clones share their connections; [`Http::lane`] makes one that
/// does not.
#[derive(Clone)]
pub struct Http {
    policy: Arc<HostPolicy>,
    tls: Arc<rustls::ClientConfig>,
    client: reqwest::Client,
    tally: Arc<Tally>,
}

impl Http {
    /// A client under `policy`, speaking HTTP/1.1 and HTTP/2.
    pub fn new(policy: HostPolicy) -> Result<Self, NetError> {
        let policy = Arc::new(policy);
        let tls = Arc::new(policy.tls()?);
        let client = client(&policy, &tls)?;
        Ok(Self {
            policy,
            tls,
            client,
            tally: Arc::default(),
        })
    }

    /// The same policy with connections of its own. One lane carries one request at a time, so
    /// the number of lanes is the number of connections, over HTTP/2 too.
    pub fn lane(&self) -> Result<Self, NetError> {
        let client = client(&self.policy, &self.tls)?;
        Ok(Self {
            policy: self.policy.clone(),
            tls: self.tls.clone(),
            client,
            tally: self.tally.clone(),
        })
    }

    /// The policy this client obeys.
    pub fn policy(&self) -> &HostPolicy {
        &self.policy
    }

    /// What has been asked by this client, its clones and its lanes.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Sends `request`, following at most [`MAX_REDIRECTS`] redirects.
    ///
    /// # Errors
    /// Whatever keeps a response from arriving; a response of any status is not an error.
    pub async fn send(&self, mut request: Request) -> Result<Response, NetError> {
        let mut hops: Vec<Hop> = Vec::new();
        loop {
            let mut response = self.send_once(&request).await?;
            let Some(next) = redirect_target(&response)? else {
                response.hops = hops;
                return Ok(response);
            };
            let seen = hops.iter().any(|hop| hop.url == next) || next == request.url;
            if seen {
                return Err(NetError::RedirectLoop {
                    url: NetError::shown(&next),
                });
            }
            if hops.len() == MAX_REDIRECTS {
                return Err(NetError::TooManyRedirects {
                    url: NetError::shown(&next),
                });
            }
            if request.url.scheme() == "https" && next.scheme() != "https" {
                return Err(NetError::Downgrade {
                    to: NetError::shown(&next),
                });
            }
            let (status, headers) = (response.status, response.headers);
            hops.push(Hop {
                url: std::mem::replace(&mut request.url, next),
                status,
                headers,
            });
            if status == StatusCode::SEE_OTHER {
                request.method = Method::GET;
                request.body = None;
            }
        }
    }

    /// Sends `request` and returns whatever comes, redirects included.
    pub async fn send_once(&self, request: &Request) -> Result<Response, NetError> {
        self.policy.check_url(&request.url)?;
        self.tally.asked();
        let answered = self.ask(request).await;
        let status = answered.as_ref().ok().map(|response| response.status);
        self.tally.answered(status);
        answered
    }

    async fn ask(&self, request: &Request) -> Result<Response, NetError> {
        let mut outgoing = self
            .client
            .request(request.method.clone(), request.url.clone());
        outgoing = outgoing.headers(request.headers.clone());
        if let Some(credential) = &request.credential
            && Origin::of(&request.url).as_ref() == Some(&credential.origin)
        {
            outgoing = outgoing.headers(credential.headers.clone());
        }
        if let Some(body) = &request.body {
            outgoing = outgoing.body(body.clone());
        }
        let sent = tokio::time::timeout(request.header_timeout, outgoing.send()).await;
        let body = sent
            .map_err(|_| NetError::timeout(&request.url, "response headers"))?
            .map_err(|error| NetError::from_reqwest(&request.url, error))?;
        Ok(Response {
            status: body.status(),
            headers: body.headers().clone(),
            url: request.url.clone(),
            hops: Vec::new(),
            body,
        })
    }
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

fn redirect_target(response: &Response) -> Result<Option<Url>, NetError> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let invalid = || NetError::InvalidRedirect {
        url: NetError::shown(&response.url),
    };
    let location = response
        .headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let next = response
        .url
        .join(location.ok_or_else(invalid)?)
        .map_err(|_| invalid())?;
    match next.scheme() {
        "http" | "https" if next.username().is_empty() && next.password().is_none() => {
            Ok(Some(next))
        }
        _ => Err(invalid()),
    }
}

fn client(
    policy: &Arc<HostPolicy>,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<reqwest::Client, NetError> {
    let mut headers = HeaderMap::new();
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("headstart/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = match policy.proxy {
        ProxyRule::System => reqwest::Client::builder(),
        ProxyRule::Never => reqwest::Client::builder().no_proxy(),
    };
    builder
        .default_headers(headers)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(1)
        .tcp_nodelay(true)
        .http2_adaptive_window(false)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(WINDOW)
        .tls_backend_preconfigured(tls.as_ref().clone())
        .dns_resolver(Arc::new(PolicyResolver(policy.clone())))
        .build()
        .map_err(|source| NetError::Client { source })
}

/// Resolves names and drops every address that the policy refuses.
struct PolicyResolver(Arc<HostPolicy>);

impl reqwest::dns::Resolve for PolicyResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let lookup = tokio::net::lookup_host((host.clone(), 0));
            let resolved: Vec<SocketAddr> =
                match tokio::time::timeout(CONNECT_TIMEOUT, lookup).await {
                    Ok(Ok(addresses)) => addresses.collect(),
                    Ok(Err(source)) => return Err(NetError::Dns { host, source }.into()),
                    Err(_) => {
                        let source = std::io::ErrorKind::TimedOut.into();
                        return Err(NetError::Dns { host, source }.into());
                    }
                };
            let refused = resolved.first().map(SocketAddr::ip);
            let allowed: Vec<SocketAddr> = resolved
                .into_iter()
                .filter(|a| policy.allows_address(&host, a.ip()))
                .collect();
            match (allowed.is_empty(), refused) {
                (true, Some(address)) => Err(NetError::PrivateAddress { host, address }.into()),
                _ => Ok(Box::new(allowed.into_iter()) as reqwest::dns::Addrs),
            }
        })
    }
}

/// The address a URL names literally, if it does.
fn literal_address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

/// Walks an error's sources for one of type `T`.
fn source_of<'a, T: std::error::Error + 'static>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a T> {
    let mut current = Some(error);
    while let Some(error) = current {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An io::Error hides what it wraps from `source` when it was made from that very error.
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(|e| e.get_ref())
            && let Some(found) = source_of::<T>(inner)
        {
            return Some(found);
        }
        current = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
