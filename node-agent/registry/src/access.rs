//! Access to one repository at one endpoint: logins tried in order, tokens kept until they run
//! out, one request for a token at a time.
//!
//! Logins come first and no login last, so a stale login does not stand between anybody and a
//! public image. A challenge counts only if the endpoint itself made it: after a redirect to
//! another origin, a 401 is that origin's business.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::net::{Credential, HostPort, Http, NetError, Origin, Request, Response};
use http::{HeaderMap, Method, StatusCode};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::challenge::Challenge;
use crate::hosts::Endpoint;
use crate::keychain::{Login, LoginSecret};
use crate::token::{TokenRequest, basic};

/// Nobody waits longer than this for a busy registry before saying so.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The pause before the first retry; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// One request to an endpoint, and how to treat the answer.
pub(crate) struct Question {
    pub(crate) request: Request,
    /// Most bytes of a body that are read.
    pub(crate) cap: usize,
    /// Whether redirects are followed; else they are answers.
    pub(crate) follow: bool,
    /// How often it is asked again after transient failures.
    pub(crate) retries: u32,
}

/// What came of a question.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body of a success.
    pub(crate) bytes: Bytes,
    /// Whether it was given to somebody who showed nothing.
    pub(crate) anonymous: bool,
    /// What became of each login, where all were refused.
    pub(crate) denials: Vec<String>,
}

/// Why there was no answer.
#[derive(Debug)]
pub(crate) enum AskError {
    Net(NetError),
    Busy {
        host: String,
        status: StatusCode,
        wait: Option<Duration>,
    },
    /// The protocol was broken; the text says by whom and how.
    Odd(String),
    /// A body larger than its cap; not read.
    TooLarge {
        cap: usize,
        length: Option<u64>,
    },
}

/// See the module.
pub(crate) struct Access {
    pub(crate) http: Http,
    pub(crate) endpoint: Endpoint,
    pub(crate) repository: String,
    /// What to try, in order; none is no login.
    logins: Vec<Option<Login>>,
    trusted: Arc<Vec<HostPort>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    /// Which login is in use or is to be tried next.
    login: usize,
    grant: Option<Grant>,
    /// Counts grants, so that a refusal of an old one does not throw away its successor.
    generation: u64,
    /// Whether some request has succeeded: the endpoint's ways are known.
    is_known: bool,
}

struct Grant {
    credential: Credential,
    good_until: Option<Instant>,
    worked: bool,
}

/// What a request carries.
struct Carried {
    credential: Option<Credential>,
    generation: u64,
    anonymous: bool,
}

impl Access {
    pub(crate) fn new(
        http: Http,
        endpoint: Endpoint,
        repository: &str,
        logins: Vec<Option<Login>>,
        trusted: Arc<Vec<HostPort>>,
    ) -> Self {
        Self {
            http,
            endpoint,
            repository: repository.to_owned(),
            logins,
            trusted,
            state: Mutex::default(),
        }
    }

    /// Asks, authenticates as far as needed, and asks again after transient failures.
    pub(crate) async fn ask(&self, question: &Question) -> Result<Answer, AskError> {
        let mut pause = FIRST_PAUSE;
        let mut left = question.retries;
        loop {
            let error = match self.ask_once(question).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let wait = match &error {
                AskError::Net(net) if net.is_transient() => pause,
                AskError::Busy { wait, .. } => wait.unwrap_or(pause).max(pause),
                _ => return Err(error),
            };
            if left == 0 || wait > MAX_WAIT {
                return Err(error);
            }
            tracing::debug!(
                host = self.endpoint.name,
                ?error,
                "asked again after a pause"
            );
            left -= 1;
            pause *= 2;
            tokio::time::sleep(wait).await;
        }
    }

