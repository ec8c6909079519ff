//! AWS on loopback, as AWS's own Python client sees it; and what our provider sends, as AWS's own model
//! of its services sees it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use headstart_fake_clouds::aws::{Aws, KEYS};
use headstart_fake_clouds::{CLUSTER, Cloud as _, market, site};
use headstart_provider::aws::{Aws as AwsProvider, Config, Settings};
use headstart_provider::{InstanceState, Provider as _, Release, Wanted};

/// Runs, lists by pages, tags and ends an instance, reads everything else, and sees each error as the
/// client's own exception.
const DRIVE: &str = r#"
import base64, boto3, sys
from botocore.exceptions import ClientError
url, key, secret, queue = sys.argv[1:5]
def client(service, secret=secret):
    return boto3.client(service, endpoint_url=url, region_name="us-east-1",
                        aws_access_key_id=key, aws_secret_access_key=secret)
def code(call, **parameters):
    try:
        call(**parameters)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["RequestId"], error.response
        return error.response["Error"]["Code"]
    raise AssertionError("no error")

assert client("sts").get_caller_identity()["Account"] == "123456789012"
assert code(client("sts", "wrong").get_caller_identity) == "SignatureDoesNotMatch"
ec2 = client("ec2")
assert code(client("ec2", "wrong").describe_instances) == "AuthFailure"
order = dict(MinCount=1, MaxCount=1, ImageId="ami-0a123", InstanceType="g6.xlarge",
             SubnetId="subnet-0a2", SecurityGroupIds=["sg-0c1"], ClientToken="one",
             IamInstanceProfile={"Name": "nodes"}, UserData="echo hi",
             InstanceMarketOptions={"MarketType": "spot"},
             TagSpecifications=[{"ResourceType": "instance",
                                 "Tags": [{"Key": "a", "Value": "b & <c>"}]}])
ran = ec2.run_instances(**order)["Instances"][0]
assert ran["State"]["Name"] == "pending" and ran["InstanceLifecycle"] == "spot", ran
assert ran["Tags"] == [{"Key": "a", "Value": "b & <c>"}], ran
assert ec2.run_instances(**order)["Instances"][0]["InstanceId"] == ran["InstanceId"]
mismatch = dict(order, ImageId="ami-0c123")
assert code(ec2.run_instances, **mismatch) == "IdempotentParameterMismatch"
assert code(ec2.run_instances, **dict(order, DryRun=True)) == "DryRunOperation"
wrong = {"ImageId": "ami-0gone", "SubnetId": "subnet-0gone", "SecurityGroupIds": ["sg-0gone"],
         "InstanceType": "g99.xlarge", "UserData": "x" * 16385}
found = {code(ec2.run_instances, **dict(order, **{name: value, "ClientToken": name}))
         for name, value in wrong.items()}
assert found == {"InvalidAMIID.NotFound", "InvalidSubnetID.NotFound", "InvalidGroup.NotFound",
                 "InvalidParameterValue"}, found
assert code(ec2.run_instances, **dict(order, KeyName="k")) == "UnknownParameter"
for number in range(4):
    ec2.run_instances(**dict(order, ClientToken=f"more-{number}"))
pages = list(ec2.get_paginator("describe_instances").paginate(
    Filters=[{"Name": "instance-state-name", "Values": ["running"]}]))
listed = [one for page in pages for reservation in page["Reservations"]
          for one in reservation["Instances"]]
assert len(listed) == 5 and len(pages) == 3, (len(listed), len(pages))
assert listed[0]["LaunchTime"].tzinfo and listed[0]["Placement"]["AvailabilityZone"] == "us-east-1a"
ec2.create_tags(Resources=[ran["InstanceId"]], Tags=[{"Key": "d", "Value": "e"}])
tagged = ec2.describe_instances(Filters=[{"Name": "tag:d", "Values": ["e"]}])
assert len(tagged["Reservations"]) == 1
ended = ec2.terminate_instances(InstanceIds=[ran["InstanceId"]])["TerminatingInstances"]
assert ended[0]["CurrentState"]["Name"] == "shutting-down", ended
assert code(ec2.terminate_instances, InstanceIds=["i-0123"]) == "InvalidInstanceID.NotFound"
assert code(ec2.run_instances, **order) == "IdempotentInstanceTerminated"
subnets = [one for page in ec2.get_paginator("describe_subnets").paginate()
           for one in page["Subnets"]]
assert {one["AvailabilityZone"] for one in subnets} >= {"us-east-1a", "us-east-1b"}
assert ec2.describe_images(ImageIds=["ami-0a123"])["Images"][0]["State"] == "available"
offerings = ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=[
    {"Name": "instance-type", "Values": ["g5.xlarge"]}])["InstanceTypeOfferings"]
