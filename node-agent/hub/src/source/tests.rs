//! Files fetched by the real engine from servers that behave as the Hub and its CDN do, and from
//! some that do not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use futures_util::{StreamExt as _, stream};
use headstart_core::model::ModelRef;
use headstart_transfer::engine::{Engine, Limits, Progress};
use headstart_transfer::source::Blob;
use headstart_transfer::{BootId, FetchError};

use super::*;
use crate::layout::{Published, State, Tree};
use crate::scripted::{Answer, Asked, COMMIT, Repo, Server, TOKEN, http, refusal, status, with};

const LARGE: usize = 3 << 20;

fn repo() -> Repo {
    Repo::default()
        .small("config.json", "{\"a\": 1}")
        .small("sub/notes.txt", "")
        .large("model-00001-of-00002.safetensors", LARGE)
        .large("model-00002-of-00002.safetensors", 1000)
}

/// The bytes of a request for `bytes`, its Range honoured.
fn serve(asked: &Asked, bytes: &[u8]) -> Answer {
    let range = asked.header("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    match range {
        None => Answer::new(Body::from(bytes.to_vec())),
        Some((first, last)) => partial(bytes, first, last),
    }
}

fn partial(bytes: &[u8], first: usize, last: usize) -> Answer {
    let part = Answer::new(Body::from(bytes[first..=last].to_vec()));
    let range = format!("bytes {first}-{last}/{}", bytes.len());
    let mut part = with(part, &[("content-range", &range)]);
    *part.status_mut() = StatusCode::PARTIAL_CONTENT;
    part
}

type Cdn = Arc<dyn Fn(&Asked, &[u8]) -> Answer + Send + Sync>;

/// A Hub and its CDN, which have one repository.
struct World {
    hub: Server,
    cdn: Server,
    signed: Arc<AtomicUsize>,
}

