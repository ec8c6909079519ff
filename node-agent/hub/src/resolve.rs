//! From what a person asked for to a plan: one commit, its chosen files, their sizes and digests.
//!
//! A resolution is two questions: what commit is the revision, and what files has that commit. All
//! files come from one commit even while the branch moves. A plan that is already on disk for a
//! pinned commit needs no question at all; whoever keeps plans looks there first.
//!
//! The answer is not trusted: names that could leave a directory refuse the repository as a whole,
//! lists have caps, and a large file without sha256 is refused rather than taken unverified.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headstart_core::digest::{Expected, GitSha1};
use headstart_core::model::{
    Commit, InvalidPath, LeftOut, ModelRef, RepoId, RepoPath, Revision, SelectionError, choose,
};
use headstart_transfer::net::{Http, NetError, Origin};
use http::header::{HeaderMap, LINK};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::endpoint::{Hub, HubError};
use crate::plan::{MAX_FILES, ModelPlan, PlanError, PlannedFile, XetHash};

/// Largest answer about a repository, and largest page of its file list, in bytes. A page of 1,000
/// files with everything the Hub says about them is about 500 kB; the answer about a repository
/// repeats the names of all its files and its card.
const MAX_ANSWER: usize = 32 << 20;

/// Most pages of a file list. The Hub sends 1,000 files a page, a page for [`MAX_FILES`] is 100.
const MAX_PAGES: usize = 400;

/// Largest file believed, 16 TiB: the sizes of [`MAX_FILES`] of them add up without overflow.
const MAX_SIZE: u64 = 1 << 44;

/// Files that clients ask for and can do without. Where a commit lacks one, saying so saves them a
/// request. Source: the requests transformers makes.
const OPTIONAL: [&str; 7] = [
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
];

/// A model that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// What to fetch.
    pub plan: ModelPlan,
    /// What the commit has besides, sorted, with why it is not fetched.
    pub left_out: Vec<(RepoPath, LeftOut)>,
    /// Who may read it.
    pub audience: Audience,
}

/// Who may read a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Anybody.
    Public,
    /// Who accepted its conditions.
    Gated,
    /// Its owners.
    Private,
}

/// A model that could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {model} at {endpoint}")]
pub struct ResolveError {
    /// The model asked for, with its revision.
    pub model: String,
    /// The Hub that was asked.
    pub endpoint: String,
    /// Why not, and what to do.
    pub source: Problem,
}

/// Why a model could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The Hub refused, or did not answer.
    #[error(transparent)]
    Hub(HubError),
    /// The branch points where nothing is.
    #[error(
        "the revision points to commit {commit}, which the Hub does not have, also when asked again: wait for the push to end, or pin another commit"
    )]
    Moved {
        /// The commit.
        commit: Commit,
    },
    /// Another commit than the one pinned.
    #[error(
        "the Hub answered with commit {found} instead of the one asked for: check the endpoint"
    )]
    OtherCommit {
        /// What it answered.
        found: Commit,
    },
    /// A file name that is not stored anywhere.
    #[error("the repository is refused as a whole for one of its names")]
    Name {
        /// Which.
        source: InvalidPath,
    },
    /// A list beyond every sensible size.
    #[error(
        "the repository has more than {cap} {what}, which is more than a model has: check the name"
    )]
    TooLarge {
        /// Of what: files, pages.
        what: &'static str,
        /// The cap.
        cap: usize,
    },
    /// A file list that contradicts itself or says too little.
    #[error("the Hub's file list is unusable: {path}: {fault}; nothing can be verified by it")]
    Listing {
        /// About which file.
        path: String,
        /// What is wrong.
        fault: String,
    },
    /// Pages that lead elsewhere.
    #[error(
        "the next page of the file list is at {next}, which is not followed: check the endpoint"
    )]
    Page {
        /// Where, without query.
        next: String,
    },
    /// Nothing is in it.
    #[error("the repository is empty at commit {commit}: choose another revision")]
    Empty {
        /// Which commit.
        commit: Commit,
    },
    /// The patterns select nothing, or not enough was said.
    #[error(transparent)]
    Selection(SelectionError),
    /// Names that cannot lie beside each other.
    #[error(transparent)]
    Plan(PlanError),
}

impl ResolveError {
    /// Whether asking again later can end otherwise without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(&self.source, Problem::Hub(error) if error.is_transient())
            || matches!(self.source, Problem::Moved { .. })
    }
}

impl ResolveError {
    /// How long the Hub asks to wait.
    pub fn asked_wait(&self) -> Option<Duration> {
        match &self.source {
            Problem::Hub(HubError::RateLimit { wait, .. }) => Some(*wait),
            _ => None,
        }
    }
}

