//! What has been asked of the network, counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::StatusCode;

/// Requests of one client, counted by how they were answered.
#[derive(Debug, Default)]
pub struct Tally {
    first: OnceLock<SystemTime>,
    classes: [AtomicU64; AnswerClass::ALL.len()],
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerClass {
    /// 2xx.
    Success,
    /// 3xx.
    Redirect,
    /// 401 and 403.
    Denied,
    /// 429.
    Limited,
    /// Any other 4xx.
    Client,
    /// 5xx, and what no server should say.
    Server,
    /// Not at all.
    None,
}

impl AnswerClass {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Redirect,
        Self::Denied,
        Self::Limited,
        Self::Client,
        Self::Server,
        Self::None,
    ];

    fn of(status: Option<StatusCode>) -> Self {
        match status.map(|status| status.as_u16()) {
            None => Self::None,
            Some(200..=299) => Self::Success,
            Some(300..=399) => Self::Redirect,
            Some(401 | 403) => Self::Denied,
            Some(429) => Self::Limited,
            Some(400..=499) => Self::Client,
            Some(_) => Self::Server,
        }
    }
}

impl Tally {
    /// When the first request was begun.
    pub fn first(&self) -> Option<SystemTime> {
        self.first.get().copied()
    }

    /// How many requests were answered so.
    pub fn count(&self, class: AnswerClass) -> u64 {
        self.classes[class as usize].load(Ordering::Relaxed)
    }

    pub(super) fn asked(&self) {
        self.first.get_or_init(SystemTime::now);
    }

    pub(super) fn answered(&self, status: Option<StatusCode>) {
        self.classes[AnswerClass::of(status) as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_their_answer_and_the_first_keeps_its_time() {
        let tally = Tally::default();
        assert_eq!(tally.first(), None);
        tally.asked();
        let first = tally.first().unwrap();
        for status in [
            Some(200),
            Some(206),
            Some(302),
            Some(403),
            Some(404),
            Some(429),
            Some(503),
            None,
        ] {
            tally.asked();
            tally.answered(status.map(|code| StatusCode::from_u16(code).unwrap()));
        }
        assert_eq!(tally.first(), Some(first));
        let counts = AnswerClass::ALL.map(|class| tally.count(class));
        assert_eq!(counts, [2, 1, 1, 1, 1, 1, 1]);
    }
}
