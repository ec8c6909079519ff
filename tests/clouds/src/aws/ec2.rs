//! EC2: instances, their tags, subnets, what zones have, spot prices.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use axum::response::{IntoResponse as _, Response};
use headstart_core::offer::{CapacityType, OfferingKey};
use jiff::Timestamp;

use super::door::Asker;
use super::{Kept, No, no, price, told, wares};
use crate::control::{Life, Machine};

/// Most items in one page, whatever is asked for.
const PAGE: usize = 2;

/// Subnets: id, zone, its id, addresses that are left.
const SUBNETS: [(&str, &str, &str, u32); 4] = [
    ("subnet-0a1", "us-east-1a", "use1-az4", 3),
    ("subnet-0a2", "us-east-1a", "use1-az4", 4000),
    ("subnet-0b1", "us-east-1b", "use1-az6", 250),
    ("subnet-0c1", "us-east-1c", "use1-az1", 250),
];

/// Security groups that are there.
const GROUPS: [&str; 2] = ["sg-0c1", "sg-0c2"];

/// Images that are there.
pub(super) const IMAGES: [&str; 3] = ["ami-0a123", "ami-0b123", "ami-0c123"];

/// Parameters of each action, numbers as `N`.
const PARAMETERS: [(&str, &[&str]); 8] = [
    (
        "RunInstances",
        &[
            "BlockDeviceMapping.N.DeviceName",
            "BlockDeviceMapping.N.Ebs.DeleteOnTermination",
            "BlockDeviceMapping.N.Ebs.Iops",
            "BlockDeviceMapping.N.Ebs.SnapshotId",
            "BlockDeviceMapping.N.Ebs.Throughput",
            "BlockDeviceMapping.N.Ebs.VolumeSize",
            "BlockDeviceMapping.N.Ebs.VolumeType",
            "ClientToken",
            "DryRun",
            "IamInstanceProfile.Name",
            "ImageId",
            "InstanceMarketOptions.MarketType",
            "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior",
            "InstanceMarketOptions.SpotOptions.SpotInstanceType",
            "InstanceType",
            "MaxCount",
            "MetadataOptions.HttpPutResponseHopLimit",
            "MetadataOptions.HttpTokens",
            "MinCount",
            "SecurityGroupId.N",
            "SubnetId",
            "TagSpecification.N.ResourceType",
            "TagSpecification.N.Tag.N.Key",
            "TagSpecification.N.Tag.N.Value",
            "UserData",
        ],
    ),
    (
        "DescribeInstances",
        &[
            "Filter.N.Name",
            "Filter.N.Value.N",
            "InstanceId.N",
            "MaxResults",
            "NextToken",
        ],
    ),
    ("TerminateInstances", &["InstanceId.N"]),
    ("CreateTags", &["ResourceId.N", "Tag.N.Key", "Tag.N.Value"]),
    (
        "DescribeSubnets",
        &[
            "Filter.N.Name",
            "Filter.N.Value.N",
            "MaxResults",
            "NextToken",
        ],
    ),
    ("DescribeImages", &["ImageId.N", "NextToken"]),
    (
        "DescribeInstanceTypeOfferings",
        &[
            "Filter.N.Name",
            "Filter.N.Value.N",
            "LocationType",
            "MaxResults",
            "NextToken",
        ],
    ),
    (
        "DescribeSpotPriceHistory",
        &[
            "InstanceType.N",
            "MaxResults",
            "NextToken",
            "ProductDescription.N",
            "StartTime",
        ],
    ),
];

pub(super) fn answer(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    let known = PARAMETERS.iter().find(|(name, _)| *name == asker.action);
    let Some((_, known)) = known else {
        let said = format!(
            "The action {} is not valid for this web service.",
            asker.action
        );
        return Err(no(400, "InvalidAction", said));
    };
    for (name, _) in &asker.form {
        let parts = name.split('.').map(|part| match part.parse::<u32>() {
            Ok(_) => "N",
            Err(_) => part,
        });
        let plain = parts.collect::<Vec<_>>().join(".");
        if !known.contains(&&*plain) {
            let said = format!("The parameter {name} is not recognized");
            return Err(no(400, "UnknownParameter", said));
        }
    }
    match &*asker.action {
        "RunInstances" => run(kept, asker),
        "TerminateInstances" => terminate(kept, asker),
        "CreateTags" => tag(kept, asker),
        "DescribeInstances" => list(kept, asker, "reservationSet", || instances(kept, asker)),
        "DescribeSubnets" => list(kept, asker, "subnetSet", || subnets(asker)),
        "DescribeImages" => list(kept, asker, "imagesSet", || images(asker)),
        "DescribeInstanceTypeOfferings" => list(kept, asker, "instanceTypeOfferingSet", || {
            type_offerings(asker)
        }),
        _ => list(kept, asker, "spotPriceHistorySet", || {
            Ok(spot_prices(kept, asker))
        }),
    }
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn document(kept: &Kept, action: &str, content: &str) -> Response {
    let request = format!("{:08x}-0000-4000-8000-000000000000", kept.inner().next());
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response \
         xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>{request}</requestId>\
         {content}</{action}Response>"
    )
    .into_response()
}

