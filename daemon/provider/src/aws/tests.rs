use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use headstart_api::PoolTaint;
use headstart_clouds::aws::eks::{Certificate, Cluster, KubernetesNetworkConfig};
use headstart_clouds::call::Said;
use headstart_core::offer::InstanceType;
use serde_json::json;

use super::*;
use crate::market::sold;

fn offering() -> OfferingKey {
    OfferingKey {
        instance_type: "g6.xlarge".to_owned(),
        zone: "us-east-1a".to_owned(),
        capacity_type: CapacityType::Spot,
    }
}

fn said(api: &'static str, code: &str, message: &str) -> Refusal {
    let said = Said {
        code: code.to_owned(),
        message: message.to_owned(),
        request: "r-1".to_owned(),
    };
    refusal(&CallError::Refused { api, said }, Some(&offering()))
}

/// What EC2, EKS, SSM and SQS have been seen to say, and what it means.
#[test]
fn what_aws_was_seen_to_say_means_what_it_says() {
    let run = "RunInstances";
    let cases = [
        (
            run,
            "InsufficientInstanceCapacity",
            "We currently do not have sufficient g6.xlarge capacity in the Availability Zone you \
             requested (us-east-1a). Our system will be working on provisioning additional capacity.",
            "no capacity",
        ),
        (
            run,
            "InsufficientInstanceCapacity",
            "There is no Spot capacity available that matches your request.",
            "no capacity",
        ),
        (
            run,
            "UnfulfillableCapacity",
            "Unable to fulfill capacity due to your request configuration.",
            "no capacity",
        ),
        (
            run,
            "Unsupported",
            "Your requested instance type (p5.48xlarge) is not supported in your requested \
             Availability Zone (us-east-1e).",
            "no capacity",
        ),
        (
            run,
            "InsufficientFreeAddressesInSubnet",
            "Not enough free addresses in subnet subnet-1",
            "no capacity",
        ),
        (
            run,
            "VcpuLimitExceeded",
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the \
             instance bucket that the specified instance type belongs to.",
            "over the quota All G and VT Spot Instance Requests (L-3819A6DF)",
        ),
        (
            run,
            "MaxSpotInstanceCountExceeded",
            "Max spot instance count exceeded",
            "over the quota All G and VT Spot Instance Requests (L-3819A6DF)",
        ),
        (
            run,
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. User: arn:aws:sts::1:assumed-role/h/1 \
             is not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/node because \
             no identity-based policy allows the iam:PassRole action. Encoded authorization failure \
             message: abc",
            "forbidden, iam:PassRole is missing",
        ),
        (
            run,
            "UnauthorizedOperation",
            "You are not authorized to perform this operation. Encoded authorization failure \
             message: abc",
            "forbidden, ec2:RunInstances is missing",
        ),
        (
            "DescribeCluster",
            "AccessDeniedException",
            "User: arn:aws:sts::1:assumed-role/h/1 is not authorized to perform: eks:DescribeCluster \
             on resource: arn:aws:eks:us-east-1:1:cluster/a",
            "forbidden, eks:DescribeCluster is missing",
        ),
        (
            run,
            "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
            "The provided credentials do not have permission to create the service-linked role for \
             EC2 Spot Instances.",
            "forbidden, iam:CreateServiceLinkedRole for spot.amazonaws.com is missing",
        ),
        (
            run,
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            "forbidden, valid credentials",
        ),
        (
            run,
            "InvalidAMIID.NotFound",
            "The image id '[ami-0123]' does not exist",
            "spec.provider.imageId is wrong",
        ),
        (
            run,
            "InvalidSubnetID.NotFound",
            "The subnet ID 'subnet-0123' does not exist",
            "spec.provider.subnets is wrong",
        ),
        (
            run,
            "InvalidGroup.NotFound",
            "The security group 'sg-0123' does not exist",
            "spec.provider.securityGroups is wrong",
        ),
        (
            run,
            "InvalidParameterValue",
            "Value (nodes) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance \
             Profile name",
            "spec.provider.instanceProfile is wrong",
        ),
        (
            run,
            "InvalidParameterValue",
            "Invalid value 'g99.xlarge' for InstanceType.",
            "offering is wrong",
        ),
        (
            run,
            "InvalidParameterValue",
            "User data is limited to 16384 bytes",
            "spec.provider is wrong",
        ),
        (
            run,
            "InvalidSnapshot.NotFound",
            "The snapshot 'snap-0123' does not exist.",
            "spec.provider.volume.snapshotId is wrong",
        ),
        (
            "DescribeCluster",
            "ResourceNotFoundException",
            "No cluster found for name: a.",
            "provider.cluster is wrong",
        ),
        (
            "GetParameter",
            "ParameterNotFound",
            "",
            "spec.provider.image is wrong",
        ),
        (
            "ReceiveMessage",
            "QueueDoesNotExist",
            "The specified queue does not exist.",
            "provider.interruptionQueue is wrong",
        ),
        (
            run,
            "SomethingNew",
            "who knows",
            "RunInstances: SomethingNew",
        ),
    ];
    for (api, code, message, means) in cases {
        let refused = said(api, code, message).to_string();
        assert!(refused.starts_with(means), "{code}: {refused}");
        assert!(refused.contains("r-1"), "for AWS's support: {refused}");
    }
}

