//! Which files of a repository an engine reads.
//!
//! The default follows vLLM: one weight format, the first of those the repository has, and every
//! file that is not weights, because configuration, tokenizers, templates and code are small and
//! missing one costs a start. Patterns override it with the meaning they have in huggingface_hub.
//! The order of the files given never changes the outcome.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::RepoPath;

/// Patterns a person gave. Both empty: the files an engine reads by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    /// If any are given, exactly the files matching one of them, instead of the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Files matching one of these do not exist for the choice: excluding one weight format makes
    /// the next one the engine's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// The weight format the chosen files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `consolidated*.safetensors`, which vLLM prefers where a repository has them.
    Mistral,
    /// `*.safetensors`.
    Safetensors,
    /// `*.bin`: pickles, which run code when loaded by anything but a careful reader.
    Bin,
    /// `*.pt`: pickles.
    Pt,
    /// One `*.gguf` model.
    Gguf,
    /// No weights, as in a repository of a tokenizer.
    None,
    /// What the patterns say.
    Patterns,
}

/// Why a file was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// Matches an exclude pattern.
    Excluded,
    /// Matches no include pattern.
    NotIncluded,
    /// Weights of the same model in another format or layout.
    Duplicate,
    /// Weights no engine served here reads.
    Unread,
    /// State of a training run.
    Training,
}

/// The files chosen, and what happened to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The format of the weights among them.
    pub format: Format,
    /// The chosen files, sorted.
    pub files: Vec<RepoPath>,
    /// The others, sorted, with the reason.
    pub left_out: Vec<(RepoPath, LeftOut)>,
}

/// A selection that selects nothing sensible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Patterns match no file.
    #[error(
        "none of the repository's {files} files is selected by include {include:?} exclude \
         {exclude:?}: check the patterns"
    )]
    Nothing {
        /// Files in the repository.
        files: usize,
        /// Patterns given.
        include: Vec<String>,
        /// Patterns given.
        exclude: Vec<String>,
    },
    /// Several GGUF models and no word which.
    #[error(
        "the repository holds {models} GGUF models, among them {example:?}: say which with \
         ?include=*.json&include=*{hint}*"
    )]
    ManyGguf {
        /// How many.
        models: usize,
        /// One of them.
        example: String,
        /// What tells it from the others.
        hint: String,
    },
}

/// What a file is to an engine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Consolidated,
    Safetensors,
    Bin,
    Pt,
    Gguf,
    OtherWeights,
    Training,
    Plain,
}

/// Weights of frameworks, runtimes and formats that the engines served here do not read.
const OTHER_WEIGHTS: [&str; 24] = [
    "ckpt",
    "engine",
    "h5",
    "joblib",
    "keras",
    "llamafile",
    "marisa",
    "mlmodel",
    "msgpack",
    "nemo",
    "npy",
    "npz",
    "onnx",
    "onnx_data",
    "ot",
    "params",
    "pb",
    "pdparams",
    "pickle",
    "pkl",
    "pth",
    "rten",
    "tflite",
    "weights",
];

/// What vLLM never loads although it ends like weights.
const TRAINING: [&str; 8] = [
    "optimizer.bin",
    "optimizer.pt",
    "rng_state.pth",
    "scaler.pt",
    "scheduler.bin",
    "scheduler.pt",
    "training_args.bin",
    "training_args.pt",
];

/// Chooses among `files`, the complete list of a commit.
///
/// # Errors
/// When patterns match nothing, or the choice between GGUF models is the caller's.
pub fn choose(files: &[RepoPath], selection: &Selection) -> Result<Choice, SelectionError> {
    let all: BTreeSet<&RepoPath> = files.iter().collect();
    let matches = |patterns: &[String], path: &RepoPath| {
        patterns
            .iter()
            .any(|pattern| pattern_matches(pattern, path.as_str()))
    };
    let (excluded, candidates): (Vec<&RepoPath>, Vec<&RepoPath>) = all
        .into_iter()
        .partition(|path| matches(&selection.exclude, path));
    let (format, verdicts) = if selection.include.is_empty() {
        by_default(&candidates)?
    } else {
        let verdict = |path: &&RepoPath| match matches(&selection.include, path) {
            true => None,
            false => Some(LeftOut::NotIncluded),
        };
        (Format::Patterns, candidates.iter().map(verdict).collect())
    };
    let mut choice = Choice {
        format,
        files: Vec::new(),
        left_out: Vec::new(),
    };
    for (path, verdict) in candidates.into_iter().zip(verdicts) {
        match verdict {
            None => choice.files.push(path.clone()),
            Some(reason) => choice.left_out.push((path.clone(), reason)),
        }
    }
    let excluded = excluded
        .into_iter()
        .map(|path| (path.clone(), LeftOut::Excluded));
    choice.left_out.extend(excluded);
    choice.left_out.sort();
    if choice.files.is_empty() && !(selection.include.is_empty() && selection.exclude.is_empty()) {
        return Err(SelectionError::Nothing {
            files: files.len(),
            include: selection.include.clone(),
            exclude: selection.exclude.clone(),
        });
    }
    Ok(choice)
}

