//! The origin of large files.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, ETAG};

use super::repo::git_object;
use super::{Ask, Reply, State};
use crate::serve::Handle;
use crate::serve::signed::{refusal, xml};

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
            &git_object("object", digest.as_bytes()).to_string()[..32],
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
