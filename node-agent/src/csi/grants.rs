//! Who may see which model: the Hub's word, asked with the pod's own credential, and remembered for
//! a stated time.
//!
//! - What lies in the store grants nothing. A model that one pod's token brought is shown to another
//!   pod only after its own proof.
//! - The store is not looked at before the Hub has said yes: who may not read a model hears the same,
//!   as soon, whether it is here or not.
//! - An answer is a token's, a repository's and a commit's; only a token's fingerprint is kept.
//! - Without an answer of the Hub's only an acceptance that is remembered counts, and only as long
//!   as the rules say. A refusal is never remembered over an outage.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_core::digest::Sha256;
use headstart_core::model::{Commit, RepoId};
use headstart_hub::access::Verdict;
use headstart_hub::endpoint::{Hub, HubError, Token};
use headstart_transfer::net::Http;
use serde::{Deserialize, Serialize};

use crate::items::blocking;
use crate::report::chain;
use crate::store::{StoreError, write_json};

/// Most answers kept: with 32 models in each of 250 pods, the most that a node runs, 8,000.
const MOST: usize = 10_000;

/// How long an answer of the Hub's is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantRules {
    /// An acceptance, before the Hub is asked again.
    pub accepted: Duration,
    /// A refusal: short, since its owner is about to do something about it.
    pub refused: Duration,
    /// An acceptance, while the Hub does not answer.
    pub remembered: Duration,
}

impl Default for GrantRules {
    /// Ten minutes, ten seconds, a day.
    fn default() -> Self {
        Self {
            accepted: Duration::from_secs(600),
            refused: Duration::from_secs(10),
            remembered: Duration::from_secs(24 * 3600),
        }
    }
}

/// Whose word opened a model, and so whose token may fetch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Anybody may read it.
    ToAnybody,
    /// The asker may.
    ToAsker,
}

/// What is known of a request to see a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Granted(Opened),
    /// The Hub's reason, for the asker.
    Refused(String),
    /// The Hub does not answer, and nothing is remembered.
    NoAnswer(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Question {
    /// Nobody in particular when absent.
    token: Option<Sha256>,
    repo: RepoId,
    commit: Commit,
}

#[derive(Clone, Debug)]
enum Answer {
    Accepted { at: Duration },
    Refused { at: Duration, said: String },
}

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    question: Question,
    /// Seconds since 1970.
    at: u64,
}

/// The answers so far.
pub(crate) struct Grants {
    hub: Hub,
    http: Http,
    rules: GrantRules,
    /// Where acceptances survive a restart.
    path: PathBuf,
    answers: Mutex<HashMap<Question, Answer>>,
    /// Held by who writes.
    writing: tokio::sync::Mutex<()>,
}

