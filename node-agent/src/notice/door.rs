//! The way to a metadata service, and what may be asked through it.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use headstart_transfer::net::{HostPolicy, HostPort, Http, NetError, ProxyRule, Request};
use http::{HeaderName, HeaderValue, Method};
use url::{Host, Url};

/// Where every cloud has its service.
const USUAL: &str = "http://169.254.169.254";

/// EC2's address where a machine has IPv6 only.
const EC2_IPV6: &str = "fd00:ec2::254";

/// Longest answer that is read, in bytes: some hundred scheduled events.
const MOST: usize = 256 << 10;

/// One question.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) verb: Verb,
    /// With its query.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'static str, &'a str)],
    /// How long the answer may take.
    pub(super) patience: Duration,
}

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Put,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Nothing came back that could be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Away {
    #[error("asking {path} failed")]
    Failed {
        path: String,
        #[source]
        source: NetError,
    },
    #[error("{path} is no question that can be asked")]
    Unaskable { path: String },
    #[error("{path} is not answered in time")]
    Slow { path: String },
}

/// Who answers questions.
pub(super) trait Metadata {
    /// Asks once.
    fn ask(&self, question: Question<'_>) -> impl Future<Output = Result<Answer, Away>> + Send;
}

/// A real service.
pub(super) struct Door {
    http: Http,
    base: Url,
}

impl Door {
    /// The door to where every cloud has its service, or to the one named.
    ///
    /// # Errors
    /// When there is no way to any network.
    pub(super) fn open(named: Option<&Url>) -> Result<Self, NetError> {
        let base = named.cloned().unwrap_or_else(|| usual(USUAL));
        let mut policy = HostPolicy {
            proxy: ProxyRule::Never,
            ..HostPolicy::default()
        };
        policy.trust_plain_http(HostPort {
            host: base
                .host_str()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned(),
            port: base.port_or_known_default(),
        });
        let http = Http::new(policy)?;
        Ok(Self { http, base })
    }
}

impl Metadata for Door {
    async fn ask(&self, question: Question<'_>) -> Result<Answer, Away> {
        let path = question.path;
        let unaskable = || Away::Unaskable {
            path: path.to_owned(),
        };
        let url = self.base.join(path).map_err(|_| unaskable())?;
        let mut request = Request::get(url);
        if question.verb == Verb::Put {
            request.method = Method::PUT;
        }
        request.header_timeout = question.patience;
        for (name, value) in question.headers {
            let value = HeaderValue::from_str(value).map_err(|_| unaskable())?;
            request = request.header(HeaderName::from_static(name), value);
        }
        let failed = |source| Away::Failed {
            path: path.to_owned(),
            source,
        };
        let answered = async {
            // A redirect is an answer like any other, and no service has one to give.
            let response = self.http.send_once(&request).await.map_err(failed)?;
            let (status, headers) = (response.status.as_u16(), response.headers.clone());
            let body = response.bytes(MOST).await.map_err(failed)?;
            Ok(Answer {
                status,
                headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        let timed = tokio::time::timeout(question.patience, answered);
        timed.await.map_err(|_| Away::Slow {
            path: path.to_owned(),
        })?
    }
}

fn usual(text: &str) -> Url {
    Url::parse(text).expect("it is a URL")
}

/// An endpoint that somebody named.
pub(super) fn endpoint(text: &str) -> Result<Url, String> {
    let wrong = |problem: &str| format!("--notice-endpoint {text:?}: {problem}");
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if url.scheme() != "http" || url.path() != "/" || !plain {
        return Err(wrong("expected http://ADDRESS or http://ADDRESS:PORT"));
    }
    let address: IpAddr = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        _ => return Err(wrong("expected an address, since a name may lead anywhere")),
    };
    let is_near = match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unicast_link_local() || v6.to_string() == EC2_IPV6
        }
    };
    match is_near {
        true => Ok(url),
        false => Err(wrong(
            "expected a loopback or link-local address: no metadata service is elsewhere",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_or_of_its_link_can_be_named() {
        for good in [
            "http://169.254.169.254",
            "http://127.0.0.1:8080",
            "http://[::1]:80",
            "http://[fe80::a9fe:a9fe]",
            "http://[fd00:ec2::254]",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "https://169.254.169.254",
            "http://metadata.google.internal",
            "http://10.0.0.1",
            "http://[fd00::1]",
            "http://[::ffff:10.0.0.1]",
            "http://user@127.0.0.1",
            "http://127.0.0.1/path",
            "169.254.169.254",
            "",
        ] {
            let error = endpoint(bad).unwrap_err();
            assert!(error.contains("--notice-endpoint"), "{error}");
        }
    }
}
