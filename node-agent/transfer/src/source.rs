//! Where bytes come from, behind one trait: a registry, the Hub, a peer.
//!
//! A source turns a blob into a [`Location`] and is asked again when that location stops serving:
//! an expired signature, a token that ran out. It never sees a body; the engine fetches, verifies
//! and stores.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use headstart_core::digest::Expected;
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::net::{Credential, Http, NetError};

/// One blob to fetch.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What a person calls it, for reports and errors: `model-00001-of-00004.safetensors`.
    pub name: String,
    /// Its exact size in bytes, from the manifest or file list that named it.
    pub size: u64,
    /// What it must hash to.
    pub expected: Expected,
    /// Smaller goes first. Within a priority the largest blob goes first.
    pub priority: Priority,
    /// Where it can be had, best first; all are used when one alone does not fill the link.
    pub sources: Vec<Arc<dyn Source>>,
}

/// Where a blob is in the order. Clones share it, so that it can change while the blob is fetched;
/// a connection goes by it when it next asks for work.
#[derive(Clone, Debug, Default)]
pub struct Priority(Arc<AtomicU32>);

impl Priority {
    /// Puts it, and what shares it, somewhere else.
    pub fn set(&self, rank: u32) {
        self.0.store(rank, Ordering::Relaxed);
    }

    /// Where it is now.
    pub fn rank(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl From<u32> for Priority {
    fn from(rank: u32) -> Self {
        Self(Arc::new(rank.into()))
    }
}

/// What kind of place a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// The registry that an image's name says.
    Registry,
    /// Another registry that has the same image.
    Mirror,
    /// The Hugging Face Hub, or what stands in for it.
    Hub,
    /// Another node.
    Peer,
    /// Any other URL.
    Url,
}

impl SourceKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Registry,
        Self::Mirror,
        Self::Hub,
        Self::Peer,
        Self::Url,
    ];
}

/// Where a blob's bytes are right now.
#[derive(Clone, Debug)]
pub struct Location {
    /// URL that answers GET with Range. Redirects are followed on every request.
    pub url: Url,
    /// Headers that are no secret.
    pub headers: HeaderMap,
    /// The secret, bound to its origin.
    pub credential: Option<Credential>,
}

/// A place that has a blob.
pub trait Source: Send + Sync + fmt::Debug {
    /// The host or peer, for reports: `huggingface.co`, `ghcr.io`.
    fn name(&self) -> String;

    /// What kind of place it is, for the same.
    fn kind(&self) -> SourceKind {
        SourceKind::Url
    }

    /// Where the bytes are. `refused` is the status with which the location returned last time
    /// refused (401, 403, 404, 410, 416): the source renews what it can (a token, a signature) or
    /// says why that is final. Called at most a few times per blob.
    fn locate<'a>(
        &'a self,
        http: &'a Http,
        refused: Option<StatusCode>,
    ) -> BoxFuture<'a, Result<Location, SourceError>>;
}

/// Why a source gave no location.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The network.
    #[error(transparent)]
    Net(NetError),
    /// Try again after this long; 429 and 503 with Retry-After.
    #[error("busy: asks to wait {} s", .0.as_secs())]
    Busy(Duration),
    /// Trying again changes nothing: not found, gated, unauthorized. The message is for a person
    /// and says what to do.
    #[error("{0}")]
    Final(String),
}

/// A blob behind a fixed URL, the simplest source.
#[derive(Clone, Debug)]
pub struct FixedUrl(pub Location);

impl FixedUrl {
    /// A source at `url` without credentials.
    pub fn new(url: Url) -> Self {
        Self(Location {
            url,
            headers: HeaderMap::new(),
            credential: None,
        })
    }
}

impl Source for FixedUrl {
    fn name(&self) -> String {
        self.0.url.host_str().unwrap_or_default().to_owned()
    }

    fn locate<'a>(
        &'a self,
        _http: &'a Http,
        refused: Option<StatusCode>,
    ) -> BoxFuture<'a, Result<Location, SourceError>> {
        Box::pin(async move {
            match refused {
                None => Ok(self.0.clone()),
                Some(status) => {
                    let url = NetError::shown(&self.0.url);
                    Err(SourceError::Final(format!("{url} answered {status}")))
                }
            }
        })
    }
}
