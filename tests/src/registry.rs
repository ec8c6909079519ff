//! A server with the surface of an OCI registry, for pulls.
//!
//! Manifests by tag and digest, blobs in ranges, optionally through signed links to a second
//! origin; open, with a password, or with tokens from a realm of its own or elsewhere. Everything
//! asked is in [`Registry::log`].
//!
//! Deliberately absent: pushes over HTTP; images are put in with [`Registry::put`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use headstart_core::digest::Sha256;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::json;
use sha2::Digest as _;

use crate::content::Content;
use crate::image::Image;
use crate::serve::signed::{Signer, refusal, unix_now, xml};
use crate::serve::{Ask, Bound, Door, Entry, Faults, Handle, Log, Reply, Server, Site, StartError};

#[cfg(test)]
mod tests;

/// How a registry is started. The default: a free port, plain HTTP, open, blobs served directly.
#[derive(Clone, Debug)]
pub struct Options {
    /// How it is reached.
    pub registry: Door,
    /// With a door blobs are redirected to signed links of a second origin there.
    pub cdn: Option<Door>,
    /// How long such a link is good for; whole seconds.
    pub link_lifetime: Duration,
    /// Who may pull.
    pub auth: Auth,
}

/// Who may pull from a registry.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody.
    #[default]
    Open,
    /// Who shows the password with each request.
    Basic(Account),
    /// Who shows a token from the realm.
    Bearer {
        /// Whom the realm gives tokens; everybody if none.
        account: Option<Account>,
        /// Where the realm is; at the registry itself if none.
        realm: Option<Door>,
        /// How long a token is good for; whole seconds.
        lifetime: Duration,
    },
}

/// A name and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            registry: Door::default(),
            cdn: None,
            link_lifetime: Duration::from_secs(3600),
            auth: Auth::Open,
        }
    }
}

/// A running registry. Dropping it closes its ports.
#[derive(Debug)]
pub struct Registry {
    state: Arc<State>,
    registry: Server,
    cdn: Option<Server>,
    realm: Option<Server>,
    log: Log,
    faults: Faults,
}

#[derive(Debug)]
struct State {
    repos: Mutex<BTreeMap<String, Repo>>,
    gate: Gate,
    signer: Signer,
    cdn_origin: Option<String>,
}

#[derive(Debug, Default)]
struct Repo {
    tags: BTreeMap<String, Sha256>,
    manifests: BTreeMap<Sha256, (String, Content)>,
    blobs: BTreeMap<Sha256, Content>,
}

/// [`Auth`] with the realm's address.
#[derive(Debug)]
enum Gate {
    Open,
    Basic(Account),
    Bearer {
        account: Option<Account>,
        realm: String,
        lifetime: Duration,
    },
}

impl Registry {
    /// Starts it on the current runtime.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let (log, faults) = (Log::default(), Faults::default());
        let registry = Bound::new(options.registry).await?;
        let cdn = bound(options.cdn).await?;
        let mut realm = None;
        let gate = match options.auth {
            Auth::Open => Gate::Open,
            Auth::Basic(account) => Gate::Basic(account),
            Auth::Bearer {
                account,
                realm: door,
                lifetime,
            } => {
                realm = bound(door).await?;
                let origin = realm
                    .as_ref()
                    .map_or_else(|| registry.origin(), Bound::origin);
                Gate::Bearer {
                    account,
                    realm: format!("{origin}/token"),
                    lifetime,
                }
            }
        };
        let state = Arc::new(State {
            repos: Mutex::default(),
            gate,
            signer: Signer::new(options.link_lifetime),
            cdn_origin: cdn.as_ref().map(Bound::origin),
        });
        let serve = |door: Bound, site, handler: Arc<dyn Handle>| {
            door.serve(site, log.clone(), faults.clone(), handler)
        };
        let cdn = cdn.map(|door| serve(door, Site::Cdn, Arc::new(Cdn(state.clone()))));
        let realm = realm.map(|door| serve(door, Site::Realm, Arc::new(Realm(state.clone()))));
        let registry = serve(registry, Site::Registry, Arc::new(Front(state.clone())));
        Ok(Self {
            state,
            registry,
            cdn,
            realm,
            log,
            faults,
        })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.registry.origin()
    }

    /// `127.0.0.1:PORT`, as image references have it.
    pub fn host(&self) -> String {
        self.registry.address.to_string()
    }

    /// The origin that blobs are redirected to, if any.
    pub fn cdn_endpoint(&self) -> Option<String> {
        self.cdn.as_ref().map(Server::origin)
    }

    /// The realm's origin, if it is not the registry.
    pub fn realm_endpoint(&self) -> Option<String> {
        self.realm.as_ref().map(Server::origin)
    }

    /// Every request to all its origins.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What goes wrong on demand, at all its origins.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Requests that carried a credential to the origin of blobs.
    pub fn violations(&self) -> Vec<Entry> {
        self.log
            .matching(|entry| entry.site == Site::Cdn && entry.credential)
    }

    /// Puts an image in as `repo:tag`, replacing what the tag named.
    pub fn put(&self, repo: &str, tag: &str, image: &Image) {
        let mut repos = self.state.repos();
        let repo = repos.entry(repo.to_owned()).or_default();
        for manifest in &image.manifests {
            let held = (manifest.media_type.clone(), manifest.content.clone());
            repo.manifests.insert(manifest.digest, held);
        }
        for blob in &image.blobs {
            repo.blobs.insert(blob.digest, blob.content.clone());
        }
        repo.tags.insert(tag.to_owned(), image.digest());
    }

    /// Makes every signed link given out so far expired.
    pub fn expire_links(&self) {
        self.state.signer.expire_all();
    }
}

