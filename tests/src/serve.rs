//! An HTTP server on loopback with a log, faults, ranges and a shaped link: what the Hub and the
//! registry have in common.
//!
//! A handler decides from memory and never waits; everything that takes time (bodies, delays,
//! faults) happens here. Dropping a server closes its port and its connections.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_RANGE, RANGE, USER_AGENT,
};
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use self::body::Payload;
pub use self::fault::{Fault, Faults, When};
use self::log::Record;
pub use self::log::{Entry, Log};
pub use self::tls::Tls;
use crate::content::Content;
use crate::link::Link;

mod body;
mod fault;
mod log;
mod tls;

/// Longest request body taken.
const MAX_REQUEST_BODY: usize = 1 << 20;

/// Which of the test bed's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// The Hub itself.
    Hub,
    /// The origin that large files are fetched from.
    Cdn,
    /// The registry itself.
    Registry,
    /// The origin that hands out a registry's tokens.
    Realm,
}

/// A server that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or may not be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate {
        /// Why.
        source: rcgen::Error,
    },
    /// The certificate could not be used.
    #[error("cannot use the certificate made")]
    Tls {
        /// Why.
        source: rustls::Error,
    },
}

/// How a server is reached.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// With a certificate it speaks TLS only.
    pub tls: Option<Tls>,
    /// The link all its connections go over.
    pub link: Link,
}

impl Default for Door {
    /// A free port of 127.0.0.1, plain HTTP, no limit.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            link: Link::default(),
        }
    }
}

/// A request whose body has arrived.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The fault to be made, for handlers that have a part in it.
    pub(crate) fault: Option<Fault>,
}

impl Ask {
    /// A header as text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The first value of a query parameter, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = url::form_urlencoded::parse(self.query.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    }

    /// The segments of the path, each decoded.
    pub(crate) fn segments(&self) -> Vec<String> {
        let segments = self.path.trim_start_matches('/').split('/');
        segments.map(percent_decoded).collect()
    }
}

/// What a handler answers.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    /// Whether a `Range` header is honoured.
    pub(crate) in_ranges: bool,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, content: impl Into<Content>) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            content: content.into(),
            in_ranges: false,
        }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self::new(StatusCode::OK, value.to_string())
            .header(CONTENT_TYPE, "application/json; charset=utf-8")
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// The same, with ranges.
    pub(crate) fn in_ranges(mut self) -> Self {
        self.in_ranges = true;
        self.header(ACCEPT_RANGES, "bytes")
    }
}

/// Decides what a request is answered.
pub(crate) trait Handle: Send + Sync + 'static {
    fn handle(&self, ask: &Ask) -> Reply;
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    scheme: &'static str,
    accepting: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A port that is taken but not served yet: its address can go into the answers of another.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    door: Door,
}

impl Bound {
    pub(crate) async fn new(door: Door) -> Result<Self, StartError> {
        let address = door.listen;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        Ok(Self {
            listener,
            address,
            door,
        })
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", scheme(&self.door), self.address)
    }

    pub(crate) fn serve(
        self,
        site: Site,
        log: Log,
        faults: Faults,
        handler: Arc<dyn Handle>,
    ) -> Server {
        let scheme = scheme(&self.door);
        let shared = Arc::new(Serving {
            site,
            log,
            faults,
            handler,
        });
        let accepting = tokio::spawn(accept(self.listener, self.door, shared)).abort_handle();
        Server {
            address: self.address,
            scheme,
            accepting,
        }
    }
}

impl Server {
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }
}

struct Serving {
    site: Site,
    log: Log,
    faults: Faults,
    handler: Arc<dyn Handle>,
}

fn scheme(door: &Door) -> &'static str {
    if door.tls.is_some() { "https" } else { "http" }
}

/// Ends with its connections when aborted: they are its own tasks.
async fn accept(listener: TcpListener, door: Door, serving: Arc<Serving>) {
    let mut connections = JoinSet::new();
    let count = AtomicU64::new(0);
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        // Without it small answers wait for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let stream = door.link.carry(stream);
        let (tls, serving) = (door.tls.clone(), serving.clone());
        connections.spawn(async move {
            match tls {
                None => converse(stream, number, serving).await,
                Some(tls) => match tokio_rustls::TlsAcceptor::from(tls.config)
                    .accept(stream)
                    .await
                {
                    Ok(stream) => converse(stream, number, serving).await,
                    Err(error) => tracing::debug!(%error, "no TLS with a client"),
                },
            }
        });
    }
}

async fn converse<S>(stream: S, connection: u64, serving: Arc<Serving>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let serving = serving.clone();
        async move { serving.answer(request, connection).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let served = builder.serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection ended early");
    }
}

