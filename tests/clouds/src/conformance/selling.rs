//! What is sold and for how much, and what an examination finds.

use headstart_provider::trial::{NOBODY, Parties, trial};

use super::{
    ALWAYS, BTreeMap, CLUSTER, Cloud, Duration, Fault, Finding, Habit, Offering, OfferingKey,
    State, Verb, does_without, plan, running, wanted,
};

/// Prices of what is offered, in USD per hour.
async fn prices(cloud: &dyn Cloud) -> BTreeMap<OfferingKey, f64> {
    let offers = cloud.provider(CLUSTER).offers().await.unwrap();
    let of = |offering: &Offering| OfferingKey {
        instance_type: offers.types[offering.instance_type].name.clone(),
        zone: offering.zone.clone(),
        capacity_type: offering.capacity_type,
    };
    let offerings = offers.offerings.iter();
    offerings
        .map(|offering| (of(offering), offering.price.usd()))
        .collect()
}

pub async fn what_the_catalog_knows_is_offered(cloud: &dyn Cloud) {
    let prices = prices(cloud).await;
    let wares = cloud.offerings();
    for key in [
        &wares.spot,
        &wares.elsewhere,
        &wares.on_demand,
        &wares.other,
    ] {
        let price = prices.get(key);
        assert!(price.is_some_and(|usd| *usd > 0.0), "{key}: {prices:?}");
    }
}

pub async fn spot_prices_are_the_clouds_own(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::AsksSpotPrices) {
        return;
    }
    cloud.control().price(&cloud.offerings().spot, 0.31);
    assert_eq!(prices(cloud).await[&cloud.offerings().spot], 0.31);
}

pub async fn list_prices_are_the_clouds_own(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::AsksListPrices) {
        return;
    }
    cloud.control().price(&cloud.offerings().on_demand, 1.2);
    assert_eq!(prices(cloud).await[&cloud.offerings().on_demand], 1.2);
}

pub async fn absurd_prices_are_not_believed(cloud: &dyn Cloud) {
    let spot = cloud.offerings().spot;
    let before = prices(cloud).await[&spot];
    for absurd in [0.0, -1.0, before * 1000.0, before / 1000.0] {
        cloud.control().price(&spot, absurd);
        assert_eq!(prices(cloud).await.get(&spot), Some(&before), "{absurd}");
    }
}

pub async fn spot_at_the_on_demand_price_is_no_offer(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::AsksSpotPrices) {
        return;
    }
    let wares = cloud.offerings();
    let on_demand = prices(cloud).await[&wares.on_demand];
    cloud.control().price(&wares.spot, on_demand);
    let prices = prices(cloud).await;
    assert_eq!(prices.get(&wares.spot), None, "{prices:?}");
    assert!(prices.contains_key(&wares.on_demand));
}

pub async fn prices_that_cannot_be_had_leave_the_catalogs(cloud: &dyn Cloud) {
    if does_without(cloud, Habit::AsksSpotPrices)
        || plan(cloud, Verb::Offers, Fault::Failed, ALWAYS)
    {
        return;
    }
    let prices = prices(cloud).await;
    assert_eq!(prices[&cloud.offerings().spot], crate::market::PRICES[0]);
}

pub async fn a_sound_account_is_found_sound(cloud: &dyn Cloud) {
    let found = cloud.provider(CLUSTER).examine(&cloud.settings()).await;
    assert!(!found.is_empty());
    for finding in &found {
        assert!(!matches!(finding.state, State::Wrong { .. }), "{finding}");
    }
}

pub async fn an_account_that_may_not_list_is_found_out(cloud: &dyn Cloud) {
    if plan(cloud, Verb::List, Fault::Forbidden, ALWAYS) {
        return;
    }
    let found = cloud.provider(CLUSTER).examine(&cloud.settings()).await;
    let wrong = |finding: &&Finding| matches!(finding.state, State::Wrong { .. });
    let wrong = found.iter().find(wrong);
    let wrong = wrong.unwrap_or_else(|| panic!("{found:?}"));
    assert!(wrong.to_string().contains("missing"), "{wrong}");
}

pub async fn an_examination_buys_nothing(cloud: &dyn Cloud) {
    cloud.provider(CLUSTER).examine(&cloud.settings()).await;
    assert_eq!(cloud.control().bought(), 0);
}

pub async fn a_trial_of_a_sound_account_finds_nothing_wrong(cloud: &dyn Cloud) {
    let [one, two, stranger] = [CLUSTER, CLUSTER, NOBODY].map(|name| cloud.provider(name));
    let parties = Parties {
        one: &*one,
        two: &*two,
        stranger: &*stranger,
    };
    let wanted = wanted(cloud, "gpu-trial", &cloud.offerings().spot);
    let found = trial(parties, &wanted, Duration::from_millis(10)).await;
    let sound = |finding: &Finding| matches!(finding.state, State::Sound(_));
    assert!(found.iter().all(sound), "{found:#?}");
    assert_eq!(
        (found.len(), running(cloud), cloud.control().bought()),
        (6, 0, 1)
    );
}
