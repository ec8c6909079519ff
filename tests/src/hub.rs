//! A server with the Hub's HTTP surface, as its clients from 2023 to 2026 use it.
//!
//! Small files come from the Hub itself, large ones from a second origin through signed links that
//! expire and that refuse a request with a credential. Everything asked is in [`Hub::log`].
//!
//! Deliberately absent: uploads, search, datasets and spaces; the Xet storage itself (its hashes
//! and tokens can be announced).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, HeaderName};
use http::{Method, StatusCode};

use self::cdn::{Cdn, Signer};
use self::repo::Repo;
pub use self::repo::{Access, Large, RepoFile};
use crate::serve::{
    Ask, Bound, Door, Entry, Faults, Handle, Log, Reply, Server, Site, StartError, rate_limited,
};

mod api;
mod cdn;
mod repo;
mod resolve;

#[cfg(test)]
mod tests;

const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-error-message");
const REPO_COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// How a Hub is started. The default: free ports, plain HTTP, no limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the Hub is reached.
    pub hub: Door,
    /// How the origin of large files is reached.
    pub cdn: Door,
    /// How long a signed link is good for; whole seconds.
    pub link_lifetime: Duration,
    /// Entries in one page of a listing.
    pub page: usize,
    /// Whether small files are redirected to a cache path of the Hub itself first, as the real one
    /// does at times.
    pub resolve_cache: bool,
    /// The address of a Xet storage to announce for large files.
    pub xet: Option<String>,
    /// How often may be asked.
    pub quota: Option<Quota>,
}

/// Requests per window, as the Hub limits them: for each token, and all without one together.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Requests for metadata.
    pub api: u64,
    /// Requests for files.
    pub resolvers: u64,
    /// Length of a window.
    pub window: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hub: Door::default(),
            cdn: Door::default(),
            link_lifetime: Duration::from_secs(3600),
            page: 1000,
            resolve_cache: false,
            xet: None,
            quota: None,
        }
    }
}

/// A running Hub. Dropping it closes its ports.
#[derive(Debug)]
pub struct Hub {
    state: Arc<State>,
    hub: Server,
    cdn: Server,
    log: Log,
    faults: Faults,
}

#[derive(Debug)]
struct State {
    repos: Mutex<BTreeMap<String, Repo>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    windows: Mutex<BTreeMap<(String, &'static str), Window>>,
    signer: Signer,
    cdn_origin: String,
    hub_origin: String,
    page: usize,
    resolve_cache: bool,
    xet: Option<String>,
    quota: Option<Quota>,
}

/// Requests counted since a time.
#[derive(Debug)]
struct Window {
    start: Instant,
    used: u64,
}

#[derive(Debug, Default)]
struct Token {
    user: String,
    granted: BTreeSet<String>,
}

/// What was asked of the Hub that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// A repository.
    #[error("the hub has no repository {0}")]
    Repo(String),
    /// A revision.
    #[error("{repo} has no revision {revision}")]
    Revision {
        /// Of which repository.
        repo: String,
        /// Which.
        revision: String,
    },
    /// A token.
    #[error("the hub does not know this token")]
    Token,
}

