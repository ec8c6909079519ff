//! The agent of a node against a real API server: its intent, its status, what its account may do,
//! and what it does while nobody answers.
//!
//! `HEADSTART_AGENT` names the binary; `cargo xtask e2e --test serve` builds it and sets it. Needs
//! root, for the cluster. Nodes here are objects only: no kubelet is needed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

#[path = "serve/site.rs"]
mod site;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;

use headstart_core::quantity::Rate;
use headstart_testbed::link::Shape;
use serde_json::{Value, json};
use site::{CACHES, Site, WAIT, item, state};

const MIB: u64 = 1 << 20;

#[test]
fn an_agent_serves_its_node_and_no_other_with_and_without_an_api_server() {
    let site = Site::up();
    only_the_own_nodes_status_can_be_written(&site);
    the_intent_is_followed_and_told_within_seconds(&site);
    an_api_server_that_is_away_stops_nothing(&site);
    a_deleted_object_takes_nothing_away_and_another_is_followed(&site);
    the_object_of_another_machine_of_that_name_is_left_alone(&site);
    a_node_that_was_bought_finds_the_object_of_its_claim(&site);
    a_notice_is_told_as_soon_as_somebody_listens(&site);
}

fn only_the_own_nodes_status_can_be_written(site: &Site) {
    site.node("a", &[]);
    site.node("b", &[]);
    for (name, labels) in [
        ("a", json!({})),
        ("b", json!({})),
        ("claim-of-a", json!({"headstart.dev/node": "a"})),
        ("claim-of-b", json!({"headstart.dev/node": "b"})),
        ("claim-of-nobody", json!({})),
    ] {
        site.cache(name, labels, 1, &[]);
    }
    let (mine, unbound) = (site.token_on("a"), site.token());
    let status = json!({"status": {"generation": 1, "problem": "tried"}});
    let spec = json!({"spec": {"generation": 9}});
    let cache = |name: &str| format!("{CACHES}/{name}");
    let of = |name: &str| format!("{CACHES}/{name}/status");
    let tries: [(&str, &str, String, &Value, u16); 17] = [
        (&mine, "PATCH", of("a"), &status, 200),
        (&mine, "PATCH", of("claim-of-a"), &status, 200),
        (&mine, "PATCH", of("b"), &status, 422),
        (&mine, "PATCH", of("claim-of-b"), &status, 422),
        (&mine, "PATCH", of("claim-of-nobody"), &status, 422),
        (&unbound, "PATCH", of("a"), &status, 422),
        (&mine, "PUT", of("a"), &status, 403),
        (&mine, "PATCH", cache("a"), &spec, 403),
        (&mine, "DELETE", cache("a"), &json!({}), 403),
        (&mine, "POST", CACHES.into(), &json!({}), 403),
        (
            &mine,
            "PATCH",
            "/api/v1/nodes/a".into(),
            &json!({"metadata": {"labels": {"x": "y"}}}),
            403,
        ),
        (
            &mine,
            "PATCH",
            "/api/v1/nodes/a/status".into(),
            &json!({}),
            403,
        ),
        (&mine, "GET", "/api/v1/secrets".into(), &json!({}), 403),
        (&mine, "GET", "/api/v1/pods".into(), &json!({}), 403),
        (
            &mine,
            "PATCH",
            "/apis/headstart.dev/v1alpha1/nodeclaims/x".into(),
            &spec,
            403,
        ),
        (&mine, "GET", cache("b"), &json!({}), 200),
        (&mine, "GET", "/api/v1/nodes/a".into(), &json!({}), 200),
    ];
    for (token, method, path, object, expected) in tries {
        let (code, said) = site.api().try_as(token, method, &path, object).unwrap();
        // A policy's refusal is 422 unless it names another reason.
        assert_eq!(code, expected, "{method} {path}: {said}");
        if code == 422 {
            assert!(
                said.contains("may not write") || said.contains("names no node"),
                "{said}"
            );
        }
    }
    for name in ["b", "claim-of-b", "claim-of-nobody"] {
        let found = site.api().find(&cache(name)).unwrap().unwrap();
        assert!(found["status"].is_null(), "{found:#}");
        site.api().delete(&cache(name)).unwrap();
    }
    site.api().delete(&cache("claim-of-a")).unwrap();
    site.api().delete(&cache("a")).unwrap();
}

