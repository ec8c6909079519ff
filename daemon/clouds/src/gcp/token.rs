//! Where access tokens come from: the metadata server, which in a pod of GKE answers for the service
//! account that Workload Identity binds it to, or Security Token Service, which gives one for somebody
//! else's token as a credential file says (workload identity federation).
//!
//! A token that ends is replaced five minutes before, by one caller at a time; while it is still good,
//! a source that does not answer does no harm. One that an API calls expired is forgotten, whatever its
//! own end says. Keys of service accounts are not read: a key in a file is what federation is for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::net::{Credential, Http, NetError, Origin, Request};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::kept::{Held, Kept};
use crate::setting::InvalidSetting;

/// Most bytes of an answer, and of a credential file.
const MAX_ANSWER: usize = 1 << 20;

/// What tokens are asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// Where tokens come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// It was given.
    Given(String),
    /// The metadata server gives those of the machine's, or the pod's, service account.
    Metadata {
        /// The metadata server: `http://metadata.google.internal`.
        endpoint: Url,
    },
    /// A credential file says who gives one for which token (`external_account`). It is read anew for
    /// each token.
    File(PathBuf),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::Metadata { endpoint } => write!(f, "Metadata({endpoint})"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

impl Source {
    /// The source that Google's own programs would use in a pod, given what the environment says:
    /// `GOOGLE_APPLICATION_CREDENTIALS`, else the metadata server, at `GCE_METADATA_HOST` where that is
    /// set.
    ///
    /// # Errors
    /// If the host makes no address.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSetting> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("GOOGLE_APPLICATION_CREDENTIALS") {
            return Ok(Self::File(path.into()));
        }
        let host = variable("GCE_METADATA_HOST");
        let host = host.unwrap_or_else(|| "metadata.google.internal".to_owned());
        let endpoint = Url::parse(&format!("http://{host}"));
        let endpoint = endpoint.map_err(|_| InvalidSetting {
            name: "GCE_METADATA_HOST",
            found: host,
            expected: "write a host, or a host and a port",
        })?;
        Ok(Self::Metadata { endpoint })
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A file cannot be read.
    #[error("{path} cannot be read: mount it, as workload identity federation does")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The credential file makes no sense.
    #[error("{path}: {field} {found}: {fix}")]
    Credentials {
        /// Which.
        path: PathBuf,
        /// What of it.
        field: &'static str,
        /// How it is.
        found: String,
        /// What to do.
        fix: &'static str,
    },
    /// The source does not answer.
    #[error("{from} does not answer")]
    Net {
        /// Which.
        from: &'static str,
        /// Why.
        source: Box<NetError>,
    },
    /// The source says no.
    #[error("{from} answers {status}: {said}")]
    Refused {
        /// Which.
        from: &'static str,
        /// Status.
        status: u16,
        /// Its words.
        said: String,
    },
    /// The answer holds no token.
    #[error("{from} answers without {missing}")]
    Incomplete {
        /// Which.
        from: &'static str,
        /// What is missing.
        missing: &'static str,
    },
}

/// Tokens, replaced before they end.
#[derive(Debug)]
pub struct Tokens {
    http: Http,
    source: Source,
    kept: Kept<String>,
}

impl Tokens {
    /// Tokens from `source`, asked for over `http`.
    pub fn new(http: Http, source: Source) -> Self {
        Self {
            http,
            source,
            kept: Kept::default(),
        }
    }

    /// A token that holds at `now`.
    ///
    /// # Errors
    /// If there is none and the source gives none.
    pub async fn bearer(&self, now: SystemTime) -> Result<String, TokenError> {
        self.kept.value(now, self.fetch(now)).await
    }

    /// An API calls `token` expired: it is not used again.
    pub async fn expired(&self, token: &str) {
        self.kept.forget(token).await;
    }

    async fn fetch(&self, now: SystemTime) -> Result<Held<String>, TokenError> {
        match &self.source {
            Source::Given(token) => Ok(Held {
                value: token.clone(),
                until: None,
            }),
            Source::Metadata { endpoint } => {
                const FROM: &str = "the metadata server";
                let mut url = endpoint.clone();
                url.set_path("/computeMetadata/v1/instance/service-accounts/default/token");
                let mut request = Request::get(url).header(
                    HeaderName::from_static("metadata-flavor"),
                    HeaderValue::from_static("Google"),
                );
                request.header_timeout = Duration::from_secs(10);
                let given: Given = self.ask(FROM, &request, GIVEN).await?;
                Ok(given.held(now))
            }
            Source::File(path) => self.federated(path, now).await,
        }
    }

