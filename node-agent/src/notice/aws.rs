//! EC2's instance metadata service, version 2.
//!
//! Source: AWS, "Spot Instance interruption notices" and "EC2 instance rebalance recommendations"; the
//! first is to be looked at every 5 s. A machine bought on demand gets neither.

use std::time::Duration;

use headstart_api::InterruptionKind;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use super::door::{Answer, Metadata, Question, Verb};
use super::{Announced, Asker, Seen, Trouble, nonsense, worst};

const TOKEN: &str = "/latest/api/token";
const LIFE: &str = "/latest/meta-data/instance-life-cycle";
const ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";

/// How long a token is asked for: the longest there is.
const TOKEN_LASTS: Duration = Duration::from_secs(6 * 3600);
const TOKEN_LASTS_SECONDS: &str = "21600";

/// How long an answer may take: it comes from the machine's own host.
const PATIENCE: Duration = Duration::from_secs(4);

/// Of so many looks one is at the recommendation, which comes at leisure. A notice of two minutes is so
/// heard of 10 s late at most.
const TURNS: u32 = 6;

/// What it said before.
#[derive(Default)]
pub(super) struct Service {
    token: Option<(String, Instant)>,
    knows_life: bool,
    turn: u32,
    action: Option<Announced>,
    rebalance: Option<Announced>,
}

#[derive(Deserialize)]
struct Action {
    action: String,
    time: Timestamp,
}

#[derive(Deserialize)]
struct Rebalance {
    #[serde(rename = "noticeTime")]
    _notice_time: Timestamp,
}

impl Service {
    pub(super) async fn look<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
    ) -> Result<Seen, Trouble> {
        if !self.knows_life {
            let answer = self.get(asker, LIFE).await?;
            if answer.status == 200 && answer.body.trim() == "on-demand" {
                return Ok(Seen::Never);
            }
            self.knows_life = true;
        }
        self.turn = (self.turn + 1) % TURNS;
        if self.turn == 0 {
            let answer = self.get(asker, REBALANCE).await?;
            self.rebalance = match (answer.status, serde_json::from_str(&answer.body)) {
                (404, _) => None,
                (200, Ok(Rebalance { .. })) => Some(Announced {
                    kind: InterruptionKind::AtRisk,
                    at: None,
                }),
                _ => return Err(nonsense(REBALANCE, &answer, "404 or a noticeTime")),
            };
        } else {
            let answer = self.get(asker, ACTION).await?;
            self.action = match (answer.status, serde_json::from_str(&answer.body)) {
                (404, _) => None,
                // Stopped or hibernated it is as gone as terminated: its local disks are lost.
                (200, Ok(Action { action, time })) if !action.is_empty() => Some(Announced {
                    kind: InterruptionKind::Taken,
                    at: Some(time),
                }),
                _ => return Err(nonsense(ACTION, &answer, "404 or an action with its time")),
            };
        }
        Ok(Seen::Now(worst(
            self.action.into_iter().chain(self.rebalance),
        )))
    }

    async fn get<M: Metadata>(
        &mut self,
        asker: &mut Asker<M>,
        path: &'static str,
    ) -> Result<Answer, Trouble> {
        let mut is_new = false;
        loop {
            let token = match &self.token {
                Some((token, until)) if Instant::now() < *until => token.clone(),
                _ => {
                    is_new = true;
                    self.renew(asker).await?
                }
            };
            let answer = asker
                .ask(Question {
                    verb: Verb::Get,
                    path,
                    headers: &[("x-aws-ec2-metadata-token", &token)],
                    patience: PATIENCE,
                })
                .await?;
            if answer.status != 401 {
                return Ok(answer);
            }
            self.token = None;
            if is_new {
                return Err(nonsense(path, &answer, "an answer to a new token"));
            }
        }
    }

    async fn renew<M: Metadata>(&mut self, asker: &mut Asker<M>) -> Result<String, Trouble> {
        let answer = asker
            .ask(Question {
                verb: Verb::Put,
                path: TOKEN,
                headers: &[("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_LASTS_SECONDS)],
                patience: PATIENCE,
            })
            .await?;
        let token = answer.body.trim();
        let is_token =
            (1..=1024).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
        if answer.status != 200 || !is_token {
            // What it answers may be a token: it is not repeated.
            let answer = Answer {
                body: String::new(),
                ..answer
            };
            return Err(nonsense(TOKEN, &answer, "a token (version 2 must be on)"));
        }
        self.token = Some((token.to_owned(), Instant::now() + TOKEN_LASTS / 2));
        Ok(token.to_owned())
    }
}