fn the_intent_is_followed_and_told_within_seconds(site: &Site) {
    let tiny = site.commit("org/tiny", 1, MIB);
    let slow = site.commit("org/slow", 2, 24 * MIB);
    site.link.set(Shape {
        total: Some(Rate(2 * MIB)),
        ..Shape::default()
    });
    site.cache("a", json!({}), 1, &[&tiny, &slow]);
    let writes = site.writes();
    let started = Instant::now();
    let agent = site.agent("a", &site.token_on("a"));
    let path = format!("{CACHES}/a");
    let cache = site
        .api()
        .until(&path, WAIT, |cache| state(cache, &tiny) == Some("Verified"));
    let cache = cache.unwrap();
    let asked: jiff::Timestamp = cache["status"]["firstRequest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let begun: jiff::Timestamp = cache["status"]["agentStarted"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(asked.duration_since(begun).as_secs_f64() < 3.0, "{cache:#}");
    assert_eq!(cache["status"]["generation"], 1);
    let managers = cache["metadata"]["managedFields"].as_array().unwrap();
    let mut managers = managers
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap());
    assert!(
        managers.any(|manager| manager == "headstart-agent"),
        "{cache:#}"
    );
    let fetching = &cache["status"]["fetching"];
    assert_eq!(fetching[0]["model"], json!(slow), "{cache:#}");
    site.link.set(Shape::default());
    site.api()
        .until(&path, WAIT, |cache| state(cache, &slow) == Some("Verified"))
        .unwrap();
    // States, and bytes every ten seconds.
    let most = 8 + started.elapsed().as_secs() / 10;
    let wrote = site.writes() - writes;
    assert!(wrote <= most, "{wrote} writes in {:?}", started.elapsed());
    let resident = agent.resident();
    eprintln!("an idle agent with its watches has {resident} kB in use");
    assert!(resident < 64 << 10, "{resident} kB in use");
    agent.stop();
}

fn an_api_server_that_is_away_stops_nothing(site: &Site) {
    let slow = site.commit("org/away", 3, 16 * MIB);
    site.link.set(Shape {
        total: Some(Rate(4 * MIB)),
        ..Shape::default()
    });
    site.cache("a", json!({}), 2, &[&slow]);
    let token = site.token_on("a");
    let agent = site.agent("a", &token);
    let path = format!("{CACHES}/a");
    site.api()
        .until(&path, WAIT, |cache| state(cache, &slow) == Some("Partial"))
        .unwrap();
    site.door.close();
    // Also one that starts while it is away goes on.
    agent.kill();
    let agent = site.agent("a", &token);
    site.until("it is fetched without an API server", || {
        let status = site.status().unwrap_or_default();
        item(&status, &slow).is_some_and(|item| item["state"] == "Verified")
    });
    let found = site.api().find(&path).unwrap().unwrap();
    assert_ne!(state(&found, &slow), Some("Verified"));
    site.door.open();
    site.api()
        .until(&path, WAIT, |cache| state(cache, &slow) == Some("Verified"))
        .unwrap();
    agent.stop();
}

fn a_deleted_object_takes_nothing_away_and_another_is_followed(site: &Site) {
    let kept = site.commit("org/kept", 4, 16 * MIB);
    let next = site.commit("org/next", 5, MIB);
    site.link.set(Shape {
        total: Some(Rate(4 * MIB)),
        ..Shape::default()
    });
    site.cache("a", json!({}), 3, &[&kept]);
    let agent = site.agent("a", &site.token_on("a"));
    let path = format!("{CACHES}/a");
    site.api()
        .until(&path, WAIT, |cache| state(cache, &kept) == Some("Partial"))
        .unwrap();
    site.api().delete(&path).unwrap();
    site.until("it is fetched all the same", || {
        let status = site.status().unwrap_or_default();
        item(&status, &kept).is_some_and(|item| item["state"] == "Verified")
    });
    site.cache("a", json!({}), 1, &[&next]);
    let cache = site
        .api()
        .until(&path, WAIT, |cache| state(cache, &next) == Some("Verified"));
    let cache = cache.unwrap();
    assert_eq!(cache["status"]["generation"], 1);
    assert_eq!(state(&cache, &kept), Some("Verified"));
    agent.stop();
}

fn the_object_of_another_machine_of_that_name_is_left_alone(site: &Site) {
    let theirs = site.commit("org/theirs", 6, MIB);
    let ours = site.commit("org/ours", 7, MIB);
    let old = site.node_uid("a");
    site.api().delete(&format!("{CACHES}/a")).unwrap();
    site.api().delete("/api/v1/nodes/a").unwrap();
    site.node("a", &[]);
    let new = site.node_uid("a");
    assert_ne!(old, new);
    site.owned_cache("a", &old, 9, &[&theirs]);
    let agent = site.agent("a", &site.token_on("a"));
    site.until("it refuses", || {
        agent.log().contains("belongs to another node of this name")
    });
    let path = format!("{CACHES}/a");
    // The garbage collector takes what belongs to nobody away, sooner or later.
    if let Some(found) = site.api().find(&path).unwrap() {
        assert!(found["status"].is_null(), "{found:#}");
        let _ = site.api().delete(&path);
    }
    site.owned_cache("a", &new, 1, &[&ours]);
    let cache = site
        .api()
        .until(&path, WAIT, |cache| state(cache, &ours) == Some("Verified"));
    assert_eq!(state(&cache.unwrap(), &theirs), None);
    agent.stop();
}

fn a_node_that_was_bought_finds_the_object_of_its_claim(site: &Site) {
    let model = site.commit("org/claimed", 8, MIB);
    site.api().delete("/api/v1/nodes/b").unwrap();
    site.node("b", &[("headstart.dev/node-claim", "claim-7")]);
    site.cache("claim-7", json!({}), 1, &[&model]);
    let agent = site.agent("b", &site.token_on("b"));
    site.until("it may not write yet", || {
        agent.log().contains("status not written")
    });
    let path = format!("{CACHES}/claim-7");
    let label = json!({"metadata": {"labels": {"headstart.dev/node": "b"}}});
    site.api().patch(&path, &label).unwrap();
    site.api()
        .until(&path, WAIT, |cache| {
            state(cache, &model) == Some("Verified")
        })
        .unwrap();
    agent.stop();
}

fn a_notice_is_told_as_soon_as_somebody_listens(site: &Site) {
    let slow = site.commit("org/late", 9, 32 * MIB);
    let shape = Shape {
        total: Some(Rate(2 * MIB)),
        ..Shape::default()
    };
    site.link.set(shape);
    let ec2 = Ec2::open();
    let label = json!({"headstart.dev/node": "b"});
    site.cache("claim-7", label, 2, &[&slow]);
    let endpoint = ["--notice=aws", "--notice-endpoint", &ec2.url];
    let agent = site.agent_told("b", &site.token_on("b"), &endpoint);
    let path = format!("{CACHES}/claim-7");
    let cache = site
        .api()
        .until(&path, WAIT, |cache| state(cache, &slow) == Some("Partial"));
    assert!(cache.unwrap()["status"]["interruption"].is_null());
    site.door.close();
    ec2.is_taken.store(true, Ordering::Relaxed);
    site.until("it has heard of it, and its pods have the network", || {
        let status = site.status().unwrap_or_default();
        let status = &status["status"];
        status["interruption"]["kind"] == "Taken" && status["fetching"].is_null()
    });
    site.door.open();
    let cache = site.api().until(&path, WAIT, |cache| {
        cache["status"]["interruption"]["kind"] == "Taken"
    });
    let cache = cache.unwrap();
    let notice = &cache["status"]["interruption"];
    assert_eq!(notice["source"], "aws");
    assert!(notice["at"].is_string() && notice["noticed"].is_string());
    assert_eq!(state(&cache, &slow), Some("Partial"), "what came is kept");
    // A cloud that changes its mind is believed.
    ec2.is_taken.store(false, Ordering::Relaxed);
    site.link.set(Shape::default());
    let cache = site
        .api()
        .until(&path, WAIT, |cache| state(cache, &slow) == Some("Verified"));
    assert!(cache.unwrap()["status"]["interruption"].is_null());
    agent.stop();
}

/// EC2's metadata service, as far as it tells of the machine's end.
struct Ec2 {
    url: String,
    is_taken: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Ec2 {
    fn open() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listening = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = runtime.block_on(listening).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let is_taken = Arc::new(AtomicBool::new(false));
        let taken = is_taken.clone();
        let router = axum::Router::new().fallback(async move |uri: axum::http::Uri| {
            let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(120);
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
            match uri.path() {
                "/latest/api/token" => "token".into_response(),
                "/latest/meta-data/spot/instance-action" if taken.load(Ordering::Relaxed) => {
                    format!("{{\"action\": \"terminate\", \"time\": \"{at}\"}}").into_response()
                }
                _ => StatusCode::NOT_FOUND.into_response(),
            }
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            is_taken,
            _runtime: runtime,
        }
    }
}
