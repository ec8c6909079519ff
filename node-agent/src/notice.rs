//! Whether this machine will be taken away: the cloud's metadata service is asked, and what it says
//! goes into the status at once.
//!
//! - Only a loopback or link-local address is asked, never through a proxy, never with a credential;
//!   no redirect is followed.
//! - A request is earned by five seconds, and three at most are saved up: that is all it costs.
//! - A service that is away, slow or answers nonsense changes nothing that is known, is asked ever more
//!   rarely, and costs one line in the log.
//! - What is known is what the service says now: a notice that it takes back is taken back here.
//!
//! Deliberately absent: acknowledging a notice, which would end the machine sooner.

use std::path::Path;
use std::time::Duration;

use headstart_api::{Interruption, InterruptionKind, NoticeSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;
use url::Url;

use self::door::{Answer, Away, Door, Metadata, Question};
use crate::agent::Agent;
use crate::items::blocking;
use crate::report::chain;

mod aws;
mod azure;
mod detect;
mod door;
mod gcp;

/// How long one request is earned by. AWS asks for a look every 5 s.
const EARNED_BY: Duration = Duration::from_secs(5);

/// How many requests are saved up: what the first look takes.
const SAVED: u32 = 3;

/// Longest pause after a service gave no answer that could be read.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Which metadata service is asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NoticeArgs {
    /// Whose metadata service is asked whether this machine will be taken away: `auto` asks that of
    /// the cloud which the machine's firmware names, and nobody where it names none
    #[arg(long, value_name = "CLOUD", value_enum, default_value = "auto")]
    notice: Asked,
    /// Where that service is, if not where the cloud has it: http and an address of this machine or
    /// of its link
    #[arg(long, value_name = "URL")]
    notice_endpoint: Option<String>,
}

/// Whose metadata service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Asked {
    /// The one that the firmware names.
    Auto,
    /// EC2's.
    Aws,
    /// Compute Engine's.
    Gcp,
    /// Azure's.
    Azure,
    /// Nobody's.
    None,
}

/// What the command line says, understood.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    asked: Asked,
    endpoint: Option<Url>,
}

impl Notices {
    /// Reads the command line.
    ///
    /// # Errors
    /// One line that names the flag, what was found and what was expected.
    pub(crate) fn read(args: &NoticeArgs) -> Result<Self, String> {
        let endpoint = args.notice_endpoint.as_deref().map(door::endpoint);
        Ok(Self {
            asked: args.notice,
            endpoint: endpoint.transpose()?,
        })
    }

    async fn cloud(&self) -> Option<NoticeSource> {
        match self.asked {
            Asked::Auto => blocking(|| detect::cloud(Path::new("/sys"))).await,
            Asked::Aws => Some(NoticeSource::Aws),
            Asked::Gcp => Some(NoticeSource::Gcp),
            Asked::Azure => Some(NoticeSource::Azure),
            Asked::None => None,
        }
    }
}

/// Tells the agent of every notice; ends never.
pub(crate) async fn watch(notices: Notices, agent: Agent) {
    if let Some(source) = notices.cloud().await {
        match Door::open(notices.endpoint.as_ref()) {
            Ok(door) => {
                tracing::info!(source = source.as_str(), "notices of the cloud are heard");
                follow(source, door, |notice| agent.notice(notice)).await;
                tracing::info!(source = source.as_str(), "no notice comes to this machine");
            }
            Err(error) => {
                tracing::warn!(reason = %chain(&error), "notices of the cloud are not heard");
            }
        }
    }
    std::future::pending::<()>().await;
}

/// What a cloud has announced, before it is known since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announced {
    kind: InterruptionKind,
    at: Option<Timestamp>,
}

impl Announced {
    /// The worse of two, and of the same kind the sooner.
    fn worse(self, other: Self) -> Self {
        let soon = |it: &Self| std::cmp::Reverse(it.at.unwrap_or(Timestamp::MAX));
        match (self.kind, soon(&self)) >= (other.kind, soon(&other)) {
            true => self,
            false => other,
        }
    }
}

/// The worst of what was announced.
fn worst(all: impl IntoIterator<Item = Announced>) -> Option<Announced> {
    all.into_iter().reduce(Announced::worse)
}

