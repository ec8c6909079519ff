//! One signed call of any of AWS's services, in the three forms that they have: query (XML), JSON with
//! a target, REST with JSON.
//!
//! A call whose keys turn out to have expired is made once more with new ones. What an answer means is
//! said by its code before its status: a lack of capacity comes as a server's failure, and is none.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use headstart_transfer::chain;
use headstart_transfer::net::Request;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::credentials::Credentials;
use super::sign::{self, Keys, Scope, encode};
use super::xml;
use crate::call::{Answer, CallError, Caller, Said, Verdict};

/// Header with the request's id, for answers that do not hold it.
const REQUEST_ID: &str = "x-amzn-requestid";

/// A service in a region.
#[derive(Debug)]
pub(super) struct Wire {
    caller: Caller,
    credentials: Arc<Credentials>,
    endpoint: Url,
    region: String,
    service: &'static str,
}

/// A request before it is signed.
struct Unsigned {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Wire {
    pub(super) fn new(
        caller: Caller,
        credentials: Arc<Credentials>,
        endpoint: Url,
        region: &str,
        service: &'static str,
    ) -> Self {
        Self {
            caller,
            credentials,
            endpoint,
            region: region.to_owned(),
            service,
        }
    }

    /// A call of the query protocol.
    pub(super) async fn query(
        &self,
        api: &'static str,
        version: &str,
        parameters: &[(String, String)],
    ) -> Result<Answer, CallError> {
        let mut form = format!("Action={api}&Version={version}");
        for (name, value) in parameters {
            form.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        let content = "application/x-www-form-urlencoded; charset=utf-8";
        self.call(api, &post(content, None, form)).await
    }

    /// A call of the JSON protocol: `target` is the service's prefix, `content` its content type.
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        api: &'static str,
        (target, content): (&str, &'static str),
        body: &serde_json::Value,
    ) -> Result<T, CallError> {
        let target = format!("{target}.{api}");
        let unsigned = post(content, Some(&target), body.to_string());
        read(api, &self.call(api, &unsigned).await?)
    }

    /// A REST call that only reads.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        api: &'static str,
        path: String,
    ) -> Result<T, CallError> {
        let unsigned = Unsigned {
            method: Method::GET,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        read(api, &self.call(api, &unsigned).await?)
    }

    async fn call(&self, api: &'static str, unsigned: &Unsigned) -> Result<Answer, CallError> {
        let keys = self.keys(api).await?;
        match self.with(&keys, api, unsigned).await {
            Err(CallError::Refused { said, .. }) if is_expired(&said.code) => {
                self.credentials.renew(&keys).await;
                let keys = self.keys(api).await?;
                self.with(&keys, api, unsigned).await
            }
            other => other,
        }
    }

    async fn keys(&self, api: &'static str) -> Result<Keys, CallError> {
        let keys = self.credentials.keys(SystemTime::now()).await;
        keys.map_err(|error| CallError::NoCredentials {
            api,
            why: chain(&error),
        })
    }

    async fn with(
        &self,
        keys: &Keys,
        api: &'static str,
        unsigned: &Unsigned,
    ) -> Result<Answer, CallError> {
        let request = || self.signed(keys, unsigned);
        self.caller.call(api, request, judge).await
    }

    fn signed(&self, keys: &Keys, unsigned: &Unsigned) -> Request {
        let mut headers = unsigned.headers.clone();
        let host = match (self.endpoint.host_str().unwrap_or(""), self.endpoint.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(http::header::HOST, host);
        }
        let now = time(SystemTime::now(), "%Y%m%dT%H%M%SZ");
        let scope = Scope {
            region: &self.region,
            service: self.service,
            time: &now,
        };
        let mut url = self.endpoint.clone();
        url.set_path(&unsigned.path);
        let method = unsigned.method.as_str();
        let place = (url.path(), "");
        headers.extend(sign::headers(
            keys,
            scope,
            method,
            place,
            &headers,
            &unsigned.body,
        ));
        let mut request = Request::get(url);
        request.method = unsigned.method.clone();
        request.headers = headers;
        request.body = (unsigned.method != Method::GET).then(|| unsigned.body.clone());
        request
    }
}

fn post(content: &'static str, target: Option<&str>, body: String) -> Unsigned {
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(content),
    );
    if let Some(target) = target.and_then(|target| HeaderValue::from_str(target).ok()) {
        headers.insert(HeaderName::from_static("x-amz-target"), target);
    }
    Unsigned {
        method: Method::POST,
        path: "/".to_owned(),
        headers,
        body: Bytes::from(body),
    }
}

fn read<T: DeserializeOwned>(api: &'static str, answer: &Answer) -> Result<T, CallError> {
    let read = serde_json::from_slice(&answer.body);
    // What serde says can quote what it read.
    read.map_err(|error| {
        let what = format!("line {} column {}", error.line(), error.column());
        unreadable(api, &what, answer)
    })
}

pub(super) fn unreadable(api: &'static str, what: &str, answer: &Answer) -> CallError {
    CallError::Unreadable {
        api,
        what: what.to_owned(),
        request: answer.header(REQUEST_ID).to_owned(),
    }
}

/// What a JSON service says of a failure; its code can also be in a header.
#[derive(Default, Deserialize)]
#[serde(default)]
struct JsonError {
    #[serde(rename = "__type")]
    kind: String,
    #[serde(alias = "Message")]
    message: String,
}

fn said(answer: &Answer) -> Option<Said> {
    let said = xml::error(&String::from_utf8_lossy(&answer.body)).or_else(|| {
        let error: JsonError = serde_json::from_slice(&answer.body).ok()?;
        let code = match answer.header("x-amzn-errortype") {
            "" => &error.kind,
            code => code,
        };
        let code = code.rsplit('#').next().unwrap_or(code);
        let code = code.split(':').next().unwrap_or(code);
        (!code.is_empty()).then(|| Said {
            code: code.to_owned(),
            message: error.message.clone(),
            request: String::new(),
        })
    });
    said.map(|mut said| {
        if said.request.is_empty() {
            answer.header(REQUEST_ID).clone_into(&mut said.request);
        }
        said
    })
}

fn judge(answer: &Answer) -> (Verdict, String) {
    if answer.status.is_success() {
        return (Verdict::Answer, String::new());
    }
    let Some(said) = said(answer) else {
        let request = answer.header(REQUEST_ID).to_owned();
        let verdict = match answer.status.as_u16() {
            429 | 503 => Verdict::Throttled,
            500.. => Verdict::Failed,
            status => Verdict::Refused(Said {
                code: status.to_string(),
                request: request.clone(),
                ..Said::default()
            }),
        };
        return (verdict, request);
    };
    let request = said.request.clone();
    let verdict = match said.code.as_str() {
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "EC2ThrottledException" => Verdict::Throttled,
        "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalServerException"
        | "ServerException"
        | "ServiceException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException"
        | "Unavailable" => Verdict::Failed,
        _ => Verdict::Refused(said),
    };
    (verdict, request)
}

/// Whether keys that were good are not any more.
fn is_expired(code: &str) -> bool {
    matches!(
        code,
        "ExpiredToken" | "ExpiredTokenException" | "RequestExpired"
    )
}

pub(super) fn time(at: SystemTime, form: &str) -> String {
    // Times this machine's clock can have are times jiff knows.
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime(form).to_string()
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn answer(status: u16, header: &str, body: &str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert("x-amzn-requestid", HeaderValue::from_static("r-1"));
        if !header.is_empty() {
            headers.insert("x-amzn-errortype", HeaderValue::from_str(header).unwrap());
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::from(body.to_owned()),
        }
    }

    fn code(status: u16, header: &str, body: &str) -> String {
        match judge(&answer(status, header, body)).0 {
            Verdict::Refused(said) => format!("{} ({})", said.code, said.request),
            verdict => format!("{verdict:?}"),
        }
    }

    #[test]
    fn a_code_is_found_in_every_form_that_services_have() {
        let ec2 = "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>\
                   <Message>no</Message></Error></Errors><RequestID>r-2</RequestID></Response>";
        assert_eq!(code(500, "", ec2), "InsufficientInstanceCapacity (r-2)");
        let sts = "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>";
        assert_eq!(code(403, "", sts), "AccessDenied (r-1)");
        let sqs = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"no"}"#;
        assert_eq!(code(400, "", sqs), "QueueDoesNotExist (r-1)");
        let eks = r#"{"message":"No cluster found"}"#;
        let kind = "ResourceNotFoundException:http://internal.amazon.com/coral/";
        assert_eq!(code(404, kind, eks), "ResourceNotFoundException (r-1)");
        assert_eq!(code(418, "", "<html>"), "418 (r-1)");
    }

    #[test]
    fn too_often_and_failed_are_told_by_code_or_else_by_status() {
        let throttled = r#"{"__type":"ThrottlingException"}"#;
        assert_eq!(code(400, "", throttled), "Throttled");
        assert_eq!(code(503, "", "<html>"), "Throttled");
        assert_eq!(code(502, "", "<html>"), "Failed");
    }
}
