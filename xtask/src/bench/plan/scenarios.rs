//! Small scenarios that mix every constraint, for two planners to be compared on.
//!
//! A scenario follows from its number alone. Values are drawn from few, so that constraints meet.

use serde_json::{Map, Value, json};

const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];
const FAMILIES: [&str; 3] = ["c", "g", "m"];
const TEAMS: [&str; 2] = ["blue", "red"];
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ARCH: &str = "kubernetes.io/arch";
const CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// SplitMix64.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }

    /// Some of them, at least one.
    fn some<T: Copy>(&mut self, among: &[T]) -> Vec<T> {
        let mut chosen: Vec<T> = among.iter().copied().filter(|_| self.once_in(2)).collect();
        if chosen.is_empty() {
            chosen.push(self.of(among));
        }
        chosen
    }
}

/// The scenario of this number.
pub(super) fn scenario(number: u64) -> Value {
    let mut draws = Draws(number.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let d = &mut draws;
    let types: Vec<Value> = (0..d.between(2, 7)).map(|t| instance_type(d, t)).collect();
    let pools: Vec<Value> = (0..d.of(&[1, 1, 2, 3])).map(|p| node_pool(d, p)).collect();
    let daemons: Vec<Value> = (0..d.of(&[0, 0, 1, 2])).map(|n| daemon(d, n)).collect();
    let sets = d.between(1, 5);
    let (mut nodes, mut bound) = (Vec::new(), Vec::new());
    for n in 0..d.of(&[0, 0, 1, 2, 4]) {
        let kind = d.of(&types.iter().collect::<Vec<_>>());
        nodes.push(node(d, n, kind, &pools));
        for p in 0..d.below(3) {
            let set = d_set(d, sets);
            let mut pod = plain(d, format!("bound-{n}-{p}"), set);
            pod["spec"]["nodeName"] = json!(format!("node-{n}"));
            pod["status"] = json!({"phase": "Running"});
            if d.once_in(4) {
                let labels = pod["metadata"]["labels"].clone();
                pod["spec"]["affinity"] = json!({"podAntiAffinity": {REQUIRED: [
                    {"labelSelector": {"matchLabels": labels}, "topologyKey": HOSTNAME}
                ]}});
            }
            bound.push(pod);
        }
    }
    let mut pods = Vec::new();
    for set in 0..sets {
        let template = template(d, set, sets, &types);
        for replica in 0..d.of(&[1, 1, 2, 3, 5, 8]) {
            let mut pod = template.clone();
            pod["metadata"]["name"] = json!(format!("set-{set}-{replica}"));
            let uid = format!("{:08x}-0000-4000-8000-{:012x}", d.next() as u32, pods.len());
            pod["metadata"]["uid"] = json!(uid);
            pods.push(pod);
        }
    }
    json!({
        "preferences": "respect",
        "types": types,
        "nodePools": pools,
        "nodes": nodes,
        "bound": bound,
        "daemons": daemons,
        "pods": pods,
    })
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn instance_type(d: &mut Draws, number: u64) -> Value {
    let cpu = d.of(&[1, 2, 2, 4, 4, 8, 16]);
    let memory = cpu * d.of(&[2, 4, 8]);
    let family = d.of(&FAMILIES);
    let price = (cpu as f64 * 0.03 + memory as f64 * 0.004) * d.between(90, 110) as f64 / 100.0;
    let mut offerings = Vec::new();
    for zone in d.some(&ZONES) {
        for (capacity_type, share) in [("on-demand", 1.0), ("spot", 0.4)] {
            if !d.once_in(4) {
                offerings.push(json!({
                    "zone": zone,
                    "capacityType": capacity_type,
                    "price": (price * share * 1e4).round() / 1e4,
                    "available": !d.once_in(7),
                }));
            }
        }
    }
    if !offerings.iter().any(|o| o["available"] == json!(true)) {
        offerings.push(json!({
            "zone": "zone-d", "capacityType": "on-demand",
            "price": (price * 1e4).round() / 1e4, "available": true,
        }));
    }
    let mut labels = json!({"integer": cpu.to_string(), "family": family});
    if d.once_in(4) {
        labels["local"] = json!("nvme");
    }
    json!({
        "name": format!("{family}-{number}"),
        "arch": d.of(&["amd64", "amd64", "arm64"]),
        "os": ["linux"],
        "labels": labels,
        "capacity": {
            "cpu": cpu.to_string(),
            "memory": format!("{memory}Gi"),
            "pods": d.of(&["4", "8", "110", "110"]),
        },
        "overhead": {"cpu": "100m", "memory": "100Mi"},
        "offerings": offerings,
    })
}

fn node_pool(d: &mut Draws, number: u64) -> Value {
    let mut requirements = Vec::new();
    let mut limit = |d: &mut Draws, key: &str, among: &[&str]| {
        if d.once_in(4) {
            let operator = d.of(&["In", "In", "NotIn"]);
            requirements.push(json!({"key": key, "operator": operator, "values": d.some(among)}));
        }
    };
    limit(d, CAPACITY_TYPE, &["on-demand", "spot"]);
    limit(d, ZONE, &ZONES);
    limit(d, ARCH, &["amd64", "arm64"]);
    limit(d, "family", &FAMILIES);
    let mut spec = json!({"requirements": requirements});
    if number > 0 && d.once_in(2) {
        let effect = d.of(&["NoSchedule", "NoExecute", "PreferNoSchedule"]);
        spec["taints"] = json!([{"key": "dedicated", "value": d.of(&TEAMS), "effect": effect}]);
    }
    let mut labels = Map::new();
    if d.once_in(2) {
        labels.insert("team".to_owned(), json!(d.of(&TEAMS)));
    }
    let mut pool = json!({
        "metadata": {"name": format!("pool-{number}")},
        "spec": {
            "template": {"metadata": {"labels": labels}, "spec": spec},
            "weight": d.of(&[1, 1, 10, 50]),
        },
    });
    if d.once_in(4) {
        pool["spec"]["limits"] = json!({"cpu": d.of(&["4", "8", "16", "40"])});
    }
    pool
}

fn daemon(d: &mut Draws, number: u64) -> Value {
    let mut pod = plain(d, format!("daemon-{number}"), 99);
    pod["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": d.of(&["50m", "100m", "500m"]), "memory": "64Mi"}});
    match d.below(4) {
        0 => pod["spec"]["nodeSelector"] = json!({ARCH: "amd64"}),
        1 => pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]),
        _ => {}
    }
    pod
}

