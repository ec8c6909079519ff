//! From workloads to the pods that their controllers would make, under names that stay the same.
//!
//! Pods that exist are not made again: a workload plans what it lacks. A workload that another one in
//! the files made is left to that one.

use std::borrow::Cow;
use std::collections::BTreeMap;

use headstart_core::label::Term;
use headstart_core::model::ModelRef;
use headstart_core::money::Millis;
use headstart_core::pod::{ObjectKey, Owner, Phase, Pod, Shape};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::annotation::Annotations;
use super::cluster::Cluster;
use super::finding::{Findings, Subject};
use super::gang::{self, Gangs, Membership};
use super::live::{Live, WorkloadKey};
use super::object::{Objects, Placed, controller, names};
use super::select;
use super::shape::{self, Template};

/// Most pods that all files together may ask for.
pub(crate) const MOST_PODS: usize = 200_000;

/// What a workload says about pods that exist already.
#[derive(Clone)]
pub(crate) struct Owned<'a> {
    pub(crate) annotations: Annotations<'a>,
    pub(crate) group: Option<ObjectKey>,
    /// Models by role.
    pub(crate) models: BTreeMap<String, Vec<ModelRef>>,
    /// Label of its pods whose value says which part of their group they are of.
    pub(crate) parts: Option<&'static str>,
}

/// Everything that pods are made of, and the pods made so far.
pub(crate) struct Maker<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) cluster: &'a Cluster<'a>,
    pub(crate) findings: &'a Findings,
    pub(crate) live: &'a Live<'a>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) daemons: Vec<Shape>,
    pub(crate) gangs: Gangs,
    pub(crate) owned: BTreeMap<WorkloadKey, Owned<'a>>,
}

/// A workload that is one template and a number.
struct Controlled<'a> {
    key: WorkloadKey,
    /// Namespace and name.
    placed: (&'a str, &'a str),
    subject: Subject<'a>,
    metadata: &'a ObjectMeta,
    selector: &'a LabelSelector,
    template: Option<&'a core::PodTemplateSpec>,
    replicas: Option<i32>,
    first: Option<i32>,
    claims: &'a [core::PersistentVolumeClaim],
}

/// How many pods, and what they are called.
pub(crate) struct Wanted<'n> {
    /// How many there are to be.
    pub(crate) replicas: usize,
    /// How many of them are there.
    pub(crate) existing: usize,
    /// First number that a name may have.
    pub(crate) first: usize,
    /// The name of one.
    pub(crate) name: &'n dyn Fn(usize) -> String,
}

impl<'a> Maker<'a> {
    /// Makes the pods of all workloads.
    pub(crate) fn workloads(&mut self) {
        self.deployments();
        self.replica_sets();
        self.stateful_sets();
        self.jobs();
        self.daemon_sets();
        self.ray();
        self.leader_worker_sets();
        self.job_sets();
        for cron_job in &self.objects.cron_jobs {
            let subject = self.findings.about(&cron_job.place);
            subject.note("is left out: nobody knows here when it runs; plan for its Job");
        }
    }

