//! EC2's query API, version 2016-11-15: the calls that buying nodes needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use roxmltree::{Document, Node};
use url::Url;

pub use self::run::{BlockDevice, DryRun, Market, RunInstances};
use super::credentials::Credentials;
use super::wire::{Wire, time, unreadable};
use super::xml::{items, text};
use crate::call::{Answer, CallError, Caller, Said};

mod run;

/// Version of the API that the names here are of.
const VERSION: &str = "2016-11-15";

/// Most pages of one list: at a thousand per page, more than any account has.
const MOST_PAGES: usize = 1000;

/// EC2 in one region.
#[derive(Debug)]
pub struct Ec2 {
    wire: Wire,
}

/// An instance, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`.
    pub instance_id: String,
    /// `pending`, `running`, `shutting-down`, `terminated`, `stopping`, `stopped`.
    pub state: String,
    /// `g6.xlarge`.
    pub instance_type: String,
    /// `us-east-1a`.
    pub availability_zone: String,
    /// `ip-10-0-0-1.ec2.internal`; empty until known.
    pub private_dns_name: String,
    /// RFC 3339.
    pub launch_time: String,
    /// `spot`, or empty.
    pub lifecycle: String,
    /// Token it was run with.
    pub client_token: String,
    /// Tags.
    pub tags: BTreeMap<String, String>,
}

/// A type that a zone has.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeOffering {
    /// Type.
    pub instance_type: String,
    /// Zone.
    pub location: String,
}

/// An image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// `ami-…`.
    pub image_id: String,
    /// `available`, or why not.
    pub state: String,
    /// `x86_64` or `arm64`.
    pub architecture: String,
    /// Its name.
    pub name: String,
}

/// A price that spot instances had.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpotPrice {
    /// Type.
    pub instance_type: String,
    /// Zone.
    pub availability_zone: String,
    /// USD per hour.
    pub usd_per_hour: f64,
    /// Since when, RFC 3339.
    pub timestamp: String,
}

/// A subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subnet {
    /// `subnet-…`.
    pub subnet_id: String,
    /// Zone by the account's name.
    pub availability_zone: String,
    /// Zone by its id, the same in all accounts: `use1-az1`.
    pub availability_zone_id: String,
    /// Addresses that are left.
    pub available_addresses: u32,
}

/// Whether a dry run would have been allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It would.
    Allowed,
    /// It would not: the encoded message says what is missing.
    Denied(Said),
}

