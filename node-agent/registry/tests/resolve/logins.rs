//! Logins: which is shown to whom, and for how long what comes of it is used.

use headstart_registry::{Keychain, ResolveError, Secret};
use headstart_transfer::net::HostPort;
use serde_json::json;

use crate::server::{Auth, Seen, Server};
use crate::{login, put_image, registries, resolve, token_auth};

#[tokio::test]
async fn a_token_is_fetched_once_with_the_login_and_the_login_goes_nowhere_else() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(Server::policy(&[&server]), keychain);
    let (a, b) = tokio::join!(
        resolve(&registries, &server, ":v1"),
        resolve(&registries, &server, ":v1")
    );
    let (a, b) = (a.unwrap(), b.unwrap());
    let repository = format!("{}/team/app", server.address);
    assert_eq!(a.secret, Secret::NeededFor { repository });
    assert_eq!(a.secret, b.secret);
    let log = server.log();
    let with_login = |path: &str| {
        let basic = |seen: &&Seen| {
            seen.path.starts_with(path)
                && seen
                    .authorization
                    .as_ref()
                    .is_some_and(|a| a.starts_with("Basic"))
        };
        log.iter().filter(basic).count()
    };
    assert_eq!(with_login("/token"), 1);
    assert_eq!(with_login("/v2"), 0);
}

#[tokio::test]
async fn a_token_is_used_until_it_runs_out_and_renewed_before_it_is_refused() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let logins = login(&server.address, "ann", "secret-word");
    let with_login = |server: &Server| {
        let tokens = server
            .log()
            .into_iter()
            .filter(|seen| seen.path == "/token");
        tokens.filter(|seen| seen.authorization.is_some()).count()
    };
    let long = registries(Server::policy(&[&server]), logins.clone());
    for _ in 0..3 {
        resolve(&long, &server, ":v1").await.unwrap();
    }
    assert_eq!(with_login(&server), 1);
    // The server takes these tokens for ever: only their announced life makes for new ones.
    server.with(|content| content.token_life = Some(1));
    let short = registries(Server::policy(&[&server]), logins);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while with_login(&server) < 3 {
        assert!(std::time::Instant::now() < deadline);
        resolve(&short, &server, ":v1").await.unwrap();
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_in_a_form_and_never_in_a_url() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let json = json!({"auths": {&server.address: {"identitytoken": "refresh-word"}}});
    let keychain = Keychain::read(json.to_string().as_bytes(), "test.json").unwrap();
    let registries = registries(Server::policy(&[&server]), keychain);
    resolve(&registries, &server, ":v1").await.unwrap();
    assert!(
        server
            .log()
            .iter()
            .all(|seen| !seen.query.contains("refresh-word"))
    );
}

#[tokio::test]
async fn a_public_image_behind_tokens_is_known_to_be_public_whatever_login_is_used() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    server.with(|content| content.public.push("team/app".to_owned()));
    let right = login(&server.address, "ann", "secret-word");
    let stale = login(&server.address, "ann", "yesterday's");
    for keychain in [Keychain::default(), right, stale] {
        let registries = registries(Server::policy(&[&server]), keychain);
        let resolved = resolve(&registries, &server, ":v1").await.unwrap();
        assert_eq!(resolved.secret, Secret::Anonymous);
    }
}

#[tokio::test]
async fn basic_authentication_works_and_a_wrong_password_says_which_login_was_refused() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        content.auth = Auth::Basic;
        content.user = "ann:secret-word".to_owned();
    });
    let right = registries(
        Server::policy(&[&server]),
        login(&server.address, "ann", "secret-word"),
    );
    let resolved = resolve(&right, &server, ":v1").await.unwrap();
    assert!(matches!(resolved.secret, Secret::NeededFor { .. }));
    let wrong = right.with_keychain(login(&server.address, "ann", "guess"));
    let error = resolve(&wrong, &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Unauthorized { .. }));
    let text = error.to_string();
    assert!(text.contains("refused the login from test.json"), "{text}");
    assert!(!text.contains("guess"), "{text}");
    let none = right.with_keychain(Keychain::default());
    let error = resolve(&none, &server, ":v1").await.unwrap_err();
    assert!(matches!(error, ResolveError::Unauthorized { .. }));
}

#[tokio::test]
async fn of_two_logins_for_one_registry_the_one_that_is_accepted_is_used() {
    let server = Server::start().await;
    put_image(&server, "v1", "amd64");
    token_auth(&server);
    let mut keychain = login(&server.address, "bob", "wrong");
    keychain.extend(login(&server.address, "ann", "secret-word"));
    let registries = registries(Server::policy(&[&server]), keychain);
    resolve(&registries, &server, ":v1").await.unwrap();
}

#[tokio::test]
async fn a_realm_on_another_site_gets_no_login_and_the_error_says_how_to_allow_it() {
    let server = Server::start().await;
    let trap = Server::start().await;
    put_image(&server, "v1", "amd64");
    server.with(|content| {
        content.auth = Auth::Token {
            // Another name for the same machine is another host.
            realm: format!(
                "http://{}/token",
                trap.address.replace("127.0.0.1", "localhost")
            ),
        };
    });
    let mut policy = Server::policy(&[&server]);
    policy.trust_plain_http(HostPort::parse("localhost").unwrap());
    let keychain = login(&server.address, "ann", "secret-word");
    let registries = registries(policy, keychain);
    let error = resolve(&registries, &server, ":v1").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--trust-realm localhost:"), "{text}");
    // It was asked, without login, as anybody may.
    assert!(trap.asked("/token") > 0);
    let told: String = trap.secrets_seen().concat();
    assert!(
        !told.contains("Basic") && !told.contains("secret-word"),
        "{told}"
    );

    let host = HostPort::parse("localhost").unwrap();
    trap.with(|content| content.user = "ann:secret-word".to_owned());
    let trusting = registries.trust_realms(vec![host]);
    let _ = resolve(&trusting, &server, ":v1").await;
    assert!(trap.secrets_seen().concat().contains("Basic"));
}

#[tokio::test]
async fn hostile_realms_are_never_asked() {
    for realm in [
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://10.0.0.1/token".to_owned(),
        "ftp://127.0.0.1/token".to_owned(),
        "http://user:pw@127.0.0.1/token".to_owned(),
        format!("http://127.0.0.1/{}", "x".repeat(64 << 10)),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let server = Server::start().await;
        put_image(&server, "v1", "amd64");
        server.with(|content| {
            content.auth = Auth::Token {
                realm: realm.clone(),
            }
        });
        let keychain = login(&server.address, "ann", "secret-word");
        let registries = registries(Server::policy(&[&server]), keychain);
        let error = resolve(&registries, &server, ":v1").await.unwrap_err();
        assert!(!error.is_transient(), "{realm:.60}: {error}");
    }
}
