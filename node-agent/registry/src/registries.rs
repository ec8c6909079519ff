//! The way to registries: which endpoints, under which logins, with the tokens that are in force.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use headstart_transfer::net::{HostPort, Http};
use headstart_transfer::source::Source;

use crate::access::Access;
use crate::error::ResolveError;
use crate::hosts::{Endpoint, HostsDir};
use crate::image::{Layer, Resolved};
use crate::keychain::{Keychain, Login, LoginSecret};
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::resolve::Look;
use crate::source::RegistryBlob;

/// Repositories whose tokens are kept; beyond that all are asked for again.
const MAX_ACCESSES: usize = 1024;

/// Registries under one keychain and one set of mirrors. Clones share their tokens.
#[derive(Clone)]
pub struct Registries {
    http: Http,
    hosts: Arc<HostsDir>,
    keychain: Arc<Keychain>,
    trusted_realms: Arc<Vec<HostPort>>,
    accesses: Arc<Mutex<HashMap<AccessKey, Arc<Access>>>>,
}

/// A login in the form that a container runtime takes it. Not `Debug`: it is secret.
#[derive(Clone)]
pub enum RuntimeLogin {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
    /// A bearer token for the registry itself.
    Registry(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AccessKey {
    endpoint: String,
    registry: String,
    repository: String,
    with_logins: bool,
}

impl Registries {
    /// Registries reached over `http`, whose policy [`HostsDir::allow`] has widened to what
    /// `hosts` names.
    pub fn new(http: Http, hosts: HostsDir, keychain: Keychain) -> Self {
        Self {
            http,
            hosts: Arc::new(hosts),
            keychain: Arc::new(keychain),
            trusted_realms: Arc::default(),
            accesses: Arc::default(),
        }
    }

    /// The same, with token realms that may be shown the login of any registry that names them.
    #[must_use]
    pub fn trust_realms(mut self, realms: Vec<HostPort>) -> Self {
        self.trusted_realms = Arc::new(realms);
        self.accesses = Arc::default();
        self
    }

    /// The same hosts with other logins; no token is shared.
    #[must_use]
    pub fn with_keychain(&self, keychain: Keychain) -> Self {
        Self {
            keychain: Arc::new(keychain),
            accesses: Arc::default(),
            ..self.clone()
        }
    }

    /// Resolves `image` for `platform`, mirrors first.
    ///
    /// Logins are tried before no login. Whether the image is public is then a matter of fact: if
    /// the registry itself gave the target to somebody without login, it is; else the registry is
    /// asked for it once more, without login. A mirror's word does not count, and where the
    /// registry cannot be asked the image counts as one that needs a login.
    pub async fn resolve(
        &self,
        image: &ImageRef,
        platform: &Platform,
    ) -> Result<Resolved, ResolveError> {
        let look = Look::new(self, image, self.endpoints(image)?);
        look.resolve(platform).await
    }

    /// Where `layer` of `resolved` can be had: mirrors first, the registry itself last.
    pub fn sources(&self, resolved: &Resolved, layer: &Layer) -> Vec<Arc<dyn Source>> {
        let image = &resolved.image;
        let endpoints = self.endpoints(image).unwrap_or_default();
        let endpoints = endpoints.into_iter().filter(|endpoint| endpoint.pull);
        let source = |endpoint: Endpoint| -> Arc<dyn Source> {
            let access = self.access(image, endpoint, true);
            Arc::new(RegistryBlob::new(access, image, layer.descriptor.digest))
        };
        endpoints.map(source).collect()
    }

    /// The best login for `image`, for a runtime that pulls it itself. It is handed to a program
    /// of this host and travels by that program's rules, not by ours.
    pub fn runtime_login(&self, image: &ImageRef) -> Option<RuntimeLogin> {
        let logins = self.keychain.logins(image.registry(), image.repository());
        let login = logins.into_iter().next()?;
        Some(match login.secret.clone() {
            LoginSecret::Basic { user, password } => RuntimeLogin::Basic { user, password },
            LoginSecret::Identity(token) => RuntimeLogin::Identity(token),
            LoginSecret::Registry(token) => RuntimeLogin::Registry(token),
        })
    }

    fn endpoints(&self, image: &ImageRef) -> Result<Vec<Endpoint>, ResolveError> {
        let registry = image.registry();
        self.hosts
            .endpoints(registry, self.http.policy())
            .map_err(|source| ResolveError::Hosts {
                image: image.to_string(),
                registry: registry.to_owned(),
                source,
            })
    }

    /// Access to the repository of `image` at `endpoint`, the same for everybody who asks.
    pub(crate) fn access(
        &self,
        image: &ImageRef,
        endpoint: Endpoint,
        with_logins: bool,
    ) -> Arc<Access> {
        let key = AccessKey {
            endpoint: endpoint.base.to_string(),
            registry: image.registry().to_owned(),
            repository: image.repository().to_owned(),
            with_logins,
        };
        let mut accesses = self.accesses.lock().unwrap_or_else(|e| e.into_inner());
        if accesses.len() >= MAX_ACCESSES {
            accesses.clear();
        }
        let made = accesses.entry(key).or_insert_with(|| {
            let filed_under = match endpoint.is_named {
                true => image.registry(),
                false => endpoint.name.as_str(),
            };
            let mut logins: Vec<Option<Login>> = Vec::new();
            if with_logins {
                let found = self.keychain.logins(filed_under, image.repository());
                logins.extend(found.into_iter().cloned().map(Some));
            }
            logins.push(None);
            let (http, trusted) = (self.http.clone(), self.trusted_realms.clone());
            Arc::new(Access::new(
                http,
                endpoint,
                image.repository(),
                logins,
                trusted,
            ))
        });
        made.clone()
    }
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries")
            .field("hosts", &self.hosts)
            .field("keychain", &self.keychain)
            .finish_non_exhaustive()
    }
}
