//! What became of an instance: by the last list of the provider, and by what its agent was told.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use headstart_api::{InterruptionKind, NodeClaim};
use headstart_provider::{Instance, InstanceState};
use kube::ResourceExt as _;

use super::life::InstanceView;
use super::notices;
use super::round::Rounds;

/// How long a new instance may be missing from lists: clouds show what they have with a delay.
const LISTED_AFTER: Duration = Duration::from_secs(60);

/// How many lists in a row must lack an instance that was listed before: one may come from a part of
/// the cloud that is behind.
const MISSED: u32 = 2;

/// How many lists in a row lack each claim that was listed once.
#[derive(Debug, Default)]
pub(super) struct Missed(BTreeMap<String, u32>);

impl Missed {
    /// Takes a list; claims that are not `known` are forgotten.
    fn take(&mut self, listed: &BTreeMap<String, Instance>, known: impl Fn(&str) -> bool) {
        for (claim, missed) in &mut self.0 {
            *missed += 1;
            if listed.contains_key(claim) {
                *missed = 0;
            }
        }
        for claim in listed.keys() {
            self.0.entry(claim.clone()).or_default();
        }
        self.0.retain(|claim, _| known(claim));
    }

    /// Whether it was listed, and is so no more.
    fn is_gone(&self, claim: &str) -> bool {
        self.0.get(claim).is_some_and(|missed| *missed >= MISSED)
    }

    /// Forgets a claim.
    pub(super) fn forget(&mut self, claim: &str) {
        self.0.remove(claim);
    }
}

impl Rounds {
    pub(super) fn note_missed(&mut self, listed: &BTreeMap<String, Instance>) {
        let claims = &self.picture.claims;
        self.missed.take(listed, |claim| claims.contains_key(claim));
    }

    /// Its instance, by the last list and by what its agent was told: either may be first.
    pub(super) fn instance(&self, claim: &NodeClaim) -> InstanceView {
        let listed = self.listed_as(claim);
        let notice = notices::of_claim(&self.picture, claim);
        match notice.map(|notice| notice.kind) {
            Some(InterruptionKind::Taken) if listed != InstanceView::Missing => {
                InstanceView::Interrupted
            }
            _ => listed,
        }
    }

    fn listed_as(&self, claim: &NodeClaim) -> InstanceView {
        let Some((asked, instances)) = &self.instances else {
            return InstanceView::Unknown;
        };
        let name = claim.name_any();
        match instances.get(&name).map(|it| it.state) {
            Some(InstanceState::Running) => InstanceView::Running,
            Some(InstanceState::Interrupted) => InstanceView::Interrupted,
            Some(InstanceState::Ending) => InstanceView::Missing,
            None => {
                let launched = claim
                    .status
                    .as_ref()
                    .and_then(|it| it.stages.launched.as_ref());
                let launched = launched.map(|time| SystemTime::from(time.0));
                // One that was listed is known everywhere in the cloud, or nearly.
                let is_late = launched.is_some_and(|launched| *asked > launched + LISTED_AFTER);
                match is_late || self.missed.is_gone(&name) {
                    true => InstanceView::Missing,
                    false => InstanceView::Unknown,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(claims: &[&str]) -> BTreeMap<String, Instance> {
        let instance = |claim: &&str| {
            let instance = Instance {
                claim: Some((*claim).to_owned()),
                provider_id: format!("test://{claim}"),
                node_name: None,
                state: InstanceState::Running,
                created: SystemTime::UNIX_EPOCH,
            };
            ((*claim).to_owned(), instance)
        };
        claims.iter().map(instance).collect()
    }

    #[test]
    fn an_instance_is_gone_when_two_lists_in_a_row_lack_it_and_it_was_listed_before() {
        let mut missed = Missed::default();
        for (listed, gone) in [
            // Clouds show what is new with a delay.
            (&[][..], false),
            (&[], false),
            (&[], false),
            (&["a"], false),
            (&[], false),
            (&["a"], false),
            (&[], false),
            (&[], true),
            (&["a"], false),
        ] {
            missed.take(&list(listed), |_| true);
            assert_eq!(missed.is_gone("a"), gone, "{missed:?}");
        }
        missed.take(&list(&[]), |_| false);
        missed.take(&list(&[]), |_| true);
        assert!(!missed.is_gone("a"), "it is forgotten with its claim");
    }
}