    async fn federated(&self, path: &Path, now: SystemTime) -> Result<Held<String>, TokenError> {
        const STS: &str = "Security Token Service";
        let file = Account::read(path).await?;
        let subject = self.subject(path, &file.credential_source).await?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair(
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            )
            .append_pair("audience", &file.audience)
            .append_pair("scope", SCOPE)
            .append_pair(
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            )
            .append_pair("subject_token_type", &file.subject_token_type)
            .append_pair("subject_token", &subject)
            .finish();
        let mut request = Request::get(file.token_url.0);
        request.method = Method::POST;
        request.body = Some(Bytes::from(form));
        request.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let exchanged: Given = self.ask(STS, &request, GIVEN).await?;
        let Some(Link(url)) = file.service_account_impersonation_url else {
            return Ok(exchanged.held(now));
        };
        const IAM: &str = "IAM Service Account Credentials";
        let credential = Origin::of(&url);
        let credential = credential.and_then(|to| Credential::bearer(to, &exchanged.access_token));
        let mut request = Request::get(url).credential(credential);
        request.method = Method::POST;
        request.headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let body = serde_json::json!({"scope": [SCOPE], "lifetime": "3600s"});
        request.body = Some(Bytes::from(body.to_string()));
        let given: Impersonated = self.ask(IAM, &request, "accessToken").await?;
        let until: Option<jiff::Timestamp> = given.expire_time.parse().ok();
        Ok(Held {
            value: given.access_token,
            until: until.and_then(|until| {
                let seconds = u64::try_from(until.as_second()).ok()?;
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            }),
        })
    }

