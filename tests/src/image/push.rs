//! Images put into a registry that is not ours.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, LOCATION};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Blob, Image};

/// A push that failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Nobody answers there.
    #[error("cannot reach the registry at {host}")]
    Connect {
        /// Where.
        host: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("cannot push {what}")]
    Http {
        /// What was being pushed.
        what: String,
        /// Why.
        source: hyper::Error,
    },
    /// What was to be sent is no request, or cannot be read.
    #[error("cannot push {what}: {why}")]
    Request {
        /// What was being pushed.
        what: String,
        /// Why.
        why: String,
    },
    /// The registry would not have it.
    #[error("the registry answered {status} to {what}: {body}")]
    Refused {
        /// What was being pushed.
        what: String,
        /// Its status.
        status: StatusCode,
        /// What it said.
        body: String,
    },
}

impl Image {
    /// Pushes it as `repo:tag` to the open registry at `host` (`127.0.0.1:5000`), over plain HTTP.
    ///
    /// # Errors
    /// When the registry does not take it.
    pub async fn push(&self, host: &str, repo: &str, tag: &str) -> Result<(), PushError> {
        let mut push = Push::connect(host).await?;
        for blob in &self.blobs {
            push.blob(repo, blob).await?;
        }
        for manifest in &self.manifests {
            push.manifest(repo, &manifest.digest.prefixed(), manifest)
                .await?;
        }
        match self.manifests.last() {
            Some(last) => push.manifest(repo, tag, last).await,
            None => Ok(()),
        }
    }
}

struct Push {
    host: String,
    sender: SendRequest<Full<Bytes>>,
}

impl Push {
    async fn connect(host: &str) -> Result<Self, PushError> {
        let host = host.to_owned();
        let stream = TcpStream::connect(&host).await;
        let stream = stream.map_err(|source| PushError::Connect {
            host: host.clone(),
            source,
        })?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream))
                .await
                .map_err(|source| PushError::Http {
                    what: "anything".to_owned(),
                    source,
                })?;
        // Ends with the sender.
        tokio::spawn(connection);
        Ok(Self { host, sender })
    }

    async fn blob(&mut self, repo: &str, blob: &Blob) -> Result<(), PushError> {
        let what = blob.digest.prefixed();
        let start = format!("/v2/{repo}/blobs/uploads/");
        let place = self
            .send(Method::POST, &start, "", Bytes::new(), &what)
            .await?;
        // The registry answers with a URL or with a path.
        let path = match place.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
            None => &place,
        };
        let joint = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{joint}digest={what}");
        let bytes = read(blob, &what)?;
        self.send(Method::PUT, &path, "application/octet-stream", bytes, &what)
            .await?;
        Ok(())
    }

    async fn manifest(&mut self, repo: &str, name: &str, blob: &Blob) -> Result<(), PushError> {
        let path = format!("/v2/{repo}/manifests/{name}");
        let bytes = read(blob, name)?;
        self.send(Method::PUT, &path, &blob.media_type, bytes, name)
            .await?;
        Ok(())
    }

    /// The `Location` of what was made; empty if there is none.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
        what: &str,
    ) -> Result<String, PushError> {
        let http = |source| PushError::Http {
            what: what.to_owned(),
            source,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host);
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| PushError::Request {
                what: what.to_owned(),
                why: error.to_string(),
            })?;
        self.sender.ready().await.map_err(http)?;
        let response = self.sender.send_request(request).await.map_err(http)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(http)?.to_bytes();
        if !head.status.is_success() {
            return Err(PushError::Refused {
                what: what.to_owned(),
                status: head.status,
                body: String::from_utf8_lossy(&body).chars().take(300).collect(),
            });
        }
        let place = head
            .headers
            .get(LOCATION)
            .and_then(|place| place.to_str().ok());
        Ok(place.unwrap_or_default().to_owned())
    }
}

fn read(blob: &Blob, what: &str) -> Result<Bytes, PushError> {
    blob.content.to_bytes().map_err(|error| PushError::Request {
        what: what.to_owned(),
        why: error.to_string(),
    })
}
