//! What a refusal of the Hub's means, in one line that says what to do.

use std::time::{Duration, SystemTime};

use headstart_transfer::net::{NetError, Response};
use http::StatusCode;

/// Why the Hub gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No such repository, or one that only its owners see.
    #[error("the Hub shows no such model: check the spelling; {}", private_advice(*token))]
    NotFound {
        /// Whether a token was sent.
        token: bool,
    },
    /// Its conditions must be accepted first.
    #[error("the model is gated: {}", gated_advice(ask, *token, said))]
    Gated {
        /// The page where access is asked for.
        ask: String,
        /// Whether a token was sent.
        token: bool,
        /// What the Hub said about it.
        said: String,
    },
    /// The token itself is not accepted.
    #[error(
        "the Hub refused the token{}: make a new one at {page} and give that",
        quoted(said)
    )]
    Token {
        /// Where tokens are made.
        page: String,
        /// What the Hub said about it.
        said: String,
    },
    /// The Hub took the repository away.
    #[error("the Hub has disabled the model: choose another, or ask its owner")]
    Disabled,
    /// No such branch, tag or commit.
    #[error("the model has no such revision: see its branches and tags at {page}")]
    Revision {
        /// Where they are shown.
        page: String,
    },
    /// No such file at that revision.
    #[error("the Hub has no such file at that commit: resolve the model again")]
    Entry,
    /// Not allowed, for another reason.
    #[error(
        "the Hub answered 403 Forbidden{}: {}",
        quoted(said),
        private_advice(*token)
    )]
    Forbidden {
        /// Whether a token was sent.
        token: bool,
        /// What the Hub said about it.
        said: String,
    },
    /// A rate limit that takes longer than anyone waits here.
    #[error(
        "the Hub's rate limit asks to wait {} s: {}",
        wait.as_secs(),
        quota_advice(*token)
    )]
    RateLimit {
        /// How long.
        wait: Duration,
        /// Whether a token was sent.
        token: bool,
    },
    /// A status that nobody expects.
    #[error("{url} answered {status}{}: {}", quoted(said), status_advice(*status))]
    Status {
        /// Who answered, without query.
        url: String,
        /// With what.
        status: StatusCode,
        /// What was said about it.
        said: String,
    },
    /// No response.
    #[error("no answer after {tries} tries")]
    Net {
        /// How often it was tried.
        tries: u32,
        /// What went wrong last.
        source: NetError,
    },
    /// Something else than the Hub's JSON.
    #[error(
        "{url} answered with {found} instead of the Hub's JSON: check the endpoint, and whether a proxy or portal answers in its place"
    )]
    NotJson {
        /// Who answered, without query.
        url: String,
        /// Its content type.
        found: String,
        /// The parser's word.
        source: serde_json::Error,
    },
}

impl HubError {
    /// Whether asking again later can end otherwise without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimit { .. } => true,
            Self::Net { source, .. } => source.is_transient(),
            Self::Status { status, .. } => is_passing(*status),
            _ => false,
        }
    }

    /// Whether the Hub knows the asker and says no, or says that it does not know what was asked
    /// for: an answer, and not the lack of one.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Self::NotFound { .. }
                | Self::Gated { .. }
                | Self::Token { .. }
                | Self::Disabled
                | Self::Revision { .. }
                | Self::Forbidden { .. }
        )
    }
}

/// What a second request may not get again (the Hub's own clients retry the same).
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// How long a response asks to wait: `Retry-After` in both its forms, else the `t` of `RateLimit`
/// with nothing left in its window. One second is added to `t`, as the window is counted in whole
/// seconds.
pub(crate) fn asked_wait(response: &Response) -> Option<Duration> {
    if let Some(text) = response.header("retry-after") {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        if let Ok(until) = httpdate::parse_http_date(text) {
            // Read against the server's own clock, so one that is off does not matter.
            let now = response
                .header("date")
                .and_then(|date| httpdate::parse_http_date(date).ok());
            let now = now.unwrap_or_else(SystemTime::now);
            return Some(until.duration_since(now).unwrap_or(Duration::from_secs(1)));
        }
    }
    if response.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let limits = response.headers.get_all("ratelimit");
    let windows = limits.iter().filter_map(|value| value.to_str().ok());
    let waits = windows
        .flat_map(|text| text.split(','))
        .filter_map(|window| {
            let part = |key: &str| {
                let mut parts = window.split(';').map(str::trim);
                parts.find_map(|part| part.strip_prefix(key)?.parse::<u64>().ok())
            };
            (part("r=").unwrap_or(0) == 0).then(|| part("t="))?
        });
    Some(Duration::from_secs(waits.max()?.saturating_add(1)))
}

/// The Hub's own explanation, made fit for one line.
pub(super) fn said(response: &Response) -> String {
    let text = response.header_of_any_hop("x-error-message");
    let plain = text.unwrap_or_default().chars().map(|c| match c {
        c if c.is_control() => ' ',
        c => c,
    });
    plain.take(300).collect::<String>().trim().to_owned()
}

fn quoted(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(" ({said:?})"),
    }
}

fn private_advice(token: bool) -> &'static str {
    match token {
        true => "if it is private, use a token of an account that may read it",
        false => "if it is private, give a token with --token-file",
    }
}

fn gated_advice(ask: &str, token: bool, said: &str) -> String {
    let said = quoted(said);
    match token {
        true => format!(
            "the token's account has no access{said}; ask for access with that account at {ask}, and let the token read gated repositories"
        ),
        false => format!(
            "no token was given{said}; ask for access at {ask}, then give a token with --token-file"
        ),
    }
}

fn quota_advice(token: bool) -> &'static str {
    match token {
        true => "try again then",
        false => "try again then, or give a token with --token-file, which has a quota of its own",
    }
}

fn status_advice(status: StatusCode) -> &'static str {
    match is_passing(status) {
        true => "try again later",
        false => "check the endpoint",
    }
}
