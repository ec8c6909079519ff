//! What is wrong with manifests, and what a person should know about how they were read.
//!
//! Reading never stops at the first fault: everything is gathered here, and put in an order that does
//! not depend on the order of reading.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Most problems and most notes kept; a file that is wrong a thousand times is wrong as a whole.
const MOST: usize = 1000;

/// Longest text quoted from a manifest.
const MOST_QUOTED: usize = 120;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The file, as it was named.
    pub(crate) file: Arc<str>,
    /// Which document of it, from 1.
    pub(crate) document: usize,
    /// The object's kind and name, such as `Deployment default/web`; empty where it is not known.
    pub(crate) object: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file, self.document)?;
        if !self.object.is_empty() {
            write!(f, ", {}", self.object)?;
        }
        Ok(())
    }
}

/// One thing that must be put right before anything is planned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{place}: {}{text}", Prefix(field))]
pub(crate) struct Problem {
    /// Where.
    pub(crate) place: Place,
    /// The field, such as `spec.template.spec.tolerations[0]`; empty for the document itself.
    pub(crate) field: String,
    /// What was found, what is wrong with it, and what to write instead.
    pub(crate) text: String,
}

/// One thing that was left out or assumed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Note {
    /// Where.
    pub(crate) place: Place,
    /// The field, if it is about one.
    pub(crate) field: String,
    /// What.
    pub(crate) text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.place, Prefix(&self.field), self.text)
    }
}

struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => Ok(()),
            field => write!(f, "{field}: "),
        }
    }
}

/// A text in quotes, cut where it is too long to be read.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// All that was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings(RefCell<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    problems: Vec<Problem>,
    notes: Vec<Note>,
    skipped: BTreeMap<String, (usize, Option<Place>)>,
}

impl Findings {
    /// Talks about the object at `place`.
    pub(crate) fn about<'a>(&'a self, place: &'a Place) -> Subject<'a> {
        Subject {
            findings: self,
            place,
            path: String::new(),
        }
    }

    /// Counts one object of a kind that is not read.
    pub(crate) fn skip(&self, kind: &str, place: &Place) {
        let mut gathered = self.0.borrow_mut();
        let (count, first) = gathered.skipped.entry(kind.to_owned()).or_default();
        *count += 1;
        if first.as_ref().is_none_or(|first| place < first) {
            *first = Some(place.clone());
        }
    }

    /// Whether nothing is wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.0.borrow().problems.is_empty()
    }

    /// Problems and notes, by place.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Note>) {
        let Gathered {
            mut problems,
            mut notes,
            skipped,
        } = self.0.into_inner();
        for (kind, (count, place)) in skipped {
            let text = match count {
                1 => format!("{kind} is not read: it does not decide where pods run"),
                _ => format!("{kind} ({count} objects, this is one) is not read"),
            };
            notes.extend(place.map(|place| Note {
                place,
                field: String::new(),
                text,
            }));
        }
        problems.sort();
        problems.dedup();
        notes.sort();
        notes.dedup();
        (problems, notes)
    }
}

/// One object, or a field of it, that something is said about.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    findings: &'a Findings,
    place: &'a Place,
    path: String,
}

impl<'a> Subject<'a> {
    /// The field `name` below this one.
    pub(crate) fn at(&self, name: impl fmt::Display) -> Self {
        let path = match self.path.as_str() {
            "" => name.to_string(),
            path => format!("{path}.{name}"),
        };
        Self { path, ..*self }
    }

    /// The element `index` of the list that this is.
    pub(crate) fn nth(&self, index: usize) -> Self {
        let path = format!("{}[{index}]", self.path);
        Self { path, ..*self }
    }

    /// Where this object stands.
    pub(crate) fn place(&self) -> &'a Place {
        self.place
    }

    /// Something is wrong here.
    pub(crate) fn problem(&self, text: impl fmt::Display) {
        let mut gathered = self.findings.0.borrow_mut();
        if gathered.problems.len() < MOST {
            gathered.problems.push(Problem {
                place: self.place.clone(),
                field: self.path.clone(),
                text: text.to_string(),
            });
        }
    }

    /// Something here was left out or assumed.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        let mut gathered = self.findings.0.borrow_mut();
        if gathered.notes.len() < MOST {
            gathered.notes.push(Note {
                place: self.place.clone(),
                field: self.path.clone(),
                text: text.to_string(),
            });
        }
    }

    /// The value, or `None` and its error as a problem.
    pub(crate) fn ok<T, E: fmt::Display>(&self, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.problem(error)).ok()
    }
}

/// The one of `known` that somebody who wrote `found` most likely meant.
pub(crate) fn likely<'k>(found: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    if found.len() > 64 {
        return None;
    }
    let near = |name: &&str| distance(&found.to_lowercase(), &name.to_lowercase());
    let best = known.into_iter().min_by_key(near)?;
    (near(&best) <= 1 + found.len() / 4).then_some(best)
}

/// How many letters must be changed, added or taken away.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
