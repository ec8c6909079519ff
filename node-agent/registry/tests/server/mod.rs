//! A registry in this process: manifests and blobs in memory, three ways of authentication, a
//! token service, faults on demand, and a log of everything that was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use headstart_core::digest::Sha256;
use headstart_transfer::net::{HostPolicy, HostPort};
use http::StatusCode;
use sha2::Digest as _;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) x_secret: Option<String>,
    pub(crate) body: String,
}

#[derive(Clone, Default)]
pub(crate) enum Auth {
    #[default]
    Open,
    Basic,
    /// Tokens from this realm.
    Token {
        realm: String,
    },
}

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) manifests: BTreeMap<String, (String, Bytes)>,
    pub(crate) blobs: BTreeMap<String, Bytes>,
    pub(crate) auth: Auth,
    /// user:password that may have everything.
    pub(crate) user: String,
    pub(crate) refresh_token: String,
    /// Repositories that anybody may have.
    pub(crate) public: Vec<String>,
    /// Tokens in force, and whether they are good for private repositories.
    pub(crate) tokens: BTreeMap<String, bool>,
    pub(crate) token_life: Option<u64>,
    /// Answers given instead of the next ones under /v2/.
    pub(crate) faults: VecDeque<Response>,
    /// Blobs are redirected there.
    pub(crate) cdn: Option<String>,
    pub(crate) log: Vec<Seen>,
}

pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) content: Arc<Mutex<Content>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let content = Arc::new(Mutex::new(Content::default()));
        let app = Router::new()
            .fallback(serve)
            .with_state((content.clone(), address.clone()));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            content,
            serving,
        }
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        change(&mut self.content.lock().unwrap())
    }

    pub(crate) fn log(&self) -> Vec<Seen> {
        self.with(|content| content.log.clone())
    }

    /// Everything any request carried that could be a secret.
    pub(crate) fn secrets_seen(&self) -> Vec<String> {
        let seen = |s: Seen| [s.authorization, s.x_secret, Some(s.body), Some(s.query)];
        self.log().into_iter().flat_map(seen).flatten().collect()
    }

    pub(crate) fn asked(&self, part: &str) -> usize {
        self.log()
            .iter()
            .filter(|seen| seen.path.contains(part))
            .count()
    }

    pub(crate) fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        json: &serde_json::Value,
    ) -> Put {
        let bytes = Bytes::from(json.to_string());
        let put = Put::of(media_type, &bytes);
        self.with(|content| {
            for name in [name, &put.digest] {
                let entry = (media_type.to_owned(), bytes.clone());
                content.manifests.insert(name.to_owned(), entry);
            }
        });
        put
    }

    pub(crate) fn put_blob(&self, media_type: &str, bytes: impl Into<Bytes>) -> Put {
        let bytes = bytes.into();
        let put = Put::of(media_type, &bytes);
        self.with(|content| content.blobs.insert(put.digest.clone(), bytes));
        put
    }

    /// A policy under which this and the other servers can be reached.
    pub(crate) fn policy(servers: &[&Self]) -> HostPolicy {
        let mut policy = HostPolicy::default();
        for server in servers {
            policy.trust_plain_http(HostPort::parse(&server.address).unwrap());
        }
        policy
    }
}

/// Something stored, as a descriptor names it.
#[derive(Clone, Debug)]
pub(crate) struct Put {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: usize,
}

impl Put {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Sha256(sha2::Sha256::digest(bytes).into()).prefixed(),
            size: bytes.len(),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({"mediaType": self.media_type, "digest": self.digest, "size": self.size})
    }

    pub(crate) fn for_platform(&self, os: &str, architecture: &str) -> serde_json::Value {
        let mut json = self.json();
        json["platform"] = serde_json::json!({"os": os, "architecture": architecture});
        json
    }
}

pub(crate) fn answer(status: u16) -> Response {
    Response::builder()
        .status(status)
        .body(Body::empty())
        .unwrap()
}

pub(crate) fn answer_with(status: u16, name: &str, value: &str) -> Response {
    Response::builder()
        .status(status)
        .header(name, value)
        .body(Body::empty())
        .unwrap()
}

