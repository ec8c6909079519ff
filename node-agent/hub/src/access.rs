//! Whether somebody may read a model, asked with that somebody's own token.
//!
//! Having the bytes says nothing about who may read them: a shared cache hands out gated files to
//! whoever reaches it. So a consumer's own token is asked about before the first byte is shown.
//! No body is fetched for it. How long an answer is believed is the caller's policy.

use headstart_core::model::{Commit, RepoId};
use headstart_transfer::net::Http;

use crate::endpoint::{Hub, HubError, Token};

/// The Hub's answer.
#[derive(Debug)]
pub enum Verdict {
    /// The token, or nobody's, may read that commit.
    Granted,
    /// It may not; the reason is for its owner.
    Denied(HubError),
}

impl Hub {
    /// Asks whether `token`, not this Hub's own, may read `repo` at `commit`. Two requests.
    ///
    /// # Errors
    /// When the Hub gave no answer. That is neither a grant nor a denial.
    pub async fn may_read(
        &self,
        http: &Http,
        repo: &RepoId,
        commit: &Commit,
        token: Option<&Token>,
    ) -> Result<Verdict, HubError> {
        let asker = self.with_token(token.cloned());
        let commit = commit.to_string();
        // The first knows gates but no commits, the second commits but no gates.
        for question in [&["auth-check"][..], &["revision", &commit]] {
            let url = asker.api_url(repo, question);
            match asker.check(http, repo, &url).await {
                Ok(()) => {}
                Err(error) if error.is_denial() => return Ok(Verdict::Denied(error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Verdict::Granted)
    }
}

#[cfg(test)]
mod tests;
