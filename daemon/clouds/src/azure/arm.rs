//! Azure Resource Manager: signed calls, pages, and operations that go on after their answer.
//!
//! A call that an API answers with 404, 409 or 412 has an answer: whoever asks knows what "is not
//! there", "is busy" and "was changed" mean. A token that the API calls expired is replaced, once.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::chain;
use headstart_transfer::net::{Credential, Origin, Request};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::token::Tokens;
use crate::call::{Answer, CallError, Caller, Said, Verdict};

/// Header with the request's id.
const REQUEST_ID: &str = "x-ms-request-id";

/// Most pages of one list.
const MOST_PAGES: usize = 1000;

/// Resource Manager at one endpoint.
#[derive(Debug)]
pub struct Arm {
    caller: Caller,
    /// Questions how far an operation is, which are counted by themselves.
    statuses: Caller,
    tokens: Arc<Tokens>,
    endpoint: Url,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Its name in errors.
    pub api: &'static str,
    /// Method.
    pub method: Method,
    /// Path below the endpoint, each segment by itself.
    pub path: &'a [&'a str],
    /// `api-version`.
    pub version: &'a str,
    /// Other parameters.
    pub query: &'a [(&'a str, &'a str)],
    /// Whether it holds only for a certain state of the resource.
    pub condition: Condition,
    /// JSON.
    pub body: Option<Bytes>,
}

/// What a resource must be like for a call to be done. Otherwise the answer is 412.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Anything.
    #[default]
    None,
    /// It must not be there: `If-None-Match: *`.
    Absent,
    /// It must be unchanged: `If-Match` with its etag, which the API tells without quotes.
    Unchanged(String),
}

/// An operation that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Where to ask.
    pub url: Url,
    /// When to ask first, if the API said.
    pub wait: Option<Duration>,
}

/// How far an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on; when to ask again, if the API said.
    Running(Option<Duration>),
    /// It is done.
    Done,
    /// It failed or was cancelled.
    Failed(Said),
    /// It is not known any more: the resource itself says.
    Forgotten,
}

impl<'a> Ask<'a> {
    /// A GET.
    pub fn get(api: &'static str, path: &'a [&'a str], version: &'a str) -> Self {
        Self {
            api,
            method: Method::GET,
            path,
            version,
            query: &[],
            condition: Condition::None,
            body: None,
        }
    }
}

impl Arm {
    /// Resource Manager at `endpoint` (`https://management.azure.com`). `statuses` asks how far
    /// operations are, and `caller` everything else.
    pub fn new(caller: Caller, statuses: Caller, tokens: Arc<Tokens>, endpoint: Url) -> Self {
        Self {
            caller,
            statuses,
            tokens,
            endpoint,
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    /// As [`CallError`] says; 404, 409 and 412 are answers.
    pub async fn call(&self, ask: &Ask<'_>) -> Result<Answer, CallError> {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(ask.path);
        }
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("api-version", ask.version);
            query.extend_pairs(ask.query);
        }
        self.send(&self.caller, ask, &url).await
    }

    /// The whole of a list, over all its pages.
    ///
    /// # Errors
    /// As [`CallError`] says; one page that cannot be had or read fails the list.
    pub async fn list<T: DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<Vec<T>, CallError> {
        let mut answer = self.call(ask).await?;
        let mut all = Vec::new();
        for _ in 0..MOST_PAGES {
            let page: Page<T> = read(ask.api, &found(ask.api, answer)?)?;
            all.extend(page.value);
            let Some(next) = page.next_link.filter(|link| !link.is_empty()) else {
                return Ok(all);
            };
            let Some(next) = self.own(&next) else {
                return Err(unreadable(ask.api, "nextLink leads elsewhere", ""));
            };
            answer = self.send(&self.caller, ask, &next).await?;
        }
        Err(unreadable(ask.api, "the list has no end", ""))
    }