impl Hub {
    /// Starts both origins on the current runtime.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let (log, faults) = (Log::default(), Faults::default());
        let hub = Bound::new(options.hub).await?;
        let cdn = Bound::new(options.cdn).await?;
        let state = Arc::new(State {
            repos: Mutex::default(),
            tokens: Mutex::default(),
            windows: Mutex::default(),
            signer: Signer::new(options.link_lifetime),
            cdn_origin: cdn.origin(),
            hub_origin: hub.origin(),
            page: options.page.max(1),
            resolve_cache: options.resolve_cache,
            xet: options.xet,
            quota: options.quota,
        });
        let large = Arc::new(Cdn(state.clone()));
        let cdn = cdn.serve(Site::Cdn, log.clone(), faults.clone(), large);
        let hub = hub.serve(
            Site::Hub,
            log.clone(),
            faults.clone(),
            Arc::new(Front(state.clone())),
        );
        Ok(Self {
            state,
            hub,
            cdn,
            log,
            faults,
        })
    }

    /// What `HF_ENDPOINT` must be: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        self.hub.origin()
    }

    /// The origin of large files.
    pub fn cdn_endpoint(&self) -> String {
        self.cdn.origin()
    }

    /// Every request to both origins.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What goes wrong on demand, at both origins.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Requests that carried a credential to the origin of large files.
    pub fn violations(&self) -> Vec<Entry> {
        self.log
            .matching(|entry| entry.site == Site::Cdn && entry.credential)
    }

    /// Commits a whole tree to a branch, making the repository (public) and the branch where they
    /// do not exist. The new commit's id.
    pub fn commit(&self, repo: &str, branch: &str, files: Vec<RepoFile>) -> String {
        let mut repos = self.state.repos();
        let repo = repos.entry(repo.to_owned()).or_default();
        let parent = repo.branches.get(branch).cloned();
        let title = if parent.is_some() {
            "Update"
        } else {
            "Initial commit"
        };
        repo.commit(branch, parent, title, files)
    }

    /// Replaces a branch by one commit without a parent; commits that nothing leads to any more
    /// are gone. The new commit's id.
    pub fn force_push(&self, repo: &str, branch: &str, files: Vec<RepoFile>) -> String {
        let mut repos = self.state.repos();
        let repo = repos.entry(repo.to_owned()).or_default();
        let id = repo.commit(branch, None, "Rewritten", files);
        repo.forget_unreachable();
        id
    }

    /// Points a tag at a revision.
    ///
    /// # Errors
    /// When the repository or the revision is not there.
    pub fn tag(&self, repo: &str, tag: &str, revision: &str) -> Result<(), Unknown> {
        self.point(repo, revision, |found, id| {
            found.tags.insert(tag.to_owned(), id)
        })
    }

    /// Points a branch (also `refs/pr/1`) at a revision.
    ///
    /// # Errors
    /// When the repository or the revision is not there.
    pub fn branch(&self, repo: &str, branch: &str, revision: &str) -> Result<(), Unknown> {
        self.point(repo, revision, |found, id| {
            found.branches.insert(branch.to_owned(), id)
        })
    }

    fn point(
        &self,
        repo: &str,
        revision: &str,
        insert: impl FnOnce(&mut Repo, String) -> Option<String>,
    ) -> Result<(), Unknown> {
        let mut repos = self.state.repos();
        let found = repos
            .get_mut(repo)
            .ok_or_else(|| Unknown::Repo(repo.to_owned()))?;
        let id = found.resolve(revision).map(|(id, _)| id.to_owned());
        let id = id.ok_or_else(|| Unknown::Revision {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
        })?;
        insert(found, id);
        Ok(())
    }

    /// Changes who may read a repository.
    ///
    /// # Errors
    /// When it is not there.
    pub fn set_access(&self, repo: &str, access: Access) -> Result<(), Unknown> {
        let mut repos = self.state.repos();
        let found = repos
            .get_mut(repo)
            .ok_or_else(|| Unknown::Repo(repo.to_owned()))?;
        found.access = access;
        Ok(())
    }

    /// Takes a repository away.
    pub fn remove(&self, repo: &str) {
        self.state.repos().remove(repo);
    }

    /// Makes a token of a user known; it may read what is public.
    pub fn add_token(&self, token: &str, user: &str) {
        let user = user.to_owned();
        let known = Token {
            user,
            granted: BTreeSet::new(),
        };
        self.state.tokens().insert(token.to_owned(), known);
    }

    /// Makes a token unknown.
    pub fn revoke_token(&self, token: &str) {
        self.state.tokens().remove(token);
    }

    /// Lets a token read a gated or private repository.
    ///
    /// # Errors
    /// When the token is unknown.
    pub fn grant(&self, token: &str, repo: &str) -> Result<(), Unknown> {
        let mut tokens = self.state.tokens();
        let token = tokens.get_mut(token).ok_or(Unknown::Token)?;
        token.granted.insert(repo.to_owned());
        Ok(())
    }

    /// Takes that back.
    pub fn revoke(&self, token: &str, repo: &str) {
        if let Some(token) = self.state.tokens().get_mut(token) {
            token.granted.remove(repo);
        }
    }

    /// Changes how long signed links are good for from now on.
    pub fn set_link_lifetime(&self, lifetime: Duration) {
        self.state.signer.set_lifetime(lifetime);
    }

    /// Makes every signed link given out so far expired.
    pub fn expire_links(&self) {
        self.state.signer.expire_all();
    }
}

impl State {
    fn repos(&self) -> MutexGuard<'_, BTreeMap<String, Repo>> {
        self.repos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tokens(&self) -> MutexGuard<'_, BTreeMap<String, Token>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks.
enum Caller {
    Nobody,
    /// A token that the Hub does not know.
    Stranger,
    User {
        name: String,
        granted: BTreeSet<String>,
    },
}

impl Caller {
    fn of(state: &State, ask: &Ask) -> Self {
        let Some(header) = ask.header(&AUTHORIZATION) else {
            return Self::Nobody;
        };
        let tokens = state.tokens();
        match header
            .strip_prefix("Bearer ")
            .and_then(|token| tokens.get(token))
        {
            Some(token) => Self::User {
                name: token.user.clone(),
                granted: token.granted.clone(),
            },
            None => Self::Stranger,
        }
    }

