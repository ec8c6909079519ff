//! Signature Version 4, as "AWS Signature Version 4 for API requests" in the IAM User Guide describes
//! it: header form, single chunk.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

/// What a request is signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token of temporary credentials.
    pub session: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.id)
    }
}

/// For whom and when it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Region.
    pub region: &'a str,
    /// Service: `ec2`.
    pub service: &'a str,
    /// Now, as `YYYYMMDDTHHMMSSZ` in UTC.
    pub time: &'a str,
}

/// The headers to add to a request: `x-amz-date`, `x-amz-security-token` for temporary credentials,
/// and `authorization`. `path` and `query` as they are sent, percent-encoded; `headers` must hold
/// `host`, and all of them are signed.
pub fn headers(
    keys: &Keys,
    scope: Scope<'_>,
    method: &str,
    (path, query): (&str, &str),
    headers: &HeaderMap,
    body: &[u8],
) -> HeaderMap {
    let mut signed = headers.clone();
    let mut added = HeaderMap::new();
    let mut add = |name: &'static str, value: &str| {
        // Nothing that is no header value gets here: times and tokens are visible ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            let name = HeaderName::from_static(name);
            signed.insert(name.clone(), value.clone());
            added.insert(name, value);
        }
    };
    add("x-amz-date", scope.time);
    if let Some(token) = &keys.session {
        add("x-amz-security-token", token);
    }
    let mut names: Vec<&str> = signed.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let names = names.join(";");

    let date = scope.time.get(..8).unwrap_or_default();
    let within = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let canonical = canonical(method, path, query, &signed, &names, body);
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{within}\n{}",
        scope.time,
        hex(&Sha256::digest(canonical.as_bytes()))
    );
    let start = format!("AWS4{}", keys.secret);
    let parts = [date, scope.region, scope.service, "aws4_request", &to_sign];
    let signature = parts
        .iter()
        .fold(start.into_bytes(), |key, part| mac(&key, part.as_bytes()));
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={}/{within}, SignedHeaders={names}, Signature={}",
        keys.id,
        hex(&signature)
    );
    if let Ok(value) = HeaderValue::from_str(&value) {
        added.insert(http::header::AUTHORIZATION, value);
    }
    added
}

fn canonical(
    method: &str,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    names: &str,
    body: &[u8],
) -> String {
    let path = if path.is_empty() { "/" } else { path };
    let mut pairs: Vec<String> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.contains('=') {
            true => pair.to_owned(),
            false => format!("{pair}="),
        })
        .collect();
    pairs.sort_unstable();
    let mut text = format!("{method}\n{path}\n{}\n", pairs.join("&"));
    for name in names.split(';') {
        let values = headers.get_all(name).iter();
        let values: Vec<String> = values
            .map(|value| {
                let value = String::from_utf8_lossy(value.as_bytes());
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            })
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}:{}", values.join(","));
    }
    let _ = write!(text, "\n{names}\n{}", hex(&Sha256::digest(body)));
    text
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encodes as signatures want it: everything but letters, digits and `-._~`.
pub fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key, scope and cases of the "Signature Version 4 test suite" that AWS published.
    fn suite(
        method: &str,
        path_and_query: (&str, &str),
        more: &[(&'static str, &str)],
        body: &str,
    ) -> String {
        let keys = Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session: None,
        };
        let scope = Scope {
            region: "us-east-1",
            service: "service",
            time: "20150830T123600Z",
        };
        let mut given = HeaderMap::new();
        given.insert("host", HeaderValue::from_static("example.amazonaws.com"));
        for (name, value) in more {
            given.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let added = headers(
            &keys,
            scope,
            method,
            path_and_query,
            &given,
            body.as_bytes(),
        );
        let value = added[http::header::AUTHORIZATION].to_str().unwrap();
        value.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn the_published_vectors_are_met() {
        assert_eq!(
            suite("GET", ("/", ""), &[], ""),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            "get-vanilla"
        );
        assert_eq!(
            suite("GET", ("/", "Param2=value2&Param1=value1"), &[], ""),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            "get-vanilla-query-order-key-case"
        );
        assert_eq!(
            suite("POST", ("/", ""), &[], ""),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            "post-vanilla"
        );
        assert_eq!(
            suite(
                "POST",
                ("/", ""),
                &[("content-type", "application/x-www-form-urlencoded")],
                "Param1=value1"
            ),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            "post-x-www-form-urlencoded"
        );
        assert_eq!(
            suite(
                "GET",
                ("/", ""),
                &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
                ""
            ),
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            "get-header-value-trim"
        );
    }

    #[test]
    fn a_session_token_is_sent_and_signed() {
        let keys = Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: "secret".to_owned(),
            session: Some("token".to_owned()),
        };
        let scope = Scope {
            region: "us-east-1",
            service: "ec2",
            time: "20150830T123600Z",
        };
        let mut given = HeaderMap::new();
        given.insert("host", HeaderValue::from_static("ec2.amazonaws.com"));
        let added = headers(&keys, scope, "POST", ("/", ""), &given, b"");
        assert_eq!(added["x-amz-security-token"], "token");
        let value = added[http::header::AUTHORIZATION].to_str().unwrap();
        assert!(
            value.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"),
            "{value}"
        );
        assert!(!format!("{keys:?}").contains("secret"));
    }

    #[test]
    fn what_is_not_unreserved_is_encoded_byte_by_byte() {
        assert_eq!(encode("a b/c~é"), "a%20b%2Fc~%C3%A9");
    }
}