impl Ec2 {
    /// EC2 of `region` at `endpoint` (`https://ec2.us-east-1.amazonaws.com`).
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "ec2"),
        }
    }

    /// Runs one instance, or answers with the one that the token already runs.
    ///
    /// # Errors
    /// As [`CallError`] says; codes of note are `InsufficientInstanceCapacity`, `VcpuLimitExceeded`,
    /// `MaxSpotInstanceCountExceeded`, `UnauthorizedOperation`, `InvalidParameterValue`.
    pub async fn run_instances(&self, wanted: &RunInstances) -> Result<Instance, CallError> {
        let answer = self.call("RunInstances", &wanted.parameters()).await?;
        let ran = self.read("RunInstances", &answer, |root| {
            items(root, "instancesSet").into_iter().map(instance).next()
        })?;
        ran.ok_or_else(|| unreadable("RunInstances", "no instance in it", &answer))
    }

    /// Whether `wanted` would be allowed, without running it.
    ///
    /// # Errors
    /// If it would be wrong for another reason than permission.
    pub async fn may_run(&self, wanted: &RunInstances) -> Result<Permission, CallError> {
        let dry = RunInstances {
            dry_run: DryRun::Yes,
            ..wanted.clone()
        };
        match self.call("RunInstances", &dry.parameters()).await {
            Ok(_) => Ok(Permission::Allowed),
            Err(CallError::Refused { said, .. }) if said.code == "DryRunOperation" => {
                Ok(Permission::Allowed)
            }
            Err(CallError::Refused { said, .. }) if said.code == "UnauthorizedOperation" => {
                Ok(Permission::Denied(said))
            }
            Err(error) => Err(error),
        }
    }

    /// Instances with these filters, such as `tag:Name` and `instance-state-name`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn describe_instances(
        &self,
        filters: &[(&str, &[&str])],
    ) -> Result<Vec<Instance>, CallError> {
        let parameters = with_filters(filters, &[("MaxResults", "1000")]);
        self.pages("DescribeInstances", parameters, |root| {
            let reservations = items(root, "reservationSet").into_iter();
            reservations
                .flat_map(|reservation| items(reservation, "instancesSet"))
                .map(instance)
                .collect()
        })
        .await
    }

    /// Ends instances. Ending one that has ended is no error.
    ///
    /// # Errors
    /// As [`CallError`] says; `InvalidInstanceID.NotFound` for one that is forgotten.
    pub async fn terminate_instances(&self, ids: &[&str]) -> Result<(), CallError> {
        let ids = (1..).zip(ids);
        let parameters: Vec<_> = ids
            .map(|(number, id)| (format!("InstanceId.{number}"), (*id).to_owned()))
            .collect();
        self.call("TerminateInstances", &parameters).await?;
        Ok(())
    }

    /// Adds tags to instances, or sets them anew.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn create_tags(&self, ids: &[&str], tags: &[(&str, &str)]) -> Result<(), CallError> {
        let mut parameters = numbered("ResourceId", ids);
        for (number, (key, value)) in (1..).zip(tags) {
            parameters.push((format!("Tag.{number}.Key"), (*key).to_owned()));
            parameters.push((format!("Tag.{number}.Value"), (*value).to_owned()));
        }
        self.call("CreateTags", &parameters).await?;
        Ok(())
    }

    /// Which of these types each zone of the region has. At most 100 types at once.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn describe_instance_type_offerings(
        &self,
        types: &[&str],
    ) -> Result<Vec<TypeOffering>, CallError> {
        let parameters = with_filters(
            &[("instance-type", types)],
            &[
                ("LocationType", "availability-zone"),
                ("MaxResults", "1000"),
            ],
        );
        self.pages("DescribeInstanceTypeOfferings", parameters, |root| {
            let offerings = items(root, "instanceTypeOfferingSet").into_iter();
            offerings
                .map(|offering| TypeOffering {
                    instance_type: text(offering, "instanceType").to_owned(),
                    location: text(offering, "location").to_owned(),
                })
                .collect()
        })
        .await
    }

    /// Images by their ids.
    ///
    /// # Errors
    /// As [`CallError`] says; `InvalidAMIID.NotFound` for one that is not there.
    pub async fn describe_images(&self, ids: &[&str]) -> Result<Vec<Image>, CallError> {
        self.pages("DescribeImages", numbered("ImageId", ids), |root| {
            let images = items(root, "imagesSet").into_iter();
            images
                .map(|image| Image {
                    image_id: text(image, "imageId").to_owned(),
                    state: text(image, "imageState").to_owned(),
                    architecture: text(image, "architecture").to_owned(),
                    name: text(image, "name").to_owned(),
                })
                .collect()
        })
        .await
    }

    /// Current spot prices of Linux in a VPC, the newest of each type and zone first.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn describe_spot_prices(
        &self,
        types: &[&str],
        now: SystemTime,
    ) -> Result<Vec<SpotPrice>, CallError> {
        let mut parameters = numbered("InstanceType", types);
        let mut add = |name: &str, value: &str| parameters.push((name.into(), value.into()));
        add("ProductDescription.1", "Linux/UNIX (Amazon VPC)");
        add("ProductDescription.2", "Linux/UNIX");
        // From now on: the price that holds, and nothing older.
        add("StartTime", &time(now, "%Y-%m-%dT%H:%M:%SZ"));
        add("MaxResults", "1000");
        let found = self
            .pages("DescribeSpotPriceHistory", parameters, |root| {
                let rows = items(root, "spotPriceHistorySet").into_iter();
                rows.map(|row| SpotPrice {
                    instance_type: text(row, "instanceType").to_owned(),
                    availability_zone: text(row, "availabilityZone").to_owned(),
                    usd_per_hour: text(row, "spotPrice").parse().unwrap_or(f64::NAN),
                    timestamp: text(row, "timestamp").to_owned(),
                })
                .collect()
            })
            .await?;
        let sane = |price: &SpotPrice| price.usd_per_hour.is_finite() && price.usd_per_hour > 0.0;
        let mut found: Vec<SpotPrice> = found.into_iter().filter(sane).collect();
        found.sort_by(|a, b| {
            (&a.instance_type, &a.availability_zone, &b.timestamp).cmp(&(
                &b.instance_type,
                &b.availability_zone,
                &a.timestamp,
            ))
        });
        found.dedup_by(|next, kept| {
            next.instance_type == kept.instance_type
                && next.availability_zone == kept.availability_zone
        });
        Ok(found)
    }

    /// Subnets with these filters, such as `tag:kubernetes.io/cluster/NAME`.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn describe_subnets(
        &self,
        filters: &[(&str, &[&str])],
    ) -> Result<Vec<Subnet>, CallError> {
        let parameters = with_filters(filters, &[("MaxResults", "1000")]);
        self.pages("DescribeSubnets", parameters, |root| {
            let subnets = items(root, "subnetSet").into_iter();
            subnets
                .map(|subnet| Subnet {
                    subnet_id: text(subnet, "subnetId").to_owned(),
                    availability_zone: text(subnet, "availabilityZone").to_owned(),
                    availability_zone_id: text(subnet, "availabilityZoneId").to_owned(),
                    available_addresses: text(subnet, "availableIpAddressCount")
                        .parse()
                        .unwrap_or(0),
                })
                .collect()
        })
        .await
    }

    /// Every page of a list.
    async fn pages<T>(
        &self,
        api: &'static str,
        parameters: Vec<(String, String)>,
        read: impl Fn(Node<'_, '_>) -> Vec<T>,
    ) -> Result<Vec<T>, CallError> {
        let mut all = Vec::new();
        let mut next = String::new();
        for _ in 0..MOST_PAGES {
            let mut parameters = parameters.clone();
            if !next.is_empty() {
                parameters.push(("NextToken".to_owned(), next));
            }
            let answer = self.call(api, &parameters).await?;
            let (found, token) = self.read(api, &answer, |root| {
                (read(root), text(root, "nextToken").to_owned())
            })?;
            all.extend(found);
            next = token;
            if next.is_empty() {
                return Ok(all);
            }
        }
        let what = format!("it has more than {MOST_PAGES} pages");
        Err(CallError::Unreadable {
            api,
            what,
            request: String::new(),
        })
    }

    async fn call(
        &self,
        api: &'static str,
        parameters: &[(String, String)],
    ) -> Result<Answer, CallError> {
        self.wire.query(api, VERSION, parameters).await
    }

    fn read<T>(
        &self,
        api: &'static str,
        answer: &Answer,
        read: impl FnOnce(Node<'_, '_>) -> T,
    ) -> Result<T, CallError> {
        let body = String::from_utf8_lossy(&answer.body);
        let document = Document::parse(&body);
        let document = document.map_err(|error| unreadable(api, &error.to_string(), answer))?;
        Ok(read(document.root_element()))
    }
}

