//! What every provider promises, as cases that run against any [`Cloud`].
//!
//! [`crate::conformance!`] makes a test of each. A case that a cloud cannot be asked, because the
//! fault cannot happen there or the provider leaves something out on purpose, says so and why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use headstart_api::PoolTaint;
use headstart_core::offer::{Offering, OfferingKey};
use headstart_provider::doctor::{Finding, State};
use headstart_provider::{Instance, InstanceState, Provider, Refusal, Release, Wanted};

use crate::control::{Fault, Life, Machine, Verb};
use crate::{CLUSTER, Cloud, Habit};

#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod buying;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod faults;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod interrupting;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod listing;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod refusing;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod returning;
#[expect(
    missing_docs,
    clippy::unwrap_used,
    reason = "cases, named by their promises"
)]
pub mod selling;

/// More than any patience.
const ALWAYS: usize = 40;

/// A purchase for `claim`.
fn wanted(cloud: &dyn Cloud, claim: &str, offering: &OfferingKey) -> Wanted {
    Wanted {
        claim: claim.to_owned(),
        offering: offering.clone(),
        labels: BTreeMap::from([
            ("headstart.dev/node-pool".to_owned(), "gpu".to_owned()),
            ("team".to_owned(), "vision".to_owned()),
        ]),
        startup_taints: Vec::new(),
        taints: vec![
            PoolTaint {
                key: "nvidia.com/gpu".to_owned(),
                value: "present".to_owned(),
                effect: "NoSchedule".to_owned(),
            },
            PoolTaint {
                key: "headstart.dev/starting".to_owned(),
                value: String::new(),
                effect: "NoExecute".to_owned(),
            },
        ],
        settings: cloud.settings(),
        intent: INTENT.to_owned(),
    }
}

/// What an agent is to fetch.
const INTENT: &str = "{\"apiVersion\":\"headstart.dev/v1alpha1\",\"kind\":\"NodeCache\",\
                      \"metadata\":{\"name\":\"gpu-a\"},\"spec\":{\"items\":[]}}";

/// Buys spot for `claim` as a daemon that has just started.
async fn buy(cloud: &dyn Cloud, claim: &str) -> Result<Instance, Refusal> {
    let wanted = wanted(cloud, claim, &cloud.offerings().spot);
    cloud.provider(CLUSTER).ensure(&wanted).await
}

/// Buys until it is had, as a daemon does after a refusal that may pass.
async fn buy_in_the_end(cloud: &dyn Cloud, claim: &str) -> Instance {
    for _ in 0..5 {
        if let Ok(instance) = buy(cloud, claim).await {
            return instance;
        }
    }
    panic!("{claim} is not bought: {:?}", buy(cloud, claim).await);
}

/// Gives back until nothing is there any more, as a daemon does.
async fn give_back(provider: &dyn Provider, claim: &str) {
    for _ in 0..20 {
        if provider.release(claim).await == Ok(Release::Gone) {
            return;
        }
    }
    panic!(
        "{claim} is still there: {:?}",
        provider.release(claim).await
    );
}

/// The machine that an instance is.
fn of(cloud: &dyn Cloud, instance: &Instance) -> Machine {
    let machines = cloud.control().machines();
    let of = |machine: &&Machine| instance.provider_id.ends_with(&format!("/{}", machine.id));
    let machine = machines.iter().find(of);
    machine
        .unwrap_or_else(|| panic!("{} is none of {machines:?}", instance.provider_id))
        .clone()
}

/// Machines that cost money.
fn running(cloud: &dyn Cloud) -> usize {
    let machines = cloud.control().machines().into_iter();
    let ends = |life| matches!(life, Life::Ending(_));
    machines.filter(|machine| !ends(machine.life)).count()
}

/// Whether a case that needs `fault` is left out.
fn is_spared(cloud: &dyn Cloud, fault: Fault) -> bool {
    let why = cloud.spared(fault);
    if let Some(why) = why {
        println!("left out, for {fault:?} cannot happen: {why}");
    }
    why.is_some()
}

/// Whether a case that needs `habit` is left out.
fn does_without(cloud: &dyn Cloud, habit: Habit) -> bool {
    let why = cloud.lacks(habit);
    if let Some(why) = why {
        println!("left out, for there is no {habit:?}: {why}");
    }
    why.is_some()
}

