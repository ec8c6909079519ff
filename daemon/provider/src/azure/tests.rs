use std::collections::BTreeSet;

use headstart_clouds::call::Said;
use serde_json::json;

use super::order::{name, provider_id};
use super::refusal::of_said;
use super::settings::Settings;
use super::{Config, Nodes};
use crate::Refusal;

fn said(code: &str, message: &str) -> Said {
    Said {
        code: code.to_owned(),
        message: message.to_owned(),
        request: String::new(),
    }
}

/// Errors as Azure has been seen to write them, each with what it means.
#[test]
fn errors_seen_in_the_wild_mean_what_they_should() {
    let capacity = [
        (
            "SkuNotAvailable",
            "Code=\"SkuNotAvailable\" Message=\"The requested VM size for resource 'Following SKUs \
             have failed for Capacity Restrictions: Standard_D2_v3' is currently not available in \
             location 'eastus'. Please try another size or deploy to a different location or \
             different zone.\" Target=\"sku.name\"",
        ),
        (
            "OverconstrainedZonalAllocationRequest",
            "original error: Code=\"OverconstrainedZonalAllocationRequest\" Message=\"Allocation \
             failed. VM(s) with the following constraints cannot be allocated, because the \
             condition is too restrictive.\"",
        ),
        (
            "OverconstrainedAllocationRequest",
            "Allocation failed. VM(s) with the following constraints cannot be allocated.",
        ),
        (
            "AllocationFailed",
            "Allocation failed. If you are trying to add a new VM to a Virtual Machine Scale Set \
             with a single placement group, such allocation is scoped to a single cluster.",
        ),
        (
            "ZonalAllocationFailed",
            "Allocation failed. We do not have sufficient capacity for the requested VM size \
             Standard_D2_v3 in zone 1.",
        ),
        (
            "ReconcileVMSSAgentPoolFailed",
            "Code=\"AllocationFailed\" Message=\"The VMSS 'aks-x-1-vmss' could not be allocated.\"",
        ),
        (
            "VMSizeNotSupported",
            "Virtual Machine size: 'Standard_X' is not supported for subscription s in location \
             'eastus'.",
        ),
        (
            "BadRequest",
            "Virtual Machine size: 'Standard_X' is not supported for subscription s in location \
             'eastus'.",
        ),
    ];
    for (code, message) in capacity {
        let refusal = of_said(&said(code, message));
        assert!(
            matches!(refusal, Refusal::OutOfCapacity { .. }),
            "{code}: {refusal:?}"
        );
    }
    let exceeding = |what: &str| {
        format!(
            "Code=\"OperationNotAllowed\" Message=\"Operation could not be completed as it results \
             in exceeding approved {what} quota. Additional details - Deployment Model: Resource \
             Manager, Location: eastus, Current Limit: 3, Current Usage: 0, Additional Required: \
             6, (Minimum) New Limit Required: 6.\""
        )
    };
    let vcpu = "Insufficient vcpu quota requested 24, remaining 0 for family \
                standardNCADSA100v4Family for region eastus.";
    let pools = "The number of agent pools exceeds the maximum of 100.";
    for (code, message, quota) in [
        (
            "QuotaExceeded",
            exceeding("LowPriorityCores"),
            "LowPriorityCores",
        ),
        (
            "OperationNotAllowed",
            exceeding("standardDLSv5Family Family Cores"),
            "standardDLSv5Family Family",
        ),
        (
            "QuotaExceeded",
            exceeding("Total Regional Cores"),
            "Total Regional",
        ),
        (
            "ErrCode_InsufficientVCPUQuota",
            vcpu.to_owned(),
            "standardNCADSA100v4Family",
        ),
        ("BadRequest", pools.to_owned(), "agent pools per cluster"),
    ] {
        let refusal = of_said(&said(code, &message));
        let Refusal::Quota { quota: told, .. } = &refusal else {
            panic!("{code}: {refusal:?}");
        };
        assert_eq!(told, quota);
    }
    let denied = of_said(&said(
        "AuthorizationFailed",
        "The client 'c' with object id 'o' does not have authorization to perform action \
         'Microsoft.ContainerService/managedClusters/agentPools/write' over scope '/s' or the scope \
         is invalid.",
    ));
    let Refusal::Forbidden { permission, .. } = denied else {
        panic!("{denied:?}");
    };
    assert_eq!(
        permission,
        "Microsoft.ContainerService/managedClusters/agentPools/write"
    );
    for (code, message, field) in [
        (
            "InvalidParameter",
            "The value is not valid. (target agentPoolProfile.vnetSubnetID)",
            "spec.provider.subnet",
        ),
        (
            "SubnetNotFound",
            "The subnet was not found.",
            "spec.provider.subnet",
        ),
        (
            "ResourceGroupNotFound",
            "Resource group 'rg' could not be found.",
            "azure.resourceGroup",
        ),
        (
            "ResourceNotFound",
            "The Resource 'Microsoft.ContainerService/managedClusters/x' was not found.",
            "azure.cluster",
        ),
    ] {
        let refusal = of_said(&said(code, message));
        let Refusal::Misconfigured { field: told, .. } = &refusal else {
            panic!("{code}: {refusal:?}");
        };
        assert_eq!(told, field);
    }
    let unknown = of_said(&said("SomeRandomError", "An unexpected error occurred."));
    assert!(matches!(unknown, Refusal::Other { .. }), "{unknown:?}");
}

