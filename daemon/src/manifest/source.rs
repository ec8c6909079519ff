//! From bytes to documents: YAML or JSON, several documents in one file, lists unfolded.
//!
//! Invariants: no input makes this panic, recurse without bound or use memory out of proportion to its
//! size; a key that is given twice is an error; one broken document does not hide the others. A
//! document is split off as `kubectl` does, at a line that starts with `---`.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::finding::{Findings, Place, Subject, quoted};

/// Largest file read, in bytes.
const MAX_BYTES: usize = 128 << 20;

/// Deepest nesting; the Kubernetes API needs about twenty levels.
const MAX_DEPTH: usize = 64;

/// Most nodes that aliases may add to one document.
const MAX_ALIASED: usize = 200_000;

/// Most bytes of text that aliases may add to one document.
const MAX_ALIASED_BYTES: usize = 16 << 20;

/// One object of a file, still untyped.
pub(crate) struct Document {
    pub(crate) place: Place,
    pub(crate) tree: Map<String, Value>,
}

/// All objects of a file.
pub(crate) fn documents(name: &str, bytes: &[u8], findings: &Findings) -> Vec<Document> {
    let file: Arc<str> = name.into();
    let place = |document| Place {
        file: file.clone(),
        document,
        object: String::new(),
    };
    let whole = place(1);
    let whole = findings.about(&whole);
    if bytes.len() > MAX_BYTES {
        let most = MAX_BYTES >> 20;
        whole.problem(format!("is larger than {most} MiB; split it"));
        return Vec::new();
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let at = error.valid_up_to();
            whole.problem(format!(
                "is not UTF-8 text (byte {at}); save it as UTF-8 YAML or JSON"
            ));
            return Vec::new();
        }
    };
    let mut objects = Vec::new();
    if let Some(trees) = json(text) {
        for (index, tree) in trees.into_iter().enumerate() {
            unfold(&place(index + 1), tree, findings, &mut objects);
        }
        return objects;
    }
    let mut number = 0;
    for (first_line, part) in split(text) {
        if part.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with(['#', '%']) || line == "..."
        }) {
            continue;
        }
        number += 1;
        let place = place(number);
        match yaml(part) {
            Ok(tree) => unfold(&place, tree, findings, &mut objects),
            Err(error) => findings.about(&place).problem(error.below(first_line)),
        }
    }
    objects
}

/// YAML that is no mapping of unique keys.
pub(crate) struct InvalidYaml {
    line: Option<u64>,
    text: String,
}

impl InvalidYaml {
    fn below(mut self, lines: usize) -> Self {
        self.line = self
            .line
            .map(|line| line + u64::try_from(lines).unwrap_or(0));
        self
    }
}

impl fmt::Display for InvalidYaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not YAML that can be read")?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Reads one YAML document.
pub(crate) fn yaml(text: &str) -> Result<Value, InvalidYaml> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 16_000_000,
            max_nodes: 8_000_000,
            max_total_scalar_bytes: MAX_BYTES,
            max_recorded_anchor_events: MAX_ALIASED,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
            max_replay_stack_depth: 16,
        },
        non_finite_float_policy: serde_saphyr::options::NonFiniteFloatPolicy::AsString,
        legacy_octal_numbers: true,
    };
    let room = Cell::new(text.len() + MAX_ALIASED_BYTES);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Tree { room: &room }.deserialize(reader)
    })
    .map_err(|error| {
        let line = error.location().map(|location| location.line());
        let text = error.without_snippet().to_string();
        let text = text.lines().next().unwrap_or_default();
        let text = text.split(" at line ").next().unwrap_or_default();
        let twice = text.strip_prefix("duplicate mapping key: ");
        let twice = twice.and_then(|rest| rest.split_once(", set "));
        let text = match twice {
            Some((key, _)) => format!("the key {} is given twice", quoted(key)),
            None => text.chars().take(300).collect(),
        };
        InvalidYaml {
            line: line.filter(|line| *line > 0),
            text,
        }
    })
}

/// The objects of a JSON file; `None` where it is not JSON throughout, so that it may be YAML.
fn json(text: &str) -> Option<Vec<Value>> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let mut reader = serde_json::Deserializer::from_str(text).into_iter::<Checked>();
    let mut trees = Vec::new();
    for tree in reader.by_ref() {
        trees.push(tree.ok()?.0);
    }
    Some(trees)
}

