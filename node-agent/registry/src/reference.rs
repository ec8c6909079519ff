//! How an image is named: `[HOST[:PORT]/]NAME[:TAG][@DIGEST]`.
//!
//! The grammar is the distribution project's, as `oci-client` reads it. Displays in the form under
//! which containerd keeps its records: Docker Hub's short names spelled out, and the digest alone
//! where both tag and digest are given.

use std::fmt;
use std::str::FromStr;

use headstart_core::digest::Sha256;
use oci_client::{ParseError, Reference};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// Longer texts are no image names: 255 for the repository, 128 for the tag, 71 for the digest,
/// 253 for the host, and some.
const MAX_LENGTH: usize = 1024;

/// An image by tag or digest.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageRef {
    name: Reference,
    digest: Option<Sha256>,
}

/// A text that names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {problem}")]
pub struct InvalidImageRef {
    text: String,
    problem: String,
}

impl ImageRef {
    /// The registry's host, and port where one is given: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        self.name.registry()
    }

    /// The repository in the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        self.name.repository()
    }

    /// The tag; none where the image is named by digest alone.
    pub fn tag(&self) -> Option<&str> {
        self.name.tag()
    }

    /// The digest asked for.
    pub fn digest(&self) -> Option<Sha256> {
        self.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn familiar(&self) -> String {
        format!("{}/{}", self.registry(), self.repository())
    }

    /// The same repository at `digest`.
    pub fn pinned(&self, digest: Sha256) -> Self {
        Self {
            name: self.name.clone_with_digest(digest.prefixed()),
            digest: Some(digest),
        }
    }

    /// What stands after `/manifests/` in a request: the digest, else the tag.
    pub(crate) fn manifest_name(&self) -> String {
        match (self.digest, self.tag()) {
            (Some(digest), _) => digest.prefixed(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        }
    }
}

impl FromStr for ImageRef {
    type Err = InvalidImageRef;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |problem: String| InvalidImageRef {
            text: text.chars().take(120).collect(),
            problem,
        };
        if text.len() > MAX_LENGTH {
            return Err(invalid(format!("it is longer than {MAX_LENGTH} bytes")));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            return Err(invalid(format!(
                "leave out \"{scheme}://\" and write {rest:?}"
            )));
        }
        let name = Reference::from_str(text).map_err(|error| invalid(problem(text, error)))?;
        // The grammar takes `A` of `A/a` for a host, and what follows it does not.
        if name.repository().chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid(upper_case(text)));
        }
        let digest = name.digest().map(str::parse).transpose().map_err(|_| {
            invalid("only lower-case sha256 digests are supported: @sha256:<64 hex digits>".into())
        })?;
        let host = Url::parse(&format!("https://{}/", name.registry()));
        if host.is_err() {
            return Err(invalid(format!(
                "{:?} is not a host or host:port",
                name.registry()
            )));
        }
        Ok(Self { name, digest })
    }
}

/// What is wrong with `text`, and the fix where one can be guessed.
fn problem(text: &str, error: ParseError) -> String {
    match error {
        ParseError::NameEmpty => "it is empty: expected [HOST[:PORT]/]NAME[:TAG][@DIGEST]".into(),
        ParseError::NameTooLong => "the repository is longer than 255 characters".into(),
        ParseError::DigestInvalidLength | ParseError::DigestInvalidFormat => {
            "the digest must be @sha256:<64 hex digits>".into()
        }
        ParseError::DigestUnsupported => {
            "only sha256 digests are supported: @sha256:<64 hex digits>".into()
        }
        _ if text.chars().any(char::is_whitespace) => "it contains white space".into(),
        _ if text.ends_with(':') => "the tag after \":\" is empty".into(),
        _ if text.contains('@') && !text.contains("@sha256:") => {
            "after \"@\" comes a digest, sha256:<64 hex digits>; a tag comes after \":\"".into()
        }
        _ if has_upper_case_repository(text) => upper_case(text),
        _ => "expected [HOST[:PORT]/]NAME[:TAG][@DIGEST]".into(),
    }
}

fn upper_case(text: &str) -> String {
    format!(
        "repository names are lower case: did you mean {:?}?",
        lower_case_repository(text)
    )
}

/// The end of the name: where tag or digest begin.
fn name_end(text: &str) -> usize {
    let name = text.find('@').unwrap_or(text.len());
    let path = text[..name].rfind('/').map_or(0, |slash| slash + 1);
    text[path..name]
        .find(':')
        .map_or(name, |colon| path + colon)
}

fn has_upper_case_repository(text: &str) -> bool {
    let name = &text[..name_end(text)];
    let lower = lower_case_repository(text);
    name.chars().any(|c| c.is_ascii_uppercase()) && Reference::from_str(&lower).is_ok()
}

fn lower_case_repository(text: &str) -> String {
    let (name, rest) = text.split_at(name_end(text));
    format!("{}{rest}", name.to_ascii_lowercase())
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry(), self.repository())?;
        match (self.digest, self.tag()) {
            (Some(digest), _) => write!(f, "@{}", digest.prefixed()),
            (None, tag) => write!(f, ":{}", tag.unwrap_or("latest")),
        }
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