#[test]
fn no_answer_and_no_keys_are_told_apart() {
    let failed = CallError::Failed {
        api: "RunInstances",
        status: 502,
        tries: 3,
        request: String::new(),
    };
    assert!(matches!(refusal(&failed, None), Refusal::Other { .. }));
    let none = CallError::NoCredentials {
        api: "RunInstances",
        why: "the Pod Identity agent does not answer".to_owned(),
    };
    let Refusal::Forbidden { permission, said } = refusal(&none, None) else {
        panic!("no keys");
    };
    assert_eq!(permission, "credentials");
    assert!(said.contains("Pod Identity"));
}

fn cluster() -> Cluster {
    Cluster {
        name: "shop".to_owned(),
        version: "1.34".to_owned(),
        endpoint: "https://ABC.gr7.us-east-1.eks.amazonaws.com".to_owned(),
        certificate_authority: Certificate {
            data: "Q0E=".to_owned(),
        },
        kubernetes_network_config: KubernetesNetworkConfig {
            service_ipv4_cidr: "10.100.0.0/16".to_owned(),
            ..KubernetesNetworkConfig::default()
        },
        ..Cluster::default()
    }
}

fn wanted(settings: Value, intent: &str) -> Wanted {
    let Value::Object(settings) = settings else {
        panic!("settings are a map");
    };
    Wanted {
        claim: "gpu-7f3a".to_owned(),
        offering: offering(),
        labels: BTreeMap::from([
            ("team".to_owned(), "vision".to_owned()),
            (
                "topology.kubernetes.io/zone".to_owned(),
                "us-east-1a".to_owned(),
            ),
        ]),
        startup_taints: Vec::new(),
        taints: vec![PoolTaint {
            key: "nvidia.com/gpu".to_owned(),
            value: "present".to_owned(),
            effect: "NoSchedule".to_owned(),
        }],
        settings,
        intent: intent.to_owned(),
    }
}

fn kind() -> InstanceType {
    InstanceType {
        local_nvme: 250_000_000_000,
        ..sold("g6.xlarge", 0.4).types.remove(0)
    }
}

fn user_data(wanted: &Wanted) -> Result<String, Refusal> {
    let settings = Settings::read(&wanted.settings)?;
    let data = node::user_data(wanted, &kind(), &settings, &cluster())?;
    Ok(String::from_utf8(data).unwrap())
}

/// The parts, each with its type, as nodeadm and cloud-init split them.
fn parts(text: &str) -> Vec<(String, String)> {
    let (head, body) = text.split_once("\n\n").unwrap();
    let boundary = head.split("boundary=\"").nth(1).unwrap();
    let boundary = boundary.trim_end_matches('"');
    let line = format!("--{boundary}");
    let parts = body.split(&line);
    let parts = parts.filter(|part| !part.trim().is_empty() && part.trim() != "--");
    parts
        .map(|part| {
            let (head, body) = part.trim_start().split_once("\n\n").unwrap();
            let kind = head.strip_prefix("Content-Type: ").unwrap();
            (kind.to_owned(), body.to_owned())
        })
        .collect()
}

