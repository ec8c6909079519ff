//! Faults that a server makes on demand.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Method;

use super::Site;

/// What goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status and nothing else.
    Status(u16),
    /// Answers 429 with the Hub's `RateLimit` headers, to be asked again after so many seconds.
    RateLimited {
        /// Seconds until the window ends.
        seconds: u64,
    },
    /// Answers this status with `Retry-After`.
    RetryAfter {
        /// 429 or 503.
        status: u16,
        /// The header's value: seconds or a date.
        value: String,
    },
    /// Answers 200 with a page of HTML, as a captive portal does.
    Portal,
    /// Takes the request and never answers.
    BlackHole,
    /// Answers late.
    Late(Duration),
    /// Flips the bits of one byte of the content, if it is among those sent.
    Tamper {
        /// Its offset in the whole content.
        at: u64,
    },
    /// Closes the connection after so many bytes of the body; after fewer where the link is slow.
    Cut {
        /// Bytes sent before.
        after: u64,
    },
    /// Stops after so many bytes of the body and keeps the connection open.
    Stall {
        /// Bytes sent before.
        after: u64,
    },
    /// Ignores the `Range` header: 200 and everything.
    IgnoreRange,
    /// Takes a signed URL for expired, whatever it says.
    Expired,
}

/// Which requests a fault is for. The default is every request of every server, for good.
#[derive(Clone, Debug, Default)]
pub struct When {
    contains: String,
    site: Option<Site>,
    method: Option<Method>,
    skip: u32,
    times: Option<u32>,
}

impl When {
    /// Requests whose percent-decoded path and query contain `text`.
    pub fn path(text: &str) -> Self {
        let contains = text.to_owned();
        Self {
            contains,
            ..Self::default()
        }
    }

    /// Only those to one server.
    #[must_use]
    pub fn site(self, site: Site) -> Self {
        Self {
            site: Some(site),
            ..self
        }
    }

    /// Only those with one method.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// Not the first `skip` of them.
    #[must_use]
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Only so many of them.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self {
            times: Some(times),
            ..self
        }
    }

    /// Whether this request is one; counts it if so.
    fn applies(&mut self, site: Site, method: &Method, target: &str) -> bool {
        let is_meant = self.site.is_none_or(|wanted| wanted == site)
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && target.contains(&self.contains);
        if !is_meant || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

/// The faults of one or several servers. Clones are the same faults.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<(When, Fault)>>>);

impl Faults {
    /// Adds one. The first that applies to a request is made.
    pub fn add(&self, when: When, fault: Fault) {
        self.rules().push((when, fault));
    }

    /// Takes all away; faults being made go on.
    pub fn clear(&self) {
        self.rules().clear();
    }

    pub(crate) fn of(&self, site: Site, method: &Method, target: &str) -> Option<Fault> {
        let mut rules = self.rules();
        let rule = rules
            .iter_mut()
            .find_map(|(when, fault)| when.applies(site, method, target).then_some(&*fault));
        rule.cloned()
    }

    fn rules(&self) -> MutexGuard<'_, Vec<(When, Fault)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
