//! Resolving one image: from its name to verified documents.

use std::time::Duration;

use bytes::Bytes;
use headstart_core::digest::Sha256;
use headstart_transfer::chain;
use headstart_transfer::net::Request;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};

use crate::access::{Answer, Question};
use crate::error::{MirrorFailure, ResolveError};
use crate::hosts::Endpoint;
use crate::image::{Descriptor, Layer, RawBlob, Resolved, Secret, chain_ids, sha256};
use crate::manifest::{self, Config, Document, Entry, Image, Problem};
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::registries::Registries;

/// No manifest or index is larger (the distribution specification's own advice).
const MAX_MANIFEST: usize = 4 << 20;

/// No config is larger.
const MAX_CONFIG: usize = 8 << 20;

/// How often the registry itself is asked again after transient failures. A mirror is not: the
/// next endpoint is.
const RETRIES: u32 = 3;

/// How long a mirror may take to answer before the next endpoint is asked.
const MIRROR_PATIENCE: Duration = Duration::from_secs(10);

/// How long the registry may take to say whether an image is public.
const CLASSIFY_PATIENCE: Duration = Duration::from_secs(10);

/// Indexes within indexes: one level is in use, by multi-platform images assembled from others.
const MAX_INDEXES: usize = 2;

/// One image being resolved.
pub(crate) struct Look<'a> {
    registries: &'a Registries,
    endpoints: Vec<Endpoint>,
    image: &'a ImageRef,
    name: String,
}

impl<'a> Look<'a> {
    pub(crate) fn new(
        registries: &'a Registries,
        image: &'a ImageRef,
        endpoints: Vec<Endpoint>,
    ) -> Self {
        Self {
            registries,
            endpoints,
            image,
            name: image.to_string(),
        }
    }

    pub(crate) async fn resolve(&self, platform: &Platform) -> Result<Resolved, ResolveError> {
        let asked = self.image.digest();
        let what = format!("manifests/{}", self.image.manifest_name());
        let (target, first) = self.manifest(&what, asked, None).await?;
        let secret = self.secret(&target.descriptor, &first);
        let documents = self.documents(target.clone(), first.endpoint.clone(), platform);
        let (secret, documents) = tokio::join!(secret, documents);
        let (indexes, manifest, image, from) = documents?;
        let (config, parsed) = self.config(&image, &from).await?;
        if platform.rank(&parsed.platform).is_none() {
            return Err(ResolveError::Platform {
                image: self.name.clone(),
                wanted: platform.clone(),
                have: vec![parsed.platform],
            });
        }
        let layers = self.layers(&image, &parsed, &from)?;
        Ok(Resolved {
            image: self.image.clone(),
            platform: platform.clone(),
            target: target.descriptor,
            indexes,
            manifest,
            config,
            layers,
            secret,
        })
    }

    /// From the target down to the manifest for `platform`, and who sent that.
    async fn documents(
        &self,
        target: RawBlob,
        from: String,
        platform: &Platform,
    ) -> Result<(Vec<RawBlob>, RawBlob, Image, String), ResolveError> {
        let (mut blob, mut from) = (target, from);
        let mut indexes = Vec::new();
        loop {
            let document = manifest::document(&blob.bytes, &blob.descriptor.media_type);
            let entries = match document.map_err(|p| self.problem(p, "manifest", &from))? {
                Document::Image(image) => return Ok((indexes, blob, image, from)),
                Document::Index(entries) => entries,
            };
            indexes.push(blob);
            let entry = self.choose(&entries, platform)?;
            if entry.is_index && indexes.len() == MAX_INDEXES {
                let reason = "its indexes are nested more than one deep".to_owned();
                return Err(self.problem(Problem::Unsupported(reason), "manifest", &from));
            }
            let digest = entry.descriptor.digest;
            let what = format!("manifests/{}", digest.prefixed());
            let (next, fetched) = self
                .manifest(&what, Some(digest), Some(&entry.descriptor))
                .await?;
            (blob, from) = (next, fetched.endpoint);
        }
    }

