//! A repository as git has it: commits, branches, tags, and files that are large or small.

use std::collections::BTreeMap;
use std::io;

use headstart_core::digest::{GitSha1, Sha256};
use sha2::Digest as _;

use crate::content::Content;

/// From this size on a file is stored as a large one, whatever its name.
const LARGE: u64 = 1 << 20;

/// Endings that git-lfs tracks in every model repository.
const LARGE_ENDINGS: [&str; 10] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".gguf",
    ".model",
];

/// A file to be committed, with its digests.
#[derive(Clone, Debug)]
pub struct RepoFile {
    /// Where it lies in the repository; `/` between segments.
    pub path: String,
    /// Its bytes.
    pub content: Content,
    /// Its git object: for a large file that of its pointer.
    pub blob_id: GitSha1,
    /// For a large file, its digest and the size of its pointer.
    pub large: Option<Large>,
}

/// What git has in place of a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Large {
    /// The digest of the bytes.
    pub sha256: Sha256,
    /// Length of the pointer that git stores.
    pub pointer_size: u64,
}

impl RepoFile {
    /// A file that is large if it has 1 MiB or a name that git-lfs tracks.
    ///
    /// # Errors
    /// When content in a file cannot be read.
    pub fn new(path: impl Into<String>, content: impl Into<Content>) -> io::Result<Self> {
        let (path, content) = (path.into(), content.into());
        let is_tracked = LARGE_ENDINGS.iter().any(|ending| path.ends_with(ending));
        if content.len() >= LARGE || is_tracked {
            let sha256 = content.sha256()?;
            return Ok(Self::large(path, content, sha256));
        }
        let blob_id = content.git_sha1()?;
        Ok(Self {
            path,
            content,
            blob_id,
            large: None,
        })
    }

    /// A large file whose digest is known, or is to be taken for it: what is announced is served,
    /// right or wrong.
    pub fn large(path: impl Into<String>, content: Content, sha256: Sha256) -> Self {
        let size = content.len();
        let pointer = format!(
            "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        );
        let pointer_size = pointer.len() as u64;
        Self {
            path: path.into(),
            content,
            blob_id: git_object("blob", pointer.as_bytes()),
            large: Some(Large {
                sha256,
                pointer_size,
            }),
        }
    }

    /// The name of its bytes in a client's cache: sha256 for a large file, git blob id else.
    pub fn etag(&self) -> String {
        match self.large {
            Some(large) => large.sha256.to_string(),
            None => self.blob_id.to_string(),
        }
    }

    /// Its made-up address in Xet storage.
    pub(super) fn xet_hash(&self) -> Option<Sha256> {
        let large = self.large?;
        Some(Sha256(
            sha2::Sha256::digest(format!("xet {}", large.sha256)).into(),
        ))
    }
}

/// The git object id of `bytes` as an object of that kind.
pub(super) fn git_object(kind: &str, bytes: &[u8]) -> GitSha1 {
    let mut hasher = sha1::Sha1::new();
    hasher.update(format!("{kind} {}\0", bytes.len()));
    hasher.update(bytes);
    GitSha1(hasher.finalize().into())
}

/// Who may read a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    #[default]
    Public,
    /// Everybody may see that it is there; its files are for tokens that were granted it.
    Gated,
    /// It is there only for tokens that were granted it.
    Private,
    /// Nobody: taken down.
    Disabled,
}

/// One commit.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) title: String,
    pub(super) parent: Option<String>,
    /// When it was made: an RFC 3339 time that follows from its place in history.
    pub(super) date: String,
    pub(super) files: BTreeMap<String, RepoFile>,
}

#[derive(Debug, Default)]
pub(super) struct Repo {
    pub(super) access: Access,
    pub(super) commits: BTreeMap<String, Commit>,
    pub(super) branches: BTreeMap<String, String>,
    pub(super) tags: BTreeMap<String, String>,
    /// Commits ever made, so that two with the same files differ.
    made: usize,
}

impl Repo {
    /// Commits a whole tree to `branch` on top of `parent`; the new commit's id.
    pub(super) fn commit(
        &mut self,
        branch: &str,
        parent: Option<String>,
        title: &str,
        files: Vec<RepoFile>,
    ) -> String {
        let mut text = format!("tree of commit {}\n", self.made);
        for file in &files {
            text += &format!("{} {}\n", file.blob_id, file.path);
        }
        text += &format!("parent {parent:?}\n\n{title}\n");
        let id = git_object("commit", text.as_bytes()).to_string();
        let (day, minute) = (1 + self.made / 1440 % 28, self.made % 1440);
        let date = format!(
            "2026-01-{day:02}T{:02}:{:02}:00.000Z",
            minute / 60,
            minute % 60
        );
        self.made += 1;
        let files = files
            .into_iter()
            .map(|file| (file.path.clone(), file))
            .collect();
        let title = title.to_owned();
        self.commits.insert(
            id.clone(),
            Commit {
                title,
                parent,
                date,
                files,
            },
        );
        self.branches.insert(branch.to_owned(), id.clone());
        id
    }

    /// The commit that a branch, a tag, an id or at least seven digits of one name.
    pub(super) fn resolve(&self, revision: &str) -> Option<(&str, &Commit)> {
        let branch = revision.strip_prefix("refs/heads/").unwrap_or(revision);
        let tag = revision.strip_prefix("refs/tags/").unwrap_or(revision);
        let named = self.branches.get(branch).or_else(|| self.tags.get(tag));
        let id = match named {
            Some(id) => id,
            None if revision.len() >= 7 => {
                let mut matching = self.commits.keys().filter(|id| id.starts_with(revision));
                let id = matching.next()?;
                if matching.next().is_some() {
                    return None;
                }
                id
            }
            None => return None,
        };
        let (id, commit) = self.commits.get_key_value(id)?;
        Some((id, commit))
    }

    /// Drops the commits that no branch or tag leads to.
    pub(super) fn forget_unreachable(&mut self) {
        let mut reachable = BTreeMap::new();
        for head in self.branches.values().chain(self.tags.values()) {
            let mut next = Some(head.clone());
            while let Some(id) = next.take() {
                if let Some(commit) = self.commits.get(&id)
                    && reachable.insert(id, commit.clone()).is_none()
                {
                    next = commit.parent.clone();
                }
            }
        }
        self.commits = reachable;
    }
}
