//! Machines that will be taken away.

use super::{
    CLUSTER, Cloud, Habit, InstanceState, Provider, buy, does_without, give_back, of, running,
};

/// `gpu-a` is interrupted, `gpu-b` is not.
async fn two_of_which_one_is_interrupted(cloud: &dyn Cloud) {
    let got = buy(cloud, "gpu-a").await.unwrap();
    buy(cloud, "gpu-b").await.unwrap();
    cloud.control().interrupt(&of(cloud, &got).id);
}

async fn interrupted(provider: &dyn Provider) -> Vec<String> {
    let listed = provider.instances().await.unwrap().into_iter();
    listed
        .filter(|one| one.state == InstanceState::Interrupted)
        .filter_map(|one| one.claim)
        .collect()
}

pub async fn a_machine_that_will_be_taken_away_is_told(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HearsInterruptions) {
        return;
    }
    two_of_which_one_is_interrupted(cloud).await;
    assert_eq!(interrupted(&*cloud.provider(CLUSTER)).await, ["gpu-a"]);
}

pub async fn the_others_are_not(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HearsInterruptions) {
        return;
    }
    two_of_which_one_is_interrupted(cloud).await;
    let listed = cloud.provider(CLUSTER).instances().await.unwrap();
    let other = listed
        .iter()
        .find(|one| one.claim.as_deref() == Some("gpu-b"))
        .unwrap();
    assert_eq!(other.state, InstanceState::Running);
}

pub async fn it_is_still_told_after_a_restart(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HearsInterruptions) {
        return;
    }
    two_of_which_one_is_interrupted(cloud).await;
    for _ in 0..3 {
        assert_eq!(interrupted(&*cloud.provider(CLUSTER)).await, ["gpu-a"]);
    }
}

pub async fn it_can_be_given_back(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HearsInterruptions) {
        return;
    }
    two_of_which_one_is_interrupted(cloud).await;
    let provider = cloud.provider(CLUSTER);
    interrupted(&*provider).await;
    give_back(&*provider, "gpu-a").await;
    assert_eq!(running(cloud), 1);
}
