//! The origin of large files: no account, only links that say until when they are good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use headstart_core::digest::Sha256;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG};
use sha2::Digest as _;

use super::{Ask, Reply, State};
use crate::serve::{Fault, Handle};

/// Makes links and checks them.
#[derive(Debug)]
pub(crate) struct Signer {
    lifetime: AtomicU64,
    /// Part of every signature: links of an earlier generation are expired.
    generation: AtomicU64,
}

/// What a link is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signature {
    Good,
    Expired,
    Wrong,
}

impl Signer {
    pub(crate) fn new(lifetime: Duration) -> Self {
        let (lifetime, generation) = (AtomicU64::new(lifetime.as_secs()), AtomicU64::new(0));
        Self {
            lifetime,
            generation,
        }
    }

    pub(crate) fn set_lifetime(&self, lifetime: Duration) {
        self.lifetime.store(lifetime.as_secs(), Ordering::Relaxed);
    }

    pub(crate) fn expire_all(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// A link to `path` at `origin`, good from now on for a lifetime, which saves as `name`.
    pub(crate) fn link(&self, origin: &str, path: &str, name: &str) -> String {
        let expires = unix_now() + self.lifetime.load(Ordering::Relaxed);
        let generation = self.generation.load(Ordering::Relaxed);
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair(
            "response-content-disposition",
            &format!("inline; filename=\"{name}\";"),
        );
        query.append_pair("Expires", &expires.to_string());
        query.append_pair("Key-Pair-Id", &format!("K{generation}"));
        query.append_pair("Signature", &signed(path, expires, generation));
        format!("{origin}{path}?{}", query.finish())
    }

    /// Whether the link that a request came by is good.
    pub(crate) fn check(&self, ask: &Ask) -> Signature {
        let number = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
        let expires = number(ask.parameter("Expires"));
        let key = ask.parameter("Key-Pair-Id");
        let generation = number(key.and_then(|key| Some(key.strip_prefix('K')?.to_owned())));
        let (Some(expires), Some(generation)) = (expires, generation) else {
            return Signature::Wrong;
        };
        if ask.parameter("Signature") != Some(signed(&ask.path, expires, generation)) {
            return Signature::Wrong;
        }
        let is_past =
            unix_now() >= expires || generation != self.generation.load(Ordering::Relaxed);
        if is_past || ask.fault == Some(Fault::Expired) {
            return Signature::Expired;
        }
        Signature::Good
    }
}

/// No secret is at stake: whoever can reach this server may read its files.
fn signed(path: &str, expires: u64, generation: u64) -> String {
    let text = format!("loopback {path} {expires} {generation}");
    Sha256(sha2::Sha256::digest(text).into()).to_string()
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Checks what every request to such an origin must have; an answer if it has not.
pub(crate) fn refusal(signer: &Signer, ask: &Ask) -> Option<Reply> {
    if ask.headers.contains_key(AUTHORIZATION) {
        let text = "Only one auth mechanism allowed";
        return Some(xml(StatusCode::BAD_REQUEST, "InvalidArgument", text));
    }
    match signer.check(ask) {
        Signature::Good => None,
        Signature::Expired => Some(xml(
            StatusCode::FORBIDDEN,
            "AccessDenied",
            "Request has expired",
        )),
        Signature::Wrong => Some(xml(
            StatusCode::FORBIDDEN,
            "SignatureDoesNotMatch",
            "The request signature does not match",
        )),
    }
}

pub(crate) fn xml(status: StatusCode, code: &str, message: &str) -> Reply {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Reply::new(status, text).header(CONTENT_TYPE, "application/xml")
}

/// Large files of all repositories by digest: `/{id}/{sha256}`.
pub(super) struct Cdn(pub(super) Arc<State>);

impl Handle for Cdn {
    fn handle(&self, ask: &Ask) -> Reply {
        if let Some(refused) = refusal(&self.0.signer, ask) {
            return refused;
        }
        let missing = || xml(StatusCode::NOT_FOUND, "NoSuchKey", "The key does not exist");
        let path = ask.path.trim_start_matches('/');
        let Some((id, digest)) = path.rsplit_once('/') else {
            return missing();
        };
        let repos = self.0.repos();
        let commits = repos
            .get(id)
            .into_iter()
            .flat_map(|repo| repo.commits.values());
        let mut files = commits.flat_map(|commit| commit.files.values());
        let Some(file) = files.find(|file| file.large.is_some() && file.etag() == digest) else {
            return missing();
        };
        // An object store's own tag: no digest of the file.
        let tag = format!(
            "\"{}-{}\"",
            &signed(digest, 0, 0)[..32],
            1 + file.content.len() / (8 << 20)
        );
        let disposition = ask
            .parameter("response-content-disposition")
            .unwrap_or_default();
        Reply::new(StatusCode::OK, file.content.clone())
            .in_ranges()
            .header(CONTENT_TYPE, "binary/octet-stream")
            .header(CONTENT_DISPOSITION, &disposition)
            .header(ETAG, &tag)
    }
}
