//! The `azure` provider keeps every provider's promises, with an agent pool per node and with machines
//! of one pool; and what only it has to promise.

use headstart_api::PoolTaint;
use headstart_clouds::azure::token::Source;
use headstart_core::offer::{CapacityType, OfferingKey};
use headstart_fake_clouds::azure::{ASSERTION, Azure, CLIENT, LOCATION, MACHINES, TENANT, wares};
use headstart_fake_clouds::control::Verb;
use headstart_fake_clouds::{CLUSTER, Cloud as _, market, site};
use headstart_provider::azure::{Azure as Provided, Config};
use headstart_provider::doctor::State;
use headstart_provider::{InstanceState, Provider as _, Refusal, Release, Wanted};
use serde_json::json;

mod pools {
    use headstart_fake_clouds::azure::Azure;

    headstart_fake_clouds::conformance!(Azure::start().unwrap());
}

mod machines {
    use headstart_fake_clouds::azure::Azure;

    headstart_fake_clouds::conformance!(Azure::start_with_machines().unwrap());
}

fn wanted(azure: &Azure, claim: &str) -> Wanted {
    Wanted {
        claim: claim.to_owned(),
        offering: wares().spot,
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: azure.settings(),
        intent: String::new(),
    }
}

/// A provider that has just started.
fn provider(azure: &Azure) -> Provided {
    azure.open(CLUSTER, azure.managed())
}

/// The one pool that is neither the people's nor there from the start.
fn pool(azure: &Azure) -> String {
    let names = azure.pools().names().into_iter();
    let mut new = names.filter(|name| name != "system" && name != MACHINES);
    let (Some(name), None) = (new.next(), new.next()) else {
        panic!("{:?}", azure.pools().names());
    };
    name
}

#[tokio::test]
async fn a_pool_of_the_same_name_that_somebody_else_made_is_neither_used_nor_deleted() {
    let azure = Azure::start().unwrap();
    provider(&azure)
        .ensure(&wanted(&azure, "gpu-a"))
        .await
        .unwrap();
    let name = pool(&azure);

    let azure = Azure::start().unwrap();
    azure.pools().add(&name);
    let refused = provider(&azure).ensure(&wanted(&azure, "gpu-a")).await;
    assert!(matches!(refused, Err(Refusal::Other { .. })), "{refused:?}");
    let released = provider(&azure).release("gpu-a").await;
    assert_eq!(released, Ok(Release::Gone));
    assert!(azure.pools().names().contains(&name));
    assert_eq!(azure.control().bought(), 0);
}

#[tokio::test]
async fn a_pool_that_fails_late_is_lost_and_its_offering_is_refused_once() {
    let azure = Azure::start().unwrap();
    let provider = provider(&azure);
    provider.ensure(&wanted(&azure, "gpu-a")).await.unwrap();
    azure.pools().fail(&pool(&azure));
    let listed = provider.instances().await.unwrap();
    assert_eq!(listed[0].state, InstanceState::Interrupted);

    let refused = provider.ensure(&wanted(&azure, "gpu-b")).await;
    assert!(
        matches!(refused, Err(Refusal::OutOfCapacity { .. })),
        "{refused:?}"
    );
    assert_eq!(azure.control().bought(), 1);
    provider.ensure(&wanted(&azure, "gpu-b")).await.unwrap();
    assert_eq!(azure.control().bought(), 2);
}

#[tokio::test]
async fn a_failure_that_the_buyer_was_told_keeps_no_other_from_buying() {
    let azure = Azure::start().unwrap();
    let provider = provider(&azure);
    azure.control().stock(&wares().spot, 0);
    provider.ensure(&wanted(&azure, "gpu-a")).await.unwrap_err();
    provider.instances().await.unwrap();
    azure.control().restock();
    provider.ensure(&wanted(&azure, "gpu-b")).await.unwrap();
}

