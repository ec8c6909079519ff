use super::*;
use crate::content::Content;
use crate::serve::{Fault, When};
use crate::testing::{Answer, get, send};

const BIG: usize = 3 << 20;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

fn files() -> Vec<RepoFile> {
    let file = |path, content: Content| RepoFile::new(path, content).unwrap();
    vec![
        file("README.md", "# A model\n".into()),
        file("config.json", "{}".into()),
        file("model.safetensors", pattern(BIG).into()),
        file("original/params.json", "{\"dim\": 8}".into()),
    ]
}

async fn hub() -> (Hub, String) {
    hub_with(Options::default()).await
}

async fn hub_with(options: Options) -> (Hub, String) {
    let hub = Hub::start(options).await.unwrap();
    let commit = hub.commit("org/name", "main", files());
    (hub, commit)
}

async fn ask(hub: &Hub, path: &str) -> Answer {
    get(&format!("{}{path}", hub.endpoint()), &[]).await
}

async fn ask_as(hub: &Hub, path: &str, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    get(
        &format!("{}{path}", hub.endpoint()),
        &[("authorization", &bearer)],
    )
    .await
}

/// The signed link to the large file.
async fn link(hub: &Hub) -> String {
    let answer = ask(hub, "/org/name/resolve/main/model.safetensors").await;
    answer.header("location").to_owned()
}

#[tokio::test]
async fn a_repository_is_described_with_its_commit_and_its_files() {
    let (hub, commit) = hub().await;
    for path in ["/api/models/org/name", "/api/models/org/name/revision/main"] {
        let info = ask(&hub, path).await.json();
        assert_eq!(info["sha"], commit);
        assert_eq!(info["siblings"].as_array().unwrap().len(), 4);
        assert_eq!(
            info["siblings"][0],
            serde_json::json!({ "rfilename": "README.md" })
        );
    }
    let info = ask(
        &hub,
        &format!("/api/models/org/name/revision/{commit}?blobs=true"),
    )
    .await
    .json();
    let large = &info["siblings"][2];
    assert_eq!(large["size"], BIG);
    assert_eq!(
        large["lfs"]["sha256"],
        Content::from(pattern(BIG)).sha256().unwrap().to_string()
    );
    let info = ask(&hub, "/api/models/org/name?expand=sha&expand=gated")
        .await
        .json();
    let keys: Vec<&String> = info.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["_id", "gated", "id", "sha"]);
}

#[tokio::test]
async fn a_tree_is_listed_flat_deep_below_a_path_and_in_pages() {
    let page = 2;
    let (hub, _) = hub_with(Options {
        page,
        ..Options::default()
    })
    .await;
    let first = ask(
        &hub,
        "/api/models/org/name/tree/main?recursive=true&expand=false",
    )
    .await;
    let mut paths = Vec::new();
    let mut answer = first;
    loop {
        let entries = answer.json();
        let entries = entries.as_array().unwrap();
        assert!(entries.len() <= page);
        paths.extend(
            entries
                .iter()
                .map(|entry| entry["path"].as_str().unwrap().to_owned()),
        );
        let Some(next) = answer.headers.get("link") else {
            break;
        };
        let next = next
            .to_str()
            .unwrap()
            .split(['<', '>'])
            .nth(1)
            .unwrap()
            .to_owned();
        answer = get(&next, &[]).await;
    }
    let all = [
        "README.md",
        "config.json",
        "model.safetensors",
        "original",
        "original/params.json",
    ];
    assert_eq!(paths, all);

    let (hub, _) = self::hub().await;
    let flat = ask(&hub, "/api/models/org/name/tree/main?expand=true")
        .await
        .json();
    assert_eq!(flat.as_array().unwrap().len(), 4);
    assert_eq!(flat[3]["type"], "directory");
    assert_eq!(flat[0]["lastCommit"]["title"], "Initial commit");
    let below = ask(&hub, "/api/models/org/name/tree/main/original")
        .await
        .json();
    assert_eq!(below[0]["path"], "original/params.json");
    let none = ask(
        &hub,
        "/api/models/org/name/tree/main/additional_chat_templates",
    )
    .await;
    assert_eq!(
        (none.status, none.header("x-error-code")),
        (404, "EntryNotFound")
    );
}