assert [(one["InstanceType"], one["Location"]) for one in offerings] == [("g5.xlarge", "us-east-1a")]
prices = ec2.describe_spot_price_history(InstanceTypes=["g6.xlarge"])["SpotPriceHistory"]
assert {one["SpotPrice"] for one in prices} == {"0.400000", "0.450000"}, prices

eks = client("eks")
cluster = eks.describe_cluster(name="shop")["cluster"]
assert cluster["status"] == "ACTIVE" and cluster["certificateAuthority"]["data"], cluster
assert code(eks.describe_cluster, name="none") == "ResourceNotFoundException"
ssm = client("ssm")
name = "/aws/service/eks/optimized-ami/1.34/amazon-linux-2023/x86_64/nvidia/recommended/image_id"
assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == "ami-0a123"
assert code(ssm.get_parameter, Name="none") == "ParameterNotFound"
sqs = client("sqs")
received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=0)
assert received["Messages"][0]["Body"] == "hello", received
sqs.delete_message(QueueUrl=queue, ReceiptHandle=received["Messages"][0]["ReceiptHandle"])
waiting = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])
assert waiting["Attributes"]["ApproximateNumberOfMessages"] == "0", waiting
assert code(sqs.receive_message, QueueUrl=queue + "-none") == "QueueDoesNotExist"
quotas = client("service-quotas")
assert quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-3819A6DF")["Quota"]["Value"] == 64
print("driven")
"#;

/// Reads requests from standard input and checks each against botocore's model of its service: every
/// name is the model's, every value of its type, everything required is there.
const VALIDATE: &str = r#"
import json, sys, botocore.session
from botocore.validate import ParamValidator
session = botocore.session.get_session()
names = {"servicequotas": "service-quotas"}
checked = set()
def scalar(shape, text):
    kind = shape.type_name
    if kind in ("integer", "long"): return int(text)
    if kind in ("float", "double"): return float(text)
    if kind == "boolean": return {"true": True, "false": False}[text]
    if kind == "string" and getattr(shape, "enum", None): assert text in shape.enum, (shape.name, text)
    return text
def wire(name, shape):
    given = shape.serialization
    if "queryName" in given: return given["queryName"]
    if "name" in given: return given["name"][0].upper() + given["name"][1:]
    return name
def put(shape, value, path, text):
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            if wire(name, member) == path[0]:
                if len(path) == 1:
                    value[name] = scalar(member, text)
                else:
                    empty = [] if member.type_name == "list" else {}
                    put(member, value.setdefault(name, empty), path[1:], text)
                return
        raise AssertionError(f"{shape.name} has no {path[0]}")
    assert shape.type_name == "list", (shape.name, path)
    place = int(path[0]) - 1
    while len(value) <= place: value.append({})
    if len(path) == 1: value[place] = scalar(shape.member, text)
    else: put(shape.member, value[place], path[1:], text)
for request in json.load(sys.stdin):
    service = names.get(request["service"], request["service"])
    operation = session.get_service_model(service).operation_model(request["action"])
    value = request["json"] if request["json"] is not None else {}
    for name, text in request["form"]:
        put(operation.input_shape, value, name.split("."), text)
    report = ParamValidator().validate(value, operation.input_shape)
    assert not report.has_errors(), (request["action"], report.generate_report())
    checked.add(f"{service}:{request['action']}")
print(" ".join(sorted(checked)))
"#;

