//! Models on the Hugging Face Hub: how a person names one, and which of its files an engine reads.
//!
//! Names are checked here once, so that what passed can be put into a URL, a cache path or a log
//! line without another thought. Every refusal is one line that names the field, what was found in
//! it and what to write instead.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::path::{InvalidPath, RepoPath, check_tree};
pub use self::select::{Choice, Format, LeftOut, Selection, SelectionError, choose};

mod path;
mod select;

/// The longest revision name accepted, in bytes.
const MAX_REVISION: usize = 255;

/// The longest repository name accepted, `org/name` together, in bytes. The Hub's own limit.
const MAX_REPO: usize = 96;

const FORM: &str = "hf://org/name[@revision][?include=glob&exclude=glob]";

/// A text that names no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model {asked:?}: {field} {found:?} {problem}; {fix}")]
pub struct InvalidModelRef {
    /// The whole text that was read.
    pub asked: String,
    /// Which part of it is wrong: `scheme`, `host`, `repository`, `revision`, `option`.
    pub field: &'static str,
    /// What that part says.
    pub found: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

/// A repository name: `org/name`, or a bare `name` for the Hub's oldest models.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoId(String);

/// A git commit: 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Commit([u8; 20]);

/// What a person asked for: a commit, or the name of something that moves.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Revision {
    /// A commit, which never moves.
    Commit(Commit),
    /// A branch, a tag or a ref such as `refs/pr/1`.
    Name(String),
}

/// One model as asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef {
    /// The repository.
    pub repo: RepoId,
    /// The revision; `main` when none was given.
    pub revision: Revision,
    /// Which of its files.
    pub selection: Selection,
}

/// A wrong part of a reference, before the whole is known.
struct Fault {
    field: &'static str,
    found: String,
    problem: String,
    fix: String,
}

impl Fault {
    fn new(field: &'static str, found: &str, problem: &str, fix: impl Into<String>) -> Self {
        Self {
            field,
            found: found.chars().take(120).collect(),
            problem: problem.to_owned(),
            fix: fix.into(),
        }
    }

    fn of(self, asked: &str) -> InvalidModelRef {
        InvalidModelRef {
            asked: asked.chars().take(300).collect(),
            field: self.field,
            found: self.found,
            problem: self.problem,
            fix: self.fix,
        }
    }
}

impl RepoId {
    /// `org/name` or `name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory of this model in a Hugging Face cache: `models--org--name`.
    pub fn cache_dir(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl Revision {
    /// The branch every repository has.
    pub fn main() -> Self {
        Self::Name("main".to_owned())
    }

    /// The commit, if a commit was asked for.
    pub fn commit(&self) -> Option<Commit> {
        match self {
            Self::Commit(commit) => Some(*commit),
            Self::Name(_) => None,
        }
    }
}

/// The Hub's rules for names (huggingface_hub `validate_repo_id`), for models.
fn repo(text: &str) -> Result<RepoId, Fault> {
    let fault = |problem: &str, fix: &str| Err(Fault::new("repository", text, problem, fix));
    let name = "write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct";
    if text.is_empty() {
        return fault("is missing", name);
    }
    if text.len() > MAX_REPO {
        return fault("is longer than the 96 characters the Hub allows", name);
    }
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 2 {
        return fault("has more than two parts", name);
    }
    for part in parts {
        if part.is_empty() {
            return fault("has an empty part", name);
        }
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(bad) = part.chars().find(|c| !known(*c)) {
            let problem = format!("contains {bad:?}");
            return fault(&problem, "use letters, digits, '-', '_' and '.' only");
        }
        let edge = |c: char| matches!(c, '-' | '.');
        if part.starts_with(edge) || part.ends_with(edge) {
            return fault("has a part that starts or ends with '-' or '.'", name);
        }
    }
    if text.contains("--") || text.contains("..") {
        return fault("contains '--' or '..', which no repository name has", name);
    }
    if text.ends_with(".git") {
        return fault("ends with '.git'", "leave the '.git' away");
    }
    Ok(RepoId(text.to_owned()))
}

/// Git's rules for ref names, so that a revision is also a safe path below `refs/`.
fn revision(text: &str) -> Result<Revision, Fault> {
    let fault = |problem: &str, fix: &str| Err(Fault::new("revision", text, problem, fix));
    let name = "write a branch, a tag, refs/pr/N or a commit of 40 hex digits";
    if text.is_empty() {
        return fault("is empty", "leave the '@' away for main");
    }
    if text.len() > MAX_REVISION {
        return fault("is too long", name);
    }
    if text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return match Commit::from_hex(text) {
            Some(commit) => Ok(Revision::Commit(commit)),
            None => fault("has upper-case digits", "write the commit in lower case"),
        };
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\@\"<>|".contains(c);
    if let Some(bad) = text.chars().find(|c| bad(*c)) {
        let problem = format!("contains {bad:?}, which no git ref has");
        return fault(&problem, name);
    }
    let wrong = |part: &str| {
        part.is_empty() || part.starts_with(['.', '-']) || part.ends_with(['.', ' ']) || {
            part.len() >= 5 && part.ends_with(".lock")
        }
    };
    if text.contains("..") || text.split('/').any(wrong) {
        return fault("is no git ref", name);
    }
    Ok(Revision::Name(text.to_owned()))
}

impl Commit {
    fn from_hex(text: &str) -> Option<Self> {
        let digest: crate::digest::GitSha1 = match text.len() {
            40 => text.parse().ok()?,
            _ => return None,
        };
        Some(Self(digest.0))
    }

    /// The first twelve hex digits, for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// `%2F` is how the Hub's own addresses write the slash of `refs/pr/1`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits = match tail {
            [a, b, ..] if *first == b'%' => std::str::from_utf8(&[*a, *b])
                .ok()
                .filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|pair| u8::from_str_radix(pair, 16).ok()),
            _ => None,
        };
        match digits {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn options(text: &str) -> Result<Selection, Fault> {
    let mut selection = Selection::default();
    for option in text.split('&').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let value = unescape(value);
        let patterns = match key {
            "include" => &mut selection.include,
            "exclude" => &mut selection.exclude,
            other => {
                let fix = "write include=glob or exclude=glob";
                return Err(Fault::new("option", other, "is not known", fix));
            }
        };
        if value.is_empty() {
            let fix = "write a glob after the '=', for example *.safetensors";
            return Err(Fault::new("option", key, "has no value", fix));
        }
        patterns.push(value);
    }
    Ok(selection)
}

/// `org/name`, `org/name@revision`.
fn named(text: &str) -> Result<(RepoId, Revision), Fault> {
    match text.split_once('@') {
        None => Ok((repo(text)?, Revision::main())),
        Some((name, after)) => Ok((repo(name)?, revision(&unescape(after))?)),
    }
}

/// An address as a browser shows it: `huggingface.co/org/name/tree/main`.
fn addressed(text: &str) -> Result<(RepoId, Revision), Fault> {
    let (host, path) = text.split_once('/').unwrap_or((text, ""));
    let known = ["huggingface.co", "www.huggingface.co", "hf.co"];
    if !known.contains(&host.to_ascii_lowercase().as_str()) {
        let fix = "write org/name, and name another Hub by its endpoint option";
        return Err(Fault::new("host", host, "is not the Hugging Face Hub", fix));
    }
    let path = path.split('#').next().unwrap_or_default();
    let path = path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    if let [kind @ ("datasets" | "spaces"), ..] = parts[..] {
        let fix = "only models can be fetched: give the address of a model";
        return Err(Fault::new(
            "repository",
            path,
            &format!("is one of {kind}"),
            fix,
        ));
    }
    match parts[..] {
        [_] | [_, _] => named(path),
        [org, name, "tree", ref rest @ ..] if !rest.is_empty() => {
            let wanted = rest.join("/");
            Ok((
                repo(&format!("{org}/{name}"))?,
                revision(&unescape(&wanted))?,
            ))
        }
        [org, name, "blob" | "resolve" | "raw", rev, ref file @ ..] => {
            let file = file.join("/");
            let fix = format!("write {org}/{name}@{rev}?include={file} if that file is meant");
            Err(Fault::new("path", path, "names one file, not a model", fix))
        }
        _ => {
            let fix = "give the address of the model's page";
            Err(Fault::new("path", path, "is no model's address", fix))
        }
    }
}

impl FromStr for ModelRef {
    type Err = InvalidModelRef;