async fn bound(door: Option<Door>) -> Result<Option<Bound>, StartError> {
    match door {
        Some(door) => Bound::new(door).await.map(Some),
        None => Ok(None),
    }
}

/// The registry's own origin.
struct Front(Arc<State>);

/// A realm elsewhere.
struct Realm(Arc<State>);

/// The origin of blobs: `/{repo}/{sha256}`.
struct Cdn(Arc<State>);

impl Handle for Front {
    fn handle(&self, ask: &Ask) -> Reply {
        if ask.method != Method::GET && ask.method != Method::HEAD {
            return error(
                StatusCode::METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this registry is for pulls",
            );
        }
        if ask.path == "/token" {
            return self.0.token(ask);
        }
        let Some(below) = ask.path.strip_prefix("/v2/") else {
            return error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "not a path of a registry",
            );
        };
        let named = Named::parse(below);
        let repo = named.as_ref().map(|named| named.repo);
        if let Some(refused) = self.0.refusal(ask, repo) {
            return refused;
        }
        let version = HeaderName::from_static("docker-distribution-api-version");
        let reply = match named {
            None if below.is_empty() => Reply::json(&json!({})),
            None => error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "not a path of a registry",
            ),
            Some(named) => self.0.named(ask, &named),
        };
        reply.header(version, "registry/2.0")
    }
}

impl Handle for Realm {
    fn handle(&self, ask: &Ask) -> Reply {
        self.0.token(ask)
    }
}

impl Handle for Cdn {
    fn handle(&self, ask: &Ask) -> Reply {
        if let Some(refused) = refusal(&self.0.signer, ask) {
            return refused;
        }
        let path = ask.path.trim_start_matches('/').rsplit_once('/');
        let repos = self.0.repos();
        let blob = path
            .and_then(|(repo, digest)| repos.get(repo)?.blobs.get(&digest.parse::<Sha256>().ok()?));
        match blob {
            Some(content) => bytes(content),
            None => xml(StatusCode::NOT_FOUND, "NoSuchKey", "The key does not exist"),
        }
    }
}

/// What a path below `/v2/` names.
struct Named<'a> {
    repo: &'a str,
    kind: &'a str,
    reference: &'a str,
}

impl<'a> Named<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let (rest, reference) = path.rsplit_once('/')?;
        let (repo, kind) = rest.rsplit_once('/')?;
        let is_known = matches!(kind, "manifests" | "blobs" | "tags");
        is_known.then_some(Self {
            repo,
            kind,
            reference,
        })
    }
}