    fn is_granted(&self, repo: &str) -> bool {
        matches!(self, Self::User { granted, .. } if granted.contains(repo))
    }
}

/// Whether a request is about the repository or about what is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Repo,
    Files,
}

/// The Hub's own origin.
struct Front(Arc<State>);

impl Handle for Front {
    fn handle(&self, ask: &Ask) -> Reply {
        let segments = ask.segments();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let is_api = segments.first() == Some(&"api") && segments.get(1) != Some(&"resolve-cache");
        if let Some(refused) = self
            .0
            .over_quota(ask, if is_api { "api" } else { "resolvers" })
        {
            return refused;
        }
        let caller = Caller::of(&self.0, ask);
        let is_read = ask.method == Method::GET || ask.method == Method::HEAD;
        match segments[..] {
            ["api", "whoami-v2"] if is_read => api::whoami(&caller),
            ["api", "resolve-cache", "models", ref rest @ ..] if is_read => {
                self.0.resolve_cached(&caller, rest)
            }
            ["api", "models", ref rest @ ..] => self.0.api(ask, &caller, rest),
            ref all if is_read => self.0.resolve(&caller, all),
            _ => not_found("EntryNotFound", "Not Found"),
        }
    }
}

impl State {
    /// Counts a request against its window.
    fn over_quota(&self, ask: &Ask, bucket: &'static str) -> Option<Reply> {
        let Quota {
            api,
            resolvers,
            window,
        } = self.quota?;
        let quota = if bucket == "api" { api } else { resolvers };
        let who = ask.header(&AUTHORIZATION).unwrap_or_default().to_owned();
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let Window { start, used } = windows.entry((who, bucket)).or_insert(Window {
            start: now,
            used: 0,
        });
        if now.duration_since(*start) >= window {
            (*start, *used) = (now, 0);
        }
        *used += 1;
        if *used <= quota {
            return None;
        }
        let left = (*start + window).saturating_duration_since(now);
        Some(rate_limited(
            bucket,
            quota,
            left.as_secs_f64().ceil() as u64,
        ))
    }

    /// Runs `found` on a repository if the caller may see it.
    fn with_repo(
        &self,
        caller: &Caller,
        id: &str,
        about: About,
        found: impl FnOnce(&Repo) -> Reply,
    ) -> Reply {
        if let Caller::Stranger = caller {
            return error(
                StatusCode::UNAUTHORIZED,
                None,
                "Invalid credentials in Authorization header",
            );
        }
        let repos = self.repos();
        let Some(repo) = repos.get(id) else {
            return repo_not_found(caller);
        };
        match repo.access {
            Access::Public => found(repo),
            Access::Disabled => error(
                StatusCode::FORBIDDEN,
                None,
                "Access to this resource is disabled.",
            ),
            Access::Private if !caller.is_granted(id) => repo_not_found(caller),
            Access::Gated if about == About::Files && !caller.is_granted(id) => gated(caller, id),
            Access::Private | Access::Gated => found(repo),
        }
    }

    /// The same on a commit of it.
    fn with_commit(
        &self,
        caller: &Caller,
        id: &str,
        revision: &str,
        about: About,
        found: impl FnOnce(&Repo, &str, &repo::Commit) -> Reply,
    ) -> Reply {
        self.with_repo(caller, id, about, |repo| match repo.resolve(revision) {
            Some((commit_id, commit)) => found(repo, commit_id, commit),
            None => not_found("RevisionNotFound", &format!("Invalid rev id: {revision}")),
        })
    }
}

fn error(status: StatusCode, code: Option<&str>, message: &str) -> Reply {
    let body = serde_json::json!({ "error": message });
    let mut reply = Reply::json(&body).header(ERROR_MESSAGE, message);
    reply.status = status;
    match code {
        Some(code) => reply.header(ERROR_CODE, code),
        None => reply,
    }
}

fn not_found(code: &str, message: &str) -> Reply {
    error(StatusCode::NOT_FOUND, Some(code), message)
}

/// The Hub does not tell strangers whether a repository is missing or private.
fn repo_not_found(caller: &Caller) -> Reply {
    match caller {
        Caller::User { .. } => not_found("RepoNotFound", "Repository not found"),
        Caller::Nobody | Caller::Stranger => error(
            StatusCode::UNAUTHORIZED,
            Some("RepoNotFound"),
            "Invalid username or password.",
        ),
    }
}

fn gated(caller: &Caller, id: &str) -> Reply {
    let (status, message) = match caller {
        Caller::User { .. } => (
            StatusCode::FORBIDDEN,
            format!("Access to model {id} is restricted and you are not in the authorized list."),
        ),
        _ => (
            StatusCode::UNAUTHORIZED,
            format!(
                "Access to model {id} is restricted. You must have access to it and be authenticated to access it. Please log in."
            ),
        ),
    };
    error(status, Some("GatedRepo"), &message)
}
