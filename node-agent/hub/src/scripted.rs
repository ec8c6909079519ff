//! Servers for tests that answer what a test says, hostile answers above all, and remember what
//! they were asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use headstart_core::model::Commit;
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use serde_json::{Value, json};
use sha1::Digest as _;
use url::Url;

use crate::endpoint::{Hub, Patience, Token};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The token of every test that has one: wherever it shows, it leaked.
pub(crate) const TOKEN: &str = "hf_canaryCanaryCanary";

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query as on the wire.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

pub(crate) type Answer = Response<Body>;

/// A server on loopback, ended when dropped.
pub(crate) struct Server {
    pub(crate) url: Url,
    log: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(
        answer: impl Fn(&Asked) -> Answer + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let handle = {
            let log = log.clone();
            move |request: Request<Body>| {
                let asked = Asked {
                    method: request.method().to_string(),
                    target: request.uri().to_string(),
                    headers: request.headers().clone(),
                };
                log.lock().unwrap().push(asked.clone());
                let answer = answer(&asked);
                async move { answer }
            }
        };
        let router = axum::Router::new().fallback(handle);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        let url = format!("http://{address}").parse().unwrap();
        Self { url, log, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn targets(&self) -> Vec<String> {
        let line = |asked: Asked| format!("{} {}", asked.method, asked.target);
        self.asked().into_iter().map(line).collect()
    }

    pub(crate) fn hub(&self, token: Option<&str>) -> Hub {
        let token = token.map(|text| text.parse::<Token>().unwrap());
        Hub::new(self.url.clone(), token).with_patience(Patience {
            tries: 3,
            headers: Duration::from_millis(500),
            pause: Duration::from_millis(5),
            ..Patience::default()
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that may speak to loopback.
pub(crate) fn http() -> Http {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    Http::new(policy).unwrap()
}

pub(crate) fn status(status: u16) -> Answer {
    let mut answer = Response::new(Body::from("some words"));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

pub(crate) fn with(mut answer: Answer, headers: &[(&str, &str)]) -> Answer {
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().unwrap();
        answer.headers_mut().append(name, value.parse().unwrap());
    }
    answer
}

pub(crate) fn refusal(code: u16, name: &str) -> Answer {
    with(status(code), &[("x-error-code", name)])
}

pub(crate) fn answer_json(value: &Value) -> Answer {
    let body = Body::from(value.to_string());
    with(Response::new(body), &[("content-type", "application/json")])
}

/// A file of a repository made on the spot.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) large: bool,
}

/// A repository made on the spot.
#[derive(Clone, Default)]
pub(crate) struct Repo(pub(crate) BTreeMap<String, Content>);

impl Repo {
    pub(crate) fn small(mut self, path: &str, text: &str) -> Self {
        let (bytes, large) = (text.as_bytes().to_vec(), false);
        self.0.insert(path.to_owned(), Content { bytes, large });
        self
    }

    pub(crate) fn large(mut self, path: &str, length: usize) -> Self {
        let mut state = path.len() as u32 + 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        let (bytes, large) = ((0..length).map(|_| next()).collect(), true);
        self.0.insert(path.to_owned(), Content { bytes, large });
        self
    }

    /// What the Hub's API says about it, `sha` being [`COMMIT`].
    pub(crate) fn info(&self) -> Value {
        json!({"id": "org/name", "sha": COMMIT, "private": false, "gated": false})
    }

    pub(crate) fn tree(&self) -> Value {
        let entry = |(path, content): (&String, &Content)| {
            let size = content.bytes.len();
            match content.large {
                true => json!({
                    "type": "file", "path": path, "oid": git_sha1(b"pointer"), "size": size,
                    "lfs": {"oid": sha256(&content.bytes), "size": size, "pointerSize": 134},
                    "xetHash": "ab".repeat(32),
                }),
                false => {
                    json!({"type": "file", "path": path, "oid": git_sha1(&content.bytes), "size": size})
                }
            }
        };
        self.0.iter().map(entry).collect()
    }

    pub(crate) fn answer(&self, asked: &Asked) -> Option<Answer> {
        let path = asked.target.split('?').next().unwrap_or_default();
        match path.strip_prefix("/api/models/org/name/")? {
            "revision/main" => Some(answer_json(&self.info())),
            rest if rest == format!("revision/{COMMIT}") => Some(answer_json(&self.info())),
            rest if rest == format!("tree/{COMMIT}") => Some(answer_json(&self.tree())),
            _ => None,
        }
    }
}

pub(crate) fn commit() -> Commit {
    COMMIT.parse().unwrap()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    headstart_core::digest::Sha256(sha2::Sha256::digest(bytes).into()).to_string()
}

pub(crate) fn git_sha1(bytes: &[u8]) -> String {
    let mut hash = sha1::Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    headstart_core::digest::GitSha1(hash.finalize().into()).to_string()
}
