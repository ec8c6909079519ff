//! PodDisruptionBudgets: how many pods may be moved now.
//!
//! What a server counted is believed; where none has, pods that are bound and run count as healthy.

use headstart_core::pod::{ObjectKey, Phase, Pod, Progress};
use headstart_core::snapshot::PodBudget;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::finding::{Findings, Subject, quoted};
use super::object::Placed;
use super::select;

/// All budgets, for the pods of the snapshot.
pub(crate) fn all(
    placed: &[Placed<policy::PodDisruptionBudget>],
    pods: &[Pod],
    findings: &Findings,
) -> Vec<PodBudget> {
    placed
        .iter()
        .filter_map(|placed| one(placed, pods, &findings.about(&placed.place)))
        .collect()
}

fn one(
    placed: &Placed<policy::PodDisruptionBudget>,
    pods: &[Pod],
    subject: &Subject<'_>,
) -> Option<PodBudget> {
    let spec = placed.object.spec.as_ref()?;
    // Without a selector it selects nothing.
    let selector = spec.selector.as_ref()?;
    let selector = select::label_selector(selector, &subject.at("spec.selector"));
    let counted = placed.object.status.as_ref();
    let allowed = match counted {
        Some(status) => status
            .disruptions_allowed
            .map_or(0, |allowed| u32::try_from(allowed).unwrap_or(0)),
        None => {
            let selected = pods.iter().filter(|pod| {
                pod.key.namespace == placed.namespace && selector.matches(&pod.shape.labels)
            });
            let (mut expected, mut healthy) = (0_u64, 0_u64);
            for pod in selected {
                expected += 1;
                let runs = Progress::Running;
                healthy += u64::from(
                    matches!(&pod.phase, Phase::Bound { progress, .. } if *progress == runs),
                );
            }
            let at = subject.at("spec");
            let part = |value: &IntOrString, field| share(value, expected, &at.at(field));
            let must = match (&spec.min_available, &spec.max_unavailable) {
                (Some(least), None) => part(least, "minAvailable"),
                (None, Some(most)) => expected.saturating_sub(part(most, "maxUnavailable")),
                (None, None) => expected.saturating_sub(1),
                (Some(_), Some(_)) => {
                    at.problem("has both minAvailable and maxUnavailable; keep one");
                    expected
                }
            };
            u32::try_from(healthy.saturating_sub(must)).unwrap_or(u32::MAX)
        }
    };
    Some(PodBudget {
        key: ObjectKey::new(&placed.namespace, &placed.name),
        selector,
        allowed,
    })
}

/// A number, or a share of `all`, rounded up as the API server does.
fn share(value: &IntOrString, all: u64, subject: &Subject<'_>) -> u64 {
    let read = match value {
        IntOrString::Int(count) => u64::try_from(*count).ok(),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|text| text.parse::<u64>().ok());
            let percent = percent.filter(|percent| *percent <= 100);
            percent.map(|percent| (all * percent).div_ceil(100))
        }
    };
    read.unwrap_or_else(|| {
        let found = match value {
            IntOrString::Int(count) => count.to_string(),
            IntOrString::String(text) => quoted(text),
        };
        subject.problem(format!(
            "is {found}; write a number such as 1 or a share such as 50%"
        ));
        all
    })
}
