//! A call of a Google API: a bearer token, JSON both ways, and errors in Google's two shapes.
//!
//! `compute` answers `{"error": {"code", "message", "errors": [{"reason"}]}}`, `container`
//! `{"error": {"code", "message", "status", "details"}}`; both are read alike, and the code to branch
//! on is the most exact that is there. "Too often" is 429, and 403 with the reason of a rate limit.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::chain;
use headstart_transfer::net::{Credential, Origin, Request};
use http::{HeaderValue, Method};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::token::Tokens;
use crate::call::{Answer, CallError, Caller, Said, Verdict};

/// Most pages of one list.
const MOST_PAGES: usize = 1000;

/// A Google API at one endpoint.
#[derive(Debug)]
pub struct Api {
    caller: Caller,
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
    pub path: Vec<&'a str>,
    /// Parameters.
    pub query: Vec<(&'a str, String)>,
    /// JSON.
    pub body: Option<Value>,
}

impl<'a> Ask<'a> {
    /// A GET.
    pub fn get(api: &'static str, path: Vec<&'a str>) -> Self {
        Self {
            api,
            method: Method::GET,
            path,
            query: Vec::new(),
            body: None,
        }
    }

    /// A POST.
    pub fn post(api: &'static str, path: Vec<&'a str>, body: Option<Value>) -> Self {
        Self {
            method: Method::POST,
            body,
            ..Self::get(api, path)
        }
    }

    /// The same with a parameter.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }
}

/// A page of a list.
pub trait Page: DeserializeOwned {
    /// What it lists.
    type Item;

    /// What is on it, and the token of the next.
    fn open(self) -> (Vec<Self::Item>, Option<String>);
}

/// A page of most lists.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Items<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
    #[serde(default)]
    next_page_token: Option<String>,
}

impl<T: DeserializeOwned> Page for Items<T> {
    type Item = T;

    fn open(self) -> (Vec<T>, Option<String>) {
        (self.items, self.next_page_token)
    }
}

impl Api {
    /// The API at `endpoint` (`https://compute.googleapis.com/compute/v1`).
    pub fn new(caller: Caller, tokens: Arc<Tokens>, endpoint: Url) -> Self {
        Self {
            caller,
            tokens,
            endpoint,
        }
    }

    /// Makes a call and reads its answer.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn call<T: DeserializeOwned>(&self, ask: &Ask<'_>) -> Result<T, CallError> {
        let answer = self.answer(ask).await?;
        read(ask.api, &answer)
    }

    /// The whole of a list, over all its pages.
    ///
    /// # Errors
    /// As [`CallError`] says; one page that cannot be had or read fails the list.
    pub async fn list<P: Page>(&self, ask: &Ask<'_>) -> Result<Vec<P::Item>, CallError> {
        let mut all = Vec::new();
        let mut page = ask.clone();
        for _ in 0..MOST_PAGES {
            let (items, next) = self.call::<P>(&page).await?.open();
            all.extend(items);
            let Some(next) = next.filter(|next| !next.is_empty()) else {
                return Ok(all);
            };
            page = ask.clone().with("pageToken", next);
        }
        Err(CallError::Unreadable {
            api: ask.api,
            what: "the list has no end".to_owned(),
            request: String::new(),
        })
    }

    /// Makes a call.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn answer(&self, ask: &Ask<'_>) -> Result<Answer, CallError> {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&ask.path);
        }
        if !ask.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&ask.query);
        }
        let body = ask.body.as_ref().map(|body| Bytes::from(body.to_string()));
        let mut renewed = false;
        loop {
            let token = self.tokens.bearer(SystemTime::now()).await;
            let token = token.map_err(|error| CallError::NoCredentials {
                api: ask.api,
                why: chain(&error),
            })?;
            let request = || request(&ask.method, &url, body.clone(), &token);
            match self.caller.call(ask.api, request, judge).await {
                Err(CallError::Refused { said, .. })
                    if !renewed && said.code == UNAUTHENTICATED =>
                {
                    self.tokens.expired(&token).await;
                    renewed = true;
                }
                other => return other,
            }
        }
    }
}

/// The code of a token that is not valid any more.
pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";

/// Difference between the API's clock and this machine's, from the `Date` of an answer.
pub fn skew(answer: &Answer, now: SystemTime) -> Option<Duration> {
    let told = httpdate::parse_http_date(answer.header("date")).ok()?;
    Some(match told.duration_since(now) {
        Ok(ahead) => ahead,
        Err(behind) => behind.duration(),
    })
}

fn request(method: &Method, url: &Url, body: Option<Bytes>, token: &str) -> Request {
    let credential = Origin::of(url).and_then(|origin| Credential::bearer(origin, token));
    let mut request = Request::get(url.clone()).credential(credential);
    request.method = method.clone();
    let json = HeaderValue::from_static("application/json");
    if body.is_some() {
        request.headers.insert(http::header::CONTENT_TYPE, json);
    } else if *method == Method::POST {
        // A POST without a body says so, or Google's front end answers 411.
        let none = HeaderValue::from_static("0");
        request.headers.insert(http::header::CONTENT_LENGTH, none);
    }
    request.body = body;
    request
}