impl World {
    /// `extra` may answer in the Hub's place; `cdn` answers for a file's bytes.
    async fn new(
        extra: impl Fn(&Asked) -> Option<Answer> + Clone + Send + Sync + 'static,
        cdn: impl Fn(&Asked, &[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let repo = repo();
        let by_digest: BTreeMap<String, Vec<u8>> = repo
            .0
            .values()
            .map(|content| {
                (
                    crate::scripted::sha256(&content.bytes),
                    content.bytes.clone(),
                )
            })
            .collect();
        let answer: Cdn = Arc::new(cdn);
        let cdn = Server::start(move |asked| {
            let name = asked
                .target
                .trim_start_matches('/')
                .split('?')
                .next()
                .unwrap();
            match (asked.header("authorization"), by_digest.get(name)) {
                (None, Some(bytes)) => answer(asked, bytes),
                (Some(_), _) => status(400),
                (None, None) => status(404),
            }
        })
        .await;
        let (signed, address) = (Arc::new(AtomicUsize::new(0)), cdn.url.clone());
        let count = signed.clone();
        let hub = Server::start(move |asked| {
            let answer = extra(asked).or_else(|| repo.answer(asked));
            answer.unwrap_or_else(|| resolve(asked, &repo, &address, &count))
        })
        .await;
        Self { hub, cdn, signed }
    }

    fn hub(&self) -> Hub {
        self.hub.hub(Some(TOKEN))
    }

    async fn plan(&self) -> ModelPlan {
        let model: ModelRef = "org/name".parse().unwrap();
        self.hub().resolve(&http(), &model).await.unwrap().plan
    }
}

/// `/org/name/resolve/<commit>/<path>`, as the Hub answers it.
fn resolve(asked: &Asked, repo: &Repo, cdn: &Url, signed: &AtomicUsize) -> Answer {
    let path = asked
        .target
        .strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
    let Some(content) = path.and_then(|path| repo.0.get(path)) else {
        return refusal(404, "EntryNotFound");
    };
    let size = content.bytes.len().to_string();
    let linked = format!("\"{}\"", crate::scripted::sha256(&content.bytes));
    match content.large {
        false => with(serve(asked, &content.bytes), &[("x-repo-commit", COMMIT)]),
        true => {
            let number = signed.fetch_add(1, Ordering::Relaxed) + 1;
            let digest = linked.trim_matches('"');
            let to = format!("{cdn}{digest}?Signature={number}");
            let headers = [
                ("location", to.as_str()),
                ("x-repo-commit", COMMIT),
                ("x-linked-size", &size),
                ("x-linked-etag", &linked),
            ];
            with(status(302), &headers)
        }
    }
}

fn engine() -> Engine {
    let limits = Limits {
        connections: 2,
        patience: std::time::Duration::from_secs(20),
        // What is sent is counted, however slow this machine is.
        share_beyond: std::time::Duration::from_secs(60),
        ..Limits::default()
    };
    Engine::new(&http(), limits, BootId::named("test")).unwrap()
}

fn blob(hub: &Hub, plan: &ModelPlan, file: &PlannedFile) -> Blob {
    Blob {
        name: file.path.to_string(),
        size: file.size,
        expected: file.expected,
        priority: 0.into(),
        sources: vec![hub.source(plan, file)],
    }
}

fn object(store: &Path, expected: &Expected) -> PathBuf {
    store.join("objects").join(expected.to_string())
}

/// Fetches every file of a plan into a store, all at once.
async fn fetch(hub: &Hub, plan: &ModelPlan, store: &Path) -> Vec<(String, Result<(), FetchError>)> {
    std::fs::create_dir_all(store.join("objects")).unwrap();
    let engine = engine();
    let each = plan.files.iter().map(|file| {
        let (blob, engine) = (blob(hub, plan, file), engine.clone());
        let partial = store.join(format!("{}.partial", file.etag()));
        let to = object(store, &file.expected);
        async move {
            let landed = engine
                .file(&blob, &partial, Arc::new(Progress::default()))
                .await;
            let done = match landed {
                Ok(landed) => {
                    landed.publish(to).await.unwrap();
                    Ok(())
                }
                Err(error) => Err(error),
            };
            (blob.name, done)
        }
    });
    stream::iter(each.collect::<Vec<_>>())
        .buffered(8)
        .collect()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_goes_from_its_name_to_a_complete_tree_and_the_token_only_to_the_hub() {
    let world = World::new(|_| None, serve).await;
    let plan = world.plan().await;
    let store = tempfile::tempdir().unwrap();
    for (name, done) in fetch(&world.hub(), &plan, store.path()).await {
        assert!(done.is_ok(), "{name}: {done:?}");
    }
    let tree = Tree::at(store.path().join("tree"));
    let published = tree
        .publish(&plan, &|expected| object(store.path(), expected))
        .unwrap();
    assert_eq!(published, Published::Complete);
    assert_eq!(tree.inspect(&plan).unwrap().state(), State::Complete);
    let snapshot = tree
        .hub()
        .join(format!("models--org--name/snapshots/{COMMIT}"));
    for (path, content) in &repo().0 {
        assert_eq!(
            std::fs::read(snapshot.join(path)).unwrap(),
            content.bytes,
            "{path}"
        );
    }
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        world
            .hub
            .asked()
            .iter()
            .all(|asked| asked.header("authorization") == Some(&bearer))
    );
    assert!(!world.cdn.asked().is_empty());
    assert!(
        world
            .cdn
            .asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
    // An empty file needs no request.
    let asked: Vec<String> = world.hub.targets().split_off(2);
    let heads = asked
        .iter()
        .filter(|line| line.starts_with("HEAD "))
        .count();
    assert_eq!((heads, asked.len()), (2, 3), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_expires_in_mid_file_is_renewed_and_what_had_arrived_is_kept() {
    // Every address serves two requests, each with at most 300 kB.
    let uses: Arc<std::sync::Mutex<BTreeMap<String, usize>>> = Arc::default();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let cdn = move |asked: &Asked, bytes: &[u8]| {
        let mut uses = uses.lock().unwrap();
        let used = uses.entry(asked.target.clone()).or_default();
        *used += 1;
        if *used > 2 {
            return status(403);
        }
        let range = asked
            .header("range")
            .map(|range| range.trim_start_matches("bytes="));
        let (first, last) = range
            .and_then(|range| range.split_once('-'))
            .unwrap_or(("0", ""));
        let first: usize = first.parse().unwrap();
        let last = last.parse().unwrap_or(bytes.len() - 1).min(first + 300_000);
        counted.fetch_add(last + 1 - first, Ordering::Relaxed);
        partial(bytes, first, last)
    };
    let world = World::new(|_| None, cdn).await;
    let plan = world.plan().await;
    let store = tempfile::tempdir().unwrap();
    for (name, done) in fetch(&world.hub(), &plan, store.path()).await {
        assert!(done.is_ok(), "{name}: {done:?}");
    }
    let signed = world.signed.load(Ordering::Relaxed);
    assert!(signed >= 3, "renewed: {signed}");
    let (sent, needed) = (sent.load(Ordering::Relaxed), LARGE + 1000);
    assert!(sent < needed + needed / 2, "{sent} of {needed} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_byte_is_found_its_file_named_and_the_other_files_arrive() {
    let cdn = |asked: &Asked, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if bytes.len() == LARGE {
            bytes[LARGE / 2] ^= 1;
        }
        serve(asked, &bytes)
    };
    let world = World::new(|_| None, cdn).await;
    let plan = world.plan().await;
    let store = tempfile::tempdir().unwrap();
    for (name, done) in fetch(&world.hub(), &plan, store.path()).await {
        match name.as_str() {
            "model-00001-of-00002.safetensors" => {
                let error = done.unwrap_err();
                assert!(matches!(error, FetchError::Mismatch { .. }), "{error}");
                assert!(error.to_string().starts_with(&name), "{error}");
            }
            _ => assert!(done.is_ok(), "{name}: {done:?}"),
        }
    }
    let tree = Tree::at(store.path().join("tree"));
    let published = tree
        .publish(&plan, &|expected| object(store.path(), expected))
        .unwrap();
    let missing = vec!["model-00001-of-00002.safetensors".parse().unwrap()];
    assert_eq!(published, Published::Partial { missing });
}

/// What locating the file at `index` comes to when the Hub answers `answer` about files.
async fn located(
    index: usize,
    answer: impl Fn() -> Answer + Clone + Send + Sync + 'static,
) -> Result<Location, SourceError> {
    let answers = move |asked: &Asked| asked.target.contains("/resolve/").then(&answer);
    let world = World::new(answers, serve).await;
    let plan = world.plan().await;
    let source = world.hub().source(&plan, &plan.files[index]);
    source.locate(&http(), Some(StatusCode::FORBIDDEN)).await
}

const BIG: usize = 1;

#[tokio::test]
async fn what_the_hub_says_about_a_file_must_be_what_the_plan_says() {
    let plan = World::new(|_| None, serve).await.plan().await;
    assert_eq!(plan.files[BIG].size, LARGE as u64);
    let digest = plan.files[BIG].etag();
    let other = "76543210fedcba9876543210fedcba9876543210";
    for (name, value, word) in [
        ("x-repo-commit", other.to_owned(), "commit"),
        ("x-linked-size", "17".to_owned(), "size"),
        (
            "x-linked-etag",
            format!("W/\"{}\"", "ab".repeat(32)),
            "digest",
        ),
    ] {
        let answer = move || {
            let to = [("location", "https://cdn.test/x"), (name, value.as_str())];
            with(status(302), &to)
        };
        let error = located(BIG, answer).await.unwrap_err();
        let SourceError::Final(text) = &error else {
            panic!("{error}");
        };
        assert!(
            text.contains(&format!("serves {word}")) && text.contains("resolve the model again"),
            "{text}"
        );
    }
    let right = move || {
        let etag = format!("W/\"{digest}\"");
        let size = LARGE.to_string();
        with(
            status(302),
            &[
                ("location", "https://cdn.test/x?Signature=1"),
                ("x-repo-commit", COMMIT),
                ("x-linked-size", &size),
                ("x-linked-etag", &etag),
            ],
        )
    };
    let location = located(BIG, right).await.unwrap();
    assert_eq!(location.url.as_str(), "https://cdn.test/x?Signature=1");
    assert!(location.credential.is_none() && location.headers.is_empty());
}

#[tokio::test]
async fn a_refusal_is_final_in_words_and_trouble_is_not() {
    type Case = (fn() -> Answer, &'static str);
    let cases: [Case; 5] = [
        (
            || refusal(403, "GatedRepo"),
            "org/name: the model is gated: the token's account has no access; ask for access",
        ),
        (
            || refusal(404, "RepoNotFound"),
            "org/name: the Hub shows no such model",
        ),
        (
            || refusal(404, "EntryNotFound"),
            "org/name: the Hub has no such file at that commit",
        ),
        (
            || with(status(401), &[("x-error-message", "bad token")]),
            "org/name: the Hub refused the token (\"bad token\")",
        ),
        (|| status(410), "answered 410 Gone"),
    ];
    for (answer, word) in cases {
        for index in [0, BIG] {
            let error = located(index, answer).await.unwrap_err();
            let SourceError::Final(text) = &error else {
                panic!("{error}");
            };
            assert!(text.contains(word) && !text.contains(TOKEN), "{text}");
        }
    }
    let cases: [(fn() -> Answer, u64); 4] = [
        (|| status(503), 2),
        (|| with(status(429), &[("retry-after", "7")]), 7),
        (
            || with(status(429), &[("ratelimit", "\"resolvers\";r=0;t=55")]),
            56,
        ),
        (
            || with(status(429), &[("ratelimit", "\"resolvers\";r=0;t=300")]),
            300,
        ),
    ];
    for (answer, seconds) in cases {
        let error = located(BIG, answer).await.unwrap_err();
        assert!(
            matches!(error, SourceError::Busy(wait) if wait.as_secs() == seconds),
            "{error}"
        );
    }
}

#[tokio::test]
async fn redirects_on_the_hub_keep_the_token_and_those_to_nowhere_are_refused() {
    let world = World::new(
        |asked| {
            let moved = "/api/resolve-cache/x";
            if asked.target == moved {
                return Some(with(status(200), &[("x-repo-commit", COMMIT)]));
            }
            let to = [("location", moved)];
            asked
                .target
                .contains("/resolve/")
                .then(|| with(status(307), &to))
        },
        serve,
    )
    .await;
    let plan = world.plan().await;
    let source = world.hub().source(&plan, &plan.files[BIG]);
    let location = source.locate(&http(), None).await.unwrap();
    assert_eq!(location.url.path(), "/api/resolve-cache/x");
    assert!(location.credential.is_some());

    for target in ["ftp://host/x", "http://user:pw@host/x", "http://["] {
        let error = located(BIG, move || with(status(302), &[("location", target)])).await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, SourceError::Net(NetError::InvalidRedirect { .. })),
            "{error}"
        );
    }
    let endless = || with(status(302), &[("location", "/org/name/resolve/again")]);
    let error = located(BIG, endless).await.unwrap_err();
    assert!(
        matches!(error, SourceError::Net(NetError::TooManyRedirects { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_small_file_needs_no_question_and_a_mirror_without_head_is_read_directly() {
    let world = World::new(|_| None, serve).await;
    let plan = world.plan().await;
    let before = world.hub.asked().len();
    let source = world.hub().source(&plan, &plan.files[0]);
    let location = source.locate(&http(), None).await.unwrap();
    assert_eq!(world.hub.asked().len(), before);
    assert_eq!(
        location.url.path(),
        format!("/org/name/resolve/{COMMIT}/config.json")
    );
    let location = located(BIG, || status(405)).await.unwrap();
    assert!(
        location
            .url
            .path()
            .ends_with("/model-00001-of-00002.safetensors")
    );
}