/// A page of a list; `all` is asked for the first one only.
fn list(
    kept: &Kept,
    asker: &Asker,
    name: &str,
    all: impl FnOnce() -> Result<Vec<String>, No>,
) -> Result<Response, No> {
    let mut items = match asker.form("NextToken") {
        None => all()?,
        Some(token) => kept
            .inner()
            .pages
            .remove(token)
            .ok_or_else(|| no(400, "InvalidNextToken", "The token is not valid"))?,
    };
    let rest = items.split_off(items.len().min(PAGE));
    let mut content = format!("<{name}>{}</{name}>", items.concat());
    if !rest.is_empty() {
        let mut inner = kept.inner();
        let token = format!("page-{}", inner.next());
        let _ = write!(content, "<nextToken>{token}</nextToken>");
        inner.pages.insert(token, rest);
    }
    Ok(document(kept, &asker.action, &content))
}

fn run(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    let machine = order(kept, asker)?;
    if asker.form("DryRun") == Some("true") {
        let said = "Request would have succeeded, but DryRun flag is set.";
        return Err(no(412, "DryRunOperation", said));
    }
    // Held until the token stands for a machine.
    let mut inner = kept.inner();
    let token = machine.key.clone();
    let machine = match inner.tokens.get(&token) {
        Some((parameters, _)) if *parameters != asker.form => {
            return Err(no(
                400,
                "IdempotentParameterMismatch",
                "Arguments on this idempotent request are inconsistent with arguments used in \
                 previous request(s).",
            ));
        }
        Some((_, id)) => {
            let machines = kept.control.machines();
            let there = machines.into_iter().find(|machine| machine.id == *id);
            let lives = |machine: &Machine| !matches!(machine.life, Life::Ending(_));
            there.filter(lives).ok_or_else(|| {
                let said = format!("The instance {id} of this token was terminated");
                no(400, "IdempotentInstanceTerminated", said)
            })?
        }
        None => {
            let id = format!("i-{:017x}", inner.next());
            let bought = kept.control.buy(Machine { id, ..machine });
            let Ok(bought) = bought else {
                let said = match asker.form("InstanceMarketOptions.MarketType") {
                    Some(_) => "There is no Spot capacity available that matches your request.",
                    None => "We currently do not have sufficient capacity in the Availability Zone",
                };
                return Err(no(500, "InsufficientInstanceCapacity", said));
            };
            inner.ran.insert(bought.id.clone(), bought.clone());
            let stands = (asker.form.clone(), bought.id.clone());
            inner.tokens.insert(token, stands);
            bought
        }
    };
    drop(inner);
    let content = format!(
        "<instancesSet>{}</instancesSet>",
        written(&machine, "pending")
    );
    Ok(document(kept, "RunInstances", &content))
}

