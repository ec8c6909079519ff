//! What a registry asks for in `WWW-Authenticate`, and whose realm may see a login.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use url::{Host, Url};

/// Longer realms are no URLs of token services.
const MAX_REALM: usize = 2048;

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password to the registry itself.
    Basic,
    /// A token, to be had from a realm.
    Bearer(Bearer),
}

/// A token service and what to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

impl Challenge {
    /// The best of the challenges in `headers`: a bearer token where one is offered.
    ///
    /// # Errors
    /// What is wrong with the only challenge there is.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let mut basic = None;
        let mut problem = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            let parsed = http_auth::parser::ChallengeParser::new(text);
            for challenge in parsed.map_while(Result::ok) {
                let parameter = |name: &str| {
                    let found = challenge.params.iter();
                    let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.next().map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    match realm(&parameter("realm").unwrap_or_default()) {
                        Ok(realm) => {
                            return Ok(Some(Self::Bearer(Bearer {
                                realm,
                                service: parameter("service"),
                                scope: parameter("scope"),
                            })));
                        }
                        Err(why) => problem = Some(why),
                    }
                }
            }
        }
        match (basic, problem) {
            (Some(basic), _) => Ok(Some(basic)),
            (None, Some(problem)) => Err(problem),
            (None, None) => Ok(None),
        }
    }
}

impl Bearer {
    /// The scope to ask for: the challenge's own where it asks to pull from repositories and
    /// nothing else (behind a mirror the repository has another name), else `repository`'s.
    pub(crate) fn scope(&self, repository: &str) -> String {
        let pulls_only = |scope: &&String| {
            scope.len() <= 1024
                && scope.split_ascii_whitespace().all(|part| {
                    part.starts_with("repository:") && part.rsplit(':').next() == Some("pull")
                })
                && !scope.trim().is_empty()
        };
        match self.scope.as_ref().filter(pulls_only) {
            Some(scope) => scope.clone(),
            None => format!("repository:{repository}:pull"),
        }
    }
}

fn realm(text: &str) -> Result<Url, String> {
    let shown: String = text.chars().take(80).collect();
    if text.len() > MAX_REALM {
        return Err(format!("a realm of {} bytes", text.len()));
    }
    let url = Url::parse(text).map_err(|_| format!("the realm {shown:?}, which is not a URL"))?;
    let bare = url.username().is_empty() && url.password().is_none();
    match matches!(url.scheme(), "http" | "https") && url.host().is_some() && bare {
        true => Ok(url),
        false => Err(format!("the realm {shown:?}, which cannot be followed")),
    }
}

/// Suffixes under which registries of different owners live, as one label after the other: only
/// the very same host is trusted there. Country suffixes of two parts are handled by rule.
const SHARED_SUFFIXES: [&str; 12] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "azurecr.io",
    "azurecr.cn",
    "azurecr.us",
    "cloudfront.net",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "jfrog.io",
    "pkg.dev",
    "scw.cloud",
];

/// Whether a login for the registry at `registry` may be shown to a realm at `realm`: the same
/// host on any port, or hosts of one site (`auth.docker.io` for `registry-1.docker.io`).
pub(crate) fn same_site(registry: &Url, realm: &Url) -> bool {
    // A realm that falls back to plain HTTP would show the login to the network.
    if registry.scheme() == "https" && realm.scheme() != "https" {
        return false;
    }
    match (registry.host(), realm.host()) {
        (Some(Host::Domain(registry)), Some(Host::Domain(realm))) => {
            let (registry, realm) = (registry.to_ascii_lowercase(), realm.to_ascii_lowercase());
            registry == realm
                || matches!((site(&registry), site(&realm)), (Some(a), Some(b)) if a == b)
        }
        (registry, realm) => registry == realm,
    }
}

/// The registrable domain of `host`, where one can be told: none for single labels and for hosts
/// under shared suffixes.
fn site(host: &str) -> Option<&str> {
    let host = host.trim_end_matches('.');
    let under = |suffix: &str| {
        let rest = host.strip_suffix(suffix);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if SHARED_SUFFIXES.into_iter().any(under) {
        return None;
    }
    let labels: Vec<&str> = host.split('.').collect();
    let second_level = labels.len() >= 2
        && labels[labels.len() - 1].len() == 2
        && matches!(
            labels[labels.len() - 2],
            "ac" | "co"
                | "com"
                | "edu"
                | "gob"
                | "gov"
                | "gouv"
                | "go"
                | "mil"
                | "ne"
                | "net"
                | "or"
                | "org"
        );
    let wanted = if second_level { 3 } else { 2 };
    if labels.len() < wanted || labels.iter().any(|label| label.is_empty()) {
        return None;
    }
    let length: usize = labels[labels.len() - wanted..]
        .iter()
        .map(|l| l.len() + 1)
        .sum();
    Some(&host[host.len() + 1 - length..])
}

#[cfg(test)]
mod tests;
