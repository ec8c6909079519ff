//! A registry that anybody may read from: manifests by tag or digest, blobs with ranges.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use headstart_testbed::link::{Link, Shaped};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::image::{Blob, Image};

/// A running registry. Dropping it closes its port.
pub(crate) struct Registry {
    address: SocketAddr,
    serving: AbortHandle,
}

/// Blobs and manifests by digest, and manifests by `NAME:TAG`.
type Kept = HashMap<String, Blob>;

impl Registry {
    /// Serves `images`, each under its `NAME:TAG`, over `link`.
    pub(crate) async fn start(images: Vec<(String, Image)>, link: Link) -> Result<Self> {
        let mut kept = Kept::new();
        for (name, image) in images {
            kept.insert(name, image.manifest.clone());
            for blob in image.blobs.into_iter().chain([image.manifest]) {
                kept.insert(blob.digest.clone(), blob);
            }
        }
        let router = Router::new()
            .route("/v2/", get(|| async {}))
            .route("/v2/{*path}", get(serve))
            .with_state(Arc::new(kept));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("cannot start the local registry")?;
        let address = listener.local_addr()?;
        let behind = BehindLink { listener, link };
        let serving = tokio::spawn(async move { axum::serve(behind, router).await });
        Ok(Self {
            address,
            serving: serving.abort_handle(),
        })
    }

    /// `HOST:PORT`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    State(kept): State<Arc<Kept>>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let blob = match (path.rsplit_once("/manifests/"), path.rsplit_once("/blobs/")) {
        (Some((name, tag)), _) => kept.get(&format!("{name}:{tag}")).or_else(|| kept.get(tag)),
        (None, Some((_, digest))) => kept.get(digest),
        (None, None) => None,
    };
    let Some(blob) = blob else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let about = [
        (CONTENT_TYPE.as_str(), blob.media_type.to_owned()),
        (ACCEPT_RANGES.as_str(), "bytes".to_owned()),
        ("docker-content-digest", blob.digest.clone()),
    ];
    let length = blob.bytes.len();
    let asked = headers.get(RANGE).and_then(|range| range.to_str().ok());
    match asked.map(|range| part(range, length)) {
        None => (about, Body::from(blob.bytes.clone())).into_response(),
        Some(Some((first, last))) => {
            let range = [(CONTENT_RANGE, format!("bytes {first}-{last}/{length}"))];
            let body = Body::from(blob.bytes.slice(first..=last));
            (StatusCode::PARTIAL_CONTENT, about, range, body).into_response()
        }
        Some(None) => StatusCode::RANGE_NOT_SATISFIABLE.into_response(),
    }
}

/// First and last byte of a range of the form `bytes=FIRST-[LAST]`.
fn part(range: &str, length: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = match last {
        "" => length.checked_sub(1)?,
        last => last.parse::<usize>().ok()?.min(length.checked_sub(1)?),
    };
    (first <= last).then_some((first, last))
}

/// Connections that were accepted go over the link.
struct BehindLink {
    listener: TcpListener,
    link: Link,
}

impl axum::serve::Listener for BehindLink {
    type Io = Shaped;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Shaped, SocketAddr) {
        let (stream, from) = axum::serve::Listener::accept(&mut self.listener).await;
        (self.link.carry(stream), from)
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_what_is_there_and_nonsense_is_refused() {
        assert_eq!(part("bytes=0-9", 100), Some((0, 9)));
        assert_eq!(part("bytes=90-200", 100), Some((90, 99)));
        assert_eq!(part("bytes=5-", 100), Some((5, 99)));
        for range in [
            "bytes=100-",
            "bytes=9-3",
            "bytes=-5",
            "lines=1-2",
            "bytes=0-0",
        ] {
            assert_eq!(part(range, 0), None, "{range}");
        }
        assert_eq!(part("bytes=9-3", 100), None);
    }
}
