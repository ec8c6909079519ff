//! Calls to the provider: started by a round, answered into a later one.
//!
//! A round never waits for a cloud. One call per claim is under way at a time; a claim whose call
//! failed is not asked about again before its pause is over, which doubles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use headstart_provider::{Instance, Offers, Provider, Refusal, Release, Wanted};
use tokio::sync::mpsc;

use super::lease::Lead;

/// Most calls under way at once.
const MOST_CALLS: usize = 32;

/// How long a call may take before it counts as failed. The provider finds out by the key whether it
/// was done.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// Pauses after failed calls, and between looks at an instance that is ending.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a provider answered.
#[derive(Debug)]
pub(super) enum Answer {
    Ensured(String, Result<Instance, Refusal>),
    Released(String, Result<Release, Refusal>),
    /// The instances, as of a moment before the call.
    Listed(SystemTime, Result<Vec<Instance>, Refusal>),
    Offered(Result<Offers, Refusal>),
}

/// The provider, and what it is being asked.
pub(super) struct Calls {
    provider: Arc<dyn Provider>,
    lead: Lead,
    answers: mpsc::UnboundedSender<Answer>,
    under_way: BTreeSet<String>,
    paused: BTreeMap<String, (Instant, Duration)>,
    released: BTreeSet<String>,
    listing: bool,
    offering: bool,
}

impl Calls {
    pub(super) fn new(
        provider: Arc<dyn Provider>,
        lead: Lead,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Self {
        Self {
            provider,
            lead,
            answers,
            under_way: BTreeSet::new(),
            paused: BTreeMap::new(),
            released: BTreeSet::new(),
            listing: false,
            offering: false,
        }
    }

    /// The provider's word.
    pub(super) fn provider(&self) -> &'static str {
        self.provider.name()
    }

    /// Whether the provider said that this claim has no instance any more.
    pub(super) fn is_released(&self, claim: &str) -> bool {
        self.released.contains(claim)
    }

    /// Whether a call about this claim may be made now.
    pub(super) fn is_free(&self, claim: &str) -> bool {
        let paused = self.paused.get(claim);
        self.under_way.len() < MOST_CALLS
            && !self.under_way.contains(claim)
            && paused.is_none_or(|(until, _)| Instant::now() >= *until)
    }

    /// When the next pause ends.
    pub(super) fn next_pause(&self) -> Option<Instant> {
        self.paused.values().map(|(until, _)| *until).min()
    }

    /// Asks for an instance.
    pub(super) fn ensure(&mut self, wanted: Wanted) {
        let claim = wanted.claim.clone();
        self.under_way.insert(claim.clone());
        self.released.remove(&claim);
        let provider = Arc::clone(&self.provider);
        self.start(async move {
            let answer = limited(provider.ensure(&wanted)).await;
            Answer::Ensured(claim, answer)
        });
    }

    /// Asks to give an instance back.
    pub(super) fn release(&mut self, claim: &str) {
        let claim = claim.to_owned();
        self.under_way.insert(claim.clone());
        let provider = Arc::clone(&self.provider);
        self.start(async move {
            let answer = limited(provider.release(&claim)).await;
            Answer::Released(claim, answer)
        });
    }

    /// Asks for all instances.
    pub(super) fn list(&mut self) {
        if std::mem::replace(&mut self.listing, true) {
            return;
        }
        let provider = Arc::clone(&self.provider);
        self.start(async move {
            let asked = SystemTime::now();
            Answer::Listed(asked, limited(provider.instances()).await)
        });
    }

    /// Asks what is sold.
    pub(super) fn offers(&mut self) {
        if std::mem::replace(&mut self.offering, true) {
            return;
        }
        let provider = Arc::clone(&self.provider);
        self.start(async move { Answer::Offered(limited(provider.offers()).await) });
    }

    fn start(&self, call: impl Future<Output = Answer> + Send + 'static) {
        let answers = self.answers.clone();
        let lead = self.lead.clone();
        tokio::spawn(async move {
            // Nobody asks a cloud for anything who does not lead.
            if lead.is_held() {
                let _ = answers.send(call.await);
            }
        });
    }

    /// Takes note of an answer.
    pub(super) fn answered(&mut self, answer: &Answer) {
        match answer {
            Answer::Ensured(claim, result) => {
                self.under_way.remove(claim);
                match result {
                    Ok(_) => drop(self.paused.remove(claim)),
                    Err(Refusal::Throttled { wait }) => self.pause(claim, Some(*wait)),
                    Err(_) => self.pause(claim, None),
                }
            }
            Answer::Released(claim, result) => {
                self.under_way.remove(claim);
                match result {
                    Ok(Release::Gone) => {
                        self.paused.remove(claim);
                        self.released.insert(claim.clone());
                    }
                    Ok(Release::Ending) => self.pause(claim, Some(FIRST_PAUSE)),
                    Err(Refusal::Throttled { wait }) => self.pause(claim, Some(*wait)),
                    Err(_) => self.pause(claim, None),
                }
            }
            Answer::Listed(..) => self.listing = false,
            Answer::Offered(_) => self.offering = false,
        }
    }

    /// Forgets a claim that is gone.
    pub(super) fn forget(&mut self, claim: &str) {
        self.paused.remove(claim);
        self.released.remove(claim);
    }

    /// Forgets everything: another replica may have acted meanwhile.
    pub(super) fn forget_all(&mut self) {
        self.under_way.clear();
        self.paused.clear();
        self.released.clear();
        (self.listing, self.offering) = (false, false);
    }

    fn pause(&mut self, claim: &str, wait: Option<Duration>) {
        let before = self.paused.get(claim).map(|(_, pause)| *pause);
        let doubled = before.map_or(FIRST_PAUSE, |pause| pause * 2);
        let pause = wait.unwrap_or(doubled).min(LONGEST_PAUSE);
        self.paused
            .insert(claim.to_owned(), (Instant::now() + pause, pause));
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    let limited = tokio::time::timeout(CALL_LIMIT, call).await;
    limited.unwrap_or_else(|_| {
        Err(Refusal::Other {
            said: format!("no answer in {} s", CALL_LIMIT.as_secs()),
        })
    })
}
