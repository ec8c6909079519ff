//! The Rust hf-hub crate, told what to do line by line.
//!
//! Reads one JSON request per line from standard input and answers with one JSON line: the same
//! protocol as `driver.py` beside it speaks for the Python clients.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use hf_hub::{HFClient, HFResult};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Request {
    Snapshot {
        #[serde(flatten)]
        model: Model,
        allow: Option<Vec<String>>,
    },
    Files {
        #[serde(flatten)]
        model: Model,
        names: Vec<String>,
    },
}

#[derive(Deserialize)]
struct Model {
    endpoint: String,
    cache: PathBuf,
    repo: String,
    revision: String,
    offline: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Ok(BTreeMap<String, File>),
    Error(Failure),
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum File {
    Sha256(String),
    Error(Failure),
}

#[derive(Serialize)]
struct Failure {
    kind: String,
    message: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let answer = match serde_json::from_str(&line?)? {
            Request::Snapshot { model, allow } => snapshot(&model, allow).await,
            Request::Files { model, names } => files(&model, &names).await,
        };
        let answer = answer.unwrap_or_else(|error| Answer::Error(failure(&error)));
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

async fn snapshot(model: &Model, allow: Option<Vec<String>>) -> HFResult<Answer> {
    let (owner, name) = hf_hub::split_id(&model.repo);
    let root = client(model)?
        .model(owner, name)
        .snapshot_download()
        .revision(model.revision.clone())
        .maybe_allow_patterns(allow)
        .local_files_only(model.offline)
        .send()
        .await?;
    let mut found = BTreeMap::new();
    walk(&root, &root, &mut found);
    Ok(Answer::Ok(found))
}

async fn files(model: &Model, names: &[String]) -> HFResult<Answer> {
    let (owner, name) = hf_hub::split_id(&model.repo);
    let repo = client(model)?.model(owner, name);
    let mut found = BTreeMap::new();
    for name in names {
        let path = repo
            .download_file()
            .filename(name.clone())
            .revision(model.revision.clone())
            .local_files_only(model.offline)
            .send()
            .await;
        let file = match path {
            Ok(path) => read(&path),
            Err(error) => File::Error(failure(&error)),
        };
        found.insert(name.clone(), file);
    }
    Ok(Answer::Ok(found))
}

fn client(model: &Model) -> HFResult<HFClient> {
    HFClient::builder()
        .endpoint(model.endpoint.clone())
        .cache_dir(model.cache.clone())
        .build()
}

/// Every file below `dir`, by its path from `root`.
fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, File>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &path, found);
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path);
        found.insert(name.display().to_string(), read(&path));
    }
}

fn read(path: &Path) -> File {
    match std::fs::read(path) {
        Ok(bytes) => File::Sha256(hex(&Sha256::digest(bytes))),
        Err(error) => File::Error(Failure {
            kind: "io".to_owned(),
            message: error.to_string(),
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn failure(error: &hf_hub::HFError) -> Failure {
    let debug = format!("{error:?}");
    let kind = debug.split([' ', '(', '{']).next().unwrap_or_default();
    Failure {
        kind: kind.to_owned(),
        message: error.to_string(),
    }
}