#[test]
fn names_are_what_aks_takes_and_each_claims_own() {
    let claims = (0..1000).map(|n| format!("gpu-{n}"));
    let names: BTreeSet<String> = claims.map(|claim| name("here", &claim)).collect();
    assert_eq!(names.len(), 1000);
    for name in &names {
        assert!(name.len() == 12 && name.starts_with('h'), "{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        assert!(name.chars().all(plain), "{name}");
    }
    assert_ne!(name("here", "gpu-1"), name("there", "gpu-1"));
    // A claim keeps its name over versions of this program: another one would buy again.
    assert_eq!(name("here", "gpu-1"), "h7r6i7rls2fk");
}

#[test]
fn a_provider_id_is_as_azures_cloud_provider_writes_it() {
    let resource = "/subscriptions/s/resourceGroups/MC_Group_Cluster_eastus/providers/\
                    Microsoft.Compute/virtualMachineScaleSets/aks-h-1-vmss/virtualMachines/0";
    assert_eq!(
        provider_id(resource),
        "azure:///subscriptions/s/resourceGroups/mc_group_cluster_eastus/providers/\
         Microsoft.Compute/virtualMachineScaleSets/aks-h-1-vmss/virtualMachines/0"
    );
}

#[test]
fn a_setting_that_makes_no_sense_is_told_by_its_field() {
    for (settings, field) in [
        (json!({"subnet": "default"}), "spec.provider.subnet"),
        (json!({"osDiskSizeGb": 4096}), "spec.provider.osDiskSizeGb"),
        (json!({"spotMaxPrice": 0}), "spec.provider.spotMaxPrice"),
        (json!({"osDisk": "Fast"}), "spec.provider.osDisk"),
        (json!({"tags": {"a/b": "c"}}), "spec.provider.tags"),
        (
            json!({"tags": {"Headstart.dev_cluster": "c"}}),
            "spec.provider.tags",
        ),
        (json!({"gpus": 1}), "spec.provider.gpus"),
    ] {
        let refused = Settings::read(settings.as_object().unwrap());
        let Err(Refusal::Misconfigured { field: told, .. }) = refused else {
            panic!("{settings}: {refused:?}");
        };
        assert_eq!(told, field);
    }
}

#[test]
fn a_configuration_is_read_and_its_faults_are_named() {
    let config = |nodes: serde_json::Value, location: &str| -> Config {
        serde_json::from_value(json!({
            "subscription": "00000000-0000-0000-0000-000000000000",
            "resourceGroup": "group", "cluster": "cluster", "location": location, "nodes": nodes,
        }))
        .unwrap()
    };
    let pools = config(json!("agentPools"), "eastus");
    assert_eq!((pools.check(), pools.nodes), (Ok(()), Nodes::AgentPools));
    let machines = config(json!({"machines": {"pool": "gpus"}}), "eastus");
    assert_eq!(machines.check(), Ok(()));
    let wrong = config(json!("agentPools"), "East US").check().unwrap_err();
    assert_eq!(wrong.field, "location");
}
