//! Metadata: who asks, what a repository is, what is in it.

use std::collections::{BTreeMap, BTreeSet};

use http::header::LINK;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::repo::{Commit, Repo, RepoFile, git_object};
use super::{About, Access, Ask, Caller, Reply, State, error, not_found};

/// What each token says of itself.
pub(super) fn whoami(caller: &Caller) -> Reply {
    let Caller::User { name, .. } = caller else {
        return error(
            StatusCode::UNAUTHORIZED,
            None,
            "Invalid credentials in Authorization header",
        );
    };
    Reply::json(&json!({
        "type": "user", "id": git_object("user", name.as_bytes()).to_string(), "name": name,
        "fullname": name, "isPro": false, "orgs": [],
        "auth": { "type": "access_token",
                  "accessToken": { "displayName": "local", "role": "read" } },
    }))
}

impl State {
    /// Below `/api/models/`.
    pub(super) fn api(&self, ask: &Ask, caller: &Caller, segments: &[&str]) -> Reply {
        let (id, rest) = split_id(segments);
        let is_read = ask.method == Method::GET || ask.method == Method::HEAD;
        match *rest {
            [] if is_read => self.info(ask, caller, &id, "main"),
            ["revision", ref revision @ ..] if is_read && !revision.is_empty() => {
                self.info(ask, caller, &id, &revision.join("/"))
            }
            ["tree", ref rest @ ..] if is_read => {
                let (revision, path) = split_revision(rest);
                self.tree(ask, caller, &id, &revision, &path)
            }
            ["paths-info", ref revision @ ..] if ask.method == Method::POST => {
                self.paths_info(ask, caller, &id, &revision.join("/"))
            }
            ["refs"] if is_read => self.with_repo(caller, &id, About::Repo, refs),
            ["commits", ref revision @ ..] if is_read => self.with_commit(
                caller,
                &id,
                &revision.join("/"),
                About::Repo,
                |repo, id, _| commits(repo, id),
            ),
            ["auth-check"] if is_read => {
                self.with_repo(caller, &id, About::Files, |_| Reply::json(&json!({})))
            }
            ["xet-read-token", ref revision @ ..] if is_read => {
                self.xet_token(caller, &id, &revision.join("/"))
            }
            _ => not_found("EntryNotFound", "Not Found"),
        }
    }

    fn info(&self, ask: &Ask, caller: &Caller, id: &str, revision: &str) -> Reply {
        self.with_commit(
            caller,
            id,
            revision,
            About::Repo,
            |repo, commit_id, commit| {
                let with_blobs = ask.parameter("blobs").is_some_and(|value| is_true(&value));
                let mut whole = describe(id, repo, commit_id, commit, with_blobs);
                let wanted = expanded(ask);
                if !wanted.is_empty() {
                    whole.retain(|key, _| key == "_id" || key == "id" || wanted.contains(key));
                }
                Reply::json(&whole.into())
            },
        )
    }

    fn tree(&self, ask: &Ask, caller: &Caller, id: &str, revision: &str, path: &str) -> Reply {
        self.with_commit(
            caller,
            id,
            revision,
            About::Files,
            |_, commit_id, commit| {
                let is_recursive = ask
                    .parameter("recursive")
                    .is_some_and(|value| is_true(&value));
                let entries = list(commit, path, is_recursive);
                if entries.is_empty() && !path.is_empty() {
                    let message = format!("{path} does not exist on \"{revision}\"");
                    return not_found("EntryNotFound", &message);
                }
                let detail = ask.parameter("expand").is_some_and(|value| is_true(&value));
                let cursor = ask
                    .parameter("cursor")
                    .and_then(|cursor| cursor.parse().ok());
                let start: usize = cursor.unwrap_or(0);
                let limit = ask.parameter("limit").and_then(|limit| limit.parse().ok());
                let limit = limit.unwrap_or(self.page).clamp(1, self.page);
                let page: Vec<Value> = entries
                    .iter()
                    .skip(start)
                    .take(limit)
                    .map(|entry| self.entry(entry, detail.then_some((commit_id, commit))))
                    .collect();
                let reply = Reply::json(&page.into());
                if start + limit >= entries.len() {
                    return reply;
                }
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.extend_pairs([
                    ("recursive", is_recursive.to_string()),
                    ("expand", detail.to_string()),
                    ("limit", limit.to_string()),
                    ("cursor", (start + limit).to_string()),
                ]);
                let next = format!("{}{}?{}", self.hub_origin, ask.path, query.finish());
                reply.header(LINK, &format!("<{next}>; rel=\"next\""))
            },
        )
    }

