//! Faults of the way there and of the other side: lost, late, throttled, unreadable.

use super::{
    ALWAYS, CLUSTER, Cloud, Duration, Fault, Refusal, Verb, buy, buy_in_the_end, plan, running,
    wanted,
};

pub async fn throttling_for_a_moment_is_waited_out(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Throttled, 1) {
        return;
    }
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(running(cloud), 1);
}

pub async fn throttling_that_lasts_is_told_with_a_wait(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Throttled, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let Err(Refusal::Throttled { wait }) = refused else {
        panic!("{refused:?}");
    };
    assert!(wait > Duration::ZERO);
    assert_eq!(running(cloud), 0);
}

pub async fn the_wait_that_was_asked_for_is_told(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::ThrottledFor(77), ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let wait = Duration::from_secs(77);
    assert_eq!(refused, Err(Refusal::Throttled { wait }));
}

pub async fn a_lost_request_is_made_again(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::LostRequest, 1) {
        return;
    }
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(running(cloud), 1);
}

pub async fn a_lost_reply_buys_once(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::LostReply, 1) {
        return;
    }
    let got = buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(got.claim.as_deref(), Some("gpu-a"));
    assert_eq!((cloud.control().bought(), running(cloud)), (1, 1));
}

pub async fn lost_replies_and_a_restart_buy_once(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::LostReply, 5) {
        return;
    }
    // Each is a daemon that has just started; none has heard what the one before was told.
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!((cloud.control().bought(), running(cloud)), (1, 1));
}

pub async fn a_server_that_fails_for_a_moment_is_asked_again(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Failed, 1) {
        return;
    }
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(running(cloud), 1);
}

pub async fn a_server_that_fails_for_long_is_told_and_buys_nothing(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Failed, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    assert!(matches!(refused, Err(Refusal::Other { .. })), "{refused:?}");
    assert_eq!(running(cloud), 0);
}

pub async fn a_page_of_a_proxy_is_no_answer(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Html, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    let Err(Refusal::Other { said }) = refused else {
        panic!("{refused:?}");
    };
    assert!(!said.contains('<'), "the page is not for people: {said}");
}

pub async fn an_answer_that_cannot_be_read_buys_at_most_once(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Garbage, 1) {
        return;
    }
    buy_in_the_end(cloud, "gpu-a").await;
    assert_eq!(running(cloud), 1);
    assert!(cloud.control().bought() <= 1);
}

pub async fn an_error_code_that_nobody_has_seen_is_told(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Unknown, ALWAYS) {
        return;
    }
    let refused = buy(cloud, "gpu-a").await;
    assert!(matches!(refused, Err(Refusal::Other { .. })), "{refused:?}");
    assert_eq!(running(cloud), 0);
}

pub async fn credentials_that_expire_are_renewed(cloud: &dyn Cloud) {
    let provider = cloud.provider(CLUSTER);
    let offering = cloud.offerings().spot;
    provider
        .ensure(&wanted(cloud, "gpu-a", &offering))
        .await
        .unwrap();
    if plan(cloud, Verb::Create, Fault::Expired, 1) {
        return;
    }
    provider
        .ensure(&wanted(cloud, "gpu-b", &offering))
        .await
        .unwrap();
    assert_eq!(running(cloud), 2);
}

pub async fn one_claims_fault_is_not_anothers(cloud: &dyn Cloud) {
    if plan(cloud, Verb::Create, Fault::Quota, 1) {
        return;
    }
    let provider = cloud.provider(CLUSTER);
    let offering = cloud.offerings().spot;
    provider
        .ensure(&wanted(cloud, "gpu-a", &offering))
        .await
        .unwrap_err();
    provider
        .ensure(&wanted(cloud, "gpu-b", &offering))
        .await
        .unwrap();
    assert_eq!(running(cloud), 1);
}