fn instance(item: Node<'_, '_>) -> Instance {
    let owned = |path: &str| text(item, path).to_owned();
    let tags = items(item, "tagSet").into_iter();
    Instance {
        instance_id: owned("instanceId"),
        state: owned("instanceState/name"),
        instance_type: owned("instanceType"),
        availability_zone: owned("placement/availabilityZone"),
        private_dns_name: owned("privateDnsName"),
        launch_time: owned("launchTime"),
        lifecycle: owned("instanceLifecycle"),
        client_token: owned("clientToken"),
        tags: tags
            .map(|tag| (text(tag, "key").to_owned(), text(tag, "value").to_owned()))
            .collect(),
    }
}

fn numbered(name: &str, values: &[&str]) -> Vec<(String, String)> {
    let values = (1..).zip(values);
    values
        .map(|(number, value)| (format!("{name}.{number}"), (*value).to_owned()))
        .collect()
}

fn with_filters(filters: &[(&str, &[&str])], more: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut parameters = Vec::new();
    for (number, (name, values)) in (1..).zip(filters) {
        parameters.push((format!("Filter.{number}.Name"), (*name).to_owned()));
        parameters.extend(numbered(&format!("Filter.{number}.Value"), values));
    }
    let more = more.iter();
    parameters.extend(more.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    parameters
}
