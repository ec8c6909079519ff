//! The clients of clouds against servers that others wrote: wire formats and signatures.
//!
//! moto (PyPI) stands for AWS. It checks signatures once it was told to, but ignores client tokens
//! and never lacks capacity: behaviour is proven on clouds of our own, which the vendors' clients take
//! for theirs here.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use headstart_clouds::aws::credentials::{Credentials, Source};
use headstart_clouds::aws::ec2::{BlockDevice, Ec2, Instance, Market, RunInstances};
use headstart_clouds::aws::sign::Keys;
use headstart_clouds::bucket::Bucket;
use headstart_clouds::call::{CallError, Caller, Patience};
use headstart_transfer::net::{HostPolicy, HostPort, Http};
use url::Url;

#[path = "clouds/aws.rs"]
mod aws;
#[path = "clouds/azure.rs"]
mod azure;
#[path = "clouds/gcp.rs"]
mod gcp;

const REGION: &str = "us-east-1";

/// Made by three calls, after which moto checks every signature.
const MAKE_USER: &str = r#"
import boto3, json, sys
iam = boto3.client("iam", endpoint_url=sys.argv[1], region_name="us-east-1",
                   aws_access_key_id="none", aws_secret_access_key="none")
iam.create_user(UserName="headstart")
allow = {"Version": "2012-10-17",
         "Statement": [{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}]}
iam.put_user_policy(UserName="headstart", PolicyName="ec2", PolicyDocument=json.dumps(allow))
key = iam.create_access_key(UserName="headstart")["AccessKey"]
print(key["AccessKeyId"], key["SecretAccessKey"])
"#;

#[tokio::test]
async fn signatures_hold_where_they_are_checked_and_no_others_do() {
    let moto = Moto::start(&[("INITIAL_NO_AUTH_ACTION_COUNT", "3")]);
    let keys = moto.python(MAKE_USER);
    let (id, secret) = keys.trim().split_once(' ').unwrap();
    let ec2 = |secret: &str| {
        moto.ec2(Source::Given(Keys {
            id: id.to_owned(),
            secret: secret.to_owned(),
            session: None,
        }))
    };
    let subnets = ec2(secret).describe_subnets(&[]).await.unwrap();
    assert!(subnets.len() > 1, "{subnets:?}");
    assert!(
        subnets
            .iter()
            .all(|one| one.availability_zone_id.starts_with("use1-az"))
    );
    let zone = [&*subnets[0].availability_zone];
    let in_zone = [("availability-zone", &zone[..])];
    let one = ec2(secret).describe_subnets(&in_zone).await.unwrap();
    assert_eq!(one, subnets[..1]);

    let refused = ec2("wrong").describe_subnets(&[]).await.unwrap_err();
    let CallError::Refused { api, said } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        (*api, said.code.as_str()),
        ("DescribeSubnets", "AuthFailure")
    );
    assert!(!said.request.is_empty());
}

