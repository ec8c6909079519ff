//! What Google's answers mean, and what things are called.

use headstart_clouds::call::{CallError, Said};
use headstart_clouds::gcp::advice::{CapacityHistory, Scores};
use headstart_clouds::gcp::compute::{Errors, Fault};
use headstart_clouds::gcp::container::Operation;

use super::*;

fn of(code: &str, message: &str) -> Refusal {
    refusal::of_fault(&Fault {
        code: code.to_owned(),
        message: message.to_owned(),
        ..Fault::default()
    })
}

fn word(refusal: &Refusal) -> String {
    match refusal {
        Refusal::OutOfCapacity { .. } => "capacity".to_owned(),
        Refusal::Quota { quota, .. } => format!("quota {quota}"),
        Refusal::Throttled { wait } => format!("throttled {}", wait.as_secs()),
        Refusal::Forbidden { permission, .. } => format!("forbidden {permission}"),
        Refusal::Misconfigured { field, .. } => format!("wrong {field}"),
        Refusal::Other { .. } => "other".to_owned(),
    }
}

#[test]
fn errors_of_an_attempt_are_told_apart() {
    let exhausted = "The zone 'projects/p/zones/us-central1-a' does not have enough resources \
                     available to fulfill the request.";
    for (code, message, meaning) in [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", exhausted, "capacity"),
        (
            "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
            exhausted,
            "capacity",
        ),
        ("RESOURCE_POOL_EXHAUSTED", "", "capacity"),
        ("INSUFFICIENT_CAPACITY", "", "capacity"),
        ("GCE_STOCKOUT", "", "capacity"),
        (
            "QUOTA_EXCEEDED",
            "Quota 'PREEMPTIBLE_NVIDIA_L4_GPUS' exceeded.  Limit: 1.0 in region us-central1.",
            "quota PREEMPTIBLE_NVIDIA_L4_GPUS",
        ),
        ("GCE_QUOTA_EXCEEDED", "", "quota GCE_QUOTA_EXCEEDED"),
        ("IP_SPACE_EXHAUSTED", "", "quota addresses of the subnet"),
        (
            "IP_SPACE_EXHAUSTED_WITH_DETAILS",
            "",
            "quota addresses of the subnet",
        ),
        (
            "PERMISSIONS_ERROR",
            "Required 'compute.instances.create' permission for 'projects/p'",
            "forbidden compute.instances.create",
        ),
        (
            "CONDITION_NOT_MET",
            "Constraint constraints/compute.vmExternalIpAccess violated",
            "wrong spec.provider",
        ),
        (
            "CONDITION_NOT_MET",
            "Cannot use the specified reservation: it has no capacity left",
            "capacity",
        ),
        (
            "RESOURCE_NOT_FOUND",
            "The resource 'projects/p/global/images/warm' was not found",
            "wrong spec.provider.secondaryBootDisks",
        ),
        ("INTERNAL_ERROR", "Internal error", "other"),
        ("SOMETHING_NEW", "", "other"),
        ("", "", "other"),
    ] {
        assert_eq!(word(&of(code, message)), meaning, "{code}: {message}");
    }
}

#[test]
fn the_error_that_is_understood_is_told_before_one_that_is_not() {
    let errors = ["INTERNAL_ERROR", "ZONE_RESOURCE_POOL_EXHAUSTED"].map(|code| Fault {
        code: code.to_owned(),
        ..Fault::default()
    });
    let errors = Errors {
        errors: errors.into(),
    };
    assert_eq!(word(&refusal::of_errors(&errors).unwrap()), "capacity");
    assert_eq!(refusal::of_errors(&Errors::default()), None);
}