    fn paths_info(&self, ask: &Ask, caller: &Caller, id: &str, revision: &str) -> Reply {
        let (paths, detail) = asked_paths(ask);
        self.with_commit(
            caller,
            id,
            revision,
            About::Files,
            |_, commit_id, commit| {
                let all = list(commit, "", true);
                let found = all.iter().filter(|entry| paths.contains(entry.path()));
                let found =
                    found.map(|entry| self.entry(entry, detail.then_some((commit_id, commit))));
                Reply::json(&found.collect())
            },
        )
    }

    /// One entry of a listing, with the last commit if asked for.
    fn entry(&self, entry: &Listed<'_>, detail: Option<(&str, &Commit)>) -> Value {
        let mut value = match entry {
            Listed::File(file) => {
                let mut value = json!({
                    "type": "file", "oid": file.blob_id, "size": file.content.len(),
                    "path": file.path,
                });
                if let Some(large) = file.large {
                    value["lfs"] = json!({
                        "oid": large.sha256, "size": file.content.len(),
                        "pointerSize": large.pointer_size,
                    });
                    if self.xet.is_some() {
                        value["xetHash"] = json!(file.xet_hash());
                    }
                }
                value
            }
            Listed::Directory { path, oid } => {
                json!({ "type": "directory", "oid": oid, "size": 0, "path": path })
            }
        };
        if let Some((id, commit)) = detail {
            value["lastCommit"] = json!({ "id": id, "title": commit.title, "date": commit.date });
        }
        value
    }

    fn xet_token(&self, caller: &Caller, id: &str, revision: &str) -> Reply {
        let Some(storage) = &self.xet else {
            return not_found("EntryNotFound", "Not Found");
        };
        self.with_commit(caller, id, revision, About::Files, |_, commit_id, _| {
            let token = format!("xet_{}", git_object("token", commit_id.as_bytes()));
            let expires = super::cdn::unix_now() + 3600;
            let name = http::HeaderName::from_static;
            Reply::json(&json!({ "casUrl": storage, "exp": expires, "accessToken": token }))
                .header(name("x-xet-cas-url"), storage)
                .header(name("x-xet-access-token"), &token)
                .header(name("x-xet-token-expiration"), &expires.to_string())
        })
    }
}

/// `org/name` or `name`, and what follows.
pub(super) fn split_id<'a>(segments: &'a [&'a str]) -> (String, &'a [&'a str]) {
    const AFTER_ID: [&str; 8] = [
        "revision",
        "tree",
        "paths-info",
        "refs",
        "commits",
        "auth-check",
        "xet-read-token",
        "resolve",
    ];
    match segments {
        [] => (String::new(), &[]),
        [name] => ((*name).to_owned(), &[]),
        [name, rest @ ..] if AFTER_ID.contains(&rest[0]) => ((*name).to_owned(), rest),
        [namespace, name, rest @ ..] => (format!("{namespace}/{name}"), rest),
    }
}

/// A revision and what follows. `refs/pr/1` may come as one segment or as three.
pub(super) fn split_revision(segments: &[&str]) -> (String, String) {
    let taken = if segments.first() == Some(&"refs") {
        3
    } else {
        1
    };
    let (revision, path) = segments.split_at(taken.min(segments.len()));
    (revision.join("/"), path.join("/"))
}

enum Listed<'a> {
    File(&'a RepoFile),
    Directory { path: String, oid: String },
}

impl Listed<'_> {
    fn path(&self) -> &str {
        match self {
            Self::File(file) => &file.path,
            Self::Directory { path, .. } => path,
        }
    }
}

/// What lies in a directory, directories first as they come, sorted by path.
fn list<'a>(commit: &'a Commit, directory: &str, is_recursive: bool) -> Vec<Listed<'a>> {
    let prefix = match directory {
        "" => String::new(),
        directory => format!("{directory}/"),
    };
    let mut files = Vec::new();
    let mut below: BTreeMap<String, String> = BTreeMap::new();
    for file in commit.files.values() {
        let Some(name) = file.path.strip_prefix(&prefix) else {
            continue;
        };
        let slashes: Vec<usize> = name.match_indices('/').map(|(at, _)| at).collect();
        let shown = if is_recursive {
            slashes.len()
        } else {
            slashes.len().min(1)
        };
        for at in &slashes[..shown] {
            let path = file.path[..prefix.len() + at].to_owned();
            let tree = below.entry(path).or_default();
            *tree += &format!("{} {}\n", file.blob_id, file.path);
        }
        if is_recursive || slashes.is_empty() {
            files.push(Listed::File(file));
        }
    }
    let directories = below.into_iter().map(|(path, tree)| Listed::Directory {
        path,
        oid: git_object("tree", tree.as_bytes()).to_string(),
    });
    let mut entries: Vec<Listed<'a>> = directories.chain(files).collect();
    entries.sort_by(|a, b| a.path().cmp(b.path()));
    entries
}

