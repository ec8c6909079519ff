//! A layer at one endpoint, as the transfer engine asks for it.
//!
//! The endpoint is asked for the blob's head, without following redirects, whenever it is not
//! known whether it would give it: the first time, and after every refusal. So the reason that a
//! person reads is the registry's own, whether the refusal came from it or from the storage it
//! redirects to.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use headstart_core::digest::Sha256;
use headstart_transfer::net::{Http, Request};
use headstart_transfer::source::{Location, Source, SourceError, SourceKind};
use http::{HeaderMap, StatusCode};

use crate::access::{Access, AskError, Question};
use crate::reference::ImageRef;

/// A busy registry that does not say for how long is left alone for this long.
const BUSY: std::time::Duration = std::time::Duration::from_secs(2);

/// See the module.
pub(crate) struct RegistryBlob {
    access: Arc<Access>,
    registry: String,
    digest: Sha256,
}

impl RegistryBlob {
    pub(crate) fn new(access: Arc<Access>, image: &ImageRef, digest: Sha256) -> Self {
        Self {
            access,
            registry: image.registry().to_owned(),
            digest,
        }
    }

    async fn locate(&self, refused: Option<StatusCode>) -> Result<Location, SourceError> {
        let what = format!("blobs/{}", self.digest.prefixed());
        let url = self.access.url(&self.registry, &what);
        let known = self.access.known_credential().await.map_err(failed)?;
        if let (None, Some(credential)) = (refused, known) {
            return Ok(Location {
                url,
                headers: HeaderMap::new(),
                credential,
            });
        }
        let question = Question {
            request: Request::head(url.clone()),
            cap: 0,
            follow: false,
            retries: 0,
        };
        let answer = self.access.ask(&question).await.map_err(failed)?;
        let name = &self.access.endpoint.name;
        let repository = &self.access.repository;
        let digest = self.digest.short();
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(SourceError::Final(format!(
                "{name} has no blob {digest} in {repository}"
            ))),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let why = match answer.denials.is_empty() {
                    true => String::new(),
                    false => format!(" ({})", answer.denials.join("; ")),
                };
                Err(SourceError::Final(format!(
                    "{name} refused blob {digest} of {repository} with {}{why}: add a login that may pull it",
                    answer.status.as_u16()
                )))
            }
            // Whatever else it says to a HEAD, the GET will show.
            _ => Ok(Location {
                url,
                headers: HeaderMap::new(),
                credential: self
                    .access
                    .known_credential()
                    .await
                    .map_err(failed)?
                    .flatten(),
            }),
        }
    }
}

impl Source for RegistryBlob {
    fn kind(&self) -> SourceKind {
        match self.access.endpoint.is_registry {
            true => SourceKind::Registry,
            false => SourceKind::Mirror,
        }
    }

    fn name(&self) -> String {
        self.access.endpoint.name.clone()
    }

    fn locate<'a>(
        &'a self,
        _http: &'a Http,
        refused: Option<StatusCode>,
    ) -> BoxFuture<'a, Result<Location, SourceError>> {
        Box::pin(self.locate(refused))
    }
}

impl fmt::Debug for RegistryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.digest, self.access.endpoint.name)
    }
}

fn failed(error: AskError) -> SourceError {
    match error {
        AskError::Net(error) => SourceError::Net(error),
        AskError::Busy { wait, .. } => SourceError::Busy(wait.unwrap_or(BUSY)),
        AskError::Odd(reason) => SourceError::Final(reason),
        AskError::TooLarge { .. } => SourceError::Final("sent a body to a HEAD".to_owned()),
    }
}
