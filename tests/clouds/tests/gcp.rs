//! The `gcp` provider keeps every provider's promises, and GKE's own habits do it no harm.

use std::sync::Arc;
use std::time::Duration;

use headstart_clouds::call::Patience;
use headstart_clouds::gcp::token::Source;
use headstart_fake_clouds::control::{Fault, Verb};
use headstart_fake_clouds::gcp::Google;
use headstart_fake_clouds::{CLUSTER, Cloud as _};
use headstart_provider::gcp::Gcp;
use headstart_provider::{Provider as _, Refusal, Release, Wanted};
use serde_json::json;

headstart_fake_clouds::conformance!(Google::start().unwrap());

fn wanted(google: &Google, claim: &str) -> Wanted {
    Wanted {
        claim: claim.to_owned(),
        offering: google.offerings().spot,
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: google.settings(),
        intent: String::new(),
    }
}

/// A provider that looks once at what is being made.
fn impatient(google: &Google) -> Arc<Gcp> {
    let endpoint = google.url().parse().expect("an address");
    let patience = Patience {
        tries: 1,
        total: Duration::ZERO,
    };
    google.provider_with(CLUSTER, Source::Metadata { endpoint }, patience)
}

#[tokio::test]
async fn machines_that_are_alike_are_of_one_pool_in_every_zone() {
    let google = Google::start().unwrap();
    let provider = google.provider(CLUSTER);
    let mut wanted = wanted(&google, "gpu-a");
    provider.ensure(&wanted).await.unwrap();
    wanted.claim = "gpu-b".to_owned();
    wanted.offering = google.offerings().elsewhere;
    provider.ensure(&wanted).await.unwrap();
    assert_eq!(google.pools().len(), 1);
    wanted.claim = "gpu-c".to_owned();
    wanted.labels.insert("team".to_owned(), "speech".to_owned());
    provider.ensure(&wanted).await.unwrap();
    assert_eq!(google.pools().len(), 2);
}

#[tokio::test]
async fn a_pool_that_is_being_made_is_a_reason_to_come_back() {
    let google = Google::start().unwrap();
    google.make_pools_slowly(3);
    let provider = impatient(&google);
    let wanted = wanted(&google, "gpu-a");
    let mut refused = 0;
    while let Err(refusal) = provider.ensure(&wanted).await {
        assert!(matches!(refusal, Refusal::Throttled { .. }), "{refusal}");
        refused += 1;
        assert!(refused < 5, "it is never made");
    }
    assert!(refused > 0);
    assert_eq!((google.pools().len(), google.control().bought()), (1, 1));
}

#[tokio::test]
async fn pools_at_once_have_a_limit_and_one_over_it_is_a_reason_to_come_back() {
    let google = Google::start().unwrap();
    google.make_pools_slowly(100);
    let provider = impatient(&google);
    for n in 0..6 {
        let mut wanted = wanted(&google, &format!("gpu-{n}"));
        wanted.labels.insert("number".to_owned(), n.to_string());
        let refused = provider.ensure(&wanted).await;
        assert!(
            matches!(refused, Err(Refusal::Throttled { .. })),
            "{refused:?}"
        );
    }
    assert_eq!((google.pools().len(), google.control().bought()), (5, 0));
}

#[tokio::test]
async fn a_pool_that_cannot_be_made_is_told_by_what_it_lacks() {
    let google = Google::start().unwrap();
    google.make_pools_slowly(0);
    google.fail_pools(json!({
        "code": 8,
        "message": "Google Compute Engine: [GCE_STOCKOUT]: the zone does not have enough resources.",
    }));
    let refused = google
        .provider(CLUSTER)
        .ensure(&wanted(&google, "gpu-a"))
        .await;
    assert!(
        matches!(
            refused,
            Err(Refusal::OutOfCapacity { .. } | Refusal::Other { .. })
        ),
        "{refused:?}"
    );
    assert_eq!(google.control().bought(), 0);
}

