//! Compute Engine's metadata server.
//!
//! Source: Google, "View and query VM metadata" (waiting for changes) and "Preemptible VM instances":
//! `preempted` becomes TRUE, then the machine has about 30 s. A machine with GPUs is told an hour before
//! its host's maintenance, which stops it.

use std::time::Duration;

use headstart_api::InterruptionKind;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::door::{Answer, Metadata, Question, Verb};
use super::{Announced, Asker, Seen, Trouble, nonsense, worst};

const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";

/// How long the server holds a question whose answer has not changed, and how long it may take then.
const HELD: &str = "50";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a preempted machine is left.
const LEFT: SignedDuration = SignedDuration::from_secs(30);

/// What it said before.
#[derive(Default)]
pub(super) struct Service {
    /// The version of the last answer.
    etag: Option<String>,
    preempted: Option<Announced>,
    maintenance: Option<Announced>,
    /// The other value is asked for next.
    is_others_turn: bool,
}

impl Service {
    pub(super) async fn look<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
    ) -> Result<Seen, Trouble> {
        match std::mem::take(&mut self.is_others_turn) {
            true => self.look_for_maintenance(asker).await?,
            false => {
                // What cannot be read is asked for without a version the next time.
                let etag = self.etag.take();
                self.look_for_preemption(asker, etag.as_deref()).await?;
                // While the machine dies nothing else matters.
                self.is_others_turn = self.preempted.is_none();
            }
        }
        Ok(Seen::Now(worst(
            self.preempted.into_iter().chain(self.maintenance),
        )))
    }

    async fn look_for_preemption<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
        etag: Option<&str>,
    ) -> Result<(), Trouble> {
        let path = match etag {
            None => PREEMPTED.to_owned(),
            Some(etag) => {
                let query = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("wait_for_change", "true")
                    .append_pair("timeout_sec", HELD)
                    .append_pair("last_etag", etag)
                    .finish();
                format!("{PREEMPTED}?{query}")
            }
        };
        let answer = get(asker, &path).await?;
        let now = match (answer.status, answer.body.trim()) {
            (200, "TRUE") => true,
            (200, "FALSE") => false,
            _ => return Err(nonsense(PREEMPTED, &answer, "TRUE or FALSE")),
        };
        if !is_google(&answer) {
            return Err(nonsense(PREEMPTED, &answer, "a Metadata-Flavor"));
        }
        self.etag = answer.header("etag").map(str::to_owned);
        self.preempted = match (now, self.preempted) {
            (false, _) => None,
            (true, known @ Some(_)) => known,
            (true, None) => Some(Announced {
                kind: InterruptionKind::Taken,
                at: Timestamp::now().checked_add(LEFT).ok(),
            }),
        };
        Ok(())
    }

    async fn look_for_maintenance<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
    ) -> Result<(), Trouble> {
        let answer = get(asker, MAINTENANCE).await?;
        // A machine that is moved alive stays as it is; one without the value is asked again.
        let stops = answer.body.trim() == "TERMINATE_ON_HOST_MAINTENANCE";
        let stops = stops && answer.status == 200 && is_google(&answer);
        self.maintenance = stops.then_some(Announced {
            kind: InterruptionKind::Maintenance,
            at: None,
        });
        Ok(())
    }
}

fn is_google(answer: &Answer) -> bool {
    answer.header("metadata-flavor") == Some("Google")
}

async fn get<M: Metadata>(asker: &mut Asker<M>, path: &str) -> Result<Answer, Trouble> {
    asker
        .ask(Question {
            verb: Verb::Get,
            path,
            headers: &[("metadata-flavor", "Google")],
            patience: PATIENCE,
        })
        .await
}
