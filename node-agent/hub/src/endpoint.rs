//! The Hub as seen over HTTP: who asks, how long it tries, and what each refusal means.
//!
//! Invariants:
//! - the token is sent to the endpoint's own origin and nowhere else, and shows in no message;
//! - every answer that is kept in memory has a cap;
//! - a wait that the Hub asks for is honoured or refused, never shortened.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use headstart_core::digest::Sha256;
use headstart_core::model::RepoId;
use headstart_transfer::net::{Credential, Http, NetError, Origin, Request, Response};
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap};
use sha2::Digest as _;
use tokio::time::Instant;
use url::Url;

pub use self::refusal::HubError;
use self::refusal::said;
pub(crate) use self::refusal::{asked_wait, is_passing};

mod refusal;

/// A Hugging Face access token. Its text is in no output of this program.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that is no token. The text itself is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is {0}: give the text that the Hub shows under Settings, Access Tokens")]
pub struct InvalidToken(&'static str);

/// How long the Hub is asked again before an answer is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Most requests for one answer, waits that the Hub asked for not counted.
    pub tries: u32,
    /// How long the first response headers may take, each try.
    pub headers: Duration,
    /// Pause after the first failure; it doubles with every further one.
    pub pause: Duration,
    /// No further try is begun after this long in trouble.
    pub trouble: Duration,
    /// Longest time, over one answer, that the Hub may make us wait for its rate limit.
    pub told: Duration,
}

impl Default for Patience {
    /// A Hub that accepts connections and says nothing is given up after less than a minute; one
    /// that refuses them after about 15 s; a rate limit is waited for as long as its window,
    /// which is five minutes.
    fn default() -> Self {
        Self {
            tries: 6,
            headers: Duration::from_secs(10),
            pause: Duration::from_millis(500),
            trouble: Duration::from_secs(40),
            told: Duration::from_secs(301),
        }
    }
}

/// One Hub: an endpoint and the token used there. Clones are cheap.
#[derive(Clone)]
pub struct Hub {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Url,
    token: Option<Token>,
    patience: Patience,
}

impl Hub {
    /// The Hub at `endpoint`, `https://huggingface.co` or a mirror, asked with `token`.
    pub fn new(endpoint: Url, token: Option<Token>) -> Self {
        Self {
            shared: Arc::new(Shared {
                endpoint,
                token,
                patience: Patience::default(),
            }),
        }
    }

    /// The same Hub with another patience.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        let (endpoint, token) = (self.shared.endpoint.clone(), self.shared.token.clone());
        Self {
            shared: Arc::new(Shared {
                endpoint,
                token,
                patience,
            }),
        }
    }

    /// The same Hub asked with another token, or none.
    #[must_use]
    pub fn with_token(&self, token: Option<Token>) -> Self {
        let (endpoint, patience) = (self.shared.endpoint.clone(), self.shared.patience);
        Self {
            shared: Arc::new(Shared {
                endpoint,
                token,
                patience,
            }),
        }
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Url {
        &self.shared.endpoint
    }

    /// Its host, for reports.
    pub fn host(&self) -> String {
        self.endpoint().host_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn has_token(&self) -> bool {
        self.shared.token.is_some()
    }

    /// The token's text, for a process that needs it.
    pub(crate) fn reveal_token(&self) -> Option<String> {
        self.shared.token.as_ref().map(|token| token.0.clone())
    }

    pub(crate) fn patience(&self) -> Patience {
        self.shared.patience
    }

    /// The token, bound to the endpoint's origin.
    pub(crate) fn credential(&self) -> Option<Credential> {
        let token = self.shared.token.as_ref()?;
        Credential::bearer(Origin::of(self.endpoint())?, &token.0)
    }

    /// The URL of `segments` below the endpoint, each escaped.
    pub(crate) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint().clone();
        url.set_query(None);
        url.set_fragment(None);
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// The URL of `segments` below the repository in the Hub's API.
    pub(crate) fn api_url(&self, repo: &RepoId, segments: &[&str]) -> Url {
        let repo = repo.as_str().split('/');
        let all = ["api", "models"].into_iter().chain(repo);
        self.url(all.chain(segments.iter().copied()))
    }

    /// A page about the repository, for a person.
    pub(crate) fn page(&self, repo: &RepoId) -> String {
        NetError::shown(&self.url(repo.as_str().split('/')))
    }

    /// Asks until there is an answer or patience ends; the answer is a 2xx whose body is JSON of
    /// at most `cap` bytes.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        http: &Http,
        repo: &RepoId,
        url: &Url,
        cap: usize,
    ) -> Result<(HeaderMap, T), HubError> {
        let mut waits = Waits::new(self);
        loop {
            let failed = match self.get(http, url).await {
                Ok(response) if response.status.is_success() => {
                    let headers = response.headers.clone();
                    let shown = NetError::shown(&response.url);
                    match response.bytes(cap).await {
                        Ok(body) => return read_json(&body, headers, shown),
                        Err(error) => Failed::Net(error),
                    }
                }
                Ok(response) => Failed::Status(Box::new(response)),
                Err(error) => Failed::Net(error),
            };
            waits.after(failed, repo).await?;
        }
    }

    /// Asks for the status alone until there is one.
    pub(crate) async fn check(
        &self,
        http: &Http,
        repo: &RepoId,
        url: &Url,
    ) -> Result<(), HubError> {
        let mut waits = Waits::new(self);
        loop {
            let failed = match self.get(http, url).await {
                Ok(response) if response.status.is_success() => return Ok(()),
                Ok(response) => Failed::Status(Box::new(response)),
                Err(error) => Failed::Net(error),
            };
            waits.after(failed, repo).await?;
        }
    }

    async fn get(&self, http: &Http, url: &Url) -> Result<Response, NetError> {
        http.send(self.request(Method::GET, url.clone())).await
    }

    /// A request of this Hub's, with its token.
    pub(crate) fn request(&self, method: Method, url: Url) -> Request {
        let mut request = Request::get(url).credential(self.credential());
        request.method = method;
        request.header_timeout = self.patience().headers;
        request
    }

    /// What a response that is no success means.
    pub(crate) fn refusal(&self, repo: &RepoId, response: &Response) -> HubError {
        let token = self.has_token();
        let said = said(response);
        let page = |below: &str| format!("{}{below}", self.page(repo));
        let code = response.header_of_any_hop("x-error-code");
        match (response.status.as_u16(), code.unwrap_or_default()) {
            (401 | 403, "GatedRepo") => HubError::Gated {
                ask: page(""),
                token,
                said,
            },
            (401 | 404, "RepoNotFound") => HubError::NotFound { token },
            (404, "RevisionNotFound") => HubError::Revision {
                page: page("/tree/main"),
            },
            (404, "EntryNotFound") => HubError::Entry,
            (401, _) if token => HubError::Token {
                page: NetError::shown(&self.url(["settings", "tokens"])),
                said,
            },
            (401 | 404, "") => HubError::NotFound { token },
            (403, _) if said.to_ascii_lowercase().contains("disabled") => HubError::Disabled,
            (403, _) => HubError::Forbidden { token, said },
            (429, _) => HubError::RateLimit {
                wait: asked_wait(response).unwrap_or_default(),
                token,
            },
            _ => HubError::Status {
                url: NetError::shown(&response.url),
                status: response.status,
                said,
            },
        }
    }
}