fn node(d: &mut Draws, number: u64, kind: &Value, pools: &[Value]) -> Value {
    let pool = d.of(&pools.iter().collect::<Vec<_>>());
    let offering = d.of(&kind["offerings"]
        .as_array()
        .map_or(Vec::new(), |o| o.iter().collect()));
    let name = format!("node-{number}");
    let mut labels = json!({
        HOSTNAME: name,
        INSTANCE_TYPE: kind["name"],
        ZONE: offering["zone"],
        CAPACITY_TYPE: offering["capacityType"],
        ARCH: kind["arch"],
        "kubernetes.io/os": "linux",
        "karpenter.sh/nodepool": pool["metadata"]["name"],
        "karpenter.sh/registered": "true",
        "karpenter.sh/initialized": "true",
    });
    for of in [
        &kind["labels"],
        &pool["spec"]["template"]["metadata"]["labels"],
    ] {
        for (key, value) in of.as_object().into_iter().flatten() {
            labels[key] = value.clone();
        }
    }
    let cpu: u64 = kind["capacity"]["cpu"]
        .as_str()
        .and_then(|cpu| cpu.parse().ok())
        .unwrap_or(1);
    let mut allocatable = kind["capacity"].clone();
    allocatable["cpu"] = json!(format!("{}m", cpu * 1000 - 100));
    let taints = pool["spec"]["template"]["spec"]["taints"].clone();
    json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"providerID": format!("fake:///{name}"), "taints": taints},
        "status": {"allocatable": allocatable, "capacity": kind["capacity"]},
    })
}

fn d_set(d: &mut Draws, sets: u64) -> u64 {
    d.below(sets)
}

fn plain(d: &mut Draws, name: String, set: u64) -> Value {
    let container = json!({
        "name": "main",
        "image": "pause",
        "resources": {"requests": {
            "cpu": d.of(&["100m", "250m", "500m", "900m", "1", "1500m", "3500m"]),
            "memory": d.of(&["100Mi", "512Mi", "1Gi", "3Gi", "6Gi"]),
        }},
    });
    json!({
        "metadata": {
            "name": name,
            "namespace": "default",
            "uid": format!("uid-{name}"),
            "labels": {"set": set.to_string(), "tier": (set % 2).to_string()},
        },
        "spec": {"containers": [container]},
    })
}

/// What the pods of one set ask for: up to three constraints.
fn template(d: &mut Draws, set: u64, sets: u64, types: &[Value]) -> Value {
    let mut pod = plain(d, String::new(), set);
    for _ in 0..d.below(4) {
        constrain(d, &mut pod, sets, types);
    }
    pod
}

