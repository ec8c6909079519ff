//! One call of a cloud's API: spaced by a bucket, tried again where that is safe, and its failure told
//! with the request's id.
//!
//! A call is tried again when no answer came, when the answer is a server's failure, and when the API
//! says "too often"; so every call that changes something must carry a key that makes it happen once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use headstart_transfer::net::{Http, NetError, Request};
use http::{HeaderMap, StatusCode};

use crate::bucket::Bucket;

/// Most bytes of one answer: a page of everything a large account has is a tenth of it.
const MAX_ANSWER: usize = 32 << 20;

/// Shortest pause before another try.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause before another try that the API did not ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How a call is made.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Most tries, the first among them.
    pub tries: u32,
    /// Longest time for all of them. A longer `Retry-After` is told at once instead of waited for.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            total: Duration::from_secs(30),
        }
    }
}

/// What an answer means for the one who tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is an answer.
    Answer,
    /// It was asked too often.
    Throttled,
    /// The server failed; the same may succeed.
    Failed,
    /// It says no.
    Refused(Said),
}

/// What an API said: a code to branch on, and words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The API's code: `InsufficientInstanceCapacity`.
    pub code: String,
    /// Its words.
    pub message: String,
    /// The request's id, to show to the cloud's support.
    pub request: String,
}

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No response.
    #[error("{api}: no answer")]
    Net {
        /// The call.
        api: &'static str,
        /// Why.
        source: Box<NetError>,
    },
    /// Asked too often; tries are used up, or the wait is longer than patience.
    #[error("{api}: throttled for {} s (request {request})", .wait.as_secs())]
    Throttled {
        /// The call.
        api: &'static str,
        /// How long to wait.
        wait: Duration,
        /// The request's id.
        request: String,
    },
    /// The server failed each time.
    #[error("{api}: {status} each of {tries} times (request {request})")]
    Failed {
        /// The call.
        api: &'static str,
        /// Last status.
        status: u16,
        /// How often it was tried.
        tries: u32,
        /// The last request's id.
        request: String,
    },
    /// The API says no.
    #[error("{api}: {}: {} (request {})", .said.code, .said.message, .said.request)]
    Refused {
        /// The call.
        api: &'static str,
        /// What it said.
        said: Said,
    },
    /// The answer is not what the API documents.
    #[error("{api}: the answer cannot be read: {what} (request {request})")]
    Unreadable {
        /// The call.
        api: &'static str,
        /// What is wrong with it.
        what: String,
        /// The request's id.
        request: String,
    },
    /// Nothing to sign with.
    #[error("{api}: no credentials: {why}")]
    NoCredentials {
        /// The call.
        api: &'static str,
        /// What was tried, and what to do.
        why: String,
    },
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// How long the API asks to wait, in seconds or until a date.
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let value = self.header("retry-after").trim();
        match value.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let until = httpdate::parse_http_date(value).ok()?;
                Some(until.duration_since(now).unwrap_or(Duration::ZERO))
            }
        }
    }
}

/// Calls one API.
#[derive(Debug)]
pub struct Caller {
    http: Http,
    patience: Patience,
    bucket: Mutex<Bucket>,
}

impl Caller {
    /// Calls over `http` as `patience` allows, spaced by `bucket`.
    pub fn new(http: Http, patience: Patience, bucket: Bucket) -> Self {
        Self {
            http,
            patience,
            bucket: Mutex::new(bucket),
        }
    }

    /// Makes a call. `request` is asked for each try, so that each is signed at its own time; `judge`
    /// says what an answer means.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn call(
        &self,
        api: &'static str,
        request: impl Fn() -> Request,
        judge: impl Fn(&Answer) -> (Verdict, String),
    ) -> Result<Answer, CallError> {
        let deadline = Instant::now() + self.patience.total;
        let mut tries = 0;
        loop {
            tries += 1;
            let spaced = self.bucket().take(Instant::now());
            tokio::time::sleep(spaced).await;
            let answered = self.once(&request()).await;
            let (pause, error) = match answered {
                Err(source) => {
                    let source = Box::new(source);
                    (None, CallError::Net { api, source })
                }
                Ok(answer) => match judge(&answer) {
                    (Verdict::Answer, _) => return Ok(answer),
                    (Verdict::Refused(said), _) => return Err(CallError::Refused { api, said }),
                    (Verdict::Throttled, request) => {
                        self.bucket().drain(Instant::now());
                        let asked = answer.retry_after(SystemTime::now());
                        let wait = asked.unwrap_or(LONGEST_PAUSE);
                        (asked, CallError::Throttled { api, wait, request })
                    }
                    (Verdict::Failed, request) => {
                        let failed = CallError::Failed {
                            api,
                            status: answer.status.as_u16(),
                            tries,
                            request,
                        };
                        (answer.retry_after(SystemTime::now()), failed)
                    }
                },
            };
            let pause = pause.unwrap_or_else(|| backoff(tries, fastrand::f64()));
            if tries >= self.patience.tries || Instant::now() + pause > deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, request: &Request) -> Result<Answer, NetError> {
        let response = self.http.send_once(request).await?;
        let (status, headers) = (response.status, response.headers.clone());
        let body = response.bytes(MAX_ANSWER).await?;
        Ok(Answer {
            status,
            headers,
            body,
        })
    }

    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pause between half and all of a time that doubles with each try; `chance` is in 0..1.
fn backoff(tries: u32, chance: f64) -> Duration {
    let whole = FIRST_PAUSE * 2_u32.pow(tries.saturating_sub(1).min(10));
    whole.min(LONGEST_PAUSE).mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_are_never_all_the_same() {
        let at = |tries, chance| backoff(tries, chance).as_millis();
        assert_eq!([at(1, 0.0), at(1, 0.999)], [100, 199]);
        assert_eq!([at(3, 0.0), at(3, 0.5)], [400, 600]);
        assert_eq!(at(40, 1.0), 10_000);
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let answer = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", value.parse().unwrap());
            Answer {
                status: StatusCode::TOO_MANY_REQUESTS,
                headers,
                body: Bytes::new(),
            }
        };
        let now = httpdate::parse_http_date("Wed, 25 Nov 2026 08:00:00 GMT").unwrap();
        let wait = |value: &str| answer(value).retry_after(now);
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        let later = wait("Wed, 25 Nov 2026 08:00:09 GMT");
        assert_eq!(later, Some(Duration::from_secs(9)));
        assert_eq!(wait("Wed, 25 Nov 2026 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