impl State {
    fn repos(&self) -> MutexGuard<'_, BTreeMap<String, Repo>> {
        self.repos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn named(&self, ask: &Ask, named: &Named<'_>) -> Reply {
        let repos = self.repos();
        let Some(repo) = repos.get(named.repo) else {
            return error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "repository name not known",
            );
        };
        match named.kind {
            "tags" if named.reference == "list" => {
                let tags: Vec<&String> = repo.tags.keys().collect();
                Reply::json(&json!({ "name": named.repo, "tags": tags }))
            }
            "manifests" => manifest(repo, named.reference),
            "blobs" => self.blob(ask, repo, named),
            _ => error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "not a path of a registry",
            ),
        }
    }

    fn blob(&self, ask: &Ask, repo: &Repo, named: &Named<'_>) -> Reply {
        let digest = named.reference.parse::<Sha256>().ok();
        let found = digest.and_then(|digest| repo.blobs.get_key_value(&digest));
        let Some((digest, content)) = found else {
            return error(
                StatusCode::NOT_FOUND,
                "BLOB_UNKNOWN",
                "blob unknown to registry",
            );
        };
        match &self.cdn_origin {
            Some(origin) if ask.method == Method::GET => {
                let path = format!("/{}/{digest}", named.repo);
                Reply::new(StatusCode::TEMPORARY_REDIRECT, "")
                    .header(LOCATION, &self.signer.link(origin, &path, "data"))
            }
            _ => bytes(content).header(content_digest(), &digest.prefixed()),
        }
    }

    /// An answer to who may not pull from `repo`, or, without one, may not even say hello.
    fn refusal(&self, ask: &Ask, repo: Option<&str>) -> Option<Reply> {
        let shown = ask.header(&AUTHORIZATION);
        let challenge = match &self.gate {
            Gate::Open => return None,
            Gate::Basic(account) if shows(shown, account) => return None,
            Gate::Basic(_) => "Basic realm=\"testbed\"".to_owned(),
            Gate::Bearer { realm, .. } => {
                let token = shown.and_then(|shown| shown.strip_prefix("Bearer "));
                if token.is_some_and(|token| is_good(token, repo)) {
                    return None;
                }
                let scope = repo.map(|repo| format!(",scope=\"repository:{repo}:pull\""));
                let scope = scope.unwrap_or_default();
                format!("Bearer realm=\"{realm}\",service=\"testbed\"{scope}")
            }
        };
        let text = "authentication required";
        let refused = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text);
        Some(refused.header(WWW_AUTHENTICATE, &challenge))
    }

    /// The realm: a token for the repositories asked for, to who may have one.
    fn token(&self, ask: &Ask) -> Reply {
        let Gate::Bearer {
            account, lifetime, ..
        } = &self.gate
        else {
            return error(
                StatusCode::NOT_FOUND,
                "NAME_UNKNOWN",
                "there is no realm here",
            );
        };
        let shown = ask.header(&AUTHORIZATION);
        if let Some(account) = account
            && !shows(shown, account)
        {
            return error(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED",
                "incorrect username or password",
            );
        }
        let scopes = url::form_urlencoded::parse(ask.query.as_bytes());
        let scopes = scopes.filter(|(key, _)| key == "scope");
        let repos = scopes.filter_map(|(_, scope)| {
            let mut parts = scope.splitn(3, ':');
            let repo = parts.nth(1).map(str::to_owned);
            repo.filter(|_| scope.starts_with("repository:"))
        });
        let repos: Vec<String> = repos.collect();
        let expires = unix_now() + lifetime.as_secs();
        let claims = format!("{expires} {}", repos.join(" "));
        let token = format!("{}.{}", BASE64.encode(&claims), sealed(&claims));
        Reply::json(&json!({
            "token": token, "access_token": token, "expires_in": lifetime.as_secs(),
        }))
    }
}

/// Whether a token was given out here, is not expired and is for `repo`.
fn is_good(token: &str, repo: Option<&str>) -> bool {
    let Some((claims, seal)) = token.split_once('.') else {
        return false;
    };
    let claims = BASE64
        .decode(claims)
        .ok()
        .and_then(|claims| String::from_utf8(claims).ok());
    let Some(claims) = claims.filter(|claims| sealed(claims) == seal) else {
        return false;
    };
    let mut words = claims.split(' ');
    let expires: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    unix_now() < expires && repo.is_none_or(|repo| words.any(|word| word == repo))
}

/// No secret is at stake on loopback; it only has to differ from what a client might make up.
fn sealed(claims: &str) -> String {
    Sha256(sha2::Sha256::digest(format!("loopback {claims}")).into()).to_string()
}

fn shows(header: Option<&str>, account: &Account) -> bool {
    let Account { user, password } = account;
    let expected = format!("Basic {}", BASE64.encode(format!("{user}:{password}")));
    header == Some(&*expected)
}

fn manifest(repo: &Repo, reference: &str) -> Reply {
    let digest = match reference.parse::<Sha256>() {
        Ok(digest) => Some(digest),
        Err(_) => repo.tags.get(reference).copied(),
    };
    let held = digest.and_then(|digest| repo.manifests.get_key_value(&digest));
    match held {
        Some((digest, (media_type, content))) => Reply::new(StatusCode::OK, content.clone())
            .header(CONTENT_TYPE, media_type)
            .header(content_digest(), &digest.prefixed()),
        None => error(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            "manifest unknown",
        ),
    }
}

fn bytes(content: &Content) -> Reply {
    Reply::new(StatusCode::OK, content.clone())
        .in_ranges()
        .header(CONTENT_TYPE, "application/octet-stream")
}

fn content_digest() -> HeaderName {
    HeaderName::from_static("docker-content-digest")
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    let mut reply = Reply::json(&body);
    reply.status = status;
    reply
}
