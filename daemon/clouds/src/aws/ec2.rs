//! EC2's query API, version 2016-11-15: the calls that buying nodes needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use headstart_transfer::chain;
use headstart_transfer::net::Request;
use http::{HeaderMap, HeaderValue, Method};
use roxmltree::{Document, Node};
use url::Url;

use super::credentials::Credentials;
use super::sign::{self, Keys, Scope, encode};
use super::xml::{self, items, text};
use crate::call::{Answer, CallError, Caller, Said, Verdict};

/// Version of the API that the names here are of.
const VERSION: &str = "2016-11-15";

/// Header with the request's id, for answers that do not hold it.
const REQUEST_ID: &str = "x-amzn-requestid";

/// Most pages of one list: at a thousand per page, more than any account has.
const MOST_PAGES: usize = 1000;

/// EC2 in one region.
#[derive(Debug)]
pub struct Ec2 {
    caller: Caller,
    credentials: Arc<Credentials>,
    endpoint: Url,
    region: String,
}

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
    /// It answers [`Permission`] instead.
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
            caller,
            credentials,
            endpoint,
            region: region.to_owned(),
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
        let now = SystemTime::now();
        let keys = self.credentials.keys(now).await;
        let keys = keys.map_err(|error| CallError::NoCredentials {
            api,
            why: chain(&error),
        })?;
        let mut form = format!("Action={api}&Version={VERSION}");
        for (name, value) in parameters {
            form.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        let form = Bytes::from(form);
        let request = || self.signed(&keys, &form);
        self.caller.call(api, request, judge).await
    }

    fn signed(&self, keys: &Keys, form: &Bytes) -> Request {
        let mut headers = HeaderMap::new();
        let host = match (self.endpoint.host_str().unwrap_or(""), self.endpoint.port()) {
            (host, Some(port)) => format!("{host}:{port}"),
            (host, None) => host.to_owned(),
        };
        if let Ok(host) = HeaderValue::from_str(&host) {
            headers.insert(http::header::HOST, host);
        }
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded; charset=utf-8"),
        );
        let now = time(SystemTime::now(), "%Y%m%dT%H%M%SZ");
        let scope = Scope {
            region: &self.region,
            service: "ec2",
            time: &now,
        };
        let added = sign::headers(keys, scope, "POST", ("/", ""), &headers, form);
        headers.extend(added);
        let mut request = Request::get(self.endpoint.clone());
        request.method = Method::POST;
        request.headers = headers;
        request.body = Some(form.clone());
        request
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

impl RunInstances {
    fn parameters(&self) -> Vec<(String, String)> {
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

/// What an answer means. A code decides before the status: a lack of capacity comes as a server's
/// failure, and is none.
fn judge(answer: &Answer) -> (Verdict, String) {
    if answer.status.is_success() {
        return (Verdict::Answer, String::new());
    }
    let Some(mut said) = xml::error(&String::from_utf8_lossy(&answer.body)) else {
        return match answer.status.as_u16() {
            429 | 503 => (Verdict::Throttled, String::new()),
            500.. => (Verdict::Failed, String::new()),
            status => {
                let code = status.to_string();
                let said = Said {
                    code,
                    ..Said::default()
                };
                (Verdict::Refused(said), String::new())
            }
        };
    };
    if said.request.is_empty() {
        answer.header(REQUEST_ID).clone_into(&mut said.request);
    }
    let request = said.request.clone();
    let verdict = match said.code.as_str() {
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "EC2ThrottledException" => {
            Verdict::Throttled
        }
        "InternalError" | "InternalFailure" | "Unavailable" | "ServiceUnavailable" => {
            Verdict::Failed
        }
        _ => Verdict::Refused(said),
    };
    (verdict, request)
}

fn unreadable(api: &'static str, what: &str, answer: &Answer) -> CallError {
    CallError::Unreadable {
        api,
        what: what.to_owned(),
        request: answer.header(REQUEST_ID).to_owned(),
    }
}

fn time(at: SystemTime, form: &str) -> String {
    // Times this machine's clock can have are times jiff knows.
    let at = jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    at.strftime(form).to_string()
}
