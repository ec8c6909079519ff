//! Compute Engine's API, `compute` v1: managed instance groups of one zone, their instances, operations
//! and machine types.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::{Api, Ask, Items, Page};
use crate::call::CallError;

/// Compute Engine in one project.
#[derive(Debug)]
pub struct Compute {
    api: Api,
    project: String,
}

/// A managed instance group in a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Its zone.
    pub zone: String,
    /// Its name.
    pub name: String,
}

impl Group {
    /// The group that a URL ends with: `…/zones/Z/instanceGroupManagers/N`, or `…/instanceGroups/N`.
    pub fn of(url: &str) -> Option<Self> {
        let mut segments = url.rsplit('/');
        let name = segments.next().filter(|name| !name.is_empty())?;
        let kind = segments.next()?;
        if !matches!(kind, "instanceGroupManagers" | "instanceGroups") {
            return None;
        }
        let zone = segments.next().filter(|zone| !zone.is_empty())?;
        (segments.next() == Some("zones")).then(|| Self {
            zone: zone.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// What a URL of the API, or a name, ends with.
pub fn last(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// A group, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceGroupManager {
    /// Its name.
    pub name: String,
    /// Instances that it is to have.
    pub target_size: u32,
    /// The template that it makes them from.
    pub instance_template: String,
}

/// An instance of a group, there or on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagedInstance {
    /// Its name; there before the instance is.
    pub name: String,
    /// Its URL.
    pub instance: String,
    /// Empty while it does not exist.
    pub id: String,
    /// `NONE`, `CREATING`, `DELETING`, `VERIFYING`, `RECREATING`.
    pub current_action: String,
    /// `PROVISIONING`, `STAGING`, `RUNNING`, `STOPPING`, `TERMINATED`; empty while it does not exist.
    pub instance_status: String,
    /// What the last attempt to make it said.
    pub last_attempt: LastAttempt,
}

impl ManagedInstance {
    /// Its name, which older answers have only in its URL.
    pub fn name(&self) -> &str {
        match self.name.as_str() {
            "" => last(&self.instance),
            name => name,
        }
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        !self.instance_status.is_empty() || !matches!(self.id.as_str(), "" | "0")
    }
}

/// `ManagedInstance.lastAttempt`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LastAttempt {
    /// Its errors.
    pub errors: Errors,
}

/// A list of errors, as operations and attempts have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Errors {
    /// They.
    pub errors: Vec<Fault>,
}

/// An error of an operation or of an attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// `ZONE_RESOURCE_POOL_EXHAUSTED`, `QUOTA_EXCEEDED`.
    pub code: String,
    /// Words.
    pub message: String,
    /// What of the request.
    pub location: String,
    /// Structured details.
    pub error_details: Vec<ErrorDetail>,
}

/// A detail of an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ErrorDetail {
    /// Which quota.
    pub quota_info: Option<QuotaInfo>,
}

/// A quota that is exceeded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuotaInfo {
    /// `compute.googleapis.com/preemptible_nvidia_l4_gpus`.
    pub metric_name: String,
    /// `PREEMPTIBLE-NVIDIA-L4-GPUS-per-project-region`.
    pub limit_name: String,
}

/// An error that a group remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupError {
    /// What.
    pub error: Fault,
    /// For which instance.
    pub instance_action_details: ActionDetails,
    /// When, in RFC 3339.
    pub timestamp: String,
}

/// `InstanceManagedByIgmError.instanceActionDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ActionDetails {
    /// `CREATING`.
    pub action: String,
    /// URL of the instance.
    pub instance: String,
}

/// An instance, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// Number.
    pub id: String,
    /// Name, the Node's as well.
    pub name: String,
    /// URL of its zone.
    pub zone: String,
    /// URL of its type.
    pub machine_type: String,
    /// `PROVISIONING`, `STAGING`, `RUNNING`, `STOPPING`, `TERMINATED`, `REPAIRING`.
    pub status: String,
    /// RFC 3339.
    pub creation_timestamp: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Metadata, of which `created-by` names its group.
    pub metadata: Metadata,
}

impl Instance {
    /// The group that made it.
    pub fn group(&self) -> Option<Group> {
        let mut items = self.metadata.items.iter();
        let by = items.find(|item| item.key == "created-by")?;
        Group::of(&by.value)
    }
}