/// The documents of a YAML file, each with the number of lines before it.
fn split(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut start, mut first_line, mut offset) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marks = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marks {
            parts.push((first_line, &text[start..offset]));
            // What follows the mark on its line belongs to the document.
            (start, first_line) = (offset + 3, number);
        }
        offset += line.len();
    }
    parts.push((first_line, &text[start..]));
    parts
}

/// Puts the object, or the items of a list, at the end of `objects`.
fn unfold(place: &Place, tree: Value, findings: &Findings, objects: &mut Vec<Document>) {
    let subject = findings.about(place);
    let tree = match tree {
        Value::Object(tree) => tree,
        Value::Null => return,
        // A JSON array of objects, as some tools print it.
        Value::Array(items) => return unfold_items(place, items, &subject, findings, objects),
        other => {
            let kind = kind_of(&other);
            return subject.problem(format!(
                "is {kind}; write an object with apiVersion, kind and metadata"
            ));
        }
    };
    let is_list = tree
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    if !(is_list && tree.contains_key("items")) {
        let place = place.clone();
        return objects.push(Document { place, tree });
    }
    // The items of a typed list may leave out what the list says.
    let text = |key: &str| tree.get(key).and_then(Value::as_str).map(str::to_owned);
    let version = text("apiVersion")
        .filter(|version| version != "v1" || text("kind").as_deref() != Some("List"));
    let kind = text("kind").and_then(|kind| kind.strip_suffix("List").map(str::to_owned));
    let mut tree = tree;
    let items = match tree.remove("items") {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None => Vec::new(),
        Some(other) => {
            let found = kind_of(&other);
            return subject
                .at("items")
                .problem(format!("is {found}; write a list of objects"));
        }
    };
    let items = items
        .into_iter()
        .map(|mut item| {
            if let Value::Object(item) = &mut item {
                let defaults = [("apiVersion", &version), ("kind", &kind)];
                for (key, value) in defaults {
                    if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                        item.entry(key).or_insert_with(|| value.as_str().into());
                    }
                }
            }
            item
        })
        .collect();
    unfold_items(place, items, &subject.at("items"), findings, objects);
}

fn unfold_items(
    place: &Place,
    items: Vec<Value>,
    subject: &Subject<'_>,
    findings: &Findings,
    objects: &mut Vec<Document>,
) {
    for (index, item) in items.into_iter().enumerate() {
        match item {
            Value::Object(_) => unfold(place, item, findings, objects),
            other => {
                let found = kind_of(&other);
                subject
                    .nth(index)
                    .problem(format!("is {found}; write an object"));
            }
        }
    }
}

/// What a value is, for a person.
pub(crate) fn kind_of(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the text {}", quoted(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Reads any tree and refuses a key that is given twice.
#[derive(Clone, Copy)]
struct Tree<'a> {
    /// How many bytes of text may still come: aliases repeat what is in the file once.
    room: &'a Cell<usize>,
}

impl Tree<'_> {
    fn take<E: serde::de::Error>(self, bytes: usize) -> Result<(), E> {
        let rest = self.room.get().checked_sub(bytes);
        let rest = rest.ok_or_else(|| E::custom("aliases repeat too much text"))?;
        self.room.set(rest);
        Ok(())
    }
}

struct Checked(Value);

impl<'de> serde::Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        let room = Cell::new(usize::MAX);
        Tree { room: &room }.deserialize(reader).map(Self)
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(match serde_json::Number::from_f64(value) {
            Some(number) => Value::Number(number),
            None => value.to_string().into(),
        })
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(value.into())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(value.into())
    }

    fn visit_bytes<E: serde::de::Error>(self, value: &[u8]) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(String::from_utf8_lossy(value).into_owned().into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(self)? {
            let key = match key {
                Value::String(key) => key,
                Value::Bool(_) | Value::Number(_) => key.to_string(),
                _ => return Err(A::Error::custom("a key is not a text")),
            };
            if map.contains_key(&key) {
                let key = quoted(&key);
                return Err(A::Error::custom(format!("the key {key} is given twice")));
            }
            map.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(map))
    }
}