/// Why nothing new is known.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// It did not answer.
    #[error("the metadata service does not answer")]
    Away(#[source] Away),
    /// It answered something else than what such a service says.
    #[error("{path} of the metadata service answers with {found}; expected {expected}")]
    Nonsense {
        path: &'static str,
        found: String,
        expected: &'static str,
    },
}

/// An answer that says nothing of what was asked.
fn nonsense(path: &'static str, answer: &Answer, expected: &'static str) -> Trouble {
    let start: String = answer.body.chars().take(60).collect();
    Trouble::Nonsense {
        path,
        found: format!("status {} and {start:?}", answer.status),
        expected,
    }
}

/// What a look has found.
enum Seen {
    /// This is announced now.
    Now(Option<Announced>),
    /// Nothing ever will be.
    Never,
}

/// One cloud's service, with what it said before.
enum Service {
    Aws(aws::Service),
    Gcp(gcp::Service),
    Azure(azure::Service),
}

impl Service {
    fn new(source: NoticeSource) -> Self {
        match source {
            NoticeSource::Aws => Self::Aws(aws::Service::default()),
            NoticeSource::Gcp => Self::Gcp(gcp::Service::default()),
            NoticeSource::Azure => Self::Azure(azure::Service::default()),
        }
    }

    async fn look<M: Metadata>(&mut self, asker: &mut Asker<M>) -> Result<Seen, Trouble> {
        match self {
            Self::Aws(it) => it.look(asker).await,
            Self::Gcp(it) => it.look(asker).await,
            Self::Azure(it) => it.look(asker).await,
        }
    }
}

/// Says every change of what is announced; ends when nothing ever will be.
async fn follow<M: Metadata>(
    source: NoticeSource,
    door: M,
    mut say: impl FnMut(Option<Interruption>),
) {
    let mut asker = Asker::new(door);
    let mut service = Service::new(source);
    let mut known: Option<Interruption> = None;
    let (mut pause, mut complained) = (EARNED_BY, false);
    loop {
        match service.look(&mut asker).await {
            Ok(Seen::Never) => return,
            Ok(Seen::Now(announced)) => {
                pause = EARNED_BY;
                let now = announced.map(|it| dated(it, source, known.as_ref()));
                if now != known {
                    match &now {
                        Some(it) => {
                            let at = it.at.as_ref().map(|at| at.0.to_string());
                            tracing::warn!(kind = ?it.kind, at, "this machine will not stay");
                        }
                        None => tracing::info!("the notice was taken back"),
                    }
                    known.clone_from(&now);
                    say(now);
                }
            }
            Err(trouble) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(
                        reason = %chain(&trouble),
                        "notices are not heard for now; asked again, and said only once"
                    );
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// With when it was heard: the same notice is no new one.
fn dated(
    announced: Announced,
    source: NoticeSource,
    before: Option<&Interruption>,
) -> Interruption {
    let noticed = before.filter(|it| it.kind == announced.kind);
    let noticed = noticed.and_then(|it| it.noticed.clone());
    Interruption {
        kind: announced.kind,
        source,
        noticed: noticed.or_else(|| Some(Time(Timestamp::now()))),
        at: announced.at.map(Time),
    }
}

/// Asks, no more often than it has earned.
struct Asker<M> {
    door: M,
    /// What is saved up, and as of when.
    saved: (u32, Instant),
}

impl<M: Metadata> Asker<M> {
    fn new(door: M) -> Self {
        Self {
            door,
            saved: (SAVED, Instant::now()),
        }
    }

    async fn ask(&mut self, question: Question<'_>) -> Result<Answer, Trouble> {
        loop {
            let (saved, since) = self.saved;
            let now = Instant::now();
            let spans = (now - since).as_millis() / EARNED_BY.as_millis();
            let earned = u32::try_from(spans).unwrap_or(SAVED).min(SAVED);
            let saved = (saved + earned).min(SAVED);
            if saved > 0 {
                // One that is full saves nothing meanwhile.
                let since = match saved == SAVED {
                    true => now,
                    false => since + EARNED_BY * earned,
                };
                self.saved = (saved - 1, since);
                return self.door.ask(question).await.map_err(Trouble::Away);
            }
            tokio::time::sleep_until(since + EARNED_BY).await;
        }
    }
}

#[cfg(test)]
mod tests;