/// vLLM's order: `consolidated*.safetensors`, else `*.safetensors`, else `*.bin`, else `*.pt`;
/// then a single GGUF model. One verdict per file, in order.
fn by_default(files: &[&RepoPath]) -> Result<(Format, Vec<Option<LeftOut>>), SelectionError> {
    let classes: Vec<Class> = files.iter().map(|path| class(path)).collect();
    let has = |wanted| classes.contains(&wanted);
    let format = match () {
        () if has(Class::Consolidated) => Format::Mistral,
        () if has(Class::Safetensors) => Format::Safetensors,
        () if has(Class::Bin) => Format::Bin,
        () if has(Class::Pt) => Format::Pt,
        () if has(Class::Gguf) => Format::Gguf,
        () => Format::None,
    };
    if format == Format::Gguf {
        let gguf = files
            .iter()
            .zip(&classes)
            .filter(|(_, class)| **class == Class::Gguf);
        one_gguf(gguf.map(|(path, _)| *path))?;
    }
    let verdict = |(path, class): (&&RepoPath, &Class)| match (class, format) {
        (Class::Plain, _)
        | (Class::Consolidated, Format::Mistral)
        | (Class::Safetensors, Format::Safetensors)
        | (Class::Bin, Format::Bin)
        | (Class::Pt, Format::Pt)
        | (Class::Gguf, Format::Gguf) => None,
        // A part of the model with a directory of its own: a projector, a vocoder, a head.
        (Class::Safetensors, Format::Mistral) if path.parent().is_some() => None,
        (Class::Training, _) => Some(LeftOut::Training),
        (Class::OtherWeights, _) => Some(LeftOut::Unread),
        _ => Some(LeftOut::Duplicate),
    };
    Ok((format, files.iter().zip(&classes).map(verdict).collect()))
}

fn class(path: &RepoPath) -> Class {
    let name = path.file_name();
    let top = path.components().next().filter(|_| path.parent().is_some());
    let extension = name
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase());
    let weights = match extension.as_deref() {
        _ if TRAINING.contains(&name) => return Class::Training,
        Some("safetensors") if top.is_none() && name.starts_with("consolidated") => {
            Class::Consolidated
        }
        Some("safetensors") => Class::Safetensors,
        Some("bin") => Class::Bin,
        Some("pt") => Class::Pt,
        Some("gguf") => Class::Gguf,
        Some(other) if OTHER_WEIGHTS.contains(&other) => Class::OtherWeights,
        // onnx keeps big tensors in `model.onnx_data_1`, `model.onnx.data`.
        Some(_) if name.contains(".onnx") => Class::OtherWeights,
        _ => Class::Plain,
    };
    let checkpoint = |top: &str| {
        let number = top
            .strip_prefix("checkpoint-")
            .or(top.strip_prefix("global_step"));
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match top {
        // The publisher's own layout of the same weights; vLLM ignores `original/**/*` whole.
        Some("original") => Class::OtherWeights,
        Some("metal" | "onnx" | "openvino" | "coreml") if weights != Class::Plain => {
            Class::OtherWeights
        }
        Some(top) if checkpoint(top) => Class::Training,
        _ => weights,
    }
}

/// Whether all are shards of one model, `name-00001-of-00003.gguf`; a projector goes with it.
fn one_gguf<'a>(files: impl Iterator<Item = &'a RepoPath>) -> Result<(), SelectionError> {
    let model = |path: &'a RepoPath| {
        let stem = path.as_str().strip_suffix(".gguf").unwrap_or(path.as_str());
        match stem.rsplit_once("-of-") {
            Some((front, _)) => front.rsplit_once('-').map_or(front, |(name, _)| name),
            None => stem,
        }
    };
    let models: BTreeSet<&str> = files
        .filter(|path| !path.file_name().starts_with("mmproj"))
        .map(model)
        .collect();
    match models.iter().next() {
        Some(example) if models.len() > 1 => {
            let hint = example.rsplit(['/', '-', '.']).next().unwrap_or(example);
            Err(SelectionError::ManyGguf {
                models: models.len(),
                example: format!("{example}.gguf"),
                hint: hint.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Python's `fnmatch` as huggingface_hub uses it: `*` and `?` match `/` too, `[abc]`, `[a-z]` and
/// `[!abc]` are sets, case counts, and a pattern ending in `/` means everything below.
fn pattern_matches(pattern: &str, text: &str) -> bool {
    let mut pattern: Vec<char> = pattern.chars().collect();
    if pattern.last() == Some(&'/') {
        pattern.push('*');
    }
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands and how much of the text it has eaten: the only place to return to.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            None if t == text.len() => return true,
            None => None,
            Some(_) if t == text.len() => return false,
            Some(_) => one_char(&pattern[p..], text[t]),
        };
        match (step, star) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((back, eaten))) if eaten < text.len() => {
                star = Some((back, eaten + 1));
                (p, t) = (back, eaten + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How many characters of the pattern matched `c`; none if it did not match.
fn one_char(pattern: &[char], c: char) -> Option<usize> {
    let literal = (pattern[0] == c).then_some(1);
    match pattern[0] {
        '?' => Some(1),
        '[' => {
            let negated = pattern.get(1) == Some(&'!');
            let start = if negated { 2 } else { 1 };
            // A `]` right at the start belongs to the set.
            let close = (start + 1..pattern.len()).find(|&at| pattern[at] == ']');
            let Some(close) = close else { return literal };
            let inside = in_set(&pattern[start..close], c);
            (inside != negated).then_some(close + 1)
        }
        _ => literal,
    }
}

fn in_set(mut set: &[char], c: char) -> bool {
    loop {
        match set {
            [] => return false,
            [low, '-', high, rest @ ..] => {
                if (*low..=*high).contains(&c) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == c {
                    return true;
                }
                set = rest;
            }
        }
    }
}

#[cfg(test)]
mod tests;