/// What the Hub says about a repository at a revision.
#[derive(Deserialize)]
struct Info {
    sha: Commit,
    #[serde(default)]
    private: Option<bool>,
    /// `false`, `"auto"` or `"manual"`.
    #[serde(default)]
    gated: Option<serde_json::Value>,
    #[serde(default)]
    disabled: Option<bool>,
}

/// An entry of the file list.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    oid: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    lfs: Option<Lfs>,
    #[serde(default, rename = "xetHash")]
    xet_hash: Option<String>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(default)]
    oid: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl Hub {
    /// Resolves `model`: two requests, one more for each further thousand files, and one more for
    /// a gated model.
    ///
    /// # Errors
    /// When the Hub does not give the model, or gives what cannot be stored safely.
    pub async fn resolve(&self, http: &Http, model: &ModelRef) -> Result<Resolution, ResolveError> {
        let resolved = self.try_resolve(http, model).await;
        resolved.map_err(|source| ResolveError {
            model: format!("{}@{}", model.repo, model.revision),
            endpoint: NetError::shown(self.endpoint()),
            source,
        })
    }

    async fn try_resolve(&self, http: &Http, model: &ModelRef) -> Result<Resolution, Problem> {
        let mut info = self.info(http, model).await?;
        let mut listed = self.listing(http, &model.repo, &info.sha).await;
        if let (Err(Problem::Hub(HubError::Revision { .. })), Revision::Name(_)) =
            (&listed, &model.revision)
        {
            // A force push between the two questions, or a replica that is behind.
            tokio::time::sleep(self.patience().pause).await;
            info = self.info(http, model).await?;
            listed = self.listing(http, &model.repo, &info.sha).await;
            if let Err(Problem::Hub(HubError::Revision { .. })) = listed {
                return Err(Problem::Moved { commit: info.sha });
            }
        }
        let resolution = decide(model, &info, listed?)?;
        if resolution.audience == Audience::Gated {
            self.pass_the_gate(http, &model.repo).await?;
        }
        Ok(resolution)
    }

    /// The file list of a gated model is open to all, its files are not: better to say so before
    /// anything is fetched. A mirror that does not know the question lets its files answer.
    async fn pass_the_gate(&self, http: &Http, repo: &RepoId) -> Result<(), Problem> {
        let url = self.api_url(repo, &["auth-check"]);
        match self.check(http, repo, &url).await {
            Err(
                error @ (HubError::Gated { .. }
                | HubError::Token { .. }
                | HubError::Forbidden { .. }
                | HubError::Disabled),
            ) => Err(Problem::Hub(error)),
            _ => Ok(()),
        }
    }

    async fn info(&self, http: &Http, model: &ModelRef) -> Result<Info, Problem> {
        let revision = model.revision.to_string();
        let url = self.api_url(&model.repo, &["revision", &revision]);
        let answer = self.json(http, &model.repo, &url, MAX_ANSWER).await;
        let (_, info): (_, Info) = answer.map_err(Problem::Hub)?;
        if info.disabled == Some(true) {
            return Err(Problem::Hub(HubError::Disabled));
        }
        match model.revision.commit() {
            Some(asked) if asked != info.sha => Err(Problem::OtherCommit { found: info.sha }),
            _ => Ok(info),
        }
    }

    /// Every file of a commit by its path, checked.
    async fn listing(
        &self,
        http: &Http,
        repo: &RepoId,
        commit: &Commit,
    ) -> Result<BTreeMap<RepoPath, PlannedFile>, Problem> {
        let mut url = self.api_url(repo, &["tree", &commit.to_string()]);
        url.set_query(Some("recursive=true&expand=false"));
        let mut files = BTreeMap::new();
        for _ in 0..MAX_PAGES {
            let answer = self.json(http, repo, &url, MAX_ANSWER).await;
            let (headers, entries): (_, Vec<Entry>) = answer.map_err(Problem::Hub)?;
            for entry in entries.into_iter().filter(|entry| entry.kind == "file") {
                let file = planned(entry)?;
                if let Some(twice) = files.insert(file.path.clone(), file) {
                    return Err(fault(twice.path.as_str(), "is listed twice"));
                }
            }
            if files.len() > MAX_FILES {
                let (what, cap) = ("files", MAX_FILES);
                return Err(Problem::TooLarge { what, cap });
            }
            match next_page(&headers, &url)? {
                Some(next) => url = next,
                None => return Ok(files),
            }
        }
        let (what, cap) = ("pages of files", MAX_PAGES);
        Err(Problem::TooLarge { what, cap })
    }
}