#[tokio::test]
async fn paths_are_described_for_forms_and_for_json() {
    let (hub, _) = hub().await;
    let url = format!("{}/api/models/org/name/paths-info/main", hub.endpoint());
    for (kind, body) in [
        (
            "application/x-www-form-urlencoded",
            "paths=config.json&paths=absent&expand=False",
        ),
        (
            "application/json",
            r#"{"paths":["config.json","absent"],"expand":false}"#,
        ),
    ] {
        let answer = send("POST", &url, &[("content-type", kind)], body).await;
        let entries = answer.json();
        assert_eq!(entries.as_array().unwrap().len(), 1, "{kind}");
        assert_eq!(entries[0]["path"], "config.json");
    }
}

#[tokio::test]
async fn a_small_file_is_served_at_once_with_its_commit_and_git_id() {
    for resolve_cache in [false, true] {
        let (hub, commit) = hub_with(Options {
            resolve_cache,
            ..Options::default()
        })
        .await;
        let mut answer = ask(&hub, "/org/name/resolve/main/original/params.json").await;
        if resolve_cache {
            assert_eq!(answer.status, 307);
            answer = ask(&hub, answer.header("location")).await;
        }
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-repo-commit"), commit);
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.body, "{\"dim\": 8}");
        let id = Content::from("{\"dim\": 8}").git_sha1().unwrap();
        assert_eq!(answer.header("etag"), format!("\"{id}\""));
    }
}

#[tokio::test]
async fn a_large_file_is_a_link_whose_own_length_is_not_the_files() {
    let (hub, commit) = hub().await;
    let url = format!(
        "{}/org/name/resolve/{commit}/model.safetensors",
        hub.endpoint()
    );
    for method in ["HEAD", "GET"] {
        let answer = send(method, &url, &[], "").await;
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("x-linked-size"), BIG.to_string());
        assert_ne!(answer.header("content-length"), BIG.to_string());
        let sha256 = Content::from(pattern(BIG)).sha256().unwrap();
        assert_eq!(answer.header("x-linked-etag"), format!("\"{sha256}\""));
        assert_eq!(answer.header("x-repo-commit"), commit);
        assert!(answer.header("location").starts_with(&hub.cdn_endpoint()));
    }
}

#[tokio::test]
async fn a_link_serves_everything_a_range_or_416() {
    let (hub, _) = hub().await;
    let link = link(&hub).await;
    let whole = get(&link, &[]).await;
    assert_eq!(
        (whole.status, whole.body.as_ref()),
        (200, pattern(BIG).as_slice())
    );
    let part = get(&link, &[("range", "bytes=1048570-2097160")]).await;
    assert_eq!(part.status, 206);
    assert_eq!(
        part.header("content-range"),
        format!("bytes 1048570-2097160/{BIG}")
    );
    assert_eq!(part.body.as_ref(), &pattern(BIG)[1_048_570..=2_097_160]);
    let beyond = get(&link, &[("range", &format!("bytes={BIG}-"))]).await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, &*format!("bytes */{BIG}"))
    );
    let sent: Vec<u64> = hub
        .log()
        .matching(|e| e.site == Site::Cdn)
        .iter()
        .map(|e| e.bytes)
        .collect();
    assert_eq!(sent, [BIG as u64, 1_048_591, 0]);
}

