//! The webhook's server: TLS with a certificate that may change at any time, one path.
//!
//! - Every connection and every request is bounded in time and size.
//! - A request that comes while there is no certificate yet fails at the handshake, and the API server
//!   goes on without us.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Response, StatusCode, header};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificate::Serving;
use super::inject::InjectConfig;
use super::{Counts, Knowledge, review};

/// Where reviews are posted.
pub(crate) const PATH: &str = "/mutate/pods";

/// Largest review: the API server takes objects of up to 3 MiB and may send some of it twice.
const MOST_BYTES: usize = 8 << 20;

/// Most connections at a time.
const MOST_CONNECTIONS: usize = 512;

/// What a connection may take to say hello, and to send the head of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What answers to requests under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// What an answer is made from.
struct Office {
    knowledge: Arc<dyn Knowledge>,
    config: InjectConfig,
    counts: Arc<dyn Counts>,
}

/// Serves reviews until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    serving: Arc<Serving>,
    knowledge: Arc<dyn Knowledge>,
    config: InjectConfig,
    counts: Arc<dyn Counts>,
    stop: CancellationToken,
) {
    let office = Arc::new(Office {
        knowledge,
        config,
        counts,
    });
    let router = Router::new()
        .route(PATH, post(mutate))
        .route("/healthz", get(|| async { "ok" }))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .with_state(office);
    let acceptor = TlsAcceptor::from(serving.config());
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, from, permit) = accepted;
        let (acceptor, router) = (acceptor.clone(), router.clone());
        let watcher = graceful.watcher();
        let stop = stop.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let hello = tokio::time::timeout(PATIENCE, acceptor.accept(stream));
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                hello = hello => match hello {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        tracing::debug!(%from, error = &error as &dyn std::error::Error, "a connection was not secured");
                        return;
                    }
                    Err(_) => return,
                },
            };
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE);
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(256);
            let service = TowerToHyperService::new(router);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let connection = watcher.watch(connection.into_owned());
            // A connection that breaks is the caller's to make again.
            let _ = connection.await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_ANSWERS, graceful.shutdown()).await;
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Accepted {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            // Nobody closes it.
            std::future::pending::<()>().await;
            continue;
        };
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                return (stream, from, permit);
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a connection was not accepted"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn mutate(State(office): State<Arc<Office>>, body: Bytes) -> Response<Body> {
    let asked = || review::answer(&body, &*office.knowledge, &office.config);
    let (answer, took) = review::timed(asked);
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            office.counts.admitted(super::Admitted::NotUnderstood, took);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a review was not understood"
            );
            return plain(StatusCode::BAD_REQUEST, error.to_string());
        }
    };
    office.counts.admitted(answer.outcome, took);
    tracing::debug!(reason = answer.reason, ?took, "a pod was reviewed");
    let mut response = plain(StatusCode::OK, answer.body.to_string());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn plain(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}