/// Metadata of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// It.
    pub items: Vec<MetadataItem>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MetadataItem {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// Something that Compute Engine did or does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// Its name.
    pub name: String,
    /// `compute.instances.preempted`.
    pub operation_type: String,
    /// `PENDING`, `RUNNING`, `DONE`.
    pub status: String,
    /// URL of what it is about.
    pub target_link: String,
    /// Number of what it is about.
    pub target_id: String,
    /// RFC 3339.
    pub insert_time: String,
    /// Why it failed.
    pub error: Option<Errors>,
}

/// A machine type in a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineType {
    /// `g2-standard-4`.
    pub name: String,
    /// vCPUs.
    pub guest_cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// GPUs.
    pub accelerators: Vec<Accelerator>,
    /// Local SSDs that come with it.
    pub bundled_local_ssds: BundledLocalSsds,
}

/// GPUs of a machine type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Accelerator {
    /// `nvidia-l4`.
    pub guest_accelerator_type: String,
    /// How many.
    pub guest_accelerator_count: u32,
}

/// Local SSDs of a machine type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BundledLocalSsds {
    /// How many.
    pub partition_count: u32,
}

/// A region, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Region {
    /// URLs of its zones.
    pub zones: Vec<String>,
    /// Quotas.
    pub quotas: Vec<Quota>,
}

/// A quota of a region.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// `PREEMPTIBLE_NVIDIA_L4_GPUS`.
    pub metric: String,
    /// How much there may be.
    pub limit: f64,
    /// How much there is.
    pub usage: f64,
}

#[derive(Serialize)]
struct PerInstanceConfig<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Managed {
    #[serde(default)]
    managed_instances: Vec<ManagedInstance>,
    #[serde(default)]
    next_page_token: Option<String>,
}

impl Page for Managed {
    type Item = ManagedInstance;

    fn open(self) -> (Vec<ManagedInstance>, Option<String>) {
        (self.managed_instances, self.next_page_token)
    }
}

impl Compute {
    /// Compute Engine, for what belongs to `project`.
    pub fn new(api: Api, project: &str) -> Self {
        Self {
            api,
            project: project.to_owned(),
        }
    }

