//! Giving back: asked until nothing is there, and nothing else is touched.

use super::{
    ALWAYS, BTreeSet, CLUSTER, Cloud, Fault, InstanceState, Refusal, Release, Verb, buy, give_back,
    of, plan, running, wanted,
};

pub async fn what_is_given_back_is_gone_in_the_end(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    // By a daemon that did not buy it.
    give_back(&*cloud.provider(CLUSTER), "gpu-a").await;
    assert_eq!(running(cloud), 0);
}

pub async fn giving_back_twice_is_no_error(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    buy(cloud, "gpu-a").await.unwrap();
    provider.release("gpu-a").await.unwrap();
    provider.release("gpu-a").await.unwrap();
    give_back(&*provider, "gpu-a").await;
}

pub async fn what_never_was_is_gone(cloud: &dyn Cloud) {
    let released = cloud.provider(CLUSTER).release("gpu-never").await;
    assert_eq!(released, Ok(Release::Gone));
}

pub async fn a_machine_that_ends_slowly_is_not_gone_yet(cloud: &dyn Cloud) {
    cloud.control().end_slowly(2);
    let provider = cloud.provider(CLUSTER);
    buy(cloud, "gpu-a").await.unwrap();
    assert_eq!(provider.release("gpu-a").await, Ok(Release::Ending));
    give_back(&*provider, "gpu-a").await;
    assert_eq!(running(cloud), 0);
}

pub async fn one_given_back_leaves_the_others(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    for claim in ["gpu-a", "gpu-aa", "gpu-b"] {
        buy(cloud, claim).await.unwrap();
    }
    give_back(&*provider, "gpu-a").await;
    let listed = provider.instances().await.unwrap().into_iter();
    let left: BTreeSet<_> = listed
        .filter(|one| one.state != InstanceState::Ending)
        .filter_map(|one| one.claim)
        .collect();
    assert_eq!(left, ["gpu-aa".to_owned(), "gpu-b".to_owned()].into());
    assert_eq!(running(cloud), 2);
}

pub async fn another_clusters_machine_is_not_given_back(cloud: &dyn Cloud) {
    let there = cloud.provider("there");
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    there.ensure(&wanted).await.unwrap();
    let released = cloud.provider(CLUSTER).release("gpu-a").await;
    assert_eq!(released, Ok(Release::Gone));
    assert_eq!(running(cloud), 1);
}

pub async fn a_machine_that_is_not_listed_yet_is_given_back(cloud: &dyn Cloud) {
    cloud.control().hide_new(2);
    let provider = cloud.provider(CLUSTER);
    let wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    provider.ensure(&wanted).await.unwrap();
    // A daemon gives its finalizer up at the first "gone".
    give_back(&*provider, "gpu-a").await;
    assert_eq!(running(cloud), 0);
}

pub async fn a_lost_reply_to_giving_back_is_found_out(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    if plan(cloud, Verb::Delete, Fault::LostReply, 1) {
        return;
    }
    give_back(&*cloud.provider(CLUSTER), "gpu-a").await;
    assert_eq!(running(cloud), 0);
}

pub async fn giving_back_that_fails_is_told_and_done_later(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    if plan(cloud, Verb::Delete, Fault::Failed, 3) {
        return;
    }
    let provider = cloud.provider(CLUSTER);
    let first = provider.release("gpu-a").await;
    assert_ne!(first, Ok(Release::Gone), "it still runs");
    give_back(&*provider, "gpu-a").await;
    assert_eq!(running(cloud), 0);
}

pub async fn giving_back_without_permission_is_told(cloud: &dyn Cloud) {
    buy(cloud, "gpu-a").await.unwrap();
    if plan(cloud, Verb::Delete, Fault::Forbidden, ALWAYS) {
        return;
    }
    let released = cloud.provider(CLUSTER).release("gpu-a").await;
    let Err(Refusal::Forbidden { permission, .. }) = released else {
        panic!("{released:?}");
    };
    assert!(!permission.is_empty());
    assert_eq!(running(cloud), 1);
}

pub async fn a_machine_that_somebody_ended_is_gone(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    cloud.control().vanish(&of(cloud, &got).id);
    give_back(&*cloud.provider(CLUSTER), "gpu-a").await;
}