    /// Reads `org/name`, `org/name@revision`, both with `hf://` and with `?include=…&exclude=…`,
    /// and addresses on huggingface.co. Surrounding white space is dropped.
    fn from_str(text: &str) -> Result<Self, InvalidModelRef> {
        let text = text.trim();
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let read = match place.split_once("://") {
            None if place.contains(':') && !place.contains('@') => {
                let (before, after) = place.split_once(':').unwrap_or((place, ""));
                Err(match before.contains('/') {
                    true => {
                        let fix = format!("write {before}@{after}");
                        Fault::new("revision", after, "follows ':' instead of '@'", fix)
                    }
                    false => {
                        let fix = format!("write {FORM}");
                        Fault::new("scheme", before, "is not understood", fix)
                    }
                })
            }
            None => named(place),
            Some(("hf", rest)) => named(rest.strip_prefix("models/").unwrap_or(rest)),
            Some(("http" | "https", rest)) => addressed(rest),
            Some((scheme, _)) => {
                let fix = format!("write {FORM}");
                Err(Fault::new("scheme", scheme, "is not understood", fix))
            }
        };
        let whole = read.and_then(|(repo, revision)| {
            // A link copied from the site may carry `?library=…`: an address has no options.
            let selection = match place.starts_with("http") {
                true => Selection::default(),
                false => options(query)?,
            };
            Ok(Self {
                repo,
                revision,
                selection,
            })
        });
        whole.map_err(|fault| fault.of(text))
    }
}

impl fmt::Display for ModelRef {
    /// The form it is read in, with the revision always given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.repo, self.revision)?;
        let escape = |glob: &str| glob.replace('%', "%25").replace('&', "%26");
        let include = self.selection.include.iter().map(|glob| ("include", glob));
        let exclude = self.selection.exclude.iter().map(|glob| ("exclude", glob));
        for (place, (key, glob)) in include.chain(exclude).enumerate() {
            let mark = if place == 0 { '?' } else { '&' };
            write!(f, "{mark}{key}={}", escape(glob))?;
        }
        Ok(())
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(commit) => commit.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The text forms of the three names: parsed, and kept as strings in JSON.
macro_rules! text_form {
    ($name:ident, $read:expr) => {
        impl FromStr for $name {
            type Err = InvalidModelRef;
            fn from_str(text: &str) -> Result<Self, InvalidModelRef> {
                let read: fn(&str) -> Result<Self, Fault> = $read;
                read(text).map_err(|fault| fault.of(text))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidModelRef;
            fn try_from(text: String) -> Result<Self, InvalidModelRef> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

text_form!(RepoId, repo);
text_form!(Revision, revision);
text_form!(Commit, |text| {
    let fix = "write a commit of 40 lower-case hex digits";
    Commit::from_hex(text).ok_or_else(|| Fault::new("commit", text, "is no commit", fix))
});

#[cfg(test)]
mod tests;
