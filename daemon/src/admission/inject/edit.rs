//! Changes to a pod, written down as a JSON patch while they are made.
//!
//! Only adds: nothing of the pod is replaced, removed or moved.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation};
use serde_json::{Value, json};

/// A pod in the middle of being changed.
pub(super) struct Edit<'a> {
    pod: &'a mut Value,
    operations: Vec<PatchOperation>,
}

impl<'a> Edit<'a> {
    pub(super) fn of(pod: &'a mut Value) -> Self {
        Self {
            pod,
            operations: Vec::new(),
        }
    }

    /// Puts `value` at the end of the list at `path`, which is made where it is missing.
    pub(super) fn append(&mut self, path: &[&str], value: Value) {
        self.ensure(path, &json!([]));
        let Some(list) = at(self.pod, path).and_then(Value::as_array_mut) else {
            return;
        };
        list.push(value.clone());
        self.record(path, Some("-"), value);
    }

    /// Gives the object at `path`, which is made where it is missing, a key that it lacks.
    pub(super) fn insert(&mut self, path: &[&str], key: &str, value: Value) {
        self.ensure(path, &json!({}));
        let Some(object) = at(self.pod, path).and_then(Value::as_object_mut) else {
            return;
        };
        if !object.contains_key(key) {
            object.insert(key.to_owned(), value.clone());
            self.record(path, Some(key), value);
        }
    }

    pub(super) fn into_patch(self) -> Patch {
        Patch(self.operations)
    }

    /// Makes what is missing on the way to `path`; the last of it as `empty`.
    fn ensure(&mut self, path: &[&str], empty: &Value) {
        for length in 1..=path.len() {
            let (parent, key) = (&path[..length - 1], path[length - 1]);
            let value = if length == path.len() {
                empty.clone()
            } else {
                json!({})
            };
            let Some(Value::Object(object)) = at(self.pod, parent) else {
                continue;
            };
            if object.get(key).is_none_or(Value::is_null) {
                object.insert(key.to_owned(), value.clone());
                self.record(parent, Some(key), value);
            }
        }
    }

    fn record(&mut self, path: &[&str], last: Option<&str>, value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied().chain(last));
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }
}

fn at<'v>(value: &'v mut Value, path: &[&str]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, key| match value {
        Value::Object(object) => object.get_mut(*key),
        Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })
}