#[tokio::test]
async fn a_link_is_refused_when_expired_changed_or_shown_a_credential() {
    let (hub, _) = hub().await;
    let first = link(&hub).await;
    let credential = get(&first, &[("authorization", "Bearer hf_x")]).await;
    assert_eq!(credential.status, 400);
    assert_eq!(hub.violations().len(), 1);
    let expires = first
        .split("Expires=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let later: u64 = expires.parse::<u64>().unwrap() + 9;
    let forged = get(&first.replace(expires, &later.to_string()), &[]).await;
    assert_eq!(forged.status, 403);
    assert!(forged.text().contains("SignatureDoesNotMatch"));
    hub.expire_links();
    assert!(get(&first, &[]).await.text().contains("expired"));
    assert_eq!(get(&link(&hub).await, &[]).await.status, 200);
    hub.set_link_lifetime(Duration::ZERO);
    assert_eq!(get(&link(&hub).await, &[]).await.status, 403);
}

#[tokio::test]
async fn who_may_read_what_follows_access_and_token() {
    let (hub, _) = hub().await;
    hub.add_token("hf_in", "ada");
    hub.add_token("hf_out", "bob");
    hub.grant("hf_in", "org/name").unwrap();
    let info = "/api/models/org/name";
    let file = "/org/name/resolve/main/config.json";
    let check = "/api/models/org/name/auth-check";
    let outcome = |answer: Answer| (answer.status, answer.header("x-error-code").to_owned());
    let code = |status: u16, code: &str| (status, code.to_owned());

    assert_eq!(
        outcome(ask_as(&hub, info, "hf_unknown").await),
        code(401, "")
    );
    hub.set_access("org/name", Access::Gated).unwrap();
    assert_eq!(ask(&hub, info).await.json()["gated"], "auto");
    for path in [file, check] {
        assert_eq!(outcome(ask(&hub, path).await), code(401, "GatedRepo"));
        assert_eq!(
            outcome(ask_as(&hub, path, "hf_out").await),
            code(403, "GatedRepo")
        );
        assert_eq!(outcome(ask_as(&hub, path, "hf_in").await), code(200, ""));
    }
    hub.set_access("org/name", Access::Private).unwrap();
    for path in [info, file, check] {
        assert_eq!(outcome(ask(&hub, path).await), code(401, "RepoNotFound"));
        assert_eq!(
            outcome(ask_as(&hub, path, "hf_out").await),
            code(404, "RepoNotFound")
        );
        assert_eq!(outcome(ask_as(&hub, path, "hf_in").await), code(200, ""));
    }
    hub.revoke("hf_in", "org/name");
    assert_eq!(
        outcome(ask_as(&hub, info, "hf_in").await),
        code(404, "RepoNotFound")
    );
    hub.set_access("org/name", Access::Disabled).unwrap();
    let disabled = ask(&hub, info).await;
    assert_eq!(
        disabled.header("x-error-message"),
        "Access to this resource is disabled."
    );
    assert_eq!(
        ask_as(&hub, "/api/whoami-v2", "hf_out").await.json()["name"],
        "bob"
    );
    assert_eq!(ask(&hub, "/api/whoami-v2").await.status, 401);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let (hub, commit) = hub().await;
    let outcome = |answer: Answer| (answer.status, answer.header("x-error-code").to_owned());
    let absent = ask(&hub, "/org/name/resolve/main/absent.json").await;
    assert_eq!(absent.header("x-repo-commit"), commit);
    assert_eq!(outcome(absent), (404, "EntryNotFound".to_owned()));
    let revision = ask(&hub, "/org/name/resolve/dev/config.json").await;
    assert_eq!(outcome(revision), (404, "RevisionNotFound".to_owned()));
    let repo = ask(&hub, "/api/models/org/other").await;
    assert_eq!(outcome(repo), (401, "RepoNotFound".to_owned()));
}

#[tokio::test]
async fn branches_tags_requests_and_short_ids_name_commits_until_forced_away() {
    let (hub, first) = hub().await;
    hub.tag("org/name", "v1", "main").unwrap();
    let second = hub.commit("org/name", "main", files());
    assert_ne!(first, second);
    hub.branch("org/name", "refs/pr/1", "v1").unwrap();
    for (revision, commit) in [
        ("main", &second),
        ("v1", &first),
        ("refs%2Fpr%2F1", &first),
        ("refs/pr/1", &first),
        (&second[..8], &second),
    ] {
        let info = ask(&hub, &format!("/api/models/org/name/revision/{revision}"))
            .await
            .json();
        assert_eq!(info["sha"], **commit, "{revision}");
        let file = ask(&hub, &format!("/org/name/resolve/{revision}/config.json")).await;
        assert_eq!(file.header("x-repo-commit"), commit, "{revision}");
    }
    let refs = ask(&hub, "/api/models/org/name/refs").await.json();
    assert_eq!(refs["tags"][0]["targetCommit"], first);
    assert_eq!(refs["pullRequests"][0]["ref"], "refs/pr/1");
    let commits = ask(&hub, "/api/models/org/name/commits/main").await.json();
    assert_eq!(commits.as_array().unwrap().len(), 2);
    hub.force_push("org/name", "main", files());
    let gone = ask(&hub, &format!("/org/name/resolve/{second}/config.json")).await;
    assert_eq!(gone.status, 404);
    let kept = ask(&hub, &format!("/org/name/resolve/{first}/config.json")).await;
    assert_eq!(kept.status, 200);
}

#[tokio::test]
async fn xet_is_announced_only_where_configured() {
    let xet = Some("http://127.0.0.1:9/".to_owned());
    let (hub, _) = hub_with(Options {
        xet,
        ..Options::default()
    })
    .await;
    let answer = ask(&hub, "/org/name/resolve/main/model.safetensors").await;
    assert_eq!(answer.header("x-xet-hash").len(), 64);
    let refresh = answer
        .header("link")
        .split(['<', '>'])
        .nth(1)
        .unwrap()
        .to_owned();
    let token = get(&refresh, &[]).await;
    assert_eq!(token.json()["casUrl"], token.header("x-xet-cas-url"));
    let (plain, _) = self::hub().await;
    let answer = ask(&plain, "/org/name/resolve/main/model.safetensors").await;
    assert!(!answer.headers.contains_key("x-xet-hash"));
}

#[tokio::test]
async fn who_asks_too_often_is_told_how_long_to_wait() {
    let window = Duration::from_secs(300);
    let quota = Some(Quota {
        api: 1,
        resolvers: 2,
        window,
    });
    let (hub, _) = hub_with(Options {
        quota,
        ..Options::default()
    })
    .await;
    assert_eq!(ask(&hub, "/api/models/org/name").await.status, 200);
    let refused = ask(&hub, "/api/models/org/name").await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("ratelimit"), "\"api\";r=0;t=300");
    assert_eq!(
        ask(&hub, "/org/name/resolve/main/config.json").await.status,
        200
    );
}

