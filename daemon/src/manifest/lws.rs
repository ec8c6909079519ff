//! LeaderWorkerSets, whose groups of pods serve one model together.
//!
//! A group, or each of its subgroups, may have a topology domain for itself.
//! Source: `leaderworkerset.x-k8s.io/v1`, its labels and annotations, and how its webhook numbers subgroups.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::pod::{GROUP_ROLE, ObjectKey, Sharing};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use serde::Deserialize;

use super::alias;
use super::finding::Subject;
use super::gang::{Membership, Required};
use super::object::Placed;
use super::recognise;
use super::shape::Template;
use super::workload::{MOST_PODS, Maker, Wanted, key, own_annotations};

const NAME: &str = "leaderworkerset.sigs.k8s.io/name";
const GROUP_INDEX: &str = "leaderworkerset.sigs.k8s.io/group-index";
const GROUP_KEY: &str = "leaderworkerset.sigs.k8s.io/group-key";
const EXCLUSIVE: &str = "leaderworkerset.sigs.k8s.io/exclusive-topology";
const SUBGROUP_INDEX: &str = "leaderworkerset.sigs.k8s.io/subgroup-index";
const SUBGROUP_KEY: &str = "leaderworkerset.sigs.k8s.io/subgroup-key";
const SUBGROUP_EXCLUSIVE: &str = "leaderworkerset.sigs.k8s.io/subgroup-exclusive-topology";

/// Role of a group's leader.
pub(crate) const LEADER: &str = "leader";
/// Role of its workers.
pub(crate) const WORKER: &str = "worker";

/// Role of the members of one subgroup, where each goes to a domain of its own.
pub(crate) fn role_of(subgroup: &str) -> String {
    format!("subgroup-{subgroup}")
}

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
    sub_group_policy_type: Option<String>,
}

/// The domains that pods of a set share.
#[derive(Clone, Debug, Default)]
struct Domains {
    /// Label of the domain that a group has for itself.
    group: Option<String>,
    /// The same of each subgroup.
    subgroup: Option<(String, Subgroups)>,
}

/// How a group is divided.
#[derive(Clone, Copy, Debug)]
struct Subgroups {
    size: usize,
    leader: LeaderIs,
}

/// Where the leader of a group with subgroups is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaderIs {
    /// The first member of the first subgroup.
    First,
    /// One more member of the first subgroup.
    More,
    /// In none.
    InNone,
}

impl Subgroups {
    /// The subgroup of a member by its number; the leader has number 0.
    fn of(self, number: usize) -> Option<usize> {
        match (self.leader, number) {
            (LeaderIs::InNone, 0) => None,
            (LeaderIs::First, number) => Some(number / self.size),
            (_, number) => Some(number.saturating_sub(1) / self.size),
        }
    }
}

/// Members of one group that are made alike.
struct Part {
    role: String,
    subgroup: Option<usize>,
    leads: Leads,
    first: usize,
    count: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    Yes,
    No,
}

