//! What is known of items: when they were begun and verified, and where their bytes came from. It
//! outlives the process, in the store's `agent/record.json`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use headstart_transfer::BootId;
use headstart_transfer::source::SourceKind;
use serde::{Deserialize, Serialize};

use super::wish::Key;
use crate::items::{Sums, Ticket};

/// What is known of one item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Fact {
    /// When the first byte of it was asked for.
    pub(crate) started: Option<SystemTime>,
    /// When all of it was verified.
    pub(crate) verified: Option<SystemTime>,
    /// How long that took.
    pub(crate) took: Option<Duration>,
    /// Bytes of the whole.
    pub(crate) total: u64,
    /// Bytes fetched, by where they came from.
    pub(crate) sources: BTreeMap<String, u64>,
    /// Why it is not there.
    pub(crate) problem: String,
    /// Whether that stays so until somebody changes something.
    pub(crate) is_lasting: bool,
}

/// What the agent of this boot has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The boot that the times below belong to.
    boot: Option<String>,
    /// When an agent first had a network.
    pub(crate) agent_started: Option<SystemTime>,
    /// When it asked for its first byte.
    pub(crate) first_request: Option<SystemTime>,
    /// By item.
    pub(crate) facts: BTreeMap<Key, Fact>,
}

/// Most items that are remembered.
const MOST_FACTS: usize = 1000;

impl Fact {
    /// Notes that work on it begins.
    pub(super) fn begin(&mut self, now: SystemTime) {
        // What is only looked at again was begun when it was fetched.
        if self.verified.is_none() && self.sources.is_empty() {
            self.started = Some(now);
        }
    }

    /// Notes what its work has come to, ended or not.
    pub(super) fn add(&mut self, sums: &Sums, total: u64) {
        self.total = total.max(self.total);
        for (kind, bytes) in SourceKind::ALL.iter().zip(sums.by_kind) {
            if bytes > 0 {
                *self.sources.entry(name(*kind).to_owned()).or_default() += bytes;
            }
        }
    }

    /// Notes that all of it is there.
    pub(super) fn end(&mut self, now: SystemTime) {
        self.problem.clear();
        self.is_lasting = false;
        if self.verified.is_none() {
            self.verified = Some(now);
            self.took = self.started.and_then(|at| now.duration_since(at).ok());
        }
    }

    /// Notes that it is there no more.
    pub(super) fn lost(&mut self) {
        *self = Self {
            total: self.total,
            ..Self::default()
        };
    }

    /// Bytes there and of the whole while a ticket's work is under way.
    pub(super) fn progress(&self, ticket: Option<&Ticket>) -> (u64, u64) {
        match ticket.map(Ticket::progress) {
            Some((done, total)) if total > 0 => (done, total),
            _ => (0, self.total),
        }
    }
}

impl Record {
    /// What an earlier agent noted, as far as it holds for this boot.
    pub(super) fn resumed(self) -> Self {
        let boot = BootId::of_this_machine().to_string();
        match self.boot.as_ref() == Some(&boot) {
            true => self,
            false => Self {
                boot: Some(boot),
                agent_started: None,
                first_request: None,
                facts: self.facts,
            },
        }
    }

    /// Forgets the items that were verified longest ago, if they are too many.
    pub(super) fn bound(&mut self) {
        while self.facts.len() > MOST_FACTS {
            let oldest = self.facts.iter().min_by_key(|(_, fact)| fact.verified);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.facts.remove(&key);
        }
    }
}

/// A kind of source, as reports and metrics call it.
pub(crate) fn name(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Registry => "registry",
        SourceKind::Mirror => "mirror",
        SourceKind::Hub => "hub",
        SourceKind::Peer => "peer",
        SourceKind::Url => "url",
    }
}
