//! Models resolved at, and fetched from, the testbed's Hub by the real engine, to trees that are
//! inspected and verified.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use headstart_core::digest::Expected;
use headstart_core::model::ModelRef;
use headstart_hub::access::Verdict;
use headstart_hub::endpoint::{Hub, HubError, Patience, Token};
use headstart_hub::layout::{Published, State, Tree};
use headstart_hub::plan::{ModelPlan, PlannedFile};
use headstart_hub::resolve::{Audience, Problem, Resolution, ResolveError};
use headstart_testbed::hub::{Access, Hub as Server, Options, Quota, RepoFile};
use headstart_testbed::serve::{Fault, Site, When};
use headstart_transfer::engine::{Engine, Limits, Progress};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use headstart_transfer::source::Blob;
use headstart_transfer::{BootId, FetchError};
use http::Method;

const TOKEN: &str = "hf_canaryCanaryCanary";
const LARGE: usize = 5 << 20;

fn http() -> Http {
    let mut policy = HostPolicy::default();
    policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
    Http::new(policy).unwrap()
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn files() -> Vec<RepoFile> {
    let file = |path: &str, content: Vec<u8>| RepoFile::new(path, content).unwrap();
    vec![
        file("config.json", b"{}".to_vec()),
        file("1_Pooling/config.json", b"{\"a\": 1}".to_vec()),
        file("empty.txt", Vec::new()),
        file("tokenizer.model", bytes(1, 40_000)),
        file("model-00001-of-00002.safetensors", bytes(2, LARGE)),
        file("model-00002-of-00002.safetensors", bytes(3, 70_001)),
        file("model-copy.safetensors", bytes(3, 70_001)),
        file("pytorch_model.bin", bytes(4, 1000)),
    ]
}

struct World {
    server: Server,
    store: tempfile::TempDir,
}

impl World {
    async fn new(options: Options) -> Self {
        let server = Server::start(options).await.unwrap();
        server.commit("org/name", "main", files());
        let store = tempfile::tempdir().unwrap();
        std::fs::create_dir(store.path().join("objects")).unwrap();
        Self { server, store }
    }

    fn hub(&self, token: Option<&str>) -> Hub {
        let token = token.map(|text| text.parse::<Token>().unwrap());
        Hub::new(self.server.endpoint().parse().unwrap(), token).with_patience(Patience {
            pause: Duration::from_millis(10),
            headers: Duration::from_millis(500),
            ..Patience::default()
        })
    }

    async fn resolve(&self, token: Option<&str>, model: &str) -> Result<Resolution, ResolveError> {
        let model: ModelRef = model.parse().unwrap();
        self.hub(token).resolve(&http(), &model).await
    }

    async fn fetch(&self, hub: &Hub, plan: &ModelPlan) -> Vec<(String, Result<(), FetchError>)> {
        let limits = Limits {
            patience: Duration::from_secs(20),
            stall: Duration::from_secs(4),
            // What is sent is counted, however slow this machine is.
            share_beyond: Duration::from_secs(60),
            ..Limits::default()
        };
        let engine = Engine::new(&http(), limits, BootId::named("test")).unwrap();
        let each = plan.files.iter().map(|file| {
            let (engine, blob) = (engine.clone(), blob(hub, plan, file));
            let place = self.object(&file.expected);
            let partial = self.store.path().join(format!(
                "{}.partial",
                file.path.to_string().replace('/', "-")
            ));
            async move {
                let landed = engine
                    .file(&blob, &partial, Arc::new(Progress::default()))
                    .await;
                let done = match landed {
                    Ok(landed) => {
                        landed.publish(place).await.unwrap();
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                (blob.name, done)
            }
        });
        let each: Vec<_> = each.collect();
        futures_util::stream::iter(each).buffered(8).collect().await
    }

    fn object(&self, expected: &Expected) -> PathBuf {
        self.store.path().join("objects").join(expected.to_string())
    }

    fn publish(&self, plan: &ModelPlan) -> (Tree, Published) {
        let tree = Tree::at(self.store.path().join("tree"));
        let published = tree.publish(plan, &|expected| self.object(expected));
        (tree, published.unwrap())
    }

    /// Fetches everything, publishes it and looks at every byte of it.
    async fn complete(&self, token: Option<&str>, model: &str) -> ModelPlan {
        let plan = self.resolve(token, model).await.unwrap().plan;
        for (name, done) in self.fetch(&self.hub(token), &plan).await {
            done.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let (tree, published) = self.publish(&plan);
        assert_eq!(published, Published::Complete);
        assert_eq!(tree.inspect(&plan).unwrap().state(), State::Complete);
        let repo = tree.hub().join("models--org--name");
        let snapshot = repo.join(format!("snapshots/{}", plan.commit));
        for file in files()
            .iter()
            .filter(|file| file.path != "pytorch_model.bin")
        {
            let content = file.content.to_bytes().unwrap();
            assert!(
                std::fs::read(snapshot.join(&file.path)).unwrap() == content,
                "{}",
                file.path
            );
        }
        assert!(!snapshot.join("pytorch_model.bin").exists());
        assert_eq!(self.server.violations(), []);
        plan
    }
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

/// What is told of an error; never a token.
fn told(error: &dyn std::error::Error) -> String {
    let text = headstart_transfer::chain(error);
    assert!(!text.contains('\n') && !text.contains(TOKEN), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_public_model_becomes_a_complete_tree_with_one_question_a_file() {
    let world = World::new(Options {
        page: 2,
        resolve_cache: true,
        ..Options::default()
    })
    .await;
    let plan = world.complete(None, "org/name").await;
    assert_eq!(plan.files.len(), 7);
    let log = world.server.log();
    let resolves = log.count(|entry| entry.site == Site::Hub && entry.path.contains("/resolve/"));
    // One for each of four large and two small files, none for the empty one.
    assert_eq!(resolves, 6);
    let heads = log.count(|entry| entry.site == Site::Hub && entry.method == "HEAD");
    assert_eq!(heads, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refs_tags_and_pinned_commits_are_followed_to_the_commit_they_mean() {
    let world = World::new(Options::default()).await;
    let first = world.resolve(None, "org/name").await.unwrap().plan.commit;
    world
        .server
        .tag("org/name", "v1.0", &first.to_string())
        .unwrap();
    world
        .server
        .branch("org/name", "refs/pr/1", &first.to_string())
        .unwrap();
    let other = RepoFile::new("config.json", "{\"b\": 2}").unwrap();
    world.server.commit("org/name", "main", vec![other]);
    let now = world.resolve(None, "org/name").await.unwrap().plan;
    assert_ne!(now.commit, first);
    assert_eq!(now.files.len(), 1);
    for revision in ["v1.0", "refs/pr/1", &first.to_string()] {
        let plan = world
            .resolve(None, &format!("org/name@{revision}"))
            .await
            .unwrap()
            .plan;
        assert_eq!((plan.commit, plan.files.len()), (first, 7), "{revision}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_and_a_private_model_need_a_token_with_a_grant_and_no_other_origin_sees_it() {
    for (access, audience) in [
        (Access::Gated, Audience::Gated),
        (Access::Private, Audience::Private),
    ] {
        let world = World::new(Options::default()).await;
        world.server.set_access("org/name", access).unwrap();
        world.server.add_token(TOKEN, "user");
        for token in [None, Some(TOKEN), Some("hf_unknownUnknown")] {
            let error = world.resolve(token, "org/name").await.unwrap_err();
            let line = told(&error);
            match (access, token) {
                (_, Some("hf_unknownUnknown")) => {
                    assert!(
                        matches!(error.source, Problem::Hub(HubError::Token { .. })),
                        "{line}"
                    );
                }
                (Access::Gated, _) => assert!(
                    line.contains(&format!("at {}/org/name", world.server.endpoint())),
                    "{line}"
                ),
                _ => assert!(
                    matches!(error.source, Problem::Hub(HubError::NotFound { .. })),
                    "{line}"
                ),
            }
        }
        world.server.grant(TOKEN, "org/name").unwrap();
        let resolution = world.resolve(Some(TOKEN), "org/name").await.unwrap();
        assert_eq!(resolution.audience, audience);
        let plan = world.complete(Some(TOKEN), "org/name").await;

        // Somebody else's access is asked with somebody else's token.
        let hub = world.hub(Some(TOKEN));
        let token: Token = TOKEN.parse().unwrap();
        let may = hub
            .may_read(&http(), &plan.repo, &plan.commit, Some(&token))
            .await;
        assert!(matches!(may, Ok(Verdict::Granted)), "{may:?}");
        let may = hub.may_read(&http(), &plan.repo, &plan.commit, None).await;
        assert!(matches!(may, Ok(Verdict::Denied(_))), "{may:?}");

        // Access taken away between plan and bytes.
        world.server.revoke(TOKEN, "org/name");
        for (name, done) in World::new(Options::default())
            .await
            .fetch(&hub, &plan)
            .await
        {
            if name == "empty.txt" {
                continue;
            }
            let line = done.unwrap_err().to_string();
            let word = match access {
                Access::Gated => "the model is gated",
                _ => "the Hub shows no such model",
            };
            assert!(line.starts_with(&name) && line.contains(word), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_expire_while_files_arrive_are_asked_for_again() {
    let world = World::new(Options::default()).await;
    // The first link of every large file is dead when it is used for the second time.
    let cut = Fault::Cut { after: 1 << 20 };
    let faults = world.server.faults();
    faults.add(
        When::default().site(Site::Cdn).method(Method::GET).times(1),
        cut,
    );
    faults.add(
        When::default().site(Site::Cdn).method(Method::GET).times(2),
        Fault::Expired,
    );
    world.complete(None, "org/name").await;
    let log = world.server.log();
    assert_eq!(
        log.count(|entry| entry.site == Site::Cdn && entry.status == 403),
        2
    );
    let sent: u64 = log
        .matching(|entry| entry.site == Site::Cdn)
        .iter()
        .map(|entry| entry.bytes)
        .sum();
    let needed = (LARGE + 40_000 + 2 * 70_001) as u64;
    assert!(sent < needed + (1 << 20), "{sent} bytes for {needed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tampered_file_is_named_and_the_rest_is_shown_without_it() {
    let world = World::new(Options::default()).await;
    let plan = world.resolve(None, "org/name").await.unwrap().plan;
    let large = plan
        .files
        .iter()
        .find(|file| file.size == LARGE as u64)
        .unwrap();
    let faults = world.server.faults();
    faults.add(
        When::path(&large.etag()).site(Site::Cdn),
        Fault::Tamper { at: 4_000_000 },
    );
    let mut wrong = Vec::new();
    for (name, done) in world.fetch(&world.hub(None), &plan).await {
        if let Err(error) = done {
            assert!(matches!(error, FetchError::Mismatch { .. }), "{error}");
            assert!(error.to_string().contains(&name));
            wrong.push(name);
        }
    }
    assert_eq!(wrong, [large.path.to_string()]);
    let (tree, published) = world.publish(&plan);
    let missing = vec![large.path.clone()];
    assert_eq!(published, Published::Partial { missing });
    assert_eq!(tree.inspect(&plan).unwrap().state(), State::Partial);
    assert!(!has(&tree.hub(), &large.etag()));
}

fn has(below: &Path, name: &str) -> bool {
    std::fs::read_dir(below).unwrap().any(|entry| {
        let entry = entry.unwrap();
        entry.file_name() == *name || (entry.path().is_dir() && has(&entry.path(), name))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_in_every_kind_of_passing_trouble_still_gives_the_model() {
    let world = World::new(Options::default()).await;
    let faults = world.server.faults();
    let api = |n| When::path("/api/").site(Site::Hub).skip(n).times(1);
    faults.add(api(0), Fault::Status(503));
    faults.add(api(1), Fault::RateLimited { seconds: 0 });
    faults.add(api(2), Fault::BlackHole);
    faults.add(api(2), Fault::Late(Duration::from_millis(50)));
    let files = |n| When::path("/resolve/").site(Site::Hub).skip(n).times(1);
    faults.add(files(0), Fault::Status(500));
    faults.add(
        files(1),
        Fault::RetryAfter {
            status: 429,
            value: "1".to_owned(),
        },
    );
    faults.add(When::default().site(Site::Cdn).times(1), Fault::IgnoreRange);
    faults.add(
        When::default().site(Site::Cdn).times(1),
        Fault::Stall { after: 1000 },
    );
    world.complete(None, "org/name").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_not_one_is_refused_in_words() {
    let world = World::new(Options::default()).await;
    world
        .server
        .faults()
        .add(When::path("/api/"), Fault::Portal);
    let line = told(&world.resolve(None, "org/name").await.unwrap_err());
    assert!(
        line.contains("text/html") && line.contains("check the endpoint"),
        "{line}"
    );

    world.server.faults().clear();
    for (model, word) in [
        (
            "org/nmae",
            "the Hub shows no such model: check the spelling",
        ),
        ("org/name@v9", "the model has no such revision"),
        (
            "org/name@0123456789abcdef0123456789abcdef01234567",
            "the model has no such revision",
        ),
        (
            "org/name?include=*.gguf",
            "none of the repository's 8 files is selected",
        ),
    ] {
        let line = told(&world.resolve(None, model).await.unwrap_err());
        assert!(
            line.contains(word) && line.contains("cannot resolve org/n"),
            "{line}"
        );
    }
    world
        .server
        .set_access("org/name", Access::Disabled)
        .unwrap();
    let line = told(&world.resolve(None, "org/name").await.unwrap_err());
    assert!(line.contains("the Hub has disabled the model"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_that_a_request_per_range_would_use_up_is_enough() {
    let quota = Quota {
        api: 3,
        resolvers: 7,
        window: Duration::from_secs(300),
    };
    let world = World::new(Options {
        quota: Some(quota),
        ..Options::default()
    })
    .await;
    let plan = world.complete(None, "org/name").await;
    let log = world.server.log();
    assert_eq!(log.count(|entry| entry.status == 429), 0);
    assert_eq!(plan.files.len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_rewritten_between_plan_and_bytes_is_told() {
    let world = World::new(Options::default()).await;
    let plan = world.resolve(None, "org/name").await.unwrap().plan;
    world.server.force_push(
        "org/name",
        "main",
        vec![RepoFile::new("config.json", "{}").unwrap()],
    );
    for (name, done) in world.fetch(&world.hub(None), &plan).await {
        if name != "empty.txt" {
            let line = done.unwrap_err().to_string();
            assert!(line.contains("the model has no such revision"), "{line}");
        }
    }
    assert_eq!(
        world
            .resolve(None, "org/name")
            .await
            .unwrap()
            .plan
            .files
            .len(),
        1
    );
}