    /// Whether there is no login to try.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.logins.iter().all(Option::is_none)
    }

    /// What to show the endpoint now; renewed where it has run out. None as long as the endpoint
    /// has not been asked anything: whether it wants something is then unknown.
    pub(crate) async fn known_credential(&self) -> Result<Option<Option<Credential>>, AskError> {
        if !self.state.lock().await.is_known {
            return Ok(None);
        }
        Ok(Some(self.carried().await?.credential))
    }

    async fn ask_once(&self, question: &Question) -> Result<Answer, AskError> {
        // Every login may be refused once as it is and once after a renewal.
        let mut tries = 2 * self.logins.len() + 2;
        let mut denials = Vec::new();
        loop {
            let carried = self.carried().await?;
            let request = question
                .request
                .clone()
                .credential(carried.credential.clone());
            let sent = match question.follow {
                true => self.http.send(request).await,
                false => self.http.send_once(&request).await,
            };
            let response = sent.map_err(AskError::Net)?;
            let status = response.status;
            if is_busy(status) {
                return Err(AskError::Busy {
                    host: response.url.host_str().unwrap_or_default().to_owned(),
                    status,
                    wait: retry_after(&response),
                });
            }
            let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let by_endpoint = Origin::of(&response.url).as_ref() == Some(&self.endpoint.origin);
            if refused && by_endpoint {
                tries -= 1;
                let again = self.answer(&response, &carried, &mut denials).await?;
                if again && tries > 0 {
                    continue;
                }
            } else if !refused {
                self.worked(&carried).await;
            }
            return Ok(Answer {
                status,
                headers: response.headers.clone(),
                bytes: match status.is_success() && question.request.method != Method::HEAD {
                    true => read(response, question.cap).await?,
                    false => Bytes::new(),
                },
                anonymous: carried.anonymous,
                denials,
            });
        }
    }

    async fn carried(&self) -> Result<Carried, AskError> {
        let mut state = self.state.lock().await;
        let ran_out = |grant: &Grant| {
            grant
                .good_until
                .is_some_and(|until| until <= Instant::now())
        };
        if state.grant.as_ref().is_some_and(ran_out)
            && let Some(challenge) = state.challenge.clone()
        {
            state.grant = None;
            self.acquire(&mut state, &challenge, &mut Vec::new())
                .await?;
        }
        let granted = state.grant.as_ref().map(|grant| grant.credential.clone());
        let login = self.logins.get(state.login).and_then(Option::as_ref);
        let configured = (!self.endpoint.headers.is_empty()).then(|| {
            Credential::headers(self.endpoint.origin.clone(), self.endpoint.headers.clone())
        });
        Ok(Carried {
            anonymous: configured.is_none() && (granted.is_none() || login.is_none()),
            generation: state.generation,
            credential: granted.or(configured),
        })
    }

    async fn worked(&self, carried: &Carried) {
        let mut state = self.state.lock().await;
        state.is_known = true;
        if state.generation == carried.generation
            && let Some(grant) = &mut state.grant
        {
            grant.worked = true;
        }
    }

    /// Whether to ask again after a refusal.
    async fn answer(
        &self,
        response: &Response,
        carried: &Carried,
        denials: &mut Vec<String>,
    ) -> Result<bool, AskError> {
        let challenge = Challenge::of(&response.headers).map_err(|problem| {
            AskError::Odd(format!(
                "{} asks for a login with {problem}",
                self.endpoint.name
            ))
        })?;
        let mut state = self.state.lock().await;
        if state.generation != carried.generation {
            return Ok(true);
        }
        let Some(challenge) = challenge.or_else(|| state.challenge.clone()) else {
            return Ok(false);
        };
        state.challenge = Some(challenge.clone());
        match state.grant.take() {
            None => {}
            // A token that has worked and now does not has run out early or was revoked.
            Some(grant) if grant.worked && response.status == StatusCode::UNAUTHORIZED => {}
            Some(_) => {
                let who = match self.logins.get(state.login) {
                    Some(Some(login)) => format!("the login from {}", login.from),
                    _ => "a request without login".to_owned(),
                };
                let status = response.status.as_u16();
                denials.push(format!("{} refused {who} ({status})", self.endpoint.name));
                state.login += 1;
            }
        }
        self.acquire(&mut state, &challenge, denials).await
    }

    /// The grant of the first login from `state.login` on that gets one. Where none does, the
    /// next request begins with the first login again.
    async fn acquire(
        &self,
        state: &mut State,
        challenge: &Challenge,
        denials: &mut Vec<String>,
    ) -> Result<bool, AskError> {
        state.generation += 1;
        while let Some(login) = self.logins.get(state.login) {
            match self.grant(challenge, login.as_ref()).await? {
                Ok(grant) => {
                    state.grant = Some(grant);
                    return Ok(true);
                }
                Err(denial) => {
                    denials.push(denial);
                    state.login += 1;
                }
            }
        }
        state.login = 0;
        Ok(false)
    }

    async fn grant(
        &self,
        challenge: &Challenge,
        login: Option<&Login>,
    ) -> Result<Result<Grant, String>, AskError> {
        let origin = self.endpoint.origin.clone();
        let made = |credential: Option<Credential>, good_until| match (credential, login) {
            (Some(credential), _) => Ok(Grant {
                credential,
                good_until,
                worked: false,
            }),
            (None, Some(login)) => Err(format!("the login from {} is no header", login.from)),
            (None, None) => Err("the token is no header".to_owned()),
        };
        Ok(
            match (challenge, login.map(|login| (login, &login.secret))) {
                (_, Some((_, LoginSecret::Registry(token)))) => {
                    made(Credential::bearer(origin, token), None)
                }
                (Challenge::Basic, Some((_, LoginSecret::Basic { user, password }))) => {
                    made(basic(origin, user, password), None)
                }
                (Challenge::Basic, Some((login, LoginSecret::Identity(_)))) => Err(format!(
                    "{} wants user and password, the login from {} is an identity token",
                    self.endpoint.name, login.from
                )),
                (Challenge::Basic, None) => Err(format!("{} wants a login", self.endpoint.name)),
                (Challenge::Bearer(bearer), _) => {
                    let request = TokenRequest {
                        endpoint: &self.endpoint.base,
                        bearer,
                        repository: &self.repository,
                        login,
                        trusted: &self.trusted,
                    };
                    match request.send(&self.http).await? {
                        Ok(token) => made(
                            Credential::bearer(origin, &token.value),
                            Some(token.good_until),
                        ),
                        Err(denial) => Err(denial),
                    }
                }
            },
        )
    }

    /// The URL of `what` in this repository, as the endpoint wants to be asked.
    pub(crate) fn url(&self, registry: &str, what: &str) -> Url {
        self.endpoint.url(registry, &self.repository, what)
    }
}

/// Whether a status says: later.
pub(crate) fn is_busy(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// How long a response asks to wait. A date is read against the server's own `Date`, so a clock
/// that is off does not matter.
pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.header("retry-after")?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = response.header("date");
    let now = now.and_then(|date| httpdate::parse_http_date(date).ok());
    until
        .duration_since(now.unwrap_or_else(SystemTime::now))
        .ok()
}

async fn read(response: Response, cap: usize) -> Result<Bytes, AskError> {
    let length = response
        .header("content-length")
        .and_then(|text| text.parse().ok());
    if length.is_some_and(|length: u64| length > cap as u64) {
        return Err(AskError::TooLarge { cap, length });
    }
    response.bytes(cap).await.map_err(|error| match error {
        NetError::BodyTooLarge { .. } => AskError::TooLarge { cap, length: None },
        error => AskError::Net(error),
    })
}
