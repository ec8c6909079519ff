//! What pods as real tools make them are given: one line a change.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::manifest::recognise;

/// A pod from YAML, without what every manifest has.
fn raw(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

fn agents() -> AgentNodes {
    let terms = json!([
        {"matchExpressions": [{"key": "headstart.dev/agent", "operator": "In", "values": ["true"]}]},
        {"matchExpressions": [{"key": "nvidia.com/gpu.present", "operator": "Exists"}]},
    ]);
    AgentNodes::Selected(serde_json::from_value(terms).unwrap())
}

fn config() -> InjectConfig {
    InjectConfig {
        agents: agents(),
        steering: Steering::None,
        markers: Markers::AgentPods("headstart-system".to_owned()),
    }
}

fn changed(raw: &Value, known: &Known, config: &InjectConfig) -> (Injection, Value) {
    let pod: Pod = serde_json::from_value(raw.clone()).unwrap();
    let injection = inject(&pod, raw, known, config);
    let mut after = raw.clone();
    json_patch::patch(&mut after, &injection.patch.0).unwrap();
    (injection, after)
}

fn lines(raw: &Value, known: &Known, config: &InjectConfig) -> String {
    let (injection, after) = changed(raw, known, config);
    let mut text = match &injection.reason {
        Reason::Left(left) => format!("{}: {left}\n", injection.reason.word()),
        reason => format!("{}\n", reason.word()),
    };
    for warning in &injection.warnings {
        text += &format!("! {warning}\n");
    }
    for operation in &injection.patch.0 {
        let json_patch::PatchOperation::Add(add) = operation else {
            panic!("{operation:?}");
        };
        text += &format!("{} {}\n", add.path, add.value);
    }
    let (again, twice) = changed(&after, known, config);
    assert!(again.patch.0.is_empty(), "{:?}", again.patch);
    assert_eq!(after, twice);
    text
}

fn check(yaml: &str, expected: &Expect) {
    expected.assert_eq(&lines(&raw(yaml), &Known::default(), &config()));
}

const DEPLOYMENT: &str = "
metadata: {generateName: vllm-6d4b9c-, labels: {app: vllm}}
spec:
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.33.0
      args: [--model, Qwen/Qwen3-8B, --tensor-parallel-size, '1']
      resources: {limits: {nvidia.com/gpu: 1}}
      env:
        - name: HF_TOKEN
          valueFrom: {secretKeyRef: {name: hf, key: token}}
";

#[test]
fn a_deployment_of_vllm_gets_the_model_that_its_arguments_name() {
    check(
        DEPLOYMENT,
        &expect![[r#"
        recognised
        /spec/volumes []
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","nodePublishSecretRef":{"name":"hf"},"volumeAttributes":{"headstart.dev/model":"hf://Qwen/Qwen3-8B","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts []
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations {}
        /metadata/annotations/headstart.dev~1injected "recognised: hf://Qwen/Qwen3-8B"
    "#]],
    );
}

#[test]
fn a_command_in_a_shell_is_read() {
    check(
        "
metadata: {name: a}
spec:
  containers:
    - name: proxy
      image: envoy
    - name: engine
      image: ray-llm
      command: [sh, -c]
      args: ['export X=1; exec vllm serve mistralai/Mistral-7B-v0.1 --revision 1234567890123456789012345678901234567890']
      resources: {limits: {nvidia.com/gpu: '2'}}
",
        &expect![[r#"
            recognised
            /spec/volumes []
            /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://mistralai/Mistral-7B-v0.1@1234567890123456789012345678901234567890","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
            /spec/containers/1/volumeMounts []
            /spec/containers/1/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
            /spec/containers/1/env []
            /spec/containers/1/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
            /metadata/annotations {}
            /metadata/annotations/headstart.dev~1injected "recognised: hf://mistralai/Mistral-7B-v0.1@1234567890123456789012345678901234567890"
        "#]],
    );
}

#[test]
fn an_annotation_wins_over_what_is_recognised_and_may_name_several() {
    check(
        "
metadata:
  name: a
  annotations: {headstart.dev/models: ' hf://a/base@main, b/lora@v1 '}
spec:
  containers:
    - name: engine
      image: vllm/vllm-openai
      args: [serve, other/model]
      resources: {limits: {nvidia.com/gpu: 1}}
    - name: metrics
      image: exporter
",
        &expect![[r#"
            annotation
            /spec/volumes []
            /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://a/base,hf://b/lora@v1","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
            /spec/containers/0/volumeMounts []
            /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
            /spec/containers/0/env []
            /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
            /metadata/annotations/headstart.dev~1injected "annotation: hf://a/base,hf://b/lora@v1"
        "#]],
    );
}

#[test]
fn the_production_stack_on_a_claim_keeps_its_claim_and_on_an_empty_directory_gets_ours() {
    let stack = |volume: &str| {
        format!(
            "
metadata: {{name: a, labels: {{model: llama}}}}
spec:
  initContainers:
    - {{name: wait, image: busybox}}
  containers:
    - name: vllm
      image: lmcache/vllm-openai
      command: [vllm, serve, meta-llama/Llama-3.1-8B-Instruct, --host, 0.0.0.0]
      env:
        - {{name: HF_HOME, value: /data}}
        - name: HF_TOKEN
          valueFrom: {{secretKeyRef: {{name: stack-secrets, key: hf_token_llama}}}}
      resources: {{requests: {{nvidia.com/gpu: '1'}}, limits: {{nvidia.com/gpu: '1'}}}}
      volumeMounts: [{{name: storage, mountPath: /data}}]
  volumes: [{{name: storage, {volume}}}]
"
        )
    };
    check(
        &stack("persistentVolumeClaim: {claimName: c}"),
        &expect![[r#"
            own_cache: it keeps models on a volume that lasts
        "#]],
    );
    check(
        &stack("emptyDir: {}"),
        &expect![[r#"
        recognised
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","nodePublishSecretRef":{"name":"stack-secrets"},"volumeAttributes":{"headstart.dev/model":"hf://meta-llama/Llama-3.1-8B-Instruct","headstart.dev/on-refusal":"empty","headstart.dev/token-key":"hf_token_llama"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations {}
        /metadata/annotations/headstart.dev~1injected "recognised: hf://meta-llama/Llama-3.1-8B-Instruct"
    "#]],
    );
}

#[test]
fn what_llm_d_and_kserve_set_for_their_cache_stands() {
    check(
        "
metadata: {name: a, labels: {llm-d.ai/role: decode}}
spec:
  containers:
    - name: vllm
      image: ghcr.io/llm-d/llm-d:v0.2
      command: [vllm, serve]
      args: [Qwen/Qwen3-0.6B]
      env: [{name: HF_HUB_CACHE, value: /model-cache}]
      resources: {limits: {nvidia.com/gpu: 1}}
      volumeMounts: [{name: m, mountPath: /model-cache, readOnly: true}]
  volumes: [{name: m, persistentVolumeClaim: {claimName: c, readOnly: true}}]
",
        &expect![[r#"
            cache_is_set: it says itself where models are cached
        "#]],
    );
    check(
        "
metadata: {name: a}
spec:
  containers:
    - name: main
      image: vllm/vllm-openai
      command: [vllm, serve, /mnt/models]
      env: [{name: HF_HUB_CACHE, value: /models}]
      resources: {limits: {nvidia.com/gpu: 1}}
",
        &expect![[r#"
            no_model: no model is named and none was recognised
        "#]],
    );
}

const WORKER: &str = "
metadata:
  generateName: llm-abcde-gpu-worker-
  labels: {ray.io/cluster: llm-abcde, ray.io/node-type: worker, ray.io/group: gpu, ray.io/is-ray-node: 'yes'}
spec:
  initContainers:
    - name: wait-gcs-ready
      image: rayproject/ray-llm:2.60.0
      command: [/bin/bash, -c, --]
      args: ['until ray health-check; do sleep 5; done']
      env: [{name: RAY_IP, value: head}]
      volumeMounts: [{name: shared-mem, mountPath: /dev/shm}]
  containers:
    - name: ray-worker
      image: rayproject/ray-llm:2.60.0
      command: [/bin/bash, -c, --]
      args: ['ulimit -n 65536; ray start --address=head:6379 --block']
      resources: {limits: {nvidia.com/gpu: '1'}}
      volumeMounts: [{name: shared-mem, mountPath: /dev/shm}]
    - {name: sidecar, image: logger}
  volumes: [{name: shared-mem, emptyDir: {medium: Memory}}]
";

const HEAD: &str = "
metadata:
  name: llm-abcde-head
  labels: {ray.io/cluster: llm-abcde, ray.io/node-type: head, ray.io/group: headgroup}
spec:
  containers:
    - name: ray-head
      image: rayproject/ray-llm:2.60.0
      resources: {limits: {cpu: '4'}}
    - name: autoscaler
      image: rayproject/ray-llm:2.60.0
      env: [{name: RAY_CLUSTER_NAME, value: llm}]
";

const SERVE: &str = "
applications:
  - name: llm
    args:
      llm_configs:
        - model_loading_config: {model_id: qwen, model_source: Qwen/Qwen3-8B}
          engine_kwargs: {}
";

fn served() -> Known {
    Known {
        served: recognise::of_serve_config(SERVE).unwrap(),
        ..Known::default()
    }
}

#[test]
fn a_worker_of_kuberay_gets_its_services_models_in_its_first_container() {
    let worker = raw(WORKER);
    expect![[r#"
        serve_config
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://Qwen/Qwen3-8B","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env []
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations {}
        /metadata/annotations/headstart.dev~1injected "serve_config: hf://Qwen/Qwen3-8B"
    "#]].assert_eq(&lines(&worker, &served(), &config()));
    let by_owner = Known {
        owner_models: Some("other/model".to_owned()),
        ..served()
    };
    expect![[r#"
        owner
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://other/model","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env []
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations {}
        /metadata/annotations/headstart.dev~1injected "owner: hf://other/model"
    "#]].assert_eq(&lines(&worker, &by_owner, &config()));
    expect![[r#"
        no_model: no model is named and none was recognised
    "#]]
    .assert_eq(&lines(&worker, &Known::default(), &config()));
}

#[test]
fn a_head_without_accelerators_gets_no_volume_but_waits_longer_for_slow_workers() {
    let head = raw(HEAD);
    expect![[r#"
        no_model: no model is named and none was recognised
    "#]]
    .assert_eq(&lines(&head, &served(), &config()));
    let slow = Known {
        expected_start: Some(Duration::from_secs(611)),
        ..served()
    };
    expect![[r#"
        ray_waits
        /spec/containers/1/env/- {"name":"RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S","value":"1260"}
    "#]].assert_eq(&lines(&head, &slow, &config()));
    let quick = Known {
        expected_start: Some(Duration::from_secs(300)),
        ..served()
    };
    expect![[r#"
        no_model: no model is named and none was recognised
    "#]]
    .assert_eq(&lines(&head, &quick, &config()));
}

#[test]
fn a_head_that_names_its_model_gets_it_where_an_agent_is() {
    let mut head = raw(HEAD);
    head["metadata"]["annotations"] = json!({names::MODELS: "Qwen/Qwen3-8B"});
    expect![[r#"
        annotation
        /spec/affinity {}
        /spec/affinity/nodeAffinity {}
        /spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution {"nodeSelectorTerms":[{"matchExpressions":[{"key":"headstart.dev/agent","operator":"In","values":["true"]}]},{"matchExpressions":[{"key":"nvidia.com/gpu.present","operator":"Exists"}]}]}
        /spec/volumes []
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://Qwen/Qwen3-8B","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts []
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env []
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations/headstart.dev~1injected "annotation: hf://Qwen/Qwen3-8B"
    "#]].assert_eq(&lines(&head, &Known::default(), &config()));
    head["spec"]["nodeSelector"] = json!({"headstart.dev/agent": "true"});
    expect![[r#"
        annotation
        /spec/volumes []
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","volumeAttributes":{"headstart.dev/model":"hf://Qwen/Qwen3-8B","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts []
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env []
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations/headstart.dev~1injected "annotation: hf://Qwen/Qwen3-8B"
    "#]].assert_eq(&lines(&head, &Known::default(), &config()));
    head["spec"]["nodeSelector"] = json!({"disk": "large"});
    head["spec"]["affinity"] = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}});
    expect![[r#"
        no_agent: nothing says that it runs on a node with an agent
    "#]]
    .assert_eq(&lines(&head, &Known::default(), &config()));
}

/// The first word of what becomes of the deployment after `change`.
fn word(change: impl FnOnce(&mut Value)) -> String {
    word_with(change, &Known::default())
}

fn word_with(change: impl FnOnce(&mut Value), known: &Known) -> String {
    let mut pod = raw(DEPLOYMENT);
    change(&mut pod);
    let lines = lines(&pod, known, &config());
    let end = lines.find([':', '\n']).unwrap_or(lines.len());
    lines[..end].to_owned()
}

#[test]
fn pods_that_opt_out_or_are_of_another_kind_are_left_alone() {
    assert_eq!(word(|_| {}), "recognised");
    assert_eq!(
        word(|pod| pod["metadata"]["annotations"] = json!({names::IGNORE: "true"})),
        "ignored"
    );
    assert_eq!(
        word(|pod| pod["metadata"]["labels"][names::IGNORE] = json!("true")),
        "ignored"
    );
    let namespace = BTreeMap::from([(names::IGNORE.to_owned(), "true".to_owned())]);
    let known = Known {
        namespace,
        ..Known::default()
    };
    assert_eq!(word_with(|_| {}, &known), "ignored");
    let mirror = json!({"kubernetes.io/config.mirror": "x"});
    assert_eq!(
        word(|pod| pod["metadata"]["annotations"] = mirror),
        "mirror"
    );
    assert_eq!(
        word(|pod| pod["spec"]["os"] = json!({"name": "windows"})),
        "windows"
    );
    let windows = json!({"kubernetes.io/os": "windows"});
    assert_eq!(word(|pod| pod["spec"]["nodeSelector"] = windows), "windows");
    assert_eq!(
        word(|pod| pod["spec"]["hostNetwork"] = json!(true)),
        "recognised"
    );
}

#[test]
fn what_a_container_says_of_its_cache_stands() {
    let with = |name: &str, value: &str| {
        let variable = json!({"name": name, "value": value});
        word(|pod| pod["spec"]["containers"][0]["env"] = json!([variable]))
    };
    assert_eq!(with("HUGGINGFACE_HUB_CACHE", "/x"), "cache_is_set");
    assert_eq!(with("HF_HUB_OFFLINE", "1"), "not_from_hub");
    assert_eq!(with("HF_HUB_OFFLINE", "0"), "recognised");
    assert_eq!(with("VLLM_USE_MODELSCOPE", "True"), "not_from_hub");
    assert_eq!(with("HF_HOME", "/x"), "recognised");
    assert_eq!(with("HF_HOME", "$(BASE)/x"), "environment_unknown");
    let args = json!(["--model=Qwen/Qwen3-8B", "--download-dir=/x"]);
    assert_eq!(
        word(|pod| pod["spec"]["containers"][0]["args"] = args),
        "cache_is_set"
    );
    let from = |kind: &str| {
        let from = json!([{kind: {"name": "settings"}}]);
        word(|pod| pod["spec"]["containers"][0]["envFrom"] = from)
    };
    assert_eq!(from("configMapRef"), "environment_unknown");
    assert_eq!(from("secretRef"), "recognised");
    // A home that is no path of this machine.
    let in_home = |rest: &str| format!("/{}{rest}", "root");
    let mounted = |path: &str, volume: Value| {
        word(|pod| {
            pod["spec"]["containers"][0]["volumeMounts"] =
                json!([{"name": "v", "mountPath": path}]);
            let mut volume = volume;
            volume["name"] = json!("v");
            pod["spec"]["volumes"] = json!([volume]);
        })
    };
    let claim = json!({"persistentVolumeClaim": {"claimName": "c"}});
    assert_eq!(
        mounted(&in_home("/.cache/huggingface"), claim.clone()),
        "own_cache"
    );
    assert_eq!(mounted(&in_home("/.cache/"), claim.clone()), "own_cache");
    assert_eq!(mounted("/dev/shm", claim.clone()), "recognised");
    assert_eq!(
        mounted(&in_home("/.cache/huggingface"), json!({"emptyDir": {}})),
        "recognised"
    );
    assert_eq!(mounted("/headstart", claim), "name_is_taken");
    let ours = json!([{"name": VOLUME, "emptyDir": {}}]);
    assert_eq!(word(|pod| pod["spec"]["volumes"] = ours), "name_is_taken");
}

#[test]
fn a_pod_that_could_land_where_no_agent_is_gets_no_volume() {
    let without = |pod: &mut Value| {
        pod["spec"]["containers"][0]
            .as_object_mut()
            .unwrap()
            .remove("resources");
    };
    assert_eq!(word(without), "no_agent");
    assert_eq!(
        word(|pod| {
            without(pod);
            pod["spec"]["nodeSelector"] = json!({"nvidia.com/gpu.present": "yes"});
        }),
        "recognised"
    );
    let claims = json!({"claims": [{"name": "gpu"}]});
    assert_eq!(
        word(|pod| pod["spec"]["containers"][0]["resources"] = claims),
        "recognised"
    );
}

#[test]
fn an_annotation_that_cannot_be_read_is_told_and_changes_nothing() {
    let mut pod = raw(DEPLOYMENT);
    pod["metadata"]["annotations"] = json!({names::MODELS: "s3://bucket/x"});
    expect![[r#"
        unreadable: headstart.dev/models cannot be read
        ! headstart.dev/models: model "s3://bucket/x": scheme "s3" is not understood; write hf://org/name[@revision][?include=glob&exclude=glob]; the pod is left as it is
    "#]].assert_eq(&lines(&pod, &Known::default(), &config()));
    pod["metadata"]["annotations"] = json!({names::MODELS: " , "});
    expect![[r#"
        no_model: no model is named and none was recognised
    "#]]
    .assert_eq(&lines(&pod, &Known::default(), &config()));
}

#[test]
fn a_secret_that_may_be_missing_is_not_asked_for() {
    let mut pod = raw(DEPLOYMENT);
    let secret = "/spec/containers/0/env/0/valueFrom/secretKeyRef";
    pod.pointer_mut(secret).unwrap()["optional"] = json!(true);
    let text = lines(&pod, &Known::default(), &config());
    assert!(!text.contains("nodePublishSecretRef"), "{text}");
    pod["metadata"]["annotations"] = json!({names::TOKEN_SECRET: "mine"});
    let text = lines(&pod, &Known::default(), &config());
    assert!(
        text.contains(r#""nodePublishSecretRef":{"name":"mine"}"#),
        "{text}"
    );
}

#[test]
fn pods_prefer_nodes_and_agents_with_their_model_and_are_gated_when_asked_to() {
    let steered = InjectConfig {
        steering: Steering::Prefer,
        ..config()
    };
    let mut pod = raw(DEPLOYMENT);
    expect![[r#"
        recognised
        /spec/volumes []
        /spec/volumes/- {"csi":{"driver":"csi.headstart.dev","nodePublishSecretRef":{"name":"hf"},"volumeAttributes":{"headstart.dev/model":"hf://Qwen/Qwen3-8B","headstart.dev/on-refusal":"empty"}},"name":"headstart-models"}
        /spec/containers/0/volumeMounts []
        /spec/containers/0/volumeMounts/- {"mountPath":"/headstart/hub","name":"headstart-models"}
        /spec/containers/0/env/- {"name":"HF_HUB_CACHE","value":"/headstart/hub"}
        /metadata/annotations {}
        /metadata/annotations/headstart.dev~1injected "recognised: hf://Qwen/Qwen3-8B"
        /spec/affinity {}
        /spec/affinity/nodeAffinity {}
        /spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution []
        /spec/affinity/nodeAffinity/preferredDuringSchedulingIgnoredDuringExecution/- {"preference":{"matchExpressions":[{"key":"headstart.dev/warm-Qwen--Qwen3-8B","operator":"Exists"}]},"weight":100}
        /spec/affinity/podAffinity {}
        /spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution []
        /spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution/- {"podAffinityTerm":{"labelSelector":{"matchExpressions":[{"key":"headstart.dev/warm-Qwen--Qwen3-8B","operator":"Exists"}]},"namespaces":["headstart-system"],"topologyKey":"kubernetes.io/hostname"},"weight":100}
    "#]].assert_eq(&lines(&pod, &Known::default(), &steered));
    pod["metadata"]["annotations"] = json!({names::STEERING: "gate"});
    let text = lines(&pod, &Known::default(), &config());
    assert!(
        text.ends_with("/spec/schedulingGates/- {\"name\":\"headstart.dev/steering\"}\n"),
        "{text}"
    );
    let namespace = BTreeMap::from([(names::STEERING.to_owned(), "gate".to_owned())]);
    let known = Known {
        namespace,
        ..Known::default()
    };
    let gated = |pod: &Value| lines(pod, &known, &steered).contains("schedulingGates");
    pod["metadata"]["annotations"] = json!({});
    assert!(gated(&pod));
    pod["metadata"]["annotations"] = json!({names::STEERING: "none"});
    assert!(!gated(&pod));
    pod["metadata"]["annotations"] = json!({});
    // Who is held back by somebody else is not led before it may run.
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/queue"}]);
    assert!(!gated(&pod));
    pod["spec"]["schedulingGates"] = json!([]);
    // One that has its node cannot be gated.
    pod["spec"]["nodeName"] = json!("n");
    assert!(!gated(&pod));
    pod["spec"]["nodeName"] = json!("");
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"}]);
    assert!(!gated(&pod));
}

#[test]
fn a_pod_that_a_policy_changed_gets_only_its_gate() {
    let steered = InjectConfig {
        steering: Steering::Prefer,
        ..config()
    };
    let mut pod = raw(DEPLOYMENT);
    pod["metadata"]["annotations"] = json!({names::MODELS: "Qwen/Qwen3-8B"});
    let (_, mut pod) = changed(&pod, &Known::default(), &steered);
    pod["metadata"]["annotations"][names::STEERING] = json!("gate");
    expect![[r#"
        already
        /spec/schedulingGates []
        /spec/schedulingGates/- {"name":"headstart.dev/steering"}
    "#]]
    .assert_eq(&lines(&pod, &Known::default(), &steered));
}

#[test]
fn nothing_that_changes_an_engine_or_needs_privilege_is_ever_added() {
    let mut head = raw(HEAD);
    head["metadata"]["annotations"] = json!({names::MODELS: "a/b", names::STEERING: "gate"});
    for pod in [raw(DEPLOYMENT), raw(WORKER), head] {
        let text = lines(&pod, &served(), &config());
        for word in [
            "HF_HUB_OFFLINE",
            "VLLM_",
            "hostPath",
            "privileged",
            "securityContext",
        ] {
            assert!(!text.contains(word), "{text}");
        }
    }
}

prop_compose! {
    fn any_container()(
        name in "[a-z]{1,5}",
        args in prop::option::of(prop::collection::vec(
            prop::sample::select(vec!["serve", "--model", "a/b", "--download-dir", "vllm", "x"]), 0..4)),
        env in prop::option::of(prop::collection::vec(
            prop::sample::select(vec!["HF_HOME", "HF_TOKEN", "HF_HUB_CACHE", "MODEL_ID"]), 0..3)),
        gpus in prop::option::of(0_u8..2),
        has_mounts in any::<bool>(),
    ) -> Value {
        let mut container = json!({"name": name, "image": "vllm/vllm-openai"});
        if let Some(args) = args {
            container["args"] = json!(args);
        }
        if let Some(env) = env {
            container["env"] = env.iter().map(|name| json!({"name": name, "value": "a/b"})).collect();
        }
        if let Some(gpus) = gpus {
            container["resources"] = json!({"limits": {"nvidia.com/gpu": gpus.to_string()}});
        }
        if has_mounts {
            container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        }
        container
    }
}

proptest! {
    #[test]
    fn any_pod_is_changed_once_and_only_added_to(
        containers in prop::collection::vec(any_container(), 1..4),
        annotation in prop::option::of("[a-z/@,: ]{0,12}"),
        gate in any::<bool>(),
        ray in any::<bool>(),
    ) {
        let mut pod = json!({"metadata": {"name": "a"}, "spec": {"containers": containers}});
        if let Some(annotation) = annotation {
            pod["metadata"]["annotations"] = json!({names::MODELS: annotation});
        }
        if ray {
            pod["metadata"]["labels"] = json!({"ray.io/cluster": "c", "ray.io/node-type": "head"});
        }
        let config = InjectConfig {
            steering: if gate { Steering::Gate } else { Steering::Prefer },
            ..config()
        };
        let (_, after) = changed(&pod, &served(), &config);
        prop_assert!(covers(&after, &pod), "{after}");
        let (again, _) = changed(&after, &served(), &config);
        prop_assert!(again.patch.0.is_empty(), "{:?}", again.patch);
        prop_assert!(serde_json::from_value::<Pod>(after).is_ok());
    }

    #[test]
    fn a_review_of_anything_is_answered_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        struct Nobody;
        impl crate::admission::Knowledge for Nobody {
            fn of(&self, _: &str, _: &Pod) -> Known {
                Known::default()
            }
        }
        let _ = crate::admission::review::answer(&body, &Nobody, &config());
    }
}

/// Whether `after` has all that `before` had, where it was.
fn covers(after: &Value, before: &Value) -> bool {
    match (after, before) {
        (Value::Object(after), Value::Object(before)) => before
            .iter()
            .all(|(key, value)| after.get(key).is_some_and(|found| covers(found, value))),
        (Value::Array(after), Value::Array(before)) => {
            after.len() >= before.len() && after.iter().zip(before).all(|(a, b)| covers(a, b))
        }
        (after, before) => after == before,
    }
}