    fn choose<'e>(
        &self,
        entries: &'e [Entry],
        platform: &Platform,
    ) -> Result<&'e Entry, ResolveError> {
        manifest::choose(entries, platform).map_err(|have| ResolveError::Platform {
            image: self.name.clone(),
            wanted: platform.clone(),
            have,
        })
    }

    /// A manifest or index, hashed: against `asked`, else against what the registry says it is.
    async fn manifest(
        &self,
        what: &str,
        asked: Option<Sha256>,
        named: Option<&Descriptor>,
    ) -> Result<(RawBlob, Fetched), ResolveError> {
        let fetched = self.fetch(what, "manifest", asked, MAX_MANIFEST).await?;
        let from = fetched.endpoint.as_str();
        let header = |name| {
            let value = fetched.answer.headers.get(name);
            value.and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let content_type = header(CONTENT_TYPE.as_str());
        let media_type = manifest::media_type(&fetched.bytes, content_type)
            .map_err(|problem| self.problem(problem, "manifest", from))?;
        if let Some(named) = named
            && (named.media_type != media_type || named.size != fetched.bytes.len() as u64)
        {
            let reason = format!(
                "its index names {} bytes of {:?}, it is {} bytes of {media_type:?}",
                named.size,
                named.media_type,
                fetched.bytes.len()
            );
            return Err(self.problem(Problem::Invalid(reason), "manifest", from));
        }
        let descriptor = Descriptor {
            media_type,
            digest: sha256(&fetched.bytes),
            size: fetched.bytes.len() as u64,
        };
        let bytes = fetched.bytes.clone();
        Ok((RawBlob { descriptor, bytes }, fetched))
    }

    async fn config(&self, image: &Image, from: &str) -> Result<(RawBlob, Config), ResolveError> {
        let descriptor = image.config.clone();
        if descriptor.size > MAX_CONFIG as u64 {
            return Err(ResolveError::TooLarge {
                image: self.name.clone(),
                registry: from.to_owned(),
                what: "config",
                length: Some(descriptor.size),
                cap: MAX_CONFIG,
            });
        }
        let what = format!("blobs/{}", descriptor.digest.prefixed());
        let fetched = self
            .fetch(&what, "config", Some(descriptor.digest), MAX_CONFIG)
            .await?;
        let bytes = fetched.bytes;
        if bytes.len() as u64 != descriptor.size {
            let reason = format!("{} bytes instead of {}", bytes.len(), descriptor.size);
            return Err(self.problem(Problem::Invalid(reason), "config", &fetched.endpoint));
        }
        let parsed = manifest::config(&bytes)
            .map_err(|problem| self.problem(problem, "config", &fetched.endpoint))?;
        Ok((RawBlob { descriptor, bytes }, parsed))
    }

    fn layers(
        &self,
        image: &Image,
        config: &Config,
        from: &str,
    ) -> Result<Vec<Layer>, ResolveError> {
        if image.layers.len() != config.diff_ids.len() {
            let reason = format!(
                "it has {} layers and its config names {}",
                image.layers.len(),
                config.diff_ids.len()
            );
            return Err(self.problem(Problem::Invalid(reason), "manifest", from));
        }
        let chain = chain_ids(&config.diff_ids);
        let identities = config.diff_ids.iter().zip(chain);
        let layers = image.layers.iter().zip(identities).enumerate();
        Ok(layers
            .map(|(index, (layer, (diff_id, chain_id)))| Layer {
                descriptor: layer.0.clone(),
                compression: layer.1,
                diff_id: *diff_id,
                chain_id,
                index,
            })
            .collect())
    }

    /// Fetches a document from the first endpoint that has it.
    async fn fetch(
        &self,
        what: &str,
        kind: &'static str,
        digest: Option<Sha256>,
        cap: usize,
    ) -> Result<Fetched, ResolveError> {
        let able = |e: &&Endpoint| e.pull && (digest.is_some() || e.resolve);
        let able: Vec<&Endpoint> = self.endpoints.iter().filter(able).collect();
        let mut mirrors = Vec::new();
        for (index, endpoint) in able.iter().enumerate() {
            let is_last = index + 1 == able.len();
            let error = match self
                .fetch_from(endpoint, is_last, what, kind, digest, cap)
                .await
            {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            if is_last {
                return Err(match mirrors.is_empty() {
                    true => error,
                    false => ResolveError::EveryEndpoint {
                        mirrors,
                        last: Box::new(error),
                    },
                });
            }
            let failure = MirrorFailure {
                mirror: endpoint.name.clone(),
                reason: chain(&error),
            };
            tracing::debug!(
                mirror = failure.mirror,
                reason = failure.reason,
                "asked the next endpoint"
            );
            mirrors.push(failure);
        }
        Err(ResolveError::Unsupported {
            image: self.name.clone(),
            reason: "no host in its hosts.toml may resolve and pull it".into(),
        })
    }

    async fn fetch_from(
        &self,
        endpoint: &Endpoint,
        is_last: bool,
        what: &str,
        kind: &'static str,
        digest: Option<Sha256>,
        cap: usize,
    ) -> Result<Fetched, ResolveError> {
        let access = self.registries.access(self.image, endpoint.clone(), true);
        let url = access.url(self.image.registry(), what);
        let mut request = Request::get(url);
        if kind == "manifest" {
            request = request.header(ACCEPT, accept());
        }
        if !is_last {
            request.header_timeout = MIRROR_PATIENCE;
        }
        let question = Question {
            request,
            cap,
            follow: true,
            retries: if is_last { RETRIES } else { 0 },
        };
        let anonymous = access.is_anonymous();
        let asked = access.ask(&question).await;
        let answer = asked.map_err(|error| {
            ResolveError::of_ask(error, &self.name, &endpoint.name, kind, anonymous)
        })?;
        self.judge(&answer, endpoint, kind)?;
        let found = sha256(&answer.bytes);
        let announced = answer.headers.get("docker-content-digest");
        let announced = announced.and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(expected) = digest.or(announced)
            && expected != found
        {
            return Err(ResolveError::Mismatch {
                image: self.name.clone(),
                registry: endpoint.name.clone(),
                what: kind,
                expected: expected.prefixed(),
                found: found.prefixed(),
            });
        }
        Ok(Fetched {
            bytes: answer.bytes.clone(),
            answer,
            by_registry: endpoint.is_registry,
            endpoint: endpoint.name.clone(),
        })
    }

    fn judge(
        &self,
        answer: &Answer,
        endpoint: &Endpoint,
        kind: &'static str,
    ) -> Result<(), ResolveError> {
        let image = self.name.clone();
        let registry = endpoint.name.clone();
        let denials = answer.denials.clone();
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED => Err(ResolveError::Unauthorized {
                image,
                registry,
                denials,
            }),
            StatusCode::FORBIDDEN => Err(ResolveError::Forbidden {
                image,
                registry,
                denials,
            }),
            StatusCode::NOT_FOUND => Err(ResolveError::NotFound {
                image,
                registry,
                what: match kind {
                    "manifest" => "image",
                    kind => kind,
                }
                .to_owned(),
                anonymous: answer.anonymous,
            }),
            status => Err(ResolveError::Invalid {
                image,
                registry,
                what: "answer",
                reason: format!("status {status}"),
            }),
        }
    }

    /// Who may have the target; see [`Registries::resolve`].
    async fn secret(&self, target: &Descriptor, fetched: &Fetched) -> Secret {
        let needed = Secret::NeededFor {
            repository: self.image.familiar(),
        };
        if fetched.by_registry && fetched.answer.anonymous {
            return Secret::Anonymous;
        }
        let Some(registry) = self.endpoints.iter().find(|endpoint| endpoint.is_registry) else {
            return needed;
        };
        let mut registry = registry.clone();
        registry.headers.clear();
        let access = self.registries.access(self.image, registry, false);
        let what = format!("manifests/{}", target.digest.prefixed());
        let url = access.url(self.image.registry(), &what);
        let mut request = Request::head(url).header(ACCEPT, accept());
        request.header_timeout = CLASSIFY_PATIENCE;
        let question = Question {
            request,
            cap: 0,
            follow: true,
            retries: 0,
        };
        match access.ask(&question).await {
            Ok(answer) if answer.status == StatusCode::OK => Secret::Anonymous,
            Ok(_) => needed,
            Err(error) => {
                tracing::debug!(
                    image = self.name,
                    ?error,
                    "could not ask whether an image is public"
                );
                needed
            }
        }
    }

    fn problem(&self, problem: Problem, what: &'static str, from: &str) -> ResolveError {
        let image = self.name.clone();
        match problem {
            Problem::Unsupported(reason) => ResolveError::Unsupported { image, reason },
            Problem::Invalid(reason) => ResolveError::Invalid {
                image,
                registry: from.to_owned(),
                what,
                reason,
            },
        }
    }
}

fn accept() -> HeaderValue {
    let value = HeaderValue::from_str(&manifest::ACCEPT.join(", "));
    value.expect("media types are ASCII")
}

/// A document, and how it was had.
struct Fetched {
    bytes: Bytes,
    answer: Answer,
    /// Whether the registry itself gave it.
    by_registry: bool,
    endpoint: String,
}
