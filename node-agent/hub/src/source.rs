//! The files of a plan as sources for the engine.
//!
//! A large file lies behind a redirect to a signed address on another host. The Hub is asked for
//! that address once, and the engine reads ranges from it directly: the Hub counts its answers
//! (3,000 in five minutes without a token), and a request per range would use them up. When the
//! address expires the Hub is asked again. Small files are one request each, to the Hub itself.
//!
//! The token never reaches the other host.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use headstart_core::digest::Expected;
use headstart_core::model::{Commit, RepoId};
use headstart_transfer::net::{Http, MAX_REDIRECTS, NetError, Origin, Response};
use headstart_transfer::source::{Location, Source, SourceError, SourceKind};
use http::header::{HeaderMap, LOCATION};
use http::{Method, StatusCode};
use url::Url;

use crate::endpoint::{Hub, HubError, asked_wait, is_passing};
use crate::plan::{ModelPlan, PlannedFile};

/// How long a Hub that is in trouble and does not say for how long is left alone.
const BREATH: Duration = Duration::from_secs(2);

/// Longest wait handed on; a rate limit's window is five minutes.
const LONGEST: Duration = Duration::from_secs(300);

/// One file of a plan, at one Hub.
#[derive(Clone, Debug)]
pub struct FileSource {
    hub: Hub,
    repo: RepoId,
    commit: Commit,
    file: PlannedFile,
}

impl Hub {
    /// The source of one file of a plan.
    pub fn source(&self, plan: &ModelPlan, file: &PlannedFile) -> Arc<dyn Source> {
        Arc::new(FileSource {
            hub: self.clone(),
            repo: plan.repo.clone(),
            commit: plan.commit,
            file: file.clone(),
        })
    }
}

impl Source for FileSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Hub
    }

    fn name(&self) -> String {
        self.hub.host()
    }

    fn locate<'a>(
        &'a self,
        http: &'a Http,
        refused: Option<StatusCode>,
    ) -> BoxFuture<'a, Result<Location, SourceError>> {
        Box::pin(async move {
            match (self.file.expected, refused) {
                // One request is enough for a small file; only a refusal is worth another.
                (Expected::GitSha1(_), None) => Ok(self.at_hub(self.url())),
                _ => self.ask(http).await,
            }
        })
    }
}

impl FileSource {
    fn url(&self) -> Url {
        let commit = self.commit.to_string();
        let place = ["resolve", &commit];
        let repo = self.repo.as_str().split('/');
        let below = repo.chain(place).chain(self.file.path.components());
        self.hub.url(below)
    }

    fn at_hub(&self, url: Url) -> Location {
        Location {
            url,
            headers: HeaderMap::new(),
            credential: self.hub.credential(),
        }
    }

    /// Follows the Hub's own redirects and stops at the first that leads to another host.
    async fn ask(&self, http: &Http) -> Result<Location, SourceError> {
        let mut url = self.url();
        for _ in 0..=MAX_REDIRECTS {
            let request = self.hub.request(Method::HEAD, url.clone());
            let sent = http.send_once(&request).await;
            let response = sent.map_err(SourceError::Net)?;
            let Some(next) = self.judge(&response)? else {
                return Ok(self.at_hub(url));
            };
            if Origin::of(&next) == Origin::of(self.hub.endpoint()) {
                url = next;
                continue;
            }
            if url.scheme() == "https" && next.scheme() != "https" {
                let to = NetError::shown(&next);
                return Err(SourceError::Net(NetError::Downgrade { to }));
            }
            return Ok(Location {
                url: next,
                headers: HeaderMap::new(),
                credential: None,
            });
        }
        let url = NetError::shown(&url);
        Err(SourceError::Net(NetError::TooManyRedirects { url }))
    }

    /// What a response about the file means: where it leads to, if anywhere.
    fn judge(&self, response: &Response) -> Result<Option<Url>, SourceError> {
        match response.status {
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(None),
            status if status.is_success() => self.check(response).map(|()| None),
            status if status.is_redirection() => {
                self.check(response)?;
                let nowhere = || {
                    let url = NetError::shown(&response.url);
                    SourceError::Net(NetError::InvalidRedirect { url })
                };
                let target = response.headers.get(LOCATION).and_then(|v| v.to_str().ok());
                let next = response.url.join(target.ok_or_else(nowhere)?);
                let next = next.map_err(|_| nowhere())?;
                let plain = next.username().is_empty() && next.password().is_none();
                match next.scheme() {
                    "http" | "https" if plain => Ok(Some(next)),
                    _ => Err(nowhere()),
                }
            }
            status if is_passing(status) => {
                let wait = asked_wait(response).unwrap_or(BREATH);
                Err(SourceError::Busy(
                    wait.clamp(Duration::from_secs(1), LONGEST),
                ))
            }
            _ => {
                let error = self.hub.refusal(&self.repo, response);
                Err(SourceError::Final(self.word(&error)))
            }
        }
    }

    /// What the Hub says about the file must be what the plan says.
    fn check(&self, response: &Response) -> Result<(), SourceError> {
        let wrong = |what: &str, planned: &str, found: &str| {
            let found: String = found.chars().take(80).collect();
            Err(SourceError::Final(format!(
                "{} serves {what} {found:?} for a file planned with {planned:?}: the repository or the mirror changed, resolve the model again",
                self.hub.host()
            )))
        };
        let commit = self.commit.to_string();
        if let Some(found) = response.header("x-repo-commit").filter(|c| *c != commit) {
            return wrong("commit", &commit, found);
        }
        let size = self.file.size.to_string();
        if let Some(found) = response.header("x-linked-size").filter(|s| *s != size) {
            return wrong("size", &size, found);
        }
        let etag = self.file.etag();
        let found = response.header("x-linked-etag").map(bare_etag);
        match found.filter(|found| *found != etag) {
            Some(found) => wrong("digest", &etag, found),
            None => Ok(()),
        }
    }

    fn word(&self, error: &HubError) -> String {
        format!("{}: {error}", self.repo)
    }
}

/// An etag as caches name their blobs by it: without `W/` and quotes.
fn bare_etag(text: &str) -> &str {
    text.strip_prefix("W/").unwrap_or(text).trim_matches('"')
}

#[cfg(test)]
mod tests;
