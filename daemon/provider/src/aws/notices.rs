//! Interruptions that EventBridge puts into a queue.
//!
//! A message is deleted only after its instance carries the tag that remembers it. One of an instance
//! that is not ours is left for as long as ours could still be missing in a list.

use std::time::{Duration, SystemTime};

use headstart_clouds::aws::ec2;
use headstart_clouds::aws::sqs::{Message, Sqs};
use headstart_clouds::call::CallError;
use serde::Deserialize;

use super::{Aws, INTERRUPTED_TAG, YOUNG, moment};

/// Most batches of ten that are read in one go.
const MOST_BATCHES: usize = 20;

/// An event, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Event {
    detail_type: String,
    time: String,
    detail: Detail,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Detail {
    instance_id: String,
}

impl Aws {
    /// Marks those of `found` that will be taken away. A queue that fails costs its news, and nothing
    /// else: agents hear of interruptions as well.
    pub(super) async fn hear(&self, found: &mut [ec2::Instance]) {
        let Some(sqs) = &self.sqs else {
            return;
        };
        if let Err(error) = self.read(sqs, found).await {
            tracing::warn!(%error, "the interruption queue cannot be read");
        }
    }

    async fn read(&self, sqs: &Sqs, found: &mut [ec2::Instance]) -> Result<(), CallError> {
        for _ in 0..MOST_BATCHES {
            let messages = sqs.receive_message().await?;
            if messages.is_empty() {
                return Ok(());
            }
            for message in messages {
                self.take(sqs, &message, found).await?;
            }
        }
        Ok(())
    }

    async fn take(
        &self,
        sqs: &Sqs,
        message: &Message,
        found: &mut [ec2::Instance],
    ) -> Result<(), CallError> {
        let event = interruption(&message.body);
        if let Some(event) = event {
            let id = &event.detail.instance_id;
            match found.iter_mut().find(|one| one.instance_id == *id) {
                Some(one) => {
                    let tag = [(INTERRUPTED_TAG, &*event.time)];
                    self.ec2.create_tags(&[id], &tag).await?;
                    one.tags.insert(INTERRUPTED_TAG.to_owned(), event.time);
                }
                None if age(&event.time) < YOUNG => return Ok(()),
                None => {}
            }
        }
        sqs.delete_message(&message.receipt_handle).await
    }
}

/// The event, if it says that an instance will be taken away. A recommendation to rebalance does not.
fn interruption(body: &str) -> Option<Event> {
    let event: Event = serde_json::from_str(body).ok()?;
    let is = event.detail_type == "EC2 Spot Instance Interruption Warning";
    (is && !event.detail.instance_id.is_empty()).then_some(event)
}

fn age(time: &str) -> Duration {
    let age = SystemTime::now().duration_since(moment(time));
    age.unwrap_or_default()
}
