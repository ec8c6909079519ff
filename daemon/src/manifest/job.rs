//! Jobs: as many pods as run at once, all together where an annotation says so.

use headstart_core::pod::ObjectKey;
use k8s_openapi::api::batch::v1 as batch;

use super::finding::{Subject, quoted};
use super::gang::Membership;
use super::object::{controller, names};
use super::workload::{Maker, Wanted, key, own_annotations};

/// KAI's annotation for how many pods of a Job run together.
const KAI_MINIMUM: &str = "kai.scheduler/batch-min-member";

impl Maker<'_> {
    pub(crate) fn jobs(&mut self) {
        let sets = names(&self.objects.job_sets);
        for placed in &self.objects.jobs {
            let owner = controller(&placed.object.metadata);
            let made = |(kind, name): (&str, &str)| {
                kind == "JobSet" && sets.contains(&(placed.namespace.as_str(), name))
            };
            if owner.is_some_and(made) {
                continue;
            }
            let subject = self.findings.about(&placed.place);
            let metadata = &placed.object.metadata;
            let Some(spec) = &placed.object.spec else {
                subject.at("spec").problem("is missing");
                continue;
            };
            let existing = self.own(
                key(placed, "Job"),
                own_annotations(metadata, &subject),
                None,
            );
            let levels = [(metadata, subject.at("metadata"))];
            let owner = ("Job", placed.name.as_str());
            let at = subject.at("spec.template");
            let template = self.template(&placed.namespace, &spec.template, owner, &levels, &at);
            let Some(mut template) = template else {
                continue;
            };
            for label in ["job-name", "batch.kubernetes.io/job-name"] {
                template
                    .labels
                    .insert(label.to_owned(), placed.name.clone());
            }
            let status = placed.object.status.as_ref();
            let Some(replicas) = self.at_once(spec, status, &subject) else {
                continue;
            };
            let annotation = |name| metadata.annotations.as_ref()?.get(name);
            let kai = annotation(KAI_MINIMUM).and_then(|text| {
                let minimum = text
                    .trim()
                    .parse()
                    .ok()
                    .filter(|minimum: &u32| *minimum > 0);
                if minimum.is_none() {
                    let at = subject.at("metadata.annotations").at(KAI_MINIMUM);
                    at.problem(format!("is {}; write 1 or more", quoted(text)));
                }
                Some(Membership {
                    key: ObjectKey::new(&placed.namespace, &placed.name),
                    minimum: Some(minimum?),
                    same: None,
                })
            });
            let wanted = Wanted {
                replicas,
                existing: existing.len(),
                first: 0,
                name: &|number| format!("{}-{number}", placed.name),
            };
            self.make(&template, &wanted, &[], kai);
        }
    }

    /// How many pods of a Job run at once; `None` where none will.
    pub(crate) fn at_once(
        &self,
        spec: &batch::JobSpec,
        status: Option<&batch::JobStatus>,
        subject: &Subject<'_>,
    ) -> Option<usize> {
        if spec.suspend == Some(true) {
            subject.note("is suspended: no pod of it is planned for");
            return None;
        }
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let over = conditions.into_iter().flatten().any(|condition| {
            condition.status == "True" && matches!(condition.type_.as_str(), "Complete" | "Failed")
        });
        if over {
            return None;
        }
        let parallelism = self.count(spec.parallelism, 1, &subject.at("spec.parallelism"));
        let Some(completions) = spec.completions else {
            return Some(parallelism);
        };
        let completions = self.count(Some(completions), 1, &subject.at("spec.completions"));
        let done = status.and_then(|status| status.succeeded).unwrap_or(0);
        let done = usize::try_from(done).unwrap_or(0);
        Some(parallelism.min(completions.saturating_sub(done)))
    }
}
