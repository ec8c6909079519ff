//! Mirrors: containerd's `certs.d/<host:port>/hosts.toml`, so that one description serves both.
//!
//! The directory is read once. A file that cannot be read is an error of its registry alone.
//! Whatever an administrator names in it may be private and, where written `http://`, may speak
//! plain HTTP; certificates are verified even where `skip_verify` says otherwise.
//!
//! Certificate authorities (`ca`, `*.crt`) are trusted for every host, not only for the one they
//! stand beside: the policy has one set of roots.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use headstart_transfer::net::{HostPolicy, HostPort, Origin};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};
use url::Url;

/// Larger files are no `hosts.toml`.
const MAX_FILE: u64 = 1 << 20;

/// Which endpoints serve which registry.
#[derive(Clone, Debug, Default)]
pub struct HostsDir {
    registries: BTreeMap<String, Result<Hosts, InvalidHosts>>,
}

/// A `hosts.toml` that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct InvalidHosts {
    path: PathBuf,
    problem: String,
}

/// What one `hosts.toml` says.
#[derive(Clone, Debug, Default)]
struct Hosts {
    mirrors: Vec<Endpoint>,
    /// The registry itself; the one named by the image when absent.
    server: Option<Endpoint>,
    roots: Vec<Vec<u8>>,
}

/// Where a registry's API is served.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// What stands before `/<repository>/manifests/…`, without slash at its end.
    pub(crate) base: Url,
    pub(crate) origin: Origin,
    /// Host, and port if it is not the scheme's own.
    pub(crate) name: String,
    /// Whether tags are looked up here; digests always are.
    pub(crate) resolve: bool,
    /// Whether manifests and blobs are fetched here.
    pub(crate) pull: bool,
    /// Headers an administrator configured. They may be secret and never follow a redirect.
    pub(crate) headers: HeaderMap,
    /// Whether this is the registry itself rather than a mirror of it.
    pub(crate) is_registry: bool,
    /// Whether this is the very host that the image names.
    pub(crate) is_named: bool,
}

impl HostsDir {
    /// Reads `dir`, which need not exist.
    ///
    /// # Errors
    /// Only if the directory itself cannot be listed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut registries = BTreeMap::new();
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if path.is_dir() {
                let registry = registry_of(name);
                let hosts = Hosts::open(&path, &registry);
                if let Err(error) = &hosts {
                    tracing::warn!(%error, "a registry's hosts file cannot be used");
                }
                registries.insert(registry, hosts);
            }
        }
        Ok(Self { registries })
    }

    /// Lets `policy` reach what the administrator named here.
    pub fn allow(&self, policy: &mut HostPolicy) {
        for (registry, hosts) in &self.registries {
            let Ok(hosts) = hosts else { continue };
            for endpoint in hosts.mirrors.iter().chain(&hosts.server) {
                let Some(host) = endpoint.host() else {
                    continue;
                };
                match endpoint.base.scheme() {
                    "http" => policy.trust_plain_http(host),
                    _ => drop(policy.private_hosts.insert(host)),
                }
            }
            if hosts.server.is_none()
                && let Some(host) = HostPort::parse(registry)
            {
                policy.private_hosts.insert(host);
            }
            policy.extra_roots_pem.extend(hosts.roots.iter().cloned());
        }
    }

    /// Where `registry` is served, mirrors first, the registry itself last.
    pub(crate) fn endpoints(
        &self,
        registry: &str,
        policy: &HostPolicy,
    ) -> Result<Vec<Endpoint>, InvalidHosts> {
        let hosts = self
            .registries
            .get(registry)
            .or_else(|| self.registries.get("_default"));
        let hosts = hosts.cloned().transpose()?.unwrap_or_default();
        let mut endpoints = hosts.mirrors;
        match hosts.server {
            Some(server) => endpoints.push(server),
            None => endpoints.extend(Endpoint::of_registry(registry, policy)),
        }
        let own = Endpoint::of_registry(registry, policy).map(|own| own.origin);
        for endpoint in &mut endpoints {
            endpoint.is_named = Some(&endpoint.origin) == own.as_ref();
            // A host table may stand for the registry itself.
            endpoint.is_registry |= endpoint.is_named;
        }
        Ok(endpoints)
    }
}

impl Endpoint {
    /// The registry named in an image, over https unless the policy lets it speak plain HTTP.
    fn of_registry(registry: &str, policy: &HostPolicy) -> Option<Self> {
        let host = match registry {
            "docker.io" => "registry-1.docker.io",
            registry => registry,
        };
        let named = HostPort::parse(host)?;
        let plain = policy.plain_http.iter().any(|known| {
            known.host == named.host && (known.port.is_none() || known.port == named.port)
        });
        let scheme = if plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2")).ok()?;
        let mut endpoint = Self::new(base)?;
        endpoint.is_registry = true;
        endpoint.is_named = true;
        Some(endpoint)
    }

    fn new(base: Url) -> Option<Self> {
        let host = base.host_str()?;
        Some(Self {
            name: match base.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            origin: Origin::of(&base)?,
            base,
            resolve: true,
            pull: true,
            headers: HeaderMap::new(),
            is_registry: false,
            is_named: false,
        })
    }

    fn host(&self) -> Option<HostPort> {
        let host = self.base.host_str()?.trim_matches(['[', ']']);
        Some(HostPort {
            host: host.to_owned(),
            port: self.base.port_or_known_default(),
        })
    }