#[test]
fn refused_calls_are_told_apart() {
    for (api, code, message, meaning) in [
        (
            "instanceGroupManagers.createInstances",
            "forbidden",
            "Required 'compute.instanceGroupManagers.update' permission for 'projects/p'",
            "forbidden compute.instanceGroupManagers.update",
        ),
        (
            "nodePools.create",
            "PERMISSION_DENIED",
            "",
            "forbidden container.clusters.update",
        ),
        (
            "clusters.get",
            "UNAUTHENTICATED",
            "",
            "forbidden an access token",
        ),
        (
            "clusters.get",
            "SERVICE_DISABLED",
            "",
            "forbidden container.googleapis.com",
        ),
        (
            "clusters.get",
            "NOT_FOUND",
            "Not found: projects/p/…/clusters/c.",
            "wrong gcp.cluster",
        ),
        (
            "nodePools.create",
            "FAILED_PRECONDITION",
            "Operation operation-1 is currently creating a node pool for cluster c. Please wait",
            "throttled 20",
        ),
        (
            "nodePools.create",
            "INVALID_ARGUMENT",
            "Service account \"x@p.iam.gserviceaccount.com\" does not exist.",
            "wrong spec.provider.serviceAccount",
        ),
        ("nodePools.create", "418", "", "other"),
    ] {
        let error = CallError::Refused {
            api,
            said: Said {
                code: code.to_owned(),
                message: message.to_owned(),
                request: "7".to_owned(),
            },
        };
        assert_eq!(
            word(&refusal::of(&error)),
            meaning,
            "{api} {code}: {message}"
        );
    }
    let operation = |text: &str| serde_json::from_str::<Operation>(text).unwrap();
    let failed = operation(
        r#"{"status": "DONE", "error": {"code": 8, "message": "Insufficient regional quota: 'GPUS'"}}"#,
    );
    let told = refusal::of_operation(&failed).unwrap();
    assert_eq!(word(&told), "quota GPUS");
    assert_eq!(
        refusal::of_operation(&operation(r#"{"status": "DONE"}"#)),
        None
    );
}

#[test]
fn a_machine_is_called_after_its_claim_and_no_two_clusters_share_a_name() {
    let (here, there) = (Names::of("here"), Names::of("there"));
    let name = here.machine("gpu-1a2b").unwrap();
    assert_eq!(here.claim(&name).as_deref(), Some("gpu-1a2b"));
    assert_ne!(there.machine("gpu-1a2b"), Some(name.clone()));
    assert_eq!(there.claim(&name), None);
    assert_eq!(
        (here.mark.as_str(), Names::of("My Cluster").mark.len()),
        ("here", 17)
    );
    let long = "a".repeat(54);
    assert_eq!(here.machine(&long).unwrap().len(), 63);
    for none in ["", "a.b", "Gpu", "gpu-", &"a".repeat(55)] {
        assert_eq!(here.machine(none), None, "{none}");
    }
}

fn wanted() -> Wanted {
    Wanted {
        claim: "gpu-a".to_owned(),
        offering: headstart_core::offer::OfferingKey {
            instance_type: "g2-standard-4".to_owned(),
            zone: "us-central1-a".to_owned(),
            capacity_type: headstart_core::offer::CapacityType::Spot,
        },
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: Map::new(),
        intent: String::new(),
    }
}

#[test]
fn a_pool_is_called_after_what_its_nodes_have_in_common() {
    let name = |wanted: &Wanted| {
        let settings = Settings::read(&wanted.settings).unwrap();
        Order::of("here", wanted, settings).unwrap().pool_name(None)
    };
    let plain = name(&wanted());
    assert!(plain.len() <= 40, "{plain}");
    let mut same = wanted();
    same.claim = "gpu-b".to_owned();
    same.offering.zone = "us-central1-b".to_owned();
    same.intent = "{}".to_owned();
    for own in [
        "topology.kubernetes.io/zone",
        headstart_api::names::NODE_CLAIM,
    ] {
        same.labels.insert(own.to_owned(), "x".to_owned());
    }
    assert_eq!(name(&same), plain);
    let mut others = vec![wanted(), wanted(), wanted()];
    others[0]
        .labels
        .insert("team".to_owned(), "speech".to_owned());
    others[1].offering.capacity_type = headstart_core::offer::CapacityType::OnDemand;
    others[2].settings.insert("localSsds".to_owned(), 1.into());
    for other in &others {
        assert_ne!(name(other), plain, "{other:?}");
    }
}

#[test]
fn a_configuration_that_makes_no_sense_is_told_by_its_field() {
    let region = |text: &str| serde_json::from_str::<Config>(text).unwrap().region();
    let config = |location: &str, zones: &str| {
        let text = format!(
            r#"{{"project": "p", "cluster": "c", "location": "{location}", "zones": [{zones}]}}"#
        );
        region(&text)
    };
    assert_eq!(config("us-central1", ""), Ok("us-central1".to_owned()));
    assert_eq!(config("us-central1-a", ""), Ok("us-central1".to_owned()));
    for location in ["", "us", "US-central1", "us-central", "us-central1/../x"] {
        assert_eq!(
            config(location, "").unwrap_err().field,
            "gcp.location",
            "{location}"
        );
    }
    let elsewhere = config("us-central1", r#""us-east1-b""#);
    assert_eq!(elsewhere.unwrap_err().field, "gcp.zones");
    assert!(serde_json::from_str::<Config>(r#"{"project": "p", "zone": "z"}"#).is_err());
}

#[test]
fn interruptions_follow_from_the_uptime_and_else_from_the_share_that_was_preempted() {
    let scores = |uptime: &str| Scores {
        estimated_uptime: Some(uptime.to_owned()),
        ..Scores::default()
    };
    let history = |rates: &str| -> CapacityHistory {
        serde_json::from_str(&format!(r#"{{"preemptionHistory": {rates}}}"#)).unwrap()
    };
    let by = |history: Option<&CapacityHistory>, scores: Option<&Scores>| {
        offers::interruptions(history, scores)
    };
    assert_eq!(by(None, Some(&scores("36000s"))), Some(69_314));
    let half = history(r#"[{"preemptionRate": 0.5}, {"preemptionRate": 7}]"#);
    assert_eq!(by(Some(&half), None), Some(28_881));
    assert_eq!(by(Some(&half), Some(&scores("0s"))), Some(28_881));
    assert_eq!(by(Some(&history("[]")), None), None);
    assert_eq!(by(None, Some(&scores("0.001s"))), Some(10_000_000));
}
