//! A well-behaved server that speaks HTTP/2 over TLS, and nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::{Certificate, parse_range};

/// A running server of one file, at `/file`; it stops when this is dropped.
pub struct Http2 {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Http2 {
    /// Serves `content` with `certificate` on a free port of 127.0.0.1.
    pub async fn start(certificate: &Certificate, content: Bytes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port on loopback");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let acceptor = certificate.acceptor(&[b"h2"]);
        let stop = CancellationToken::new();
        let (requests, connections) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let (asked, opened, ended): (_, Arc<AtomicUsize>, _) =
            (requests.clone(), Arc::clone(&connections), stop.clone());
        let accept = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                let (acceptor, content, asked) = (acceptor.clone(), content.clone(), asked.clone());
                let serve = async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let service = service_fn(move |request| {
                        asked.fetch_add(1, Ordering::Relaxed);
                        let answer = answer(&request, &content);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // A client that goes away ends its connection, no more.
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                };
                tokio::spawn(ended.clone().run_until_cancelled_owned(serve));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self {
            address,
            requests,
            connections,
            _stop: stop.drop_guard(),
        }
    }

    /// The URL of its file.
    pub fn url(&self) -> Url {
        let url = format!("https://localhost:{}/file", self.address.port());
        Url::parse(&url).expect("a port makes a URL")
    }

    /// Requests and connections so far.
    pub fn seen(&self) -> (usize, usize) {
        let seen = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (seen(&self.requests), seen(&self.connections))
    }
}

fn answer(request: &Request<Incoming>, content: &Bytes) -> Response<Full<Bytes>> {
    assert_eq!(request.version(), Version::HTTP_2);
    let range = request.headers().get("range");
    let range = range.and_then(|value| parse_range(value.to_str().ok()?));
    let size = content.len() as u64;
    let mut response = Response::new(Full::new(content.clone()));
    if let Some(range) = range {
        let range = range.start.min(size)..range.end.min(size);
        let told = format!(
            "bytes {}-{}/{size}",
            range.start,
            range.end.saturating_sub(1)
        );
        let told = told.parse().expect("digits and ASCII");
        *response.body_mut() = Full::new(content.slice(range.start as usize..range.end as usize));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert("content-range", told);
    }
    response
}