    /// The URL of `what` (`manifests/latest`) in `repository`. A mirror is told whose image is
    /// meant, as containerd tells it.
    pub(crate) fn url(&self, registry: &str, repository: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        let path = format!(
            "{}/{repository}/{what}",
            self.base.path().trim_end_matches('/')
        );
        url.set_path(&path);
        if !self.is_named {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }
}

impl Hosts {
    fn open(dir: &Path, registry: &str) -> Result<Self, InvalidHosts> {
        let path = dir.join("hosts.toml");
        let invalid = |problem: String| InvalidHosts {
            path: path.clone(),
            problem,
        };
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let roots = beside(dir).map_err(|error| invalid(error.to_string()))?;
                return Ok(Self {
                    roots,
                    ..Self::default()
                });
            }
            Err(error) => return Err(invalid(format!("cannot be read: {error}"))),
        };
        let text = String::from_utf8(text).map_err(|_| invalid("is not UTF-8".into()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            invalid(format!("is not TOML: {}", error.message()))
        })?;
        Self::read(dir, registry, &table).map_err(invalid)
    }

    fn read(dir: &Path, registry: &str, table: &Table) -> Result<Self, String> {
        let mut hosts = Self::default();
        match table.get("server") {
            Some(Value::String(server)) => {
                let endpoint = hosts.endpoint(dir, server, table)?;
                hosts.server = Some(Endpoint {
                    is_registry: registry != "_default",
                    ..endpoint
                });
            }
            Some(_) => return Err("server must be a URL".into()),
            None => hosts.add_roots(dir, table)?,
        }
        match table.get("host") {
            Some(Value::Table(tables)) => {
                for (url, table) in tables {
                    let table = table
                        .as_table()
                        .ok_or_else(|| format!("host.{url:?} must be a table"))?;
                    let endpoint = hosts.endpoint(dir, url, table)?;
                    hosts.mirrors.push(endpoint);
                }
            }
            Some(_) => return Err("host must be tables: [host.\"https://mirror\"]".into()),
            None => {}
        }
        Ok(hosts)
    }

    /// The endpoint that `table` describes at `url`.
    fn endpoint(&mut self, dir: &Path, url: &str, table: &Table) -> Result<Endpoint, String> {
        let absolute = match url.contains("://") {
            true => url.to_owned(),
            false => format!("https://{url}"),
        };
        let odd = || format!("{url:?} is not an http or https URL");
        let mut base = Url::parse(&absolute).map_err(|_| odd())?;
        let plain = base.username().is_empty() && base.password().is_none();
        if !matches!(base.scheme(), "http" | "https") || !plain || base.query().is_some() {
            return Err(odd());
        }
        let override_path = flag(table, "override_path")?;
        let path = base.path().trim_end_matches('/').to_owned();
        let path = match override_path || path.ends_with("/v2") {
            true => path,
            false => format!("{path}/v2"),
        };
        base.set_path(&path);
        let mut endpoint = Endpoint::new(base).ok_or_else(odd)?;
        if let Some(capabilities) = table.get("capabilities") {
            let capabilities = strings(capabilities)
                .ok_or("capabilities must be a list of \"pull\", \"resolve\" and \"push\"")?;
            endpoint.pull = capabilities.iter().any(|c| c == "pull");
            endpoint.resolve = capabilities.iter().any(|c| c == "resolve");
        }
        if flag(table, "skip_verify")? {
            tracing::warn!(
                host = endpoint.name,
                "skip_verify is not honoured: name the certificate authority in ca instead"
            );
        }
        if table.contains_key("client") {
            tracing::warn!(
                host = endpoint.name,
                "client certificates are not supported and not sent"
            );
        }
        if let Some(headers) = table.get("header") {
            endpoint.headers = header_map(headers).ok_or("header must be a table of strings")?;
        }
        self.add_roots(dir, table)?;
        Ok(endpoint)
    }

    fn add_roots(&mut self, dir: &Path, table: &Table) -> Result<(), String> {
        let Some(ca) = table.get("ca") else {
            return Ok(());
        };
        let paths = strings(ca).ok_or("ca must be a path or a list of paths")?;
        for path in paths {
            let path = dir.join(path);
            let pem =
                read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            self.roots.push(pem);
        }
        Ok(())
    }
}

/// `host:port` of a directory name, which may be written `host_port_`.
fn registry_of(name: &str) -> String {
    let spelled = name
        .strip_suffix('_')
        .and_then(|name| name.rsplit_once('_'));
    match spelled {
        Some((host, port)) if port.parse::<u16>().is_ok() => format!("{host}:{port}"),
        _ => name.to_ascii_lowercase(),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    match std::fs::metadata(path)?.len() > MAX_FILE {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => std::fs::read(path),
    }
}

/// Docker's older form: certificate authorities as `*.crt` without any `hosts.toml`.
fn beside(dir: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut roots = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            roots.push(read(&path)?);
        }
    }
    Ok(roots)
}

fn flag(table: &Table, name: &str) -> Result<bool, String> {
    match table.get(name) {
        None => Ok(false),
        Some(Value::Boolean(value)) => Ok(*value),
        Some(_) => Err(format!("{name} must be true or false")),
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => values
            .iter()
            .map(|value| value.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}

fn header_map(value: &Value) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, values) in value.as_table()? {
        let name: HeaderName = name.parse().ok()?;
        for text in strings(values)? {
            let mut value = HeaderValue::from_str(&text).ok()?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Some(headers)
}

#[cfg(test)]
mod tests;
