//! Grants asked at the testbed's Hub, as it is and as it is not there.

use headstart_core::model::ModelRef;
use headstart_testbed::hub::{Access as Who, Hub as Server, Options, RepoFile};
use headstart_testbed::serve::{Fault, When};
use headstart_transfer::net::{HostPolicy, HostPort};

use super::*;
use crate::csi::PATIENCE;

const REPO: &str = "org/gated";

struct World {
    server: Server,
    directory: tempfile::TempDir,
    commit: Commit,
}

impl World {
    async fn new(access: Who) -> Self {
        let server = Server::start(Options::default()).await.unwrap();
        let file = RepoFile::new("config.json", b"{}".to_vec()).unwrap();
        let commit = server.commit(REPO, "main", vec![file]);
        server.set_access(REPO, access).unwrap();
        for (token, user) in [("hf_right", "a"), ("hf_other", "b")] {
            server.add_token(token, user);
        }
        server.grant("hf_right", REPO).unwrap();
        Self {
            server,
            directory: tempfile::tempdir().unwrap(),
            commit: commit
                .parse::<headstart_core::model::Revision>()
                .unwrap()
                .commit()
                .unwrap(),
        }
    }

    fn grants(&self, rules: GrantRules) -> Grants {
        let mut policy = HostPolicy::default();
        policy.trust_plain_http(HostPort::parse("127.0.0.1").unwrap());
        let patience = headstart_hub::endpoint::Patience {
            tries: 1,
            headers: Duration::from_millis(500),
            ..PATIENCE
        };
        let hub = Hub::new(self.server.endpoint().parse().unwrap(), None).with_patience(patience);
        let path = self.directory.path().join("grants.json");
        Grants::open(hub, Http::new(policy).unwrap(), rules, path)
    }

    async fn ask(&self, grants: &Grants, token: Option<&str>) -> Access {
        let repo = REPO.parse::<ModelRef>().unwrap().repo;
        let token: Option<Token> = token.map(|token| token.parse().unwrap());
        grants.ask(&repo, &self.commit, token.as_ref()).await
    }

    fn asked(&self) -> usize {
        self.server.log().matching(|_| true).len()
    }

    fn goes_away(&self) {
        self.server
            .faults()
            .add(When::path("/"), Fault::Status(503));
    }
}

#[tokio::test]
async fn an_acceptance_is_one_tokens_and_is_believed_for_a_while() {
    let world = World::new(Who::Gated).await;
    let grants = world.grants(GrantRules::default());
    let right = world.ask(&grants, Some("hf_right")).await;
    assert_eq!(right, Access::Granted(Opened::ToAsker));
    let before = world.asked();
    let again = world.ask(&grants, Some("hf_right")).await;
    assert_eq!((again, world.asked()), (right, before));
    let other = world.ask(&grants, Some("hf_other")).await;
    let Access::Refused(said) = other else {
        panic!("{other:?}");
    };
    assert!(said.contains("gated"), "{said}");
    let nobody = world.ask(&grants, None).await;
    assert!(matches!(nobody, Access::Refused(_)), "{nobody:?}");
}

#[tokio::test]
async fn a_refusal_is_forgotten_as_soon_as_the_rules_say() {
    let world = World::new(Who::Private).await;
    let grants = world.grants(GrantRules {
        refused: Duration::ZERO,
        ..GrantRules::default()
    });
    let refused = world.ask(&grants, Some("hf_other")).await;
    assert!(matches!(refused, Access::Refused(_)), "{refused:?}");
    world.server.grant("hf_other", REPO).unwrap();
    let granted = world.ask(&grants, Some("hf_other")).await;
    assert_eq!(granted, Access::Granted(Opened::ToAsker));
}

#[tokio::test]
async fn what_anybody_may_read_is_opened_without_showing_a_token() {
    let world = World::new(Who::Public).await;
    let grants = world.grants(GrantRules::default());
    let granted = world.ask(&grants, Some("hf_unknown")).await;
    assert_eq!(granted, Access::Granted(Opened::ToAnybody));
    assert!(
        world
            .server
            .log()
            .matching(|entry| entry.credential)
            .is_empty()
    );
}

#[tokio::test]
async fn without_the_hub_only_a_remembered_acceptance_counts_also_after_a_restart() {
    let world = World::new(Who::Gated).await;
    let rules = GrantRules {
        accepted: Duration::ZERO,
        ..GrantRules::default()
    };
    world.ask(&world.grants(rules), Some("hf_right")).await;
    let kept = std::fs::read_to_string(world.directory.path().join("grants.json")).unwrap();
    assert!(!kept.contains("hf_right"), "{kept}");
    world.goes_away();
    let grants = world.grants(rules);
    let right = world.ask(&grants, Some("hf_right")).await;
    assert_eq!(right, Access::Granted(Opened::ToAsker));
    for token in [None, Some("hf_other")] {
        let other = world.ask(&grants, token).await;
        assert!(matches!(other, Access::NoAnswer(_)), "{other:?}");
    }
    let forgetful = world.grants(GrantRules {
        remembered: Duration::ZERO,
        ..rules
    });
    let right = world.ask(&forgetful, Some("hf_right")).await;
    assert!(matches!(right, Access::NoAnswer(_)), "{right:?}");
}

#[tokio::test]
async fn a_hub_that_takes_access_back_is_heard_at_the_next_question() {
    let world = World::new(Who::Gated).await;
    let grants = world.grants(GrantRules {
        accepted: Duration::ZERO,
        ..GrantRules::default()
    });
    let before = world.ask(&grants, Some("hf_right")).await;
    assert!(matches!(before, Access::Granted(_)), "{before:?}");
    world.server.revoke("hf_right", REPO);
    let after = world.ask(&grants, Some("hf_right")).await;
    assert!(matches!(after, Access::Refused(_)), "{after:?}");
    world.goes_away();
    let later = world.ask(&grants, Some("hf_right")).await;
    assert!(!matches!(later, Access::Granted(_)), "{later:?}");
}

#[tokio::test]
async fn memory_is_bounded_and_a_broken_file_remembers_nothing() {
    let world = World::new(Who::Public).await;
    std::fs::write(world.directory.path().join("grants.json"), "{").unwrap();
    let grants = world.grants(GrantRules::default());
    let repo = REPO.parse::<ModelRef>().unwrap().repo;
    for number in 0..MOST as u64 + 10 {
        let token: Token = format!("hf_{number}").parse().unwrap();
        let question = Question::of(Some(&token), &repo, &world.commit);
        let at = Duration::from_secs(number);
        grants.note(question, Answer::Accepted { at });
    }
    assert!(grants.answers().len() <= MOST);
}