    /// How far an operation is.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn progress(&self, operation: &Operation) -> Result<Progress, CallError> {
        const API: &str = "operation status";
        let Some(url) = self.own(operation.url.as_str()) else {
            return Ok(Progress::Forgotten);
        };
        let ask = Ask::get(API, &[], "");
        let answer = self.send(&self.statuses, &ask, &url).await?;
        let wait = answer.retry_after(SystemTime::now());
        match answer.status {
            StatusCode::NOT_FOUND => return Ok(Progress::Forgotten),
            StatusCode::ACCEPTED => return Ok(Progress::Running(wait)),
            StatusCode::NO_CONTENT => return Ok(Progress::Done),
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => {
                return Ok(Progress::Failed(said(&answer)));
            }
            _ => {}
        }
        let status: Status = read(API, &answer)?;
        Ok(match status.status.as_deref() {
            // A `Location` answers with the resource itself.
            None | Some("Succeeded") => Progress::Done,
            Some("Failed" | "Canceled") => {
                let error = status.error.unwrap_or_default();
                Progress::Failed(error.said(answer.header(REQUEST_ID)))
            }
            Some(_) => Progress::Running(wait),
        })
    }

    /// The difference between the API's clock and this machine's, from the `Date` of any answer.
    pub fn skew(answer: &Answer, now: SystemTime) -> Option<Duration> {
        let told = httpdate::parse_http_date(answer.header("date")).ok()?;
        Some(match told.duration_since(now) {
            Ok(ahead) => ahead,
            Err(behind) => behind.duration(),
        })
    }

    /// A link that an answer gave, if it leads to this endpoint: nothing else is sent the token.
    fn own(&self, link: &str) -> Option<Url> {
        let url = Url::parse(link).ok()?;
        (Origin::of(&url) == Origin::of(&self.endpoint)).then_some(url)
    }

    async fn send(&self, caller: &Caller, ask: &Ask<'_>, url: &Url) -> Result<Answer, CallError> {
        let mut renewed = false;
        loop {
            let token = self.tokens.bearer(SystemTime::now()).await;
            let token = token.map_err(|error| CallError::NoCredentials {
                api: ask.api,
                why: chain(&error),
            })?;
            let request = || request(ask, url, &token);
            match caller.call(ask.api, request, judge).await {
                Err(CallError::Refused { said, .. }) if !renewed && is_expired(&said) => {
                    self.tokens.expired(&token).await;
                    renewed = true;
                }
                other => return other,
            }
        }
    }
}