    /// Somebody else's token: in a file, or at a URL.
    async fn subject(&self, path: &Path, from: &CredentialSource) -> Result<String, TokenError> {
        let text = match (&from.file, &from.url) {
            (Some(file), _) => read(file).await?,
            (None, Some(Link(url))) => {
                let mut request = Request::get(url.clone());
                for (name, value) in &from.headers {
                    let header = HeaderName::try_from(name).ok();
                    if let Some((name, value)) = header.zip(HeaderValue::from_str(value).ok()) {
                        request.headers.insert(name, value);
                    }
                }
                let body = self.send("the URL of credential_source", &request).await?;
                String::from_utf8_lossy(&body).into_owned()
            }
            (None, None) => {
                return Err(TokenError::Credentials {
                    path: path.to_owned(),
                    field: "credential_source",
                    found: "names neither file nor url".to_owned(),
                    fix: "name one; AWS and programs as sources are not supported",
                });
            }
        };
        match &from.format.subject_token_field_name {
            None => Ok(text.trim().to_owned()),
            Some(field) => {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                let token = value.get(field).and_then(|token| token.as_str());
                token.map(str::to_owned).ok_or(TokenError::Incomplete {
                    from: "credential_source",
                    missing: "the field that subject_token_field_name names",
                })
            }
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        from: &'static str,
        request: &Request,
        missing: &'static str,
    ) -> Result<T, TokenError> {
        let body = self.send(from, request).await?;
        serde_json::from_slice(&body).map_err(|_| TokenError::Incomplete { from, missing })
    }

    async fn send(&self, from: &'static str, request: &Request) -> Result<Bytes, TokenError> {
        let net = |source| TokenError::Net {
            from,
            source: Box::new(source),
        };
        let response = self.http.send_once(request).await.map_err(net)?;
        let status = response.status;
        let body = response.bytes(MAX_ANSWER).await.map_err(net)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let refused: Refused = serde_json::from_slice(&body).unwrap_or_default();
        let words: String = refused.error_description.chars().take(300).collect();
        Err(TokenError::Refused {
            from,
            status: status.as_u16(),
            said: match refused.error.as_str() {
                // What is before it answered with a page, or the metadata server with a line.
                None => String::from_utf8_lossy(&body)
                    .lines()
                    .next()
                    .filter(|line| !line.contains('<'))
                    .map(|line| line.chars().take(200).collect())
                    .unwrap_or_default(),
                Some(error) => format!("{error}: {words}"),
            },
        })
    }
}

async fn read(path: &Path) -> Result<String, TokenError> {
    let text = tokio::fs::read_to_string(path).await;
    text.map_err(|source| TokenError::File {
        path: path.to_owned(),
        source,
    })
}

const GIVEN: &str = "access_token and expires_in";

/// A token as the metadata server and Security Token Service answer it.
#[derive(Deserialize)]
struct Given {
    access_token: String,
    expires_in: u64,
}

impl Given {
    fn held(self, now: SystemTime) -> Held<String> {
        Held {
            value: self.access_token,
            until: Some(now + Duration::from_secs(self.expires_in.min(7 * 86_400))),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Impersonated {
    access_token: String,
    #[serde(default)]
    expire_time: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: serde_json::Value,
    error_description: String,
}

/// A credential file, as far as it is read.
#[derive(Deserialize)]
struct Account {
    audience: String,
    subject_token_type: String,
    token_url: Link,
    #[serde(default)]
    service_account_impersonation_url: Option<Link>,
    credential_source: CredentialSource,
}

/// A URL, as a file writes it.
struct Link(Url);

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let url = Url::parse(&text);
        url.map(Self)
            .map_err(|error| serde::de::Error::custom(format!("{text:?} is no URL: {error}")))
    }
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<PathBuf>,
    url: Option<Link>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    subject_token_field_name: Option<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

impl Account {
    async fn read(path: &Path) -> Result<Self, TokenError> {
        let text = read(path).await?;
        let wrong = |field, found, fix| TokenError::Credentials {
            path: path.to_owned(),
            field,
            found,
            fix,
        };
        const FIX: &str = "write it with gcloud iam workload-identity-pools create-cred-config";
        if text.len() > MAX_ANSWER {
            return Err(wrong("the file", "is over 1 MiB".to_owned(), FIX));
        }
        let kind = serde_json::from_str::<Kind>(&text);
        match kind.map(|kind| kind.kind) {
            Err(error) => return Err(wrong("type", format!("cannot be read ({error})"), FIX)),
            Ok(kind) if kind != "external_account" => {
                let kind: String = kind.chars().take(40).collect();
                let fix = "use Workload Identity, or a file of type external_account";
                return Err(wrong("type", format!("is {kind:?}"), fix));
            }
            Ok(_) => {}
        }
        serde_json::from_str(&text)
            .map_err(|error| wrong("the file", format!("lacks something ({error})"), FIX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Source {
        let set: BTreeMap<_, _> = set.iter().copied().collect();
        Source::of(|name| set.get(name).map(|value| (*value).to_owned())).unwrap()
    }

    #[test]
    fn the_environment_says_where_tokens_come_from() {
        let file = of(&[("GOOGLE_APPLICATION_CREDENTIALS", "/etc/gcp.json")]);
        assert_eq!(file, Source::File("/etc/gcp.json".into()));
        let metadata = |host: &str| Source::Metadata {
            endpoint: Url::parse(host).unwrap(),
        };
        assert_eq!(of(&[]), metadata("http://metadata.google.internal"));
        let host = of(&[("GCE_METADATA_HOST", "127.0.0.1:80")]);
        assert_eq!(host, metadata("http://127.0.0.1"));
        let wrong = Source::of(|name| (name == "GCE_METADATA_HOST").then(|| "a b".to_owned()));
        assert_eq!(wrong.unwrap_err().name, "GCE_METADATA_HOST");
    }

    #[tokio::test]
    async fn a_credential_file_that_makes_no_sense_is_told_by_its_field() {
        let directory = std::env::temp_dir().join(format!("headstart-gcp-{}", std::process::id()));
        tokio::fs::create_dir_all(&directory).await.unwrap();
        let path = directory.join("credentials.json");
        let mut told = Vec::new();
        for text in [
            "",
            "[]",
            r#"{"type": "service_account", "private_key": "secret"}"#,
            r#"{"type": "external_account", "audience": "a"}"#,
        ] {
            tokio::fs::write(&path, text).await.unwrap();
            let error = Account::read(&path).await.err().unwrap().to_string();
            assert!(!error.contains("secret"), "{error}");
            told.push(error);
        }
        tokio::fs::remove_dir_all(&directory).await.unwrap();
        let missing = Account::read(&path).await.err().unwrap().to_string();
        assert!(missing.contains("credentials.json"), "{missing}");
        assert!(told[0].contains(": type cannot be read"), "{}", told[0]);
        assert!(
            told[2].contains("type is \"service_account\""),
            "{}",
            told[2]
        );
        assert!(told[3].contains("subject_token_type"), "{}", told[3]);
    }
}