    /// A template of a workload. `levels` are the annotations that count after the template's own.
    pub(crate) fn template(
        &self,
        namespace: &'a str,
        pod: &'a core::PodTemplateSpec,
        owner: (&str, &str),
        levels: &[(&'a ObjectMeta, Subject<'a>)],
        subject: &Subject<'a>,
    ) -> Option<Template<'a>> {
        let Some(spec) = &pod.spec else {
            subject.at("spec").problem("is missing; describe the pod");
            return None;
        };
        let metadata = pod.metadata.as_ref();
        let own = metadata.and_then(|metadata| metadata.annotations.as_ref());
        let mut annotations = Annotations::of_pod(own, &subject.at("metadata"));
        for (metadata, subject) in levels {
            annotations = annotations.and(metadata.annotations.as_ref(), subject);
        }
        Some(Template {
            namespace,
            labels: metadata
                .and_then(|metadata| metadata.labels.clone())
                .unwrap_or_default(),
            annotations,
            spec: Cow::Borrowed(spec),
            owner: Some(Owner {
                kind: owner.0.to_owned(),
                name: owner.1.to_owned(),
            }),
            models: Vec::new(),
            subject: subject.at("spec"),
        })
    }

    /// Makes the pods of one template that are not there yet.
    pub(crate) fn make(
        &mut self,
        template: &Template<'a>,
        wanted: &Wanted<'_>,
        claims: &[core::PersistentVolumeClaim],
        group: Option<Membership>,
    ) {
        let mut shape = shape::of(template, self.cluster);
        let subject = &template.subject;
        if template.annotations.ignored() {
            return subject.note("is left out: an annotation says so");
        }
        let missing = wanted.replicas.saturating_sub(wanted.existing);
        if self.pods.len().saturating_add(missing) > MOST_PODS {
            return subject.problem(format!(
                "asks for {missing} pods, more than {MOST_PODS} in all; lower the number of replicas"
            ));
        }
        let group = group.or_else(|| gang::membership(&template.annotations, template.namespace));
        if let Some(group) = &group {
            let members = u32::try_from(missing).unwrap_or(u32::MAX);
            self.gangs.join(group, &mut shape, members, subject);
        }
        let has_claims = !claims.is_empty()
            || template.spec.volumes.iter().flatten().any(|volume| {
                volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
            });
        let numbers = wanted.first..;
        let named = numbers.map(wanted.name);
        let mut free = named.filter(|name| !self.live.has(template.namespace, name));
        for _ in 0..missing {
            let Some(name) = free.next() else {
                return;
            };
            let mut shape = shape.clone();
            if has_claims {
                shape.volumes = shape::volumes(template, &name, claims, self.cluster);
            }
            self.pods.push(Pod {
                key: ObjectKey::new(template.namespace, name),
                created: Millis(0),
                phase: Phase::Pending,
                shape: shape.into(),
            });
        }
    }

    /// A number of replicas that is not below zero.
    pub(crate) fn count(&self, found: Option<i32>, default: i32, subject: &Subject<'_>) -> usize {
        let found = found.unwrap_or(default);
        usize::try_from(found).unwrap_or_else(|_| {
            subject.problem(format!("is {found}; write 0 or more"));
            0
        })
    }

    /// Remembers what a workload says about its pods, and counts those that exist.
    pub(crate) fn own(
        &mut self,
        key: WorkloadKey,
        annotations: Annotations<'a>,
        selector: Option<&Term>,
    ) -> Vec<&'a core::Pod> {
        let pods = self.live.pods(&key, selector);
        let owned = Owned {
            annotations,
            group: None,
            models: BTreeMap::new(),
            parts: None,
        };
        self.owned.insert(key, owned);
        pods
    }

    fn deployments(&mut self) {
        for placed in &self.objects.deployments {
            let spec = &placed.object.spec;
            self.controlled(&Controlled {
                key: key(placed, "Deployment"),
                placed: (&placed.namespace, &placed.name),
                subject: self.findings.about(&placed.place),
                metadata: &placed.object.metadata,
                selector: &spec.selector,
                template: Some(&spec.template),
                replicas: spec.replicas,
                first: None,
                claims: &[],
            });
        }
    }

    fn replica_sets(&mut self) {
        let deployments = names(&self.objects.deployments);
        for placed in &self.objects.replica_sets {
            let made = |(kind, name): (&str, &str)| {
                kind == "Deployment" && deployments.contains(&(placed.namespace.as_str(), name))
            };
            if controller(&placed.object.metadata).is_some_and(made) {
                continue;
            }
            let spec = &placed.object.spec;
            self.controlled(&Controlled {
                key: key(placed, "ReplicaSet"),
                placed: (&placed.namespace, &placed.name),
                subject: self.findings.about(&placed.place),
                metadata: &placed.object.metadata,
                selector: &spec.selector,
                template: spec.template.as_ref(),
                replicas: spec.replicas,
                first: None,
                claims: &[],
            });
        }
    }

    fn stateful_sets(&mut self) {
        let sets = names(&self.objects.leader_worker_sets);
        for placed in &self.objects.stateful_sets {
            let has = |name: &str| sets.contains(&(placed.namespace.as_str(), name));
            let label = placed.object.metadata.labels.as_ref();
            let label = label.and_then(|all| all.get("leaderworkerset.sigs.k8s.io/name"));
            let made = |(kind, name): (&str, &str)| kind == "LeaderWorkerSet" && has(name);
            let owner = controller(&placed.object.metadata);
            if label.is_some_and(|name| has(name)) || owner.is_some_and(made) {
                continue;
            }
            let spec = &placed.object.spec;
            self.controlled(&Controlled {
                key: key(placed, "StatefulSet"),
                placed: (&placed.namespace, &placed.name),
                subject: self.findings.about(&placed.place),
                metadata: &placed.object.metadata,
                selector: &spec.selector,
                template: Some(&spec.template),
                replicas: spec.replicas,
                first: spec.ordinals.as_ref().and_then(|ordinals| ordinals.start),
                claims: spec.volume_claim_templates.as_deref().unwrap_or_default(),
            });
        }
    }

    /// Makes the pods of a workload that is one template and a number.
    fn controlled(&mut self, workload: &Controlled<'a>) {
        let subject = &workload.subject;
        let (namespace, name) = workload.placed;
        let at = subject.at("spec.template");
        let Some(pod) = workload.template else {
            return at.problem("is missing; describe the pod");
        };
        let owner = (workload.key.1, name);
        let levels = [(workload.metadata, subject.at("metadata"))];
        let Some(mut template) = self.template(namespace, pod, owner, &levels, &at) else {
            return;
        };
        let at = subject.at("spec.selector");
        let selector = select::label_selector(workload.selector, &at);
        if selector.0.is_empty() {
            at.problem("is missing or empty; select the labels of spec.template.metadata.labels");
        } else if !selector.matches(&template.labels) {
            at.problem("does not match spec.template.metadata.labels; make the two agree");
        }
        let annotations = own_annotations(workload.metadata, subject);
        let existing = self.own(workload.key.clone(), annotations, Some(&selector));
        if workload.key.1 == "Deployment" {
            // Replicas of one revision share a label that spread constraints may look at.
            let hash = "pod-template-hash";
            let known = existing
                .iter()
                .filter_map(|pod| pod.metadata.labels.as_ref()?.get(hash));
            let revision = known.max().map_or("planned", String::as_str).to_owned();
            template.labels.entry(hash.to_owned()).or_insert(revision);
        }
        let wanted = Wanted {
            replicas: self.count(workload.replicas, 1, &subject.at("spec.replicas")),
            existing: existing.len(),
            first: self.count(workload.first, 0, &subject.at("spec.ordinals.start")),
            name: &|number| format!("{name}-{number}"),
        };
        self.make(&template, &wanted, workload.claims, None);
    }

    /// What every node runs.
    pub(crate) fn daemon_sets(&mut self) {
        for placed in &self.objects.daemon_sets {
            let subject = self.findings.about(&placed.place);
            let spec = &placed.object.spec;
            let levels = [(&placed.object.metadata, subject.at("metadata"))];
            let at = subject.at("spec.template");
            let owner = ("DaemonSet", placed.name.as_str());
            let template = self.template(&placed.namespace, &spec.template, owner, &levels, &at);
            let Some(template) = template else {
                continue;
            };
            let mut daemon = shape::of(&template, self.cluster);
            daemon
                .tolerations
                .extend(shape::daemon_tolerations(&template.spec));
            self.daemons.push(daemon);
        }
    }
}

/// The key of a workload.
pub(crate) fn key<T>(placed: &Placed<T>, kind: &'static str) -> WorkloadKey {
    (placed.namespace.clone(), kind, placed.name.clone())
}

/// Annotations of a workload itself, for its pods that exist.
pub(crate) fn own_annotations<'a>(
    metadata: &'a ObjectMeta,
    subject: &Subject<'a>,
) -> Annotations<'a> {
    Annotations::new().and(metadata.annotations.as_ref(), &subject.at("metadata"))
}
