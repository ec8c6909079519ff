use std::path::{Path, PathBuf};

use expect_test::{Expect, expect};

use super::*;
use crate::catalog::choose::{CatalogArgs, Directory};

const NOW: Millis = Millis::from_secs(1_790_000_000);

fn file(name: &str) -> PathBuf {
    Path::new("tests/plan").join(name)
}

/// The RayService, on the example pools, with what a registry and the Hub say of its bytes.
pub(crate) fn inputs() -> Inputs {
    Inputs {
        pods: vec![file("rayservice.yaml")],
        node_pool: vec![file("pools.yaml")],
        nodes: Vec::new(),
        caches: Vec::new(),
        items: Some(file("items.yaml")),
        catalog: CatalogArgs {
            catalog: Vec::new(),
            no_builtin_catalog: false,
            cloud: None,
            region: None,
            zones: Vec::new(),
            directory: Directory::at(Path::new("/nonexistent")),
        },
    }
}

fn check(inputs: &Inputs, output: Output, expected: &Expect) {
    let said = match assemble(inputs, NOW) {
        Ok(assembled) => rendered(&planned(&assembled), output).unwrap(),
        Err(problems) => problems.iter().map(|p| format!("{p}\n")).collect(),
    };
    expected.assert_eq(&said);
}

#[test]
fn a_ray_service_with_a_vllm_worker_gets_a_gpu_node_whose_bytes_hide_in_its_boot() {
    check(
        &inputs(),
        Output::Table,
        &expect![[r#"
            Buy 2 nodes for 0.56 USD/h in all:

                   count  offering                            pool     USD/h  in all   cold   warm  for
              [1]      1  t3a.xlarge on-demand in us-east-1a  general   0.15    0.15  181 s  2.0 s  serving/qwen-head
              [2]      1  g6.2xlarge spot in us-east-1a       gpu       0.41    0.41  147 s   57 s  serving/qwen-gpu-worker-0

              cold: the new node, nothing cached; warm: a running node that has the bytes

              [1]  cold 181 s = boot 26 s + image 153 s + start 2.0 s + weights 0.0 s; exposed byte time 153 s
                   warm 2.0 s = start 2.0 s; exposed byte time 0.0 s
                   chosen over t3.xlarge on-demand in us-east-1a (pool general): serves in 181 s as that would, for 0.0168 USD less

              [2]  cold 147 s = boot 90 s + image 0.0 s + start 18 s + weights 0.0 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
                   warm 57 s = start 18 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
                   chosen over g5.2xlarge spot in us-east-1a (pool gpu): serves in 147 s as that would, for 0.10 USD less

              what pods start with                             to transfer  on disk  size
              docker.io/rayproject/ray-llm:2.46.0-py311-cu124      10.6 GB  21.0 GB  known
              hf://Qwen/Qwen3-8B                                   16.4 GB  16.4 GB  known

            Prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28.
            Times: boot, engine start and rates are published figures of others, none was measured on a cloud or a GPU by us.
            Note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
}

#[test]
fn what_nobody_said_is_assumed_and_marked() {
    let mut inputs = inputs();
    inputs.items = None;
    inputs.node_pool = vec![file("pools.yaml")];
    check(
        &inputs,
        Output::Table,
        &expect![[r#"
            Buy 2 nodes for 0.56 USD/h in all:

                   count  offering                            pool     USD/h  in all   cold   warm  for
              [1]      1  t3a.xlarge on-demand in us-east-1a  general   0.15    0.15  174 s  2.0 s  serving/qwen-head
              [2]      1  g6.2xlarge spot in us-east-1a       gpu       0.41    0.41  147 s   57 s  serving/qwen-gpu-worker-0

              cold: the new node, nothing cached; warm: a running node that has the bytes

              [1]  cold 174 s = boot 26 s + image 146 s + start 2.0 s + weights 0.0 s; exposed byte time 146 s
                   warm 2.0 s = start 2.0 s; exposed byte time 0.0 s
                   chosen over t3.xlarge on-demand in us-east-1a (pool general): serves in 174 s as that would, for 0.0168 USD less

              [2]  cold 147 s = boot 90 s + image 0.0 s + start 18 s + weights 0.0 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
                   warm 57 s = start 18 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
                   chosen over g5.2xlarge spot in us-east-1a (pool gpu): serves in 147 s as that would, for 0.10 USD less

              what pods start with                             to transfer  on disk  size
              docker.io/rayproject/ray-llm:2.46.0-py311-cu124      10.0 GB  20.0 GB  assumed
              hf://Qwen/Qwen3-8B                                   16.0 GB  16.0 GB  assumed
              assumed: nobody said (a model by the parameters in its name, else 16 GB); --items FILE does

            Prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28.
            Times: boot, engine start and rates are published figures of others, none was measured on a cloud or a GPU by us.
            Note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
}

#[test]
fn json_is_a_stable_form() {
    check(
        &inputs(),
        Output::Json,
        &expect![[r#"
            {
              "apiVersion": "plan.headstart.dev/v1",
              "kind": "Plan",
              "buy": [
                {
                  "count": 1,
                  "pool": "general",
                  "instanceType": "t3a.xlarge",
                  "zone": "us-east-1a",
                  "capacityType": "on-demand",
                  "usdPerHour": 0.1504,
                  "totalUsdPerHour": 0.1504,
                  "pods": [
                    "serving/qwen-head"
                  ],
                  "cold": {
                    "total": 181.217,
                    "boot": 26.0,
                    "image": 153.217,
                    "start": 2.0,
                    "weights": 0.0,
                    "load": 0.0,
                    "engine": 0.0,
                    "exposedByteTime": 153.217
                  },
                  "warm": {
                    "total": 2.0,
                    "boot": 0.0,
                    "image": 0.0,
                    "start": 2.0,
                    "weights": 0.0,
                    "load": 0.0,
                    "engine": 0.0,
                    "exposedByteTime": 0.0
                  },
                  "score": {
                    "total": 0.157970843,
                    "money": 0.157970843,
                    "waiting": 0.0,
                    "risk": 0.0
                  },
                  "runnerUp": {
                    "candidate": "t3.xlarge on-demand in us-east-1a (pool general)",
                    "score": {
                      "total": 0.174776252,
                      "money": 0.174776252,
                      "waiting": 0.0,
                      "risk": 0.0
                    },
                    "timing": {
                      "total": 181.217,
                      "boot": 26.0,
                      "image": 153.217,
                      "start": 2.0,
                      "weights": 0.0,
                      "load": 0.0,
                      "engine": 0.0,
                      "exposedByteTime": 153.217
                    },
                    "text": "chosen over t3.xlarge on-demand in us-east-1a (pool general): serves in 181 s as that would, for 0.0168 USD less"
                  },
                  "givenUp": []
                },
                {
                  "count": 1,
                  "pool": "gpu",
                  "instanceType": "g6.2xlarge",
                  "zone": "us-east-1a",
                  "capacityType": "spot",
                  "usdPerHour": 0.410592,
                  "totalUsdPerHour": 0.410592,
                  "pods": [
                    "serving/qwen-gpu-worker-0"
                  ],
                  "cold": {
                    "total": 147.0,
                    "boot": 90.0,
                    "image": 0.0,
                    "start": 18.0,
                    "weights": 0.0,
                    "load": 5.0,
                    "engine": 34.0,
                    "exposedByteTime": 0.0
                  },
                  "warm": {
                    "total": 57.0,
                    "boot": 0.0,
                    "image": 0.0,
                    "start": 18.0,
                    "weights": 0.0,
                    "load": 5.0,
                    "engine": 34.0,
                    "exposedByteTime": 0.0
                  },
                  "score": {
                    "total": 0.509063288,
                    "money": 0.42735784,
                    "waiting": 0.081666666,
                    "risk": 0.000038782
                  },
                  "runnerUp": {
                    "candidate": "g5.2xlarge spot in us-east-1a (pool gpu)",
                    "score": {
                      "total": 0.611519513,
                      "money": 0.5298258,
                      "waiting": 0.081666666,
                      "risk": 0.000027047
                    },
                    "timing": {
                      "total": 147.0,
                      "boot": 90.0,
                      "image": 0.0,
                      "start": 18.0,
                      "weights": 0.0,
                      "load": 5.0,
                      "engine": 34.0,
                      "exposedByteTime": 0.0
                    },
                    "text": "chosen over g5.2xlarge spot in us-east-1a (pool gpu): serves in 147 s as that would, for 0.10 USD less"
                  },
                  "givenUp": []
                }
              ],
              "totalUsdPerHour": 0.560992,
              "existing": [],
              "unserved": [],
              "items": [
                {
                  "item": "docker.io/rayproject/ray-llm:2.46.0-py311-cu124",
                  "transferBytes": 10600000000,
                  "unpackedBytes": 21000000000,
                  "basis": "known"
                },
                {
                  "item": "hf://Qwen/Qwen3-8B",
                  "transferBytes": 16400000000,
                  "unpackedBytes": 16400000000,
                  "basis": "known"
                }
              ],
              "prices": [
                "aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28"
              ],
              "notes": [
                "pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for"
              ]
            }
        "#]],
    );
}

#[test]
fn yaml_says_what_json_says() {
    let plan = planned(&assemble(&inputs(), NOW).unwrap());
    let value = |output| {
        let text = rendered(&plan, output).unwrap();
        serde_saphyr::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(value(Output::Yaml), value(Output::Json));
}

#[test]
fn the_order_of_files_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let more = directory.path().join("more.yaml");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: \
               nginx, resources: {requests: {cpu: 1, memory: 1Gi}}}]}\n";
    std::fs::write(&more, pod).unwrap();
    let planned_for = |files: Vec<PathBuf>| {
        let mut inputs = inputs();
        inputs.pods = files;
        planned(&assemble(&inputs, NOW).unwrap())
    };
    let one = planned_for(vec![file("rayservice.yaml"), more.clone()]);
    let other = planned_for(vec![more, file("rayservice.yaml")]);
    assert_eq!(one, other);
    assert_eq!(
        one.buy.iter().map(|group| group.pods.len()).sum::<usize>(),
        3
    );
}

#[test]
fn a_pod_that_nothing_can_take_says_why_in_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut inputs = inputs();
    inputs.items = None;
    inputs.pods = vec![write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: llm, annotations: {headstart.dev/gpu-skus: L4, \
         headstart.dev/max-hourly-cost: '0.40'}}\nspec:\n  tolerations: [{operator: Exists}]\n  \
         containers:\n  - {name: a, image: vllm/vllm-openai:v0.8.5, resources: {limits: \
         {nvidia.com/gpu: 1}}}\n",
    )];
    check(
        &inputs,
        Output::Table,
        &expect![[r#"
            Nothing to buy.

            Not served: 1 pod

              default/llm:
                no node exists
                pool general can buy nothing for it:
                  1077 offerings excluded, such as t3.nano spot in us-east-1a: spot, the pool asks for on-demand
                  1026 offerings excluded, such as t3a.nano on-demand in us-east-1a: no GPU, the pod asks for L4
                  393 offerings excluded, such as t4g.nano on-demand in us-east-1a: the pod asks for kubernetes.io/arch = amd64, the label is arm64
                  327 offerings excluded, such as g4ad.xlarge spot in us-east-1a: the pool asks for headstart.dev/gpu-sku to be absent, the label is RADEON-PRO-V520
                pool gpu can buy nothing for it:
                  2496 offerings excluded, such as t3.nano spot in us-east-1a: the pool asks for headstart.dev/gpu-sku to be there, the label is absent
                  156 offerings excluded, such as g4ad.xlarge spot in us-east-1a: GPU RADEON-PRO-V520, the pod asks for L4
                  87 offerings excluded, such as g7e.8xlarge on-demand in us-east-1a: 5.27 USD/h over the pool's cap of 5.00 USD/h
                  54 offerings excluded, such as g6.xlarge spot in us-east-1a: 0.41 USD/h over the pod's cap of 0.40 USD/h
                  30 offerings excluded, such as g5g.xlarge spot in us-east-1a: the pod asks for kubernetes.io/arch = amd64, the label is arm64

              what pods start with               to transfer  on disk  size
              docker.io/vllm/vllm-openai:v0.8.5      10.0 GB  20.0 GB  assumed
              assumed: nobody said (a model by the parameters in its name, else 16 GB); --items FILE does

            Prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28.
            Times: boot, engine start and rates are published figures of others, none was measured on a cloud or a GPU by us.
            Note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
    let assembled = assemble(&inputs, NOW).unwrap();
    assert_eq!(planned(&assembled).unserved[0].code, "NoCandidate");
}

#[test]
fn all_problems_of_all_files_come_at_once_each_on_a_line() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name)
    };
    let mut inputs = inputs();
    inputs.pods = vec![
        file("gone.yaml"),
        write(
            "pod.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: 1}\n",
        ),
    ];
    inputs.node_pool = vec![write(
        "pool.yaml",
        "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: p}\nspec: {maxCost: 1}\n",
    )];
    inputs.items = Some(write("items.yaml", "items: [{image: a, transfer: x}]\n"));
    inputs.catalog.catalog = vec![write(
        "own.csv",
        "type,vcpu,memory_mib,on_demand\na,1,1024,NaN\n",
    )];
    inputs.catalog.region = Some("us-east-1".to_owned());
    let problems = assemble(&inputs, NOW).unwrap_err().join("\n");
    let shown = problems.replace(&directory.path().display().to_string(), "DIR");
    expect![[r#"
        DIR/items.yaml, line 1: transfer: size "x" is not a number; write it as 512Mi, 10Gi or 1
        tests/plan/gone.yaml: cannot be read: No such file or directory (os error 2)
        DIR/pod.yaml, document 1, Pod default/a: spec.containers: invalid type: integer `1`, expected a sequence
        DIR/pool.yaml, document 1, NodePool p: spec.maxCost: "maxCost" is no field here; use one of podSelector, requirements, capacityTypes, gpuSkus, maxGpus, families, excludeFamilies, instanceTypeRegexp, maxHourlyCost, zones, limits, labels, taints, startupTaints, weight, valueOfTime, expectedLife, packing, disruption, volumeLimits, provider
        DIR/own.csv, line 2, on_demand: NaN is not a price in USD per hour: it must be a number from 0 to 100000"#]].assert_eq(&shown);
}

#[test]
fn a_plan_without_a_region_names_the_flag() {
    let directory = tempfile::tempdir().unwrap();
    let pool = directory.path().join("pool.yaml");
    let text =
        "apiVersion: headstart.dev/v1alpha1\nkind: NodePool\nmetadata: {name: p}\nspec: {}\n";
    std::fs::write(&pool, text).unwrap();
    let mut inputs = inputs();
    inputs.node_pool = vec![pool];
    check(
        &inputs,
        Output::Table,
        &expect![[r#"
        where to buy is not said: give --cloud aws|gcp|azure and --region, a pool with one topology.kubernetes.io/region, or types of your own with --catalog FILE
    "#]],
    );
}

/// Two nodes that exist, one of which has everything verified.
const NODES: &str = "
apiVersion: v1
kind: Node
metadata:
  name: cold
  labels: {node.kubernetes.io/instance-type: g6.2xlarge, topology.kubernetes.io/zone: us-east-1a}
status:
  conditions: [{type: Ready, status: 'True'}]
  allocatable: {cpu: '7900m', memory: 30Gi, pods: '110', nvidia.com/gpu: '1'}
---
apiVersion: v1
kind: Node
metadata:
  name: warm
  labels: {node.kubernetes.io/instance-type: g6.2xlarge, topology.kubernetes.io/zone: us-east-1a}
status:
  conditions: [{type: Ready, status: 'True'}]
  allocatable: {cpu: '7900m', memory: 30Gi, pods: '110', nvidia.com/gpu: '1'}
---
apiVersion: headstart.dev/v1alpha1
kind: NodeCache
metadata: {name: warm}
spec: {}
status:
  room: 100G
  items:
  - {image: 'docker.io/rayproject/ray-llm@sha256:1111111111111111111111111111111111111111111111111111111111111111', state: Verified}
  - {model: 'Qwen/Qwen3-8B@2222222222222222222222222222222222222222', state: Verified}
";

#[test]
fn a_warm_node_is_chosen_over_a_cold_one_by_the_seconds_it_saves() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).unwrap();
        directory.path().join(name)
    };
    let mut inputs = inputs();
    inputs.nodes = vec![write("nodes.yaml", NODES)];
    let items = std::fs::read_to_string(file("items.yaml")).unwrap();
    let items = items.replace(
        "transfer: 10.6G",
        &format!("transfer: 10.6G\n    digest: sha256:{}", "1".repeat(64)),
    );
    let items = items.replace(
        "transfer: 16.4G",
        &format!("transfer: 16.4G\n    commit: '{}'", "2".repeat(40)),
    );
    inputs.items = Some(write("items.yaml", &items));
    check(
        &inputs,
        Output::Table,
        &expect![[r#"
            Nothing to buy.

            On nodes that exist:

              serving/qwen-gpu-worker-0 -> warm: serves in 57 s = start 18 s + load 5.0 s + engine 34 s; exposed byte time 0.0 s
                   chosen over node cold: serves in 57 s instead of 99 s, at the same cost; the time saved is worth 0.0149 USD
              serving/qwen-head -> cold: serves in 36 s = image 34 s + start 2.0 s; exposed byte time 34 s

              what pods start with                              to transfer  on disk  size
              docker.io/rayproject/ray-llm@sha256:111111111111      10.6 GB  21.0 GB  known
              hf://Qwen/Qwen3-8B@222222222222                       16.4 GB  16.4 GB  known

            Prices: aws us-east-1: built-in tables of 2026-07-20, spot savings of 2025-06-28.
            Times: boot, engine start and rates are published figures of others, none was measured on a cloud or a GPU by us.
            Note: pods are planned for amd64, as neither they nor a pool name kubernetes.io/arch and nobody says what their images are built for
        "#]],
    );
}
