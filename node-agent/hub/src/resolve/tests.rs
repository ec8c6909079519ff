//! Resolutions against servers that tell the truth, that are in trouble, and that lie.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use expect_test::expect;
use futures_util::stream;
use headstart_transfer::chain;
use serde_json::{Value, json};

use super::*;
use crate::endpoint::Token;
use crate::scripted::{
    Answer, Asked, COMMIT, Repo, Server, TOKEN, answer_json, commit, git_sha1, http, refusal,
    sha256, status, with,
};

const OTHER: &str = "76543210fedcba9876543210fedcba9876543210";

fn repo() -> Repo {
    Repo::default()
        .small("config.json", "{}")
        .small("tokenizer.model", "words")
        .small("sub/notes.txt", "notes")
        .large("model.safetensors", 1000)
        .large("model.bin", 900)
}

fn model(text: &str) -> ModelRef {
    text.parse().unwrap()
}

/// A Hub that has [`repo`], except where `first` answers.
async fn server(
    first: impl Fn(&Asked) -> Option<Answer> + Clone + Send + Sync + 'static,
) -> Server {
    let repo = repo();
    Server::start(move |asked| {
        let answer = first(asked).or_else(|| repo.answer(asked));
        answer.unwrap_or_else(|| refusal(404, "RepoNotFound"))
    })
    .await
}

async fn resolved(server: &Server, text: &str) -> Result<Resolution, ResolveError> {
    server.hub(None).resolve(&http(), &model(text)).await
}

/// The line a person sees, without the port of the day.
async fn refused(server: &Server, token: Option<&str>, text: &str) -> String {
    let error = server
        .hub(token)
        .resolve(&http(), &model(text))
        .await
        .unwrap_err();
    let line = chain(&error).replace(server.url.as_str(), "http://hub/");
    assert!(!line.contains('\n') && !line.contains(TOKEN), "{line}");
    line
}

