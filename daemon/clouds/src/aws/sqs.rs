//! SQS: the queue that interruptions arrive in.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::credentials::Credentials;
use super::wire::Wire;
use crate::call::{CallError, Caller};

/// Prefix of targets, and content type.
const FORM: (&str, &str) = ("AmazonSQS", "application/x-amz-json-1.0");

/// One queue.
#[derive(Debug)]
pub struct Sqs {
    wire: Wire,
    queue: Url,
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Message {
    /// What to delete it by.
    pub receipt_handle: String,
    /// What it says.
    pub body: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Received {
    messages: Vec<Message>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attributes {
    attributes: BTreeMap<String, String>,
}

/// An answer that holds nothing.
#[derive(Deserialize)]
struct Nothing {}

impl Sqs {
    /// The queue at `queue` (`https://sqs.us-east-1.amazonaws.com/123456789012/headstart`), called at
    /// `endpoint`.
    pub fn new(
        caller: Caller,
        credentials: Arc<Credentials>,
        (endpoint, queue): (Url, Url),
        region: &str,
    ) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "sqs"),
            queue,
        }
    }

    /// Up to ten messages that are there now (`ReceiveMessage`). Each comes again unless it is deleted
    /// within the queue's visibility timeout.
    ///
    /// # Errors
    /// As [`CallError`] says; `QueueDoesNotExist`.
    pub async fn receive_message(&self) -> Result<Vec<Message>, CallError> {
        let body = json!({
            "QueueUrl": self.queue.as_str(), "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0,
        });
        let received: Received = self.wire.json("ReceiveMessage", FORM, &body).await?;
        Ok(received.messages)
    }

    /// Deletes a message that was received.
    ///
    /// # Errors
    /// As [`CallError`] says.
    pub async fn delete_message(&self, receipt_handle: &str) -> Result<(), CallError> {
        let body = json!({"QueueUrl": self.queue.as_str(), "ReceiptHandle": receipt_handle});
        let called = self.wire.json("DeleteMessage", FORM, &body).await;
        match called {
            Ok(Nothing {}) => Ok(()),
            // The service answers without a body.
            Err(CallError::Unreadable { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// About how many messages are there (`GetQueueAttributes`).
    ///
    /// # Errors
    /// As [`CallError`] says; `QueueDoesNotExist`.
    pub async fn approximate_number_of_messages(&self) -> Result<u64, CallError> {
        const NAME: &str = "ApproximateNumberOfMessages";
        let body = json!({"QueueUrl": self.queue.as_str(), "AttributeNames": [NAME]});
        let got: Attributes = self.wire.json("GetQueueAttributes", FORM, &body).await?;
        let number = got.attributes.get(NAME);
        Ok(number.and_then(|number| number.parse().ok()).unwrap_or(0))
    }
}
