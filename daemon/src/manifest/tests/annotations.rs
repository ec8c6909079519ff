//! What annotations ask for, under our names and Luna's.

use super::*;
use headstart_core::offer::CapacityType;
use headstart_core::pod::{Eviction, Shape};

fn pod(annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n{}spec:\n  containers:\n  - {{name: c, image: busybox, args: [vllm, serve, org/m]}}\n",
        annotations
            .lines()
            .map(|line| format!("    {}\n", line.trim()))
            .collect::<String>()
    )
}

fn shape(annotations: &str) -> Shape {
    snapshot(&pod(annotations)).pods.remove(0).shape.into()
}

#[test]
fn every_annotation_of_lunas_means_the_same_as_ours() {
    let ours = shape(
        r#"headstart.dev/gpu-skus: " l4,A10g, Nvidia-T4 ,"
           headstart.dev/max-gpus: "2"
           headstart.dev/max-hourly-cost: "4.75"
           headstart.dev/capacity-types: spot,on-demand
           headstart.dev/instance-families: g6,g5
           headstart.dev/exclude-instance-families: p5
           headstart.dev/instance-type-regexp: "^g.\\."
           headstart.dev/do-not-evict: "true""#,
    );
    let lunas = shape(
        r#"node.elotl.co/instance-gpu-skus: "L4,A10G,T4"
           node.elotl.co/instance-max-gpus: "2"
           node.elotl.co/instance-max-cost: "4.75"
           node.elotl.co/instance-offerings: "spot,on-demand"
           node.elotl.co/instance-family-inclusions: g6,g5
           node.elotl.co/instance-family-exclusions: p5
           node.elotl.co/instance-type-regexp: "^g.\\."
           pod.elotl.co/do-not-evict: "true""#,
    );
    assert_eq!(ours, lunas);
    let wants = &ours.wants;
    let skus: Vec<&str> = wants.gpu_skus.iter().map(String::as_str).collect();
    assert_eq!(skus, ["A10G", "L4", "T4"]);
    assert_eq!(wants.max_gpus, Some(2));
    assert_eq!(wants.max_price.unwrap().0, 4_750_000);
    assert!(wants.capacity_types.contains(&CapacityType::Spot));
    assert!(wants.type_pattern.as_ref().unwrap().matches("g6.xlarge"));
    assert_eq!(ours.eviction, Eviction::Forbidden);
}