#[tokio::test]
async fn an_instance_is_run_found_by_its_tags_and_ended() {
    let moto = Moto::start(&[]);
    let role = "arn:aws:iam::123456789012:role/headstart";
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "a.token.of-a-service-account\n").unwrap();
    // Through STS, as a pod of EKS would.
    let ec2 = moto.ec2(Source::WebIdentity {
        endpoint: moto.url.clone(),
        role: role.to_owned(),
        session: "test".to_owned(),
        token: token.path().to_owned(),
    });
    let subnets = ec2.describe_subnets(&[]).await.unwrap();
    let claim = "gpu-7f3a";
    let wanted = RunInstances {
        client_token: claim.to_owned(),
        // One of those that moto knows.
        image_id: "ami-12c6146b".to_owned(),
        instance_type: "g6.xlarge".to_owned(),
        subnet_id: subnets[0].subnet_id.clone(),
        user_data: b"#!/bin/sh\necho \"&=+ \xc3\xa9\"\n".to_vec(),
        market: Market::Spot,
        block_devices: vec![BlockDevice {
            device_name: "/dev/xvda".to_owned(),
            volume_size: 100,
            volume_type: "gp3".to_owned(),
            throughput: Some(1000),
            iops: Some(16000),
            snapshot_id: None,
        }],
        tags: [
            ("headstart.dev/node-claim".to_owned(), claim.to_owned()),
            ("kubernetes.io/cluster/a b&c".to_owned(), "owned".to_owned()),
        ]
        .into(),
        ..RunInstances::default()
    };
    let ran = ec2.run_instances(&wanted).await.unwrap();
    assert_eq!(ran.instance_type, "g6.xlarge");
    assert_eq!(ran.availability_zone, subnets[0].availability_zone);
    assert_eq!((ran.lifecycle.as_str(), &ran.tags), ("spot", &wanted.tags));

    let of_claim = async || -> Vec<Instance> {
        let filter = ("tag:headstart.dev/node-claim", &[claim][..]);
        ec2.describe_instances(&[filter]).await.unwrap()
    };
    let found = of_claim().await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].instance_id, ran.instance_id);
    let at: SystemTime = {
        let launched: jiff::Timestamp = found[0].launch_time.parse().unwrap();
        let seconds = u64::try_from(launched.as_second()).unwrap();
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    };
    assert!(at <= SystemTime::now());

    ec2.terminate_instances(&[&ran.instance_id]).await.unwrap();
    assert_eq!(of_claim().await[0].state, "terminated");
    ec2.terminate_instances(&[&ran.instance_id]).await.unwrap();
    let unknown = ec2.terminate_instances(&["i-0123456789abcdef0"]).await;
    let Err(CallError::Refused { said, .. }) = unknown else {
        panic!("{unknown:?}");
    };
    assert_eq!(said.code, "InvalidInstanceID.NotFound");

    let prices = ec2.describe_spot_prices(&["g6.xlarge"], SystemTime::now());
    let prices = prices.await.unwrap();
    assert!(!prices.is_empty());
    let mut zones: Vec<_> = prices
        .iter()
        .map(|price| &price.availability_zone)
        .collect();
    zones.dedup();
    assert_eq!(zones.len(), prices.len(), "one price per zone: {prices:?}");
}

/// Python with boto3, and moto.
fn python() -> PathBuf {
    let provisioned = std::env::var_os("HEADSTART_PROVISIONED");
    let provisioned = provisioned.expect("`cargo xtask e2e` says where programs are");
    Path::new(&provisioned).join("python/moto-5.2.5/bin/python")
}

/// moto's server. Ends with this value.
struct Moto {
    child: Child,
    url: Url,
    python: PathBuf,
}

impl Moto {
    fn start(env: &[(&str, &str)]) -> Self {
        let python = python();
        let mut child = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("moto can be used");
        let mut said = BufReader::new(child.stderr.take().expect("moto can be used")).lines();
        let started = Instant::now();
        let address = said.by_ref().find_map(|line| {
            let line = line.expect("moto writes text");
            let (_, address) = line.split_once("Running on ")?;
            Some(address.split_whitespace().next()?.to_owned())
        });
        let address = address.unwrap_or_else(|| panic!("moto ended after {:?}", started.elapsed()));
        // A full pipe would stop it.
        std::thread::spawn(move || said.for_each(drop));
        Self {
            child,
            url: address.parse().expect("moto can be used"),
            python,
        }
    }

    fn python(&self, script: &str) -> String {
        let output = Command::new(&self.python)
            .args(["-c", script, self.url.as_str()])
            .output()
            .expect("moto can be used");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("moto can be used")
    }

    fn ec2(&self, source: Source) -> Ec2 {
        let mut policy = HostPolicy::default();
        policy.trust_plain_http(HostPort::parse("127.0.0.1").expect("moto can be used"));
        let http = Http::new(policy).expect("moto can be used");
        let bucket = Bucket::new(100, 100.0, Instant::now());
        let caller = Caller::new(http.clone(), Patience::default(), bucket);
        let credentials = Arc::new(Credentials::new(http, source));
        Ec2::new(caller, credentials, self.url.clone(), REGION)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
