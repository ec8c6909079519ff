//! SSM's Parameter Store, which says what the newest images are.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::credentials::Credentials;
use super::wire::Wire;
use crate::call::{CallError, Caller};

/// SSM in one region.
#[derive(Debug)]
pub struct Ssm {
    wire: Wire,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Got {
    parameter: Parameter,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    value: String,
}

impl Ssm {
    /// SSM of `region` at `endpoint` (`https://ssm.us-east-1.amazonaws.com`).
    pub fn new(caller: Caller, credentials: Arc<Credentials>, endpoint: Url, region: &str) -> Self {
        Self {
            wire: Wire::new(caller, credentials, endpoint, region, "ssm"),
        }
    }

    /// A parameter's value (`GetParameter`).
    ///
    /// # Errors
    /// As [`CallError`] says; `ParameterNotFound` when there is none.
    pub async fn get_parameter(&self, name: &str) -> Result<String, CallError> {
        let form = ("AmazonSSM", "application/x-amz-json-1.1");
        let body = json!({"Name": name});
        let got: Got = self.wire.json("GetParameter", form, &body).await?;
        Ok(got.parameter.value)
    }
}
