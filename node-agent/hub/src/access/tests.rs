//! Answers about who may read, and the lack of one.

use super::*;
use crate::scripted::{
    Answer, Asked, COMMIT, Server, TOKEN, answer_json, commit, http, refusal, status,
};

async fn asked(
    answer: impl Fn(&Asked) -> Answer + Clone + Send + Sync + 'static,
) -> (Server, Result<Verdict, HubError>) {
    let server = Server::start(answer).await;
    let repo = "org/name"
        .parse::<headstart_core::model::ModelRef>()
        .unwrap()
        .repo;
    let token: Token = "hf_ofThePod".parse().unwrap();
    let hub = server.hub(Some(TOKEN));
    let verdict = hub.may_read(&http(), &repo, &commit(), Some(&token)).await;
    (server, verdict)
}

#[tokio::test]
async fn a_grant_needs_the_repository_and_the_commit_and_is_asked_with_the_consumers_token() {
    let (server, verdict) = asked(|_| answer_json(&serde_json::json!({}))).await;
    assert!(matches!(verdict, Ok(Verdict::Granted)), "{verdict:?}");
    let lines = [
        "GET /api/models/org/name/auth-check".to_owned(),
        format!("GET /api/models/org/name/revision/{COMMIT}"),
    ];
    assert_eq!(server.targets(), lines);
    let own = |asked: &Asked| asked.header("authorization") == Some("Bearer hf_ofThePod");
    assert!(server.asked().iter().all(own));
}

#[tokio::test]
async fn a_denial_says_why_and_silence_is_neither() {
    let (_, verdict) = asked(|_| refusal(403, "GatedRepo")).await;
    assert!(
        matches!(verdict, Ok(Verdict::Denied(HubError::Gated { .. }))),
        "{verdict:?}"
    );
    let (_, verdict) = asked(|asked| match asked.target.contains("revision") {
        true => refusal(404, "RevisionNotFound"),
        false => status(200),
    })
    .await;
    assert!(
        matches!(verdict, Ok(Verdict::Denied(HubError::Revision { .. }))),
        "{verdict:?}"
    );
    let (server, verdict) = asked(|_| status(503)).await;
    assert!(verdict.unwrap_err().is_transient());
    assert_eq!(server.asked().len(), 3);
}