    fn zone<'a>(&'a self, zone: &'a str, below: &[&'a str]) -> Vec<&'a str> {
        let mut path = vec!["projects", &self.project, "zones", zone];
        path.extend(below);
        path
    }

    fn group<'a>(&'a self, group: &'a Group, verb: &[&'a str]) -> Vec<&'a str> {
        let mut path = self.zone(&group.zone, &["instanceGroupManagers", &group.name]);
        path.extend(verb);
        path
    }

    /// `instanceGroupManagers.get`.
    ///
    /// # Errors
    /// As [`CallError`] says; `notFound` where there is none.
    pub async fn manager(&self, group: &Group) -> Result<InstanceGroupManager, CallError> {
        let path = self.group(group, &[]);
        self.api
            .call(&Ask::get("instanceGroupManagers.get", path))
            .await
    }

    /// `instanceGroupManagers.createInstances`: one more, of this name. That it was accepted says
    /// nothing of capacity: that is said by [`Self::managed`].
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn create_instance(&self, group: &Group, name: &str) -> Result<Operation, CallError> {
        let path = self.group(group, &["createInstances"]);
        let body = json!({"instances": [PerInstanceConfig { name }]});
        let ask = Ask::post("instanceGroupManagers.createInstances", path, Some(body));
        self.api.call(&ask.with("requestId", request_id())).await
    }

    /// `instanceGroupManagers.deleteInstances`: this one, made already or not, and the group is to have
    /// one less. One that is being deleted is no error.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn delete_instance(&self, group: &Group, name: &str) -> Result<Operation, CallError> {
        let path = self.group(group, &["deleteInstances"]);
        let url = format!("zones/{}/instances/{name}", group.zone);
        let body = json!({"instances": [url], "skipInstancesOnValidationError": true});
        let ask = Ask::post("instanceGroupManagers.deleteInstances", path, Some(body));
        self.api.call(&ask.with("requestId", request_id())).await
    }

    /// `instanceGroupManagers.listManagedInstances`, of one name or all.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn managed(
        &self,
        group: &Group,
        name: Option<&str>,
    ) -> Result<Vec<ManagedInstance>, CallError> {
        let path = self.group(group, &["listManagedInstances"]);
        let mut ask = Ask::post("instanceGroupManagers.listManagedInstances", path, None);
        if let Some(name) = name {
            ask = ask.with("filter", format!("name = {name}"));
        }
        let mut all = self.api.list::<Managed>(&ask).await?;
        all.retain(|one| name.is_none_or(|name| one.name() == name));
        Ok(all)
    }

    /// `instanceGroupManagers.listErrors`: what went wrong lately.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn errors(&self, group: &Group) -> Result<Vec<GroupError>, CallError> {
        let path = self.group(group, &["listErrors"]);
        let ask = Ask::get("instanceGroupManagers.listErrors", path);
        self.api.list::<Items<GroupError>>(&ask).await
    }

    /// `instances.get`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn instance(&self, zone: &str, name: &str) -> Result<Option<Instance>, CallError> {
        let path = self.zone(zone, &["instances", name]);
        match self.api.call(&Ask::get("instances.get", path)).await {
            Ok(instance) => Ok(Some(instance)),
            Err(CallError::Refused { said, .. }) if said.code == "notFound" => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `instances.list` of a zone, of one label's value.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn instances(
        &self,
        zone: &str,
        label: &str,
        value: &str,
    ) -> Result<Vec<Instance>, CallError> {
        let ask = Ask::get("instances.list", self.zone(zone, &["instances"]))
            .with("filter", format!("labels.{label} = {value}"))
            .with(
                "fields",
                "items(id,name,zone,machineType,status,creationTimestamp,labels),nextPageToken",
            );
        let mut all = self.api.list::<Items<Instance>>(&ask).await?;
        all.retain(|one| one.labels.get(label).is_some_and(|found| found == value));
        Ok(all)
    }

    /// `zoneOperations.list`, of one type.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn operations(
        &self,
        zone: &str,
        operation_type: &str,
    ) -> Result<Vec<Operation>, CallError> {
        let ask = Ask::get("zoneOperations.list", self.zone(zone, &["operations"]))
            .with("filter", format!("operationType = {operation_type}"));
        let mut all = self.api.list::<Items<Operation>>(&ask).await?;
        all.retain(|one| one.operation_type == operation_type);
        Ok(all)
    }

    /// `machineTypes.list` of a zone, of one name or all.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn machine_types(
        &self,
        zone: &str,
        name: Option<&str>,
    ) -> Result<Vec<MachineType>, CallError> {
        let mut ask = Ask::get("machineTypes.list", self.zone(zone, &["machineTypes"])).with(
            "fields",
            "items(name,guestCpus,memoryMb,accelerators,bundledLocalSsds),nextPageToken",
        );
        if let Some(name) = name {
            ask = ask.with("filter", format!("name = {name}"));
        }
        let mut all = self.api.list::<Items<MachineType>>(&ask).await?;
        all.retain(|one| name.is_none_or(|name| one.name == name));
        Ok(all)
    }

    /// `regions.get`: zones and quotas.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn region(&self, region: &str) -> Result<Region, CallError> {
        let path = vec!["projects", &self.project, "regions", region];
        self.api.call(&Ask::get("regions.get", path)).await
    }

    /// The API and the project, for what is beside it.
    pub(super) fn parts(&self) -> (&Api, &str) {
        (&self.api, &self.project)
    }
}

/// A random UUID: the same request, tried again, happens once. It is new for each purchase, for a
/// request that was refused must not be answered with the refusal later.
fn request_id() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    let parts: Vec<_> = parts.iter().map(|(from, to)| &hex[*from..*to]).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_read_from_its_url() {
        let group = Group::of(
            "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/instanceGroupManagers/gke-x",
        );
        let found = group.map(|group| (group.zone, group.name));
        assert_eq!(
            found,
            Some(("us-central1-a".to_owned(), "gke-x".to_owned()))
        );
        for other in [
            "",
            "/",
            "zones//instanceGroupManagers/x",
            "regions/r/instanceGroupManagers/x",
            "zones/z/instances/x",
        ] {
            assert_eq!(Group::of(other), None, "{other}");
        }
    }

    #[test]
    fn a_request_id_is_a_random_uuid() {
        let id = request_id();
        assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
        assert_ne!(id, request_id());
    }

    #[test]
    fn what_waits_to_be_made_does_not_exist() {
        let read = |text: &str| serde_json::from_str::<ManagedInstance>(text).unwrap();
        let waits = read(
            r#"{"instance": "https://…/zones/z/instances/a", "currentAction": "CREATING",
                "lastAttempt": {"errors": {"errors": [{"code": "ZONE_RESOURCE_POOL_EXHAUSTED"}]}}}"#,
        );
        assert!(!waits.exists());
        assert_eq!(waits.name(), "a");
        assert_eq!(waits.last_attempt.errors.errors.len(), 1);
        assert!(read(r#"{"name": "a", "id": "7"}"#).exists());
        assert!(!read(r#"{"name": "a", "id": "0"}"#).exists());
    }
}
