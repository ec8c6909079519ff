//! What a pool says of its machines, in `spec.provider`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Refusal;

/// `spec.provider` of a pool. Whatever is changed here makes new GKE pools for nodes from then on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Account that nodes run as, by its address; Compute Engine's default account when not given.
    pub(super) service_account: Option<String>,
    /// Image: `COS_CONTAINERD`, which is the default, or `UBUNTU_CONTAINERD`.
    pub(super) image_type: Option<String>,
    /// Kind of the boot disk: `pd-balanced`.
    pub(super) disk_type: Option<String>,
    /// Its size.
    pub(super) disk_size_gb: Option<u32>,
    /// Network tags of the machines.
    pub(super) network_tags: Vec<String>,
    /// Local SSDs of 375 GB for types that come without. They are striped, for the kubelet's directory
    /// and containerd's, and so for the agent's store. Types that come with some use all of them.
    pub(super) local_ssds: Option<u32>,
    /// Disk images with container images on them, each a disk of every node.
    pub(super) secondary_boot_disks: Vec<String>,
    /// Who installs the GPUs' driver.
    pub(super) gpu_driver: GpuDriver,
}

/// Who installs the GPUs' driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum GpuDriver {
    /// GKE, in the version that goes with the node's.
    #[default]
    Default,
    /// GKE, in the newest version.
    Latest,
    /// Somebody else.
    Disabled,
}

impl GpuDriver {
    /// GKE's word.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Default => "DEFAULT",
            Self::Latest => "LATEST",
            Self::Disabled => "INSTALLATION_DISABLED",
        }
    }
}

/// Most local SSDs of one machine.
const MOST_SSDS: u32 = 32;

impl Settings {
    /// Reads them; the refusal names the field.
    pub(super) fn read(written: &Map<String, Value>) -> Result<Self, Refusal> {
        let value = Value::Object(written.clone());
        let read: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let field = match path.as_str() {
                "." => "spec.provider".to_owned(),
                path => format!("spec.provider.{path}"),
            };
            Refusal::Misconfigured {
                field,
                said: error.inner().to_string(),
            }
        })?;
        read.check()?;
        Ok(read)
    }

    fn check(&self) -> Result<(), Refusal> {
        let wrong = |field: &str, said: String| Refusal::Misconfigured {
            field: format!("spec.provider.{field}"),
            said,
        };
        if let Some(account) = self.service_account.as_deref()
            && account != "default"
            && !account.contains('@')
        {
            let fix = "write its address, NAME@PROJECT.iam.gserviceaccount.com";
            return Err(wrong(
                "serviceAccount",
                format!("{account:?} is no account: {fix}"),
            ));
        }
        if let Some(size @ ..15) = self.disk_size_gb {
            return Err(wrong(
                "diskSizeGb",
                format!("{size} GB is under GKE's least, 15"),
            ));
        }
        if let Some(count) = self.local_ssds.filter(|count| *count > MOST_SSDS) {
            return Err(wrong(
                "localSsds",
                format!("{count} are more than {MOST_SSDS}"),
            ));
        }
        for image in &self.secondary_boot_disks {
            if !image.contains("/images/") {
                let fix = "write projects/PROJECT/global/images/NAME";
                let said = format!("{image:?} is no disk image: {fix}");
                return Err(wrong("secondaryBootDisks", said));
            }
        }
        Ok(())
    }
}