/// What is asked for, if it makes sense.
fn order(kept: &Kept, asker: &Asker) -> Result<Machine, No> {
    let needed = |name: &str| {
        asker.form(name).ok_or_else(|| {
            let said = format!("The request must contain the parameter {name}");
            no(400, "MissingParameter", said)
        })
    };
    if (needed("MinCount")?, needed("MaxCount")?) != ("1", "1") {
        return Err(no(400, "InvalidParameterValue", "one at a time"));
    }
    let image = needed("ImageId")?;
    if !IMAGES.contains(&image) {
        let said = format!("The image id '[{image}]' does not exist");
        return Err(no(400, "InvalidAMIID.NotFound", said));
    }
    let subnet = needed("SubnetId")?;
    let subnet = SUBNETS
        .iter()
        .find(|(id, ..)| *id == subnet)
        .ok_or_else(|| {
            let said = format!("The subnet ID '{subnet}' does not exist");
            no(400, "InvalidSubnetID.NotFound", said)
        })?;
    let strange = asker
        .list("SecurityGroupId")
        .into_iter()
        .find(|id| !GROUPS.contains(id));
    if let Some(group) = strange {
        let said = format!("The security group '{group}' does not exist");
        return Err(no(400, "InvalidGroup.NotFound", said));
    }
    let profile = asker.form("IamInstanceProfile.Name");
    if let Some(profile) = profile.filter(|name| *name != "nodes") {
        let said = format!(
            "Value ({profile}) for parameter iamInstanceProfile.name is invalid. Invalid IAM \
             Instance Profile name"
        );
        return Err(no(400, "InvalidParameterValue", said));
    }
    let offering = OfferingKey {
        instance_type: needed("InstanceType")?.to_owned(),
        zone: subnet.1.to_owned(),
        capacity_type: match asker.form("InstanceMarketOptions.MarketType") {
            Some("spot") => CapacityType::Spot,
            _ => CapacityType::OnDemand,
        },
    };
    let wares = wares();
    let types = [&wares.spot.instance_type, &wares.other.instance_type];
    if !types.contains(&&offering.instance_type) {
        let said = format!(
            "Invalid value '{}' for InstanceType.",
            offering.instance_type
        );
        return Err(no(400, "InvalidParameterValue", said));
    }
    if price(&kept.control, &offering).is_none() {
        let said = format!(
            "Your requested instance type ({}) is not supported in your requested Availability Zone \
             ({}).",
            offering.instance_type, offering.zone
        );
        return Err(no(400, "Unsupported", said));
    }
    let told = told::read(asker.form("UserData").unwrap_or(""))
        .map_err(|said| no(400, "InvalidParameterValue", said))?;
    let token = match asker.form("ClientToken") {
        Some(token) if (1..=64).contains(&token.len()) => token.to_owned(),
        Some(_) => return Err(no(400, "InvalidParameterValue", "ClientToken is too long")),
        None => format!("none-{}", kept.inner().next()),
    };
    let mut marks = BTreeMap::new();
    for number in 1..=2 {
        let at = format!("TagSpecification.{number}");
        if asker.form(&format!("{at}.ResourceType")) == Some("instance") {
            for tag in 1.. {
                let key = asker.form(&format!("{at}.Tag.{tag}.Key"));
                let value = asker.form(&format!("{at}.Tag.{tag}.Value"));
                let Some((key, value)) = key.zip(value) else {
                    break;
                };
                marks.insert(key.to_owned(), value.to_owned());
            }
        }
    }
    Ok(Machine {
        id: String::new(),
        key: token,
        offering,
        marks,
        labels: told.labels,
        taints: told.taints,
        intent: told.intent,
        life: Life::Running,
        created: SystemTime::now(),
    })
}

fn time(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
}

fn written(machine: &Machine, state: &str) -> String {
    let number = machine.id.trim_start_matches(['i', '-', '0']);
    let lifecycle = match machine.offering.capacity_type {
        CapacityType::Spot => "<instanceLifecycle>spot</instanceLifecycle>",
        CapacityType::OnDemand | CapacityType::Reserved => "",
    };
    let code = match state {
        "pending" => 0,
        "running" => 16,
        "shutting-down" => 32,
        _ => 48,
    };
    let tags = machine.marks.iter().map(|(key, value)| {
        let (key, value) = (escape(key), escape(value));
        format!("<item><key>{key}</key><value>{value}</value></item>")
    });
    format!(
        "<item><instanceId>{}</instanceId><instanceState><code>{code}</code><name>{state}</name>\
         </instanceState><privateDnsName>ip-10-0-0-{number}.ec2.internal</privateDnsName>\
         <instanceType>{}</instanceType><launchTime>{}</launchTime><placement><availabilityZone>{}\
         </availabilityZone></placement>{lifecycle}<clientToken>{}</clientToken>\
         <tagSet>{}</tagSet></item>",
        machine.id,
        machine.offering.instance_type,
        time(machine.created),
        machine.offering.zone,
        machine.key,
        tags.collect::<String>(),
    )
}

/// Those that a list shows, and those that have ended, each as its reservation.
fn instances(kept: &Kept, asker: &Asker) -> Result<Vec<String>, No> {
    let listed = kept.control.list();
    let there = kept.control.machines();
    let inner = kept.inner();
    let ids = asker.list("InstanceId");
    if let Some(id) = ids.iter().find(|id| !inner.ran.contains_key(**id)) {
        let said = format!("The instance ID '{id}' does not exist");
        return Err(no(400, "InvalidInstanceID.NotFound", said));
    }
    let mut found = Vec::new();
    for (id, ran) in &inner.ran {
        let state = match listed.iter().find(|machine| machine.id == *id) {
            Some(machine) => match machine.life {
                Life::Running | Life::Interrupted => "running",
                Life::Ending(_) => "shutting-down",
            },
            // Not listed yet.
            None if there.iter().any(|machine| machine.id == *id) => continue,
            None => "terminated",
        };
        let mut passes = ids.is_empty() || ids.contains(&&**id);
        for (name, values) in asker.filters() {
            let value = match name {
                "instance-state-name" => Some(state),
                "client-token" => Some(&*ran.key),
                "instance-id" => Some(&**id),
                _ => match name.strip_prefix("tag:") {
                    Some(tag) => ran.marks.get(tag).map(|value| &**value),
                    None => {
                        let said = format!("The filter '{name}' is invalid");
                        return Err(no(400, "InvalidParameterValue", said));
                    }
                },
            };
            passes &= value.is_some_and(|value| values.contains(&value));
        }
        if passes {
            let item = written(ran, state);
            found.push(format!("<item><instancesSet>{item}</instancesSet></item>"));
        }
    }
    Ok(found)
}

