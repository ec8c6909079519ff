//! The real Xet client, in a real child, against Xet storage made on the spot. This program is its
//! own child, so it has a `main` of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use headstart_core::digest::{Expected, GitSha1, Sha256};
use headstart_core::model::{Format, ModelRef, Revision};
use headstart_hub::endpoint::Hub;
use headstart_hub::plan::{ModelPlan, PlannedFile, XetHash};
use headstart_hub::xet::{Xet, XetFault, XetLimits, child_main};
use sha2::Digest as _;
use xet::xet_session::{Sha256Policy, XetSessionBuilder};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CHILD: &str = "xet-child";
const SIZE: usize = 24 << 20;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(CHILD) {
        return child_main();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        a_file_comes_through_xet_verified(&world).await;
        memory_beyond_the_limit_ends_the_child_and_nothing_else(&world).await;
        a_hub_that_refuses_is_told_in_one_line_without_the_token(&world).await;
        tampered_storage_is_never_handed_over(&world).await;
    });
    ExitCode::SUCCESS
}

struct World {
    temp: tempfile::TempDir,
    bytes: Vec<u8>,
    plan: ModelPlan,
    hub: Hub,
}

impl World {
    async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("scratch")).unwrap();
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..SIZE).map(|_| next()).collect();
        let storage = format!("local://{}", temp.path().join("storage").display());
        let hash = store(&storage, &bytes).await;
        let sha256 = Sha256(sha2::Sha256::digest(&bytes).into());
        let endpoint = serve(&storage, &hash, &sha256.to_string()).await;
        let model: ModelRef = "org/name".parse().unwrap();
        let file = PlannedFile {
            path: "sub/model.safetensors".parse().unwrap(),
            size: SIZE as u64,
            expected: Expected::Sha256(sha256),
            blob_id: GitSha1([1; 20]),
            xet_hash: Some(XetHash(hash.parse().unwrap())),
        };
        let plan = ModelPlan::new(
            model.repo,
            Revision::main(),
            COMMIT.parse().unwrap(),
            Format::Safetensors,
            vec![file],
            vec![],
        );
        let token = "hf_canaryCanaryCanary".parse().unwrap();
        let hub = Hub::new(endpoint.parse().unwrap(), Some(token));
        let plan = plan.unwrap();
        Self {
            temp,
            bytes,
            plan,
            hub,
        }
    }

    fn xet(&self, memory: u64) -> Xet {
        Xet {
            program: std::env::current_exe().unwrap(),
            arguments: vec![CHILD.into()],
            scratch: self.temp.path().join("scratch"),
            environment: Vec::new(),
            limits: XetLimits {
                memory,
                window: Duration::from_secs(60),
                least: 1,
            },
        }
    }

    fn nothing_is_left(&self) -> bool {
        let left = std::fs::read_dir(self.temp.path().join("scratch")).unwrap();
        left.count() == 0
    }
}

async fn a_file_comes_through_xet_verified(world: &World) {
    let file = &world.plan.files[0];
    let xet = world.xet(1 << 30);
    let fetched = xet.fetch(&world.hub, &world.plan, file, |_| {}).await;
    let fetched = fetched.unwrap();
    assert!(std::fs::read(&fetched.path).unwrap() == world.bytes);
    drop(fetched);
    assert!(world.nothing_is_left());
}

async fn memory_beyond_the_limit_ends_the_child_and_nothing_else(world: &World) {
    let file = &world.plan.files[0];
    let xet = world.xet(24 << 20);
    let error = xet
        .fetch(&world.hub, &world.plan, file, |_| {})
        .await
        .unwrap_err();
    let fault = &error.source;
    assert!(
        matches!(
            fault,
            XetFault::Memory { .. } | XetFault::Died { .. } | XetFault::GaveUp { .. }
        ),
        "{fault:?}"
    );
    assert!(world.nothing_is_left());
}

async fn a_hub_that_refuses_is_told_in_one_line_without_the_token(world: &World) {
    let mut plan = world.plan.clone();
    plan.files[0].path = "other.safetensors".parse().unwrap();
    let xet = world.xet(1 << 30);
    let error = xet
        .fetch(&world.hub, &plan, &plan.files[0], |_| {})
        .await
        .unwrap_err();
    let XetFault::GaveUp { reason } = &error.source else {
        panic!("{:?}", error.source);
    };
    assert!(
        !reason.contains("hf_canary") && !reason.contains('\n'),
        "{reason}"
    );
    assert!(world.nothing_is_left());
}

/// The client may notice or not; nobody gets the file.
async fn tampered_storage_is_never_handed_over(world: &World) {
    let largest = files(&world.temp.path().join("storage"))
        .into_iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut content = std::fs::read(&largest).unwrap();
    assert!(content.len() > SIZE / 8, "{}", largest.display());
    let middle = content.len() / 2;
    content[middle] ^= 1;
    let mut permissions = std::fs::metadata(&largest).unwrap().permissions();
    #[expect(
        clippy::permissions_set_readonly_false,
        reason = "a file of the test's own"
    )]
    permissions.set_readonly(false);
    std::fs::set_permissions(&largest, permissions).unwrap();
    std::fs::write(&largest, content).unwrap();
    let xet = world.xet(1 << 30);
    let error = xet
        .fetch(&world.hub, &world.plan, &world.plan.files[0], |_| {})
        .await;
    let fault = error.unwrap_err().source;
    println!("tampered: {fault}");
    assert!(
        matches!(fault, XetFault::Mismatch { .. } | XetFault::GaveUp { .. }),
        "{fault:?}"
    );
    assert!(world.nothing_is_left());
}

fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Puts `bytes` into Xet storage and returns their Xet hash.
async fn store(storage: &str, bytes: &[u8]) -> String {
    let session = XetSessionBuilder::new().build().unwrap();
    let commit = session.new_upload_commit().unwrap().with_endpoint(storage);
    let commit = commit.build().await.unwrap();
    let upload = commit.upload_bytes(bytes.to_vec(), Sha256Policy::Compute, None);
    let upload = upload.await.unwrap();
    let stored = upload.finalize_ingestion().await.unwrap();
    commit.commit().await.unwrap();
    stored.xet_info.hash().to_owned()
}

/// What the Hub answers about the file and about access to its storage.
async fn serve(storage: &str, hash: &str, sha256: &str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let (storage, hash, sha256) = (storage.to_owned(), hash.to_owned(), sha256.to_owned());
    let answer = move |request: Request<Body>| {
        let path = request.uri().path().to_owned();
        let file = format!("/org/name/resolve/{COMMIT}/sub/model.safetensors");
        let token = format!("/api/models/org/name/xet-read-token/{COMMIT}");
        let mut response = Response::builder();
        response = match &path {
            path if *path == file => response
                .status(302)
                .header("location", "http://cdn.invalid/x")
                .header("x-repo-commit", COMMIT)
                .header("x-linked-size", SIZE)
                .header("x-linked-etag", format!("\"{sha256}\""))
                .header("etag", format!("\"{sha256}\""))
                .header("x-xet-hash", &hash),
            path if *path == token => response
                .status(200)
                .header("content-type", "application/json"),
            _ => response.status(StatusCode::NOT_FOUND),
        };
        let body = match path == token {
            true => format!(r#"{{"casUrl":"{storage}","exp":4102444800,"accessToken":"x"}}"#),
            false => String::new(),
        };
        async move { response.body(Body::from(body)).unwrap() }
    };
    let router = axum::Router::new().fallback(answer);
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    format!("http://{address}")
}
