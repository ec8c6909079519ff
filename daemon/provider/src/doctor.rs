//! What is found when a provider is examined before it is trusted with money.

use std::fmt;

use crate::{Provider, Refusal};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a few words: `credentials`, `permission ec2:RunInstances`.
    pub subject: String,
    /// How it is.
    pub state: State,
}

/// How a thing that was looked at is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be, with what was seen.
    Sound(String),
    /// Nodes can be bought, but worse than they could be.
    Doubtful {
        /// What was seen.
        found: String,
        /// What to do about it.
        fix: String,
    },
    /// No nodes can be bought like this.
    Wrong {
        /// What was seen.
        found: String,
        /// What to do about it.
        fix: String,
    },
    /// It could not be looked at, and why.
    Unknown(String),
}

impl Finding {
    /// A thing as it should be.
    pub fn sound(subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            state: State::Sound(seen.into()),
        }
    }

    /// A thing that could be better.
    pub fn doubtful(
        subject: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            state: State::Doubtful {
                found: found.into(),
                fix: fix.into(),
            },
        }
    }

    /// A thing that keeps nodes from being bought.
    pub fn wrong(
        subject: impl Into<String>,
        found: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            state: State::Wrong {
                found: found.into(),
                fix: fix.into(),
            },
        }
    }

    /// A thing that could not be looked at.
    pub fn unknown(subject: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            state: State::Unknown(why.into()),
        }
    }

    /// Whether no nodes can be bought like this.
    pub fn is_wrong(&self) -> bool {
        matches!(self.state, State::Wrong { .. })
    }

    /// What a refusal says about `subject`; `fix` is what helps when the refusal itself does not say.
    pub fn refused(subject: impl Into<String>, refusal: &Refusal, fix: &str) -> Self {
        let found = refusal.to_string();
        match refusal {
            Refusal::Throttled { .. } | Refusal::Other { .. } => Self::unknown(subject, found),
            Refusal::OutOfCapacity { .. } => Self::doubtful(subject, found, fix),
            Refusal::Forbidden { permission, .. } => {
                let fix = format!("grant {permission} to the identity of the daemon");
                Self::wrong(subject, found, fix)
            }
            Refusal::Quota { quota, .. } => {
                Self::wrong(subject, found, format!("ask the cloud for more of {quota}"))
            }
            Refusal::Misconfigured { field, .. } => {
                Self::wrong(subject, found, format!("set {field}: {fix}"))
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subject = &self.subject;
        match &self.state {
            State::Sound(seen) => write!(f, "ok       {subject}: {seen}"),
            State::Doubtful { found, fix } => write!(f, "warning  {subject}: {found}; {fix}"),
            State::Wrong { found, fix } => write!(f, "wrong    {subject}: {found}; {fix}"),
            State::Unknown(why) => write!(f, "unknown  {subject}: {why}"),
        }
    }
}

/// What can be said of any provider: whether it lists what it sells and what runs.
pub(crate) async fn lists(provider: &dyn Provider) -> Vec<Finding> {
    let offers = match provider.offers().await {
        Ok(offers) if offers.offerings.is_empty() => Finding::wrong(
            "offers",
            "nothing is sold",
            "look at the catalog and the region",
        ),
        Ok(offers) => Finding::sound(
            "offers",
            format!(
                "{} types in {} offerings",
                offers.types.len(),
                offers.offerings.len()
            ),
        ),
        Err(refusal) => Finding::refused("offers", &refusal, "look at the provider"),
    };
    let instances = match provider.instances().await {
        Ok(running) => Finding::sound("instances", format!("{} of this cluster", running.len())),
        Err(refusal) => Finding::refused("instances", &refusal, "look at the provider"),
    };
    vec![offers, instances]
}
