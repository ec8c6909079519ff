//! Where the keys come from: given, a shared credentials file, an IAM role for a service account (IRSA),
//! EKS Pod Identity, or the instance's own role.
//!
//! Keys that end are replaced five minutes before, by one caller at a time; while they are still good,
//! a source that does not answer does no harm.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use headstart_transfer::net::{Http, NetError, Request};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use super::profile::{self, ProfileError};
use super::sign::Keys;
use super::xml;
use crate::kept::{EARLY, Held, Kept};
use crate::setting::InvalidSetting;

/// How long keys of a file are used before it is read again.
const REREAD: Duration = Duration::from_secs(60);

/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// They were given.
    Given(Keys),
    /// STS gives them for the token in a file (IRSA).
    WebIdentity {
        /// STS.
        endpoint: Url,
        /// Role to assume.
        role: String,
        /// Name of the session.
        session: String,
        /// The token.
        token: PathBuf,
    },
    /// A profile of a shared credentials file has them.
    Profile {
        /// The file.
        path: PathBuf,
        /// The profile.
        profile: String,
    },
    /// An agent on the node gives them (EKS Pod Identity).
    Container {
        /// The agent.
        uri: Url,
        /// File with what it wants to see as `Authorization`.
        token: Option<PathBuf>,
    },
    /// The metadata service gives those of the instance's role (IMDSv2).
    Instance {
        /// The metadata service.
        endpoint: Url,
    },
}

