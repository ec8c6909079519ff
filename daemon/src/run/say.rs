//! Kubernetes Events for people: each said once per change, never as a stream.
//!
//! What is said is queued, and dropped when the queue is full or the API server does not take it:
//! Events decide nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use headstart_agent::report::chain;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many Events may wait.
const QUEUE: usize = 1024;

/// Longest note, in bytes: what the API server takes.
const MOST_NOTE: usize = 1000;

/// For how long it is remembered what was said.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// One thing to say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Say {
    pub(super) about: ObjectReference,
    pub(super) reason: Reason,
    pub(super) note: String,
    /// What must differ for it to be said again; the note where this is empty. Numbers that count
    /// down are no news.
    pub(super) news: String,
}

/// Why an Event is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    NodeAnnounced,
    InsufficientCapacity,
    QuotaExceeded,
    ProviderRefused,
    NodeNeverJoined,
    NodeLaunched,
    NodeInitialized,
    NodeGone,
    NodeInterrupted,
    NodeAtRisk,
    NodeGivenBack,
    NotServed,
    PoolUnreadable,
    EvictionBlocked,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::NodeAnnounced => "NodeAnnounced",
            Self::InsufficientCapacity => "InsufficientCapacity",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::ProviderRefused => "ProviderRefused",
            Self::NodeNeverJoined => "NodeNeverJoined",
            Self::NodeLaunched => "NodeLaunched",
            Self::NodeInitialized => "NodeInitialized",
            Self::NodeGone => "NodeGone",
            Self::NodeInterrupted => "NodeInterrupted",
            Self::NodeAtRisk => "NodeAtRisk",
            Self::NodeGivenBack => "NodeGivenBack",
            Self::NotServed => "NotServed",
            Self::PoolUnreadable => "PoolUnreadable",
            Self::EvictionBlocked => "EvictionBlocked",
        }
    }

    fn kind(self) -> EventType {
        match self {
            Self::NodeAnnounced
            | Self::NodeLaunched
            | Self::NodeInitialized
            | Self::NodeGivenBack => EventType::Normal,
            _ => EventType::Warning,
        }
    }
}

/// Says things, once each.
pub(super) struct Speaker {
    queue: mpsc::Sender<Say>,
    said: HashMap<(String, Reason), (String, Instant)>,
}

impl Speaker {
    /// Starts what sends them.
    pub(super) fn start(client: Client, identity: &str, stop: CancellationToken) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Say>(QUEUE);
        let reporter = Reporter {
            controller: "headstart.dev/headstart".to_owned(),
            instance: Some(identity.to_owned()),
        };
        let recorder = Recorder::new(client, reporter);
        tokio::spawn(async move {
            loop {
                let say = tokio::select! {
                    say = waiting.recv() => say,
                    () = stop.cancelled() => return,
                };
                let Some(say) = say else { return };
                let event = Event {
                    type_: say.reason.kind(),
                    reason: say.reason.word().to_owned(),
                    // Part of what the recorder takes for the same Event.
                    action: cut_to(&say.note, 60),
                    note: Some(cut(say.note)),
                    secondary: None,
                };
                let sent = recorder.publish(&event, &say.about);
                match tokio::time::timeout(Duration::from_secs(10), sent).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(error = chain(&error), "an event was not taken");
                    }
                    Err(_) => tracing::debug!("an event was not answered"),
                }
            }
        });
        Self {
            queue,
            said: HashMap::new(),
        }
    }

    /// Says it, unless it was said last about this object.
    pub(super) fn say(&mut self, say: Say) {
        let now = Instant::now();
        let about = say.about.uid.clone().unwrap_or_else(|| {
            let part = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{}/{}", part(&say.about.namespace), part(&say.about.name))
        });
        let key = (about, say.reason);
        let news = match say.news.as_str() {
            "" => say.note.clone(),
            news => news.to_owned(),
        };
        if self.said.get(&key).is_some_and(|(last, _)| *last == news) {
            return;
        }
        self.said.insert(key, (news, now));
        if self.said.len() > 4 * QUEUE {
            self.said.retain(|_, (_, at)| now - *at < REMEMBERED);
        }
        if self.queue.try_send(say).is_err() {
            tracing::debug!("too many events wait; one is dropped");
        }
    }
}

fn cut_to(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

fn cut(mut note: String) -> String {
    if note.len() > MOST_NOTE {
        let mut end = MOST_NOTE - '…'.len_utf8();
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_where_a_letter_ends() {
        assert_eq!(cut("a".to_owned()), "a");
        let long = cut("ä".repeat(900));
        assert!(long.len() <= MOST_NOTE && long.ends_with('…'));
    }
}