fn request(ask: &Ask<'_>, url: &Url, token: &str) -> Request {
    let credential = Origin::of(url).and_then(|origin| Credential::bearer(origin, token));
    let mut request = Request::get(url.clone()).credential(credential);
    request.method = ask.method.clone();
    request.headers = HeaderMap::from_iter([(
        http::header::ACCEPT,
        HeaderValue::from_static("application/json"),
    )]);
    let mut add = |name: HeaderName, value: HeaderValue| request.headers.insert(name, value);
    if ask.body.is_some() {
        let json = HeaderValue::from_static("application/json");
        add(http::header::CONTENT_TYPE, json);
    }
    match &ask.condition {
        Condition::None => {}
        Condition::Absent => {
            add(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
        }
        Condition::Unchanged(etag) => {
            let etag = format!("\"{}\"", etag.trim_matches('"'));
            if let Ok(etag) = HeaderValue::from_str(&etag) {
                add(http::header::IF_MATCH, etag);
            }
        }
    }
    request.body.clone_from(&ask.body);
    request
}

/// The operation that an answer starts: `Azure-AsyncOperation`, else `Location`.
pub fn operation(answer: &Answer) -> Option<Operation> {
    let mut links = ["azure-asyncoperation", "location"].into_iter();
    let url = links.find_map(|name| Url::parse(answer.header(name)).ok())?;
    Some(Operation {
        url,
        wait: answer.retry_after(SystemTime::now()),
    })
}

/// What a body says, in JSON.
///
/// # Errors
/// If it is something else.
pub fn read<T: DeserializeOwned>(api: &'static str, answer: &Answer) -> Result<T, CallError> {
    serde_json::from_slice(&answer.body)
        .map_err(|error| unreadable(api, &error.to_string(), answer.header(REQUEST_ID)))
}

/// An answer that must be one; "not there", "busy" and "changed" are refusals.
///
/// # Errors
/// If it is one of them.
pub fn found(api: &'static str, answer: Answer) -> Result<Answer, CallError> {
    match answer.status.is_success() {
        true => Ok(answer),
        false => Err(CallError::Refused {
            api,
            said: said(&answer),
        }),
    }
}

/// What an answer that is an error says.
pub fn said(answer: &Answer) -> Said {
    let request = answer.header(REQUEST_ID);
    let told: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
    // AKS puts some errors at the top, Resource Manager below `error`.
    let fault = told.error.unwrap_or(Fault {
        code: told.code,
        message: told.message,
        ..Fault::default()
    });
    let mut said = fault.said(request);
    if said.code.is_empty() {
        said.code = answer.status.as_u16().to_string();
    }
    said
}

fn unreadable(api: &'static str, what: &str, request: &str) -> CallError {
    CallError::Unreadable {
        api,
        what: what.to_owned(),
        request: request.to_owned(),
    }
}

fn judge(answer: &Answer) -> (Verdict, String) {
    let request = answer.header(REQUEST_ID).to_owned();
    let verdict = match answer.status.as_u16() {
        200..300 | 404 | 409 | 412 => Verdict::Answer,
        429 => Verdict::Throttled,
        408 | 500.. => Verdict::Failed,
        _ => Verdict::Refused(said(answer)),
    };
    (verdict, request)
}

fn is_expired(said: &Said) -> bool {
    matches!(
        said.code.as_str(),
        "ExpiredAuthenticationToken" | "InvalidAuthenticationToken" | "401"
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    value: Vec<T>,
    #[serde(default)]
    next_link: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    error: Option<Fault>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    error: Option<Fault>,
    code: String,
    message: String,
}

/// An error as Resource Manager and AKS write it down: `ErrorDetail`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Code.
    pub code: String,
    /// Words.
    pub message: String,
    /// What of the request it is about.
    pub target: Option<String>,
    /// What lies below it.
    pub details: Vec<Fault>,
}

impl Fault {
    /// In one code and one text. What lies below is in the text with its code where the text above
    /// does not hold it already.
    pub fn said(&self, request: &str) -> Said {
        let mut message = self.message.clone();
        let target = self.target.iter().filter(|target| target.contains('.'));
        for target in target {
            message.push_str(&format!(" (target {target})"));
        }
        for below in self.details.iter().take(3) {
            let known = message.contains(&below.message) || self.message.contains(&below.code);
            if !known {
                message.push_str(&format!("; {}: {}", below.code, below.message));
            }
        }
        Said {
            code: self.code.clone(),
            message: message.chars().take(1500).collect(),
            request: request.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        }
    }

    #[test]
    fn an_error_is_read_at_the_top_and_below_error() {
        for body in [
            r#"{"code": "A", "message": "b"}"#,
            r#"{"error": {"code": "A", "message": "b"}}"#,
        ] {
            let said = said(&answer(400, body));
            assert_eq!((said.code.as_str(), said.message.as_str()), ("A", "b"));
        }
        assert_eq!(said(&answer(400, "<html>")).code, "400");
    }

    #[test]
    fn what_lies_below_an_error_is_told_once() {
        let body = r#"{"error": {"code": "Reconcile", "message": "it failed", "target": "a.b",
            "details": [{"code": "AllocationFailed", "message": "no room"}]}}"#;
        let said = said(&answer(400, body));
        assert_eq!(
            said.message,
            "it failed (target a.b); AllocationFailed: no room"
        );
        let body = r#"{"code": "Quota", "message": "Code=\"Q\" Message=\"too many\"",
            "details": [{"code": "Q", "message": "too many"}]}"#;
        assert!(!super::said(&answer(400, body)).message.contains(';'));
    }

    #[test]
    fn what_an_operation_answers_with_is_where_it_goes_on() {
        let mut started = answer(201, "");
        let header = |name: &'static str, value: &str| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        started.headers.extend([
            header("location", "https://m.test/l"),
            header("azure-asyncoperation", "https://m.test/o?api-version=1"),
            header("retry-after", "7"),
        ]);
        let started = operation(&started).unwrap();
        assert_eq!(started.url.as_str(), "https://m.test/o?api-version=1");
        assert_eq!(started.wait, Some(Duration::from_secs(7)));
        assert_eq!(operation(&answer(201, "")), None);
    }
}
