//! What is run, and how it is written as parameters of the query protocol.

use std::collections::BTreeMap;

/// What to run. Names are the API's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunInstances {
    /// The same token runs one instance, however often it is asked; at most 64 characters.
    pub client_token: String,
    /// `ami-…`.
    pub image_id: String,
    /// `g6.xlarge`.
    pub instance_type: String,
    /// Subnet, which decides the zone.
    pub subnet_id: String,
    /// Security groups.
    pub security_group_ids: Vec<String>,
    /// Instance profile, by name.
    pub iam_instance_profile: Option<String>,
    /// As it is to arrive; encoded here.
    pub user_data: Vec<u8>,
    /// Whether it is spot: one-time, terminated when interrupted.
    pub market: Market,
    /// Disks.
    pub block_devices: Vec<BlockDevice>,
    /// Tags of the instance and its volumes.
    pub tags: BTreeMap<String, String>,
    /// Only checks whether it may be done.
    pub dry_run: DryRun,
}

/// How an instance is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Market {
    /// At the list price.
    #[default]
    OnDemand,
    /// At the spot price, until interrupted.
    Spot,
}

/// Whether a call only checks permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRun {
    /// It does what it says.
    #[default]
    No,
    /// It answers whether it may instead.
    Yes,
}

/// One disk of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// `/dev/xvda`.
    pub device_name: String,
    /// Size in GiB.
    pub volume_size: u32,
    /// `gp3`.
    pub volume_type: String,
    /// MiB/s, for gp3.
    pub throughput: Option<u32>,
    /// Operations per second, for gp3.
    pub iops: Option<u32>,
    /// What it starts with.
    pub snapshot_id: Option<String>,
}

impl RunInstances {
    pub(super) fn parameters(&self) -> Vec<(String, String)> {
        use base64::Engine as _;
        let mut parameters = Vec::new();
        let mut add =
            |name: &str, value: &str| parameters.push((name.to_owned(), value.to_owned()));
        add("MinCount", "1");
        add("MaxCount", "1");
        add("ClientToken", &self.client_token);
        add("ImageId", &self.image_id);
        add("InstanceType", &self.instance_type);
        add("SubnetId", &self.subnet_id);
        for (number, group) in (1..).zip(&self.security_group_ids) {
            add(&format!("SecurityGroupId.{number}"), group);
        }
        if let Some(profile) = &self.iam_instance_profile {
            add("IamInstanceProfile.Name", profile);
        }
        if !self.user_data.is_empty() {
            let encoded = base64::engine::general_purpose::STANDARD.encode(&self.user_data);
            add("UserData", &encoded);
        }
        if self.market == Market::Spot {
            add("InstanceMarketOptions.MarketType", "spot");
            add(
                "InstanceMarketOptions.SpotOptions.SpotInstanceType",
                "one-time",
            );
            let behavior = "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior";
            add(behavior, "terminate");
        }
        // Credentials of the node are not for whoever can make it send a plain request.
        add("MetadataOptions.HttpTokens", "required");
        add("MetadataOptions.HttpPutResponseHopLimit", "1");
        for (number, disk) in (1..).zip(&self.block_devices) {
            let at = |field: &str| format!("BlockDeviceMapping.{number}.{field}");
            add(&at("DeviceName"), &disk.device_name);
            add(&at("Ebs.VolumeSize"), &disk.volume_size.to_string());
            add(&at("Ebs.VolumeType"), &disk.volume_type);
            add(&at("Ebs.DeleteOnTermination"), "true");
            for (field, value) in [("Ebs.Throughput", disk.throughput), ("Ebs.Iops", disk.iops)] {
                if let Some(value) = value {
                    add(&at(field), &value.to_string());
                }
            }
            if let Some(snapshot) = &disk.snapshot_id {
                add(&at("Ebs.SnapshotId"), snapshot);
            }
        }
        for (number, kind) in (1..).zip(["instance", "volume"]) {
            if self.tags.is_empty() {
                break;
            }
            let at = |field: &str| format!("TagSpecification.{number}.{field}");
            add(&at("ResourceType"), kind);
            for (tag, (key, value)) in (1..).zip(&self.tags) {
                add(&at(&format!("Tag.{tag}.Key")), key);
                add(&at(&format!("Tag.{tag}.Value")), value);
            }
        }
        if self.dry_run == DryRun::Yes {
            add("DryRun", "true");
        }
        parameters
    }
}
