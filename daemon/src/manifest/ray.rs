//! Ray clusters, services and jobs, as KubeRay makes pods from them.
//!
//! Only the fields that say which pods there will be are decoded; all others are tolerated. A cluster
//! is one group: its head, and of each worker group what must be there before Ray is of use.
//!
//! Source: KubeRay v1.7 `apis/ray/v1`, `controllers/ray/utils`, `controllers/ray/common/pod.go`.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::amount::Resources;
use headstart_core::model::ModelRef;
use headstart_core::pod::{GROUP_ROLE, ObjectKey, Sharing};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::annotation::Annotations;
use super::finding::{Findings, Subject};
use super::gang::{Membership, Required};
use super::object::{Placed, controller};
use super::shape::Template;
use super::workload::{Maker, Owned, Wanted};
use super::{recognise, requests};

/// KubeRay's name for the group of the head.
const HEAD: &str = "headgroup";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RayCluster {
    metadata: ObjectMeta,
    spec: Option<RayClusterSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RayService {
    metadata: ObjectMeta,
    spec: Option<RayServiceSpec>,
    status: Option<RayServiceStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RayJob {
    metadata: ObjectMeta,
    spec: Option<RayJobSpec>,
    status: Option<RayJobStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RayServiceSpec {
    ray_cluster_config: Option<RayClusterSpec>,
    #[serde(rename = "serveConfigV2")]
    serve_config_v2: Option<String>,
    suspend: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RayServiceStatus {
    active_service_status: Option<ServiceStatus>,
    pending_service_status: Option<ServiceStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    ray_cluster_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RayJobSpec {
    ray_cluster_spec: Option<RayClusterSpec>,
    cluster_selector: Option<BTreeMap<String, String>>,
    suspend: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RayJobStatus {
    ray_cluster_name: Option<String>,
    job_deployment_status: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RayClusterSpec {
    head_group_spec: Option<HeadGroup>,
    worker_group_specs: Option<Vec<WorkerGroup>>,
    enable_in_tree_autoscaling: Option<bool>,
    autoscaler_options: Option<AutoscalerOptions>,
    suspend: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HeadGroup {
    template: Option<core::PodTemplateSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AutoscalerOptions {
    resources: Option<core::ResourceRequirements>,
    image: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WorkerGroup {
    group_name: String,
    replicas: Option<i32>,
    min_replicas: Option<i32>,
    max_replicas: Option<i32>,
    num_of_hosts: Option<i32>,
    suspend: Option<bool>,
    template: Option<core::PodTemplateSpec>,
}

/// Metadata of an object, and its place.
type Level<'a> = (&'a ObjectMeta, Subject<'a>);

/// A cluster that is to be, wherever its specification stands.
struct Cluster<'a> {
    namespace: &'a str,
    name: String,
    spec: Option<&'a RayClusterSpec>,
    /// Where `spec` stands.
    subject: Subject<'a>,
    /// Metadata of the cluster and of what made it.
    levels: Vec<Level<'a>>,
    /// Models that the workers load.
    models: Vec<ModelRef>,
}

impl<'a> Maker<'a> {
    pub(crate) fn ray(&mut self) {
        let mut made: BTreeSet<(&str, &str)> = BTreeSet::new();
        for placed in &self.objects.ray_services {
            let subject = self.findings.about(&placed.place);
            let service = &placed.object;
            let Some(spec) = &service.spec else {
                subject.at("spec").problem("is missing");
                continue;
            };
            let clusters = self.clusters_of("RayService", &placed.namespace, &placed.name);
            made.extend(
                clusters
                    .iter()
                    .map(|c| (c.namespace.as_str(), c.name.as_str())),
            );
            if spec.suspend == Some(true) {
                subject.note("is suspended: no pod of it is planned for");
                continue;
            }
            let models = self.serve_models(spec, &subject);
            let levels = vec![(&service.metadata, subject.at("metadata"))];
            let named = service.status.as_ref().and_then(|status| {
                let of = |status: &Option<ServiceStatus>| status.as_ref()?.ray_cluster_name.clone();
                of(&status.active_service_status)
                    .filter(|name| !name.is_empty())
                    .or_else(|| of(&status.pending_service_status))
            });
            let cluster = Cluster {
                namespace: &placed.namespace,
                name: name_or(named, &placed.name),
                spec: spec.ray_cluster_config.as_ref(),
                subject: subject.at("spec.rayClusterConfig"),
                levels,
                models,
            };
            self.cluster_of(cluster, &clusters);
        }
        for placed in &self.objects.ray_jobs {
            let subject = self.findings.about(&placed.place);
            let job = &placed.object;
            let Some(spec) = &job.spec else {
                subject.at("spec").problem("is missing");
                continue;
            };
            let clusters = self.clusters_of("RayJob", &placed.namespace, &placed.name);
            made.extend(
                clusters
                    .iter()
                    .map(|c| (c.namespace.as_str(), c.name.as_str())),
            );
            let status = job.status.as_ref();
            let over = status.and_then(|status| status.job_deployment_status.as_deref());
            if matches!(over, Some("Complete" | "Failed")) {
                continue;
            }
            if spec.suspend == Some(true) {
                subject.note("is suspended: no pod of it is planned for");
                continue;
            }
            if spec
                .cluster_selector
                .as_ref()
                .is_some_and(|selector| !selector.is_empty())
            {
                subject.note("runs on a cluster that exists: no pod of it is planned for");
                continue;
            }
            let levels = vec![(&job.metadata, subject.at("metadata"))];
            let named = status.and_then(|status| status.ray_cluster_name.clone());
            let cluster = Cluster {
                namespace: &placed.namespace,
                name: name_or(named, &placed.name),
                spec: spec.ray_cluster_spec.as_ref(),
                subject: subject.at("spec.rayClusterSpec"),
                levels,
                models: Vec::new(),
            };
            self.cluster_of(cluster, &clusters);
        }
        for placed in &self.objects.ray_clusters {
            if made.contains(&(placed.namespace.as_str(), placed.name.as_str())) {
                continue;
            }
            self.ray_cluster_object(placed, &[], &[]);
        }
    }

    /// Clusters in the files that a service or job made.
    fn clusters_of(&self, kind: &str, namespace: &str, name: &str) -> Vec<&'a Placed<RayCluster>> {
        let all = self.objects.ray_clusters.iter();
        all.filter(|cluster| {
            let labels = cluster.object.metadata.labels.as_ref();
            let label = |key: &str| labels.and_then(|all| all.get(key)).map(String::as_str);
            let labelled = label("ray.io/originated-from-crd") == Some(kind)
                && label("ray.io/originated-from-cr-name") == Some(name);
            let owner = controller(&cluster.object.metadata);
            cluster.namespace == namespace && (labelled || owner == Some((kind, name)))
        })
        .collect()
    }

    /// Models that a service's configuration names.
    fn serve_models(&self, spec: &RayServiceSpec, subject: &Subject<'_>) -> Vec<ModelRef> {
        let Some(config) = &spec.serve_config_v2 else {
            return Vec::new();
        };
        recognise::of_serve_config(config).unwrap_or_else(|error| {
            subject.at("spec.serveConfigV2").problem(error);
            Vec::new()
        })
    }

    /// The cluster of a service or job: those that exist, else the one that is to be made.
    fn cluster_of(&mut self, planned: Cluster<'a>, existing: &[&'a Placed<RayCluster>]) {
        if existing.is_empty() {
            return self.ray_cluster(&planned);
        }
        for cluster in existing {
            self.ray_cluster_object(cluster, &planned.levels, &planned.models);
        }
    }

    fn ray_cluster_object(
        &mut self,
        placed: &'a Placed<RayCluster>,
        above: &[Level<'a>],
        models: &[ModelRef],
    ) {
        let subject = self.findings.about(&placed.place);
        let mut levels = vec![(&placed.object.metadata, subject.at("metadata"))];
        levels.extend(above.iter().cloned());
        self.ray_cluster(&Cluster {
            namespace: &placed.namespace,
            name: placed.name.clone(),
            spec: placed.object.spec.as_ref(),
            subject: subject.at("spec"),
            levels,
            models: models.to_vec(),
        });
    }

    fn ray_cluster(&mut self, cluster: &Cluster<'a>) {
        let subject = &cluster.subject;
        let Some(spec) = cluster.spec else {
            return subject.problem("is missing; describe the cluster");
        };
        if spec.suspend == Some(true) {
            return subject.note("is suspended: no pod of it is planned for");
        }
        let group = ObjectKey::new(cluster.namespace, &cluster.name);
        let key = (
            cluster.namespace.to_owned(),
            "RayCluster",
            cluster.name.clone(),
        );
        let existing = self.live.pods(&key, None);
        let mut owned = Owned {
            annotations: cluster
                .levels
                .iter()
                .fold(Annotations::new(), |all, (metadata, at)| {
                    all.and(metadata.annotations.as_ref(), at)
                }),
            group: Some(group.clone()),
            models: BTreeMap::new(),
            parts: None,
        };
        let mut templates = self.templates(cluster, spec);
        self.give_models(cluster, &mut templates);
        for (role, mut template, counts) in templates {
            template.labels.insert(GROUP_ROLE.to_owned(), role.clone());
            let there = existing.iter().filter(|pod| {
                let labels = pod.metadata.labels.as_ref();
                labels.and_then(|all| all.get("ray.io/group")) == Some(&role)
            });
            let required = Required {
                minimum: u32::try_from(counts.minimum).unwrap_or(u32::MAX),
                set: u32::try_from(counts.hosts).unwrap_or(u32::MAX),
                same: None,
                sharing: Sharing::Group,
            };
            self.gangs.require(&group, &role, &required);
            owned.models.insert(role.clone(), template.models.clone());
            let membership = Membership {
                key: group.clone(),
                minimum: None,
                same: None,
            };
            let name = &cluster.name;
            let wanted = Wanted {
                replicas: counts.replicas,
                existing: there.count(),
                first: 0,
                name: &|number| match role.as_str() {
                    HEAD if number == 0 => format!("{name}-head"),
                    HEAD => format!("{name}-head-{number}"),
                    role => format!("{name}-{role}-worker-{number}"),
                },
            };
            self.make(&template, &wanted, &[], Some(membership));
        }
        self.owned.insert(key, owned);
    }

    /// Head and worker groups, by role, with how many pods each has.
    fn templates(&self, cluster: &Cluster<'a>, spec: &'a RayClusterSpec) -> Vec<Role<'a>> {
        let subject = &cluster.subject;
        let mut templates = Vec::new();
        let autoscales = spec.enable_in_tree_autoscaling == Some(true);
        let read = |pod: Option<&'a core::PodTemplateSpec>, role: &str, at: Subject<'a>| {
            let Some(pod) = pod else {
                at.problem("is missing; describe the pod");
                return None;
            };
            let owner = ("RayCluster", cluster.name.as_str());
            let mut template =
                self.template(cluster.namespace, pod, owner, &cluster.levels, &at)?;
            let kind = if role == HEAD { "head" } else { "worker" };
            let labels = [
                ("ray.io/cluster", cluster.name.as_str()),
                ("ray.io/group", role),
                ("ray.io/node-type", kind),
                ("ray.io/is-ray-node", "yes"),
            ];
            for (key, value) in labels {
                template.labels.insert(key.to_owned(), value.to_owned());
            }
            Some(template)
        };
        let head = spec
            .head_group_spec
            .as_ref()
            .and_then(|head| head.template.as_ref());
        let at = subject.at("headGroupSpec.template");
        if let Some(mut head) = read(head, HEAD, at) {
            if autoscales {
                add_autoscaler(&mut head, spec.autoscaler_options.as_ref());
            }
            let one = Counts {
                replicas: 1,
                minimum: 1,
                hosts: 1,
            };
            templates.push((HEAD.to_owned(), head, one));
        }
        for (index, group) in spec.worker_group_specs.iter().flatten().enumerate() {
            let at = subject.at("workerGroupSpecs").nth(index);
            let role = &group.group_name;
            if role.is_empty() || templates.iter().any(|(other, ..)| other == role) {
                at.at("groupName")
                    .problem("is missing or taken; give each group a name of its own");
                continue;
            }
            if group.suspend == Some(true) {
                at.note("is suspended: no pod of it is planned for");
                continue;
            }
            let counts = self.counts(group, autoscales, &at);
            let template = read(group.template.as_ref(), role, at.at("template"));
            templates.extend(template.map(|template| (role.clone(), template, counts)));
        }
        templates
    }

    /// How many pods a worker group has, clamped as KubeRay does, and how many of them must be there.
    fn counts(&self, group: &WorkerGroup, autoscales: bool, subject: &Subject<'_>) -> Counts {
        let least = self.count(group.min_replicas, 0, &subject.at("minReplicas"));
        let most = self.count(group.max_replicas, i32::MAX, &subject.at("maxReplicas"));
        let asked = self.count(group.replicas, 0, &subject.at("replicas"));
        let hosts = self.count(group.num_of_hosts, 1, &subject.at("numOfHosts"));
        let replicas = asked.max(least).min(most);
        if least > most {
            let at = subject.at("minReplicas");
            at.note(format!(
                "is {least}, more than maxReplicas; {most} replicas are planned for"
            ));
        }
        if replicas == 0 && autoscales {
            subject.at("replicas").note(
                "is 0: Ray's autoscaler will ask for workers once something needs them; set replicas to plan for them",
            );
        }
        let minimum = if autoscales {
            least.min(replicas)
        } else {
            replicas
        };
        Counts {
            replicas: replicas.saturating_mul(hosts),
            minimum: minimum.saturating_mul(hosts),
            hosts,
        }
    }

    /// Puts the models that a service or its annotations name onto the pods that load them: those with
    /// accelerators, else all workers, else the head.
    fn give_models(&self, cluster: &Cluster<'a>, templates: &mut [Role<'a>]) {
        let computes = |template: &Template<'_>| {
            let unheard = Findings::default();
            let subject = unheard.about(template.subject.place());
            let asked = requests::of_pod(&template.spec, &Resources::new(), &subject);
            requests::wants_accelerator(&asked)
        };
        let any_worker = templates.iter().any(|(role, ..)| role != HEAD);
        let any_computes = templates.iter().any(|(_, template, _)| computes(template));
        for (role, template, _) in templates {
            let loads = match (any_computes, any_worker) {
                (true, _) => computes(template),
                (false, true) => role != HEAD,
                (false, false) => true,
            };
            if loads {
                template.models.clone_from(&cluster.models);
            } else {
                template.annotations.without_accelerators_of_owner();
            }
        }
    }
}

/// Name, template and number of the pods of one role.
type Role<'a> = (String, Template<'a>, Counts);

/// How many pods.
#[derive(Clone, Copy, Debug)]
struct Counts {
    replicas: usize,
    minimum: usize,
    /// Pods of one replica, which serve only together.
    hosts: usize,
}

fn name_or(named: Option<String>, owner: &str) -> String {
    named
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| owner.to_owned())
}

/// The container that KubeRay adds to a head whose cluster scales itself.
fn add_autoscaler(head: &mut Template<'_>, options: Option<&AutoscalerOptions>) {
    let spec = head.spec.to_mut();
    let image = options.and_then(|options| options.image.clone());
    let image = image.or_else(|| spec.containers.first()?.image.clone());
    let amounts = || {
        let amounts = [("cpu", "500m"), ("memory", "512Mi")];
        let amounts = amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
        Some(BTreeMap::from(amounts))
    };
    let resources = options.and_then(|options| options.resources.clone());
    let resources = resources.unwrap_or_else(|| core::ResourceRequirements {
        requests: amounts(),
        limits: amounts(),
        ..Default::default()
    });
    spec.containers.push(core::Container {
        name: "autoscaler".to_owned(),
        image,
        resources: Some(resources),
        ..Default::default()
    });
}