#[tokio::test]
async fn a_pool_deleted_by_hand_is_made_anew() {
    let google = Google::start().unwrap();
    let provider = google.provider(CLUSTER);
    provider.ensure(&wanted(&google, "gpu-a")).await.unwrap();
    google.delete_pool(&google.pools()[0]);
    // The first finds out, the second has it made.
    let first = provider.ensure(&wanted(&google, "gpu-b")).await;
    assert!(matches!(first, Err(Refusal::Other { .. })), "{first:?}");
    provider.ensure(&wanted(&google, "gpu-b")).await.unwrap();
    assert_eq!(google.pools().len(), 1);
    assert_eq!(provider.release("gpu-a").await, Ok(Release::Gone));
}

#[tokio::test]
async fn nothing_waits_in_a_group_after_a_refusal() {
    let google = Google::start().unwrap();
    google.control().stock(&google.offerings().spot, 0);
    let refused = google
        .provider(CLUSTER)
        .ensure(&wanted(&google, "gpu-a"))
        .await;
    assert!(
        matches!(refused, Err(Refusal::OutOfCapacity { .. })),
        "{refused:?}"
    );
    assert_eq!(google.waiting(), [] as [String; 0]);
}

#[tokio::test]
async fn what_waits_in_a_group_is_taken_out_in_the_end() {
    let google = Google::start().unwrap();
    google.control().stock(&google.offerings().spot, 0);
    google.control().plan(Verb::Delete, Fault::Failed, 3);
    let refused = google
        .provider(CLUSTER)
        .ensure(&wanted(&google, "gpu-a"))
        .await;
    // That it waits still must be told apart from a refusal that is final.
    assert!(matches!(refused, Err(Refusal::Other { .. })), "{refused:?}");
    assert_eq!(google.waiting().len(), 1);
    let provider = google.provider(CLUSTER);
    assert_eq!(provider.release("gpu-a").await, Ok(Release::Ending));
    assert_eq!(google.waiting(), [] as [String; 0]);
    assert_eq!(provider.release("gpu-a").await, Ok(Release::Gone));
    google.control().restock();
    assert_eq!(provider.instances().await, Ok(Vec::new()));
    assert_eq!(google.control().bought(), 0);
}

#[tokio::test]
async fn a_claim_that_makes_no_name_is_told_and_buys_nothing() {
    let google = Google::start().unwrap();
    let provider = google.provider(CLUSTER);
    let refused = provider.ensure(&wanted(&google, "gpu.a")).await;
    let Err(Refusal::Misconfigured { field, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(field, "metadata.name");
    assert_eq!((google.pools().len(), google.control().bought()), (0, 0));
    assert_eq!(provider.release("gpu.a").await, Ok(Release::Gone));
}

#[tokio::test]
async fn a_credential_file_gives_tokens_for_somebody_elses() {
    let google = Google::start().unwrap();
    let directory = std::env::temp_dir().join(format!("headstart-sts-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (subject, file) = (directory.join("token"), directory.join("credentials.json"));
    let written = json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p/providers/k8s",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": format!("{}/sts/v1/token", google.url()),
        "credential_source": {"file": subject, "format": {"type": "text"}},
    });
    std::fs::write(&file, written.to_string()).unwrap();
    std::fs::write(&subject, "subject\n").unwrap();
    let patience = Patience::default();
    let provider = google.provider_with(CLUSTER, Source::File(file.clone()), patience);
    provider.ensure(&wanted(&google, "gpu-a")).await.unwrap();

    std::fs::write(&subject, "somebody else").unwrap();
    let provider = google.provider_with(CLUSTER, Source::File(file), patience);
    let refused = provider.ensure(&wanted(&google, "gpu-b")).await;
    let Err(Refusal::Forbidden { said, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(said.contains("invalid_grant"), "{said}");
    std::fs::remove_dir_all(&directory).unwrap();
}
