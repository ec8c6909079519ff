//! The plan of a model: one commit, its chosen files, and what each must hash to.
//!
//! A plan read from disk is checked like one from the network, so whoever holds a [`ModelPlan`]
//! holds names that are safe to use. Its canonical JSON names the model everywhere ([`PlanId`]).

use std::fmt;

use headstart_core::digest::{Expected, GitSha1, Sha256};
use headstart_core::model::{Commit, Format, InvalidPath, RepoId, RepoPath, Revision, check_tree};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The version of the JSON form written here.
pub const PLAN_VERSION: u32 = 1;

/// Most files in one plan.
pub const MAX_FILES: usize = 100_000;

/// Everything known about a model at one commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelPlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The repository as asked for.
    pub repo: RepoId,
    /// The revision as asked for.
    pub revision: Revision,
    /// What the revision was when it was resolved.
    pub commit: Commit,
    /// The weight format chosen.
    pub format: Format,
    /// The chosen files, sorted by path.
    pub files: Vec<PlannedFile>,
    /// Optional files, which clients ask for, known not to exist at this commit; sorted.
    pub absent: Vec<RepoPath>,
}

/// One file of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its path in the repository.
    pub path: RepoPath,
    /// Its size in bytes.
    pub size: u64,
    /// What its bytes hash to: a sha256 for large files, a git blob id for small ones.
    pub expected: Expected,
    /// Its git object: for a large file that of its pointer.
    pub blob_id: GitSha1,
    /// Its address in Xet storage, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xet_hash: Option<XetHash>,
}

/// A Xet file address: 64 hex digits. Not the sha256 of anything a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XetHash(pub Sha256);

/// The name of a plan: the sha256 of its canonical JSON. Displays as 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PlanId(pub Sha256);

/// A text that is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not the JSON of a plan.
    #[error("not the JSON of a model plan")]
    Json {
        /// The parser's word.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error(
        "the plan has version {found}, this program reads {PLAN_VERSION}: resolve the model again"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// File names that cannot lie in one tree.
    #[error("the plan of {repo} cannot be laid out")]
    Names {
        /// Whose plan.
        repo: RepoId,
        /// Which name.
        source: InvalidPath,
    },
    /// Too many files.
    #[error("the plan of {repo} has {found} files, more than {MAX_FILES}")]
    Files {
        /// Whose plan.
        repo: RepoId,
        /// How many.
        found: usize,
    },
}

impl ModelPlan {
    /// A plan with its lists in order.
    ///
    /// # Errors
    /// When its names cannot lie in one tree, or there are too many.
    pub fn new(
        repo: RepoId,
        revision: Revision,
        commit: Commit,
        format: Format,
        mut files: Vec<PlannedFile>,
        mut absent: Vec<RepoPath>,
    ) -> Result<Self, PlanError> {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        absent.sort();
        let version = PLAN_VERSION;
        let plan = Self {
            version,
            repo,
            revision,
            commit,
            format,
            files,
            absent,
        };
        plan.check()?;
        Ok(plan)
    }

    /// Reads the JSON form and checks it.
    ///
    /// # Errors
    /// When it is not the JSON of a plan of this version with usable names.
    pub fn from_json(text: &[u8]) -> Result<Self, PlanError> {
        let plan: Self =
            serde_json::from_slice(text).map_err(|source| PlanError::Json { source })?;
        plan.check()?;
        Ok(plan)
    }

    /// The canonical JSON form: equal plans give equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a plan holds only strings, numbers and lists")
    }

    /// The plan's name.
    pub fn id(&self) -> PlanId {
        PlanId(Sha256(sha2::Sha256::digest(self.to_json()).into()))
    }

    /// Bytes of all its files; one shared by two paths counts once.
    pub fn bytes(&self) -> u64 {
        let mut sizes: Vec<(Expected, u64)> = self
            .files
            .iter()
            .map(|file| (file.expected, file.size))
            .collect();
        sizes.sort_unstable();
        sizes.dedup_by_key(|(expected, _)| *expected);
        sizes.iter().map(|(_, size)| size).sum()
    }

    fn check(&self) -> Result<(), PlanError> {
        if self.version != PLAN_VERSION {
            return Err(PlanError::Version {
                found: self.version,
            });
        }
        if self.files.len() > MAX_FILES {
            let (repo, found) = (self.repo.clone(), self.files.len());
            return Err(PlanError::Files { repo, found });
        }
        let names = self.files.iter().map(|file| &file.path).chain(&self.absent);
        check_tree(names).map_err(|source| PlanError::Names {
            repo: self.repo.clone(),
            source,
        })
    }
}

impl PlannedFile {
    /// The name of its blob in a Hugging Face cache: the bare hex digits of its digest.
    pub fn etag(&self) -> String {
        match self.expected {
            Expected::Sha256(digest) => digest.to_string(),
            Expected::GitSha1(digest) => digest.to_string(),
        }
    }
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for XetHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