impl Serving {
    async fn answer(
        &self,
        request: http::Request<Incoming>,
        connection: u64,
    ) -> Result<http::Response<Payload>, Infallible> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let text = |name| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        let record = self.log.add(Entry {
            site: self.site,
            at: Default::default(),
            connection,
            method: head.method.to_string(),
            path: path.clone(),
            query: query.clone(),
            range: text(RANGE),
            credential: head.headers.contains_key(AUTHORIZATION),
            user_agent: text(USER_AGENT),
            status: 0,
            bytes: 0,
        });
        let target = percent_decoded(&format!("{path}?{query}"));
        let fault = self.faults.of(self.site, &head.method, &target);
        match fault {
            Some(Fault::BlackHole) => std::future::pending().await,
            Some(Fault::Late(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        let reply = match Limited::new(body, MAX_REQUEST_BODY).collect().await {
            Ok(body) => {
                let ask = Ask {
                    method: head.method.clone(),
                    path,
                    query,
                    headers: head.headers,
                    body: body.to_bytes(),
                    fault,
                };
                let reply = faulty(&ask).unwrap_or_else(|| self.handler.handle(&ask));
                return Ok(respond(&ask, reply, record));
            }
            Err(error) => Reply::new(StatusCode::PAYLOAD_TOO_LARGE, format!("{error}\n")),
        };
        record.answered(reply.status.as_u16());
        let whole = 0..reply.content.len();
        let mut response = http::Response::new(Payload::new(reply.content, whole, None, record));
        *response.status_mut() = reply.status;
        Ok(response)
    }
}

/// The answer of a fault that needs no handler.
fn faulty(ask: &Ask) -> Option<Reply> {
    let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match ask.fault.as_ref()? {
        Fault::Status(code) => Some(Reply::new(status(*code), "")),
        Fault::RateLimited { seconds } => Some(rate_limited("resolvers", 3000, *seconds)),
        Fault::RetryAfter {
            status: code,
            value,
        } => Some(Reply::new(status(*code), "").header(http::header::RETRY_AFTER, value)),
        Fault::Portal => {
            let page = "<html><body>Please sign in to use this network.</body></html>";
            Some(Reply::new(StatusCode::OK, page).header(CONTENT_TYPE, "text/html"))
        }
        _ => None,
    }
}

/// What the Hub answers who asked too often.
pub(crate) fn rate_limited(bucket: &str, quota: u64, seconds: u64) -> Reply {
    let text = "We had to rate limit you, you hit the quota per 5 minutes period";
    Reply::new(StatusCode::TOO_MANY_REQUESTS, text)
        .header(
            HeaderName::from_static("ratelimit"),
            &format!("\"{bucket}\";r=0;t={seconds}"),
        )
        .header(
            HeaderName::from_static("ratelimit-policy"),
            &format!("\"fixed window\";\"{bucket}\";q={quota};w=300"),
        )
}

/// Applies range, method and the faults of bodies.
fn respond(ask: &Ask, mut reply: Reply, record: Arc<Record>) -> http::Response<Payload> {
    let len = reply.content.len();
    let mut span = 0..len;
    let is_ranged = reply.in_ranges
        && reply.status == StatusCode::OK
        && ask.fault != Some(Fault::IgnoreRange)
        && if_range_holds(ask, &reply);
    if is_ranged && let Some(range) = ask.header(&RANGE) {
        match parse_range(range, len) {
            Some(Ok(wanted)) => {
                let shown = format!("bytes {}-{}/{len}", wanted.start, wanted.end - 1);
                reply.status = StatusCode::PARTIAL_CONTENT;
                reply = reply.header(CONTENT_RANGE, &shown);
                span = wanted;
            }
            Some(Err(())) => {
                reply.status = StatusCode::RANGE_NOT_SATISFIABLE;
                reply = reply.header(CONTENT_RANGE, &format!("bytes */{len}"));
                span = 0..0;
            }
            None => {}
        }
    }
    if !reply.headers.contains_key(CONTENT_LENGTH) {
        reply = reply.header(CONTENT_LENGTH, &(span.end - span.start).to_string());
    }
    if ask.method == Method::HEAD {
        span = 0..0;
    }
    record.answered(reply.status.as_u16());
    let payload = Payload::new(reply.content, span, ask.fault.clone(), record);
    let mut response = http::Response::new(payload);
    *response.status_mut() = reply.status;
    *response.headers_mut() = reply.headers;
    response
}

fn if_range_holds(ask: &Ask, reply: &Reply) -> bool {
    match ask.headers.get(IF_RANGE) {
        None => true,
        wanted => wanted == reply.headers.get(ETAG),
    }
}

/// One range of `len` bytes: none where the header says nothing this server takes (it then sends
/// everything, as RFC 9110 has it), an error where no byte of it exists.
fn parse_range(header: &str, len: u64) -> Option<Result<std::ops::Range<u64>, ()>> {
    let (first, last) = header.trim().strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => {
            let suffix: u64 = suffix.parse().ok()?;
            len.saturating_sub(suffix)..len
        }
        (first, "") => first.parse().ok()?..len,
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            first..len.min(last.saturating_add(1))
        }
    };
    Some(if range.start < range.end {
        Ok(range)
    } else {
        Err(())
    })
}

/// Percent-decoded, with U+FFFD for what is no UTF-8.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_has_them() {
        for (header, expected) in [
            ("bytes=0-0", Some(Ok(0..1))),
            ("bytes=2-", Some(Ok(2..10))),
            ("bytes=2-99", Some(Ok(2..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=-30", Some(Ok(0..10))),
            ("bytes=10-", Some(Err(()))),
            ("bytes=10-11", Some(Err(()))),
            ("bytes=-0", Some(Err(()))),
            ("bytes=3-2", None),
            ("bytes=0-1,4-5", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(parse_range(header, 10), expected, "{header}");
        }
    }

    #[test]
    fn percent_decoding_keeps_what_is_no_code() {
        assert_eq!(percent_decoded("a%2Fb%zz%4"), "a/b%zz%4");
    }
}