/// What kept an answer from coming.
enum Failed {
    Status(Box<Response>),
    Net(NetError),
}

/// The waits between the tries for one answer.
struct Waits<'a> {
    hub: &'a Hub,
    since: Instant,
    told: Duration,
    tries: u32,
}

impl<'a> Waits<'a> {
    fn new(hub: &'a Hub) -> Self {
        Self {
            hub,
            since: Instant::now(),
            told: Duration::ZERO,
            tries: 0,
        }
    }

    /// Waits as long as is right after `failed`, or says why there is no other try.
    async fn after(&mut self, failed: Failed, repo: &RepoId) -> Result<(), HubError> {
        let patience = self.hub.patience();
        self.tries += 1;
        let error = match failed {
            Failed::Status(response) => {
                let error = self.hub.refusal(repo, &response);
                if !is_passing(response.status) {
                    return Err(error);
                }
                if let Some(wait) = asked_wait(&response) {
                    self.told += wait;
                    if self.told > patience.told {
                        let token = self.hub.has_token();
                        return Err(HubError::RateLimit { wait, token });
                    }
                    tracing::info!(seconds = wait.as_secs(), "the hub asks to wait");
                    tokio::time::sleep(wait).await;
                    self.tries -= 1;
                    return Ok(());
                }
                error
            }
            Failed::Net(source) => {
                let transient = source.is_transient();
                let tries = self.tries;
                let error = HubError::Net { tries, source };
                if !transient {
                    return Err(error);
                }
                error
            }
        };
        let pause = patience.pause * 2_u32.saturating_pow(self.tries - 1);
        let pause = jittered(pause);
        let trouble = (self.since.elapsed() + pause).saturating_sub(self.told);
        if self.tries >= patience.tries || trouble > patience.trouble {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between three and five quarters of `pause`, so that agents started together do not ask
/// together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(pause) % 512;
    pause.mul_f64(0.75 + random as f64 / 1024.0)
}

fn read_json<T: serde::de::DeserializeOwned>(
    body: &[u8],
    headers: HeaderMap,
    url: String,
) -> Result<(HeaderMap, T), HubError> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok((headers, value)),
        Err(source) => {
            let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let found = kind.unwrap_or("no content type").chars().take(80).collect();
            Err(HubError::NotJson { url, found, source })
        }
    }
}

impl Token {
    /// A name for it, from which nobody finds it out.
    pub fn fingerprint(&self) -> Sha256 {
        let named = sha2::Sha256::new_with_prefix(b"headstart token\0").chain_update(&self.0);
        Sha256(named.finalize().into())
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    /// Reads a token as it stands in a file; white space around it is dropped.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        match text {
            "" => Err(InvalidToken("empty")),
            _ if text.len() > 4096 => Err(InvalidToken("longer than 4096 characters")),
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                Err(InvalidToken("more than one word of plain characters"))
            }
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &NetError::shown(self.endpoint()))
            .field("token", &self.shared.token)
            .finish()
    }
}