/// The members of a group, those alike together.
fn parts(size: usize, domains: &Domains) -> Vec<Part> {
    let divided = domains.subgroup.as_ref();
    let mut parts: Vec<Part> = Vec::new();
    for number in 0..size {
        let leads = if number == 0 { Leads::Yes } else { Leads::No };
        let subgroup = divided.and_then(|(_, subgroups)| subgroups.of(number));
        if let Some(last) = parts.last_mut()
            && last.leads == leads
            && last.subgroup == subgroup
        {
            last.count += 1;
            continue;
        }
        // Where the whole group shares a domain, subgroups are kept together by affinity alone.
        let role = match subgroup {
            Some(subgroup) if domains.group.is_none() => role_of(&subgroup.to_string()),
            _ if leads == Leads::Yes => LEADER.to_owned(),
            _ => WORKER.to_owned(),
        };
        parts.push(Part {
            role,
            subgroup,
            leads,
            first: number,
            count: 1,
        });
    }
    parts
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
        let each = usize::try_from(size).unwrap_or(1);
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
        let domains = self.topology(set, template, each, subject);
        if domains.group.is_none()
            && domains.subgroup.is_some()
            && let Some(owned) = self.owned.get_mut(&key(placed, "LeaderWorkerSet"))
        {
            owned.parts = Some(SUBGROUP_INDEX);
        }
        let same = match &domains {
            Domains {
                group: Some(key), ..
            } => Some((key, Sharing::Group)),
            Domains {
                subgroup: Some((key, _)),
                ..
            } => Some((key, Sharing::Role)),
            _ => None,
        };
        let parts = parts(each, &domains);
        if replicas.saturating_mul(each) > MOST_PODS {
            let at = subject.at("spec.replicas");
            return at.problem(format!(
                "is {replicas}, each of {each} pods: more than {MOST_PODS} in all; lower it"
            ));
        }
        let live = presence(&existing);
        let nobody = Presence::default();
        for group in 0..replicas {
            let number = group.to_string();
            let there = live.get(number.as_str()).unwrap_or(&nobody);
            let name = format!("{}-{group}", placed.name);
            let membership = Membership {
                key: ObjectKey::new(&placed.namespace, &name),
                minimum: None,
                same: same.map(|(key, _)| key.clone()),
            };
            for part in &parts {
                let alike = parts.iter().filter(|other| other.role == part.role);
                let minimum: usize = alike.map(|other| other.count).sum();
                let required = Required {
                    minimum: u32::try_from(minimum).unwrap_or(u32::MAX),
                    set: 1,
                    same: same.map(|(key, _)| key.as_str()),
                    sharing: same.map_or(Sharing::Group, |(_, sharing)| sharing),
                };
                self.gangs.require(&membership.key, &part.role, &required);
                let mut template = match part.leads {
                    Leads::Yes => leader.clone(),
                    Leads::No => worker.clone(),
                };
                let labels = [
                    (NAME, placed.name.as_str()),
                    (GROUP_INDEX, number.as_str()),
                    (GROUP_ROLE, part.role.as_str()),
                ];
                for (key, value) in labels {
                    template.labels.insert(key.to_owned(), value.to_owned());
                }
                if let Some(same) = &domains.group {
                    keep_apart(&mut template, GROUP_KEY, there.key.unwrap_or(&name), same);
                }
                if let (Some((same, _)), Some(subgroup)) = (&domains.subgroup, part.subgroup) {
                    let index = subgroup.to_string();
                    let planned = format!("{name}-{subgroup}");
                    let known = there.subgroup_keys.get(index.as_str()).copied();
                    let value = known.unwrap_or(&planned);
                    template.labels.insert(SUBGROUP_INDEX.to_owned(), index);
                    keep_apart(&mut template, SUBGROUP_KEY, value, same);
                    if domains.group.is_some() {
                        keep_together(&mut template, SUBGROUP_KEY, value, same);
                    }
                }
                let members = part.first..part.first + part.count;
                let wanted = Wanted {
                    replicas: part.count,
                    existing: there.numbers.range(members).count(),
                    first: part.first,
                    name: &|number| match number {
                        0 => name.clone(),
                        number => format!("{name}-{number}"),
                    },
                };
                self.make(&template, &wanted, &[], Some(membership.clone()));
            }
        }
    }

    /// The domains that a group and its subgroups have for themselves, by annotation.
    fn topology(
        &self,
        set: &LeaderWorkerSet,
        template: &LeaderWorkerTemplate,
        size: usize,
        subject: &Subject<'_>,
    ) -> Domains {
        let annotation = |name: &str| {
            let value = set.metadata.annotations.as_ref()?.get(name)?;
            Some(alias::key(value.trim()).to_owned()).filter(|key| !key.is_empty())
        };
        let group = annotation(EXCLUSIVE);
        let mut domains = Domains {
            group,
            subgroup: None,
        };
        let (Some(same), Some(policy)) =
            (annotation(SUBGROUP_EXCLUSIVE), &template.sub_group_policy)
        else {
            return domains;
        };
        let at = subject.at("spec.leaderWorkerTemplate.subGroupPolicy");
        let Some(asked) = policy.sub_group_size else {
            at.at("subGroupSize")
                .problem("is missing; say how many pods a subgroup has");
            return domains;
        };
        let excluded = policy.sub_group_policy_type.as_deref() == Some("LeaderExcluded");
        let leader = match usize::try_from(asked) {
            Ok(asked) if asked > 0 && excluded && (size - 1).is_multiple_of(asked) => {
                LeaderIs::InNone
            }
            Ok(asked) if asked > 0 && !excluded && size.is_multiple_of(asked) => LeaderIs::First,
            Ok(asked) if asked > 0 && !excluded && (size - 1).is_multiple_of(asked) => {
                LeaderIs::More
            }
            _ => {
                at.at("subGroupSize").problem(format!(
                    "is {asked}, which divides neither the {size} pods of a group nor its workers; write a number that does"
                ));
                return domains;
            }
        };
        let size = usize::try_from(asked).unwrap_or(1);
        domains.subgroup = Some((same, Subgroups { size, leader }));
        domains
    }
}