#[tokio::test]
async fn a_cluster_with_all_its_pools_is_over_a_quota() {
    let azure = Azure::start().unwrap();
    for number in 0..98 {
        azure.pools().add(&format!("people{number}"));
    }
    let refused = provider(&azure).ensure(&wanted(&azure, "gpu-a")).await;
    let Err(Refusal::Quota { quota, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(quota, "agent pools per cluster");
    let found = provider(&azure).examine(&azure.settings()).await;
    let pools = found.iter().find(|it| it.subject == "agent pools").unwrap();
    assert!(matches!(pools.state, State::Doubtful { .. }), "{pools}");
}

#[tokio::test]
async fn a_cluster_that_is_busy_is_asked_again_later() {
    let azure = Azure::start().unwrap();
    let provider = provider(&azure);
    provider.ensure(&wanted(&azure, "gpu-a")).await.unwrap();
    azure.pools().occupy();
    let throttled = provider.ensure(&wanted(&azure, "gpu-b")).await;
    assert!(
        matches!(throttled, Err(Refusal::Throttled { .. })),
        "{throttled:?}"
    );
    let throttled = provider.release("gpu-a").await;
    assert!(
        matches!(throttled, Err(Refusal::Throttled { .. })),
        "{throttled:?}"
    );
    assert_eq!(azure.control().machines().len(), 1);
}

#[tokio::test]
async fn spot_is_bought_only_for_pods_that_tolerate_akss_taint() {
    let azure = Azure::start().unwrap();
    let mut wanted = wanted(&azure, "gpu-a");
    wanted.settings.remove("spotTaint");
    let refused = provider(&azure).ensure(&wanted).await;
    let Err(Refusal::Misconfigured { field, said }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(field, "spec.taints");
    assert!(said.contains("kubernetes.azure.com/scalesetpriority=spot:NoSchedule"));
    assert_eq!(azure.control().bought(), 0);

    wanted.taints.push(PoolTaint {
        key: "kubernetes.azure.com/scalesetpriority".to_owned(),
        value: "spot".to_owned(),
        effect: "NoSchedule".to_owned(),
    });
    provider(&azure).ensure(&wanted).await.unwrap();
    // AKS adds it by itself.
    let taints = &azure.control().machines()[0].taints;
    assert!(taints.is_empty(), "{taints:?}");
}

#[tokio::test]
async fn labels_that_aks_sets_itself_are_not_written() {
    let azure = Azure::start().unwrap();
    let mut wanted = wanted(&azure, "gpu-a");
    for label in [
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "kubernetes.azure.com/mode",
    ] {
        wanted.labels.insert(label.to_owned(), "x".to_owned());
    }
    provider(&azure).ensure(&wanted).await.unwrap();
    let labels = azure.control().machines()[0].labels.clone();
    let names: Vec<_> = labels.keys().map(String::as_str).collect();
    assert_eq!(names, ["headstart.dev/node-claim", "team"]);
    assert_eq!(labels["headstart.dev/node-claim"], "gpu-a");
}

#[tokio::test]
async fn workload_identity_buys_and_a_wrong_token_says_whose_it_is() {
    let azure = Azure::start().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{ASSERTION}\n")).unwrap();
    let federated = |client: &str| Source::Federated {
        authority: azure.url().parse().unwrap(),
        tenant: TENANT.to_owned(),
        client: client.to_owned(),
        token: file.path().to_owned(),
    };
    let provider = azure.open(CLUSTER, federated(CLIENT));
    provider.ensure(&wanted(&azure, "gpu-a")).await.unwrap();

    let stranger = azure.open(CLUSTER, federated("somebody"));
    let refused = stranger.instances().await.unwrap_err().to_string();
    assert!(refused.contains("AADSTS700016"), "{refused}");
    std::fs::write(file.path(), "another").unwrap();
    let refused = azure.open(CLUSTER, federated(CLIENT)).instances().await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("AADSTS700211"), "{refused}");
    file.close().unwrap();
    let found = azure.open(
        CLUSTER,
        Source::Federated {
            authority: azure.url().parse().unwrap(),
            tenant: TENANT.to_owned(),
            client: CLIENT.to_owned(),
            token: "/nowhere/token".into(),
        },
    );
    let found = found.examine(&azure.settings()).await;
    let wrong = found.iter().find(|it| it.subject == "credentials").unwrap();
    assert!(wrong.to_string().contains("/nowhere/token"), "{wrong}");
}

#[tokio::test]
async fn a_cluster_that_is_named_wrongly_is_told_and_gives_nothing_back() {
    let azure = Azure::start().unwrap();
    provider(&azure)
        .ensure(&wanted(&azure, "gpu-a"))
        .await
        .unwrap();
    for (field, config) in [
        (
            "azure.cluster",
            Config {
                cluster: "another".to_owned(),
                ..azure.config()
            },
        ),
        (
            "azure.resourceGroup",
            Config {
                resource_group: "another".to_owned(),
                ..azure.config()
            },
        ),
    ] {
        let site = site(CLUSTER, market::catalog(&wares()));
        let elsewhere = Provided::open(config, site, azure.managed()).unwrap();
        // "Gone" would lose the machine.
        let released = elsewhere.release("gpu-a").await;
        let Err(Refusal::Misconfigured { field: told, .. }) = released else {
            panic!("{released:?}");
        };
        assert_eq!(told, field);
    }
}

#[tokio::test]
async fn spot_is_offered_where_the_price_list_has_it_and_no_catalog_does() {
    let azure = Azure::start().unwrap();
    let mut catalog = market::catalog(&wares());
    let on_demand =
        |it: &headstart_core::offer::Offering| it.capacity_type == CapacityType::OnDemand;
    catalog.offerings.retain(on_demand);
    let sold = async || {
        let site = site(CLUSTER, catalog.clone());
        let provider = Provided::open(azure.config(), site, azure.managed()).unwrap();
        let offers = provider.offers().await.unwrap();
        let offerings = offers.offerings.iter();
        let spot = offerings.filter(|it| it.capacity_type == CapacityType::Spot);
        spot.map(|it| it.price.usd()).collect::<Vec<_>>()
    };
    assert_eq!(sold().await, [] as [f64; 0]);
    azure.control().price(&wares().spot, 0.3);
    assert_eq!(sold().await, [0.3]);
    for absurd in [0.0, 0.001, 5.0, -1.0] {
        azure.control().price(&wares().spot, absurd);
        assert_eq!(sold().await, [] as [f64; 0], "{absurd}");
    }
}

#[tokio::test]
async fn what_the_subscription_may_not_have_is_not_offered() {
    let azure = Azure::start().unwrap();
    let mut ware = wares();
    // It is in zone 1 only, and the other is closed to the subscription.
    ware.elsewhere = OfferingKey {
        zone: format!("{LOCATION}-3"),
        ..wares().other
    };
    ware.on_demand.instance_type = "Standard_ND96isr_H100_v5".to_owned();
    let site = site(CLUSTER, market::catalog(&ware));
    let provider = Provided::open(azure.config(), site, azure.managed()).unwrap();
    let offers = provider.offers().await.unwrap();
    let sold: Vec<_> = offers
        .offerings
        .iter()
        .map(|it| (&*offers.types[it.instance_type].name, &*it.zone))
        .collect();
    let kept = [&ware.spot, &ware.other].map(|it| (&*it.instance_type, &*it.zone));
    assert_eq!(sold, kept);
}

#[tokio::test]
async fn reserved_capacity_is_bought_from_the_group_that_is_named() {
    let azure = Azure::start().unwrap();
    let mut wanted = wanted(&azure, "gpu-a");
    wanted.offering.capacity_type = CapacityType::Reserved;
    let refused = provider(&azure).ensure(&wanted).await;
    let Err(Refusal::Misconfigured { field, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(field, "spec.provider.capacityReservationGroup");
    let group = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/\
                 capacityReservationGroups/gpus";
    let setting = ("capacityReservationGroup".to_owned(), json!(group));
    wanted.settings.extend([setting]);
    provider(&azure).ensure(&wanted).await.unwrap();
    let sent = azure.recorded().into_iter().rev();
    let mut sent = sent.filter_map(|it| it.body);
    let properties = &sent.next().unwrap()["properties"];
    assert_eq!(properties["capacityReservationGroupID"], group);
    assert_eq!(properties["scaleSetPriority"], "Regular");
}

#[tokio::test]
async fn a_list_looks_at_no_more_machines_than_aks_bears() {
    let azure = Azure::start().unwrap();
    for number in 0..25 {
        let wanted = wanted(&azure, &format!("gpu-{number}"));
        provider(&azure).ensure(&wanted).await.unwrap();
    }
    let lists = |azure: &Azure| {
        let sent = azure.recorded().into_iter();
        sent.filter(|it| it.method == "GET" && it.path.ends_with("/machines"))
            .count()
    };
    let before = lists(&azure);
    let listed = provider(&azure).instances().await.unwrap();
    assert_eq!((listed.len(), lists(&azure) - before), (25, 20));
    // Nobody has looked at five of them: that is no word about their machines.
    assert!(listed.iter().all(|it| it.state == InstanceState::Running));
    let looked_at = listed.iter().filter(|it| it.node_name.is_some());
    assert_eq!(looked_at.count(), 20);
}

#[tokio::test]
async fn a_purchase_is_conditional_and_asked_once() {
    let azure = Azure::start().unwrap();
    provider(&azure)
        .ensure(&wanted(&azure, "gpu-a"))
        .await
        .unwrap();
    let sent = azure.recorded();
    let puts: Vec<_> = sent.iter().filter(|it| it.method == "PUT").collect();
    assert_eq!(puts.len(), 1);
    assert_eq!(puts[0].condition.as_deref(), Some("*"));
    assert_eq!(puts[0].body.as_ref().unwrap()["properties"]["count"], 1);
    assert_eq!(azure.control().calls(Verb::Create), 1);
}