fn read<T: DeserializeOwned>(api: &'static str, answer: &Answer) -> Result<T, CallError> {
    serde_json::from_slice(&answer.body).map_err(|error| CallError::Unreadable {
        api,
        what: error.to_string(),
        request: request_id(answer),
    })
}

/// Compute Engine's answers have no id of the request but in the operation; what the front end says
/// helps its support as well.
fn request_id(answer: &Answer) -> String {
    let mut names = ["x-goog-request-id", "x-guploader-uploadid", "x-request-id"].into_iter();
    let found = names.find_map(|name| Some(answer.header(name)).filter(|id| !id.is_empty()));
    found.unwrap_or("-").to_owned()
}

fn judge(answer: &Answer) -> (Verdict, String) {
    let request = request_id(answer);
    let verdict = match answer.status.as_u16() {
        200..300 => Verdict::Answer,
        429 => Verdict::Throttled,
        408 | 500.. => Verdict::Failed,
        _ => {
            let said = said(answer);
            match said.code.as_str() {
                "rateLimitExceeded" | "userRateLimitExceeded" | "RATE_LIMIT_EXCEEDED" => {
                    Verdict::Throttled
                }
                _ => Verdict::Refused(said),
            }
        }
    };
    (verdict, request)
}

/// What an answer that is an error says.
pub fn said(answer: &Answer) -> Said {
    let told: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
    let fault = told.error;
    let status = answer.status.as_u16();
    let reason = fault.errors.into_iter().map(|one| one.reason);
    let reason = reason.chain(fault.details.iter().map(|one| one.reason.clone()));
    let reason = reason.into_iter().find(|reason| !reason.is_empty());
    // 401 has half a dozen reasons (authError, ACCESS_TOKEN_EXPIRED), and one meaning.
    let code = match (status, reason, fault.status) {
        (401, _, _) => UNAUTHENTICATED.to_owned(),
        (_, Some(reason), _) => reason,
        (_, None, named) if !named.is_empty() => named,
        _ => status.to_string(),
    };
    let permission = fault
        .details
        .into_iter()
        .find_map(|one| one.metadata.permission);
    let mut message: String = fault.message.chars().take(1500).collect();
    if let Some(permission) = permission.filter(|it| !message.contains(it.as_str())) {
        message.push_str(&format!(" (permission '{permission}')"));
    }
    Said {
        code,
        message,
        request: request_id(answer),
    }
}

/// The permission that a 403 names, in whichever of Google's ways: `Required 'a.b.c' permission`,
/// `Required "a.b.c" permission(s)`, `Permission 'a.b.c' denied`.
pub fn permission(message: &str) -> Option<&str> {
    let mut quoted = message.split(['\'', '"']).skip(1).step_by(2);
    quoted.find(|word| {
        let part = |part: &str| {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            !part.is_empty() && part.bytes().all(letters)
        };
        word.split('.').count() == 3 && word.split('.').all(part)
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    error: Fault,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fault {
    message: String,
    status: String,
    errors: Vec<Reason>,
    details: Vec<Reason>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    permission: Option<String>,
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn judged(status: u16, body: &str) -> Verdict {
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        };
        judge(&answer).0
    }

    fn refused(status: u16, body: &str) -> (String, String) {
        match judged(status, body) {
            Verdict::Refused(said) => (said.code, said.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_is_read_in_both_of_googles_shapes() {
        let compute = r#"{"error": {"code": 404, "message": "The resource 'projects/p/zones/z' was not found",
            "errors": [{"message": "…", "domain": "global", "reason": "notFound"}]}}"#;
        assert_eq!(refused(404, compute).0, "notFound");
        let container = r#"{"error": {"code": 400, "message": "Cluster is running incompatible operation",
            "status": "FAILED_PRECONDITION"}}"#;
        let (code, message) = refused(400, container);
        assert_eq!(code, "FAILED_PRECONDITION");
        assert_eq!(message, "Cluster is running incompatible operation");
        assert_eq!(refused(400, "<html>"), ("400".to_owned(), String::new()));
        assert_eq!(refused(401, "").0, UNAUTHENTICATED);
    }

    #[test]
    fn too_often_is_told_by_two_statuses() {
        let often = r#"{"error": {"code": 403, "message": "Quota exceeded for quota metric 'Queries'",
            "errors": [{"reason": "rateLimitExceeded"}]}}"#;
        assert_eq!(judged(403, often), Verdict::Throttled);
        assert_eq!(judged(429, ""), Verdict::Throttled);
        assert_eq!(judged(502, "<html>"), Verdict::Failed);
    }

    #[test]
    fn the_permission_that_is_missing_is_found_in_the_words() {
        let words = [
            (
                "Required 'compute.instanceGroupManagers.update' permission for 'projects/p/zones/z'",
                Some("compute.instanceGroupManagers.update"),
            ),
            (
                "Required \"container.clusters.update\" permission(s) for \"projects/p\".",
                Some("container.clusters.update"),
            ),
            ("Access denied", None),
            ("it's 'a.b.c d' and 'a..b'", None),
        ];
        for (message, found) in words {
            assert_eq!(permission(message), found, "{message}");
        }
    }
}
