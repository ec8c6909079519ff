use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;

fn read(json: serde_json::Value) -> Keychain {
    Keychain::read(json.to_string().as_bytes(), "test.json").unwrap()
}

/// Users of the logins found, best first.
fn users(keychain: &Keychain, registry: &str, repository: &str) -> Vec<String> {
    let user = |login: &Login| match &login.secret {
        LoginSecret::Basic { user, .. } => user.clone(),
        LoginSecret::Identity(token) => format!("identity {token}"),
        LoginSecret::Registry(token) => format!("registry {token}"),
    };
    let found = keychain.logins(registry, repository);
    found.into_iter().map(user).collect()
}

fn auth(user: &str) -> serde_json::Value {
    json!({"auth": STANDARD.encode(format!("{user}:pass:word"))})
}

#[test]
fn docker_hub_is_found_under_all_its_names() {
    for key in [
        "https://index.docker.io/v1/",
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
    ] {
        let keychain = read(json!({"auths": {key: auth("ann")}}));
        assert_eq!(users(&keychain, "docker.io", "library/x"), ["ann"], "{key}");
    }
}

#[test]
fn the_longest_path_comes_first_and_wildcards_stand_for_one_label() {
    let keychain = read(json!({"auths": {
        "reg.example.com": auth("host"),
        "reg.example.com/team": auth("team"),
        "reg.example.com/team/app": auth("app"),
        "*.example.com": auth("any"),
        "reg-*.example.com": auth("dash"),
        "*.com": auth("com"),
        "reg.example.com:5000": auth("port"),
        "http://plain.example.com/v2/": auth("plain"),
    }}));
    assert_eq!(
        users(&keychain, "reg.example.com", "team/app"),
        ["app", "team", "host", "any"]
    );
    assert_eq!(
        users(&keychain, "reg.example.com", "other"),
        ["host", "any"]
    );
    assert_eq!(users(&keychain, "reg.example.com:5000", "x"), ["port"]);
    assert_eq!(users(&keychain, "reg-7.example.com", "x").len(), 2);
    assert_eq!(users(&keychain, "plain.example.com", "x"), ["plain", "any"]);
    assert!(users(&keychain, "a.b.example.com", "x").is_empty());
    assert_eq!(users(&keychain, "example.com", "x"), ["com"]);
}

#[test]
fn every_form_of_a_login_is_read() {
    let keychain = read(json!({"auths": {
        "a.io": {"username": "u", "password": "p"},
        "b.io": {"auth": auth("ignored")["auth"], "identitytoken": "id"},
        "c.io": {"registrytoken": "rt"},
        "d.io": {},
        "e.io": {"auth": format!("{}\n", STANDARD.encode("u:p").trim_end_matches('='))},
    }}));
    assert_eq!(users(&keychain, "a.io", "x"), ["u"]);
    assert_eq!(users(&keychain, "b.io", "x"), ["identity id"]);
    assert_eq!(users(&keychain, "c.io", "x"), ["registry rt"]);
    assert!(users(&keychain, "d.io", "x").is_empty());
    assert_eq!(users(&keychain, "e.io", "x"), ["u"]);
    let login = keychain.logins("a.io", "x")[0].clone();
    let expected = LoginSecret::Basic {
        user: "u".into(),
        password: "p".into(),
    };
    assert!(login.secret == expected);
}

#[test]
fn kubernetes_secrets_are_read_alone_and_in_lists() {
    let config = json!({"auths": {"reg.io": auth("ann")}}).to_string();
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "pull", "labels": {"a": "b"}},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": STANDARD.encode(&config)},
    });
    let keychain = read(secret.clone());
    assert_eq!(users(&keychain, "reg.io", "x"), ["ann"]);
    assert_eq!(
        keychain.logins("reg.io", "x")[0].from,
        "test.json (secret pull)"
    );
    let old = json!({"kind": "Secret", "stringData": {".dockercfg": json!({"old.io": auth("bob")}).to_string()}});
    let list = read(json!({"kind": "List", "items": [secret, old]}));
    assert_eq!(users(&list, "reg.io", "x"), ["ann"]);
    assert_eq!(users(&list, "old.io", "x"), ["bob"]);
}

#[test]
fn what_holds_no_login_is_refused_without_quoting_it() {
    for (json, word) in [
        ("{\"auths\": \"hunter2\"}", "line 1"),
        ("hunter2", "line 1"),
        ("{}", "has none"),
        ("{\"kind\": \"ConfigMap\"}", "found kind \"ConfigMap\""),
        (
            "{\"kind\": \"Secret\", \"data\": {\"password\": \"aHVudGVyMg==\"}}",
            "neither",
        ),
        (
            "{\"kind\": \"Secret\", \"data\": {\".dockerconfigjson\": \"%hunter2%\"}}",
            "base64",
        ),
        (
            "{\"auths\": {\"r.io\": {\"auth\": \"hunter2%\"}}}",
            "login for r.io",
        ),
        ("{\"credsStore\": \"desktop\"}", "credential helpers"),
        (
            "{\"credHelpers\": {\"gcr.io\": \"gcloud\"}}",
            "credential helpers",
        ),
    ] {
        let error = Keychain::read(json.as_bytes(), "f").unwrap_err();
        let text = headstart_transfer::chain(&error);
        assert!(text.contains(word), "{text}");
        assert!(
            !text.contains("hunter2") && text.lines().count() == 1,
            "{text}"
        );
    }
    let error = Keychain::open(Path::new("/nonexistent/config.json")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/config.json"));
}

#[test]
fn debug_shows_no_secret() {
    let keychain = read(json!({"auths": {
        "a.io": {"username": "u", "password": "hunter2"},
        "b.io": {"identitytoken": "hunter2"},
        "c.io": {"registrytoken": "hunter2"},
    }}));
    assert!(!format!("{keychain:?}").contains("hunter2"));
}
