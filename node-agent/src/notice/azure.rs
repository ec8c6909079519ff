//! Azure's Scheduled Events.
//!
//! An event names machines of the whole scale set: only those that name this one count. None is
//! acknowledged, since that starts it at once.
//!
//! Source: Microsoft, "Azure Metadata Service: Scheduled Events for Linux VMs" (2020-07-01) and
//! "Azure Instance Metadata Service" for the machine's name.

use std::time::Duration;

use headstart_api::InterruptionKind;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::door::{Answer, Metadata, Question, Verb};
use super::{Announced, Asker, Seen, Trouble, nonsense, worst};

const NAME: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the first may: it turns the service on for this machine, which takes up to two minutes.
const FIRST_PATIENCE: Duration = Duration::from_secs(130);

/// Longest name of a machine, in bytes; Linux machines have 64 characters at most.
const MOST_NAME: usize = 128;

/// What it said before.
#[derive(Default)]
pub(super) struct Service {
    name: Option<String>,
    is_on: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Event {
    event_type: String,
    resources: Vec<String>,
    not_before: String,
}

impl Service {
    pub(super) async fn look<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
    ) -> Result<Seen, Trouble> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                let answer = get(asker, NAME, PATIENCE).await?;
                let name = answer.body.trim();
                if answer.status != 200 || name.is_empty() || name.len() > MOST_NAME {
                    return Err(nonsense(NAME, &answer, "this machine's name"));
                }
                self.name.insert(name.to_owned()).clone()
            }
        };
        let patience = match self.is_on {
            true => PATIENCE,
            false => FIRST_PATIENCE,
        };
        let answer = get(asker, EVENTS, patience).await?;
        let document = serde_json::from_str::<Document>(&answer.body);
        let (200, Ok(document)) = (answer.status, document) else {
            return Err(nonsense(EVENTS, &answer, "a document with Events"));
        };
        self.is_on = true;
        let announced = document.events.iter();
        Ok(Seen::Now(worst(announced.filter_map(|it| it.of(&name)))))
    }
}

impl Event {
    /// What it announces to the machine of this name.
    fn of(&self, name: &str) -> Option<Announced> {
        let ends = matches!(self.event_type.as_str(), "Preempt" | "Terminate");
        let mut resources = self.resources.iter();
        let is_ours = resources.any(|resource| resource.eq_ignore_ascii_case(name));
        (ends && is_ours).then_some(Announced {
            kind: InterruptionKind::Taken,
            at: moment(&self.not_before),
        })
    }
}

/// `Mon, 19 Sep 2016 18:29:47 GMT`; one that has begun has none.
fn moment(text: &str) -> Option<Timestamp> {
    let read = k8s_openapi::jiff::fmt::rfc2822::parse(text);
    read.ok().map(|zoned| zoned.timestamp())
}

async fn get<M: Metadata>(
    asker: &mut Asker<M>,
    path: &'static str,
    patience: Duration,
) -> Result<Answer, Trouble> {
    asker
        .ask(Question {
            verb: Verb::Get,
            path,
            headers: &[("metadata", "true")],
            patience,
        })
        .await
}