#[test]
fn nodeadm_is_told_the_cluster_labels_taints_and_disks() {
    let parts = parts(&user_data(&wanted(json!({}), "{}")).unwrap());
    assert_eq!(parts[0].0, "application/node.eks.aws");
    let config: Value = serde_json::from_str(&parts[0].1).unwrap();
    let expected = json!({
        "apiVersion": "node.eks.aws/v1alpha1",
        "kind": "NodeConfig",
        "spec": {
            "cluster": {
                "name": "shop",
                "apiServerEndpoint": "https://ABC.gr7.us-east-1.eks.amazonaws.com",
                "certificateAuthority": "Q0E=",
                "cidr": "10.100.0.0/16",
            },
            "kubelet": {
                "config": {"registerWithTaints": [
                    {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
                ]},
                "flags": ["--node-labels=team=vision"],
            },
            "instance": {"localStorage": {"strategy": "RAID0"}},
        },
    });
    assert_eq!(config, expected);
    let bare = user_data(&wanted(json!({"localNvme": "none"}), "{}")).unwrap();
    assert!(!bare.contains("RAID0") && !bare.contains("setup-local-disks"));
}

#[test]
fn the_script_is_one_that_bash_reads() {
    let agent = json!({"agent": {"url": "https://example.com/a?b=c&d", "sha256": "a".repeat(64)}});
    for settings in [json!({}), json!({"localNvme": "none"}), agent] {
        for intent in ["", "{\"kind\":\"NodeCache\"}"] {
            let parts = parts(&user_data(&wanted(settings.clone(), intent)).unwrap());
            let script = &parts[1].1;
            let bash = std::process::Command::new("bash")
                .args(["-n", "-c", script])
                .output();
            let Ok(bash) = bash else {
                return; // There is no bash here.
            };
            assert!(bash.status.success(), "{bash:?}\n{script}");
        }
    }
}

#[test]
fn an_intent_is_whole_or_left_out() {
    let items = vec!["é"; 6000];
    let intent = json!({"kind": "NodeCache", "spec": {"items": items}}).to_string();
    assert!(intent.len() > node::MOST);
    let text = user_data(&wanted(json!({}), &intent)).unwrap();
    let (_, packed) = text
        .split_once("base64 -d <<'EOF' | gzip -d > /etc/headstart/intent.json\n")
        .unwrap();
    let (packed, _) = packed.split_once("EOF\n").unwrap();
    let packed: String = packed.split_whitespace().collect();
    let packed = base64::engine::general_purpose::STANDARD
        .decode(packed)
        .unwrap();
    let mut read = String::new();
    flate2::read::GzDecoder::new(&packed[..])
        .read_to_string(&mut read)
        .unwrap();
    assert_eq!(read, intent);
    assert_eq!(
        user_data(&wanted(json!({}), &intent)).unwrap(),
        text,
        "the same bytes each time"
    );

    let numbers = (0..9000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let noise: String = numbers.map(|n| format!("{n:x}")).collect();
    let text = user_data(&wanted(json!({}), &noise)).unwrap();
    assert!(text.len() < 4096 && !text.contains("intent.json"));
}

#[test]
fn user_data_over_the_limit_is_refused_by_field() {
    let mut wanted = wanted(json!({}), "");
    for number in 0..300 {
        wanted
            .labels
            .insert(format!("label-{number}"), "v".repeat(60));
    }
    let refused = user_data(&wanted).unwrap_err().to_string();
    assert!(
        refused.starts_with("spec.labels is wrong: user data would be"),
        "{refused}"
    );
    assert!(refused.contains("16384"), "{refused}");
}

#[test]
fn a_label_that_keeps_a_kubelet_from_starting_is_refused() {
    let mut wanted = wanted(json!({}), "");
    wanted
        .labels
        .insert("node.kubernetes.io/lifecycle".to_owned(), "spot".to_owned());
    assert!(
        user_data(&wanted)
            .unwrap()
            .contains("node.kubernetes.io/lifecycle=spot")
    );
    wanted
        .labels
        .insert("node-role.kubernetes.io/gpu".to_owned(), String::new());
    let refused = user_data(&wanted).unwrap_err().to_string();
    assert!(
        refused.starts_with("spec.labels.node-role.kubernetes.io/gpu is wrong"),
        "{refused}"
    );
}

#[test]
fn bottlerocket_is_told_the_same_in_toml() {
    let text = user_data(&wanted(json!({"image": "bottlerocket"}), "{}")).unwrap();
    let read: toml::Table = text.parse().unwrap();
    let settings = &read["settings"];
    let kubernetes = &settings["kubernetes"];
    assert_eq!(kubernetes["cluster-name"].as_str(), Some("shop"));
    assert_eq!(kubernetes["cluster-certificate"].as_str(), Some("Q0E="));
    assert_eq!(kubernetes["node-labels"]["team"].as_str(), Some("vision"));
    let taints = kubernetes["node-taints"]["nvidia.com/gpu"]
        .as_array()
        .unwrap();
    assert_eq!(taints[0].as_str(), Some("present:NoSchedule"));
    let disks = &settings["bootstrap-commands"]["local-nvme"];
    assert_eq!(disks["commands"].as_array().unwrap().len(), 2);
}

#[test]
fn settings_that_make_no_sense_are_told_by_field_with_the_fix() {
    let told = |settings: Value| user_data(&wanted(settings, "")).unwrap_err().to_string();
    let cases = [
        (json!({"imageId": "al2023"}), "spec.provider.imageId"),
        (json!({"image": "windows"}), "spec.provider.image"),
        (
            json!({"instanceProfile": "arn:aws:iam::1:instance-profile/x"}),
            "spec.provider.instanceProfile",
        ),
        (json!({"subnets": []}), "spec.provider.subnets"),
        (
            json!({"subnets": ["subnet-1", "vpc-1"]}),
            "spec.provider.subnets",
        ),
        (
            json!({"subnets": ["subnet-1"], "subnetTags": {"a": "b"}}),
            "spec.provider.subnetTags",
        ),
        (
            json!({"securityGroups": ["default"]}),
            "spec.provider.securityGroups",
        ),
        (
            json!({"volume": {"sizeGib": 1}}),
            "spec.provider.volume.sizeGib",
        ),
        (json!({"volume": {"size": 100}}), "spec.provider.volume"),
        (
            json!({"volume": {"snapshotId": "vol-1"}}),
            "spec.provider.volume.snapshotId",
        ),
        (
            json!({"agent": {"url": "http://example.com/a", "sha256": ""}}),
            "spec.provider.agent.url",
        ),
        (
            json!({"agent": {"url": "https://example.com/a", "sha256": "1"}}),
            "spec.provider.agent.sha256",
        ),
        (json!({"tags": {"aws:x": "y"}}), "spec.provider.tags"),
    ];
    for (settings, field) in cases {
        let told = told(settings);
        assert!(told.starts_with(field), "{told}");
    }
}

#[test]
fn a_pool_says_more_than_the_provider_and_either_may_name_subnets() {
    let read = |value: Value| Settings::read(value.as_object().unwrap()).unwrap();
    let nodes = read(json!({
        "image": "al2023", "imageId": "ami-1", "subnetTags": {"a": "b"}, "instanceProfile": "nodes",
    }));
    let plain = read(json!({})).over(&nodes);
    assert_eq!(plain, nodes);
    let pool = read(json!({"image": "bottlerocket", "subnets": ["subnet-1"]})).over(&nodes);
    assert_eq!((pool.image_id, pool.subnet_tags), (None, None));
    assert_eq!(pool.instance_profile.as_deref(), Some("nodes"));
}

#[test]
fn configuration_that_makes_no_sense_is_told_by_field() {
    let config = |change: Value| {
        let mut config = json!({"region": "us-east-1", "cluster": "shop"});
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        serde_json::from_value::<Config>(config).unwrap().check()
    };
    assert_eq!(config(json!({})), Ok(()));
    let field = |change: Value| config(change).unwrap_err().field;
    assert_eq!(field(json!({"region": "US East"})), "region");
    assert_eq!(field(json!({"region": "us-east-1.evil.example"})), "region");
    assert_eq!(field(json!({"cluster": "a/b"})), "cluster");
    assert_eq!(field(json!({"nodes": {"imageId": "x"}})), "nodes.imageId");
}

#[test]
fn services_are_where_the_region_has_them() {
    let url = |region: &str| {
        let config = json!({"region": region, "cluster": "a"});
        let config: Config = serde_json::from_value(config).unwrap();
        [
            config.url("ec2").to_string(),
            config.pricing().0.to_string(),
        ]
    };
    assert_eq!(
        url("eu-west-1"),
        [
            "https://ec2.eu-west-1.amazonaws.com/",
            "https://api.pricing.eu-central-1.amazonaws.com/"
        ]
    );
    assert_eq!(
        url("cn-north-1")[0],
        "https://ec2.cn-north-1.amazonaws.com.cn/"
    );
}

#[test]
fn private_endpoints_and_the_nodes_own_are_trusted_unless_the_region_is_none() {
    let trusted = |region: &str| {
        let config = json!({"region": region, "cluster": "a"});
        let config: Config = serde_json::from_value(config).unwrap();
        let mut policy = HostPolicy::default();
        config.trust(&mut policy);
        policy
    };
    let policy = trusted("us-east-1");
    let private = |host: &str| policy.allows_address(host, [10, 0, 0, 7].into());
    assert!(private("ec2.us-east-1.amazonaws.com") && private("169.254.169.254"));
    assert!(!private("ec2.eu-west-1.amazonaws.com"));
    let plain: Vec<_> = policy.plain_http.iter().map(|host| &*host.host).collect();
    assert_eq!(plain, ["169.254.169.254", "169.254.170.23", "fd00:ec2::23"]);
    assert!(trusted("a b").private_hosts.is_empty());
}