impl Source {
    /// The source that AWS's own programs would use, in their order, given what the environment says:
    /// `AWS_ACCESS_KEY_ID`, `AWS_WEB_IDENTITY_TOKEN_FILE`, a shared credentials file where
    /// `AWS_PROFILE` or `AWS_SHARED_CREDENTIALS_FILE` asks for one,
    /// `AWS_CONTAINER_CREDENTIALS_FULL_URI`, else the instance.
    ///
    /// # Errors
    /// If one of them is half set.
    pub fn of(
        variable: impl Fn(&str) -> Option<String>,
        region: &str,
    ) -> Result<Self, InvalidSetting> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let url = |name: &'static str, text: String| {
            Url::parse(&text).map_err(|_| InvalidSetting {
                name,
                found: text,
                expected: "write a URL",
            })
        };
        if let Some(id) = variable("AWS_ACCESS_KEY_ID") {
            let secret = variable("AWS_SECRET_ACCESS_KEY").ok_or(InvalidSetting {
                name: "AWS_SECRET_ACCESS_KEY",
                found: String::new(),
                expected: "AWS_ACCESS_KEY_ID is set, so set both",
            })?;
            let session = variable("AWS_SESSION_TOKEN");
            return Ok(Self::Given(Keys {
                id,
                secret,
                session,
            }));
        }
        if let Some(token) = variable("AWS_WEB_IDENTITY_TOKEN_FILE") {
            let role = variable("AWS_ROLE_ARN").ok_or(InvalidSetting {
                name: "AWS_ROLE_ARN",
                found: String::new(),
                expected: "AWS_WEB_IDENTITY_TOKEN_FILE is set, so set both",
            })?;
            let endpoint = variable("AWS_ENDPOINT_URL_STS")
                .or_else(|| variable("AWS_ENDPOINT_URL"))
                .unwrap_or_else(|| format!("https://sts.{region}.amazonaws.com"));
            let session = variable("AWS_ROLE_SESSION_NAME");
            return Ok(Self::WebIdentity {
                endpoint: url("AWS_ENDPOINT_URL_STS", endpoint)?,
                role,
                session: session.unwrap_or_else(|| "headstart".to_owned()),
                token: token.into(),
            });
        }
        let file = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
        let profile = variable("AWS_PROFILE");
        if file.is_some() || profile.is_some() {
            let home = || variable("HOME").map(|home| PathBuf::from(home).join(".aws/credentials"));
            let path = file.or_else(home).ok_or(InvalidSetting {
                name: "AWS_SHARED_CREDENTIALS_FILE",
                found: String::new(),
                expected: "AWS_PROFILE is set and HOME is not, so name the file",
            })?;
            return Ok(Self::Profile {
                path,
                profile: profile.unwrap_or_else(|| "default".to_owned()),
            });
        }
        if let Some(uri) = variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            return Ok(Self::Container {
                uri: url("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri)?,
                token: variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(PathBuf::from),
            });
        }
        let endpoint = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT")
            .unwrap_or_else(|| "http://169.254.169.254".to_owned());
        Ok(Self::Instance {
            endpoint: url("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)?,
        })
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The shared credentials file has no such keys.
    #[error("credentials file {path}")]
    Profile {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// The token is no header value.
    #[error("the token in {path} is not one line of text")]
    InvalidToken {
        /// Which.
        path: PathBuf,
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
    /// The answer holds no keys.
    #[error("{from} answers without {missing}")]
    Incomplete {
        /// Which.
        from: &'static str,
        /// What is missing.
        missing: &'static str,
    },
}

/// Keys, replaced before they end.
#[derive(Debug)]
pub struct Credentials {
    http: Http,
    source: Source,
    kept: Kept<Keys>,
}

impl Credentials {
    /// Keys from `source`, asked for over `http`.
    pub fn new(http: Http, source: Source) -> Self {
        Self {
            http,
            source,
            kept: Kept::default(),
        }
    }

    /// Keys that hold at `now`.
    ///
    /// # Errors
    /// If there are none and the source gives none.
    pub async fn keys(&self, now: SystemTime) -> Result<Keys, CredentialsError> {
        self.kept.value(now, self.fetch()).await
    }

    /// Keys that a service says have ended are not used again, unless they were replaced already.
    pub async fn renew(&self, refused: &Keys) {
        self.kept.forget(refused).await;
    }

    async fn fetch(&self) -> Result<Held<Keys>, CredentialsError> {
        match &self.source {
            Source::Given(keys) => Ok(Held {
                value: keys.clone(),
                until: None,
            }),
            Source::Profile { path, profile } => {
                let read = profile::keys(&read(path).await?, profile);
                let keys = read.map_err(|source| CredentialsError::Profile {
                    path: path.clone(),
                    source,
                })?;
                // Whoever writes the file anew wants the new ones used.
                let until = Some(SystemTime::now() + REREAD + EARLY);
                Ok(Held { value: keys, until })
            }
            Source::WebIdentity {
                endpoint,
                role,
                session,
                token,
            } => {
                let token = read(token).await?;
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("Action", "AssumeRoleWithWebIdentity")
                    .append_pair("Version", "2011-06-15")
                    .append_pair("RoleArn", role)
                    .append_pair("RoleSessionName", session)
                    .append_pair("WebIdentityToken", token.trim())
                    .finish();
                let mut request = Request::get(endpoint.clone());
                request.method = Method::POST;
                request.body = Some(Bytes::from(form));
                request.headers.insert(
                    http::header::CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
                assumed(&self.ask("STS", request).await?)
            }
            Source::Container { uri, token } => {
                let mut request = Request::get(uri.clone());
                if let Some(path) = token {
                    let token = read(path).await?;
                    let value = HeaderValue::from_str(token.trim());
                    let value =
                        value.map_err(|_| CredentialsError::InvalidToken { path: path.clone() })?;
                    request.headers.insert(http::header::AUTHORIZATION, value);
                }
                handed(
                    "the Pod Identity agent",
                    &self.ask("the Pod Identity agent", request).await?,
                )
            }
            Source::Instance { endpoint } => self.of_instance(endpoint).await,
        }
    }

    async fn of_instance(&self, endpoint: &Url) -> Result<Held<Keys>, CredentialsError> {
        const FROM: &str = "the instance metadata service";
        let at = |path: &str| {
            let mut url = endpoint.clone();
            url.set_path(path);
            Request {
                header_timeout: Duration::from_secs(2),
                ..Request::get(url)
            }
        };
        let mut request = at("/latest/api/token");
        request.method = Method::PUT;
        request.headers.insert(
            HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds"),
            HeaderValue::from_static("300"),
        );
        let token = self.ask(FROM, request).await?;
        let token = HeaderValue::from_bytes(&token).map_err(|_| CredentialsError::Incomplete {
            from: FROM,
            missing: "a usable session token",
        })?;
        let with_token = |request: Request| {
            request.header(
                HeaderName::from_static("x-aws-ec2-metadata-token"),
                token.clone(),
            )
        };
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        let roles = self.ask(FROM, with_token(at(ROLES))).await?;
        let roles = String::from_utf8_lossy(&roles);
        let role = roles.lines().next().unwrap_or("").trim();
        if role.is_empty() {
            return Err(CredentialsError::Incomplete {
                from: FROM,
                missing: "a role: give the instance an instance profile",
            });
        }
        handed(
            FROM,
            &self
                .ask(FROM, with_token(at(&format!("{ROLES}{role}"))))
                .await?,
        )
    }

    async fn ask(&self, from: &'static str, request: Request) -> Result<Bytes, CredentialsError> {
        let net = |source| CredentialsError::Net {
            from,
            source: Box::new(source),
        };
        let response = self.http.send_once(&request).await.map_err(net)?;
        let status = response.status;
        let body = response.bytes(MAX_ANSWER).await.map_err(net)?;
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body);
        let said = match xml::error(&text) {
            Some(said) => format!("{}: {}", said.code, said.message),
            None => text.chars().take(200).collect(),
        };
        Err(CredentialsError::Refused {
            from,
            status: status.as_u16(),
            said,
        })
    }
}

async fn read(path: &PathBuf) -> Result<String, CredentialsError> {
    tokio::fs::read_to_string(path)
        .await
        .map_err(|source| CredentialsError::File {
            path: path.clone(),
            source,
        })
}

/// The answer of `AssumeRoleWithWebIdentity`.
fn assumed(body: &[u8]) -> Result<Held<Keys>, CredentialsError> {
    let incomplete = |missing| CredentialsError::Incomplete {
        from: "STS",
        missing,
    };
    let text = String::from_utf8_lossy(body);
    let document =
        roxmltree::Document::parse(&text).map_err(|_| incomplete("a readable document"))?;
    let result = xml::child(document.root_element(), "AssumeRoleWithWebIdentityResult");
    let given = result.and_then(|result| xml::child(result, "Credentials"));
    let given = given.ok_or_else(|| incomplete("Credentials"))?;
    let of = |name: &'static str| match xml::text(given, name) {
        "" => Err(incomplete(name)),
        text => Ok(text.to_owned()),
    };
    Ok(Held {
        value: Keys {
            id: of("AccessKeyId")?,
            secret: of("SecretAccessKey")?,
            session: Some(of("SessionToken")?),
        },
        until: until(&of("Expiration")?),
    })
}

/// What the metadata service and the Pod Identity agent hand out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Handed {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: Option<String>,
}

fn handed(from: &'static str, body: &[u8]) -> Result<Held<Keys>, CredentialsError> {
    let handed: Handed =
        serde_json::from_slice(body).map_err(|_| CredentialsError::Incomplete {
            from,
            missing: "AccessKeyId, SecretAccessKey and Token",
        })?;
    Ok(Held {
        value: Keys {
            id: handed.access_key_id,
            secret: handed.secret_access_key,
            session: Some(handed.token),
        },
        until: handed.expiration.as_deref().and_then(until),
    })
}

fn until(text: &str) -> Option<SystemTime> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let seconds = u64::try_from(time.as_second()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}
