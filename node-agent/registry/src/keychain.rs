//! Logins: Docker config files and Kubernetes pull secrets.
//!
//! A login is found as the kubelet finds it: the key's host matches label by label with `*` as a
//! wildcard, the port is the same, and its path begins the repository's. Longer paths come first;
//! every login that matches is a candidate.
//!
//! Deliberately absent: credential helpers. They are programs, and the agent runs none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// Larger files are no logins.
const MAX_FILE: u64 = 4 << 20;

/// Logins for registries. Its `Debug` shows no secret.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    login: Login,
}

/// A secret for one registry, and where it was found.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) secret: LoginSecret,
    /// File or secret it came from, for messages.
    pub(crate) from: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum LoginSecret {
    Basic {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
    /// A bearer token for the registry itself.
    Registry(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

/// A file that holds no logins.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeychain {
    /// It cannot be read.
    #[error("cannot read the registry logins in {from}")]
    Read {
        /// The file.
        from: String,
        /// The kernel's word.
        source: std::io::Error,
    },
    /// It is no JSON of a form known here. The parser's word is left out: it may quote a secret.
    #[error(
        "{from} is not a Docker config file or Kubernetes pull secret: JSON with \"auths\" is expected, {problem}"
    )]
    Form {
        /// The file or secret.
        from: String,
        /// What was found, without its content.
        problem: String,
    },
    /// One of its logins cannot be read.
    #[error("{from}: the login for {key} is not base64 of user:password")]
    Login {
        /// The file or secret.
        from: String,
        /// The registry.
        key: String,
    },
}

impl Keychain {
    /// Reads `path`: a Docker config file, the content of a `.dockerconfigjson`, or a Kubernetes
    /// `Secret` (or list of them) as JSON.
    pub fn open(path: &Path) -> Result<Self, InvalidKeychain> {
        let from = path.display().to_string();
        let read = || {
            let size = std::fs::metadata(path)?.len();
            match size > MAX_FILE {
                true => Err(std::io::ErrorKind::FileTooLarge.into()),
                false => std::fs::read(path),
            }
        };
        match read() {
            Ok(json) => Self::read(&json, &from),
            Err(source) => Err(InvalidKeychain::Read { from, source }),
        }
    }

    /// Reads any of the forms of [`Keychain::open`] from memory; `from` names it in messages.
    pub fn read(json: &[u8], from: &str) -> Result<Self, InvalidKeychain> {
        let form = |problem: String| InvalidKeychain::Form {
            from: from.to_owned(),
            problem,
        };
        let file: File = serde_json::from_slice(json).map_err(|error| {
            form(format!(
                "found no such JSON at line {} column {}",
                error.line(),
                error.column()
            ))
        })?;
        let mut keychain = Self::default();
        match (file.kind.as_deref(), file.auths) {
            (Some("Secret"), _) => {
                let name = file.metadata.and_then(|metadata| metadata.name);
                let from = match name {
                    Some(name) => format!("{from} (secret {name})"),
                    None => from.to_owned(),
                };
                keychain.add_secret(file.data, file.string_data, &from)?;
            }
            (Some("List" | "SecretList"), _) => {
                for item in file.items {
                    keychain.extend(Self::read(item.to_string().as_bytes(), from)?);
                }
            }
            (Some(kind), _) => return Err(form(format!("found kind {kind:?}"))),
            (None, Some(auths)) => {
                let helpers = file.cred_helpers.len() + usize::from(file.creds_store.is_some());
                if helpers > 0 {
                    tracing::warn!(
                        file = from,
                        "credential helpers are programs and are not run: logins they hold are not used"
                    );
                }
                keychain.add_auths(auths, from)?;
            }
            (None, None) if file.creds_store.is_some() || !file.cred_helpers.is_empty() => {
                return Err(form(
                    "but it only names credential helpers, which are programs and are not run: write the login into \"auths\"".into(),
                ));
            }
            (None, None) => return Err(form("but it has none".into())),
        }
        Ok(keychain)
    }