/// What a script says, or what went wrong with it.
fn python(script: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(super::python())
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("boto3 can be used");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("boto3 can be used");
    drop(pipe);
    let output = child.wait_with_output().expect("boto3 can be used");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text").trim().to_owned();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_takes_the_cloud_of_the_tests_for_aws() {
    let cloud = Aws::start().unwrap();
    cloud.send("hello");
    let (url, queue) = (cloud.url(), cloud.queue());
    let driven =
        tokio::task::spawn_blocking(move || python(DRIVE, &[&url, KEYS.0, KEYS.1, &queue], ""));
    assert_eq!(driven.await.unwrap().as_deref(), Ok("driven"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_is_what_awss_own_model_allows() {
    let cloud = Aws::start().unwrap();
    let provider = cloud.provider(CLUSTER);
    provider.offers().await.unwrap();
    let wanted = Wanted {
        claim: "gpu-a".to_owned(),
        offering: cloud.offerings().spot,
        labels: BTreeMap::new(),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: cloud.settings(),
        intent: "{}".to_owned(),
    };
    let bought = provider.ensure(&wanted).await.unwrap();
    let id = bought.provider_id.rsplit('/').next().unwrap().to_owned();
    cloud.control().interrupt(&id);
    provider.instances().await.unwrap();
    let mut settings = cloud.settings();
    settings.insert("imageId".to_owned(), "ami-0a123".into());
    provider.examine(&settings).await;
    while provider.release("gpu-a").await.unwrap() != Release::Gone {}

    let recorded = serde_json::to_string(&cloud.recorded()).unwrap();
    let checked = tokio::task::spawn_blocking(move || python(VALIDATE, &[], &recorded));
    let checked = checked.await.unwrap();
    let expected = "ec2:CreateTags ec2:DescribeImages ec2:DescribeInstanceTypeOfferings \
                    ec2:DescribeInstances ec2:DescribeSpotPriceHistory ec2:DescribeSubnets \
                    ec2:RunInstances ec2:TerminateInstances eks:DescribeCluster pricing:GetProducts \
                    service-quotas:GetServiceQuota sqs:DeleteMessage sqs:GetQueueAttributes \
                    sqs:ReceiveMessage ssm:GetParameter sts:GetCallerIdentity";
    assert_eq!(checked.as_deref(), Ok(expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_awss_own_model_does_not_allow_is_found_out() {
    let all = "[[\"Nonsense\", \"1\"]]";
    let kind = "[[\"MinCount\", \"one\"], [\"MaxCount\", \"1\"]]";
    for (form, found) in [
        (all, "has no Nonsense"),
        (kind, "ValueError"),
        ("[]", "MinCount"),
    ] {
        let request = format!(
            "[{{\"service\": \"ec2\", \"action\": \"RunInstances\", \"json\": null, \"form\": {form}}}]"
        );
        let checked = tokio::task::spawn_blocking(move || python(VALIDATE, &[], &request));
        let wrong = checked.await.unwrap().unwrap_err();
        assert!(wrong.contains(found), "{wrong}");
    }
}

/// A cluster of EKS with its subnets, a profile, and a queue in which a warning waits for an instance.
const FURNISH: &str = r#"
import boto3, sys
client = lambda service: boto3.client(service, endpoint_url=sys.argv[1], region_name="us-east-1",
                                      aws_access_key_id="none", aws_secret_access_key="none")
ids = [one["SubnetId"] for one in client("ec2").describe_subnets()["Subnets"]]
client("eks").create_cluster(name="shop", version="1.30", roleArn="arn:aws:iam::123456789012:role/r",
                             resourcesVpcConfig={"subnetIds": ids})
client("iam").create_instance_profile(InstanceProfileName="nodes")
group = client("ec2").describe_security_groups()["SecurityGroups"][0]["GroupId"]
print(client("sqs").create_queue(QueueName="headstart")["QueueUrl"], group)
"#;

/// The wire alone: moto ignores client tokens and never lacks capacity.
#[tokio::test]
async fn a_node_is_bought_interrupted_and_given_back_on_moto() {
    let moto = super::Moto::start(&[]);
    let furnished = moto.python(FURNISH);
    let (queue, group) = furnished.trim().split_once(' ').unwrap();
    let cloud = Aws::start().unwrap();
    let config = Config {
        region: super::REGION.to_owned(),
        cluster: "shop".to_owned(),
        interruption_queue: Some(queue.parse().unwrap()),
        nodes: Settings::default(),
        endpoint: Some(moto.url.clone()),
    };
    let site = site(CLUSTER, market::catalog(&cloud.offerings()));
    let provider = AwsProvider::open(config, site, Aws::given()).unwrap();
    let settings = serde_json::json!({
        "instanceProfile": "nodes", "imageId": "ami-12c6146b", "securityGroups": [group],
    });
    let wanted = Wanted {
        claim: "gpu-a".to_owned(),
        offering: cloud.offerings().spot,
        labels: BTreeMap::new(),
        startup_taints: Vec::new(),
        taints: Vec::new(),
        settings: settings.as_object().unwrap().clone(),
        intent: "{}".to_owned(),
    };
    let bought = provider.ensure(&wanted).await.unwrap();
    assert!(
        bought.provider_id.starts_with("aws:///us-east-1a/i-"),
        "{bought:?}"
    );
    assert_eq!(provider.ensure(&wanted).await.unwrap(), bought);
    let id = bought.provider_id.rsplit('/').next().unwrap();
    moto.python(&format!(
        "import boto3, json, sys\n\
         boto3.client('sqs', endpoint_url=sys.argv[1], region_name='us-east-1', \
         aws_access_key_id='none', aws_secret_access_key='none').send_message(\
         QueueUrl='{queue}', MessageBody=json.dumps({{'detail-type': \
         'EC2 Spot Instance Interruption Warning', 'time': '2026-01-01T00:00:00Z', \
         'detail': {{'instance-id': '{id}'}}}}))"
    ));
    for _ in 0..2 {
        let listed = provider.instances().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].state, InstanceState::Interrupted);
    }
    while provider.release("gpu-a").await.unwrap() != Release::Gone {}
    assert_eq!(provider.instances().await, Ok(Vec::new()));
}
