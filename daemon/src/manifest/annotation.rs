//! Annotations: what a pod asks of its instance, which items it names, and what it opts out of.
//!
//! Ours are read first on the pod, then on its owner; Luna's are aliases. A value that cannot be read
//! is an error that says what to write.

use std::collections::{BTreeMap, BTreeSet};

use headstart_core::cache::Item;
use headstart_core::money::HourlyPrice;
use headstart_core::offer::CapacityType;
use headstart_core::pod::{TypePattern, Wants};

use super::alias;
use super::finding::{Subject, likely, quoted};
use super::item;

/// Prefix of our annotations.
const OURS: &str = "headstart.dev/";

const MODELS: &str = "headstart.dev/models";
const IMAGES: &str = "headstart.dev/images";
const IGNORE: &str = "headstart.dev/ignore";
const DO_NOT_EVICT: &str = "headstart.dev/do-not-evict";
pub(crate) const GROUP: &str = "headstart.dev/group";
pub(crate) const GROUP_MIN: &str = "headstart.dev/group-min";
pub(crate) const GROUP_SAME: &str = "headstart.dev/group-same";

/// Ours, with Luna's name for the same.
const KNOWN: [(&str, Option<&str>); 14] = [
    (MODELS, None),
    (IMAGES, None),
    (
        "headstart.dev/gpu-skus",
        Some("node.elotl.co/instance-gpu-skus"),
    ),
    (
        "headstart.dev/max-gpus",
        Some("node.elotl.co/instance-max-gpus"),
    ),
    (
        "headstart.dev/max-hourly-cost",
        Some("node.elotl.co/instance-max-cost"),
    ),
    (
        "headstart.dev/capacity-types",
        Some("node.elotl.co/instance-offerings"),
    ),
    (
        "headstart.dev/instance-families",
        Some("node.elotl.co/instance-family-inclusions"),
    ),
    (
        "headstart.dev/exclude-instance-families",
        Some("node.elotl.co/instance-family-exclusions"),
    ),
    (
        "headstart.dev/instance-type-regexp",
        Some("node.elotl.co/instance-type-regexp"),
    ),
    (DO_NOT_EVICT, Some("pod.elotl.co/do-not-evict")),
    (IGNORE, Some("pod.elotl.co/ignore")),
    (GROUP, None),
    (GROUP_MIN, None),
    (GROUP_SAME, None),
];

/// Annotations that other autoscalers read for "may not be moved", with the value that says so.
const FOREIGN_DO_NOT_EVICT: [(&str, &str); 2] = [
    ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false"),
    ("karpenter.sh/do-not-disrupt", "true"),
];

/// Annotations of a pod and of its owner, the pod's first.
#[derive(Clone, Debug)]
pub(crate) struct Annotations<'a> {
    levels: Vec<(&'a BTreeMap<String, String>, Subject<'a>)>,
    /// Which of them are the pod's own.
    own: usize,
    models_from: Models,
}

/// Whose annotations name models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Models {
    Anybody,
    PodOnly,
}

/// The value of an annotation, with the name under which it was given.
struct Given<'a> {
    value: &'a str,
    subject: Subject<'a>,
}

