//! Where tokens come from: workload identity, which gives one for the token of a service account, or a
//! managed identity, whose metadata service gives one to whoever runs on the machine.
//!
//! A token that ends is replaced five minutes before, by one caller at a time; while it is still good,
//! a source that does not answer does no harm. One that an API calls expired is forgotten, whatever its
//! own end says.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::net::{Http, NetError, Request};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::kept::{Held, Kept};
use crate::setting::InvalidSetting;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// What a token is asked for: Azure Resource Manager, of the public cloud.
pub const RESOURCE: &str = "https://management.azure.com/";

/// Where tokens come from.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// It was given.
    Given(String),
    /// Microsoft Entra gives one for the token in a file (workload identity).
    Federated {
        /// Microsoft Entra: `https://login.microsoftonline.com`.
        authority: Url,
        /// The directory.
        tenant: String,
        /// The identity.
        client: String,
        /// File with the service account's token.
        token: PathBuf,
    },
    /// The metadata service of the machine gives one.
    Managed {
        /// The metadata service: `http://169.254.169.254`.
        endpoint: Url,
        /// The identity, where the machine has several.
        client: Option<String>,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given"),
            Self::Federated { tenant, client, .. } => write!(f, "Federated({tenant}, {client})"),
            Self::Managed { client, .. } => write!(f, "Managed({client:?})"),
        }
    }
}

impl Source {
    /// The source that Azure's own programs would use in a pod, given what the environment says:
    /// `AZURE_FEDERATED_TOKEN_FILE` with `AZURE_TENANT_ID` and `AZURE_CLIENT_ID`, as the webhook of
    /// workload identity sets them, else the managed identity of the machine.
    ///
    /// # Errors
    /// If one of them is half set.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidSetting> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = |name: &'static str, text: String| {
            Url::parse(&text).map_err(|_| InvalidSetting {
                name,
                found: text,
                expected: "write a URL",
            })
        };
        let client = variable("AZURE_CLIENT_ID");
        let Some(token) = variable("AZURE_FEDERATED_TOKEN_FILE") else {
            let endpoint = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST")
                .unwrap_or_else(|| "http://169.254.169.254".to_owned());
            let endpoint = url("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint)?;
            return Ok(Self::Managed { endpoint, client });
        };
        let needed = |name: &'static str, value: Option<String>| {
            value.ok_or(InvalidSetting {
                name,
                found: String::new(),
                expected: "AZURE_FEDERATED_TOKEN_FILE is set, so set this too",
            })
        };
        let authority = variable("AZURE_AUTHORITY_HOST")
            .unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
        Ok(Self::Federated {
            authority: url("AZURE_AUTHORITY_HOST", authority)?,
            tenant: needed("AZURE_TENANT_ID", variable("AZURE_TENANT_ID"))?,
            client: needed("AZURE_CLIENT_ID", client)?,
            token: token.into(),
        })
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The service account's token cannot be read.
    #[error("the token in {path} cannot be read: mount it, as workload identity does")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
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
    #[error("{from} answers without access_token and expires_in")]
    Incomplete {
        /// Which.
        from: &'static str,
    },
}

/// Tokens for [`RESOURCE`], replaced before they end.
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
            Source::Federated {
                authority,
                tenant,
                client,
                token,
            } => {
                let read = tokio::fs::read_to_string(token).await;
                let assertion = read.map_err(|source| TokenError::File {
                    path: token.clone(),
                    source,
                })?;
                let scope = format!("{RESOURCE}.default");
                const JWT: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", "client_credentials")
                    .append_pair("client_id", client)
                    .append_pair("scope", &scope)
                    .append_pair("client_assertion_type", JWT)
                    .append_pair("client_assertion", assertion.trim())
                    .finish();
                let mut url = authority.clone();
                if let Ok(mut segments) = url.path_segments_mut() {
                    segments
                        .pop_if_empty()
                        .extend([tenant.as_str(), "oauth2", "v2.0", "token"]);
                }
                let mut request = Request::get(url);
                request.method = Method::POST;
                request.body = Some(Bytes::from(form));
                request.headers.insert(
                    http::header::CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
                self.ask("Microsoft Entra", request, now).await
            }
            Source::Managed { endpoint, client } => {
                let mut url = endpoint.clone();
                url.set_path("/metadata/identity/oauth2/token");
                url.query_pairs_mut()
                    .append_pair("api-version", "2018-02-01")
                    .append_pair("resource", RESOURCE);
                if let Some(client) = client {
                    url.query_pairs_mut().append_pair("client_id", client);
                }
                let mut request = Request::get(url).header(
                    HeaderName::from_static("metadata"),
                    HeaderValue::from_static("true"),
                );
                request.header_timeout = Duration::from_secs(10);
                self.ask("the instance metadata service", request, now)
                    .await
            }
        }
    }

    async fn ask(
        &self,
        from: &'static str,
        request: Request,
        now: SystemTime,
    ) -> Result<Held<String>, TokenError> {
        let net = |source| TokenError::Net {
            from,
            source: Box::new(source),
        };
        let response = self.http.send_once(&request).await.map_err(net)?;
        let status = response.status;
        let body = response.bytes(MAX_ANSWER).await.map_err(net)?;
        if status != StatusCode::OK {
            let refused: Refused = serde_json::from_slice(&body).unwrap_or_default();
            // The rest of the description are ids and the time, a line each.
            let line = refused.error_description.lines().next().unwrap_or("");
            let words: String = line.chars().take(300).collect();
            return Err(TokenError::Refused {
                from,
                status: status.as_u16(),
                said: format!("{}: {words}", refused.error),
            });
        }
        let given: Given =
            serde_json::from_slice(&body).map_err(|_| TokenError::Incomplete { from })?;
        Ok(Held {
            value: given.access_token,
            until: Some(now + Duration::from_secs(given.expires_in.min(7 * 86_400))),
        })
    }
}

/// A token as both sources answer it. The metadata service writes its seconds as text.
#[derive(Deserialize)]
struct Given {
    access_token: String,
    #[serde(deserialize_with = "seconds")]
    expires_in: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(u64),
        Text(String),
    }
    match Seconds::deserialize(from)? {
        Seconds::Number(seconds) => Ok(seconds),
        Seconds::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> Result<Source, InvalidSetting> {
        Source::of(|name| {
            let found = set.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_pod_with_workload_identity_uses_it() {
        let set = [
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/var/token"),
        ];
        let authority = Url::parse("https://login.microsoftonline.com").unwrap();
        let federated = Source::Federated {
            authority,
            tenant: "t".to_owned(),
            client: "c".to_owned(),
            token: "/var/token".into(),
        };
        assert_eq!(of(&set), Ok(federated));
        let half = of(&set[2..]).unwrap_err();
        assert_eq!(half.name, "AZURE_TENANT_ID");
    }

    #[test]
    fn a_machine_without_it_uses_its_managed_identity() {
        let endpoint = Url::parse("http://169.254.169.254").unwrap();
        let client = Some("c".to_owned());
        let managed = Source::Managed { endpoint, client };
        assert_eq!(of(&[("AZURE_CLIENT_ID", "c")]), Ok(managed));
    }

    #[test]
    fn seconds_are_read_as_numbers_and_as_text() {
        for text in [
            r#"{"access_token": "x", "expires_in": 3599}"#,
            r#"{"access_token": "x", "expires_in": "3599"}"#,
        ] {
            let given: Given = serde_json::from_str(text).unwrap();
            assert_eq!(given.expires_in, 3599);
        }
    }
}
