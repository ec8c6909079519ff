//! One purchase for real, to see in an account of one's own that a provider keeps its promises: the
//! same key buys once, what is bought is found and nobody else's is, and it is given back.
//!
//! The cases that need a cloud to fail on demand run against clouds on loopback only.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::doctor::Finding;
use crate::{Instance, InstanceState, Provider, Refusal, Release, Wanted};

/// How long a purchase, or giving back, may take.
const LIMIT: Duration = Duration::from_secs(1200);

/// Times that the key is asked for again.
const AGAIN: usize = 3;

/// Name of a cluster that nobody has.
pub const NOBODY: &str = "headstart-trial-nobody";

/// Who takes part. None of them knows what another did.
#[derive(Clone, Copy)]
pub struct Parties<'a> {
    /// A daemon of the cluster.
    pub one: &'a dyn Provider,
    /// Another of the same cluster.
    pub two: &'a dyn Provider,
    /// A daemon of the cluster [`NOBODY`].
    pub stranger: &'a dyn Provider,
}

/// Buys `wanted`, looks whether every promise holds, and gives it back whatever was found. Looks are
/// `pause` apart.
pub async fn trial(parties: Parties<'_>, wanted: &Wanted, pause: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    match bought(parties.one, wanted, pause).await {
        Ok(first) => {
            let seen = format!("{} is {}", wanted.offering, first.provider_id);
            findings.push(Finding::sound("purchase", seen));
            findings.push(asked_again(parties, wanted, &first).await);
            findings.push(listed(parties.two, wanted, &first, pause).await);
            findings.push(hidden(parties.stranger, wanted, &first).await);
            findings.push(untouched(parties, wanted, &first).await);
        }
        Err(refusal) => findings.push(Finding::refused("purchase", &refusal, "see what it says")),
    }
    findings.push(given_back(parties.two, wanted, pause).await);
    findings
}

async fn bought(
    provider: &dyn Provider,
    wanted: &Wanted,
    pause: Duration,
) -> Result<Instance, Refusal> {
    let started = Instant::now();
    loop {
        match provider.ensure(wanted).await {
            Err(Refusal::Throttled { wait }) if started.elapsed() + wait < LIMIT => {
                tokio::time::sleep(wait.max(pause)).await;
            }
            answer => return answer,
        }
    }
}

/// The same key again, by both at once.
async fn asked_again(parties: Parties<'_>, wanted: &Wanted, first: &Instance) -> Finding {
    let subject = "the same key again";
    let mut ids = BTreeSet::from([first.provider_id.clone()]);
    for _ in 0..AGAIN {
        let both = tokio::join!(parties.one.ensure(wanted), parties.two.ensure(wanted));
        for answer in [both.0, both.1] {
            match answer {
                Ok(instance) => drop(ids.insert(instance.provider_id)),
                Err(Refusal::Throttled { .. }) => {}
                Err(refusal) => return Finding::refused(subject, &refusal, "see what it says"),
            }
        }
    }
    match ids.len() {
        1 => Finding::sound(subject, "is the same machine"),
        _ => {
            let ids: Vec<_> = ids.into_iter().collect();
            Finding::wrong(
                subject,
                format!("there are several machines: {}", ids.join(", ")),
                "end them by hand, and report this",
            )
        }
    }
}

async fn listed(
    provider: &dyn Provider,
    wanted: &Wanted,
    first: &Instance,
    pause: Duration,
) -> Finding {
    let subject = "list";
    let started = Instant::now();
    loop {
        let found = match provider.instances().await {
            Ok(all) => all
                .into_iter()
                .find(|it| it.provider_id == first.provider_id),
            Err(refusal) => return Finding::refused(subject, &refusal, "see what it says"),
        };
        let seen = found.and_then(|instance| instance.claim);
        match seen {
            Some(claim) if claim == wanted.claim => {
                return Finding::sound(subject, "has the machine, with its claim");
            }
            _ if started.elapsed() > LIMIT => {
                return Finding::wrong(
                    subject,
                    format!("{} is not in it with its claim", first.provider_id),
                    "look at its tags, and report this",
                );
            }
            _ => tokio::time::sleep(pause).await,
        }
    }
}

async fn hidden(nobody: &dyn Provider, wanted: &Wanted, first: &Instance) -> Finding {
    let subject = "list of another cluster";
    match nobody.instances().await {
        Ok(all) if all.iter().any(|it| it.provider_id == first.provider_id) => Finding::wrong(
            subject,
            format!("has {} of {}", first.provider_id, wanted.claim),
            "report this",
        ),
        Ok(_) => Finding::sound(subject, "has it not"),
        Err(refusal) => Finding::refused(subject, &refusal, "see what it says"),
    }
}

/// Another cluster gives back a claim of the same name.
async fn untouched(parties: Parties<'_>, wanted: &Wanted, first: &Instance) -> Finding {
    let subject = "another cluster that gives back";
    match parties.stranger.release(&wanted.claim).await {
        Ok(Release::Gone) => {}
        Ok(Release::Ending) => {
            return Finding::wrong(subject, "ends the machine", "report this");
        }
        Err(refusal) => return Finding::refused(subject, &refusal, "see what it says"),
    }
    match parties.one.ensure(wanted).await {
        Ok(still) if still.provider_id == first.provider_id => {
            Finding::sound(subject, "leaves it alone")
        }
        Ok(other) => Finding::wrong(
            subject,
            format!("ended it, and {} was bought", other.provider_id),
            "report this",
        ),
        Err(refusal) => Finding::refused(subject, &refusal, "see what it says"),
    }
}

async fn given_back(provider: &dyn Provider, wanted: &Wanted, pause: Duration) -> Finding {
    let subject = "giving back";
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < LIMIT {
        match provider.release(&wanted.claim).await {
            Ok(Release::Gone) => return gone(provider, wanted).await,
            Ok(Release::Ending) => {}
            Err(refusal) => last = refusal.to_string(),
        }
        tokio::time::sleep(pause).await;
    }
    Finding::wrong(
        subject,
        format!("{} is still there; {last}", wanted.claim),
        "end it by hand: it costs money",
    )
}

async fn gone(provider: &dyn Provider, wanted: &Wanted) -> Finding {
    let subject = "giving back";
    let is_left = |it: &&Instance| {
        it.claim.as_deref() == Some(&wanted.claim) && it.state != InstanceState::Ending
    };
    match provider.instances().await {
        Ok(all) => match all.iter().find(is_left) {
            None => Finding::sound(subject, "nothing is left"),
            Some(left) => Finding::wrong(
                subject,
                format!("was said to be done, and {} runs", left.provider_id),
                "end it by hand: it costs money",
            ),
        },
        Err(refusal) => Finding::refused(subject, &refusal, "look whether anything is left"),
    }
}
