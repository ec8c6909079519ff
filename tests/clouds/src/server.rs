//! An HTTP server on loopback that can also hang up instead of answering.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

/// A running server. It ends with this value, its connections with it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Marks an answer that is not to be sent: the connection is closed instead.
#[derive(Clone, Copy, Debug)]
struct HangUp;

/// Instead of an answer: closes the connection without a byte.
pub fn hang_up() -> Response {
    let mut response = StatusCode::IM_A_TEAPOT.into_response();
    response.extensions_mut().insert(HangUp);
    response
}

impl Server {
    /// Serves `router` on a free port. To be called in a runtime, which it needs for as long as it
    /// lives.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start(router: Router) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let task = tokio::spawn(accept(listener, router));
        Ok(Self { address, task })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, router: Router) {
    // Dropped with the task, and every connection with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| answer(router.clone(), request));
        connections.spawn(async move {
            // A connection that its client gave up is no fault.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An error here makes hyper close the connection.
async fn answer(router: Router, request: Request<Incoming>) -> Result<Response, std::io::Error> {
    let answered = router.oneshot(request.map(axum::body::Body::new)).await;
    let response = answered.unwrap_or_else(|never: Infallible| match never {});
    match response.extensions().get::<HangUp>() {
        Some(HangUp) => Err(std::io::Error::other("hung up")),
        None => Ok(response),
    }
}
