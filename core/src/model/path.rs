//! File names from upstream, checked before they can become paths.
//!
//! A name is accepted only if it means the same file on every system: relative, without a step
//! up, without what POSIX or Windows reads as a root, a drive or a device stream, and short
//! enough for any file system. Nothing here repairs a name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization as _;

/// Most bytes in one component: the limit of every common file system.
const MAX_COMPONENT: usize = 255;

/// Most bytes in a whole name.
const MAX_PATH: usize = 1024;

/// Most components in a name.
const MAX_DEPTH: usize = 32;

/// The path of a file in a repository. Relative, `/` between its components.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoPath(String);

/// A file name that may not become a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file name {name:?} {problem}: refused")]
pub struct InvalidPath {
    /// The name, cut after 200 characters.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidPath {
    fn new(name: &str, problem: impl Into<String>) -> Self {
        Self {
            name: name.chars().take(200).collect(),
            problem: problem.into(),
        }
    }
}

impl RepoPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, at least one, none of them `.` or `..`.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directories above the file, as text; none for a file at the root.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }
}

fn component_problem(part: &str) -> Option<String> {
    let fold = part.to_ascii_lowercase();
    let drive = part.len() >= 2 && part.as_bytes()[1] == b':';
    match part {
        "" => Some("has an empty component".to_owned()),
        "." | ".." => Some(format!("has a component {part:?}")),
        _ if part.len() > MAX_COMPONENT => Some("has a component over 255 bytes".to_owned()),
        _ if part.ends_with(['.', ' ']) => {
            Some("has a component ending in dot or space".to_owned())
        }
        _ if drive && part.as_bytes()[0].is_ascii_alphabetic() => Some("names a drive".to_owned()),
        _ if fold == ".git" => Some("reaches into a git directory".to_owned()),
        _ if fold.ends_with(".incomplete") || fold == ".huggingface-shared-blobs" => {
            Some("is a name the cache uses itself".to_owned())
        }
        _ => None,
    }
}

impl FromStr for RepoPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        let refuse = |problem: String| Err(InvalidPath::new(text, problem));
        if text.is_empty() {
            return refuse("is empty".to_owned());
        }
        if text.len() > MAX_PATH {
            return refuse(format!("is longer than {MAX_PATH} bytes"));
        }
        if text.starts_with('/') {
            return refuse("is absolute".to_owned());
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || *c == '\\') {
            return refuse(format!("contains {bad:?}"));
        }
        if text.split('/').count() > MAX_DEPTH {
            return refuse(format!("has more than {MAX_DEPTH} components"));
        }
        match text.split('/').find_map(component_problem) {
            Some(problem) => refuse(problem),
            None => Ok(Self(text.to_owned())),
        }
    }
}

/// Refuses a set of names that cannot lie in one directory tree on every system: equal after case
/// folding or Unicode normalization, or a file where another name needs a directory.
///
/// # Errors
/// The first such name, in the order given, with the name it collides with.
pub fn check_tree<'a>(paths: impl IntoIterator<Item = &'a RepoPath>) -> Result<(), InvalidPath> {
    // What each folded name is: the spelling first seen, as a file or as a directory above one.
    let mut seen: BTreeMap<String, (&str, Kind)> = BTreeMap::new();
    for path in paths {
        let text = path.as_str();
        let ends = text
            .match_indices('/')
            .map(|(at, _)| at)
            .chain([text.len()]);
        for end in ends {
            let (name, kind) = match end == text.len() {
                true => (text, Kind::File),
                false => (&text[..end], Kind::Directory),
            };
            match seen.get(&folded(name)) {
                None => {
                    seen.insert(folded(name), (name, kind));
                }
                Some((first, Kind::Directory)) if *first == name && kind == Kind::Directory => {}
                Some((first, _)) => {
                    let problem = format!("collides with {first:?} on some file systems");
                    return Err(InvalidPath::new(text, problem));
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
}

fn folded(name: &str) -> String {
    name.nfc().flat_map(char::to_lowercase).nfc().collect()
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl TryFrom<String> for RepoPath {
    type Error = InvalidPath;
    fn try_from(text: String) -> Result<Self, InvalidPath> {
        text.parse()
    }
}

impl From<RepoPath> for String {
    fn from(path: RepoPath) -> Self {
        path.0
    }
}
