//! Groups: which pods are of use only together, and how many of each role.

use std::collections::BTreeMap;

use headstart_core::pod::{Group, ObjectKey, Shape, Sharing};

use super::alias;
use super::annotation::{self, Annotations};
use super::finding::{Subject, quoted};

/// What is known of one group so far.
#[derive(Clone, Debug, Default)]
struct Gang {
    /// By role: how many must be placed if that was said, and how many members there are.
    roles: BTreeMap<String, (Option<u32>, u32)>,
    sets: BTreeMap<String, u32>,
    same: Option<String>,
    sharing: Sharing,
}

/// What a workload asks of one role of a group that it makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Required<'r> {
    /// How many must be placed.
    pub(crate) minimum: u32,
    /// How many make a set that is of use only whole; 1 where members come one by one.
    pub(crate) set: u32,
    /// Label whose domain is shared.
    pub(crate) same: Option<&'r str>,
    /// By whom.
    pub(crate) sharing: Sharing,
}

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Gangs(BTreeMap<ObjectKey, Gang>);

/// What a pod's annotations say about its group.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    pub(crate) key: ObjectKey,
    pub(crate) minimum: Option<u32>,
    pub(crate) same: Option<String>,
}

/// Reads the group that annotations name.
pub(crate) fn membership(annotations: &Annotations<'_>, namespace: &str) -> Option<Membership> {
    let minimum = annotations.value(annotation::GROUP_MIN);
    let Some((name, subject)) = annotations.value(annotation::GROUP) else {
        if let Some((_, subject)) = minimum {
            subject.problem(format!(
                "names no group; add {} with its name",
                annotation::GROUP
            ));
        }
        return None;
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        subject.problem(format!(
            "is {}; write a name of letters, digits, '-' and '.'",
            quoted(name)
        ));
        return None;
    }
    let minimum = minimum.and_then(|(text, subject)| {
        let read = text
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|minimum| *minimum > 0);
        if read.is_none() {
            let found = quoted(text);
            subject.problem(format!(
                "is {found}; write how many pods must run together, 1 or more"
            ));
        }
        read
    });
    let same = annotations
        .value(annotation::GROUP_SAME)
        .map(|(key, _)| key.trim());
    let same = same.filter(|key| !key.is_empty());
    Some(Membership {
        key: ObjectKey::new(namespace, name),
        minimum,
        same: same.map(|key| alias::key(key).to_owned()),
    })
}

impl Gangs {
    /// Says how many of a role must be placed, and what members share.
    pub(crate) fn require(&mut self, key: &ObjectKey, role: &str, required: &Required<'_>) {
        let gang = self.0.entry(key.clone()).or_default();
        gang.roles.entry(role.to_owned()).or_default().0 = Some(required.minimum);
        if required.set > 1 {
            gang.sets.insert(role.to_owned(), required.set);
        }
        if let Some(same) = required.same {
            gang.same = Some(same.to_owned());
            gang.sharing = required.sharing;
        }
    }

    /// Makes `members` pods of this shape part of a group.
    pub(crate) fn join(
        &mut self,
        membership: &Membership,
        shape: &mut Shape,
        members: u32,
        subject: &Subject<'_>,
    ) {
        shape.group = Some(membership.key.clone());
        let role = shape.role().to_owned();
        let gang = self.0.entry(membership.key.clone()).or_default();
        let (minimum, count) = gang.roles.entry(role).or_default();
        *count = count.saturating_add(members);
        match (*minimum, membership.minimum) {
            (Some(one), Some(other)) if one != other => subject.problem(format!(
                "{} is {other} here and {one} on another pod of group {}; write the same on all",
                annotation::GROUP_MIN,
                membership.key
            )),
            (None, Some(_)) => *minimum = membership.minimum,
            _ => {}
        }
        match (&gang.same, &membership.same) {
            (Some(one), Some(other)) if one != other => subject.problem(format!(
                "{} is {other} here and {one} on another pod of group {}; write the same on all",
                annotation::GROUP_SAME,
                membership.key
            )),
            (None, Some(_)) => gang.same.clone_from(&membership.same),
            _ => {}
        }
    }

    /// The groups, by name. A role for which nothing was said needs all its members.
    pub(crate) fn into_groups(self) -> Vec<Group> {
        self.0
            .into_iter()
            .map(|(key, gang)| Group {
                key,
                minimum: gang
                    .roles
                    .into_iter()
                    .map(|(role, (minimum, members))| (role, minimum.unwrap_or(members)))
                    .filter(|(_, minimum)| *minimum > 0)
                    .collect(),
                sets: gang.sets,
                same: gang.same,
                sharing: gang.sharing,
            })
            .filter(|group| !group.minimum.is_empty())
            .collect()
    }
}
