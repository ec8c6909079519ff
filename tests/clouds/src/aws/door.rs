//! Who asks for what: signatures, temporary credentials, and how each service says no.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use headstart_clouds::aws::sign::{self, Keys, Scope};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{KEYS, Kept, No, no};

/// A request whose signature holds.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) service: String,
    pub(super) action: String,
    pub(super) form: Vec<(String, String)>,
    pub(super) json: Value,
}

impl Asker {
    /// A parameter of the query protocol.
    pub(super) fn form(&self, name: &str) -> Option<&str> {
        let mut form = self.form.iter();
        form.find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// `NAME.1`, `NAME.2` and so on.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let numbered = (1..).map(|number| self.form(&format!("{name}.{number}")));
        numbered.map_while(|value| value).collect()
    }

    /// Values of each filter.
    pub(super) fn filters(&self) -> Vec<(&str, Vec<&str>)> {
        let numbered = (1..).map(|number| {
            let name = self.form(&format!("Filter.{number}.Name"))?;
            Some((name, self.list(&format!("Filter.{number}.Value"))))
        });
        numbered.map_while(|filter| filter).collect()
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// Credentials that are handed out without a signature: by the Pod Identity agent, by STS for a token,
/// by the metadata service to whoever has a session.
pub(super) fn hand_out(
    kept: &Kept,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Response> {
    const SESSION: &str = "session-of-the-metadata-service";
    let serial = kept.inner().serial;
    let end = Timestamp::try_from(SystemTime::now() + Duration::from_secs(3600)).ok()?;
    let end = end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (id, secret, token) = temporary(serial);
    let keys = json!({
        "AccessKeyId": id, "SecretAccessKey": secret, "Token": token, "Expiration": end,
    });
    let keys = || keys.to_string().into_response();
    let forbidden = || StatusCode::UNAUTHORIZED.into_response();
    Some(match (method.as_str(), uri.path()) {
        ("GET", "/v1/credentials") => keys(),
        ("PUT", "/latest/api/token") => {
            match text(headers, "x-aws-ec2-metadata-token-ttl-seconds") {
                "" => StatusCode::BAD_REQUEST.into_response(),
                _ => SESSION.into_response(),
            }
        }
        ("GET", path) if path.starts_with("/latest/meta-data/") => {
            let role = path.strip_prefix("/latest/meta-data/iam/security-credentials/");
            match (text(headers, "x-aws-ec2-metadata-token"), role) {
                (SESSION, Some("")) => "daemon".into_response(),
                (SESSION, Some("daemon")) => keys(),
                (SESSION, _) => StatusCode::NOT_FOUND.into_response(),
                _ => forbidden(),
            }
        }
        ("POST", _) => {
            let form = form(body);
            let of = |name: &str| {
                let mut form = form.iter();
                form.find(|(key, _)| key == name).map(|(_, value)| &**value)
            };
            if of("Action") != Some("AssumeRoleWithWebIdentity") {
                return None;
            }
            if of("WebIdentityToken") != Some("a.token.of-a-service-account") {
                let said = "The web identity token that was passed is expired or is not valid";
                return Some(refuse(kept, "sts", &no(400, "InvalidIdentityToken", said)));
            }
            format!(
                "<AssumeRoleWithWebIdentityResponse \
                 xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
                 <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
                 </AssumeRoleWithWebIdentityResponse>"
            )
            .into_response()
        }
        _ => return None,
    })
}

/// Id, secret and token of temporary keys.
fn temporary(serial: u64) -> (String, String, String) {
    (
        format!("ASIA{serial}"),
        format!("secret/{serial}"),
        format!("token+{serial}"),
    )
}

fn form(body: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(body).into_owned().collect()
}

/// That keys were good.
pub(super) fn expired(service: &str) -> No {
    let code = match service {
        "ec2" => "RequestExpired",
        "sts" => "ExpiredToken",
        _ => "ExpiredTokenException",
    };
    no(
        400,
        code,
        "The security token included in the request is expired",
    )
}

/// Who asks, if the signature holds; else the service and its no.
pub(super) fn who(
    kept: &Kept,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Asker, (String, No)> {
    let given = text(headers, "authorization");
    let part = |name: &str| {
        let (_, after) = given.split_once(name)?;
        after.split([',', ' ']).next()
    };
    let scope: Vec<&str> = part("Credential=").unwrap_or("").split('/').collect();
    let [id, _, region, service, "aws4_request"] = scope[..] else {
        let said = "Request is missing Authentication Token";
        return Err((
            "sts".to_owned(),
            no(403, "MissingAuthenticationToken", said),
        ));
    };
    let refused = |no: No| Err((service.to_owned(), no));
    let bad = || match service {
        "ec2" => no(
            401,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
        ),
        "sts" => no(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match",
        ),
        _ => no(
            403,
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        ),
    };
    let serial: Option<u64> = id
        .strip_prefix("ASIA")
        .and_then(|serial| serial.parse().ok());
    let keys = match serial {
        Some(serial) => {
            let (id, secret, token) = temporary(serial);
            Keys {
                id,
                secret,
                session: Some(token),
            }
        }
        None if id == KEYS.0 => Keys {
            id: id.to_owned(),
            secret: KEYS.1.to_owned(),
            session: None,
        },
        None => return refused(bad()),
    };
    if text(headers, "x-amz-security-token") != keys.session.as_deref().unwrap_or("") {
        return refused(bad());
    }
    let mut signed = HeaderMap::new();
    for name in part("SignedHeaders=").unwrap_or("").split(';') {
        let added = ["x-amz-date", "x-amz-security-token"].contains(&name);
        if let (false, Ok(name)) = (added, http::HeaderName::try_from(name)) {
            for value in headers.get_all(&name) {
                signed.append(name.clone(), value.clone());
            }
        }
    }
    let scope = Scope {
        region,
        service,
        time: text(headers, "x-amz-date"),
    };
    let place = (uri.path(), uri.query().unwrap_or(""));
    let again = sign::headers(&keys, scope, method.as_str(), place, &signed, body);
    let signature = |value: &str| value.rsplit_once("Signature=").map(|(_, it)| it.to_owned());
    let again = signature(text(&again, "authorization"));
    if again.is_none() || signature(given) != again || region != super::REGION {
        return refused(bad());
    }
    if serial.is_some_and(|serial| serial != kept.inner().serial) {
        return refused(expired(service));
    }
    let mut form = match service {
        "ec2" | "sts" => form(body),
        _ => Vec::new(),
    };
    let target = text(headers, "x-amz-target");
    let action = match (service, form.iter().position(|(name, _)| name == "Action")) {
        (_, Some(place)) => form.remove(place).1,
        ("eks", None) => "DescribeCluster".to_owned(),
        (_, None) => target.rsplit('.').next().unwrap_or("").to_owned(),
    };
    form.retain(|(name, _)| name != "Version");
    let json = match service {
        "eks" => json!({"name": uri.path().strip_prefix("/clusters/")}),
        _ => serde_json::from_slice(body).unwrap_or(Value::Null),
    };
    Ok(Asker {
        service: service.to_owned(),
        action,
        form,
        json,
    })
}

/// A no, as the service says it.
pub(super) fn refuse(kept: &Kept, service: &str, said: &No) -> Response {
    let request = format!("{:08x}-0000-4000-8000-000000000000", kept.inner().next());
    let No {
        code,
        message,
        status,
    } = said;
    let escaped = super::ec2::escape(message);
    let body = match service {
        "ec2" => format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error>\
             <Code>{code}</Code><Message>{escaped}</Message></Error></Errors>\
             <RequestID>{request}</RequestID></Response>"
        ),
        "sts" => format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error>\
             <Type>Sender</Type><Code>{code}</Code><Message>{escaped}</Message></Error>\
             <RequestId>{request}</RequestId></ErrorResponse>"
        ),
        "eks" => json!({"message": message}).to_string(),
        "sqs" => {
            json!({"__type": format!("com.amazonaws.sqs#{code}"), "message": message}).to_string()
        }
        _ => json!({"__type": code, "message": message}).to_string(),
    };
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    if let Ok(request) = HeaderValue::from_str(&request) {
        headers.insert("x-amzn-requestid", request);
    }
    if service == "eks" {
        headers.insert("x-amzn-errortype", HeaderValue::from_static(code));
    }
    response
}