/// Plans `fault` for `times` purchases; says whether the case is left out instead.
fn plan(cloud: &dyn Cloud, verb: Verb, fault: Fault, times: usize) -> bool {
    if is_spared(cloud, fault) {
        return true;
    }
    cloud.control().plan(verb, fault, times);
    false
}

/// A test of each case, in modules of their own. `$start` makes the cloud, in a runtime.
#[macro_export]
macro_rules! conformance {
    ($start:expr) => {
        $crate::conformance! { @ $start;
            buying: one_claim_gets_one_machine,
                asking_again_buys_nothing_more,
                a_daemon_that_restarted_gets_the_machine_that_is_there,
                two_daemons_at_once_buy_one_machine,
                many_claims_at_once_get_a_machine_each,
                what_was_asked_for_is_what_is_bought,
                on_demand_is_not_spot,
                a_machine_says_whose_it_is,
                its_node_has_the_labels_asked_for,
                its_node_has_the_taints_asked_for,
                startup_taints_are_on_its_node_or_are_refused,
                what_it_is_to_fetch_is_handed_to_it,
                a_machine_is_named_as_its_node_will_name_it,
                a_machine_made_now_is_said_to_be_made_now;
            refusing: no_capacity_is_told_as_no_capacity,
                what_has_run_out_is_not_asked_for_again_in_the_same_breath,
                what_has_run_out_here_is_bought_elsewhere,
                a_refused_key_buys_once_capacity_is_back,
                a_refused_purchase_never_comes_later,
                a_quota_is_told_by_its_name,
                a_missing_permission_is_named,
                what_settings_name_and_is_not_there_is_told_by_its_field,
                an_unknown_setting_is_told_and_nothing_is_bought,
                a_setting_of_the_wrong_kind_is_told_and_nothing_is_bought,
                a_type_that_nobody_sells_is_refused,
                an_intent_over_every_limit_buys_no_machine_without_it;
            faults: throttling_for_a_moment_is_waited_out,
                throttling_that_lasts_is_told_with_a_wait,
                the_wait_that_was_asked_for_is_told,
                a_lost_request_is_made_again,
                a_lost_reply_buys_once,
                lost_replies_and_a_restart_buy_once,
                a_server_that_fails_for_a_moment_is_asked_again,
                a_server_that_fails_for_long_is_told_and_buys_nothing,
                a_page_of_a_proxy_is_no_answer,
                an_answer_that_cannot_be_read_buys_at_most_once,
                an_error_code_that_nobody_has_seen_is_told,
                credentials_that_expire_are_renewed,
                one_claims_fault_is_not_anothers;
            listing: every_machine_is_listed_over_all_pages,
                nothing_bought_is_nothing_listed,
                another_clusters_machines_are_not_listed,
                a_machine_that_is_not_listed_yet_is_not_bought_again,
                a_list_that_fails_is_no_empty_list,
                a_list_that_cannot_be_read_is_no_empty_list,
                a_throttled_list_is_told_with_a_wait,
                a_list_is_read_with_renewed_credentials,
                a_machine_that_somebody_ended_is_not_listed_as_running;
            returning: what_is_given_back_is_gone_in_the_end,
                giving_back_twice_is_no_error,
                what_never_was_is_gone,
                a_machine_that_ends_slowly_is_not_gone_yet,
                one_given_back_leaves_the_others,
                another_clusters_machine_is_not_given_back,
                a_machine_that_is_not_listed_yet_is_given_back,
                a_lost_reply_to_giving_back_is_found_out,
                giving_back_that_fails_is_told_and_done_later,
                giving_back_without_permission_is_told,
                a_machine_that_somebody_ended_is_gone;
            interrupting: a_machine_that_will_be_taken_away_is_told,
                the_others_are_not,
                it_is_still_told_after_a_restart,
                it_can_be_given_back;
            selling: what_the_catalog_knows_is_offered,
                spot_prices_are_the_clouds_own,
                list_prices_are_the_clouds_own,
                absurd_prices_are_not_believed,
                spot_at_the_on_demand_price_is_no_offer,
                prices_that_cannot_be_had_leave_the_catalogs,
                a_sound_account_is_found_sound,
                an_account_that_may_not_list_is_found_out,
                an_examination_buys_nothing,
                a_trial_of_a_sound_account_finds_nothing_wrong;
        }
    };
    (@ $start:expr; $($group:ident: $($case:ident),+;)+) => {
        $(mod $group {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let cloud = $start;
                $crate::conformance::$group::$case(&cloud).await;
            })+
        })+
    };
}