/// Chooses among the files and writes the plan.
fn decide(
    model: &ModelRef,
    info: &Info,
    mut files: BTreeMap<RepoPath, PlannedFile>,
) -> Result<Resolution, Problem> {
    if files.is_empty() {
        return Err(Problem::Empty { commit: info.sha });
    }
    let paths: Vec<RepoPath> = files.keys().cloned().collect();
    let choice = choose(&paths, &model.selection).map_err(Problem::Selection)?;
    let chosen = choice.files.iter();
    let chosen: Vec<PlannedFile> = chosen.filter_map(|path| files.remove(path)).collect();
    same_content_same_size(&chosen)?;
    let plan = ModelPlan::new(
        model.repo.clone(),
        model.revision.clone(),
        info.sha,
        choice.format,
        chosen,
        absent(&paths),
    );
    let gated = !matches!(
        info.gated,
        None | Some(serde_json::Value::Null | serde_json::Value::Bool(false))
    );
    Ok(Resolution {
        plan: plan.map_err(Problem::Plan)?,
        left_out: choice.left_out,
        audience: match (info.private, gated) {
            (Some(true), _) => Audience::Private,
            (_, true) => Audience::Gated,
            (_, false) => Audience::Public,
        },
    })
}

/// One entry as a plan knows it.
fn planned(entry: Entry) -> Result<PlannedFile, Problem> {
    let path: RepoPath = entry
        .path
        .parse()
        .map_err(|source| Problem::Name { source })?;
    let wrong = |text: &str| fault(path.as_str(), text);
    let blob_id: GitSha1 = entry
        .oid
        .parse()
        .map_err(|_| wrong("has no git object id of 40 hex digits"))?;
    if entry.size > MAX_SIZE {
        return Err(wrong(&format!("has {} bytes", entry.size)));
    }
    let expected = match entry.lfs {
        None => Expected::GitSha1(blob_id),
        Some(lfs) => {
            if let Some(size) = lfs.size.filter(|size| *size != entry.size) {
                let text = format!(
                    "has {} bytes in one place and {size} in another",
                    entry.size
                );
                return Err(wrong(&text));
            }
            let sha256 = lfs.oid.as_deref().and_then(|oid| oid.parse().ok());
            Expected::Sha256(sha256.ok_or_else(|| wrong("is a large file without sha256"))?)
        }
    };
    let xet_hash = entry.xet_hash.and_then(|text| text.parse().ok());
    Ok(PlannedFile {
        size: entry.size,
        expected,
        blob_id,
        xet_hash: xet_hash.map(XetHash),
        path,
    })
}

fn fault(path: &str, text: &str) -> Problem {
    Problem::Listing {
        path: path.to_owned(),
        fault: text.to_owned(),
    }
}

/// Two paths of one content are one object, so they must agree on its size.
fn same_content_same_size(files: &[PlannedFile]) -> Result<(), Problem> {
    let mut sizes = BTreeMap::new();
    for file in files {
        let size = *sizes.entry(file.expected).or_insert(file.size);
        if size != file.size {
            let text = format!(
                "has {} bytes, and a file of the same digest {size}",
                file.size
            );
            return Err(fault(file.path.as_str(), &text));
        }
    }
    Ok(())
}

/// Which optional files the commit lacks. One whose name only differs in case from something that
/// is there is not mentioned: the two could not lie beside each other.
fn absent(paths: &[RepoPath]) -> Vec<RepoPath> {
    let tops: BTreeSet<String> = paths
        .iter()
        .filter_map(|path| path.components().next())
        .map(str::to_lowercase)
        .collect();
    let missing = OPTIONAL.iter().filter(|name| !tops.contains(**name));
    missing.filter_map(|name| name.parse().ok()).collect()
}

/// The address of the next page (RFC 8288), which must be the same question to the same Hub.
fn next_page(headers: &HeaderMap, at: &Url) -> Result<Option<Url>, Problem> {
    let links = headers.get_all(LINK).iter();
    let links = links.filter_map(|value| value.to_str().ok());
    let next = links.flat_map(split_links).find(|(_, rest)| {
        let mut parameters = rest.split(';').map(str::trim);
        parameters.any(|p| p == "rel=\"next\"" || p == "rel=next")
    });
    let Some((target, _)) = next else {
        return Ok(None);
    };
    let page = |next: String| Problem::Page { next };
    let url = at.join(target);
    let url = url.map_err(|_| page(target.chars().take(200).collect()))?;
    let same = Origin::of(&url) == Origin::of(at) && url.path() == at.path() && url != *at;
    match same {
        true => Ok(Some(url)),
        false => Err(page(NetError::shown(&url))),
    }
}

/// The links of a `Link` header: target and parameters. A target may hold commas.
fn split_links(value: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    let mut rest = value;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else {
            break;
        };
        let end = after.find('<').unwrap_or(after.len());
        links.push((target, after[..end].trim_end_matches([',', ' '])));
        rest = &after[end..];
    }
    links
}

#[cfg(test)]
mod tests;