fn describe(
    id: &str,
    repo: &Repo,
    commit_id: &str,
    commit: &Commit,
    with_blobs: bool,
) -> Map<String, Value> {
    let siblings = commit.files.values().map(|file| {
        let mut sibling = json!({ "rfilename": file.path });
        if with_blobs {
            sibling["size"] = json!(file.content.len());
            sibling["blobId"] = json!(file.blob_id);
            if let Some(large) = file.large {
                sibling["lfs"] = json!({
                    "sha256": large.sha256, "size": file.content.len(),
                    "pointerSize": large.pointer_size,
                });
            }
        }
        sibling
    });
    let siblings: Vec<Value> = siblings.collect();
    let used: u64 = commit.files.values().map(|file| file.content.len()).sum();
    let gated = match repo.access {
        Access::Gated => json!("auto"),
        _ => json!(false),
    };
    let created = repo
        .commits
        .values()
        .map(|commit| commit.date.as_str())
        .min();
    let whole = json!({
        "_id": git_object("repo", id.as_bytes()).to_string()[..24],
        "id": id, "modelId": id, "author": id.split_once('/').map(|(author, _)| author),
        "sha": commit_id, "lastModified": commit.date, "createdAt": created,
        "private": repo.access == Access::Private, "gated": gated,
        "disabled": repo.access == Access::Disabled,
        "downloads": 0, "likes": 0, "usedStorage": used,
        "library_name": "transformers", "pipeline_tag": "text-generation",
        "tags": ["transformers", "safetensors", "text-generation"],
        "spaces": [], "siblings": siblings,
    });
    match whole {
        Value::Object(whole) => whole,
        _ => Map::new(),
    }
}

fn refs(repo: &Repo) -> Reply {
    let list = |names: Vec<(&String, &String)>, kind: &str| -> Vec<Value> {
        let describe = |(name, id): (&String, &String)| {
            let full = if name.starts_with("refs/") {
                name.clone()
            } else {
                format!("{kind}{name}")
            };
            json!({ "name": name, "ref": full, "targetCommit": id })
        };
        names.into_iter().map(describe).collect()
    };
    let (requests, branches): (Vec<_>, Vec<_>) = repo
        .branches
        .iter()
        .partition(|(name, _)| name.starts_with("refs/pr/"));
    Reply::json(&json!({
        "branches": list(branches, "refs/heads/"),
        "tags": list(repo.tags.iter().collect(), "refs/tags/"),
        "pullRequests": list(requests, ""),
        "converts": [],
    }))
}

fn commits(repo: &Repo, head: &str) -> Reply {
    let mut history = Vec::new();
    let mut next = Some(head);
    while let Some(id) = next {
        let Some(commit) = repo.commits.get(id) else {
            break;
        };
        history.push(json!({
            "id": id, "title": commit.title, "message": "", "date": commit.date,
            "authors": [{ "user": "local" }],
        }));
        next = commit.parent.as_deref();
    }
    Reply::json(&history.into())
}

/// The fields named by `expand`, in any of the forms that clients use.
fn expanded(ask: &Ask) -> BTreeSet<String> {
    let pairs = url::form_urlencoded::parse(ask.query.as_bytes());
    let named = pairs.filter(|(key, _)| key == "expand" || key == "expand[]");
    named
        .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The paths of a paths-info request, sent as a form or as JSON, and whether details are wanted.
fn asked_paths(ask: &Ask) -> (BTreeSet<String>, bool) {
    if let Ok(Value::Object(body)) = serde_json::from_slice(&ask.body) {
        let paths = body
            .get("paths")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let paths = paths
            .iter()
            .filter_map(|path| path.as_str().map(str::to_owned))
            .collect();
        return (
            paths,
            body.get("expand").and_then(Value::as_bool).unwrap_or(false),
        );
    }
    let (mut paths, mut detail) = (BTreeSet::new(), false);
    for (key, value) in url::form_urlencoded::parse(&ask.body) {
        match &*key {
            "paths" | "paths[]" => {
                paths.insert(value.into_owned());
            }
            "expand" => detail = is_true(&value),
            _ => {}
        }
    }
    (paths, detail)
}

fn is_true(value: &str) -> bool {
    matches!(value, "" | "1" | "true" | "True")
}
