//! JobSets: Jobs that belong together.
//!
//! Source: `jobset.x-k8s.io/v1alpha2`, its labels.

use k8s_openapi::api::batch::v1::JobTemplateSpec;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::finding::Subject;
use super::object::Placed;
use super::workload::{Maker, Wanted, key, own_annotations};

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
