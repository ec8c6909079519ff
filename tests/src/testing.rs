//! A plain HTTP client for the tests of this crate: one connection per request, no redirects.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the connection broke before the body's end.
    pub(crate) is_cut: bool,
}

impl Answer {
    /// A header as text; empty if missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) async fn get(url: &str, headers: &[(&str, &str)]) -> Answer {
    send("GET", url, headers, "").await
}

pub(crate) async fn send(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Answer {
    let url = Url::parse(url).unwrap();
    let stream = TcpStream::connect(url.socket_addrs(|| None).unwrap()[0])
        .await
        .unwrap();
    exchange(stream, request(method, &url, headers, body)).await
}

pub(crate) async fn get_over_tls(url: &str, authority_pem: &str) -> Answer {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority_pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = Url::parse(url).unwrap();
    let stream = TcpStream::connect(url.socket_addrs(|| None).unwrap()[0])
        .await
        .unwrap();
    let name = ServerName::try_from(url.host_str().unwrap().to_owned()).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.unwrap();
    exchange(stream, request("GET", &url, &[], "")).await
}

fn request(
    method: &str,
    url: &Url,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Request<Full<Bytes>> {
    let target = url[url::Position::BeforePath..].to_owned();
    let mut request = Request::builder().method(method).uri(target);
    request = request.header(
        "host",
        &url[url::Position::BeforeHost..url::Position::AfterPort],
    );
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body)).unwrap()
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut is_cut) = (BytesMut::new(), false);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                is_cut = true;
                break;
            }
        }
    }
    connection.abort();
    let body = body.freeze();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        is_cut,
    }
}
