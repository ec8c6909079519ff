use std::path::Path;

use expect_test::expect;

use super::*;

fn args(region: &str) -> CatalogArgs {
    CatalogArgs {
        catalog: Vec::new(),
        no_builtin_catalog: false,
        cloud: None,
        region: Some(region.to_owned()),
        zones: vec!["a".to_owned(), "b".to_owned()],
        directory: Directory::at(Path::new("/nonexistent")),
    }
}

#[test]
fn the_summary_says_sources_ages_and_what_is_left_out() {
    let today: Date = "2026-11-25".parse().unwrap();
    let said = summary(&Directory::at(Path::new("/nonexistent")), today);
    expect![[r#"
        Built in:
          cloud   rows  dated         age  what                                     source
          aws     1367  2026-07-20  128 d  on-demand prices, us-east-1 only         aws/karpenter-provider-aws 1d927085dd81, zz_generated.pricing_aws.go (Apache-2.0)
          aws    14962  2025-06-28  515 d  spot saving and interruption bucket      alexei-led/spotinfo 05e933139449, spot-advisor-data.json (AWS Spot Advisor) (Apache-2.0)
          aws       70  2026-07-20  128 d  GPU types: sizes, NIC and EBS baselines  aws/karpenter-provider-aws 1d927085dd81, instance-types.md (Apache-2.0)
          gcp    12721  2026-08-03  114 d  on-demand and spot list prices           cloudpilot-ai/karpenter-provider-gcp 417f047b1175, initial-prices.json (Apache-2.0)
          gcp    13374  2026-08-20   97 d  machine types by zone: vCPU and memory   Cyclenerd/google-cloud-pricing-cost-calculator dac31281f2a4, machinetypezone.csv (Apache-2.0)
          azure  67327  2026-06-18  160 d  on-demand prices; no spot prices         Azure/karpenter-provider-azure 352646f59928, zz_generated.pricing.go (Apache-2.0)

        Types that these price in any region, and what becomes of them:
          aws: 535 offered, in 1 region; left out: 401 vCPU and memory in no table here, 284 size of the local disk in no table here, 142 bare metal: boot time unknown, 5 a share of a GPU
          gcp: 182 offered, in 43 regions; left out: 329 vCPU and memory in no table here, 3 a share of a GPU, 5 a share of a core
          azure: 178 offered, in 57 regions; left out: 1178 vCPU and memory in no table here, 423 size of the local disk in no table here, 15 a share of a GPU, 41 retired by the cloud

        Fetched with `headstart catalog update`, used in place of the built-in prices:
          none in /nonexistent
    "#]].assert_eq(&said);
}

#[test]
fn a_list_is_sorted_by_price() {
    let market = market(&args("us-east-1"), &Hint::default()).unwrap();
    expect![[r#"
         USD/h  capacity   type         vCPU  memory  GPU    Gbit/s    NVMe  zones
        0.4104  spot       g6.xlarge       4    16Gi  1x L4     2.5  250 GB  us-east-1a us-east-1b
        0.4106  spot       g6.2xlarge      8    32Gi  1x L4       5  450 GB  us-east-1a us-east-1b
        0.5690  spot       g6.4xlarge     16    64Gi  1x L4      10  600 GB  us-east-1a us-east-1b
        0.6619  spot       gr6.4xlarge    16   128Gi  1x L4      10  600 GB  us-east-1a us-east-1b
        0.8048  on-demand  g6.xlarge       4    16Gi  1x L4     2.5  250 GB  us-east-1a us-east-1b
        and 15 more; --limit shows them
    "#]]
    .assert_eq(&list(&market, Some("l4"), 5));
    expect![[r#"
        no type with GPU L5; GPUs here: A100, A10G, B200, B300, H100, H200, L4, L40S, RADEON-PRO-V520, RTX-PRO-4500, RTX-PRO-6000, T4, T4G, V100
    "#]].assert_eq(&list(&market, Some("L5"), 5));
}

#[test]
fn one_type_is_shown_with_all_that_is_known() {
    let market = market(&args("us-east-1"), &Hint::default()).unwrap();
    expect![[r#"
        g6.xlarge  (amd64, family g6)
          CPU          4, of which pods get 3920m
          memory       16Gi, of which pods get 13.3Gi
          disk         232.8Gi, of which pods get 209.5Gi
          pods         110, the default of the cloud's Kubernetes
          GPU          1x L4, 22888 MiB each, as nvidia.com/gpu
          network      2.5 Gbit/s baseline
          disk rate    5 Gbit/s planned with (for local disks of AWS and Azure the rate of remote ones stands in)
          local NVMe   250 GB
          boot         agent 19 s, Ready 26 s, allocatable 90 s (published figures of others, not measured)
          on-demand us-east-1a         0.8048 USD/h
          spot us-east-1a              0.4104 USD/h, 394 interruptions in a million hours
          on-demand us-east-1b         0.8048 USD/h
          spot us-east-1b              0.4104 USD/h, 394 interruptions in a million hours
          prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28
    "#]].assert_eq(&show(&market, "g6.xlarge").unwrap());
    expect![[r#"no type "g6.3xlarge" is offered here; there are g6.12xlarge, g6.16xlarge, g6.24xlarge, g6.2xlarge, g6.48xlarge, g6.4xlarge, g6.8xlarge, g6.xlarge"#]].assert_eq(&show(&market, "g6.3xlarge").unwrap_err().join("\n"));
}