async fn serve(
    State((content, address)): State<(Arc<Mutex<Content>>, String)>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let header = |name| {
        let value = head.headers.get(name);
        value.map(|v| v.to_str().unwrap().to_owned())
    };
    let seen = Seen {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        x_secret: header("x-secret"),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let mut content = content.lock().unwrap();
    content.log.push(seen.clone());
    match seen.path.as_str() {
        "/token" => token(&mut content, &seen),
        path if path.starts_with("/v2/") => {
            if let Some(fault) = content.faults.pop_front() {
                return fault;
            }
            registry(&content, &seen, &address)
        }
        path => match content.blobs.get(path.trim_start_matches("/cdn/")) {
            Some(bytes) => blob(bytes, header("range")),
            None => answer(404),
        },
    }
}

fn token(content: &mut Content, seen: &Seen) -> Response {
    let basic = format!("Basic {}", STANDARD.encode(&content.user));
    let refresh = format!("refresh_token={}", content.refresh_token);
    let known = match (&seen.authorization, seen.method.as_str()) {
        (Some(value), _) if *value == basic => true,
        (Some(_), _) => return answer(401),
        (None, "POST") if seen.body.contains(&refresh) => true,
        (None, "POST") => return answer(401),
        (None, _) => false,
    };
    let value = format!("token-{}", content.log.len());
    content.tokens.insert(value.clone(), known);
    let mut json = serde_json::json!({ "token": value });
    if let Some(life) = content.token_life {
        json["expires_in"] = life.into();
    }
    Response::new(Body::from(json.to_string()))
}

fn registry(content: &Content, seen: &Seen, address: &str) -> Response {
    let rest = seen.path.trim_start_matches("/v2/");
    let Some((repository, kind, name)) = split(rest) else {
        return answer(404);
    };
    let public = content.public.iter().any(|known| known == repository);
    let value = seen.authorization.as_deref().unwrap_or_default();
    let allowed = match &content.auth {
        Auth::Open => Ok(()),
        Auth::Basic => match value == format!("Basic {}", STANDARD.encode(&content.user)) {
            true => Ok(()),
            false => Err(r#"Basic realm="test""#.to_owned()),
        },
        Auth::Token { realm } => {
            let token = value.strip_prefix("Bearer ").unwrap_or_default();
            match content.tokens.get(token) {
                Some(known) if public || *known => Ok(()),
                _ => Err(format!(
                    r#"Bearer realm="{realm}",service="{address}",scope="repository:{repository}:pull""#
                )),
            }
        }
    };
    if let Err(challenge) = allowed {
        return answer_with(401, "www-authenticate", &challenge);
    }
    match (kind, content.manifests.get(name), content.blobs.get(name)) {
        ("manifests", Some((media_type, bytes)), _) => Response::builder()
            .header("content-type", media_type)
            .header("docker-content-digest", Put::of("", bytes).digest)
            .header("content-length", bytes.len())
            .body(match seen.method.as_str() {
                "HEAD" => Body::empty(),
                _ => Body::from(bytes.clone()),
            })
            .unwrap(),
        ("blobs", _, Some(bytes)) => match &content.cdn {
            Some(cdn) => answer_with(307, "location", &format!("{cdn}/cdn/{name}?Signature=x")),
            None => blob(bytes, None),
        },
        _ => answer(404),
    }
}

fn blob(bytes: &Bytes, range: Option<String>) -> Response {
    let Some(range) = range else {
        return Response::new(Body::from(bytes.clone()));
    };
    let (first, last) = range["bytes=".len()..].split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header(
            "content-range",
            format!("bytes {first}-{last}/{}", bytes.len()),
        )
        .body(Body::from(bytes.slice(first..=last)))
        .unwrap()
}

fn split(rest: &str) -> Option<(&str, &str, &str)> {
    let (before, name) = rest.rsplit_once('/')?;
    let (repository, kind) = before.rsplit_once('/')?;
    Some((repository, kind, name))
}
