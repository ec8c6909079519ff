//! Objects from files, as `kubectl get -o yaml` writes them: to look at a cluster that is not there.

use std::path::PathBuf;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Objects;
use super::clerk::Source;

/// Files that are read anew whenever somebody looks.
#[derive(Debug, Clone)]
pub(crate) struct Files(pub(crate) Vec<PathBuf>);

impl Source for Files {
    fn objects(&self) -> Option<Objects> {
        match self.read() {
            Ok(objects) => Some(objects),
            Err(problems) => {
                tracing::warn!(problems = problems.join("; "), "files cannot be read");
                None
            }
        }
    }
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// One line per problem.
    pub(crate) fn read(&self) -> Result<Objects, Vec<String>> {
        let mut problems = Vec::new();
        let mut sources = Vec::new();
        for path in &self.0 {
            match std::fs::read(path) {
                Ok(bytes) => sources.push((path.display().to_string(), bytes)),
                Err(error) => problems.push(format!("{}: cannot be read: {error}", path.display())),
            }
        }
        let trees = crate::manifest::trees(&sources).unwrap_or_else(|found| {
            problems.extend(found);
            Vec::new()
        });
        let mut objects = Objects::default();
        for (place, tree) in trees {
            let text = |key: &str| tree.get(key).and_then(Value::as_str).unwrap_or_default();
            let read = match (text("apiVersion"), text("kind")) {
                ("v1", "Pod") => put(&mut objects.pods, tree),
                ("v1", "Node") => put(&mut objects.nodes, tree),
                ("headstart.dev/v1alpha1", "NodeClaim") => put(&mut objects.claims, tree),
                ("headstart.dev/v1alpha1", "NodeCache") => put(&mut objects.caches, tree),
                _ => Ok(()),
            };
            if let Err(error) = read {
                problems.push(format!("{place}: {error}"));
            }
        }
        match problems.is_empty() {
            true => Ok(objects),
            false => Err(problems),
        }
    }
}

fn put<T: DeserializeOwned>(
    row: &mut Vec<Arc<T>>,
    tree: Map<String, Value>,
) -> Result<(), serde_path_to_error::Error<serde_json::Error>> {
    row.push(Arc::new(serde_path_to_error::deserialize(Value::Object(
        tree,
    ))?));
    Ok(())
}
