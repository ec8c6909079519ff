//! What may be written of an agent pool and of a machine, and what it means.

use std::collections::BTreeMap;

use headstart_core::offer::OfferingKey;
use serde_json::Value;

use super::{LOCATION, wares};

/// Fields of an agent pool's properties that this Azure knows.
const POOL: [&str; 26] = [
    "count",
    "vmSize",
    "type",
    "mode",
    "osType",
    "osSKU",
    "osDiskType",
    "osDiskSizeGB",
    "kubeletDiskType",
    "maxPods",
    "orchestratorVersion",
    "availabilityZones",
    "scaleSetPriority",
    "scaleSetEvictionPolicy",
    "spotMaxPrice",
    "tags",
    "nodeLabels",
    "nodeTaints",
    "vnetSubnetID",
    "podSubnetID",
    "gpuProfile",
    "creationData",
    "artifactStreamingProfile",
    "capacityReservationGroupID",
    "enableAutoScaling",
    "scaleDownMode",
];

/// Fields of a machine's properties.
const MACHINE: [&str; 6] = [
    "hardware",
    "operatingSystem",
    "kubernetes",
    "mode",
    "priority",
    "tags",
];

/// A node that is asked for.
pub(super) struct Written {
    pub(super) count: usize,
    pub(super) offering: OfferingKey,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) taints: Vec<String>,
}

/// Why not: code, words, and what of it.
pub(super) type Wrong = (&'static str, String, &'static str);

/// Reads an agent pool.
pub(super) fn pool(body: &Value) -> Result<Written, Wrong> {
    let properties = known(body, &POOL)?;
    let zone = properties["availabilityZones"][0].as_str();
    let written = Written {
        count: usize::try_from(properties["count"].as_u64().unwrap_or(1)).unwrap_or(1),
        offering: offering(
            properties["vmSize"].as_str(),
            zone,
            properties["scaleSetPriority"].as_str(),
        )?,
        tags: texts(&properties["tags"]),
        labels: texts(&properties["nodeLabels"]),
        taints: list(&properties["nodeTaints"]),
    };
    if properties["osType"].as_str() != Some("Linux") || properties["mode"].as_str().is_none() {
        let words = "osType and mode are required here.".to_owned();
        return Err(("InvalidParameter", words, "agentPoolProfile.mode"));
    }
    if properties["scaleSetPriority"] == "Spot" && properties["scaleSetEvictionPolicy"] != "Delete"
    {
        let words = "Only eviction policy Delete is known here.".to_owned();
        let target = "agentPoolProfile.scaleSetEvictionPolicy";
        return Err(("InvalidParameter", words, target));
    }
    check(written)
}

/// Reads a machine.
pub(super) fn machine(body: &Value) -> Result<Written, Wrong> {
    let properties = known(body, &MACHINE)?;
    let kubernetes = &properties["kubernetes"];
    let mut taints = list(&kubernetes["nodeInitializationTaints"]);
    taints.extend(list(&kubernetes["nodeTaints"]));
    check(Written {
        count: 1,
        offering: offering(
            properties["hardware"]["vmSize"].as_str(),
            body["zones"][0].as_str(),
            properties["priority"].as_str(),
        )?,
        tags: texts(&properties["tags"]),
        labels: texts(&kubernetes["nodeLabels"]),
        taints,
    })
}

fn known<'a>(body: &'a Value, fields: &[&str]) -> Result<&'a Value, Wrong> {
    let properties = &body["properties"];
    let Some(map) = properties.as_object() else {
        let words = "The request body has no properties.".to_owned();
        return Err(("BadRequest", words, ""));
    };
    match map.keys().find(|name| !fields.contains(&name.as_str())) {
        None => Ok(properties),
        Some(name) => {
            let words = format!("UnmarshalEntity encountered error: json: unknown field {name:?}.");
            Err(("UnmarshalError", words, ""))
        }
    }
}

fn offering(
    size: Option<&str>,
    zone: Option<&str>,
    priority: Option<&str>,
) -> Result<OfferingKey, Wrong> {
    let size = size.unwrap_or("");
    let wares = wares();
    if size != wares.spot.instance_type && size != wares.other.instance_type {
        let words = format!(
            "Virtual Machine size: '{size}' is not supported for subscription s in location \
             '{LOCATION}'. Please refer to aka.ms/aks/vm-size-selector to find supported VM sizes."
        );
        return Err(("VMSizeNotSupported", words, ""));
    }
    let capacity_type = match priority {
        Some("Spot") => "spot",
        _ => "on-demand",
    };
    Ok(OfferingKey {
        instance_type: size.to_owned(),
        zone: zone.map_or_else(|| LOCATION.to_owned(), |zone| format!("{LOCATION}-{zone}")),
        capacity_type: capacity_type.parse().expect("a capacity type"),
    })
}

fn check(written: Written) -> Result<Written, Wrong> {
    let reserved = |label: &&String| label.contains("kubernetes.azure.com");
    if let Some(label) = written.labels.keys().find(reserved) {
        let words = format!("Label prefix of {label} is reserved.");
        return Err(("InvalidParameter", words, "agentPoolProfile.nodeLabels"));
    }
    let well_formed = |taint: &str| {
        let effect = taint
            .split_once('=')
            .and_then(|(_, rest)| rest.split_once(':'));
        let effects = ["NoSchedule", "NoExecute", "PreferNoSchedule"];
        effect.is_some_and(|(_, effect)| effects.contains(&effect))
    };
    if let Some(taint) = written.taints.iter().find(|taint| !well_formed(taint)) {
        let words = format!("Taint {taint} is not well formed.");
        return Err(("InvalidParameter", words, "agentPoolProfile.nodeTaints"));
    }
    let no_tag = |tag: &&String| tag.contains(['<', '>', '%', '&', '\\', '?', '/']);
    match written.tags.keys().find(no_tag) {
        None => Ok(written),
        Some(tag) => {
            let words = format!("Tag name {tag} has characters that are not allowed.");
            Err(("InvalidTagNameCharacters", words, "tags"))
        }
    }
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let map = value.as_object().cloned().unwrap_or_default().into_iter();
    map.filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
        .collect()
}

fn list(value: &Value) -> Vec<String> {
    let all = value.as_array().cloned().unwrap_or_default();
    let texts = all.iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}
