//! Files by name: small ones at once, large ones by a link to the other origin.

use http::StatusCode;
use http::header::{ACCEPT_RANGES, CONTENT_TYPE, ETAG, HeaderName, LINK, LOCATION};

use super::api::{split_id, split_revision};
use super::repo::RepoFile;
use super::{About, Caller, REPO_COMMIT, Reply, State, not_found};

impl State {
    /// `/{id}/resolve/{revision}/{path}`.
    pub(super) fn resolve(&self, caller: &Caller, segments: &[&str]) -> Reply {
        let (id, rest) = split_id(segments);
        let ["resolve", rest @ ..] = rest else {
            return not_found("EntryNotFound", "Not Found");
        };
        let (revision, path) = split_revision(rest);
        self.with_commit(
            caller,
            &id,
            &revision,
            About::Files,
            |_, commit_id, commit| {
                let reply = match commit.files.get(&path) {
                    None => not_found("EntryNotFound", "Entry not found"),
                    Some(file) if file.large.is_some() => self.large(&id, commit_id, file),
                    Some(file) if self.resolve_cache => {
                        let to = format!(
                            "/api/resolve-cache/models/{id}/{commit_id}/{}",
                            encoded(&path)
                        );
                        redirect(StatusCode::TEMPORARY_REDIRECT, &to)
                            .header(ETAG, &quoted(&file.etag()))
                    }
                    Some(file) => small(file),
                };
                reply.header(REPO_COMMIT, commit_id)
            },
        )
    }

    /// `/api/resolve-cache/models/{id}/{commit}/{path}`.
    pub(super) fn resolve_cached(&self, caller: &Caller, segments: &[&str]) -> Reply {
        let [namespace, name, commit_id, path @ ..] = segments else {
            return not_found("EntryNotFound", "Not Found");
        };
        let (id, path) = (format!("{namespace}/{name}"), path.join("/"));
        self.with_commit(
            caller,
            &id,
            commit_id,
            About::Files,
            |_, commit_id, commit| {
                let file = commit.files.get(&path).filter(|file| file.large.is_none());
                let reply =
                    file.map_or_else(|| not_found("EntryNotFound", "Entry not found"), small);
                reply.header(REPO_COMMIT, commit_id)
            },
        )
    }

    fn large(&self, id: &str, commit_id: &str, file: &RepoFile) -> Reply {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let to = self
            .signer
            .link(&self.cdn_origin, &format!("/{id}/{}", file.etag()), name);
        let header = HeaderName::from_static;
        let reply = redirect(StatusCode::FOUND, &to)
            .header(ACCEPT_RANGES, "bytes")
            .header(ETAG, &quoted(&file.etag()))
            .header(header("x-linked-etag"), &quoted(&file.etag()))
            .header(header("x-linked-size"), &file.content.len().to_string());
        let (Some(_), Some(xet)) = (&self.xet, file.xet_hash()) else {
            return reply;
        };
        let refresh = format!(
            "{}/api/models/{id}/xet-read-token/{commit_id}",
            self.hub_origin
        );
        reply
            .header(header("x-xet-hash"), &xet.to_string())
            .header(LINK, &format!("<{refresh}>; rel=\"xet-auth\""))
    }
}

fn small(file: &RepoFile) -> Reply {
    Reply::new(StatusCode::OK, file.content.clone())
        .in_ranges()
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(ETAG, &quoted(&file.etag()))
}

/// The body is the redirect's own: its length is not the file's.
fn redirect(status: StatusCode, to: &str) -> Reply {
    let reason = status.canonical_reason().unwrap_or_default();
    Reply::new(status, format!("{reason}. Redirecting to {to}"))
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(LOCATION, to)
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

/// A path, percent-encoded but for its slashes.
fn encoded(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        // `+` for a space is for queries only.
        let encoded: String = url::form_urlencoded::byte_serialize(segment.as_bytes()).collect();
        encoded.replace('+', "%20")
    });
    segments.collect::<Vec<_>>().join("/")
}