#[tokio::test]
async fn two_requests_make_a_plan_of_exactly_what_an_engine_reads() {
    let server = server(|_| None).await;
    let resolution = resolved(&server, "org/name").await.unwrap();
    assert_eq!(
        server.targets(),
        [
            "GET /api/models/org/name/revision/main".to_owned(),
            format!("GET /api/models/org/name/tree/{COMMIT}?recursive=true&expand=false"),
        ]
    );
    let plan = &resolution.plan;
    assert_eq!((plan.commit, &plan.revision), (commit(), &Revision::main()));
    let files: Vec<&str> = plan.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(
        files,
        [
            "config.json",
            "model.safetensors",
            "sub/notes.txt",
            "tokenizer.model"
        ]
    );
    let repo = repo();
    assert_eq!(plan.files[0].etag(), git_sha1(b"{}"));
    assert_eq!(
        plan.files[1].etag(),
        sha256(&repo.0["model.safetensors"].bytes)
    );
    assert_eq!(plan.files[1].size, 1000);
    assert_eq!(plan.files[1].xet_hash.unwrap().to_string(), "ab".repeat(32));
    assert_eq!(plan.files[1].blob_id.to_string(), git_sha1(b"pointer"));
    let absent: Vec<&str> = plan.absent.iter().map(RepoPath::as_str).collect();
    expect![[r#"["adapter_config.json", "added_tokens.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json", "special_tokens_map.json"]"#]]
        .assert_eq(&format!("{absent:?}"));
    let left_out = [("model.bin".parse().unwrap(), LeftOut::Duplicate)];
    assert_eq!(resolution.left_out, left_out);
    assert_eq!(resolution.audience, Audience::Public);
    let read = ModelPlan::from_json(&plan.to_json()).unwrap();
    assert_eq!(&read, plan);
}

#[tokio::test]
async fn an_optional_file_that_is_only_left_out_is_not_called_absent() {
    let server = server(|_| None).await;
    let resolution = resolved(&server, "org/name?include=config.json")
        .await
        .unwrap();
    assert_eq!(resolution.plan.files.len(), 1);
    let absent = &resolution.plan.absent;
    assert!(!absent.iter().any(|path| path.as_str() == "tokenizer.model"));
}

#[tokio::test]
async fn a_ref_with_slashes_is_one_part_of_the_address_and_a_mirror_below_a_path_is_asked_there() {
    let server = server(|asked| {
        let moved = asked
            .target
            .replace("/hf/mirror", "")
            .replace("refs%2Fpr%2F1", "main");
        repo().answer(&Asked {
            target: moved,
            ..asked.clone()
        })
    })
    .await;
    let endpoint = server.url.join("hf/mirror/").unwrap();
    let hub = Hub::new(endpoint, None);
    let resolution = hub
        .resolve(&http(), &model("org/name@refs/pr/1"))
        .await
        .unwrap();
    assert_eq!(resolution.plan.revision.to_string(), "refs/pr/1");
    assert_eq!(
        server.targets()[0],
        "GET /hf/mirror/api/models/org/name/revision/refs%2Fpr%2F1"
    );
}

#[tokio::test]
async fn who_may_read_a_model_is_told_from_what_the_hub_says() {
    for (private, gated, expected) in [
        (json!(false), json!("auto"), Audience::Gated),
        (json!(false), json!("manual"), Audience::Gated),
        (json!(true), json!(false), Audience::Private),
        (json!(null), json!(null), Audience::Public),
    ] {
        let server = server(move |asked| {
            let info = json!({"sha": COMMIT, "private": private, "gated": gated});
            asked
                .target
                .contains("/revision/")
                .then(|| answer_json(&info))
        })
        .await;
        assert_eq!(
            resolved(&server, "org/name").await.unwrap().audience,
            expected
        );
    }
}

#[tokio::test]
async fn a_gated_model_is_refused_before_anything_is_fetched_though_its_file_list_is_open() {
    let gated = |asked: &Asked| {
        let info = json!({"sha": COMMIT, "gated": "manual"});
        match asked.target.contains("/auth-check") {
            true => Some(refusal(401, "GatedRepo")),
            false => asked
                .target
                .contains("/revision/")
                .then(|| answer_json(&info)),
        }
    };
    let server = server(gated).await;
    let line = refused(&server, None, "org/name").await;
    expect!["cannot resolve org/name@main at http://hub/: the model is gated: no token was given; ask for access at http://hub/org/name, then give a token with --token-file"].assert_eq(&line);
}

/// Pages of one file each; `link` makes the header of page `n`.
async fn paged(link: impl Fn(usize) -> Option<String> + Clone + Send + Sync + 'static) -> Server {
    server(move |asked| {
        if !asked.target.contains("/tree/") {
            return None;
        }
        let page = asked
            .target
            .split("page=")
            .nth(1)
            .map_or(0, |n| n.parse().unwrap());
        let entry = json!([{
            "type": "file", "path": format!("file-{page}.json"), "oid": git_sha1(b"x"), "size": 1
        }]);
        let answer = answer_json(&entry);
        Some(match link(page) {
            Some(link) => with(answer, &[("link", &link)]),
            None => answer,
        })
    })
    .await
}

#[tokio::test]
async fn every_page_of_a_file_list_is_read() {
    let server = paged(|page| {
        let next = format!(
            "<https://other/>; rel=\"xet-auth\", <?recursive=true&cursor=a,b&page={}>; rel=\"next\"",
            page + 1
        );
        (page < 4).then_some(next)
    })
    .await;
    let plan = resolved(&server, "org/name").await.unwrap().plan;
    assert_eq!(plan.files.len(), 5);
    assert_eq!(server.asked().len(), 6);
}

#[tokio::test]
async fn pages_that_lead_elsewhere_repeat_themselves_or_never_end_are_refused() {
    let elsewhere = server(|_| None).await;
    let address = elsewhere.url.clone();
    let server = paged(move |_| Some(format!("<{address}x?page=1>; rel=\"next\""))).await;
    let line = refused(&server, Some(TOKEN), "org/name").await;
    assert!(
        line.contains("the next page of the file list is at"),
        "{line}"
    );
    assert_eq!(elsewhere.asked().len(), 0);

    let server = paged(|_| Some("<?page=0>; rel=\"next\"".to_owned())).await;
    let line = refused(&server, None, "org/name").await;
    assert!(line.contains("file-0.json: is listed twice"), "{line}");

    let server = paged(|page| Some(format!("<?page={}>; rel=\"next\"", page + 1))).await;
    let line = refused(&server, None, "org/name").await;
    assert!(line.contains("more than 400 pages of files"), "{line}");
    // Each once, but for a try that timed out under load.
    let asked = server.asked().into_iter().map(|asked| asked.target);
    let asked: std::collections::BTreeSet<String> = asked.collect();
    assert_eq!(asked.len(), MAX_PAGES + 1);
}

#[tokio::test]
async fn every_refusal_of_the_hub_is_one_line_that_says_what_to_do() {
    type Case = (&'static str, Option<&'static str>, fn() -> Answer);
    let disabled = || {
        let said = [("x-error-message", "Access to this resource is disabled.")];
        with(status(403), &said)
    };
    let cases: [Case; 12] = [
        ("typo, no token", None, || refusal(401, "RepoNotFound")),
        ("typo, token", Some(TOKEN), || refusal(404, "RepoNotFound")),
        ("no code, no token", None, || status(401)),
        ("bad token", Some(TOKEN), || {
            with(
                status(401),
                &[("x-error-message", "Invalid username or password.")],
            )
        }),
        ("gated, no token", None, || refusal(401, "GatedRepo")),
        ("gated, token", Some(TOKEN), || {
            let said = [("x-error-message", "Access is restricted. Ask\tfor it.")];
            with(refusal(403, "GatedRepo"), &said)
        }),
        ("revision", None, || refusal(404, "RevisionNotFound")),
        ("disabled", Some(TOKEN), disabled),
        ("forbidden", Some(TOKEN), || status(403)),
        ("portal", None, || {
            let page = answer_json(&json!("<html>"));
            let mut page = with(page, &[]);
            page.headers_mut()
                .insert("content-type", "text/html".parse().unwrap());
            page
        }),
        ("teapot", None, || status(418)),
        ("long limit", None, || {
            with(status(429), &[("ratelimit", "\"api\";r=0;t=4000")])
        }),
    ];
    let mut lines = String::new();
    for (name, token, answer) in cases {
        let server = server(move |asked| asked.target.contains("/revision/").then(answer)).await;
        lines += &format!("{name}: {}\n", refused(&server, token, "org/name@v1").await);
        assert_eq!(server.asked().len(), 1, "{name} is final");
    }
    expect![[r#"
        typo, no token: cannot resolve org/name@v1 at http://hub/: the Hub shows no such model: check the spelling; if it is private, give a token with --token-file
        typo, token: cannot resolve org/name@v1 at http://hub/: the Hub shows no such model: check the spelling; if it is private, use a token of an account that may read it
        no code, no token: cannot resolve org/name@v1 at http://hub/: the Hub shows no such model: check the spelling; if it is private, give a token with --token-file
        bad token: cannot resolve org/name@v1 at http://hub/: the Hub refused the token ("Invalid username or password."): make a new one at http://hub/settings/tokens and give that
        gated, no token: cannot resolve org/name@v1 at http://hub/: the model is gated: no token was given; ask for access at http://hub/org/name, then give a token with --token-file
        gated, token: cannot resolve org/name@v1 at http://hub/: the model is gated: the token's account has no access ("Access is restricted. Ask for it."); ask for access with that account at http://hub/org/name, and let the token read gated repositories
        revision: cannot resolve org/name@v1 at http://hub/: the model has no such revision: see its branches and tags at http://hub/org/name/tree/main
        disabled: cannot resolve org/name@v1 at http://hub/: the Hub has disabled the model: choose another, or ask its owner
        forbidden: cannot resolve org/name@v1 at http://hub/: the Hub answered 403 Forbidden: if it is private, use a token of an account that may read it
        portal: cannot resolve org/name@v1 at http://hub/: http://hub/api/models/org/name/revision/v1 answered with text/html instead of the Hub's JSON: check the endpoint, and whether a proxy or portal answers in its place: invalid type: string "<html>", expected struct Info at line 1 column 8
        teapot: cannot resolve org/name@v1 at http://hub/: http://hub/api/models/org/name/revision/v1 answered 418 I'm a teapot: check the endpoint
        long limit: cannot resolve org/name@v1 at http://hub/: the Hub's rate limit asks to wait 4001 s: try again then, or give a token with --token-file, which has a quota of its own
    "#]].assert_eq(&lines);
}

fn listing(entries: Value) -> impl Fn(&Asked) -> Option<Answer> + Clone {
    move |asked| {
        asked
            .target
            .contains("/tree/")
            .then(|| answer_json(&entries))
    }
}

#[tokio::test]
async fn a_file_list_that_cannot_be_stored_or_verified_is_refused_as_a_whole() {
    let oid = git_sha1(b"x");
    let sha = sha256(b"x");
    let named = |path: &str| {
        json!([
            {"type": "file", "path": "config.json", "oid": oid, "size": 1},
            {"type": "file", "path": path, "oid": oid, "size": 1},
        ])
    };
    let cases = [
        named("../../../etc/cron.d/x"),
        named("/etc/passwd"),
        named("a\\..\\b"),
        named("C:x"),
        named("nul\u{0}byte"),
        named("Config.json"),
        named("config.json/x"),
        named("config.json"),
        named(&"x".repeat(300)),
        named(&["d"; 5000].join("/")),
        json!([]),
        json!([{"type": "directory", "path": "empty", "oid": oid, "size": 0}]),
        json!([{"type": "file", "path": "a.safetensors", "oid": oid, "size": 1, "lfs": {"size": 1}}]),
        json!([{"type": "file", "path": "a.safetensors", "oid": oid, "size": 1, "lfs": {"oid": "abc", "size": 1}}]),
        json!([{"type": "file", "path": "a.safetensors", "oid": oid, "size": 1, "lfs": {"oid": sha, "size": 2}}]),
        json!([
            {"type": "file", "path": "a.safetensors", "oid": oid, "size": 1, "lfs": {"oid": sha, "size": 1}},
            {"type": "file", "path": "b.safetensors", "oid": oid, "size": 2, "lfs": {"oid": sha, "size": 2}},
        ]),
        json!([{"type": "file", "path": "a.json", "oid": "main", "size": 1}]),
        json!([{"type": "file", "path": "a.json", "oid": oid, "size": u64::MAX}]),
        json!([{"type": "file", "path": "a.json", "oid": oid, "size": -1}]),
        json!({"error": "no list"}),
    ];
    let mut lines = String::new();
    for case in cases {
        let server = server(listing(case)).await;
        let line = refused(&server, None, "org/name").await;
        let line = line
            .strip_prefix("cannot resolve org/name@main at http://hub/: ")
            .unwrap();
        let short: String = line.chars().take(240).collect();
        lines += &(short + "\n");
    }
    expect![[r#"
        the repository is refused as a whole for one of its names: file name "../../../etc/cron.d/x" has a component "..": refused
        the repository is refused as a whole for one of its names: file name "/etc/passwd" is absolute: refused
        the repository is refused as a whole for one of its names: file name "a\\..\\b" contains '\\': refused
        the repository is refused as a whole for one of its names: file name "C:x" names a drive: refused
        the repository is refused as a whole for one of its names: file name "nul\0byte" contains '\0': refused
        the plan of org/name cannot be laid out: file name "config.json" collides with "Config.json" on some file systems: refused
        the plan of org/name cannot be laid out: file name "config.json/x" collides with "config.json" on some file systems: refused
        the Hub's file list is unusable: config.json: is listed twice; nothing can be verified by it
        the repository is refused as a whole for one of its names: file name "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        the repository is refused as a whole for one of its names: file name "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/
        the repository is empty at commit 0123456789abcdef0123456789abcdef01234567: choose another revision
        the repository is empty at commit 0123456789abcdef0123456789abcdef01234567: choose another revision
        the Hub's file list is unusable: a.safetensors: is a large file without sha256; nothing can be verified by it
        the Hub's file list is unusable: a.safetensors: is a large file without sha256; nothing can be verified by it
        the Hub's file list is unusable: a.safetensors: has 1 bytes in one place and 2 in another; nothing can be verified by it
        the Hub's file list is unusable: b.safetensors: has 2 bytes, and a file of the same digest 1; nothing can be verified by it
        the Hub's file list is unusable: a.json: has no git object id of 40 hex digits; nothing can be verified by it
        the Hub's file list is unusable: a.json: has 18446744073709551615 bytes; nothing can be verified by it
        http://hub/api/models/org/name/tree/0123456789abcdef0123456789abcdef01234567 answered with application/json instead of the Hub's JSON: check the endpoint, and whether a proxy or portal answers in its place: invalid value: integer `-1`, expe
        http://hub/api/models/org/name/tree/0123456789abcdef0123456789abcdef01234567 answered with application/json instead of the Hub's JSON: check the endpoint, and whether a proxy or portal answers in its place: invalid type: map, expected a seq
    "#]].assert_eq(&lines);
}

#[tokio::test]
async fn an_answer_without_end_and_one_nested_without_end_are_cut_off() {
    let endless = server(|asked| {
        let piece = || Ok::<_, std::io::Error>(axum::body::Bytes::from(vec![b' '; 1 << 20]));
        let body = Body::from_stream(stream::repeat_with(piece));
        asked.target.contains("/tree/").then(|| Answer::new(body))
    })
    .await;
    let line = refused(&endless, None, "org/name").await;
    assert!(
        line.contains("sent more than the 33554432 bytes allowed here"),
        "{line}"
    );

    let nested = server(|asked| {
        let body = Body::from("[".repeat(1_000_000));
        asked.target.contains("/tree/").then(|| Answer::new(body))
    })
    .await;
    let line = refused(&nested, None, "org/name").await;
    assert!(line.contains("instead of the Hub's JSON"), "{line}");
}

/// Fails the first `times` requests to the file list.
fn failing(times: usize, answer: fn() -> Answer) -> impl Fn(&Asked) -> Option<Answer> + Clone {
    let asked_before = Arc::new(AtomicUsize::new(0));
    move |asked| {
        let applies = asked.target.contains("/tree/");
        (applies && asked_before.fetch_add(1, Ordering::Relaxed) < times).then(answer)
    }
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    let limited = || with(status(429), &[("ratelimit", "\"api\";r=0;t=0")]);
    let later = || with(status(503), &[("retry-after", "1")]);
    let cut = || {
        let gone = || Err::<axum::body::Bytes, _>(std::io::Error::other("gone"));
        Answer::new(Body::from_stream(stream::repeat_with(gone)))
    };
    type Case = (usize, fn() -> Answer, Duration);
    let cases: [Case; 5] = [
        (2, || status(503), Duration::ZERO),
        (2, || status(500), Duration::ZERO),
        (1, cut, Duration::ZERO),
        (1, limited, Duration::from_secs(1)),
        (1, later, Duration::from_secs(1)),
    ];
    for (number, (times, answer, least)) in cases.into_iter().enumerate() {
        let server = server(failing(times, answer)).await;
        let start = std::time::Instant::now();
        let plan = resolved(&server, "org/name").await.unwrap().plan;
        assert_eq!(plan.files.len(), 4, "case {number}");
        assert_eq!(server.asked().len(), 2 + times, "case {number}");
        assert!(start.elapsed() >= least, "case {number}");
    }
}

#[tokio::test]
async fn trouble_that_stays_ends_in_a_line_that_says_how_often_it_was_tried() {
    let broken = server(failing(usize::MAX, || status(502))).await;
    let error = resolved(&broken, "org/name").await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        chain(&error).ends_with("answered 502 Bad Gateway: try again later"),
        "{}",
        chain(&error)
    );
    assert_eq!(broken.asked().len(), 4);

    let gone = server(|_| None).await;
    let (hub, url) = (gone.hub(None), gone.url.clone());
    drop(gone);
    let closed = async {
        while tokio::net::TcpStream::connect((url.host_str().unwrap(), url.port().unwrap()))
            .await
            .is_ok()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed)
        .await
        .unwrap();
    let error = hub.resolve(&http(), &model("org/name")).await.unwrap_err();
    assert!(error.is_transient());
    assert!(
        chain(&error).contains("no answer after 3 tries: no connection to"),
        "{}",
        chain(&error)
    );
}

#[tokio::test]
async fn a_hub_that_accepts_and_never_answers_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap())
        .parse()
        .unwrap();
    let patience = crate::endpoint::Patience {
        tries: 2,
        headers: Duration::from_millis(100),
        pause: Duration::from_millis(5),
        ..Default::default()
    };
    let hub = Hub::new(url, None).with_patience(patience);
    let error = hub.resolve(&http(), &model("org/name")).await.unwrap_err();
    assert!(
        chain(&error).contains("sent no response headers in time (check that it is up"),
        "{}",
        chain(&error)
    );
    drop(listener);
}

#[tokio::test]
async fn a_branch_that_moves_between_the_two_questions_is_resolved_once_more() {
    let infos = Arc::new(AtomicUsize::new(0));
    let moving = move |asked: &Asked| {
        let first = json!({"sha": OTHER});
        let gone = format!("/tree/{OTHER}");
        match asked.target.contains("/revision/") {
            true => (infos.fetch_add(1, Ordering::Relaxed) == 0).then(|| answer_json(&first)),
            false => asked
                .target
                .contains(&gone)
                .then(|| refusal(404, "RevisionNotFound")),
        }
    };
    let server = server(moving).await;
    assert_eq!(
        resolved(&server, "org/name").await.unwrap().plan.commit,
        commit()
    );
    assert_eq!(server.asked().len(), 4);
}

#[tokio::test]
async fn a_branch_that_points_nowhere_and_a_commit_that_is_another_are_refused() {
    let nowhere = |asked: &Asked| match asked.target.contains("/tree/") {
        true => Some(refusal(404, "RevisionNotFound")),
        false => None,
    };
    let nowhere = server(nowhere).await;
    let line = refused(&nowhere, None, "org/name").await;
    assert!(
        line.contains(&format!("the revision points to commit {COMMIT}")),
        "{line}"
    );
    let line = refused(&nowhere, None, &format!("org/name@{COMMIT}")).await;
    assert!(line.contains("the model has no such revision"), "{line}");

    let other = server(|asked| {
        let info = json!({"sha": COMMIT});
        asked.target.contains(OTHER).then(|| answer_json(&info))
    })
    .await;
    let line = refused(&other, None, &format!("org/name@{OTHER}")).await;
    assert!(
        line.contains(&format!("the Hub answered with commit {COMMIT}")),
        "{line}"
    );
}

#[tokio::test]
async fn the_token_goes_to_the_endpoint_and_stays_there_when_it_redirects() {
    let trap = server(|_| None).await;
    let there = trap.url.clone();
    let hub = server(move |asked| {
        let to = format!("{}{}", there, asked.target.trim_start_matches('/'));
        Some(with(status(307), &[("location", &to)]))
    })
    .await;
    let plan = hub
        .hub(Some(TOKEN))
        .resolve(&http(), &model("org/name"))
        .await
        .unwrap()
        .plan;
    assert_eq!(plan.files.len(), 4);
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        hub.asked()
            .iter()
            .all(|asked| asked.header("authorization") == Some(&bearer))
    );
    assert_eq!(trap.asked().len(), 2);
    assert!(
        trap.asked()
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[test]
fn a_token_is_one_word_and_shows_nowhere() {
    let token: Token = format!("  {TOKEN}\n").parse().unwrap();
    let hub = Hub::new(
        "https://user:secret@hub.test/?x=secret".parse().unwrap(),
        Some(token),
    );
    let shown = format!("{hub:?}");
    assert!(
        !shown.contains(TOKEN) && !shown.contains("secret"),
        "{shown}"
    );
    for text in ["", " \n", "two words", "caf\u{e9}", "a\nb"] {
        let error = text.parse::<Token>().unwrap_err().to_string();
        assert!(
            error.starts_with("the token is ") && !error.contains('\n'),
            "{error}"
        );
    }
}