#[test]
fn ours_wins_over_the_alias_and_a_typo_is_noted() {
    let yaml = pod(r#"headstart.dev/gpu-skus: L4
           node.elotl.co/instance-gpu-skus: A100
           headstart.dev/max-gpu: "1"
           node.elotl.co/instance-offerings: fargate,spot"#);
    let skus = snapshot(&yaml).pods[0].shape.wants.gpu_skus.clone();
    assert_eq!(skus.into_iter().collect::<Vec<_>>(), ["L4"]);
    notes(
        &yaml,
        &expect![[r#"
        a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/max-gpu: is no annotation that Headstart knows; did you mean headstart.dev/max-gpus?
        a.yaml, document 1, Pod default/p: metadata.annotations.node.elotl.co/instance-gpu-skus: headstart.dev/gpu-skus says something else and wins
        a.yaml, document 1, Pod default/p: metadata.annotations.node.elotl.co/instance-offerings: fargate is left out: it has no GPUs to plan for
    "#]],
    );
}

#[test]
fn an_annotation_that_names_models_wins_and_an_empty_one_means_none() {
    let models = |annotations: &str| {
        let items = shape(annotations).items;
        items.iter().skip(1).map(item).collect::<Vec<_>>()
    };
    assert_eq!(models("a/b: c"), ["hf://org/m@main"]);
    assert_eq!(
        models("headstart.dev/models: hf://org/a@v1, org/b"),
        ["hf://org/a@v1", "hf://org/b@main"]
    );
    assert!(models(r#"headstart.dev/models: """#).is_empty());
    assert_eq!(
        models(
            r#"headstart.dev/models: "hf://org/a?include=*.json"
                  headstart.dev/images: ghcr.io/o/i:1"#
        ),
        ["ghcr.io/o/i:1", "hf://org/a@maininclude=*.json"]
    );
}

#[test]
fn a_value_that_cannot_be_read_is_an_error_that_says_what_to_write() {
    let yaml = pod(r#"headstart.dev/models: "s3://bucket/m, org/../m"
           headstart.dev/images: "UPPER/case"
           headstart.dev/gpu-skus: "L4,<script>"
           headstart.dev/max-gpus: "-1"
           headstart.dev/max-hourly-cost: NaN
           headstart.dev/capacity-types: Spot
           headstart.dev/instance-families: "g6 g5"
           headstart.dev/instance-type-regexp: "(["
           headstart.dev/do-not-evict: "yes please"
           headstart.dev/ignore: "1"
           headstart.dev/group-min: "2""#);
    problems(
        &yaml,
        &expect![[r#"
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/capacity-types: "Spot" is not a capacity type: use spot, on-demand or reserved
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/do-not-evict: is "yes please"; write "true" or "false"
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/gpu-skus: "<script>" is not the name of a GPU; write it as L4, A10G or H100
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/group-min: names no group; add headstart.dev/group with its name
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/ignore: is "1"; write "true" or "false"
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/images: "UPPER/case" is not an image reference: repository names are lower case: did you mean "upper/case"?; write it as registry/name:tag
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/instance-families: "g6 g5" is not the name of an instance family; write it as g6
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/instance-type-regexp: "([" is not a regular expression: found unclosed character class; write one that compiles, such as ^g6\.
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/max-gpus: is "-1"; write a whole number such as 4
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/max-hourly-cost: is "NaN"; write USD per hour from 0 to 100000, such as 4.75
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/models: model "org/../m": repository "org/../m" has more than two parts; write org/name as on the Hub, for example meta-llama/Llama-3.1-8B-Instruct
            a.yaml, document 1, Pod default/p: metadata.annotations.headstart.dev/models: model "s3://bucket/m": scheme "s3" is not understood; write hf://org/name[@revision][?include=glob&exclude=glob]
        "#]],
    );
}

#[test]
fn a_pod_that_says_so_is_left_out() {
    for name in ["headstart.dev/ignore", "pod.elotl.co/ignore"] {
        assert!(
            snapshot(&pod(&format!("{name}: \"true\""))).pods.is_empty(),
            "{name}"
        );
        assert_eq!(
            snapshot(&pod(&format!("{name}: \"false\""))).pods.len(),
            1,
            "{name}"
        );
    }
}

#[test]
fn other_autoscalers_words_for_do_not_move_count() {
    for annotation in [
        r#"cluster-autoscaler.kubernetes.io/safe-to-evict: "false""#,
        r#"karpenter.sh/do-not-disrupt: "true""#,
    ] {
        assert_eq!(
            shape(annotation).eviction,
            Eviction::Forbidden,
            "{annotation}"
        );
    }
    let may = r#"cluster-autoscaler.kubernetes.io/safe-to-evict: "true""#;
    assert_eq!(shape(may).eviction, Eviction::Bare);
}

#[test]
fn a_gpu_is_known_by_its_model_however_it_is_spelled() {
    use crate::manifest::alias::gpu_sku;
    for (found, sku) in [
        ("l4", "L4"),
        ("A10G", "A10G"),
        ("a10", "A10"),
        ("nvidia-l4", "L4"),
        ("nvidia-tesla-t4", "T4"),
        ("Tesla-T4", "T4"),
        ("NVIDIA-A10G", "A10G"),
        ("NVIDIA-A100-SXM4-80GB", "A100"),
        ("nvidia-h100-80gb", "H100"),
        ("nvidia-h100-mega-80gb", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("rtx-pro-server-6000", "RTX-PRO-SERVER-6000"),
        ("nvidia", "NVIDIA"),
        ("80GB", "80GB"),
        ("", ""),
    ] {
        assert_eq!(gpu_sku(found), sku, "{found}");
    }
}