#[tokio::test]
async fn faults_are_made_where_when_and_as_often_as_asked() {
    let (hub, _) = hub().await;
    let faults = hub.faults();
    let config = "/org/name/resolve/main/config.json";
    faults.add(
        When::path("config.json").skip(1).times(2),
        Fault::Status(503),
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(ask(&hub, config).await.status);
    }
    assert_eq!(seen, [200, 503, 503, 200]);

    faults.add(
        When::path("config.json").times(1),
        Fault::RateLimited { seconds: 7 },
    );
    assert_eq!(
        ask(&hub, config).await.header("ratelimit"),
        "\"resolvers\";r=0;t=7"
    );

    let link = link(&hub).await;
    faults.add(
        When::path("model.safetensors").site(Site::Cdn).times(1),
        Fault::Tamper { at: 1_500_000 },
    );
    let tampered = get(&link, &[]).await.body;
    let whole = pattern(BIG);
    let differ: Vec<usize> = (0..BIG).filter(|&at| tampered[at] != whole[at]).collect();
    assert_eq!(differ, [1_500_000]);

    faults.add(When::default().times(1), Fault::Cut { after: 1_200_000 });
    let cut = get(&link, &[]).await;
    assert!(cut.is_cut);
    assert_eq!(cut.body.len(), 1_200_000);

    faults.add(When::default().times(1), Fault::IgnoreRange);
    assert_eq!(get(&link, &[("range", "bytes=0-0")]).await.status, 200);
    faults.add(When::default().times(1), Fault::Expired);
    assert_eq!(get(&link, &[]).await.status, 403);

    for fault in [Fault::BlackHole, Fault::Stall { after: 10 }] {
        faults.add(When::default().times(1), fault);
        let waited = tokio::time::timeout(Duration::from_millis(200), get(&link, &[])).await;
        assert!(waited.is_err(), "an answer came");
    }
    assert_eq!(get(&link, &[]).await.status, 200);
}

#[tokio::test]
async fn tls_is_spoken_under_an_authority_made_on_the_spot() {
    let tls = Some(crate::serve::Tls::new(&["hub.local"]).unwrap());
    let options = Options {
        hub: Door {
            tls: tls.clone(),
            ..Door::default()
        },
        cdn: Door {
            tls,
            ..Door::default()
        },
        ..Options::default()
    };
    let authority = options.hub.tls.as_ref().unwrap().authority_pem().to_owned();
    let (hub, _) = hub_with(options).await;
    assert!(hub.endpoint().starts_with("https://127.0.0.1:"));
    let url = format!("{}/org/name/resolve/main/config.json", hub.endpoint());
    let answer = crate::testing::get_over_tls(&url, &authority).await;
    assert_eq!(
        (answer.status, answer.body.as_ref()),
        (200, b"{}".as_slice())
    );
}

#[tokio::test]
async fn a_dropped_hub_answers_nobody() {
    let (hub, _) = hub().await;
    let address = hub.endpoint().trim_start_matches("http://").to_owned();
    drop(hub);
    let deadline = Instant::now() + Duration::from_secs(5);
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
        tokio::task::yield_now().await;
    }
}
