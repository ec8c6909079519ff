//! Why an image could not be resolved. Each error is one line for a person: what was asked, what
//! was found, what to do.

use std::fmt;
use std::time::Duration;

use headstart_transfer::net::NetError;
use http::StatusCode;

use crate::access::AskError;
use crate::hosts::InvalidHosts;
use crate::platform::Platform;

/// Why an image could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The registry wants a login that was not there or was refused.
    #[error(
        "{image}: {registry} refused access (401){}: add a login that may pull it, as a Docker config file or pull secret",
        listed(denials)
    )]
    Unauthorized {
        /// What was asked for.
        image: String,
        /// Who refused.
        registry: String,
        /// What became of each login.
        denials: Vec<String>,
    },
    /// The registry knows who asks and says no.
    #[error(
        "{image}: {registry} denies access (403){}: ask its owner for the right to pull {image}",
        listed(denials)
    )]
    Forbidden {
        /// What was asked for.
        image: String,
        /// Who refused.
        registry: String,
        /// What became of each login.
        denials: Vec<String>,
    },
    /// There is no such image.
    #[error("{image}: {registry} has no such {what} (404): check its spelling{}", if *anonymous { ", and whether it needs a login: some registries hide private repositories" } else { "" })]
    NotFound {
        /// What was asked for.
        image: String,
        /// Who was asked.
        registry: String,
        /// `image`, `config` or `manifest` with digest.
        what: String,
        /// Whether no login was used.
        anonymous: bool,
    },
    /// The registry asks to come back later and did so until patience ran out.
    #[error("{image}: {registry} is limiting requests (429){}: try later{}", waits(*wait), if *anonymous { ", or add a login to raise the limit" } else { "" })]
    RateLimited {
        /// What was asked for.
        image: String,
        /// Who said so.
        registry: String,
        /// How long it asks to wait.
        wait: Option<Duration>,
        /// Whether no login was configured.
        anonymous: bool,
    },
    /// The registry fails.
    #[error("{image}: {registry} answered {status}{}: try later, or ask its operator", waits(*wait))]
    Unavailable {
        /// What was asked for.
        image: String,
        /// Who answered.
        registry: String,
        /// What it answered.
        status: StatusCode,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// No answer came.
    #[error("{image}: no answer from {registry}")]
    Net {
        /// What was asked for.
        image: String,
        /// Who was asked.
        registry: String,
        /// Why.
        source: NetError,
    },
    /// A document larger than anything sensible.
    #[error("{image}: {registry} sent {} for a {what}, more than the {} MiB allowed: nothing was kept", length.map_or_else(|| "an endless body".to_owned(), |bytes| format!("{bytes} bytes")), cap >> 20)]
    TooLarge {
        /// What was asked for.
        image: String,
        /// Who sent it.
        registry: String,
        /// `manifest` or `config`.
        what: &'static str,
        /// Bytes announced, if any were.
        length: Option<u64>,
        /// Bytes allowed.
        cap: usize,
    },
    /// The bytes are not what was asked for.
    #[error(
        "{image}: content mismatch: {registry} sent a {what} of {found} instead of {expected}; nothing was kept"
    )]
    Mismatch {
        /// What was asked for.
        image: String,
        /// Who sent it.
        registry: String,
        /// `manifest` or `config`.
        what: &'static str,
        /// The digest it must have.
        expected: String,
        /// The digest it has.
        found: String,
    },
    /// There is no image for the platform.
    #[error(
        "{image} has no image for {wanted}; it has {}: choose another image or platform",
        platforms(have)
    )]
    Platform {
        /// What was asked for.
        image: String,
        /// The platform asked for.
        wanted: Platform,
        /// The platforms there are.
        have: Vec<Platform>,
    },
    /// Something that is no container image, or not in a form supported here.
    #[error("{image} cannot be used: {reason}")]
    Unsupported {
        /// What was asked for.
        image: String,
        /// What was found, and what to do.
        reason: String,
    },
    /// A document that contradicts itself or its specification.
    #[error("{image}: {registry} sent an invalid {what}: {reason}")]
    Invalid {
        /// What was asked for.
        image: String,
        /// Who sent it.
        registry: String,
        /// `manifest`, `config` or `answer`.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The registry's `hosts.toml` cannot be used.
    #[error("{image}: the mirrors of {registry} are not usable")]
    Hosts {
        /// What was asked for.
        image: String,
        /// Its registry.
        registry: String,
        /// Why.
        source: InvalidHosts,
    },
    /// Neither a mirror nor the registry gave it. What the registry said is the source.
    #[error("the mirrors failed ({}), then the registry", joined(mirrors))]
    EveryEndpoint {
        /// What each mirror said.
        mirrors: Vec<MirrorFailure>,
        /// What the last one said.
        #[source]
        last: Box<ResolveError>,
    },
}

/// What a mirror said before the next endpoint was asked.
#[derive(Debug)]
pub struct MirrorFailure {
    /// The mirror.
    pub mirror: String,
    /// Its failure, in one line.
    pub reason: String,
}

impl ResolveError {
    /// Whether the same may succeed later without anybody changing anything here.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unavailable { .. } => true,
            Self::Net { source, .. } => source.is_transient(),
            Self::EveryEndpoint { last, .. } => last.is_transient(),
            _ => false,
        }
    }

    /// How long the registry asks to wait.
    pub fn asked_wait(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { wait, .. } | Self::Unavailable { wait, .. } => *wait,
            Self::EveryEndpoint { last, .. } => last.asked_wait(),
            _ => None,
        }
    }

    pub(crate) fn of_ask(
        error: AskError,
        image: &str,
        endpoint: &str,
        what: &'static str,
        anonymous: bool,
    ) -> Self {
        let image = image.to_owned();
        let registry = endpoint.to_owned();
        match error {
            AskError::Net(source) => Self::Net {
                image,
                registry,
                source,
            },
            AskError::Busy { host, status, wait } if status == StatusCode::TOO_MANY_REQUESTS => {
                Self::RateLimited {
                    image,
                    registry: host,
                    wait,
                    anonymous,
                }
            }
            AskError::Busy { host, status, wait } => Self::Unavailable {
                image,
                registry: host,
                status,
                wait,
            },
            AskError::Odd(reason) => Self::Invalid {
                image,
                registry,
                what: "answer",
                reason,
            },
            AskError::TooLarge { cap, length } => Self::TooLarge {
                image,
                registry,
                what,
                length,
                cap,
            },
        }
    }
}

impl fmt::Display for MirrorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.mirror, self.reason)
    }
}

fn listed(denials: &[String]) -> String {
    match denials.is_empty() {
        true => String::new(),
        false => format!(" ({})", denials.join("; ")),
    }
}

fn joined(mirrors: &[MirrorFailure]) -> String {
    let texts: Vec<String> = mirrors.iter().map(MirrorFailure::to_string).collect();
    texts.join("; ")
}

fn platforms(have: &[Platform]) -> String {
    let mut texts: Vec<String> = have.iter().map(Platform::to_string).collect();
    texts.dedup();
    let more = texts.len().saturating_sub(12);
    texts.truncate(12);
    match (texts.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => texts.join(", "),
        (false, more) => format!("{} and {more} more", texts.join(", ")),
    }
}

fn waits(wait: Option<Duration>) -> String {
    match wait {
        Some(wait) => format!(" and asks to wait {} s", wait.as_secs()),
        None => String::new(),
    }
}