impl Grants {
    /// Reads what was remembered at `path`. Blocks.
    pub(crate) fn open(hub: Hub, http: Http, rules: GrantRules, path: PathBuf) -> Self {
        let kept = std::fs::read(&path).ok();
        // Unreadable, it is as if nothing was remembered.
        let kept: Vec<Kept> = kept
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let answer = |kept: Kept| {
            let at = Duration::from_secs(kept.at);
            (kept.question, Answer::Accepted { at })
        };
        Self {
            hub,
            http,
            rules,
            path,
            answers: Mutex::new(kept.into_iter().map(answer).collect()),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Whether whoever has `token` may see `repo` at `commit`.
    pub(crate) async fn ask(
        &self,
        repo: &RepoId,
        commit: &Commit,
        token: Option<&Token>,
    ) -> Access {
        let mut refused = None;
        let mut unanswered = None;
        // What anybody may read needs nobody's token.
        for asker in [None].into_iter().chain(token.map(Some)) {
            let question = Question::of(asker, repo, commit);
            match self.fresh(&question) {
                Some(Answer::Accepted { .. }) => return Access::Granted(question.opened()),
                Some(Answer::Refused { said, .. }) => {
                    refused = Some(said);
                    continue;
                }
                None => {}
            }
            match self.hub.may_read(&self.http, repo, commit, asker).await {
                Ok(Verdict::Granted) => {
                    let opened = question.opened();
                    self.accept(question).await;
                    return Access::Granted(opened);
                }
                Ok(Verdict::Denied(error)) => {
                    let (at, said) = (now(), chain(&error));
                    refused = Some(said.clone());
                    self.note(question, Answer::Refused { at, said });
                }
                Err(error) => {
                    unanswered = Some(chain(&error));
                    // A limit is one asker's; an outage is everybody's.
                    if !matches!(error, HubError::RateLimit { .. }) {
                        break;
                    }
                }
            }
        }
        match (unanswered, refused) {
            (Some(said), _) => self
                .remembered(repo, commit, token)
                .map_or(Access::NoAnswer(said), Access::Granted),
            (None, said) => Access::Refused(said.unwrap_or_default()),
        }
    }

    /// What counts while the Hub does not answer.
    pub(crate) fn remembered(
        &self,
        repo: &RepoId,
        commit: &Commit,
        token: Option<&Token>,
    ) -> Option<Opened> {
        let askers = [None].into_iter().chain(token.map(Some));
        let mut questions = askers.map(|asker| Question::of(asker, repo, commit));
        let answers = self.answers();
        questions
            .find(|question| match answers.get(question) {
                Some(Answer::Accepted { at }) => self.counts(*at),
                _ => false,
            })
            .map(|question| question.opened())
    }

    /// Whether an acceptance of that time, since 1970, still counts while the Hub does not answer.
    pub(crate) fn counts(&self, at: Duration) -> bool {
        is_within(at, self.rules.remembered)
    }

    /// Remembers what the Hub said to whoever resolved it: that anybody may read it.
    pub(crate) async fn note_public(&self, repo: &RepoId, commit: &Commit) {
        let question = Question::of(None, repo, commit);
        if self.fresh(&question).is_none() {
            self.accept(question).await;
        }
    }

    fn fresh(&self, question: &Question) -> Option<Answer> {
        let answer = self.answers().get(question)?.clone();
        let fresh = match &answer {
            Answer::Accepted { at } => is_within(*at, self.rules.accepted),
            Answer::Refused { at, .. } => is_within(*at, self.rules.refused),
        };
        fresh.then_some(answer)
    }

    fn note(&self, question: Question, answer: Answer) {
        let mut answers = self.answers();
        answers.insert(question, answer);
        if answers.len() > MOST {
            let mut times: Vec<Duration> = answers.values().map(Answer::at).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            answers.retain(|_, answer| answer.at() > middle);
        }
    }

    async fn accept(&self, question: Question) {
        self.note(question, Answer::Accepted { at: now() });
        let _alone = self.writing.lock().await;
        let kept: Vec<Kept> = {
            let mut answers = self.answers();
            answers.retain(|_, answer| match answer {
                Answer::Accepted { at } => self.counts(*at) || is_within(*at, self.rules.accepted),
                Answer::Refused { at, .. } => is_within(*at, self.rules.refused),
            });
            let accepted = answers
                .iter()
                .filter_map(|(question, answer)| match answer {
                    Answer::Accepted { at } => Some(Kept {
                        question: question.clone(),
                        at: at.as_secs(),
                    }),
                    Answer::Refused { .. } => None,
                });
            accepted.collect()
        };
        let path = self.path.clone();
        let written: Result<(), StoreError> = blocking(move || write_json(&path, &kept)).await;
        if let Err(error) = written {
            tracing::warn!(reason = %chain(&error), "acceptances are not remembered over a restart");
        }
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    fn of(token: Option<&Token>, repo: &RepoId, commit: &Commit) -> Self {
        Self {
            token: token.map(Token::fingerprint),
            repo: repo.clone(),
            commit: *commit,
        }
    }

    fn opened(&self) -> Opened {
        match self.token {
            None => Opened::ToAnybody,
            Some(_) => Opened::ToAsker,
        }
    }
}

impl Answer {
    fn at(&self) -> Duration {
        match self {
            Self::Accepted { at } | Self::Refused { at, .. } => *at,
        }
    }
}

/// Time since 1970, which survives a restart; a clock that was set back makes an answer old.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn is_within(at: Duration, limit: Duration) -> bool {
    now().checked_sub(at).is_some_and(|age| age < limit)
}

#[cfg(test)]
mod tests;
