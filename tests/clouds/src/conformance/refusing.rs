//! Refusals: each told apart, and nothing bought by mistake.

use super::{
    ALWAYS, CLUSTER, Cloud, Fault, Habit, OfferingKey, Refusal, Verb, buy, buy_in_the_end,
    does_without, give_back, of, plan, running, wanted,
};

pub async fn no_capacity_is_told_as_no_capacity(cloud: &dyn Cloud) {
    cloud.control().stock(&cloud.offerings().spot, 0);
    let refused = buy(cloud, "gpu-a").await;
    assert!(
        matches!(refused, Err(Refusal::OutOfCapacity { .. })),
        "{refused:?}"
    );
    assert_eq!(running(cloud), 0);
}

pub async fn what_has_run_out_is_not_asked_for_again_in_the_same_breath(cloud: &dyn Cloud) {
    let spot = cloud.offerings().spot;
    cloud.control().stock(&spot, 0);
    buy(cloud, "gpu-a").await.unwrap_err();
    assert!(cloud.control().asked(&spot) <= 1);
}

pub async fn what_has_run_out_here_is_bought_elsewhere(cloud: &dyn Cloud) {
    let wares = cloud.offerings();
    cloud.control().stock(&wares.spot, 0);
    let provider = cloud.provider(CLUSTER);
    provider
        .ensure(&wanted(cloud, "gpu-a", &wares.spot))
        .await
        .unwrap_err();
    let got = provider
        .ensure(&wanted(cloud, "gpu-b", &wares.elsewhere))
        .await
        .unwrap();
    assert_eq!(of(cloud, &got).offering, wares.elsewhere);
}

pub async fn a_refused_key_buys_once_capacity_is_back(cloud: &dyn Cloud) {
    cloud.control().stock(&cloud.offerings().spot, 0);
    buy(cloud, "gpu-a").await.unwrap_err();
    cloud.control().restock();
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(running(cloud), 1);
}

pub async fn a_refused_purchase_never_comes_later(cloud: &dyn Cloud) {
    cloud.control().stock(&cloud.offerings().spot, 0);
    buy(cloud, "gpu-a").await.unwrap_err();
    let provider = cloud.provider(CLUSTER);
    give_back(&*provider, "gpu-a").await;
    cloud.control().restock();
    for _ in 0..3 {
        let listed = provider.instances().await.unwrap();
        assert!(listed.is_empty(), "{listed:?}");
    }
    assert_eq!(running(cloud), 0);
}

pub async fn a_quota_is_told_by_its_name(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Quota, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let Err(Refusal::Quota { quota, said }) = refused else {
        panic!("{refused:?}");
    };
    assert!(!quota.is_empty() && !said.is_empty(), "{quota:?}: {said:?}");
    assert_eq!(running(cloud), 0);
}

pub async fn a_missing_permission_is_named(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Forbidden, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let Err(Refusal::Forbidden { permission, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(!permission.is_empty(), "which permission?");
    assert_eq!(running(cloud), 0);
}

pub async fn what_settings_name_and_is_not_there_is_told_by_its_field(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Misconfigured, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let Err(Refusal::Misconfigured { field, said }) = refused else {
        panic!("{refused:?}");
    };
    assert!(field.contains('.'), "{field:?} is no field: {said}");
    assert_eq!(running(cloud), 0);
}

pub async fn an_unknown_setting_is_told_and_nothing_is_bought(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::ReadsSettings) {
        return;
    }
    let mut wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    wanted.settings.insert("nonsense".to_owned(), 1.into());
    let refused = cloud.provider(CLUSTER).ensure(&wanted).await;
    let Err(Refusal::Misconfigured { field, said }) = refused else {
        panic!("{refused:?}");
    };
    let told = format!("{field}: {said}");
    assert!(
        field.starts_with("spec.provider") && told.contains("nonsense"),
        "{told}"
    );
    assert_eq!(cloud.control().bought(), 0);
}

pub async fn a_setting_of_the_wrong_kind_is_told_and_nothing_is_bought(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::ReadsSettings) {
        return;
    }
    let mut wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    // Whatever a setting is, it is no list of lists.
    for value in wanted.settings.values_mut() {
        *value = serde_json::json!([[[]]]);
    }
    if wanted.settings.is_empty() {
        wanted
            .settings
            .insert("labels".to_owned(), serde_json::json!([[[]]]));
    }
    let refused = cloud.provider(CLUSTER).ensure(&wanted).await;
    let Err(Refusal::Misconfigured { field, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(field.starts_with("spec.provider"), "{field}");
    assert_eq!(cloud.control().bought(), 0);
}

pub async fn a_type_that_nobody_sells_is_refused(cloud: &dyn Cloud) {
    let offering = OfferingKey {
        instance_type: "g99.nothing".to_owned(),
        ..cloud.offerings().spot
    };
    let refused = cloud
        .provider(CLUSTER)
        .ensure(&wanted(cloud, "gpu-a", &offering))
        .await;
    assert!(
        matches!(
            refused,
            Err(Refusal::Misconfigured { .. } | Refusal::OutOfCapacity { .. })
        ),
        "{refused:?}"
    );
    assert_eq!(running(cloud), 0);
}

/// A machine either gets all that it is to fetch, or is refused, or learns it from the API server.
pub async fn an_intent_over_every_limit_buys_no_machine_without_it(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::HandsIntent) {
        return;
    }
    let mut wanted = wanted(cloud, "gpu-a", &cloud.offerings().spot);
    // Nothing that compresses.
    let numbers = (0..400_000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
    let noise: String = numbers.map(|number| format!("{number:x}")).collect();
    wanted.intent = serde_json::json!({"kind": "NodeCache", "spec": {"noise": noise}}).to_string();
    match cloud.provider(CLUSTER).ensure(&wanted).await {
        Err(Refusal::Misconfigured { .. }) => assert_eq!(cloud.control().bought(), 0),
        Ok(got) => {
            // Nothing, or all of it: never a part.
            let intent = of(cloud, &got).intent;
            assert!(intent.is_none_or(|intent| intent == wanted.intent));
        }
        Err(other) => panic!("{other:?}"),
    }
}
