//! Lists: complete, of this cluster, and never empty because something failed.

use super::{
    ALWAYS, BTreeSet, CLUSTER, Cloud, Fault, InstanceState, Refusal, Verb, buy, buy_in_the_end, of,
    plan, running, wanted,
};

pub async fn every_machine_is_listed_over_all_pages(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let offering = cloud.offerings().spot;
    let mut claims = BTreeSet::new();
    for n in 0..7 {
        let claim = format!("gpu-{n}");
        provider
            .ensure(&wanted(cloud, &claim, &offering))
            .await
            .unwrap();
        claims.insert(claim);
    }
    let listed = provider.instances().await.unwrap();
    let listed: BTreeSet<_> = listed.into_iter().filter_map(|one| one.claim).collect();
    assert_eq!(listed, claims);
}

pub async fn nothing_bought_is_nothing_listed(cloud: &dyn Cloud) {
    assert_eq!(cloud.provider(CLUSTER).instances().await, Ok(Vec::new()));
}

pub async fn another_clusters_machines_are_not_listed(cloud: &dyn Cloud) {
    let there = cloud.provider("there");
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    there.ensure(&wanted).await.unwrap();
    assert_eq!(cloud.provider(CLUSTER).instances().await, Ok(Vec::new()));
    assert_eq!(there.instances().await.unwrap().len(), 1);
}

pub async fn a_machine_that_is_not_listed_yet_is_not_bought_again(cloud: &dyn Cloud) {
    cloud.control().hide_new(3);
    buy(cloud, "gpu-a").await.unwrap();
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!((cloud.control().bought(), running(cloud)), (1, 1));
}

pub async fn a_list_that_fails_is_no_empty_list(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    if plan(cloud, Verb::List, Fault::Failed, ALWAYS) {
        return;
    }
    let listed = cloud.provider(CLUSTER).instances().await;
    assert!(matches!(listed, Err(Refusal::Other { .. })), "{listed:?}");
}

pub async fn a_list_that_cannot_be_read_is_no_empty_list(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    if plan(cloud, Verb::List, Fault::Garbage, ALWAYS) {
        return;
    }
    let listed = cloud.provider(CLUSTER).instances().await;
    assert!(matches!(listed, Err(Refusal::Other { .. })), "{listed:?}");
}

pub async fn a_throttled_list_is_told_with_a_wait(cloud: &dyn Cloud) {
    if plan(cloud, Verb::List, Fault::Throttled, ALWAYS) {
        return;
    }
    let listed = cloud.provider(CLUSTER).instances().await;
    assert!(
        matches!(listed, Err(Refusal::Throttled { .. })),
        "{listed:?}"
    );
}

pub async fn a_list_is_read_with_renewed_credentials(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    provider.ensure(&wanted).await.unwrap();
    if plan(cloud, Verb::List, Fault::Expired, 1) {
        return;
    }
    assert_eq!(provider.instances().await.unwrap().len(), 1);
}

pub async fn a_machine_that_somebody_ended_is_not_listed_as_running(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    cloud.control().vanish(&of(cloud, &got).id);
    let listed = cloud.provider(CLUSTER).instances().await.unwrap();
    assert!(
        listed.iter().all(|one| one.state == InstanceState::Ending),
        "{listed:?}"
    );
}
