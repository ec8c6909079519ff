//! Compute and Authorization, as far as they say what may be bought: resource SKUs, usages, and the
//! actions that an identity may do.

use std::sync::Arc;

use serde::Deserialize;

use super::arm::{Arm, Ask};
use crate::call::CallError;

/// Version of `Resource Skus - List`.
const SKUS_VERSION: &str = "2021-07-01";

/// Version of `Usage - List`.
const USAGES_VERSION: &str = "2026-04-01";

/// Version of `Permissions - List For Resource`.
const PERMISSIONS_VERSION: &str = "2022-04-01";

/// Compute of one subscription.
#[derive(Debug)]
pub struct Compute {
    arm: Arc<Arm>,
    subscription: String,
}

/// `ResourceSku`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceSku {
    /// `virtualMachines`, `disks` and others.
    pub resource_type: String,
    /// `Standard_NC24ads_A100_v4`.
    pub name: String,
    /// `standardNCADSA100v4Family`: the name of its quota.
    pub family: String,
    /// Where it is.
    pub location_info: Vec<LocationInfo>,
    /// What it can.
    pub capabilities: Vec<Capability>,
    /// Where it cannot be had.
    pub restrictions: Vec<Restriction>,
}

/// `ResourceSkuLocationInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LocationInfo {
    /// Region.
    pub location: String,
    /// Zones it is in.
    pub zones: Vec<String>,
}

/// `ResourceSkuCapabilities`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capability {
    /// `LowPriorityCapable` and others.
    pub name: String,
    /// `True` and others.
    pub value: String,
}

/// `ResourceSkuRestrictions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Restriction {
    /// `Location`, `Zone`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it holds.
    pub restriction_info: RestrictionInfo,
    /// `QuotaId`, `NotAvailableForSubscription`.
    pub reason_code: String,
}

/// `ResourceSkuRestrictionInfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RestrictionInfo {
    /// Zones.
    pub zones: Vec<String>,
}

/// `Usage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Usage {
    /// In use.
    pub current_value: i64,
    /// Allowed.
    pub limit: i64,
    /// Of what.
    pub name: UsageName,
}

/// `UsageName`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct UsageName {
    /// `lowPriorityCores`, `standardNCADSA100v4Family`.
    pub value: String,
}

/// `Permission`: what an identity may do at a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Permission {
    /// Allowed, with `*` for any text.
    pub actions: Vec<String>,
    /// But not these.
    pub not_actions: Vec<String>,
}

impl Permission {
    /// Whether it allows `action`.
    pub fn allows(&self, action: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|it| fits(it, action));
        any(&self.actions) && !any(&self.not_actions)
    }
}

impl ResourceSku {
    /// Zones of `location` that it can be had in; none if it cannot be had there at all.
    pub fn zones(&self, location: &str) -> Option<Vec<&str>> {
        let is_here = |it: &&LocationInfo| it.location.eq_ignore_ascii_case(location);
        let here = self.location_info.iter().find(is_here)?;
        if self.restrictions.iter().any(|it| it.kind == "Location") {
            return None;
        }
        let closed = self.restrictions.iter().filter(|it| it.kind == "Zone");
        let closed: Vec<&String> = closed.flat_map(|it| &it.restriction_info.zones).collect();
        let zones = here.zones.iter().filter(|zone| !closed.contains(zone));
        Some(zones.map(String::as_str).collect())
    }

    /// Whether it is said to be sold as spot. What says nothing may be.
    pub fn is_spot_capable(&self) -> bool {
        let mut said = self.capabilities.iter();
        !said.any(|it| it.name == "LowPriorityCapable" && it.value.eq_ignore_ascii_case("false"))
    }
}

impl Compute {
    /// Compute of `subscription`.
    pub fn new(arm: Arc<Arm>, subscription: &str) -> Self {
        Self {
            arm,
            subscription: subscription.to_owned(),
        }
    }

    /// `Resource Skus - List` of a region: its sizes of virtual machines.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn resource_skus(&self, location: &str) -> Result<Vec<ResourceSku>, CallError> {
        let path = self.path(&["skus"]);
        let filter = format!("location eq '{location}'");
        let ask = Ask {
            query: &[("$filter", &filter)],
            ..Ask::get("resourceSkus list", &path, SKUS_VERSION)
        };
        let mut skus: Vec<ResourceSku> = self.arm.list(&ask).await?;
        skus.retain(|sku| sku.resource_type == "virtualMachines");
        Ok(skus)
    }

    /// `Usage - List` of a region: how much of each quota is used.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn usages(&self, location: &str) -> Result<Vec<Usage>, CallError> {
        let path = self.path(&["locations", location, "usages"]);
        self.arm
            .list(&Ask::get("usages list", &path, USAGES_VERSION))
            .await
    }

    /// `Permissions - List For Resource`: what the identity may do with an AKS cluster.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn permissions(
        &self,
        resource_group: &str,
        cluster: &str,
    ) -> Result<Vec<Permission>, CallError> {
        let path = [
            "subscriptions",
            &self.subscription,
            "resourceGroups",
            resource_group,
            "providers",
            "Microsoft.ContainerService",
            "managedClusters",
            cluster,
            "providers",
            "Microsoft.Authorization",
            "permissions",
        ];
        self.arm
            .list(&Ask::get("permissions list", &path, PERMISSIONS_VERSION))
            .await
    }

    fn path<'a>(&'a self, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["subscriptions", &self.subscription, "providers"];
        path.push("Microsoft.Compute");
        path.extend(below);
        path
    }
}

/// Whether a pattern with `*` for any text fits, whatever the case.
fn fits(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_lowercase(), action.to_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = action.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // Without a star all of it must have fitted; behind the last one, its end.
    match last {
        None => rest.is_empty(),
        Some(end) => end.is_empty() || action.ends_with(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        let action = "Microsoft.ContainerService/managedClusters/agentPools/write";
        for pattern in [
            "*",
            "*/write",
            "Microsoft.ContainerService/*",
            "microsoft.containerservice/managedClusters/*/write",
            action,
        ] {
            assert!(fits(pattern, action), "{pattern}");
        }
        for pattern in [
            "*/read",
            "Microsoft.Compute/*",
            "",
            "Microsoft.ContainerService",
        ] {
            assert!(!fits(pattern, action), "{pattern}");
        }
        let owner_but_not = Permission {
            actions: vec!["*".to_owned()],
            not_actions: vec!["Microsoft.ContainerService/*/write".to_owned()],
        };
        assert!(!owner_but_not.allows(action));
    }

    #[test]
    fn a_size_is_in_the_zones_that_are_not_closed_to_the_subscription() {
        let sku = |restrictions: serde_json::Value| -> ResourceSku {
            serde_json::from_value(serde_json::json!({
                "resourceType": "virtualMachines", "name": "Standard_NC4as_T4_v3",
                "locationInfo": [{"location": "eastus", "zones": ["1", "2"]}],
                "restrictions": restrictions,
            }))
            .unwrap()
        };
        let open = sku(serde_json::json!([]));
        assert_eq!(open.zones("EastUS"), Some(vec!["1", "2"]));
        assert_eq!(open.zones("westus"), None);
        let zone = serde_json::json!([{"type": "Zone", "restrictionInfo": {"zones": ["2"]}}]);
        assert_eq!(sku(zone).zones("eastus"), Some(vec!["1"]));
        let all = serde_json::json!([{"type": "Location", "values": ["eastus"]}]);
        assert_eq!(sku(all).zones("eastus"), None);
    }
}
