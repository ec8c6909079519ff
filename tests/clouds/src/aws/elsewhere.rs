//! EKS, SSM, SQS, STS, Service Quotas and the price list.

use std::time::SystemTime;

use axum::response::{IntoResponse as _, Response};
use headstart_core::offer::{CapacityType, OfferingKey};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::door::Asker;
use super::{EKS_CLUSTER, Inner, Kept, No, REGION, no, price, wares};
use crate::control::{Life, Machine};

/// Receives that a message that was handed out is hidden for.
const HIDDEN: u64 = 3;

pub(super) fn answer(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    match (&*asker.service, &*asker.action) {
        ("eks", "DescribeCluster") => cluster(asker),
        ("ssm", "GetParameter") => parameter(asker),
        ("sqs", action) => queue(kept, asker, action),
        ("sts", "GetCallerIdentity") => Ok(identity()),
        ("servicequotas", "GetServiceQuota") => quota(asker),
        ("pricing", "GetProducts") => products(kept, asker),
        _ => {
            let said = format!("{} of {}", asker.action, asker.service);
            Err(no(400, "UnknownOperationException", said))
        }
    }
}

fn told(body: &Value) -> Response {
    let mut response = body.to_string().into_response();
    let json = http::HeaderValue::from_static("application/x-amz-json-1.1");
    response.headers_mut().insert("content-type", json);
    response
}

/// Refuses what is none of the API's parameters.
fn check(asker: &Asker, known: &[&str]) -> Result<(), No> {
    let sent = asker
        .json
        .as_object()
        .into_iter()
        .flat_map(|sent| sent.keys());
    for name in sent {
        if !known.contains(&&**name) {
            let said = format!("unknown parameter {name}");
            return Err(no(400, "ValidationException", said));
        }
    }
    Ok(())
}

fn cluster(asker: &Asker) -> Result<Response, No> {
    let name = asker.json["name"].as_str().unwrap_or("");
    if name != EKS_CLUSTER {
        let said = format!("No cluster found for name: {name}.");
        return Err(no(404, "ResourceNotFoundException", said));
    }
    Ok(told(&json!({"cluster": {
        "name": EKS_CLUSTER,
        "arn": format!("arn:aws:eks:{REGION}:123456789012:cluster/{EKS_CLUSTER}"),
        "status": "ACTIVE",
        "version": "1.34",
        "endpoint": format!("https://0123456789ABCDEF.gr7.{REGION}.eks.amazonaws.com"),
        "certificateAuthority": {"data": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t"},
        "kubernetesNetworkConfig": {"serviceIpv4Cidr": "172.20.0.0/16", "ipFamily": "ipv4"},
        "resourcesVpcConfig": {
            "vpcId": "vpc-0f1",
            "subnetIds": ["subnet-0a1", "subnet-0a2", "subnet-0b1"],
            "clusterSecurityGroupId": "sg-0c2",
        },
        "accessConfig": {"authenticationMode": "API"},
    }})))
}

fn parameter(asker: &Asker) -> Result<Response, No> {
    check(asker, &["Name", "WithDecryption"])?;
    let name = asker.json["Name"].as_str().unwrap_or("");
    let value = match name {
        "/aws/service/eks/optimized-ami/1.34/amazon-linux-2023/x86_64/nvidia/recommended/image_id" => {
            "ami-0a123"
        }
        "/aws/service/bottlerocket/aws-k8s-1.34-nvidia/x86_64/latest/image_id" => "ami-0b123",
        _ => return Err(no(400, "ParameterNotFound", "")),
    };
    Ok(told(
        &json!({"Parameter": {"Name": name, "Type": "String", "Value": value, "Version": 1}}),
    ))
}

/// What EventBridge puts into the queue for an instance that will be taken away.
pub(super) fn warning(id: &str) -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::UNIX_EPOCH);
    json!({
        "version": "0",
        "id": "12345678-1234-1234-1234-123456789012",
        "detail-type": "EC2 Spot Instance Interruption Warning",
        "source": "aws.ec2",
        "account": "123456789012",
        "time": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "region": REGION,
        "resources": [format!("arn:aws:ec2:us-east-1a:instance/{id}")],
        "detail": {"instance-id": id, "instance-action": "terminate"},
    })
    .to_string()
}