    /// Adds the logins of `other` after these.
    pub fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// Whether it holds no login.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The logins for a repository at `registry` (host, and port if any), best first.
    pub(crate) fn logins(&self, registry: &str, repository: &str) -> Vec<&Login> {
        let (host, port) = host_and_port(registry);
        let host = canonical_host(host);
        let mut found: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.key.matches(host, port, repository))
            .collect();
        found.sort_by_key(|entry| {
            let wildcards = entry.key.host.matches('*').count();
            (std::cmp::Reverse(entry.key.path.len()), wildcards)
        });
        let mut logins: Vec<&Login> = Vec::new();
        for entry in found {
            if logins.iter().all(|l| l.secret != entry.login.secret) {
                logins.push(&entry.login);
            }
        }
        logins
    }

    fn add_secret(
        &mut self,
        data: BTreeMap<String, String>,
        string_data: BTreeMap<String, String>,
        from: &str,
    ) -> Result<(), InvalidKeychain> {
        let form = |problem: &str| InvalidKeychain::Form {
            from: from.to_owned(),
            problem: problem.to_owned(),
        };
        let mut texts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (name, encoded) in data {
            if name == ".dockerconfigjson" || name == ".dockercfg" {
                let text = decode(&encoded).ok_or_else(|| form("its data is not base64"))?;
                texts.insert(name, text);
            }
        }
        texts.extend(string_data.into_iter().map(|(k, v)| (k, v.into_bytes())));
        if let Some(config) = texts.get(".dockerconfigjson") {
            self.extend(Self::read(config, from)?);
        } else if let Some(config) = texts.get(".dockercfg") {
            let auths =
                serde_json::from_slice(config).map_err(|_| form("its .dockercfg is not"))?;
            self.add_auths(auths, from)?;
        } else {
            return Err(form("found neither .dockerconfigjson nor .dockercfg in it"));
        }
        Ok(())
    }

    fn add_auths(
        &mut self,
        auths: BTreeMap<String, Auth>,
        from: &str,
    ) -> Result<(), InvalidKeychain> {
        for (key, auth) in auths {
            // An empty entry says that a credential helper has the login.
            if let Some(secret) = auth.secret().map_err(|()| InvalidKeychain::Login {
                from: from.to_owned(),
                key: key.clone(),
            })? {
                let login = Login {
                    secret,
                    from: from.to_owned(),
                };
                let key = Key::parse(&key);
                self.entries.push(Entry { key, login });
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct File {
    auths: Option<BTreeMap<String, Auth>>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, serde_json::Value>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    kind: Option<String>,
    metadata: Option<Metadata>,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default, rename = "stringData")]
    string_data: BTreeMap<String, String>,
    #[serde(default)]
    items: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Auth {
    fn secret(self) -> Result<Option<LoginSecret>, ()> {
        let some = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = some(self.identitytoken) {
            return Ok(Some(LoginSecret::Identity(token)));
        }
        if let Some(token) = some(self.registrytoken) {
            return Ok(Some(LoginSecret::Registry(token)));
        }
        if let (Some(user), Some(password)) = (some(self.username), some(self.password)) {
            return Ok(Some(LoginSecret::Basic { user, password }));
        }
        let Some(auth) = some(self.auth) else {
            return Ok(None);
        };
        let text = decode(&auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = text.as_deref().and_then(|t| t.split_once(':')).ok_or(())?;
        Ok(Some(LoginSecret::Basic {
            user: user.to_owned(),
            // Docker pads with NUL bytes in some versions.
            password: password.trim_end_matches('\0').to_owned(),
        }))
    }
}

/// What a login is filed under.
#[derive(Clone, Debug)]
struct Key {
    host: String,
    port: Option<String>,
    path: String,
}

impl Key {
    /// Reads `host`, `host:port/path`, `https://host/v1/`.
    fn parse(text: &str) -> Self {
        let bare = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(text);
        let (authority, path) = bare.split_once('/').unwrap_or((bare, ""));
        let path = path.trim_matches('/');
        let path = match path {
            "v1" | "v2" => "",
            path => path
                .strip_prefix("v1/")
                .or_else(|| path.strip_prefix("v2/"))
                .unwrap_or(path),
        };
        let (host, port) = host_and_port(authority);
        Self {
            host: canonical_host(&host.to_ascii_lowercase()).to_owned(),
            port: port.map(str::to_owned),
            path: path.to_owned(),
        }
    }

    fn matches(&self, host: &str, port: Option<&str>, repository: &str) -> bool {
        let labels: Vec<&str> = self.host.split('.').collect();
        let found: Vec<&str> = host.split('.').collect();
        self.port.as_deref() == port
            && labels.len() == found.len()
            && labels
                .iter()
                .zip(&found)
                .all(|(glob, text)| matches_glob(glob, text))
            && repository.starts_with(&self.path)
    }
}

/// Whether `text` is what `glob` describes; `*` stands for any characters of a label.
fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Docker Hub has three names.
fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

fn host_and_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Base64 as people write it: line breaks, and padding or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let text: String = text.split_ascii_whitespace().collect();
    LENIENT.decode(text).ok()
}

#[cfg(test)]
mod tests;