impl<'a> Annotations<'a> {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            levels: Vec::new(),
            own: 0,
            models_from: Models::Anybody,
        }
    }

    /// Those of the pod itself, or of its template.
    pub(crate) fn of_pod(
        annotations: Option<&'a BTreeMap<String, String>>,
        subject: &Subject<'a>,
    ) -> Self {
        let mut all = Self::new().and(annotations, subject);
        all.own = all.levels.len();
        all
    }

    /// Adds those of `owner` after these.
    pub(crate) fn then(mut self, owner: &Self) -> Self {
        self.levels.extend(owner.levels.iter().cloned());
        self
    }

    /// Adds those of one object; `subject` is its metadata.
    pub(crate) fn and(
        mut self,
        annotations: Option<&'a BTreeMap<String, String>>,
        subject: &Subject<'a>,
    ) -> Self {
        if let Some(annotations) = annotations {
            let at = subject.at("annotations");
            self.levels.push((annotations, at));
        }
        self
    }

    fn find(&self, ours: &str) -> Option<Given<'a>> {
        find(&self.levels, ours)
    }

    /// The value of one of our annotations, with its place.
    pub(crate) fn value(&self, ours: &str) -> Option<(&'a str, Subject<'a>)> {
        self.find(ours).map(|given| (given.value, given.subject))
    }

    /// Lets only the pod's own annotations name models: its owner's are for other pods.
    pub(crate) fn forget_models_of_owner(&mut self) {
        self.models_from = Models::PodOnly;
    }

    /// Notes what starts like one of ours and is none.
    pub(crate) fn note_unknown(&self) {
        for (level, subject) in &self.levels {
            for key in level.keys().filter(|key| key.starts_with(OURS)) {
                if !KNOWN.iter().any(|(name, _)| name == key) {
                    let names = KNOWN.iter().map(|(name, _)| *name);
                    let hint = likely(key, names)
                        .map_or(String::new(), |meant| format!("; did you mean {meant}?"));
                    let at = subject.at(quoted(key).trim_matches('"'));
                    at.note(format!("is no annotation that Headstart knows{hint}"));
                }
            }
        }
    }

    fn is_set(&self, ours: &str) -> bool {
        let Some(Given { value, subject }) = self.find(ours) else {
            return false;
        };
        match value.trim() {
            "true" => true,
            "false" => false,
            found => {
                subject.problem(format!("is {}; write \"true\" or \"false\"", quoted(found)));
                false
            }
        }
    }

    /// Whether the pod is none of our business.
    pub(crate) fn ignored(&self) -> bool {
        self.is_set(IGNORE)
    }

    /// Whether the pod may not be moved.
    pub(crate) fn do_not_evict(&self) -> bool {
        let foreign = FOREIGN_DO_NOT_EVICT.iter().any(|(name, value)| {
            let mut found = self.levels.iter().filter_map(|(level, _)| level.get(*name));
            found.next().is_some_and(|found| found == value)
        });
        self.is_set(DO_NOT_EVICT) || foreign
    }

    /// Models that are named; `None` where none are, so that they may be recognised otherwise.
    pub(crate) fn models(&self) -> Option<Vec<Item>> {
        let levels = match self.models_from {
            Models::Anybody => self.levels.len(),
            Models::PodOnly => self.own,
        };
        let given = find(&self.levels[..levels], MODELS)?;
        Some(given.items(item::model))
    }

    /// Images that are named beside those of the containers.
    pub(crate) fn images(&self) -> Vec<Item> {
        self.find(IMAGES)
            .map_or(Vec::new(), |given| given.items(item::image))
    }

    /// What is asked of the instance.
    pub(crate) fn wants(&self) -> Wants {
        let list = |ours: &str, read: fn(&str, &Subject<'_>) -> Option<String>| {
            self.find(ours).map_or(BTreeSet::new(), |given| {
                let read = |word| read(word, &given.subject);
                given.words().filter_map(read).collect()
            })
        };
        Wants {
            gpu_skus: list("headstart.dev/gpu-skus", sku),
            max_gpus: self.find("headstart.dev/max-gpus").and_then(|given| {
                let read = given.value.trim().parse().ok();
                let found = quoted(given.value);
                given.or_problem(read, format!("is {found}; write a whole number such as 4"))
            }),
            max_price: self
                .find("headstart.dev/max-hourly-cost")
                .and_then(|given| {
                    let usd: Option<f64> = given.value.trim().parse().ok();
                    let read = usd.and_then(|usd| HourlyPrice::from_usd(usd).ok());
                    let found = quoted(given.value);
                    given.or_problem(
                        read,
                        format!("is {found}; write USD per hour from 0 to 100000, such as 4.75"),
                    )
                }),
            capacity_types: self.capacity_types(),
            families: list("headstart.dev/instance-families", family),
            excluded_families: list("headstart.dev/exclude-instance-families", family),
            type_pattern: self
                .find("headstart.dev/instance-type-regexp")
                .and_then(|given| {
                    let pattern = Some(given.value.trim()).filter(|pattern| !pattern.is_empty())?;
                    given.subject.ok(TypePattern::new(pattern).map_err(|error| {
                        format!("{error}; write one that compiles, such as ^g6\\.")
                    }))
                }),
        }
    }

    fn capacity_types(&self) -> BTreeSet<CapacityType> {
        let Some(given) = self.find("headstart.dev/capacity-types") else {
            return BTreeSet::new();
        };
        let mut types = BTreeSet::new();
        for word in given.words() {
            match word {
                "fargate" => given
                    .subject
                    .note("fargate is left out: it has no GPUs to plan for"),
                word => types.extend(given.subject.ok(word.parse::<CapacityType>())),
            }
        }
        types
    }
}

/// The value at the nearest level; at one level ours wins over an alias.
fn find<'a>(
    levels: &[(&'a BTreeMap<String, String>, Subject<'a>)],
    ours: &str,
) -> Option<Given<'a>> {
    let theirs = KNOWN.iter().find(|(name, _)| *name == ours);
    let theirs = theirs.and_then(|(_, theirs)| *theirs);
    levels.iter().find_map(|(level, subject)| {
        let alias = theirs.and_then(|theirs| Some((theirs, level.get(theirs)?)));
        if let Some(value) = level.get(ours) {
            if let Some((theirs, other)) = alias
                && other != value
            {
                subject
                    .at(theirs)
                    .note(format!("{ours} says something else and wins"));
            }
            let subject = subject.at(ours);
            return Some(Given { value, subject });
        }
        let (theirs, value) = alias?;
        let subject = subject.at(theirs);
        Some(Given { value, subject })
    })
}

impl<'a> Given<'a> {
    /// Entries of a comma list; what is empty is no entry.
    fn words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let words = self.value.split([',', '\n']).map(str::trim);
        words.filter(|word| !word.is_empty())
    }

    fn items(&self, read: fn(&str) -> Result<Item, String>) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        for word in self.words() {
            let read = self.subject.ok(read(word));
            items.extend(read.filter(|item| !items.contains(item)));
        }
        items
    }

    fn or_problem<T>(&self, read: Option<T>, problem: String) -> Option<T> {
        if read.is_none() {
            self.subject.problem(problem);
        }
        read
    }
}

/// The name of a GPU, by our rules.
pub(crate) fn sku(word: &str, subject: &Subject<'_>) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_. ".contains(c);
    if word.len() > 40 || !word.chars().all(plain) || !word.contains(char::is_alphanumeric) {
        let found = quoted(word);
        subject.problem(format!(
            "{found} is not the name of a GPU; write it as L4, A10G or H100"
        ));
        return None;
    }
    let sku = alias::gpu_sku(word);
    if let Some(memory) = alias::gpu_memory_in_name(word) {
        subject.note(format!(
            "{memory} of {} is left out: every {sku} counts; select its memory with the label {}",
            quoted(word),
            headstart_core::label::GPU_MEMORY,
        ));
    }
    Some(sku)
}

/// The name of an instance family.
pub(crate) fn family(word: &str, subject: &Subject<'_>) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if word.len() > 60 || !word.chars().all(plain) {
        let found = quoted(word);
        subject.problem(format!(
            "{found} is not the name of an instance family; write it as g6"
        ));
        return None;
    }
    Some(word.to_owned())
}
