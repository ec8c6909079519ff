//! The `aws` provider keeps every provider's promises, and some of its own.

use headstart_fake_clouds::aws::Aws;

headstart_fake_clouds::conformance!(Aws::start().unwrap());

mod own {
    use std::collections::BTreeMap;

    use headstart_clouds::aws::credentials::Source;
    use headstart_clouds::aws::sign::Keys;
    use headstart_fake_clouds::aws::{Aws, KEYS};
    use headstart_fake_clouds::{CLUSTER, Cloud as _};
    use headstart_provider::aws::Settings;
    use headstart_provider::{Instance, InstanceState, Provider, Refusal, Wanted};
    use serde_json::{Value, json};

    fn wanted(cloud: &Aws, claim: &str, more: &[(&str, Value)]) -> Wanted {
        let mut settings = cloud.settings();
        for (name, value) in more {
            settings.insert((*name).to_owned(), value.clone());
        }
        Wanted {
            claim: claim.to_owned(),
            offering: cloud.offerings().spot,
            labels: BTreeMap::new(),
            startup_taints: Vec::new(),
            taints: Vec::new(),
            settings,
            intent: String::new(),
        }
    }

    async fn buy(cloud: &Aws, more: &[(&str, Value)]) -> Result<Instance, Refusal> {
        let provider = cloud.provider(CLUSTER);
        provider.ensure(&wanted(cloud, "gpu-a", more)).await
    }

    fn id(instance: &Instance) -> &str {
        instance.provider_id.rsplit('/').next().unwrap_or_default()
    }

    #[tokio::test]
    async fn a_token_whose_parameters_changed_gets_the_machine_it_stands_for() {
        let cloud = Aws::start().unwrap();
        let first = buy(&cloud, &[]).await.unwrap();
        // Missing in the list that is looked at first, there in the one after the mismatch.
        cloud.control().hide_new(1);
        let provider = cloud.provider(CLUSTER);
        let other = wanted(&cloud, "gpu-b", &[]);
        let second = provider.ensure(&other).await.unwrap();
        let changed = wanted(&cloud, "gpu-b", &[("imageId", json!("ami-0c123"))]);
        let again = provider.ensure(&changed).await.unwrap();
        assert_eq!(again.provider_id, second.provider_id);
        assert_ne!(first.provider_id, second.provider_id);
        assert_eq!(cloud.control().bought(), 2);
    }

    #[tokio::test]
    async fn a_claim_whose_machine_ended_gets_no_other() {
        let cloud = Aws::start().unwrap();
        let bought = buy(&cloud, &[]).await.unwrap();
        cloud.control().vanish(id(&bought));
        let again = buy(&cloud, &[]).await.unwrap();
        assert_eq!(again.provider_id, bought.provider_id);
        assert_eq!(again.state, InstanceState::Ending);
        assert_eq!(cloud.control().bought(), 1);
    }

    #[tokio::test]
    async fn only_warnings_of_our_machines_interrupt_and_only_others_news_is_left() {
        let cloud = Aws::start().unwrap();
        let bought = buy(&cloud, &[]).await.unwrap();
        let event = |kind: &str, id: &str, time: &str| {
            let detail = json!({"instance-id": id});
            cloud.send(&json!({"detail-type": kind, "time": time, "detail": detail}).to_string());
        };
        let warning = "EC2 Spot Instance Interruption Warning";
        let (now, old) = (jiff::Timestamp::now().to_string(), "2026-01-01T00:00:00Z");
        event("EC2 Instance Rebalance Recommendation", id(&bought), &now);
        event(warning, "i-0ffffffffffffffff", old);
        cloud.send("<not json>");
        event(warning, "i-0eeeeeeeeeeeeeeee", &now);
        let listed = cloud.provider(CLUSTER).instances().await.unwrap();
        assert_eq!(listed[0].state, InstanceState::Running);
        assert_eq!(cloud.waiting(), 1, "that of another's young machine");
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_by_its_field_and_buys_nothing() {
        let cloud = Aws::start().unwrap();
        let cases = [
            ("imageId", json!("ami-0gone"), "spec.provider.imageId"),
            ("subnets", json!(["subnet-0b1"]), "spec.provider.subnets"),
            (
                "subnetTags",
                json!({"none": "such"}),
                "spec.provider.subnetTags",
            ),
            (
                "securityGroups",
                json!(["sg-0gone"]),
                "spec.provider.securityGroups",
            ),
            (
                "instanceProfile",
                json!("gone"),
                "spec.provider.instanceProfile",
            ),
        ];
        for (name, value, field) in cases {
            let refused = buy(&cloud, &[(name, value)]).await.unwrap_err();
            let Refusal::Misconfigured { field: told, .. } = &refused else {
                panic!("{refused:?}");
            };
            assert_eq!(told, field, "{refused}");
        }
        assert_eq!(cloud.control().bought(), 0);
    }

    #[tokio::test]
    async fn keys_come_from_every_source_that_aws_has() {
        let cloud = Aws::start().unwrap();
        let token = format!(
            "{}/token-{}",
            std::env::temp_dir().display(),
            std::process::id()
        );
        std::fs::write(&token, "a.token.of-a-service-account\n").unwrap();
        let file = format!(
            "{}/keys-{}",
            std::env::temp_dir().display(),
            std::process::id()
        );
        let (id, secret) = KEYS;
        let text = format!("[work]\naws_access_key_id={id}\naws_secret_access_key={secret}\n");
        std::fs::write(&file, text).unwrap();
        let endpoint = || cloud.url().parse().unwrap();
        let sources = [
            Aws::given(),
            Source::WebIdentity {
                endpoint: endpoint(),
                role: "arn:aws:iam::123456789012:role/headstart".to_owned(),
                session: "test".to_owned(),
                token: token.clone().into(),
            },
            Source::Profile {
                path: file.clone().into(),
                profile: "work".to_owned(),
            },
            Source::Instance {
                endpoint: endpoint(),
            },
        ];
        for source in sources {
            let told = format!("{source:?}");
            let provider = cloud.provider_with(CLUSTER, source, Settings::default());
            assert_eq!(provider.instances().await, Ok(Vec::new()), "{told}");
        }
        std::fs::write(&file, "[work]\naws_access_key_id\n").unwrap();
        let source = Source::Profile {
            path: file.clone().into(),
            profile: "work".to_owned(),
        };
        let provider = cloud.provider_with(CLUSTER, source, Settings::default());
        let refused = provider.instances().await.unwrap_err().to_string();
        assert!(
            refused.contains("line 2") && refused.contains(&file),
            "{refused}"
        );
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_file(&token).unwrap();
    }

    #[tokio::test]
    async fn a_wrong_key_is_told_first_and_nothing_else_is_asked() {
        let cloud = Aws::start().unwrap();
        let source = Source::Given(Keys {
            id: KEYS.0.to_owned(),
            secret: "wrong".to_owned(),
            session: None,
        });
        let provider = cloud.provider_with(CLUSTER, source, Settings::default());
        let found = provider.examine(&cloud.settings()).await;
        assert_eq!(found.len(), 1);
        assert!(found[0].is_wrong(), "{}", found[0]);
        assert!(
            found[0].to_string().contains("valid credentials"),
            "{}",
            found[0]
        );
    }
}
