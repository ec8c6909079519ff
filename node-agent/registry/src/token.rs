//! Asking a token service: the distribution project's token protocol, and its OAuth2 form for
//! refresh tokens.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use headstart_transfer::net::{Credential, HostPort, Http, NetError, Origin, Request};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::access::{AskError, is_busy, retry_after};
use crate::challenge::{Bearer, same_site};
use crate::keychain::{Login, LoginSecret};

/// More is no token response.
const MAX_RESPONSE: usize = 1 << 20;

/// How long a token is good if the service does not say (the protocol's default).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// A token is renewed this long before it runs out, so that no request is made with one that
/// expires on the way; never more than half its life.
const MARGIN: Duration = Duration::from_secs(10);

/// A bearer token.
pub(crate) struct Token {
    pub(crate) value: String,
    pub(crate) good_until: Instant,
}

/// Who asks whom for what.
pub(crate) struct TokenRequest<'a> {
    /// The endpoint that asked for a token.
    pub(crate) endpoint: &'a Url,
    pub(crate) bearer: &'a Bearer,
    pub(crate) repository: &'a str,
    pub(crate) login: Option<&'a Login>,
    /// Hosts that may be shown logins of any registry.
    pub(crate) trusted: &'a [HostPort],
}

impl TokenRequest<'_> {
    /// The token, or the reason why there is none for this login.
    ///
    /// # Errors
    /// What says nothing about the login.
    pub(crate) async fn send(&self, http: &Http) -> Result<Result<Token, String>, AskError> {
        let realm = &self.bearer.realm;
        if let Some(login) = self.login
            && !self.may_see_logins(realm)
        {
            let host = shown_host(realm);
            return Ok(Err(format!(
                "the login from {} was not shown to the token realm {host}, which is another site: allow it with --trust-realm {host} if it is meant",
                login.from
            )));
        }
        let sent = match self.login.map(|login| &login.secret) {
            // A body would travel along a redirect, so none is followed.
            Some(LoginSecret::Identity(token)) => http.send_once(&self.refresh(token)).await,
            _ => http.send(self.query()).await,
        };
        let response = sent.map_err(AskError::Net)?;
        match response.status {
            StatusCode::OK | StatusCode::CREATED => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let who = match self.login {
                    Some(login) => format!("the login from {}", login.from),
                    None => "a request without login".to_owned(),
                };
                return Ok(Err(format!(
                    "{} refused {who} ({})",
                    NetError::shown(realm),
                    response.status.as_u16()
                )));
            }
            status if is_busy(status) => {
                return Err(AskError::Busy {
                    host: shown_host(realm),
                    status,
                    wait: retry_after(&response),
                });
            }
            status => {
                return Err(AskError::Odd(format!(
                    "the token service {} answered {status}",
                    NetError::shown(realm)
                )));
            }
        }
        let asked = Instant::now();
        let body = response.bytes(MAX_RESPONSE).await.map_err(AskError::Net)?;
        let odd = || {
            AskError::Odd(format!(
                "the token service {} sent no token",
                NetError::shown(realm)
            ))
        };
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| odd())?;
        let some = |token: Option<String>| token.filter(|token| !token.is_empty());
        let value = some(granted.token)
            .or(some(granted.access_token))
            .ok_or_else(odd)?;
        let life = granted.expires_in.map_or(DEFAULT_LIFE, |seconds| {
            Duration::from_secs(seconds.clamp(1, 24 * 3600) as u64)
        });
        Ok(Ok(Token {
            value,
            good_until: asked + life - MARGIN.min(life / 2),
        }))
    }

    fn may_see_logins(&self, realm: &Url) -> bool {
        let trusted = |known: &HostPort| {
            let host = realm
                .host_str()
                .unwrap_or_default()
                .trim_matches(['[', ']']);
            known.host == host
                && (known.port.is_none() || known.port == realm.port_or_known_default())
        };
        same_site(self.endpoint, realm) || self.trusted.iter().any(trusted)
    }

    fn query(&self) -> Request {
        let mut url = self.bearer.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.bearer.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.bearer.scope(self.repository));
        }
        let credential = match self.login.map(|login| &login.secret) {
            Some(LoginSecret::Basic { user, password }) => {
                Origin::of(&url).and_then(|origin| Credential::new(origin, &basic(user, password)))
            }
            _ => None,
        };
        Request::get(url).credential(credential)
    }

    fn refresh(&self, token: &str) -> Request {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("client_id", "headstart");
        if let Some(service) = &self.bearer.service {
            form.append_pair("service", service);
        }
        form.append_pair("scope", &self.bearer.scope(self.repository));
        form.append_pair("refresh_token", token);
        let mut request = Request::get(self.bearer.realm.clone()).header(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        request.method = Method::POST;
        request.body = Some(Bytes::from(form.finish()));
        request
    }
}

#[derive(Deserialize)]
struct Granted {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
}

/// An `Authorization` of user and password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn shown_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}