fn terminate(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    let ids = asker.list("InstanceId");
    if let Some(id) = ids.iter().find(|id| !kept.inner().ran.contains_key(**id)) {
        let said = format!("The instance ID '{id}' does not exist");
        return Err(no(400, "InvalidInstanceID.NotFound", said));
    }
    let items = ids.into_iter().map(|id| {
        let (code, state) = match kept.control.end(id) {
            true => (32, "shutting-down"),
            false => (48, "terminated"),
        };
        format!(
            "<item><instanceId>{id}</instanceId><currentState><code>{code}</code><name>{state}\
             </name></currentState><previousState><code>16</code><name>running</name>\
             </previousState></item>"
        )
    });
    let content = format!("<instancesSet>{}</instancesSet>", items.collect::<String>());
    Ok(document(kept, "TerminateInstances", &content))
}

fn tag(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    let mut inner = kept.inner();
    for id in asker.list("ResourceId") {
        let Some(machine) = inner.ran.get_mut(id) else {
            let said = format!("The ID '{id}' does not exist");
            return Err(no(400, "InvalidID", said));
        };
        for number in 1.. {
            let key = asker.form(&format!("Tag.{number}.Key"));
            let Some(key) = key else {
                break;
            };
            let value = asker.form(&format!("Tag.{number}.Value")).unwrap_or("");
            machine.marks.insert(key.to_owned(), value.to_owned());
        }
    }
    drop(inner);
    Ok(document(kept, "CreateTags", "<return>true</return>"))
}

fn subnets(asker: &Asker) -> Result<Vec<String>, No> {
    let mut found = Vec::new();
    for (id, zone, zone_id, left) in SUBNETS {
        let mut passes = true;
        for (name, values) in asker.filters() {
            passes &= match name {
                "subnet-id" => values.contains(&id),
                "availability-zone" => values.contains(&zone),
                "tag:kubernetes.io/role/internal-elb" => id != "subnet-0c1",
                _ if name.starts_with("tag:") => false,
                _ => {
                    let said = format!("The filter '{name}' is invalid");
                    return Err(no(400, "InvalidParameterValue", said));
                }
            };
        }
        if passes {
            found.push(format!(
                "<item><subnetId>{id}</subnetId><availabilityZone>{zone}</availabilityZone>\
                 <availabilityZoneId>{zone_id}</availabilityZoneId>\
                 <availableIpAddressCount>{left}</availableIpAddressCount></item>"
            ));
        }
    }
    Ok(found)
}

fn images(asker: &Asker) -> Result<Vec<String>, No> {
    let ids = asker.list("ImageId");
    if let Some(id) = ids.iter().find(|id| !IMAGES.contains(id)) {
        let said = format!("The image id '[{id}]' does not exist");
        return Err(no(400, "InvalidAMIID.NotFound", said));
    }
    let items = ids.into_iter().map(|id| {
        format!(
            "<item><imageId>{id}</imageId><imageState>available</imageState><name>node</name>\
             <architecture>x86_64</architecture></item>"
        )
    });
    Ok(items.collect())
}

fn type_offerings(asker: &Asker) -> Result<Vec<String>, No> {
    if asker.form("LocationType") != Some("availability-zone") {
        return Err(no(400, "InvalidParameterValue", "LocationType"));
    }
    let wares = wares();
    let sold = [&wares.spot, &wares.elsewhere, &wares.other];
    let mut found = Vec::new();
    for key in sold {
        let passes = asker
            .filters()
            .into_iter()
            .all(|(name, values)| name == "instance-type" && values.contains(&&*key.instance_type));
        if passes {
            found.push(format!(
                "<item><instanceType>{}</instanceType><locationType>availability-zone\
                 </locationType><location>{}</location></item>",
                key.instance_type, key.zone
            ));
        }
    }
    Ok(found)
}

fn spot_prices(kept: &Kept, asker: &Asker) -> Vec<String> {
    let wares = wares();
    let types = asker.list("InstanceType");
    let sold = [&wares.spot, &wares.elsewhere, &wares.other].into_iter();
    let sold = sold.filter(|key| types.is_empty() || types.contains(&&*key.instance_type));
    let items = sold.map(|key| {
        let usd = price(&kept.control, key).unwrap_or_default();
        format!(
            "<item><instanceType>{}</instanceType><productDescription>Linux/UNIX\
             </productDescription><spotPrice>{usd:.6}</spotPrice><timestamp>{}</timestamp>\
             <availabilityZone>{}</availabilityZone></item>",
            key.instance_type,
            time(SystemTime::now()),
            key.zone
        )
    });
    items.collect()
}