/// Which pods of one group are there.
#[derive(Clone, Debug, Default)]
struct Presence<'a> {
    /// Their numbers; the leader has number 0.
    numbers: BTreeSet<usize>,
    /// The key by which the controller keeps groups apart.
    key: Option<&'a str>,
    /// The same of each subgroup.
    subgroup_keys: BTreeMap<&'a str, &'a str>,
}

/// Which pods are there, by the number of their group.
fn presence<'a>(pods: &[&'a core::Pod]) -> BTreeMap<&'a str, Presence<'a>> {
    let mut groups: BTreeMap<&str, Presence<'_>> = BTreeMap::new();
    for pod in pods {
        let labels = pod.metadata.labels.as_ref();
        let label = |key: &str| labels.and_then(|all| all.get(key)).map(String::as_str);
        let Some(number) = label(GROUP_INDEX) else {
            continue;
        };
        let group = groups.entry(number).or_default();
        let index = label("leaderworkerset.sigs.k8s.io/worker-index");
        group
            .numbers
            .extend(index.and_then(|index| index.parse::<usize>().ok()));
        group.key = group.key.or(label(GROUP_KEY));
        if let (Some(index), Some(key)) = (label(SUBGROUP_INDEX), label(SUBGROUP_KEY)) {
            group.subgroup_keys.insert(index, key);
        }
    }
    groups
}

fn requirement(key: &str, operator: &str, values: Option<Vec<String>>) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    }
}

fn affinity_term(
    expressions: Vec<LabelSelectorRequirement>,
    topology_key: &str,
) -> core::PodAffinityTerm {
    core::PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: None,
            match_expressions: Some(expressions),
        }),
        topology_key: topology_key.to_owned(),
        ..Default::default()
    }
}

/// What has this value of `key` shares one domain and nothing with another is there, as the
/// controller's webhook asks for it.
fn keep_apart(template: &mut Template<'_>, key: &str, value: &str, topology_key: &str) {
    template.labels.insert(key.to_owned(), value.to_owned());
    let others = vec![
        requirement(key, "Exists", None),
        requirement(key, "NotIn", Some(vec![value.to_owned()])),
    ];
    let term = affinity_term(others, topology_key);
    let spec = template.spec.to_mut();
    let affinity = spec.affinity.get_or_insert_default();
    let apart = affinity.pod_anti_affinity.get_or_insert_default();
    let required = &mut apart.required_during_scheduling_ignored_during_execution;
    required.get_or_insert_default().push(term);
}

/// What has this value of `key` is where the others that have it are.
fn keep_together(template: &mut Template<'_>, key: &str, value: &str, topology_key: &str) {
    let alike = vec![requirement(key, "In", Some(vec![value.to_owned()]))];
    let term = affinity_term(alike, topology_key);
    let spec = template.spec.to_mut();
    let affinity = spec.affinity.get_or_insert_default();
    let near = affinity.pod_affinity.get_or_insert_default();
    let required = &mut near.required_during_scheduling_ignored_during_execution;
    required.get_or_insert_default().push(term);
}
