//! LeaderWorkerSets, whose groups of pods serve one model together, and JobSets.
//!
//! Source: `leaderworkerset.x-k8s.io/v1` and `jobset.x-k8s.io/v1alpha2`, their labels and annotations.

use headstart_core::pod::{GROUP_ROLE, ObjectKey};
use k8s_openapi::api::batch::v1::JobTemplateSpec;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use serde::Deserialize;

use super::alias;
use super::finding::Subject;
use super::gang::Membership;
use super::object::Placed;
use super::recognise;
use super::shape::Template;
use super::workload::{Maker, Wanted, key, own_annotations};

const NAME: &str = "leaderworkerset.sigs.k8s.io/name";
const GROUP_INDEX: &str = "leaderworkerset.sigs.k8s.io/group-index";
const GROUP_KEY: &str = "leaderworkerset.sigs.k8s.io/group-key";
const EXCLUSIVE: &str = "leaderworkerset.sigs.k8s.io/exclusive-topology";
const SUBGROUP_EXCLUSIVE: &str = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology";

/// Most pods of one group.
const MOST_SIZE: i32 = 10_000;

/// Replicas of a group of pods that serve together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LeaderWorkerSet {
    metadata: ObjectMeta,
    spec: Option<LeaderWorkerSetSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaderWorkerSetSpec {
    replicas: Option<i32>,
    leader_worker_template: Option<LeaderWorkerTemplate>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeaderWorkerTemplate {
    leader_template: Option<core::PodTemplateSpec>,
    worker_template: Option<core::PodTemplateSpec>,
    size: Option<i32>,
    sub_group_policy: Option<SubGroupPolicy>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SubGroupPolicy {
    sub_group_size: Option<i32>,
}

/// Jobs that belong together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct JobSet {
    metadata: ObjectMeta,
    spec: Option<JobSetSpec>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobSetSpec {
    replicated_jobs: Option<Vec<ReplicatedJob>>,
    suspend: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReplicatedJob {
    name: String,
    replicas: Option<i32>,
    template: Option<JobTemplateSpec>,
}

impl<'a> Maker<'a> {
    pub(crate) fn leader_worker_sets(&mut self) {
        for placed in &self.objects.leader_worker_sets {
            let subject = self.findings.about(&placed.place);
            let template = placed.object.spec.as_ref();
            let template = template.and_then(|spec| spec.leader_worker_template.as_ref());
            let Some(template) = template else {
                subject
                    .at("spec.leaderWorkerTemplate")
                    .problem("is missing; describe the pods of a group");
                continue;
            };
            self.leader_worker_set(placed, template, &subject);
        }
    }

    fn leader_worker_set(
        &mut self,
        placed: &'a Placed<LeaderWorkerSet>,
        template: &'a LeaderWorkerTemplate,
        subject: &Subject<'a>,
    ) {
        let set = &placed.object;
        let at = subject.at("spec.leaderWorkerTemplate");
        let size = template.size.unwrap_or(1);
        if !(1..=MOST_SIZE).contains(&size) {
            let at = at.at("size");
            return at.problem(format!("is {size}; write a number from 1 to {MOST_SIZE}"));
        }
        let workers = usize::try_from(size - 1).unwrap_or(0);
        let annotations = own_annotations(&set.metadata, subject);
        let existing = self.own(key(placed, "LeaderWorkerSet"), annotations, None);
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        let replicas = self.count(replicas, 1, &subject.at("spec.replicas"));
        let levels = [(&set.metadata, subject.at("metadata"))];
        let Some(worker) = &template.worker_template else {
            return at
                .at("workerTemplate")
                .problem("is missing; describe the worker's pod");
        };
        let read = |pod, field: &str| {
            let owner = ("LeaderWorkerSet", placed.name.as_str());
            self.template(&placed.namespace, pod, owner, &levels, &at.at(field))
        };
        let leader = match &template.leader_template {
            Some(leader) => read(leader, "leaderTemplate"),
            None => read(worker, "workerTemplate"),
        };
        let (Some(leader), Some(mut worker)) = (leader, read(worker, "workerTemplate")) else {
            return;
        };
        // A worker is told by its leader what to load, and needs the same bytes at the same time.
        let named = |template: &Template<'_>| {
            let containers = template.spec.containers.iter();
            containers
                .flat_map(recognise::of_container)
                .collect::<Vec<_>>()
        };
        if named(&worker).is_empty() {
            worker.models = named(&leader);
        }
        let same = self.topology(set, template, size, subject);
        for group in 0..replicas {
            let label = |pod: &core::Pod| pod.metadata.labels.as_ref()?.get(GROUP_INDEX).cloned();
            let number = group.to_string();
            let there = existing
                .iter()
                .filter(|pod| label(pod) == Some(number.clone()));
            let is_leader = |pod: &&&core::Pod| {
                let labels = pod.metadata.labels.as_ref();
                let index =
                    labels.and_then(|all| all.get("leaderworkerset.sigs.k8s.io/worker-index"));
                index.is_some_and(|index| index == "0")
            };
            let leaders = there.clone().filter(is_leader).count();
            let others = there.count() - leaders;
            let name = format!("{}-{group}", placed.name);
            let membership = Membership {
                key: ObjectKey::new(&placed.namespace, &name),
                minimum: None,
                same: same.clone(),
            };
            let roles = [
                ("leader", &leader, 1, leaders, 0),
                ("worker", &worker, workers, others, 1),
            ];
            for (role, template, count, existing, first) in roles {
                if count == 0 {
                    continue;
                }
                let minimum = u32::try_from(count).unwrap_or(u32::MAX);
                self.gangs
                    .require(&membership.key, role, minimum, same.as_deref());
                let mut template = template.clone();
                let labels = [
                    (NAME, placed.name.as_str()),
                    (GROUP_INDEX, number.as_str()),
                    (GROUP_ROLE, role),
                ];
                for (key, value) in labels {
                    template.labels.insert(key.to_owned(), value.to_owned());
                }
                if let Some(same) = &same {
                    keep_apart(&mut template, &name, same);
                }
                let wanted = Wanted {
                    replicas: count,
                    existing,
                    first,
                    name: &|number| match number {
                        0 => name.clone(),
                        number => format!("{name}-{number}"),
                    },
                };
                self.make(&template, &wanted, &[], Some(membership.clone()));
            }
        }
    }

    /// The label whose domain a group has for itself, by annotation.
    fn topology(
        &self,
        set: &LeaderWorkerSet,
        template: &LeaderWorkerTemplate,
        size: i32,
        subject: &Subject<'_>,
    ) -> Option<String> {
        let annotation = |name: &str| {
            let value = set.metadata.annotations.as_ref()?.get(name)?;
            Some(alias::key(value.trim()).to_owned()).filter(|key| !key.is_empty())
        };
        if let Some(same) = annotation(EXCLUSIVE) {
            return Some(same);
        }
        let same = annotation(SUBGROUP_EXCLUSIVE)?;
        let subgroup = template
            .sub_group_policy
            .as_ref()
            .and_then(|policy| policy.sub_group_size);
        if subgroup.is_none_or(|subgroup| subgroup >= size) {
            return Some(same);
        }
        subject.at("metadata.annotations").at(SUBGROUP_EXCLUSIVE).note(
            "holds for each subgroup; it is planned for the whole group, which may need a larger domain",
        );
        None
    }

    pub(crate) fn job_sets(&mut self) {
        for placed in &self.objects.job_sets {
            let subject = self.findings.about(&placed.place);
            let set = &placed.object;
            let Some(spec) = &set.spec else {
                subject.at("spec").problem("is missing");
                continue;
            };
            let annotations = own_annotations(&set.metadata, &subject);
            let existing = self.own(key(placed, "JobSet"), annotations, None);
            if spec.suspend == Some(true) {
                subject.note("is suspended: no pod of it is planned for");
                continue;
            }
            for (index, job) in spec.replicated_jobs.iter().flatten().enumerate() {
                let at = subject.at("spec.replicatedJobs").nth(index);
                self.replicated_job(placed, job, &existing, &at);
            }
        }
    }

    fn replicated_job(
        &mut self,
        placed: &'a Placed<JobSet>,
        job: &'a ReplicatedJob,
        existing: &[&core::Pod],
        subject: &Subject<'a>,
    ) {
        let inner = job
            .template
            .as_ref()
            .and_then(|template| template.spec.as_ref());
        let Some(inner) = inner else {
            return subject
                .at("template.spec")
                .problem("is missing; describe the Job");
        };
        let set = &placed.object;
        let about_set = self.findings.about(&placed.place).at("metadata");
        let levels = [(&set.metadata, about_set)];
        let at = subject.at("template.spec.template");
        let owner = ("JobSet", placed.name.as_str());
        let template = self.template(&placed.namespace, &inner.template, owner, &levels, &at);
        let Some(mut template) = template else {
            return;
        };
        let name = "jobset.sigs.k8s.io/jobset-name";
        let replicated = "jobset.sigs.k8s.io/replicatedjob-name";
        template.labels.insert(name.to_owned(), placed.name.clone());
        template
            .labels
            .insert(replicated.to_owned(), job.name.clone());
        let there = existing.iter().filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            labels.and_then(|all| all.get(replicated)) == Some(&job.name)
        });
        let jobs = self.count(job.replicas, 1, &subject.at("replicas"));
        let Some(each) = self.at_once(inner, None, &subject.at("template")) else {
            return;
        };
        let wanted = Wanted {
            replicas: jobs.saturating_mul(each),
            existing: there.count(),
            first: 0,
            name: &|number| {
                let (of, within) = (number / each.max(1), number % each.max(1));
                format!("{}-{}-{of}-{within}", placed.name, job.name)
            },
        };
        self.make(&template, &wanted, &[], None);
    }
}

/// A group shares one domain and no other group is there, as the controller's webhook asks for it.
fn keep_apart(template: &mut Template<'_>, group: &str, topology_key: &str) {
    template
        .labels
        .insert(GROUP_KEY.to_owned(), group.to_owned());
    let requirement = |operator: &str, values: Option<Vec<String>>| LabelSelectorRequirement {
        key: GROUP_KEY.to_owned(),
        operator: operator.to_owned(),
        values,
    };
    let others = LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![
            requirement("Exists", None),
            requirement("NotIn", Some(vec![group.to_owned()])),
        ]),
    };
    let term = core::PodAffinityTerm {
        label_selector: Some(others),
        topology_key: topology_key.to_owned(),
        ..Default::default()
    };
    let spec = template.spec.to_mut();
    let affinity = spec.affinity.get_or_insert_default();
    let apart = affinity.pod_anti_affinity.get_or_insert_default();
    let required = &mut apart.required_during_scheduling_ignored_during_execution;
    required.get_or_insert_default().push(term);
}