fn queue(kept: &Kept, asker: &Asker, action: &str) -> Result<Response, No> {
    if asker.json["QueueUrl"].as_str() != Some(&*kept.queue_url()) {
        let said = "The specified queue does not exist.";
        return Err(no(400, "QueueDoesNotExist", said));
    }
    let machines = kept.control.machines();
    let mut inner = kept.inner();
    match action {
        "ReceiveMessage" => {
            check(
                asker,
                &["QueueUrl", "MaxNumberOfMessages", "WaitTimeSeconds"],
            )?;
            inner.warn_of(&machines);
            inner.receives += 1;
            let now = inner.receives;
            let most = asker.json["MaxNumberOfMessages"].as_u64().unwrap_or(1);
            let ready = inner.queue.iter_mut().filter(|queued| queued.after <= now);
            let ready = ready.take(usize::try_from(most).unwrap_or(1));
            let messages: Vec<_> = ready
                .map(|queued| {
                    queued.after = now + HIDDEN;
                    json!({
                        "MessageId": queued.handle,
                        "ReceiptHandle": queued.handle,
                        "Body": queued.body,
                    })
                })
                .collect();
            Ok(told(&match messages.is_empty() {
                true => json!({}),
                false => json!({"Messages": messages}),
            }))
        }
        "DeleteMessage" => {
            check(asker, &["QueueUrl", "ReceiptHandle"])?;
            let handle = asker.json["ReceiptHandle"].as_str().unwrap_or("");
            inner.queue.retain(|queued| queued.handle != handle);
            Ok("".into_response())
        }
        "GetQueueAttributes" => {
            check(asker, &["QueueUrl", "AttributeNames"])?;
            inner.warn_of(&machines);
            let waiting = inner.queue.len().to_string();
            Ok(told(
                &json!({"Attributes": {"ApproximateNumberOfMessages": waiting}}),
            ))
        }
        _ => Err(no(400, "InvalidAction", action)),
    }
}

impl Inner {
    /// Queues a warning for each machine that was interrupted since.
    fn warn_of(&mut self, machines: &[Machine]) {
        for machine in machines {
            if machine.life == Life::Interrupted && self.told.insert(machine.id.clone()) {
                self.enqueue(warning(&machine.id));
            }
        }
    }
}

fn identity() -> Response {
    let body = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                <GetCallerIdentityResult>\
                <Arn>arn:aws:sts::123456789012:assumed-role/headstart/1</Arn>\
                <UserId>AROA:1</UserId><Account>123456789012</Account></GetCallerIdentityResult>\
                <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata>\
                </GetCallerIdentityResponse>";
    body.into_response()
}

fn quota(asker: &Asker) -> Result<Response, No> {
    check(asker, &["ServiceCode", "QuotaCode"])?;
    let code = asker.json["QuotaCode"].as_str().unwrap_or("");
    let name = match code {
        "L-3819A6DF" => "All G and VT Spot Instance Requests",
        "L-DB2E81BA" => "Running On-Demand G and VT instances",
        _ => return Err(no(400, "NoSuchResourceException", "no such quota")),
    };
    Ok(told(&json!({"Quota": {
        "ServiceCode": "ec2", "QuotaCode": code, "QuotaName": name, "Value": 64.0, "Unit": "None",
    }})))
}

fn products(kept: &Kept, asker: &Asker) -> Result<Response, No> {
    check(
        asker,
        &[
            "ServiceCode",
            "FormatVersion",
            "MaxResults",
            "Filters",
            "NextToken",
        ],
    )?;
    let filters = asker.json["Filters"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let of = |field: &str| {
        let mut filters = filters.iter();
        let found = filters.find(|filter| filter["Field"] == field);
        found
            .and_then(|filter| filter["Value"].as_str())
            .unwrap_or("")
    };
    if (of("regionCode"), of("operatingSystem")) != (REGION, "Linux") {
        return Err(no(400, "InvalidParameterException", "filters"));
    }
    let wares = wares();
    let asked: Vec<&str> = of("instanceType").split(',').collect();
    let mut types = vec![&wares.spot.instance_type, &wares.other.instance_type];
    types.retain(|kind| asked.contains(&&***kind));
    // A type that has no price on demand is listed without terms.
    let products = types.into_iter().map(|kind| {
        let key = OfferingKey {
            instance_type: kind.clone(),
            zone: wares.on_demand.zone.clone(),
            capacity_type: CapacityType::OnDemand,
        };
        let terms = price(&kept.control, &key).map(|usd| {
            json!({"OnDemand": {"SKU.T": {"priceDimensions": {"SKU.T.D": {
                "unit": "Hrs", "pricePerUnit": {"USD": format!("{usd:.10}")},
            }}}}})
        });
        json!({
            "product": {"attributes": {"instanceType": kind, "regionCode": REGION}},
            "terms": terms.unwrap_or_else(|| json!({})),
        })
        .to_string()
    });
    let products: Vec<_> = products.collect();
    // In pages of one.
    let at: usize = asker.json["NextToken"]
        .as_str()
        .unwrap_or("")
        .parse()
        .unwrap_or(0);
    let mut page =
        json!({"FormatVersion": "aws_v1", "PriceList": products.get(at..=at).unwrap_or_default()});
    if at + 1 < products.len() {
        page["NextToken"] = (at + 1).to_string().into();
    }
    Ok(told(&page))
}