fn constrain(d: &mut Draws, pod: &mut Value, sets: u64, types: &[Value]) {
    let own = pod["metadata"]["labels"].clone();
    let selector = match d.below(6) {
        0..=2 => json!({"matchLabels": {"set": own["set"]}}),
        3 => json!({"matchLabels": {"tier": own["tier"]}}),
        4 => json!({"matchLabels": {"set": d_set(d, sets).to_string()}}),
        _ => json!({"matchExpressions": [
            {"key": "set", "operator": "NotIn", "values": [own["set"]]}
        ]}),
    };
    let key = d.of(&[ZONE, ZONE, HOSTNAME, HOSTNAME, CAPACITY_TYPE]);
    let related = json!({"labelSelector": selector, "topologyKey": key});
    let spec = &mut pod["spec"];
    let weight = d.of(&[1, 10, 100]);
    match d.below(12) {
        0 => match d.below(5) {
            0 => spec["nodeSelector"][ARCH] = json!(d.of(&["amd64", "arm64"])),
            1 => spec["nodeSelector"]["team"] = json!(d.of(&TEAMS)),
            2 => spec["nodeSelector"][CAPACITY_TYPE] = json!(d.of(&["spot", "on-demand"])),
            3 => spec["nodeSelector"][INSTANCE_TYPE] = types[0]["name"].clone(),
            _ => spec["nodeSelector"][ZONE] = json!(d.of(&ZONES)),
        },
        1 | 2 => {
            let terms: Vec<Value> = (0..d.between(1, 2)).map(|_| node_term(d)).collect();
            spec["affinity"]["nodeAffinity"][REQUIRED] = json!({"nodeSelectorTerms": terms});
        }
        3 => {
            let preferred = json!({"weight": weight, "preference": node_term(d)});
            push(&mut spec["affinity"]["nodeAffinity"][PREFERRED], preferred);
        }
        4 => {
            let mut toleration = json!({"key": "dedicated", "operator": "Exists"});
            if d.once_in(2) {
                toleration = json!({"key": "dedicated", "value": d.of(&TEAMS)});
            }
            push(&mut spec["tolerations"], toleration);
        }
        5 | 6 => {
            let mut spread = json!({
                "maxSkew": d.between(1, 2),
                "topologyKey": key,
                "whenUnsatisfiable": d.of(&["DoNotSchedule", "DoNotSchedule", "ScheduleAnyway"]),
                "labelSelector": selector,
            });
            if spread["whenUnsatisfiable"] == json!("DoNotSchedule") && d.once_in(5) {
                spread["minDomains"] = json!(d.between(2, 3));
            }
            if d.once_in(5) {
                spread["nodeTaintsPolicy"] = json!("Honor");
            }
            if d.once_in(5) {
                spread["nodeAffinityPolicy"] = json!("Ignore");
            }
            push(&mut spec["topologySpreadConstraints"], spread);
        }
        7 => push(&mut spec["affinity"]["podAffinity"][REQUIRED], related),
        8 => push(&mut spec["affinity"]["podAntiAffinity"][REQUIRED], related),
        9 => {
            let preferred = json!({"weight": weight, "podAffinityTerm": related});
            let which = d.of(&["podAffinity", "podAntiAffinity"]);
            push(&mut spec["affinity"][which][PREFERRED], preferred);
        }
        10 => {
            let port = json!([{"containerPort": 80, "protocol": "TCP", "hostPort": d.between(8080, 8081)}]);
            spec["containers"][0]["ports"] = port;
        }
        _ => {
            let always = d.once_in(2);
            let requests = json!({"cpu": d.of(&["200m", "2"]), "memory": d.of(&["64Mi", "4Gi"])});
            let mut init =
                json!({"name": "init", "image": "pause", "resources": {"requests": requests}});
            if always {
                init["restartPolicy"] = json!("Always");
            }
            spec["initContainers"] = json!([init]);
        }
    }
}

fn push(list: &mut Value, one: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(one),
        None => *list = json!([one]),
    }
}

fn node_term(d: &mut Draws) -> Value {
    let expressions: Vec<Value> = (0..d.between(1, 2)).map(|_| expression(d)).collect();
    json!({"matchExpressions": expressions})
}

fn expression(d: &mut Draws) -> Value {
    let sets = ["In", "In", "NotIn"];
    match d.below(8) {
        0 => {
            json!({"key": "integer", "operator": d.of(&["Gt", "Lt"]), "values": [d.of(&["2", "4"])]})
        }
        1 => json!({"key": "local", "operator": d.of(&["Exists", "DoesNotExist"])}),
        2 => json!({"key": "team", "operator": d.of(&["Exists", "DoesNotExist"])}),
        3 => json!({"key": "team", "operator": d.of(&sets), "values": d.some(&TEAMS)}),
        4 => json!({"key": "family", "operator": d.of(&sets), "values": d.some(&FAMILIES)}),
        5 => json!({"key": ARCH, "operator": d.of(&sets), "values": d.some(&["amd64", "arm64"])}),
        6 => json!({"key": CAPACITY_TYPE, "operator": d.of(&sets), "values": ["spot"]}),
        _ => json!({"key": ZONE, "operator": d.of(&sets), "values": d.some(&ZONES)}),
    }
}
