//! Buying: the same key never buys twice.

use futures_util::future::join_all;

use super::{
    BTreeSet, CLUSTER, Cloud, Duration, Habit, INTENT, InstanceState, Refusal, SystemTime, buy,
    does_without, of, running, wanted,
};

pub async fn one_claim_gets_one_machine(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    assert_eq!(got.claim.as_deref(), Some("gpu-a"));
    assert_eq!(got.state, InstanceState::Running);
    assert_eq!(running(cloud), 1);
}

pub async fn asking_again_buys_nothing_more(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    let first = provider.ensure(&wanted).await.unwrap();
    for _ in 0..3 {
        let again = provider.ensure(&wanted).await.unwrap();
        assert_eq!(again.provider_id, first.provider_id);
    }
    assert_eq!(cloud.control().bought(), 1);
}

pub async fn a_daemon_that_restarted_gets_the_machine_that_is_there(cloud: &dyn Cloud) {
    let first = buy(cloud, "gpu-a").await.unwrap();
    let again = buy(cloud, "gpu-a").await.unwrap();
    assert_eq!(again.provider_id, first.provider_id);
    assert_eq!(cloud.control().bought(), 1);
}

pub async fn two_daemons_at_once_buy_one_machine(cloud: &dyn Cloud) {
    let (one, two) = tokio::join!(buy(cloud, "gpu-a"), buy(cloud, "gpu-a"));
    // One of them may be told to ask again.
    let last = buy(cloud, "gpu-a").await.unwrap();
    for got in [one, two].into_iter().flatten() {
        assert_eq!(got.provider_id, last.provider_id);
    }
    assert_eq!((cloud.control().bought(), running(cloud)), (1, 1));
}

pub async fn many_claims_at_once_get_a_machine_each(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let offering = cloud.offerings().spot;
    let claims: Vec<_> = (0..12)
        .map(|n| wanted(cloud, &format!("gpu-{n}"), &offering))
        .collect();
    let got = join_all(claims.iter().map(|wanted| provider.ensure(wanted))).await;
    let ids: BTreeSet<_> = got
        .into_iter()
        .map(|got| got.unwrap().provider_id)
        .collect();
    assert_eq!((ids.len(), running(cloud)), (12, 12));
}

pub async fn what_was_asked_for_is_what_is_bought(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let wares = cloud.offerings();
    for (claim, offering) in [("gpu-a", &wares.elsewhere), ("gpu-b", &wares.other)] {
        let got = provider
            .ensure(&wanted(cloud, claim, offering))
            .await
            .unwrap();
        let machine = of(cloud, &got);
        assert_eq!(machine.offering, *offering);
    }
}

pub async fn on_demand_is_not_spot(cloud: &dyn Cloud) {
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().on_demand);
    let got = cloud.provider(CLUSTER).ensure(&wanted).await.unwrap();
    assert_eq!(of(cloud, &got).offering, cloud.offerings().on_demand);
}

pub async fn a_machine_says_whose_it_is(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    let marks = of(cloud, &got).marks;
    let says = |word: &str| {
        marks
            .iter()
            .any(|(key, value)| key.contains(word) || value == word)
    };
    assert!(says(CLUSTER) && says("gpu-a"), "{marks:?}");
}

pub async fn its_node_has_the_labels_asked_for(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    let labels = of(cloud, &got).labels;
    for (key, value) in wanted(cloud, "gpu-a", &cloud.offerings().spot).labels {
        assert_eq!(labels.get(&key), Some(&value), "{labels:?}");
    }
}

pub async fn its_node_has_the_taints_asked_for(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    let taints = of(cloud, &got).taints;
    for taint in [
        "nvidia.com/gpu=present:NoSchedule",
        "headstart.dev/starting=:NoExecute",
    ] {
        assert!(taints.iter().any(|has| has == taint), "{taint}: {taints:?}");
    }
}

/// It has them at first, or the pool is told that they cannot be.
pub async fn startup_taints_are_on_its_node_or_are_refused(cloud: &dyn Cloud) {
    let mut wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    wanted.startup_taints = vec![headstart_api::PoolTaint {
        key: "example.com/agent-not-ready".to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    }];
    match cloud.provider(CLUSTER).ensure(&wanted).await {
        Ok(got) => {
            let taints = of(cloud, &got).taints;
            let taint = "example.com/agent-not-ready=:NoSchedule";
            assert!(taints.iter().any(|has| has == taint), "{taints:?}");
        }
        Err(Refusal::Misconfigured { field, .. }) => {
            assert_eq!(
                (field.as_str(), cloud.control().bought()),
                ("spec.startupTaints", 0)
            );
        }
        Err(other) => panic!("{other}"),
    }
}

pub async fn what_it_is_to_fetch_is_handed_to_it(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HandsIntent) {
        return;
    }
    let got = buy(cloud, "gpu-a").await.unwrap();
    let intent = of(cloud, &got).intent.unwrap();
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(read(&intent), read(INTENT));
}

pub async fn a_machine_is_named_as_its_node_will_name_it(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let got = buy(cloud, "gpu-a").await.unwrap();
    assert!(got.provider_id.contains("://"), "{}", got.provider_id);
    let listed = provider.instances().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].provider_id, got.provider_id);
    assert_eq!(listed[0].claim, got.claim);
}

pub async fn a_machine_made_now_is_said_to_be_made_now(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    let away = |at: SystemTime| match SystemTime::now().duration_since(at) {
        Ok(age) => age,
        Err(ahead) => ahead.duration(),
    };
    assert!(away(got.created) < Duration::from_secs(120), "{got:?}");
    let listed = cloud.provider(CLUSTER).instances().await.unwrap();
    assert!(
        away(listed[0].created) < Duration::from_secs(120),
        "{listed:?}"
    );
}
